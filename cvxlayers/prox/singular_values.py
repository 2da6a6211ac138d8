"""Functions of the singular values of a matrix, with derivatives that are finite at equal and at zero ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cvxlayers.array import derivative_along, implicit, namespace, real_dtype, stop_gradient
from cvxlayers.prox.modulus import is_complex

Array = Any


def decompose(X: Array) -> tuple[Array, Array, Array]:
    """U (*batch, m, k), s (*batch, k) descending, V' (*batch, k, n) with X = U diag(s) V', constants of derivatives.

    A matrix with a NaN or an infinity gets NaN singular values and leaves its neighbours alone.
    """
    xp = namespace(X)
    X = stop_gradient(X)
    finite = xp.all(xp.isfinite(X), axis=(-2, -1), keepdims=True)
    U, s, Vh = xp.linalg.svd(xp.where(finite, X, xp.zeros_like(X)), full_matrices=False)
    return U, xp.where(finite[..., 0], s, float("nan")), Vh


def singular_values(X: Array, factors: tuple[Array, Array, Array]) -> Array:
    """The singular values (*batch, k) of X, descending, with the derivative ds_i = Re u_i' dX v_i."""
    U, s, Vh = factors
    (values,) = implicit(_Values(), X, U, s[..., None, :], Vh)
    return values[..., 0, :]


def values_of(X: Array) -> Array:
    """The singular values (*batch, k) of X, descending, with their derivative."""
    return singular_values(X, decompose(X))


def map_singular_values(g: Callable[[Array], Array], X: Array) -> Array:
    """U diag(g(s)) V' for X = U diag(s) V': (*batch, m, n) to (*batch, m, n).

    ``g`` maps (*batch, k) to (*batch, k), and is the prox of a function that depends on neither the order nor the
    signs of its entries; its parameters may be differentiated.

    Derivative: with P = U' dX V, its Hermitian part S and its skew part A, and dg = J Re diag(P), the result is
    U (diag(dg) + D o S + E o A) V' with the divided differences

        D_ij = (g_i - g_j) / (s_i - s_j) for i != j, D_ii = 0,     E_ij = (g_i + g_j) / (s_i + s_j),

    and g_j / s_j on the part of dX V outside the range of U, likewise for rows. At equal singular values D_ij is the
    limit J_ii - J_ij. J is a I + b 1 1' on equal ones, and (J v)_i - (J v)_j = a (v_i - v_j) gives a from one product.
    At zero ones, E_ij is the limit J_ii. So the derivative is an element of the generalized Jacobian everywhere. Second
    derivatives are exact where the singular values differ and are not 0, and finite elsewhere; those of third order are
    not available.

    Source: C. Ding, D. Sun, J. Sun, K.-C. Toh, Spectral operators of matrices, doi 10.1007/s10107-017-1162-3.
    """
    if 0 in X.shape[-2:]:
        return X
    xp = namespace(X)
    factors = decompose(X)
    U, s, Vh = factors
    G = g(singular_values(X, factors))
    floor = zero_level(s)
    slopes = derivative_along(g, equalized(xp.where(s > floor, s, floor), _tie_level(s)), numbers(s))
    (Y,) = implicit(_Recomposed(), X, G[..., None, :], U, s[..., None, :], Vh, slopes[..., None, :])
    return Y


def numbers(s: Array) -> Array:
    """1, 2, ..., k in every row: the v of the docstring."""
    xp = namespace(s)
    return xp.cumulative_sum(xp.ones_like(s), axis=-1)


def equalized(s: Array, level: Array) -> Array:
    """s with entries closer than ``level`` (*batch, 1) made equal, so that they are on the same side of a kink."""
    xp = namespace(s)
    near = xp.abs(s[..., :, None] - s[..., None, :]) <= level[..., None]
    return xp.min(xp.where(near, s[..., None, :], float("inf")), axis=-1) if s.shape[-1] else s


def zero_level(s: Array) -> Array:
    """What rounding leaves of a zero singular value, (*batch, 1)."""
    xp = namespace(s)
    if s.shape[-1] == 0:
        return xp.zeros_like(s[..., :1])
    info = xp.finfo(real_dtype(s))
    return 8 * s.shape[-1] * float(info.eps) * s[..., :1] + float(info.smallest_normal)


def adjoint(A: Array) -> Array:
    xp = namespace(A)
    return xp.conj(xp.matrix_transpose(A)) if is_complex(A) else xp.matrix_transpose(A)


def real(A: Array) -> Array:
    return namespace(A).real(A) if is_complex(A) else A


def diagonal_mask(s: Array) -> Array:
    """The mask of the diagonal, (k, k)."""
    xp = namespace(s)
    n = numbers(xp.sum(s, axis=tuple(range(s.ndim - 1))) if s.ndim > 1 else s)
    return n[:, None] == n[None, :]


def _frames(X: Array, U: Array, s: Array, Vh: Array) -> tuple[Array, Array, Array]:
    """U, s and V as functions of X to first order, for derivatives of the rules below.

    From dX = d(U diag(s) V'), with P = U' dX V and F_ij = 1/(s_j^2 - s_i^2) for i != j (0 for equal s):
    dU = U (F o (P s + s P') + i Im diag(P) / s) + (I - U U') dX V / s,
    dV = V (F o (s P + P' s)) + (I - V V') dX' U / s.
    dX is X minus itself as a constant: its value is 0, its derivative is not.
    """
    xp = namespace(X)
    V = adjoint(Vh)
    dX = X - stop_gradient(X)
    P = adjoint(U) @ dX @ V
    row, column = s[..., None, :], s[..., :, None]
    off = ~diagonal_mask(s)
    tied = xp.abs(row - column) <= _tie_level(s)[..., None]
    # F s without the squares, which underflow.
    F = xp.where(tied, 0.0, 1.0 / xp.where(tied, 1.0, row - column))
    total = xp.where(tied, 1.0, row + column)
    row, column = row / total, column / total
    some = s > zero_level(s)
    inverse = xp.where(some, 1.0 / xp.where(some, s, 1.0), 0.0)[..., None, :]
    Ph = adjoint(P)
    left = F * (P * row + column * Ph)
    right = F * (column * P + Ph * row)
    if is_complex(X):
        left = left + xp.where(off, 0.0, (P - real(P)) * inverse)
    W, Z = dX @ V, adjoint(dX) @ U
    U1 = U + U @ left + (W - U @ (adjoint(U) @ W)) * inverse
    V1 = V + V @ right + (Z - V @ (adjoint(V) @ Z)) * inverse
    s1 = s + real(xp.sum(xp.where(off, 0.0, P), axis=-1))
    return U1, s1, V1


def _tie_level(s: Array) -> Array:
    """The gap (*batch, 1) below which the limit is closer than the quotient, whose rounding error is eps / gap."""
    return float(namespace(s).finfo(real_dtype(s)).eps) ** 0.5 * s[..., :1]


@dataclass(frozen=True)
class _Values:
    """The rule (X, U, s, V') -> s; only X has a derivative."""

    def forward(self, X: Array, U: Array, s: Array, Vh: Array) -> tuple[Array, ...]:
        # A result that is an argument would share its storage.
        return (s + 0.0,)

    def tangent(self, outputs: tuple, args: tuple, tangents: tuple) -> Array:
        X, U, s, Vh = args
        U, _, V = _frames(X, U, s[..., 0, :], Vh)
        xp = namespace(X)
        return real(xp.sum(xp.conj(U) * (tangents[0] @ V) if is_complex(X) else U * (tangents[0] @ V), axis=-2))[
            ..., None, :
        ]


@dataclass(frozen=True)
class _Recomposed:
    """The rule (X, G, U, s, V', J v) -> U diag(G) V'; X and G have derivatives."""

    def forward(self, X: Array, G: Array, U: Array, s: Array, Vh: Array, slopes: Array) -> tuple[Array, ...]:
        return ((U * G) @ Vh,)

    def tangent(self, outputs: tuple, args: tuple, tangents: tuple) -> Array:
        X, G, U, s, Vh, slopes = args
        H, dG = tangents[:2]
        xp = namespace(X)
        values, slopes = s[..., 0, :], slopes[..., 0, :]
        tie, floor = _tie_level(values)[..., None], zero_level(values)
        count = numbers(values)
        U, s, V = _frames(X, U, values, Vh)
        G = G[..., 0, :]

        equal = slopes / count
        gap, zero = s[..., :, None] - s[..., None, :], values <= floor
        tied = xp.abs(values[..., :, None] - values[..., None, :]) <= tie
        steps = count[..., :, None] - count[..., None, :]
        diagonal = diagonal_mask(values)
        limit = (slopes[..., :, None] - slopes[..., None, :]) / xp.where(diagonal, 1.0, steps)
        D = xp.where(tied, limit, (G[..., :, None] - G[..., None, :]) / xp.where(tied, 1.0, gap))
        D = xp.where(diagonal, 0.0, D)
        both = zero[..., :, None] & zero[..., None, :]
        total = xp.where(both, 1.0, s[..., :, None] + s[..., None, :])
        E = xp.where(both, (equal[..., :, None] + equal[..., None, :]) / 2, (G[..., :, None] + G[..., None, :]) / total)

        Uh, Vh = adjoint(U), adjoint(V)
        P = Uh @ H @ V
        S, A = (P + adjoint(P)) / 2, (P - adjoint(P)) / 2
        core = D * S + E * A + xp.where(diagonal, dG, 0.0)
        out = U @ core @ Vh
        ratio = xp.where(zero, equal, G / xp.where(zero, 1.0, s))[..., None, :]
        k, (m, n) = values.shape[-1], X.shape[-2:]
        if m > k:
            W = H @ V
            out = out + ((W - U @ (Uh @ W)) * ratio) @ Vh
        if n > k:
            W = Uh @ H
            out = out + (U * ratio) @ (W - (W @ V) @ Vh)
        return out
