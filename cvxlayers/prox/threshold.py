"""The threshold theta of the projections on the simplex and the L1 ball, in a few passes instead of a sort."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from array_api_compat import is_jax_array, is_torch_array

from cvxlayers.array import implicit, iterate, namespace, stop_gradient, sum_where
from cvxlayers.array.host import on_cpu
from cvxlayers.compiled import compiler

Array = Any

_ROUNDS = 100
"""Newton's method on a convex piecewise linear function of n pieces takes at most log_4(n^2 / eps) steps, about 50."""
_LONG = 4096
"""The length of rows from which on a good start is worth its passes."""


def simplex_threshold(x: Array, total: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """theta (*batch, 1) with sum_i w_i max(x_i - theta w_i, 0) = total, and which entries are above it (*batch, n).

    ``total`` >= 0 is (*batch, 1); ``weights`` >= 0 broadcast against x, None is 1. A constant of every derivative. If
    total is 0, and for NaN input, no entry is above; entries of weight 0 are above if they are positive.

    Newton's method from a lower bound: theta <- (sum_A w x - total) / sum_A w^2 over A = {x > theta w}. It increases,
    so that an entry which falls below never returns.

    Source: C. Michelot, A finite algorithm for finding the projection of a point onto the canonical simplex of R^n,
    doi 10.1007/BF00938486; L. Condat, Fast projection onto the simplex and the l1 ball, doi 10.1007/s10107-015-0946-6.
    """
    x, total = stop_gradient(x), stop_gradient(total)
    if weights is not None:
        return _weighted_threshold(x, total, stop_gradient(weights))
    center, theta = _search(x, total)
    return center + theta, x - center > theta


def _search(x: Array, total: Array) -> tuple[Array, Array]:
    """The largest entry of each row, and theta relative to it, for weights 1."""
    xp = namespace(x)
    n = x.shape[-1]
    top = xp.max(x, axis=-1, keepdims=True)
    start = xp.maximum(-total, (xp.sum(x - top, axis=-1, keepdims=True) - total) / n)
    if n >= _LONG:
        # A part of the entries gives a bound if it is the largest ones of short pieces, and a guess if it is a sample.
        # From above the root of a convex function, Newton's method lands below it.
        width = round(n**0.5)
        pieces = xp.reshape(x[..., : width * (n // width)], (*x.shape[:-1], n // width, width))
        bound, _ = _climb(xp.max(pieces, axis=-2) - top, total, start)
        guess, _ = _climb(pieces[..., 0, :] - top, total * (width / n), -total)
        start = xp.maximum(start, bound)
        new, count = _newton(x - top, total, xp.maximum(start, guess))
        start = xp.where((count > 0) & (new > start), new, start)
    theta, count = _climb(x - top, total, start)
    # The sums of a step add up entries one by one; this one, of what is left of them, is for the last digits.
    rest = x - top - theta
    mass = xp.sum(xp.where(rest > 0, rest, 0.0 * theta), axis=-1, keepdims=True)
    return top, theta + xp.where(count > 0, mass - total, 0.0 * mass) / xp.where(count > 0, count, 1.0)


def _newton(x: Array, total: Array, theta: Array) -> tuple[Array, Array]:
    """A step of Newton's method, and the number of entries above theta."""
    xp = namespace(x)
    mass, count = sum_where(x, x > theta)
    return (mass - total) / xp.where(count > 0, count, 1.0), count


def _climb(x: Array, total: Array, start: Array) -> tuple[Array, Array]:
    """Newton's method from a lower bound to the root, and the number of entries above it."""
    xp = namespace(x)

    def step(state: tuple) -> tuple:
        theta, _, _ = state
        new, count = _newton(x, total, theta)
        grown = (count > 0) & (new > theta)
        return xp.where(grown, new, theta), count, ~grown

    theta, count, _ = iterate(_ROUNDS, step, (start, 0.0 * start, start != start), lambda state: state[2])
    return theta, count


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


def project_on_simplex(x: Array, total: Array) -> Array:
    """The projection of x (*batch, n) on {y >= 0, sum y = total}; ``total`` >= 0 broadcasts against (*batch, 1)."""
    return _project(x, total, False)


def project_on_l1_ball(x: Array, total: Array) -> Array:
    """The projection of real x (*batch, n) on {sum |y| <= total}; ``total`` >= 0 broadcasts against (*batch, 1)."""
    return _project(x, total, True)


def _project(x: Array, total: Array, signed: bool) -> Array:
    rule = _Transposed(signed) if is_torch_array(x) else _Projection(signed)
    return implicit(rule, x, namespace(x).broadcast_to(total, (*x.shape[:-1], 1)))[0]


@dataclass(frozen=True)
class _Projection:
    """The rule (x, total) -> (projection on the simplex, or on the L1 ball if ``signed``; which rows were inside).

    With s the signs of the result, dy = s^2 o dx - s (s'dx - dtotal) / s's, and dy = dx inside the ball.
    """

    signed: bool

    def forward(self, x: Array, total: Array) -> tuple[Array, Array]:
        # JAX keeps its arrays: a loop of its own costs less than to leave a compiled function and come back.
        if compiler.is_available() and not is_jax_array(x):
            return on_cpu(self._compiled, self._every_row, x, total)  # pyright: ignore[reportReturnType]
        return self._every_row(x, total)

    def _compiled(self, x: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from cvxlayers.compiled.threshold import project

        n, rows = x.shape[-1], prod(x.shape[:-1])
        flat = np.ascontiguousarray(x, np.float64).reshape(rows, n)
        y, inside = np.empty_like(flat), np.empty(rows, bool)
        project(flat, np.ascontiguousarray(total, np.float64).reshape(rows), self.signed, y, inside, 0, rows)
        return y.reshape(x.shape).astype(x.dtype, copy=False), inside.reshape(total.shape)

    def _every_row(self, x: Array, total: Array) -> tuple[Array, Array]:
        xp = namespace(x)
        size = xp.abs(x) if self.signed else x
        inside = xp.sum(size, axis=-1, keepdims=True) <= total
        if not self.signed:
            inside = inside & (total != total)
        center, theta = _search(size, total)
        y = size - center - theta
        y = xp.where(y > 0, y, 0.0 * theta)
        return xp.where(inside, x, xp.where(x < 0, -y, y) if self.signed else y), inside

    def tangent(self, outputs: tuple, args: tuple, tangents: tuple) -> Array:
        (y, inside), (dx, dtotal) = outputs, tangents
        return self._along_face(y, inside, dx, dtotal)[0]

    def _along_face(self, y: Array, inside: Array, h: Array, dtotal: Any) -> tuple[Array, Array]:
        """The derivative along (h, dtotal), and s'h / s's."""
        xp = namespace(y)
        kept = y != 0
        count = xp.sum(xp.astype(kept, y.dtype), axis=-1, keepdims=True)
        count = xp.where(count > 0, count, 1.0)
        if self.signed:
            signs = xp.where(y < 0, -1.0 + 0.0 * y, 1.0 + 0.0 * y)
            mean = xp.sum(xp.where(kept, h * signs, 0.0 * h), axis=-1, keepdims=True) / count
            return xp.where(inside, h, xp.where(kept, h - signs * (mean - dtotal / count), 0.0 * h)), mean
        mean = xp.sum(xp.where(kept, h, 0.0 * h), axis=-1, keepdims=True) / count
        return xp.where(kept, h - (mean - dtotal / count), 0.0 * h), mean


class _Transposed(_Projection):
    """The same, with the transpose of the tangent written out, for a library that would trace it in every call."""

    def cotangent(self, outputs: tuple, args: tuple, g: Array) -> tuple[Array, Array]:
        (y, inside), xp = outputs, namespace(g)
        dx, mean = self._along_face(y, inside, g, 0.0)
        return dx, xp.where(inside, 0.0 * mean, mean)
