"""Rays without the entries that are nothing beside the others: where a certificate lies on a face of its cone.

An interior-point method comes near such a ray from inside. A row 0'x <= -1 alone proves that there is no solution; what
is left of the other multipliers cancels nothing, and nothing cancels it.
"""

from __future__ import annotations

from typing import Any

from cvxlayers.array import namespace
from cvxlayers.sets import Nonnegative, Product, Zero

Array = Any

NEGLIGIBLE = 1e-6  # of the largest entry


def multipliers_on_face(z: Array, weight: Array, cone: Product) -> Array:
    """z (*batch, m) with zeros where |z| * weight is negligible; the rows of a curved cone go together."""
    if not z.shape[-1]:
        return z
    xp = namespace(z)
    size = _by_cone(xp.abs(z) * weight, cone)
    return xp.where(size <= NEGLIGIBLE * xp.max(size, axis=-1, keepdims=True), 0.0, z)


def ray_on_face(x: Array, s: Array, weight: Array, cone: Product) -> tuple[Array, Array]:
    """x (*batch, n) and s (*batch, m) with zeros where |x| * weight, and |s|, are nothing beside the largest of x.

    >>> import numpy as np
    >>> from cvxlayers.sets import Nonnegative
    >>> ray_on_face(np.array([1.0, 1e-9]), np.array([1e-9]), np.ones(2), Product((Nonnegative(1),)))
    (array([1., 0.]), array([0.]))
    """
    if not x.shape[-1]:
        return x, s
    xp = namespace(x)
    size = xp.abs(x) * weight
    least = NEGLIGIBLE * xp.max(size, axis=-1, keepdims=True)
    return xp.where(size <= least, 0.0, x), xp.where(_by_cone(xp.abs(s), cone) <= least, 0.0, s)


def _by_cone(size: Array, cone: Product) -> Array:
    """The largest entry of each curved cone in all of its rows, (*batch, m)."""
    if cone.linear:
        return size
    xp, parts = namespace(size), []
    for block, count, start in cone.groups:
        part = size[..., start : start + count * block.size]
        if block.size and not isinstance(block, (Zero, Nonnegative)):
            blocks = xp.reshape(part, (*part.shape[:-1], count, block.size))
            largest = xp.max(blocks, axis=-1, keepdims=True)
            part = xp.reshape(xp.broadcast_to(largest, blocks.shape), part.shape)
        parts.append(part)
    return xp.concat(parts, axis=-1)
