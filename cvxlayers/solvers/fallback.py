"""A solver with another behind it, for the elements that the first one does not solve."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cvxlayers.conic.program import ConeData, ConeProgram, ConicSolution, DenseData
from cvxlayers.solvers.active_set import ActiveSet
from cvxlayers.solvers.settings import solver_setting
from cvxlayers.solvers.solver import Prepared, Solver
from cvxlayers.status import Status

# What an outcome is worth: a solution, a proof that there is none, an inaccurate solution, nothing.
_WORTH = np.zeros(len(Status), dtype=int)
_WORTH[[Status.SOLVED, Status.INFEASIBLE, Status.UNBOUNDED, Status.INACCURATE]] = 3, 2, 2, 1


@dataclass(frozen=True, repr=False)
class Fallback(Solver):
    """``first``, and ``second`` for the elements that the first one does not solve.

    >>> from cvxlayers.solvers.clarabel import Clarabel
    >>> from cvxlayers.solvers.daqp import DAQP
    >>> Fallback(first=DAQP(), second=Clarabel()).name
    'DAQP, then CLARABEL'
    """

    first: Solver = solver_setting()
    second: Solver = solver_setting()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "name", f"{self.first.name}, then {self.second.name}")
        object.__setattr__(self, "capabilities", self.first.capabilities)

    def __repr__(self) -> str:
        return f"Fallback(first={self.first!r}, second={self.second!r})"

    @property
    def kernel(self) -> ActiveSet | None:
        return self.first.kernel

    def _prepare(self, program: ConeProgram) -> Prepared:
        return _Prepared(self, program)


class _Prepared(Prepared):
    solver: Fallback

    def __init__(self, solver: Fallback, program: ConeProgram) -> None:
        super().__init__(solver, program)
        self._first = solver.first.prepare(program)
        self._second: Prepared | None = None  # prepared when it is first needed

    def solve(
        self, data: ConeData | DenseData, warm: ConicSolution | None = None, threads: int | None = None
    ) -> ConicSolution:
        solution = self._first.solve(data, warm, threads)
        status = solution.status
        if not status.any():
            return solution
        again = np.flatnonzero((_WORTH[status] < 2) & (status != Status.INVALID_INPUT))
        if not again.size:
            return solution
        if self._second is None:
            self._second = self.solver.second.prepare(self.program)
        other = self._second.solve(data.take(again), None, threads)
        better = _WORTH[other.status] > _WORTH[status[again]]
        return solution.put(again[better], other.take(better))

    def _worker(self, data, warm, out):
        raise NotImplementedError("the two solvers do the work")
