"""The rotated second-order cone does what every cone must do, and is the set that CVXPY says."""

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers.sets import RotatedSecondOrder
from tests.checks import CONE_CHECKS, check_decomposition, check_derivative, close, points


@pytest.mark.parametrize("check", CONE_CHECKS, ids=lambda check: check.__name__)
def test_cone(check):
    check(RotatedSecondOrder(4))


def test_without_a_vector():
    """For d = 2 it is the nonnegative quadrant."""
    check_decomposition(RotatedSecondOrder(2))
    check_derivative(RotatedSecondOrder(2))
    u = np.array([[1.0, -2.0], [-1.0, -3.0], [2.0, 3.0]])
    close(RotatedSecondOrder(2).project(u), np.maximum(u, 0), 1e-15)


def test_projection_agrees_with_cvxpy():
    cone = RotatedSecondOrder(4)
    x, target = cp.Variable(4), cp.Parameter(4)
    inside = cp.quad_over_lin(x[2:], x[1]) <= 2 * x[0]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - target)), [inside, x[:2] >= 0])
    u = np.random.default_rng(0).standard_normal((8, 4))
    for v, projection in zip(u, cone.project(u), strict=True):
        target.value = v
        problem.solve(solver=cp.CLARABEL)
        close(projection, x.value, 1e-4)


def test_boundary():
    u = points(RotatedSecondOrder(4), 50)
    a, b, x = u[:, 0], u[:, 1], u[:, 2:]
    inside = (a >= 0) & (b >= 0) & (np.sum(x * x, -1) <= 2 * a * b * (1 - 1e-9))
    assert inside.any()
    moved = np.abs(RotatedSecondOrder(4).project(u) - u).max(-1)
    assert np.all(moved[inside] <= 1e-15 * np.abs(u[inside]).max(-1))
