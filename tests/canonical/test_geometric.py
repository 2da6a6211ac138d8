"""Geometric programs: logarithms of parameters in, exponentials of the solution out."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers.canonical import build
from cvxlayers.errors import ProblemError
from tests.canonical.reference import agrees, duals, parameter, solve


def posynomial():
    x, y = cp.Variable(pos=True), cp.Variable(2, pos=True)
    a, b = cp.Parameter(pos=True), cp.Parameter(2, pos=True)
    constraints = [x * y[0] >= a, x**0.5 <= 3 * a, b[0] * y[1] + x <= 10, y[1] * x >= 1]
    return cp.Problem(cp.Minimize(a * x + cp.sum(y) + b[1] / y[0]), constraints), a, b


def test_variables_and_duals_agree_with_cvxpy():
    problem, a, b = posynomial()
    a.value, b.value = 2.0, np.array([0.5, 0.7])
    agrees(problem, [*problem.variables(), *duals(problem.constraints)], gp=True)


def test_parameters_without_values():
    problem, a, b = posynomial()
    x, y = problem.variables()
    form = build(problem, [a, b], [x, y], gp=True)
    assert [p.transform for p in form.parameters] == ["log", "log"]
    assert [p.domain for p in form.parameters] == [("pos",), ("pos",)]
    value, got = solve(form, [2.0, np.array([0.5, 0.7])])
    a.value, b.value = 2.0, np.array([0.5, 0.7])
    np.testing.assert_allclose(value, problem.solve(gp=True, solver=cp.CLARABEL), rtol=1e-6)
    np.testing.assert_allclose(got[0], x.value, rtol=1e-4)
    np.testing.assert_allclose(got[1], y.value, rtol=1e-4)


def test_exponents_are_not_transformed():
    x, a, e = cp.Variable(pos=True), parameter(2.0, pos=True), parameter(0.7)
    problem = cp.Problem(cp.Minimize(a * x**e + 1 / x))
    agrees(problem, gp=True)
    assert [p.transform for p in build(problem, [a, e], [x], gp=True).parameters] == ["log", "identity"]


def test_one_parameter_as_factor_and_as_exponent():
    x, a = cp.Variable(pos=True), parameter(2.0, pos=True)
    problem = cp.Problem(cp.Minimize(a * x**a + 1 / x))
    agrees(problem, gp=True)
    described = build(problem, [a], [x], gp=True).parameters[0]
    assert described.transform == "both" and described.size == 2


def test_maximization_and_matrices():
    x, a = cp.Variable((2, 2), pos=True), parameter(np.array([[2.0, 1], [1.5, 2]]), pos=True)
    constraints = [x @ a <= 10, x[0, 1] <= 0.8, x[1, 0] <= 0.9]
    agrees(cp.Problem(cp.Maximize(cp.prod(x)), constraints), gp=True)


def test_bounds_and_symmetry():
    x = cp.Variable((2, 2), pos=True, bounds=[0.5, np.array([[3, np.inf], [np.inf, 2.0]])])
    y = cp.Variable((2, 2), pos=True, symmetric=True)
    a = parameter(np.array([[2.0, 1], [1, 3]]), pos=True, symmetric=True)
    objective = cp.sum(cp.multiply(a, x)) + cp.sum(1 / x) + cp.sum(cp.multiply(a, y)) + cp.sum(1 / y) + 3 * y[0, 1]
    form = build(cp.Problem(cp.Minimize(objective)), [a], [x, y], gp=True)
    _, (got_x, got_y) = solve(form, [a.value])
    np.testing.assert_allclose(got_x, np.maximum(1 / np.sqrt(a.value), 0.5), rtol=1e-4)
    # Off the diagonal: minimize 2 a t + 2 / t + 3 t.
    np.testing.assert_allclose(np.diag(got_y), 1 / np.sqrt(np.diag(a.value)), rtol=1e-4)
    np.testing.assert_allclose([got_y[0, 1], got_y[1, 0]], np.sqrt(2 / 5), rtol=1e-4)


def test_attributes_that_positive_entries_contradict():
    x, a = cp.Variable(pos=True), cp.Parameter((2, 2), diag=True)
    with pytest.raises(ProblemError, match="declared diag"):
        build(cp.Problem(cp.Minimize(x * cp.sum(a))), [a], [x], gp=True)


def test_not_geometric():
    x, p = cp.Variable(pos=True, name="x"), cp.Parameter(pos=True)
    with pytest.raises(ProblemError, match=r"not a geometric program \(DGP\) because of '2.0 <= x"):
        build(cp.Problem(cp.Minimize(p * x), [x + 1 / x >= 2]), [p], [x], gp=True)
    y = cp.Variable()
    with pytest.raises(ProblemError, match="pass gp=False"):
        build(cp.Problem(cp.Minimize(cp.square(y))), [], [y], gp=True)
    with pytest.raises(ProblemError, match="geometric program is not DPP"):
        build(cp.Problem(cp.Minimize((p * x) ** p)), [p], [x], gp=True)
