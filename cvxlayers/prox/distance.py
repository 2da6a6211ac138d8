"""The distance to a set, and half its square."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cvxlayers.array import namespace
from cvxlayers.errors import SettingsError
from cvxlayers.prox.calculus import Derived
from cvxlayers.prox.indicator import Indicator
from cvxlayers.prox.modulus import norm, square
from cvxlayers.prox.operator import Array
from cvxlayers.prox.set import Set, zero_where_small
from cvxlayers.sets import Cone


@dataclass(frozen=True, eq=False)
class _OfSet(Derived):
    def __post_init__(self) -> None:
        if isinstance(self.f, Cone):
            object.__setattr__(self, "f", Indicator(self.f))
        super().__post_init__()
        if not isinstance(self.f, Set):
            raise SettingsError(f"f of {type(self).__name__} should be a set or a cone; got {self.f!r}.")


@dataclass(frozen=True, eq=False)
class Distance(_OfSet):
    """f(x) = min_{y in C} ||x - y||, the distance to a set C; prox goes a step tau towards the projection, or to it.

    ``f`` is the set, one of this package or a cone of `cvxlayers.sets`; it need not be convex. The conjugate is the
    support function of C, on the unit ball.

    Source: N. Parikh, S. Boyd, Proximal algorithms, doi 10.1561/2400000003, section 6.

    >>> import numpy as np
    >>> from cvxlayers.prox import L2Ball
    >>> Distance(L2Ball()).prox(np.array([3.0, 4.0]), 2.0)
    array([1.8, 2.4])
    """

    def __call__(self, x: Array) -> Array:
        return norm(x - self.f.prox(x), self.axes(x))

    def prox(self, x: Array, tau: Any = 1.0) -> Array:
        x = self._ready(x, tau)
        tau = self._per_sample("tau", tau, x, positive=True)
        xp = namespace(x)
        projection = self.f.prox(x)
        step = self._over_axes(tau, x)
        distance = norm(x - projection, self.axes(x), keepdims=True)
        far = distance > step
        return xp.where(far, x + step / xp.where(far, distance, 1.0) * (projection - x), projection)

    def conjugate_value(self, x: Array) -> Array:
        size = norm(x, self.axes(x))
        outside = namespace(x).where(size > 1, size - 1, 0.0)
        return self.f.conjugate_value(x) + zero_where_small(outside, size)


@dataclass(frozen=True, eq=False)
class SquaredDistance(_OfSet):
    """f(x) = min_{y in C} ||x - y||^2 / 2, half the squared distance; prox is (x + tau Proj_C(x)) / (1 + tau).

    ``f`` is the set, as in `Distance`. The conjugate is the support function of C plus ||y||^2 / 2.

    >>> import numpy as np
    >>> from cvxlayers.prox import L2Ball
    >>> SquaredDistance(L2Ball()).prox(np.array([3.0, 4.0]))
    array([1.8, 2.4])
    """

    def __call__(self, x: Array) -> Array:
        return namespace(x).sum(square(x - self.f.prox(x)), axis=self.axes(x)) / 2

    def prox(self, x: Array, tau: Any = 1.0) -> Array:
        x = self._ready(x, tau)
        tau = self._per_sample("tau", tau, x, positive=True)
        return x + self._over_axes(tau / (1 + tau), x) * (self.f.prox(x) - x)

    def conjugate_value(self, x: Array) -> Array:
        return self.f.conjugate_value(x) + namespace(x).sum(square(x), axis=self.axes(x)) / 2
