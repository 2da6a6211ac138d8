"""The indicator function of a set or a cone of `cvxlayers.sets`: the operator whose prox is the projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cvxlayers.array import namespace, real_dtype, register_pytree
from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox.operator import Array, Primitive
from cvxlayers.sets import Cone


@dataclass(frozen=True, eq=False)
class Indicator(Primitive):
    """f(x) = 0 if x is in the set C, inf otherwise; prox_{tau f} is the projection on C, for every tau.

    ``set`` is a set or a cone of `cvxlayers.sets`, the same objects that the conic layers use, or any object with
    ``project(x)`` on the last axes of an array. ``project`` is the other name of `prox`. Vectors may lie along several
    axes, which are flattened. A point counts as inside if its distance to its projection is at most
    ``eps^(2/3) (1 + ||x||)``, eps the machine precision of its dtype: 4e-11 in float64, 2e-5 in float32.

    >>> import numpy as np
    >>> from cvxlayers.sets import SecondOrder
    >>> f = Indicator(SecondOrder(3))
    >>> f.project(np.array([0.0, 3.0, 4.0]))
    array([2.5, 1.5, 2. ])
    >>> f(np.array([[5.0, 3.0, 4.0], [0.0, 3.0, 4.0]]))
    array([ 0., inf])
    """

    set: Any

    _samples: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not hasattr(self.set, "project") or isinstance(self.set, type):
            raise SettingsError(f"set of Indicator should have a method `project`; got {self.set!r}.")
        if isinstance(self.set, Cone):
            # A pytree without leaves.
            register_pytree(type(self.set), ())

    @property
    def ndim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return getattr(self.set, "ndim", 1)

    @property
    def _flat(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.ndim == 1

    @property
    def _complex(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return getattr(self.set, "complex", False)

    @property
    def convex(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return getattr(self.set, "convex", True)

    def project(self, x: Array) -> Array:
        """The nearest point of the set: argmin_{y in C} ||y - x||, of the shape and dtype of x."""
        return self.prox(x)

    def contains(self, x: Array) -> Array:
        """Whether x is in the set, up to the tolerance above, for every batch element."""
        return self(x) == 0

    def _project(self, x: Array) -> Array:
        size = getattr(self.set, "size", None)
        if isinstance(self.set, Cone) and x.shape[-1] != size:
            raise ShapeError(f"x of {self!r} should have {size} entries in dim={self.dim}; got {x.shape[-1]}.")
        return self.set.project(x)

    def _prox(self, x: Array, tau: Array) -> Array:
        return self._project(x)

    def _value(self, x: Array) -> Array:
        return self._zero_where_small(x - self._project(x), x)

    def _conjugate(self, x: Array) -> Array:
        if isinstance(self.set, Cone):
            # The indicator of the polar cone -K*, whose distance is the length of the projection on K.
            return self._zero_where_small(self._project(x), x)
        return self.set.support(x)

    def _zero_where_small(self, part: Array, x: Array) -> Array:
        xp = namespace(x)
        axes = tuple(range(-self.ndim, 0))
        size, scale = (xp.sqrt(xp.sum(xp.abs(v) ** 2, axis=axes)) for v in (part, x))
        tolerance = float(xp.finfo(real_dtype(x)).eps) ** (2 / 3)
        zero = xp.zeros_like(size)
        return xp.where(size <= tolerance * (1 + scale), zero, zero + float("inf"))
