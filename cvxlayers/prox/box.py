"""Sets that bound every entry alone: boxes and orthants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cvxlayers.array import namespace, visible
from cvxlayers.errors import SettingsError
from cvxlayers.prox.modulus import modulus
from cvxlayers.prox.operator import Array
from cvxlayers.prox.set import Set, check_order


@dataclass(frozen=True, eq=False)
class Box(Set):
    """C = {x: lower <= x <= upper}, entry by entry; the projection clips.

    ``lower`` and ``upper`` are numbers or arrays that broadcast against x, and may be infinite. The derivative of a
    clipped entry with respect to its bound is 1; an entry on its bound counts as free. Raises SettingsError for
    lower > upper.

    Conjugate: sum_i max(lower_i y_i, upper_i y_i).

    >>> import numpy as np
    >>> Box(0.0, np.array([1.0, 2.0])).project(np.array([[-1.0, 3.0], [0.5, 1.5]]))
    array([[0. , 2. ],
           [0.5, 1.5]])
    """

    lower: Any = 0.0
    upper: Any = 1.0

    _entries: ClassVar[tuple[str, ...]] = ("lower", "upper")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_order("Box", "lower", self.lower, "upper", self.upper)

    def _project(self, x: Array, lower: Array, upper: Array) -> Array:
        xp = namespace(x)
        # Not minimum and maximum, which share the derivative at ties.
        return xp.where(x < lower, lower, xp.where(x > upper, upper, x))

    def _conjugate(self, x: Array, lower: Array, upper: Array) -> Array:
        xp = namespace(x)
        # An infinite bound costs nothing where x is 0.
        bound = xp.where(x < 0, lower, xp.where(x > 0, upper, xp.zeros_like(x)))
        return xp.sum(bound * x, axis=-1)


@dataclass(frozen=True, eq=False)
class Orthant(Set):
    """C = {x: sign * x >= 0}: the nonnegative entries for sign 1, the default, the nonpositive ones for -1.

    ``sign`` is 1, -1, or an array of them that broadcasts against x. Raises SettingsError for other values.

    Conjugate: the indicator of -C. The cone `cvxlayers.sets.Nonnegative`, as the conic layers use it, is the same set.

    >>> import numpy as np
    >>> Orthant().project(np.array([-1.0, 2.0]))
    array([0., 2.])
    """

    sign: Any = 1.0

    _entries: ClassVar[tuple[str, ...]] = ("sign",)

    def __post_init__(self) -> None:
        super().__post_init__()
        seen = visible(self.sign)
        if seen is not None and not (abs(seen) == 1).all():
            raise SettingsError(f"sign of Orthant should be 1 or -1, or an array of them; got {self.sign!r}.")

    def _project(self, x: Array, sign: Array) -> Array:
        xp = namespace(x)
        return xp.where(sign * x < 0, xp.zeros_like(x), x)

    def _conjugate(self, x: Array, sign: Array) -> Array:
        return self._value(-x, sign=sign)


@dataclass(frozen=True, eq=False)
class LInfinityBall(Set):
    """C = {x: max_i |x_i| <= radius}; entries are clipped, complex ones keep their phase.

    ``radius`` >= 0 is a number or one per sample. Raises SettingsError for a negative one.

    Conjugate: radius ||y||_1.

    >>> import numpy as np
    >>> LInfinityBall(2.0).project(np.array([3.0, -5.0, 1.0]))
    array([ 2., -2.,  1.])
    """

    radius: Any = 1.0

    _samples: ClassVar[tuple[str, ...]] = ("radius",)
    _nonnegative: ClassVar[tuple[str, ...]] = ("radius",)
    _complex: ClassVar[bool] = True

    def _project(self, x: Array, radius: Array) -> Array:
        xp = namespace(x)
        size = modulus(x)
        outside = size > radius
        return xp.where(outside, x * (radius / xp.where(outside, size, 1.0)), x)

    def _conjugate(self, x: Array, radius: Array) -> Array:
        return namespace(x).sum(radius * modulus(x), axis=-1)
