"""A primal-dual interior-point method for sparse cone programs with quadratic objectives, one problem at a time.

Minimize (1/2) x'Px + q'x subject to Ax + s = b, s in K, through the homogeneous embedding of Goulart and Chen,
"Clarabel: An interior-point solver for conic programs with quadratic objectives", arXiv 2405.12762: variables x, z, s,
tau, kappa with residuals

    rx = Px + A'z + q tau     rz = Ax + s - b tau     rt = x'Px/tau + q'x + b'z + kappa

Every step solves with [P, A'; A, -H], factored once in an iteration, for (-q, b), a predictor and a corrector.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.compiled.compiler import inner, kernel, lent
from cvxlayers.compiled.cone_program import (
    absolute_products,
    equilibrate,
    norm_times,
    times_A,
    times_A_transposed,
    times_P,
    worst_residual,
)
from cvxlayers.compiled.cones import (
    EXPONENTIAL,
    NONNEGATIVE,
    ZERO,
    corrected,
    inside,
    longest,
    scale,
    times_hessian,
    unit,
)
from cvxlayers.compiled.linear_algebra import assign, dot, largest_entry
from cvxlayers.compiled.newton_system import STRUCTURE, assemble, direct, factor_system, workspace
from cvxlayers.compiled.polish import polish

SOLVED, INACCURATE, INFEASIBLE, UNBOUNDED, MAX_ITERATIONS, NUMERICAL_ERROR = 0, 1, 2, 3, 4, 5  # as in Status

_REFINEMENTS = 5
_ENOUGH = 1e-12  # a residual of the linear system, relative to its right-hand side, that needs no refinement
_LATE = 1e-6  # residuals of the program from which on every solution of the system is refined, to
_ROUGH = 1e-9
_FRACTION = 0.99  # of the way to the boundary
_CERTIFIED = 1e-8  # the residual of a certificate (`cvxlayers.conic.residuals`) that ends the iteration
_FACE = 1e-10  # so does a residual this small, in the equilibrated program, beside b'z or q'x
_ACCEPTED = 5e-7  # what rounding errors may contribute to it
_EPSILON = 2.220446049250313e-16
_NEARLY, _PATIENCE = 1e-5, 8  # residuals from which on an iteration that improves nothing for so long is given up
_CYCLE, _AIM = 10, 0.1  # after so many iterations that brought nothing, the share of centering that the step gets
_STUCK = 1e-4  # a step shorter than this is none
_NEAR, _NEARER = 1e-2, 1e-3  # residuals from which on Newton's method is tried, and again once they are so much smaller


@lent
def _refine(M, C, K, rx, rz, x, z, dx, dz, accuracy):
    """Refine [P A'; A -H] [x; z] = [rx; rz]; the largest residual. dx (n) and dz (m) are room.

    Rows that are eliminated by hand hold by construction.
    """
    n, m = rx.size, rz.size
    size = max(largest_entry(rx), largest_entry(rz))
    error = np.inf
    for turn in range(_REFINEMENTS + 1):
        times_P(M, x, K.rx)
        times_A_transposed(M, z, K.tx)
        for i in range(n):
            K.rx[i] = rx[i] - K.rx[i] - K.tx[i]
        new = largest_entry(K.rx)
        if K.sign.size > n:
            times_A(M, x, K.rz)
            times_hessian(C, z, K.tz)
            for i in range(m):
                K.rz[i] = rz[i] - K.rz[i] + K.tz[i] if K.place[n + i] >= 0 else 0.0
            new = max(new, largest_entry(K.rz))
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
        direct(M, C, K, K.rx, K.rz, dx, dz)
        for i in range(n):
            x[i] += dx[i]
        for i in range(m):
            z[i] += dz[i]
    return error


@lent
def _solution(M, C, K, rx, rz, x, z, dx, dz, accuracy):
    """x and z become the solution for (rx, rz), refined unless ``accuracy`` is infinite."""
    direct(M, C, K, rx, rz, x, z)
    if accuracy < np.inf:
        _refine(M, C, K, rx, rz, x, z, dx, dz, accuracy)


@inner
def _step(C, s, z, ds, dz, tau, dtau, kappa, dkappa, fraction):
    """The step that keeps everything inside: ``fraction`` of the way to the boundary, at most one."""
    most = 1.0
    if dtau < 0.0:
        most = min(most, -fraction * tau / dtau)
    if dkappa < 0.0:
        most = min(most, -fraction * kappa / dkappa)
    return longest(C, s, z, ds, dz, most, fraction)


@lent
def _proof(M, x, z, s, Px, ATz, Ax, Px_size, Ax_size, ATz_size, moved, e, over_d, over_e):
    """INFEASIBLE where z proves it, UNBOUNDED where x and s do, MAX_ITERATIONS else. The sizes and ``moved``: room.

    A proof is one of `cvxlayers.conic.residuals`, or accurate enough in the equilibrated program to be one on a face.
    """
    qx, bz, total = dot(M.q, x), dot(M.b, z), 0.0
    absolute_products(M, x, z, Px_size, Ax_size, ATz_size)
    if bz < 0.0:
        for i in range(z.size):
            total += abs(M.b[i] * z[i])
        rounding = _EPSILON * norm_times(z, e) * max(1.0, norm_times(M.b, over_e))
        share = _CERTIFIED * (-bz / total)
        near = np.sqrt(dot(ATz, ATz)) * (1.0 + np.sqrt(dot(M.b, M.b))) <= -_FACE * bz
        near = near or norm_times(ATz, over_d) <= share * norm_times(ATz_size, over_d)
        if near and rounding < -_ACCEPTED * bz:
            return INFEASIBLE
    if qx < 0.0:
        total = 0.0
        for i in range(x.size):
            total += abs(M.q[i] * x[i])
        share = _CERTIFIED * (-qx / total)
        for i in range(s.size):
            Ax_size[i] += abs(s[i])
            moved[i] = Ax[i] + s[i]
        length = np.sqrt(dot(moved, moved)) + np.sqrt(dot(Px, Px))
        if length * (1.0 + np.sqrt(dot(M.q, M.q))) <= -_FACE * qx:
            return UNBOUNDED
        if norm_times(moved, over_e) <= share * norm_times(Ax_size, over_e):
            if norm_times(Px, over_d) <= share * norm_times(Px_size, over_d):
                return UNBOUNDED
    return MAX_ITERATIONS


@kernel(
    "void(f8[:,::1], f8[:,::1], f8[:,::1], f8[:,::1],"  # P, q, A, b
    f" {STRUCTURE}, f8, f8, i8, i8, i8,"
    " f8[:,::1], f8[:,::1], f8[:,::1], i8[::1], i8[::1])"
)
def solve(
    P, q, A, b, structure, tol, goal, max_iter, start, stop, x_out, z_out, s_out, status, iterations
):  # fmt: skip
    """The elements in range(start, stop) of a batch, with P (1 or B, nnz) and so on; writes the last five arrays.

    ``tol`` is what the residuals of a solution keep to; the method goes on towards ``goal`` where that is cheap.
    """
    n, m, degree = x_out.shape[1], z_out.shape[1], structure[11]
    M, C, K = workspace(structure)
    kind, cone_start, size = C.kind, C.start, C.size
    d, e, over_d, over_e = np.empty(n), np.empty(m), np.empty(n), np.empty(m)
    x, z, s = np.empty(n), np.empty(m), np.empty(m)
    dx, dz, ds = np.empty(n), np.empty(m), np.empty(m)
    x1, z1, x2, z2 = np.empty(n), np.empty(m), np.empty(n), np.empty(m)
    Px, ATz, Ax = np.empty(n), np.empty(n), np.empty(m)
    wx, wz = np.empty(n), np.empty(m)
    rx, rz, gx, gz, rs = np.empty(n), np.empty(m), np.empty(n), np.empty(m), np.empty(m)
    ratio = np.empty(m)
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
            ratio[i] = e[i] * e[i] / cost
        assemble(M, C, K)
        unit(C, s, z)
        for i in range(n):
            x[i] = 0.0
        if symmetric:
            scale(C, s, z)
            factor_system(M, C, K)
            for i in range(n):
                rx[i] = -M.q[i]
            if P.shape[1]:
                _solution(M, C, K, rx, M.b, x, z, wx, wz, _ENOUGH)
                for i in range(m):
                    s[i] = -z[i]
            else:
                gx[:], gz[:] = 0.0, 0.0
                _solution(M, C, K, gx, M.b, x, s, wx, wz, _ENOUGH)
                for i in range(m):
                    s[i] = -s[i]
                _solution(M, C, K, rx, gz, dx, z, wx, wz, _ENOUGH)
            inside(C, s)
            inside(C, z)
            for c in range(kind.size):
                if kind[c] == ZERO:
                    for i in range(cone_start[c], cone_start[c] + size[c]):
                        s[i] = 0.0
        tau = kappa = 1.0
        best, best_at, done, outcome = np.inf, 0, 0, MAX_ITERATIONS
        best_tau, near = 1.0, _NEAR
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
            worst = worst_residual(M, Px, ATz, Ax, s, rx, rz, xPx, qx, bz, tau, cost, over_d, over_e)
            finite = np.isfinite(worst + tau + kappa)
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
                outcome = _proof(M, x, z, s, Px, ATz, Ax, x1, z1, x2, gz, e, over_d, over_e)
                if outcome != MAX_ITERATIONS:
                    break
            if iteration == max_iter:
                break

            mu = (dot(s, z) + kappa * tau) / (degree + 1.0)
            if not (mu > 0.0 and scale(C, s, z)):
                outcome = NUMERICAL_ERROR
                break
            factor_system(M, C, K)
            for i in range(n):
                gx[i] = -M.q[i]
            accuracy = _ROUGH if worst < _LATE else np.inf
            _solution(M, C, K, gx, M.b, x2, z2, wx, wz, accuracy)
            # The predictor: right-hand side (-rx, s - rz).
            for i in range(n):
                gx[i] = -rx[i]
            for i in range(m):
                gz[i] = s[i] - rz[i]
            _solution(M, C, K, gx, gz, x1, z1, wx, wz, accuracy)
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
            sigma = _AIM if iteration - best_at >= _CYCLE else (1.0 - step) ** 3

            # The corrector.
            corrected(C, s, z, ds, dz, sigma * mu, rs)
            for i in range(n):
                gx[i] = -(1.0 - sigma) * rx[i]
            for i in range(m):
                gz[i] = rs[i] - (1.0 - sigma) * rz[i]
            rk = kappa * tau + dkappa * dtau - sigma * mu
            _solution(M, C, K, gx, gz, x1, z1, wx, wz, np.inf)
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
            factor = max(tau, kappa)
            if not 1e-2 < factor < 1e2:  # the embedding is homogeneous
                factor = 1.0 / factor
                for i in range(n):
                    x[i] *= factor
                for i in range(m):
                    z[i] *= factor
                    s[i] *= factor
                tau *= factor
                kappa *= factor
            if worst < near and kappa < tau:
                near = _NEARER * worst
                for i in range(n):
                    x1[i] = x[i] / tau
                for i in range(m):
                    z1[i], z2[i] = z[i] / tau, s[i] / tau
                    gz[i] = z1[i] - z2[i]
                found = polish(
                    M, C, K, x1, z1, z2, gz, rx, rz, Px, ATz, Ax, dx, dz, ds, ratio, cost, over_d, over_e, goal
                )
                if found < best and found <= tol:
                    best, best_at, best_tau, done, outcome = found, iteration + 1, 1.0, iteration + 1, SOLVED
                    assign(best_x, x1)
                    assign(best_z, z1)
                    assign(best_s, z2)
                    break

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
