"""Rebuild CVXPY expressions with some leaves replaced, sharing whatever does not change."""

from __future__ import annotations

from typing import Any

import cvxpy as cp
from cvxpy.atoms.affine.wraps import psd_wrap
from cvxpy.atoms.perspective import perspective
from cvxpy.atoms.quad_form import QuadForm
from cvxpy.atoms.suppfunc import SuppFuncAtom
from cvxpy.reductions.dcp2cone.canonicalizers.perspective_canon import perspective_canon
from cvxpy.reductions.dcp2cone.canonicalizers.suppfunc_canon import suppfunc_canon
from cvxpy.transforms.partial_optimize import PartialProblem


class Rewriter:
    """Replaces leaves in expressions and constraints; an expression that holds none of them stays the same object.

    A problem inside of the objective (``partial_optimize``) is inlined, which is exact because minimizing in two steps
    is minimizing at once. Support functions and perspectives are replaced by their epigraphs, because CVXPY does not
    report the parameters of the first, and reduces the second only for solvers it knows by name. The constraints that
    come with these collect in ``extra``.
    """

    def __init__(self) -> None:
        self.extra: list[cp.Constraint] = []
        self._replaced: dict[int, cp.Expression] = {}
        self._memo: dict[int, tuple[cp.Expression, cp.Expression]] = {}

    def replace(self, leaf: cp.Parameter | cp.Variable, expression: cp.Expression) -> None:
        self._replaced[leaf.id] = expression

    def expression(self, expression: Any) -> Any:
        """The expression with the leaves replaced."""
        if isinstance(expression, (cp.Variable, cp.Parameter)):
            return self._replaced.get(expression.id, expression)
        if isinstance(expression, PartialProblem):
            inner = expression.args[0]
            self.extra += [self.constraint(constraint) for constraint in inner.constraints]
            return self.expression(inner.objective.expr)
        if not expression.args:
            return expression
        known = self._memo.get(id(expression))
        if known is None:
            # The original is kept beside the copy, so that its id is not reused.
            known = self._memo[id(expression)] = (expression, self._copy(expression))
        return known[1]

    def constraint(self, constraint: cp.Constraint) -> cp.Constraint:
        """The constraint with the leaves replaced, under the same id."""
        return self._copy(constraint)

    def _copy(self, node: Any) -> Any:
        args = [self.constraint(a) if isinstance(a, cp.Constraint) else self.expression(a) for a in node.args]
        if isinstance(node, (SuppFuncAtom, perspective)):
            canonicalize = suppfunc_canon if isinstance(node, SuppFuncAtom) else perspective_canon
            epigraph, constraints = canonicalize(node, args)
            self.extra += [self.constraint(constraint) for constraint in constraints]
            return epigraph
        if all(new is old for new, old in zip(args, node.args, strict=True)):
            return node
        if isinstance(node, QuadForm) and node.args[1].is_complex() and node.args[1].parameters():
            return _real_quadratic_form(*args, negative=node.args[1].is_nsd())
        return node.copy(args)


def _real_quadratic_form(x: Any, P: Any, negative: bool) -> cp.Expression:
    """x^H P x with the real and imaginary parts of x side by side, for a definite matrix that CVXPY sees no more."""
    real, imaginary = cp.real(P), cp.imag(P)
    matrix = cp.bmat([[real, -imaginary], [imaginary, real]])
    return cp.quad_form(cp.hstack([cp.real(x), cp.imag(x)]), -psd_wrap(-matrix) if negative else psd_wrap(matrix))
