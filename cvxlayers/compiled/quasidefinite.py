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

from cvxlayers.compiled.compiler import apart, inner
from cvxlayers.compiled.linear_algebra import add, add_eight, dot

_PIVOT = 1e-13  # a pivot of the wrong sign or below this is no pivot
_REPLACED = 2e-7  # what takes its place


class Supernodes(NamedTuple):
    """Where everything lies, of S supernodes of a matrix with N columns, in the order of elimination.

    Supernode j has the columns first[j] : first[j + 1], and rows[begin[j] : begin[j + 1]], of which its columns are
    the first ones. Its rows of U start at offset[j] of the values, each as long as its rows. For its row number a
    below its columns, entry b >= a of the product of rows a and b goes to values[base[a] + relative[shift[a] + b]].
    What its rows from number tail[j] on contribute to the last supernode is collected.

    A supernode with inverted[j] has three columns, and comes with a matrix V for its pivots: the block is -(V V')^-1,
    which may be too ill-conditioned to be written down. U is V^-1 there, and V is what is kept.
    """

    first: np.ndarray
    begin: np.ndarray
    rows: np.ndarray
    offset: np.ndarray
    base: np.ndarray
    shift: np.ndarray
    relative: np.ndarray
    tail: np.ndarray
    inverted: np.ndarray


@apart
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


@apart
def _subtract(out, panel, sign, a):
    """out -= sum over k of sign_k panel[k, a] panel[k, a:]."""
    width, length = panel.shape
    for block in range(width >> 3):
        _subtract_eight(out, panel, sign, block << 3, a)
    for k in range(width & ~7, width):
        if panel[k, a] != 0.0:
            add(out, -sign[k] * panel[k, a], panel[k, a:length])


@apart
def _wide(S, j, sign, values, room):
    """Factor a supernode of several columns, and subtract what it contributes from the others."""
    start, begin, offset = S.first[j], S.begin[j], S.offset[j]
    width, length = S.first[j + 1] - start, S.begin[j + 1] - begin
    panel = values[offset : offset + width * length].reshape((width, length))
    signs = sign[start : start + width]
    replaced = _columns(panel, width, signs)
    for a in range(width, length):
        base, shift = S.base[begin + a], S.shift[begin + a]
        left = length - a
        if S.relative[shift + length - 1] - S.relative[shift + a] == left - 1:  # neighbours there as here
            first = base + S.relative[shift + a]
            _subtract(values[first : first + left], panel, signs, a)
        else:
            part = room[:left]
            for b in range(left):
                part[b] = 0.0
            _subtract(part, panel, signs, a)
            for b in range(left):
                values[base + S.relative[shift + a + b]] += part[b]
    return replaced


@inner
def _narrow(S, begin, offset, length, tail, weight, values):
    """Subtract what one row of U contributes, but for its collected tail."""
    for a in range(1, tail):
        factor = weight * values[offset + a]
        if factor != 0.0:
            base, shift = S.base[begin + a], S.shift[begin + a]
            for b in range(a, length):
                values[base + S.relative[shift + b]] -= factor * values[offset + b]


@inner
def _collect(S, begin, offset, length, tail, first, values, rows, count):
    """Row ``count`` of ``rows`` becomes the tail of a row of U."""
    size = rows.shape[1]
    for k in range(size):
        rows[count, k] = 0.0
    for b in range(tail, length):
        rows[count, S.rows[begin + b] - first] = values[offset + b]


@apart
def _flush(rows, weights, count, panel):
    """panel -= sum over k < count of weights_k rows_k' rows_k, its upper triangle."""
    size = panel.shape[0]
    for k in range(count, 8):
        weights[k] = 0.0
        for i in range(size):
            rows[k, i] = 0.0
    for i in range(size):
        _subtract_eight(panel[i, i:size], rows, weights, 0, i)


@apart
def factor(S, sign, values, room, rows, weights):
    """Factor the matrix held in ``values``, in place; how many pivots were replaced.

    ``room`` (N), ``rows`` (8, width of the last supernode) and ``weights`` (8) are room to work in.
    """
    replaced, count, last = 0, 0, S.first.size - 2
    root = S.first[last]
    end = values[S.offset[last] : S.offset[last + 1]].reshape((rows.shape[1], rows.shape[1]))
    for j in range(last):
        start, begin, offset = S.first[j], S.begin[j], S.offset[j]
        length, tail = S.begin[j + 1] - begin, S.tail[j]
        if S.inverted[j]:
            # -V'A beside V, in the place of A; an entry that is alone in its row of A often stays so.
            second, third = offset + length, offset + 2 * length
            for b in range(3, length):
                a0, a1, a2 = values[offset + b], values[second + b], values[third + b]
                for k in range(3):
                    value = values[offset + k] * a0 + values[second + k] * a1 + values[third + k] * a2
                    if k == 0:
                        values[offset + b] = -value
                    elif k == 1:
                        values[second + b] = -value
                    else:
                        values[third + b] = -value
            for k in range(3):
                at = offset + k * length
                for a in range(3, tail):
                    factor = values[at + a]
                    if factor != 0.0:
                        base, shift = S.base[begin + a], S.shift[begin + a]
                        for b in range(a, length):
                            values[base + S.relative[shift + b]] += factor * values[at + b]
                if tail < length:
                    some = 0.0
                    for b in range(tail, length):
                        some += abs(values[at + b])
                    if some > 0.0:
                        _collect(S, begin, at, length, tail, root, values, rows, count)
                        weights[count] = -1.0
                        count += 1
                        if count == 8:
                            _flush(rows, weights, count, end)
                            count = 0
        elif S.first[j + 1] - start == 1:
            own = sign[start]
            pivot = values[offset] * own
            if not pivot > _PIVOT:
                pivot = _REPLACED
                replaced += 1
            scale = 1.0 / np.sqrt(pivot)
            values[offset] = scale
            scale *= own
            for k in range(offset + 1, offset + length):
                values[k] *= scale
            _narrow(S, begin, offset, length, tail, own, values)
            if tail < length:
                _collect(S, begin, offset, length, tail, root, values, rows, count)
                weights[count] = own
                count += 1
                if count == 8:
                    _flush(rows, weights, count, end)
                    count = 0
        else:
            replaced += _wide(S, j, sign, values, room)
    if count:
        _flush(rows, weights, count, end)
    return replaced + _columns(end, end.shape[0], sign[root:])


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


@apart
def solve(S, sign, values, v, room):
    """v becomes the solution for the right-hand side v, both in the order of elimination. ``room`` (N)."""
    count = S.first.size - 1
    for j in range(count):
        start, begin, offset = S.first[j], S.begin[j], S.offset[j]
        width, length = S.first[j + 1] - start, S.begin[j + 1] - begin
        if width == 1:
            value = v[start] * values[offset]
            v[start] = value * sign[start]
            for a in range(1, length):
                v[S.rows[begin + a]] -= value * values[offset + a]
        elif S.inverted[j]:
            second, third = offset + length, offset + 2 * length
            v0, v1, v2 = v[start], v[start + 1], v[start + 2]
            y0 = values[offset] * v0 + values[second] * v1 + values[third] * v2
            y1 = values[offset + 1] * v0 + values[second + 1] * v1 + values[third + 1] * v2
            y2 = values[offset + 2] * v0 + values[second + 2] * v1 + values[third + 2] * v2
            v[start], v[start + 1], v[start + 2] = -y0, -y1, -y2
            for a in range(3, length):
                v[S.rows[begin + a]] -= y0 * values[offset + a] + y1 * values[second + a] + y2 * values[third + a]
        else:
            _forward(values[offset : offset + width * length].reshape((width, length)), S.rows[begin:], sign, v, room)
    for j in range(count - 1, -1, -1):
        start, begin, offset = S.first[j], S.begin[j], S.offset[j]
        width, length = S.first[j + 1] - start, S.begin[j + 1] - begin
        if width == 1:
            value = v[start]
            for a in range(1, length):
                value -= values[offset + a] * v[S.rows[begin + a]]
            v[start] = value * values[offset]
        elif S.inverted[j]:
            second, third = offset + length, offset + 2 * length
            v0, v1, v2 = v[start], v[start + 1], v[start + 2]
            for a in range(3, length):
                below = v[S.rows[begin + a]]
                v0 -= values[offset + a] * below
                v1 -= values[second + a] * below
                v2 -= values[third + a] * below
            v[start] = values[offset] * v0 + values[offset + 1] * v1 + values[offset + 2] * v2
            v[start + 1] = values[second] * v0 + values[second + 1] * v1 + values[second + 2] * v2
            v[start + 2] = values[third] * v0 + values[third + 1] * v1 + values[third + 2] * v2
        else:
            _backward(values[offset : offset + width * length].reshape((width, length)), S.rows[begin:], v, room)
