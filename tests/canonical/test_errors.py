"""What cannot become a layer is refused, with the expression and the way out."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers.canonical import build
from cvxlayers.errors import ProblemError

X = cp.Variable(2, name="x")
P = cp.Parameter(2, name="p")
GOOD = cp.Problem(cp.Minimize(cp.sum_squares(X - P)), [X >= 0])


def test_not_a_problem():
    with pytest.raises(ProblemError, match="'problem' should be a cvxpy.Problem; got str"):
        build("problem", [], [])


def test_not_convex():
    with pytest.raises(ProblemError, match=r"not convex by the DCP rules because of 'Sum\(Power"):
        build(cp.Problem(cp.Minimize(cp.sum_squares(X) + cp.sum(cp.power(X, 0.5)))), [], [X])
    with pytest.raises(ProblemError, match=r"not convex by the DCP rules because of '1\.0 <= Pnorm"):
        build(cp.Problem(cp.Minimize(cp.sum(X)), [cp.norm(X) >= 1]), [], [X])


@pytest.mark.parametrize(
    ("problem", "quoted"),
    [
        (lambda: cp.Problem(cp.Minimize(cp.sum_squares(X - cp.multiply(P, P)))), "p"),
        (lambda: cp.Problem(cp.Minimize(cp.sum(X)), [X >= cp.multiply(P, P)]), "p"),
        (lambda: cp.Problem(cp.Minimize(cp.sum(X)), [X >= 0, cp.square(P[0]) * cp.norm(X) <= 1]), "p"),
        (lambda: cp.Problem(cp.Minimize(cp.sum(X)), [X <= cp.exp(P)]), "exp"),
    ],
)
def test_not_dpp(problem, quoted):
    with pytest.raises(ProblemError, match=rf"not DPP because of '[^']*{quoted}.*Parameters must enter affinely"):
        build(problem(), [P], [X])


def test_parametric_quadratic_form_in_a_constraint():
    S = cp.Parameter((2, 2), PSD=True)
    with pytest.raises(ProblemError, match=r"not DPP because of 'QuadForm.*P_sqrt @ x"):
        build(cp.Problem(cp.Minimize(cp.sum(X)), [cp.quad_form(X, S) <= 1]), [S], [X])


def test_quadratic_form_of_a_matrix_that_is_only_symmetric():
    S = cp.Parameter((2, 2), symmetric=True)
    with pytest.raises(ProblemError, match=r"not convex .* because of 'QuadForm.*Declare the parameter PSD=True"):
        build(cp.Problem(cp.Minimize(cp.quad_form(X, S))), [S], [X])


@pytest.mark.parametrize("attribute", ["boolean", "integer"])
def test_mixed_integer(attribute):
    y = cp.Variable(2, name="count", **{attribute: True})
    with pytest.raises(ProblemError, match="'count' is boolean or integer.*Relax"):
        build(cp.Problem(cp.Minimize(cp.sum(y))), [], [y])


def test_finite_set():
    with pytest.raises(ProblemError, match="mixed-integer"):
        build(cp.Problem(cp.Minimize(cp.sum(X)), [cp.constraints.FiniteSet(X, np.array([1, 2]))]), [], [X])


def test_geometric_and_quasiconvex_programs_are_recognized():
    y = cp.Variable(2, pos=True)
    with pytest.raises(ProblemError, match="pass gp=True"):
        build(cp.Problem(cp.Minimize(y[0] / y[1]), [y[0] * y[1] >= 1]), [], [y])
    with pytest.raises(ProblemError, match=r"quasiconvex \(DQCP\)"):
        build(cp.Problem(cp.Minimize(cp.ceil(X[0])), [X >= 1.5]), [], [X])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([], "does not list: p"),
        ([P, P], r"'parameters\[1\]' \('p'\) is listed twice"),
        ([P, cp.Parameter(name="other")], r"'parameters\[1\]' \('other'\) is not in the problem"),
        ([P, 3.0], r"'parameters\[1\]' should be a cvxpy.Parameter; got float"),
        (P, "'parameters' should be a list or tuple; got Parameter"),
    ],
)
def test_parameters(parameters, message):
    with pytest.raises(ProblemError, match=message):
        build(GOOD, parameters, [X])


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ([X, X], r"'variables\[1\]' \('x'\) is listed twice"),
        ([cp.Variable(name="y")], r"'variables\[0\]' \('y'\) is not in the problem"),
        ([X, P], r"'variables\[1\]' should be a cvxpy.Variable.*got Parameter"),
        ([X, 2 * X], r"'variables\[1\]' should be a cvxpy.Variable"),
        ([X >= 1], r"'variables\[0\]' \('1.0 <= x'\) is not in the problem"),
        ([GOOD.constraints[0], GOOD.constraints[0]], "is listed twice"),
        ([(X >= 1).dual_variables[0]], "is not in the problem"),
        (X, "'variables' should be a list or tuple; got Variable"),
    ],
)
def test_variables(variables, message):
    with pytest.raises(ProblemError, match=message):
        build(GOOD, [P], variables)
