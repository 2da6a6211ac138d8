"""The linear system of the derivative on arrays: against its definition, with any axes of right-hand sides."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cvxlayers.conic.array_kkt import linear_solve
from cvxlayers.conic.array_newton import polish
from cvxlayers.sets import Exponential, Nonnegative, PositiveSemidefinite, Power, Product, SecondOrder, Zero

LIBRARIES = {"numpy": np.asarray, "torch": torch.as_tensor, "jax": jnp.asarray}
libraries = pytest.mark.parametrize("library", LIBRARIES)


def run(library: str, function, cone, *arrays):
    """``function(cone, *arrays)`` on arrays of the library, compiled in JAX."""
    arrays = tuple(map(LIBRARIES[library], arrays))
    return jax.jit(function, static_argnums=0)(cone, *arrays) if library == "jax" else function(cone, *arrays)


CONES = {
    "zero": Product((Zero(3),)),
    "nonnegative": Product((Nonnegative(9),)),
    "linear": Product((Zero(2), Nonnegative(6))),
    "second_order": Product((Zero(1), Nonnegative(2), SecondOrder(4), SecondOrder(4), SecondOrder(3))),
    "semidefinite": Product((Nonnegative(2), PositiveSemidefinite(3))),
    "three_dimensional": Product((Exponential(), Exponential(), Power(0.3))),
}
# JAX takes seconds to compile the other cones.
everywhere = pytest.mark.parametrize(
    ("name", "library"),
    [
        pytest.param(name, library, marks=[pytest.mark.slow] if library == "jax" and name != "linear" else [])
        for name in CONES
        for library in LIBRARIES
    ],
)


def system(name: str, n: int, batch: tuple[int, ...] = (), seed: int = 0):
    """P, A, and a complementary pair of the cone."""
    cone, rng = CONES[name], np.random.default_rng(seed)
    root = rng.normal(size=(*batch, n, n))
    z, s = cone.pair(2 * rng.normal(size=(*batch, cone.size)))
    return cone, root @ root.swapaxes(-1, -2) + 0.1 * np.eye(n), rng.normal(size=(*batch, cone.size, n)), z, s


def matrix(cone, P, A, z, s, mu: float = 0.0) -> np.ndarray:
    """The bounded system of one element, and D."""
    if mu:
        z, s = cone.smooth(z, s, mu)
    D = cone.derivative(z, s, np.eye(cone.size), mu)
    return np.block([[P, A.T], [D @ A, D - np.eye(cone.size)]]), D


def close(actual, expected, tolerance=1e-9):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1.0, np.abs(expected).max(initial=0.0)))


@everywhere
@pytest.mark.parametrize("mu", [0.0, 1e-2])
def test_solves_the_system(name, library, mu):
    cone, P, A, z, s = system(name, 10, (3,))
    rng = np.random.default_rng(1)
    gx, gz = rng.normal(size=(3, 10)), rng.normal(size=(3, cone.size))
    wx, wz, residual = run(library, partial(linear_solve, mu=mu), cone, P, A, z, s, gx, gz)
    assert np.asarray(residual).shape == (3,) and np.asarray(residual).max() < 1e-10
    for i in range(3):
        K, D = matrix(cone, P[i], A[i], z[i], s[i], mu)
        w = np.linalg.solve(K, np.concatenate([gx[i], D @ gz[i]]))
        close(np.concatenate([wx[i], wz[i]]), w, 1e-7)


@libraries
def test_axes_of_right_hand_sides_and_shared_data(library):
    """Further axes of the right-hand sides, in front and where the batch has ones; data shared by the batch."""
    cone, P, A, z, s = system("linear", 10, (2, 1, 3))
    rng = np.random.default_rng(1)
    gx, gz = rng.normal(size=(4, 2, 5, 3, 10)), rng.normal(size=(5, 3, cone.size))
    wx, wz, residual = run(library, linear_solve, cone, P[0, 0, 0], A[:, :, :1], z, s, gx, gz)
    assert wx.shape == gx.shape and wz.shape == (4, 2, 5, 3, cone.size) and residual.shape == (4, 2, 5, 3)
    for i, j, k, h in ((0, 0, 0, 0), (3, 1, 4, 2), (1, 0, 2, 1), (2, 1, 0, 2)):
        K, D = matrix(cone, P[0, 0, 0], A[j, 0, 0], z[j, 0, h], s[j, 0, h])
        w = np.linalg.solve(K, np.concatenate([gx[i, j, k, h], D @ gz[k, h]]))
        close(np.concatenate([wx[i, j, k, h], wz[i, j, k, h]]), w, 1e-7)


def test_a_clear_gap_is_exact_and_a_tie_is_smooth():
    cone, n = CONES["nonnegative"], 4
    _, P, A, _, _ = system("nonnegative", n)
    z, s = np.array([1.0, 1e-3, 1e-7, 1e-9, 1, 0, 1e-6, 0, 0]), np.array([1e-6, 1e-9, 1, 1, 1, 1, 1e-6, 0, 2])
    d = np.array([1, 1, 0, 0, 0.5, 0, 0.5, 0.5, 0])
    gx, gz = np.random.default_rng(0).normal(size=n), np.random.default_rng(1).normal(size=9)
    wx, wz, _ = linear_solve(cone, P, A, z, s, gx, gz)
    K = np.block([[P, A.T], [d[:, None] * A, np.diag(d - 1)]])
    close(np.concatenate([wx, wz]), np.linalg.solve(K, np.concatenate([gx, d * gz])))


def test_a_singular_system_gets_the_solution_of_least_norm():
    cone, P, A, z, s = system("linear", 5)
    A[1] = A[0]  # a redundant equality
    s[2:5], z[2:5] = 0, 1
    A[3] = A[2]  # and active rows that say the same
    rng = np.random.default_rng(1)
    K, D = matrix(cone, P, A, z, s)
    g = K @ rng.normal(size=len(K))  # consistent
    gz = np.where(np.diag(D) > 0, g[5:], 0)
    wx, wz, residual = linear_solve(cone, P, A, z, s, g[:5], gz)
    assert residual < 1e-9
    close(np.concatenate([wx, wz]), np.linalg.pinv(K, rcond=1e-10) @ np.concatenate([g[:5], D @ gz]), 1e-6)


def test_an_inconsistent_system_stays_of_the_size_of_its_data():
    """A linear program whose solution is not unique: nothing determines x along the edge."""
    cone, n = Product((Nonnegative(3),)), 2
    P, A = np.zeros((n, n)), np.array([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    z, s = np.array([1.0, 0, 0]), np.array([0, 0.5, 0.5])
    wx, wz, residual = linear_solve(cone, P, A, z, s, np.array([1.0, 0.0]), np.array([0.3, 0, 0]))
    assert residual > 0.1
    assert np.abs(wx).max() < 10 and np.abs(wz).max() < 10
    close(A[0] @ wx, 0.3, 1e-6)  # what is determined is right


@libraries
def test_an_element_with_nan_leaves_the_others_alone(library):
    cone, P, A, z, s = system("linear", 9, (3,))
    gx, gz = np.ones((3, 9)), np.ones((3, cone.size))
    expected = run(library, linear_solve, cone, P, A, z, s, gx, gz)
    P[1], A[1] = np.nan, np.nan
    found = run(library, linear_solve, cone, P, A, z, s, gx, gz)
    for a, b in zip(found[:2], expected[:2], strict=True):
        assert np.array_equal(np.asarray(a)[::2], np.asarray(b)[::2])


@libraries
def test_float32(library):
    cone, P, A, z, s = (v.astype(np.float32) if isinstance(v, np.ndarray) else v for v in system("linear", 6, (2,)))
    gx, gz = np.ones((2, 6), np.float32), np.ones((2, cone.size), np.float32)
    wx, wz, residual = run(library, linear_solve, cone, P, A, z, s, gx, gz)
    assert np.asarray(wx).dtype == np.asarray(wz).dtype == np.float32
    exact = linear_solve(cone, *(v.astype(float) for v in (P, A, z, s, gx, gz)))
    assert np.asarray(residual).max() < 1e-4
    close(wx, exact[0], 2e-3)


@everywhere
def test_newton_reaches_machine_precision(name, library):
    """From an error of 1e-5 at a solution that is known by construction, beside an element that cannot be improved."""
    rng = np.random.default_rng(1)
    cone, P, A, z, s = system(name, 10, (2,), seed=3)
    x = rng.normal(size=(2, 10))
    q, b = -(P @ x[..., None] + A.swapaxes(-1, -2) @ z[..., None])[..., 0], (A @ x[..., None])[..., 0] + s
    given = [x + 1e-5 * rng.normal(size=x.shape), z, s]
    residuals = np.array([[1e-5] * 3, [0.0] * 3])
    found = run(library, polish, cone, P, q, A, b, *given, residuals)
    close(found[0][0], x[0], 1e-12)
    close(found[1][0], z[0], 1e-12)
    close(found[2][0], s[0], 1e-12)
    assert np.asarray(found[3])[0].max() < 1e-13
    for a, before in zip(found[:3], given, strict=True):
        assert np.array_equal(np.asarray(a)[1], before[1])


@pytest.mark.parametrize("scale", [1e-8, 1e6, 1e12])
@pytest.mark.parametrize("name", ["linear", "second_order", "semidefinite", "three_dimensional"])
def test_scale_of_the_objective(name, scale):
    """c times the objective has the same solutions and c times the multipliers, and so have their derivatives."""
    cone, P, A, z, s = system(name, 4, seed=2)
    rng = np.random.default_rng(3)
    gx, gz = rng.normal(size=4), rng.normal(size=cone.size)
    wx, wz, _ = linear_solve(cone, P, A, z, s, gx, gz)
    vx, vz, _ = linear_solve(cone, scale * P, A, scale * z, s, scale * gx, gz)
    np.testing.assert_allclose(vx, wx, rtol=0, atol=1e-7 * np.abs(wx).max())
    np.testing.assert_allclose(vz / scale, wz, rtol=0, atol=1e-7 * np.abs(wz).max())
