"""The three-dimensional power cone."""

from __future__ import annotations

import math
from typing import Any

from cvxlayers.array import namespace
from cvxlayers.solvers.interior_point.cones.three_dimensional import ThreeDimensionalBarrier, matrix, unit

Array = Any


class PowerBarrier(ThreeDimensionalBarrier):
    """F*(z) = -log(phi - z_2^2) - (1 - a) log z_0 - a log z_1 with phi = (z_0/a)^(2a) (z_1/(1 - a))^(2 - 2a).

    Its conjugate F: grad F(s) = -z~ with grad F*(z~) = -s. With t = phi/(phi - z~_2^2) > 1 the equations of the
    gradient read z~_0 = (2 a t + 1 - a)/s_0, z~_1 = (2 (1 - a) t + a)/s_1, z~_2 = -2 (t - 1)/s_2, and the definition
    of phi is one equation for t.

    Source: for the barrier, P. R. Chares, Cones and interior-point algorithms for structured convex optimization
    involving powers and exponentials, PhD thesis, Louvain, 2009.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha, self.beta = alpha, 1.0 - alpha

    def unit(self, like: Array) -> Array:
        return unit((math.sqrt(1.0 + self.alpha), math.sqrt(1.0 + self.beta), 0.0), like)

    def _conjugate(self, s: Array) -> Array:
        """z~, (*batch, count, 3).

        With w = 1/t, the equation is log(1 - w) = h(w) - gap, h(w) = 2a log(1 + b w/(2a)) + 2b log(1 + a w/(2b)) and
        gap = log(s_0^(2a) s_1^(2b)/s_2^2) > 0: concave and decreasing in w, so Newton's method converges monotonically
        from the right, where h = 0 puts its start.
        """
        xp = namespace(s)
        a, b = self.alpha, self.beta
        x, y, size = s[..., 0], s[..., 1], xp.abs(s[..., 2])
        some = size > 0
        gap = 2.0 * (a * xp.log(x) + b * xp.log(y) - xp.log(xp.where(some, size, 1.0)))

        def curve(w: Array) -> Array:
            return 2.0 * (a * xp.log1p(b / (2.0 * a) * w) + b * xp.log1p(a / (2.0 * b) * w))

        w = -xp.expm1(-gap)
        for _ in range(6):
            value = xp.log1p(-w) - curve(w) + gap
            slope = 1.0 / (1.0 - w) + b / (1.0 + b / (2.0 * a) * w) + a / (1.0 + a / (2.0 * b) * w)
            w = w + xp.where(w < 1.0, value / slope, 0.0)
        v = xp.exp(curve(w) - gap)  # 1 - w, accurate where it is small
        t = 1.0 / w
        third = xp.where(some, -2.0 * v * t / xp.where(some, s[..., 2], 1.0), 0.0)
        t = xp.where(some, t, 1.0)
        return xp.stack([(2.0 * a * t + b) / x, (2.0 * b * t + a) / y, third], axis=-1)

    def _gradient_primal(self, s: Array) -> Array:
        return -self._conjugate(s)

    def _psi(self, z: Array) -> tuple[Array, ...]:
        """phi, psi = phi - z_2^2 without cancellation, and the first derivatives of psi."""
        xp = namespace(z)
        a, b = self.alpha, self.beta
        root = xp.exp(a * xp.log(z[..., 0] / a) + b * xp.log(z[..., 1] / b))
        phi = root * root
        size = xp.abs(z[..., 2])
        return phi, (root - size) * (root + size), 2 * a * phi / z[..., 0], 2 * b * phi / z[..., 1], -2.0 * z[..., 2]

    def _second(self, z: Array, phi: Array) -> tuple[Array, Array, Array]:
        a, b = self.alpha, self.beta
        x, y = z[..., 0], z[..., 1]
        return 2 * a * (2 * a - 1) * phi / (x * x), 4 * a * b * phi / (x * y), 2 * b * (2 * b - 1) * phi / (y * y)

    def _dual(self, z: Array) -> tuple[Array, Array, Array]:
        """The Cholesky factor of Hess F*, the third variable first, with no cancellation.

        With T = phi/psi >= 1, the Schur complement of the third variable is D - k c c', D = diag((2aT + b)/x^2,
        (2bT + a)/y^2), k = T (T - 1)/(2T - 1), c = 2 (a/x, b/y). Its determinant times x^2 y^2 (2T - 1) is
        8abT^2 + (2 - 6ab) T - ab, and its first entry times x^2 (2T - 1) is 4abT^2 + 2 (a^2 + b^2) T - b.
        """
        xp = namespace(z)
        a, b = self.alpha, self.beta
        x, y = z[..., 0], z[..., 1]
        phi, psi, p0, p1, p2 = self._psi(z)
        g = xp.stack([-p0 / psi - b / x, -p1 / psi - a / y, -p2 / psi], axis=-1)
        T = phi / psi
        last = xp.sqrt(2.0 * (2.0 * T - 1.0) / psi)
        e0, e1 = p0 * p2 / (psi * psi * last), p1 * p2 / (psi * psi * last)
        first = xp.sqrt((4.0 * a * b * T * T + 2.0 * (a * a + b * b) * T - b) / (2.0 * T - 1.0)) / x
        k = T * (T - 1.0) / (2.0 * T - 1.0)
        below = -k * 4.0 * a * b / (x * y) / first
        determinant = (8.0 * a * b * T * T + (2.0 - 6.0 * a * b) * T - a * b) / (2.0 * T - 1.0)
        second = xp.sqrt(determinant) / (x * y * first)
        C = matrix(((e0, first, 0), (e1, below, second), (last, 0, 0)))
        i_last, i_first, i_second = 1.0 / last, 1.0 / first, 1.0 / second
        i_below = -below * i_first * i_second
        corner = -(i_below * e0 + i_second * e1) * i_last
        inverse = matrix(((0, 0, i_last), (i_first, 0, -i_first * e0 * i_last), (i_below, i_second, corner)))
        return g, C, inverse

    def _third_dual(self, z: Array, u: Array, v: Array) -> Array:
        xp = namespace(z)
        a, b = self.alpha, self.beta
        x, y = z[..., 0], z[..., 1]
        phi, psi, p0, p1, p2 = self._psi(z)
        p00, p01, p11 = self._second(z, phi)
        u0, u1, u2, v0, v1, v2 = (d[..., i] for d in (u, v) for i in range(3))
        hu = (p00 * u0 + p01 * u1, p01 * u0 + p11 * u1, -2.0 * u2)
        hv = (p00 * v0 + p01 * v1, p01 * v0 + p11 * v1, -2.0 * v2)
        pu, pv = p0 * u0 + p1 * u1 + p2 * u2, p0 * v0 + p1 * v1 + p2 * v2
        puv = hu[0] * v0 + hu[1] * v1 + hu[2] * v2
        t000, t111 = p00 * (2 * a - 2) / x, p11 * (2 * b - 2) / y
        t001, t011 = p00 * 2 * b / y, p11 * 2 * a / x
        mixed = u0 * v1 + u1 * v0
        third = (
            t000 * u0 * v0 + t001 * mixed + t011 * u1 * v1,
            t001 * u0 * v0 + t011 * mixed + t111 * u1 * v1,
            0.0,
        )
        own = (-2.0 * b * u0 * v0 / x**3, -2.0 * a * u1 * v1 / y**3, 0.0)
        entries = [
            -third[i] / psi + (pu * hv[i] + pv * hu[i] + puv * p) / psi**2 - 2.0 * pu * pv * p / psi**3 + own[i]
            for i, p in enumerate((p0, p1, p2))
        ]
        return xp.stack(entries, axis=-1)

    def _barrier_dual(self, z: Array) -> Array:
        xp = namespace(z)
        return -xp.log(self._psi(z)[1]) - self.beta * xp.log(z[..., 0]) - self.alpha * xp.log(z[..., 1])

    def centrality(self, s: Array, z: Array) -> Array:
        """F(s) = -F*(z~) - 3, as the conjugate of F* at -s."""
        xp = namespace(s)
        a, b = self.alpha, self.beta
        x, y = s[..., 0], s[..., 1]
        inside = (x > 0) & (y > 0) & (z[..., 0] > 0) & (z[..., 1] > 0)
        safe = xp.where(inside[..., None], s, self.unit(s))
        inside = inside & (a * xp.log(safe[..., 0]) + b * xp.log(safe[..., 1]) > xp.log(xp.abs(safe[..., 2])))
        safe = xp.where(inside[..., None], s, self.unit(s))
        total = self._barrier_dual(z) - self._barrier_dual(self._conjugate(safe)) - 3.0
        return xp.where(inside, total, float("inf"))
