"""The linear system of the derivative of dense quadratic programs at a vertex of active rows, for a batch.

With W the active rows of A, [P W'; W 0] [w_x; eta] = [g_x; g_z] is solved by Cholesky factors of P = U'U and of the
Schur complement W P^-1 W' = S'S, and refined once with the data themselves.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.compiled.compiler import inner, kernel
from cvxlayers.compiled.linear_algebra import (
    add,
    add_rows,
    dot,
    eliminate,
    largest_entry,
    solve_transposed,
    solve_upper,
)

_PIVOT = 1e-10  # a pivot, relative to the diagonal entry it came from, below which an element is left to others
_ENOUGH = 1e-14  # a relative residual that needs no refinement


@inner
def _gram(S, G, offset, count, g, every):
    """The upper triangle of G'G, for ``count`` columns of G from ``offset`` on."""
    n = every.size
    for a in range(count):
        for k in range(n):
            g[k] = G[k, offset + a]
        row = S[a, a:count]
        for c in range(row.size):
            row[c] = 0.0
        add_rows(row, g, G, every, n, offset + a)


@inner
def _inverse(U, v, n):
    """v becomes P^-1 v with P = U'U."""
    solve_transposed(U, v, n)
    solve_upper(U, v, n)


@inner
def _schur_side(A, U, W, count, c, h, t):
    """h becomes W P^-1 c - h, the right-hand side for eta."""
    n = c.size
    for k in range(n):
        t[k] = c[k]
    _inverse(U, t, n)
    for k in range(count):
        h[k] = dot(A[W[k]], t) - h[k]


@inner
def _point(A, U, W, count, c, eta, minus):
    """c becomes P^-1 (c - W'eta)."""
    for k in range(count):
        minus[k] = -eta[k]
    add_rows(c, minus, A, W, count, 0)
    _inverse(U, c, c.size)


@inner
def _residual(P, A, W, count, gx, gz, wx, eta, c, h, minus, every):
    """c = g_x - P w_x - W'eta and h = g_z - W w_x; the largest entry of both."""
    n = wx.size
    for k in range(n):
        c[k] = gx[k]
        minus[k] = -wx[k]
    add_rows(c, minus, P, every, n, 0)
    for k in range(count):
        minus[k] = -eta[k]
    add_rows(c, minus, A, W, count, 0)
    for k in range(count):
        h[k] = gz[W[k]] - dot(A[W[k]], wx)
    return max(largest_entry(c), largest_entry(h[:count]))


@inner
def _largest(gx, gz, W, count):
    """The largest entry of a right-hand side."""
    largest = 0.0
    for k in range(gx.size):
        largest = max(largest, abs(gx[k]))
    for k in range(count):
        largest = max(largest, abs(gz[W[k]]))
    return largest


@inner
def _copy(U, T, n):
    """The upper triangle."""
    for k in range(n):
        for j in range(k, n):
            U[k, j] = T[k, j]


@kernel(
    "void(f8[:,:,::1], f8[:,:,::1], b1[:,::1], f8[:,:,::1], f8[:,:,::1], f8[:,:,::1], f8[:,:,::1], f8[::1],"
    " f8[:,:,::1], f8[:,:,::1], b1[::1], b1, i8, i8)"
)
def polyhedral_kkt(P, A, active, gx, gz, wx, wz, residual, U, S, failed, factored, start, stop):
    """Solve [P W'; W 0] [w_x; eta] = [g_x; g_z on W] for the elements in range(start, stop); w_z is eta on W, else 0.

    With P (1 or B, n, n), A (1 or B, m, n), ``active`` (B, m) saying which rows W holds, and R right-hand sides: g_x
    and w_x (R, B, n), g_z and w_z (R, B, m). Writes w_x, w_z and ``residual`` (B,), the largest residual relative to
    the largest entry of the right-hand sides.

    ``U`` (as many as P, n, n) and ``S`` (B, k, k), k at least the most active rows of an element, get the upper
    triangular factors of P and of W P^-1 W', with reciprocals on the diagonal. ``factored`` says that they, and
    ``failed``, are there from an earlier call with the same P, A and ``active``. ``failed`` (B,) marks the elements
    that have a pivot which is not clearly positive; their w_x and w_z are zero, and their residual is infinite.
    """
    m, n = A.shape[1], A.shape[2]
    most = S.shape[2]
    shared = P.shape[0] == 1 and A.shape[0] == 1
    width = n + (m if shared else most)
    T, G = np.empty((n, 1 if factored else width)), np.empty((n if shared and not factored else 0, most))
    W, every = np.empty(most, np.int64), np.arange(n)
    c, t, minus = np.empty(n), np.empty(n), np.empty(max(n, most))
    h, eta = np.empty(most), np.empty(most)
    definite = False
    for i in range(start, stop):
        Pi, Ai = P[i if P.shape[0] > 1 else 0], A[i if A.shape[0] > 1 else 0]
        Ui, Si = U[i if U.shape[0] > 1 else 0], S[i]
        count = 0
        for j in range(m):
            if active[i, j]:
                if count < most:
                    W[count] = j
                count += 1
        if not factored:
            if not (shared and i > start):
                wide = m if shared else min(count, most)
                for k in range(n):
                    for j in range(n):
                        T[k, j] = Pi[k, j]
                    for j in range(wide):
                        T[k, n + j] = Ai[j if shared else W[j], k]
                definite = eliminate(T, n, n + wide, _PIVOT, t)
                if definite:
                    _copy(Ui, T, n)
            failed[i] = not definite or count > min(n, most)
            if not failed[i]:
                if shared:
                    for k in range(n):
                        for a in range(count):
                            G[k, a] = T[k, n + W[a]]
                    _gram(Si, G, 0, count, t, every)
                else:
                    _gram(Si, T, n, count, t, every)
                failed[i] = not eliminate(Si, count, count, _PIVOT, minus)
        scale, worst, error = 1e-300, 0.0, 0.0
        for r in range(gx.shape[0]):
            x, z = wx[r, i], wz[r, i]
            for j in range(m):
                z[j] = 0.0
            if failed[i]:
                for k in range(n):
                    x[k] = 0.0
                worst = np.inf
                continue
            largest = _largest(gx[r, i], gz[r, i], W, count)
            for k in range(n):
                x[k], c[k] = 0.0, gx[r, i, k]
            for k in range(count):
                eta[k], h[k] = 0.0, gz[r, i, W[k]]
            for _ in range(2):  # solve, and refine
                _schur_side(Ai, Ui, W, count, c, h, t)
                _inverse(Si, h, count)
                _point(Ai, Ui, W, count, c, h, minus)
                add(x, 1.0, c)
                add(eta[:count], 1.0, h)
                error = _residual(Pi, Ai, W, count, gx[r, i], gz[r, i], x, eta, c, h, minus, every)
                if error <= _ENOUGH * largest:
                    break
            for k in range(count):
                z[W[k]] = eta[k]
            scale, worst = max(scale, largest), max(worst, error)
        residual[i] = worst / scale
