"""Calls of XLA that end in the kernels for quadratic programs, and reach Python only where these are not enough.

`solve` takes what `cvxlayers.conic.elimination` calls the blocks of a dense program: it substitutes, solves by the
active-set method and judges the solutions. `linear_solve` takes the blocks and solutions, and solves the derivative's
system. What remains goes to `left_over`: elements whose data are not finite or have absent constraints, those that the
kernel does not solve to the tolerance, and those of a derivative without clearly active rows; batches so large that
threads pay; and what XLA asks without calling.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np

from cvxlayers.compiled import frame as xla
from cvxlayers.compiled import reduction
from cvxlayers.compiled.active_set import SOLVED
from cvxlayers.compiled.active_set import solve as solve_kernel
from cvxlayers.compiled.compiler import apart, external, handler, kernel, lent, linked
from cvxlayers.compiled.frame import OPERANDS, RESULTS
from cvxlayers.compiled.linear_algebra import dot
from cvxlayers.compiled.polyhedral import polyhedral_kkt as kkt_kernel

ABSENT = 0.999e20  # as in `cvxlayers.conic.residuals`
SOLVE, LINEAR_SOLVE = 0, 1  # what is asked
SNAP = 1e4  # as in `cvxlayers.sets.nonnegative`

active_set, polyhedral_kkt = linked(solve_kernel), linked(kkt_kernel)

_answer: list[Callable[[int, int], int]] = []


def answer_with(function: Callable[[int, int], int]) -> None:
    """Have ``function(frame, request)`` do what is left over: the addresses of XLA's frame, and of what is asked.

    A request holds what is asked, the key, the batch, the number of right-hand sides, n and m, then addresses of
    arrays, those of stacks that the batch may share followed by their length. There is none (0) where XLA does not call
    but ask. The answer is the address of an error of XLA's, or 0.
    """
    _answer[:] = [function]


@ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
def _python(frame: int, request: int) -> int:
    return _answer[0](frame, request)


left_over = external("cvxlayers_left_over", _python)


@lent
def _at(array):
    """The address of an array."""
    return np.int64(array.ctypes.data)


@lent
def _usable(P, q, A, b):
    """Whether a solver may see the data: finite, and without absent constraints."""
    total = 0.0
    for row in P:
        total += dot(row, row)
    for row in A:
        total += dot(row, row)
    for k in range(b.size):
        if not abs(b[k]) < ABSENT:
            return False
    return np.isfinite(total + dot(q, q))


@lent
def _judge(P, q, A, b, equalities, x, z, s, ATz, residuals):
    """Relative primal, dual and gap residuals, as `cvxlayers.conic.residuals` has them; the largest of the three."""
    n, m = x.size, b.size
    primal = dual = outside = below = xPx = Ax2 = Px2 = s2 = ATz2 = 0.0
    for k in range(n):
        ATz[k] = 0.0
    for j in range(m):
        Ax = dot(A[j], x)
        r = Ax + s[j] - b[j]
        primal, Ax2, s2 = primal + r * r, Ax2 + Ax * Ax, s2 + s[j] * s[j]
        if j < equalities:
            outside = max(outside, abs(s[j]))
        else:
            outside, below = max(outside, -s[j]), max(below, -z[j])
        if z[j] != 0.0:
            for k in range(n):
                ATz[k] += z[j] * A[j, k]
    for k in range(n):
        Px = dot(P[k], x)
        r = Px + q[k] + ATz[k]
        dual, Px2, ATz2, xPx = dual + r * r, Px2 + Px * Px, ATz2 + ATz[k] * ATz[k], xPx + x[k] * Px
    qx, bz = dot(q, x), dot(b, z)
    residuals[0] = max(np.sqrt(primal), outside) / np.sqrt(max(max(Ax2, s2), max(dot(b, b), 1.0)))
    residuals[1] = max(np.sqrt(dual), below) / np.sqrt(max(max(Px2, ATz2), max(dot(q, q), 1.0)))
    residuals[2] = abs(xPx + qx + bz) / max(max(abs(xPx), abs(qx)), max(abs(bz), 1.0))
    if not np.isfinite(primal + dual + xPx):  # max() forgets NaN
        return np.inf
    return max(residuals[0], max(residuals[1], residuals[2]))


@lent
def _next_run(marked, start):
    """The first elements from ``start`` on that are not marked, as a range."""
    while start < marked.size and marked[start]:
        start += 1
    stop = start
    while stop < marked.size and not marked[stop]:
        stop += 1
    return start, stop


@kernel("i8(i8)")
def _solve(frame):
    key, equalities, max_iter = xla.integer(frame, 0), xla.integer(frame, 1), xla.integer(frame, 2)
    alone, tol = xla.integer(frame, 3), xla.real(frame, 4)
    results = [xla.buffer(frame, RESULTS, k) for k in range(6)]
    lead = xla.shape(results[3])
    n, m = xla.shape(results[0])[lead.size], xla.shape(results[1])[lead.size]
    batch = 1
    for k in range(lead.size):
        batch *= lead[k]
    if batch == 0:
        return 0
    v = [xla.stacked(xla.buffer(frame, OPERANDS, k), lead) for k in range(11)]
    Pyy, Ay, M, Pyt, Ptt, dtt, At = v[0], v[1], v[2], v[3], v[4], v[5], v[6]
    qy, bo, c, qt = v[7], v[8], v[9], v[10]
    P, A = reduction.matrices(Pyy, Ay, M, Pyt, Ptt, dtt, At, n, m)
    q, b = reduction.vectors(qy, bo, M, c, Pyt, Ptt, dtt, qt, At, n, m)
    x, z, s, residuals = np.empty((batch, n)), np.empty((batch, m)), np.empty((batch, m)), np.empty((batch, 3))
    status, iterations = np.empty(batch, np.int64), np.empty(batch, np.int64)
    remain, left = np.zeros(batch, np.bool_), 0
    if batch > alone:
        for i in range(batch):
            remain[i] = True
        left = batch
    else:
        room, cold = np.empty(n), np.zeros((0, m), np.bool_)
        for i in range(batch):
            Pi, Ai = reduction.of(P, i), reduction.of(A, i)
            remain[i] = not _usable(Pi, reduction.of(q, i), Ai, reduction.of(b, i))
        start, stop = _next_run(remain, 0)
        while start < batch:
            active_set((P, q, A, b, equalities, cold, max_iter, start, stop, x, z, s, status, iterations))
            for i in range(start, stop):
                Pi, Ai = reduction.of(P, i), reduction.of(A, i)
                qi, bi = reduction.of(q, i), reduction.of(b, i)
                worst = _judge(Pi, qi, Ai, bi, equalities, x[i], z[i], s[i], room, residuals[i])
                remain[i] = status[i] != SOLVED or not worst <= 10.0 * tol
            start, stop = _next_run(remain, stop)
        for i in range(batch):
            left += remain[i]
    if left > 0:
        request = np.array([
            SOLVE, key, batch, 1, n, m, _at(remain), _at(P), P.shape[0], _at(q), q.shape[0],
            _at(A), A.shape[0], _at(b), b.shape[0], _at(x), _at(z), _at(s),
            _at(status), _at(residuals), _at(iterations),
        ])  # fmt: skip
        error = left_over(frame, _at(request))
        used = P.size + q.size + A.size + b.size + remain.size + request.size  # arrays live until they are last used
        if error != 0 and used > 0:
            return error
    xla.write(results[0], x.ravel())
    xla.write(results[1], z.ravel())
    xla.write(results[2], s.ravel())
    xla.write(results[3], status)
    xla.write(results[4], residuals.ravel())
    xla.write(results[5], iterations)
    return 0


solve_call = linked(_solve)


@handler
def solve(frame):
    """(Pyy, Ay, M, Pyt, Ptt, dtt, At, qy, bo, c, qt) to (x, z, s, status, residuals, iterations) of reduced programs.

    Attributes: the key of the program, its equalities, the most iterations, the largest batch to do here, tol.
    """
    return solve_call((frame,)) if xla.is_a_call(frame, 11, 6, 5) else left_over(frame, 0)


@lent
def _activity(z, s, equalities, active):
    """Which rows are active; False if it is not clear of one."""
    for j in range(z.size):
        active[j] = j < equalities or z[j] > SNAP * s[j]
        if not (active[j] or s[j] > SNAP * z[j]):
            return False
    return True


@apart
def _own(frame, lead, own, others):
    """The batch dimensions of the systems, and those that only right-hand sides have; ones in the other places."""
    for k in range(lead.size):
        own[k] = 1
    for i in range(9):
        dims = xla.shape(xla.buffer(frame, OPERANDS, i))
        if dims.size > lead.size:
            for k in range(lead.size):
                own[k] = max(own[k], dims[k])
    for k in range(lead.size):
        others[k] = lead[k] if own[k] == 1 else 1


@lent
def _spread(flat, at, sides, back):
    """Rows of the batch of all right-hand sides (total, size) to (several, batch, size), or back."""
    for i in range(at.shape[0]):
        row, side = reduction.of(flat, i), sides[at[i, 0], at[i, 1]]
        for k in range(row.size):
            if back:
                row[k] = side[k]
            else:
                side[k] = row[k]


@lent
def _is_zero(sides, e):
    """Whether element e has zeros for all its right-hand sides."""
    for r in range(sides.shape[0]):
        for k in range(sides.shape[2]):
            if sides[r, e, k] != 0.0:
                return False
    return True


@kernel("i8(i8)")
def _linear_solve(frame):
    key, equalities, alone = xla.integer(frame, 0), xla.integer(frame, 1), xla.integer(frame, 2)
    top, bottom = xla.buffer(frame, RESULTS, 0), xla.buffer(frame, RESULTS, 1)
    dims = xla.shape(top)
    d = dims.size - 1
    lead, own, others = np.empty(d, np.int64), np.empty(d, np.int64), np.empty(d, np.int64)
    for k in range(d):
        lead[k] = dims[k]
    n, m = dims[d], xla.shape(bottom)[d]
    _own(frame, lead, own, others)
    batch, several = 1, 1
    for k in range(d):
        batch, several = batch * own[k], several * others[k]
    total = batch * several
    if total == 0:
        return 0
    v = [xla.stacked(xla.buffer(frame, OPERANDS, k), own if k < 9 else lead) for k in range(11)]
    P, A = reduction.matrices(v[0], v[1], v[2], v[3], v[4], v[5], v[6], n, m)
    z, s = v[7], v[8]
    gx, gz = np.empty((several, batch, n)), np.empty((several, batch, m))
    wx, wz, residual = np.zeros((several, batch, n)), np.zeros((several, batch, m)), np.empty(batch)
    at = np.empty((total, 2), np.int64)
    for i in range(total):
        at[i, 0], at[i, 1] = xla.place(i, lead, others), xla.place(i, lead, own)
    _spread(v[9], at, gx, False)
    _spread(v[10], at, gz, False)
    skip, remain, failed = np.zeros(batch, np.bool_), np.zeros(batch, np.bool_), np.zeros(batch, np.bool_)
    active = np.zeros((batch, m), np.bool_)
    most, left = 0, 0
    for e in range(batch):
        if _is_zero(gx, e) and _is_zero(gz, e):  # so is the solution, whatever the data are
            skip[e] = True
        elif batch > alone or not _activity(reduction.of(z, e), reduction.of(s, e), equalities, active[e]):
            skip[e] = remain[e] = True
            left += 1
        else:
            count = 0
            for j in range(m):
                count += active[e, j]
            most = max(most, min(n, count))
    start, stop = _next_run(skip, 0)
    if start < batch:
        U, S = np.empty((P.shape[0], n, n)), np.empty((batch, most, most))
        while start < batch:
            polyhedral_kkt((P, A, active, gx, gz, wx, wz, residual, U, S, failed, False, start, stop))
            start, stop = _next_run(skip, stop)
        for e in range(batch):
            if failed[e]:
                remain[e] = True
                left += 1
    if left > 0:
        request = np.array([
            LINEAR_SOLVE, key, batch, several, n, m, _at(remain), _at(P), P.shape[0], _at(A),
            A.shape[0], _at(z), z.shape[0], _at(s), s.shape[0], _at(gx), _at(gz),
            _at(wx), _at(wz),
        ])  # fmt: skip
        error = left_over(frame, _at(request))
        used = P.size + A.size + z.size + s.size + gx.size + gz.size + remain.size + request.size
        if error != 0 and used > 0:
            return error
    flat_x, flat_z = np.empty((total, n)), np.empty((total, m))
    _spread(flat_x, at, wx, True)
    _spread(flat_z, at, wz, True)
    xla.write(top, flat_x.ravel())
    xla.write(bottom, flat_z.ravel())
    return 0


linear_solve_call = linked(_linear_solve)


@handler
def linear_solve(frame):
    """(Pyy, Ay, M, Pyt, Ptt, dtt, At, z, s, gx, gz) to (w_x, w_z) of reduced systems.

    Attributes: the key of the program, its equalities, the largest batch to do here.
    """
    return linear_solve_call((frame,)) if xla.is_a_call(frame, 11, 2, 3) else left_over(frame, 0)
