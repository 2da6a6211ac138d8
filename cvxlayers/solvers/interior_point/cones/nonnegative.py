"""The nonnegative orthant."""

from __future__ import annotations

from typing import Any

from cvxlayers.array import namespace
from cvxlayers.solvers.interior_point.cones.barrier import Barrier, inverse

Array = Any

# Added to H where it is factored: with larger weights, P would be lost beside A'H^-1 A. Refinement takes it out again.
LEAST = 1e-11


class NonnegativeBarrier(Barrier):
    """F(s) = -sum log s_i, W = diag(sqrt(s/z))."""

    def __init__(self, size: int) -> None:
        self.size = self.degree = size

    def unit(self, like: Array) -> Array:
        return namespace(like).zeros_like(like[..., : self.size]) + 1.0

    def scaling(self, s: Array, z: Array) -> tuple[Array, ...]:
        xp, ratio = namespace(s), s / z
        bound = LEAST if s.dtype == xp.float64 else 0.0
        return ratio[..., None], 1.0 / xp.sqrt(ratio + bound)[..., None]

    def scale(self, W: tuple[Array, ...], V: Array) -> Array:
        return W[1] * V

    scale_back = scale

    def times_H(self, W: tuple[Array, ...], V: Array) -> Array:
        return W[0] * V

    def corrector(self, W: tuple[Array, ...], s: Array, z: Array, ds: Array, dz: Array, mu: Array) -> Array:
        return s + (ds * dz - mu) / z

    def step(self, W: tuple[Array, ...], s: Array, z: Array, ds: Array, dz: Array) -> Array:
        xp = namespace(s)
        return inverse(xp.maximum(xp.max(-ds / s, axis=-1), xp.max(-dz / z, axis=-1)))

    def depth(self, v: Array) -> Array:
        return namespace(v).min(v, axis=-1)

    def centrality(self, s: Array, z: Array) -> Array:
        xp = namespace(s)
        return -xp.sum(xp.log(s) + xp.log(z), axis=-1)
