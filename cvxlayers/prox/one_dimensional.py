"""Signals along one axis: total variation, the fused lasso and monotone signals, exactly, with their derivatives.

Both minimizers are constant on runs of samples, and a run's value is a mean: differentiating is averaging over runs.
On the CPU a compiled kernel walks along each row in linear time; without Numba, and on accelerators, all rows go at
once through `level_sets`. Both are exact to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from cvxlayers import pool
from cvxlayers.array import implicit, namespace
from cvxlayers.array.host import on_cpu
from cvxlayers.array.segments import run_labels, run_sum
from cvxlayers.compiled import compiler
from cvxlayers.compiled.isotonic import isotonic
from cvxlayers.compiled.taut_string import taut_string
from cvxlayers.errors import ShapeError
from cvxlayers.prox.cuda import chains
from cvxlayers.prox.level_sets import level_sets
from cvxlayers.prox.operator import Array, Primitive, check_range
from cvxlayers.prox.set import Set, zero_where_small

_GRAIN = 1 << 15  # samples that a thread takes at least


@dataclass(frozen=True, eq=False)
class TotalVariation1D(Primitive):
    """f(x) = weight sum_i e_i |x_{i+1} - x_i| along one axis; the prox is exact, in linear time.

    Shapes: x (*batch, n), real. ``weight`` >= 0 is a number or one per sample. ``edge_weights`` e >= 0, all ones by
    default, is an array (..., n - 1) whose leading axes broadcast against the batch. Raises ShapeError if it does not
    end in n - 1, SettingsError for negative weights.

    On a run where the result is constant its value is the mean of x over the run, raised by tau weight e at an end
    where the signal goes up, lowered where it goes down: these means are also the derivative.

    Conjugate: 0 if sum_i y_i = 0 and |y_1 + ... + y_i| <= weight e_i for all i, else inf.

    Source: L. Condat, A direct algorithm for 1-D total variation denoising, doi 10.1109/LSP.2013.2278339.

    >>> import numpy as np
    >>> f = TotalVariation1D(0.5)
    >>> f.prox(np.array([1.0, 2.0, 5.0, 3.0]))
    array([1.5, 2. , 4. , 3.5])
    >>> float(f(np.array([1.0, 2.0, 5.0, 3.0])))
    3.0
    """

    weight: Any = 1.0
    edge_weights: Any = None

    _flat: ClassVar[bool] = False
    _constants: ClassVar[tuple[str, ...]] = ("edge_weights",)
    _nonnegative: ClassVar[tuple[str, ...]] = ("weight", "edge_weights")

    def _value(self, x: Array, weight: Array, edge_weights: Any = None) -> Array:
        xp = namespace(x)
        return xp.sum(_per_edge(self, x, weight, edge_weights) * xp.abs(x[..., 1:] - x[..., :-1]), axis=-1)

    def _prox(self, x: Array, tau: Array, weight: Array, edge_weights: Any = None) -> Array:
        return total_variation_1d(x, _per_edge(self, x, tau * weight, edge_weights))

    def _conjugate(self, x: Array, weight: Array, edge_weights: Any = None) -> Array:
        xp = namespace(x)
        sums = running_sums(x)
        over = xp.abs(sums[..., :-1]) - _per_edge(self, x, weight, edge_weights)
        over = xp.concat([xp.clip(over, 0.0, None), xp.abs(sums[..., -1:])], axis=-1)
        return zero_where_small(xp.max(over, axis=-1), xp.max(xp.abs(x), axis=-1))


@dataclass(frozen=True, eq=False)
class FusedLasso(Primitive):
    """f(x) = weight sum_i e_i |x_{i+1} - x_i| + l1 sum_i |x_i| along one axis; the prox is exact.

    The prox is soft thresholding at tau l1 after the prox of `TotalVariation1D`. Shapes, ``weight``, ``edge_weights``
    and errors as there; ``l1`` >= 0 is a number or one per sample.

    Source: J. Friedman, T. Hastie, H. Höfling, R. Tibshirani, Pathwise coordinate optimization,
    doi 10.1214/07-AOAS131.

    >>> import numpy as np
    >>> FusedLasso(weight=0.5, l1=2.0).prox(np.array([1.0, 2.0, 5.0, 3.0]))
    array([0. , 0. , 2. , 1.5])
    """

    weight: Any = 1.0
    l1: Any = 1.0
    edge_weights: Any = None

    _flat: ClassVar[bool] = False
    _samples: ClassVar[tuple[str, ...]] = ("weight", "l1")
    _constants: ClassVar[tuple[str, ...]] = ("edge_weights",)
    _nonnegative: ClassVar[tuple[str, ...]] = ("weight", "l1", "edge_weights")

    def _value(self, x: Array, weight: Array, l1: Array, edge_weights: Any = None) -> Array:
        xp = namespace(x)
        variation = xp.sum(_per_edge(self, x, weight, edge_weights) * xp.abs(x[..., 1:] - x[..., :-1]), axis=-1)
        return variation + xp.sum(l1 * xp.abs(x), axis=-1)

    def _prox(self, x: Array, tau: Array, weight: Array, l1: Array, edge_weights: Any = None) -> Array:
        y = total_variation_1d(x, _per_edge(self, x, tau * weight, edge_weights))
        return soft(y, tau * l1)


@dataclass(frozen=True, eq=False)
class Monotone(Set):
    """C = {x in R^n: x_1 <= x_2 <= ... <= x_n}, or the reverse with ``decreasing=True``: the monotone cone.

    The projection is isotonic regression, exact in linear time: the mean over runs of samples, which is its derivative
    too. Shapes: x (*batch, n), real. `isotonic_regression` is the one with weights.

    Conjugate: 0 if sum_i y_i = 0 and y_1 + ... + y_i >= 0 for all i (<= 0 if decreasing), else inf.

    Source: M. Ayer, H. D. Brunk, G. M. Ewing, W. T. Reid, E. Silverman, An empirical distribution function for
    sampling with incomplete information, doi 10.1214/aoms/1177728423.

    >>> import numpy as np
    >>> Monotone().project(np.array([1.0, 3.0, 2.0, 4.0]))
    array([1. , 2.5, 2.5, 4. ])
    """

    decreasing: bool = False

    _flat: ClassVar[bool] = False

    def _project(self, x: Array) -> Array:
        return isotonic_regression(x, decreasing=self.decreasing)

    def _conjugate(self, x: Array) -> Array:
        xp = namespace(x)
        sums = running_sums(x)
        below = xp.clip(sums[..., :-1] if self.decreasing else -sums[..., :-1], 0.0, None)
        over = xp.concat([below, xp.abs(sums[..., -1:])], axis=-1)
        return zero_where_small(xp.max(over, axis=-1), xp.max(xp.abs(x), axis=-1))


def total_variation_1d(x: Array, w: Array) -> Array:
    """argmin over y of sum_i (y_i - x_i)^2 / 2 + w_i |y_{i+1} - y_i|.

    Shapes: x (*batch, n); w >= 0 (*batch, n - 1) or (*batch, 1), one for all edges. Differentiable in both.

    >>> import numpy as np
    >>> total_variation_1d(np.array([0.0, 4.0, 4.0]), np.array([1.0]))
    array([1. , 3.5, 3.5])
    """
    return x if x.shape[-1] < 2 else implicit(_TAUT_STRING, x, w)[0]


def isotonic_regression(x: Array, weights: Array | None = None, decreasing: bool = False) -> Array:
    """argmin over y_1 <= ... <= y_n of sum_i w_i (y_i - x_i)^2 / 2; over y_1 >= ... >= y_n if ``decreasing``.

    Shapes: x (*batch, n), weights w > 0 the same or (*batch, 1), of the library of x; all ones if None. Differentiable
    in both. Raises SettingsError for weights that are not positive, where they can be seen.

    >>> import numpy as np
    >>> isotonic_regression(np.array([3.0, 0.0, 4.0]), np.array([2.0, 1.0, 1.0]))
    array([2., 2., 4.])
    """
    xp = namespace(x)
    if weights is not None:
        check_range("weights", weights, "positive")
    w = xp.ones_like(x[..., :1]) if weights is None else weights
    if x.shape[-1] < 2:
        return x
    if decreasing:
        w = xp.flip(w, axis=-1)
        return xp.flip(implicit(_POOLING, xp.flip(x, axis=-1), w)[0], axis=-1)
    return implicit(_POOLING, x, w)[0]


def soft(x: Array, threshold: Array) -> Array:
    """Soft thresholding of real x: x moved towards 0 by ``threshold``, and 0 if it is as close as that."""
    xp = namespace(x)
    return xp.where(x > threshold, x - threshold, xp.where(x < -threshold, x + threshold, 0 * x))


class _TautString:
    """(x, w) -> the minimizer of `total_variation_1d`, a mean over runs: y = mean(x + s w - s w one edge before)."""

    def forward(self, x: Array, w: Array) -> tuple[Array]:
        def every_row(x, w):
            if chains.fits(x):
                return (chains.total_variation(x, w),)
            xp = namespace(x)
            w = xp.broadcast_to(w, (*x.shape[:-1], x.shape[-1] - 1))
            return (level_sets(x, xp.ones_like(x), w, w),)

        if not compiler.is_available():
            return every_row(x, w)
        rows = _row_by_row(taut_string)
        return on_cpu(lambda x, w: rows(x, _bounded(w, x)), every_row, x, w)

    def tangent(self, outputs: tuple, args: tuple, tangents: tuple) -> Array:
        (y,), (dx, dw) = outputs, tangents
        xp = namespace(y)
        jump = xp.sign(y[..., 1:] - y[..., :-1])
        pull = jump * dw
        zero = xp.zeros_like(dx[..., :1])
        shift = xp.concat([pull, zero], axis=-1) - xp.concat([zero, pull], axis=-1)
        labels = run_labels(jump != 0)
        return run_sum(dx + shift, labels) / run_sum(xp.ones_like(y), labels)


class _Pooling:
    """(x, w) -> the minimizer of `isotonic_regression`, the weighted means over runs."""

    def forward(self, x: Array, w: Array) -> tuple[Array]:
        def every_row(x, w):
            if chains.fits(x):
                return (chains.isotonic(x, w),)
            xp = namespace(x)
            none = xp.zeros_like(x[..., 1:])
            return (level_sets(x, xp.broadcast_to(w, x.shape), none, none + float("inf")),)

        return on_cpu(_row_by_row(isotonic), every_row, x, w) if compiler.is_available() else every_row(x, w)

    def tangent(self, outputs: tuple, args: tuple, tangents: tuple) -> Array:
        (y,), (x, w), (dx, dw) = outputs, args, tangents
        xp = namespace(y)
        labels = run_labels(y[..., 1:] != y[..., :-1])
        w = xp.broadcast_to(w, y.shape)
        return run_sum(w * dx + dw * (x - y), labels) / run_sum(w, labels)


_TAUT_STRING, _POOLING = _TautString(), _Pooling()


def _bounded(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    """w, or where it is as large as that, a bound that the running sums of x - y never reach: n times the range of x.

    Beyond it a weight changes nothing, but would drown x when the tube is added up.
    """
    n = x.shape[-1]
    with np.errstate(all="ignore"):
        if x.size == 0 or np.max(w, initial=0.0) <= n * np.min(np.ptp(x[..., :: max(n // 64, 1)], axis=-1)):
            return w
        return np.minimum(w, n * np.ptp(x, axis=-1, keepdims=True))


def _row_by_row(kernel: Callable[..., None]) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray]]:
    """A kernel of rows of x and of w, as a function of arrays with any number of batch dimensions, in float64."""

    def run(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray]:
        n, rows = x.shape[-1], prod(x.shape[:-1])
        flat = np.ascontiguousarray(x, np.float64).reshape(rows, n)
        if prod(w.shape[:-1]) != 1:
            w = np.broadcast_to(w, (*x.shape[:-1], w.shape[-1]))
        w = np.ascontiguousarray(w, np.float64).reshape(-1, w.shape[-1])
        y = np.empty_like(flat)
        pool.run(lambda: lambda start, stop: kernel(flat, w, y, start, stop), rows, pool.available_cpus(), _GRAIN // n)
        return (y.reshape(x.shape).astype(x.dtype, copy=False),)

    return run


def _per_edge(operator: Primitive, x: Array, weight: Array, edge_weights: Any) -> Array:
    """The weights (*batch, n - 1) of the edges, or (*batch, 1) if they are all the same."""
    if edge_weights is None:
        return weight
    n = x.shape[-1]
    if edge_weights.ndim == 0 or edge_weights.shape[-1] != n - 1:
        raise ShapeError(
            f"edge_weights of {operator!r} should end in ({n - 1},), one for each pair of neighbours; "
            f"got {tuple(edge_weights.shape)}."
        )
    return weight * edge_weights


def running_sums(x: Array) -> Array:
    """x_1 + ... + x_i for every i, along the last axis."""
    xp = namespace(x)
    return xp.cumulative_sum(x, axis=-1) if hasattr(xp, "cumulative_sum") else xp.cumsum(x, axis=-1)
