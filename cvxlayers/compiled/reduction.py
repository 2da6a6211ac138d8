"""The substitution of equality-defined variables in dense data, as kernels do it: `cvxlayers.conic.elimination`.

    P' = P - Pyt M - M'Pyt' + M'Ptt M     q' = q - M'qt + (Pyt - M'Ptt) c     A' = A - At M     b' = b - At c

Stacks are (k, entries) with k = 1 where the batch shares them, or (1, 0) for a block that is zero.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.compiled.compiler import apart, lent
from cvxlayers.compiled.linear_algebra import add_rows, dot


@apart
def of(stack, i):
    """The entries of element i."""
    return stack[i if stack.shape[0] > 1 else 0]


@apart
def matrices(P, A, M, Pyt, Ptt, dtt, At, n, m):
    """P' (k, n, n) and A' (k, m, n)."""
    P, A = P.reshape((P.shape[0], n, n)), A.reshape((A.shape[0], m, n))
    gone = M.shape[1] // n
    if gone == 0:
        return P, A
    M = M.reshape((M.shape[0], gone, n))
    every, column = np.arange(gone), np.empty(gone)
    if Pyt.shape[1] + Ptt.shape[1] + dtt.shape[1] > 0:
        count = max(P.shape[0], M.shape[0], Pyt.shape[0], Ptt.shape[0], dtt.shape[0])
        product, PttM, PytM = np.empty((count, n, n)), np.zeros((gone, n)), np.empty(n)
        for i in range(count):
            Mi, square, diagonal, mixed, before, out = (
                of(M, i),
                of(Ptt, i),
                of(dtt, i),
                of(Pyt, i),
                of(P, i),
                product[i],
            )
            for k in range(gone):
                if diagonal.size > 0:
                    for j in range(n):
                        PttM[k, j] = diagonal[k] * Mi[k, j]
                elif square.size > 0:
                    for j in range(n):
                        PttM[k, j] = 0.0
                    add_rows(PttM[k], square[k * gone : (k + 1) * gone], Mi, every, gone, 0)
            for a in range(n):
                for k in range(gone):
                    column[k] = Mi[k, a]
                for j in range(a, n):
                    out[a, j] = before[a, j]
                add_rows(out[a, a:], column, PttM, every, gone, a)
            if mixed.size > 0:
                for a in range(n):
                    for j in range(n):
                        PytM[j] = 0.0
                    add_rows(PytM, mixed[a * gone : (a + 1) * gone], Mi, every, gone, 0)
                    for j in range(n):
                        out[min(a, j), max(a, j)] -= PytM[j]
                    out[a, a] -= PytM[a]
            for a in range(n):
                for j in range(a):
                    out[a, j] = out[j, a]
        P = product
    if At.shape[1] > 0:
        count = max(A.shape[0], M.shape[0], At.shape[0])
        left = np.empty((count, m, n))
        for i in range(count):
            Mi, across, before = of(M, i), of(At, i), of(A, i)
            for j in range(m):
                for k in range(gone):
                    column[k] = -across[j * gone + k]
                out_row = left[i, j]
                for k in range(n):
                    out_row[k] = before[j, k]
                add_rows(out_row, column, Mi, every, gone, 0)
        A = left
    return P, A


@lent
def _apply(Ptt, dtt, c, out):
    """out = Ptt c."""
    size = c.size
    for k in range(size):
        out[k] = dtt[k] * c[k] if dtt.size > 0 else 0.0
    if Ptt.size > 0:
        for k in range(size):
            out[k] += dot(Ptt[k * size : (k + 1) * size], c)


@apart
def vectors(q, b, M, c, Pyt, Ptt, dtt, qt, At, n, m):
    """q' (k, n) and b' (k, m)."""
    gone = max(M.shape[1] // n, c.shape[1])
    force = np.empty(gone)
    if (qt.shape[1] > 0 and M.shape[1] > 0) or c.shape[1] > 0:
        count = max(q.shape[0], M.shape[0], c.shape[0], Pyt.shape[0], Ptt.shape[0], dtt.shape[0], qt.shape[0])
        moved = np.empty((count, n))
        for i in range(count):
            out, before, Mi, Pi, ti = moved[i], of(q, i), of(M, i), of(Pyt, i), of(c, i)
            for j in range(n):
                out[j] = before[j]
            for k in range(gone):
                force[k] = 0.0
            if c.shape[1] > 0:
                _apply(of(Ptt, i), of(dtt, i), ti, force)
                if Pyt.shape[1] > 0:
                    for j in range(n):
                        for k in range(gone):
                            out[j] += Pi[j * gone + k] * ti[k]
            if qt.shape[1] > 0:
                slope = of(qt, i)
                for k in range(gone):
                    force[k] += slope[k]
            if M.shape[1] > 0:
                for k in range(gone):
                    for j in range(n):
                        out[j] -= Mi[k * n + j] * force[k]
        q = moved
    if c.shape[1] > 0 and At.shape[1] > 0:
        count = max(b.shape[0], c.shape[0], At.shape[0])
        shifted = np.empty((count, m))
        for i in range(count):
            before, across, ti = of(b, i), of(At, i), of(c, i)
            for j in range(m):
                total = before[j]
                for k in range(gone):
                    total -= across[j * gone + k] * ti[k]
                shifted[i, j] = total
        b = shifted
    return q, b
