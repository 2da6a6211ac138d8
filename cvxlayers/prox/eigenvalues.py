"""Functions of the eigenvalues of a Hermitian matrix, with derivatives that are finite at equal ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cvxlayers.array import derivative_along, eigh, implicit, namespace, real_dtype, stop_gradient
from cvxlayers.prox.modulus import is_complex
from cvxlayers.prox.singular_values import adjoint, diagonal_mask, equalized, numbers, real

Array = Any


def hermitian_part(X: Array) -> Array:
    """(X + X')/2, the nearest Hermitian matrix."""
    return (X + adjoint(X)) / 2


def eigenvalues(X: Array, factors: tuple[Array, Array]) -> Array:
    """The eigenvalues (*batch, k) of X, ascending, with the derivative dl_i = q_i' dX q_i; factors as of ``eigh``."""
    lam, Q = factors
    (values,) = implicit(_Values(), X, lam[..., None, :], Q)
    return values[..., 0, :]


def map_eigenvalues(g: Callable[[Array], Array], X: Array) -> Array:
    """Q diag(g(l)) Q' for a Hermitian X = Q diag(l) Q': (*batch, k, k) to (*batch, k, k).

    ``g`` maps (*batch, k) to (*batch, k), and is the prox of a function that does not depend on the order of its
    entries; its parameters may be differentiated.

    Derivative: with P = Q' dX Q, D_ij = (g_i - g_j) / (l_i - l_j) for i != j, and dg = J diag(P), it is
    Q (diag(dg) + D o P) Q'; at equal eigenvalues D_ij is the limit J_ii - J_ij, found as in `map_singular_values`.
    Second derivatives are exact where the eigenvalues differ, and finite elsewhere; those of third order are not
    available.

    Source: D. Sun, J. Sun, Semismooth matrix-valued functions, doi 10.1287/moor.27.1.150.342.
    """
    factors = eigh(stop_gradient(X))
    lam, Q = factors
    G = g(eigenvalues(X, factors))
    slopes = derivative_along(g, equalized(lam, _tie_level(lam)), numbers(lam))
    (Y,) = implicit(_Recomposed(), X, G[..., None, :], lam[..., None, :], Q, slopes[..., None, :])
    return Y


def _tie_level(lam: Array) -> Array:
    """The gap (*batch, 1) below which the limit is closer than the quotient, whose rounding error is eps / gap."""
    xp = namespace(lam)
    scale = xp.max(xp.abs(lam), axis=-1, keepdims=True) if lam.shape[-1] else lam
    return float(xp.finfo(real_dtype(lam)).eps) ** 0.5 * scale


def _tied(lam: Array) -> Array:
    return namespace(lam).abs(lam[..., :, None] - lam[..., None, :]) <= _tie_level(lam)[..., None]


def _frame(X: Array, lam: Array, Q: Array) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors as functions of X to first order, for derivatives of the rules below.

    dQ = Q (P / (l_j - l_i)), 0 for equal ones, with P = Q' dX Q, dX of value 0.
    """
    xp = namespace(X)
    P = adjoint(Q) @ (X - stop_gradient(X)) @ Q
    tied = _tied(lam)
    gap = lam[..., None, :] - lam[..., :, None]
    turn = xp.where(tied, 0.0, P / xp.where(tied, 1.0, gap))
    return lam + real(xp.sum(xp.where(diagonal_mask(lam), P, 0.0), axis=-1)), Q + Q @ turn


@dataclass(frozen=True)
class _Values:
    """The rule (X, l, Q) -> l; only X has a derivative."""

    def forward(self, X: Array, lam: Array, Q: Array) -> tuple[Array, ...]:
        # A result that is an argument would share its storage.
        return (lam + 0.0,)

    def tangent(self, outputs: tuple, args: tuple, tangents: tuple) -> Array:
        X, lam, Q = args
        xp = namespace(X)
        _, Q = _frame(X, lam[..., 0, :], Q)
        product = tangents[0] @ Q
        return real(xp.sum((xp.conj(Q) if is_complex(Q) else Q) * product, axis=-2))[..., None, :]


@dataclass(frozen=True)
class _Recomposed:
    """The rule (X, G, l, Q, J v) -> Q diag(G) Q'; X and G have derivatives."""

    def forward(self, X: Array, G: Array, lam: Array, Q: Array, slopes: Array) -> tuple[Array, ...]:
        return ((Q * G) @ adjoint(Q),)

    def tangent(self, outputs: tuple, args: tuple, tangents: tuple) -> Array:
        X, G, lam, Q, slopes = args
        xp = namespace(X)
        values, slopes, G = lam[..., 0, :], slopes[..., 0, :], G[..., 0, :]
        tied, diagonal, count = _tied(values), diagonal_mask(values), numbers(values)
        lam, Q = _frame(X, values, Q)
        steps = count[..., :, None] - count[..., None, :]
        limit = (slopes[..., :, None] - slopes[..., None, :]) / xp.where(diagonal, 1.0, steps)
        gap = lam[..., :, None] - lam[..., None, :]
        D = xp.where(tied, limit, (G[..., :, None] - G[..., None, :]) / xp.where(tied, 1.0, gap))
        Qh = adjoint(Q)
        P = Qh @ tangents[0] @ Q
        return Q @ xp.where(diagonal, tangents[1] + 0.0 * P, D * P) @ Qh
