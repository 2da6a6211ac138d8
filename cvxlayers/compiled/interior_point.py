"""A primal-dual interior-point method for sparse cone programs with quadratic objectives, one problem at a time.

Minimize (1/2) x'Px + q'x subject to Ax + s = b, s in K, through the homogeneous embedding of Goulart and Chen,
"Clarabel: An interior-point solver for conic programs with quadratic objectives", arXiv 2405.12762: variables x, z, s,
tau, kappa with residuals

    rx = Px + A'z + q tau     rz = Ax + s - b tau     rt = x'Px/tau + q'x + b'z + kappa

Every step solves with [P, A'; A, -H], factored once in an iteration, for (-q, b), a predictor and a corrector.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cvxlayers.compiled.compiler import inner, kernel, lent
from cvxlayers.compiled.cone_program import (
    Matrices,
    absolute_products,
    equilibrate,
    times_A,
    times_A_transposed,
    times_P,
)
from cvxlayers.compiled.cones import (
    EXPONENTIAL,
    NONNEGATIVE,
    ZERO,
    Cones,
    corrected,
    inside,
    inverse_times,
    longest,
    scale,
    subtract_hessian,
    times_hessian,
    turned,
    unit,
)
from cvxlayers.compiled.linear_algebra import dot
from cvxlayers.compiled.quasidefinite import Supernodes, Targets, factor, subtract_product
from cvxlayers.compiled.quasidefinite import solve as solve_factored

SOLVED, INACCURATE, INFEASIBLE, UNBOUNDED, MAX_ITERATIONS, NUMERICAL_ERROR = 0, 1, 2, 3, 4, 5  # as in Status

_REGULARIZATION = 1e-11
_REFINEMENTS = 5
_ENOUGH = 1e-12  # a residual of the linear system, relative to its right-hand side, that needs no refinement
_LATE = 1e-6  # residuals of the program from which on every solution of the system is refined, to
_ROUGH = 1e-9
_FRACTION = 0.99  # of the way to the boundary
_CERTIFIED = 1e-8  # the residual of a certificate (`cvxlayers.conic.residuals`) that ends the iteration
_ACCEPTED = 5e-7  # what rounding errors may contribute to it
_EPSILON = 2.220446049250313e-16
_NEARLY, _PATIENCE = 1e-5, 8  # residuals from which on an iteration that improves nothing for so long is given up
_STUCK = 1e-4  # a step shorter than this is none


class System(NamedTuple):
    """The linear system: its supernodes, the places of its entries, its values and room for vectors.

    `cvxlayers.solvers.interior_point.structure.System` says what the arrays up to ``diagonal`` hold.
    """

    nodes: Supernodes
    products: Targets
    entries: np.ndarray
    origin: np.ndarray
    turn: np.ndarray
    sign: np.ndarray
    place: np.ndarray
    P_place: np.ndarray
    A_place: np.ndarray
    H_place: np.ndarray
    diagonal: np.ndarray
    fixed: np.ndarray  # the values with H = 0
    values: np.ndarray
    vectors: np.ndarray
    v: np.ndarray
    rx: np.ndarray
    rz: np.ndarray
    tx: np.ndarray
    tz: np.ndarray


@inner
def _largest(v):
    largest = 0.0
    for i in range(v.size):
        largest = max(largest, abs(v[i]))
    return largest


@lent
def _assemble(M, C, K):
    """The entries that stay the same through all iterations; H is definite and needs no regularization."""
    n = M.q.size
    K.fixed[:] = 0.0
    for k in range(M.P.size):
        K.fixed[K.P_place[k]] += M.P[k]
    for k in range(K.A_place.size):
        if K.A_place[k] >= 0:
            K.fixed[K.A_place[k]] += M.A[k]
    for k in range(n):
        K.fixed[K.diagonal[k]] += _REGULARIZATION
    for c in range(C.kind.size):
        if C.kind[c] == ZERO:
            for k in range(n + C.start[c], n + C.start[c] + C.size[c]):
                K.fixed[K.diagonal[k]] -= _REGULARIZATION


@lent
def _factor(M, C, K):
    """Factor the system with the scaling of C."""
    for k in range(K.values.size):
        K.values[k] = K.fixed[k]
    subtract_hessian(C, K.H_place, K.values)
    count = 0
    first, second, third = (0.0, 0.0, 0.0), (0.0, 0.0), 0.0
    for k in range(K.products.begin.size - 1):
        begin, row, at, q = K.products.begin[k], K.origin[0, k], K.origin[1, k], K.origin[2, k]
        length = K.products.begin[k + 1] - begin
        weight = -1.0
        if at < 0:
            weight = -1.0 / (C.w[row] * C.w[row])
            for b in range(length):
                K.vectors[b] = M.A[K.entries[0, begin + b]]
        elif q == 0:
            first, second, third = turned(C.store[at + 9 : at + 18], K.turn[0, k], K.turn[1, k], K.turn[2, k])
            for b in range(begin, begin + length):
                value = first[0] * M.A[K.entries[0, b]] + second[0] * M.A[K.entries[1, b]]
                K.vectors[b - begin] = value + third * M.A[K.entries[2, b]]
        elif q == 1:
            for b in range(begin, begin + length):
                K.vectors[b - begin] = first[1] * M.A[K.entries[0, b]] + second[1] * M.A[K.entries[1, b]]
        else:
            for b in range(begin, begin + length):
                K.vectors[b - begin] = first[2] * M.A[K.entries[0, b]]
        count = subtract_product(K.nodes, K.products, k, 0, weight, K.vectors, 0, K.values, count)
    factor(K.nodes, K.sign, K.values, count)


@lent
def _direct(M, C, K, rx, rz, x, z):
    """x and z become the solution of the regularized system."""
    n, m = rx.size, rz.size
    inverse_times(C, K.place[n : n + m], rz, K.tz)
    times_A_transposed(M, K.tz, x)
    for i in range(n):
        K.v[K.place[i]] = rx[i] + x[i]
    for i in range(m):
        if K.place[n + i] >= 0:
            K.v[K.place[n + i]] = rz[i]
    for i in range(n + m, K.place.size):
        K.v[K.place[i]] = 0.0
    solve_factored(K.nodes, K.sign, K.values, K.v)
    for i in range(n):
        x[i] = K.v[K.place[i]]
    times_A(M, x, z)
    for i in range(m):
        K.tz[i] = z[i] - rz[i]
    inverse_times(C, K.place[n : n + m], K.tz, z)
    for i in range(m):
        if K.place[n + i] >= 0:
            z[i] = K.v[K.place[n + i]]


@lent
def _refine(M, C, K, rx, rz, x, z, dx, dz, accuracy):
    """Refine [P A'; A -H] [x; z] = [rx; rz]; the largest residual. dx (n) and dz (m) are room.

    Rows that are eliminated by hand hold by construction.
    """
    n, m = rx.size, rz.size
    size = max(_largest(rx), _largest(rz))
    error = np.inf
    for turn in range(_REFINEMENTS + 1):
        times_P(M, x, K.rx)
        times_A_transposed(M, z, K.tx)
        for i in range(n):
            K.rx[i] = rx[i] - K.rx[i] - K.tx[i]
        new = _largest(K.rx)
        if K.sign.size > n:
            times_A(M, x, K.rz)
            times_hessian(C, z, K.tz)
            for i in range(m):
                K.rz[i] = rz[i] - K.rz[i] + K.tz[i] if K.place[n + i] >= 0 else 0.0
            new = max(new, _largest(K.rz))
        else:
            K.rz[:] = 0.0
        if not new < error:
            if turn > 0:  # worse than before: take the step back
                for i in range(n):
                    x[i] -= dx[i]
                for i in range(m):
                    z[i] -= dz[i]
            break
        last, error = error, new
        if error <= accuracy * size or error > 0.5 * last or turn == _REFINEMENTS:
            break
        _direct(M, C, K, K.rx, K.rz, dx, dz)
        for i in range(n):
            x[i] += dx[i]
        for i in range(m):
            z[i] += dz[i]
    return error


@inner
def _norm_times(v, scale):
    total = 0.0
    for i in range(v.size):
        value = v[i] * scale[i]
        total += value * value
    return np.sqrt(total)


@inner
def _step(C, s, z, ds, dz, tau, dtau, kappa, dkappa, fraction):
    """The step that keeps everything inside: ``fraction`` of the way to the boundary, at most one."""
    most = 1.0
    if dtau < 0.0:
        most = min(most, -fraction * tau / dtau)
    if dkappa < 0.0:
        most = min(most, -fraction * kappa / dkappa)
    return longest(C, s, z, ds, dz, most, fraction)


@kernel(
    "void(f8[:,::1], f8[:,::1], f8[:,::1], f8[:,::1],"  # P, q, A, b
    " i8[::1], i8[::1], i8[::1], i8[::1],"  # patterns
    " i8[::1], i8[::1], i8[::1], i8[::1], f8[::1], i8[::1], i8[::1], i8,"  # cones
    " i8[::1], i8[::1],"  # supernodes
    " i8[::1], i8[::1], i8[::1], i8[::1], i8[::1], i8[::1],"  # and their targets
    " i8[::1], i8[::1], i8[::1], i8[::1], i8[::1], i8[::1],"  # those of the products
    " i8[:,::1], i8[:,::1], i8[:,::1],"  # products
    " f8[::1], i8[::1], i8[::1], i8[::1], i8[::1], i8[::1],"  # system
    " f8, f8, i8, i8, i8,"
    " f8[:,::1], f8[:,::1], f8[:,::1], i8[::1], i8[::1])"
)
def solve(
    P, q, A, b,
    P_rows, P_starts, A_rows, A_starts,
    kind, cone_start, size, order, alpha, extra, store_at, degree,
    first, offset,
    node_begin, node_rows, node_base, node_shift, node_relative, node_tail,
    begin, rows, base, shift, relative, tail,
    entries, origin, turn,
    sign, place, P_place, A_place, H_place, diagonal,
    tol, goal, max_iter, start, stop,
    x_out, z_out, s_out, status, iterations,
):  # fmt: skip
    """The elements in range(start, stop) of a batch, with P (1 or B, nnz) and so on; writes the last five arrays.

    ``tol`` is what the residuals of a solution keep to; the method goes on towards ``goal`` where that is cheap.
    """
    n, m, N = x_out.shape[1], z_out.shape[1], sign.size
    most_order = widest = store_size = 1
    for c in range(kind.size):
        most_order, widest = max(most_order, order[c]), max(widest, size[c])
        store_size = max(store_size, store_at[c] + max(3 * order[c] * order[c], 27))
    M = Matrices(
        np.empty(P.shape[1]), P_rows, P_starts, np.empty(n), np.zeros(A.shape[1] + 1), A_rows, A_starts, np.empty(m)
    )
    C = Cones(
        kind, cone_start, size, order, alpha, extra, store_at,
        np.ones(m), np.ones(m), np.empty(store_size), np.empty(max(4 * most_order * most_order, 2 * widest)),
    )  # fmt: skip
    nodes = Supernodes(
        first, offset, Targets(node_begin, node_rows, node_base, node_shift, node_relative, node_tail),
        np.empty((8, N - first[first.size - 2])), np.empty(8), np.empty(N),
    )  # fmt: skip
    longest_product = 1
    for k in range(begin.size - 1):
        longest_product = max(longest_product, begin[k + 1] - begin[k])
    values = offset[offset.size - 1]
    K = System(
        nodes, Targets(begin, rows, base, shift, relative, tail), entries, origin, turn,
        sign, place, P_place, A_place, H_place, diagonal,
        np.empty(values), np.empty(values), np.empty(longest_product), np.empty(N),
        np.empty(n), np.empty(m), np.empty(n), np.empty(m),
    )  # fmt: skip
    d, e, over_d, over_e = np.empty(n), np.empty(m), np.empty(n), np.empty(m)
    x, z, s = np.empty(n), np.empty(m), np.empty(m)
    dx, dz, ds = np.empty(n), np.empty(m), np.empty(m)
    x1, z1, x2, z2 = np.empty(n), np.empty(m), np.empty(n), np.empty(m)
    Px, ATz, Ax = np.empty(n), np.empty(n), np.empty(m)
    wx, wz = np.empty(n), np.empty(m)
    rx, rz, gx, gz, rs = np.empty(n), np.empty(m), np.empty(n), np.empty(m), np.empty(m)
    best_x, best_z, best_s = np.empty(n), np.empty(m), np.empty(m)
    alike = kind > NONNEGATIVE
    symmetric = True
    for c in range(kind.size):
        symmetric = symmetric and kind[c] < EXPONENTIAL
    for element in range(start, stop):
        cost = equilibrate(
            M, P[element if P.shape[0] > 1 else 0], q[element if q.shape[0] > 1 else 0],
            A[element if A.shape[0] > 1 else 0], b[element if b.shape[0] > 1 else 0],
            cone_start, size, alike, d, e, rz, rx,
        )  # fmt: skip
        for i in range(n):
            over_d[i] = 1.0 / d[i]
        for i in range(m):
            over_e[i] = 1.0 / e[i]
        _assemble(M, C, K)
        unit(C, s, z)
        for i in range(n):
            x[i] = 0.0
        if symmetric:
            scale(C, s, z)
            _factor(M, C, K)
            for i in range(n):
                rx[i] = -M.q[i]
            if P.shape[1]:
                _direct(M, C, K, rx, M.b, x, z)
                _refine(M, C, K, rx, M.b, x, z, wx, wz, _ENOUGH)
                for i in range(m):
                    s[i] = -z[i]
            else:
                gx[:], gz[:] = 0.0, 0.0
                _direct(M, C, K, gx, M.b, x, s)
                _refine(M, C, K, gx, M.b, x, s, wx, wz, _ENOUGH)
                for i in range(m):
                    s[i] = -s[i]
                _direct(M, C, K, rx, gz, dx, z)
                _refine(M, C, K, rx, gz, dx, z, wx, wz, _ENOUGH)
            inside(C, s)
            inside(C, z)
            for c in range(kind.size):
                if kind[c] == ZERO:
                    for i in range(cone_start[c], cone_start[c] + size[c]):
                        s[i] = 0.0
        tau = kappa = 1.0
        best, best_at, done, outcome = np.inf, 0, 0, MAX_ITERATIONS
        best_tau = 1.0
        for iteration in range(max_iter + 1):
            done = iteration
            times_P(M, x, Px)
            times_A_transposed(M, z, ATz)
            times_A(M, x, Ax)
            xPx, qx, bz = dot(x, Px), dot(M.q, x), dot(M.b, z)
            for i in range(n):
                rx[i] = Px[i] + ATz[i] + M.q[i] * tau
            for i in range(m):
                rz[i] = Ax[i] + s[i] - M.b[i] * tau
            rt = xPx / tau + qx + bz + kappa
            # The residuals of (x, z, s)/tau as `cvxlayers.conic.residuals` defines them, without the scaling.
            top = max(max(_norm_times(Ax, over_e), _norm_times(s, over_e)), max(_norm_times(M.b, over_e) * tau, tau))
            primal = _norm_times(rz, over_e) / top
            top = max(_norm_times(Px, over_d), _norm_times(ATz, over_d))
            dual = _norm_times(rx, over_d) / max(max(top, _norm_times(M.q, over_d) * tau), tau * cost)
            unscaled = cost * tau * tau
            gap = abs(xPx + (qx + bz) * tau) / max(max(abs(xPx), abs(qx) * tau), max(abs(bz) * tau, unscaled))
            worst = max(primal, max(dual, gap))
            finite = np.isfinite(primal + dual + gap + tau + kappa)
            if finite and worst < best:
                gained = worst < 0.5 * best
                best, best_at, best_tau = worst, iteration, tau
                for i in range(n):
                    best_x[i] = x[i]
                for i in range(m):
                    best_z[i], best_s[i] = z[i], s[i]
            else:
                gained = False
            if not finite:
                outcome = NUMERICAL_ERROR
                break
            if best <= goal or (best <= tol and (not gained or iteration - best_at > 0)):
                outcome = SOLVED
                break
            # Nothing is won any more: what there is may still do.
            if (best <= 10.0 * tol and worst > 10.0 * best) or (best <= _NEARLY and iteration - best_at > _PATIENCE):
                outcome = NUMERICAL_ERROR
                break
            if kappa > tau and best > 10.0 * tol:
                absolute_products(M, x, z, x1, z1, x2)
                total = 0.0
                if bz < 0.0:
                    for i in range(m):
                        total += abs(M.b[i] * z[i])
                    rounding = _EPSILON * _norm_times(z, e) * max(1.0, _norm_times(M.b, over_e))
                    share = _CERTIFIED * (-bz / total)
                    if _norm_times(ATz, over_d) <= share * _norm_times(x2, over_d) and rounding < -_ACCEPTED * bz:
                        outcome = INFEASIBLE
                        break
                if qx < 0.0:
                    total = 0.0
                    for i in range(n):
                        total += abs(M.q[i] * x[i])
                    share = _CERTIFIED * (-qx / total)
                    for i in range(m):
                        z1[i] += abs(s[i])
                        gz[i] = Ax[i] + s[i]
                    if _norm_times(gz, over_e) <= share * _norm_times(z1, over_e) and _norm_times(
                        Px, over_d
                    ) <= share * _norm_times(x1, over_d):
                        outcome = UNBOUNDED
                        break
            if iteration == max_iter:
                break

            mu = (dot(s, z) + kappa * tau) / (degree + 1.0)
            if not (mu > 0.0 and scale(C, s, z)):
                outcome = NUMERICAL_ERROR
                break
            _factor(M, C, K)
            for i in range(n):
                gx[i] = -M.q[i]
            _direct(M, C, K, gx, M.b, x2, z2)
            if worst < _LATE:
                _refine(M, C, K, gx, M.b, x2, z2, wx, wz, _ROUGH)
            # The predictor: right-hand side (-rx, s - rz).
            for i in range(n):
                gx[i] = -rx[i]
            for i in range(m):
                gz[i] = s[i] - rz[i]
            _direct(M, C, K, gx, gz, x1, z1)
            if worst < _LATE:
                _refine(M, C, K, gx, gz, x1, z1, wx, wz, _ROUGH)
            # With xi = x/tau, the coefficient of dtau is kappa/tau + xi'P xi - 2 xi'P x2 - q'x2 - b'z2.
            bottom = kappa / tau + xPx / (tau * tau) - 2.0 * dot(Px, x2) / tau - dot(M.q, x2) - dot(M.b, z2)
            dtau = (rt - kappa + 2.0 * dot(Px, x1) / tau + dot(M.q, x1) + dot(M.b, z1)) / bottom
            for i in range(m):
                dz[i] = z1[i] + dtau * z2[i]
            times_hessian(C, dz, ds)
            for i in range(m):
                ds[i] = -s[i] - ds[i]
            dkappa = -kappa - kappa / tau * dtau
            step = _step(C, s, z, ds, dz, tau, dtau, kappa, dkappa, 1.0)
            sigma = (1.0 - step) ** 3

            # The corrector.
            corrected(C, s, z, ds, dz, sigma * mu, rs)
            for i in range(n):
                gx[i] = -(1.0 - sigma) * rx[i]
            for i in range(m):
                gz[i] = rs[i] - (1.0 - sigma) * rz[i]
            rk = kappa * tau + dkappa * dtau - sigma * mu
            _direct(M, C, K, gx, gz, x1, z1)
            dtau = (1.0 - sigma) * rt - rk / tau + 2.0 * dot(Px, x1) / tau + dot(M.q, x1) + dot(M.b, z1)
            dtau /= bottom
            for i in range(n):
                dx[i] = x1[i] + dtau * x2[i]
                gx[i] -= dtau * M.q[i]
            for i in range(m):
                dz[i] = z1[i] + dtau * z2[i]
                gz[i] += dtau * M.b[i]
            _refine(M, C, K, gx, gz, dx, dz, wx, wz, _ENOUGH)
            times_hessian(C, dz, ds)
            for i in range(m):
                ds[i] = -rs[i] - ds[i]
            if not symmetric:
                # H is so ill-conditioned that errors of H dz would show in the residual: ds = gz - rs - A dx instead.
                times_A(M, dx, wz)
                for c in range(kind.size):
                    if kind[c] >= EXPONENTIAL:
                        for i in range(cone_start[c], cone_start[c] + 3):
                            ds[i] = gz[i] - rs[i] - wz[i]
            dkappa = -(rk + kappa * dtau) / tau
            step = _step(C, s, z, ds, dz, tau, dtau, kappa, dkappa, _FRACTION)
            if not step > _STUCK:
                outcome = NUMERICAL_ERROR
                break
            for i in range(n):
                x[i] += step * dx[i]
            for i in range(m):
                z[i] += step * dz[i]
                s[i] += step * ds[i]
            tau += step * dtau
            kappa += step * dkappa
            largest = max(tau, kappa)
            if not 1e-2 < largest < 1e2:  # the embedding is homogeneous
                largest = 1.0 / largest
                for i in range(n):
                    x[i] *= largest
                for i in range(m):
                    z[i] *= largest
                    s[i] *= largest
                tau *= largest
                kappa *= largest

        status[element], iterations[element] = outcome, done
        if outcome != INFEASIBLE and outcome != UNBOUNDED:
            tau = best_tau
            if best <= tol:
                status[element] = SOLVED
            for i in range(n):
                x[i] = best_x[i]
            for i in range(m):
                z[i], s[i] = best_z[i], best_s[i]
        else:
            tau = 1.0
        for i in range(n):
            x_out[element, i] = x[i] / tau * d[i]
        for i in range(m):
            z_out[element, i] = z[i] / tau * e[i] / cost
            s_out[element, i] = s[i] / (tau * e[i])
