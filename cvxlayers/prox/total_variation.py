"""Total variation on grids of one to four axes, with an l1 norm if wanted: iterative, certified, implicitly derived."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, ClassVar

import numpy as np

from cvxlayers import pool
from cvxlayers.array import implicit, namespace, stop_gradient
from cvxlayers.array.host import on_cpu
from cvxlayers.compiled import compiler
from cvxlayers.prox import dual
from cvxlayers.prox.dual import DualProx, tolerance
from cvxlayers.prox.gradient import Differences, move_axis
from cvxlayers.prox.grid import Grid
from cvxlayers.prox.modulus import modulus, root
from cvxlayers.prox.one_dimensional import running_sums, soft, total_variation_1d
from cvxlayers.prox.operator import Array


@dataclass(frozen=True, eq=False)
class TotalVariation(Grid):
    """f(x) = weight TV(x) + l1 sum_i |x_i| on a grid; TV adds up the differences between neighbours.

    With (D x)_i the forward differences of x at i along the consumed axes, TV(x) = sum_i ||(D x)_i||_2, or
    sum_i ||(D x)_i||_1 with ``isotropic=False``. At the end of an axis the difference is 0 (the image is reflected), or
    goes to its beginning with ``periodic=True``.

    Shapes: x (*batch, *grid), real or complex; ``dim`` names the one to four axes of the grid, by default the last two.
    ``weight`` and ``l1`` >= 0 are numbers or one per sample. The differences of a complex image are complex.

    The prox is iterative, except along a single axis with reflection, where it is exact. ``tol`` is the relative
    duality gap at which a sample is done (by default 1e-6, and 1e-5 in single precision), ``max_iter`` limits the
    iterations. ``prox(x, tau, return_info=True)`` returns (y, Info(gap, iterations, dual)), per sample; ``dual`` can be
    handed to the next call as ``warm_start``. The error is certified: ||y - y*||^2 <= 2 gap (tau f(y) + ||y - x||^2/2).

    Derivatives with respect to x, tau, weight and l1 come from the implicit function theorem at the solution, by
    conjugate gradients, with memory independent of the iterations; they are as accurate as the solution, and can be
    taken once. Raises SettingsError for negative weights, ShapeError if the grid does not have one to four axes.

    Sources: L. Rudin, S. Osher, E. Fatemi, Nonlinear total variation based noise removal algorithms,
    doi 10.1016/0167-2789(92)90242-F; the iteration and its sources are in `cvxlayers.prox.dual`.

    >>> import numpy as np
    >>> x = np.array([[0.0, 0.0, 6.0], [0.0, 0.0, 6.0]])
    >>> TotalVariation(1.0, isotropic=False, tol=1e-10).prox(x).round(3)
    array([[0.5, 0.5, 5. ],
           [0.5, 0.5, 5. ]])
    >>> float(TotalVariation(1.0)(x))
    12.0
    """

    weight: Any = 1.0
    l1: Any = 0.0
    isotropic: bool = True
    periodic: bool = False
    tol: float | None = None
    max_iter: int = 5000

    _samples: ClassVar[tuple[str, ...]] = ("weight", "l1")
    _nonnegative: ClassVar[tuple[str, ...]] = ("weight", "l1")
    _complex: ClassVar[bool] = True

    @property
    def _map(self) -> Differences:
        return Differences(self._count, self.periodic, self.isotropic)

    def _value(self, x: Array, weight: Array, l1: Array) -> Array:
        xp, K = namespace(x), self._map
        lengths = root(K.group_sum(K.apply(channels(x, K.count)) ** 2))
        weight, l1 = (xp.reshape(a, a.shape[: a.ndim - K.count]) for a in (weight, l1))
        return weight * xp.sum(lengths, axis=K.field_axes) + l1 * xp.sum(modulus(x), axis=tuple(range(-K.count, 0)))

    def _minimize(self, x: Array, tau: Array, start: list, weight: Array, l1: Array) -> tuple[Array, ...]:
        """y, gap, iterations, and the dual field with its axis of directions in front."""
        xp, K = namespace(x), self._map
        stacked = channels(x, K.count)
        radius, threshold = (xp.expand_dims(tau * a, axis=-1 - K.count) for a in (weight, l1))
        field_radius = xp.expand_dims(radius, axis=-2 - K.count)
        exact = K.count == 1 and not self.periodic and stacked.shape[-2] == 1
        rule = DualProx(K, tolerance(self.tol, stacked), 0 if exact else self.max_iter, _compiled)
        if exact:
            tv = total_variation_1d(stacked, radius)
            field, gap, iterations = self._certify(rule, stacked, radius, threshold, tv)
            y = soft(tv, threshold)
        else:
            first = (
                xp.stack([channels(p, K.count) for p in start], axis=-2 - K.count) if start else K.apply(0 * stacked)
            )
            # TV does not see a constant; without it, single precision has more digits for the rest.
            mean = K.mean(stacked)
            shift = stop_gradient(xp.where(threshold == 0, mean, xp.zeros_like(mean)))
            y, field, gap, iterations = implicit(rule, stacked - shift, field_radius, threshold, stop_gradient(first))
            y = y + shift
        directions = move_axis(field, -2 - K.count, -field.ndim)
        return unchannel(y, x, K.count), gap, iterations, unchannel(directions, x, K.count)

    def _certify(self, rule: DualProx, *args: Array) -> tuple[Array, ...]:
        """The dual field of an exact solution along one axis, the running sums of y - x, and its certificate."""
        x, radius, threshold, y = (stop_gradient(a) for a in args)
        sums = running_sums(y - x)
        closed = namespace(x).concat([sums[..., :-1], 0 * sums[..., -1:]], axis=-1)
        return implicit(rule, x, radius[..., None, :, :], threshold, closed[..., None, :, :])[1:]


def channels(x: Array, count: int) -> Array:
    """A real array with an axis of channels before the last ``count``: one for real x, two for complex x."""
    xp = namespace(x)
    if xp.isdtype(x.dtype, "complex floating"):
        return xp.stack([xp.real(x), xp.imag(x)], axis=-1 - count)
    return xp.expand_dims(x, axis=-1 - count)


def unchannel(y: Array, like: Array, count: int) -> Array:
    """The inverse of `channels`, complex if ``like`` is."""
    rest = (slice(None),) * count
    if namespace(like).isdtype(like.dtype, "complex floating"):
        return y[(..., 0, *rest)] + 1j * y[(..., 1, *rest)]
    return y[(..., 0, *rest)]


def _compiled(
    K: Differences, x: Array, weight: Array, l1: Array, start: Array, tol: float, limit: int
) -> tuple[Array, ...]:
    """`dual.minimize`, by the compiled kernel where there is one: on the CPU, with one channel."""

    def arrays(x: Array, weight: Array, l1: Array, start: Array) -> tuple[Array, ...]:
        return dual.minimize(K, x, weight, l1, start, tol, limit)

    def kernel(x: np.ndarray, weight: np.ndarray, l1: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, ...]:
        return _on_rows(K, x, weight, l1, start, tol, limit)

    if not compiler.is_available() or x.shape[-1 - K.count] != 1 or x.size == 0:
        return arrays(x, weight, l1, start)
    return on_cpu(kernel, arrays, x, weight, l1, start)


def _on_rows(
    K: Differences, x: np.ndarray, weight: np.ndarray, l1: np.ndarray, start: np.ndarray, tol: float, limit: int
) -> tuple[np.ndarray, ...]:
    from cvxlayers.compiled.total_variation import solver

    grid, batch = x.shape[x.ndim - K.count :], x.shape[: x.ndim - K.count - 1]
    size, rows = prod(grid), prod(batch)
    kind = np.float32 if x.dtype == np.float32 else np.float64
    flat = np.require(x, kind, ["C", "W"]).reshape(rows, size)
    weights, l1s = (
        np.array(np.broadcast_to(a, (*batch, *(1,) * (a.ndim - len(batch)))), np.float64).reshape(rows)
        for a in (weight, l1)
    )
    p = np.array(np.broadcast_to(start, (*batch, K.count, 1, *grid)), kind).reshape(rows, K.count, *grid)
    if not K.periodic:
        for k in range(K.count):
            p[(slice(None), k, *(slice(None),) * k, -1)] = 0.0
    p = p.reshape(rows, K.count, size)
    y, gap, iterations = np.empty_like(flat), np.empty(rows), np.empty(rows, np.int64)
    offsets, behind, ahead = _neighbours(grid, K.periodic)
    settings = (tol, float(limit), float(dual.EVERY), K.bound, dual.RELAXATION, dual.FLOOR, dual.HEAD)
    solve = solver("f4" if kind == np.float32 else "f8")

    def some(first: int, last: int) -> None:
        solve(
            *(flat, weights, l1s, y, p, gap, iterations, grid[-1], offsets, behind, ahead),
            *(K.periodic, K.isotropic, settings, first, last),
        )

    pool.run(lambda: some, rows, pool.available_cpus())
    return (
        y.reshape(x.shape).astype(x.dtype, copy=False),
        p.reshape(*batch, K.count, 1, *grid).astype(x.dtype, copy=False),
        gap.reshape(batch).astype(x.dtype),
        iterations.reshape(batch).astype(x.dtype),
    )


@lru_cache(maxsize=64)
def _neighbours(grid: tuple[int, ...], periodic: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets between neighbours, and for every line those behind and ahead, -1 for none: the kernel's map."""
    lines = np.arange(prod(grid[:-1])).reshape(grid[:-1])
    offsets, behind, ahead = [], [], []
    for axis in range(len(grid) - 1):
        back, front = np.roll(lines, 1, axis), np.roll(lines, -1, axis)
        if not periodic:
            np.moveaxis(back, axis, 0)[0] = -1
            np.moveaxis(front, axis, 0)[-1] = -1
        offsets.append(prod(grid[axis + 1 :]))
        behind.append(back.reshape(-1))
        ahead.append(front.reshape(-1))
    own = lines.reshape(-1)
    return np.array([*offsets, 1]), np.array([*behind, own]), np.array([*ahead, own])
