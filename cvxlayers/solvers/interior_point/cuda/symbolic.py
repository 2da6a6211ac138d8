"""The symbolic factorization of P + B'B for the sparse kernels: the pattern of U, and its sums by their terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from cvxlayers.conic.affine import Sparse
from cvxlayers.conic.supernodes import filled
from cvxlayers.solvers.interior_point.cuda.staged import Staged

_LEVEL = 20_000.0  # what one level of the elimination costs, in products
_NONE = np.zeros(0, np.int64)


class Sums(NamedTuple):
    """Sums of terms as `schedule` deals them out: levels, targets and numbers of terms, terms, and one of nothing."""

    levels: np.ndarray
    targets: np.ndarray
    counts: np.ndarray
    terms: np.ndarray
    padding: int


class Elimination:
    """One order of elimination of P + B'B, with its long rows last:

        [P + B_1'B_1  B_2'; B_2  -I] = L D L',   L = U D^-1,   U_ij = K_ij - sum_k U_ik U_jk / U_kk.

    U has its diagonal first, then what is below it, column by column: ``entries`` numbers. ``place`` says when each
    variable, and after the variables each long row, is eliminated. The entries of B in long rows (``kept_rows``) are
    ``kept_at``, and go to ``kept_place`` of U. ``terms`` counts the products of all sums, ``levels`` the depth of the
    elimination tree, and ``cost`` weighs the two.
    """

    def __init__(self, staged: Staged, long: np.ndarray, find: Callable[[Sparse], np.ndarray]) -> None:
        self._nothing, n, P = staged.size, staged.program.n, staged.program.P
        self._squares = staged.squares(long)
        members = np.concatenate([_NONE, *(columns for columns, _ in self._squares)])
        label = np.repeat(np.arange(len(self._squares)), [len(columns) for columns, _ in self._squares])
        incidence = sp.csr_array((np.ones(len(members)), (label, members)), shape=(len(self._squares), n))
        i, j, each = P.rows, P.cols, np.arange(n)
        own = sp.csr_array((np.ones(2 * len(i) + n), (np.r_[i, j, each], np.r_[j, i, each])), shape=(n, n))
        pattern = sp.csc_array(own + incidence.T @ incidence)
        self.kept_rows = np.flatnonzero(long)
        N = n + len(self.kept_rows)
        order = np.append(find(pattern), np.arange(n, N))
        self.place = np.empty(N, np.int64)
        self.place[order] = np.arange(N)

        self.kept_at = np.flatnonzero(long[staged.rows] & (np.arange(len(staged.rows)) < staged.linear))
        row = n + np.searchsorted(self.kept_rows, staged.rows[self.kept_at])
        column = self.place[staged.cols[self.kept_at]]
        lower = sp.coo_array(sp.tril(pattern, -1))
        a, b = self.place[lower.row], self.place[lower.col]
        high, low = np.r_[np.maximum(a, b), row], np.r_[np.minimum(a, b), column]
        self._columns = filled(N, sp.csc_array((np.ones(len(high)), (high, low)), shape=(N, N)))
        self._lengths = np.array([len(rows) for rows in self._columns], np.int64)
        self._parent = [int(rows[0]) if len(rows) else N for rows in self._columns]
        self._rows, self._owner = np.concatenate([_NONE, *self._columns]), np.repeat(np.arange(N), self._lengths)
        self.entries = N + len(self._rows)
        self._keys = np.concatenate([np.arange(N) * (N + 1), self._owner * N + self._rows])
        self._sorted = np.argsort(self._keys)
        self.kept_place = self._at(row, column)

        height = np.zeros(N + 1, np.int64)
        for k in range(N):
            height[self._parent[k]] = max(height[self._parent[k]], height[k] + 1)
        self._height, self.levels = height[:N], int(height[:N].max()) + 1
        squared = sum(entries.size * (len(columns) + 1) // 2 for columns, entries in self._squares)
        self.terms = int((self._lengths * (self._lengths + 1) // 2).sum()) + squared + 2 * self.entries
        self.cost = self.terms + _LEVEL * self.levels

    def position(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Where entries (i, j) of the matrix, in either triangle, are in U."""
        a, b = self.place[i], self.place[j]
        return self._at(np.maximum(a, b), np.minimum(a, b))

    def _at(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        return self._sorted[np.searchsorted(self._keys, column * len(self.place) + row, sorter=self._sorted)]

    def squares(self) -> Sums:
        """B'B: pairs of entries of one row of B, for entries of U."""
        targets, terms = [_NONE], [_NONE.astype(np.uint64)]
        for columns, entries in self._squares:
            p, q = np.tril_indices(len(columns))
            targets += [self.position(columns[p], columns[q])] * len(entries)
            terms += [pair(row[p], row[q]) for row in entries]
        return _sums(np.concatenate(targets), np.concatenate(terms), int(pair(self._nothing, self._nothing)))

    def elimination(self) -> Sums:
        """U: pairs of entries of one column, with its pivot; all pivots are targets, with terms or without."""
        N, targets, terms = len(self.place), [_NONE], [_NONE.astype(np.uint64)]
        begin = N + np.cumsum(self._lengths) - self._lengths
        for k, rows in enumerate(self._columns):
            p, q = np.tril_indices(len(rows))
            targets.append(self._at(rows[p], rows[q]))
            terms.append(triple(begin[k] + p, begin[k] + q, k))
        nothing = int(triple(self.entries, self.entries, N))
        found = _sums(np.concatenate(targets), np.concatenate(terms), nothing, np.arange(N))
        owner = np.append(np.arange(N), self._owner)
        return found._replace(levels=self._height[owner[found.targets]])

    def forward(self) -> Sums:
        """D^-1 L^-1 v: each row of U, from the leaves of the tree to its roots."""
        N = len(self.place)
        terms = pair(np.arange(N, self.entries), self._owner)
        return _sums(self._rows, terms, self.entries, np.arange(N))._replace(levels=self._height)

    def backward(self) -> Sums:
        """L'^-1 v: each column of U, from the roots to the leaves."""
        N = len(self.place)
        depth = np.zeros(N + 1, np.int64)
        for k in range(N - 1, -1, -1):
            depth[k] = depth[self._parent[k]] + 1
        terms = pair(np.arange(N, self.entries), self._rows)
        return _sums(self._owner, terms, self.entries, np.arange(N))._replace(levels=depth[:N])


def products(targets: np.ndarray, count: int, values: np.ndarray, others: np.ndarray, nothing: int) -> Sums:
    """Products of ``values`` with the entries ``others`` of a vector, summed for each of ``count`` targets."""
    return _sums(targets, pair(values, others), nothing, np.arange(count))


def pair(a, b) -> np.ndarray:
    """A term of two numbers."""
    return np.asarray(a, np.uint64) | np.asarray(b, np.uint64) << np.uint64(32)


def triple(a, b, c) -> np.ndarray:
    """A term of three numbers below 2^21."""
    a, b, c = (np.asarray(v, np.uint64) for v in (a, b, c))
    return a | b << np.uint64(21) | c << np.uint64(42)


def _sums(targets: np.ndarray, terms: np.ndarray, padding: int, always: np.ndarray = _NONE) -> Sums:
    """The sum of the terms of each target, on one level; targets in ``always`` may have none."""
    order = np.argsort(targets, kind="stable")
    found, counts = np.unique(np.concatenate([targets, always]), return_counts=True)
    counts[np.searchsorted(found, always)] -= 1
    return Sums(np.zeros(len(found), np.int64), found, counts, terms[order], padding)
