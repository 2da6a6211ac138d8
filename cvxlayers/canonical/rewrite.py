"""Rebuild CVXPY expressions with some leaves replaced, sharing whatever does not change."""

from __future__ import annotations

import cvxpy as cp
from cvxpy.transforms.partial_optimize import PartialProblem


class Rewriter:
    """Replaces leaves in expressions and constraints; an expression that holds none of them stays the same object.

    A problem inside of the objective (``partial_optimize``) is inlined, which is exact because minimizing in two steps
    is minimizing at once; its constraints collect in ``extra``.
    """

    def __init__(self) -> None:
        self.extra: list[cp.Constraint] = []
        self._replaced: dict[int, cp.Expression] = {}
        self._memo: dict[int, tuple[cp.Expression, cp.Expression]] = {}

    def replace(self, leaf: cp.Expression, expression: cp.Expression) -> None:
        self._replaced[leaf.id] = expression

    def expression(self, expression: cp.Expression) -> cp.Expression:
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

    def _copy(self, node):
        args = [self.constraint(a) if isinstance(a, cp.Constraint) else self.expression(a) for a in node.args]
        return node if all(new is old for new, old in zip(args, node.args, strict=True)) else node.copy(args)
