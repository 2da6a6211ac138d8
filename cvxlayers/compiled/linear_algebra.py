"""Linear algebra inside kernels: loops over rows, which lie together in memory and become vector instructions.

Triangular factors are upper and hold the reciprocals of their diagonal on the diagonal.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.compiled.compiler import inner


@inner
def largest_entry(x):
    """The largest absolute value of the entries; infinity where one is NaN, so that no comparison overlooks it."""
    most = 0.0
    for k in range(x.size):
        value = abs(x[k])
        if not value <= most:
            most = value if value > most else np.inf
    return most


@inner
def jacobi_rotation(first, second, off):
    """Tangent, cosine and sine of the rotation that makes [first, off; off, second] diagonal (Jacobi's method)."""
    theta = 0.5 * (second - first) / off
    t = 1.0 / (abs(theta) + np.sqrt(1.0 + theta * theta))
    t = -t if theta < 0.0 else t
    cosine = 1.0 / np.sqrt(1.0 + t * t)
    return t, cosine, t * cosine


@inner
def assign(y, x):
    """y = x."""
    for j in range(y.size):
        y[j] = x[j]


@inner
def add(y, a, x):
    """y += a x."""
    for j in range(y.size):
        y[j] += a * x[j]


@inner
def add_eight(y, a, x0, x1, x2, x3, x4, x5, x6, x7):
    """y += sum of a_k x_k: one pass over y for eight vectors."""
    a0, a1, a2, a3, a4, a5, a6, a7 = a
    for j in range(y.size):
        left = (a0 * x0[j] + a1 * x1[j]) + (a2 * x2[j] + a3 * x3[j])
        y[j] += left + ((a4 * x4[j] + a5 * x5[j]) + (a6 * x6[j] + a7 * x7[j]))


@inner
def add_rows(y, a, B, rows, count, start):
    """y += sum over k < count of a[k] B[rows[k], start : start + len(y)]."""
    stop = start + y.size
    for block in range(count >> 3):
        k = block << 3
        add_eight(
            y,
            (a[k], a[k + 1], a[k + 2], a[k + 3], a[k + 4], a[k + 5], a[k + 6], a[k + 7]),
            B[rows[k], start:stop],
            B[rows[k + 1], start:stop],
            B[rows[k + 2], start:stop],
            B[rows[k + 3], start:stop],
            B[rows[k + 4], start:stop],
            B[rows[k + 5], start:stop],
            B[rows[k + 6], start:stop],
            B[rows[k + 7], start:stop],
        )
    for k in range(count & ~7, count):
        add(y, a[k], B[rows[k], start:stop])


@inner
def dot(x, y):
    """x'y, in four partial sums."""
    a = b = c = d = 0.0
    n = x.size
    for block in range(n >> 2):
        j = block << 2
        a += x[j] * y[j]
        b += x[j + 1] * y[j + 1]
        c += x[j + 2] * y[j + 2]
        d += x[j + 3] * y[j + 3]
    for j in range(n & ~3, n):
        a += x[j] * y[j]
    return (a + b) + (c + d)


@inner
def eliminate(T, n, width, tolerance, diagonal):
    """Factor S = U'U in place: T = [S | B] of this width becomes [U | U^-T B]. False if a pivot is too small.

    Only the upper triangle of S is read; a pivot is too small at ``tolerance`` times the diagonal entry it came from.
    ``diagonal`` (n) is room for these.
    """
    for k in range(n):
        diagonal[k] = T[k, k]
    k = 0
    while k < n:
        stop = min(k + 8, n)
        for p in range(k, stop):
            row = T[p, p:width]
            pivot = row[0]
            if not (pivot > 0.0 and pivot >= tolerance * diagonal[p]):
                return False
            scale = 1.0 / np.sqrt(pivot)
            for j in range(row.size):
                row[j] *= scale
            for i in range(p + 1, stop):
                add(T[i, i:width], -T[p, i], T[p, i:width])
            T[p, p] = scale
        if stop == k + 8:
            for i in range(stop, n):
                add_eight(
                    T[i, i:width],
                    (
                        -T[k, i],
                        -T[k + 1, i],
                        -T[k + 2, i],
                        -T[k + 3, i],
                        -T[k + 4, i],
                        -T[k + 5, i],
                        -T[k + 6, i],
                        -T[k + 7, i],
                    ),
                    T[k, i:width],
                    T[k + 1, i:width],
                    T[k + 2, i:width],
                    T[k + 3, i:width],
                    T[k + 4, i:width],
                    T[k + 5, i:width],
                    T[k + 6, i:width],
                    T[k + 7, i:width],
                )
        k = stop
    return True


@inner
def solve_transposed(U, v, n):
    """v becomes U^-T v, for the first n rows and columns of U."""
    for k in range(n):
        v[k] *= U[k, k]
        add(v[k + 1 : n], -v[k], U[k, k + 1 : n])


@inner
def solve_upper(U, v, n):
    """v becomes U^-1 v, for the first n rows and columns of U."""
    for k in range(n - 1, -1, -1):
        v[k] = (v[k] - dot(U[k, k + 1 : n], v[k + 1 : n])) * U[k, k]
