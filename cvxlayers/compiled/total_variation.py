"""The primal-dual iteration for total variation on grids, a whole solve of each sample.

The iteration, its steps and its certificate are those of `cvxlayers.prox.dual`, which has the formulas; here each
iteration is one sweep: the primal step on a few lines of the grid, then the dual step on the lines whose neighbours
these complete, so that the second finds in the cache what the first wrote.

A grid is flat, with ``offsets[a]`` from a sample to its neighbour along axis a, the last axis being contiguous lines of
``m`` samples. ``behind[a, line]`` and ``ahead[a, line]`` are the neighbouring lines, -1 where there is none. The dual
field is kept zero where a sample has no neighbour, so that -D'p needs no case distinction away from the seams of a
periodic grid.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from cvxlayers.compiled.compiler import apart, kernel

_CHUNK = 2048  # samples that are worked on at a time: a few arrays of them fit into the fastest cache


@apart
def _pull(x, p, v, first, last, m, offsets, behind, periodic):
    """v = x - D'p on the lines first <= line < last."""
    lo, hi = first * m, last * m
    for j in range(hi - lo):
        v[j] = x[lo + j]
    for a in range(offsets.size):
        offset = offsets[a]
        seam = min(max(lo, offset), hi)
        here = p[a, lo:seam]
        for j in range(here.size):
            v[j] += here[j]
        here, back, rest = p[a, seam:hi], p[a, max(seam - offset, 0) : max(hi - offset, 0)], v[seam - lo : hi - lo]
        for j in range(here.size):
            rest[j] += here[j] - back[j]
        if periodic:
            if a == offsets.size - 1:
                # The entry before the first of a line is the last of the line before: give it back, take our own.
                for line in range(first, last):
                    i = line * m
                    if i > 0:
                        v[i - lo] += p[a, i - 1]
                    v[i - lo] -= p[a, i + m - 1]
            else:
                for line in range(first, last):
                    source = behind[a, line]
                    if source * m != line * m - offset:
                        for j in range(m):
                            if line * m - offset >= 0:
                                v[line * m - lo + j] += p[a, line * m - offset + j]
                            v[line * m - lo + j] -= p[a, source * m + j]


@apart
def _gradient(z, a, g, first, last, m, offsets, ahead, periodic):
    """g = D_a z on the lines first <= line < last."""
    lo, hi = first * m, last * m
    offset = offsets[a]
    zero = z.dtype.type(0.0)
    stop = max(min(hi, z.size - offset), lo)
    here, next_ = z[lo:stop], z[lo + offset : stop + offset]
    for j in range(here.size):
        g[j] = next_[j] - here[j]
    for j in range(stop - lo, hi - lo):
        g[j] = zero
    if a == offsets.size - 1:
        for line in range(first, last):
            i = (line + 1) * m - 1
            g[i - lo] = z[line * m] - z[i] if periodic else zero
    else:
        for line in range(first, last):
            source = ahead[a, line]
            if source * m != line * m + offset:
                for j in range(m):
                    i = line * m + j
                    g[i - lo] = z[source * m + j] - z[i] if periodic else zero


@apart
def _primal_step(x, y, z, p, v, first, last, m, offsets, behind, periodic, tau, shrink, threshold, over):
    """The proximal step in y, over-relaxed, and the extrapolated z that the dual step reads."""
    _pull(x, p, v, first, last, m, offsets, behind, periodic)
    lo, hi = first * m, last * m
    yc, zc, zero = y[lo:hi], z[lo:hi], y.dtype.type(0.0)
    if threshold > zero:
        for j in range(hi - lo):
            new = (yc[j] + tau * v[j]) * shrink
            new = new - threshold if new > threshold else (new + threshold if new < -threshold else zero)
            zc[j] = new + new - yc[j]
            yc[j] += over * (new - yc[j])
    else:
        for j in range(hi - lo):
            new = (yc[j] + tau * v[j]) * shrink
            zc[j] = new + new - yc[j]
            yc[j] += over * (new - yc[j])


@apart
def _dual_step(z, p, g, size, first, last, m, offsets, ahead, periodic, isotropic, sigma, weight, over):
    """The projected step in p, over-relaxed."""
    lo, hi = first * m, last * m
    for a in range(offsets.size):
        ga, pa = g[a], p[a, lo:hi]
        _gradient(z, a, ga, first, last, m, offsets, ahead, periodic)
        for j in range(hi - lo):
            ga[j] = pa[j] + sigma * ga[j]
    if isotropic:
        for j in range(hi - lo):
            size[j] = g[0, j] * g[0, j]
        for a in range(1, offsets.size):
            ga = g[a]
            for j in range(hi - lo):
                size[j] += ga[j] * ga[j]
        for j in range(hi - lo):
            length = np.sqrt(size[j])
            size[j] = weight / (length if length > weight else weight)
        for a in range(offsets.size):
            ga, pa = g[a], p[a, lo:hi]
            for j in range(hi - lo):
                pa[j] += over * (ga[j] * size[j] - pa[j])
    else:
        for a in range(offsets.size):
            ga, pa = g[a], p[a, lo:hi]
            for j in range(hi - lo):
                new = ga[j]
                new = weight if new > weight else (-weight if new < -weight else new)
                pa[j] += over * (new - pa[j])


@apart
def _project(p, weight, isotropic):
    """The nearest p with every vector in its ball."""
    d, size = p.shape
    for j in range(size):
        if isotropic:
            square = p[0, j] * p[0, j]
            for a in range(1, d):
                square += p[a, j] * p[a, j]
            if square > weight * weight:
                factor = weight / np.sqrt(square)
                for a in range(d):
                    p[a, j] *= factor
        else:
            for a in range(d):
                p[a, j] = min(max(p[a, j], -weight), weight)


@apart
def _certificate(x, y, p, v, g, first, last, m, offsets, behind, ahead, periodic, isotropic, weight, l1, totals):
    """Add the duality gap and the primal value of some lines to ``totals``; every term of the gap is nonnegative."""
    _pull(x, p, v, first, last, m, offsets, behind, periodic)
    lo, hi = first * m, last * m
    for a in range(offsets.size):
        _gradient(y, a, g[a], first, last, m, offsets, ahead, periodic)
    gap, value = 0.0, 0.0
    for j in range(hi - lo):
        square, product = 0.0, 0.0
        for a in range(offsets.size):
            ga, pa = float(g[a, j]), float(p[a, lo + j])
            square += ga * ga
            product += weight * abs(ga) - pa * ga if not isotropic else -pa * ga
            value += weight * abs(ga) if not isotropic else 0.0
        if isotropic:
            product += weight * np.sqrt(square)
            value += weight * np.sqrt(square)
        vj, yj, xj = float(v[j]), float(y[lo + j]), float(x[lo + j])
        s = vj - l1 if vj > l1 else (vj + l1 if vj < -l1 else 0.0)
        gap += max(product, 0.0) + 0.5 * (yj - s) ** 2 + max(l1 * abs(yj) - (vj - s) * yj, 0.0)
        value += 0.5 * (yj - xj) ** 2 + l1 * abs(yj)
    totals[0] += gap
    totals[1] += value


def _solve(
    x, weights, l1s, y, p, gaps, iterations, m, offsets, behind, ahead, periodic, isotropic, settings, start, stop
):
    """Solve the samples start <= i < stop from the dual field p[i]; write y[i], p[i], gaps[i] and iterations[i].

    ``settings``: the relative gap to reach, the most iterations, the first number of iterations between certificates,
    the bound on ||D||^2, over-relaxation, and the lowest step and the time constant of the schedule of steps.
    """
    tol, most, every, bound, relaxation, floor, head = settings
    kind, lines, lag = x.dtype.type, x.shape[1] // m, offsets.max() // m
    chunk = max(1, min(_CHUNK // m, lines))
    v, length = np.empty(chunk * m, x.dtype), np.empty(chunk * m, x.dtype)
    z, g = np.empty(x.shape[1], x.dtype), np.empty((offsets.size, chunk * m), x.dtype)
    totals = np.empty(2)
    for i in range(start, stop):
        xi, yi, pi, weight, l1 = x[i], y[i], p[i], kind(weights[i]), kind(l1s[i])
        k = 0
        _project(pi, weight, isotropic)
        for first in range(0, lines, chunk):
            last = min(first + chunk, lines)
            _pull(xi, pi, v, first, last, m, offsets, behind, periodic)
            for j in range((last - first) * m):
                yi[first * m + j] = v[j] - min(max(v[j], -l1), l1)
        while True:
            totals[:] = 0.0
            for first in range(0, lines, chunk):
                last = min(first + chunk, lines)
                _certificate(
                    xi, yi, pi, v, g, first, last, m, offsets, behind, ahead, periodic, isotropic, weight, l1, totals
                )
            if not totals[0] > tol * totals[1] or k >= most:
                break
            count = int(every) + k // int(every)
            for t in range(count):
                # The last step before a certificate is not relaxed: y is sparse then, and p in its balls.
                over = kind(1.0 if t == count - 1 else relaxation)
                step = floor + head / (k + head)
                tau, shrink, sigma = kind(step), kind(1.0 / (1.0 + step)), kind(1.0 / (bound * step))
                ready = 0
                for first in range(0, lines, chunk):
                    last = min(first + chunk, lines)
                    _primal_step(
                        xi,
                        yi,
                        z,
                        pi,
                        v,
                        first,
                        last,
                        m,
                        offsets,
                        behind,
                        periodic,
                        tau,
                        shrink,
                        tau * l1 * shrink,
                        over,
                    )
                    until = last - lag if last < lines else lines
                    while ready < until:
                        end = min(ready + chunk, until)
                        _dual_step(
                            z, pi, g, length, ready, end, m, offsets, ahead, periodic, isotropic, sigma, weight, over
                        )
                        ready = end
                k += 1
        gaps[i] = totals[0] / totals[1] if totals[1] > 0.0 else totals[0]
        iterations[i] = k


_SIGNATURE = (
    "void({0}[:,::1], f8[::1], f8[::1], {0}[:,::1], {0}[:,:,::1], f8[::1], i8[::1], i8, i8[::1], i8[:,::1], i8[:,::1],"
    " b1, b1, UniTuple(f8, 7), i8, i8)"
)


@lru_cache(maxsize=2)
def solver(precision: str) -> Callable[..., None]:
    """`_solve` for "f8" or "f4", compiled on first use."""
    return kernel(_SIGNATURE.format(precision))(_solve)
