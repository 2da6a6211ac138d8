"""The barriers of a product of cones, applied group by group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from cvxlayers.array import namespace
from cvxlayers.sets import (
    Cone,
    Exponential,
    Nonnegative,
    PositiveSemidefinite,
    Power,
    Product,
    SecondOrder,
    Zero,
)
from cvxlayers.solvers.interior_point.cones.barrier import Barrier
from cvxlayers.solvers.interior_point.cones.exponential import ExponentialBarrier
from cvxlayers.solvers.interior_point.cones.nonnegative import NonnegativeBarrier
from cvxlayers.solvers.interior_point.cones.power import PowerBarrier
from cvxlayers.solvers.interior_point.cones.second_order import SecondOrderBarrier
from cvxlayers.solvers.interior_point.cones.semidefinite import SemidefiniteBarrier
from cvxlayers.solvers.interior_point.cones.zero import ZeroBarrier

Array = Any

_BARRIERS: dict[type[Cone], Callable[[Any], Barrier]] = {
    Zero: lambda cone: ZeroBarrier(cone.size),
    Nonnegative: lambda cone: NonnegativeBarrier(cone.size),
    SecondOrder: lambda cone: SecondOrderBarrier(cone.size),
    PositiveSemidefinite: SemidefiniteBarrier,
    Exponential: lambda cone: ExponentialBarrier(),
    Power: lambda cone: PowerBarrier(cone.alpha),
}


class Group(NamedTuple):
    """``count`` equal cones, in rows start : stop."""

    barrier: Barrier
    count: int
    start: int
    stop: int


class ProductBarrier:
    """The barrier of K = K_1 x ... x K_l. The zero cone leads: its ``equalities`` rows have no barrier.

    Vectors are (*batch, m); everything but ``times_H`` and the vectors' parts in the zero cone concerns the other rows.
    """

    def __init__(self, cone: Product) -> None:
        groups = [
            Group(_BARRIERS[type(block)](block), count, start, start + count * block.size)
            for block, count, start in cone.groups
            if block.size
        ]
        self.cone, self.m = cone, cone.size
        self.equalities = sum(g.stop - g.start for g in groups if isinstance(g.barrier, ZeroBarrier))
        self.groups = tuple(g for g in groups if not isinstance(g.barrier, ZeroBarrier))
        self.degree = sum(g.barrier.degree * g.count for g in self.groups)
        self.symmetric = all(g.barrier.symmetric for g in self.groups)

    def cut(self, v: Array) -> list[Array]:
        """Vectors (*batch, m) to one (*batch, count, size) for each group."""
        xp = namespace(v)
        return [xp.reshape(v[..., g.start : g.stop], (*v.shape[:-1], g.count, g.barrier.size)) for g in self.groups]

    def cut_rows(self, V: Array) -> list[Array]:
        """Matrices (*batch, m - equalities, k) to one (*batch, count, size, k) for each group."""
        xp, p = namespace(V), self.equalities
        return [
            xp.reshape(V[..., g.start - p : g.stop - p, :], (*V.shape[:-2], g.count, g.barrier.size, V.shape[-1]))
            for g in self.groups
        ]

    def join(self, parts: list[Array], like: Array) -> Array:
        """One (*batch, count, size) for each group to (*batch, m), zero in the rows of equalities."""
        xp = namespace(like)
        flat = [xp.reshape(v, (*v.shape[:-2], v.shape[-2] * v.shape[-1])) for v in parts]
        if self.equalities:
            flat.insert(0, xp.zeros_like(like[..., : self.equalities]))
        return xp.concat(flat, axis=-1) if len(flat) != 1 else flat[0]

    def join_rows(self, parts: list[Array]) -> Array:
        flat = [v.reshape((*v.shape[:-3], v.shape[-3] * v.shape[-2], v.shape[-1])) for v in parts]
        return namespace(flat[0]).concat(flat, axis=-2) if len(flat) != 1 else flat[0]

    def unit(self, like: Array) -> Array:
        """e in every group, for vectors like (*batch, m)."""
        xp = namespace(like)
        parts = [xp.broadcast_to(g.barrier.unit(v), v.shape) for g, v in zip(self.groups, self.cut(like), strict=True)]
        return self.join(parts, like)

    def scaling(self, s: Array, z: Array) -> list[tuple[Array, ...]]:
        return [g.barrier.scaling(*pair) for g, *pair in zip(self.groups, self.cut(s), self.cut(z), strict=True)]

    def scale(self, W: list, V: Array) -> Array:
        """W^-T V for V (*batch, m - equalities, k)."""
        return self.join_rows([g.barrier.scale(w, v) for g, w, v in zip(self.groups, W, self.cut_rows(V), strict=True)])

    def scale_back(self, W: list, V: Array) -> Array:
        return self.join_rows(
            [g.barrier.scale_back(w, v) for g, w, v in zip(self.groups, W, self.cut_rows(V), strict=True)]
        )

    def times_H(self, W: list, V: Array) -> Array:
        """H V for V (*batch, m, k), zero in the rows of equalities."""
        xp, p = namespace(V), self.equalities
        if not self.groups:
            return xp.zeros_like(V)
        rows = self.join_rows(
            [g.barrier.times_H(w, v) for g, w, v in zip(self.groups, W, self.cut_rows(V[..., p:, :]), strict=True)]
        )
        return xp.concat([xp.zeros_like(V[..., :p, :]), rows], axis=-2) if p else rows

    def corrector(self, W: list, s: Array, z: Array, ds: Array, dz: Array, mu: Array) -> Array:
        parts = zip(self.groups, W, self.cut(s), self.cut(z), self.cut(ds), self.cut(dz), strict=True)
        return self.join([g.barrier.corrector(w, *v, mu[..., None]) for g, w, *v in parts], s)

    def step(self, W: list, s: Array, z: Array, ds: Array, dz: Array) -> Array:
        """The longest step of the cones that know it, (*batch, 1)."""
        xp = namespace(s)
        longest = xp.zeros_like(s[..., :1]) + float("inf") if s.shape[-1] else None
        parts = zip(self.groups, W, self.cut(s), self.cut(z), self.cut(ds), self.cut(dz), strict=True)
        for g, w, *v in parts:
            longest = xp.minimum(longest, xp.min(g.barrier.step(w, *v), axis=-1, keepdims=True))
        return longest

    def depth(self, v: Array) -> Array:
        """The least depth of all cones, (*batch, 1)."""
        xp = namespace(v)
        least = None
        for g, part in zip(self.groups, self.cut(v), strict=True):
            depth = xp.min(g.barrier.depth(part), axis=-1, keepdims=True)
            least = depth if least is None else xp.minimum(least, depth)
        return least

    def centrality(self, s: Array, z: Array) -> Array:
        """F(s) + F*(z), (*batch, 1)."""
        xp = namespace(s)
        total = 0.0
        for g, *v in zip(self.groups, self.cut(s), self.cut(z), strict=True):
            total = total + xp.sum(g.barrier.centrality(*v), axis=-1, keepdims=True)
        return total
