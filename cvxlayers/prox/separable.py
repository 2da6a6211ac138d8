"""Sums over the entries: the base classes, and the convex penalties that act on every entry alone."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from cvxlayers.array import namespace
from cvxlayers.prox.modulus import modulus, square
from cvxlayers.prox.operator import Array, Primitive, check_interval


@dataclass(frozen=True, eq=False)
class Entrywise(Primitive):
    """f(x) = weight sum_i entry_weights_i phi(x_i).

    ``weight`` >= 0 is a number or one per sample, ``entry_weights`` >= 0 None (all 1), or an array that broadcasts
    against x. A subclass fills in ``_phi(x, **parameters)``, by entry, and ``_shrink(x, t, **parameters)`` =
    argmin_y t phi(y) + |y - x|^2 / 2, where t >= 0 has as many axes as x.
    """

    weight: Any = 1.0
    entry_weights: Any = field(default=None, kw_only=True)

    _entries: ClassVar[tuple[str, ...]] = ("entry_weights",)
    _nonnegative: ClassVar[tuple[str, ...]] = ("weight", "entry_weights")

    @abstractmethod
    def _phi(self, x: Array, **parameters: Array) -> Array:
        """phi by entry, real."""

    @abstractmethod
    def _shrink(self, x: Array, t: Array, **parameters: Array) -> Array:
        """prox_{t phi} by entry."""

    def _value(self, x: Array, weight: Array, entry_weights: Any = None, **parameters: Array) -> Array:
        xp = namespace(x)
        # The comparisons of a domain take NaN for a point outside.
        phi = xp.where(xp.isnan(x), float("nan"), self._phi(x, **parameters))
        factor = weight if entry_weights is None else weight * entry_weights
        # The domain does not depend on the weight.
        inside = phi < float("inf")
        return xp.sum(xp.where(inside, factor * xp.where(inside, phi, 0.0), phi), axis=-1)

    def _prox(self, x: Array, tau: Array, weight: Array, entry_weights: Any = None, **parameters: Array) -> Array:
        t = tau * weight
        return self._shrink(x, t if entry_weights is None else t * entry_weights, **parameters)


@dataclass(frozen=True, eq=False)
class Even(Entrywise):
    """f(x) = weight sum_i entry_weights_i phi(|x_i|) for real or complex x, |prox(x)| <= |x|: the phase is kept.

    A subclass fills in ``_phi_of_size(r, **parameters)`` and ``_shrink_size(r, t, **parameters)``, where r = |x| >= 0
    and t > 0; for t = 0 the prox is the identity.
    """

    _complex: ClassVar[bool] = True

    @abstractmethod
    def _phi_of_size(self, r: Array, **parameters: Array) -> Array:
        """phi of a modulus."""

    @abstractmethod
    def _shrink_size(self, r: Array, t: Array, **parameters: Array) -> Array:
        """argmin_y t phi(y) + (y - r)^2 / 2 over y >= 0."""

    def _phi(self, x: Array, **parameters: Array) -> Array:
        return self._phi_of_size(modulus(x), **parameters)

    def _shrink(self, x: Array, t: Array, **parameters: Array) -> Array:
        xp = namespace(x)
        r = modulus(x)
        some = (r > 0) & (t > 0)
        # x y / r, and not the phase times y: at t = 0 this is x to the last bit, with the derivative 1.
        y = self._shrink_size(xp.where(some, r, 1.0), xp.where(t > 0, t, 1.0), **parameters)
        return xp.where(some, x * (y / xp.where(some, r, 1.0)), xp.where(t > 0, 0.0 * x, x))


@dataclass(frozen=True, eq=False)
class L1(Even):
    """f(x) = weight sum_i entry_weights_i |x_i|; prox is soft thresholding, x_i max(0, 1 - t_i / |x_i|).

    t_i = tau weight entry_weights_i. Real or complex x, (*batch, n) to values (*batch,); ``weight`` >= 0 is a number or
    one per sample, ``entry_weights`` >= 0 broadcasts against x. Raises SettingsError for negative ones. The conjugate
    is the indicator of |y_i| <= weight entry_weights_i.

    Source: I. Daubechies, M. Defrise, C. De Mol, An iterative thresholding algorithm for linear inverse problems,
    doi 10.1002/cpa.20042.

    >>> import numpy as np
    >>> L1(2.0).prox(np.array([3.0, -1.0, 0.5, -4.0]))
    array([ 1., -0.,  0., -2.])
    """

    def _phi_of_size(self, r: Array) -> Array:
        return r

    def _shrink_size(self, r: Array, t: Array) -> Array:
        return namespace(r).where(r > t, r - t, 0.0)

    def _conjugate(self, x: Array, weight: Array, entry_weights: Any = None) -> Array:
        bound = weight if entry_weights is None else weight * entry_weights
        return inf_unless(modulus(x), bound)


@dataclass(frozen=True, eq=False)
class NonnegativeL1(Entrywise):
    """f(x) = weight sum_i entry_weights_i x_i for x >= 0, inf otherwise; prox is max(x_i - t_i, 0).

    Shapes and errors as `L1`. The conjugate is the indicator of y_i <= weight entry_weights_i.

    >>> import numpy as np
    >>> NonnegativeL1(2.0).prox(np.array([3.0, -1.0, 0.5]))
    array([1., 0., 0.])
    """

    def _phi(self, x: Array) -> Array:
        return namespace(x).where(x >= 0, x, float("inf"))

    def _shrink(self, x: Array, t: Array) -> Array:
        return namespace(x).where(x <= t, 0.0, x - t)

    def _conjugate(self, x: Array, weight: Array, entry_weights: Any = None) -> Array:
        return inf_unless(x, weight if entry_weights is None else weight * entry_weights)


@dataclass(frozen=True, eq=False)
class Ridge(Entrywise):
    """f(x) = (weight/2) sum_i entry_weights_i |x_i|^2; prox is x_i / (1 + t_i).

    Half the *square* of the L2 norm: what ProxTorch calls L2Prox and FrobeniusProx. The norm itself is `L2`. Shapes and
    errors as `L1`.

    >>> import numpy as np
    >>> Ridge(3.0).prox(np.array([4.0, -8.0]))
    array([ 1., -2.])
    """

    _complex: ClassVar[bool] = True

    def _phi(self, x: Array) -> Array:
        return square(x) / 2

    def _shrink(self, x: Array, t: Array) -> Array:
        return x / (1 + t)

    def _conjugate(self, x: Array, weight: Array, entry_weights: Any = None) -> Array:
        xp = namespace(x)
        factor = weight if entry_weights is None else weight * entry_weights
        some = factor > 0
        terms = square(x) / (2 * xp.where(some, factor, 1.0))
        return xp.sum(xp.where(some | (square(x) == 0), terms, float("inf")), axis=-1)


@dataclass(frozen=True, eq=False)
class ElasticNet(Primitive):
    """f(x) = sum_i entry_weights_i (weight |x_i| + ridge |x_i|^2 / 2), entry_weights 1 by default.

    prox is soft thresholding at tau weight entry_weights, over 1 + tau ridge entry_weights. ``weight`` and ``ridge``
    >= 0 are numbers or one per sample; shapes and errors as `L1`. The conjugate is max(|y| - weight, 0)^2 / (2 ridge),
    by entry.

    Source: H. Zou, T. Hastie, Regularization and variable selection via the elastic net,
    doi 10.1111/j.1467-9868.2005.00503.x.

    >>> import numpy as np
    >>> ElasticNet(1.0, 3.0).prox(np.array([5.0, -0.5]))
    array([ 1., -0.])
    """

    weight: Any = 1.0
    ridge: Any = 1.0
    entry_weights: Any = field(default=None, kw_only=True)

    _samples: ClassVar[tuple[str, ...]] = ("weight", "ridge")
    _entries: ClassVar[tuple[str, ...]] = ("entry_weights",)
    _nonnegative: ClassVar[tuple[str, ...]] = ("weight", "ridge", "entry_weights")
    _complex: ClassVar[bool] = True

    def _value(self, x: Array, weight: Array, ridge: Array, entry_weights: Any = None) -> Array:
        terms = weight * modulus(x) + ridge / 2 * square(x)
        return namespace(x).sum(terms if entry_weights is None else entry_weights * terms, axis=-1)

    def _prox(self, x: Array, tau: Array, weight: Array, ridge: Array, entry_weights: Any = None) -> Array:
        t = tau if entry_weights is None else tau * entry_weights
        return L1()._shrink(x, t * weight) / (1 + t * ridge)

    def _conjugate(self, x: Array, weight: Array, ridge: Array, entry_weights: Any = None) -> Array:
        xp = namespace(x)
        factor = (0 * weight + 1 if entry_weights is None else entry_weights) + 0 * modulus(x)
        over = modulus(x) - factor * weight
        over = xp.where(over > 0, over, 0.0)
        curved = factor * ridge
        terms = over * over / (2 * xp.where(curved > 0, curved, 1.0))
        flat = xp.where(curved > 0, 0.0, over)
        return xp.sum(xp.where(curved > 0, terms, 0.0), axis=-1) + inf_unless(flat, 0 * flat)


@dataclass(frozen=True, eq=False)
class Huber(Even):
    """f(x) = weight sum_i h(x_i), h(x) = |x|^2 / 2 for |x| <= delta, delta |x| - delta^2 / 2 beyond.

    The scaling is that of Huber: curvature 1, slope delta. CVXPY's ``huber(x, delta)`` is 2 h. The prox is
    x (1 - t delta / max(|x|, delta (1 + t))). ``delta`` > 0 is a number or one per sample; shapes and errors as `L1`.
    The Huber function of the norm of x is `HuberNorm`.

    Source: P. J. Huber, Robust estimation of a location parameter, doi 10.1214/aoms/1177703732.

    >>> import numpy as np
    >>> Huber(1.0, delta=1.0).prox(np.array([1.0, -4.0]))
    array([ 0.5, -3. ])
    """

    delta: Any = 1.0

    _samples: ClassVar[tuple[str, ...]] = ("weight", "delta")
    _positive: ClassVar[tuple[str, ...]] = ("delta",)

    def _phi_of_size(self, r: Array, delta: Array) -> Array:
        return huber(r, delta)

    def _shrink_size(self, r: Array, t: Array, delta: Array) -> Array:
        xp = namespace(r)
        return xp.where(r > delta * (1 + t), r - t * delta, r / (1 + t))

    def _shrink(self, x: Array, t: Array, **parameters: Array) -> Array:
        # Smooth at 0, where the phase is not.
        xp = namespace(x)
        delta, r = parameters["delta"], modulus(x)
        far = r > delta * (1 + t)
        return xp.where(far, x * (1 - t * delta / xp.where(far, r, 1.0)), x / (1 + t))

    def _conjugate(self, x: Array, weight: Array, delta: Array, entry_weights: Any = None) -> Array:
        xp = namespace(x)
        factor = weight if entry_weights is None else weight * entry_weights
        some = factor > 0
        terms = square(x) / (2 * xp.where(some, factor, 1.0))
        return inf_unless(modulus(x), factor * delta) + xp.sum(xp.where(some, terms, 0.0), axis=-1)


@dataclass(frozen=True, eq=False)
class Quantile(Entrywise):
    """f(x) = weight sum_i max(level x_i, (level - 1) x_i), the pinball loss.

    prox subtracts from x_i its clipping to [t (level - 1), t level]: soft thresholding with a threshold of its own on
    each side. ``level`` in [0, 1] is a number or one per sample; shapes and errors as `L1`.

    Source: R. Koenker, G. Bassett, Regression quantiles, doi 10.2307/1913643.

    >>> import numpy as np
    >>> Quantile(level=0.75).prox(np.array([1.0, -1.0, 0.1]))
    array([ 0.25, -0.75,  0.  ])
    """

    level: Any = 0.5

    _samples: ClassVar[tuple[str, ...]] = ("weight", "level")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval("level of Quantile", self.level, 0.0, 1.0)

    def _phi(self, x: Array, level: Array) -> Array:
        return namespace(x).where(x > 0, level * x, (level - 1) * x)

    def _shrink(self, x: Array, t: Array, level: Array) -> Array:
        xp = namespace(x)
        high, low = t * level, t * (level - 1)
        return xp.where((x >= low) & (x <= high), 0.0, xp.where(x > high, x - high, x - low))


@dataclass(frozen=True, eq=False)
class Zero(Primitive):
    """f(x) = 0; prox is the identity. Real or complex x. The conjugate is the indicator of 0.

    >>> import numpy as np
    >>> Zero().prox(np.array([1.0, -2.0]))
    array([ 1., -2.])
    """

    _samples: ClassVar[tuple[str, ...]] = ()
    _nonnegative: ClassVar[tuple[str, ...]] = ()
    _complex: ClassVar[bool] = True

    def _value(self, x: Array) -> Array:
        return 0 * namespace(x).sum(modulus(x), axis=-1)

    def _prox(self, x: Array, tau: Array) -> Array:
        # A new array, of the batch shape of tau.
        return x + 0 * tau

    def _conjugate(self, x: Array) -> Array:
        return inf_unless(modulus(x), 0 * modulus(x))


@dataclass(frozen=True, eq=False)
class Linear(Primitive):
    """f(x) = Re <slope, x> = Re sum_i conj(slope_i) x_i; prox is x - tau slope.

    ``slope`` is a number or an array that broadcasts against x. The conjugate is the indicator of the slope.

    >>> import numpy as np
    >>> Linear(np.array([1.0, 2.0])).prox(np.zeros(2), 0.5)
    array([-0.5, -1. ])
    """

    slope: Any

    _samples: ClassVar[tuple[str, ...]] = ()
    _entries: ClassVar[tuple[str, ...]] = ("slope",)
    _nonnegative: ClassVar[tuple[str, ...]] = ()
    _complex: ClassVar[bool] = True

    def _value(self, x: Array, slope: Array) -> Array:
        xp = namespace(x)
        product = xp.conj(slope) * x if xp.isdtype(slope.dtype, "complex floating") else slope * x
        return xp.sum(xp.real(product) if xp.isdtype(product.dtype, "complex floating") else product, axis=-1)

    def _prox(self, x: Array, tau: Array, slope: Array) -> Array:
        return x - tau * slope

    def _conjugate(self, x: Array, slope: Array) -> Array:
        return inf_unless(modulus(x - slope), 0 * modulus(x))


def huber(r: Array, delta: Array) -> Array:
    """r^2/2 for r <= delta, delta r - delta^2/2 beyond, of r >= 0."""
    return namespace(r).where(r <= delta, r * r / 2, delta * r - delta * delta / 2)


def inf_unless(size: Array, bound: Array) -> Array:
    """0 where every entry is at most its bound up to rounding, inf elsewhere: (*batch, n) to (*batch,)."""
    xp = namespace(size)
    tolerance = float(xp.finfo(size.dtype).eps) ** (2 / 3)
    fine = xp.all(size <= bound + tolerance * (1 + bound), axis=-1)
    zero = xp.sum(0 * size, axis=-1)
    return xp.where(fine, zero, zero + float("inf"))
