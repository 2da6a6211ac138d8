"""Balls and spheres of the L1 and L2 norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cvxlayers.array import namespace, stop_gradient
from cvxlayers.prox.modulus import is_complex, modulus, norm, peak, phase
from cvxlayers.prox.operator import Array
from cvxlayers.prox.set import Set
from cvxlayers.prox.threshold import on_face, project_on_l1_ball, simplex_threshold


@dataclass(frozen=True, eq=False)
class L1Ball(Set):
    """C = {x: sum_i w_i |x_i| <= radius}, with the entry_weights w.

    Outside, the projection is soft thresholding, x_i (1 - theta w_i / |x_i|)_+, with theta such that the norm is
    the radius. With A the entries that are not 0 and s their signs times w, its derivative is
    I_A - s s' / ||s||^2, and that with respect to the radius is s / ||s||^2. Complex entries keep their phase.

    ``radius`` >= 0 is a number or one per sample; ``entry_weights`` >= 0 is None, for 1, or an array that broadcasts
    against x. Raises SettingsError for negative ones.

    Conjugate: radius max_i |y_i| / w_i.

    Source: J. Duchi, S. Shalev-Shwartz, Y. Singer, T. Chandra, Efficient projections onto the l1-ball for learning in
    high dimensions, doi 10.1145/1390156.1390191.

    >>> import numpy as np
    >>> L1Ball(2.0).project(np.array([3.0, -2.0, 0.5]))
    array([ 1.5, -0.5,  0. ])
    """

    radius: Any = 1.0
    entry_weights: Any = None

    _samples: ClassVar[tuple[str, ...]] = ("radius",)
    _entries: ClassVar[tuple[str, ...]] = ("entry_weights",)
    _nonnegative: ClassVar[tuple[str, ...]] = ("radius", "entry_weights")
    _complex: ClassVar[bool] = True

    def _project(self, x: Array, radius: Array, entry_weights: Any = None) -> Array:
        xp = namespace(x)
        if entry_weights is None and not is_complex(x):
            return project_on_l1_ball(x, radius)
        size = modulus(x)
        constant = stop_gradient(size)
        fixed = None if entry_weights is None else stop_gradient(entry_weights)
        total = xp.sum(constant if fixed is None else fixed * constant, axis=-1, keepdims=True)
        inside = total <= radius
        _, above = simplex_threshold(constant, stop_gradient(radius), fixed)
        found = on_face(size, above, radius, entry_weights)
        if is_complex(x):
            found = found * phase(xp.where(above, x, 1.0))
        else:
            found = xp.where(x < 0, -found, found)
        return xp.where(inside, x, found)

    def _conjugate(self, x: Array, radius: Array, entry_weights: Any = None) -> Array:
        xp = namespace(x)
        size = modulus(x)
        if entry_weights is not None:
            some = entry_weights > 0
            size = xp.where(some, size / xp.where(some, entry_weights, 1.0), xp.where(size > 0, float("inf"), 0.0))
        largest = xp.max(size, axis=-1)
        return xp.where(largest > 0, radius[..., 0] * largest, 0.0)


@dataclass(frozen=True, eq=False)
class L1Sphere(Set):
    """C = {x: sum_i |x_i| = radius}; not convex.

    The moduli are projected on the simplex, and keep their signs (0 counts as positive) or phases: outside the ball
    this is soft thresholding, inside every modulus grows by the same amount.

    ``radius`` >= 0 is a number or one per sample. Raises SettingsError for a negative one.

    Conjugate: radius max_i |y_i|.

    >>> import numpy as np
    >>> L1Sphere().project(np.array([0.2, -0.4]))
    array([ 0.4, -0.6])
    """

    radius: Any = 1.0

    convex: ClassVar[bool] = False
    _samples: ClassVar[tuple[str, ...]] = ("radius",)
    _nonnegative: ClassVar[tuple[str, ...]] = ("radius",)
    _complex: ClassVar[bool] = True

    def _project(self, x: Array, radius: Array) -> Array:
        xp = namespace(x)
        size = modulus(x)
        if not x.shape[-1]:
            return x
        _, above = simplex_threshold(stop_gradient(size), stop_gradient(radius))
        found = on_face(size, above, radius)
        if is_complex(x):
            return found * phase(xp.where(x == 0, 1.0, x))
        return xp.where(x < 0, -found, found)

    def _conjugate(self, x: Array, radius: Array) -> Array:
        return peak(modulus(x)) * radius[..., 0]


@dataclass(frozen=True, eq=False)
class L2Ball(Set):
    """C = {x: ||x||_2 <= radius}; with two axes in ``dim``, matrices of a Frobenius norm of at most radius.

    The projection is x min(1, radius / ||x||). On the boundary the derivative is that of the inside, the identity.

    ``radius`` >= 0 is a number or one per sample. Raises SettingsError for a negative one.

    Conjugate: radius ||y||_2.

    >>> import numpy as np
    >>> L2Ball(1.0).project(np.array([3.0, 4.0]))
    array([0.6, 0.8])
    """

    radius: Any = 1.0

    _samples: ClassVar[tuple[str, ...]] = ("radius",)
    _nonnegative: ClassVar[tuple[str, ...]] = ("radius",)
    _complex: ClassVar[bool] = True

    def _project(self, x: Array, radius: Array) -> Array:
        xp = namespace(x)
        size = norm(x, (-1,), keepdims=True)
        outside = size > radius
        return xp.where(outside, (x / xp.where(outside, size, 1.0)) * radius, x)

    def _conjugate(self, x: Array, radius: Array) -> Array:
        return norm(x, (-1,)) * radius[..., 0]


@dataclass(frozen=True, eq=False)
class L2Sphere(Set):
    """C = {x: ||x||_2 = radius}; not convex.

    The projection is radius x / ||x||. Every point of C is nearest to 0, where the constant vector is taken, and the
    derivative is 0.

    ``radius`` >= 0 is a number or one per sample. Raises SettingsError for a negative one.

    Conjugate: radius ||y||_2.

    >>> import numpy as np
    >>> L2Sphere().project(np.array([[0.3, 0.4], [0.0, 0.0]])).round(4)
    array([[0.6   , 0.8   ],
           [0.7071, 0.7071]])
    """

    radius: Any = 1.0

    convex: ClassVar[bool] = False
    _samples: ClassVar[tuple[str, ...]] = ("radius",)
    _nonnegative: ClassVar[tuple[str, ...]] = ("radius",)
    _complex: ClassVar[bool] = True

    def _project(self, x: Array, radius: Array) -> Array:
        xp = namespace(x)
        size = norm(x, (-1,), keepdims=True)
        some = ~(size == 0)  # NaN is some
        direction = xp.where(some, x / xp.where(some, size, 1.0), x.shape[-1] ** -0.5 if x.shape[-1] else 0.0)
        return direction * radius

    def _conjugate(self, x: Array, radius: Array) -> Array:
        return norm(x, (-1,)) * radius[..., 0]
