"""The dual active-set method of Goldfarb and Idnani for batches of strictly convex dense quadratic programs.

Goldfarb and Idnani, "A numerically stable dual method for solving strictly convex quadratic programs",
doi 10.1007/BF02591962.

With P = U'U, M = U^-T A' and H = M'M, the slacks b - Ax at the minimizer for fixed multipliers z are b + M'U^-T q + Hz.
Steps thus need the rows of H of the constraints that ever become active, and the inverse of H_WW for the working set W:
it is K'K with K lower triangular, which gains a row with a member of W and loses one by Givens rotations. What this
loses in digits against orthogonal factors of M is won back at the end: x and z are refined with the original data, and
so is the verdict that no constraint is violated.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.compiled.compiler import apart, inner, kernel
from cvxlayers.compiled.linear_algebra import add, add_rows, dot, eliminate, solve_transposed, solve_upper

SOLVED, INFEASIBLE, MAX_ITERATIONS, NUMERICAL_ERROR = 0, 2, 4, 5  # as in Status
SINGULAR = -1  # P is not positive definite

_PIVOT = 1e-13  # a pivot of P, relative to its diagonal entry, below which P counts as singular
_VIOLATED = 1e-12  # a violation, relative to the size of the numbers it is the difference of
_VERIFIED = 1e-11  # the same at the end
_FLOOR = 1e-14  # rounding, relative to the row times the largest entry of x
_IMPLIED = 1e-10  # the same for a row that depends on active ones: below it they contradict each other by rounding only
_ZERO = 1e-13  # a slack, relative in the same way, that is none
_ROUNDING = 1e-15  # a relative residual that refinement does not improve
_ONCE = 1e-10  # one after which a single step of refinement is enough
_NONE = 1e-13  # a change of a multiplier, relative to all that change, that is none
_NEAR = 1e-8  # a squared sine of the angle to the active rows from which it is computed with more care
_DEPENDENT = 1e-10  # the sine below which a row depends on them
_RESUMES = 8  # how often the last check may send the method back to work

_FREE, _ACTIVE, _DEPENDS = 0, 1, 2  # states of a row


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
def _row(j, T, row, g, every):
    """Row j of H = M'M."""
    n = every.size
    for k in range(n):
        g[k] = T[k, n + j]
    for i in range(row.size):
        row[i] = 0.0
    add_rows(row, g, T, every, n, n)


@inner
def _direction(row, count, W, K, h, r, p, every):
    """How the multipliers answer to that of row j: p = -H_WW^-1 H_Wj, with r = K H_Wj and ``row`` H_j. Returns r'r."""
    for k in range(count):
        h[k] = -row[W[k]]
    _solve(K, h, count, r, p, every)
    return dot(r[:count], r[:count])


@apart
def _distance(j, count, W, T, K, h, r, p, g, size, every):
    """The squared distance of column j of M to the span of the active ones, from M itself; 0 if it lies in the span.

    What `_direction` left in p is refined first: the corrected seminormal equations of Bjorck,
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
            _correct(K, h, count, r, p, every)
    length = size[j]
    for c in range(count):
        length += abs(p[c]) * size[W[c]]
    squared = dot(g, g)
    return squared if np.sqrt(squared) > _DEPENDENT * length else 0.0


@inner
def _solve(K, h, count, r, p, every):
    """p = H_WW^-1 h, with r = Kh."""
    for k in range(count):
        p[k] = 0.0
    _correct(K, h, count, r, p, every)


@inner
def _correct(K, h, count, r, p, every):
    """p += H_WW^-1 h, with r = Kh."""
    for k in range(count):
        r[k] = dot(K[k, : k + 1], h[: k + 1])
    add_rows(p[:count], r, K, every, count, 0)


@inner
def _append(j, count, curvature, W, K, p, state):
    """Row j joins the working set; `_direction` has left p."""
    scale = 1.0 / np.sqrt(curvature)
    for k in range(count):
        K[count, k] = scale * p[k]
    K[count, count] = scale
    W[count], state[j] = j, _ACTIVE
    return count + 1


@apart
def _drop(leaving, count, W, K, u, state):
    """Member ``leaving`` of the working set goes; rotations leave its column of K one entry, in the row that goes."""
    state[W[leaving]] = _FREE
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


@inner
def _free(equalities, state):
    """Inequalities that depended on active rows may do so no longer."""
    for j in range(equalities, state.size):
        if state[j] == _DEPENDS:
            state[j] = _FREE


@apart
def _multipliers(count, equalities, slack, W, K, h, r, u, every, state):
    """u = -H_WW^-1 slack_W, after dropping inequalities until none is negative; the new number of rows."""
    while True:
        for k in range(count):
            h[k] = -slack[W[k]]
        _solve(K, h, count, r, u, every)
        worst, least = -1, 0.0
        for k in range(count):
            if W[k] >= equalities and u[k] < least:
                worst, least = k, u[k]
        if worst < 0:
            return count
        count = _drop(worst, count, W, K, u, state)


@inner
def _violated(equalities, slack, b, inverse, state, radius, distance):
    """The free row that is violated most, measured by the distance from it in the norm of P; -1 if there is none."""
    worst, least = -1, -_VIOLATED * radius
    for j in range(distance.size):
        distance[j] = (slack[j] + _VIOLATED * abs(b[j])) * inverse[j]
    for j in range(equalities, distance.size):
        if distance[j] < least and state[j] == _FREE:
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
    return violation > _IMPLIED * total


@apart
def _start(j, count, equalities, W, T, H, known, K, h, r, p, g, size, every, state):
    """Row j joins the rows to start with, unless it depends on them."""
    if not known[j]:
        _row(j, T, H[j], g, every)
        known[j] = True
    squared = H[j, j] - _direction(H[j], count, W, K, h, r, p, every)
    if not squared > _NEAR * H[j, j]:
        squared = _distance(j, count, W, T, K, h, r, p, g, size, every)
    if squared > 0.0 and count < W.size:
        return _append(j, count, squared, W, K, p, state)
    if j < equalities:
        state[j] = _DEPENDS
    return count


@inner
def _certify(j, sign, count, equalities, W, p, z):
    """z = sign (e_j + sum of p_k e_Wk): A'z = 0 and b'z < 0."""
    z[j] = sign
    for k in range(count):
        z[W[k]] = sign * p[k] if W[k] < equalities else max(sign * p[k], 0.0)


@inner
def _point(x, T, W, u, count, v, spread):
    """x of the multipliers u: -U^-1 (v + M_W u)."""
    n = x.size
    _spread(spread, u, count, W)
    for k in range(n):
        x[k] = -v[k] - dot(T[k, n:], spread)
    solve_upper(T, x, n)


@inner
def _total(a, b, x, largest):
    """The size of the terms of b - a'x: with the entries of x, and with the largest of them for each."""
    fine = coarse = abs(b)
    for k in range(x.size):
        fine += abs(a[k] * x[k])
        coarse += abs(a[k]) * largest
    return fine, coarse


@inner
def _largest(x):
    """The largest absolute value of the entries."""
    largest = 0.0
    for k in range(x.size):
        largest = max(largest, abs(x[k]))
    return largest


@inner
def _residual(P, q, A, b, x, u, count, W, g, h, every):
    """g = Px + q + A'z and h = b_W - A_W x, and the larger of their relative sizes."""
    n = x.size
    for k in range(n):
        g[k] = q[k]
    add_rows(g, u, A, W, count, 0)
    largest = max(1e-300, _largest(q), _largest(g))
    add_rows(g, x, P, every, n, 0)
    error = _largest(g) / largest
    largest = _largest(x)
    for k in range(count):
        h[k] = b[W[k]] - dot(A[W[k]], x)
        if abs(h[k]) > error * abs(b[W[k]]):
            error = max(error, abs(h[k]) / (_total(A[W[k]], b[W[k]], x, largest)[1] + 1e-300))
    return error


@inner
def _refine(x, T, K, W, u, count, g, h, r, p, spread, every):
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
    _solve(K, h, count, r, p, every)
    for k in range(count):
        u[k] += p[k]
    _spread(spread, p, count, W)
    for k in range(n):
        g[k] = -g[k] - dot(T[k, n:], spread)
    solve_upper(T, g, n)
    for k in range(n):
        x[k] += g[k]


@inner
def _spread(spread, u, count, W):
    """The multipliers of all rows."""
    for j in range(spread.size):
        spread[j] = 0.0
    for k in range(count):
        spread[W[k]] = u[k]


@inner
def _verify(A, b, x, state, size, slack, reach, pull):
    """Slacks from the original data. 0: no row is violated; 1: one is; 2: x is not finite."""
    largest = max(_largest(x), 1e-6 * pull)  # x may be zero but for rounding
    if not largest < np.inf:
        return 2
    verdict = 0
    for j in range(slack.size):
        if state[j] == _ACTIVE:
            slack[j] = 0.0
            continue
        slack[j] = b[j] - dot(A[j], x)
        if slack[j] < _IMPLIED * (abs(b[j]) + size[j] * reach):
            fine, coarse = _total(A[j], b[j], x, largest)
            if slack[j] < -(_IMPLIED * coarse if state[j] == _DEPENDS else _VERIFIED * fine + _FLOOR * coarse):
                verdict = 1
            elif slack[j] <= _ZERO * fine + 0.1 * _FLOOR * coarse:
                slack[j] = 0.0
    return verdict


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
        pull = _largest(qi) / diagonal  # how large the terms are that x is a sum of, at least

        for j in range(m):
            state[j] = _FREE
        count = 0
        for j in range(equalities if warm.shape[0] == 0 else m):
            if j < equalities or warm[i, j]:
                count = _start(j, count, equalities, W, T, H, known, K, h, r, p, g, size, every, state)

        outcome, resumes, fresh, radius, reach = SOLVED, 0, True, 0.0, 0.0
        while True:
            if fresh:  # multipliers and slacks of the working set, rid of negative multipliers
                for j in range(m):
                    slack[j] = bi[j]
                add_rows(slack, v, T, every, n, n)
                count = _multipliers(count, equalities, slack, W, K, h, r, u, every, state)
                add_rows(slack, u, H, W, count, 0)
                radius = np.sqrt(dot(v, v))
                length = 0.0
                for k in range(count):
                    length += abs(u[k]) * size[W[k]]
                radius = max(radius, length)
                reach, fresh = max(reach, radius), False
                for j in range(equalities):
                    if state[j] == _DEPENDS and outcome == SOLVED:
                        _direction(H[j], count, W, K, h, r, p, every)
                        _distance(j, count, W, T, K, h, r, p, g, size, every)
                        if _contradicts(j, abs(slack[j]), _VERIFIED * size[j] * radius, count, W, p, bi):
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
                    _row(j, T, H[j], g, every)
                    known[j] = True
                uj = 0.0
                while True:  # steps that end with row j active, each but the last losing a row
                    iterations[i] += 1
                    # The squared distance of column j of M to the active ones, as exact as H_jj.
                    curvature = H[j, j] - _direction(H[j], count, W, K, h, r, p, every)
                    if not curvature > _NEAR * H[j, j]:
                        curvature = _distance(j, count, W, T, K, h, r, p, g, size, every)
                    full = -slack[j] / curvature if curvature > 0.0 and count < most else np.inf
                    partial, blocking, length = np.inf, -1, size[j]
                    for k in range(count):
                        length += abs(p[k]) * size[W[k]]
                    for k in range(count):
                        if u[k] < -p[k] * partial and W[k] >= equalities and -p[k] * size[W[k]] > _NONE * length:
                            partial, blocking = u[k] / -p[k], k
                    t = min(full, partial)
                    if not t < np.inf:
                        if _contradicts(j, -slack[j], _VERIFIED * size[j] * radius, count, W, p, bi):
                            _certify(j, 1.0, count, equalities, W, p, zi)
                            outcome = INFEASIBLE
                        elif uj > 0.0:
                            outcome = NUMERICAL_ERROR
                        else:
                            state[j] = _DEPENDS
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
                        count = _append(j, count, curvature, W, K, p, state)
                        break
                    slack[W[blocking]] = 0.0
                    count = _drop(blocking, count, W, K, u, state)
                    _free(equalities, state)
                    if iterations[i] >= max_iter:
                        outcome = MAX_ITERATIONS
                        break
            if outcome == INFEASIBLE:
                break

            _point(xi, T, W, u, count, v, spread)
            for _ in range(3):
                error = _residual(Pi, qi, Ai, bi, xi, u, count, W, g, h, every)
                if error > _ROUNDING:
                    _refine(xi, T, K, W, u, count, g, h, r, p, spread, every)
                if error <= _ONCE:
                    break
            verdict = _verify(Ai, bi, xi, state, size, slack, reach, pull)
            if outcome != SOLVED:
                break
            largest = 0.0
            for k in range(count):
                largest = max(largest, abs(u[k]) * size[W[k]])
            for k in range(count - 1, -1, -1):
                if W[k] >= equalities and u[k] * size[W[k]] < -_VERIFIED * largest:
                    count, fresh = _drop(k, count, W, K, u, state), True
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
                si[j] = 0.0 if state[j] == _ACTIVE or j < equalities else max(slack[j], 0.0)
