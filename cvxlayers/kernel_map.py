"""The solution map of small quadratic programs inside programs that JAX compiles for the CPU, by the host's kernels.

What `cvxlayers.array_map` is for the native solver. Lift, the blocks of the substitution and the way back are left to
XLA; the solve and the linear system of the derivative are calls of compiled kernels, which hold no lock and reach
Python for what they leave over alone: `cvxlayers.compiled.calls` says what, and `LeftOver` does it as the host would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

import numpy as np

from cvxlayers.array import namespace
from cvxlayers.canonical.form import AffineSolverAffine
from cvxlayers.conic.array_elimination import ArrayElimination, Blocks
from cvxlayers.conic.elimination import Elimination
from cvxlayers.conic.kkt import spectrum
from cvxlayers.conic.polyhedral_kkt import grain
from cvxlayers.conic.program import ConeProgram, DenseData
from cvxlayers.conic.residuals import Judge
from cvxlayers.lift_recover import LiftRecover
from cvxlayers.pool import available_cpus
from cvxlayers.solution_map import SolutionMap, dense_system, threads_for
from cvxlayers.solvers.solver import Prepared, Solver
from cvxlayers.status import Status

Array = Any

_ALL = 1 << 62  # elements: as many as there are


Block = tuple[Array | None, int]
"""Values (*lead, ...), None for zero, and the number of their own dimensions; leads broadcast."""


class Calls(Protocol):
    """The calls of the kernels, which know their program by a key."""

    def key_of(self, program: LeftOver) -> int:
        """The key of a program, which does what the kernels leave over."""
        ...

    def solve(
        self, blocks: Sequence[Block], key: int, equalities: int, max_iter: int, alone: int, tol: float
    ) -> Sequence[Array]:
        """x, z, s, status, residuals and iterations (*lead, ...) of a dense program.

        The blocks are those of `cvxlayers.conic.elimination`: P, A, M, Pyt, Ptt, its diagonal, At, q, b, c and qt.
        Batches of more than ``alone`` elements go to the program with this key.
        """
        ...

    def linear_solve(self, blocks: Sequence[Block], key: int, equalities: int, alone: int) -> Sequence[Array]:
        """w_x and w_z (*lead, ...) of the system with the blocks P to At of `solve`, at z and s, for g_x and g_z."""
        ...


class KernelPoint(NamedTuple):
    """Solutions of the full program, zero where an element failed, and how each ended."""

    x: Array
    z: Array
    s: Array
    status: Array
    residuals: Array
    iterations: Array


@dataclass(frozen=True, eq=False, repr=False)
class LeftOver:
    """What the kernels do not do, done as on the host: for one program, solver and smoothing."""

    program: ConeProgram
    solver: Solver
    mu: float

    def __repr__(self) -> str:
        patterns = (v for p in (self.program.P, self.program.A) for v in (p.rows, p.cols))
        digest = sha256(b"".join(np.asarray(v, np.int64).tobytes() for v in patterns)).hexdigest()
        return f"{digest} {self.program.A.shape} {self.program.cone!r} {self.solver!r} {self.mu!r}"

    @cached_property
    def prepared(self) -> Prepared:
        return self.solver.prepare(self.program)

    def solve(self, P, q, A, b, elements, x, z, s, status, residuals, iterations) -> None:
        """Solve the elements: P (n, n) or (batch, n, n) and so on; writes on the others, x (batch, n) and so on."""
        data = _some(DenseData(len(x), P, q, A, b, np.zeros(())), elements)
        with threads_for(len(elements)):
            found = self.prepared.solve(data)
        failed = (found.status > Status.INACCURATE)[:, None]
        for out, values in ((x, found.x), (z, found.z), (s, found.s)):
            out[elements] = np.where(failed, 0.0, values)
        status[elements], residuals[elements], iterations[elements] = found.status, found.residuals, found.iterations

    def linear_solve(self, P, A, z, s, gx, gz, elements, wx, wz) -> None:
        """Solve the elements' systems of the derivative: g_x and w_x (several, batch, n), g_z and w_z."""
        batch, (m, n) = gx.shape[1], A.shape[-2:]
        data = _some(DenseData(batch, P, np.zeros(n), A, np.zeros(m), np.zeros(())), elements)
        z, s = (np.broadcast_to(v, (batch, m))[elements] for v in (z, s))
        if self.mu:
            z, s = self.program.cone.smooth(z, s, self.mu)
        with threads_for(len(elements)):
            system = dense_system(data, spectrum(self.program, z, s, self.mu))
            wx[:, elements], wz[:, elements] = system.solve(gx[:, elements], gz[:, elements])[:2]


class KernelMap:
    """Parameter values to conic solutions, and the system of that map's derivative, for one form and one solver."""

    def __init__(self, form: AffineSolverAffine, ends: LiftRecover, host: SolutionMap, calls: Calls) -> None:
        assert isinstance(host.reduction, Elimination) and host.solver.kernel is not None
        self._calls, self.ends, self._reduction = calls, ends, host.reduction
        self.program = program = host.program
        self.elimination = ArrayElimination(self._reduction, form.lift)
        self._key = calls.key_of(LeftOver(program, host.solver, host.mu))
        self._equalities = Judge.of(program).equalities
        self._tol, self._max_iter = host.solver.tol, host.solver.kernel.max_iter
        one = host.solver.threads == 1 or available_cpus() == 1
        n, m = program.n, program.m
        unshared = DenseData(1, np.zeros((1, n, n)), np.zeros(n), np.zeros((1, m, n)), np.zeros(m), np.zeros(()))
        self._alone = _ALL if one else host.solver.kernel.prepare(program).alone(unshared)
        self._factored_alone = 0 if host.mu else _ALL if one else grain(n, min(n, m))

    @staticmethod
    def fits(host: SolutionMap) -> bool:
        """Whether the kernels do what this map does."""
        dense = isinstance(host.reduction, Elimination) and bool(host.program.n and host.program.m)
        return host.solver.kernel is not None and dense and host.all_dense

    def solve(self, values: Sequence[Array], batch: tuple[int, ...]) -> KernelPoint:
        """Solve for parameter values (*lead, *shape), real or complex."""
        vectors = self.ends.vectors(values, len(batch), guard=True)
        P, q, A, b, _, k = self.elimination.parts(vectors)
        blocks = (*_matrices(P, A, k), (q, 1), (b, 1), (k.c, 1), (k.qt, 1))
        y, z, s, status, residuals, iterations = self._calls.solve(
            blocks, self._key, self._equalities, self._max_iter, self._alone, self._tol
        )
        xp = namespace(y)
        kept = (status <= Status.INACCURATE)[..., None]
        x, full_z = self.elimination.expand(k, y, z)
        if self.elimination.size[0]:  # the data of a failed element may be NaN, in its blocks too
            x, full_z = xp.where(kept, x, 0.0), xp.where(kept, full_z, 0.0)
        out = (x, full_z, self.elimination.expand_slack(s), status, residuals, iterations)
        own = (1, 1, 1, 0, 1, 0)
        # Where no parameter of the solution has all the batch dimensions, it is repeated.
        return KernelPoint(
            *(xp.broadcast_to(v, (*batch, *v.shape[v.ndim - d :])) for v, d in zip(out, own, strict=True))
        )

    def linear_solve(self, P: Array, A: Array, z: Array, s: Array, gx: Array, gz: Array) -> tuple[Array, Array]:
        """The system of the full program, P and A the values on its patterns: (w_x, w_z) for (*lead, n), (*lead, m)."""
        reduction = self._from_values
        P, A, k = reduction.matrix_parts((P, A))
        gx, gz, gt, c = reduction.reduce_rhs(k, gx, gz)
        sides = ((v, 1) for v in (reduction.restrict(z), reduction.restrict(s), gx, gz))
        wy, wz = self._calls.linear_solve(
            (*_matrices(P, A, k), *sides), self._key, self._equalities, self._factored_alone
        )
        return reduction.expand_solution(k, gt, c, wy, wz)

    @cached_property
    def _from_values(self) -> ArrayElimination:
        return ArrayElimination.of_values(self._reduction)


def _matrices(P: Array, A: Array, k: Blocks) -> tuple[tuple[Array | None, int], ...]:
    """The matrices of the substitution, and the number of dimensions of each."""
    return (P, 2), (A, 2), (k.M, 2), (k.Pyt, 2), (k.Ptt, 2), (k.dtt, 1), (k.At, 2)


def _some(data: DenseData, elements: np.ndarray) -> DenseData:
    return data if len(elements) == data.batch else data.take(elements)
