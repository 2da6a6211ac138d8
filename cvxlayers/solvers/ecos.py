"""ECOS: an interior-point method for second-order and exponential cones, without quadratic objectives.

Domahidi, Chu and Boyd, "ECOS: An SOCP solver for embedded systems", doi 10.23919/ECC.2013.6669541.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cvxlayers.conic.program import ConeData, ConeProgram, ConicSolution, Pattern
from cvxlayers.sets import Exponential, SecondOrder
from cvxlayers.solvers.ordering import Reordering
from cvxlayers.solvers.settings import count
from cvxlayers.solvers.solver import LINEAR, Capabilities, Prepared, Solver
from cvxlayers.status import Status


@dataclass(frozen=True, repr=False)
class ECOS(Solver):
    """The interior-point solver ECOS, for linear objectives over second-order and exponential cones.

    >>> ECOS(max_iter=50).capabilities.quadratic
    False
    """

    max_iter: int = count(100)

    name = "ECOS"
    package = "ecos"
    capabilities = Capabilities(LINEAR | {SecondOrder, Exponential}, quadratic=False)

    def _prepare(self, program: ConeProgram) -> Prepared:
        return _Prepared(self, program)


class _Prepared(Prepared):
    """ECOS keeps equalities apart, and orders an exponential block (x, z, y)."""

    solver: ECOS

    def __init__(self, solver: ECOS, program: ConeProgram) -> None:
        super().__init__(solver, program)
        p = self._equalities = self._judge.equalities
        rows = np.arange(program.m)
        blocks, start = program.cone.blocks, 0
        for block in blocks:
            if isinstance(block, Exponential):
                rows[start : start + 3] = start + np.array((0, 2, 1))
            start += block.size
        self._rows = rows[p:] - p
        self._upper, self._lower = _Rows(program.A, 0, p), _Rows(program.A, p, program.m)
        self._order = Reordering(self._lower.pattern, self._rows)
        self._dims = {
            "l": self._judge.linear - p,
            "q": [block.size for block in blocks if isinstance(block, SecondOrder)],
            "e": sum(isinstance(block, Exponential) for block in blocks),
        }

    def _worker(
        self, data: ConeData, warm: ConicSolution | None, out: ConicSolution
    ) -> Callable[[Sequence[int]], None]:
        ecos = self.solver.load()
        p, rows, order = self._equalities, self._rows, self._order
        settings = {
            "abstol": self.solver.tol,
            "reltol": self.solver.tol,
            "feastol": self.solver.tol,
            "max_iters": self.solver.max_iter,
            "verbose": self.solver.verbose,
        }

        def solve(elements: Sequence[int]) -> None:
            for i in elements:
                _, q, A, b = data.element(i)
                # ECOS takes no empty matrices, and none whose entries are all missing.
                equality = (_stored(self._upper.csc(A)), b[:p].copy()) if p else (None, None)
                cone = (_stored(order.matrix(self._lower.values(A))), b[p:][rows]) if len(rows) else (None, None)
                result = ecos.solve(q.copy(), *cone, self._dims, *equality, **settings)
                out.status[i] = _STATUS.get(result["info"]["exitFlag"], Status.NUMERICAL_ERROR)
                out.iterations[i] = result["info"]["iter"]
                out.x[i] = result["x"]
                if p:
                    out.z[i, :p], out.s[i, :p] = result["y"], 0.0
                if len(rows):
                    out.z[i, p + rows], out.s[i, p + rows] = result["z"], result["s"]

        return solve

    def _seconds(self, data: ConeData) -> float:
        return 3e-4 + 2e-6 * self.program.A.nnz


class _Rows:
    """Some of the rows of a pattern."""

    def __init__(self, A: Pattern, start: int, stop: int) -> None:
        self._kept = np.flatnonzero((A.rows >= start) & (A.rows < stop))
        self.pattern = Pattern((stop - start, A.shape[1]), A.rows[self._kept] - start, A.cols[self._kept])

    def values(self, values: np.ndarray) -> np.ndarray:
        return values[self._kept]

    def csc(self, values: np.ndarray) -> sp.csc_matrix:
        return sp.csc_matrix(self.pattern.csc(values[self._kept]))


def _stored(matrix: sp.csc_matrix) -> sp.csc_matrix:
    """The matrix, with a zero stored if it stores nothing."""
    if matrix.nnz:
        return matrix
    indptr = np.ones(matrix.shape[1] + 1, dtype=np.int32)  # type: ignore[index]
    indptr[0] = 0
    return sp.csc_matrix((np.zeros(1), np.zeros(1, dtype=np.int32), indptr), shape=matrix.shape)


_STATUS = {
    0: Status.SOLVED,
    10: Status.INACCURATE,
    1: Status.INFEASIBLE,
    11: Status.INFEASIBLE,
    2: Status.UNBOUNDED,
    12: Status.UNBOUNDED,
    -1: Status.MAX_ITERATIONS,
}
