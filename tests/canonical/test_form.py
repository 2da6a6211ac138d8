"""Patterns, order of the cones, and what a build leaves behind."""

from __future__ import annotations

import resource
import time

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers.canonical import build, current_values
from cvxlayers.errors import ProblemError
from cvxlayers.sets import Exponential, Nonnegative, PositiveSemidefinite, Power, SecondOrder, Zero
from tests.canonical.reference import data, parameter, solve


def least_squares(m, n):
    Q, p, G, h = cp.Parameter((n, n)), cp.Parameter(n), cp.Parameter((m, n)), cp.Parameter(m)
    x = cp.Variable(n)
    return cp.Problem(cp.Minimize(cp.sum_squares(Q @ x) + p @ x), [G @ x <= h]), [Q, p, G, h], [x]


def assert_ordered(pattern):
    key = pattern.cols * pattern.shape[0] + pattern.rows
    assert np.all(np.diff(key) > 0)


def test_patterns_hold_what_depends_on_a_parameter_and_no_zero_constants():
    x, a = cp.Variable(3), cp.Parameter(2)
    matrix = np.array([[0.0, 1.0, 0.0]])
    problem = cp.Problem(cp.Minimize(a[0] * x[2] + 0 * x[0]), [a[1] * x[0] + matrix @ x <= 1, x[2] >= 0])
    form = build(problem, [a], [x])
    A = form.program.A
    assert_ordered(A)
    entries = set(zip(A.rows.tolist(), A.cols.tolist(), strict=True))
    assert len(entries) == 3
    _, q, dense_A, _, _ = data(form, [np.zeros(2)])
    assert dense_A.nnz == 3 and np.count_nonzero(dense_A.toarray()) == 2
    assert np.count_nonzero(q) == 0
    assert np.count_nonzero(data(form, [np.array([1.0, 2.0])])[2].toarray()) == 3


def test_quadratic_objective_stays_quadratic_and_upper():
    x = cp.Variable(3)
    M = np.array([[2.0, 1, 0], [1, 3, 1], [0, 1, 4]])
    form = build(cp.Problem(cp.Minimize(cp.quad_form(x, M) + cp.sum(x))), [], [x])
    assert (form.program.n, form.program.m) == (3, 0)
    assert np.all(form.program.P.rows <= form.program.P.cols)
    assert_ordered(form.program.P)
    np.testing.assert_allclose(data(form, [])[0].toarray(), 2 * M)


def test_cones_in_order():
    x, X = cp.Variable(3), cp.Variable((2, 2), symmetric=True)
    constraints = [
        cp.constraints.PowCone3D(x[0], x[1], x[2], 0.3),
        cp.ExpCone(x[0], x[1], x[2]),
        X >> 0,
        cp.SOC(x[0], x[1:]),
        x >= 0,
        cp.sum(x) == 1,
        x <= 4,
    ]
    blocks = build(cp.Problem(cp.Minimize(cp.trace(X)), constraints), [], [x]).program.cone.blocks
    expected = (Zero(1), Nonnegative(6), SecondOrder(3), PositiveSemidefinite(2), Exponential(), Power(0.3))
    assert blocks == expected


def test_lift_is_the_affine_map_of_the_data():
    """The problem's own objective and constraints at a point are those of the conic data."""
    rng = np.random.default_rng(3)
    problem, parameters, (x,) = least_squares(4, 3)
    for p in parameters:
        p.value = rng.normal(size=p.shape)
    form = build(problem, parameters, [x])
    P, q, A, b, r = data(form, current_values(parameters))
    x.value = rng.normal(size=3)
    Q, G = parameters[0].value, parameters[2].value
    (place,) = np.nonzero(~form.auxiliary)
    point = np.zeros(form.program.n)
    point[place] = x.value
    point[form.auxiliary] = Q @ x.value
    np.testing.assert_allclose(0.5 * point @ P @ point + q @ point + r, problem.objective.value)
    residual = b - A @ point
    np.testing.assert_allclose(residual[:3], 0, atol=1e-12)
    np.testing.assert_allclose(residual[3:], parameters[3].value - G @ x.value)


def test_the_problem_is_not_touched():
    x, p = cp.Variable(2), parameter(np.array([5.0, -3.0]))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= -8, cp.norm(x) <= 100])
    first = build(problem, [p], [x])
    assert problem._cache.param_prog is None and x.value is None
    expected = solve(first, [p.value])[1][0]
    problem.solve(solver=cp.CLARABEL)
    np.testing.assert_allclose(x.value, expected, atol=1e-5)
    second = build(problem, [p], [x])
    np.testing.assert_allclose(solve(second, [p.value])[1][0], expected, atol=1e-8)
    p.value = np.array([1.0, 2.0])
    problem.solve(solver=cp.CLARABEL)
    np.testing.assert_allclose(x.value, [1, 2], atol=1e-5)


def test_order_of_the_parameters_is_the_callers():
    problem, (Q, p, G, h), (x,) = least_squares(2, 2)
    form = build(problem, [h, G, Q, p], [x])
    assert [described.shape for described in form.parameters] == [(2,), (2, 2), (2, 2), (2,)]
    assert set(form.lift.b.blocks) == {0}


def test_current_values():
    p, q = parameter(np.arange(3.0)), cp.Parameter(name="weight")
    assert current_values([p])[0].dtype == float
    with pytest.raises(ProblemError, match="'weight' has no value"):
        current_values([p, q])


@pytest.mark.slow
def test_construction_with_many_parameters_is_fast_and_small():
    """0.72 million scalar parameters; the peer takes 25 s and 6.8 GB where it lowers the quadratic to a cone."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    form = build(*least_squares(600, 600))
    elapsed = time.process_time() - start
    assert form.program.A.nnz == 2 * 600 * 600 + 600
    assert form.program.P.nnz == 600
    assert elapsed < 2.0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024
