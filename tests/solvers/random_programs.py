"""Random cone programs whose outcome is known by construction: solutions, certificates, and hard but solvable cases.

minimize (1/2) x'Px + q'x subject to Ax + s = b, s in K; dense matrices, the batch leads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cvxlayers.sets import Cone, Exponential, Nonnegative, PositiveSemidefinite, Power, Product, SecondOrder, Zero
from cvxlayers.status import Status
from tests.solvers.problems import interior

CONES: dict[str, tuple[Cone, ...]] = {
    "zero": (Zero(3),),
    "nonnegative": (Nonnegative(7),),
    "linear": (Zero(2), Nonnegative(6)),
    "second_order": (SecondOrder(4), SecondOrder(4), SecondOrder(3), SecondOrder(2)),
    "semidefinite": (Zero(1), PositiveSemidefinite(3), PositiveSemidefinite(2)),
    "exponential": (Nonnegative(1), Exponential(), Exponential()),
    "power": (Zero(1), Power(0.3), Power(0.5), Power(0.9)),
    "everything": (
        Zero(1),
        Nonnegative(2),
        SecondOrder(3),
        PositiveSemidefinite(2),
        PositiveSemidefinite(3),
        Exponential(),
        Power(0.7),
    ),
}


@dataclass(frozen=True, eq=False)
class Programs:
    """A batch of programs with one outcome.

    ``outcome`` is SOLVED, INFEASIBLE or UNBOUNDED. ``value`` (batch,) is the optimal value where the construction
    tells it. ``hard`` says that a solution may be INACCURATE, and that a certificate may not be found.
    """

    name: str
    cone: Product
    P: np.ndarray
    q: np.ndarray
    A: np.ndarray
    b: np.ndarray
    outcome: Status = Status.SOLVED
    value: np.ndarray | None = None
    hard: bool = False

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self.P, self.q, self.A, self.b

    @property
    def batch(self) -> int:
        return len(self.q)

    @property
    def n(self) -> int:
        return self.q.shape[-1]

    def take(self, elements) -> Programs:
        """Some elements, by index."""
        value = None if self.value is None else self.value[elements]
        return replace(
            self, P=self.P[elements], q=self.q[elements], A=self.A[elements], b=self.b[elements], value=value
        )


def random_cone(rng: np.random.Generator, blocks: int = 3) -> Product:
    """Up to some blocks of every kind but one that is left out, in the canonical order."""
    kinds: list[Callable[[], Cone]] = [
        lambda: SecondOrder(int(rng.integers(2, 7))),
        lambda: PositiveSemidefinite(int(rng.integers(1, 5))),
        lambda: Exponential(),
        lambda: Power(float(rng.choice([0.1, 0.25, 0.5, 0.7]))),
    ]
    chosen: list[Cone] = [Zero(int(rng.integers(1, 4)))] * int(rng.random() < 0.5)
    chosen += [Nonnegative(int(rng.integers(1, 8)))] * int(rng.random() < 0.7)
    for make in kinds:
        chosen += [make() for _ in range(int(rng.integers(0, blocks)) * int(rng.random() < 0.5))]
    return Product(tuple(chosen or [Nonnegative(5)]))


def points(cone: Product, batch: int, rng: np.random.Generator, dual: bool = False) -> np.ndarray:
    """Points inside K, or inside K*."""
    rows = [np.concatenate([interior(block, rng, dual) for block in cone.blocks]) for _ in range(batch)]
    return np.stack(rows) if rows else np.zeros((0, cone.size))


def strict(cone: Product, n: int, batch: int, seed: int, quadratic: bool | str = True) -> Programs:
    """Slater's condition holds on both sides: a point inside K, and one inside K*. P is definite, singular or zero."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((batch, cone.size, n))
    P = _semidefinite(rng, batch, n, n if quadratic is True else n // 2 if quadratic else 0)
    x, s, z = rng.standard_normal((batch, n)), points(cone, batch, rng), points(cone, batch, rng, dual=True)
    kind = {True: "strict", False: "linear objective"}.get(quadratic, "singular P")
    return Programs(kind, cone, P, -_times(P, x) - _times(A.mT, z), A, _times(A, x) + s)


def known(cone: Product, n: int, batch: int, seed: int, quadratic: bool | str = True) -> Programs:
    """Programs with a known solution: a complementary pair of boundary points (Moreau), hence a known value."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((batch, cone.size, n))
    P = _semidefinite(rng, batch, n, n if quadratic is True else n // 2 if quadratic else 0)
    x = rng.standard_normal((batch, n))
    z, s = cone.pair(rng.standard_normal((batch, cone.size)))
    q = -_times(P, x) - _times(A.mT, z)
    value = 0.5 * np.vecdot(x, _times(P, x)) + np.vecdot(q, x)
    return Programs("known solution", cone, P, q, A, _times(A, x) + s, value=value)


def degenerate(cone: Product, n: int, batch: int, seed: int) -> Programs:
    """As `known`, but many blocks have s = z = 0 or one of them at the tip: no strict complementarity."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((batch, cone.size, n))
    P, x = _semidefinite(rng, batch, n, n), rng.standard_normal((batch, n))
    u, start = rng.standard_normal((batch, cone.size)), 0
    for block in cone.blocks:
        step = 1 if isinstance(block, (Zero, Nonnegative)) else block.size
        for k in range(start, start + block.size, step):
            u[rng.random(batch) < 0.4, k : k + step] = 0.0
        start += block.size
    z, s = cone.pair(u)
    q = -_times(P, x) - _times(A.mT, z)
    value = 0.5 * np.vecdot(x, _times(P, x)) + np.vecdot(q, x)
    return Programs("degenerate", cone, P, q, A, _times(A, x) + s, value=value, hard=True)


def redundant(cone: Product, n: int, batch: int, seed: int) -> Programs:
    """Equalities and inequalities are there twice, and a sum of the equalities besides."""
    base = strict(cone, n, batch, seed)
    blocks, A, b, start = [], [], [], 0
    for block in cone.blocks:
        rows = slice(start, start + block.size)
        start += block.size
        parts = [(base.A[:, rows], base.b[:, rows])]
        if isinstance(block, (Zero, Nonnegative)):
            parts *= 2
        if isinstance(block, Zero):
            parts.append((parts[0][0].sum(1, keepdims=True), parts[0][1].sum(1, keepdims=True)))
        A += [part for part, _ in parts]
        b += [part for _, part in parts]
        size = sum(part.shape[1] for _, part in parts)
        blocks.append(type(block)(size) if isinstance(block, (Zero, Nonnegative)) else block)
    A, b = np.concatenate(A, 1), np.concatenate(b, 1)
    return Programs("redundant rows", Product(tuple(blocks)), base.P, base.q, A, b)


def scaled(cone: Product, n: int, batch: int, seed: int, spread: float = 6.0) -> Programs:
    """`strict`, each block of rows and each variable in units of its own: factors over ``spread`` powers of ten."""
    base = strict(cone, n, batch, seed)
    rng = np.random.default_rng(seed + 1)
    rows = np.ones((batch, cone.size))
    start = 0
    for block in cone.blocks:
        alone = isinstance(block, (Zero, Nonnegative))
        rows[:, start : start + block.size] = 10.0 ** rng.uniform(
            -spread / 2, spread / 2, (batch, block.size if alone else 1)
        )
        start += block.size
    columns = 10.0 ** rng.uniform(-spread / 2, spread / 2, (batch, n))
    cost = 10.0 ** rng.uniform(-spread / 2, spread / 2, (batch, 1))
    P = base.P * columns[:, :, None] * columns[:, None, :] * cost[..., None]
    A = base.A * rows[..., None] * columns[:, None, :]
    return Programs("scaled badly", cone, P, base.q * columns * cost, A, base.b * rows, hard=True)


def infeasible(
    cone: Product, n: int, batch: int, seed: int, quadratic: bool = True, boundary: bool = False
) -> Programs:
    """A z in K* with A'z = 0 and b'z = -1, inside K* or on its boundary; the dual has points."""
    rng = np.random.default_rng(seed)
    base = strict(cone, n, batch, seed, quadratic)
    z = points(cone, batch, rng, dual=True)
    if boundary:
        z = np.stack([_boundary(cone, rng) for _ in range(batch)])
    square = np.vecdot(z, z)
    A = _clean(base.A - z[..., None] * (_times(base.A.mT, z) / square[:, None])[:, None, :])
    b = base.b - z * ((np.vecdot(base.b, z) + 1.0) / square)[:, None]
    q = -_times(base.P, rng.standard_normal((batch, n))) - _times(A.mT, points(cone, batch, rng, dual=True))
    name = "infeasible" + (", certificate on the boundary" if boundary else "")
    return Programs(name, cone, base.P, q, A, b, Status.INFEASIBLE, hard=boundary)


def unbounded(cone: Product, n: int, batch: int, seed: int, quadratic: bool = True, boundary: bool = False) -> Programs:
    """A feasible program with a ray: Px = 0, q'x = -1, Ax + s = 0, s inside K or on its boundary."""
    rng = np.random.default_rng(seed)
    ray = rng.standard_normal((batch, n))
    square = np.vecdot(ray, ray)
    A, P = rng.standard_normal((batch, cone.size, n)), _semidefinite(rng, batch, n, n if quadratic else 0)
    s = np.stack([_boundary(cone, rng, dual=False) for _ in range(batch)]) if boundary else points(cone, batch, rng)
    A = _clean(A - (_times(A, ray) + s)[..., None] * (ray / square[:, None])[:, None, :])
    off = np.eye(n) - ray[:, :, None] * (ray / square[:, None])[:, None, :]
    P = off @ P @ off
    P = _clean(0.5 * (P + P.mT))
    q = rng.standard_normal((batch, n))
    q = q - ray * ((np.vecdot(q, ray) + 1.0) / square)[:, None]
    b = _times(A, rng.standard_normal((batch, n))) + points(cone, batch, rng)
    name = "unbounded" + (", ray on the boundary" if boundary else "")
    return Programs(name, cone, P, q, A, b, Status.UNBOUNDED, hard=boundary)


def faces() -> list[Programs]:
    """Programs with a proof on a face alone: zero rows that contradict b, and directions that meet nothing."""
    both, one, none = np.eye(2), np.ones(2), np.zeros((1, 2))
    rows, free = np.concatenate([none, both]), np.diag([1.0, 0.0, 2.0])
    drawn: list[tuple[tuple[Cone, ...], np.ndarray, np.ndarray, np.ndarray, list[float]]] = [
        ((Nonnegative(3),), both, one, rows, [-1.0, 1.0, 1.0]),
        ((Nonnegative(3),), both, one, rows, [-1e-3, 1.0, 1.0]),
        ((Nonnegative(3),), both, one, rows, [-1e5, 1.0, 1.0]),
        ((Nonnegative(1),), 0 * both, 0 * one, none, [-1.0]),
        ((Zero(1), Nonnegative(2)), both, one, rows, [1.0, 1.0, 1.0]),
        (
            (Nonnegative(2), SecondOrder(3)),
            both,
            one,
            np.concatenate([both, np.zeros((3, 2))]),
            [1.0, 1.0, 1.0, 2.0, 0.0],
        ),
        ((Nonnegative(1),), both * [1.0, 0.0], np.array([1.0, -1.0]), both[:1], [1.0]),
        ((Nonnegative(1),), np.zeros((1, 1)), -one[:1], none[:, :1], [1.0]),
        ((Nonnegative(2),), free, np.array([1.0, -1.0, 1.0]), np.eye(3)[[1, 0]] * [1.0, 0.0, 1.0], [1.0, 1.0]),
        ((SecondOrder(3),), free, np.array([1.0, -1.0, 1.0]), free, [2.0, 0.0, 0.0]),
    ]
    outcomes = [Status.INFEASIBLE] * 6 + [Status.UNBOUNDED] * 4
    return [
        Programs("on a face", Product(cone), P[None], q[None], A[None], np.array([b]), outcome)
        for (cone, P, q, A, b), outcome in zip(drawn, outcomes, strict=True)
    ]


def families(cone: Product, n: int, batch: int, seed: int) -> list[Programs]:
    """One batch of every kind that the cone allows."""
    curved = any(not isinstance(block, Zero) for block in cone.blocks)
    found = [
        strict(cone, n, batch, seed),
        strict(cone, n, batch, seed + 1, "singular"),
        scaled(cone, n, batch, seed + 2),
    ]
    found += [
        known(cone, n, batch, seed + 3),
        degenerate(cone, n, batch, seed + 4),
        redundant(cone, n, batch, seed + 5),
    ]
    found += [infeasible(cone, n, batch, seed + 6), unbounded(cone, n, batch, seed + 7)]
    if curved:
        found += [strict(cone, n, batch, seed + 8, False)]
        found += [infeasible(cone, n, batch, seed + 9, False), unbounded(cone, n, batch, seed + 10, False)]
        found += [infeasible(cone, n, batch, seed + 11, True, True), unbounded(cone, n, batch, seed + 12, True, True)]
    return found


def _times(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return (matrix @ vector[..., None])[..., 0]


def _semidefinite(rng: np.random.Generator, batch: int, n: int, rank: int) -> np.ndarray:
    """Positive semidefinite matrices of a rank, well conditioned but for that."""
    root = rng.standard_normal((batch, n, rank))
    shift = 0.1 * np.eye(n) if rank == n else 0.0
    return root @ root.mT / max(n, 1) + (shift if rank else 0.0)


def _clean(matrix: np.ndarray) -> np.ndarray:
    """Zeros in place of rounding errors, which would be data of another problem."""
    return np.where(np.abs(matrix) < 1e-13, 0.0, matrix)


def _boundary(cone: Product, rng: np.random.Generator, dual: bool = True) -> np.ndarray:
    """A nonzero point of K* (or K), every block on the boundary where it can be."""
    while True:
        z, s = cone.pair(2.0 * rng.standard_normal(cone.size))
        found = z if dual else s
        if np.linalg.norm(found) > 0.3:
            return found
