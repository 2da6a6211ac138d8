"""The exponential cone."""

from __future__ import annotations

from typing import Any

from cvxlayers.array import namespace
from cvxlayers.solvers.interior_point.cones.three_dimensional import ThreeDimensionalBarrier, matrix, unit

Array = Any


class ExponentialBarrier(ThreeDimensionalBarrier):
    """F*(z) = -log r - log(-z_0) - log z_2 with r = z_1 - z_0 - z_0 log(-z_2/z_0), and its conjugate F.

    Source: J. Dahl, E. D. Andersen, doi 10.1007/s10107-021-01631-4.
    """

    def unit(self, like: Array) -> Array:
        return unit((-1.051383945322714, 0.556409619469370, 1.258967884768947), like)  # s = z = -grad F*(z)

    def _gradient_primal(self, s: Array) -> Array:
        xp = namespace(s)
        y, z = s[..., 1], s[..., 2]
        u = _excess(s)  # Wright's omega is 1 + u
        first = 1.0 / (u * y)
        second = first * (1.0 + xp.log((1.0 + u) * y / z)) - 1.0 / y
        return xp.stack([first, second, -(1.0 + u) / (u * z)], axis=-1)

    def _dual(self, z: Array) -> tuple[Array, Array, Array]:
        """Hess F* = (grad r)(grad r)'/r^2 + N, N = w w'/(-p r) + diag(1/p^2, 0, 1/t^2), w = (1, 0, -p/t).

        C = [grad r/r, and the Cholesky factor of the 2 x 2 matrix N], with det N as a sum of positive terms.
        """
        xp = namespace(z)
        p, q, t = z[..., 0], z[..., 1], z[..., 2]
        log = xp.log(-t / p)
        r = q - p - p * log
        g = xp.stack([log / r - 1.0 / p, -1.0 / r, (p / r - 1.0) / t], axis=-1)
        curved = -1.0 / (p * r)
        n00 = curved + 1.0 / (p * p)
        c00 = xp.sqrt(n00)
        c20 = -curved * p / (t * c00)
        c22 = xp.sqrt(1.0 / (p * p) + 2.0 * curved) / (t * c00)  # det N = (1/p^2 + 2/(-p r))/t^2
        g0, g1, g2 = -log / r, 1.0 / r, -p / (t * r)
        C = matrix(((g0, c00, 0), (g1, 0, 0), (g2, c20, c22)))
        i00, i22 = 1.0 / c00, 1.0 / c22
        i20 = -c20 * i00 * i22
        inverse = matrix(((0, r, 0), (i00, -i00 * g0 * r, 0), (i20, -(i20 * g0 + i22 * g2) * r, i22)))
        return g, C, inverse

    def _third_dual(self, z: Array, u: Array, v: Array) -> Array:
        xp = namespace(z)
        p, q, t = z[..., 0], z[..., 1], z[..., 2]
        log = xp.log(-t / p)
        r = q - p - p * log
        u0, u1, u2, v0, v1, v2 = (d[..., i] for d in (u, v) for i in range(3))
        # Derivatives of r in the directions u and v: r's Hessian is [1/p, -1/t; -1/t, p/t^2] in (p, t).
        ru, rv = -log * u0 + u1 - p / t * u2, -log * v0 + v1 - p / t * v2
        ruv = u0 * v0 / p - (u0 * v2 + u2 * v0) / t + p * u2 * v2 / (t * t)
        gradient = (-log, xp.ones_like(p), -p / t)
        hu = (u0 / p - u2 / t, 0.0, -u0 / t + p * u2 / (t * t))
        hv = (v0 / p - v2 / t, 0.0, -v0 / t + p * v2 / (t * t))
        third = (
            -u0 * v0 / (p * p) + u2 * v2 / (t * t),
            0.0,
            (u0 * v2 + u2 * v0) / (t * t) - 2.0 * p * u2 * v2 / (t * t * t),
        )
        own = (-2.0 * u0 * v0 / (p * p * p), 0.0, -2.0 * u2 * v2 / (t * t * t))
        entries = zip(gradient, hu, hv, third, own, strict=True)
        return xp.stack([_minus_log(r, ru, rv, ruv, *at) + o for *at, o in entries], axis=-1)

    def centrality(self, s: Array, z: Array) -> Array:
        xp = namespace(s)
        p, q, t = z[..., 0], z[..., 1], z[..., 2]
        dual = -xp.log(-t * p) - xp.log(q - p - p * xp.log(-t / p))
        u = _excess(s)
        primal = xp.log(1.0 + u) - 2.0 * xp.log(u) - 2.0 * xp.log(s[..., 1]) - xp.log(s[..., 2]) - 3.0
        inside = (s[..., 1] > 0) & (s[..., 2] > 0) & (u > 0) & (p < 0) & (t > 0)
        return xp.where(inside, primal + dual, float("inf"))


def _minus_log(r: Array, ru: Array, rv: Array, ruv: Array, g: Array, hu: Array, hv: Array, third: Array) -> Array:
    """One entry of the third derivative of -log r in the directions u, v."""
    return -third / r + (ru * hv + rv * hu + ruv * g) / r**2 - 2.0 * ru * rv * g / r**3


def _excess(s: Array) -> Array:
    """u > 0 with u + log(1 + u) = log(z/y) - x/y: Wright's omega function minus one, accurate near the boundary u = 0.

    The left side is concave and increasing in u, so Newton's method from the left converges monotonically.
    """
    xp = namespace(s)
    w = xp.log(s[..., 2] / s[..., 1]) - s[..., 0] / s[..., 1]
    u = xp.where(w < 1.0, w / 2.0, xp.maximum(w - xp.log1p(xp.maximum(w, 0.0)), 0.4))
    for _ in range(4):
        u = u + (w - u - xp.log1p(u)) * (1.0 + u) / (2.0 + u)
    return u
