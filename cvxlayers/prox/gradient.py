"""Differences between neighbours on a grid: the linear map of total variation, and its groups of entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cvxlayers.array import namespace

Array = Any


class GridMap:
    """What the linear maps K of a grid share: the axes of a sample y (c, *grid) and of a field K y (rows, c, *grid)."""

    count: int

    @property
    def sample_axes(self) -> tuple[int, ...]:
        """The axes of one sample y."""
        return tuple(range(-1 - self.count, 0))

    @property
    def field_axes(self) -> tuple[int, ...]:
        """The axes of one field K y."""
        return tuple(range(-2 - self.count, 0))

    def mean(self, y: Array) -> Array:
        """The mean over the grid, with axes of length 1 in its place; 0 if it has no samples."""
        xp, axes = namespace(y), tuple(range(-self.count, 0))
        some = 0 not in y.shape[y.ndim - self.count :]
        return xp.mean(y, axis=axes, keepdims=True) if some else xp.sum(y, axis=axes, keepdims=True)


@dataclass(frozen=True)
class Differences(GridMap):
    """K y: forward differences along the last ``count`` axes of y, stacked in front of the axes of a sample.

    Shapes: y (*batch, c, *grid) with c coupled channels, K y (*batch, count, c, *grid). At the last sample of an axis
    the difference is 0 (reflecting boundary), or that to the first sample (``periodic``). A group of entries, whose
    norms total variation adds up, holds the differences of one sample along all axes and channels if ``isotropic``,
    else those along one axis.
    """

    count: int
    periodic: bool = False
    isotropic: bool = True

    row_norm = 2.0
    """The squared norm of a row of K, which is the diagonal of K K'."""

    @property
    def bound(self) -> float:
        """At least ||K||^2."""
        return 4.0 * self.count

    def apply(self, y: Array) -> Array:
        """K y."""
        xp = namespace(y)
        return xp.stack([self._difference(y, axis) for axis in range(-self.count, 0)], axis=-2 - self.count)

    def adjoint(self, p: Array) -> Array:
        """K'p."""
        first = (slice(None),) * (p.ndim - 2 - self.count)
        parts = [self._adjoint(p[(*first, k)], k - self.count) for k in range(self.count)]
        return sum(parts[1:], parts[0])

    def group_sum(self, p: Array) -> Array:
        """The sum over each group, of a shape that meets p."""
        axes = (-2 - self.count, -1 - self.count) if self.isotropic else (-1 - self.count,)
        return namespace(p).sum(p, axis=axes, keepdims=True)

    def mask(self, p: Array) -> Array:
        """p, with 0 where there is no difference: at the end of each axis, unless it is periodic."""
        if self.periodic:
            return p
        xp, parts = namespace(p), []
        for k in range(self.count):
            axis = k - self.count
            part = p[(..., slice(k, k + 1), *(slice(None),) * (1 + self.count))]
            inside = _cut(part, axis, None, -1)
            parts.append(xp.concat([inside, xp.zeros_like(_cut(part, axis, -1, None))], axis=axis))
        return xp.concat(parts, axis=-2 - self.count)

    def _difference(self, y: Array, axis: int) -> Array:
        xp = namespace(y)
        if self.periodic:
            return xp.roll(y, -1, axis=axis) - y
        step = _cut(y, axis, 1, None) - _cut(y, axis, None, -1)
        return xp.concat([step, xp.zeros_like(_cut(y, axis, -1, None))], axis=axis)

    def _adjoint(self, p: Array, axis: int) -> Array:
        xp = namespace(p)
        if self.periodic:
            return xp.roll(p, 1, axis=axis) - p
        inside, zero = _cut(p, axis, None, -1), xp.zeros_like(_cut(p, axis, -1, None))
        return xp.concat([zero, inside], axis=axis) - xp.concat([inside, zero], axis=axis)


def _cut(y: Array, axis: int, start: int | None, stop: int | None) -> Array:
    return y[(..., slice(start, stop), *(slice(None),) * (-1 - axis))]


def move_axis(y: Array, source: int, destination: int) -> Array:
    """y with one axis moved; both are counted from the end. PyTorch's own has no rule for its vmap."""
    order = [k for k in range(y.ndim) if k != y.ndim + source]
    order.insert(y.ndim + destination, y.ndim + source)
    return namespace(y).permute_dims(y, tuple(order))
