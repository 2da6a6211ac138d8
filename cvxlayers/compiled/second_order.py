"""The second-order cone inside the interior-point method: Nesterov-Todd scaling, steps and corrector, in O(size).

With J = diag(1, -1, ..., -1), the scaling is W = eta [w0, w1'; w1, I + w1 w1'/(1 + w0)] and W^2 = eta^2 (2 w w' - J).
Domahidi, Chu, Boyd, "ECOS: An SOCP solver for embedded systems", doi 10.23919/ECC.2013.6669541.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.compiled.compiler import inner


@inner
def depth(v):
    """v0^2 - ||v1||^2 without cancellation where v0 is near ||v1||."""
    square = 0.0
    for i in range(1, v.size):
        square += v[i] * v[i]
    length = np.sqrt(square)
    return (v[0] - length) * (v[0] + length)


@inner
def margin(v):
    """v0 - ||v1||."""
    square = 0.0
    for i in range(1, v.size):
        square += v[i] * v[i]
    return v[0] - np.sqrt(square)


@inner
def scaling(s, z, w, lam):
    """w and eta, and lam = W z = W^-1 s. NaN unless both lie inside."""
    ds, dz = depth(s), depth(z)
    inside = ds > 0.0 and dz > 0.0 and s[0] > 0.0 and z[0] > 0.0
    rs, rz = np.sqrt(ds), np.sqrt(dz)
    product = 0.0
    for i in range(s.size):
        product += s[i] * z[i]
    gamma = np.sqrt(0.5 * (1.0 + product / (rs * rz)))
    half = 0.5 / gamma
    w[0] = half * (s[0] / rs + z[0] / rz)
    square = 0.0
    for i in range(1, s.size):
        w[i] = half * (s[i] / rs - z[i] / rz)
        square += w[i] * w[i]
    w[0] = np.sqrt(1.0 + square)
    eta = np.sqrt(rs / rz)
    times(w, eta, z, lam)
    return eta if inside else np.nan


@inner
def times(w, eta, v, out):
    """out = W v; v may be out."""
    inner_product = 0.0
    for i in range(1, v.size):
        inner_product += w[i] * v[i]
    first = v[0]
    factor = first + inner_product / (1.0 + w[0])
    for i in range(1, v.size):
        out[i] = eta * (v[i] + factor * w[i])
    out[0] = eta * (w[0] * first + inner_product)


@inner
def square_times(w, eta, v, out):
    """out = W^2 v = eta^2 (2 w (w'v) - J v)."""
    product = 0.0
    for i in range(v.size):
        product += w[i] * v[i]
    square = eta * eta
    out[0] = square * (2.0 * w[0] * product - v[0])
    for i in range(1, v.size):
        out[i] = square * (2.0 * w[i] * product + v[i])


@inner
def divide(lam, v, out):
    """out with lam o out = v in the Jordan algebra; v may be out."""
    product = 0.0
    for i in range(1, v.size):
        product += lam[i] * v[i]
    first = (lam[0] * v[0] - product) / depth(lam)
    for i in range(1, v.size):
        out[i] = (v[i] - first * lam[i]) / lam[0]
    out[0] = first


@inner
def longest(v, d):
    """The largest step t with v + t d in the cone, infinity if there is none; v lies inside."""
    a, b, c = d[0] * d[0], v[0] * d[0], depth(v)
    for i in range(1, v.size):
        a -= d[i] * d[i]
        b -= v[i] * d[i]
    t = np.inf
    if d[0] < 0.0:
        t = -v[0] / d[0]
    # The least positive root of c + 2 b t + a t^2.
    discriminant = b * b - a * c
    if a < 0.0 or (b < 0.0 and discriminant > 0.0):
        root = np.sqrt(max(discriminant, 0.0))
        bottom = root - b
        if bottom > 0.0:
            t = min(t, c / bottom)
    return t


@inner
def expansion(w):
    """d, u0, u1, v1 with W^2 = eta^2 (diag(d, 1, ..., 1) + u u' - v v'), u = (u0, u1 w1), v = (0, v1 w1)."""
    size = 2.0 * w[0] * w[0] - 1.0
    d = 0.5 / size
    u0 = np.sqrt(size - d)
    u1 = 2.0 * w[0] / u0
    v1 = np.sqrt(2.0 * (1.0 + d) / (size - d))
    return d, u0, u1, v1
