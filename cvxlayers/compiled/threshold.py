"""Projection on the simplex or the L1 ball, row by row, in a few passes.

Newton's method on the threshold theta, from below: theta <- (sum of the entries above it - radius) / their number. It
increases, so that an entry which falls below never comes back, and the row is shortened in every step. Entries are
taken relative to the largest, so that a large common part costs no accuracy.

Source: C. Michelot, A finite algorithm for finding the projection of a point onto the canonical simplex of R^n,
doi 10.1007/BF00938486.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.compiled.compiler import inner, kernel

_READ = "Array(f8, {}, 'C', readonly=True)"  # of a caller: it may be a view that must not be written on


@inner
def _total_and_top(row, signed):
    """The sum and the maximum; several sums side by side do not wait for each other."""
    n = row.size
    a = b = c = d = 0.0
    top = -np.inf
    for i in range(0, n - 3, 4):
        p, q, r, s = row[i], row[i + 1], row[i + 2], row[i + 3]
        if signed:
            p, q, r, s = abs(p), abs(q), abs(r), abs(s)
        a += p
        b += q
        c += r
        d += s
        top = max(top, max(max(p, q), max(r, s)))
    for i in range(n - n % 4, n):
        p = abs(row[i]) if signed else row[i]
        a += p
        top = max(top, p)
    return (a + b) + (c + d), top


@inner
def _above(rest, count, theta):
    """The sum of rest - theta over the first ``count`` entries, in blocks, for the last digits."""
    total = 0.0
    for first in range(0, count, 256):
        block = 0.0
        for i in range(first, min(first + 256, count)):
            block += rest[i] - theta
        total += block
    return total


@kernel(f"({_READ.format(2)}, {_READ.format(1)}, b1, f8[:,::1], b1[::1], i8, i8)")
def project(x, radius, signed, y, inside, start, stop):
    """Rows start to stop of y: the projection of x on the simplex, or, if ``signed``, on the L1 ball.

    ``radius`` has an entry per row, or one for all. ``inside`` says which rows are in the ball already. A row with a
    NaN or an infinity becomes NaN.
    """
    n = x.shape[1]
    rest = np.empty(n)
    for k in range(start, stop):
        row, out = x[k], y[k]
        amount = radius[0] if radius.size == 1 else radius[k]
        total, top = _total_and_top(row, signed)
        inside[k] = signed and total <= amount
        if inside[k] or not np.isfinite(total):
            for i in range(n):
                out[i] = row[i] if inside[k] else np.nan
            continue
        theta = max(-amount, (total - n * top - amount) / n)
        count, mass = 0, 0.0
        for i in range(n):
            v = (abs(row[i]) if signed else row[i]) - top
            rest[count] = v
            above = v > theta
            count += above
            mass += v if above else 0.0
        before = count + 1
        while 0 < count < before:
            theta = max(theta, (mass - amount) / count)
            before, count, mass = count, 0, 0.0
            for i in range(before):
                v = rest[i]
                rest[count] = v
                above = v > theta
                count += above
                mass += v if above else 0.0
        if count > 0:
            theta += (_above(rest, count, theta) - amount) / count
        for i in range(n):
            v = (abs(row[i]) if signed else row[i]) - top - theta
            v = v if v > 0.0 and count > 0 else 0.0
            out[i] = -v if signed and row[i] < 0.0 else v
