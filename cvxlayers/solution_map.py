"""The map from parameter vectors to conic solutions, and its derivatives: lift, reduce, solve, judge, differentiate.

Vectors are float64 NumPy arrays, (size,) where the whole batch shares them, else (batch, size).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from cvxlayers.canonical.form import AffineSolverAffine
from cvxlayers.conic.adjoint import Adjoint
from cvxlayers.conic.affine import Lift
from cvxlayers.conic.compiled_kkt import CompiledKKT
from cvxlayers.conic.elimination import Blocks, Elimination
from cvxlayers.conic.kkt import Certificate, DenseKKT, Null, Spectrum, spectrum
from cvxlayers.conic.polyhedral_kkt import PolyhedralKKT
from cvxlayers.conic.program import ConeData, ConeProgram, ConicSolution, DenseData
from cvxlayers.conic.sparse_kkt import SparseKKT, SparseSystem
from cvxlayers.conic.structure import Structure
from cvxlayers.solvers.blas import one_blas_thread
from cvxlayers.solvers.solver import Solver
from cvxlayers.status import Status

DENSE_LIMIT = 400  # variables plus constraints up to which a program is held as dense matrices
SMALL = 64  # variables plus constraints up to which a dense factor is fastest whatever the pattern
SPARSE_ADVANTAGE = 0.2  # sparse operations over dense ones below which the sparse factor is faster


KKT = DenseKKT | PolyhedralKKT | SparseKKT | CompiledKKT


class Direct:
    """The reduction of a large program: none."""

    def __init__(self, program: ConeProgram, lift: Lift) -> None:
        self.program, self._lift = program, lift

    def reduce(self, vectors: Sequence[np.ndarray], batch: int) -> tuple[ConeData, Blocks]:
        lift = self._lift
        P, q, A, b, r = (m(vectors) for m in (lift.P, lift.q, lift.A, lift.b, lift.r))
        return ConeData(batch, P, q, A, b, r[..., 0]), Blocks()

    def expand(self, blocks: Blocks, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x, z

    def expand_slack(self, s: np.ndarray) -> np.ndarray:
        return s

    def reduce_rhs(self, blocks: Blocks, gx: np.ndarray, gz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return gx, gz

    def expand_solution(self, blocks: Blocks, gx, gz, wx, wz) -> tuple[np.ndarray, np.ndarray]:
        return wx, wz


@dataclass(eq=False)
class Point:
    """What one forward call leaves for the derivative: reduced data and solution, and how each element ended.

    x, z and s are those of the full program, (batch, n) and (batch, m): NaN where an element failed.
    """

    reduction: Direct | Elimination
    batch: int
    vectors: Sequence[np.ndarray]
    data: DenseData | ConeData
    blocks: Blocks
    solution: ConicSolution
    kkt: KKT | None = field(default=None, repr=False)

    @cached_property
    def failed(self) -> np.ndarray | None:
        """Mask of the elements without a solution, None if there are none."""
        status = self.solution.status
        failed = status > Status.INACCURATE
        return failed if failed.any() else None

    @cached_property
    def full(self) -> tuple[np.ndarray, np.ndarray]:
        with threads_for(self.batch):
            return self.reduction.expand(self.blocks, self.solution.x, self.solution.z)

    @property
    def x(self) -> np.ndarray:
        return self.full[0]

    @property
    def z(self) -> np.ndarray:
        return self.full[1]

    @cached_property
    def s(self) -> np.ndarray:
        return self.reduction.expand_slack(self.solution.s)

    @property
    def at_zero(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, z and s with zeros where an element failed: what derivatives are written with."""
        x, z, s = self.x, self.z, self.s
        if self.failed is not None:
            x, z, s = (np.where(self.failed[:, None], 0.0, v) for v in (x, z, s))
        return x, z, s

    @property
    def residuals(self) -> np.ndarray:
        """Relative primal, dual and gap residuals, (batch, 3)."""
        residuals = self.solution.residuals
        assert residuals is not None  # every solver's result has been judged
        return residuals

    @cached_property
    def value(self) -> np.ndarray:
        """(1/2) x'Px + q'x + r, (batch,)."""
        x, d = self.solution.x, self.data
        if self.failed is not None:
            x = np.where(self.failed[:, None], 0.0, x)
        with threads_for(self.batch), np.errstate(invalid="ignore", over="ignore"):
            if isinstance(d, DenseData):
                Px = (d.P @ x[..., None])[..., 0] if d.P.ndim == 3 else x @ d.P
            else:
                P = self.reduction.program.P
                Px = np.stack([upper_times(P, d.element(i)[0], x[i]) for i in range(self.batch)]) if self.batch else x
            return 0.5 * (Px * x).sum(-1) + (d.q * x).sum(-1) + d.r


def upper_times(pattern, values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """P x for the symmetric P whose upper triangle has these values."""
    U = pattern.csc(values)
    return U @ x + U.T @ x - U.diagonal() * x


class SolutionMap:
    """Parameter vectors to (x, z, s) and the optimal value of a program in ASA form, with derivatives.

    ``mu`` > 0 smooths the derivative: the projection on the cone is replaced by its barrier-smoothed one.
    """

    def __init__(self, form: AffineSolverAffine, solver: Solver, reduction: Direct | Elimination, mu: float = 0.0):
        self.form, self.solver, self.mu = form, solver, mu
        self.reduction, self.program = reduction, reduction.program
        self.adjoint = Adjoint(form.program, form.lift)
        self.dense = isinstance(reduction, Elimination)
        self.prepared = solver.prepare(self.program)
        size = self.program.n + self.program.m
        self._small = size <= SMALL or _is_full(self.program)
        self._dense_work = size**3 / 3.0 if size <= DENSE_LIMIT else np.inf
        self._system: SparseSystem | None = None

    def solve(self, vectors: Sequence[np.ndarray], batch: int, warm: ConicSolution | None = None) -> Point:
        """Solve a batch; elements without a solution are NaN, with their status saying why."""
        with threads_for(batch):
            with np.errstate(invalid="ignore", over="ignore"):  # an invalid element goes through as NaN
                data, blocks = self.reduction.reduce(vectors, batch)
            solution = self.prepared.solve(data, warm)
        return Point(self.reduction, batch, vectors, data, blocks, solution)

    def factor(self, point: Point) -> KKT:
        """The linear system of the derivative at a point, factored once and kept."""
        if point.kkt is None:
            data, solution, failed = point.data, point.solution, point.failed
            z, s = solution.z, solution.s
            if failed is not None:  # a failed element becomes a trivial problem before anything is factored
                z, s = np.where(failed[:, None], 0.0, z), np.where(failed[:, None], 1.0, s)
                data = _trivial(data, failed)
            point.kkt = self._factor(data, z, s)
        return point.kkt

    def _factor(self, data: DenseData | ConeData, z: np.ndarray, s: np.ndarray) -> KKT:
        if not self._compiled:
            return self._factor_plainly(data, z, s)

        def others(elements: np.ndarray) -> KKT:
            return self._factor_plainly(data.take(elements), z[elements], s[elements])

        values = self.program.sparse(data) if isinstance(data, DenseData) else data
        return CompiledKKT(Structure.of(self.program), values, z, s, others)

    @cached_property
    def _compiled(self) -> bool:
        """Whether the derivative's system is one for the compiled kernel."""
        return not self.mu and CompiledKKT.fits(self.program)

    def _factor_plainly(self, data: DenseData | ConeData, z: np.ndarray, s: np.ndarray) -> KKT:
        """The system without a compiled kernel for curved cones."""
        if self.mu:
            z, s = self.program.cone.smooth(z, s, self.mu)
        D = spectrum(self.program, z, s, self.mu)
        if self._system is None and not (isinstance(data, DenseData) and self._small):
            self._system = SparseSystem(self.program, tuple((start, size, V.shape[-3]) for start, size, V in D.bases))
        if self._system is None or not self._sparse_pays(self._system):
            return dense_system(data if isinstance(data, DenseData) else self.program.dense(data), D)
        return SparseKKT(self._system, self.program.sparse(data) if isinstance(data, DenseData) else data, D)

    def _sparse_pays(self, system: SparseSystem) -> bool:
        return system.work <= SPARSE_ADVANTAGE * self._dense_work

    @cached_property
    def all_dense(self) -> bool:
        """Whether the derivative's system of these linear cones has a dense factor for dense data."""
        return self._small or not self._sparse_pays(SparseSystem(self.program, ()))

    def linear_solve_at(self, P, A, z, s, gx, gz, batch: int) -> tuple[np.ndarray, np.ndarray]:
        """The system at values P and A of the patterns and a primal-dual pair, for (*, batch, n) and (*, batch, m)."""
        program = self.program
        data = ConeData(batch, P, np.zeros(program.n), A, np.zeros(program.m), np.zeros(()))
        return self._factor(program.dense(data) if self._small else data, z, s).solve(gx, gz)[:2]

    def linear_solve(
        self, point: Point, gx: np.ndarray, gz: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Null]:
        """The system of the full program at a point, with its residual (batch,) and null space."""
        with threads_for(point.batch):
            rx, rz = self.reduction.reduce_rhs(point.blocks, gx, gz)
            wx, wz, residual, null = self.factor(point).solve(rx, rz)
            wx, wz = self.reduction.expand_solution(point.blocks, gx, gz, wx, wz)
        return wx, wz, residual, null

    def _certificate(self, point: Point, residual: np.ndarray, null: Null, enters: Callable) -> Certificate:
        """``enters(nx, nz)`` (batch,) says how much null vectors (k, batch, n), (k, batch, m) change the result."""
        unique = np.ones(point.batch, bool)
        for i, (nx, nz) in null.items():
            wide_x = np.zeros((len(nx), point.batch, nx.shape[-1]))
            wide_z = np.zeros((len(nz), point.batch, nz.shape[-1]))
            wide_x[:, i], wide_z[:, i] = nx, nz
            zero_x, zero_z = np.zeros((self.form.program.n,)), np.zeros((self.form.program.m,))
            gx = np.broadcast_to(zero_x, (len(nx), point.batch, len(zero_x)))
            gz = np.broadcast_to(zero_z, (len(nx), point.batch, len(zero_z)))
            wide_x, wide_z = self.reduction.expand_solution(point.blocks, gx, gz, wide_x, wide_z)
            unique[i] = residual[i] < 1e-6 and enters(wide_x, wide_z) < 1e-7
        if point.failed is not None:
            residual = np.where(point.failed, 0.0, residual)
        return Certificate(residual, unique, self.factor(point).margin)

    def vjp(
        self,
        point: Point,
        gx: np.ndarray | None,
        gz: np.ndarray | None,
        gs: np.ndarray | None,
        value: np.ndarray | None,
        wanted: Collection[int],
    ) -> tuple[dict[int, np.ndarray | None], Certificate | None]:
        """Gradients of the vectors in ``wanted`` for cotangents (*, batch, n), (*, batch, m) and (*, batch)."""
        n, m = self.form.program.n, self.form.program.m
        x, z, failed = point.x, point.z, point.failed
        if failed is not None:
            x, z = np.where(failed[:, None], 0.0, x), np.where(failed[:, None], 0.0, z)
            gx, gz, gs = (None if g is None else np.where(failed[:, None], 0.0, g) for g in (gx, gz, gs))
            value = None if value is None else np.where(failed, 0.0, value)
        shared = [v.ndim == 1 for v in point.vectors]
        wx = wz = certificate = None
        if self.solver.capabilities.derivative and not self.mu and (gx is not None or gz is not None or gs is not None):
            return self._own_vjp(point, gx, gz, gs, value, wanted, shared)
        if gx is not None or gz is not None or gs is not None:
            shape = np.broadcast_shapes(*(g.shape[:-1] for g in (gx, gz, gs) if g is not None))
            gx = np.zeros((*shape, n)) if gx is None else gx
            gz = np.zeros((*shape, m)) if gz is None else gz
            if gs is not None:
                gx = gx - self.adjoint.A_transposed(self._A(point), gs)
            wx, wz, residual, null = self.linear_solve(point, gx, gz)
            if failed is not None:
                wx, wz = np.where(failed[:, None], 0.0, wx), np.where(failed[:, None], 0.0, wz)

            def enters(nx, nz):
                pulled = self.adjoint.pull(x, z, nx, nz, None, None, range(len(shared)), shared).values()
                return max((np.abs(g).max(initial=0.0) for g in pulled if g is not None), default=0.0)

            certificate = self._certificate(point, residual, null, enters)
        return self.adjoint.pull(x, z, wx, wz, gs, value, wanted, shared), certificate

    def _own_vjp(self, point: Point, gx, gz, gs, value, wanted, shared):
        """`vjp` by the solver's own derivative, of which no certificate is known."""
        program, zeros = self.form.program, np.zeros
        gx = zeros((point.batch, program.n)) if gx is None else gx
        gz, gs = (zeros((point.batch, program.m)) if g is None else g for g in (gz, gs))
        dq, dA, db = self.prepared.adjoint(point.solution, gx, gz, gs)
        x, z, _ = point.at_zero
        grads = self.adjoint.pull(x, z, None, None, None, value, wanted, shared)
        for p in wanted:
            for map_, d in ((self.form.lift.q, dq), (self.form.lift.A, dA), (self.form.lift.b, db)):
                part = map_.transpose(p, d.sum(0) if shared[p] else d)
                if part is not None:
                    grads[p] = part if grads[p] is None else grads[p] + part
        unknown = np.full(point.batch, np.nan)
        return grads, Certificate(unknown, np.ones(point.batch, bool), unknown)

    def jvp(self, point: Point, tangents: Sequence[np.ndarray | None]):
        """(dx, dz, ds, dvalue, certificate) for tangents (size,) or (*, batch, size); None is a zero tangent."""
        x, z, failed = point.x, point.z, point.failed
        if failed is not None:
            x, z = np.where(failed[:, None], 0.0, x), np.where(failed[:, None], 0.0, z)
        rx, rz, dvalue = self.adjoint.push(x, z, tangents)
        if failed is not None:
            rx, rz = np.where(failed[:, None], 0.0, rx), np.where(failed[:, None], 0.0, rz)
        dx, dz, residual, null = self.linear_solve(point, rx, rz)
        outputs = [o for o in self.form.outputs if o.source == "x"]

        def enters(nx, nz):
            changes = (o.map.linear([nx]) for o in outputs)
            return max((np.abs(c).max(initial=0.0) for c in changes if c is not None), default=0.0)

        certificate = self._certificate(point, residual, null, enters)
        A = self._A(point)
        ds = rz - self.adjoint.A_times(A, dx)
        if failed is not None:
            dx, dz, ds = (np.where(failed[:, None], np.nan, d) for d in (dx, dz, ds))
            dvalue = np.where(failed, np.nan, dvalue)
        return dx, dz, ds, dvalue, certificate

    def _A(self, point: Point) -> np.ndarray:
        """Values of the full A, finite at failed elements."""
        A = self.form.lift.A(point.vectors)
        return A if point.failed is None else np.nan_to_num(A, nan=0.0, posinf=0.0, neginf=0.0)


def dense_system(data: DenseData, D: Spectrum) -> PolyhedralKKT | DenseKKT:
    """The system on dense factors."""
    return PolyhedralKKT(data, D) if PolyhedralKKT.fits(D) else DenseKKT(data, D)


def threads_for(batch: int) -> AbstractContextManager[None]:
    """BLAS in one thread for a batch, whose elements have threads of their own: idle BLAS threads spin in their way."""
    return one_blas_thread() if batch > 1 else nullcontext()


def _is_full(program: ConeProgram) -> bool:
    """Whether so much of P and A is stored that a sparse factor fills up."""
    return program.P.nnz + program.A.nnz > 0.5 * (program.n * (program.n + 1) / 2 + program.n * program.m)


def _trivial(data: DenseData | ConeData, failed: np.ndarray) -> DenseData | ConeData:
    """The data with P and A of the failed elements replaced by constants that factor."""
    if isinstance(data, DenseData):
        P = _replace(data.P, failed, np.eye(data.q.shape[-1]), data.P.ndim == 3)
        return replace(data, P=P, A=_replace(data.A, failed, 0.0, data.A.ndim == 3))
    return replace(
        data, P=_replace(data.P, failed, 0.0, data.P.ndim == 2), A=_replace(data.A, failed, 0.0, data.A.ndim == 2)
    )


def _replace(values: np.ndarray, failed: np.ndarray, by: np.ndarray | float, batched: bool) -> np.ndarray:
    if not batched:
        return values if np.isfinite(values).all() else np.broadcast_to(by, values.shape)
    return np.where(failed.reshape(-1, *(1,) * (values.ndim - 1)), by, values)
