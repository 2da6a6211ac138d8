"""DAQP: a dual active-set method for small dense quadratic programs, in microseconds.

Arnstrom, Bemporad and Axehill, "A dual active-set solver for embedded quadratic programming using recursive LDL'
updates", doi 10.1109/TAC.2022.3176430.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cvxlayers.conic.program import ConeProgram, ConicSolution, DenseData
from cvxlayers.solvers.blas import one_blas_thread
from cvxlayers.solvers.certificate import certify
from cvxlayers.solvers.settings import count, nonnegative, positive
from cvxlayers.solvers.solver import LINEAR, Capabilities, Prepared, Solver, starting_point
from cvxlayers.status import Status


@dataclass(frozen=True, repr=False)
class DAQP(Solver):
    """The active-set solver DAQP, for small dense problems with linear constraints.

    ``primal_tol`` and ``dual_tol`` are its own absolute tolerances on the constraints and multipliers. A singular P is
    made regular by proximal iterations of weight ``proximal``; 0 switches them off, and such a P then fails.

    >>> DAQP(max_iter=500).tol
    1e-08
    """

    max_iter: int = count(10000)
    primal_tol: float = positive(1e-10)
    dual_tol: float = positive(1e-12)
    proximal: float = nonnegative(1e-6)
    time_limit: float = positive(math.inf)

    name = "DAQP"
    package = "daqp"
    capabilities = Capabilities(LINEAR, layout="dense", warm_start=True, shares=True)

    def _prepare(self, program: ConeProgram) -> Prepared:
        return _Prepared(self, program)


class _Prepared(Prepared):
    """Workspaces are set up once and updated for each element, as good as new: no state survives an update.

    That holds without proximal iterations, whose centre does survive: elements with a singular P are solved afresh.
    """

    solver: DAQP

    def __init__(self, solver: DAQP, program: ConeProgram) -> None:
        super().__init__(solver, program)
        self._free: list = []  # workspaces that no thread is using
        self._equalities = self._judge.equalities
        self._sense = np.zeros(program.m, dtype=np.int32)
        self._sense[: self._equalities] = _EQUALITY
        self._settings: dict[str, float] = {
            "primal_tol": solver.primal_tol,
            "dual_tol": solver.dual_tol,
            "iter_limit": solver.max_iter,
        }
        if math.isfinite(solver.time_limit):
            self._settings["time_limit"] = solver.time_limit

    def _workspace(self):
        n, m = self.program.n, self.program.m
        workspace = self.solver.load().Model()
        workspace.settings = {**self._settings, "eps_prox": 0.0}
        workspace.setup(np.eye(n), np.zeros(n), np.eye(m, n), np.ones(m), np.full(m, -_INFINITE), self._sense)
        return workspace

    def _worker(
        self, data: DenseData, warm: ConicSolution | None, out: ConicSolution
    ) -> Callable[[Sequence[int]], None]:
        own_P, own_q, own_A, own_b = data.P.ndim == 3, data.q.ndim == 2, data.A.ndim == 3, data.b.ndim == 2
        shared = not (own_P or own_A)
        P, q, A, b = (np.ascontiguousarray(v) for v in (data.P, data.q, data.A, data.b))
        lower = np.full(b.shape, -_INFINITE)
        lower[..., : self._equalities] = b[..., : self._equalities]
        coordinates = _Rotated if self.program.n >= _ROTATE else _Plain

        def solve(elements: Sequence[int]) -> None:
            workspace = self._free.pop() if self._free else self._workspace()
            update, run, x, z = workspace.update, workspace.solve, out.x, out.z
            frame, held, failed = None, False, []  # held: the workspace has the shared P and A
            for i in elements:
                sense = self._sense if warm is None else self._starting(warm, i)
                f, upper, low = (q[i] if own_q else q), (b[i] if own_b else b), (lower[i] if own_b else lower)
                if frame is None or not shared:
                    frame = coordinates(P[i] if own_P else P, A[i] if own_A else A)
                if frame.P is None:
                    flag = _NOT_CONVEX
                elif held:
                    flag = update(None, frame.objective(f), None, upper, low, sense)
                else:
                    flag = update(frame.P, frame.objective(f), frame.A, upper, low, sense)
                    held = shared and flag >= 0
                if flag >= 0:
                    y, _, flag, info = run()
                    x[i], z[i], out.iterations[i] = frame.point(y), info["lam"], info["iterations"]
                if flag == _NOT_CONVEX:
                    flag = self._proximal(P[i] if own_P else P, f, A[i] if own_A else A, upper, low, sense, out, i)
                if flag != _OPTIMAL:
                    failed.append((i, flag))
            self._free.append(workspace)
            if len(elements) == 1:
                rows = elements[0]
            else:
                rows = slice(elements.start, elements.stop) if isinstance(elements, range) else elements
            self._complete(A[rows] if own_A else A, b[rows] if own_b else b, rows, out)
            for i, flag in failed:
                out.status[i] = _STATUS.get(flag, Status.NUMERICAL_ERROR)
                certify(i, data, self._equalities, out)

        if coordinates is _Plain:
            return solve

        def alone(elements: Sequence[int]) -> None:
            with one_blas_thread():
                solve(elements)

        return alone

    def _proximal(self, P, q, A, upper, lower, sense, out: ConicSolution, i: int) -> int:
        """Solve one element whose P is singular."""
        if not self.solver.proximal:
            return _NOT_CONVEX
        settings = {**self._settings, "eps_prox": -self.solver.proximal, "eta_prox": _PROXIMAL_STEP}
        out.x[i], _, flag, info = self.solver.load().solve(P, q, A, upper, lower, sense, **settings)
        out.z[i], out.iterations[i] = info["lam"], info["iterations"]
        return flag

    def _complete(self, A: np.ndarray, b: np.ndarray, rows, out: ConicSolution) -> None:
        """Slacks that are complementary to the last bit: an active row has no slack, an inactive one no multiplier."""
        p, x, z = self._equalities, out.x[rows], out.z[rows]
        inequalities = z[..., p:]
        np.maximum(inequalities, 0.0, out=inequalities)
        s = b - (A.dot(x) if x.ndim == 1 else np.matmul(A, x[..., None])[..., 0])
        s[..., :p] = 0.0
        s *= (z == 0.0) & (s > 0.0)
        out.z[rows], out.s[rows] = z, s

    def _starting(self, warm: ConicSolution, i: int) -> np.ndarray:
        """The constraint flags, with the rows that are active at the starting point marked."""
        start = starting_point(warm, i)
        if start is None:
            return self._sense
        _, z, s = start
        p, flags = self._equalities, self._sense.copy()
        flags[p:][z[p:] > s[p:]] = _ACTIVE
        return flags

    def _seconds(self, data: DenseData) -> float:
        m, n = self.program.m, self.program.n
        setup = 0.0 if data.P.ndim == 2 and data.A.ndim == 2 else n * n * (n + 3 * m)
        return 5e-6 + 1e-10 * setup + 1e-10 * n * m * min(n, m)


class _Plain:
    """The problem as it is."""

    def __init__(self, P: np.ndarray, A: np.ndarray) -> None:
        self.P, self.A = P, A

    def objective(self, q: np.ndarray) -> np.ndarray:
        return q

    def point(self, y: np.ndarray) -> np.ndarray:
        return y


class _Rotated:
    """The problem in y = L'x with P = LL': its P is the identity and its A is A L^-T.

    DAQP needs this form anyhow, and finds it at once in place of computing it; LAPACK computes it several times faster.
    ``P`` is None if the matrix is singular.
    """

    _identity: ClassVar[dict[int, np.ndarray]] = {}

    def __init__(self, P: np.ndarray, A: np.ndarray) -> None:
        from scipy.linalg import blas, lapack

        self._solve: Any = blas.dtrsv  # type: ignore[attr-defined]
        self.L, info = lapack.dpotrf(P.T, lower=1)  # type: ignore[attr-defined]
        pivots = self.L.diagonal()
        if info or pivots.min() <= 1e-6 * pivots.max():
            self.P = None
            return
        n = len(P)
        if n not in self._identity:
            self._identity[n] = np.eye(n)
        self.P = self._identity[n]
        self.A = blas.dtrsm(1.0, self.L, A.T, lower=1).T  # type: ignore[attr-defined]

    def objective(self, q: np.ndarray) -> np.ndarray:
        return self._solve(self.L, q, lower=1)

    def point(self, y: np.ndarray) -> np.ndarray:
        return self._solve(self.L, y, lower=1, trans=1)


_ROTATE = 48  # the number of variables from which LAPACK pays
_INFINITE = 1e30
_PROXIMAL_STEP = 1e-12  # proximal iterations end when the iterate moves less than this
_ACTIVE, _EQUALITY = 1, 5
_OPTIMAL, _NOT_CONVEX = 1, -5
_STATUS = {
    -1: Status.INFEASIBLE,
    -6: Status.INFEASIBLE,  # dependent equality constraints that contradict each other
    -3: Status.UNBOUNDED,
    -4: Status.MAX_ITERATIONS,
    -7: Status.MAX_ITERATIONS,
}
