"""A product of cones inside the interior-point method: scaling, linear system, corrector, step length.

Vectors are those of the whole product. A symmetric cone has its scaling W with lam = W z = W^-1 s and H = W^2; the
exponential and power cones have H alone (`cvxlayers.compiled.three_dimensional`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from cvxlayers.compiled import second_order, semidefinite, three_dimensional
from cvxlayers.compiled.compiler import inner, lent

ZERO, NONNEGATIVE, SECOND_ORDER, SEMIDEFINITE, EXPONENTIAL = 0, 1, 2, 3, 4  # 5: power

_BACK = 0.95  # what a step that leaves a three-dimensional cone is multiplied by
_TRIES = 60


class Cones(NamedTuple):
    """The cones (`cvxlayers.conic.structure` has the numbers) and the state of their scalings.

    ``w`` (m) holds sqrt(s/z) or w, ``lam`` (m) the scaled point; ``store`` the rest, from store_at[c] on: eta; R', its
    inverse and R R'; or what `three_dimensional.scaling` writes. ``room`` is for matrices.
    """

    kind: np.ndarray
    start: np.ndarray
    size: np.ndarray
    order: np.ndarray
    alpha: np.ndarray
    extra: np.ndarray
    store_at: np.ndarray
    w: np.ndarray
    lam: np.ndarray
    store: np.ndarray
    room: np.ndarray


@lent
def unit(C, s, z):
    """s and z become the central pair with mu = 1."""
    for c in range(C.kind.size):
        kind, first, size = C.kind[c], C.start[c], C.size[c]
        for i in range(first, first + size):
            s[i] = z[i] = 1.0 if kind == NONNEGATIVE else 0.0
        if kind == SECOND_ORDER:
            s[first] = z[first] = 1.0
        elif kind == SEMIDEFINITE:
            at = first - 1
            for j in range(C.order[c]):
                at += j + 1
                s[at] = z[at] = 1.0
        elif kind == EXPONENTIAL:
            for k in range(3):
                s[first + k] = z[first + k] = three_dimensional.EXPONENTIAL_CENTER[k]
        elif kind > EXPONENTIAL:
            s[first] = z[first] = math.sqrt(1.0 + C.alpha[c])
            s[first + 1] = z[first + 1] = math.sqrt(2.0 - C.alpha[c])


@lent
def inside(C, v):
    """Add a multiple of the unit to v, a vector of symmetric cones, if that is needed for it to lie well inside."""
    least, largest = np.inf, 0.0
    for c in range(C.kind.size):
        kind, first, size = C.kind[c], C.start[c], C.size[c]
        if kind == NONNEGATIVE:
            for i in range(first, first + size):
                least, largest = min(least, v[i]), max(largest, abs(v[i]))
        elif kind == SECOND_ORDER:
            least = min(least, second_order.margin(v[first : first + size]))
            largest = max(largest, abs(v[first]))
        elif kind == SEMIDEFINITE:
            k = C.order[c]
            X = C.room[: k * k].reshape((k, k))
            semidefinite.unpack(v[first : first + size], X)
            for i in range(k):
                largest = max(largest, abs(X[i, i]))
            other = C.room[k * k : 2 * k * k].reshape((k, k))
            least = min(
                least, semidefinite.least(X, other.reshape(k * k)[:k], other.reshape(k * k)[k:] if k > 1 else other[0])
            )
    if least > 1e-8 * max(1.0, largest):
        return
    shift = 1.0 - least
    for c in range(C.kind.size):
        kind, first, size = C.kind[c], C.start[c], C.size[c]
        if kind == NONNEGATIVE:
            for i in range(first, first + size):
                v[i] += shift
        elif kind == SECOND_ORDER:
            v[first] += shift
        elif kind == SEMIDEFINITE:
            at = first - 1
            for j in range(C.order[c]):
                at += j + 1
                v[at] += shift


@lent
def scale(C, s, z):
    """The scalings at (s, z); False if a pair is not inside."""
    good = True
    for c in range(C.kind.size):
        kind, first, size, at = C.kind[c], C.start[c], C.size[c], C.store_at[c]
        if kind == NONNEGATIVE:
            for i in range(first, first + size):
                good = good and s[i] > 0.0 and z[i] > 0.0
                C.w[i] = np.sqrt(s[i] / z[i])
                C.lam[i] = np.sqrt(s[i] * z[i])
        elif kind == SECOND_ORDER:
            stop = first + size
            eta = second_order.scaling(s[first:stop], z[first:stop], C.w[first:stop], C.lam[first:stop])
            good = good and eta > 0.0
            C.store[at] = eta
        elif kind == SEMIDEFINITE:
            k, stop = C.order[c], first + size
            own, room = C.store[at : at + 3 * k * k].reshape((3, k, k)), C.room[: 3 * k * k].reshape((3, k, k))
            good = semidefinite.scaling(s[first:stop], z[first:stop], own, C.lam[first:stop], room) and good
        elif kind >= EXPONENTIAL:
            three_dimensional.scaling(
                kind == EXPONENTIAL, C.alpha[c], s[first : first + 3], z[first : first + 3], C.store[at : at + 27]
            )
            for k in range(at, at + 27):
                good = good and math.isfinite(C.store[k])
    return good


@lent
def subtract_hessian(C, place, values):
    """Put -H into the values of the linear system, whose entries lie where ``place`` says, cone by cone.

    Three-dimensional cones have no entries there, and nonnegative rows that are eliminated by hand are at -1.
    """
    p = np.int64(0)
    for c in range(C.kind.size):
        kind, first, size, at = C.kind[c], C.start[c], C.size[c], C.store_at[c]
        if kind == ZERO:
            p += size
        elif kind == NONNEGATIVE:
            for i in range(first, first + size):
                if place[p] >= 0:
                    values[place[p]] -= C.w[i] * C.w[i]
                p += 1
        elif kind == SECOND_ORDER and C.extra[c] >= 0:
            w, square = C.w[first : first + size], C.store[at] * C.store[at]
            d, u0, u1, v1 = second_order.expansion(w)
            values[place[p]] -= square * d
            for i in range(1, size):
                values[place[p + i]] -= square
                values[place[p + size - 1 + i]] += square * v1 * w[i]
                values[place[p + 2 * size - 1 + i]] += square * u1 * w[i]
            values[place[p + 2 * size - 1]] += square * u0
            values[place[p + 3 * size - 1]] -= square
            values[place[p + 3 * size]] += square
            p += 3 * size + 1
        elif kind == SECOND_ORDER:
            w, square = C.w[first : first + size], C.store[at] * C.store[at]
            for j in range(size):
                for i in range(j + 1):
                    value = 2.0 * w[i] * w[j]
                    if i == j:
                        value += -1.0 if i == 0 else 1.0
                    values[place[p]] -= square * value
                    p += 1
        elif kind == SEMIDEFINITE:
            k = C.order[c]
            B = C.store[at + 2 * k * k : at + 3 * k * k].reshape((k, k))
            p = _subtract_semidefinite(B, place, values, p)


@inner
def turned(G, first, second, third):
    """V with V V' = G'G for the rows g1, g2, g3 of G: its rows number first, second and third, the others' zeros last.

    V is G' turned by an orthogonal matrix so that the third row is (*, 0, 0) and the second one (*, *, 0): the
    vectors V'A then keep the entries of the third row of A to the first of them.
    """
    a, b, c = (
        (G[third], G[third + 3], G[third + 6]),
        (G[second], G[second + 3], G[second + 6]),
        (G[first], G[first + 3], G[first + 6]),
    )
    # The reflection that sends a to a multiple of (1, 0, 0),
    length = np.sqrt(a[0] * a[0] + a[1] * a[1] + a[2] * a[2])
    length = -length if a[0] > 0.0 else length
    v = (a[0] - length, a[1], a[2])
    square = v[0] * v[0] + v[1] * v[1] + v[2] * v[2]
    factor = 2.0 / square if square > 0.0 else 0.0
    t = factor * (b[0] * v[0] + b[1] * v[1] + b[2] * v[2])
    b = (b[0] - t * v[0], b[1] - t * v[1], b[2] - t * v[2])
    t = factor * (c[0] * v[0] + c[1] * v[1] + c[2] * v[2])
    c = (c[0] - t * v[0], c[1] - t * v[1], c[2] - t * v[2])
    # and the rotation that then sends b to a multiple of (*, 1, 0).
    radius = np.sqrt(b[1] * b[1] + b[2] * b[2])
    cosine, sine = (b[1] / radius, b[2] / radius) if radius > 0.0 else (1.0, 0.0)
    return (c[0], cosine * c[1] + sine * c[2], cosine * c[2] - sine * c[1]), (b[0], radius), length


@inner
def _subtract_semidefinite(B, place, values, p):
    """The matrix of V -> B V B on scaled vectors: its upper triangle, column by column."""
    root = np.sqrt(2.0)
    for col in range(B.shape[0]):
        for row in range(col + 1):
            own = 1.0 if row == col else 1.0 / root
            for j in range(col + 1):
                for i in range((row if j == col else j) + 1):
                    weight = own if i == j else own * root
                    if row == col:
                        values[place[p]] -= weight * B[row, i] * B[row, j]
                    else:
                        values[place[p]] -= weight * (B[row, i] * B[col, j] + B[col, i] * B[row, j])
                    p += 1
    return p


@lent
def times_hessian(C, v, out):
    """out = H v."""
    for c in range(C.kind.size):
        kind, first, size, at = C.kind[c], C.start[c], C.size[c], C.store_at[c]
        if kind == ZERO:
            for i in range(first, first + size):
                out[i] = 0.0
        elif kind == NONNEGATIVE:
            for i in range(first, first + size):
                out[i] = C.w[i] * C.w[i] * v[i]
        elif kind == SECOND_ORDER:
            stop = first + size
            second_order.square_times(C.w[first:stop], C.store[at], v[first:stop], out[first:stop])
        elif kind == SEMIDEFINITE:
            k, stop = C.order[c], first + size
            semidefinite.congruence(
                C.store[at + 2 * k * k : at + 3 * k * k].reshape((k, k)),
                v[first:stop],
                out[first:stop],
                C.room[: k * k].reshape((k, k)),
                C.room[k * k : 2 * k * k].reshape((k, k)),
            )
        else:
            h = C.store[at : at + 9]
            for i in range(first, first + 3):
                out[i] = 0.0
            for k in range(0, 9, 3):
                product = h[k] * v[first] + h[k + 1] * v[first + 1] + h[k + 2] * v[first + 2]
                for i in range(3):
                    out[first + i] += product * h[k + i]


@lent
def inverse_times(C, place, v, out):
    """out = H^-1 v in the rows with ``place`` -1, which are nonnegative or of three-dimensional cones, 0 elsewhere."""
    for c in range(C.kind.size):
        kind, first, size, at = C.kind[c], C.start[c], C.size[c], C.store_at[c]
        if kind == NONNEGATIVE:
            for i in range(first, first + size):
                out[i] = v[i] / (C.w[i] * C.w[i]) if place[i] < 0 else 0.0
        elif kind < EXPONENTIAL:
            for i in range(first, first + size):
                out[i] = 0.0
        else:
            g = C.store[at + 9 : at + 18]
            for i in range(first, first + 3):
                out[i] = 0.0
            for k in range(0, 9, 3):
                product = g[k] * v[first] + g[k + 1] * v[first + 1] + g[k + 2] * v[first + 2]
                for i in range(3):
                    out[first + i] += product * g[k + i]


@lent
def corrected(C, s, z, ds, dz, target, out):
    """The right-hand side out of H dz + ds = -out that aims at mu = ``target`` and knows the predictor (ds, dz)."""
    for c in range(C.kind.size):
        kind, first, size, at = C.kind[c], C.start[c], C.size[c], C.store_at[c]
        if kind == ZERO:
            for i in range(first, first + size):
                out[i] = 0.0
        elif kind == NONNEGATIVE:
            for i in range(first, first + size):
                out[i] = s[i] + (ds[i] * dz[i] - target) / z[i]
        elif kind == SECOND_ORDER:
            stop = first + size
            _correct_second_order(
                C.w[first:stop], C.store[at], C.lam[first:stop], ds[first:stop], dz[first:stop], target,
                out[first:stop], C.room[: 2 * size],
            )  # fmt: skip
        elif kind == SEMIDEFINITE:
            k, stop = C.order[c], first + size
            _correct_semidefinite(
                C.store[at : at + 2 * k * k].reshape((2, k, k)), C.lam[first:stop], ds[first:stop], dz[first:stop],
                target, out[first:stop], C.room[: 4 * k * k].reshape((4, k, k)),
            )  # fmt: skip
        else:
            H = C.store[at : at + 27]
            stop = first + 3
            e = three_dimensional.corrector(
                kind == EXPONENTIAL, C.alpha[c], z[first:stop], dz[first:stop], ds[first:stop], H
            )
            for k in range(3):
                out[first + k] = s[first + k] - target * H[18 + k] + e[k]


@inner
def _correct_second_order(w, eta, lam, ds, dz, target, out, room):
    """W (lam \\ (lam o lam + (W^-1 ds) o (W dz) - target e)) in the Jordan algebra; room (2 size)."""
    size = w.size
    a, b = room[:size], room[size:]
    second_order.times(w, eta, dz, a)
    # W^-1 is W with w1 and eta inverted: J W(w, 1/eta) J.
    for i in range(size):
        b[i] = ds[i] if i == 0 else -ds[i]
    second_order.times(w, 1.0 / eta, b, b)
    first, square = a[0] * b[0], lam[0] * lam[0]
    for i in range(1, size):
        b[i] = -b[i]
        first += a[i] * b[i]
        square += lam[i] * lam[i]
    for i in range(1, size):
        out[i] = 2.0 * lam[0] * lam[i] + a[0] * b[i] + b[0] * a[i]
    out[0] = square + first - target
    second_order.divide(lam, out, out)
    second_order.times(w, eta, out, out)


@inner
def _correct_semidefinite(own, lam, ds, dz, target, out, room):
    """R (...) R' as above, with (lam \\ X)_ij = 2 X_ij / (lam_i + lam_j); ``own`` holds R' and R^-1."""
    R, inverse = own[0], own[1]
    X, Y, U, V = room[0], room[1], room[2], room[3]
    k = R.shape[0]
    semidefinite.unpack(dz, X)
    semidefinite.multiply(R, X, Y)
    semidefinite.multiply_transposed(Y, R, U)  # R'dZ R
    semidefinite.unpack(ds, X)
    semidefinite.multiply(inverse, X, Y)
    semidefinite.multiply_transposed(Y, inverse, V)
    semidefinite.multiply_transposed(U, V, Y)  # both are symmetric
    for i in range(k):
        for j in range(k):
            X[i, j] = (Y[i, j] + Y[j, i]) / (lam[i] + lam[j])
        X[i, i] += lam[i] - target / lam[i]
    semidefinite.multiply(X, R, Y)
    for i in range(k):
        for j in range(k):
            V[i, j] = 0.0
    for p in range(k):
        for i in range(k):
            a = R[p, i]
            for j in range(k):
                V[i, j] += a * Y[p, j]
    semidefinite.pack(V, out)


@inner
def _least_scaled(A, lam, v, X, Y, Z):
    """The least eigenvalue of lam^-1/2 A V A' lam^-1/2."""
    k = A.shape[0]
    semidefinite.unpack(v, X)
    semidefinite.multiply(A, X, Y)
    semidefinite.multiply_transposed(Y, A, X)
    for i in range(k):
        for j in range(i + 1):
            X[i, j] /= np.sqrt(lam[i] * lam[j])
            X[j, i] = X[i, j]
    flat = Z.reshape(k * k)
    return semidefinite.least(X, flat[:k], flat[k:] if k > 1 else flat)


@lent
def longest(C, s, z, ds, dz, most, fraction):
    """The largest step in (0, most] with (s, z) + step/fraction (ds, dz) inside; shorter at three-dimensional cones."""
    t = np.inf
    for c in range(C.kind.size):
        kind, first, size, at = C.kind[c], C.start[c], C.size[c], C.store_at[c]
        if kind == NONNEGATIVE:
            for i in range(first, first + size):
                if ds[i] < 0.0:
                    t = min(t, -s[i] / ds[i])
                if dz[i] < 0.0:
                    t = min(t, -z[i] / dz[i])
        elif kind == SECOND_ORDER:
            stop = first + size
            t = min(t, second_order.longest(s[first:stop], ds[first:stop]))
            t = min(t, second_order.longest(z[first:stop], dz[first:stop]))
        elif kind == SEMIDEFINITE:
            k, stop = C.order[c], first + size
            lam, X, Y, Z = (
                C.lam[first : first + k],
                C.room[: k * k].reshape((k, k)),
                C.room[k * k : 2 * k * k].reshape((k, k)),
                C.room[2 * k * k : 3 * k * k].reshape((k, k)),
            )
            least = min(
                _least_scaled(C.store[at : at + k * k].reshape((k, k)), lam, dz[first:stop], X, Y, Z),
                _least_scaled(C.store[at + k * k : at + 2 * k * k].reshape((k, k)), lam, ds[first:stop], X, Y, Z),
            )
            if least < 0.0:
                t = min(t, -1.0 / least)
    t = min(most, fraction * t)
    for c in range(C.kind.size):
        kind, i = C.kind[c], C.start[c]
        if kind >= EXPONENTIAL:
            exponential, a = kind == EXPONENTIAL, C.alpha[c]
            for _ in range(_TRIES):
                h = t / fraction
                if (
                    three_dimensional.dual_zeta(
                        exponential, a, z[i] + h * dz[i], z[i + 1] + h * dz[i + 1], z[i + 2] + h * dz[i + 2]
                    )
                    > 0.0
                    and three_dimensional.primal_zeta(
                        exponential, a, s[i] + h * ds[i], s[i + 1] + h * ds[i + 1], s[i + 2] + h * ds[i + 2]
                    )
                    > 0.0
                ):
                    break
                t *= _BACK
    return t
