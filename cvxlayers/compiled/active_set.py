"""The dual active-set method of Goldfarb and Idnani for batches of strictly convex dense quadratic programs.

Goldfarb and Idnani, "A numerically stable dual method for solving strictly convex quadratic programs",
doi 10.1007/BF02591962.

With P = U'U, M = U^-T A' and H = M'M, the slacks b - Ax at the minimizer for fixed multipliers z are b + M'U^-T q + Hz.
Steps thus need the rows of H of the constraints that ever become active, and the inverse of H_WW for the working set W.
What this loses in digits against orthogonal factors of M is won back at the end: x and z are refined with the original
data, and so is the verdict that no constraint is violated.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.compiled.compiler import inner, kernel
from cvxlayers.compiled.linear_algebra import add, add_rows, dot, eliminate, largest_entry, solve_transposed
from cvxlayers.compiled.refinement import (
    IMPLIED,
    VERIFIED,
    minimizer,
    refine,
    residual,
    verify,
)
from cvxlayers.compiled.working_set import (
    ACTIVE,
    DEPENDS,
    FREE,
    NEAR,
    append,
    direction,
    distance,
    drop,
    gram_row,
    multipliers,
    start_with,
)

SOLVED, INFEASIBLE, MAX_ITERATIONS, NUMERICAL_ERROR = 0, 2, 4, 5  # as in Status
SINGULAR = -1  # P is not positive definite

_PIVOT = 1e-13  # a pivot of P, relative to its diagonal entry, below which P counts as singular
_VIOLATED = 1e-12  # a violation, relative to the size of the numbers it is the difference of
_ROUNDING = 1e-14  # a relative residual that refinement does not improve
_ONCE = 1e-10  # one after which a single step of refinement is enough
_NONE = 1e-13  # a change of a multiplier, relative to all that change, that is none
_RESUMES = 8  # how often the last check may send the method back to work


@inner
def _reduce(P, A, T, diagonal):
    """T becomes [U | M]. False if P is not positive definite."""
    m, n = A.shape
    for k in range(n):
        for j in range(n):
            T[k, j] = P[k, j]
        for j in range(m):
            T[k, n + j] = A[j, k]
    return eliminate(T, n, n + m, _PIVOT, diagonal)


@inner
def _measure(T, size, inverse):
    """The norms of the columns of M, and 1 over them."""
    n = T.shape[0]
    for j in range(size.size):
        size[j] = 0.0
    for k in range(n):
        row = T[k, n:]
        for j in range(size.size):
            size[j] += row[j] * row[j]
    for j in range(size.size):
        size[j] = np.sqrt(size[j])
        inverse[j] = 1.0 / size[j] if size[j] > 0.0 else 1.0


@inner
def _free(equalities, state):
    """Inequalities that depended on active rows may do so no longer."""
    for j in range(equalities, state.size):
        if state[j] == DEPENDS:
            state[j] = FREE


@inner
def _violated(equalities, slack, b, inverse, state, radius, distance):
    """The free row that is violated most, measured by the distance from it in the norm of P; -1 if there is none."""
    worst, least = -1, -_VIOLATED * radius
    for j in range(distance.size):
        distance[j] = (slack[j] + _VIOLATED * abs(b[j])) * inverse[j]
    for j in range(equalities, distance.size):
        if distance[j] < least and state[j] == FREE:
            worst, least = j, distance[j]
    return worst


@inner
def _contradicts(j, violation, noise, count, W, p, b):
    """Whether a row that depends on the active ones is violated by more than rounding."""
    if not violation > noise:
        return False
    total = abs(b[j])
    for k in range(count):
        total += abs(p[k] * b[W[k]])
    return violation > IMPLIED * total


@inner
def _certify(j, sign, count, equalities, W, p, z):
    """z = sign (e_j + sum of p_k e_Wk): A'z = 0 and b'z < 0."""
    z[j] = sign
    for k in range(count):
        z[W[k]] = sign * p[k] if W[k] < equalities else max(sign * p[k], 0.0)


@kernel(
    "void(f8[:,:,::1], f8[:,::1], f8[:,:,::1], f8[:,::1], i8, b1[:,::1], i8, i8, i8,"
    " f8[:,::1], f8[:,::1], f8[:,::1], i8[::1], i8[::1])"
)
def solve(P, q, A, b, equalities, warm, max_iter, start, stop, x, z, s, status, iterations):
    """Minimize (1/2) x'Px + q'x subject to Ax + s = b, s = 0 on the first rows and s >= 0 on the others.

    For the elements in range(start, stop), with P (1 or B, n, n), q (1 or B, n), A (1 or B, m, n), b (1 or B, m), and
    ``warm`` (B or 0, m) the rows to start with. Writes x (B, n), z and s (B, m), status and iterations (B,): of an
    infeasible element z is a certificate.
    """
    m, n = A.shape[1], A.shape[2]
    most = min(n, m)
    shared = P.shape[0] == 1 and A.shape[0] == 1
    T, H, K = np.empty((n, n + m)), np.empty((m, m)), np.zeros((most, most))
    known, state = np.zeros(m, np.bool_), np.zeros(m, np.int64)
    W, every = np.empty(most, np.int64), np.arange(n)
    v, g = np.empty(n), np.empty(n)
    slack, size, inverse, spread = np.empty(m), np.empty(m), np.empty(m), np.empty(m)
    u, h, r, p = np.empty(most), np.empty(most), np.empty(most), np.empty(most)
    factored = convex = False
    for i in range(start, stop):
        Pi, Ai = P[i if P.shape[0] > 1 else 0], A[i if A.shape[0] > 1 else 0]
        qi, bi = q[i if q.shape[0] > 1 else 0], b[i if b.shape[0] > 1 else 0]
        if not (shared and factored):
            convex, factored = _reduce(Pi, Ai, T, g), True
            _measure(T, size, inverse)
            known[:] = False
        xi, zi, si = x[i], z[i], s[i]
        xi[:], zi[:], si[:] = 0.0, 0.0, 0.0
        iterations[i], status[i] = 0, SINGULAR
        if not convex:
            continue
        for k in range(n):
            v[k] = qi[k]
        solve_transposed(T, v, n)
        diagonal = 0.0
        for k in range(n):
            diagonal = max(diagonal, Pi[k, k])
        pull = largest_entry(qi) / diagonal  # how large the terms are that x is a sum of, at least

        for j in range(m):
            state[j] = FREE
        count = 0
        for j in range(equalities if warm.shape[0] == 0 else m):
            if j < equalities or warm[i, j]:
                count = start_with(j, count, equalities, W, T, H, known, K, h, r, p, g, size, every, state)

        outcome, resumes, fresh, radius, reach = SOLVED, 0, True, 0.0, 0.0
        while True:
            if fresh:  # multipliers and slacks of the working set, rid of negative multipliers
                for j in range(m):
                    slack[j] = bi[j]
                add_rows(slack, v, T, every, n, n)
                count = multipliers(count, equalities, slack, W, K, h, r, u, every, state)
                add_rows(slack, u, H, W, count, 0)
                radius = np.sqrt(dot(v, v))
                length = 0.0
                for k in range(count):
                    length += abs(u[k]) * size[W[k]]
                radius = max(radius, length)
                reach, fresh = max(reach, radius), False
                for j in range(equalities):
                    if state[j] == DEPENDS and outcome == SOLVED:
                        direction(H[j], count, W, K, h, r, p, every)
                        distance(j, count, W, T, K, h, r, p, g, size, every)
                        if _contradicts(j, abs(slack[j]), VERIFIED * size[j] * radius, count, W, p, bi):
                            _certify(j, -1.0 if slack[j] > 0.0 else 1.0, count, equalities, W, p, zi)
                            outcome = INFEASIBLE

            while outcome == SOLVED:
                j = _violated(equalities, slack, bi, inverse, state, radius, spread)
                if j < 0:
                    break
                if iterations[i] >= max_iter:
                    outcome = MAX_ITERATIONS
                    break
                if not known[j]:
                    gram_row(j, T, H[j], g, every)
                    known[j] = True
                uj = 0.0
                while True:  # steps that end with row j active, each but the last losing a row
                    iterations[i] += 1
                    # The squared distance of column j of M to the active ones, as exact as H_jj.
                    curvature = H[j, j] - direction(H[j], count, W, K, h, r, p, every)
                    if not curvature > NEAR * H[j, j]:
                        curvature = distance(j, count, W, T, K, h, r, p, g, size, every)
                    full = -slack[j] / curvature if curvature > 0.0 and count < most else np.inf
                    partial, blocking, length = np.inf, -1, size[j]
                    for k in range(count):
                        length += abs(p[k]) * size[W[k]]
                    for k in range(count):
                        if u[k] < -p[k] * partial and W[k] >= equalities and -p[k] * size[W[k]] > _NONE * length:
                            partial, blocking = u[k] / -p[k], k
                    t = min(full, partial)
                    if not t < np.inf:
                        if _contradicts(j, -slack[j], VERIFIED * size[j] * radius, count, W, p, bi):
                            _certify(j, 1.0, count, equalities, W, p, zi)
                            outcome = INFEASIBLE
                        elif uj > 0.0:
                            outcome = NUMERICAL_ERROR
                        else:
                            state[j] = DEPENDS
                        break
                    radius = max(radius, t * length)
                    reach = max(reach, radius)
                    for k in range(count):
                        r[k] = t * p[k]
                        u[k] += r[k]
                    uj += t
                    add(slack, t, H[j])
                    add_rows(slack, r, H, W, count, 0)
                    if full <= partial:
                        u[count], slack[j] = uj, 0.0
                        count = append(j, count, curvature, W, K, p, state)
                        break
                    slack[W[blocking]] = 0.0
                    count = drop(blocking, count, W, K, u, state)
                    _free(equalities, state)
                    if iterations[i] >= max_iter:
                        outcome = MAX_ITERATIONS
                        break
            if outcome == INFEASIBLE:
                break

            minimizer(xi, T, W, u, count, v, spread)
            for _ in range(3):
                error = residual(Pi, qi, Ai, bi, xi, u, count, W, g, h, every)
                if error > _ROUNDING:
                    refine(xi, T, K, W, u, count, g, h, r, p, spread, every)
                if error <= _ONCE:
                    break
            verdict = verify(Ai, bi, xi, state, size, slack, reach, pull)
            if outcome != SOLVED:
                break
            largest = 0.0
            for k in range(count):
                largest = max(largest, abs(u[k]) * size[W[k]])
            for k in range(count - 1, -1, -1):
                if W[k] >= equalities and u[k] * size[W[k]] < -VERIFIED * largest:
                    count, fresh = drop(k, count, W, K, u, state), True
            if verdict == 0 and not fresh:
                break
            resumes += 1
            if verdict == 2 or resumes > _RESUMES:
                outcome = NUMERICAL_ERROR
                break
            _free(equalities, state)
            radius = 0.0
        status[i] = outcome
        if outcome != INFEASIBLE:
            for k in range(count):
                zi[W[k]] = u[k] if W[k] < equalities else max(u[k], 0.0)
            for j in range(m):
                si[j] = 0.0 if state[j] == ACTIVE or j < equalities else max(slack[j], 0.0)
