"""The end of an active-set method: x and the multipliers, refined and verified with the original data."""

from __future__ import annotations

import numpy as np

from cvxlayers.compiled.compiler import inner
from cvxlayers.compiled.linear_algebra import add_rows, dot, largest_entry, solve_transposed, solve_upper
from cvxlayers.compiled.working_set import ACTIVE, DEPENDS, apply_inverse

IMPLIED = 1e-10  # a violation of a row that depends on active ones, below which they contradict each other by rounding
VERIFIED = 1e-11  # a violation, relative to the size of the numbers it is the difference of
_FLOOR = 1e-14  # rounding, relative to the row times the largest entry of x
_ZERO = 1e-13  # a slack, relative like a violation, that is none


@inner
def term_sizes(a, b, x, largest):
    """The size of the terms of b - a'x: with the entries of x, and with the largest of them for each."""
    fine = coarse = abs(b)
    for k in range(x.size):
        fine += abs(a[k] * x[k])
        coarse += abs(a[k]) * largest
    return fine, coarse


@inner
def scatter(spread, u, count, W):
    """The multipliers of all rows."""
    for j in range(spread.size):
        spread[j] = 0.0
    for k in range(count):
        spread[W[k]] = u[k]


@inner
def minimizer(x, T, W, u, count, v, spread):
    """x of the multipliers u: -U^-1 (v + M_W u)."""
    n = x.size
    scatter(spread, u, count, W)
    for k in range(n):
        x[k] = -v[k] - dot(T[k, n:], spread)
    solve_upper(T, x, n)


@inner
def residual(P, q, A, b, x, u, count, W, g, h, every):
    """g = Px + q + A'z and h = b_W - A_W x, and the larger of their relative sizes."""
    n = x.size
    for k in range(n):
        g[k] = q[k]
    add_rows(g, u, A, W, count, 0)
    largest = max(1e-300, largest_entry(q), largest_entry(g))
    add_rows(g, x, P, every, n, 0)
    error = largest_entry(g) / largest
    largest = largest_entry(x)
    for k in range(count):
        h[k] = b[W[k]] - dot(A[W[k]], x)
        if abs(h[k]) > error * abs(b[W[k]]):
            error = max(error, abs(h[k]) / (term_sizes(A[W[k]], b[W[k]], x, largest)[1] + 1e-300))
    return error


@inner
def refine(x, T, K, W, u, count, g, h, r, p, spread, every):
    """Add to x and u what their residuals g and h ask for.

    dz = -H_WW^-1 (h + M_W'a) and dx = -U^-1 (a + M_W dz), with a = U^-T g.
    """
    n = x.size
    solve_transposed(T, g, n)
    for j in range(spread.size):
        spread[j] = 0.0
    add_rows(spread, g, T, every, n, n)
    for k in range(count):
        h[k] = -h[k] - spread[W[k]]
    apply_inverse(K, h, count, r, p, every)
    for k in range(count):
        u[k] += p[k]
    scatter(spread, p, count, W)
    for k in range(n):
        g[k] = -g[k] - dot(T[k, n:], spread)
    solve_upper(T, g, n)
    for k in range(n):
        x[k] += g[k]


@inner
def verify(A, b, x, state, size, slack, reach, pull):
    """Slacks from the original data. 0: no row is violated; 1: one is; 2: x is not finite."""
    largest = max(largest_entry(x), 1e-6 * pull)  # x may be zero but for rounding
    if not largest < np.inf:
        return 2
    verdict = 0
    for j in range(slack.size):
        if state[j] == ACTIVE:
            slack[j] = 0.0
            continue
        slack[j] = b[j] - dot(A[j], x)
        if slack[j] < IMPLIED * (abs(b[j]) + size[j] * reach):
            fine, coarse = term_sizes(A[j], b[j], x, largest)
            if slack[j] < -(IMPLIED * coarse if state[j] == DEPENDS else VERIFIED * fine + _FLOOR * coarse):
                verdict = 1
            elif slack[j] <= _ZERO * fine + 0.1 * _FLOOR * coarse:
                slack[j] = 0.0
    return verdict
