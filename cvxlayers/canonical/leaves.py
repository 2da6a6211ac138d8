"""Replace structured and complex leaves by plain real ones, and remember the linear maps between them.

After `lower_leaves` every parameter and variable is real and free of structure (symmetric, diag, sparsity, ...); what
CVXPY still expands are signs and bounds. This is what makes the gradient of a structured parameter the projection on
its structure: the map to the plain parameter averages mirrored entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy.atoms.affine.wraps import hermitian_wrap, psd_wrap, symmetric_wrap
from cvxpy.atoms.perspective import perspective

from cvxlayers.canonical.rewrite import Rewriter

SIGNS = ("nonneg", "nonpos", "pos", "neg")


@dataclass(frozen=True)
class Pieces:
    """A leaf written with plain real leaves: its vector is the sum of expand @ (plain value in C order).

    ``reduce`` is the map back, orthogonal to what the structure forbids: plain value in Fortran order, which is how
    CVXPY stacks parameters, = reduce @ vector.
    """

    plain: tuple[cp.Parameter | cp.Variable, ...]
    expand: tuple[sp.csr_array, ...]
    reduce: tuple[sp.csr_array, ...]
    expression: cp.Expression


def is_structured(leaf: cp.Parameter | cp.Variable) -> bool:
    """Does the leaf hold fewer free numbers than its shape says?"""
    return any(leaf.attributes[key] for key in ("symmetric", "PSD", "NSD", "diag", "sparsity", "hermitian"))


def split(leaf: cp.Parameter | cp.Variable) -> Pieces:
    """Write a structured or complex leaf with plain real leaves of the same kind."""
    if not leaf.is_complex():
        part = _part(leaf, "real", 1, 0)
        return Pieces((part.plain,), (part.expand,), (part.reduce,), _declare(leaf, part.expression))
    # The zero real part of an imaginary leaf is written out: not every atom of CVXPY takes a missing one.
    parts, terms = [], [cp.Constant(np.zeros(leaf.shape))] if leaf.is_imag() else []
    if not leaf.is_imag():
        parts.append(_part(leaf, "real", 2, 0))
        terms.append(parts[0].expression)
    imaginary = _part(leaf, "imag", 2, 1)
    if imaginary.plain.size:
        parts.append(imaginary)
        terms.append(1j * imaginary.expression)
    return Pieces(
        tuple(part.plain for part in parts),
        tuple(part.expand for part in parts),
        tuple(part.reduce for part in parts),
        _declare(leaf, sum(terms[1:], start=terms[0])),
    )


class _Part(NamedTuple):
    plain: Any
    expand: sp.csr_array
    reduce: sp.csr_array
    expression: Any


def _part(leaf, name: str, stride: int, start: int) -> _Part:
    """The real or imaginary part of a leaf."""
    size = leaf.size
    fortran = np.arange(size).reshape(leaf.shape).ravel(order="F")
    place = sp.csr_array((np.ones(size), (start + stride * np.arange(size), np.arange(size))), (stride * size, size))
    kind = cp.Variable if isinstance(leaf, cp.Variable) else cp.Parameter
    signs = {key: True for key in SIGNS if leaf.attributes[key]}
    label = leaf.name() if stride == 1 else f"{name}({leaf.name()})"
    structure = _structure(leaf, imaginary=name == "imag")
    if structure is None:
        plain = kind(leaf.shape, name=label, **signs)
        order = sp.csr_array((np.ones(size), (np.arange(size), fortran)), (size, size))
        return _Part(plain, place, sp.csr_array(order @ place.T), plain)
    fill, pick = structure
    plain = kind(len(pick.indptr) - 1, name=label, **signs)
    expression = cp.Constant(np.zeros(leaf.shape))
    if plain.size:
        expression = cp.reshape(cp.Constant(fill[fortran]) @ plain, leaf.shape, order="F")
    return _Part(plain, sp.csr_array(place @ fill), sp.csr_array(pick @ place.T), expression)


def _structure(leaf, imaginary: bool) -> tuple[sp.csr_array, sp.csr_array] | None:
    """fill and pick with (value in C order) = fill @ reduced and reduced = pick @ value; None for a full leaf."""
    attributes, size = leaf.attributes, leaf.size
    index = np.arange(size).reshape(leaf.shape)
    hermitian = attributes["hermitian"] or (leaf.is_complex() and (attributes["PSD"] or attributes["NSD"]))
    if hermitian or attributes["symmetric"] or attributes["PSD"] or attributes["NSD"]:
        sign = -1.0 if hermitian and imaginary else 1.0
        mirror = np.swapaxes(index, -1, -2)
        upper = (index < mirror) if sign < 0 else (index <= mirror)
        a, b = index[upper], mirror[upper]
        k, ones = np.arange(len(a)), np.ones(len(a))
        off = a != b
        fill = sp.csr_array(
            (np.r_[ones, sign * ones[off]], (np.r_[a, b[off]], np.r_[k, k[off]])),
            (size, len(a)),
        )
        pick = sp.csr_array((0.5 * np.r_[ones, sign * ones], (np.r_[k, k], np.r_[a, b])), (len(a), size))
        return fill, pick
    if attributes["sparsity"]:
        kept = index[tuple(np.asarray(axis) for axis in leaf.sparse_idx)].ravel()
    elif attributes["diag"]:
        kept = np.diagonal(index, axis1=-2, axis2=-1).ravel()
    else:
        return None
    fill = sp.csr_array((np.ones(len(kept)), (kept, np.arange(len(kept)))), (size, len(kept)))
    return fill, sp.csr_array(fill.T)


def _declare(leaf, expression: cp.Expression) -> cp.Expression:
    """Tell CVXPY what the expression is known to be, where it cannot see it."""
    attributes = leaf.attributes
    if len(leaf.shape) != 2:
        return expression
    if leaf.is_complex():
        hermitian = attributes["hermitian"] or attributes["PSD"] or attributes["NSD"]
        return hermitian_wrap(expression) if hermitian else expression
    if attributes["PSD"]:
        return psd_wrap(expression)
    if attributes["NSD"]:
        return -psd_wrap(-expression)
    return symmetric_wrap(expression) if attributes["symmetric"] or attributes["diag"] else expression


def lower_leaves(
    objective: cp.Expression, constraints: Sequence[cp.Constraint]
) -> tuple[cp.Expression, list[cp.Constraint], list[cp.Constraint], dict[int, Pieces]]:
    """The problem without structured, complex and zero-sized leaves, and without bounds that hold parameters.

    Returns the objective, the constraints in the same order and with the same ids, the constraints that the
    attributes of the replaced variables imply, and by leaf id the pieces of each leaf that was replaced.
    """
    rewriter = Rewriter()
    pieces: dict[int, Pieces] = {}
    bounded: list[tuple[cp.Variable, cp.Expression]] = []
    implied: list[cp.Constraint] = []
    for leaf in leaves([objective, *constraints]):
        if leaf.size == 0:
            rewriter.replace(leaf, cp.Constant(np.zeros(leaf.shape)))
            continue
        if leaf.is_complex() or is_structured(leaf):
            pieces[leaf.id] = split(leaf)
        elif isinstance(leaf, cp.Variable) and _has_parametric_bounds(leaf):
            bare = unbounded(leaf)
            pieces[leaf.id] = Pieces((bare,), (sp.csr_array(sp.eye_array(bare.size)),), (), bare)
        else:
            continue
        expression = pieces[leaf.id].expression
        rewriter.replace(leaf, expression)
        if isinstance(leaf, cp.Variable):
            bounded.append((leaf, expression))
            if leaf.attributes["PSD"]:
                implied.append(expression >> 0)
            if leaf.attributes["NSD"]:
                implied.append(expression << 0)
    for variable, expression in bounded:
        implied += [rewriter.constraint(bound) for bound in bounds_of(variable, expression)]
    objective = rewriter.expression(objective)
    rewritten = [rewriter.constraint(constraint) for constraint in constraints]
    return objective, rewritten, implied + rewriter.extra, pieces


def leaves(nodes: Sequence[cp.Expression | cp.Constraint]) -> list[cp.Parameter | cp.Variable]:
    """Every parameter and variable, also those inside of partial problems and of bounds, once each."""
    found: dict[int, cp.Parameter | cp.Variable] = {}
    seen: set[int] = set()
    stack: list[Any] = list(nodes)
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, cp.Problem):
            stack += [node.objective.expr, *node.constraints]
        elif isinstance(node, perspective):
            stack += [node.f, *node.args]
        elif isinstance(node, (cp.Parameter, cp.Variable)):
            found[node.id] = node
            if isinstance(node, cp.Variable) and _has_parametric_bounds(node):
                stack += [bound for bound in node.bounds or () if isinstance(bound, cp.Expression)]
        else:
            stack += node.args
    return list(found.values())


def parameters_of(problem: cp.Problem) -> list[cp.Parameter]:
    """The parameters in the order of CVXPY, and then those that it overlooks."""
    found = {p.id: p for p in problem.parameters()}
    for leaf in leaves([problem.objective.expr, *problem.constraints]):
        if isinstance(leaf, cp.Parameter):
            found.setdefault(leaf.id, leaf)
    return list(found.values())


def _has_parametric_bounds(variable: cp.Variable) -> bool:
    return variable.bounds is not None and any(isinstance(bound, cp.Expression) for bound in variable.bounds)


def unbounded(variable: cp.Variable) -> cp.Variable:
    """A variable that differs in having no bounds."""
    return cp.Variable(
        variable.shape, variable.name(), **{k: v for k, v in variable.attributes.items() if k != "bounds" and v}
    )


def bounds_of(variable: cp.Variable, expression: cp.Expression) -> list[cp.Constraint]:
    """The bounds of a variable, as constraints on the expression that stands for it."""
    constraints = []
    for bound, lower in zip(variable.bounds or (), (True, False), strict=False):
        part, limit = expression, bound
        if not isinstance(bound, cp.Expression):
            limit = np.broadcast_to(bound.toarray() if sp.issparse(bound) else bound, variable.shape)
            active = np.isfinite(limit)
            if sp.issparse(bound):
                stored = sp.coo_array(bound)
                active = active & (sp.coo_array((np.ones(stored.nnz), stored.coords), stored.shape).toarray() > 0)
            if lower and variable.attributes["pos"]:
                # A positive variable has no use for another lower bound, and geometric programs forbid it.
                active = active & (limit > 0)
            if not active.any():
                continue
            if not active.all():
                part, limit = expression[active], limit[active]
        constraints.append(part >= limit if lower else part <= limit)
    return constraints
