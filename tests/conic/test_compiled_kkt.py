"""The compiled system of the derivative with curved cones, against the dense one, element by element."""

import gc

import numpy as np
import pytest

pytest.importorskip("numba")

from cvxlayers.conic.compiled_kkt import CompiledKKT
from cvxlayers.conic.kkt import DenseKKT, spectrum
from cvxlayers.conic.program import ConeData, DenseData
from cvxlayers.conic.structure import Structure
from cvxlayers.sets import Nonnegative, PositiveSemidefinite, Product, SecondOrder, Zero
from tests.solvers.problems import CONES, dense_program

CURVED = ("second_order", "semidefinite", "exponential", "power", "everything")


def systems(cones, z, s, n: int = 6, seed: int = 0, linear: bool = False):
    """The compiled and the dense system at pairs z and s (B, m), on random data."""
    rng = np.random.default_rng(seed)
    program = dense_program(cones, n)
    B, m = z.shape
    root = rng.standard_normal((B, n, n))
    P = np.zeros((B, n, n)) if linear else root @ root.swapaxes(1, 2) + 0.1 * np.eye(n)
    q, A, b = rng.standard_normal((B, n)), rng.standard_normal((B, m, n)), rng.standard_normal((B, m))
    data = program.sparse(DenseData(B, P, q, A, b, np.zeros(())))

    def others(at):
        return DenseKKT(program.dense(data.take(at)), spectrum(program, z[at], s[at]))

    return CompiledKKT(Structure.of(program), data, z, s, others), others(np.arange(B)), program


@pytest.mark.parametrize("kind", CURVED)
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_solves_what_the_dense_system_solves(kind, scale):
    cone = Product(CONES[kind])
    rng = np.random.default_rng(1)
    z, s = cone.pair(scale * rng.standard_normal((20, cone.size)))
    compiled, dense, program = systems(CONES[kind], z, s, n=cone.size + 1)
    gx, gz = rng.standard_normal((3, 20, program.n)), rng.standard_normal((3, 20, program.m))
    wx, wz, residual, _ = compiled.solve(gx, gz)
    expected_x, expected_z, own, _ = dense.solve(gx, gz)
    assert residual.max() < 1e-9 and own.max() < 1e-9
    for got, wanted in ((wx, expected_x), (wz, expected_z)):
        size = np.abs(wanted).max(-1, keepdims=True) + 1.0
        np.testing.assert_allclose(got / size, wanted / size, atol=1e-6)
    np.testing.assert_allclose(compiled.margin, dense.margin, atol=1e-8)


def test_elements_at_kinks_and_singular_systems_go_to_the_dense_system():
    cones = (Zero(1), Nonnegative(2), SecondOrder(3))
    z, s = Product(cones).pair(np.random.default_rng(0).standard_normal((4, 6)))
    z[1, 3:], s[1, 3:] = [1.0, 1.0, 0.0], 0.0  # at a kink of the second-order cone
    z[2], s[2] = 0.0, [0.0, 1.0, 1.0, 1.0, 0.0, 0.0]  # without P, nothing determines x
    compiled, dense, program = systems(cones, z, s, n=3, linear=True)
    gx, gz = np.ones((4, 3)), np.ones((4, 6))
    got, wanted = compiled.solve(gx, gz), dense.solve(gx, gz)
    for a, b in zip(got[:3], wanted[:3], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * (1.0 + np.abs(b).max()))
    assert set(got[3]) == set(wanted[3]) and 2 in got[3]
    assert compiled.margin[1] == dense.margin[1] < 0.5


def test_another_right_hand_side_may_be_given_up_elsewhere():
    """The elements that go to the dense system depend on the right-hand side, too: here on a NaN in the second one."""
    cones = (Nonnegative(2), SecondOrder(3))
    z, s = Product(cones).pair(np.random.default_rng(0).standard_normal((4, 5)))
    z[1, 2:], s[1, 2:] = [1.0, 1.0, 0.0], 0.0
    compiled, dense, _ = systems(cones, z, s, n=4)
    gx, gz = np.random.default_rng(1).standard_normal((4, 4)), np.ones((4, 5))
    first = compiled.solve(gx, gz)
    bad = gx.copy()
    bad[3, 0] = np.nan
    wx, wz, residual, _ = compiled.solve(bad, gz)
    assert np.isnan(wx[3]).any() and not residual[3] < 1.0
    for got, before, wanted in zip((wx, wz), first, dense.solve(gx, gz), strict=False):
        np.testing.assert_array_equal(got[:3], before[:3])
        np.testing.assert_allclose(before, wanted, atol=1e-7)


@pytest.mark.parametrize("small", [1e-6, 4e-9, 1e-12])
def test_eigenvalues_of_very_different_size(small):
    """The scaling has entries beyond what can be factored: that shows in the residual, or goes to the dense system."""
    cones = (PositiveSemidefinite(6),)
    cone, rng = Product(cones), np.random.default_rng(3)
    Q = np.linalg.qr(rng.standard_normal((1, 6, 6)))[0]
    values = np.array([20.0, 8.0, small, -0.007, -3.0, -12.0])
    u = cones[0].vector((Q * values) @ Q.swapaxes(1, 2))
    compiled, dense, program = systems(cones, *cone.pair(u), n=11, linear=True)
    gx, gz = rng.standard_normal((2, 1, program.n)), rng.standard_normal((2, 1, program.m))
    wx, wz, residual, _ = compiled.solve(gx, gz)
    expected_x, expected_z, *_ = dense.solve(gx, gz)
    assert residual.max() < 1e-9
    np.testing.assert_allclose(wx, expected_x, atol=1e-6 * np.abs(expected_x).max())
    np.testing.assert_allclose(wz, expected_z, atol=1e-6 * np.abs(expected_z).max())


@pytest.mark.parametrize("least", [0.1, 0.02])
def test_semidefinite_cones_of_common_spread_stay_in_the_kernel(least):
    """The scaling is chosen so that its matrix can be factored."""
    cones = (Zero(2), PositiveSemidefinite(10))
    rng = np.random.default_rng(5)
    Q = np.linalg.qr(rng.standard_normal((8, 10, 10)))[0]
    values = np.array([-1.0, -0.6, -0.2, -least, least, 0.1, 0.2, 0.5, 0.7, 1.0])
    u = np.concatenate([rng.standard_normal((8, 2)), cones[1].vector((Q * values) @ Q.swapaxes(1, 2))], axis=1)
    z, s = Product(cones).pair(u)
    compiled, dense, program = systems(cones, z, s, n=40)
    compiled._others = lambda at: pytest.fail(f"{at} went to the dense system")
    gx, gz = rng.standard_normal((2, 8, program.n)), rng.standard_normal((2, 8, program.m))
    wx, wz, residual, _ = compiled.solve(gx, gz)
    expected_x, expected_z, *_ = dense.solve(gx, gz)
    assert residual.max() < 1e-9
    np.testing.assert_allclose(wx, expected_x, atol=1e-6 * np.abs(expected_x).max())
    np.testing.assert_allclose(wz, expected_z, atol=1e-6 * np.abs(expected_z).max())


@pytest.mark.parametrize("kind", CURVED)
def test_an_element_of_the_dense_system_does_not_depend_on_its_neighbours(kind):
    """Each has its own number of rows, and its eigenvectors lie in memory as they do alone."""
    cone = Product(CONES[kind])
    rng = np.random.default_rng(6)
    z, s = cone.pair(rng.standard_normal((7, cone.size)))
    compiled, dense, program = systems(CONES[kind], z, s, n=cone.size + 1)
    gx, gz = rng.standard_normal((2, 7, program.n)), rng.standard_normal((2, 7, program.m))
    wx, wz, *_ = dense.solve(gx, gz)
    for i in range(7):
        own = slice(i, i + 1)
        alone = DenseKKT(program.dense(_element(compiled, program, i)), spectrum(program, z[own], s[own]))
        one_x, one_z, *_ = alone.solve(gx[:, own], gz[:, own])
        np.testing.assert_array_equal(one_x[:, 0], wx[:, i])
        np.testing.assert_array_equal(one_z[:, 0], wz[:, i])


def test_an_element_does_not_depend_on_its_neighbours():
    cone = Product(CONES["everything"])
    z, s = cone.pair(np.random.default_rng(4).standard_normal((7, cone.size)))
    compiled, _, program = systems(CONES["everything"], z, s, n=cone.size + 1)
    rng = np.random.default_rng(5)
    gx, gz = rng.standard_normal((7, program.n)), rng.standard_normal((7, program.m))
    wx, wz, *_ = compiled.solve(gx, gz)
    alone = CompiledKKT(
        Structure.of(program), _element(compiled, program, 3), z[3:4], s[3:4], lambda at: pytest.fail("not needed")
    )
    one_x, one_z, *_ = alone.solve(gx[3:4], gz[3:4])
    np.testing.assert_array_equal(one_x[0], wx[3])
    np.testing.assert_array_equal(one_z[0], wz[3])


def _element(compiled, program, i):
    P, q, A, b = (v[i : i + 1] for v in compiled._values)
    return ConeData(1, P, q, A, b, np.zeros(()))


def test_structures_do_not_outlive_their_programs():
    program = dense_program(CONES["everything"], 4)
    assert Structure.of(program) is Structure.of(program)
    known = len(Structure._known)
    del program
    gc.collect()
    assert len(Structure._known) < known
