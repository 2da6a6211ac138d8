"""The linear system of the derivative for sparse programs: quasi-definite LDL' with iterative refinement.

The same bounded system as in `cvxlayers.conic.kkt`, on a fixed sparsity pattern, equilibrated, with +-epsilon on its
diagonal so that it factors in any order (Vanderbei 1995, doi 10.1137/0805005); refinement against the system without
epsilon removes the perturbation, and leaves the minimum-norm part where the system is singular.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

from cvxlayers.conic.affine import Sparse
from cvxlayers.conic.kkt import AtSpectrum, Null, Spectrum
from cvxlayers.conic.program import ConeData, ConeProgram
from cvxlayers.pool import available_cpus, run

REGULARIZATION = 1e-6
REFINEMENTS = 12
TARGET = 1e-13
SINGULAR = 1e-6  # a residual for a random right-hand side above which the system counts as singular
KEPT_FACTORS = 512  # factorizations whose memory is kept for later calls


class SparseSystem:
    """Structure of the system of one program: the pattern of its upper triangle and where each value goes."""

    def __init__(self, program: ConeProgram, bases: tuple[tuple[int, int, int], ...]) -> None:
        """``bases`` lists (start, size of one cone, count) of the cones whose rows are rotated."""
        n, m = program.n, program.m
        self.program = program
        A: Sparse = sp.csr_array((np.arange(program.A.nnz), (program.A.rows, program.A.cols)), shape=program.A.shape)
        rotated = np.zeros(m, bool)
        # A rotated entry is a sum of products: entry (row, column) takes V[j, row] A[j, column] over the cone's rows j.
        entry, factor, rows, cols = [], [], [], []
        offset = 0
        for start, size, count in bases:
            rotated[start : start + size * count] = True
            for k in range(count):
                first = start + k * size
                own = A.data[A.indptr[first] : A.indptr[first + size]]
                j = program.A.rows[own] - first
                for i in range(size):
                    entry.append(own)
                    factor.append(offset + (k * size + j) * size + i)
                    rows.append(np.full(len(own), first + i))
                    cols.append(program.A.cols[own])
            offset += count * size * size
        plain = np.flatnonzero(~rotated[program.A.rows])
        none = [np.zeros(0, np.int64)]
        self._entry = np.concatenate([plain, *entry])
        self._factor = np.concatenate([*none, *factor])
        self._plain = len(plain)
        self._row = np.concatenate([program.A.rows[plain], *none, *rows])
        i = np.concatenate([program.P.rows, np.arange(n + m), np.concatenate([program.A.cols[plain], *none, *cols])])
        j = np.concatenate([program.P.cols, np.arange(n + m), n + self._row])
        self.size = n + m
        key = j.astype(np.int64) * self.size + i
        unique, position = np.unique(key, return_inverse=True)
        self.cols, self.rows = np.divmod(unique, self.size)
        self.nnz = len(unique)
        self._sum = sp.csr_array((np.ones(len(key)), (position, np.arange(len(key)))), shape=(self.nnz, len(key)))
        self._indptr = np.searchsorted(self.cols, np.arange(self.size + 1)).astype(np.int32)
        off = np.flatnonzero(self.rows != self.cols)
        full: Sparse = sp.csr_array(
            (
                np.concatenate([np.arange(self.nnz), off]),
                (np.concatenate([self.rows, self.cols[off]]), np.concatenate([self.cols, self.rows[off]])),
            ),
            shape=(self.size, self.size),
        )
        self._full, self._full_indices, self._full_indptr = full.data, full.indices, full.indptr
        diagonal = self.rows == self.cols
        self._shift = np.where(diagonal, np.where(self.rows < n, REGULARIZATION, -REGULARIZATION), 0.0)
        self._free: deque = deque(maxlen=KEPT_FACTORS)
        self.work = self._count()

    def values(self, data: ConeData, spectrum: Spectrum) -> np.ndarray:
        """The upper triangles of the batch, (B, nnz)."""
        n, B, root = self.program.n, data.batch, np.sqrt(spectrum.lam)
        entries = data.A[..., self._entry]
        if len(self._factor):
            V = np.concatenate([V.reshape(B, -1) for _, _, V in spectrum.bases], axis=-1)
            entries = np.array(np.broadcast_to(entries, (B, entries.shape[-1])))
            entries[:, self._plain :] *= V[:, self._factor]
        P = np.broadcast_to(data.P, (B, data.P.shape[-1]))
        terms = np.concatenate([P, np.zeros((B, n)), spectrum.lam - 1.0, entries * root[:, self._row]], axis=-1)
        return np.ascontiguousarray((self._sum @ terms.T).T)

    def equilibrate(self, values: np.ndarray) -> np.ndarray:
        """Scaling of rows and columns that brings the largest entry of each near one (Ruiz), for one upper triangle."""
        scale = np.ones(self.size)
        absolute = np.abs(values)[self._full]
        for _ in range(2):
            largest = np.maximum.reduceat(absolute * scale[self._full_indices], self._full_indptr[:-1]) * scale
            scale /= np.sqrt(np.where(largest > 0, largest, 1.0))
        return scale

    def upper(self, values: np.ndarray) -> sp.csc_array:
        """The shifted upper triangle with these values, as qdldl wants it."""
        return sp.csc_array((values + self._shift, self.rows.astype(np.int32), self._indptr), shape=(self.size,) * 2)

    def full(self, values: np.ndarray) -> sp.csr_array:
        """The whole symmetric matrix, unshifted."""
        return sp.csr_array((values[self._full], self._full_indices, self._full_indptr), shape=(self.size,) * 2)

    def factor(self, values: np.ndarray):
        """LDL' of one scaled system, in the memory of a factorization that nobody uses any more if there is one."""
        import qdldl

        upper = self.upper(values)
        try:
            ldl = self._free.pop()
        except IndexError:
            return qdldl.Solver(upper, upper=True)
        ldl.update(upper, upper=True)
        return ldl

    def recycle(self, factors: list) -> None:
        """Take back factorizations."""
        self._free.extend(factors)

    def _count(self) -> float:
        """Floating-point operations of one factorization."""
        if not self.size:
            return 0.0
        values = np.random.default_rng(0).uniform(0.5, 1.0, self.nnz) * (self.rows != self.cols)
        ldl = self.factor(values + (self.rows == self.cols) * np.sign(self._shift) * self.size)
        columns = np.diff(sp.csc_array(ldl.factors()[0]).indptr).astype(float)
        self.recycle([ldl])
        return float((columns**2).sum())

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_free": deque(maxlen=KEPT_FACTORS)}


class SparseKKT(AtSpectrum):
    """Factors of a batch of sparse systems; `solve` as in `cvxlayers.conic.kkt.DenseKKT`."""

    def __init__(self, system: SparseSystem, data: ConeData, spectrum: Spectrum) -> None:
        self.system, self.spectrum, self.batch = system, spectrum, data.batch
        self.n = system.program.n
        self._values = system.values(data, spectrum)
        self.scale = np.empty((self.batch, system.size))
        self._factors: list = [None] * self.batch
        self._for_each(self._factor)
        weakref.finalize(self, system.recycle, self._factors)

    def _factor(self, i: int) -> None:
        system, values = self.system, self._values[i]
        scale = self.scale[i] = system.equilibrate(values)
        values *= scale[system.rows]
        values *= scale[system.cols]
        self._factors[i] = system.factor(values)

    def solve(self, gx: np.ndarray, gz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, Null]:
        """As `DenseKKT.solve`; of a null space one vector, at random, is found."""
        n, root = self.n, np.sqrt(self.spectrum.lam)
        rhs = np.concatenate([gx, self.spectrum.rotate(gz) * root], axis=-1)
        several = int(np.prod(rhs.shape[:-2], dtype=int))
        stacked = (rhs * self.scale).reshape((several, self.batch, rhs.shape[-1]))
        w = np.empty_like(stacked)
        residual, null = np.zeros(self.batch), {}
        probe = np.random.default_rng(0).standard_normal(rhs.shape[-1])

        def solve(i: int) -> None:
            K, ldl = self.system.full(self._values[i]), self._factors[i]
            if np.abs(probe - K @ ldl.solve(probe)).max() > 1e-2:
                direction, error = _refined(ldl, K, probe)
                if error > SINGULAR:  # no solution, so a null vector stands in for it
                    null[i] = direction * self.scale[i] / np.linalg.norm(direction)
            for k in range(several):
                w[k, i], error = _refined(ldl, K, stacked[k, i])
                residual[i] = max(residual[i], error)

        self._for_each(solve)
        w = (w * self.scale).reshape(rhs.shape)
        wz = self.spectrum.rotate(w[..., n:] * root, back=True)
        kernels: Null = {}
        for i, direction in null.items():
            wide = np.zeros((1, self.batch, len(direction)))
            wide[:, i] = direction
            kernels[i] = wide[:, i, :n], self.spectrum.rotate(wide[..., n:] * root, back=True)[:, i]
        return w[..., :n], wz, residual, kernels

    def _for_each(self, function: Callable[[int], None]) -> None:
        def piece(start: int, stop: int) -> None:
            for i in range(start, stop):
                function(i)

        seconds = 1e-4 + 1e-9 * self.system.work
        run(lambda: piece, self.batch, available_cpus(), grain=max(1, int(1e-3 / seconds)))


def _refined(ldl, K: sp.csr_array, b: np.ndarray) -> tuple[np.ndarray, float]:
    """Solution of K w = b by refinement, and its residual relative to b."""
    size = np.abs(b).max(initial=0.0)
    if size == 0.0:
        return np.zeros_like(b), 0.0
    w = ldl.solve(b)
    r = b - K @ w
    error = np.abs(r).max() / size
    for _ in range(REFINEMENTS):
        if error < TARGET:
            break
        better = w + ldl.solve(r)
        r = b - K @ better
        new = np.abs(r).max() / size
        if not new < 0.9 * error:
            break
        w, error = better, new
    return w, float(error)
