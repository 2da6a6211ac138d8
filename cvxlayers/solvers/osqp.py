"""OSQP: an operator splitting method for sparse quadratic programs, at its best where one matrix serves many vectors.

Stellato et al., "OSQP: an operator splitting solver for quadratic programs", doi 10.1007/s12532-020-00179-2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cvxlayers.conic.program import ConeData, ConeProgram, ConicSolution
from cvxlayers.solvers.settings import between, count, flag, positive
from cvxlayers.solvers.solver import LINEAR, Capabilities, Prepared, Solver, starts
from cvxlayers.status import Status


@dataclass(frozen=True)
class OSQP(Solver):
    """The splitting solver OSQP, for sparse quadratic programs.

    ``tol`` is its eps_abs and eps_rel. ``polish`` solves for the active constraints found, which brings most problems
    to full accuracy.

    >>> OSQP(polish=False).polish
    False
    """

    max_iter: int = count(100000)
    time_limit: float = positive(math.inf)
    verbose: bool = flag(False)
    rho: float = positive(0.1)
    alpha: float = between(1.6, 0.0, 2.0)
    polish: bool = flag(True)

    name = "OSQP"
    package = "osqp"
    capabilities = Capabilities(LINEAR, warm_start=True)

    def _prepare(self, program: ConeProgram) -> Prepared:
        return _Prepared(self, program)


class _Prepared(Prepared):
    """Each element is set up anew: an update would keep the step size and scaling that an earlier element led to."""

    solver: OSQP

    def _worker(
        self, data: ConeData, warm: ConicSolution | None, out: ConicSolution
    ) -> Callable[[Sequence[int]], None]:
        import osqp

        solver, program, p = self.solver, self.program, self._judge.equalities
        settings = {
            "eps_abs": solver.tol,
            "eps_rel": solver.tol,
            "eps_prim_inf": min(solver.tol, 1e-7),
            "eps_dual_inf": min(solver.tol, 1e-7),
            "max_iter": solver.max_iter,
            "time_limit": min(solver.time_limit, 1e10),
            "verbose": solver.verbose,
            "rho": solver.rho,
            "alpha": solver.alpha,
            "polishing": solver.polish,
            "warm_starting": True,
        }

        def solve(elements: Sequence[int]) -> None:
            for i in elements:
                P, q, A, b = data.element(i)
                lower = np.full(program.m, -np.inf)
                lower[:p] = b[:p]
                problem = osqp.OSQP(algebra="builtin")
                matrices = sp.csc_matrix(program.P.csc(P)), sp.csc_matrix(program.A.csc(A))
                problem.setup(matrices[0], q.copy(), matrices[1], lower, b.copy(), **settings)
                if starts(warm, i):
                    problem.warm_start(x=warm.x[i].copy(), y=warm.z[i].copy())
                result = problem.solve(raise_error=False)
                status = out.status[i] = _STATUS.get(int(result.info.status_val), Status.NUMERICAL_ERROR)
                out.iterations[i] = result.info.iter
                if status == Status.INFEASIBLE:
                    out.z[i] = result.prim_inf_cert
                elif status == Status.UNBOUNDED:
                    out.x[i] = result.dual_inf_cert
                    out.s[i] = -(matrices[1] @ out.x[i])
                    out.s[i, :p] = 0.0
                else:
                    out.x[i], out.z[i] = result.x, result.y
                    out.s[i] = b - matrices[1] @ out.x[i]
                    out.s[i, :p] = 0.0
                # What is complementary up to the accuracy of the method becomes so exactly.
                np.maximum(out.z[i, p:], 0.0, out=out.z[i, p:])
                np.maximum(out.s[i, p:], 0.0, out=out.s[i, p:])

        return solve

    def _seconds(self, data: ConeData) -> float:
        return 1e-3 + 1e-6 * self.program.A.nnz


_STATUS = {
    1: Status.SOLVED,
    2: Status.INACCURATE,
    3: Status.INFEASIBLE,
    4: Status.INFEASIBLE,
    5: Status.UNBOUNDED,
    6: Status.UNBOUNDED,
    7: Status.MAX_ITERATIONS,
    8: Status.MAX_ITERATIONS,
}
