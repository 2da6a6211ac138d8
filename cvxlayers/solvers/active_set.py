"""ActiveSet: a dual active-set method for batches of small dense quadratic programs, compiled by Numba.

Goldfarb and Idnani, "A numerically stable dual method for solving strictly convex quadratic programs",
doi 10.1007/BF02591962. `cvxlayers.compiled.active_set` has the method itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cvxlayers.conic.program import ConeProgram, ConicSolution, DenseData
from cvxlayers.solvers.daqp import DAQP
from cvxlayers.solvers.settings import count
from cvxlayers.solvers.solver import LINEAR, Capabilities, Prepared, Solver
from cvxlayers.status import Status


@dataclass(frozen=True, repr=False)
class ActiveSet(Solver):
    """The active-set method of this library, for small dense problems with linear constraints and definite P.

    A whole batch is solved in one call of compiled code, which holds no lock. Compiling takes some seconds when it is
    first used on a machine, and its result is kept on disk. Elements whose P is singular are handed to DAQP.

    >>> ActiveSet(max_iter=500).tol
    1e-08
    """

    max_iter: int = count(10000)

    name = "ACTIVE_SET"
    package = "numba"
    capabilities = Capabilities(LINEAR, layout="dense", warm_start=True, shares=True)

    @property
    def kernel(self) -> ActiveSet:
        return self

    def _prepare(self, program: ConeProgram) -> Prepared:
        return _Prepared(self, program)


class _Prepared(Prepared):
    """The compiled method, with nothing to keep from one call to the next."""

    solver: ActiveSet

    def __init__(self, solver: ActiveSet, program: ConeProgram) -> None:
        super().__init__(solver, program)
        from cvxlayers.compiled.active_set import SINGULAR, solve  # compiles

        self._kernel, self._singular = solve, SINGULAR
        self._equalities = self._judge.equalities
        self._cold = np.zeros((0, program.m), dtype=bool)
        self._other: Prepared | None = None  # DAQP, prepared when it is first needed

    def _worker(
        self, data: DenseData, warm: ConicSolution | None, out: ConicSolution
    ) -> Callable[[Sequence[int]], None]:
        P, q = _whole(data.P, 3), _whole(data.q, 2)
        A, b = _whole(data.A, 3), _whole(data.b, 2)
        start = self._cold if warm is None else self._active(warm)
        results = (out.x, out.z, out.s, out.status, out.iterations)

        def solve(elements: Sequence[int]) -> None:
            for run in runs(elements):
                self._kernel(P, q, A, b, self._equalities, start, self.solver.max_iter, *run, *results)
                status = out.status[run[0] : run[1]]
                if status.min() < 0:
                    self._others((run[0] + np.flatnonzero(status == self._singular)).tolist(), data, warm, out)

        return solve

    def _active(self, warm: ConicSolution) -> np.ndarray:
        """The rows (batch, m) that are active at the starting points; elements without one start cold."""
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(warm.x.sum(-1) + warm.z.sum(-1) + warm.s.sum(-1))
            return np.ascontiguousarray((warm.z > warm.s) & finite[:, None])

    def _others(self, elements: list[int], data: DenseData, warm: ConicSolution | None, out: ConicSolution) -> None:
        """Elements with a singular P."""
        if not DAQP.is_available():
            out.status[elements] = Status.NUMERICAL_ERROR
            return
        if self._other is None:
            other = DAQP(tol=self.solver.tol, verbose=self.solver.verbose, max_iter=self.solver.max_iter)
            self._other = other.prepare(self.program)
        self._other._worker(data, warm, out)(elements)

    def _seconds(self, data: DenseData) -> float:
        m, n = self.program.m, self.program.n
        setup = 0.0 if data.P.ndim == 2 and data.A.ndim == 2 else n * n * (n / 3 + m)
        return 4e-7 + 6e-11 * setup + 1e-9 * n * (n + m) + min(n, m) * (7e-8 + 1.8e-10 * n * m)


def _whole(values: np.ndarray, dimensions: int) -> np.ndarray:
    """Values as the kernel takes them: contiguous, writable, with a leading dimension."""
    if values.ndim < dimensions:
        values = values[None]
    return values if values.flags.carray else np.array(values, order="C")


def runs(elements: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending elements as ranges (start, stop).

    >>> list(runs([0, 1, 2, 5, 6, 9]))
    [(0, 3), (5, 7), (9, 10)]
    """
    if isinstance(elements, range):
        yield elements.start, elements.stop
        return
    for run in np.split(elements, np.flatnonzero(np.diff(elements) != 1) + 1):
        if len(run):
            yield int(run[0]), int(run[-1]) + 1
