"""Sparse penalties that are not convex: less bias on large entries than L1. Every prox is a global minimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cvxlayers.array import namespace, stop_gradient
from cvxlayers.errors import SettingsError
from cvxlayers.prox.modulus import modulus
from cvxlayers.prox.operator import Array, check_range
from cvxlayers.prox.roots import newton, with_derivatives
from cvxlayers.prox.separable import Even


@dataclass(frozen=True, eq=False)
class Nonconvex(Even):
    """An even penalty that is not convex: where several points minimize, prox returns one of them."""

    convex: ClassVar[bool] = False

    def _best(self, r: Array, t: Array, *candidates: Array, **parameters: Array) -> Array:
        """By entry, the candidate y with the least t phi(y) + (y - r)^2 / 2; of equals the first."""
        xp = namespace(r)
        best, least = None, None
        for y in candidates:
            cost = t * self._phi_of_size(y, **parameters) + (y - r) ** 2 / 2
            if best is None:
                best, least = y, cost
            else:
                better = cost < least
                best, least = xp.where(better, y, best), xp.where(better, cost, least)
        return best


def clamp(y: Array, low: Array, high: Array) -> Array:
    """min(max(y, low), high); NaN passes."""
    xp = namespace(y)
    return xp.where(y < low, low + 0 * y, xp.where(y > high, high + 0 * y, y))


@dataclass(frozen=True, eq=False)
class L0(Nonconvex):
    """f(x) = weight (number of nonzero entries); prox is hard thresholding: x_i where |x_i| > sqrt(2 t_i), else 0.

    t_i = tau weight entry_weights_i, from comparing t + 0 with x^2 / 2. Real or complex x; shapes and errors as `L1`.

    Source: T. Blumensath, M. E. Davies, Iterative thresholding for sparse approximations,
    doi 10.1007/s00041-008-9035-z.

    >>> import numpy as np
    >>> L0(2.0).prox(np.array([2.1, -1.9, 3.0]))
    array([ 2.1, -0. ,  3. ])
    """

    def _phi_of_size(self, r: Array) -> Array:
        return namespace(r).where(r > 0, 0 * r + 1, 0 * r)

    def _shrink_size(self, r: Array, t: Array) -> Array:
        return namespace(r).where(r * r > 2 * t, r, 0.0)


@dataclass(frozen=True, eq=False)
class Lq(Nonconvex):
    """f(x) = weight sum_i |x_i|^q for 0 < q < 1; ``Lq(q=0.5)`` and ``Lq(q=2/3)`` are the half and two-thirds penalties.

    prox is 0 up to the threshold beta + t q beta^(q-1), beta = (2 t (1 - q))^(1/(2-q)), and beyond it the larger root y
    of y + t q y^(q-1) = |x|, by Newton's method (y >= beta there: the equation is increasing and convex). ``q`` is a
    number; real or complex x; shapes and errors as `L1`.

    Source: Z. Xu, X. Chang, F. Xu, H. Zhang, L1/2 regularization: a thresholding representation theory,
    doi 10.1109/TNNLS.2012.2197412; G. Marjanovic, V. Solo, On lq optimization and matrix completion,
    doi 10.1109/TSP.2012.2212015.

    >>> import numpy as np
    >>> Lq(1.0, q=0.5).prox(np.array([1.4, 3.0, -1.6])).round(6)
    array([ 0.      ,  2.695453, -1.129545])
    """

    q: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (isinstance(self.q, float) and 0 < self.q < 1):
            raise SettingsError(f"q of Lq should be a float between 0 and 1; got {self.q!r}. The ends are L0 and L1.")

    def _phi_of_size(self, r: Array) -> Array:
        xp = namespace(r)
        return xp.where(r > 0, xp.where(r > 0, r, 1.0) ** self.q, 0.0)

    def _shrink_size(self, r: Array, t: Array) -> Array:
        xp, q = namespace(r), self.q
        beta = (2 * (1 - q) * t) ** (1 / (2 - q))
        beyond = r > beta + t * q * beta ** (q - 1)
        # Scaled by beta: y = beta u, with u + c u^(q-1) = r / beta, c = q / (2 (1 - q)), u >= 1.
        c = q / (2 * (1 - q))
        target = stop_gradient(xp.where(beyond, r / beta, 2 + c))

        def scaled(u: Array, target: Array) -> tuple[Array, Array]:
            power = c * u ** (q - 2)
            return u + power * u - target, 1 + (q - 1) * power

        def equation(y: Array, r: Array, t: Array) -> tuple[Array, Array]:
            power = t * (q * y ** (q - 2))
            return y + power * y - r, 1 + (q - 1) * power

        # Without beta, whose derivatives overflow for the smallest t.
        root, r, t = (
            xp.where(beyond, *pair) for pair in ((beta * newton(scaled, target, (target,)), 1.0), (r, 1.0), (t, 0.0))
        )
        return xp.where(beyond, with_derivatives(equation, root, (r, t)), 0.0)


@dataclass(frozen=True, eq=False)
class MCP(Nonconvex):
    """The minimax concave penalty f(x) = weight sum_i phi(|x_i|), with threshold h and gamma g:

    phi(r) = h r - r^2 / (2 g) for r <= g h, and g h^2 / 2 beyond.

    prox is the firm threshold: 0 up to t h, (r - t h) / (1 - t/g) up to g h, r beyond; for t >= g it is the hard
    threshold at sqrt(t g) h. ``threshold`` >= 0 and ``gamma`` > 0 are numbers or one per sample; real or complex x;
    shapes and errors as `L1`.

    Source: C.-H. Zhang, Nearly unbiased variable selection under minimax concave penalty, doi 10.1214/09-AOS729.

    >>> import numpy as np
    >>> MCP(threshold=1.0, gamma=3.0).prox(np.array([0.9, -2.0, 4.0]))
    array([ 0. , -1.5,  4. ])
    """

    threshold: Any = 1.0
    gamma: Any = 3.0

    _samples: ClassVar[tuple[str, ...]] = ("weight", "threshold", "gamma")
    _nonnegative: ClassVar[tuple[str, ...]] = ("weight", "threshold", "entry_weights")
    _positive: ClassVar[tuple[str, ...]] = ("gamma",)

    def _phi_of_size(self, r: Array, threshold: Array, gamma: Array) -> Array:
        end = gamma * threshold
        return namespace(r).where(r < end, threshold * r - r * r / (2 * gamma), end * threshold / 2)

    def _shrink_size(self, r: Array, t: Array, threshold: Array, gamma: Array) -> Array:
        xp = namespace(r)
        firm = t < gamma
        middle = (r - t * threshold) / xp.where(firm, 1 - t / gamma, 1.0)
        soft = xp.where(r > gamma * threshold, r, xp.where(r > t * threshold, middle, 0.0))
        return xp.where(firm, soft, xp.where(r * r > t * gamma * threshold * threshold, r, 0.0))


@dataclass(frozen=True, eq=False)
class SCAD(Nonconvex):
    """The smoothly clipped absolute deviation f(x) = weight sum_i phi(|x_i|), with threshold h and a > 2:

    phi(r) = h r for r <= h, (2 a h r - r^2 - h^2) / (2 (a - 1)) for h < r <= a h, and (a + 1) h^2 / 2 beyond.

    prox is the best of the three minimizers of the pieces: a global one for every tau. ``threshold`` >= 0 and ``a`` > 2
    are numbers or one per sample; real or complex x; shapes and errors as `L1`.

    Source: J. Fan, R. Li, Variable selection via nonconcave penalized likelihood and its oracle properties,
    doi 10.1198/016214501753382273.

    >>> import numpy as np
    >>> SCAD(threshold=1.0, a=3.0).prox(np.array([0.9, 1.5, -2.5, 4.0]))
    array([ 0. ,  0.5, -2. ,  4. ])
    """

    threshold: Any = 1.0
    a: Any = 3.7

    _samples: ClassVar[tuple[str, ...]] = ("weight", "threshold", "a")
    _nonnegative: ClassVar[tuple[str, ...]] = ("weight", "threshold", "entry_weights")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("a - 2 of SCAD", self.a - 2, "positive")

    def _phi_of_size(self, r: Array, threshold: Array, a: Array) -> Array:
        xp, h = namespace(r), threshold
        middle = (2 * a * h * r - r * r - h * h) / (2 * (a - 1))
        return xp.where(r <= h, h * r, xp.where(r <= a * h, middle, (a + 1) * h * h / 2))

    def _shrink_size(self, r: Array, t: Array, threshold: Array, a: Array) -> Array:
        xp, h = namespace(r), threshold
        zero = 0 * r
        first = clamp(r - t * h, zero, h)
        convex = a - 1 > t
        # A concave middle piece has its minimum at an end, which belongs to a neighbour too.
        middle = xp.where(convex, ((a - 1) * r - a * h * t) / xp.where(convex, a - 1 - t, 1.0), h + zero)
        second = clamp(middle, h, a * h)
        third = xp.where(r > a * h, r, a * h + zero)
        return self._best(r, t, first, second, third, threshold=threshold, a=a)


@dataclass(frozen=True, eq=False)
class LogSum(Nonconvex):
    """f(x) = weight sum_i log(1 + |x_i| / epsilon).

    prox is the better of 0 and the larger root of y^2 - (r - epsilon) y + t - r epsilon = 0, r = |x|. ``epsilon`` > 0
    is a number or one per sample; real or complex x; shapes and errors as `L1`.

    Source: E. J. Candès, M. B. Wakin, S. P. Boyd, Enhancing sparsity by reweighted l1 minimization,
    doi 10.1007/s00041-008-9045-x.

    >>> import numpy as np
    >>> LogSum(1.0, epsilon=1.0).prox(np.array([0.9, -3.0]))
    array([ 0.        , -2.73205081])
    """

    epsilon: Any = 1.0

    _samples: ClassVar[tuple[str, ...]] = ("weight", "epsilon")
    _positive: ClassVar[tuple[str, ...]] = ("epsilon",)

    def _phi_of_size(self, r: Array, epsilon: Array) -> Array:
        return namespace(r).log1p(r / epsilon)

    def _shrink_size(self, r: Array, t: Array, epsilon: Array) -> Array:
        xp = namespace(r)
        discriminant = (r + epsilon) ** 2 - 4 * t
        real = discriminant > 0
        root = (r - epsilon + xp.sqrt(xp.where(real, discriminant, 1.0))) / 2
        inside = real & (root > 0)
        return self._best(r, t, 0 * r, xp.where(inside, root, 0.0), epsilon=epsilon)


@dataclass(frozen=True, eq=False)
class TruncatedQuadratic(Nonconvex):
    """f(x) = (weight/2) sum_i min(|x_i|^2, threshold^2): quadratic, and constant beyond the threshold.

    prox is the better of r / (1 + t) and r, clamped to their pieces, r = |x|. ``threshold`` > 0 is a number or one per
    sample; real or complex x; shapes and errors as `L1`.

    Source: A. Blake, A. Zisserman, Visual Reconstruction, doi 10.7551/mitpress/7132.001.0001.

    >>> import numpy as np
    >>> TruncatedQuadratic(1.0, threshold=1.0).prox(np.array([1.0, -2.0]))
    array([ 0.5, -2. ])
    """

    threshold: Any = 1.0

    _samples: ClassVar[tuple[str, ...]] = ("weight", "threshold")
    _positive: ClassVar[tuple[str, ...]] = ("threshold",)

    def _phi_of_size(self, r: Array, threshold: Array) -> Array:
        xp = namespace(r)
        return xp.where(r < threshold, r * r, threshold * threshold) / 2

    def _shrink_size(self, r: Array, t: Array, threshold: Array) -> Array:
        xp = namespace(r)
        near = r / (1 + t)
        near = xp.where(near < threshold, near, threshold)
        far = xp.where(r > threshold, r, threshold)
        return self._best(r, t, near, far, threshold=threshold)

    def _shrink(self, x: Array, t: Array, **parameters: Array) -> Array:
        # Smooth at 0, where the phase is not.
        xp = namespace(x)
        small = modulus(x) < parameters["threshold"]
        return xp.where(small, x / (1 + t), super()._shrink(x, t, **parameters))
