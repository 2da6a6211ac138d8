"""Clarabel: an interior-point method for every cone, one problem after the other in each thread.

Goulart and Chen, "Clarabel: An interior-point solver for conic programs with quadratic objectives", arXiv 2405.12762.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cvxlayers.conic.program import ConeData, ConeProgram, ConicSolution
from cvxlayers.sets import Cone, Exponential, Nonnegative, PositiveSemidefinite, Power, SecondOrder
from cvxlayers.solvers.equilibration import Equilibration
from cvxlayers.solvers.settings import count, positive
from cvxlayers.solvers.solver import ALL, Capabilities, Prepared, Solver
from cvxlayers.status import Status


@dataclass(frozen=True, repr=False)
class Clarabel(Solver):
    """The interior-point solver Clarabel, for all cones and quadratic objectives.

    >>> Clarabel(tol=1e-9, max_iter=100).max_iter
    100
    """

    max_iter: int = count(200)
    time_limit: float = positive(math.inf)

    name = "CLARABEL"
    package = "clarabel"
    capabilities = Capabilities(ALL)

    def _prepare(self, program: ConeProgram) -> Prepared:
        return _Prepared(self, program)


class _Prepared(Prepared):
    """Workspaces are set up once, on neutral data, and updated for each element.

    Clarabel keeps the equilibration of the data it was set up with, which would leak from one element to the next: its
    own is switched off, and each element comes equilibrated.
    """

    solver: Clarabel

    def __init__(self, solver: Clarabel, program: ConeProgram) -> None:
        super().__init__(solver, program)
        self._equilibration = Equilibration(program)
        self._free: list = []  # workspaces that no thread is using

    def _workspace(self):
        clarabel = self.solver.load()
        cones = [_cone(clarabel, block) for block in self.program.cone.blocks if block.size]
        settings = clarabel.DefaultSettings()
        settings.verbose = self.solver.verbose
        settings.max_iter = self.solver.max_iter
        settings.time_limit = self.solver.time_limit
        settings.tol_feas = settings.tol_gap_abs = settings.tol_gap_rel = self.solver.tol
        settings.max_threads = 1
        settings.equilibrate_enable = False
        settings.presolve_enable = False
        settings.chordal_decomposition_enable = False
        P, A = (p.csc(np.ones(p.nnz)) for p in (self.program.P, self.program.A))
        return clarabel.DefaultSolver(P, np.zeros(self.program.n), A, np.ones(self.program.m), cones, settings)

    def _worker(
        self, data: ConeData, warm: ConicSolution | None, out: ConicSolution
    ) -> Callable[[Sequence[int]], None]:
        def solve(elements: Sequence[int]) -> None:
            workspace = self._free.pop() if self._free else self._workspace()
            rows = slice(elements.start, elements.stop) if isinstance(elements, range) else elements
            taken = data if len(elements) == data.batch else data.take(np.asarray(elements))
            P, q, A, b, d, e, c = self._equilibration(taken)
            for k, i in enumerate(elements):
                workspace.update(P=P[k], q=q[k], A=A[k], b=b[k])
                solution = workspace.solve()
                out.status[i] = _STATUS.get(str(solution.status), Status.NUMERICAL_ERROR)
                out.iterations[i] = solution.iterations
                out.x[i], out.z[i], out.s[i] = solution.x, solution.z, solution.s
            out.x[rows] *= d
            out.z[rows] *= e / c[:, None]
            out.s[rows] /= e
            self._free.append(workspace)

        return solve

    def _seconds(self, data: ConeData) -> float:
        return 3e-4 + 1e-6 * self.program.A.nnz


def _cone(clarabel: Any, block: Cone) -> Any:
    if isinstance(block, Nonnegative):
        return clarabel.NonnegativeConeT(block.size)
    if isinstance(block, SecondOrder):
        return clarabel.SecondOrderConeT(block.size)
    if isinstance(block, PositiveSemidefinite):
        return clarabel.PSDTriangleConeT(block.k)
    if isinstance(block, Exponential):
        return clarabel.ExponentialConeT()
    if isinstance(block, Power):
        return clarabel.PowerConeT(block.alpha)
    return clarabel.ZeroConeT(block.size)


_STATUS = {
    "Solved": Status.SOLVED,
    "AlmostSolved": Status.INACCURATE,
    "PrimalInfeasible": Status.INFEASIBLE,
    "AlmostPrimalInfeasible": Status.INFEASIBLE,
    "DualInfeasible": Status.UNBOUNDED,
    "AlmostDualInfeasible": Status.UNBOUNDED,
    "MaxIterations": Status.MAX_ITERATIONS,
    "MaxTime": Status.MAX_ITERATIONS,
}
