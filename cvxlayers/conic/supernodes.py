"""Structure of the factor of a symmetric matrix: the pattern of U, and its neighbouring columns joined to supernodes.

Liu, "The role of elimination trees in sparse factorization", doi 10.1137/0611010, has the theory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from cvxlayers.conic.affine import Sparse

_FILL = 0.15  # the share of zeros that two supernodes may bring in to become one
_SMALL = 24  # as many zeros are no matter
_GOOD_PART = 0.3  # the share of the last supernode's columns from which a vector's products are collected
_NARROW = 4  # the fewest columns of a supernode


def minimum_degree(pattern: Sparse) -> np.ndarray:
    """An order of elimination with little fill, for the pattern of a symmetric matrix whose diagonal is full."""
    import qdldl

    n: int = pattern.shape[0]
    if n <= 1:
        return np.arange(n)
    upper = sp.csc_array(sp.triu(pattern, 1))
    values = np.random.default_rng(0).uniform(0.5, 1.0, upper.nnz)
    off = sp.csc_array((values, upper.indices, upper.indptr), shape=upper.shape)
    matrix = sp.csc_array(off + sp.diags_array(np.full(n, float(n))))
    return np.asarray(qdldl.Solver(matrix, upper=True).factors()[2])


class SupernodalStructure:
    """Supernodes of a symmetric matrix of N columns in a given order, ready for `cvxlayers.compiled.quasidefinite`.

    ``rows`` and ``cols`` are the entries of the matrix in either triangle, in its own numbering, and ``cliques`` lists
    sets of columns that products of sparse vectors are added to; the diagonal counts as full. ``position(i, j)`` says
    where entries (i, j) lie among the values of the factor, ``size`` how many values there are, and ``work`` how many
    multiplications a factorization takes. ``products`` are the targets of the cliques.
    """

    def __init__(self, order: np.ndarray, rows: np.ndarray, cols: np.ndarray, cliques: Sequence[np.ndarray] = ()):
        order, N = np.asarray(order), len(order)
        place = _inverse(order)
        i, j = place[rows], place[cols]
        low, high = np.minimum(i, j), np.maximum(i, j)
        off = low != high
        lows, highs = [low[off]], [high[off]]
        for clique in cliques:  # what its first column has, the elimination passes on
            own = place[clique]
            first = own.min(initial=N)
            own = own[own > first]
            lows.append(np.full(len(own), first))
            highs.append(own)
        low, high = np.concatenate(lows), np.concatenate(highs)
        below = sp.csc_array((np.ones(len(low)), (high, low)), shape=(N, N))
        below.sum_duplicates()
        columns = filled(N, below)
        # An equivalent order in which columns of one pattern are neighbours.
        after = _postorder([int(rows[0]) if len(rows) else N for rows in columns])
        moved = _inverse(after)
        columns = [np.sort(moved[columns[k]]) for k in after]
        self.order = order[after]
        self.place = _inverse(self.order)
        first, self._lists = _join(columns)
        self._lengths = np.array([len(rows) for rows in self._lists], np.int64)
        self.first = np.array([*first, N], np.int64)
        widths = np.diff(self.first)
        self.offset = np.concatenate(([0], np.cumsum(widths * self._lengths)))
        self.size = int(self.offset[-1])
        self._owner = np.repeat(np.arange(len(first)), widths)
        self.nodes = self._targets(self._lists, widths, widths == 1)
        members = [np.sort(self.place[clique]) for clique in cliques]
        self.products = self._targets(members, np.zeros(len(members), np.int64), np.ones(len(members), bool))
        lengths = zip(self._lengths, widths, strict=True)
        rest = np.concatenate([np.arange(n, n - w, -1) for n, w in lengths] or [[0.0]])
        self.work = float((rest * (rest + 1) / 2.0).sum())

    def _targets(self, lists: list[np.ndarray], skip: np.ndarray, collect: np.ndarray) -> Targets:
        """Where products of entries of vectors go, whose first ``skip`` entries are left out."""
        begin = np.concatenate(([0], np.cumsum([len(rows) for rows in lists]))).astype(np.int64)
        rows = np.concatenate([np.zeros(0, np.int64), *lists])
        base, shift = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        tail = np.diff(begin)
        last, width = self.first[-2], self.first[-1] - self.first[-2]
        relative: list[np.ndarray] = [np.zeros(0, np.int64)]
        filled = 0
        for k, own in enumerate(lists):
            a, start = int(skip[k]), int(begin[k])
            there = int(np.searchsorted(own, last))
            if collect[k] and len(own) - there >= max(_GOOD_PART * width, 2):
                tail[k] = there
            while a < tail[k]:
                target = int(self._owner[own[a]])
                stop = min(int(np.searchsorted(own, self.first[target + 1])), int(tail[k]))
                at = np.arange(a, stop)
                relative.append(np.searchsorted(self._lists[target], own[a:]))
                base[start + at] = self.offset[target] + (own[a:stop] - self.first[target]) * self._lengths[target]
                shift[start + at] = filled - a
                filled += len(own) - a
                a = stop
        return Targets(begin, rows, base, shift, np.concatenate(relative), tail)

    def position(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Where entries (i, j) of the matrix lie among the values."""
        a, b = self.place[np.asarray(i, np.int64)], self.place[np.asarray(j, np.int64)]
        low, high = np.minimum(a, b), np.maximum(a, b)
        owner = self._owner[low]
        # One sorted key for (supernode, row) finds all places at once.
        N = len(self.place)
        keys = np.repeat(np.arange(len(self._lists)), self._lengths) * N + self.nodes.rows
        at = np.searchsorted(keys, owner * N + high) - self.nodes.begin[owner]
        return self.offset[owner] + (low - self.first[owner]) * self._lengths[owner] + at


class Targets(NamedTuple):
    """Of vectors k with entries in the columns rows[begin[k] : begin[k + 1]]: where products of two entries go.

    The product of entries a <= b, a < tail[k], goes to values[base[begin[k] + a] + relative[shift[begin[k] + a] + b]].
    Columns from number tail[k] on are in the last supernode.
    """

    begin: np.ndarray
    rows: np.ndarray
    base: np.ndarray
    shift: np.ndarray
    relative: np.ndarray
    tail: np.ndarray


def filled(N: int, below: sp.csc_array) -> list[np.ndarray]:
    """Rows of each column of the factor below its diagonal, in ascending order."""
    columns: list[np.ndarray] = []
    children: list[list[int]] = [[] for _ in range(N)]
    for j in range(N):
        own = below.indices[below.indptr[j] : below.indptr[j + 1]]
        if children[j]:
            own = np.unique(np.concatenate([own, *(columns[k][1:] for k in children[j])]))
        else:
            own = np.sort(own)
        columns.append(own)
        if len(own):
            children[own[0]].append(j)
    return columns


def _postorder(parent: list[int]) -> np.ndarray:
    """The nodes of a forest, each after all its descendants, which come right before it."""
    N = len(parent)
    children: list[list[int]] = [[] for _ in range(N + 1)]
    for j in range(N - 1, -1, -1):
        children[parent[j]].append(j)  # in descending order, so that the least comes off the stack first
    out: list[int] = []
    stack = children[N]
    while stack:
        j = stack[-1]
        if children[j]:
            stack.append(children[j].pop())
        else:
            out.append(stack.pop())
    return np.array(out, np.int64)


def _inverse(order: np.ndarray) -> np.ndarray:
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return place


def _join(columns: list[np.ndarray]) -> tuple[list[int], list[np.ndarray]]:
    """First columns and rows of the supernodes."""
    first: list[int] = []
    lists: list[np.ndarray] = []
    fill: list[int] = []  # zeros held in each
    for j, below in enumerate(columns):
        rows = np.concatenate(([j], below)).astype(np.int64)
        width = j - first[-1] if first else 0
        if lists and len(lists[-1]) > width and lists[-1][width] == j:
            both = np.union1d(lists[-1], rows)
            added = width * (len(both) - len(lists[-1])) + len(both) - width - len(rows)
            area = (width + 1) * len(both)
            if fill[-1] + added <= max(_FILL * area if width > 1 else 0.0, _SMALL if len(both) < 12 else 0.0, 0.0):
                lists[-1] = both
                fill[-1] += added
                continue
        first.append(j)
        lists.append(rows)
        fill.append(0)
    # A supernode of a few columns costs more than its columns alone.
    out_first: list[int] = []
    out_lists: list[np.ndarray] = []
    for k, (start, rows) in enumerate(zip(first, lists, strict=True)):
        stop = first[k + 1] if k + 1 < len(first) else len(columns)
        narrow = stop - start < _NARROW and k + 1 < len(first)
        for j in range(start, stop if narrow else start + 1):
            out_first.append(j)
            out_lists.append(np.concatenate(([j], columns[j])).astype(np.int64) if narrow else rows)
    return out_first, out_lists
