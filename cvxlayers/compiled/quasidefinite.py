"""Factors of a symmetric quasi-definite matrix on a fixed pattern, in supernodes: U'DU with D of known signs.

Neighbouring columns with nearly the same pattern are one supernode, whose rows of U lie together as a dense panel:
`cvxlayers.conic.supernodes` finds them. Panels are factored in order, and each subtracts what it contributes from the
panels of its rows; what goes to the last panel is collected, eight rows of U at a time. A pivot whose sign is not the
known one, or that is too small, is replaced by a small one of the known sign. Vanderbei, "Symmetric quasidefinite
matrices", doi 10.1137/0805005.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cvxlayers.compiled.compiler import inner, lent
from cvxlayers.compiled.linear_algebra import add, add_eight, dot

_PIVOT = 1e-13  # a pivot of the wrong sign or below this is no pivot
_REPLACED = 2e-7  # what takes its place


class Targets(NamedTuple):
    """As `cvxlayers.conic.supernodes.Targets`."""

    begin: np.ndarray
    rows: np.ndarray
    base: np.ndarray
    shift: np.ndarray
    relative: np.ndarray
    tail: np.ndarray


class Supernodes(NamedTuple):
    """Supernode j has the columns first[j] : first[j + 1], and the rows that ``targets`` lists, its columns first.

    Its rows of U start at offset[j] of the values, each as long as its rows. ``rows`` (8, width of the last one) and
    ``weights`` (8) hold what is collected for the last one, ``room`` is as long as the matrix.
    """

    first: np.ndarray
    offset: np.ndarray
    targets: Targets
    rows: np.ndarray
    weights: np.ndarray
    room: np.ndarray


@lent
def _columns(panel, width, sign):
    """Factor the first ``width`` rows of a panel: its pivots' reciprocals on the diagonal, rows of U beside them."""
    length = panel.shape[1]
    replaced = 0
    start = 0
    while start < width:
        stop = min(start + 8, width)
        for k in range(start, stop):
            row = panel[k, k:length]
            pivot = row[0] * sign[k]
            if not pivot > _PIVOT:
                pivot = _REPLACED
                replaced += 1
            scale = 1.0 / np.sqrt(pivot)
            for j in range(row.size):
                row[j] *= sign[k] * scale
            for i in range(k + 1, stop):
                add(panel[i, i:length], -sign[k] * panel[k, i], panel[k, i:length])
            panel[k, k] = scale
        if stop == start + 8:
            for i in range(stop, width):
                _subtract_eight(panel[i, i:length], panel, sign, start, i)
        start = stop
    return replaced


@inner
def _subtract_eight(out, panel, sign, k, a):
    """out -= sum over eight rows from k on of sign_k panel[k, a] panel[k, a:]."""
    length = panel.shape[1]
    add_eight(
        out,
        (
            -sign[k] * panel[k, a],
            -sign[k + 1] * panel[k + 1, a],
            -sign[k + 2] * panel[k + 2, a],
            -sign[k + 3] * panel[k + 3, a],
            -sign[k + 4] * panel[k + 4, a],
            -sign[k + 5] * panel[k + 5, a],
            -sign[k + 6] * panel[k + 6, a],
            -sign[k + 7] * panel[k + 7, a],
        ),
        panel[k, a:length],
        panel[k + 1, a:length],
        panel[k + 2, a:length],
        panel[k + 3, a:length],
        panel[k + 4, a:length],
        panel[k + 5, a:length],
        panel[k + 6, a:length],
        panel[k + 7, a:length],
    )


@lent
def _subtract(out, panel, sign, a):
    """out -= sum over k of sign_k panel[k, a] panel[k, a:]."""
    width, length = panel.shape
    for block in range(width >> 3):
        _subtract_eight(out, panel, sign, block << 3, a)
    for k in range(width & ~7, width):
        if panel[k, a] != 0.0:
            add(out, -sign[k] * panel[k, a], panel[k, a:length])


@lent
def _wide(S, j, sign, values):
    """Factor a supernode of several columns, and subtract what it contributes from the others."""
    T = S.targets
    start, begin, offset = S.first[j], T.begin[j], S.offset[j]
    width, length = S.first[j + 1] - start, T.begin[j + 1] - begin
    panel = values[offset : offset + width * length].reshape((width, length))
    signs = sign[start : start + width]
    replaced = _columns(panel, width, signs)
    for a in range(width, length):
        base, shift = T.base[begin + a], T.shift[begin + a]
        left = length - a
        if T.relative[shift + length - 1] - T.relative[shift + a] == left - 1:  # neighbours there as here
            first = base + T.relative[shift + a]
            _subtract(values[first : first + left], panel, signs, a)
        else:
            part = S.room[:left]
            for b in range(left):
                part[b] = 0.0
            _subtract(part, panel, signs, a)
            for b in range(left):
                values[base + T.relative[shift + a + b]] += part[b]
    return replaced


@lent
def _flush(S, count, values):
    """Subtract the first ``count`` collected products from the last supernode."""
    size = S.rows.shape[1]
    for k in range(count, 8):
        S.weights[k] = 0.0
        for i in range(size):
            S.rows[k, i] = 0.0
    last = S.first.size - 2
    panel = values[S.offset[last] : S.offset[last + 1]].reshape((size, size))
    for i in range(size):
        _subtract_eight(panel[i, i:size], S.rows, S.weights, np.int64(0), i)


@inner
def subtract_product(S, T, k, skip, weight, vector, at, values, count):
    """Subtract weight v v' for the vector k of T, whose entries are vector[at], vector[at + 1], ...

    The first ``skip`` entries are left out. Returns how many products are collected, ``count`` before.
    """
    begin = T.begin[k]
    length, tail = T.begin[k + 1] - begin, T.tail[k]
    for a in range(skip, tail):
        factor = weight * vector[at + a]
        if factor != 0.0:
            base, shift = T.base[begin + a], T.shift[begin + a]
            for b in range(a, length):
                values[base + T.relative[shift + b]] -= factor * vector[at + b]
    if tail < length:
        size = S.rows.shape[1]
        first = S.room.size - size
        for b in range(size):
            S.rows[count, b] = 0.0
        for b in range(tail, length):
            S.rows[count, T.rows[begin + b] - first] = vector[at + b]
        S.weights[count] = weight
        count += 1
        if count == 8:
            _flush(S, count, values)
            count = 0
    return count


@lent
def factor(S, sign, values, count):
    """Factor the matrix held in ``values``, in place; how many pivots were replaced. ``count`` products are left."""
    T = S.targets
    replaced, last = 0, S.first.size - 2
    for j in range(last):
        start, begin, offset = S.first[j], T.begin[j], S.offset[j]
        if S.first[j + 1] - start > 1:
            replaced += _wide(S, j, sign, values)
            continue
        own = sign[start]
        pivot = values[offset] * own
        if not pivot > _PIVOT:
            pivot = _REPLACED
            replaced += 1
        scale = 1.0 / np.sqrt(pivot)
        values[offset] = scale
        scale *= own
        for k in range(offset + 1, offset + T.begin[j + 1] - begin):
            values[k] *= scale
        count = subtract_product(S, T, j, np.int64(1), own, values, offset, values, count)
    if count:
        _flush(S, count, values)
    size = S.rows.shape[1]
    panel = values[S.offset[last] : S.offset[last + 1]].reshape((size, size))
    return replaced + _columns(panel, size, sign[S.first[last] :])


@inner
def _forward(panel, rows, sign, v, room):
    """The part of U^-T v, and D times it, that a supernode of several columns has."""
    width, length = panel.shape
    part = room[:length]
    start = rows[0]
    for a in range(width):
        part[a] = v[start + a]
    for a in range(width, length):
        part[a] = 0.0
    for k in range(width):
        part[k] *= panel[k, k]
        add(part[k + 1 : length], -part[k], panel[k, k + 1 : length])
        v[start + k] = part[k] * sign[start + k]
    for a in range(width, length):
        v[rows[a]] += part[a]


@inner
def _backward(panel, rows, v, room):
    """The part of U^-1 v that a supernode of several columns has."""
    width, length = panel.shape
    part = room[:length]
    for a in range(length):
        part[a] = v[rows[a]]
    for k in range(width - 1, -1, -1):
        part[k] = (part[k] - dot(panel[k, k + 1 : length], part[k + 1 : length])) * panel[k, k]
        v[rows[k]] = part[k]


@lent
def solve(S, sign, values, v):
    """v becomes the solution for the right-hand side v, both in the order of elimination."""
    T = S.targets
    count = S.first.size - 1
    for j in range(count):
        start, begin, offset = S.first[j], T.begin[j], S.offset[j]
        width, length = S.first[j + 1] - start, T.begin[j + 1] - begin
        if width == 1:
            value = v[start] * values[offset]
            v[start] = value * sign[start]
            for a in range(1, length):
                v[T.rows[begin + a]] -= value * values[offset + a]
        else:
            panel = values[offset : offset + width * length].reshape((width, length))
            _forward(panel, T.rows[begin:], sign, v, S.room)
    for j in range(count - 1, -1, -1):
        start, begin, offset = S.first[j], T.begin[j], S.offset[j]
        width, length = S.first[j + 1] - start, T.begin[j + 1] - begin
        if width == 1:
            value = v[start]
            for a in range(1, length):
                value -= values[offset + a] * v[T.rows[begin + a]]
            v[start] = value * values[offset]
        else:
            panel = values[offset : offset + width * length].reshape((width, length))
            _backward(panel, T.rows[begin:], v, S.room)
