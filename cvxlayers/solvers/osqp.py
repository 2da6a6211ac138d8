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
from cvxlayers.solvers.solver import LINEAR, Capabilities, Prepared, Solver, starting_point
from cvxlayers.status import Status


@dataclass(frozen=True, repr=False)
class OSQP(Solver):
    """The splitting solver OSQP, for sparse quadratic programs.

    ``tol`` is its eps_abs and eps_rel. ``polish`` solves for the active constraints found at the end, which
    gives full accuracy where they are right; OSQP then prints a line when there are none.

    >>> OSQP(tol=1e-6).polish
    False
    """

    max_iter: int = count(100000)
    time_limit: float = positive(math.inf)
    rho: float = positive(0.1)
    alpha: float = between(1.6, 0.0, 2.0)
    polish: bool = flag(False)

    name = "OSQP"
    package = "osqp"
    capabilities = Capabilities(LINEAR, warm_start=True, shares=True)

    def _prepare(self, program: ConeProgram) -> Prepared:
        return _Prepared(self, program)


class _Prepared(Prepared):
    """Where the batch shares P and A, each thread factors them once, and every element starts from that same state.

    Else each element is set up anew: an update of the matrices would keep the scaling that an earlier one led to.
    """

    solver: OSQP

    def _worker(
        self, data: ConeData, warm: ConicSolution | None, out: ConicSolution
    ) -> Callable[[Sequence[int]], None]:
        program, p = self.program, self._judge.equalities
        shared = data.P.ndim == 1 and data.A.ndim == 1

        def solve(elements: Sequence[int]) -> None:
            problem, adapted, lower = None, False, np.full(program.m, -np.inf)
            refused = self.solver.load().OSQPException
            for i in elements:
                P, q, A, b = data.element(i)
                lower[:p] = b[:p]
                try:
                    if not shared:
                        problem = self._set_up(P, q, A, lower, b)
                    elif problem is None:
                        neutral = np.where(np.arange(program.m) < p, 0.0, -np.inf)
                        problem = self._set_up(P, np.zeros(program.n), A, neutral, np.zeros(program.m))
                except refused:  # it found no factor
                    out.give_up(i)
                    continue
                if shared:
                    if adapted:
                        problem.update_settings(rho=self.solver.rho)
                    problem.update(q=np.ascontiguousarray(q), l=lower, u=np.ascontiguousarray(b))
                start = starting_point(warm, i)
                if start is not None:
                    problem.warm_start(x=start[0], y=start[1])
                elif shared:
                    problem.warm_start(x=np.zeros(program.n), y=np.zeros(program.m))
                result = problem.solve(raise_error=False)
                adapted = result.info.rho_updates > 0
                self._read(result, program.A.csc(A), b, out, i)

        return solve

    def _set_up(self, P: np.ndarray, q: np.ndarray, A: np.ndarray, lower: np.ndarray, upper: np.ndarray):
        solver, problem = self.solver, self.solver.load().OSQP(algebra="builtin")
        problem.setup(
            sp.csc_matrix(self.program.P.csc(P)),
            np.ascontiguousarray(q),
            sp.csc_matrix(self.program.A.csc(A)),
            lower,
            np.ascontiguousarray(upper),
            eps_abs=solver.tol,
            eps_rel=solver.tol,
            eps_prim_inf=min(solver.tol, 1e-7),
            eps_dual_inf=min(solver.tol, 1e-7),
            max_iter=solver.max_iter,
            time_limit=min(solver.time_limit, 1e10),
            verbose=solver.verbose,
            rho=solver.rho,
            alpha=solver.alpha,
            polishing=solver.polish,
            warm_starting=True,
        )
        return problem

    def _read(self, result, A: sp.csc_array, b: np.ndarray, out: ConicSolution, i: int) -> None:
        p = self._judge.equalities
        out.status[i] = _STATUS.get(int(result.info.status_val), Status.NUMERICAL_ERROR)
        out.iterations[i] = result.info.iter
        if out.status[i] == Status.INFEASIBLE:
            out.z[i] = result.prim_inf_cert
        elif out.status[i] == Status.UNBOUNDED:
            out.x[i] = result.dual_inf_cert
            out.s[i] = -(A @ out.x[i])
        else:
            out.x[i], out.z[i] = result.x, result.y
            out.s[i] = b - A @ out.x[i]
        out.s[i, :p] = 0.0
        np.maximum(out.z[i, p:], 0.0, out=out.z[i, p:])
        np.maximum(out.s[i, p:], 0.0, out=out.s[i, p:])

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
