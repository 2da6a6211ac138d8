"""Lower the constraints of the user to real ones, and remember where the dual and the slack of each is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
from cvxpy.constraints.nonpos import Inequality, NonNeg, NonPos
from cvxpy.constraints.power import PowCone3D, PowConeND
from cvxpy.constraints.second_order import SOC
from cvxpy.constraints.zero import Equality, Zero

CONES = (Zero, NonNeg, SOC, cp.PSD, cp.ExpCone, PowCone3D)


@dataclass(frozen=True)
class Term:
    """Entries of a dual variable or slack that are entries of an argument of a lowered constraint.

    output[target] += weight * (multiplier or value of the argument)[index], where ``index`` counts the rows that CVXPY
    makes of the argument. The weight is ``dual`` for the dual variable and ``slack`` for the slack.
    """

    constraint: int
    argument: int
    index: np.ndarray
    target: np.ndarray
    dual: float = 1.0
    slack: float = 1.0


@dataclass(frozen=True)
class Argument:
    """One dual variable of a constraint: its shape and where its entries are; complex ones as (real, imaginary)."""

    shape: tuple[int, ...]
    terms: tuple[Term, ...]
    complex: bool = False


def lower_constraint(
    constraint: cp.Constraint, imaginary: bool = False
) -> tuple[list[cp.Constraint], list[Argument] | None]:
    """The same constraint as real ones that CVXPY keeps one by one, and one Argument for each of its dual variables.

    ``imaginary`` says that the arguments have no real part, which leaves nothing to ask of it.
    None in place of the arguments says that CVXPY approximates the constraint, so that its dual is not known.
    """
    if constraint.size == 0:
        return [], [Argument(dual.shape, ()) for dual in constraint.dual_variables]
    if isinstance(constraint, NonPos):
        constraint = NonNeg(-constraint.args[0], constr_id=constraint.id)
    if isinstance(constraint, PowConeND):
        return _power_nd(constraint)
    if constraint.is_complex():
        if isinstance(constraint, (Zero, Equality)):
            return _complex_equality(constraint, imaginary)
        if isinstance(constraint, cp.PSD):
            return _hermitian(constraint)
        if isinstance(constraint, SOC):
            return _complex_soc(constraint)
    if isinstance(constraint, (*CONES, Equality, Inequality)):
        return [constraint], [
            Argument(dual.shape, (_whole(constraint, j, dual.shape),))
            for j, dual in enumerate(constraint.dual_variables)
        ]
    return [constraint], None


def slack_layout(constraint: cp.Constraint) -> tuple[tuple[int, ...], list[np.ndarray]]:
    """The shape of a constraint's slack, and for each of its dual variables where its entries are, in C order.

    Second-order and power cones are stacked along the axis of the cone, exponential and 3-D power cones along a new
    first axis.
    """
    shapes = [dual.shape for dual in constraint.dual_variables]
    if len(shapes) == 1:
        return shapes[0], [np.arange(int(np.prod(shapes[0], dtype=int)))]
    if isinstance(constraint, (cp.ExpCone, PowCone3D)):
        index = np.arange(3 * int(np.prod(shapes[0], dtype=int))).reshape(3, -1)
        return (3, *shapes[0]), list(index)
    assert isinstance(constraint, (SOC, PowConeND))
    axis, last = constraint.axis, isinstance(constraint, PowConeND)
    shape = list(shapes[0 if last else 1] or (1,))
    shape[axis] += 1
    index = np.moveaxis(np.arange(int(np.prod(shape))).reshape(shape), axis, 0)
    head, body = (index[-1], index[:-1]) if last else (index[0], index[1:])
    parts = [head.ravel(), np.moveaxis(body, 0, axis).ravel()]
    return tuple(shape), parts[::-1] if last else parts


def _rows(constraint: cp.Constraint, argument: int, shape: tuple[int, ...]) -> np.ndarray:
    """The row of each entry of an argument: CVXPY stacks in Fortran order, after it has turned cones into columns."""
    turned = isinstance(constraint, SOC) and constraint.axis == 1 and argument == 1
    return np.arange(int(np.prod(shape, dtype=int))).reshape(shape, order="C" if turned else "F")


def _whole(constraint: cp.Constraint, argument: int, shape: tuple[int, ...]) -> Term:
    rows = _rows(constraint, argument, shape).ravel()
    return Term(constraint.id, argument, rows, np.arange(len(rows)))


def _complex_equality(constraint, imaginary: bool) -> tuple[list[cp.Constraint], list[Argument]]:
    left, right = (constraint.args[0], 0.0) if isinstance(constraint, Zero) else constraint.args
    difference = left - right
    lowered: list[cp.Constraint] = [cp.imag(difference) == 0]
    terms = []
    if not imaginary:
        lowered.append(cp.real(difference) == 0)
    target = 2 * np.arange(difference.size)
    for part, offset in zip(lowered, (1, 0), strict=False):
        terms.append(Term(part.id, 0, _rows(part, 0, difference.shape).ravel(), target + offset))
    return lowered, [Argument(difference.shape, tuple(terms), complex=True)]


def _hermitian(constraint: cp.PSD) -> tuple[list[cp.Constraint], list[Argument]]:
    """X is positive semidefinite if and only if [[Re X, -Im X], [Im X, Re X]] is; the dual adds up the copies."""
    matrix = constraint.args[0]
    n = matrix.shape[0]
    real, imaginary = cp.real(matrix), cp.imag(matrix)
    block = cp.bmat([[real, -imaginary], [imaginary, real]]) >> 0
    index = _rows(block, 0, (2 * n, 2 * n))
    target = 2 * np.arange(n * n)
    terms = (
        Term(block.id, 0, index[:n, :n].ravel(), target, 1.0, 0.5),
        Term(block.id, 0, index[n:, n:].ravel(), target, 1.0, 0.5),
        Term(block.id, 0, index[n:, :n].ravel(), target + 1, 1.0, 0.5),
        Term(block.id, 0, index[:n, n:].ravel(), target + 1, -1.0, -0.5),
    )
    return [block], [Argument(matrix.shape, terms, complex=True)]


def _complex_soc(constraint: SOC) -> tuple[list[cp.Constraint], list[Argument]]:
    t, x = constraint.args
    if x.ndim == 0:
        x = cp.reshape(x, (1,), order="F")
    stack = cp.hstack if x.ndim == 1 or constraint.axis == 1 else cp.vstack
    lowered = SOC(t, stack([cp.real(x), cp.imag(x)]), axis=constraint.axis)
    index = np.moveaxis(_rows(lowered, 1, lowered.args[1].shape), constraint.axis, 0)
    real, imaginary = (np.moveaxis(part, 0, constraint.axis).ravel() for part in np.split(index, 2))
    target = 2 * np.arange(x.size)
    terms = (Term(lowered.id, 1, real, target), Term(lowered.id, 1, imaginary, target + 1))
    shapes = [dual.shape for dual in constraint.dual_variables]
    head = Argument(shapes[0], (_whole(lowered, 0, t.shape),))
    return [lowered], [head, Argument(shapes[1], terms, complex=True)]


def _power_nd(constraint: PowConeND) -> tuple[list[cp.Constraint], list[Argument]]:
    """prod_i w_i^a_i >= |z| as a balanced tree of 3-D power cones: halve the factors and bound each half's mean."""
    w, z = constraint.args
    columns = w.ndim == 1
    alpha = np.asarray(constraint.alpha.value, dtype=float)
    position = np.arange(w.size).reshape(w.shape)
    if columns:
        alpha, position = alpha[:, None], position[:, None]
    elif constraint.axis == 1:
        alpha, position = alpha.T, position.T
    w = cp.vec(w, order="C")
    triples: list[tuple[cp.Expression, cp.Expression, cp.Expression, float]] = []
    found: list[tuple[int, int, int]] = []

    def mean(rows: Sequence[int], column: int, out: cp.Expression | None) -> tuple[cp.Expression, float]:
        """The weighted geometric mean of some factors, as an expression below it, and their total weight."""
        total = float(sum(alpha[row, column] for row in rows))
        if out is None and len(rows) == 1:
            return w[position[rows[0], column]], total
        out = cp.Variable() if out is None else out
        halves = (rows[: len(rows) // 2], rows[len(rows) // 2 :]) if len(rows) > 1 else (rows, rows)
        sides = [mean(half, column, None) for half in halves]
        for side, half in enumerate(halves):
            if len(half) == 1:
                found.append((len(triples), side, int(position[half[0], column])))
        triples.append((sides[0][0], sides[1][0], out, sides[0][1] / (sides[0][1] + sides[1][1])))
        return out, total

    roots = []
    for column in range(alpha.shape[1]):
        mean(range(alpha.shape[0]), column, z[column])
        roots.append(len(triples) - 1)
    x, y, v, ratio = (list(part) for part in zip(*triples, strict=True))
    lowered = PowCone3D(cp.hstack(x), cp.hstack(y), cp.hstack(v), np.array(ratio))
    cone, side, target = (np.array(part) for part in zip(*found, strict=True))
    slack = 1.0 if alpha.shape[0] > 1 else 0.5
    factors = tuple(Term(lowered.id, j, cone[side == j], target[side == j], 1.0, slack) for j in range(2))
    head = Term(lowered.id, 2, np.array(roots), np.arange(len(roots)))
    shapes = [dual.shape for dual in constraint.dual_variables]
    return [lowered], [Argument(shapes[0], factors), Argument(shapes[1], (head,))]
