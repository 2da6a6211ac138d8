"""The cone of positive semidefinite matrices."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from cvxlayers.array import cholesky, constant, eigh, namespace, triangular_inverse
from cvxlayers.sets import PositiveSemidefinite
from cvxlayers.solvers.interior_point.cones.barrier import Barrier, inverse

Array = Any

WHOLE = 14  # order of the matrices up to which W^-T and H are formed, as matrices that act on vectors


class SemidefiniteBarrier(Barrier):
    """F(S) = -log det S, W(Z) = R'ZR, W^-T(S) = R^-1 S R^-T = Lambda = W(Z), the Nesterov-Todd scaling.

    With S = L L' and L'ZL = V Lambda^2 V': R = L V Lambda^(-1/2). On the central path Lambda is a multiple of I, so
    squaring it costs no accuracy.

    Source: L. Vandenberghe, The CVXOPT linear and quadratic cone program solvers, section 4.
    """

    def __init__(self, cone: PositiveSemidefinite) -> None:
        self.cone, self.size, self.degree = cone, cone.size, cone.k

    def unit(self, like: Array) -> Array:
        return constant(_unit, (self.cone.k,), like)

    def scaling(self, s: Array, z: Array) -> tuple[Array, ...]:
        xp = namespace(s)
        S, Z = self.cone.matrix(s), self.cone.matrix(z)
        L = cholesky(S)
        lam2, V = eigh(xp.matrix_transpose(L) @ Z @ L)
        lam = xp.sqrt(xp.where(lam2 > 0, lam2, float(xp.finfo(s.dtype).smallest_normal)))
        root = xp.sqrt(lam)[..., None, :]
        R = (L @ V) / root
        inverse_R = xp.matrix_transpose(V * root) @ triangular_inverse(L)
        if self.cone.k > WHOLE:
            return R, inverse_R, lam
        eye = constant(np.eye, (self.size,), s)
        H = self._congruent(R @ xp.matrix_transpose(R), eye)
        return R, inverse_R, lam, self._congruent(inverse_R, eye), H

    def _congruent(self, X: Array, V: Array) -> Array:
        """svec(X mat(v) X') for the columns v of V."""
        xp = namespace(V)
        columns = self.cone.matrix(xp.matrix_transpose(V))  # (*batch, count, columns, k, k)
        X = X[..., None, :, :]
        return xp.matrix_transpose(self.cone.vector(X @ columns @ xp.matrix_transpose(X)))

    def scale(self, W: tuple[Array, ...], V: Array) -> Array:
        return W[3] @ V if self.cone.k <= WHOLE else self._congruent(W[1], V)

    def scale_back(self, W: tuple[Array, ...], V: Array) -> Array:
        if self.cone.k <= WHOLE:
            return namespace(V).matrix_transpose(W[3]) @ V
        return self._congruent(namespace(V).matrix_transpose(W[1]), V)

    def times_H(self, W: tuple[Array, ...], V: Array) -> Array:
        if self.cone.k <= WHOLE:
            return W[4] @ V
        return self._congruent(W[0] @ namespace(V).matrix_transpose(W[0]), V)

    def corrector(self, W: tuple[Array, ...], s: Array, z: Array, ds: Array, dz: Array, mu: Array) -> Array:
        xp = namespace(s)
        R, inverse_R, lam = W[:3]
        dS = inverse_R @ self.cone.matrix(ds) @ xp.matrix_transpose(inverse_R)
        dZ = xp.matrix_transpose(R) @ self.cone.matrix(dz) @ R
        product = dS @ dZ
        target = (product + xp.matrix_transpose(product)) / 2.0 - mu[..., None] * constant(np.eye, (self.cone.k,), s)
        inner = 2.0 * target / (lam[..., :, None] + lam[..., None, :])
        return s + self.cone.vector(R @ inner @ xp.matrix_transpose(R))

    def step(self, W: tuple[Array, ...], s: Array, z: Array, ds: Array, dz: Array) -> Array:
        xp = namespace(s)
        R, inverse_R, lam = W[:3]
        root = xp.sqrt(lam)
        pair = root[..., :, None] * root[..., None, :]
        dS = inverse_R @ self.cone.matrix(ds) @ xp.matrix_transpose(inverse_R) / pair
        dZ = xp.matrix_transpose(R) @ self.cone.matrix(dz) @ R / pair
        least = eigh(xp.stack([dS, dZ]))[0][..., 0]
        return inverse(-xp.min(least, axis=0))

    def depth(self, v: Array) -> Array:
        return eigh(self.cone.matrix(v))[0][..., 0]

    def centrality(self, s: Array, z: Array) -> Array:
        return -_log_determinant(self.cone.matrix(s)) - _log_determinant(self.cone.matrix(z))


def _log_determinant(X: Array) -> Array:
    xp = namespace(X)
    return 2.0 * xp.sum(xp.log(xp.linalg.diagonal(cholesky(X))), axis=-1)


@lru_cache
def _unit(k: int) -> np.ndarray:
    return PositiveSemidefinite(k).vector(np.eye(k))
