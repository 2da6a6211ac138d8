"""Native: the interior-point method of this library, for every cone, batched, on the host and on GPUs.

Goulart and Chen, "Clarabel: An interior-point solver for conic programs with quadratic objectives", arXiv 2405.12762,
has the homogeneous embedding; `cvxlayers.solvers.interior_point.method` the method itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cvxlayers.conic.program import ConeProgram, ConicSolution, DenseData
from cvxlayers.solvers.settings import choice, count, flag
from cvxlayers.solvers.solver import ALL, Capabilities, Prepared, Solver


@dataclass(frozen=True)
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
        return _Prepared(self, program)


class _Prepared(Prepared):
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
        raise NotImplementedError("the native solver takes a batch as a whole.")
