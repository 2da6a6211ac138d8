"""The linear system of the derivative for large sparse programs: quasi-definite LDL' with iterative refinement.

The same bounded system as in `cvxlayers.conic.kkt`, on a fixed sparsity pattern, equilibrated, with +-epsilon on its
diagonal so that it factors in any order (Vanderbei 1995, doi 10.1137/0805005); refinement against the system without
epsilon removes the perturbation, and leaves the minimum-norm part where the system is singular.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp

from cvxlayers.conic.kkt import Null, Spectrum
from cvxlayers.conic.program import ConeData, ConeProgram
from cvxlayers.solvers.pool import available_cpus, run

REGULARIZATION = 1e-6
REFINEMENTS = 12
TARGET = 1e-13


class SparseSystem:
    """Structure of the system of one program: the pattern of its upper triangle and where each value goes."""

    def __init__(self, program: ConeProgram, bases: tuple[tuple[int, int, int], ...]) -> None:
        """``bases`` lists (start, size of one cone, count) of the cones whose rows are rotated."""
        self.program, n, m = program, program.n, program.m
        A = sp.csr_array((np.arange(program.A.nnz), (program.A.rows, program.A.cols)), shape=program.A.shape)
        rotated = np.zeros(m, bool)
        self.cones = []
        rows, cols = [], []
        for start, size, count in bases:
            for k in range(count):
                lo = start + k * size
                rotated[lo : lo + size] = True
                entries = A.data[A.indptr[lo] : A.indptr[lo + size]]
                union, position = np.unique(program.A.cols[entries], return_inverse=True)
                self.cones.append((lo, size, entries, program.A.rows[entries] - lo, position, len(union)))
                rows.append(np.repeat(np.arange(lo, lo + size), len(union)))
                cols.append(np.tile(union, size))
        plain = np.flatnonzero(~rotated[program.A.rows])
        self.plain, self.plain_rows = plain, program.A.rows[plain]
        w_rows = np.concatenate([self.plain_rows, *rows])
        w_cols = np.concatenate([program.A.cols[plain], *cols])
        i = np.concatenate([program.P.rows, np.arange(n + m), w_cols])
        j = np.concatenate([program.P.cols, np.arange(n + m), n + w_rows])
        K = sp.coo_array((np.arange(1, len(i) + 1), (i, j)), shape=(n + m, n + m)).tocsc()  # sums the duplicated diagonal
        K.sort_indices()
        self.indices, self.indptr = K.indices, K.indptr
        column = np.repeat(np.arange(n + m), np.diff(K.indptr))
        key = column.astype(np.int64) * (n + m) + K.indices
        self.position = np.searchsorted(key, j.astype(np.int64) * (n + m) + i)
        self.rows, self.cols = K.indices, column
        self.sign = np.concatenate([np.ones(n), -np.ones(m)])

    def values(self, P: np.ndarray, A: np.ndarray, spectrum: Spectrum, i: int) -> np.ndarray:
        """The system's upper triangle for element i of the batch."""
        lam, root = spectrum.lam[i], np.sqrt(spectrum.lam[i])
        parts = [P, np.zeros(self.program.n), lam - 1.0, A[self.plain] * root[self.plain_rows]]
        V = {start + k * size: basis[i, k] for start, size, basis in spectrum.bases for k in range(basis.shape[1])}
        for lo, size, entries, row, position, width in self.cones:
            block = np.zeros((size, width))
            block[row, position] = A[entries]
            parts.append((root[lo : lo + size, None] * (V[lo].T @ block)).ravel())
        return np.bincount(self.position, np.concatenate(parts), minlength=len(self.indices))

    def matrix(self, values: np.ndarray) -> sp.csc_array:
        return sp.csc_array((values, self.indices, self.indptr), shape=(len(self.indptr) - 1,) * 2)

    def equilibrate(self, values: np.ndarray) -> np.ndarray:
        """Scaling of the rows and columns that brings the largest entry of each near one (Ruiz)."""
        scale = np.ones(len(self.indptr) - 1)
        size = np.abs(values)
        for _ in range(3):
            now = size * scale[self.rows] * scale[self.cols]
            largest = np.zeros(len(scale))
            np.maximum.at(largest, self.rows, now)
            np.maximum.at(largest, self.cols, now)
            scale /= np.sqrt(np.where(largest > 0, largest, 1.0))
        return scale

    def factor(self, matrix: sp.csc_array):
        """A new LDL' factorization; each solver object belongs to one call."""
        import qdldl

        return qdldl.Solver(matrix, upper=True)


class SparseKKT:
    """Factors of a batch of sparse systems; `solve` as in `cvxlayers.conic.kkt.DenseKKT`."""

    def __init__(self, system: SparseSystem, data: ConeData, spectrum: Spectrum) -> None:
        self.system, self.spectrum, self.batch = system, spectrum, data.batch
        self.n = system.program.n

        def factor(i):
            P, _, A, _ = data.element(i)
            values = system.values(P, A, spectrum, i)
            scale = system.equilibrate(values)
            scaled = values * scale[system.rows] * scale[system.cols]
            upper = system.matrix(scaled)
            shifted = upper + sp.diags_array(REGULARIZATION * system.sign, format="csc")
            full = sp.csr_array(upper + sp.triu(upper, 1).T)
            return system.factor(shifted), full, scale, values

        self.factors = _for_each(factor, data.batch)

    def solve(self, gx: np.ndarray, gz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, Null]:
        """As `DenseKKT.solve`; of a null space one vector, at random, is found."""
        n, root = self.n, np.sqrt(self.spectrum.lam)
        rhs = np.concatenate([gx, self.spectrum.rotate(gz) * root], axis=-1)
        stacked = rhs.reshape(-1, self.batch, rhs.shape[-1])
        w = np.empty_like(stacked)
        residual, null = np.zeros(self.batch), {}

        def solve(i):
            probe = np.random.default_rng(0).standard_normal(rhs.shape[-1])
            direction, error = self._refined(i, probe)
            if not error < 1e-6:  # no solution, so a null vector stands in for it
                null[i] = direction / np.linalg.norm(direction)
            for k in range(len(stacked)):
                w[k, i], error = self._refined(i, stacked[k, i])
                residual[i] = max(residual[i], error)

        _for_each(solve, self.batch)
        w = w.reshape(rhs.shape)
        wz = self.spectrum.rotate(w[..., n:] * root, back=True)
        kernels: Null = {}
        for i, direction in null.items():
            wide = np.zeros((1, self.batch, len(direction)))
            wide[:, i] = direction
            kernels[i] = wide[:, i, :n], self.spectrum.rotate(wide[..., n:] * root, back=True)[:, i]
        return w[..., :n], wz, residual, kernels

    def _refined(self, i: int, rhs: np.ndarray) -> tuple[np.ndarray, float]:
        """Solution by refinement, and its residual relative to the right-hand side."""
        ldl, K, scale, _ = self.factors[i]
        b = rhs * scale
        size = np.abs(b).max(initial=0.0)
        w = np.zeros_like(b)
        if size == 0.0:
            return w, 0.0
        best, best_error, r = w, np.inf, b
        for _ in range(REFINEMENTS):
            w = w + ldl.solve(r)
            r = b - K @ w
            error = np.abs(r).max() / size
            if not error < best_error:
                break
            slow = error > 0.5 * best_error
            best, best_error = w, error
            if error < TARGET or slow:
                break
        return best * scale, float(best_error)


def _for_each(function: Callable[[int], Any], count: int) -> list:
    """[function(i) for i in range(count)], in threads."""
    out: list = [None] * count

    def piece(start: int, stop: int) -> None:
        for i in range(start, stop):
            out[i] = function(i)

    run(lambda: piece, count, available_cpus())
    return out
