"""The projection onto the duals of the exponential and the power cone, and its derivative, inside kernels.

As in `cvxlayers.sets`; alpha < 0 stands for the exponential cone.
"""

from __future__ import annotations

import math

import numpy as np

from cvxlayers.compiled.compiler import inner, lent
from cvxlayers.compiled.linear_algebra import jacobi_rotation

_NOISE = 16.0 * 2.220446049250313e-16
_STEPS = 60
_TINY = 1e-45  # entries below this, relative to the largest, are nothing


@inner
def _contains(alpha, x, y, z, a, b):
    """Whether a point is in the primal cone."""
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
def depths(alpha, z, s):
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
def length(v):
    return math.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2])


@inner
def _margin(a, b):
    return abs(a - b) / (a + b) if a + b > 0.0 else 0.0


@lent
def decompose(alpha, z, s, ratio, rho, store):
    """D, G with G'G = D (I - D + rho D)^-1 and T = (I - D + rho D)^-1 to store[0:27]; how clear-cut D is."""
    _derivative(alpha, z, s, store)
    A = (store[0], store[1], store[2], store[4], store[5], store[8])
    eigenvectors = store[9:18]
    values = _eigen_three(A, eigenvectors)
    for i in range(9):
        store[18 + i] = 0.0
    for k in range(3):
        lam = values[k]
        lam = 0.0 if lam < _NOISE else (1.0 if lam > 1.0 - _NOISE else lam)
        inverse = 1.0 / (1.0 - lam + rho * lam)
        root = math.sqrt(lam * inverse)
        for i in range(3):
            for j in range(3):
                store[18 + 3 * i + j] += inverse * eigenvectors[3 * k + i] * eigenvectors[3 * k + j]
        for i in range(3):
            eigenvectors[3 * k + i] *= root
    dual, primal = depths(alpha, z, s)
    return min(_margin(ratio * dual, length(s)), _margin(ratio * length(z), primal))


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
            t, cosine, sine = jacobi_rotation(a, d, b)
            a, d, b = a - t * b, d + t * b, 0.0
            c, e = cosine * c - sine * e, sine * c + cosine * e
            _turn_rows(V[0:3], V[3:6], cosine, sine)
        if c != 0.0:  # rows 0 and 2
            t, cosine, sine = jacobi_rotation(a, f, c)
            a, f, c = a - t * c, f + t * c, 0.0
            b, e = cosine * b - sine * e, sine * b + cosine * e
            _turn_rows(V[0:3], V[6:9], cosine, sine)
        if e != 0.0:  # rows 1 and 2
            t, cosine, sine = jacobi_rotation(d, f, e)
            d, f, e = d - t * e, f + t * e, 0.0
            b, c = cosine * b - sine * c, sine * b + cosine * c
            _turn_rows(V[3:6], V[6:9], cosine, sine)
    return a, d, f


@inner
def _turn_rows(v, w, cosine, sine):
    for j in range(3):
        a, b = v[j], w[j]
        v[j] = cosine * a - sine * b
        w[j] = sine * a + cosine * b


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
def project(alpha, u, z, s):
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
