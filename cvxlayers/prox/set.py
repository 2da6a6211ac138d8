"""The base of the sets that have parameters: indicators, whose prox is the projection."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cvxlayers.array import namespace, real_dtype, single, visible
from cvxlayers.errors import SettingsError
from cvxlayers.prox.modulus import norm
from cvxlayers.prox.operator import Array, Primitive, check_input


@dataclass(frozen=True, eq=False)
class Set(Primitive):
    """f(x) = 0 for x in a closed set C, inf outside; prox_{tau f} is the projection on C, for every tau.

    A point counts as inside if its distance to its projection is at most ``eps^(2/3) (1 + ||x||)``, eps the machine
    precision of its dtype: 4e-11 in float64, 2e-5 in float32. A set that is not convex has points with several nearest
    ones; ``project`` returns one of them.

    A subclass fills in ``_project(x, **parameters)`` on arranged arrays, and the support function
    ``_conjugate(x, **parameters)`` where it has a formula.
    """

    _samples: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def _project(self, x: Array, **parameters: Array) -> Array:
        """The nearest point of C, on arranged arrays: the shape of x."""

    def project(self, x: Array) -> Array:
        """The nearest point of C: argmin over y in C of ||y - x||, of the shape and dtype of x."""
        return self.prox(x)

    def contains(self, x: Array) -> Array:
        """Whether x is in C up to the tolerance of the class, for every batch element."""
        return self(x) == 0

    def __call__(self, x: Array) -> Array:
        wide = single(check_input(x, self, self._complex))
        if wide is x:
            return super().__call__(x)
        # Rounding moves a point by more than what is rounding in the precision of the projection.
        axes, eps = self.axes(x), float(namespace(x).finfo(x.dtype).eps)
        value = zero_where_small(norm(wide - self.prox(wide), axes), norm(wide, axes), eps)
        return namespace(x).astype(value, x.dtype)

    def _prox(self, x: Array, tau: Array, **parameters: Array) -> Array:
        return self._project(x, **parameters)

    def _value(self, x: Array, **parameters: Array) -> Array:
        axes = tuple(range(-1 if self._flat else -self.ndim, 0))
        return zero_where_small(norm(x - self._project(x, **parameters), axes), norm(x, axes))


def zero_where_small(distance: Array, scale: Array, eps: float | None = None) -> Array:
    """0 where ``distance`` is rounding at the scale of the point, inf elsewhere; ``eps`` is that of the dtype."""
    xp = namespace(distance)
    tolerance = (float(xp.finfo(real_dtype(distance)).eps) if eps is None else eps) ** (2 / 3)
    zero = xp.zeros_like(distance)
    return xp.where(distance <= tolerance * (1 + scale), zero, zero + float("inf"))


def check_order(kind: str, low_name: str, low: Any, high_name: str, high: Any) -> None:
    """Raise SettingsError where low > high, as far as the values can be seen and broadcast: the set would be empty."""
    a, b = (None if value is None else visible(value) for value in (low, high))
    if a is None or b is None:
        return
    try:
        bad = ~(a <= b)
    except ValueError:
        return
    if np.any(bad):
        a, b = (np.broadcast_to(v, bad.shape)[bad][0] for v in (a, b))
        raise SettingsError(f"{low_name} of {kind} should be at most {high_name}; got {a} > {b}: the set is empty.")


def check_count(kind: str, name: str, value: Any, least: int) -> None:
    """Raise SettingsError unless ``value``, where it can be seen, holds integers of at least ``least``."""
    seen = visible(value)
    if seen is None:
        return
    if (
        isinstance(value, bool)
        or seen.dtype.kind not in "iuf"
        or np.any(seen != np.round(seen))
        or np.any(seen < least)
    ):
        raise SettingsError(f"{name} of {kind} should be an integer of at least {least}; got {value!r}.")
