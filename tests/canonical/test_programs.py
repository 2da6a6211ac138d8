"""Every cone and every kind of problem: objective, variables and dual variables are those of CVXPY."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
from cvxpy.constraints import SOC, PowCone3D, PowConeND
from cvxpy.transforms.partial_optimize import partial_optimize

from cvxlayers.canonical import build, everything
from cvxlayers.errors import ProblemError
from tests.canonical.reference import agrees, cvxpy_value, duals, parameter, solve

RECENT = tuple(int(part) for part in cp.__version__.split(".")[:2]) >= (1, 9)
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape)


def quadratic_program():
    x = cp.Variable(3)
    constraints = [parameter(normal(2, 3)) @ x <= 1, x >= 0, cp.sum(x) == 1]
    return cp.Minimize(cp.sum_squares(x - parameter(normal(3)))), constraints


def linear_program():
    x = cp.Variable(3)
    constraints = [x >= parameter(normal(3)), x <= 3, cp.sum(x) == parameter(1.3)]
    return cp.Maximize(parameter(normal(3)) @ x + 2.0), constraints


def quadratic_with_other_terms():
    x = cp.Variable(4)
    scale = parameter(0.3, nonneg=True)
    value = cp.sum_squares(parameter(normal(5, 4)) @ x - parameter(normal(5))) + scale * cp.norm1(x) + cp.max(x)
    return cp.Minimize(value + 0.1 * cp.sum(cp.exp(x))), [cp.norm(x, 2) <= parameter(0.5)]


def parametric_quadratic_form():
    root = normal(3, 3)
    x, P = cp.Variable(3), parameter(root @ root.T, PSD=True)
    value = cp.quad_form(x, P) + 2 * cp.quad_form(x, np.eye(3)) + parameter(normal(3)) @ x
    return cp.Minimize(value), [cp.sum(x) == 1]


def complex_parametric_quadratic_form():
    root = normal(3, 3) + 1j * normal(3, 3)
    z, P = cp.Variable(3, complex=True), parameter(root @ root.conj().T + np.eye(3), complex=True, PSD=True)
    return cp.Minimize(cp.quad_form(z, P) + cp.real(cp.sum((1 + 2j) * z))), []


def second_order_columns():
    t, X = cp.Variable(4), cp.Variable((3, 4))
    return cp.Minimize(np.arange(1, 5) @ t), [SOC(t, X), X == parameter(normal(3, 4)), t <= 10]


def second_order_rows():
    t, X = cp.Variable(4), cp.Variable((4, 3))
    return cp.Minimize(np.arange(1, 5) @ t), [SOC(t, X, axis=1), X == parameter(normal(4, 3))]


def second_order_vector():
    t, x = cp.Variable(), cp.Variable(3)
    return cp.Minimize(t), [SOC(t, x), x >= parameter(normal(3) + 1)]


def norms():
    x = cp.Variable(4)
    constraints = [cp.norm(x) <= parameter(1.0), cp.norm(x, 1) <= 1.5, cp.norm(x, "inf") <= 0.9]
    return cp.Minimize(parameter(normal(4)) @ x), constraints


def exponential_scalar():
    x, z = cp.Variable(), cp.Variable()
    return cp.Minimize(z), [cp.ExpCone(x, cp.Constant(1.0), z), x >= parameter(0.3)]


def exponential_vector():
    x, y, z = cp.Variable(4), cp.Variable(4), cp.Variable(4)
    constraints = [cp.ExpCone(x, y, z), x == parameter(normal(4)), y == np.arange(1, 5)]
    return cp.Minimize(np.arange(1, 5) @ z), constraints


def logistic_regression():
    w = cp.Variable(3)
    return cp.Minimize(cp.sum(cp.logistic(-parameter(normal(10, 3)) @ w)) + 0.1 * cp.sum_squares(w)), []


def entropy():
    x = cp.Variable(3, nonneg=True)
    q = parameter(np.array([0.2, 0.3, 0.5]), nonneg=True)
    return cp.Minimize(cp.sum(cp.kl_div(x, q)) + cp.power(x[0], 1.7) + cp.exp(x[1])), [cp.sum(x) == 1]


def power_scalar():
    x, y, z = cp.Variable(), cp.Variable(), cp.Variable()
    return cp.Maximize(z), [PowCone3D(x, y, z, 0.3), x + 2 * y <= parameter(1.0)]


def power_matrix():
    x, y, z = (cp.Variable((2, 3)) for _ in range(3))
    alpha = np.linspace(0.2, 0.8, 6).reshape(2, 3)
    weight = np.arange(1, 7).reshape(2, 3)
    constraints = [PowCone3D(x, y, z, alpha), x + 2 * y <= parameter(RNG.uniform(1, 2, (2, 3)))]
    return cp.Maximize(cp.sum(cp.multiply(weight, z))), constraints


def _power_nd(k, axis, n=3):
    shape = (k, n) if axis == 0 else (n, k)
    W, z = cp.Variable(shape), cp.Variable(n)
    alpha = RNG.uniform(0.1, 1, shape)
    alpha /= alpha.sum(axis=axis, keepdims=True)
    budget = cp.sum(cp.multiply(RNG.uniform(1, 2, shape), W), axis=axis) <= parameter(RNG.uniform(1, 2, n))
    return cp.Maximize(np.arange(1, n + 1) @ z), [PowConeND(W, z, alpha, axis=axis), budget]


def power_nd_odd():
    return _power_nd(5, 0)


def power_nd_even():
    return _power_nd(4, 0)


def power_nd_vector():
    W, z = cp.Variable(4), cp.Variable()
    return cp.Maximize(z), [PowConeND(W, z, np.array([0.1, 0.2, 0.3, 0.4])), cp.sum(W) <= parameter(1.0)]


def semidefinite():
    X, C = cp.Variable((3, 3), symmetric=True), normal(3, 3)
    constraints = [X >> 0, cp.diag(X) == 1, X << 3 * np.eye(3)]
    return cp.Minimize(cp.trace(parameter(C + C.T) @ X)), constraints


def semidefinite_part():
    X = cp.Variable((3, 3))
    return cp.Minimize(cp.sum_squares(X - parameter(normal(3, 3)))), [X >> np.eye(3), cp.diag(X) == 2]


def log_determinant():
    X = cp.Variable((3, 3), PSD=True)
    return cp.Minimize(cp.trace(parameter(np.eye(3) + 0.1, PSD=True) @ X) - cp.log_det(X)), []


def largest_eigenvalue():
    X = cp.Variable((3, 3))
    S = parameter(np.array([[1.0, 2, 3], [2, 0, 1], [3, 1, -1]]), symmetric=True)
    return cp.Minimize(cp.lambda_max((X + X.T) / 2 + S) + cp.sum_squares(X)), []


def mixed_cones():
    x, X = cp.Variable(3), cp.Variable((2, 2), PSD=True)
    shift = parameter(normal(3))
    constraints = [
        cp.sum(x) == 1,
        cp.norm(x - shift) <= 2,
        cp.exp(x[0]) <= 2,
        PowCone3D(x[1] + 2, x[2] + 2, 0.5 + x[0], 0.4),
        X + cp.diag(x[:2]) >> 0.1 * np.eye(2),
        x >= -1,
    ]
    return cp.Minimize(cp.sum_squares(x + shift) + cp.trace(X) + cp.sum_squares(X - 0.3)), constraints


def broadcast():
    x = cp.Variable((2, 3))
    constraints = [x >= parameter(0.5), cp.sum(x) == parameter(np.array([7.0])), x[0] <= 1.2]
    return cp.Minimize(cp.sum_squares(x - np.arange(6).reshape(2, 3))), constraints


def many_dimensions():
    X = cp.Variable((2, 3, 4))
    constraints = [X >= parameter(normal(2, 3, 4)), cp.sum(X, axis=1) <= 5]
    return cp.Minimize(cp.sum_squares(X - 1)), constraints


def without_parameters():
    x = cp.Variable(2)
    return cp.Minimize(cp.sum_squares(x - 1)), []


def constant_constraints():
    x = cp.Variable(2)
    return cp.Minimize(cp.sum(x)), [cp.Constant(1) <= 2, parameter(normal(2)) <= 10, x >= 1]


def constant_objective():
    x = cp.Variable(2)
    return cp.Minimize(parameter(2.0)), [x == parameter(normal(2))]


def zero_and_nonnegative():
    x = cp.Variable((2, 2))
    return cp.Minimize(cp.sum(x)), [cp.Zero(x[0] - parameter(normal(2))), cp.NonNeg(x - 0.5 * np.eye(2) + 9)]


CASES = [
    quadratic_program,
    linear_program,
    quadratic_with_other_terms,
    second_order_columns,
    second_order_rows,
    second_order_vector,
    norms,
    exponential_scalar,
    exponential_vector,
    logistic_regression,
    entropy,
    power_scalar,
    power_matrix,
    power_nd_odd,
    power_nd_even,
    power_nd_vector,
    semidefinite,
    semidefinite_part,
    log_determinant,
    largest_eigenvalue,
    mixed_cones,
    broadcast,
    many_dimensions,
    without_parameters,
    constant_constraints,
    constant_objective,
    zero_and_nonnegative,
]
if RECENT:  # Older versions of CVXPY do not call them DPP.
    CASES += [parametric_quadratic_form, complex_parametric_quadratic_form]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_agrees_with_cvxpy(case):
    problem = cp.Problem(*case())
    agrees(problem, [*problem.variables(), *duals(problem.constraints)])


def test_power_nd_along_rows_agrees_with_cvxpy():
    problem = cp.Problem(*_power_nd(4, 1))
    agrees(problem, problem.variables())


def test_constraint_listed_twice_keeps_its_whole_dual():
    x, p = cp.Variable(2), parameter(normal(2))
    constraint = x >= p
    agrees(cp.Problem(cp.Minimize(cp.sum(x)), [constraint]), [x, constraint.dual_variables[0]])
    once = cp.Problem(cp.Minimize(cp.sum(x)), [constraint])
    twice = cp.Problem(cp.Minimize(cp.sum(x)), [constraint, constraint])
    forms = [build(problem, [p], [constraint.dual_variables[0]]) for problem in (once, twice)]
    assert forms[0].program.m == forms[1].program.m == 2


def test_partial_minimization_is_inlined():
    x, y, p = cp.Variable(2), cp.Variable(2, nonneg=True), parameter(normal(2))
    inner = cp.Problem(cp.Minimize(cp.sum_squares(x - y) + cp.sum(y)), [y >= p])
    nested = cp.Problem(cp.Minimize(partial_optimize(inner, [y], [x]) + cp.sum_squares(x - 1)))
    flat = cp.Problem(cp.Minimize(inner.objective.expr + cp.sum_squares(x - 1)), [y >= p])
    cvxpy_value(flat)
    _, (got,) = solve(build(nested, [p], [x]), [p.value])
    np.testing.assert_allclose(got, x.value, atol=1e-5)


def test_problem_without_variables():
    p = parameter(normal(3))
    constraint = p <= 10
    for objective in (cp.Minimize(cp.sum(p) + 3), cp.Maximize(cp.sum(p) + 3), cp.Minimize(cp.sum(cp.exp(p)))):
        problem = cp.Problem(objective, [constraint])
        form = build(problem, [p], [constraint.dual_variables[0], constraint])
        value, (dual, slack) = solve(form, [p.value])
        np.testing.assert_allclose(value, objective.value, rtol=1e-7)
        np.testing.assert_allclose(dual, 0, atol=1e-7)
        np.testing.assert_allclose(slack, 10 - p.value, rtol=1e-7)
        assert form.auxiliary.all()


def test_support_function_of_a_parameter():
    """CVXPY does not report the parameter; the support function of the unit ball is the norm."""
    y, x, p = cp.Variable(2), cp.Variable(2), parameter(np.ones(2))
    support = cp.suppfunc(y, [cp.norm(y) <= 1])
    problem = cp.Problem(cp.Minimize(support(x - p) + cp.sum_squares(x)))
    reference = cp.Problem(cp.Minimize(cp.norm(x - p) + cp.sum_squares(x)))
    assert everything(problem)[0] == [p]
    cvxpy_value(reference)
    _, (got,) = solve(build(problem, [p], [x]), [p.value])
    np.testing.assert_allclose(got, x.value, atol=1e-6)


def test_perspective():
    x, s, p = cp.Variable(), cp.Variable(nonneg=True), parameter(0.7)
    agrees(cp.Problem(cp.Minimize(cp.perspective(cp.exp(x), s)), [s <= p, s >= 0.5, x >= 1]))
    problem = cp.Problem(cp.Minimize(cp.perspective(cp.exp(x) + p, s)), [s <= p, x >= 1])
    with pytest.raises(ProblemError, match="not DPP because of 'perspective"):
        build(problem, [p], [x])
