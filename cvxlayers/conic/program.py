"""The one canonical form: a cone program's structure (ConeProgram) and a batch of its values (ConeData)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.sparse as sp

from cvxlayers.sets import Product
from cvxlayers.status import Status


@dataclass(frozen=True, eq=False)
class Pattern:
    """The sparsity pattern of a matrix, in compressed-column order (by column, then by row).

    ``rows`` and ``cols`` hold one entry for each stored value; no entry is there twice.
    """

    shape: tuple[int, int]
    rows: np.ndarray
    cols: np.ndarray

    @property
    def nnz(self) -> int:
        return len(self.rows)

    @cached_property
    def indptr(self) -> np.ndarray:
        return np.searchsorted(self.cols, np.arange(self.shape[1] + 1)).astype(np.int64)

    def csc(self, values: np.ndarray) -> sp.csc_array:
        """The matrix with these values, ``values`` of shape (nnz,); explicit zeros stay."""
        return sp.csc_array((values, self.rows, self.indptr), shape=self.shape)

    def dense(self, values: np.ndarray) -> np.ndarray:
        """The matrices with these values: (*batch, nnz) to (*batch, rows, cols)."""
        out = np.zeros((*values.shape[:-1], self.shape[0] * self.shape[1]))
        out[..., self.rows * self.shape[1] + self.cols] = values
        return out.reshape(*values.shape[:-1], *self.shape)


@dataclass(frozen=True, eq=False)
class ConeProgram:
    """Structure of: minimize (1/2) x'Px + q'x + r subject to Ax + s = b, s in K.

    The dual variable z of the constraint lies in the dual cone K*; at a solution
    Px + q + A'z = 0 and s'z = 0. ``P`` holds the upper triangle only. The cone lists its blocks in the
    order zero, nonnegative, second-order, positive semidefinite, exponential, power.
    The sets' own files hold the conventions of a block: order of its entries, triangle, scaling.
    """

    P: Pattern
    A: Pattern
    cone: Product

    @property
    def n(self) -> int:
        return self.A.shape[1]

    @property
    def m(self) -> int:
        return self.A.shape[0]

    def dense(self, data: ConeData) -> DenseData:
        """The same values as full matrices; what is shared stays shared."""
        P = self.P.dense(data.P)
        P = P + np.swapaxes(np.triu(P, 1), -1, -2)
        return DenseData(data.batch, P, data.q, self.A.dense(data.A), data.b, data.r)

    def sparse(self, data: DenseData) -> ConeData:
        """The same values on the program's patterns; entries off the patterns are dropped."""
        P = data.P[..., self.P.rows, self.P.cols]
        A = data.A[..., self.A.rows, self.A.cols]
        return ConeData(data.batch, P, data.q, A, data.b, data.r)


@dataclass(frozen=True, eq=False)
class ConeData:
    """Values of a ConeProgram for a batch of ``batch`` problems.

    Each of ``P`` (nnz of P), ``q`` (n), ``A`` (nnz of A), ``b`` (m) and ``r`` (no dimension: the constant of the
    objective) has either its own shape, shared by the whole batch, or one leading dimension of size ``batch``. float64.
    """

    batch: int
    P: np.ndarray
    q: np.ndarray
    A: np.ndarray
    b: np.ndarray
    r: np.ndarray

    def element(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """P, q, A, b of one problem of the batch."""
        P, q, A, b = (v[i] if v.ndim == 2 else v for v in (self.P, self.q, self.A, self.b))
        return P, q, A, b

    def take(self, elements: slice | np.ndarray) -> ConeData:
        """Some elements, by index, as a batch of their own; what is shared stays shared."""
        return _take(self, elements, matrix=1)


@dataclass(frozen=True, eq=False)
class DenseData:
    """Values of a ConeProgram as full matrices, for solvers of small dense problems.

    ``P`` is (n, n), symmetric and full, ``A`` (m, n), ``q`` (n), ``b`` (m) and ``r`` no dimension, each with its own
    shape, shared by the whole batch, or with one leading dimension of size ``batch``. float64.
    """

    batch: int
    P: np.ndarray
    q: np.ndarray
    A: np.ndarray
    b: np.ndarray
    r: np.ndarray

    def element(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """P, q, A, b of one problem of the batch."""
        P = self.P[i] if self.P.ndim == 3 else self.P
        A = self.A[i] if self.A.ndim == 3 else self.A
        return P, self.q[i] if self.q.ndim == 2 else self.q, A, self.b[i] if self.b.ndim == 2 else self.b

    def take(self, elements: slice | np.ndarray) -> DenseData:
        """Some elements, by index, as a batch of their own; what is shared stays shared."""
        return _take(self, elements, matrix=2)


def _take(data, elements: slice | np.ndarray, matrix: int):
    own = {"P": matrix, "q": 1, "A": matrix, "b": 1, "r": 0}
    values = {k: v[elements] if (v := getattr(data, k)).ndim > d else v for k, d in own.items()}
    return type(data)(len(np.arange(data.batch)[elements]), **values)


@dataclass(frozen=True, eq=False)
class ConicSolution:
    """Primal-dual solutions of a batch: x (batch, n), z and s (batch, m), with how each element ended.

    ``status`` (batch,) holds Status values, ``iterations`` (batch,) the solver's count, ``residuals`` (batch, 3) the
    relative primal, dual and gap residuals of `cvxlayers.conic.residuals`.
    """

    x: np.ndarray
    z: np.ndarray
    s: np.ndarray
    status: np.ndarray
    iterations: np.ndarray
    residuals: np.ndarray | None = None

    def take(self, elements: slice | np.ndarray) -> ConicSolution:
        """Some elements, as a batch of their own."""
        return ConicSolution(**{k: v[elements] for k in _BATCHED if (v := getattr(self, k)) is not None})

    def give_up(self, i: int) -> None:
        """Write that element i has no solution."""
        self.x[i], self.z[i], self.s[i] = np.nan, np.nan, np.nan
        self.status[i], self.iterations[i] = Status.NUMERICAL_ERROR, 0

    def put(self, elements: np.ndarray, other: ConicSolution) -> ConicSolution:
        """The same, with some elements replaced by those of another batch, in order."""
        new = {}
        for k in _BATCHED:
            mine, theirs = getattr(self, k), getattr(other, k)
            if mine is not None and theirs is not None:
                new[k] = mine.copy()
                new[k][elements] = theirs
        return replace(self, **new)


_BATCHED = ("x", "z", "s", "status", "iterations", "residuals")
