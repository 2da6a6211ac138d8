"""The three-dimensional power cone."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from cvxlayers.array import namespace
from cvxlayers.errors import SettingsError
from cvxlayers.sets.cone import Array, over_entries
from cvxlayers.sets.root import increasing_root
from cvxlayers.sets.three_dimensional import ThreeDimensional, curved_derivative, inverse_after, positive_root

_STEPS = 28
"""Steps to 1e-14 of the largest entry on 200,000 random points with entries of scales 1e-8 to 1e8, plus a few."""


@dataclass(frozen=True)
class Power(ThreeDimensional):
    """K = {(x, y, z): x^alpha y^beta >= |z|, x >= 0, y >= 0} with beta = 1 - alpha, 0 < alpha < 1.

    K* = {(p, q, r): (p/alpha)^alpha (q/beta)^beta >= |r|, p >= 0, q >= 0}.
    Barrier F = -log(x^(2 alpha) y^(2 beta) - z^2) - beta log x - alpha log y.

    A pair with s - z = v (smoothed, or mu = 0) is a point of one parameter theta > 0, mu/theta the argument of the
    first logarithm: |z| = |v_z|/(1 + 2 theta), x (x - v_x) = (1 + alpha) mu + 2 alpha theta z^2, the same in y with
    beta, and x^(2 alpha) y^(2 beta) = mu/theta + z^2 closes the system: one increasing equation in log theta.

    Source: L. T. K. Hien, Differential properties of Euclidean projection onto power cone,
    doi 10.1007/s00186-015-0514-0 (there for mu = 0).

    >>> Power(0.5).project(np.array([1.0, 1.0, 3.0])).round(4)
    array([1.6667, 1.6667, 1.6667])
    """

    alpha: float

    def __post_init__(self) -> None:
        if not (isinstance(self.alpha, Real) and 0 < self.alpha < 1):
            raise SettingsError(f"alpha of Power(alpha) should lie strictly between 0 and 1; got {self.alpha!r}.")
        object.__setattr__(self, "alpha", float(self.alpha))

    @property
    def beta(self) -> float:
        """1 - alpha."""
        return 1.0 - self.alpha

    @property
    def _regular(self) -> tuple:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (self.alpha, self.beta, -1.0), (1.0, 1.0, 1.0)

    def _contains(self, x: Array) -> Array:
        return _contains(x, self.alpha, 1.0, 1.0)

    def _dual_contains(self, x: Array) -> Array:
        return _contains(x, self.alpha, self.alpha, self.beta)

    def _depth(self, s: np.ndarray) -> np.ndarray:
        return _depth(s, self.alpha, 1.0, 1.0)

    def _dual_depth(self, z: np.ndarray) -> np.ndarray:
        return _depth(z, self.alpha, self.alpha, self.beta)

    def _special_point(self, v: Array) -> tuple[Array, Array]:
        xp = namespace(v)
        tiny = float(xp.finfo(v.dtype).smallest_normal) ** 0.45
        point = xp.where(v > 0, v, 0.0)
        return xp.abs(v[..., 2:]) <= tiny, xp.concat([point[..., :2], xp.zeros_like(v[..., 2:])], axis=-1)

    def _regular_pair(self, v: Array, mu: Any) -> tuple[Array, Array]:
        xp = namespace(v)
        alpha, beta = self.alpha, self.beta
        vx, vy, size = v[..., 0], v[..., 1], xp.abs(v[..., 2])
        exact, mu = mu is None, 0.0 if mu is None else mu
        tiny = float(xp.finfo(v.dtype).smallest_normal)

        def point(t: Array) -> tuple:
            # |z| = size * low and its dual partner size * high, with 2 theta = exp(t).
            e = xp.exp(t)
            low, high = 1 / (1 + e), e / (1 + e)
            product = size * low * size * high
            dproduct = product * (low - high)
            x, p, x_total = positive_root(vx, (1 + alpha) * mu + alpha * product)
            y, q, y_total = positive_root(vy, (1 + beta) * mu + beta * product)
            x_safe, y_safe = xp.where(x > tiny, x, tiny), xp.where(y > tiny, y, tiny)
            slope = dproduct * (alpha * alpha / (x_total * x_safe) + beta * beta / (y_total * y_safe))
            if exact:
                level, dlevel = xp.log(size) - xp.log1p(e), -high
            else:
                square = (size * low) ** 2
                total = 2 * mu / e + square
                level, dlevel = xp.log(total) / 2, -(mu / e + square * high) / total
            return alpha * xp.log(x_safe) + beta * xp.log(y_safe) - level, slope - dlevel, x, p, y, q, low, high

        bound = xp.zeros_like(vx) - 0.45 * float(np.log(tiny))
        t = increasing_root(lambda t: point(t)[:2], bound, _STEPS)
        _, _, x, p, y, q, low, high = point(t)
        vz = v[..., 2]
        return xp.stack([p, q, -vz * high], axis=-1), xp.stack([x, y, vz * low], axis=-1)

    def _regular_derivative(self, z: Array, s: Array, h: Array) -> Array:
        """D h with the curvature of g = x^alpha y^beta in closed form.

        B is I but for the direction (y, -x, 0): Hess(-g) = alpha beta g a a' for a = (1/x, -1/y, 0), and
        lambda g = |z_3 s_3| on a pair. In the limit x = 0 or y = 0, where s_3 = z_3 = 0, the entry of D for the third
        coordinate depends on alpha: the boundary of K is |z|^(1/beta) there.
        """
        xp = namespace(z, s, h)
        alpha, beta = self.alpha, self.beta
        x, y = (xp.where(s[..., i : i + 1] > 0, s[..., i : i + 1], 0.0) for i in (0, 1))
        p, q = z[..., :1], z[..., 1:2]
        square = x * x + y * y
        some = square > 0
        r = xp.sqrt(xp.where(some, square, 1.0))
        cos, sin = xp.where(some, y / r, 0.0), xp.where(some, x / r, 1.0)
        product = xp.abs(z[..., 2:] * s[..., 2:])
        inside = (x > 0) & (y > 0)
        weight = (x * cos) * (y * sin)
        bend = alpha * beta * product
        beta_a = xp.where(inside, weight / xp.where(inside, weight + bend, 1.0), 0.0)
        z_a, z_b = cos * p - sin * q, xp.where(some, product / r, 0.0)
        curved = curved_derivative(cos, sin, beta_a, z_a, z_b, z[..., 2:], h)
        side = xp.where(y > 0, _end_element(xp, y, p, beta), _end_element(xp, x, q, alpha))
        h_x, h_y = xp.where(x > 0, 0.0, h[..., :1]), xp.where(y > 0, 0.0, h[..., 1:2])
        flat = xp.concat([h_x, h_y, side * h[..., 2:]], axis=-1)
        return xp.where(inside, curved, flat)

    def _smoothed_derivative(self, z: Array, s: Array, h: Array, mu: Any) -> Array:
        """D h by a sum of rank-one terms.

        With g = x^alpha y^beta, theta = mu/(g^2 - z^2) and n = (alpha g/x, beta g/y, -+1), mu Hess F is
        2 alpha beta g^2 theta a a' + sum over the signs of mu n n'/(g -+ z)^2 + mu diag(beta/x^2, alpha/y^2, 0);
        (x z_x + y z_y - mu)/2 = theta g^2 on a pair, and g - |z| = mu/(theta (g + |z|)).
        """
        xp = namespace(z, s, h)
        mu = over_entries(mu)
        alpha, beta = self.alpha, self.beta
        x, y, t = s[..., :1], s[..., 1:2], s[..., 2:]
        ratio = y / x
        g = x * ratio**beta
        level = (x * z[..., :1] + y * z[..., 1:2] - mu) / 2
        sign = xp.where(t < 0, -1.0 + 0 * t, 1.0 + 0 * t)
        far = g + sign * t
        gradient = [alpha * ratio**beta, beta * ratio**-alpha]
        diagonal = xp.concat([x * x / (x * x + beta * mu), y * y / (y * y + alpha * mu), xp.ones_like(x)], axis=-1)
        updates = [
            (xp.concat([y, -x, 0 * x], axis=-1), 2 * alpha * beta * level, x * x * y * y),
            (xp.concat([*gradient, sign], axis=-1), mu + 0 * x, far * far),
            (xp.concat([*gradient, -sign], axis=-1), (far * level / (g * g)) ** 2, mu + 0 * x),
        ]
        return h - inverse_after(diagonal, updates, h)


def _contains(x: Array, alpha: float, a: float, b: float) -> Array:
    xp = namespace(x)
    inside = (x[..., :1] >= 0) & (x[..., 1:2] >= 0)
    first, second = (xp.where(inside, x[..., i : i + 1], 1.0) for i in (0, 1))
    return inside & ((first / a) ** alpha * (second / b) ** (1 - alpha) >= xp.abs(x[..., 2:]))


def _depth(v: np.ndarray, alpha: float, a: float, b: float) -> np.ndarray:
    x, y, z = np.moveaxis(v, -1, 0)
    return np.maximum((np.maximum(x, 0) / a) ** alpha * (np.maximum(y, 0) / b) ** (1 - alpha) - np.abs(z), 0)


def _end_element(xp: Any, x: Array, q: Array, alpha: float) -> Array:
    """D_33 at s = (x, 0, 0), z = (0, q, 0): y = |z|^(1/beta) x^(-alpha/beta) is sharp, flat, or a parabola at z = 0."""
    if alpha < 0.5:
        return xp.ones_like(x)
    if alpha > 0.5:
        return xp.zeros_like(x)
    return 2 * q / xp.where(x + 2 * q > 0, x + 2 * q, 1.0)
