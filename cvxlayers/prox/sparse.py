"""Sets of vectors with few entries, or few groups of entries, that are not 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cvxlayers.array import namespace
from cvxlayers.prox.largest import largest
from cvxlayers.prox.modulus import modulus, norm
from cvxlayers.prox.operator import Array
from cvxlayers.prox.set import Set, check_count


@dataclass(frozen=True, eq=False)
class L0Ball(Set):
    """C = {x: at most ``count`` entries are not 0}; not convex.

    The projection keeps the ``count`` entries of largest modulus, the first ones of equal ones. ``count`` >= 0 is an
    integer or one per sample. Raises SettingsError otherwise.

    >>> import numpy as np
    >>> L0Ball(2).project(np.array([[3.0, -1.0, 2.0], [1.0, 1.0, -1.0]]))
    array([[3., 0., 2.],
           [1., 1., 0.]])
    """

    count: Any

    convex: ClassVar[bool] = False
    _samples: ClassVar[tuple[str, ...]] = ("count",)
    _complex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("L0Ball", "count", self.count, 0)

    def _project(self, x: Array, count: Array) -> Array:
        xp = namespace(x)
        size = modulus(x)
        return xp.where(largest(size, count) | xp.isnan(size), x, xp.zeros_like(x))


@dataclass(frozen=True, eq=False)
class GroupL0Ball(Set):
    """C = {X: at most ``count`` rows are not 0}; not convex.

    ``dim`` names two axes: the groups, and the entries of a group; the last two by default. The projection keeps the
    ``count`` groups of largest L2 norm, the first ones of equal ones. ``count`` >= 0 is an integer or one per sample.
    Raises SettingsError otherwise.

    >>> import numpy as np
    >>> GroupL0Ball(1).project(np.array([[3.0, 4.0], [6.0, 0.0]]))
    array([[0., 0.],
           [6., 0.]])
    """

    count: Any

    ndim: ClassVar[int] = 2
    convex: ClassVar[bool] = False
    _flat: ClassVar[bool] = False
    _samples: ClassVar[tuple[str, ...]] = ("count",)
    _complex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("GroupL0Ball", "count", self.count, 0)

    def _project(self, x: Array, count: Array) -> Array:
        xp = namespace(x)
        size = norm(x, (-1,))
        kept = largest(size, count[..., 0]) | xp.isnan(size)
        return xp.where(kept[..., None], x, xp.zeros_like(x))
