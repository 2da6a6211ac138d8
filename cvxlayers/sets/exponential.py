"""The exponential cone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cvxlayers.array import namespace
from cvxlayers.sets.cone import Array, over_entries
from cvxlayers.sets.root import increasing_root
from cvxlayers.sets.three_dimensional import ThreeDimensional, curved_derivative, inverse_after, positive_root

_STEPS = 32
"""Steps to 1e-14 of the largest entry on 200,000 random points with entries of scales 1e-8 to 1e8, plus a few."""


@dataclass(frozen=True)
class Exponential(ThreeDimensional):
    """K = closure{(x, y, z): y exp(x/y) <= z, y > 0}, with the face {x <= 0, y = 0, z >= 0}.

    K* = closure{(p, q, r): -p exp(q/p) <= e r, p < 0}, with the face {p = 0, q >= 0, r >= 0}. On the smooth boundary,
    with rho = x/y, the pairs are s = y (rho, 1, exp(rho)) and z = theta (-1, rho - 1, exp(-rho)).
    Barrier F = -log(y log(z/y) - x) - log y - log z.

    A pair with s - z = v (smoothed, or mu = 0) is a point of one parameter k = theta/y > 0: from the first two entries
    y^2 (1 + k + k^2) - y (v_y + k v_x) - 2 mu = 0 and rho = (v_x - theta + mu/theta)/y, from the third
    z (z - v_z) = theta y + mu, and y exp(rho) = z closes the system: one increasing equation in log k.

    Source: H. A. Friberg, Projection onto the exponential cone: a univariate root-finding problem,
    doi 10.1080/10556788.2021.2022147 (there for mu = 0, in rho).

    >>> Exponential().project(np.array([1.0, 1.0, 1.0])).round(4)
    array([0.4263, 0.7517, 1.3254])
    """

    _regular = ((-1.0, -1.0, 1.0), (0.0, 1.0, 1.0))

    def _contains(self, x: Array) -> Array:
        xp = namespace(x)
        a, b, c = x[..., :1], x[..., 1:2], x[..., 2:]
        some = (b > 0) & (c > 0)
        ratio = xp.where(some, c, 1.0) / xp.where(some, b, 1.0)
        return (some & (a <= b * xp.log(ratio))) | ((a <= 0) & (b == 0) & (c >= 0))

    def _dual_contains(self, x: Array) -> Array:
        xp = namespace(x)
        p, q, r = x[..., :1], x[..., 1:2], x[..., 2:]
        some = (p < 0) & (r > 0)
        ratio = xp.where(some, r, 1.0) / xp.where(some, -p, 1.0)
        return (some & (q >= p * (1 + xp.log(ratio)))) | ((p == 0) & (q >= 0) & (r >= 0))

    def _depth(self, s: np.ndarray) -> np.ndarray:
        x, y, z = np.moveaxis(s, -1, 0)
        some = (y > 0) & (z > 0)
        inner = np.minimum(np.minimum(y, z), y * np.log(np.where(some, z, 1) / np.where(some, y, 1)) - x)
        return np.where(some, np.maximum(inner, 0), 0)

    def _dual_depth(self, z: np.ndarray) -> np.ndarray:
        p, q, r = np.moveaxis(z, -1, 0)
        some = (p < 0) & (r > 0)
        inner = np.minimum(np.minimum(-p, r), q - p * (1 + np.log(np.where(some, r, 1) / np.where(some, -p, 1))))
        return np.where(some, np.maximum(inner, 0), 0)

    def _special_point(self, v: Array) -> tuple[Array, Array]:
        xp = namespace(v)
        x, z = v[..., :1], v[..., 2:]
        tiny = float(xp.finfo(v.dtype).smallest_normal) ** 0.15
        flat = (x <= tiny) & (v[..., 1:2] <= tiny)
        return flat, xp.concat([xp.where(x < 0, x, 0.0), xp.zeros_like(x), xp.where(z > 0, z, 0.0)], axis=-1)

    def _regular_pair(self, v: Array, mu: Any) -> tuple[Array, Array]:
        xp = namespace(v)
        vx, vy, vz = v[..., 0], v[..., 1], v[..., 2]
        along = _exact_ray(xp, vx, vy) if mu is None else _smooth_ray(xp, vx, vy)
        mu = 0.0 if mu is None else mu
        tiny = float(xp.finfo(v.dtype).smallest_normal)

        def point(t: Array) -> tuple:
            k, dk, m, dm, rho = along(t)
            quadratic = 1 + k + k * k
            y, _, root = positive_root(m / quadratic, 2 * mu / quadratic)
            theta = k * y
            if rho is None:
                # One number by two formulas; each is accurate where it divides by the larger of y and theta.
                rho = xp.where(k > 1, 1 + (y - vy - mu / y) / theta, (vx - theta + mu / theta) / y)
            z, gap, total = positive_root(vz, theta * y + mu)
            z = xp.where(z > tiny, z, tiny)
            dy = (y * dm - y * y * (1 + 2 * k) * dk) / (root * quadratic)
            dtheta = k * dy + y * dk
            drho = -((1 + mu / (theta * theta)) * dtheta + rho * dy) / y
            slope = (dtheta * y + theta * dy) / (total * z) - drho - dy / y
            return xp.log(z) - rho - xp.log(y), slope, y, theta, rho, z, gap

        bound = min(60.0, -0.225 * float(np.log(tiny)))
        t = increasing_root(lambda t: point(t)[:2], xp.zeros_like(vx) + bound, _STEPS)
        _, _, y, theta, rho, z, gap = point(t)
        x = rho * y if isinstance(mu, float) and mu == 0 else vx - theta
        q = xp.where(vy < 0, y - vy, theta * (rho - 1) + mu / y)
        return xp.stack([-theta, q, gap], axis=-1), xp.stack([x, y, z], axis=-1)

    def _regular_derivative(self, z: Array, s: Array, h: Array) -> Array:
        """D h with the curvature of y exp(x/y) in closed form.

        B is I but for the direction (y, -x, 0): Hess(y exp(x/y)) = (exp(rho)/y) a a' with a = (1, -rho, 0).

        In the orthonormal basis a = (y, -x, 0)/r, b = (x, y, 0)/r, (0, 0, 1), B = diag(beta, 1, 1).
        """
        xp = namespace(z, s, h)
        p = xp.where(z[..., :1] < 0, -z[..., :1], 0.0)
        x, y = s[..., :1], xp.where(s[..., 1:2] > 0, s[..., 1:2], 0.0)
        square = x * x + y * y
        some = square > 0
        r = xp.sqrt(xp.where(some, square, 1.0))
        # On the face y = 0, and in its corner x = y = 0 too, (y, -x)/r stands for the normal (0, 1).
        cos, sin = xp.where(some, y / r, 0.0), xp.where(some, x / r, -1.0)
        weight = y * cos * cos
        beta = weight / xp.where(weight + p > 0, weight + p, 1.0)
        # z'b = (x p + y q)/r is p y/r on a pair, with no cancellation.
        z_a, z_b = cos * z[..., :1] - sin * z[..., 1:2], xp.where(some, cos * z[..., :1], p)
        return curved_derivative(cos, sin, beta, z_a, z_b, z[..., 2:], h)

    def _smoothed_derivative(self, z: Array, s: Array, h: Array, mu: Any) -> Array:
        """D h by a sum of rank-one terms.

        mu Hess F = theta y d d' + w w'/mu + mu diag(0, 1/y^2, 1/z^2), theta = mu/(y log(z/y) - x), minus the first
        entry of the dual vector, with d = (0, 1/y, -1/z) and w = theta (-1, log(z/y) - 1, y/z).
        """
        xp = namespace(z, s, h)
        mu = over_entries(mu)
        theta, y, t = -z[..., :1], s[..., 1:2], s[..., 2:]
        diagonal = xp.concat([xp.ones_like(y), y * y / (y * y + mu), t * t / (t * t + mu)], axis=-1)
        d = xp.concat([xp.zeros_like(y), t, -y], axis=-1)
        w = xp.concat([-theta, theta * (xp.log(t) - xp.log(y) - 1), theta * y / t], axis=-1)
        return h - inverse_after(diagonal, [(d, theta, y * t * t), (w, xp.ones_like(y), mu)], h)


def _smooth_ray(xp: Any, vx: Array, vy: Array):
    """k = exp(t), and m = v_y + k v_x with its derivative; rho follows."""

    def along(t: Array) -> tuple:
        k = xp.exp(t)
        return k, k, vy + k * vx, k * vx, None

    return along


def _exact_ray(xp: Any, vx: Array, vy: Array):
    """k as a function of t whose range is where m = v_y + k v_x > 0, and m, rho of full relative accuracy (mu = 0)."""
    flush = float(xp.finfo(vx.dtype).smallest_normal) ** 0.15
    vx = xp.where(xp.abs(vx) > flush, vx, 0.0)
    x, y = xp.abs(vx), xp.abs(vy)
    right, down = vx >= 0, vy < 0
    bound = xp.where(x > 0, y / xp.where(x > 0, x, 1.0), 0.0)

    def along(t: Array) -> tuple:
        e = xp.exp(t)
        low, high = 1 / (1 + e), e / (1 + e)
        start = xp.where(down, 1 + bound, 1.0)
        k = xp.where(right, xp.where(down, bound, 0.0) + start * e, bound * high)
        dk = xp.where(right, start * e, bound * high * low)
        m = xp.where(right, xp.where(down, x * start * e, vy + vx * e), y * low)
        return k, dk, m, dk * vx, (vx * (1 + k) - k * vy) / m

    return along
