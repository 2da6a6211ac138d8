"""Feasible and bounded problems are never called anything else, whatever the scale of their data."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers
from cvxlayers import Status

x, q, b = cp.Variable(3), cp.Parameter(3), cp.Parameter(3)
Q, B = np.array([1.0, -2.0, 0.5]), np.array([1.0, -1.0, 0.3])
PROBLEMS = {
    "linear": cp.Problem(cp.Minimize(q @ x), [x >= b, x <= b + 2]),
    "quadratic": cp.Problem(cp.Minimize(cp.sum_squares(x) + q @ x), [x >= b, x <= b + 2]),
    "second-order": cp.Problem(cp.Minimize(q @ x), [cp.norm(x - b) <= 1]),
    "quadratic over a ball": cp.Problem(cp.Minimize(cp.sum_squares(x) + q @ x), [cp.norm(x - b) <= 1]),
}


@pytest.mark.parametrize("solver", [None, "CLARABEL", "SCS", "ECOS"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_no_false_claims(name, solver):
    problem = PROBLEMS[name]
    for q_scale in (1e-6, 1.0, 1e6, 1e9):
        for b_scale in (1e-6, 1.0, 1e6, 1e9):
            if solver == "ECOS" and name.startswith("quadratic") and b_scale > 1:
                continue  # as a cone x'x has a variable of the size of x'x, 1e12 here: out of reach of any certificate
            values = {q: q_scale * Q, b: b_scale * B}
            result = cvxlayers.solve(problem, solver, parameters=values, on_failure="nan")
            assert result.status not in (Status.INFEASIBLE, Status.UNBOUNDED, Status.INVALID_INPUT), (q_scale, b_scale)


@pytest.mark.parametrize("name", ["linear", "quadratic"])
def test_solutions_over_scales(name):
    """The default choice solves them, to an accuracy relative to the data."""
    for q_scale in (1e-6, 1.0, 1e6):
        for b_scale in (1e-6, 1.0, 1e6):
            result = cvxlayers.solve(PROBLEMS[name], parameters={q: q_scale * Q, b: b_scale * B})
            if name == "linear":
                expected = np.where(Q > 0, b_scale * B, b_scale * B + 2)
            else:
                expected = np.clip(-q_scale * Q / 2, b_scale * B, b_scale * B + 2)
            np.testing.assert_allclose(result[x], expected, atol=1e-5 * (1 + b_scale))


@pytest.mark.parametrize("solver", [None, "CLARABEL", "SCS", "ECOS"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e6])
def test_problems_without_a_solution_are_found_at_every_scale(solver, scale):
    infeasible = cp.Problem(cp.Minimize(q @ x), [x >= b, cp.sum(x) <= cp.sum(b) - abs(scale)])
    unbounded = cp.Problem(cp.Minimize(q @ x), [x >= b])
    cases = ((infeasible, Q, scale * B, Status.INFEASIBLE), (unbounded, scale * Q, B, Status.UNBOUNDED))
    for problem, q_value, b_value, expected in cases:
        result = cvxlayers.solve(problem, solver, parameters={q: q_value, b: b_value}, on_failure="nan")
        # The proofs of ECOS are rough, and so are all at 1e6: a solver may fail to prove, and never solves.
        unproved = result.status == Status.NUMERICAL_ERROR and (solver == "ECOS" or scale == 1e6)
        assert result.status == expected or unproved
