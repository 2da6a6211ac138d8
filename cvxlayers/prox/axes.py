"""The axes that an operator consumes: moved to the end, and back."""

from __future__ import annotations

import math
from typing import Any

from cvxlayers.array import namespace
from cvxlayers.errors import ShapeError

Array = Any


def consumed_axes(dim: Any, default: int, count: int | None, rank: int, label: str) -> tuple[int, ...]:
    """The axes that ``dim`` names in an array of ``rank`` axes, as negative integers; ``count`` of them, or any number.

    >>> consumed_axes((0, -1), 1, None, 3, "f")
    (-3, -1)
    """
    if isinstance(dim, str):
        axes = tuple(range(-rank, 0))
    elif dim is None:
        axes = tuple(range(-default, 0))
    else:
        axes = tuple(int(k) for k in dim) if isinstance(dim, tuple) else (int(dim),)
    for k in axes:
        if not -rank <= k < rank:
            raise ShapeError(
                f"dim {k} of {label} is not there: x has {rank} dimension{'s' * (rank != 1)}. "
                "`dim` names the axes that the operator consumes."
            )
    axes = tuple(k - rank if k >= 0 else k for k in axes)
    if len(set(axes)) < len(axes):
        raise ShapeError(f"dim of {label} names an axis twice: {dim}.")
    if count is not None and len(axes) != count:
        raise ShapeError(f"{label} consumes {count} axes; dim={dim!r} names {len(axes)}.")
    return axes


def to_last(value: Array, axes: tuple[int, ...], x: Array, flat: bool) -> Array:
    """An array that broadcasts against x, with the consumed axes last and of full size; as one axis if ``flat``."""
    xp = namespace(value)
    if value.ndim < x.ndim:
        value = xp.reshape(value, (1,) * (x.ndim - value.ndim) + tuple(value.shape))
    if value is not x:
        shape = list(value.shape)
        for k in axes:
            shape[k] = x.shape[k]
        value = xp.broadcast_to(value, tuple(shape))
    count = len(axes)
    if axes != tuple(range(-count, 0)):
        value = xp.moveaxis(value, axes, tuple(range(-count, 0)))
    if flat and count != 1:
        batch = value.shape[: value.ndim - count]
        value = xp.reshape(value, (*batch, math.prod(value.shape[value.ndim - count :])))
    return value


def from_last(y: Array, axes: tuple[int, ...], consumed: tuple[int, ...], flat: bool) -> Array:
    """The inverse of `to_last`, with any number of batch dimensions; ``consumed`` are the sizes of the axes."""
    xp = namespace(y)
    count = len(axes)
    if flat and count != 1:
        y = xp.reshape(y, (*y.shape[:-1], *consumed))
    if axes != tuple(range(-count, 0)):
        y = xp.moveaxis(y, tuple(range(-count, 0)), axes)
    return y
