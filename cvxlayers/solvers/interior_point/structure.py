"""What the compiled interior-point method knows of a program before it sees any values.

The linear system of an iteration is [P, A'; A, -H] with H block diagonal, where the square of a large second-order
cone's scaling, diagonal plus two terms of rank one, becomes a diagonal and two more variables.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import scipy.sparse as sp

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
_EXPANDED = 2  # the size from which a second-order cone gets two variables more instead of a full block
_OVERHEAD = 40.0  # multiplications that a supernode costs beside its own
_LONG = 10.0  # a row with more than this many times sqrt(n) entries is not eliminated first


class Structure:
    """Cones, system and order of elimination of one program, as the arrays that the kernel takes."""

    def __init__(self, program: ConeProgram) -> None:
        self.program = program
        self._cones()
        self._entries()
        self._order()

    def _cones(self) -> None:
        """One line for each cone, neighbouring zero or nonnegative rows being one."""
        kind, start, size, order, alpha, extra, store = [], [], [], [], [], [], []
        row, room, extras = 0, 0, 0
        for cone, count, first in self.program.cone.groups:
            row = first
            for _ in range(count):
                k = _KIND[type(cone)]
                if cone.size == 0:
                    continue
                expanded = k == SECOND_ORDER and cone.size >= _EXPANDED
                kind.append(k)
                start.append(row)
                size.append(cone.size)
                order.append(cone.k if isinstance(cone, PositiveSemidefinite) else 0)
                alpha.append(cone.alpha if isinstance(cone, Power) else 0.0)
                extra.append(self.program.n + self.program.m + extras if expanded else -1)
                store.append(room)
                extras += 2 * expanded
                room += {SECOND_ORDER: 1, SEMIDEFINITE: 3 * order[-1] ** 2, EXPONENTIAL: 27, POWER: 27}.get(k, 0)
                row += cone.size
        self.kind, self.start, self.size, self.cone_order, self.extra, self.store = (
            np.array(v, np.int64) for v in (kind, start, size, order, extra, store)
        )
        self.alpha = np.array(alpha, np.float64)
        self.room = room
        self.N = self.program.n + self.program.m + extras
        self.degree = sum(
            {NONNEGATIVE: s, SECOND_ORDER: 1, SEMIDEFINITE: o, EXPONENTIAL: 3, POWER: 3}.get(k, 0)
            for k, s, o in zip(kind, size, order, strict=True)
        )

    def _entries(self) -> None:
        """Places in the matrix: P, A, and the blocks of H in the order in which the kernel writes them."""
        n = self.program.n
        rows, cols = [], []
        for k in range(len(self.kind)):
            at = n + self.start[k] + np.arange(self.size[k])
            if self.kind[k] <= NONNEGATIVE:
                rows.append(at)
                cols.append(at)
            elif self.extra[k] >= 0:
                e = self.extra[k]
                rows += [at, at[1:], at, [e, e + 1]]
                cols += [at, np.full(len(at) - 1, e), np.full(len(at), e + 1), [e, e + 1]]
            else:
                j, i = np.tril_indices(self.size[k])  # the upper triangle, column by column
                rows.append(at[i])
                cols.append(at[j])
        empty = [np.zeros(0, np.int64)]
        self.H_rows, self.H_cols = np.concatenate(empty + rows), np.concatenate(empty + cols)
        self.sign = np.concatenate([np.ones(n), -np.ones(self.N - n)])
        self.sign[self.extra[self.extra >= 0] + 1] = 1.0

    def _order(self) -> None:
        """The cheaper of: minimum degree on all, and cones first with minimum degree on what they leave."""
        program, n, N = self.program, self.program.n, self.N
        P, A = program.P, program.A
        i = np.concatenate([P.rows, A.cols, self.H_rows])
        j = np.concatenate([P.cols, n + A.rows, self.H_cols])
        pattern = sp.csc_array(
            (np.ones(2 * len(i) + N), (np.concatenate([i, j, np.arange(N)]), np.concatenate([j, i, np.arange(N)]))),
            shape=(N, N),
        )
        stored = np.bincount(A.rows, minlength=program.m)
        long = stored > max(_LONG * np.sqrt(n), 40.0)
        # P without a diagonal entry would be pivots of rounding size: such variables wait for the cones.
        fixed = np.isin(np.arange(n), P.rows[P.rows == P.cols])
        kinds = [{NONNEGATIVE, SECOND_ORDER, SEMIDEFINITE}, {NONNEGATIVE, SECOND_ORDER}] + [set()] * bool(fixed.all())
        block = np.full(N, -1)
        for k in np.flatnonzero(self.kind >= EXPONENTIAL):
            block[n + self.start[k] : n + self.start[k] + 3] = k
        best = None
        for leading in kinds:
            order = self._cones_first(pattern, long, leading)
            found = SupernodalStructure(self._stable(order, fixed), i, j, block)
            cost = found.work + _OVERHEAD * len(found.first)
            if best is None or cost < 0.8 * best[0]:
                best = cost, found
        assert best is not None
        self.system = best[1]
        p = self.system
        self.P_place, self.A_place = p.position(P.rows, P.cols), p.position(A.cols, n + A.rows)
        self.H_place, self.diagonal = p.position(self.H_rows, self.H_cols), p.position(np.arange(N), np.arange(N))

    def _stable(self, order: np.ndarray, fixed: np.ndarray) -> np.ndarray:
        """The order with pivots that are zero or tiny by themselves moved behind what makes them large.

        A row of the zero cone goes behind one of its variables. Of an expanded second-order cone, the pivot of the
        first row is about the reciprocal of that of the first variable u, and the second variable v stands for the
        direction in which the cone's inverse scaling is huge: they go behind the cone's variables, in the order
        u, first row, variables that are nowhere else, v.
        """
        n, A = self.program.n, self.program.A
        zero, first = np.zeros(self.program.m, bool), np.zeros(self.program.m, bool)
        for k in np.flatnonzero(self.kind == ZERO):
            zero[self.start[k] : self.start[k] + self.size[k]] = True
        expanded = np.flatnonzero(self.extra >= 0)
        first[self.start[expanded]] = True
        place = np.empty(self.N)
        place[order] = np.arange(self.N)
        solid = fixed.copy()
        solid[A.cols[~zero[A.rows] & ~first[A.rows] & (place[n + A.rows] < place[A.cols])]] = True
        by_row = sp.csr_array((np.ones(A.nnz), (A.rows, A.cols)), shape=A.shape)
        for k in expanded:
            row, u = self.start[k], self.extra[k] + 1
            own = by_row.indices[by_row.indptr[row] : by_row.indptr[row + self.size[k]]]
            lone = by_row.indices[by_row.indptr[row] : by_row.indptr[row + 1]]
            lone = lone[~solid[lone]]
            last = max(
                place[np.setdiff1d(own, lone)].max(initial=-1.0), place[n + row + 1 : n + row + self.size[k]].max()
            )
            place[u], place[n + row], place[lone], place[u - 1] = last + 0.1, last + 0.2, last + 0.3, last + 0.4
        if zero.any():
            own = zero[A.rows]
            earliest = np.full(self.program.m, np.inf)
            np.minimum.at(earliest, A.rows[own], np.where(solid[A.cols[own]], place[A.cols[own]], np.inf))
            late = zero & np.isfinite(earliest) & (place[n:][: self.program.m] < earliest)
            place[n + np.flatnonzero(late)] = earliest[late] + 0.05
        return np.argsort(place, kind="stable")

    @cached_property
    def arrays(self) -> tuple:
        """The arguments of `cvxlayers.compiled.interior_point.solve` between the values and the settings."""
        P, A, p = self.program.P, self.program.A, self.system
        arrays = (
            *(np.asarray(v, np.int64) for v in (P.rows, P.indptr, A.rows, A.indptr)),
            *(self.kind, self.start, self.size, self.cone_order, self.alpha, self.extra, self.store, self.degree),
            *(p.first, p.begin, p.rows, p.offset, p.base, p.shift, p.relative, p.tail, p.inverted),
            *(self.sign[p.order], p.place, self.P_place, self.A_place, self.H_place, self.diagonal),
        )
        return tuple(np.ascontiguousarray(v) if isinstance(v, np.ndarray) else v for v in arrays)

    def _cones_first(self, pattern: sp.csc_array, long: np.ndarray, kinds: set[int]) -> np.ndarray:
        """The rows of these kinds of cones, of which long ones wait, and of three-dimensional cones; then the rest."""
        n, N = self.program.n, self.N
        leading = np.zeros(N, bool)
        block = np.arange(N)
        for k in range(len(self.kind)):
            at = np.arange(self.start[k], self.start[k] + self.size[k])
            if self.kind[k] >= EXPONENTIAL or (self.kind[k] == SEMIDEFINITE and self.kind[k] in kinds):
                leading[n + at] = True
                block[n + at] = n + at[0]
            elif self.kind[k] in kinds:
                leading[n + at] = ~long[at]
                if self.extra[k] >= 0:
                    leading[n + at[0]] = False
        first, rest = np.flatnonzero(leading), np.flatnonzero(~leading)
        if not len(first):
            return minimum_degree(pattern)
        label = np.unique(block[first], return_inverse=True)[1]
        incidence = sp.csc_array(
            (np.ones(len(first)), (label, np.arange(len(first)))), shape=(label.max() + 1, len(first))
        )
        coupled = sp.csr_array(incidence @ pattern[first][:, rest])
        coupled.data[:] = 1.0
        left = sp.csc_array(pattern[rest][:, rest] + coupled.T @ coupled)
        # Blocks with the same neighbours stand together, so that they become one supernode.
        names = [coupled.indices[coupled.indptr[k] : coupled.indptr[k + 1]] for k in range(coupled.shape[0])]
        names = {k: tuple(np.sort(name).tolist()) for k, name in enumerate(names)}
        # Within a block, rows with few neighbours go first and fill in little.
        few = np.diff(sp.csr_array(pattern[first][:, rest]).indptr)
        turn = sorted(range(len(first)), key=lambda k: (names[int(label[k])], label[k], few[k], k))
        return np.concatenate([first[turn], rest[minimum_degree(left)]])
