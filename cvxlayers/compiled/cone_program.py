"""One sparse cone program inside a kernel: products with its matrices, and its equilibration.

Ruiz, "A scaling algorithm to equilibrate both rows and columns norms in matrices", RAL-TR-2001-034.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cvxlayers.compiled.compiler import inner, lent

_SWEEPS = 10
_EVEN = 0.1  # the largest entries of rows and columns differ from one by less than this: balanced
_LEAST, _MOST = 1e-4, 1e4


class Matrices(NamedTuple):
    """P (its upper triangle) and A by columns: values, rows, and where each column starts; b and q."""

    P: np.ndarray
    P_rows: np.ndarray
    P_starts: np.ndarray
    q: np.ndarray
    A: np.ndarray
    A_rows: np.ndarray
    A_starts: np.ndarray
    b: np.ndarray


@inner
def times_P(M, x, out):
    """out = P x."""
    for j in range(out.size):
        out[j] = 0.0
    if M.P.size:
        for j in range(out.size):
            total, xj = 0.0, x[j]
            for k in range(M.P_starts[j], M.P_starts[j + 1]):
                i, value = M.P_rows[k], M.P[k]
                total += value * x[i]
                if i != j:
                    out[i] += value * xj
            out[j] += total


@inner
def times_A(M, x, out):
    """out = A x."""
    for i in range(out.size):
        out[i] = 0.0
    for j in range(x.size):
        xj = x[j]
        for k in range(M.A_starts[j], M.A_starts[j + 1]):
            out[M.A_rows[k]] += M.A[k] * xj


@inner
def times_A_transposed(M, z, out):
    """out = A'z."""
    for j in range(out.size):
        first, stop = M.A_starts[j], M.A_starts[j + 1]
        total = other = 0.0
        for k in range(first, stop - 1, 2):
            total += M.A[k] * z[M.A_rows[k]]
            other += M.A[k + 1] * z[M.A_rows[k + 1]]
        if (stop - first) & 1:
            total += M.A[stop - 1] * z[M.A_rows[stop - 1]]
        out[j] = total + other


@inner
def absolute_products(M, x, z, Px, Ax, ATz):
    """|P||x|, |A||x| and |A|'|z|."""
    for j in range(Px.size):
        Px[j] = 0.0
    for i in range(Ax.size):
        Ax[i] = 0.0
    for j in range(Px.size):
        for k in range(M.P_starts[j], M.P_starts[j + 1]):
            i, value = M.P_rows[k], abs(M.P[k])
            Px[j] += value * abs(x[i])
            if i != j:
                Px[i] += value * abs(x[j])
        total = 0.0
        for k in range(M.A_starts[j], M.A_starts[j + 1]):
            value = abs(M.A[k])
            total += value * abs(z[M.A_rows[k]])
            Ax[M.A_rows[k]] += value * abs(x[j])
        ATz[j] = total


@lent
def equilibrate(M, P, q, A, b, start, size, alike, d, e, rows, cols):
    """Scaled copies of P, q, A, b go to those of M: c D P D, c D q, E A D, E b; returns c.

    ``start``, ``size`` and ``alike`` describe the cones: whose rows share one scale. ``rows`` (m), ``cols`` (n): room.
    """
    n, m = d.size, e.size
    for k in range(P.size):
        M.P[k] = P[k]
    for k in range(A.size):
        M.A[k] = A[k]
    d[:], e[:] = 1.0, 1.0
    for _ in range(_SWEEPS):
        rows[:], cols[:] = 0.0, 0.0
        for j in range(n):
            largest = cols[j]
            for k in range(M.A_starts[j], M.A_starts[j + 1]):
                value, i = abs(M.A[k]), M.A_rows[k]
                largest = max(largest, value)
                rows[i] = max(rows[i], value)
            for k in range(M.P_starts[j], M.P_starts[j + 1]):
                value, i = abs(M.P[k]), M.P_rows[k]
                largest = max(largest, value)
                cols[i] = max(cols[i], value)
            cols[j] = largest
        for c in range(start.size):
            if alike[c]:
                largest = 0.0
                for i in range(start[c], start[c] + size[c]):
                    largest = max(largest, rows[i])
                for i in range(start[c], start[c] + size[c]):
                    rows[i] = largest
        uneven = 0.0
        for i in range(m):
            if rows[i] > 0.0:
                uneven = max(uneven, abs(1.0 - rows[i]))
            scale = e[i] / np.sqrt(rows[i]) if rows[i] > 0.0 else e[i]
            scale = min(max(scale, _LEAST), _MOST)
            rows[i], e[i] = scale / e[i], scale
        for j in range(n):
            if cols[j] > 0.0:
                uneven = max(uneven, abs(1.0 - cols[j]))
            scale = d[j] / np.sqrt(cols[j]) if cols[j] > 0.0 else d[j]
            scale = min(max(scale, _LEAST), _MOST)
            cols[j], d[j] = scale / d[j], scale
        if uneven < _EVEN:
            for i in range(m):
                e[i] /= rows[i]
            for j in range(n):
                d[j] /= cols[j]
            break
        for j in range(n):
            for k in range(M.A_starts[j], M.A_starts[j + 1]):
                M.A[k] *= cols[j] * rows[M.A_rows[k]]
            for k in range(M.P_starts[j], M.P_starts[j + 1]):
                M.P[k] *= cols[j] * cols[M.P_rows[k]]
    cost = 0.0
    for j in range(n):
        M.q[j] = q[j] * d[j]
        cost = max(cost, abs(M.q[j]))
        cols[j] = 0.0
    for i in range(m):
        M.b[i] = b[i] * e[i]
    if P.size:
        for j in range(n):
            for k in range(M.P_starts[j], M.P_starts[j + 1]):
                value, i = abs(M.P[k]), M.P_rows[k]
                cols[j] = max(cols[j], value)
                cols[i] = max(cols[i], value)
        total = 0.0
        for j in range(n):
            total += cols[j]
        cost = max(cost, total / n)
    c = 1.0 / min(max(cost, _LEAST), _MOST) if cost > 0.0 else 1.0
    for j in range(n):
        M.q[j] *= c
    for k in range(P.size):
        M.P[k] *= c
    return c


@inner
def norm_times(v, scale):
    """||diag(scale) v||."""
    total = 0.0
    for i in range(v.size):
        value = v[i] * scale[i]
        total += value * value
    return np.sqrt(total)


@inner
def worst_residual(M, Px, ATz, Ax, s, rx, rz, xPx, qx, bz, tau, cost, over_d, over_e):
    """The largest residual of (x, z, s)/tau as `cvxlayers.conic.residuals` defines it, without the equilibration."""
    top = max(max(norm_times(Ax, over_e), norm_times(s, over_e)), max(norm_times(M.b, over_e) * tau, tau))
    primal = norm_times(rz, over_e) / top
    top = max(norm_times(Px, over_d), norm_times(ATz, over_d))
    dual = norm_times(rx, over_d) / max(max(top, norm_times(M.q, over_d) * tau), tau * cost)
    unscaled = cost * tau * tau
    gap = abs(xPx + (qx + bz) * tau) / max(max(abs(xPx), abs(qx) * tau), max(abs(bz) * tau, unscaled))
    worst = max(primal, max(dual, gap))
    return worst if np.isfinite(primal + dual + gap) else np.nan
