"""The compiled projection on a product of cones and its derivative, against the cones of `cvxlayers.sets`."""

import numpy as np
import pytest

pytest.importorskip("numba")

from cvxlayers.compiled.newton_system import workspace
from cvxlayers.compiled.projection import decompose, project, times_derivative, times_T
from cvxlayers.conic.structure import Structure
from cvxlayers.sets import Exponential, Nonnegative, PositiveSemidefinite, Power, Product, SecondOrder, Zero
from tests.solvers.problems import dense_program

CONE = Product(
    (
        *(Zero(2), Nonnegative(4), SecondOrder(1), SecondOrder(2), SecondOrder(5)),
        *(PositiveSemidefinite(1), PositiveSemidefinite(2), PositiveSemidefinite(4)),
        *(Exponential(), Exponential(), Power(0.3), Power(0.5)),
    )
)


def state():
    """The state of the cones inside a kernel."""
    return workspace(Structure(dense_program(CONE.blocks, 3)).arrays)[1]


def points(count: int, seed: int):
    """u of many scales: even, uneven, and with zeros."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        u = 10.0 ** rng.uniform(-4, 4) * rng.standard_normal(CONE.size)
        if k % 3 == 1:
            u *= 10.0 ** rng.uniform(-3, 3, CONE.size)
        elif k % 3 == 2:
            u *= rng.integers(0, 2, CONE.size)
        yield u, rng


def by_block(v):
    start = 0
    for block in CONE.blocks:
        yield block, v[start : start + block.size]
        start += block.size


def test_pairs_are_projections():
    C = state()
    for u, rng in points(300, 0):
        z, s = rng.standard_normal((2, CONE.size))  # any start does
        least, most = project(C, u, z, s)
        expected = CONE.pair(u)
        sizes = np.concatenate([np.full(block.size, np.abs(part).max()) for block, part in by_block(u)])
        assert (np.abs(z - expected[0]) <= 1e-12 * sizes).all()
        assert (np.abs(s - expected[1]) <= 1e-12 * sizes).all()
        assert 0.0 <= least <= most <= 2.0 * np.linalg.norm(u)


def test_kinks_are_seen():
    C, z, s = state(), np.zeros(CONE.size), np.zeros(CONE.size)
    u = CONE.project(np.random.default_rng(1).standard_normal(CONE.size)) + 0.1
    u = CONE.project_dual(u)
    assert project(C, u, z, s)[0] == 0.0  # on the boundary of K*


def spread(u):
    """The largest absolute eigenvalue over the least one, of the worst semidefinite cone."""
    blocks = ((block, part) for block, part in by_block(u) if isinstance(block, PositiveSemidefinite))
    sizes = [np.abs(np.linalg.eigvalsh(block.matrix(part))) for block, part in blocks]
    return max(size.max() / size.min() for size in sizes)


@pytest.mark.parametrize("ratio", [1.0, 1e-3, 40.0])
def test_the_derivative(ratio):
    """The pair inside the equilibration is (z/ratio, s), and D/(D + ratio (I - D)) the derivative there."""
    C, seen = state(), 0
    for u, rng in points(150, 2):
        z, s = CONE.pair(u)
        margin, good = decompose(C, z / ratio, s, np.full(CONE.size, ratio))
        groups = list(CONE.eigen_groups(z[None], s[None], 0.0))
        np.testing.assert_allclose(margin, min(group.margin.min() for group in groups), atol=1e-8)
        if not good:  # at a kink of a curved cone, or with eigenvalues too far apart for the scaling
            assert margin < 1.0 or spread(z / ratio - s) > 500.0
            continue
        seen += 1
        v, out = rng.standard_normal(CONE.size), np.empty(CONE.size)
        times_derivative(C, v, out)
        for start, count, cone, lam, V, clear in groups:
            if clear.min() < 1.0 - 1e-9:  # at a kink D is one of many
                continue
            stop = start + count * cone.size
            h, values = v[start:stop].reshape(count, cone.size), lam[0] / (lam[0] + ratio * (1.0 - lam[0]))
            if V is None:
                expected = values * h
            else:
                expected = np.einsum("kij,kj,klj,kl->ki", V[0], values, V[0], h)
            np.testing.assert_allclose(out[start:stop].reshape(expected.shape), expected, rtol=0, atol=1e-7)
    assert seen > 50


def test_the_weights_of_rows_that_are_eliminated_by_hand():
    C = state()
    place = np.full(CONE.size, -1)
    for u, rng in points(30, 3):
        z, s = CONE.pair(u)
        decompose(C, z, s, np.ones(CONE.size))
        v, Tv, DTv, ITv = rng.standard_normal(CONE.size), *np.empty((3, CONE.size))
        times_T(C, place, v, Tv)
        times_derivative(C, Tv, DTv)
        ITv = Tv - DTv + 1e-7 * DTv
        for start, stop in ((2, 6), (CONE.size - 12, CONE.size)):
            np.testing.assert_allclose(ITv[start:stop], v[start:stop], rtol=1e-6, atol=1e-6)
