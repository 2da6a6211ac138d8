"""diffcp: a cone solver with a derivative of its own, kept for comparison with ours.

Agrawal, Barratt, Boyd, Busseti and Moursi, "Differentiating through a cone program", arXiv 1904.09043; the modes
lpgd* are those of Paulus, Martius and Musil, "LPGD: A general framework for backpropagation through embedded
optimization layers", arXiv 2407.05920.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cvxlayers.conic.program import ConeData, ConeProgram, ConicSolution, DenseData
from cvxlayers.errors import SettingsError
from cvxlayers.sets import Exponential, PositiveSemidefinite, SecondOrder
from cvxlayers.solvers.clarabel import Clarabel
from cvxlayers.solvers.ordering import Reordering, lower_triangles
from cvxlayers.solvers.scs import scs_cone
from cvxlayers.solvers.settings import choice, count, nonnegative, positive
from cvxlayers.solvers.solver import LINEAR, Capabilities, Prepared, Solver
from cvxlayers.status import Status


@dataclass(frozen=True, repr=False)
class DiffCP(Solver):
    """The solver diffcp, whose prepared form has an ``adjoint`` of its own.

    ``mode`` is how the adjoint is computed: "dense" and "lsmr" are accurate, "lsqr" stops early, and the three modes
    "lpgd", "lpgd_left" and "lpgd_right" are finite differences of size ``tau`` with the regularization ``rho``.
    ``solve_method`` is the solver underneath.

    >>> DiffCP(mode="dense").capabilities.derivative
    True
    """

    max_iter: int = count(100000)
    mode: str = choice("lsmr", "dense", "lsqr", "lsmr", "lpgd", "lpgd_left", "lpgd_right")
    solve_method: str = choice("Clarabel", "Clarabel", "SCS", "ECOS")
    acceleration_lookback: int = count(10, least=0)
    tau: float = positive(1e-4)
    rho: float = nonnegative(0.0)

    name = "DIFFCP"
    package = "diffcp"
    capabilities = Capabilities(
        LINEAR | {SecondOrder, PositiveSemidefinite, Exponential}, quadratic=False, derivative=True
    )

    def _prepare(self, program: ConeProgram) -> Prepared:
        if self.solve_method == "ECOS" and any(
            isinstance(block, PositiveSemidefinite) for block in program.cone.blocks
        ):
            raise SettingsError(
                "solver DIFFCP with solve_method='ECOS' lacks the cone PositiveSemidefinite, which the problem needs."
            )
        return _Prepared(self, program)


@dataclass(frozen=True, eq=False)
class DiffCPSolution(ConicSolution):
    """A solution with what diffcp needs for its adjoint: ``adjoints`` holds one function for each element, or None."""

    adjoints: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=object), repr=False)


class _Prepared(Prepared):
    """diffcp wants SCS's order of rows."""

    solver: DiffCP

    def __init__(self, solver: DiffCP, program: ConeProgram) -> None:
        super().__init__(solver, program)
        self._order = Reordering(program.A, lower_triangles(program.cone))
        self._cone = {key: size for key, size in scs_cone(program).items() if key != "p"}
        self._settings = {
            "SCS": {
                "eps_abs": solver.tol,
                "eps_rel": solver.tol,
                "max_iters": solver.max_iter,
                "acceleration_lookback": solver.acceleration_lookback,
            },
            "ECOS": {"abstol": solver.tol, "reltol": solver.tol, "feastol": solver.tol, "max_iters": solver.max_iter},
            "Clarabel": {
                "tol_gap_abs": solver.tol,
                "tol_gap_rel": solver.tol,
                "tol_feas": solver.tol,
                "max_iter": solver.max_iter,
                "max_threads": 1,
            },
        }[solver.solve_method]
        if solver.mode.startswith("lpgd"):
            self._settings["derivative_kwargs"] = {"tau": solver.tau, "rho": solver.rho}
        # diffcp says that a problem has no solution, but not why: another solver is asked for the certificate.
        self._other = Clarabel().prepare(program)

    def solve(
        self, data: ConeData | DenseData, warm: ConicSolution | None = None, threads: int | None = None
    ) -> DiffCPSolution:
        if isinstance(data, DenseData):
            data = self.program.sparse(data)
        solution = super().solve(data, warm, threads)
        failed = np.flatnonzero(
            (solution.status == Status.NUMERICAL_ERROR) | (solution.status == Status.MAX_ITERATIONS)
        )
        if failed.size:
            other = self._other.solve(data.take(failed), threads=threads)
            proof = (other.status == Status.INFEASIBLE) | (other.status == Status.UNBOUNDED)
            solution = solution.put(failed[proof], other.take(proof))
        assert isinstance(solution, DiffCPSolution)
        return solution

    def _blank(self, batch: int) -> DiffCPSolution:
        blank = super()._blank(batch)
        adjoints = np.full(batch, None)
        return DiffCPSolution(blank.x, blank.z, blank.s, blank.status, blank.iterations, None, adjoints)

    def _worker(
        self, data: ConeData, warm: ConicSolution | None, out: DiffCPSolution
    ) -> Callable[[Sequence[int]], None]:
        diffcp = self.solver.load()
        order, solver = self._order, self.solver

        def solve(elements: Sequence[int]) -> None:
            for i in elements:
                _, q, A, b = data.element(i)
                out.iterations[i] = 0
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        x, y, s, _, adjoint = diffcp.solve_and_derivative(
                            order.matrix(A).copy(),  # diffcp takes zeros out of it, in place
                            b[order.rows],
                            q.copy(),
                            dict(self._cone),
                            mode=solver.mode,
                            solve_method=solver.solve_method,
                            **self._settings,
                        )
                except (diffcp.SolverError, ValueError):
                    out.status[i] = Status.NUMERICAL_ERROR
                    continue
                out.status[i] = Status.SOLVED
                out.x[i], out.z[i, order.rows], out.s[i, order.rows] = x, y, s
                out.adjoints[i] = adjoint

        return solve

    def adjoint(
        self, solution: DiffCPSolution, gx: np.ndarray, gz: np.ndarray, gs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """diffcp's gradients with respect to q (batch, n), A (batch, nnz of A) and b (batch, m); zero where it failed.

        ``solution`` is what `solve` returned, and gx, gz, gs are the cotangents of its x, z and s.
        """
        order, batch = self._order, len(solution.x)
        dq, dA, db = np.zeros_like(solution.x), np.zeros((batch, self.program.A.nnz)), np.zeros_like(solution.s)
        for i, adjoint in enumerate(solution.adjoints):
            if adjoint is not None and solution.status[i] <= Status.INACCURATE:
                A, db[i, order.rows], dq[i] = adjoint(gx[i], gz[i][order.rows], gs[i][order.rows])
                dA[i] = order.values(A)
        return dq, dA, db

    def _seconds(self, data: ConeData) -> float:
        return 2e-3 + 1e-5 * self.program.A.nnz
