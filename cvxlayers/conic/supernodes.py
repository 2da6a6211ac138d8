"""Structure of the factor of a symmetric matrix: the pattern of U, and its neighbouring columns joined to supernodes.

Liu, "The role of elimination trees in sparse factorization", doi 10.1137/0611010, has the theory.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

_FILL = 0.3  # the share of zeros that two supernodes may bring in to become one
_SMALL = 24  # as many zeros are no matter
_GOOD_PART = 0.3
_WIDE = 32  # the most columns joined that have nothing in common but their rows


def minimum_degree(pattern: sp.csc_array) -> np.ndarray:
    """An order of elimination with little fill, for the pattern of a symmetric matrix whose diagonal is full."""
    import qdldl

    n = pattern.shape[0]
    if n <= 1:
        return np.arange(n)
    upper = sp.csc_array(sp.triu(pattern, 1))
    values = np.random.default_rng(0).uniform(0.5, 1.0, upper.nnz)
    off = sp.csc_array((values, upper.indices, upper.indptr), shape=upper.shape)
    matrix = sp.csc_array(off + sp.diags_array(np.full(n, float(n))))
    return np.asarray(qdldl.Solver(matrix, upper=True).factors()[2])


class SupernodalStructure:
    """Supernodes of a symmetric matrix of N columns in a given order, ready for `cvxlayers.compiled.quasidefinite`.

    ``rows`` and ``cols`` are the entries of the matrix in either triangle, in its own numbering; the diagonal counts
    as full. ``block`` (N) numbers sets of columns that are to be one supernode, each a clique that nothing is
    eliminated before; -1 for all others. ``order[k]`` is eliminated k-th. ``position(i, j)`` says where entries (i, j) lie among the values of the
    factor, ``size`` how many values there are, and ``work`` how many multiplications a factorization takes.
    """

    def __init__(self, order: np.ndarray, rows: np.ndarray, cols: np.ndarray, block: np.ndarray | None = None) -> None:
        order, N = np.asarray(order), len(order)
        place = _inverse(order)
        i, j = place[rows], place[cols]
        low, high = np.minimum(i, j), np.maximum(i, j)
        off = low != high
        below = sp.csc_array((np.ones(off.sum()), (high[off], low[off])), shape=(N, N))
        below.sum_duplicates()
        columns = _fill(N, below)
        # An equivalent order in which columns of one pattern are neighbours.
        after = _postorder([int(rows[0]) if len(rows) else N for rows in columns])
        moved = _inverse(after)
        columns = [np.sort(moved[columns[k]]) for k in after]
        self.order = order[after]
        self.place = _inverse(self.order)
        block = np.full(N, -1) if block is None else block[self.order]
        first, lists = _join(columns, block.tolist())
        self.inverted = block[first] >= 0 if N else np.zeros(0, bool)
        self._lay_out(N, first, lists)

    def _lay_out(self, N: int, first: list[int], lists: list[np.ndarray]) -> None:
        count = len(lists)
        lengths = np.array([len(rows) for rows in lists], np.int64)
        self.first = np.array([*first, N], np.int64)
        widths = np.diff(self.first)
        self.begin = np.concatenate(([0], np.cumsum(lengths)))
        self.rows = np.concatenate(lists) if lists else np.zeros(0, np.int64)
        self.offset = np.concatenate(([0], np.cumsum(widths * lengths)))
        self.size = int(self.offset[-1])
        self.owner = np.repeat(np.arange(count), widths)
        self.base = np.zeros(len(self.rows), np.int64)
        self.shift = np.zeros(len(self.rows), np.int64)
        relative: list[np.ndarray] = []
        filled = 0
        for j in range(count):
            rows, width, start = lists[j], int(widths[j]), int(self.begin[j])
            a = width
            while a < len(rows):
                target = int(self.owner[rows[a]])
                stop = int(np.searchsorted(rows, self.first[target + 1]))
                own = np.searchsorted(lists[target], rows[a:])
                relative.append(own)
                at = np.arange(a, stop)
                self.base[start + at] = self.offset[target] + (rows[a:stop] - self.first[target]) * lengths[target]
                self.shift[start + at] = filled - a
                filled += len(own)
                a = stop
        self.relative = np.concatenate(relative) if relative else np.zeros(0, np.int64)
        self._lists, self._lengths = lists, lengths
        # Rows of the last supernode that a narrow one contributes to, if they are a good part of it.
        self.tail = lengths.copy()
        if count:
            width = int(widths[-1])
            for j in np.flatnonzero((widths[:-1] == 1) | self.inverted[:-1]):
                there = int(np.searchsorted(lists[j], self.first[-2]))
                if len(lists[j]) - there >= _GOOD_PART * width:
                    self.tail[j] = there
        rest = np.concatenate([np.arange(n, n - w, -1) for n, w in zip(lengths, widths, strict=True)] or [[0.0]])
        self.work = float((rest * (rest + 1) / 2.0).sum())

    def position(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Where entries (i, j) of the matrix lie among the values."""
        a, b = self.place[np.asarray(i, np.int64)], self.place[np.asarray(j, np.int64)]
        low, high = np.minimum(a, b), np.maximum(a, b)
        owner = self.owner[low]
        # One sorted key for (supernode, row) finds all places at once.
        N = len(self.place)
        keys = np.repeat(np.arange(len(self._lists)), self._lengths) * N + self.rows
        at = np.searchsorted(keys, owner * N + high) - self.begin[owner]
        return self.offset[owner] + (low - self.first[owner]) * self._lengths[owner] + at


def _fill(N: int, below: sp.csc_array) -> list[np.ndarray]:
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


def _join(columns: list[np.ndarray], block: list[int]) -> tuple[list[int], list[np.ndarray]]:
    """First columns and rows of the supernodes."""
    first: list[int] = []
    lists: list[np.ndarray] = []
    fill: list[int] = []  # zeros held in each
    for j, below in enumerate(columns):
        rows = np.concatenate(([j], below)).astype(np.int64)
        width = j - first[-1] if first else 0
        if block[j] >= 0 or (lists and block[j - 1] >= 0):
            if lists and block[j] == block[j - 1]:
                lists[-1] = np.union1d(lists[-1], rows)
            else:
                first.append(j)
                lists.append(rows)
                fill.append(0)
            continue
        if lists and len(below) and width < _WIDE and np.array_equal(lists[-1][width:], below):
            lists[-1] = np.insert(lists[-1], width, j)
            fill[-1] += width
            continue
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
    return first, lists
