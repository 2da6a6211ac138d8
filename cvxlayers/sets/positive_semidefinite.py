"""The cone of positive semidefinite matrices, as scaled vectors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from cvxlayers.array import constant, eigh, lyapunov, namespace
from cvxlayers.sets.cone import Array, Cone, check_length, over_entries
from cvxlayers.sets.nonnegative import snap, split


@lru_cache
def _vector_order(k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of the upper triangle, column by column, and the factor of each entry."""
    cols = np.repeat(np.arange(k), np.arange(1, k + 1))
    rows = np.concatenate([np.arange(j + 1) for j in range(k)])
    return rows, cols, np.where(rows == cols, 1.0, np.sqrt(2.0))


def _to_vector(k: int) -> np.ndarray:
    rows, cols, _ = _vector_order(k)
    return rows * k + cols


def _to_matrix(k: int) -> np.ndarray:
    i, j = (np.minimum(*np.indices((k, k))), np.maximum(*np.indices((k, k))))
    return (j * (j + 1) // 2 + i).reshape(-1)


def _factor(k: int) -> np.ndarray:
    return _vector_order(k)[2]


@dataclass(frozen=True)
class PositiveSemidefinite(Cone):
    """K = {svec(S): S a positive semidefinite k x k matrix} = K*.

    svec lists the upper triangle column by column, off-diagonal entries times sqrt(2), so that svec(A)'svec(B) =
    trace(AB); ``matrix`` and ``vector`` convert. The spectral values are the eigenvalues; the smoothed pair has
    ZS = mu I (barrier F(S) = -log det S).

    Linearizing (ZS + SZ)/2 = mu I gives one equation for the exact and the smoothed derivative X = D h, with
    W = Z + S: W X + X W = Z H + H Z. It holds at repeated eigenvalues too.

    Source: D. Sun, J. Sun, Semismooth matrix-valued functions, doi 10.1287/moor.27.1.150.342.

    >>> PositiveSemidefinite(2).project(np.array([1.0, 0.0, -3.0]))
    array([1., 0., 0.])
    """

    k: int

    def __post_init__(self) -> None:
        check_length("k of PositiveSemidefinite(k)", self.k, 1)

    @property
    def size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.k * (self.k + 1) // 2

    _symmetric = True

    def matrix(self, x: Array) -> Array:
        """The symmetric matrix with svec(X) = x: (*batch, size) to (*batch, k, k).

        >>> PositiveSemidefinite(2).matrix(np.array([1.0, np.sqrt(2.0), 3.0])).round(12)
        array([[1., 1.],
               [1., 3.]])
        """
        xp = namespace(x)
        scaled = x / constant(_factor, (self.k,), x)
        entries = xp.take(scaled, constant(_to_matrix, (self.k,), x), axis=-1)
        return xp.reshape(entries, (*x.shape[:-1], self.k, self.k))

    def vector(self, X: Array) -> Array:
        """svec of symmetric matrices: (*batch, k, k) to (*batch, size); reads the upper triangle."""
        xp = namespace(X)
        entries = xp.reshape(X, (*X.shape[:-2], self.k * self.k))
        return xp.take(entries, constant(_to_vector, (self.k,), X), axis=-1) * constant(_factor, (self.k,), X)

    def dual(self) -> PositiveSemidefinite:
        return self

    def _pair(self, u: Array, mu: Any) -> tuple[Array, Array]:
        xp = namespace(u)
        lam, Q = eigh(self.matrix(u))

        def compose(values: Array) -> Array:
            return self.vector((Q * values[..., None, :]) @ xp.matrix_transpose(Q))

        z, s = split(lam, over_entries(mu))
        return compose(z), compose(s)

    def _derivative(self, z: Array, s: Array, h: Array, mu: Any) -> Array:
        xp = namespace(z, s, h)
        Z, S, H = (self.matrix(x) for x in (z, s, h))
        trace = xp.linalg.trace(Z + S)[..., None, None]
        # The element (Z + e/2)/(W + e) is 1/2 at 0/0 and moves nothing else.
        shift = xp.where(trace > 0, 4 * float(xp.finfo(z.dtype).eps) * trace, 1.0)
        half = shift / 2 * constant(np.eye, (self.k,), z)
        Z, S = Z + half, S + half
        return self.vector(lyapunov(Z + S, Z @ H + H @ Z))

    def eigen(
        self, z: np.ndarray, s: np.ndarray, mu: float | np.ndarray = 0.0
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Eigenvectors svec(q_i q_j' + q_j q_i'), eigenvalues (z_i + z_j)/(z_i + z_j + s_i + s_j)."""
        Z, S = self.matrix(z), self.matrix(s)
        _, Q = eigh(Z - S)
        values_z, values_s = (np.einsum("...ij,...ik,...kj->...j", Q, X, Q) for X in (Z, S))
        ends, margin = snap(values_z, values_s, mu)
        values_z = np.where(ends == 0, 0, np.maximum(values_z, 0))
        values_s = np.where(ends == 1, 0, np.maximum(values_s, 0))
        rows, cols, factor = _vector_order(self.k)
        sum_z = values_z[..., rows] + values_z[..., cols]
        total = sum_z + values_s[..., rows] + values_s[..., cols]
        lam = np.divide(sum_z, total, out=np.full_like(total, 0.5), where=total > 0)
        products = Q[..., :, None, rows] * Q[..., None, :, cols]
        products = (products + products.swapaxes(-3, -2)) * (factor / 2)
        V = products[..., rows, cols, :] * factor[:, None]
        # One layout, whatever the batch: products with V round by its strides.
        return lam, V.astype(z.dtype, order="C", copy=False), margin.min(axis=-1)
