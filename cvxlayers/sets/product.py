"""Products of cones, applied group by group."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from cvxlayers.array import namespace
from cvxlayers.errors import ShapeError
from cvxlayers.sets.cone import Array, Cone, is_number
from cvxlayers.sets.exponential import Exponential
from cvxlayers.sets.nonnegative import Nonnegative
from cvxlayers.sets.positive_semidefinite import PositiveSemidefinite
from cvxlayers.sets.power import Power
from cvxlayers.sets.second_order import SecondOrder
from cvxlayers.sets.zero import Free, Zero

ORDER = (Zero, Nonnegative, SecondOrder, PositiveSemidefinite, Exponential, Power)  # of the canonical form


class GroupEigen(NamedTuple):
    """D of one group of a Product: ``count`` blocks of ``cone``, covering start : start + count * cone.size.

    ``lam`` (*batch, count, size), ``V`` (*batch, count, size, size) or None for the identity, ``margin``
    (*batch, count), as `Cone.eigen` returns them.
    """

    start: int
    count: int
    cone: Cone
    lam: np.ndarray
    V: np.ndarray | None
    margin: np.ndarray


@dataclass(frozen=True)
class Product(Cone):
    """K = K_1 x ... x K_l, the blocks one after the other; a product inside the product is spliced in.

    Equal neighbours are one *group* and one vectorized call: a thousand exponential cones cost what one batch of a
    thousand costs. Neighbouring zero, free or nonnegative blocks are one group whatever their sizes.

    >>> cone = Product((Zero(1), Nonnegative(2), Nonnegative(1)))
    >>> cone.groups
    ((Zero(d=1), 1, 0), (Nonnegative(d=3), 1, 1))
    >>> cone.project(np.array([1.0, 2.0, -3.0, 4.0]))
    array([0., 2., 0., 4.])
    """

    blocks: tuple[Cone, ...]

    def __post_init__(self) -> None:
        flat: list[Cone] = []
        for block in self.blocks:
            if not isinstance(block, Cone):
                raise ShapeError(f"blocks of a Product should be cones; got {block!r}.")
            flat += block.blocks if isinstance(block, Product) else (block,)
        object.__setattr__(self, "blocks", tuple(flat))

    @cached_property
    def size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return sum(block.size for block in self.blocks)

    @cached_property
    def groups(self) -> tuple[tuple[Cone, int, int], ...]:
        """Runs of equal blocks: (cone, count, start); a group covers entries start : start + count * cone.size."""
        out: list[tuple[Cone, int, int]] = []
        start = 0
        for block in self.blocks:
            last = out[-1] if out else None
            if last and type(last[0]) is type(block) and isinstance(block, (Zero, Free, Nonnegative)):
                out[-1] = (type(block)(last[0].size + block.size), 1, last[2])
            elif last and last[0] == block:
                out[-1] = (block, last[1] + 1, last[2])
            else:
                out.append((block, 1, start))
            start += block.size
        return tuple(out)

    @cached_property
    def linear(self) -> bool:
        """Whether every block is a zero or nonnegative cone: equalities and inequalities."""
        return all(isinstance(block, (Zero, Nonnegative)) for block in self.blocks)

    @cached_property
    def canonical(self) -> bool:
        """Whether all blocks are of the kinds in `ORDER`, and in this order, as solvers of cone programs want them."""
        kinds = [ORDER.index(type(block)) if type(block) in ORDER else -1 for block in self.blocks]
        return -1 not in kinds and kinds == sorted(kinds)

    def _over_groups(self, method: str, arrays: tuple[Array, ...], *rest: Any) -> list[Any]:
        """``cone.method(*arrays, *rest)`` of every group, the arrays cut and reshaped to (*batch, count, size)."""
        xp = namespace(*arrays)
        rest = tuple(x if x is None or is_number(x) else x[..., None] for x in rest)
        out = []
        for cone, count, start in self.groups:
            cut = (x[..., start : start + count * cone.size] for x in arrays)
            parts = (xp.reshape(x, (*x.shape[:-1], count, cone.size)) for x in cut)
            out.append(getattr(cone, method)(*parts, *rest))
        return out

    def _join(self, parts: list[Array], like: Array) -> Array:
        xp = namespace(like)
        flat = [xp.reshape(x, (*x.shape[:-2], x.shape[-2] * x.shape[-1])) for x in parts]
        return xp.concat(flat, axis=-1) if flat else xp.zeros_like(like)

    def pair(self, u: Array) -> tuple[Array, Array]:
        self._check(u)
        parts = self._over_groups("pair", (u,))
        return self._join([z for z, _ in parts], u), self._join([s for _, s in parts], u)

    def smooth(self, z: Array, s: Array, mu: float | Array) -> tuple[Array, Array]:
        self._check_smooth(z, s, mu)
        parts = self._over_groups("smooth", (z, s), mu)
        return self._join([z for z, _ in parts], z), self._join([s for _, s in parts], s)

    def derivative(self, z: Array, s: Array, h: Array, mu: float | Array = 0.0) -> Array:
        self._check(z, s, h)
        return self._join(self._over_groups("derivative", (z, s, h), mu), h)

    def dual(self) -> Product:
        return Product(tuple(block.dual() for block in self.blocks))

    def _pair(self, u: Array, mu: Any) -> tuple[Array, Array]:
        parts = self._over_groups("_pair", (u,), mu)
        return self._join([z for z, _ in parts], u), self._join([s for _, s in parts], u)

    def _derivative(self, z: Array, s: Array, h: Array, mu: Any) -> Array:
        return self._join(self._over_groups("_derivative", (z, s, h), mu), h)

    def eigen_groups(self, z: np.ndarray, s: np.ndarray, mu: float | np.ndarray = 0.0) -> list[GroupEigen]:
        """`eigen` group by group, in the order of ``groups``: what a solver should use, at the cost of the blocks."""
        parts = self._over_groups("eigen", (z, s), mu)
        return [GroupEigen(start, n, cone, *part) for (cone, n, start), part in zip(self.groups, parts, strict=True)]

    def eigen(
        self, z: np.ndarray, s: np.ndarray, mu: float | np.ndarray = 0.0
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """As of any cone, margin the least of all blocks; V is block diagonal and dense: prefer ``eigen_groups``."""
        groups = self.eigen_groups(z, s, mu)
        lam = self._join([group.lam for group in groups], z)
        margins = [group.margin.min(axis=-1, initial=1.0) for group in groups]
        margin = np.min(margins, axis=0) if margins else np.ones(z.shape[:-1], z.dtype)
        if all(group.V is None for group in groups):
            return lam, None, margin
        V = np.zeros((*z.shape, self.size), z.dtype)
        diagonal = np.arange(self.size)
        V[..., diagonal, diagonal] = 1
        for group in groups:
            if group.V is not None:
                for i in range(group.count):
                    at = slice(group.start + i * group.cone.size, group.start + (i + 1) * group.cone.size)
                    V[..., at, at] = group.V[..., i, :, :]
        return lam, V, margin
