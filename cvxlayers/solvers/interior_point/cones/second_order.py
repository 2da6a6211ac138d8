"""The second-order cone."""

from __future__ import annotations

from typing import Any

from cvxlayers.array import namespace
from cvxlayers.solvers.interior_point.cones.barrier import Barrier, inverse

Array = Any


class SecondOrderBarrier(Barrier):
    """F(s) = -log(s_0^2 - ||s_1||^2)/2, with the Nesterov-Todd scaling.

    With J = diag(1, -I), w = (s/|s| + J z/|z|)/(2 gamma) for |s|^2 = s'Js, gamma^2 = (1 + s'z/(|s||z|))/2 and
    eta^2 = |s|/|z|: W = eta [w_0, w_1'; w_1, I + w_1 w_1'/(1 + w_0)] and H = W^2 = eta^2 (2 w w' - J).

    Source: L. Vandenberghe, The CVXOPT linear and quadratic cone program solvers, section 4.
    """

    degree = 1

    def __init__(self, size: int) -> None:
        self.size = size

    def unit(self, like: Array) -> Array:
        xp = namespace(like)
        zero = xp.zeros_like(like[..., : self.size])
        return xp.concat([zero[..., :1] + 1.0, zero[..., 1:]], axis=-1)

    def scaling(self, s: Array, z: Array) -> tuple[Array, ...]:
        xp = namespace(s)
        length_s, length_z = _length(s), _length(z)
        s, z = s / length_s, z / length_z
        gamma = xp.sqrt((1.0 + xp.sum(s * z, axis=-1, keepdims=True)) / 2.0)
        first = (s[..., :1] + z[..., :1]) / (2.0 * gamma)
        rest = (s[..., 1:] - z[..., 1:]) / (2.0 * gamma)
        # w_0 from w'Jw = 1 has no cancellation.
        first = xp.maximum(first, xp.sqrt(1.0 + xp.sum(rest * rest, axis=-1, keepdims=True)))
        w = xp.concat([first, rest], axis=-1)[..., None]
        eta = xp.sqrt(length_s / length_z)[..., None]
        return w, eta

    def scale(self, W: tuple[Array, ...], V: Array) -> Array:
        w, eta = W
        return _boost(w, V, -1.0) / eta

    scale_back = scale

    def times_H(self, W: tuple[Array, ...], V: Array) -> Array:
        xp = namespace(V)
        w, eta = W
        along = 2.0 * xp.sum(w * V, axis=-2, keepdims=True)
        return eta * eta * (w * along + xp.concat([-V[..., :1, :], V[..., 1:, :]], axis=-2))

    def corrector(self, W: tuple[Array, ...], s: Array, z: Array, ds: Array, dz: Array, mu: Array) -> Array:
        xp = namespace(s)
        w, eta = W
        lam = (_boost(w, z[..., None], 1.0) * eta)[..., 0]
        a, b = (_boost(w, ds[..., None], -1.0) / eta)[..., 0], (_boost(w, dz[..., None], 1.0) * eta)[..., 0]
        first = xp.sum(a * b, axis=-1, keepdims=True) - mu
        rest = a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:]
        # lam o x = (first, rest)
        x = (lam[..., :1] * first - xp.sum(lam[..., 1:] * rest, axis=-1, keepdims=True)) / _length(lam) ** 2
        inner = xp.concat([x, (rest - x * lam[..., 1:]) / lam[..., :1]], axis=-1)
        return s + (_boost(w, inner[..., None], 1.0) * eta)[..., 0]

    def step(self, W: tuple[Array, ...], s: Array, z: Array, ds: Array, dz: Array) -> Array:
        xp = namespace(s)
        return inverse(xp.maximum(_used(s, ds), _used(z, dz)))

    def depth(self, v: Array) -> Array:
        xp = namespace(v)
        return v[..., 0] - xp.sqrt(xp.sum(v[..., 1:] * v[..., 1:], axis=-1))

    def centrality(self, s: Array, z: Array) -> Array:
        xp = namespace(s)
        return -xp.log(_length(s)[..., 0]) - xp.log(_length(z)[..., 0])


def _length(v: Array) -> Array:
    """sqrt(v'Jv), (*batch, count, 1)."""
    xp = namespace(v)
    norm = xp.sqrt(xp.sum(v[..., 1:] * v[..., 1:], axis=-1, keepdims=True))
    return xp.sqrt((v[..., :1] - norm) * (v[..., :1] + norm))


def _boost(w: Array, V: Array, sign: float) -> Array:
    """[w_0, sign w_1'; sign w_1, I + w_1 w_1'/(1 + w_0)] V."""
    xp = namespace(V)
    first, rest = w[..., :1, :], sign * w[..., 1:, :]
    inner = xp.sum(rest * V[..., 1:, :], axis=-2, keepdims=True)
    top = first * V[..., :1, :] + inner
    return xp.concat([top, V[..., 1:, :] + rest * (V[..., :1, :] + inner / (1.0 + first))], axis=-2)


def _used(v: Array, dv: Array) -> Array:
    """1/step to the boundary: -(least eigenvalue) of dv in the frame in which v is the unit."""
    xp = namespace(v)
    length = _length(v)
    u = v / length
    along = u[..., :1] * dv[..., :1] - xp.sum(u[..., 1:] * dv[..., 1:], axis=-1, keepdims=True)
    rest = dv[..., 1:] - (along + dv[..., :1]) / (u[..., :1] + 1.0) * u[..., 1:]
    return (xp.sqrt(xp.sum(rest * rest, axis=-1)) - along[..., 0]) / length[..., 0]
