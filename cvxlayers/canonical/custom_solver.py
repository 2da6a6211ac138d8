"""Our solvers inside CVXPY: `problem.solve(solver=...)` through its interface for custom solvers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy import settings
from cvxpy.constraints.power import PowCone3D
from cvxpy.constraints.second_order import SOC
from cvxpy.reductions.solution import Solution
from cvxpy.reductions.solvers.conic_solvers.conic_solver import ConicSolver

from cvxlayers import solvers
from cvxlayers.canonical.rows import Rows, arrange
from cvxlayers.conic.program import ConeData, ConeProgram, ConicSolution, Pattern
from cvxlayers.sets import Exponential, PositiveSemidefinite, Power, SecondOrder
from cvxlayers.status import Status

_CONSTRAINTS = {SecondOrder: SOC, PositiveSemidefinite: cp.PSD, Exponential: cp.ExpCone, Power: PowCone3D}

_STATUS = {
    Status.SOLVED: settings.OPTIMAL,
    Status.INACCURATE: settings.OPTIMAL_INACCURATE,
    Status.INFEASIBLE: settings.INFEASIBLE,
    Status.UNBOUNDED: settings.UNBOUNDED,
    Status.MAX_ITERATIONS: settings.USER_LIMIT,
}


class CvxpySolver(ConicSolver):
    """A solver of this library as a custom solver of CVXPY: what ``problem.solve(solver=...)`` takes.

    CVXPY canonicalizes the problem with the cones and the quadratic objective that the solver takes, and gets back
    statuses, values and dual variables by its own rules; residuals are in ``problem.solver_stats.extra_stats``. A
    problem that ends with ``user_limit`` has values NaN. Settings may also be given to ``problem.solve``. Layers and
    `cvxlayers.solve` take the object, too.

    Parameters
    ----------
    solver : str or cvxlayers.solvers.Solver
        The solver, by name or with its settings.
    **options
        Settings over its own.

    Raises
    ------
    SettingsError
        There is no such solver or setting.

    Examples
    --------
    >>> x = cp.Variable(2)
    >>> problem = cp.Problem(cp.Minimize(cp.sum_squares(x - np.array([1.0, -2.0]))), [x >= 0])
    >>> value = problem.solve(solver=CvxpySolver("clarabel", tol=1e-9))
    >>> round(float(value), 6), problem.status, problem.solver_stats.solver_name
    (4.0, 'optimal', 'CVXLAYERS_CLARABEL')
    """

    EXP_CONE_ORDER = [0, 1, 2]

    ours: Any
    """The solver of this library; `cvxlayers.solvers.resolve` looks for it."""

    def __init__(self, solver: str | solvers.Solver, **options: Any) -> None:
        super().__init__()
        self.ours = solvers.resolve(solver, options)
        cones = self.ours.capabilities.cones
        curved = [constraint for cone, constraint in _CONSTRAINTS.items() if cone in cones]
        self.SUPPORTED_CONSTRAINTS = [*ConicSolver.SUPPORTED_CONSTRAINTS, *curved]

    def name(self) -> str:
        return "CVXLAYERS_" + self.ours.name.upper().replace(", ", "_").replace(" ", "_")

    def import_solver(self) -> None:
        if self.ours.package is not None:
            self.ours.load()

    def supports_quad_obj(self) -> bool:
        return self.ours.capabilities.quadratic

    # CVXPY keeps the canonical form of a problem for as long as the solver stays equal.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, CvxpySolver) and self.ours == other.ours

    def __hash__(self) -> int:
        return hash((CvxpySolver, self.ours))

    def __repr__(self) -> str:
        return f"cvxlayers.CvxpySolver({self.ours!r})"

    def apply(self, problem: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The data of the cone program in our canonical form, and what `invert` needs."""
        rows = arrange(problem.constraints)
        quadratic = problem.P is not None
        *P, q, constant, A, b = problem.apply_parameters(quad_obj=quadratic)
        # CVXPY has A x + b in the cones, in its own order of the rows.
        height = len(rows.target)
        move = sp.csr_array((rows.scale, (rows.target, np.arange(height))), shape=(rows.cone.size, height))
        data = {
            settings.PARAM_PROB: problem,
            settings.C: q,
            settings.A: sp.csc_array(-(move @ A)),
            settings.B: move @ np.asarray(b),
            self.DIMS: problem.cone_dims,
            "cone": rows.cone,
        }
        if quadratic:
            data[settings.P] = sp.csc_array(P[0])
        inverse = {self.VAR_ID: problem.x.id, settings.OFFSET: constant, "rows": rows}
        inverse["constraints"] = problem.constraints
        return data, inverse

    def solve_via_data(
        self,
        data: dict[str, Any],
        warm_start: bool,
        verbose: bool,
        solver_opts: Mapping[str, Any],
        solver_cache: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Solve the program of `apply`: the solution, its objective and the seconds that it took."""
        options = {name: value for name, value in solver_opts.items() if name != "use_quad_obj"}
        solver = solvers.resolve(self.ours, {"verbose": True, **options} if verbose else options)
        q, A, b = data[settings.C], data[settings.A], data[settings.B]
        P = sp.triu(data[settings.P]) if settings.P in data else sp.csc_array((q.size, q.size))
        (P, P_values), (A, A_values) = _pattern(P), _pattern(A)
        before = (solver_cache or {}).get(self.name()) if warm_start else None
        if before is not None and (before.x.shape[1], before.z.shape[1]) != (A.shape[1], A.shape[0]):
            before = None
        start = time.perf_counter()
        prepared = solver.prepare(ConeProgram(P, A, data["cone"]))
        solution = prepared.solve(ConeData(1, P_values, q, A_values, b, np.zeros(())), before)
        seconds = time.perf_counter() - start
        if solver_cache is not None:
            solver_cache[self.name()] = solution
        x = solution.x[0]
        upper = P.csc(P_values)
        value = x @ (upper @ x) - 0.5 * x @ (upper.diagonal() * x) + q @ x
        return {"solution": solution, "value": float(value), "seconds": seconds}

    def invert(self, solution: dict[str, Any], inverse_data: Any) -> Solution:
        """What CVXPY wants to know, from what `solve_via_data` returned."""
        found: ConicSolution = solution["solution"]
        status = _STATUS.get(Status(int(found.status[0])), settings.SOLVER_ERROR)
        facts = {
            settings.SOLVE_TIME: solution["seconds"],
            settings.NUM_ITERS: int(found.iterations[0]),
            settings.EXTRA_STATS: {"residuals": None if found.residuals is None else found.residuals[0]},
        }
        rows: Rows = inverse_data["rows"]
        duals = {} if status == settings.SOLVER_ERROR else _duals(inverse_data["constraints"], rows, found.z[0])
        if status not in settings.SOLUTION_PRESENT:  # the dual values of an infeasible problem are its certificate
            value = {settings.INFEASIBLE: np.inf, settings.UNBOUNDED: -np.inf}.get(status)
            return Solution(status, value, {}, duals if status == settings.INFEASIBLE else {}, facts)
        value = solution["value"] + inverse_data[settings.OFFSET]
        return Solution(status, value, {inverse_data[self.VAR_ID]: found.x[0]}, duals, facts)

    def cite(self, data: Any) -> str:
        return ""


class Native(CvxpySolver):
    """The native solver, ready for CVXPY: ``problem.solve(solver=cvxlayers.Native())``.

    Keyword arguments are the settings of `cvxlayers.solvers.Native`, which holds the settings alone, by any of their
    names. Layers and `cvxlayers.solve` take the object, too.

    Raises
    ------
    SettingsError
        There is no such setting, or its value is out of range.

    Examples
    --------
    >>> x = cp.Variable(2)
    >>> problem = cp.Problem(cp.Minimize(cp.sum_squares(x - np.array([1.0, -2.0]))), [x >= 0])
    >>> round(float(problem.solve(solver=Native(tol=1e-9))), 6), problem.status
    (4.0, 'optimal')
    """

    ours = solvers.Native

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(solvers.Native(*args), **options)

    def __repr__(self) -> str:
        return f"cvxlayers.{self.ours!r}"


def _duals(constraints: list, rows: Rows, z: np.ndarray) -> dict[int, Any]:
    """The dual value of each constraint, its rows in the order in which CVXPY's cones have them."""
    found = {}
    for constraint in constraints:
        parts = [rows.entries(constraint.id, j) for j in range(len(constraint.args))]
        if isinstance(constraint, cp.PSD):
            at, scale = parts[0]
            value = scale * z[at]
        else:  # the rows of one cone after the other, whichever argument they belong to
            value = z[np.sort(np.concatenate([at for at, _ in parts]))]
        found[constraint.id] = value[0] if value.size == 1 else value
    return found


def _pattern(matrix: Any) -> tuple[Pattern, np.ndarray]:
    matrix = sp.csc_array(matrix)
    matrix.sum_duplicates()
    cols = np.repeat(np.arange(matrix.shape[1]), np.diff(matrix.indptr))
    return Pattern(matrix.shape, matrix.indices.astype(np.int64), cols), matrix.data
