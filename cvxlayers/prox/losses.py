"""Losses and barriers by entry: classification, counts, entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cvxlayers.array import namespace, stop_gradient, visible
from cvxlayers.errors import SettingsError
from cvxlayers.prox.operator import Array
from cvxlayers.prox.roots import newton, with_derivatives
from cvxlayers.prox.separable import Entrywise


@dataclass(frozen=True, eq=False)
class Margin(Entrywise):
    """f(x) = weight sum_i phi(label_i x_i): the base of the losses of classification.

    Raises SettingsError for a ``label`` that is neither +1 nor -1, where it can be seen.
    """

    label: Any = 1.0

    _entries: ClassVar[tuple[str, ...]] = ("entry_weights", "label")

    def __post_init__(self) -> None:
        super().__post_init__()
        seen = visible(self.label)
        if seen is not None and not np.all(abs(seen) == 1):
            raise SettingsError(
                f"label of {type(self).__name__} should be +1 or -1; got {self.label!r}. For 0 and 1, 2 label - 1."
            )


@dataclass(frozen=True, eq=False)
class Hinge(Margin):
    """f(x) = weight sum_i max(0, 1 - label_i x_i), the loss of support vector machines.

    ``label`` is +1 or -1, a number or an array that broadcasts against x. With the margin m = label x, prox is x where
    m >= 1, label (m + t) where m <= 1 - t, label between. Shapes and errors as `L1`.

    Source: C. Cortes, V. Vapnik, Support-vector networks, doi 10.1007/BF00994018.

    >>> import numpy as np
    >>> Hinge(label=np.array([1.0, -1.0, 1.0])).prox(np.array([2.0, -0.5, -1.0]))
    array([ 2., -1.,  0.])
    """

    def _phi(self, x: Array, label: Array) -> Array:
        gap = 1 - label * x
        return namespace(x).where(gap <= 0, 0.0, gap)

    def _shrink(self, x: Array, t: Array, label: Array) -> Array:
        xp = namespace(x)
        gap = 1 - label * x
        return xp.where(gap > t, x + t * label, xp.where(gap > 0, label + 0 * x, x))


@dataclass(frozen=True, eq=False)
class SquaredHinge(Margin):
    """f(x) = (weight/2) sum_i max(0, 1 - label_i x_i)^2; prox is x + label t max(0, 1 - label x) / (1 + t).

    ``label`` is +1 or -1, a number or an array that broadcasts against x. Shapes and errors as `L1`.

    >>> import numpy as np
    >>> SquaredHinge().prox(np.array([2.0, -1.0]))
    array([2., 0.])
    """

    def _phi(self, x: Array, label: Array) -> Array:
        gap = 1 - label * x
        return namespace(x).where(gap > 0, gap * gap / 2, 0.0)

    def _shrink(self, x: Array, t: Array, label: Array) -> Array:
        gap = 1 - label * x
        return x + namespace(x).where(gap > 0, label * gap * t / (1 + t), 0.0)


@dataclass(frozen=True, eq=False)
class Logistic(Margin):
    """f(x) = weight sum_i log(1 + exp(-label_i x_i)).

    ``label`` is +1 or -1, a number or an array that broadcasts against x. With m = label x, prox is label u, where u
    solves u - m = t / (1 + e^u) by Newton's method, from the side where it is monotone. Shapes and errors as `L1`.

    >>> import numpy as np
    >>> Logistic().prox(np.array([0.0, 3.0, -3.0])).round(6)
    array([ 0.401058,  3.045416, -2.108293])
    """

    def _phi(self, x: Array, label: Array) -> Array:
        xp = namespace(x)
        m = label * x
        return xp.where(m > 0, 0.0, -m) + xp.log1p(xp.exp(-xp.abs(m)))

    def _shrink(self, x: Array, t: Array, label: Array) -> Array:
        xp = namespace(x)
        m = label * x
        t = t + 0 * m

        def equation(u: Array, m: Array, t: Array) -> tuple[Array, Array]:
            small = xp.exp(-xp.abs(u))
            falling = xp.where(u > 0, small, 0 * u + 1) / (1 + small)  # 1 / (1 + e^u)
            return u - m - t * falling, 1 + t * small / (1 + small) ** 2

        # h(u) = u - m - t / (1 + e^u) is convex for u < 0 and concave for u > 0. If the root is negative, start to its
        # right, else to its left.
        right = xp.where(m + t < 0, m + t, 0.0)
        left = xp.where(m > 0, m, 0.0)
        large = xp.where(t > 1, t, 1.0)
        guess = xp.log(large / (1 + xp.log(large)))
        guess = xp.where((guess > left) & (equation(guess, m, t)[0] <= 0), guess, left)
        return label * newton(equation, xp.where(m + t / 2 <= 0, right, guess), (m, t))


@dataclass(frozen=True, eq=False)
class Poisson(Entrywise):
    """f(x) = weight sum_i x_i - count_i log x_i for x >= 0, inf elsewhere: the likelihood of Poisson counts.

    0 log 0 = 0: where the count is 0, x_i = 0 is allowed. prox is the nonnegative root of
    y^2 - (x - t) y - t count = 0. ``count`` >= 0 is a number or an array that broadcasts against x. `KullbackLeibler`
    differs by a constant. Shapes and errors as `L1`.

    Source: P. L. Combettes, J.-C. Pesquet, A Douglas-Rachford splitting approach to nonsmooth convex variational signal
    recovery, doi 10.1109/JSTSP.2007.910264.

    >>> import numpy as np
    >>> Poisson(count=np.array([2.0, 0.0])).prox(np.array([0.0, 0.5]))
    array([1., 0.])
    """

    count: Any = 1.0

    _entries: ClassVar[tuple[str, ...]] = ("entry_weights", "count")
    _nonnegative: ClassVar[tuple[str, ...]] = ("weight", "entry_weights", "count")

    def _phi(self, x: Array, count: Array) -> Array:
        xp = namespace(x)
        some = x > 0
        inside = xp.where(some, x - count * xp.log(xp.where(some, x, 1.0)), 0.0)
        return xp.where(some | ((x == 0) & (count == 0)), inside, float("inf"))

    def _shrink(self, x: Array, t: Array, count: Array) -> Array:
        return positive_root(x - t, t * count)


@dataclass(frozen=True, eq=False)
class KullbackLeibler(Poisson):
    """f(x) = weight sum_i count_i log(count_i / x_i) - count_i + x_i for x >= 0: the divergence D(count, x) >= 0.

    prox, shapes and errors as `Poisson`, which is the same function up to a constant.

    >>> import numpy as np
    >>> KullbackLeibler(count=2.0)(np.array([2.0, 2.0]))
    np.float64(0.0)
    """

    def _phi(self, x: Array, count: Array) -> Array:
        xp = namespace(x)
        some = count > 0
        entropy = xp.where(some, count * xp.log(xp.where(some, count, 1.0)), 0.0)
        return super()._phi(x, count) + entropy - count


@dataclass(frozen=True, eq=False)
class LogBarrier(Entrywise):
    """f(x) = -weight sum_i log x_i for x > 0, inf elsewhere; prox is (x + sqrt(x^2 + 4 t)) / 2. Shapes as `L1`.

    >>> import numpy as np
    >>> LogBarrier().prox(np.array([0.0, 1.5]))
    array([1., 2.])
    """

    def _phi(self, x: Array) -> Array:
        xp = namespace(x)
        return xp.where(x > 0, -xp.log(xp.where(x > 0, x, 1.0)), float("inf"))

    def _shrink(self, x: Array, t: Array) -> Array:
        return positive_root(x, t)

    def _conjugate(self, x: Array, weight: Array, entry_weights: Any = None) -> Array:
        # -w - w log(-y / w), y < 0.
        xp = namespace(x)
        factor = (weight if entry_weights is None else weight * entry_weights) + 0 * x
        some = (x < 0) & (factor > 0)
        ratio = -xp.where(some, x, -1.0) / xp.where(some, factor, 1.0)
        edge = xp.where((factor == 0) & (x <= 0), 0 * x, float("inf"))
        return xp.sum(xp.where(some, -factor * (1 + xp.log(ratio)), edge), axis=-1)


@dataclass(frozen=True, eq=False)
class Entropy(Entrywise):
    """f(x) = weight sum_i x_i log x_i for x >= 0 (0 log 0 = 0), inf elsewhere: the negative entropy.

    prox is y = t e^v, with v + e^v = x/t - 1 - log t (Wright's omega function), by Newton's method. The conjugate is
    weight sum_i exp(y_i / weight - 1). Shapes and errors as `L1`.

    Source: P. W. Lawrence, R. M. Corless, D. J. Jeffrey, Algorithm 917: complex double-precision evaluation of the
    Wright omega function, doi 10.1145/2168773.2168779.

    >>> import numpy as np
    >>> Entropy().prox(np.array([2.0, 0.0])).round(6)
    array([1.      , 0.278465])
    """

    def _phi(self, x: Array) -> Array:
        xp = namespace(x)
        some = x > 0
        return xp.where(x >= 0, xp.where(some, x * xp.log(xp.where(some, x, 1.0)), 0.0), float("inf"))

    def _shrink(self, x: Array, t: Array) -> Array:
        xp = namespace(x)
        some = t > 0
        t = xp.where(some, t, 1.0) + 0 * x
        # Far out, where x/t may overflow, y is x up to t (1 + log x) and a relative t^2 log(x) / x^2 of that.
        far = (x > 1e9 * t) & (x > 0)
        target = xp.where(far, 0.0, x / t) - 1 - xp.log(t)

        def scaled(v: Array, target: Array) -> tuple[Array, Array]:
            power = xp.exp(v)
            return v + power - target, 1 + power

        def equation(y: Array, x: Array, t: Array) -> tuple[Array, Array]:
            # y + t log y + t = x, times y / (y + t): derivatives that stay finite for the smallest y and t.
            return (y + t * xp.log(y) + t - x) * (y / (y + t)), 1.0

        # v + e^v is convex and increasing: start on the right of the root.
        start = xp.where(target > 1, xp.log(xp.where(target > 1, target, 1.0)), target)
        y = t * xp.exp(newton(scaled, start, (stop_gradient(target),)))
        y = xp.where(far, x - t * (1 + xp.log(xp.where(far, x, 1.0))), y)
        inside = y > 0  # it may be too small for a number
        y, given, step = (xp.where(inside, a, b) for a, b in ((y, 1.0), (x, 1.0), (t, 0.0)))
        y = xp.where(inside, with_derivatives(equation, y, (given, step)), 0.0 * x)
        return xp.where(some, y, xp.where(x <= 0, 0.0, x))

    def _conjugate(self, x: Array, weight: Array, entry_weights: Any = None) -> Array:
        xp = namespace(x)
        factor = (weight if entry_weights is None else weight * entry_weights) + 0 * x
        some = factor > 0
        edge = xp.where(x <= 0, 0 * x, float("inf"))
        return xp.sum(xp.where(some, factor * xp.exp(x / xp.where(some, factor, 1.0) - 1), edge), axis=-1)


def positive_root(b: Array, c: Array) -> Array:
    """The nonnegative root of y^2 - b y - c = 0 for c >= 0, without cancellation; 0 and its derivative 0 at b = c = 0.

    For b > 0 it is (b + s) / 2, else 2 c / (s - b), s = sqrt(b^2 + 4 c).
    """
    xp = namespace(b)
    # Where the square of b overflows or vanishes, the root is computed in units of its size.
    info = xp.finfo(b.dtype)
    size = xp.maximum(xp.abs(stop_gradient(b)), xp.sqrt(stop_gradient(c + 0 * b)))
    far = (size > float(info.max) ** 0.25) | (size < float(info.smallest_normal) ** 0.25)
    size = xp.where(far & (size > 0) & xp.isfinite(size), size, 1.0)
    b, c = b / size, c / size
    square = b * b + 4 * (c / size)
    # NaN fails every comparison, and has to come through.
    none = square <= 0
    s = xp.sqrt(xp.where(none, 1.0, square))
    left = ~none & (b <= 0)
    root = xp.where(left, 2 * c / xp.where(left, s - b, 1.0), size * ((b + s) / 2))
    return xp.where(none, 0.0, root)
