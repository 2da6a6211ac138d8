"""The Newton system of the interior-point method, condensed to a positive definite one and factored by Cholesky.

    [P  A'] [x]   [r_x]
    [A  -H] [z] = [r_z]

With G = W^-T A_c the scaled rows of the cones, H = W'W there and zero at the equalities E: eliminating z_c leaves
M = P + G'G, and with w E'E added to both sides (which changes no solution, and makes M definite where only the
equalities determine x) the Schur complement E M^-1 E' is left for the multipliers of the equalities.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cvxlayers.array import cholesky, constant, namespace, prefers_products, triangular_inverse, triangular_solve
from cvxlayers.solvers.interior_point.cones.product import ProductBarrier
from cvxlayers.solvers.interior_point.cuda.blocked import factors, inverse_factor

Array = Any


class NewtonSystem:
    """One factorization; ``refined`` solves against the system itself, so that regularization leaves no trace.

    ``regularization`` (*batch, 1) is added to M's diagonal, relative to its entries and absolutely.
    """

    def __init__(
        self, barrier: ProductBarrier, P: Array, A: Array, W: list, regularization: Array, refinements: int, low: Any
    ) -> None:
        xp = namespace(P, A)
        self.barrier, self.P, self.A, self.W, self.refinements = barrier, P, A, W, refinements
        p = barrier.equalities
        self.E = A[..., :p, :] if p else None
        self.low = low
        M = P
        self.G = None
        if barrier.groups:
            self.G = barrier.scale(W, A[..., p:, :])
            M = M + xp.matrix_transpose(self.G) @ self.G
        if self.E is not None:
            M = M + xp.matrix_transpose(self.E) @ self.E
        extra = regularization * (1.0 + xp.linalg.diagonal(P))
        # A GPU multiplies in a tenth of the time of a substitution, even with the inverse to be found first.
        self.L: Array = None
        self.inverse: Array = None
        if low is None and M is not P and factors(M):
            self.inverse = inverse_factor(M, extra)
        else:
            M = M + extra[..., None] * constant(np.eye, (P.shape[-1],), M)
            self.L = cholesky(xp.astype(M, low) if low is not None else M)
            self.inverse = triangular_inverse(self.L) if prefers_products(self.L) else None
        if self.E is not None:
            E = self.E if low is None else xp.astype(self.E, low)
            self.V = self._down(xp.broadcast_to(xp.matrix_transpose(E), (*M.shape[:-1], p)))
            S = xp.matrix_transpose(self.V) @ self.V
            ridge = xp.astype(regularization, S.dtype) * (1.0 + xp.linalg.diagonal(S))
            self.S = cholesky(S + ridge[..., None] * constant(np.eye, (p,), S))

    def ok(self) -> Array:
        """Whether the factorization went through, (*batch, 1)."""
        factor = self.L if self.inverse is None else self.inverse
        xp = namespace(factor)
        good = xp.isfinite(factor[..., -1, -1:])
        return good if self.E is None else good & xp.isfinite(self.S[..., -1, -1:])

    def times(self, x: Array, z: Array) -> tuple[Array, Array]:
        """The system times (x, z), for matrices of columns."""
        xp = namespace(x, z)
        top = self.P @ x + xp.matrix_transpose(self.A) @ z
        return top, self.A @ x - self.barrier.times_H(self.W, z)

    def refined(self, x: Array, z: Array, rx: Array, rz: Array) -> tuple[Array, Array]:
        """A better solution than (x, z), for columns r_x (*batch, n, k) and r_z (*batch, m, k)."""
        for _ in range(self.refinements):
            top, low = self.times(x, z)
            dx, dz = self.solve(rx - top, rz - low)
            x, z = x + dx, z + dz
        return x, z

    def solve(self, rx: Array, rz: Array) -> tuple[Array, Array]:
        """(x, z) of the regularized system, for columns r_x (*batch, n, k) and r_z (*batch, m, k)."""
        xp = namespace(rx, rz)
        p, dtype = self.barrier.equalities, rx.dtype
        right, re, rc = rx, rz[..., :p, :], None
        if self.G is not None:
            rc = self.barrier.scale(self.W, rz[..., p:, :])
            right = right + xp.matrix_transpose(self.G) @ rc
        if self.E is not None:
            right = right + xp.matrix_transpose(self.E) @ re
        if self.low is not None:
            right, re = xp.astype(right, self.low), xp.astype(re, self.low)
        y, parts = self._down(right), []
        if self.E is not None:
            r = xp.matrix_transpose(self.V) @ y - re
            ze = triangular_solve(self.S, triangular_solve(self.S, r), transpose=True)
            y = y - self.V @ ze
            parts.append(xp.astype(ze, dtype))
        x = xp.astype(self._up(y), dtype)
        if self.G is not None:
            parts.append(self.barrier.scale_back(self.W, self.G @ x - rc))
        if not parts:
            return x, xp.zeros_like(rz)
        return x, xp.concat(parts, axis=-2) if len(parts) > 1 else parts[0]

    def _down(self, V: Array) -> Array:
        """L^-1 V."""
        return triangular_solve(self.L, V) if self.inverse is None else self.inverse @ V

    def _up(self, V: Array) -> Array:
        """L'^-1 V."""
        if self.inverse is None:
            return triangular_solve(self.L, V, transpose=True)
        return namespace(V).matrix_transpose(self.inverse) @ V
