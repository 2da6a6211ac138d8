"""The indicator function of a convex cone: the operator whose prox is the projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cvxlayers.array import namespace, stop_gradient
from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox.modulus import norm
from cvxlayers.prox.operator import Array
from cvxlayers.prox.set import Set, zero_where_small
from cvxlayers.sets import Cone


@dataclass(frozen=True, eq=False)
class Indicator(Set):
    """f(x) = 0 if x is in the convex cone K, inf otherwise; prox_{tau f} is the projection on K, for every tau.

    ``cone`` is a cone of `cvxlayers.sets`, the same object that the conic layers use: orthants, second-order, positive
    semidefinite, exponential and power cones, their duals and products. The axes that it consumes, flattened, have
    ``cone.size`` entries, else ShapeError is raised. The conjugate is the indicator of the polar cone -K*.

    >>> import numpy as np
    >>> from cvxlayers.sets import SecondOrder
    >>> f = Indicator(SecondOrder(3))
    >>> f.project(np.array([0.0, 3.0, 4.0]))
    array([2.5, 1.5, 2. ])
    >>> f(np.array([[5.0, 3.0, 4.0], [0.0, 3.0, 4.0]]))
    array([ 0., inf])
    """

    cone: Cone

    _samples: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.cone, Cone):
            raise SettingsError(f"cone of Indicator should be a cone of cvxlayers.sets; got {self.cone!r}.")

    def _project(self, x: Array, **_: Any) -> Array:
        size, found = self.cone.size, x.shape[-1]
        if found != size:
            raise ShapeError(f"x of {self!r} should have {size} entries in dim={self.dim}; got {found}.")
        return project_on_cone(self.cone, x)

    def _conjugate(self, x: Array) -> Array:
        # The distance to -K* is the length of the projection on K.
        return zero_where_small(norm(self._project(x), (-1,)), norm(x, (-1,)))


def project_on_cone(cone: Cone, x: Array) -> Array:
    """The projection of x (*batch, n), which is P(x) = c P(x / c): also where squares overflow or underflow."""
    if not x.shape[-1]:
        return x
    xp = namespace(x)
    info = xp.finfo(x.dtype)
    size = xp.max(xp.abs(stop_gradient(x)), axis=-1, keepdims=True)
    large, small = float(info.max) ** 0.4, float(info.smallest_normal) ** 0.4
    extreme = ((size > large) | (size < small)) & (size > 0) & xp.isfinite(size)
    scale = xp.where(extreme, size, 1.0)
    return scale * cone.project(x / scale)
