"""The rows of CVXPY's stuffed program in the order and scaling of our cones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cvxpy as cp
import numpy as np
from cvxpy.constraints.power import PowCone3D
from cvxpy.constraints.second_order import SOC

from cvxlayers.sets import Cone, Exponential, Nonnegative, PositiveSemidefinite, Power, Product, SecondOrder, Zero

_ORDER = (cp.Zero, cp.NonNeg, SOC, cp.PSD, cp.ExpCone, PowCone3D)


@dataclass(frozen=True)
class Rows:
    """Where each row of CVXPY's "Ax + b in K" goes: s[target] += scale * (Ax + b).

    Every row has one target; the two mirrored entries of a positive semidefinite constraint share theirs.
    ``arguments`` holds, for a constraint id and the number of an argument, the rows of that argument.
    """

    cone: Product
    target: np.ndarray
    scale: np.ndarray
    arguments: dict[tuple[int, int], np.ndarray]

    def entries(self, constraint: int, argument: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices into z (or s) and factors such that factor * z[index] are the entries of the argument's dual.

        The same factor gives the value of the argument from s; a mirrored pair shows its symmetric part.
        """
        rows = self.arguments[constraint, argument]
        scale = np.abs(self.scale[rows])
        # One of two mirrored entries weighs sqrt(2)/2 in s, and s / sqrt(2) is the entry: the same number.
        return self.target[rows], scale


def arrange(constraints: Sequence[cp.Constraint], without: int | None = None) -> Rows:
    """Order the constraints by cone: zero, nonnegative, second-order, semidefinite, exponential, power.

    The rows of the constraint with the id ``without`` have the target -1.
    """
    offsets, total = {}, 0
    for constraint in constraints:
        offsets[id(constraint)] = total
        total += sum(argument.size for argument in constraint.args)
    target, scale = np.full(total, -1, dtype=np.int64), np.ones(total)
    arguments: dict[tuple[int, int], np.ndarray] = {}
    blocks: list[Cone] = []
    height = 0
    for constraint in sorted(constraints, key=lambda constraint: _ORDER.index(type(constraint))):
        if constraint.id == without:
            continue
        start = offsets[id(constraint)]
        sizes = [argument.size for argument in constraint.args]
        splits = np.split(np.arange(start, start + sum(sizes)), np.cumsum(sizes)[:-1])
        for j, rows in enumerate(splits):
            arguments[constraint.id, j] = rows
        cones, places, weights = _place(constraint)
        target[start : start + sum(sizes)] = height + places
        scale[start : start + sum(sizes)] = weights
        if blocks and cones and isinstance(cones[0], (Zero, Nonnegative)) and type(cones[0]) is type(blocks[-1]):
            blocks[-1] = type(cones[0])(blocks[-1].size + cones[0].size)
        else:
            blocks += cones
        height += sum(cone.size for cone in cones)
    return Rows(Product(tuple(blocks)), target, scale, arguments)


def _place(constraint: cp.Constraint) -> tuple[list[Cone], np.ndarray, np.ndarray | float]:
    """The cones of a constraint, and for the stacked rows of its arguments the place in them and the scale."""
    size = sum(argument.size for argument in constraint.args)
    if isinstance(constraint, cp.Zero):
        return [Zero(size)], np.arange(size), -1.0
    if isinstance(constraint, cp.NonNeg):
        return [Nonnegative(size)], np.arange(size), 1.0
    if isinstance(constraint, SOC):
        count = constraint.args[0].size
        dimension = size // count
        heads = dimension * np.arange(count)
        tails = heads[:, None] + np.arange(1, dimension)
        return [SecondOrder(dimension)] * count, np.concatenate([heads, tails.ravel()]), 1.0
    if isinstance(constraint, cp.PSD):
        return _place_psd(constraint.args[0].shape)
    count = constraint.args[0].size
    places = (np.arange(3)[:, None] + 3 * np.arange(count)).ravel()
    if isinstance(constraint, cp.ExpCone):
        return [Exponential()] * count, places, 1.0
    assert isinstance(constraint, PowCone3D)
    alpha = np.ravel(np.asarray(constraint.alpha.value, dtype=float), order="F")
    return [Power(float(a)) for a in alpha], places, 1.0


def _place_psd(shape: tuple[int, ...]) -> tuple[list[Cone], np.ndarray, np.ndarray]:
    """Upper triangle, column by column; the symmetric part (X + X')/2 with off-diagonal entries times sqrt(2)."""
    k = shape[-1]
    count = int(np.prod(shape[:-2], dtype=int))
    i, j = np.indices((k, k))
    low, high = np.minimum(i, j), np.maximum(i, j)
    place = high * (high + 1) // 2 + low
    cones = np.arange(count).reshape(shape[:-2])[..., None, None] * (k * (k + 1) // 2)
    weights = np.broadcast_to(np.where(i == j, 1.0, np.sqrt(0.5)), shape)
    return [PositiveSemidefinite(k)] * count, (cones + place).ravel(order="F"), weights.ravel(order="F")
