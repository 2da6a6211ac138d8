"""The zero cone: equalities, which have no barrier."""

from __future__ import annotations

from typing import Any

from cvxlayers.array import namespace
from cvxlayers.solvers.interior_point.cones.barrier import Barrier

Array = Any


class ZeroBarrier(Barrier):
    """s = 0 and z free: H = 0. Its rows go to the Newton system as equalities, so there is nothing to scale."""

    degree = 0

    def __init__(self, size: int) -> None:
        self.size = size

    def unit(self, like: Array) -> Array:
        return namespace(like).zeros_like(like[..., : self.size])

    def scaling(self, s: Array, z: Array) -> tuple[Array, ...]:
        return ()

    def scale(self, W: tuple[Array, ...], V: Array) -> Array:
        raise NotImplementedError

    scale_back = scale

    def times_H(self, W: tuple[Array, ...], V: Array) -> Array:
        return namespace(V).zeros_like(V)

    def corrector(self, W: tuple[Array, ...], s: Array, z: Array, ds: Array, dz: Array, mu: Array) -> Array:
        return namespace(s).zeros_like(s)

    def step(self, W: tuple[Array, ...], s: Array, z: Array, ds: Array, dz: Array) -> Array:
        return namespace(s).zeros_like(s[..., 0]) + float("inf")

    depth = None  # pyright: ignore[reportAssignmentType]

    def centrality(self, s: Array, z: Array) -> Array:
        return namespace(s).zeros_like(s[..., 0])
