"""How far a vector is from a cone, or from its dual: a cheap upper bound of the distance, largest entry by entry."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cvxlayers.sets import (
    Cone,
    Exponential,
    Nonnegative,
    PositiveSemidefinite,
    Power,
    SecondOrder,
    Zero,
)


def violation(groups: Iterable[tuple[Cone, int, int]], v: np.ndarray, dual: bool = False) -> np.ndarray:
    """An upper bound of min { max_i |v_i - w_i| : w in K }, or in K* for ``dual``; zero exactly where v is inside.

    ``groups`` are those of the product cone K (`Product.groups`), ``v`` is (*batch, size) and the result (*batch). Of
    the three-dimensional cones the bound is that of the best single entry to move, so no projection is computed.
    """
    worst = np.zeros(v.shape[:-1])
    for block, count, start in groups:
        size = block.size
        part = v[..., start : start + count * size]
        if part.shape[-1] == 0:
            continue
        if count > 1:
            part = part.reshape(*part.shape[:-1], count, size)
        distance = _MEASURES[type(block)](block, part, dual)
        worst = np.maximum(worst, distance.max(-1) if count > 1 else distance)
    return worst


def _zero(cone: Cone, v: np.ndarray, dual: bool) -> np.ndarray:
    return np.zeros(v.shape[:-1]) if dual else np.abs(v).max(-1)


def _nonnegative(cone: Cone, v: np.ndarray, dual: bool) -> np.ndarray:
    return np.maximum(-v.min(-1), 0.0)


def _second_order(cone: Cone, v: np.ndarray, dual: bool) -> np.ndarray:
    return np.maximum(np.sqrt(np.square(v[..., 1:]).sum(-1)) - v[..., 0], 0.0)


def _semidefinite(cone: PositiveSemidefinite, v: np.ndarray, dual: bool) -> np.ndarray:
    # Entries of the upper triangle, column by column, are those of the lower triangle, row by row.
    k = cone.k
    rows, cols = np.tril_indices(k)
    finite = np.asarray(np.isfinite(v).all(-1, keepdims=True))
    X = np.zeros((*v.shape[:-1], k, k))
    X[..., rows, cols] = np.where(finite, np.where(rows == cols, v, v / np.sqrt(2.0)), 0.0)
    least = np.linalg.eigvalsh(X)[..., 0]
    return np.where(finite[..., 0], np.maximum(-least, 0.0), np.nan)


def _exponential(cone: Cone, v: np.ndarray, dual: bool) -> np.ndarray:
    """K = closure {(x, y, z): y > 0, y exp(x/y) <= z}; K* = closure {(x, y, z): x < 0, -x exp(y/x - 1) <= z}."""
    x, y, z = v[..., 0], v[..., 1], v[..., 2]
    with np.errstate(all="ignore"):
        if dual:
            inside, scale, exponent = x < 0, -x, y / x - 1.0
            along = np.where(z > 0, x * (1.0 + np.log(-z / x)) - y, np.inf)  # how much y must grow
            face = np.maximum(np.abs(x), np.maximum(-y, -z))
        else:
            inside, scale, exponent = y > 0, y, x / y
            along = np.where(z > 0, x - y * np.log(z / y), np.inf)  # how much x must shrink
            face = np.maximum(np.abs(y), np.maximum(x, -z))
        up = np.where(exponent < 700.0, scale * np.exp(np.minimum(exponent, 700.0)) - z, np.inf)
        moved = np.where(inside, np.minimum(up, along), np.inf)
    return np.where(np.isfinite(v).all(-1), np.maximum(np.minimum(moved, face), 0.0), np.nan)


def _power(cone: Power, v: np.ndarray, dual: bool) -> np.ndarray:
    """K = {x^a y^(1-a) >= |z|, x, y >= 0}; K* is the same of (x/a, y/(1-a), z)."""
    a = cone.alpha
    x, y, z = v[..., 0], v[..., 1], np.abs(v[..., 2])
    u, w = np.maximum(x, 0.0), np.maximum(y, 0.0)
    if dual:
        u, w = u / a, w / (1.0 - a)
    return np.maximum(np.maximum(-x, -y), np.maximum(z - u**a * w ** (1.0 - a), 0.0))


_MEASURES = {
    Zero: _zero,
    Nonnegative: _nonnegative,
    SecondOrder: _second_order,
    PositiveSemidefinite: _semidefinite,
    Exponential: _exponential,
    Power: _power,
}
