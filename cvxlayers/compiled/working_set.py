"""The working set W of an active-set method: its rows of H = M'M, and the inverse K'K of H_WW with K lower triangular.

K gains a row with a member of W, and loses one by Givens rotations.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.compiled.compiler import apart, inner
from cvxlayers.compiled.linear_algebra import add_rows, dot

FREE, ACTIVE, DEPENDS = 0, 1, 2  # states of a row: DEPENDS if it is free, and a combination of active ones

NEAR = 1e-8  # a squared sine of the angle to the active rows from which it is computed with more care
_DEPENDENT = 1e-10  # the sine below which a row depends on them


@inner
def gram_row(j, T, row, g, every):
    """Row j of H = M'M."""
    n = every.size
    for k in range(n):
        g[k] = T[k, n + j]
    for i in range(row.size):
        row[i] = 0.0
    add_rows(row, g, T, every, n, n)


@inner
def apply_inverse(K, h, count, r, p, every):
    """p = H_WW^-1 h, with r = Kh."""
    for k in range(count):
        p[k] = 0.0
    add_inverse(K, h, count, r, p, every)


@inner
def add_inverse(K, h, count, r, p, every):
    """p += H_WW^-1 h, with r = Kh."""
    for k in range(count):
        r[k] = dot(K[k, : k + 1], h[: k + 1])
    add_rows(p[:count], r, K, every, count, 0)


@inner
def direction(row, count, W, K, h, r, p, every):
    """How the multipliers answer to that of row j: p = -H_WW^-1 H_Wj, with r = K H_Wj and ``row`` H_j. Returns r'r."""
    for k in range(count):
        h[k] = -row[W[k]]
    apply_inverse(K, h, count, r, p, every)
    return dot(r[:count], r[:count])


@apart
def distance(j, count, W, T, K, h, r, p, g, size, every):
    """The squared distance of column j of M to the span of the active ones, from M itself; 0 if it lies in the span.

    What `direction` left in p is refined first: the corrected seminormal equations of Bjorck,
    doi 10.1016/0024-3795(87)90101-7.
    """
    n = g.size
    for repeat in range(2):
        for k in range(n):
            g[k] = T[k, n + j]
            for c in range(count):
                g[k] += p[c] * T[k, n + W[c]]
        if repeat == 0:
            for c in range(count):
                h[c] = 0.0
                for k in range(n):
                    h[c] -= T[k, n + W[c]] * g[k]
            add_inverse(K, h, count, r, p, every)
    length = size[j]
    for c in range(count):
        length += abs(p[c]) * size[W[c]]
    squared = dot(g, g)
    return squared if np.sqrt(squared) > _DEPENDENT * length else 0.0


@inner
def append(j, count, curvature, W, K, p, state):
    """Row j joins the working set; `direction` has left p."""
    scale = 1.0 / np.sqrt(curvature)
    for k in range(count):
        K[count, k] = scale * p[k]
    K[count, count] = scale
    W[count], state[j] = j, ACTIVE
    return count + 1


@apart
def drop(leaving, count, W, K, u, state):
    """Member ``leaving`` of the working set goes; rotations leave its column of K one entry, in the row that goes."""
    state[W[leaving]] = FREE
    for k in range(leaving, count - 1):
        W[k], u[k] = W[k + 1], u[k + 1]
    for k in range(leaving, count - 1):
        first, second = K[k, leaving], K[k + 1, leaving]
        length = np.sqrt(first * first + second * second)
        cosine, sine = second / length, first / length
        one, two = K[k, : k + 2], K[k + 1, : k + 2]
        for c in range(k + 2):
            x, y = one[c], two[c]
            one[c] = cosine * x - sine * y
            two[c] = sine * x + cosine * y
        for c in range(leaving, k + 1):
            one[c] = one[c + 1]
        one[k + 1] = 0.0
    for k in range(count):
        K[count - 1, k] = 0.0
    return count - 1


@apart
def multipliers(count, equalities, slack, W, K, h, r, u, every, state):
    """u = -H_WW^-1 slack_W, after dropping inequalities until none is negative; the new number of rows."""
    while True:
        for k in range(count):
            h[k] = -slack[W[k]]
        apply_inverse(K, h, count, r, u, every)
        worst, least = -1, 0.0
        for k in range(count):
            if W[k] >= equalities and u[k] < least:
                worst, least = k, u[k]
        if worst < 0:
            return count
        count = drop(worst, count, W, K, u, state)


@apart
def start_with(j, count, equalities, W, T, H, known, K, h, r, p, g, size, every, state):
    """Row j joins the rows to start with, unless it depends on them."""
    if not known[j]:
        gram_row(j, T, H[j], g, every)
        known[j] = True
    squared = H[j, j] - direction(H[j], count, W, K, h, r, p, every)
    if not squared > NEAR * H[j, j]:
        squared = distance(j, count, W, T, K, h, r, p, g, size, every)
    if squared > 0.0 and count < W.size:
        return append(j, count, squared, W, K, p, state)
    if j < equalities:
        state[j] = DEPENDS
    return count
