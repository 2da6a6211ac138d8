"""Projections and smoothed pairs against their definitions: CVXPY, membership, and the gradient of the barrier."""

import cvxpy as cp
import numpy as np
import pytest
import torch

from cvxlayers.sets import Exponential, Nonnegative, PositiveSemidefinite, Power, SecondOrder
from tests.checks import close, points

ALPHAS = (0.5, 0.3, 0.05, 0.95)
CONES = [Nonnegative(3), SecondOrder(1), SecondOrder(4), PositiveSemidefinite(3), Exponential(), *map(Power, ALPHAS)]


def cvxpy_constraint(cone, x):
    if isinstance(cone, Nonnegative):
        return [x >= 0]
    if isinstance(cone, SecondOrder):
        return [cp.SOC(x[0], x[1:])] if cone.d > 1 else [x >= 0]
    if isinstance(cone, Exponential):
        return [cp.ExpCone(x[0], x[1], x[2])]
    if isinstance(cone, Power):
        return [cp.PowCone3D(x[0], x[1], x[2], cone.alpha)]
    S = cp.Variable((cone.k, cone.k), PSD=True)
    entries = [(i, j) for j in range(cone.k) for i in range(j + 1)]
    return [x[n] == S[i, j] * (1 if i == j else np.sqrt(2)) for n, (i, j) in enumerate(entries)]


@pytest.mark.parametrize("cone", CONES, ids=repr)
def test_projection_agrees_with_cvxpy(cone):
    rng = np.random.default_rng(0)
    u = np.concatenate([rng.standard_normal((6, cone.size)), rng.integers(-1, 2, (4, cone.size))])
    x, target = cp.Variable(cone.size), cp.Parameter(cone.size)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - target)), cvxpy_constraint(cone, x))
    for v, projection in zip(u, cone.project(u), strict=True):
        target.value = v
        problem.solve(solver=cp.CLARABEL)
        # The objective is right to 1e-8, so x is right to its square root.
        close(projection, x.value, 2e-4)
        assert np.sum((projection - v) ** 2) <= problem.value + 1e-6


def exponential_contains(x):
    a, b, c = x
    return (b > 0 and c > 0 and a <= b * np.log(c / b)) or (b == 0 and a <= 0 and c >= 0)


def exponential_dual_contains(x):
    p, q, r = x
    return (p < 0 and r > 0 and np.log(-p / r) + q / p <= 1) or (p == 0 and q >= 0 and r >= 0)


def contains(cone, x, dual):
    """Membership by definition, and a point in the interior of both K and K*."""
    if isinstance(cone, Nonnegative):
        return bool((x >= 0).all())
    if isinstance(cone, SecondOrder):
        return bool(np.linalg.norm(x[1:]) <= x[0])
    if isinstance(cone, PositiveSemidefinite):
        return bool(np.linalg.eigvalsh(cone.matrix(x)).min() >= 0)
    if isinstance(cone, Exponential):
        return exponential_dual_contains(x) if dual else exponential_contains(x)
    a, b = (cone.alpha, 1 - cone.alpha) if dual else (1.0, 1.0)
    return x[0] >= 0 and x[1] >= 0 and (x[0] / a) ** cone.alpha * (x[1] / b) ** (1 - cone.alpha) >= abs(x[2])


def interior_point(cone):
    if isinstance(cone, Exponential):
        return np.array([-1.0, 1.0, 2.0])
    if isinstance(cone, PositiveSemidefinite):
        return cone.vector(np.eye(cone.k))
    inside = np.zeros(cone.size)
    inside[: cone.size if isinstance(cone, Nonnegative) else 1 if isinstance(cone, SecondOrder) else 2] = 1
    return inside


@pytest.mark.parametrize("cone", CONES, ids=repr)
def test_pair_is_optimal_at_every_scale(cone):
    """s in K, z in K*, z - s = u and z's = 0 hold for the projection only; a move by 1e-12 reaches the two cones."""
    u = points(cone, 300)
    scale = np.abs(u).max(-1, initial=0)
    u, scale = u[scale > 0], scale[scale > 0, None]
    z, s = cone.pair(u)
    inside = 1e-12 * interior_point(cone)
    for point, dual in ((s / scale, False), (z / scale, True)):
        assert all(contains(cone, x + inside, dual) for x in point)
    assert np.abs((z - s - u) / scale).max() < 1e-14
    assert np.abs(np.sum(z / scale * (s / scale), -1)).max() < 1e-14


@pytest.mark.parametrize("cone", CONES, ids=repr)
def test_points_of_the_cones_stay(cone):
    s = cone.project(points(cone, 50))
    interior = s + interior_point(cone) * np.maximum(np.abs(s).max(-1, keepdims=True), 1)
    assert np.array_equal(cone.project(interior), interior) or isinstance(cone, PositiveSemidefinite)
    scale = np.abs(interior).max(-1, keepdims=True)
    close(cone.project(interior) / scale, interior / scale, 1e-14)
    close(cone.project_dual(-interior) / scale, 0 * interior, 1e-14)


def barrier(cone, s):
    """The barrier of K that the cone's file names, in PyTorch."""
    if isinstance(cone, Nonnegative):
        return -s.log().sum()
    if isinstance(cone, SecondOrder):
        return -(s[0] ** 2 - (s[1:] ** 2).sum()).log() / 2
    if isinstance(cone, PositiveSemidefinite):
        return -cone.matrix(s).logdet()
    x, y, z = s
    if isinstance(cone, Exponential):
        return -(y * (z / y).log() - x).log() - y.log() - z.log()
    a, b = cone.alpha, 1 - cone.alpha
    return -(x ** (2 * a) * y ** (2 * b) - z**2).log() - b * x.log() - a * y.log()


@pytest.mark.parametrize("mu", [10.0, 1e-1, 1e-3])
@pytest.mark.parametrize("cone", CONES, ids=repr)
def test_smoothed_pair_is_on_the_central_path(cone, mu):
    u = np.random.default_rng(3).standard_normal((8, cone.size))
    u[0] = 0
    z, s = cone.smooth(*cone.pair(u), mu)
    close(z - s, u, 1e-13)
    for one_z, one_s in zip(z, s, strict=True):
        assert contains(cone, one_s, False) and contains(cone, one_z, True)
        leaf = torch.from_numpy(one_s).requires_grad_()
        (gradient,) = torch.autograd.grad(barrier(cone, leaf), leaf)
        close(-mu * gradient, one_z, 1e-8)


@pytest.mark.parametrize("cone", CONES, ids=repr)
def test_smoothed_derivative_is_that_of_the_barrier(cone):
    """D = I - (I + mu Hess F(s))^-1, the Hessian taken by PyTorch."""
    mu = 0.05
    u = np.random.default_rng(4).standard_normal((5, cone.size))
    z, s = cone.smooth(*cone.pair(u), mu)
    D = np.moveaxis(cone.derivative(z, s, np.eye(cone.size)[:, None, :], mu), 0, -1)
    for one, expected_s in zip(D, s, strict=True):
        hessian = torch.autograd.functional.hessian(lambda x: barrier(cone, x), torch.from_numpy(expected_s)).numpy()
        close(one, np.eye(cone.size) - np.linalg.inv(np.eye(cone.size) + mu * hessian), 1e-8)
