"""What the compiled kernels of cone programs know of a program before they see any values.

The linear system of an iteration is [P, A'; A, -H] with H block diagonal. Nonnegative rows with few entries and
three-dimensional cones are eliminated by hand: they add a'a/h for each row a, or three such products for each cone, to
P. The square of a second-order cone's scaling, diagonal plus two terms of rank one, becomes a diagonal and two more
variables. What is left is factored in an order with little fill and no pivot that is small by its own nature.
"""

from __future__ import annotations

from copy import copy
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import scipy.sparse as sp

from cvxlayers.conic.affine import Sparse
from cvxlayers.conic.program import ConeProgram
from cvxlayers.conic.supernodes import SupernodalStructure, minimum_degree
from cvxlayers.sets import Cone, Exponential, Nonnegative, PositiveSemidefinite, Power, SecondOrder, Zero

ZERO, NONNEGATIVE, SECOND_ORDER, SEMIDEFINITE, EXPONENTIAL, POWER = range(6)

_KIND: dict[type[Cone], int] = {
    Zero: ZERO,
    Nonnegative: NONNEGATIVE,
    SecondOrder: SECOND_ORDER,
    PositiveSemidefinite: SEMIDEFINITE,
    Exponential: EXPONENTIAL,
    Power: POWER,
}
_STORE = {SECOND_ORDER: 4, EXPONENTIAL: 27, POWER: 27}  # numbers that a scaling takes besides the vectors
_OVERHEAD = 40.0  # multiplications that a supernode costs beside its own
_LONG = 10.0  # a row with more than this many times sqrt(n) entries may be too long to be eliminated by hand
_SHARE = 0.25  # and so may one with more than this share of the variables
# Variables plus constraints, order of a semidefinite cone and multiplications of a factorization up to which compiled
# kernels are faster (benchmarks/cone_sizes.py).
_ROWS, _ORDER, _WORK = 20000, 24, 1e8
_FEW = 10  # long rows that cost little, since they can be kept for later


class Structure:
    """Cones, system and order of elimination of one program, as the arrays that the kernel takes.

    Of several orders the one with the least work is taken: with long rows, second-order or semidefinite cones waiting
    for the variables or not. There is at least one variable: a program without any has nothing to factor.
    """

    _known: WeakKeyDictionary[ConeProgram, Structure] = WeakKeyDictionary()

    @classmethod
    def of(cls, program: ConeProgram) -> Structure:
        """The structure of a program, kept as long as the program is."""
        found = cls._known.get(program)
        if found is None:
            found = cls._known[program] = cls(copy(program))  # which must not keep its own key alive
        return found

    @classmethod
    def pays(cls, program: ConeProgram) -> bool:
        """Whether the compiled kernels are expected to be faster than solvers for large sparse programs."""
        orders = [cone.k for cone, _, _ in program.cone.groups if isinstance(cone, PositiveSemidefinite)]
        if not 0 < program.n <= _ROWS - program.m or max(orders, default=0) > _ORDER:
            return False
        # Before the structure is made, which takes long where it is of no use: what the rows and P bring at least.
        rows = np.sort(np.bincount(program.A.rows, minlength=program.m))[:-_FEW].astype(float)
        if (rows**2).sum() / 2.0 + (2.0 * max(program.P.nnz - program.n, 0)) ** 1.5 / 6.0 > _WORK:
            return False
        return cls.of(program).system.cost <= _WORK

    def __init__(self, program: ConeProgram) -> None:
        self.program = program
        n, A = program.n, program.A
        self._cones()
        stored = np.bincount(A.rows, minlength=program.m)
        limits = (n + 1.0, max(_LONG * np.sqrt(n), 40.0), max(_SHARE * n, 8.0))
        longs = {mask.tobytes(): mask for mask in (stored > limit for limit in limits)}
        kinds = [{SECOND_ORDER, SEMIDEFINITE}]
        if SEMIDEFINITE in self.kind:
            kinds.append({SECOND_ORDER})
        # Variables without an entry on P's diagonal would be pivots of rounding size if they came first.
        if len(np.unique(program.P.rows[program.P.rows == program.P.cols])) == n:
            kinds.append(set())
        self.system = min((System(self, long, kind) for long in longs.values() for kind in kinds), key=lambda y: y.cost)

    def _cones(self) -> None:
        """One line for each cone, neighbouring zero or nonnegative rows being one."""
        kind, start, size, order, alpha, expanded, store = [], [], [], [], [], [], []
        room = 0
        for cone, count, first in self.program.cone.groups:
            k = _KIND[type(cone)]
            for row in range(first, first + count * cone.size, max(cone.size, 1)):
                kind.append(k)
                start.append(row)
                size.append(cone.size)
                order.append(cone.k if isinstance(cone, PositiveSemidefinite) else 0)
                alpha.append(cone.alpha if isinstance(cone, Power) else 0.0)
                expanded.append(k == SECOND_ORDER and cone.size > 1)
                store.append(room)
                room += 3 * order[-1] ** 2 if k == SEMIDEFINITE else _STORE.get(k, 0)
        self.kind, self.start, self.size, self.cone_order, self.store = (
            np.array(v, np.int64) for v in (kind, start, size, order, store)
        )
        self.alpha, self.expanded = np.array(alpha, np.float64), np.array(expanded, bool)
        ones = {NONNEGATIVE: self.size, SECOND_ORDER: 1, SEMIDEFINITE: self.cone_order, EXPONENTIAL: 3, POWER: 3}
        self.degree = int(sum(np.sum(np.where(self.kind == k, v, 0)) for k, v in ones.items()))

    def of_kind(self, *kinds: int) -> np.ndarray:
        """Mask (m,) of the rows of these kinds of cones."""
        return np.repeat(np.isin(self.kind, kinds), self.size)

    @cached_property
    def arrays(self) -> tuple:
        """What `cvxlayers.compiled.newton_system` makes room from."""
        P, A, y = self.program.P, self.program.A, self.system
        arrays = (
            *(np.asarray(v, np.int64) for v in (P.rows, P.indptr, A.rows, A.indptr)),
            *(self.kind, self.start, self.size, self.cone_order, self.alpha, y.extra, self.store, self.degree),
            *(y.factor.first, y.factor.offset, *y.factor.nodes, *y.factor.products, y.entries, y.origin, y.turn),
            *(y.sign, y.place, y.P_place, y.A_place, y.H_place, y.diagonal),
        )
        return tuple(np.ascontiguousarray(v) if isinstance(v, np.ndarray) else v for v in arrays)


class System:
    """The linear system with some rows eliminated by hand.

    The system's own numbers: the variables, the rows that are kept (``index`` (m,), -1 for others), and two variables
    for each expanded second-order cone c, from extra[c] on. ``place`` is where variables, rows and further variables
    stand in the order of elimination. Product k, of the entries of a row or of a cone that is eliminated by hand, has
    its first row in origin[0, k], the place of the cone's scaling in origin[1, k], -1 for a nonnegative row, its number
    among the cone's products in origin[2, k], the turn of the cone's rows in turn[:, k], and is made of the values
    ``entries`` (3, .) of A, row by row in that turn; as many as A has stand for a zero.
    """

    def __init__(self, structure: Structure, long: np.ndarray, leading: set[int]) -> None:
        self.structure, self.program = structure, structure.program
        n, A, P = self.program.n, self.program.A, self.program.P
        gone = structure.of_kind(EXPONENTIAL, POWER) | (structure.of_kind(NONNEGATIVE) & ~long)
        self.index = np.where(gone, -1, n - 1 + np.cumsum(~gone))
        kept = int((~gone).sum())
        self.extra = np.where(structure.expanded, n + kept - 2 + 2 * np.cumsum(structure.expanded), -1)
        self.N = n + kept + 2 * int(structure.expanded.sum())
        self.sign = np.concatenate([np.ones(n), -np.ones(self.N - n)])
        self.sign[self.extra[structure.expanded] + 1] = 1.0
        cliques = self._products(gone)
        H_rows, H_cols = self._blocks()
        there, stays = H_rows >= 0, ~gone[A.rows]
        i = np.concatenate([P.rows, A.cols[stays], H_rows[there]])
        j = np.concatenate([P.cols, self.index[A.rows[stays]], H_cols[there]])
        order = self._order(i, j, cliques, gone, long, leading)
        self.factor = p = SupernodalStructure(order, i, j, cliques)
        self.cost = p.work + _OVERHEAD * (len(p.first) + 0.3 * len(cliques))
        self.sign = self.sign[p.order]
        numbers = np.concatenate([np.arange(n), self.index, np.arange(n + kept, self.N)])
        self.place = np.where(numbers < 0, -1, p.place[numbers])
        self.P_place = p.position(P.rows, P.cols)
        self.A_place = np.where(stays, p.position(A.cols, np.where(stays, self.index[A.rows], 0)), -1)
        self.H_place = np.where(there, p.position(np.maximum(H_rows, 0), np.maximum(H_cols, 0)), -1)
        self.diagonal = np.where(self.place < 0, -1, p.position(np.maximum(numbers, 0), np.maximum(numbers, 0)))
        self._entries()

    def _products(self, gone: np.ndarray) -> list[np.ndarray]:
        """The variables of each product, with ``origin`` and ``turn``."""
        y, A = self.structure, self.program.A
        by_row = sp.csr_array((np.ones(A.nnz), (A.rows, A.cols)), shape=A.shape)
        counts = np.diff(by_row.indptr)
        rows = np.flatnonzero(gone & y.of_kind(NONNEGATIVE) & (counts > 0))
        cliques = [by_row.indices[by_row.indptr[row] : by_row.indptr[row + 1]] for row in rows]
        origin, turn = [(row, -1, 0) for row in rows], [(0, 0, 0)] * len(rows)
        for k in np.flatnonzero(y.kind >= EXPONENTIAL):
            row = y.start[k]
            ranks = np.argsort(counts[row : row + 3], kind="stable")  # the longest last
            for q in range(3):  # the first product has entries of all rows, the last one of the shortest row alone
                parts = [by_row.indices[by_row.indptr[row + r] : by_row.indptr[row + r + 1]] for r in ranks[: 3 - q]]
                own = np.unique(np.concatenate(parts))
                if len(own):
                    cliques.append(own)
                    origin.append((row, y.store[k], q))
                    turn.append(tuple(ranks))
        self.origin = np.array(origin, np.int64).reshape((-1, 3)).T
        self.turn = np.array(turn, np.int64).reshape((-1, 3)).T
        return cliques

    def _entries(self) -> None:
        A, products = self.program.A, self.factor.products
        keys = A.cols * A.shape[0] + A.rows
        cols = self.factor.order[products.rows]
        lengths = np.diff(products.begin)
        self.entries = np.empty((3, len(cols)), np.int64)
        for k in range(3):
            wanted = cols * A.shape[0] + np.repeat(self.origin[0] + self.turn[k], lengths)
            at = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
            self.entries[k] = np.where(keys[at] == wanted, at, len(keys)) if len(keys) else 0

    def _blocks(self) -> tuple[np.ndarray, np.ndarray]:
        """Entries of H, cone by cone, in the order in which the kernel writes them; -1 for rows that are gone."""
        rows, cols = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        y = self.structure
        for kind, start, size, e in zip(y.kind, y.start, y.size, self.extra, strict=True):
            at = self.index[start : start + size]
            if kind <= NONNEGATIVE:
                rows.append(at)
                cols.append(at)
            elif e >= 0:
                rows += [at, at[1:], at, np.array([e, e + 1])]
                cols += [at, np.full(size - 1, e), np.full(size, e + 1), np.array([e, e + 1])]
            elif kind < EXPONENTIAL:
                j, i = np.tril_indices(size)  # the upper triangle, column by column
                rows.append(at[i])
                cols.append(at[j])
        return np.concatenate(rows), np.concatenate(cols)

    def _order(
        self, i, j, cliques: list[np.ndarray], gone: np.ndarray, long: np.ndarray, kinds: set[int]
    ) -> np.ndarray:
        """Cones of these kinds first, minimum degree on what they leave, and pivots that are tiny alone moved back."""
        y, N = self.structure, self.N
        each = np.arange(N)
        pattern = sp.csc_array(
            (np.ones(2 * len(i) + N), (np.concatenate([i, j, each]), np.concatenate([j, i, each]))), shape=(N, N)
        )
        members = np.concatenate([np.zeros(0, np.int64), *cliques])
        label = np.repeat(np.arange(len(cliques)), [len(clique) for clique in cliques])
        incidence = sp.csr_array((np.ones(len(members)), (label, members)), shape=(len(cliques), N))
        pattern = sp.csc_array(pattern + incidence.T @ incidence)
        first, block = np.zeros(N, bool), np.arange(N)
        for k in range(len(y.kind)):
            at = self.index[y.start[k] : y.start[k] + y.size[k]]
            if y.kind[k] in kinds and self.extra[k] >= 0:
                first[at[1:][~long[y.start[k] + 1 : y.start[k] + y.size[k]]]] = True
            elif y.kind[k] in kinds:
                first[at], block[at] = True, at[0]
        rest = np.flatnonzero(~first)
        if first.any():
            first = np.flatnonzero(first)
            label = np.unique(block[first], return_inverse=True)[1]
            incidence = sp.csr_array(
                (np.ones(len(first)), (label, np.arange(len(first)))), shape=(label.max() + 1, len(first))
            )
            coupled: Sparse = sp.csr_array(incidence @ pattern[first][:, rest])
            left = sp.csc_array(pattern[rest][:, rest] + coupled.T @ coupled)
            # Rows with the same neighbours stand together, so that they become one supernode.
            names = [tuple(coupled.indices[coupled.indptr[k] : coupled.indptr[k + 1]]) for k in range(coupled.shape[0])]
            first = first[sorted(range(len(first)), key=lambda k: (names[label[k]], label[k], k))]
            order = np.concatenate([first, rest[minimum_degree(left)]])
        else:
            order = minimum_degree(pattern)
        return self._stable(order, gone)

    def _stable(self, order: np.ndarray, gone: np.ndarray) -> np.ndarray:
        """The order with pivots that are zero or tiny by themselves moved behind what makes them large.

        A row of the zero cone goes behind one of its variables. Of an expanded second-order cone, the pivot of the
        first row is about the reciprocal of that of the second further variable u, and the first one v stands for the
        direction in which the cone's inverse scaling is huge: they go behind the cone's variables, in the order u,
        first row, variables that are nowhere else, v.
        """
        y, n, A, P = self.structure, self.program.n, self.program.A, self.program.P
        expanded = np.flatnonzero(self.extra >= 0)
        heads = np.zeros(self.program.m, bool)
        heads[y.start[expanded]] = True
        zero = y.of_kind(ZERO)
        place = np.empty(self.N)
        place[order] = np.arange(self.N)
        before = gone[A.rows] | (~zero & ~heads)[A.rows] & (place[self.index[A.rows]] < place[A.cols])
        solid = np.zeros(n, bool)
        solid[P.rows[P.rows == P.cols]] = True
        solid[A.cols[before]] = True
        by_row = sp.csr_array((np.ones(A.nnz), (A.rows, A.cols)), shape=A.shape)
        for k in expanded:
            row, v, u = y.start[k], self.extra[k], self.extra[k] + 1
            own = by_row.indices[by_row.indptr[row] : by_row.indptr[row + y.size[k]]]
            lone = by_row.indices[by_row.indptr[row] : by_row.indptr[row + 1]]
            lone = lone[~solid[lone]]
            others = self.index[row + 1 : row + y.size[k]]
            last = max(place[np.setdiff1d(own, lone)].max(initial=-1.0), place[others].max())
            place[u], place[self.index[row]], place[lone], place[v] = last + 0.1, last + 0.2, last + 0.3, last + 0.4
        own = zero[A.rows]
        earliest = np.full(self.program.m, np.inf)
        np.minimum.at(earliest, A.rows[own], np.where(solid[A.cols[own]], place[A.cols[own]], np.inf))
        late = zero & np.isfinite(earliest) & (place[self.index] < earliest)
        place[self.index[late]] = earliest[late] + 0.05
        return np.argsort(place, kind="stable")
