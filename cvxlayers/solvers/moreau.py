"""Moreau: an interior-point and active-set solver that solves a batch in one call; not a dependency of this package."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cvxlayers.conic.program import ConeData, ConeProgram, ConicSolution, Pattern
from cvxlayers.errors import SettingsError
from cvxlayers.sets import Exponential, Nonnegative, PositiveSemidefinite, Power, SecondOrder, Zero
from cvxlayers.solvers.fallback import Fallback
from cvxlayers.solvers.settings import choice, count, positive
from cvxlayers.solvers.solver import ALL, LINEAR, Capabilities, Prepared, Solver
from cvxlayers.status import Status


@dataclass(frozen=True, repr=False)
class Moreau(Solver):
    """The solver Moreau, for all cones and quadratic objectives, on the CPU or a CUDA device.

    ``algorithm`` is "ipm", "active_set" or "auto": the active-set method for quadratic programs, with the
    interior-point method for what it does not solve or cannot prove, and the interior-point method for all else.

    >>> Moreau(device="cpu").algorithm
    'auto'
    """

    max_iter: int = count(200)
    time_limit: float = positive(math.inf)
    device: str = choice("cpu", "cpu", "cuda", "auto")
    algorithm: str = choice("auto", "auto", "ipm", "active_set")

    name = "MOREAU"
    package = "moreau"
    capabilities = Capabilities(ALL, batched=True)

    def _prepare(self, program: ConeProgram) -> Prepared:
        linear = all(type(block) in LINEAR for block in program.cone.blocks)
        if self.algorithm == "active_set" and not linear:
            raise SettingsError("solver MOREAU with algorithm='active_set' takes linear constraints only.")
        if self.algorithm == "auto":
            ipm = replace(self, algorithm="ipm")
            if not linear:
                return ipm.prepare(program)
            first = replace(self, algorithm="active_set")
            return Fallback(tol=self.tol, threads=self.threads, first=first, second=ipm).prepare(program)
        return _Prepared(self, program)


class _Prepared(Prepared):
    """Moreau wants its matrices by rows, and P in full."""

    solver: Moreau

    def __init__(self, solver: Moreau, program: ConeProgram) -> None:
        super().__init__(solver, program)
        P, A = program.P, program.A
        off = np.flatnonzero(P.rows != P.cols)
        entries = np.concatenate((np.arange(P.nnz), off))
        full = Pattern(P.shape, np.concatenate((P.rows, P.cols[off])), np.concatenate((P.cols, P.rows[off])))
        order, self._P = _by_rows(full)
        self._P_entries = entries[order]
        self._A_entries, self._A = _by_rows(A)

    def _run(self, data: ConeData, elements, size: int, warm, solution: ConicSolution, threads: int | None) -> None:
        rows = slice(None) if elements is None else elements
        compiled = self._compiled(size)
        P, A = data.P[..., self._P_entries], data.A[..., self._A_entries]
        if P.ndim + A.ndim > 2:  # it shares both or none
            P, A = (np.ascontiguousarray(np.broadcast_to(v, (data.batch, v.shape[-1]))[rows]) for v in (P, A))
        compiled.setup(P, A)
        q, b = (np.ascontiguousarray(np.broadcast_to(v, (data.batch, v.shape[-1]))[rows]) for v in (data.q, data.b))
        result, info = compiled.solve(q, b), compiled.info
        for ours, theirs in ((solution.x, result.x), (solution.z, result.z), (solution.s, result.s)):
            ours[rows] = np.asarray(theirs).reshape(size, -1)
        solution.iterations[rows] = np.asarray(info.iterations)
        statuses = np.atleast_1d(np.asarray(info.status, dtype=int))
        solution.status[rows] = [_STATUS.get(int(k), Status.NUMERICAL_ERROR) for k in statuses]

    def _compiled(self, size: int):
        moreau = self.solver.load()
        solver, blocks = self.solver, self.program.cone.blocks
        cones = moreau.Cones(
            num_zero_cones=sum(block.size for block in blocks if isinstance(block, Zero)),
            num_nonneg_cones=sum(block.size for block in blocks if isinstance(block, Nonnegative)),
            so_cone_dims=[block.size for block in blocks if isinstance(block, SecondOrder)],
            psd_dims=[block.k for block in blocks if isinstance(block, PositiveSemidefinite)],
            num_exp_cones=sum(isinstance(block, Exponential) for block in blocks),
            power_alphas=[block.alpha for block in blocks if isinstance(block, Power)],
        )
        tol = {"tol_gap_abs": solver.tol, "tol_gap_rel": solver.tol, "tol_feas": solver.tol}
        settings = moreau.Settings(
            solver=solver.algorithm,
            device=solver.device,
            batch_size=size,
            max_iter=solver.max_iter,
            time_limit=solver.time_limit,
            verbose=solver.verbose,
            ipm_settings=moreau.IPMSettings(**tol),
            active_set_settings=moreau.ActiveSetSettings(primal_tol=min(solver.tol, 1e-9)),
        )
        n, m = self.program.n, self.program.m
        return moreau.CompiledSolver(n, m, *self._P, *self._A, cones=cones, settings=settings)

    def _worker(self, data, warm, out: ConicSolution) -> Callable[[Sequence[int]], None]:
        raise NotImplementedError("Moreau solves a batch in one call")


def _by_rows(pattern: Pattern) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The order of the entries by row, then by column; and the compressed rows (offsets, columns)."""
    order = np.lexsort((pattern.cols, pattern.rows))
    offsets = np.searchsorted(pattern.rows[order], np.arange(pattern.shape[0] + 1))
    return order, (offsets.astype(np.int64), pattern.cols[order].astype(np.int64))


_STATUS = {
    1: Status.SOLVED,
    2: Status.INFEASIBLE,
    3: Status.UNBOUNDED,
    4: Status.INACCURATE,
    5: Status.INFEASIBLE,
    6: Status.UNBOUNDED,
    7: Status.MAX_ITERATIONS,
    8: Status.MAX_ITERATIONS,
}
