"""Native: the interior-point method of this library, for every cone, batched, on the host and on GPUs.

Goulart and Chen, "Clarabel: An interior-point solver for conic programs with quadratic objectives", arXiv 2405.12762,
has the homogeneous embedding; `cvxlayers.solvers.interior_point.method` the method itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cvxlayers.compiled.compiler import is_available
from cvxlayers.conic.program import ConeData, ConeProgram, ConicSolution, DenseData
from cvxlayers.conic.structure import Structure
from cvxlayers.solvers.active_set import runs
from cvxlayers.solvers.settings import choice, count, flag
from cvxlayers.solvers.solver import ALL, Capabilities, Prepared, Solver
from cvxlayers.status import Status

_AGAIN = 1000  # variables plus constraints up to which dense matrices are worth a second try
_GOAL = 1e-2  # the accuracy that further iterations aim at once the tolerance is reached, relative to it


@dataclass(frozen=True, repr=False)
class Native(Solver):
    """The interior-point method of this library, for all cones and quadratic objectives.

    ``precision``: "float64"; "mixed" factors in float32 and refines in float64; "float32" works in float32 throughout.
    ``compiled`` says whether compiled kernels (Numba on the CPU, CUDA on a GPU) may do the work; without them the
    method runs as array operations of the library that the data belong to.

    >>> Native(tol=1e-9).max_iter
    100
    """

    max_iter: int = count(100)
    precision: str = choice("float64", "float64", "mixed", "float32")
    compiled: bool = flag(True)

    name = "NATIVE"
    package = None
    capabilities = Capabilities(ALL, layout="dense", batched=True, devices=("cpu", "cuda"))

    def _prepare(self, program: ConeProgram) -> Prepared:
        # Equalities that define all variables leave none, and no system whose structure there could be.
        if self.compiled and self.precision == "float64" and program.n and is_available():
            return _Compiled(self, program)
        return _Plain(self, program)


class _Plain(Prepared):
    """The method on the whole batch, as operations on NumPy arrays."""

    solver: Native

    def _run(self, data: DenseData, elements, size, warm, solution: ConicSolution, threads) -> None:
        from cvxlayers.solvers.interior_point.method import solve  # pyright: ignore[reportMissingImports]

        taken = data if elements is None else data.take(elements)
        at = slice(None) if elements is None else elements
        with np.errstate(all="ignore"):
            out = solve(self.program.cone, taken.P, taken.q, taken.A, taken.b, self.solver)
        solution.x[at], solution.z[at], solution.s[at] = out.x, out.z, out.s
        solution.status[at], solution.iterations[at] = out.status, out.iterations

    def _worker(self, data, warm, out) -> Callable[[Sequence[int]], None]:
        raise NotImplementedError("this form of the native solver takes a batch as a whole.")


class _Compiled(_Plain):
    """The method compiled by Numba, one problem after the other in each thread, on the program's sparsity pattern.

    What it gives up, the same method on dense arrays tries again: on the whole more robust, and slower.
    """

    solver: Native

    def __init__(self, solver: Native, program: ConeProgram) -> None:
        super().__init__(solver, program)
        self._dense = False
        self._structure = Structure.of(program)

    def _run(self, data: ConeData, elements, size, warm, solution: ConicSolution, threads) -> None:
        Prepared._run(self, data, elements, size, warm, solution, threads)
        left = np.flatnonzero(solution.status == Status.NUMERICAL_ERROR)
        if left.size and self.program.n + self.program.m <= _AGAIN:
            super()._run(self.program.dense(data), left, left.size, None, solution, threads)

    def _worker(
        self, data: ConeData, warm: ConicSolution | None, out: ConicSolution
    ) -> Callable[[Sequence[int]], None]:
        kernel = _kernel()
        values = [np.atleast_2d(v) for v in (data.P, data.q, data.A, data.b)]
        values = [v if v.flags.carray else v.copy() for v in values]
        structure = self._structure.arrays
        settings = (self.solver.tol, _GOAL * self.solver.tol, self.solver.max_iter)
        results = (out.x, out.z, out.s, out.status, out.iterations)

        def solve(elements: Sequence[int]) -> None:
            for run in runs(elements):
                kernel(*values, structure, *settings, *run, *results)

        return solve

    def _seconds(self, data: ConeData) -> float:
        program = self.program
        system = self._structure.system
        return 10 * (5e-6 + 3e-10 * system.cost + 2e-8 * (program.A.nnz + program.m + system.N))


@lru_cache(maxsize=1)
def _kernel() -> Callable:
    from cvxlayers.compiled.interior_point import solve

    return solve
