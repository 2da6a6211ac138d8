"""Projections whose result lies on a face, in a corner or at a kink: the values and the exact derivatives."""

import numpy as np
import pytest
import torch

from cvxlayers.sets import Exponential, Nonnegative, PositiveSemidefinite, Power, SecondOrder
from tests.checks import close


def matrix(cone, u, mu=0.0):
    z, s = cone.pair(u)
    return np.moveaxis(cone.derivative(z, s, np.eye(cone.size), mu), 0, -1)


def differences(cone, u, step=1e-6):
    return np.stack(
        [(cone.project_dual(u + step * e) - cone.project_dual(u - step * e)) / (2 * step) for e in np.eye(cone.size)],
        -1,
    )


@pytest.mark.parametrize(
    ("u", "z", "s"),
    [
        # On the face y = 0, x < 0, z > 0 of K.
        ((2.0, 1.0, -3.0), (0.0, 1.0, 0.0), (-2.0, 0.0, 3.0)),
        # On its edge z = 0.
        ((2.0, 1.0, 3.0), (0.0, 1.0, 3.0), (-2.0, 0.0, 0.0)),
        # In the dual face p = 0, q >= 0, r >= 0.
        ((0.0, 1.0, 2.0), (0.0, 1.0, 2.0), (0.0, 0.0, 0.0)),
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
    ],
)
def test_faces_of_the_exponential_cone(u, z, s):
    cone, u = Exponential(), np.array(u)
    for actual, expected in zip(cone.pair(u), (z, s), strict=True):
        close(actual, expected, 1e-15)


@pytest.mark.parametrize("u", [(2.0, 1.0, -3.0), (2.0, 1.0, 3.0)])
def test_derivative_on_the_face_of_the_exponential_cone(u):
    close(matrix(Exponential(), np.array(u)), differences(Exponential(), np.array(u)), 1e-8)


@pytest.mark.parametrize("ratio", [-600.0, -60.0, -8.0, 8.0, 30.0, 60.0, 600.0])
def test_derivative_at_steep_points_of_the_exponential_cone(ratio):
    """Pairs built from x/y = ratio; beyond exp(+-30) the exact D is that of a face."""
    cone = Exponential()
    size = np.exp(min(0.0, -ratio))
    s = size * np.array([ratio, 1.0, np.exp(ratio)])
    z = np.exp(min(0.0, ratio)) * np.array([-1.0, ratio - 1.0, np.exp(-ratio)])
    close(cone.project_dual(z - s), z, 1e-12)
    D = matrix(cone, z - s)
    assert np.isfinite(D).all()
    # n = z is the normal of K at s, and radial directions are free: D z = z, D s = 0.
    close(D @ z, z, 1e-9)
    close(D @ s, 0 * s, 1e-9)
    lam = np.linalg.eigvalsh(D)
    assert lam.min() > -1e-12 and lam.max() < 1 + 1e-12


@pytest.mark.parametrize(("alpha", "expected"), [(0.3, 1.0), (0.5, 2 * 3.0 / (2.0 + 2 * 3.0)), (0.8, 0.0)])
def test_end_of_the_power_cone(alpha, expected):
    """s = (2, 0, 0), z = (0, 3, 0): near it y = |z|^(1/beta) x^(-alpha/beta), so D_33 depends on alpha."""
    cone, u = Power(alpha), np.array([-2.0, 3.0, 0.0])
    z, s = cone.pair(u)
    close(z, [0, 3, 0], 0)
    close(s, [2, 0, 0], 0)
    close(matrix(cone, u), np.diag([0, 1, expected]), 1e-14)
    mirrored = Power(1 - alpha), u[[1, 0, 2]]
    close(matrix(*mirrored), np.diag([1, 0, expected]), 1e-12)
    # The limit from beside the face: D_33 = d z_3 / d u_3, by differences wide enough for a Hoelder boundary.
    step = 1e-9 if alpha != 0.5 else 1e-4
    slope = (cone.project_dual(u + [0, 0, step]) - cone.project_dual(u - [0, 0, step]))[2] / (2 * step)
    close(slope, expected, 2e-2)


@pytest.mark.parametrize(
    "cone", [Exponential(), Power(0.5), Nonnegative(2), SecondOrder(3), PositiveSemidefinite(3)], ids=repr
)
def test_origin(cone):
    """At 0 nothing decides: every eigenvalue is 1/2 and the margin 0."""
    u = np.zeros(cone.size)
    close(matrix(cone, u), np.eye(cone.size) / 2, 1e-12)
    lam, _, margin = cone.eigen(*cone.pair(u))
    close(lam, np.full(cone.size, 0.5), 1e-12)
    assert margin == 0


def test_weakly_active_row_keeps_the_smoothed_element():
    cone = Nonnegative(4)
    z, s = np.array([1.0, 1e-9, 3e-9, 0.0]), np.array([1e-9, 1.0, 1e-9, 0.0])
    lam, V, margin = cone.eigen(z, s)
    assert V is None
    close(lam, [1, 0, 0.75, 0.5], 1e-14)
    assert margin == 0
    close(Nonnegative(3).eigen(z[:3], s[:3])[2], 0.5, 1e-12)
    smoothed, _, _ = cone.eigen(z, s, 1e-9)
    close(smoothed, [1 / (1 + 1e-9), 1e-9 / (1 + 1e-9), 0.75, 0.5], 1e-15)


def test_snapping_in_a_rotated_frame():
    """Interior-point pairs: spectral values a factor 1e4 apart are snapped, in second-order and semidefinite cones."""
    mu = 1e-12
    for cone in (SecondOrder(4), PositiveSemidefinite(3)):
        u = np.random.default_rng(1).standard_normal((6, cone.size))
        exact = np.sort(cone.eigen(*cone.pair(u))[0], -1)
        nearly = np.sort(cone.eigen(*cone.smooth(*cone.pair(u), mu))[0], -1)
        close(nearly, exact, 1e-7)
        ends = (exact == 0) | (exact == 1)
        assert ends.any() and np.array_equal(nearly[ends], exact[ends])


def test_repeated_eigenvalues():
    """D, its eigendecomposition and the second derivative know nothing of ties."""
    cone = PositiveSemidefinite(3)
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    for values in ([1.0, 1.0, -1.0], [2.0, 2.0, 2.0], [1.0, -2.0, -2.0], [-1.0, -1.0, -1.0]):
        u = cone.vector(Q @ np.diag(values) @ Q.T)
        close(matrix(cone, u), differences(cone, u), 1e-8)
        lam, V, margin = cone.eigen(*cone.pair(u))
        close(V @ np.diag(lam) @ V.T, matrix(cone, u), 1e-12)
        assert margin > 1 - 1e-12


def test_second_order_axis():
    """u = (t, 0) has no direction; the smoothed derivative and its own derivative are those of the limit."""
    cone = SecondOrder(3)
    h = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)
    k = torch.tensor([0.1, 0.7, -0.4], dtype=torch.float64)
    for t in (-1.0, 0.0, 0.5):
        u = torch.tensor([t, 0.0, 0.0], dtype=torch.float64)

        def along(v):
            return cone.derivative(*cone.smooth(v, torch.zeros_like(v), 0.1), h, 0.1)

        _, slope = torch.func.jvp(along, (u,), (k,))
        close(slope, (along(u + 1e-6 * k) - along(u - 1e-6 * k)) / 2e-6, 1e-8)
