"""What the kernels know of a sparse program before they see values: the order of elimination, and every sum by its terms.

With the rows B = W^(1/2) A of an iteration, W the weights of the cones, P + B'B is factored, sparse: variables in an order
whose elimination tree is shallow. Long rows would fill it; they stay out, as unknowns of their own after the variables:

    [P + B_1'B_1  B_2'; B_2  -I] = L D L',   L = U D^-1,   U_ij = K_ij - sum_k U_ik U_jk / U_kk.

Whatever is computed, products with P and A, this matrix, U and solutions with it, is a list of sums, cut into pieces for the
warps by `schedule`. One table holds them all; the kernels get it once, and every problem of a batch reads the same.
"""

from __future__ import annotations

from copy import copy
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import scipy.sparse as sp

from cvxlayers.conic.dissection import nested_dissection
from cvxlayers.conic.program import ConeProgram
from cvxlayers.conic.supernodes import filled, minimum_degree
from cvxlayers.solvers.interior_point.cuda.launch import (
    DIRECTORY,
    MOST_COLUMNS,
    MOST_ROWS,
    Launch,
    Layout,
    layout,
    sparse_linear_launch,
    sparse_solve_launch,
)
from cvxlayers.solvers.interior_point.cuda.schedule import schedule

# The order of the entries of the table's directory, as sparse.cuh has it.
_SUMS = ("rows", "columns", "costs", "squares", "elimination", "forward", "backward")
_LISTS = ("A_at", "P_at", "P_place", "place", "kept_at", "kept_place", "kept_rows", "units", "unit_entries")
assert DIRECTORY == 3 * len(_SUMS) + 2 * len(_LISTS)

_LONG = 10.0  # a row with more than this many times sqrt(n) entries may be too long to be squared
_SHARE = 0.25  # and so may one with more than this share of the variables
_MOST_TERMS = 4_000_000  # of one table: it has to stay in the GPU's cache
# What one level of the elimination costs, and what an entry of a dense matrix does, in products of a sparse one.
_LEVEL = 20_000.0
_DENSE = 0.15
_PLAIN = 1.0


class Sparsity:
    """The order of elimination, the tables and the launches of one sparse program.

    ``pivots`` counts the unknowns of the factored matrix, ``entries`` the numbers of U, ``staged`` those of B. U holds its
    diagonal first, then what is below it, column by column.
    """

    _known: WeakKeyDictionary[ConeProgram, Sparsity | None] = WeakKeyDictionary()

    @classmethod
    def of(cls, program: ConeProgram) -> Sparsity | None:
        """The sparsity of a program, kept as long as the program is; None where the dense kernels are faster, or it is none.

        ``program.P`` and ``program.A`` hold every entry that may be nonzero.
        """
        if program not in cls._known:
            cls._known[program] = cls._found(copy(program))  # which must not keep its own key alive
        return cls._known[program]

    @classmethod
    def _found(cls, program: ConeProgram) -> Sparsity | None:
        rows = layout(program.cone)
        if rows is None or len(rows.semis) or not program.n or program.m > MOST_ROWS:
            return None
        limit = _MOST_TERMS if program.n > MOST_COLUMNS else min(_MOST_TERMS, _dense_work(program.n, program.m))
        if squares(program, rows)[0] > limit:
            return None
        found = cls(program, rows)
        return found if found.pays else None

    def __init__(self, program: ConeProgram, rows: Layout) -> None:
        self.program, self.rows = program, rows
        A, n = program.A, program.n
        by_row = np.lexsort((A.cols, A.rows))
        self._rows, self._cols = A.rows[by_row].astype(np.int64), A.cols[by_row].astype(np.int64)
        self.linear = int(np.searchsorted(self._rows, rows.linear))  # entries of linear rows
        self._curved()
        candidates = [
            Elimination(self, long, find) for long in self._longs() for find in (nested_dissection, minimum_degree)
        ]
        self.elimination = min(candidates, key=lambda order: order.cost)
        self.pivots, self.entries = len(self.elimination.order), self.elimination.entries
        self.threads = 64 if n <= 32 else 128 if n <= 128 else 256

    def _longs(self) -> list[np.ndarray]:
        """Masks (m,) of the linear rows that may stay out: those that are long, if their variables do not depend on them."""
        n, m = self.program.n, self.program.m
        stored = np.bincount(self._rows, minlength=m) * (np.arange(m) < self.rows.linear)
        solid = np.zeros(n, bool)
        solid[self.program.P.rows[self.program.P.rows == self.program.P.cols]] = True
        masks = {}
        for limit in (n + 1.0, max(_LONG * np.sqrt(n), 40.0), max(_SHARE * n, 8.0)):
            long = stored > limit
            lone = ~solid
            lone[self._cols[~long[self._rows]]] = False
            long[self._rows[lone[self._cols]]] = False  # the pivots of these variables would be next to nothing
            masks[long.tobytes()] = long
        return list(masks.values())

    def _curved(self) -> None:
        """Of each curved cone, the columns in which any of its rows has entries: all its rows of B may have some there.

        A unit is one such column of one cone: (first row, column, its first entry of B, entries of B to the next row).
        ``_members`` says of which entry of A, the number of all for none, each of these entries of B has the place.
        """
        A, rows = self.program.A, self.rows
        size = np.diff(rows.starts).tolist() + [3] * rows.threes
        first = rows.starts[:-1].tolist() + [rows.semi + 3 * k for k in range(rows.threes)]
        keys = self._rows * self.program.n + self._cols
        units, members, self.cliques = [], [], []
        filled_to = self.linear
        for start, length in zip(first, size, strict=True):
            low, high = np.searchsorted(self._rows, [start, start + length])
            own = np.unique(self._cols[low:high])
            self.cliques.append((own, filled_to + np.arange(length * len(own)).reshape(length, len(own))))
            wanted = ((start + np.arange(length))[:, None] * self.program.n + own).ravel()
            at = np.searchsorted(keys, wanted)
            there = np.append(keys, -1)[at] == wanted
            members.append(np.where(there, at, A.nnz))
            units += [(start, j, filled_to + k, len(own)) for k, j in enumerate(own)]
            filled_to += len(wanted)
        self.staged = filled_to
        self._units = np.array(units, np.int64).reshape(-1, 4)
        self._members = np.concatenate([np.zeros(0, np.int64), *members])

    @cached_property
    def pays(self) -> bool:
        """Whether it is expected to be faster than the dense kernels, or the plain method where those do not fit."""
        if self.elimination.terms > _MOST_TERMS or not (self.solve_launch and self.linear_launch):
            return False
        return self.elimination.cost < _dense_work(self.program.n, self.program.m)

    @cached_property
    def solve_launch(self) -> Launch | None:
        return sparse_solve_launch(self.rows, self.program.n, self.program.m, self.threads, self.sizes)

    @cached_property
    def linear_launch(self) -> Launch | None:
        return sparse_linear_launch(self.rows, self.program.n, self.program.m, self.threads, self.sizes)

    @property
    def sizes(self) -> dict[str, int]:
        """What the text is compiled with beside the shape."""
        return {
            "PIVOTS": self.pivots, "ENTRIES": self.entries, "A_ENTRIES": self.program.A.nnz,
            "P_ENTRIES": self.program.P.nnz, "STAGED": self.staged, "STAGED_LINEAR": self.linear,
            "KEPT": len(self.elimination.kept_at), "UNITS": len(self._units),
        }  # fmt: skip

    @cached_property
    def table(self) -> np.ndarray:
        """The directory, every list and every schedule, as one array of 64-bit words."""
        warps, order = self.threads // 32, self.elimination
        n, m, P, A = self.program.n, self.program.m, self.program.P, self.program.A
        i, j = P.rows.astype(np.int64), P.cols.astype(np.int64)
        off = i != j
        both = np.concatenate([i, j[off]]), np.concatenate([j, i[off]])
        entry, value = np.arange(A.nnz), np.arange(len(i))
        flat = {
            "rows": _products(self._rows, m, entry, self._cols, A.nnz),
            "columns": _products(self._cols, n, entry, self._rows, A.nnz),
            "costs": _products(both[0], n, np.concatenate([value, value[off]]), both[1], len(i)),
        }
        sums = {k: schedule(np.zeros(len(v[0])), *v, warps) for k, v in flat.items()}
        sums |= {k: schedule(*v, warps) for k, v in order.sums().items()}
        lists = {
            "A_at": self._rows * n + self._cols, "P_at": i * n + j, "P_place": order.position(i, j),
            "place": order.place[:n], "kept_at": order.kept_at, "kept_place": order.kept_place,
            "kept_rows": order.kept_rows,
            "units": self._units.ravel(), "unit_entries": self._members,
        }  # fmt: skip
        parts, directory, end = [np.zeros(DIRECTORY, np.uint64)], [], DIRECTORY
        for name in _SUMS:
            steps, blocks = sums[name]
            directory += [end, len(steps) - 1, end + steps.size]
            parts += [steps.ravel(), blocks.ravel()]
            end += steps.size + blocks.size
        for name in _LISTS:
            directory += [end, len(lists[name])]
            parts.append(lists[name].astype(np.uint64))
            end += len(lists[name])
        parts[0][:] = directory
        parts.append(np.zeros(32, np.uint64))  # `gather` looks one block ahead
        return np.concatenate(parts).view(np.int64)


class Elimination:
    """One order of elimination of P + B'B, with its long rows last: the pattern of U, and what it takes.

    ``place`` says when each variable, and after the variables each long row, is eliminated. The entries of B in long rows
    are ``kept_at``, and go to ``kept_place`` of U. ``terms`` counts the products of all sums, ``levels`` the depth of the
    elimination tree, and ``cost`` weighs the two.
    """

    def __init__(self, sparsity: Sparsity, long: np.ndarray, find) -> None:
        self.sparsity, program = sparsity, sparsity.program
        n, rows, cols = program.n, sparsity._rows, sparsity._cols
        linear = np.arange(len(rows)) < sparsity.linear
        short, kept = linear & ~long[rows], linear & long[rows]
        number = np.cumsum(long) - 1
        begins = np.flatnonzero(np.diff(rows[short], prepend=-1))
        self._squared = [  # the columns of rows of B that are squared, and their entries, row by row
            *(
                (c, e[None])
                for c, e in zip(_split(cols[short], begins), _split(np.flatnonzero(short), begins), strict=True)
            ),
            *sparsity.cliques,
        ]
        members = np.concatenate([np.zeros(0, np.int64), *(c for c, _ in self._squared)])
        label = np.repeat(np.arange(len(self._squared)), [len(c) for c, _ in self._squared])
        incidence = sp.csr_array((np.ones(len(members)), (label, members)), shape=(len(self._squared), n))
        i, j = program.P.rows, program.P.cols
        ones = sp.csr_array((np.ones(2 * len(i) + n), (np.r_[i, j, :n], np.r_[j, i, :n])), shape=(n, n))
        pattern = sp.csc_array(ones + incidence.T @ incidence)
        order = find(pattern)
        self.order = np.concatenate([order, n + np.arange(int(long.sum()))])
        N = len(self.order)
        self.place = np.empty(N, np.int64)
        self.place[self.order] = np.arange(N)
        lower = sp.coo_array(sp.tril(pattern, -1))
        a, b = self.place[lower.row], self.place[lower.col]
        a, b = np.maximum(a, b), np.minimum(a, b)
        r, c = n + number[rows[kept]], self.place[cols[kept]]
        below = sp.csc_array((np.ones(len(a) + len(r)), (np.r_[a, r], np.r_[b, c])), shape=(N, N))
        self._columns = filled(N, below)
        self._lengths = np.array([len(v) for v in self._columns], np.int64)
        self._parent = np.array([v[0] if len(v) else N for v in self._columns], np.int64)
        self.entries = N + int(self._lengths.sum())
        height = np.zeros(N + 1, np.int64)
        for k in range(N):
            height[self._parent[k]] = max(height[self._parent[k]], height[k] + 1)
        self._height, self.levels = height[:N], int(height[:N].max()) + 1
        column = np.repeat(np.arange(N), self._lengths)
        self._keys = np.concatenate(
            [np.arange(N) * (N + 1), column * N + np.concatenate([np.zeros(0, np.int64), *self._columns])]
        )
        self._sorted = np.argsort(self._keys)
        self.kept_at, self.kept_rows = np.flatnonzero(kept), np.flatnonzero(long)
        self.kept_place = self.position(self.order[c], self.order[r]) if len(r) else np.zeros(0, np.int64)
        squared = sum(e.shape[0] * len(c) * (len(c) + 1) // 2 for c, e in self._squared)
        self.terms = int((self._lengths * (self._lengths + 1) // 2).sum()) + squared + 2 * self.entries
        self.cost = self.terms + _LEVEL * self.levels

    def position(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Where entries (i, j) of the matrix, in either triangle, are in U."""
        a, b = self.place[np.asarray(i, np.int64)], self.place[np.asarray(j, np.int64)]
        return self._at(np.maximum(a, b), np.minimum(a, b))

    def _at(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        return self._sorted[np.searchsorted(self._keys, column * len(self.order) + row, sorter=self._sorted)]

    def sums(self) -> dict[str, tuple]:
        """Levels, targets, numbers of terms, terms and padding of B'B, of the elimination and of solutions, as `schedule` takes them."""
        N, zero = len(self.order), self.entries
        # B'B: pairs of entries of one row of B.
        targets, terms = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
        for columns, entries in self._squared:
            p, q = np.tril_indices(len(columns))
            at = self.position(columns[p], columns[q])
            for row in entries:
                targets.append(at)
                terms.append(pair(row[p], row[q]))
        squares = _sorted_sums(np.concatenate(targets), np.concatenate(terms), np.arange(0))
        nothing = self.sparsity.staged
        # U: pairs of entries of one column of U; every pivot is a target.
        ends = N + np.cumsum(self._lengths)
        targets, terms = [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
        for k, rows in enumerate(self._columns):
            p, q = np.tril_indices(len(rows))
            targets.append(self._at(rows[p], rows[q]))
            at = ends[k] - len(rows)
            terms.append(triple(at + p, at + q, k))
        owner = np.concatenate([np.arange(N), np.repeat(np.arange(N), self._lengths)])
        elimination = _sorted_sums(np.concatenate(targets), np.concatenate(terms), np.arange(N))
        # L'^-1 L^-1: each row of U, then each column.
        at, column = np.arange(N, self.entries), owner[N:]
        row = np.concatenate([np.zeros(0, np.int64), *self._columns])
        depth = np.zeros(N + 1, np.int64)
        for k in range(N - 1, -1, -1):
            depth[k] = depth[self._parent[k]] + 1  # of roots, 1
        forward = _sorted_sums(row, pair(at, column), np.arange(N))
        backward = _sorted_sums(column, pair(at, row), np.arange(N))
        return {
            "squares": (np.zeros(len(squares[0])), *squares, pair(nothing, nothing)),
            "elimination": (self._height[owner[elimination[0]]], *elimination, triple(zero, zero, N)),
            "forward": (self._height, *forward, pair(zero, 0)),
            "backward": (depth[:N], *backward, pair(zero, 0)),
        }


def pair(a, b) -> np.ndarray:
    """A term of two numbers."""
    return np.asarray(a, np.uint64) | np.asarray(b, np.uint64) << np.uint64(32)


def triple(a, b, c) -> np.ndarray:
    """A term of three numbers below 2^21."""
    a, b, c = (np.asarray(v, np.uint64) for v in (a, b, c))
    return a | b << np.uint64(21) | c << np.uint64(42)


def squares(program: ConeProgram, rows: Layout) -> tuple[float, float]:
    """The products that A'A takes at least, without its longest rows, and with them."""
    stored = np.bincount(program.A.rows, minlength=program.m).astype(float)
    work = np.sort(stored * (stored + 1.0) / 2.0)
    return float(work[: max(len(work) - 10, 0)].sum()), float(work.sum())


def _dense_work(n: int, m: int) -> float:
    """What an iteration costs without any pattern, in products of a sparse factorization."""
    return (_DENSE if n <= MOST_COLUMNS else _PLAIN) * (n**3 + m * n**2) / 2.0 + _LEVEL * n / 8.0


def _products(targets: np.ndarray, count: int, values: np.ndarray, others: np.ndarray, nothing: int) -> tuple:
    """Sums of the products of ``values`` with the entries ``others`` of a vector; each of ``count`` targets has one."""
    return *_sorted_sums(targets, pair(values, others), np.arange(count)), pair(nothing, 0)


def _sorted_sums(
    targets: np.ndarray, terms: np.ndarray, always: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, each once, with those in ``always``; the numbers of their terms; the terms, target by target."""
    order = np.argsort(targets, kind="stable")
    found, counts = np.unique(np.concatenate([targets, always]), return_counts=True)
    counts[np.searchsorted(found, always)] -= 1
    return found, counts, terms[order]


def _split(values: np.ndarray, begins: np.ndarray) -> list[np.ndarray]:
    return np.split(values, begins[1:]) if len(begins) else []
