"""The threshold theta of the projections on the simplex and the L1 ball, in a few passes instead of a sort."""

from __future__ import annotations

from typing import Any

import numpy as np

from cvxlayers.array import iterate, namespace, stop_gradient, to_library_of, visible

Array = Any

_ROUNDS = 100
"""Newton's method on a convex piecewise linear function of n pieces takes at most log_4(n^2 / eps) steps, about 50."""


def simplex_threshold(x: Array, total: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """theta (*batch, 1) with sum_i w_i max(x_i - theta w_i, 0) = total, and which entries are above it (*batch, n).

    ``total`` >= 0 is (*batch, 1); ``weights`` >= 0 broadcast against x, None is 1. A constant of every derivative. If
    total is 0, and for NaN input, no entry is above; entries of weight 0 are above if they are positive.

    Newton's method from a lower bound: theta <- (sum_A w x - total) / sum_A w^2 over A = {x > theta w}. It increases,
    so that an entry which falls below never returns: a single row is shortened in every step where its values can be
    seen.

    Source: C. Michelot, A finite algorithm for finding the projection of a point onto the canonical simplex of R^n,
    doi 10.1007/BF00938486; L. Condat, Fast projection onto the simplex and the l1 ball, doi 10.1007/s10107-015-0946-6.
    """
    xp = namespace(x)
    x, total = stop_gradient(x), stop_gradient(total)
    if weights is not None:
        return _weighted_threshold(x, total, stop_gradient(weights))
    top = xp.max(x, axis=-1, keepdims=True)
    start = xp.maximum(top - total, (xp.sum(x, axis=-1, keepdims=True) - total) / x.shape[-1])
    if all(length == 1 for length in x.shape[:-1]):
        seen, amount, least = visible(x), visible(total), visible(start)
        if seen is not None and amount is not None and least is not None:
            theta = _shortened(seen.reshape(-1), amount.reshape(()), least.reshape(()))
            theta = to_library_of(x, np.full(start.shape, theta, seen.dtype))
            return theta, x > theta

    def step(state: tuple) -> tuple:
        theta, _ = state
        above = x > theta
        count = xp.sum(xp.astype(above, x.dtype), axis=-1, keepdims=True)
        mass = xp.sum(xp.where(above, x, 0.0), axis=-1, keepdims=True)
        new = (mass - total) / xp.where(count > 0, count, 1.0)
        grown = (count > 0) & (new > theta)
        return xp.where(grown, new, theta), ~grown

    theta, _ = iterate(_ROUNDS, step, (start, start != start), lambda state: state[1])
    return theta, x > theta


def _shortened(x: np.ndarray, total: np.ndarray, theta: np.ndarray) -> Any:
    """theta for one row and weights 1: the row is shortened in every step."""
    for _ in range(_ROUNDS):
        x = x[x > theta]
        if x.size == 0:
            break
        new = (x.sum() - total) / x.size
        if not new > theta:
            break
        theta = new
    return theta


def _weighted_threshold(x: Array, total: Array, weights: Array) -> tuple[Array, Array]:
    xp = namespace(x)
    weights = xp.broadcast_to(weights, x.shape)
    some = weights > 0
    divisor = xp.where(some, weights, 1.0)
    ratio = xp.where(some, x / divisor, -float("inf"))
    square, scaled = weights * weights, weights * x
    # The bound of each entry alone, and of all of them.
    start = xp.max(xp.where(some, (x - total / divisor) / divisor, -float("inf")), axis=-1, keepdims=True)
    every = xp.sum(square, axis=-1, keepdims=True)
    every = (xp.sum(scaled, axis=-1, keepdims=True) - total) / xp.where(every > 0, every, 1.0)
    start = xp.maximum(start, every)

    def step(state: tuple) -> tuple:
        theta, _ = state
        above = ratio > theta
        slope = xp.sum(xp.where(above, square, 0.0), axis=-1, keepdims=True)
        mass = xp.sum(xp.where(above, scaled, 0.0), axis=-1, keepdims=True)
        new = (mass - total) / xp.where(slope > 0, slope, 1.0)
        grown = (slope > 0) & (new > theta)
        return xp.where(grown, new, theta), ~grown

    theta, _ = iterate(_ROUNDS, step, (start, start != start), lambda state: state[1])
    return theta, xp.where(some, ratio > theta, x > 0)


def on_face(x: Array, above: Array, total: Array, weights: Array | None = None) -> Array:
    """x - theta w on ``above`` and 0 elsewhere, theta such that sum w (x - theta w) is ``total`` there.

    Plain operations, differentiable in x, ``total`` and ``weights``. Centered, so that a large common part of x costs
    no accuracy. A row with a NaN or an infinity becomes NaN.
    """
    xp = namespace(x)
    if weights is None:
        # One row of length n and one of length 1: max(x) is in every face.
        center = xp.max(stop_gradient(x), axis=-1, keepdims=True)
        rest = xp.where(above, x - center, 0.0)
        slope = xp.sum(xp.astype(above, x.dtype), axis=-1, keepdims=True)
        theta = (xp.sum(rest, axis=-1, keepdims=True) - total) / xp.where(slope > 0, slope, 1.0)
        return xp.where(above, rest - theta, center * 0.0)
    slope = xp.sum(xp.where(above, weights * weights, 0.0), axis=-1, keepdims=True)
    mass = xp.sum(xp.where(above, weights * x, 0.0 * x), axis=-1, keepdims=True)
    theta = (mass - total) / xp.where(slope > 0, slope, 1.0)
    return xp.where(above, x - theta * weights, stop_gradient(mass) * 0.0)
