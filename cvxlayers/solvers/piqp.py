"""PIQP: a proximal interior-point method for quadratic programs, dense or sparse.

Schwan et al., "PIQP: A proximal interior-point quadratic programming solver", doi 10.1109/CDC49753.2023.10383915.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from cvxlayers.conic.program import ConeData, ConeProgram, ConicSolution
from cvxlayers.solvers.settings import count
from cvxlayers.solvers.solver import LINEAR, Capabilities, Prepared, Solver
from cvxlayers.status import Status


@dataclass(frozen=True, repr=False)
class PIQP(Solver):
    """The proximal interior-point solver PIQP, for quadratic programs.

    >>> PIQP(max_iter=100).name
    'PIQP'
    """

    max_iter: int = count(250)

    name = "PIQP"
    package = "piqp"
    capabilities = Capabilities(LINEAR)

    def _prepare(self, program: ConeProgram) -> Prepared:
        return _Prepared(self, program)


class _Prepared(Prepared):
    """PIQP's dense method where at least a quarter of the entries are there, its sparse method elsewhere."""

    solver: PIQP

    def __init__(self, solver: PIQP, program: ConeProgram) -> None:
        super().__init__(solver, program)
        n, m = program.n, program.m
        self._full = program.P.nnz + program.A.nnz >= 0.25 * (n * (n + 1) / 2 + m * n)

    def _matrices(self, P: np.ndarray, A: np.ndarray, p: int) -> tuple[Any, Any, Any]:
        """P, the equality rows and the inequality rows, as PIQP takes them."""
        program = self.program
        if self._full:
            U, M = program.P.dense(P), program.A.dense(A)
            return np.asfortranarray(U + np.triu(U, 1).T), np.asfortranarray(M[:p]), np.asfortranarray(M[p:])
        rows = program.A.csc(A).tocsr()
        return sp.csc_matrix(program.P.csc(P)), sp.csc_matrix(rows[:p]), sp.csc_matrix(rows[p:])

    def _worker(
        self, data: ConeData, warm: ConicSolution | None, out: ConicSolution
    ) -> Callable[[Sequence[int]], None]:
        piqp = self.solver.load()
        program, p, tol = self.program, self._judge.equalities, self.solver.tol
        method = piqp.DenseSolver if self._full else piqp.SparseSolver
        none = np.full(program.m - p, -np.inf)
        status_of = {
            piqp.PIQP_SOLVED: Status.SOLVED,
            piqp.PIQP_PRIMAL_INFEASIBLE: Status.INFEASIBLE,
            piqp.PIQP_DUAL_INFEASIBLE: Status.UNBOUNDED,
            piqp.PIQP_MAX_ITER_REACHED: Status.MAX_ITERATIONS,
        }

        def solve(elements: Sequence[int]) -> None:
            for i in elements:
                P, q, A, b = data.element(i)
                solver = method()
                settings = solver.settings
                settings.eps_abs = settings.eps_duality_gap_abs = tol
                settings.eps_rel = settings.eps_duality_gap_rel = 0.1 * tol
                settings.eps_primal_inf = settings.eps_dual_inf = 1e-7
                settings.max_iter, settings.verbose = self.solver.max_iter, self.solver.verbose
                H, E, G = self._matrices(P, A, p)
                solver.setup(H, q, E, b[:p], G, none, b[p:])
                out.status[i] = status_of.get(solver.solve(), Status.NUMERICAL_ERROR)
                result = solver.result
                out.iterations[i] = result.info.iter
                out.x[i] = result.x
                out.z[i, :p], out.z[i, p:] = result.y, result.z_u
                out.s[i, :p], out.s[i, p:] = 0.0, result.s_u
                if out.status[i] == Status.UNBOUNDED:
                    out.s[i, p:] = -(G @ result.x)

        return solve
