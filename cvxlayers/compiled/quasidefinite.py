"""Factors of a symmetric quasi-definite matrix on a fixed pattern, in supernodes: U'DU with D of known signs.

Neighbouring columns with nearly the same pattern are one supernode, whose rows of U lie together as a dense panel:
`cvxlayers.conic.supernodes` finds them. Panels are factored in order, each subtracts what it contributes from the
panels of its rows. A pivot whose sign is not the known one, or that is too small, is replaced by a small one of the
known sign. Vanderbei, "Symmetric quasidefinite matrices", doi 10.1137/0805005.
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
    A supernode with inverted[j] comes with a square matrix V for its pivots: the block is -(V V')^-1, which may be
    too ill-conditioned to be written down. U is V^-1 there, and V is what is kept.
    """

    first: np.ndarray
    begin: np.ndarray
    rows: np.ndarray
    offset: np.ndarray
    base: np.ndarray
    shift: np.ndarray
    relative: np.ndarray
    inverted: np.ndarray


@inner
def _columns(panel, width, sign):
    """Factor the first ``width`` rows of a panel: its pivots' reciprocals on the diagonal, rows of U beside them."""
    length = panel.shape[1]
    replaced = 0
    for k in range(width):
        row = panel[k, k:]
        pivot = row[0] * sign[k]
        if not pivot > _PIVOT:
            pivot = _REPLACED
            replaced += 1
        scale = 1.0 / np.sqrt(pivot)
        for j in range(row.size):
            row[j] *= sign[k] * scale
        for i in range(k + 1, width):
            if panel[k, i] != 0.0:
                add(panel[i, i:length], -sign[k] * panel[k, i], panel[k, i:length])
        panel[k, k] = scale
    return replaced


@inner
def _rows(panel, width):
    """-V'A beside V, in the place of A; three rows."""
    for j in range(width, panel.shape[1]):
        a0, a1, a2 = panel[0, j], panel[1, j], panel[2, j]
        for k in range(3):
            panel[k, j] = -(panel[0, k] * a0 + panel[1, k] * a1 + panel[2, k] * a2)


@apart
def factor(S, sign, values, room):
    """Factor the matrix held in ``values``, in place; how many pivots were replaced. ``room`` (N)."""
    replaced = 0
    for j in range(S.first.size - 1):
        start, begin, offset = S.first[j], S.begin[j], S.offset[j]
        width, length = S.first[j + 1] - start, S.begin[j + 1] - begin
        if width == 1:
            row = values[offset : offset + length]
            own = sign[start]
            pivot = row[0] * own
            if not pivot > _PIVOT:
                pivot = _REPLACED
                replaced += 1
            scale = 1.0 / np.sqrt(pivot)
            for k in range(length):
                row[k] *= own * scale
            row[0] = scale
            for a in range(1, length):
                base, shift = S.base[begin + a], S.shift[begin + a]
                weight = own * row[a]
                for b in range(a, length):
                    values[base + S.relative[shift + b]] -= weight * row[b]
            continue
        panel = values[offset : offset + width * length].reshape((width, length))
        signs = sign[start : start + width]
        if S.inverted[j]:
            _rows(panel, width)
        else:
            replaced += _columns(panel, width, signs)
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
def _subtract(out, panel, sign, a):
    """out -= sum over k of sign_k panel[k, a] panel[k, a:]."""
    width, length = panel.shape
    for block in range(width >> 3):
        k = block << 3
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
    for k in range(width & ~7, width):
        if panel[k, a] != 0.0:
            add(out, -sign[k] * panel[k, a], panel[k, a:length])


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
            continue
        panel = values[offset : offset + width * length].reshape((width, length))
        part = room[:length]
        for a in range(width):
            part[a] = v[start + a]
        for a in range(width, length):
            part[a] = 0.0
        if S.inverted[j]:
            v0, v1, v2 = part[0], part[1], part[2]
            for k in range(3):
                value = panel[0, k] * v0 + panel[1, k] * v1 + panel[2, k] * v2
                add(part[width:length], -value, panel[k, width:length])
                v[start + k] = -value
            for a in range(width, length):
                v[S.rows[begin + a]] += part[a]
            continue
        for k in range(width):
            part[k] *= panel[k, k]
            add(part[k + 1 : length], -part[k], panel[k, k + 1 : length])
        for a in range(width):
            v[start + a] = part[a] * sign[start + a]
        for a in range(width, length):
            v[S.rows[begin + a]] += part[a]
    for j in range(count - 1, -1, -1):
        start, begin, offset = S.first[j], S.begin[j], S.offset[j]
        width, length = S.first[j + 1] - start, S.begin[j + 1] - begin
        if width == 1:
            value = v[start]
            for a in range(1, length):
                value -= values[offset + a] * v[S.rows[begin + a]]
            v[start] = value * values[offset]
            continue
        panel = values[offset : offset + width * length].reshape((width, length))
        part = room[:length]
        for a in range(length):
            part[a] = v[S.rows[begin + a]]
        if S.inverted[j]:
            v0 = part[0] - dot(panel[0, width:length], part[width:length])
            v1 = part[1] - dot(panel[1, width:length], part[width:length])
            v2 = part[2] - dot(panel[2, width:length], part[width:length])
            for k in range(3):
                v[start + k] = panel[k, 0] * v0 + panel[k, 1] * v1 + panel[k, 2] * v2
            continue
        for k in range(width - 1, -1, -1):
            part[k] = (part[k] - dot(panel[k, k + 1 : length], part[k + 1 : length])) * panel[k, k]
        for a in range(width):
            v[start + a] = part[a]
