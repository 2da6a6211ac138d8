"""The exponential and power cones inside the interior-point method: barriers, scaling, corrector.

Both dual cones have the barrier f*(z) = -log zeta(z) - sum of c_i log |z_i|:

- exponential: zeta = z2 - z1 - z1 log(z3/-z1), c = (1, 0, 1)
- power: zeta = (z1/a)^(2a) (z2/b)^(2b) - z3^2, c = (b, a, 0), b = 1 - a

and f is its conjugate barrier. The scaling is the symmetric matrix with H z = s and H (-grad f(s)) = -grad f*(z) that
is nearest to mu Hess f*(z) in the sense of a rank-three update: Dahl and Andersen, "A primal-dual interior-point
algorithm for nonsymmetric exponential-cone optimization", doi 10.1007/s10107-021-01631-4; Tuncel, doi
10.1007/s002080100192.
"""

from __future__ import annotations

import math

from cvxlayers.compiled.compiler import inner, lent

EXPONENTIAL_CENTER = (-1.051383945322714, 0.556409619469370, 1.258967884768947)  # s = z = -grad f*(z)

_NEWTON = 30
_CENTRAL = 1e-8  # mu times its shadow differs from one by less than this: the point counts as central
_NOISE = 1e-13  # 1e3 roundings of zeta's terms


@inner
def dual_zeta(exponential, a, x, y, z):
    """zeta at a point, not positive outside the dual cone; NaN or negative where the logarithms are not defined."""
    if exponential:
        return y - x - x * math.log(z / -x) if x < 0.0 and z > 0.0 else -1.0
    if not (x > 0.0 and y > 0.0):
        return -1.0
    return math.exp(2.0 * (a * math.log(x / a) + (1.0 - a) * math.log(y / (1.0 - a)))) - z * z


@inner
def primal_zeta(exponential, a, x, y, z):
    """Positive inside the primal cone only."""
    if exponential:
        return y * math.log(z / y) - x if y > 0.0 and z > 0.0 else -1.0
    if not (x > 0.0 and y > 0.0):
        return -1.0
    return math.exp(2.0 * (a * math.log(x) + (1.0 - a) * math.log(y))) - z * z


@inner
def derivatives(exponential, a, x, y, z):
    """zeta, its gradient and the six entries 11, 12, 13, 22, 23, 33 of its second derivative."""
    if exponential:
        ratio = math.log(z / -x)
        zeta = y - x - x * ratio
        return zeta, (-ratio, 1.0, -x / z), (1.0 / x, 0.0, -1.0 / z, 0.0, 0.0, x / (z * z))
    b = 1.0 - a
    phi = math.exp(2.0 * (a * math.log(x / a) + b * math.log(y / b)))
    px, py = 2.0 * a * phi / x, 2.0 * b * phi / y
    second = ((2.0 * a - 1.0) * px / x, 2.0 * b * px / y, 0.0, (2.0 * b - 1.0) * py / y, 0.0, -2.0)
    return phi - z * z, (px, py, -2.0 * z), second


@inner
def third(exponential, a, x, y, z, u, v):
    """The third derivative of zeta applied to u and v."""
    if exponential:
        cross = 1.0 / (z * z)
        first = -u[0] * v[0] / (x * x) + cross * u[2] * v[2]
        return first, 0.0, cross * (u[0] * v[2] + u[2] * v[0]) - 2.0 * x * cross / z * u[2] * v[2]
    b = 1.0 - a
    phi = math.exp(2.0 * (a * math.log(x / a) + b * math.log(y / b)))
    xx, yy = 2.0 * a * (2.0 * a - 1.0) * phi / (x * x), 2.0 * b * (2.0 * b - 1.0) * phi / (y * y)
    mixed = u[0] * v[1] + u[1] * v[0]
    first = (2.0 * a - 2.0) * xx / x * u[0] * v[0] + 2.0 * b * xx / y * mixed + 2.0 * a * yy / x * u[1] * v[1]
    second = 2.0 * b * xx / y * u[0] * v[0] + 2.0 * a * yy / x * mixed + (2.0 * b - 2.0) * yy / y * u[1] * v[1]
    return first, second, 0.0


@inner
def weights(exponential, a):
    """c of the barrier."""
    return (1.0, 0.0, 1.0) if exponential else (1.0 - a, a, 0.0)


@lent
def shadow(exponential, a, x, y, z):
    """-grad f(s): the dual point that s is the image of under -grad f*; s = (x, y, z) lies inside."""
    if exponential:
        # With -p = 1/((omega - 1) y): omega + log omega = 1 - x/y - log(y/z), solved for u = omega - 1 > 0.
        target = math.log(z / y) - x / y
        u = target * (0.5 + target * (0.0625 - target * 0.005208333333333333)) if target < 3.0 else target
        if target >= 3.0:
            u = target - math.log(1.0 + target)
        for _ in range(3):  # Newton's method, with the second derivative
            error = target - u - math.log1p(u)
            w = 1.0 + u
            t = (1.0 + w) * (1.0 + w + error / 1.5)
            step = w * error / (1.0 + w) * (t - 0.5 * error) / (t - error)
            u += step
            if abs(step) <= 1e-8 * u:
                break
        p = -1.0 / (u * y)
        r = (1.0 + u) / (u * z)
        return p, 1.0 / y + p * (1.0 + math.log(r / -p)), r
    # With w = -z r >= 0: p = (1 + a + a w)/x, q = (1 + b + b w)/y, and one equation in w, solved in log w.
    b = 1.0 - a
    size = abs(z)
    if size < 1e-150:
        return (1.0 + a) / x, (1.0 + b) / y, 0.0
    constant = 2.0 * (math.log(size) - a * math.log(a * x) - b * math.log(b * y))
    least = 2.0 * a * math.log(1.0 + a) + 2.0 * b * math.log(1.0 + b)
    t = constant + least - math.log(2.0)  # w for small w
    for _ in range(_NEWTON):
        w = math.exp(t)
        value = 2.0 * a * math.log(1.0 + a + a * w) + 2.0 * b * math.log(1.0 + b + b * w) - t - math.log(w + 2.0)
        value += constant
        slope = w * (2.0 * a * a / (1.0 + a + a * w) + 2.0 * b * b / (1.0 + b + b * w) - 1.0 / (w + 2.0)) - 1.0
        step = -value / slope
        t += step
        if abs(step) < 1e-13 * (1.0 + abs(t)):
            break
    w = math.exp(t)
    return (1.0 + a + a * w) / x, (1.0 + b + b * w) / y, -w / z


@inner
def inverse_hessian(exponential, a, x, y, z, zeta):
    """(Hess f*)^-1 at (x, y, z) as entries 11, 12, 13, 22, 23, 33: sums of terms of one sign, exact near the boundary.

    Exponential: Hess f* = g g'/zeta^2 + v v'/(|x| zeta) + diag(1/x^2, 0, 1/z^2) with v = (1, 0, |x|/z). Power: with
    phi = zeta + z^2 and r = (2a/x, 2b/y), eliminating z leaves diag((2a phi/zeta + b)/x^2, (2b phi/zeta + a)/y^2)
    - phi z^2/(zeta (phi + z^2)) r r'.
    """
    if exponential:
        size = -x
        total = zeta + 2.0 * size
        b11, b13 = x * x * (zeta + size) / total, -x * x * z / total
        b33 = z * z * (zeta + size) / total
        g1, g3 = -math.log(z / size), size / z
        q1, q3 = b11 * g1 + b13 * g3, b13 * g1 + b33 * g3
        return b11, -q1, b13, zeta * zeta + g1 * q1 + g3 * q3, -q3, b33
    b = 1.0 - a
    square = z * z
    phi = zeta + square
    part = zeta / phi
    ux, uy = x * x * zeta / (2.0 * a * phi + b * zeta), y * y * zeta / (2.0 * b * phi + a * zeta)  # 1/diagonal
    rx, ry = 2.0 * a / x, 2.0 * b / y
    kappa = phi * square / (zeta * (phi + square))
    # 1 - kappa r'diag(u) r, as a quotient without cancellation
    left = part * (8.0 * a * b + (2.0 - 6.0 * a * b) * part - a * b * part * part)
    left /= (2.0 - part) * (2.0 * a + b * part) * (2.0 * b + a * part)
    factor = kappa / left
    vx, vy = ux * rx, uy * ry
    q11, q12, q22 = ux + factor * vx * vx, factor * vx * vy, uy + factor * vy * vy
    # coupling with z: Hess_3x = -2 z phi r/zeta^2, Hess_33 = 2 (phi + z^2)/zeta^2
    c = z * phi / (phi + square)
    w1, w2 = c * (q11 * rx + q12 * ry), c * (q12 * rx + q22 * ry)
    return q11, q12, w1, q22, w2, zeta * zeta / (2.0 * (phi + square)) + c * (rx * w1 + ry * w2)


@inner
def _dual_of(exponential, a, x, y, z, zeta, v):
    """(Hess f*)^-1 v for v orthogonal to (x, y, z): of order zeta, with nothing cancelling."""
    if exponential:
        size = -x
        g1, g3 = -math.log(z / size), size / z
        u1, u3 = v[0] - g1 * v[1], v[2] - g3 * v[1]
        factor = zeta / (zeta + 2.0 * size)
        first, last = factor * x * x * (u1 + v[1]), factor * z * (z * u3 - size * v[1])
        return first, zeta * zeta * v[1] - g1 * first - g3 * last, last
    b = 1.0 - a
    phi = zeta + z * z
    part = zeta / phi
    d1, d2 = 2.0 * a * phi + b * zeta, 2.0 * b * phi + a * zeta
    bottom = phi * phi * (8.0 * a * b + (2.0 - 6.0 * a * b) * part - a * b * part * part) / (d1 * d2)
    share = b * x * v[0] / d1 + a * y * v[1] / d2 + a * b * z * v[2] * (1.0 / d1 + 1.0 / d2)
    last = (0.5 * v[2] - z * share) / bottom  # over zeta
    t = -z * (0.5 * v[2] + last)
    return (
        zeta * x * x / d1 * (v[0] - 2.0 * a / x * t),
        zeta * y * y / d2 * (v[1] - 2.0 * b / y * t),
        zeta * last,
    )


@inner
def _cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@inner
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@inner
def _symmetric(Q, v):
    """Q v for the entries 11, 12, 13, 22, 23, 33 of Q."""
    first = Q[0] * v[0] + Q[1] * v[1] + Q[2] * v[2]
    second = Q[1] * v[0] + Q[3] * v[1] + Q[4] * v[2]
    return first, second, Q[2] * v[0] + Q[4] * v[1] + Q[5] * v[2]


@inner
def _put(out, v, factor):
    for k in range(3):
        out[k] = v[k] * factor


@lent
def scaling(exponential, a, s_at, z_at, out):
    """Writes h1, h2, h3 (0:9), g1, g2, g3 (9:18), -grad f*(z) (18:21) and (Hess f*(z))^-1 (21:27).

    H = sum of h_k h_k' and H^-1 = sum of g_k g_k' with g_i'h_j = 0 for i != j: neither is found by inverting the other,
    whose condition number is 1/mu^2, nor summed up, which would lose its small eigenvalues. h1 = s/sqrt(s'z). With
    s' = -grad f*(z), z' = -grad f(s), m = s'z/3, Q = (Hess f*(z))^-1: h2 is along d = s - m s' of length one over
    sqrt(d'(z - m z')), and h3 along z x z', where H is m Hess f*. Near the central path, where d is rounding, H is
    m Hess f* altogether: any vector orthogonal to z does for h2, and z x Q h2 for h3.
    """
    s, z = (s_at[0], s_at[1], s_at[2]), (z_at[0], z_at[1], z_at[2])
    zeta, g, _ = derivatives(exponential, a, z[0], z[1], z[2])
    c = weights(exponential, a)
    inverse = 1.0 / zeta
    t0, t1, t2 = g[0] * inverse, g[1] * inverse, g[2] * inverse
    t0 += c[0] / z[0]
    t1 += c[1] / z[1] if c[1] != 0.0 else 0.0
    t2 += c[2] / z[2] if c[2] != 0.0 else 0.0
    t = (t0, t1, t2)
    Q = inverse_hessian(exponential, a, z[0], z[1], z[2], zeta)
    _put(out[18:21], t, 1.0)
    for k in range(6):
        out[21 + k] = Q[k]
    p = shadow(exponential, a, s[0], s[1], s[2])
    sz = _dot(s, z)
    own, own_shadow = sz / 3.0, _dot(t, p) / 3.0
    root = 1.0 / math.sqrt(sz)
    _put(out[0:3], s, root)
    _put(out[9:12], z, root)
    ds = (s[0] - own * t[0], s[1] - own * t[1], s[2] - own * t[2])
    dz = (z[0] - own * p[0], z[1] - own * p[1], z[2] - own * p[2])
    delta = _dot(ds, dz)
    axis, other = _cross(z, p), _cross(s, t)
    along, bend = _dot(axis, other), _dot(axis, _dual_of(exponential, a, z[0], z[1], z[2], zeta, axis))
    noise = _NOISE * (abs(z[0]) + abs(z[1]) + (0.0 if exponential else z[2] * z[2])) * abs(inverse)
    if own * own_shadow - 1.0 > _CENTRAL + noise and delta > 0.0 and bend > 0.0 and along != 0.0:
        root = 1.0 / math.sqrt(delta)
        _put(out[3:6], ds, root)
        _put(out[12:15], dz, root)
        root = math.sqrt(own / bend)
        _put(out[6:9], axis, root)
        _put(out[15:18], other, 1.0 / (root * along))
    else:
        # The unit vector that is least along z, which keeps the cross product away from zero.
        x, y, w = abs(z[0]), abs(z[1]), abs(z[2])
        second = _cross(
            z, (1.0 if x <= y and x <= w else 0.0, 1.0 if y < x and y <= w else 0.0, 1.0 if w < x and w < y else 0.0)
        )
        dual = _dual_of(exponential, a, z[0], z[1], z[2], zeta, second)
        bend = _dot(second, dual)
        root = math.sqrt(own / bend)
        _put(out[3:6], second, root)
        _put(out[12:15], dual, root / own)
        third_one = _cross(z, dual)
        dual = _dual_of(exponential, a, z[0], z[1], z[2], zeta, third_one)
        root = math.sqrt(own / _dot(third_one, dual))
        _put(out[6:9], third_one, root)
        _put(out[15:18], dual, root / own)


@lent
def corrector(exponential, a, z, dz, ds, H):
    """-(1/2) D3 f*(z)[dz, Hess f*(z)^-1 ds], where H[21:27] holds the inverse of Hess f*(z)."""
    v0, v1, v2 = _symmetric((H[21], H[22], H[23], H[24], H[25], H[26]), ds)
    u, v = (dz[0], dz[1], dz[2]), (v0, v1, v2)
    zeta, g, G = derivatives(exponential, a, z[0], z[1], z[2])
    T = third(exponential, a, z[0], z[1], z[2], u, v)
    c = weights(exponential, a)
    i = 1.0 / zeta
    gu = (g[0] * u[0] + g[1] * u[1] + g[2] * u[2]) * i
    gv = (g[0] * v[0] + g[1] * v[1] + g[2] * v[2]) * i
    Gu0 = (G[0] * u[0] + G[1] * u[1] + G[2] * u[2]) * i
    Gu1 = (G[1] * u[0] + G[3] * u[1] + G[4] * u[2]) * i
    Gu2 = (G[2] * u[0] + G[4] * u[1] + G[5] * u[2]) * i
    Gv0 = (G[0] * v[0] + G[1] * v[1] + G[2] * v[2]) * i
    Gv1 = (G[1] * v[0] + G[3] * v[1] + G[4] * v[2]) * i
    Gv2 = (G[2] * v[0] + G[4] * v[1] + G[5] * v[2]) * i
    uGv = u[0] * Gv0 + u[1] * Gv1 + u[2] * Gv2
    along = (uGv - 2.0 * gu * gv) * i
    r0 = along * g[0] + Gu0 * gv + Gv0 * gu - T[0] * i - 2.0 * c[0] * u[0] * v[0] / (z[0] * z[0] * z[0])
    r1 = along * g[1] + Gu1 * gv + Gv1 * gu - T[1] * i
    if c[1] != 0.0:
        r1 -= 2.0 * c[1] * u[1] * v[1] / (z[1] * z[1] * z[1])
    r2 = along * g[2] + Gu2 * gv + Gv2 * gu - T[2] * i
    if c[2] != 0.0:
        r2 -= 2.0 * c[2] * u[2] * v[2] / (z[2] * z[2] * z[2])
    if not math.isfinite(r0 + r1 + r2):
        return 0.0, 0.0, 0.0
    return -0.5 * r0, -0.5 * r1, -0.5 * r2
