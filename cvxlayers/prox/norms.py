"""Norms, and functions of the sorted entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cvxlayers.array import namespace, real_dtype, stop_gradient
from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox.balls import L1Ball
from cvxlayers.prox.largest import largest
from cvxlayers.prox.modulus import modulus, norm, peak
from cvxlayers.prox.one_dimensional import isotonic_regression
from cvxlayers.prox.operator import Array, Primitive, check_interval, check_range, is_integer
from cvxlayers.prox.separable import huber, inf_unless
from cvxlayers.prox.set import zero_where_small
from cvxlayers.prox.simplex import CappedSimplex, Simplex


@dataclass(frozen=True, eq=False)
class L2(Primitive):
    """f(x) = weight ||x||_2, the norm and not its square (that is `Ridge`); prox is x max(0, 1 - tau weight / ||x||).

    Over several axes, as in ``dim=(-2, -1)``, it is the Frobenius norm. Real or complex x, (*batch, n) to values
    (*batch,); ``weight`` >= 0 is a number or one per sample. Raises SettingsError for a negative one. The conjugate is
    the indicator of ||y|| <= weight.

    Source: N. Parikh, S. Boyd, Proximal algorithms, doi 10.1561/2400000003, section 6.5.1.

    >>> import numpy as np
    >>> L2(1.0).prox(np.array([3.0, 4.0]))
    array([2.4, 3.2])
    """

    weight: Any = 1.0

    _complex: ClassVar[bool] = True

    def _value(self, x: Array, weight: Array) -> Array:
        return weight[..., 0] * norm(x, (-1,))

    def _prox(self, x: Array, tau: Array, weight: Array) -> Array:
        return shrink_norm(x, tau * weight, (-1,))

    def _conjugate(self, x: Array, weight: Array) -> Array:
        return inf_unless(norm(x, (-1,), keepdims=True), weight)


def shrink_norm(x: Array, t: Array, axes: tuple[int, ...]) -> Array:
    """x max(0, 1 - t / ||x||), the norm over ``axes``; x for t = 0, with the derivative 1 at 0 too."""
    xp = namespace(x)
    size = norm(x, axes, keepdims=True)
    factor = xp.where(size > t, 1 - t / xp.where(size > t, size, 1.0), xp.where(t > 0, 0.0 * size, 0 * size + 1))
    return x * factor


@dataclass(frozen=True, eq=False)
class HuberNorm(Primitive):
    """f(x) = weight h(||x||_2), h the Huber function: r^2 / 2 for r <= delta, delta r - delta^2 / 2 beyond.

    prox is x (1 - t delta / max(||x||, delta (1 + t))), t = tau weight. The sum over the entries is `Huber`.
    ``delta`` > 0 is a number or one per sample; shapes and errors as `L2`.

    >>> import numpy as np
    >>> HuberNorm(1.0, delta=1.0).prox(np.array([6.0, 8.0]))
    array([5.4, 7.2])
    """

    weight: Any = 1.0
    delta: Any = 1.0

    _samples: ClassVar[tuple[str, ...]] = ("weight", "delta")
    _positive: ClassVar[tuple[str, ...]] = ("delta",)
    _complex: ClassVar[bool] = True

    def _value(self, x: Array, weight: Array, delta: Array) -> Array:
        return weight[..., 0] * huber(norm(x, (-1,)), delta[..., 0])

    def _prox(self, x: Array, tau: Array, weight: Array, delta: Array) -> Array:
        xp = namespace(x)
        t, size = tau * weight, norm(x, (-1,), keepdims=True)
        far = size > delta * (1 + t)
        return xp.where(far, x * (1 - t * delta / xp.where(far, size, 1.0)), x / (1 + t))

    def _conjugate(self, x: Array, weight: Array, delta: Array) -> Array:
        xp = namespace(x)
        size, some = norm(x, (-1,), keepdims=True), weight > 0
        quadratic = xp.where(some, size * size / (2 * xp.where(some, weight, 1.0)), 0.0)
        return quadratic[..., 0] + inf_unless(size, weight * delta)


@dataclass(frozen=True, eq=False)
class LInfinity(Primitive):
    """f(x) = weight max_i |x_i|; prox is x - Proj(x), on the L1 ball of radius tau weight.

    Real or complex x; shapes and errors as `L2`. The conjugate is the indicator of ||y||_1 <= weight.

    Source: N. Parikh, S. Boyd, Proximal algorithms, doi 10.1561/2400000003, section 6.5.2.

    >>> import numpy as np
    >>> LInfinity(1.0).prox(np.array([3.0, -1.0, 2.8]))
    array([ 2.4, -1. ,  2.4])
    """

    weight: Any = 1.0

    _complex: ClassVar[bool] = True

    def _value(self, x: Array, weight: Array) -> Array:
        return weight[..., 0] * peak(modulus(x))

    def _prox(self, x: Array, tau: Array, weight: Array) -> Array:
        t = tau * weight
        # x where t = 0, with the derivative 1 at 0 too, which is inside the ball of radius 0.
        return namespace(x).where(t > 0, x - L1Ball()._project(x, radius=t), x)

    def _conjugate(self, x: Array, weight: Array) -> Array:
        return inf_unless(namespace(x).sum(modulus(x), axis=-1, keepdims=True), weight)


@dataclass(frozen=True, eq=False)
class Max(Primitive):
    """f(x) = weight max_i x_i; prox is x - Proj(x), on the simplex of sum tau weight. Real x; shapes as `L2`.

    The conjugate is the indicator of that simplex, for tau = 1.

    >>> import numpy as np
    >>> Max(1.0).prox(np.array([3.0, -1.0, 2.5]))
    array([ 2.25, -1.  ,  2.25])
    """

    weight: Any = 1.0

    def _value(self, x: Array, weight: Array) -> Array:
        xp = namespace(x)
        return weight[..., 0] * xp.max(x, axis=-1) if x.shape[-1] else xp.sum(x, axis=-1) - float("inf")

    def _prox(self, x: Array, tau: Array, weight: Array) -> Array:
        t = tau * weight
        return namespace(x).where(t > 0, x - Simplex()._project(x, radius=t), x)

    def _conjugate(self, x: Array, weight: Array) -> Array:
        return _inside_simplex(x, weight, weight)


@dataclass(frozen=True, eq=False)
class SumLargest(Primitive):
    """f(x) = weight (sum of the ``count`` largest entries); prox is x - Proj(x), on {0 <= y <= t, sum y = count t}.

    t = tau weight. ``count`` >= 1 is an integer, at most n; real x; shapes and errors as `L2`. One is `Max`, all the
    sum. The conjugate is the indicator of that set, for tau = 1.

    >>> import numpy as np
    >>> SumLargest(2, 1.0).prox(np.array([3.0, 0.0, 2.5, 2.0]))
    array([2.  , 0.  , 1.75, 1.75])
    """

    count: int
    weight: Any = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not is_integer(self.count) or self.count < 1:
            raise SettingsError(f"count of SumLargest should be an integer of at least 1; got {self.count!r}.")

    def _check(self, x: Array) -> None:
        if self.count > x.shape[-1]:
            raise ShapeError(f"count of SumLargest should be at most {x.shape[-1]}, the entries; got {self.count}.")

    def _value(self, x: Array, weight: Array) -> Array:
        self._check(x)
        xp = namespace(x)
        return weight[..., 0] * xp.sum(xp.where(largest(x, self.count), x, 0.0), axis=-1)

    def _prox(self, x: Array, tau: Array, weight: Array) -> Array:
        self._check(x)
        t = tau * weight
        return namespace(x).where(t > 0, x - CappedSimplex()._project(x, radius=self.count * t, cap=t), x)

    def _conjugate(self, x: Array, weight: Array) -> Array:
        self._check(x)
        return _inside_simplex(x, self.count * weight, weight)


def _inside_simplex(x: Array, total: Array, cap: Array) -> Array:
    """0 where 0 <= x <= cap and the sum is ``total``, up to rounding, inf elsewhere."""
    xp = namespace(x)
    off = xp.abs(xp.sum(x, axis=-1, keepdims=True) - total)
    below = xp.where(x < 0, -x, 0.0)
    return inf_unless(off, 0 * off) + inf_unless(below, 0 * below) + inf_unless(x, cap)


@dataclass(frozen=True, eq=False)
class L1MinusL2(Primitive):
    """f(x) = weight (||x||_1 - beta ||x||_2), 0 <= beta <= 1: closer to counting than L1; not convex for beta > 0.

    With t = tau weight, r = |x| and z = max(r - t, 0), prox is z (||z|| + beta t) / ||z|| if max r > t; else it is the
    largest entry alone, at max r + (beta - 1) t, or 0 if that is not positive. ``beta`` is a number or one per sample;
    real or complex x; shapes and errors as `L2`.

    Source: Y. Lou, M. Yan, Fast L1-L2 minimization via a proximal operator, doi 10.1007/s10915-017-0463-2.

    >>> import numpy as np
    >>> L1MinusL2(1.0, beta=1.0).prox(np.array([4.0, 5.0, 0.5]))
    array([3.6, 4.8, 0. ])
    """

    weight: Any = 1.0
    beta: Any = 1.0

    convex: ClassVar[bool] = False
    _samples: ClassVar[tuple[str, ...]] = ("weight", "beta")
    _nonnegative: ClassVar[tuple[str, ...]] = ("weight",)
    _complex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval("beta of L1MinusL2", self.beta, 0.0, 1.0)

    def _value(self, x: Array, weight: Array, beta: Array) -> Array:
        xp = namespace(x)
        return weight[..., 0] * (xp.sum(modulus(x), axis=-1) - beta[..., 0] * norm(x, (-1,)))

    def _prox(self, x: Array, tau: Array, weight: Array, beta: Array) -> Array:
        xp = namespace(x)
        t, r = tau * weight, modulus(x)
        z = xp.where(r > t, r - t, 0.0)
        size = norm(z, (-1,), keepdims=True)
        many = size > 0
        z = z * (1 + beta * t / xp.where(many, size, 1.0))
        lone = r + (beta - 1) * t
        one = xp.where(largest(r, 1) & (lone > 0), lone, 0.0)
        y = xp.where(many, z, one)
        some = r > 0
        return xp.where(t > 0, x * (y / xp.where(some, r, 1.0)), x)


@dataclass(frozen=True, eq=False)
class SLOPE(Primitive):
    """The sorted L1 norm f(x) = weight sum_i levels_i |x|_(i), |x|_(1) >= |x|_(2) >= ... the sorted moduli.

    ``levels`` is an array (n,), nonnegative and not increasing. prox sorts |x|, subtracts t levels (t = tau weight),
    projects on the sequences that do not increase, cuts at 0, and undoes the sort. Real or complex x; shapes and
    errors as `L2`, and SettingsError for increasing levels. The conjugate is the indicator of
    |y|_(1) + ... + |y|_(i) <= weight (levels_1 + ... + levels_i) for all i.

    Source: M. Bogdan, E. van den Berg, C. Sabatti, W. Su, E. J. Candès, SLOPE: adaptive variable selection via convex
    optimization, doi 10.1214/15-AOAS842.

    >>> import numpy as np
    >>> SLOPE(np.array([3.0, 2.0, 1.0])).prox(np.array([4.0, -5.0, 0.5]))
    array([ 2., -2.,  0.])
    """

    levels: Any
    weight: Any = 1.0

    _constants: ClassVar[tuple[str, ...]] = ("levels",)
    _complex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if getattr(self.levels, "ndim", 0) == 0:
            raise SettingsError(f"levels of SLOPE should be an array (n,); got {self.levels!r}.")
        check_range("levels of SLOPE", self.levels, "nonnegative")
        check_range("the decrease of levels of SLOPE", self.levels[..., :-1] - self.levels[..., 1:], "nonnegative")

    def _sorted(self, x: Array, levels: Array) -> tuple[Array, Array]:
        n = x.shape[-1]
        if levels.shape[-1] != n:
            raise ShapeError(f"levels of SLOPE should end in ({n},), the entries; got {tuple(levels.shape)}.")
        xp = namespace(x)
        r = modulus(x)
        order = xp.argsort(-stop_gradient(r), axis=-1)
        return xp.take_along_axis(r, order, axis=-1), order

    def _value(self, x: Array, weight: Array, levels: Array) -> Array:
        r, _ = self._sorted(x, levels)
        return weight[..., 0] * namespace(x).sum(levels * r, axis=-1)

    def _prox(self, x: Array, tau: Array, weight: Array, levels: Array) -> Array:
        xp = namespace(x)
        r, order = self._sorted(x, levels)
        z = isotonic_regression(r - tau * weight * levels, decreasing=True)
        z = xp.where(z > 0, z, 0.0)
        y = xp.take_along_axis(z, xp.argsort(order, axis=-1), axis=-1)
        r = modulus(x)
        some = r > 0
        return xp.where(tau * weight > 0, x * xp.where(some, y / xp.where(some, r, 1.0), 0.0), x)

    def _conjugate(self, x: Array, weight: Array, levels: Array) -> Array:
        xp = namespace(x)
        r, _ = self._sorted(x, levels)
        over = xp.max(xp.cumulative_sum(r - weight * levels, axis=-1), axis=-1)
        scale = xp.sum(weight * levels, axis=-1) + xp.zeros_like(over)
        return zero_where_small(xp.where(over > 0, over, 0.0), xp.astype(scale, real_dtype(x)))
