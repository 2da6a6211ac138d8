"""The projection onto the dual of a product of cones, and its derivative D, inside kernels.

As `cvxlayers.sets` has them: u = z - s with z the projection of u onto K* and s that of -u onto K. The eigenvalues of D
are 0 or 1 where z and s differ by a factor above 1e4, and z/(z + s) where they do not.

D goes where the interior-point method has its scaling: with H = D^-1 - I + rho, the linear system of an iteration is
that of the derivative. In ``lam`` are the eigenvalues of linear rows, and the axis of a second-order cone; in ``store``
eta and the eigenvalues along (1, n), (1, -n) and across; the eigenvectors, the matrix of the elements of D and that of
the scaling; or D, a matrix G with G'G = H^-1 and T = (I - D + rho D)^-1.
"""

from __future__ import annotations

import math

import numpy as np

from cvxlayers.compiled import semidefinite
from cvxlayers.compiled.compiler import inner, lent
from cvxlayers.compiled.cones import EXPONENTIAL, NONNEGATIVE, SECOND_ORDER, SEMIDEFINITE, ZERO, Cones

_SNAP = 1e4
_RHO = 1e-7  # of rows and cones that are eliminated by hand
_CURVED = 1e-6  # of second-order and semidefinite cones: the eigenvalues of H then span twelve orders of magnitude
_NOISE = 16.0 * 2.220446049250313e-16
_STEPS = 60
_TINY = 1e-45  # entries of a three-dimensional vector below this, relative to its largest, are nothing


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
            own = _three_dimensional(
                -1.0 if kind == EXPONENTIAL else C.alpha[c], z[first:stop], s[first:stop], ratio[first],
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


@lent
def symmetric_eigen(X, Q):
    """Rows of Q become the eigenvectors of a symmetric matrix, on whose diagonal the eigenvalues are left (Jacobi)."""
    k = X.shape[0]
    for i in range(k):
        for j in range(k):
            Q[i, j] = 1.0 if i == j else 0.0
    size = 0.0
    for i in range(k):
        for j in range(k):
            size = max(size, abs(X[i, j]))
    for _ in range(30):
        turned = False
        for p in range(k - 1):
            for q in range(p + 1, k):
                value = X[p, q]
                if abs(value) <= 1e-17 * size:
                    continue
                turned = turned or abs(value) > 1e-9 * size
                theta = 0.5 * (X[q, q] - X[p, p]) / value
                t = 1.0 / (abs(theta) + np.sqrt(1.0 + theta * theta))
                if theta < 0.0:
                    t = -t
                cosine = 1.0 / np.sqrt(1.0 + t * t)
                sine = t * cosine
                for j in range(k):
                    a, b = X[p, j], X[q, j]
                    X[p, j] = cosine * a - sine * b
                    X[q, j] = sine * a + cosine * b
                for j in range(k):
                    a, b = Q[p, j], Q[q, j]
                    Q[p, j] = cosine * a - sine * b
                    Q[q, j] = sine * a + cosine * b
                for i in range(k):
                    a, b = X[i, p], X[i, q]
                    X[i, p] = cosine * a - sine * b
                    X[i, q] = sine * a + cosine * b
        if not turned:
            break


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
    symmetric_eigen(X, own[0])
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
    least = np.inf
    for i in range(k):
        least = min(least, abs(values[i]))
    if not least > 0.0:
        return False
    c = np.sqrt(_CURVED) * least
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


@inner
def _contains(alpha, x, y, z, a, b):
    """Whether a point is in the primal cone; alpha < 0 stands for the exponential one."""
    if alpha < 0.0:
        if y > 0.0 and z > 0.0:
            return x <= y * math.log(z / y)
        return x <= 0.0 and y == 0.0 and z >= 0.0
    return x >= 0.0 and y >= 0.0 and (x / a) ** alpha * (y / b) ** (1.0 - alpha) >= abs(z)


@inner
def _dual_contains(alpha, x, y, z):
    """Whether a point is in the dual cone."""
    if alpha < 0.0:
        if x < 0.0 and z > 0.0:
            return y >= x * (1.0 + math.log(z / -x))
        return x == 0.0 and y >= 0.0 and z >= 0.0
    return _contains(alpha, x, y, z, alpha, 1.0 - alpha)


@inner
def _depths(alpha, z, s):
    """How far z is inside K*, and s inside K, as `cvxlayers.sets` measures it for the margin."""
    if alpha < 0.0:
        dual = primal = 0.0
        if z[0] < 0.0 and z[2] > 0.0:
            dual = max(min(min(-z[0], z[2]), z[1] - z[0] * (1.0 + math.log(z[2] / -z[0]))), 0.0)
        if s[1] > 0.0 and s[2] > 0.0:
            primal = max(min(min(s[1], s[2]), s[1] * math.log(s[2] / s[1]) - s[0]), 0.0)
        return dual, primal
    a, b = max(z[0], 0.0) / alpha, max(z[1], 0.0) / (1.0 - alpha)
    dual = max(a**alpha * b ** (1.0 - alpha) - abs(z[2]), 0.0)
    return dual, max(max(s[0], 0.0) ** alpha * max(s[1], 0.0) ** (1.0 - alpha) - abs(s[2]), 0.0)


@inner
def _length(v):
    return math.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2])


@inner
def _margin(depth, length):
    return abs(depth - length) / (depth + length) if depth + length > 0.0 else 0.0


@lent
def _three_dimensional(alpha, z, s, ratio, store):
    """D, G and T of an exponential or a power cone; its margin."""
    _derivative(alpha, z, s, store)
    A = (store[0], store[1], store[2], store[4], store[5], store[8])
    eigenvectors = store[9:18]
    values = _eigen_three(A, eigenvectors)
    for i in range(9):
        store[18 + i] = 0.0
    for k in range(3):
        lam = values[k]
        lam = 0.0 if lam < _NOISE else (1.0 if lam > 1.0 - _NOISE else lam)
        inverse = 1.0 / (1.0 - lam + _RHO * lam)
        root = math.sqrt(lam * inverse)
        for i in range(3):
            for j in range(3):
                store[18 + 3 * i + j] += inverse * eigenvectors[3 * k + i] * eigenvectors[3 * k + j]
        for i in range(3):
            eigenvectors[3 * k + i] *= root
    dual, primal = _depths(alpha, z, s)
    return min(_margin(ratio * dual, _length(s)), _margin(ratio * _length(z), primal))


@inner
def _eigen_three(A, V):
    """Eigenvalues of the symmetric matrix with entries 11, 12, 13, 22, 23, 33, and rows of eigenvectors to V."""
    a, b, c, d, e, f = A
    for i in range(9):
        V[i] = 1.0 if i % 4 == 0 else 0.0
    for _ in range(12):
        if abs(b) + abs(c) + abs(e) <= 1e-300:
            break
        if b != 0.0:  # rows 0 and 1
            t, cosine, sine = _turn(a, d, b)
            a, d, b = a - t * b, d + t * b, 0.0
            c, e = cosine * c - sine * e, sine * c + cosine * e
            _turn_rows(V, 0, 3, cosine, sine)
        if c != 0.0:  # rows 0 and 2
            t, cosine, sine = _turn(a, f, c)
            a, f, c = a - t * c, f + t * c, 0.0
            b, e = cosine * b - sine * e, sine * b + cosine * e
            _turn_rows(V, 0, 6, cosine, sine)
        if e != 0.0:  # rows 1 and 2
            t, cosine, sine = _turn(d, f, e)
            d, f, e = d - t * e, f + t * e, 0.0
            b, c = cosine * b - sine * c, sine * b + cosine * c
            _turn_rows(V, 3, 6, cosine, sine)
    return a, d, f


@inner
def _turn(first, second, off):
    theta = 0.5 * (second - first) / off
    t = 1.0 / (abs(theta) + math.sqrt(1.0 + theta * theta))
    t = -t if theta < 0.0 else t
    cosine = 1.0 / math.sqrt(1.0 + t * t)
    return t, cosine, t * cosine


@inner
def _turn_rows(V, p, q, cosine, sine):
    for j in range(3):
        a, b = V[p + j], V[q + j]
        V[p + j] = cosine * a - sine * b
        V[q + j] = sine * a + cosine * b


@inner
def _add_outer(D, weight, a0, a1, a2):
    D[0] += weight * a0 * a0
    D[1] += weight * a0 * a1
    D[2] += weight * a0 * a2
    D[4] += weight * a1 * a1
    D[5] += weight * a1 * a2
    D[8] += weight * a2 * a2


@inner
def _derivative(alpha, z, s, D):
    """D[0:9] as in `cvxlayers.sets.three_dimensional`: I - B + B z z'B/(z'B z), B = I but for one direction."""
    for i in range(9):
        D[i] = 0.0
    u0, u1, u2 = z[0] - s[0], z[1] - s[1], z[2] - s[2]
    inside, outside = _dual_contains(alpha, u0, u1, u2), _contains(alpha, -u0, -u1, -u2, 1.0, 1.0)
    if inside or outside:
        D[0] = D[4] = D[8] = (0.5 if outside else 1.0) if inside else 0.0
        return
    x, y = s[0] if alpha < 0.0 else max(s[0], 0.0), max(s[1], 0.0)
    r = math.sqrt(x * x + y * y)
    if alpha < 0.0:
        p = max(-z[0], 0.0)
        cosine, sine = (y / r, x / r) if r > 0.0 else (0.0, -1.0)
        bent = y * cosine * cosine
        beta = bent / (bent + p) if bent + p > 0.0 else bent
        za, zb = cosine * z[0] - sine * z[1], cosine * z[0] if r > 0.0 else p
    elif x > 0.0 and y > 0.0:
        product = abs(z[2] * s[2])
        cosine, sine = y / r, x / r
        bent = x * cosine * y * sine
        beta = bent / (bent + alpha * (1.0 - alpha) * product)
        za, zb = cosine * z[0] - sine * z[1], product / r
    else:
        along, across, power = (y, z[0], 1.0 - alpha) if y > 0.0 else (x, z[1], alpha)
        D[0], D[4] = 0.0 if x > 0.0 else 1.0, 0.0 if y > 0.0 else 1.0
        D[8] = 1.0 if power < 0.5 else (0.0 if power > 0.5 else 2.0 * across / max(along + 2.0 * across, 1e-300))
        return
    scale = 1.0 / max(abs(za) + abs(zb) + abs(z[2]), 1e-300)
    za, zb, zc = scale * za, scale * zb, scale * z[2]
    total = beta * za * za + zb * zb + zc * zc
    _add_outer(D, 1.0 - beta, cosine, -sine, 0.0)
    if total > 0.0:
        _add_outer(D, 1.0 / total, cosine * beta * za + sine * zb, cosine * zb - sine * beta * za, zc)
    D[3], D[6], D[7] = D[1], D[2], D[5]


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
            a, b, d = v[first], v[first + 1], v[first + 2]
            for i in range(3):
                out[first + i] = C.store[at + 3 * i] * a + C.store[at + 3 * i + 1] * b + C.store[at + 3 * i + 2] * d


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
            a, b, d = v[first], v[first + 1], v[first + 2]
            for i in range(3):
                out[first + i] = C.store[at + 3 * i] * a + C.store[at + 3 * i + 1] * b + C.store[at + 3 * i + 2] * d


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
            X, Q, Z = C.room[: 3 * k * k].reshape((3, k, k))
            semidefinite.unpack(u[first:stop], X)
            symmetric_eigen(X, Q)
            for i in range(k):
                for j in range(k):
                    Z[i, j] = 0.0
            for p in range(k):
                value = X[p, p]
                least, most = min(least, abs(value)), max(most, abs(value))
                if value > 0.0:
                    for i in range(k):
                        factor = value * Q[p, i]
                        for j in range(k):
                            Z[i, j] += factor * Q[p, j]
            semidefinite.pack(Z, z[first:stop])
            for i in range(k):
                for j in range(k):
                    Z[i, j] = 0.0
            for p in range(k):
                if X[p, p] < 0.0:
                    for i in range(k):
                        factor = -X[p, p] * Q[p, i]
                        for j in range(k):
                            Z[i, j] += factor * Q[p, j]
            semidefinite.pack(Z, s[first:stop])
        else:
            alpha, zc, sc = -1.0 if kind == EXPONENTIAL else C.alpha[c], z[first:stop], s[first:stop]
            _project_three(alpha, u[first:stop], zc, sc)
            dual, primal = _depths(alpha, zc, sc)
            least = min(least, min(max(dual, _length(sc)), max(primal, _length(zc))))
            most = max(most, max(_length(sc), _length(zc)))
    return least, most


@lent
def _project_three(alpha, u, z, s):
    """The pair of a three-dimensional cone; (z, s) is where the search starts."""
    scale = max(abs(u[0]), max(abs(u[1]), abs(u[2])))
    inside, outside = _dual_contains(alpha, u[0], u[1], u[2]), _contains(alpha, -u[0], -u[1], -u[2], 1.0, 1.0)
    if inside or outside:
        for i in range(3):
            z[i], s[i] = (u[i], 0.0) if inside else (0.0, -u[i])
            if inside and outside:
                z[i] = s[i] = 0.0
        return
    v0, v1, v2 = -u[0] / scale, -u[1] / scale, -u[2] / scale
    if alpha < 0.0:
        if v0 <= _TINY and v1 <= _TINY:
            s[0], s[1], s[2] = min(-u[0], 0.0), 0.0, max(-u[2], 0.0)
            for i in range(3):
                z[i] = u[i] + s[i]
            return
        _project_exponential(v0 if abs(v0) > _TINY else 0.0, v1, v2, z, s)
    else:
        if abs(v2) <= _TINY:
            s[0], s[1], s[2] = max(-u[0], 0.0), max(-u[1], 0.0), 0.0
            for i in range(3):
                z[i] = u[i] + s[i]
            return
        _project_power(alpha, v0, v1, v2, z, s)
    for i in range(3):
        z[i] *= scale
        s[i] *= scale


@inner
def _positive_root(c, A):
    """x > 0 and y = x - c > 0 with x y = A, each to full relative accuracy, and x + y."""
    total = math.sqrt(c * c + 4.0 * A)
    large = 0.5 * (abs(c) + total)
    small = A / large if large > 0.0 else 0.0
    return (large, small, total) if c > 0.0 else (small, large, total)


@inner
def _exponential_point(t, v0, v1, v2):
    """The equation of `cvxlayers.sets.exponential` for mu = 0 and its slope; y, theta, rho, z and its gap."""
    e = math.exp(t)
    x = abs(v0)
    bound = abs(v1) / x if x > 0.0 else 0.0
    if v0 >= 0.0:
        down = v1 < 0.0
        start = 1.0 + bound if down else 1.0
        k, dk = (bound if down else 0.0) + start * e, start * e
        m = x * start * e if down else v1 + v0 * e
    else:
        k, dk = bound * e / (1.0 + e), bound * e / ((1.0 + e) * (1.0 + e))
        m = abs(v1) / (1.0 + e)
    rho = (v0 * (1.0 + k) - k * v1) / m
    quadratic = 1.0 + k + k * k
    y = m / quadratic
    theta = k * y
    z, gap, total = _positive_root(v2, theta * y)
    z = max(z, 1e-308)
    dy = (dk * v0 - y * (1.0 + 2.0 * k) * dk) / quadratic
    dtheta = k * dy + y * dk
    drho = -(dtheta + rho * dy) / y
    return math.log(z / y) - rho, (dtheta * y + theta * dy) / (total * z) - drho - dy / y, y, theta, rho, z, gap


@inner
def _newton(t, low, high, last, value, slope):
    """The next point of the search for a root (`cvxlayers.sets.root`): t, the bracket, and whether that is all."""
    low, high = (t, high) if value <= 0.0 else (low, high)
    low, high = (low, t) if value >= 0.0 else (low, high)
    size = abs(value)
    step = -math.copysign(1.0, value) * math.log1p(size) * (1.0 + size) / slope
    if value == 0.0 or abs(step) <= 4.5e-16 * abs(t):
        return t, low, high, 0.0, True
    new = t + step
    if not (low <= new and new <= high and abs(step) <= 0.5 * last):
        new = 0.5 * (low + high)
    return new, low, high, abs(new - t), False


@inner
def _project_exponential(v0, v1, v2, z, s):
    k = -z[0] / s[1] if z[0] < 0.0 and s[1] > 0.0 else 1.0  # theta/y of the point to start from
    bound = abs(v1) / abs(v0) if v0 != 0.0 else 0.0
    if v0 >= 0.0:
        e = (k - bound) / (1.0 + bound) if v1 < 0.0 else k
    else:
        e = k / (bound - k)
    t = math.log(e) if e > 0.0 and math.isfinite(e) else 0.0
    t = min(max(t, -50.0), 50.0)
    low, high, last = -60.0, 60.0, 120.0
    best, least = t, np.inf
    for _ in range(_STEPS):
        value, slope, _, _, _, _, _ = _exponential_point(t, v0, v1, v2)
        if abs(value) < least:
            best, least = t, abs(value)
        t, low, high, last, done = _newton(t, low, high, last, value, slope)
        if done:
            break
    _, _, y, theta, rho, height, gap = _exponential_point(best, v0, v1, v2)
    z[0], z[1], z[2] = -theta, y - v1 if v1 < 0.0 else theta * (rho - 1.0), gap
    s[0], s[1], s[2] = rho * y, y, height


@inner
def _power_point(alpha, t, v0, v1, size):
    """The equation of `cvxlayers.sets.power` for mu = 0 and its slope; x, p, y, q and the two shares of |v_z|."""
    beta = 1.0 - alpha
    e = math.exp(t)
    low, high = 1.0 / (1.0 + e), e / (1.0 + e)
    product = size * low * size * high
    dproduct = product * (low - high)
    x, p, x_total = _positive_root(v0, alpha * product)
    y, q, y_total = _positive_root(v1, beta * product)
    x_safe, y_safe = max(x, 1e-308), max(y, 1e-308)
    slope = dproduct * (alpha * alpha / (x_total * x_safe) + beta * beta / (y_total * y_safe)) + high
    value = alpha * math.log(x_safe) + beta * math.log(y_safe) - math.log(size) + math.log1p(e)
    return value, slope, x, p, y, q, low, high


@inner
def _project_power(alpha, v0, v1, v2, z, s):
    size = abs(v2)
    e = -z[2] / s[2] if s[2] != 0.0 else 1.0  # the shares of v_z at the point to start from
    t = math.log(e) if e > 0.0 and math.isfinite(e) else 0.0
    t = min(max(t, -50.0), 50.0)
    low, high, last = -318.0, 318.0, 636.0
    best, least = t, np.inf
    for _ in range(_STEPS):
        value, slope, _, _, _, _, _, _ = _power_point(alpha, t, v0, v1, size)
        if abs(value) < least:
            best, least = t, abs(value)
        t, low, high, last, done = _newton(t, low, high, last, value, slope)
        if done:
            break
    _, _, x, p, y, q, own, other = _power_point(alpha, best, v0, v1, size)
    z[0], z[1], z[2] = p, q, -v2 * other
    s[0], s[1], s[2] = x, y, v2 * own
