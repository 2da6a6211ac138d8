"""Dual variables and slacks, entry by entry, against their definitions."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
from cvxpy.constraints import PowCone3D, PowConeND

from cvxlayers.canonical import build, everything
from cvxlayers.errors import ProblemError
from tests.canonical.reference import duals, parameter, solve

WEIGHT = np.arange(1, 7).reshape(2, 3)


@pytest.fixture
def rng():
    return np.random.default_rng(2)


@pytest.mark.parametrize("axis", [0, 1])
def test_vectorised_second_order_cones(rng, axis):
    """Minimize w't with ||x_i|| <= t_i and X fixed: the dual of cone i is w_i (1, -x_i / ||x_i||)."""
    value = rng.normal(size=(3, 4) if axis == 0 else (4, 3))
    weight = np.arange(1.0, 5)
    t, X, p = cp.Variable(4), cp.Variable(value.shape), parameter(value)
    cone = cp.SOC(t, X, axis=axis)
    form = build(cp.Problem(cp.Minimize(weight @ t), [cone, X == p]), [p], [*duals([cone]), cone])
    _, (dt, dX, slack) = solve(form, [value])
    norm = np.linalg.norm(value, axis=axis)
    np.testing.assert_allclose(dt, weight, atol=1e-7)
    np.testing.assert_allclose(dX, -np.expand_dims(weight / norm, axis) * value, atol=1e-6)
    np.testing.assert_allclose(slack, np.concatenate([np.expand_dims(norm, axis), value], axis), atol=1e-6)


def test_matrices_of_exponential_cones(rng):
    """Minimize <w, z> with z >= y exp(x / y) and x, y fixed: the duals are the gradients of y exp(x / y)."""
    value = rng.normal(size=(2, 3))
    x, y, z, p = cp.Variable((2, 3)), cp.Variable((2, 3)), cp.Variable((2, 3)), parameter(value)
    cone = cp.ExpCone(x, y, z)
    problem = cp.Problem(cp.Minimize(cp.sum(cp.multiply(WEIGHT, z))), [cone, x == p, y == WEIGHT])
    _, (dx, dy, dz, slack) = solve(build(problem, [p], [*duals([cone]), cone]), [value])
    ratio = value / WEIGHT
    np.testing.assert_allclose(dx, -WEIGHT * np.exp(ratio), rtol=1e-5)
    np.testing.assert_allclose(dy, -WEIGHT * np.exp(ratio) * (1 - ratio), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(dz, WEIGHT, rtol=1e-5)
    np.testing.assert_allclose(slack, np.stack([value, WEIGHT, WEIGHT * np.exp(ratio)]), rtol=1e-5)


def test_matrices_of_power_cones(rng):
    """Maximize <w, z> with |z| <= x^a y^(1-a) and x, y fixed."""
    value, alpha = rng.uniform(1, 2, (2, 3)), np.linspace(0.2, 0.8, 6).reshape(2, 3)
    x, y, z, p = cp.Variable((2, 3)), cp.Variable((2, 3)), cp.Variable((2, 3)), parameter(value)
    cone = PowCone3D(x, y, z, alpha)
    problem = cp.Problem(cp.Maximize(cp.sum(cp.multiply(WEIGHT, z))), [cone, x == p, y == WEIGHT])
    _, (dx, dy, dz, slack) = solve(build(problem, [p], [*duals([cone]), cone]), [value])
    best = value**alpha * WEIGHT ** (1 - alpha)
    np.testing.assert_allclose(dx, WEIGHT * alpha * best / value, rtol=1e-4)
    np.testing.assert_allclose(dy, WEIGHT * (1 - alpha) * best / WEIGHT, rtol=1e-4)
    np.testing.assert_allclose(dz, -WEIGHT, rtol=1e-4)
    np.testing.assert_allclose(slack, np.stack([value, np.broadcast_to(WEIGHT, value.shape), best]), rtol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, None])
@pytest.mark.parametrize("k", [2, 3, 5])
def test_power_cones_of_many_factors(rng, axis, k):
    """Maximize w'z with |z_i| <= prod_j W_ij^a_ij and W fixed: the dual of W_ij is w_i a_ij prod / W_ij."""
    shape = {0: (k, 3), 1: (3, k), None: (k,)}[axis]
    value, alpha = rng.uniform(1, 2, shape), rng.uniform(0.2, 1, shape)
    along = axis or 0
    alpha /= alpha.sum(axis=along, keepdims=True)
    n = 1 if axis is None else 3
    weight = np.arange(1.0, n + 1)
    W, z, p = cp.Variable(shape), cp.Variable(n), parameter(value)
    cone = PowConeND(W, z, alpha, axis=along)
    problem = cp.Problem(cp.Maximize(weight @ z), [cone, W == p])
    _, (dW, dz, slack) = solve(build(problem, [p], [*duals([cone]), cone]), [value])
    best = np.prod(value**alpha, axis=along)
    np.testing.assert_allclose(
        dW, np.expand_dims(weight * best, along) * alpha / value if n > 1 else best * alpha / value, rtol=1e-4
    )
    np.testing.assert_allclose(dz, -weight, rtol=1e-4)
    top = np.expand_dims(best, along) if n > 1 else np.atleast_1d(best)
    np.testing.assert_allclose(slack, np.concatenate([value, top], axis=along), rtol=1e-4)


def test_power_cone_of_one_factor():
    W, z, p = cp.Variable(1), cp.Variable(1), parameter(np.array([1.7]))
    cone = PowConeND(W, z, np.ones(1))
    form = build(cp.Problem(cp.Maximize(2 * z[0]), [cone, W == p]), [p], [z, *duals([cone]), cone])
    _, (got, dW, dz, slack) = solve(form, [p.value])
    np.testing.assert_allclose(got, 1.7, rtol=1e-5)
    np.testing.assert_allclose([dW[0], dz[0]], [2, -2], rtol=1e-5)
    np.testing.assert_allclose(slack, [1.7, 1.7], rtol=1e-5)


def test_slacks_of_inequalities_equalities_and_matrices(rng):
    value = rng.normal(size=(2, 2))
    X, p = cp.Variable((2, 2)), parameter(value)
    constraints = [X <= 1, X >= p, cp.sum(X) == 0.5, X - 3 * np.eye(2) << 0, X + 9 * np.eye(2) >> 0, X[0, 0] <= p + 9]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - p)), constraints)
    _, (x, *slacks) = solve(build(problem, [p], [X, *constraints]), [value])
    symmetric = (x + x.T) / 2
    expected = [1 - x, x - value, 0, 3 * np.eye(2) - symmetric, symmetric + 9 * np.eye(2), value + 9 - x[0, 0]]
    for slack, reference, constraint in zip(slacks, expected, constraints, strict=True):
        assert slack.shape == constraint.shape
        np.testing.assert_allclose(slack, np.broadcast_to(reference, slack.shape), atol=1e-7)


def test_nonpositive_constraint(rng):
    x, p = cp.Variable(3), parameter(rng.normal(size=3))
    with pytest.warns(Warning):
        constraint = cp.constraints.NonPos(x - p)
    form = build(cp.Problem(cp.Maximize(cp.sum(2 * x)), [constraint]), [p], [x, *duals([constraint]), constraint])
    _, (got, dual, slack) = solve(form, [p.value])
    np.testing.assert_allclose(got, p.value, atol=1e-7)
    np.testing.assert_allclose(dual, 2, atol=1e-7)
    np.testing.assert_allclose(slack, 0, atol=1e-7)


def test_dual_of_an_approximated_cone_is_refused():
    x = cp.Variable(3, pos=True)
    cone = cp.constraints.RelEntrConeQuad(x[0], x[1], x[2], 3, 3)
    problem = cp.Problem(cp.Minimize(cp.sum(x)), [cone, x >= 1])
    build(problem, [], [x])
    for requested in (cone, cone.dual_variables[0]):
        with pytest.raises(ProblemError, match="RelEntrConeQuad"):
            build(problem, [], [requested])
    assert everything(problem) == ([], [x, *duals(problem.constraints[1:])])


def test_everything_is_every_variable_and_every_dual():
    x, y, p = cp.Variable(2), cp.Variable(), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.norm(x - p) + y), [y >= 1, cp.SOC(y, x)])
    parameters, variables = everything(problem)
    assert parameters == [p]
    assert variables == [*problem.variables(), *duals(problem.constraints)]


def test_auxiliary_variables_are_marked():
    x = cp.Variable(3)
    form = build(cp.Problem(cp.Minimize(cp.norm1(x))), [], [])
    assert form.auxiliary.sum() == form.program.n - 3 > 0
