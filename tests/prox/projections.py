"""The sets that the tests go through: an operator, the shape of a point, and the definition of the set for CVXPY."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import cvxpy as cp
import numpy as np

from cvxlayers.prox.affine import AffineSet, Halfspace, Hyperplane, Slab
from cvxlayers.prox.balls import L1Ball, L1Sphere, L2Ball, L2Sphere
from cvxlayers.prox.box import Box, LInfinityBall, Orthant
from cvxlayers.prox.epigraph import NormEpigraph
from cvxlayers.prox.operator import Prox
from cvxlayers.prox.polyhedron import Polyhedron
from cvxlayers.prox.simplex import CappedSimplex, Simplex, SparseSimplex
from cvxlayers.prox.sparse import GroupL0Ball, L0Ball
from cvxlayers.prox.spectral_functions import Eigenvalues, SingularValues
from cvxlayers.prox.spectral_sets import NuclearBall, RankBall, SpectralBall, Stiefel
from cvxlayers.prox.transport import TransportPolytope


class Case(NamedTuple):
    """A set: ``make(*parameters)`` is the operator, ``constraints(x)`` its definition, None where it is not convex."""

    name: str
    make: Callable[..., Prox]
    shape: tuple[int, ...]
    constraints: Callable[[Any], list] | None
    parameters: tuple = ()
    bounded: bool = True
    complex: bool = False
    iterative: bool = False

    @property
    def operator(self) -> Prox:
        return self.make(*self.parameters)


NORMAL = np.array([1.0, -2.0, 0.5, 0.3])
WEIGHTS = np.array([1.0, 0.5, 2.0, 0.7])
A = np.array([[1.0, 2.0, -1.0, 0.5], [0.0, 1.0, 1.0, -1.0]])
B = np.array([0.5, -0.2])
G = np.concatenate([np.eye(4), -np.eye(4), [[1.0, 1.0, 0.3, -0.4]]])
H = np.array([0.3, 0.5, 0.4, 0.2, 0.3, 0.5, 0.4, 0.2, 0.35])
SUMS = np.array([0.2, 0.5, 0.3])

VECTORS = [
    Case("box", Box, (4,), lambda x: [x >= -0.5, x <= 0.3], (-0.5, 0.3)),
    Case("box per entry", Box, (4,), lambda x: [x >= -WEIGHTS, x <= WEIGHTS / 2], (-WEIGHTS, WEIGHTS / 2)),
    Case("orthant", Orthant, (4,), lambda x: [x >= 0], bounded=False),
    Case("nonpositive", lambda: Orthant(-1), (4,), lambda x: [x <= 0], bounded=False),
    Case("infinity ball", LInfinityBall, (4,), lambda x: [cp.norm_inf(x) <= 0.7], (0.7,), complex=True),
    Case("L1 ball", L1Ball, (4,), lambda x: [cp.norm1(x) <= 0.8], (0.8,), complex=True),
    Case(
        "weighted L1 ball",
        L1Ball,
        (4,),
        lambda x: [cp.norm1(cp.multiply(WEIGHTS, x)) <= 0.8],
        (0.8, WEIGHTS),
        complex=True,
    ),
    Case("L2 ball", L2Ball, (4,), lambda x: [cp.norm2(x) <= 0.9], (0.9,), complex=True),
    Case("simplex", Simplex, (4,), lambda x: [x >= 0, cp.sum(x) == 1.3], (1.3,)),
    Case("capped simplex", CappedSimplex, (4,), lambda x: [x >= 0, x <= 0.6, cp.sum(x) == 1.5], (1.5, 0.6)),
    Case(
        "capped simplex, a cap per entry",
        CappedSimplex,
        (4,),
        lambda x: [x >= 0, x <= WEIGHTS, cp.sum(x) == 1.5],
        (1.5, WEIGHTS),
    ),
    Case("hyperplane", Hyperplane, (4,), lambda x: [NORMAL @ x == 0.4], (NORMAL, 0.4), bounded=False),
    Case("halfspace", Halfspace, (4,), lambda x: [NORMAL @ x <= -0.4], (NORMAL, -0.4), bounded=False),
    Case("slab", Slab, (4,), lambda x: [NORMAL @ x <= 0.2, NORMAL @ x >= -0.1], (NORMAL, -0.1, 0.2), bounded=False),
    Case("affine set", AffineSet, (4,), lambda x: [A @ x == B], (A, B), bounded=False),
    Case("affine set, factored", lambda: AffineSet(A, B).factor(), (4,), lambda x: [A @ x == B], bounded=False),
    Case("L1 epigraph", lambda: NormEpigraph("l1"), (4,), lambda x: [cp.norm1(x[1:]) <= x[0]], bounded=False),
    Case("L2 epigraph", lambda: NormEpigraph("l2"), (4,), lambda x: [cp.norm2(x[1:]) <= x[0]], bounded=False),
    Case(
        "infinity epigraph", lambda: NormEpigraph("linf"), (4,), lambda x: [cp.norm_inf(x[1:]) <= x[0]], bounded=False
    ),
    Case(
        "polyhedron",
        Polyhedron,
        (4,),
        lambda x: [G @ x <= H, A @ x == B],
        (G, H, A, B),
        iterative=True,
    ),
    Case("L1 sphere", L1Sphere, (4,), None, (1.1,), complex=True),
    Case("L2 sphere", L2Sphere, (4,), None, (1.1,), complex=True),
    Case("L0 ball", lambda: L0Ball(2), (4,), None, bounded=False, complex=True),
    Case("sparse simplex", lambda radius: SparseSimplex(2, radius), (4,), None, (1.3,)),
    Case("group L0 ball", lambda: GroupL0Ball(1), (3, 2), None, bounded=False, complex=True),
]

MATRICES = [
    Case("Frobenius ball", lambda r: L2Ball(r, dim=(-2, -1)), (3, 2), lambda x: [cp.norm(x, "fro") <= 0.9], (0.9,)),
    Case("nuclear ball", NuclearBall, (3, 2), lambda x: [cp.normNuc(x) <= 1.1], (1.1,), complex=True),
    Case("spectral ball", SpectralBall, (2, 3), lambda x: [cp.sigma_max(x) <= 0.8], (0.8,), complex=True),
    Case(
        "nuclear ball of vectors", lambda r: SingularValues(L1Ball(r)), (2, 2), lambda x: [cp.normNuc(x) <= 1.1], (1.1,)
    ),
    Case("semidefinite", lambda: Eigenvalues(Orthant()), (3, 3), lambda x: [x >> 0], bounded=False, complex=True),
    Case("density", lambda: Eigenvalues(Simplex()), (3, 3), lambda x: [x >> 0, cp.trace(x) == 1], complex=True),
    Case(
        "transport",
        lambda sums: TransportPolytope(sums, sums),
        (3, 3),
        lambda x: [x >= 0, cp.sum(x, axis=0) == SUMS, cp.sum(x, axis=1) == SUMS],
        (SUMS,),
        iterative=True,
    ),
    Case("rank", lambda: RankBall(1), (3, 2), None, bounded=False, complex=True),
    Case("Stiefel", Stiefel, (3, 2), None, complex=True),
]

CASES = VECTORS + MATRICES


def points(case: Case, count: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Ordinary random points, of different lengths."""
    rng = np.random.default_rng(seed)
    lengths = scale * rng.uniform(0.1, 3, (count, *(1,) * len(case.shape)))
    return lengths * rng.standard_normal((count, *case.shape))
