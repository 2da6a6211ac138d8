"""The projection onto the dual of a product of cones, and its derivative D, inside kernels.

As `cvxlayers.sets` has them: u = z - s with z the projection of u onto K* and s that of -u onto K. The eigenvalues of D
are 0 or 1 where z and s differ by a factor above 1e4, and z/(z + s) where they do not.

D goes where the interior-point method has its scaling: with H = D^-1 - I + rho, the linear system of an iteration is
that of the derivative. In ``lam`` are the eigenvalues of linear rows, and the axis of a second-order cone; in ``store``
eta and the eigenvalues along (1, n), (1, -n) and across; the eigenvectors, the matrix of the elements of D and that of
the scaling; or D, a matrix G with G'G = H^-1 and T = (I - D + rho D)^-1.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.compiled import semidefinite
from cvxlayers.compiled import three_dimensional_projection as three_dimensional
from cvxlayers.compiled.compiler import inner, lent
from cvxlayers.compiled.cones import (
    EXPONENTIAL,
    NONNEGATIVE,
    SECOND_ORDER,
    SEMIDEFINITE,
    ZERO,
    Cones,
)

_SNAP = 1e4
_RHO = 1e-7  # of rows and cones that are eliminated by hand
_SPREAD = 3e6  # the square root of the condition number of H up to which a semidefinite cone can be factored
_COARSE = 0.3
_CURVED = 1e-6  # of second-order and semidefinite cones: the eigenvalues of H then span twelve orders of magnitude


@inner
def _element(z, s, ratio):
    """The eigenvalue for spectral values z and s, and how clear-cut it is; z is ``ratio`` times as large outside."""
    z, s = max(z, 0.0), max(s, 0.0)
    outside = z * ratio
    if not outside + s > 0.0:
        return 0.5, 0.0
    margin = abs(outside - s) / (outside + s)
    if outside > _SNAP * s:
        return 1.0, margin
    if s > _SNAP * outside:
        return 0.0, margin
    return z / (z + s), margin


@lent
def decompose(C: Cones, z, s, ratio):
    """Put D at (z, s) into C; how clear-cut it is, from 0 to 1, and whether C can hold it.

    ``ratio`` (m) is z over s outside of the equilibration for z = s = 1 inside it.
    """
    margin, good = 1.0, True
    for c in range(C.kind.size):
        kind, first, size, at = C.kind[c], C.start[c], C.size[c], C.store_at[c]
        stop = first + size
        if kind == ZERO:
            for i in range(first, stop):
                C.lam[i] = 1.0
        elif kind == NONNEGATIVE:
            for i in range(first, stop):
                C.lam[i], own = _element(z[i], s[i], ratio[i])
                margin = min(margin, own)
                C.w[i] = np.sqrt(min((1.0 - C.lam[i]) / max(C.lam[i], 1e-300), 1.0 / _RHO**2) + _RHO)
        elif kind == SECOND_ORDER:
            own, held = _second_order(
                z[first:stop], s[first:stop], ratio[first], C.w[first:stop], C.lam[first:stop], C.store[at : at + 4]
            )
            margin, good = min(margin, own), good and held
        elif kind == SEMIDEFINITE:
            k = C.order[c]
            own, held = _semidefinite(
                z[first:stop], s[first:stop], ratio[first],
                C.store[at : at + 3 * k * k].reshape((3, k, k)), C.room[: 3 * k * k].reshape((3, k, k)),
                C.room[3 * k * k : 3 * k * k + k],
            )  # fmt: skip
            margin, good = min(margin, own), good and held
        else:
            own = three_dimensional.decompose(
                -1.0 if kind == EXPONENTIAL else C.alpha[c], z[first:stop], s[first:stop], ratio[first], _RHO,
                C.store[at : at + 27],
            )  # fmt: skip
            margin = min(margin, own)
    return margin, good


@inner
def _second_order(z, s, ratio, w, lam, store):
    """Eigenvalues to store[1:4], the axis to lam[1:], and the scaling with eigenvalues near those of H."""
    size = z.size
    square = 0.0
    for i in range(1, size):
        square += (ratio * z[i] - s[i]) ** 2
    length = np.sqrt(square)
    along_z = along_s = 0.0
    for i in range(1, size):
        lam[i] = (ratio * z[i] - s[i]) / length if length > 0.0 else (1.0 if i == 1 else 0.0)
        along_z += lam[i] * z[i]
        along_s += lam[i] * s[i]
    plus, margin = _element(z[0] + along_z, s[0] + along_s, ratio)
    minus, other = _element(z[0] - along_z, s[0] - along_s, ratio)
    margin = min(margin, other) if size > 1 else margin
    minus = minus if size > 1 else plus
    sum_z = (max(z[0] + along_z, 0.0) if plus > 0.0 else 0.0) + (max(z[0] - along_z, 0.0) if minus > 0.0 else 0.0)
    sum_s = (max(s[0] + along_s, 0.0) if plus < 1.0 else 0.0) + (max(s[0] - along_s, 0.0) if minus < 1.0 else 0.0)
    middle = sum_z / (sum_z + sum_s) if sum_z + sum_s > 0.0 else 0.5
    store[1], store[2], store[3] = plus, minus, middle
    h = min(max((1.0 - middle) / max(middle, 1e-300), _CURVED), 1.0 / _CURVED)
    w[0] = 1.0
    for i in range(1, size):
        w[i] = 0.0
    if plus == minus:
        h = 1.0 / _CURVED if plus == 0.0 else (1.0 - plus) / plus + _CURVED
    else:
        root = np.sqrt(min(_CURVED, _CURVED * h * h) / h)  # of the eigenvalue along (1, n) over that across
        w[0] = 0.5 * (1.0 / root + root)
        far = 0.5 * (1.0 / root - root) * (-1.0 if plus > minus else 1.0)
        for i in range(1, size):
            w[i] = far * lam[i]
    store[0] = np.sqrt(h)
    return margin, (plus == 0.0 or plus == 1.0 or size == 1) and (minus == 0.0 or minus == 1.0 or size == 1)


@inner
def _quadratic(X, q):
    """q'X q."""
    total = 0.0
    for i in range(q.size):
        part = 0.0
        for j in range(q.size):
            part += X[i, j] * q[j]
        total += q[i] * part
    return total


@inner
def _semidefinite(z, s, ratio, own, room, values):
    """Eigenvectors of ratio Z - S, by rows, to own[0], the elements of D to own[1], B to own[2]; H is V -> B V B.

    For eigenvalues z_i > 0 and -s_j < 0 the element of H is s_j/z_i, the product of beta_i = c/z_i and beta_j = s_j/c
    for any c; one that is small makes the other products small or large, as they should be.
    """
    X, Z, S = room[0], room[1], room[2]
    k = X.shape[0]
    semidefinite.unpack(z, Z)
    semidefinite.unpack(s, S)
    for i in range(k):
        for j in range(k):
            X[i, j] = ratio * Z[i, j] - S[i, j]
    semidefinite.eigen(X, own[0])
    margin, good = 1.0, True
    for i in range(k):
        a, b = max(_quadratic(Z, own[0, i]), 0.0), max(_quadratic(S, own[0, i]), 0.0)
        element, clear = _element(a, b, ratio)
        margin, good = min(margin, clear), good and (element == 0.0 or element == 1.0)
        values[i] = a if element == 1.0 else -b
    return margin, good and _semidefinite_elements(own, values)


@inner
def _semidefinite_elements(own, values):
    """Elements of D and B from the eigenvectors and eigenvalues, none of which may be zero."""
    Q, D, B = own[0], own[1], own[2]
    k = values.size
    least, most_z, most_s = np.inf, 0.0, 0.0
    for i in range(k):
        least = min(least, abs(values[i]))
        most_z, most_s = max(most_z, values[i]), max(most_s, -values[i])
    # H is 0 between eigenvectors of Z and infinite between those of S: at most (c/least)^2 there, and one over that.
    c = max(np.sqrt(_CURVED) * least, np.sqrt(most_z * most_s / _SPREAD))
    if not c < _COARSE * least:
        return False
    for i in range(k):
        for j in range(k):
            a = max(values[i], 0.0) + max(values[j], 0.0)
            b = max(-values[i], 0.0) + max(-values[j], 0.0)
            D[i, j] = a / (a + b)
            B[i, j] = 0.0
    for p in range(k):
        beta = c / values[p] if values[p] > 0.0 else -values[p] / c
        for i in range(k):
            for j in range(k):
                B[i, j] += beta * Q[p, i] * Q[p, j]
    return True


@lent
def times_derivative(C: Cones, v, out):
    """out = D v."""
    for c in range(C.kind.size):
        kind, first, size, at = C.kind[c], C.start[c], C.size[c], C.store_at[c]
        stop = first + size
        if kind <= NONNEGATIVE:
            for i in range(first, stop):
                out[i] = C.lam[i] * v[i]
        elif kind == SECOND_ORDER:
            along = 0.0
            for i in range(first + 1, stop):
                along += C.lam[i] * v[i]
            middle = C.store[at + 3]
            a, b = 0.5 * C.store[at + 1] * (v[first] + along), 0.5 * C.store[at + 2] * (v[first] - along)
            out[first] = a + b
            for i in range(first + 1, stop):
                out[i] = C.lam[i] * (a - b - middle * along) + middle * v[i]
        elif kind == SEMIDEFINITE:
            k = C.order[c]
            own = C.store[at : at + 2 * k * k].reshape((2, k, k))
            X, Y = C.room[: k * k].reshape((k, k)), C.room[k * k : 2 * k * k].reshape((k, k))
            semidefinite.unpack(v[first:stop], X)
            semidefinite.multiply(own[0], X, Y)
            semidefinite.multiply_transposed(Y, own[0], X)
            for i in range(k):
                for j in range(k):
                    X[i, j] *= own[1, i, j]
            semidefinite.pack(X, out[first:stop])
            semidefinite.congruence_transposed(own[0], out[first:stop], out[first:stop], X, Y)
        else:
            _times_three(C.store[at : at + 9], v[first:stop], out[first:stop])


@inner
def _times_three(matrix, v, out):
    for i in range(3):
        out[i] = matrix[3 * i] * v[0] + matrix[3 * i + 1] * v[1] + matrix[3 * i + 2] * v[2]


@lent
def times_T(C: Cones, place, v, out):
    """out = (I - D + rho D)^-1 v in the rows with ``place`` -1, which are eliminated by hand, 0 elsewhere."""
    for c in range(C.kind.size):
        kind, first, at = C.kind[c], C.start[c], C.store_at[c] + 18
        stop = first + C.size[c]
        if kind == NONNEGATIVE:
            for i in range(first, stop):
                out[i] = v[i] / (1.0 - C.lam[i] + _RHO * C.lam[i]) if place[i] < 0 else 0.0
        elif kind < EXPONENTIAL:
            for i in range(first, stop):
                out[i] = 0.0
        else:
            _times_three(C.store[at : at + 9], v[first:stop], out[first:stop])


@lent
def project(C: Cones, u, z, s):
    """z and s become the projections of u onto K* and of -u onto K.

    Returns the least and the largest spectral value of u, but for the zero cone: where the least is nothing beside the
    largest, u is at a kink.
    """
    least, most = np.inf, 0.0
    for c in range(C.kind.size):
        kind, first = C.kind[c], C.start[c]
        stop = first + C.size[c]
        if kind == ZERO:
            for i in range(first, stop):
                z[i], s[i] = u[i], 0.0
        elif kind == NONNEGATIVE:
            for i in range(first, stop):
                z[i], s[i] = max(u[i], 0.0), max(-u[i], 0.0)
                least, most = min(least, abs(u[i])), max(most, abs(u[i]))
        elif kind == SECOND_ORDER:
            square = 0.0
            for i in range(first + 1, stop):
                square += u[i] * u[i]
            length = np.sqrt(square)
            plus, minus = u[first] + length, u[first] - length
            least, most = min(least, min(abs(plus), abs(minus))), max(most, max(abs(plus), abs(minus)))
            for i in range(first, stop):
                z[i], s[i] = u[i] if minus >= 0.0 else 0.0, -u[i] if plus <= 0.0 else 0.0
            if plus > 0.0 and minus < 0.0:
                z[first], s[first] = 0.5 * plus, -0.5 * minus
                for i in range(first + 1, stop):
                    z[i], s[i] = 0.5 * plus * (u[i] / length), 0.5 * minus * (u[i] / length)
        elif kind == SEMIDEFINITE:
            k = C.order[c]
            room = C.room[: 3 * k * k].reshape((3, k, k))
            low, high = semidefinite.split(u[first:stop], z[first:stop], s[first:stop], room)
            least, most = min(least, low), max(most, high)
        else:
            alpha, zc, sc = -1.0 if kind == EXPONENTIAL else C.alpha[c], z[first:stop], s[first:stop]
            three_dimensional.project(alpha, u[first:stop], zc, sc)
            dual, primal = three_dimensional.depths(alpha, zc, sc)
            least = min(least, min(max(dual, three_dimensional.length(sc)), max(primal, three_dimensional.length(zc))))
            most = max(most, max(three_dimensional.length(sc), three_dimensional.length(zc)))
    return least, most
