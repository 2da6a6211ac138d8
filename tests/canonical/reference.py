"""Solve canonical forms with Clarabel directly, and compare with what CVXPY says of the same problem."""

from __future__ import annotations

import warnings

import clarabel
import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from cvxlayers.canonical import AffineSolverAffine, build, current_values
from cvxlayers.sets import Exponential, Nonnegative, PositiveSemidefinite, Power, SecondOrder, Zero


def parameter(value, **attributes) -> cp.Parameter:
    """A parameter with this value."""
    return cp.Parameter(np.shape(value), value=np.asarray(value), **attributes)


def duals(constraints) -> list[cp.Variable]:
    """The dual variables of some constraints."""
    return [dual for constraint in constraints for dual in constraint.dual_variables]


def vectors(form: AffineSolverAffine, values) -> list[np.ndarray]:
    """Parameter values as the vectors that the lift reads."""
    out = []
    for parameter, value in zip(form.parameters, values, strict=True):
        value = np.ascontiguousarray(value, dtype=complex if parameter.complex else float).ravel()
        vector = value.view(float) if parameter.complex else value
        if parameter.transform == "log":
            vector = np.log(vector)
        elif parameter.transform == "both":
            vector = np.concatenate([vector, np.log(vector)])
        assert vector.shape == (parameter.size,)
        out.append(vector)
    return out


def data(form: AffineSolverAffine, values):
    """P (full), q, A, b, r at these parameter values."""
    v = vectors(form, values)
    upper = form.program.P.csc(form.lift.P(v))
    P = upper + sp.triu(upper, 1).T
    return P, form.lift.q(v), form.program.A.csc(form.lift.A(v)), form.lift.b(v), float(form.lift.r(v)[0])


def solve(form: AffineSolverAffine, values, tol: float = 1e-10):
    """The objective value and the outputs, by Clarabel."""
    P, q, A, b, r = data(form, values)
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_feas = settings.tol_gap_abs = settings.tol_gap_rel = tol
    cones = [_cone(block) for block in form.program.cone.blocks]
    solver = clarabel.DefaultSolver(sp.csc_matrix(sp.triu(P)), q, sp.csc_matrix(A), b, cones, settings)
    solution = solver.solve()
    assert str(solution.status) in ("Solved", "AlmostSolved"), solution.status
    point = {"x": np.array(solution.x), "z": np.array(solution.z), "s": np.array(solution.s)}
    value = form.sense * (0.5 * point["x"] @ (P @ point["x"]) + q @ point["x"] + r)
    outputs = []
    for output in form.outputs:
        vector = output.map([point[output.source]])
        vector = np.exp(vector) if output.transform == "exp" else vector
        vector = vector.view(complex) if output.complex else vector
        outputs.append(vector.reshape(output.shape))
    return (np.exp(value) if form.transform == "exp" else value), outputs


def _cone(block):
    if isinstance(block, Zero):
        return clarabel.ZeroConeT(block.size)
    if isinstance(block, Nonnegative):
        return clarabel.NonnegativeConeT(block.size)
    if isinstance(block, SecondOrder):
        return clarabel.SecondOrderConeT(block.size)
    if isinstance(block, PositiveSemidefinite):
        order = int(round((np.sqrt(8 * block.size + 1) - 1) / 2))
        return clarabel.PSDTriangleConeT(order)
    if isinstance(block, Exponential):
        return clarabel.ExponentialConeT()
    assert isinstance(block, Power)
    return clarabel.PowerConeT(block.alpha)


def dense(value) -> np.ndarray:
    return value.toarray() if sp.issparse(value) else np.asarray(value)


def cvxpy_value(problem: cp.Problem, gp: bool = False, tol: float = 1e-10) -> float:
    """Let CVXPY solve the problem as exactly as it can."""
    with warnings.catch_warnings():
        # It warns when it falls short of the tolerance, and when it picks another backend.
        warnings.simplefilter("ignore", UserWarning)
        value = problem.solve(solver=cp.CLARABEL, gp=gp, tol_gap_abs=tol, tol_gap_rel=tol, tol_feas=tol)
    assert problem.status in ("optimal", "optimal_inaccurate"), problem.status
    return value


def agrees(problem: cp.Problem, requested=None, gp: bool = False, tol: float = 1e-5) -> None:
    """Build, then let CVXPY solve; build again: both builds give CVXPY's objective, variables and duals.

    Parameters must have values and the solution must be unique.
    """
    requested = problem.variables() if requested is None else requested
    parameters = problem.parameters()
    before = build(problem, parameters, requested, gp=gp)
    value = cvxpy_value(problem, gp)
    expected = [dense(variable.value) for variable in requested]
    after = build(problem, parameters, requested, gp=gp)
    for form in (before, after):
        got_value, outputs = solve(form, current_values(parameters))
        np.testing.assert_allclose(got_value, value, rtol=tol, atol=tol)
        for variable, output, reference in zip(requested, outputs, expected, strict=True):
            assert output.shape == variable.shape
            # CVXPY keeps some duals of one cone as a column.
            np.testing.assert_allclose(
                output, reference.reshape(variable.shape), rtol=tol, atol=tol, err_msg=str(variable)
            )
