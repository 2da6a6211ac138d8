"""The simplex, with a cap on its entries or on their number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cvxlayers.array import iterate, namespace, stop_gradient, visible
from cvxlayers.errors import SettingsError
from cvxlayers.prox.largest import largest
from cvxlayers.prox.operator import Array
from cvxlayers.prox.set import Set, check_count
from cvxlayers.prox.threshold import on_face, project_on_simplex, simplex_threshold


@dataclass(frozen=True, eq=False)
class Simplex(Set):
    """C = {x in R^n: x >= 0, sum_i x_i = radius}; the probability simplex for radius 1.

    The projection is max(x - theta, 0) with theta such that the sum is right. With A = {i: x_i > theta}, its
    derivative is I_A - 1_A 1_A' / |A|, and that with respect to the radius is 1_A / |A|.

    ``radius`` >= 0 is a number or one per sample. Raises SettingsError for a negative one.

    Conjugate: radius max_i y_i.

    Source: C. Michelot, A finite algorithm for finding the projection of a point onto the canonical simplex of R^n,
    doi 10.1007/BF00938486.

    >>> import numpy as np
    >>> Simplex().project(np.array([0.3, 1.1, -2.0]))
    array([0.1, 0.9, 0. ])
    """

    radius: Any = 1.0

    _samples: ClassVar[tuple[str, ...]] = ("radius",)
    _nonnegative: ClassVar[tuple[str, ...]] = ("radius",)

    def _project(self, x: Array, radius: Array) -> Array:
        return project_on_simplex(x, radius)

    def _conjugate(self, x: Array, radius: Array) -> Array:
        return namespace(x).max(x, axis=-1) * radius[..., 0]


@dataclass(frozen=True, eq=False)
class CappedSimplex(Set):
    """C = {x in R^n: 0 <= x <= cap, sum_i x_i = radius}.

    The projection is min(max(x - theta, 0), cap). The sum is a decreasing, piecewise linear function of theta, whose
    root is found by Newton's method in a bracket. On the free entries the derivative is that of `Simplex`.

    ``radius`` >= 0 is a number or one per sample, ``cap`` >= 0 a number or an array that broadcasts against x. Raises
    SettingsError for negative ones, and, where it can be seen, if the caps add up to less than the radius.

    Conjugate: the radius goes to the largest y_i, cap by cap.

    Source: W. Wang, C. Lu, Projection onto the capped simplex, doi 10.48550/arXiv.1503.01002.

    >>> import numpy as np
    >>> CappedSimplex(2.0).project(np.array([0.5, 3.0, 0.1, 0.2]))
    array([0.56666667, 1.        , 0.16666667, 0.26666667])
    """

    radius: Any = 1.0
    cap: Any = 1.0

    _samples: ClassVar[tuple[str, ...]] = ("radius",)
    _entries: ClassVar[tuple[str, ...]] = ("cap",)
    _nonnegative: ClassVar[tuple[str, ...]] = ("radius", "cap")

    def _bounds(self, x: Array, radius: Array, cap: Array) -> Array:
        """``cap``, of the shape of x; SettingsError where it is seen that the set is empty."""
        xp = namespace(x)
        cap = xp.broadcast_to(cap, x.shape)
        room = visible(xp.sum(stop_gradient(cap), axis=-1, keepdims=True))
        wanted = visible(radius)
        if room is not None and wanted is not None and (wanted > room * (1 + 1e-6)).any():
            raise SettingsError(
                f"radius of CappedSimplex should be at most the sum of cap, here {room.min():g}; got "
                f"{wanted.max():g}: the set is empty."
            )
        return cap

    def _project(self, x: Array, radius: Array, cap: Array) -> Array:
        xp = namespace(x)
        cap = self._bounds(x, radius, cap)
        free, full = _capped_face(stop_gradient(x), stop_gradient(radius), stop_gradient(cap))
        at_cap = xp.where(full, cap, 0.0)
        return on_face(x, free, radius - xp.sum(at_cap, axis=-1, keepdims=True)) + at_cap

    def _conjugate(self, x: Array, radius: Array, cap: Array) -> Array:
        xp = namespace(x)
        cap = self._bounds(x, radius, cap)
        order = xp.argsort(-stop_gradient(x), axis=-1)
        x, cap = xp.take_along_axis(x, order, axis=-1), xp.take_along_axis(cap, order, axis=-1)
        before = xp.cumulative_sum(cap, axis=-1) - cap
        left = radius - before
        share = xp.where(left < 0, 0.0 * left, xp.where(left > cap, cap, left))
        return xp.sum(share * x, axis=-1)


@dataclass(frozen=True, eq=False)
class SparseSimplex(Set):
    """C = {x in R^n: x >= 0, sum_i x_i = radius, at most ``count`` entries are not 0}; not convex.

    The projection keeps the ``count`` largest entries (the first ones of equal ones) and projects them on the simplex.

    ``count`` >= 1 is an integer, ``radius`` >= 0 a number; both may be one per sample. Raises SettingsError otherwise.

    Conjugate: radius max_i y_i.

    Source: A. Kyrillidis, S. Becker, V. Cevher, C. Koch, Sparse projections onto the simplex,
    doi 10.48550/arXiv.1206.1529.

    >>> import numpy as np
    >>> SparseSimplex(2).project(np.array([0.5, 0.7, 0.6]))
    array([0.  , 0.55, 0.45])
    """

    count: Any
    radius: Any = 1.0

    convex: ClassVar[bool] = False
    _samples: ClassVar[tuple[str, ...]] = ("count", "radius")
    _nonnegative: ClassVar[tuple[str, ...]] = ("radius",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("SparseSimplex", "count", self.count, 1)

    def _project(self, x: Array, count: Array, radius: Array) -> Array:
        if not x.shape[-1]:
            return x
        xp = namespace(x)
        kept = largest(x, count)
        constant = stop_gradient(x)
        # Below every threshold: theta >= max - radius.
        low = xp.max(constant, axis=-1, keepdims=True) - 2 * (1 + stop_gradient(radius))
        _, above = simplex_threshold(xp.where(kept, constant, low), radius)
        return on_face(x, kept & above, radius)

    def _conjugate(self, x: Array, count: Array, radius: Array) -> Array:
        return namespace(x).max(x, axis=-1) * radius[..., 0]


def _capped_face(x: Array, radius: Array, cap: Array) -> tuple[Array, Array]:
    """Which entries of the projection are free, and which at the cap."""
    xp = namespace(x)
    top = xp.max(x, axis=-1, keepdims=True)
    # An entry alone may hold the whole radius: no cap matters beyond.
    ceiling = xp.where(cap < radius, cap, radius)
    low, high = xp.min(x - ceiling, axis=-1, keepdims=True), top
    noise = 4 * float(xp.finfo(x.dtype).eps)

    def face(theta: Array) -> tuple[Array, Array]:
        return (x > theta) & (x - cap < theta), x - cap >= theta

    def step(state: tuple) -> tuple:
        theta, low, high, settled = state
        free, full = face(theta)
        count = xp.sum(xp.astype(free, x.dtype), axis=-1, keepdims=True)
        excess = xp.sum(xp.where(free, x - theta, xp.where(full, cap, 0.0)), axis=-1, keepdims=True) - radius
        low, high = xp.where(excess >= 0, theta, low), xp.where(excess <= 0, theta, high)
        newton = theta + excess / xp.where(count > 0, count, 1.0)
        # Strictly inside: at a kink, steps to an end of the bracket would go back and forth between two kinks.
        inside = (count > 0) & (newton > low) & (newton < high)
        new = xp.where(inside, newton, (low + high) / 2)
        done = settled | (excess == 0) | (xp.abs(new - theta) <= noise * xp.abs(theta)) | (excess != excess)
        return xp.where(settled, theta, new), low, high, done

    start = (low + high) / 2
    theta, *_ = iterate(200, step, (start, low, high, start != start), lambda state: state[-1])
    return face(theta)
