"""The symbolic factorization of P + B'B for the sparse kernels: the pattern of U, and its sums by their terms.

Solutions wait for one level of the elimination tree after the other. So the inverse of a chain of columns (chains.py)
takes the place of its columns: then only the levels of the tree of chains are left. Alvarado, Pothen and Schreiber,
"Highly parallel sparse triangular solution", doi 10.1007/978-1-4613-8369-7_7, have such products of inverses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from cvxlayers.conic.affine import Sparse
from cvxlayers.conic.supernodes import filled
from cvxlayers.solvers.interior_point.cuda.chains import Chains, heights
from cvxlayers.solvers.interior_point.cuda.launch import even
from cvxlayers.solvers.interior_point.cuda.staged import Staged

_LEVEL = 2_500.0  # what one level of sums costs, in products
_SOLUTIONS = 3  # of one iteration
_WIDTHS = (8, 16, 32)  # the longest chains that are tried
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
    ``kept_at``, and go to ``kept_place`` of U. ``terms`` counts the terms of all sums, ``levels`` is the depth of the
    elimination tree, and ``cost`` what an iteration takes, in products.

    With the columns of a chain S, L_S = I + sum_k l_k e_k', column j of L_S^-1 is e_j + Z_j below the diagonal, with

        Z_ij = -L_ij - sum_k L_ik Z_kj  over the k in S, j < k < i.
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
        columns = filled(N, sp.csc_array((np.ones(len(high)), (high, low)), shape=(N, N)))
        parents = [int(rows[0]) if len(rows) else N for rows in columns]
        self._height, self.levels = heights(parents)
        squared = sum(entries.size * (len(columns) + 1) // 2 for columns, entries in self._squares)

        def work(chains: Chains) -> float:
            terms = sum(len(rows) * (len(rows) + 1) + 2 * _SOLUTIONS * len(rows) for rows in chains.columns)
            return squared + terms + _LEVEL * (self.levels + 2 * chains.widest + 2 * _SOLUTIONS * chains.levels)

        self._chains = min((Chains(columns, widest) for widest in _WIDTHS), key=work)
        self.cost, self._columns = work(self._chains), self._chains.columns
        self._lengths = np.array([len(rows) for rows in self._columns], np.int64)
        self._rows, self._owner = np.concatenate([_NONE, *self._columns]), np.repeat(np.arange(N), self._lengths)
        self._begin = N + np.cumsum(self._lengths) - self._lengths
        self.entries = N + len(self._rows)
        self.terms = int((self._lengths * (self._lengths + 1)).sum()) + squared + 2 * self.entries
        self._keys = np.concatenate([np.arange(N) * (N + 1), self._owner * N + self._rows])
        self._sorted = np.argsort(self._keys)
        self.kept_place = self._at(row, column)

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
        for k, rows in enumerate(self._columns):
            p, q = np.tril_indices(len(rows))
            targets.append(self._at(rows[p], rows[q]))
            terms.append(triple(self._begin[k] + p, self._begin[k] + q, k))
        nothing = int(triple(self.entries, self.entries, N))
        found = _sums(np.concatenate(targets), np.concatenate(terms), nothing, np.arange(N))
        owner = np.append(np.arange(N), self._owner)
        return found._replace(levels=self._height[owner[found.targets]])

    def inverses(self) -> Sums:
        """Z in the place of U, in an order in which nothing is lost that is needed: a target comes with its column."""
        N, targets, terms = len(self.place), [_NONE], [_NONE.astype(np.uint64)]
        for chain in self._chains.chains:
            rows = np.append(chain, self._columns[chain[-1]])
            for q, k in enumerate(chain):  # L_ik Z_kj for all j before k and all i after it
                j, i = np.repeat(np.arange(q), len(rows) - q - 1), np.tile(np.arange(q + 1, len(rows)), q)
                first = self._begin[chain[j]] - j - 1  # where row 0 of the chain would be in column j
                targets.append(first + i)
                terms.append(triple(self._begin[k] + i - q - 1, first + q, k))
        nothing = int(triple(self.entries, self.entries, N))
        found = _sums(np.concatenate(targets), np.concatenate(terms), nothing, np.arange(N, self.entries))
        # Z_ij comes after the Z_kj that it needs, and after those that need L_ij.
        y = self._chains
        width = np.array([len(chain) for chain in y.chains], np.int64)[y.of[self._owner]]
        inside = y.of[self._rows] == y.of[self._owner]
        levels = np.where(inside, y.position[self._rows], width) + y.position[self._owner]
        return found._replace(levels=levels, targets=pair(found.targets, self._owner))

    def forward(self) -> Sums:
        """D^-1 L^-1 v, chain after chain: what goes to columns of the chain itself, which are marked, and to others."""
        N, at = len(self.place), np.arange(len(self.place), self.entries)
        height = self._chains.height[self._chains.of]
        own = height * N + np.arange(N)
        found = _sums(height[self._owner] * N + self._rows, pair(at, self._owner), self.entries, own)
        levels, targets = np.divmod(found.targets, N)
        return found._replace(levels=levels, targets=pair(targets, levels == height[targets]))

    def backward(self) -> Sums:
        """L'^-1 v, from the roots: what comes from columns of the chain itself is read from a second vector."""
        N = len(self.place)
        y = self._chains
        inside = y.of[self._rows] == y.of[self._owner]
        terms = pair(np.arange(N, self.entries), self._rows + np.where(inside, 2 * even(N), 0))
        return _sums(self._owner, terms, self.entries, np.arange(N))._replace(levels=y.depth[y.of])


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
