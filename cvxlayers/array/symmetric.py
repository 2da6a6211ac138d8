"""Symmetric matrices in the words of the array standard: the eigendecomposition and the Lyapunov equation."""

from __future__ import annotations

from typing import Any

from cvxlayers.array.library import namespace

Array = Any


def eigh(A: Array) -> tuple[Array, Array]:
    """Eigenvalues (*batch, k), ascending, and eigenvectors (*batch, k, k) of symmetric matrices A (*batch, k, k).

    A matrix with a NaN or an infinity gets NaN eigenvalues and leaves its neighbours alone, where libraries raise.
    """
    xp = namespace(A)
    finite = xp.all(xp.isfinite(A), axis=(-2, -1), keepdims=True)
    lam, Q = xp.linalg.eigh(xp.where(finite, A, 0.0))
    return xp.where(finite[..., 0], lam, float("nan")), Q


def lyapunov_in_basis(R: Array, lam: Array, Q: Array) -> Array:
    """X with W X + X W = R, where W = Q diag(lam) Q' (and any R, symmetric or not)."""
    xp = namespace(R, Q)
    Qt = xp.matrix_transpose(Q)
    return Q @ ((Qt @ R @ Q) / (lam[..., :, None] + lam[..., None, :])) @ Qt
