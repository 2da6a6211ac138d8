"""What the kernels know of a sparse program before they see values.

Whatever is computed, products with P and A, P + B'B, its factor and solutions with it, is a list of sums, dealt out to
the warps by `schedule`. One table holds them all; every problem of a batch reads the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import copy
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from cvxlayers.conic.dissection import nested_dissection
from cvxlayers.conic.program import ConeProgram
from cvxlayers.conic.supernodes import minimum_degree
from cvxlayers.solvers.interior_point.cuda.launch import (
    DIRECTORY,
    MOST_COLUMNS,
    MOST_ROWS,
    SHARED_BYTES,
    Launch,
    Layout,
    layout,
    sparse_linear_launch,
    sparse_solve_launch,
)
from cvxlayers.solvers.interior_point.cuda.schedule import schedule
from cvxlayers.solvers.interior_point.cuda.staged import Staged
from cvxlayers.solvers.interior_point.cuda.symbolic import Elimination, products

_MOST_VARIABLES = 16384  # places in matrices are 32-bit numbers
_MOST_TERMS = 4_000_000  # of one table: it has to stay in the GPU's cache
# What a multiplication of dense matrices costs, by the kernels and by the plain method, and eight columns of a dense
# factorization, in products of a sparse one.
_DENSE, _PLAIN, _COLUMNS = 0.15, 1.0, 20_000.0
_CLEARLY = 0.4  # of the dense cost where the dense kernels fit: from there to the same, either may be the faster one


class Sparsity:
    """The order of elimination, the table and the launches of one sparse program."""

    _known: WeakKeyDictionary[ConeProgram, Sparsity | None] = WeakKeyDictionary()
    _making = threading.Lock()

    @classmethod
    def of(cls, program: ConeProgram) -> Sparsity | None:
        """The sparsity of a program, kept as long as the program is; None where another form is faster.

        ``program.P`` and ``program.A`` hold every entry that may be nonzero.
        """
        if program not in cls._known:
            with cls._making:  # it takes long, and recorded graphs have the addresses of what the first one has
                if program not in cls._known:
                    cls._known[program] = cls._found(copy(program))  # which must not keep its own key alive
        return cls._known[program]

    @classmethod
    def _found(cls, program: ConeProgram) -> Sparsity | None:
        rows = layout(program.cone)
        if rows is None or len(rows.semis) or not 0 < program.n <= _MOST_VARIABLES or program.m > MOST_ROWS:
            return None
        # Before everything is made, which takes long where it is of no use: what the rows bring at least.
        stored = np.sort(np.bincount(program.A.rows, minlength=program.m))[:-10].astype(float)
        if (stored * (stored + 1.0)).sum() / 2.0 > min(_MOST_TERMS, _dense_work(program.n, program.m)):
            return None
        found = cls(program, rows)
        return found if found.pays else None

    def __init__(self, program: ConeProgram, rows: Layout) -> None:
        self.program, self.rows = program, rows
        self.kept: dict[Any, Any] = {}  # copies of the table, by device
        self._launches: dict[tuple, Launch | None] = {}  # each is asked for at every call
        self.staged = Staged(program, rows)
        orders = (nested_dissection, minimum_degree)
        candidates = [Elimination(self.staged, long, find) for long in self.staged.longs() for find in orders]
        self.elimination = min(candidates, key=lambda order: order.cost)
        self.threads = 64 if program.n <= 32 else 128 if program.n <= 128 else 256

    @cached_property
    def pays(self) -> bool:
        """Whether it is expected to be faster than the dense kernels, or the plain method where those do not fit."""
        if self.elimination.terms > _MOST_TERMS or not (self.solve_launch() and self.linear_launch()):
            return False
        share = _CLEARLY if self.program.n <= MOST_COLUMNS else 1.0
        return self.elimination.cost < share * _dense_work(self.program.n, self.program.m)

    def solve_launch(self, limit: int = SHARED_BYTES) -> Launch | None:
        """How `solve` is started where a block may have so many bytes of shared memory; None where it does not fit."""
        return self._launch(sparse_solve_launch, limit)

    def linear_launch(self, limit: int = SHARED_BYTES) -> Launch | None:
        """The same of `linear_solve`."""
        return self._launch(sparse_linear_launch, limit)

    def _launch(self, find: Callable[..., Launch | None], limit: int) -> Launch | None:
        key = (find, limit)
        if key not in self._launches:
            self._launches[key] = find(self.rows, self.program.n, self.program.m, self.threads, self.sizes, limit)
        return self._launches[key]

    @cached_property
    def sizes(self) -> dict[str, int]:
        """What the text is compiled with beside the shape."""
        staged, order = self.staged, self.elimination
        return {
            "PIVOTS": len(order.place), "ENTRIES": order.entries, "A_ENTRIES": self.program.A.nnz,
            "P_ENTRIES": self.program.P.nnz, "STAGED": staged.size, "STAGED_LINEAR": staged.linear,
            "KEPT_ENTRIES": len(order.kept_at), "UNITS": len(staged.units),
        }  # fmt: skip

    @cached_property
    def table(self) -> np.ndarray:
        """The directory, every schedule and every list, as one array of 64-bit words."""
        A, P, order = self.staged, self.program.P, self.elimination
        n, m, entries = self.program.n, self.program.m, self.program.A.nnz
        i, j, value = P.rows.astype(np.int64), P.cols.astype(np.int64), np.arange(P.nnz)
        off = i != j
        sums = (  # in the order of `Sum` and `List` in sparse.cuh
            products(A.rows, m, np.arange(entries), A.cols, entries),
            products(A.cols, n, np.arange(entries), A.rows, entries),
            products(np.append(i, j[off]), n, np.append(value, value[off]), np.append(j, i[off]), P.nnz),
            *(order.squares(), order.elimination(), order.inverses(), order.forward(), order.backward()),
        )
        lists = (
            *(A.rows * n + A.cols, i * n + j, order.position(i, j), order.place[:n]),
            *(order.kept_at, order.kept_place, order.kept_rows, A.units.ravel(), A.members),
        )
        directory, parts, end = [], [], DIRECTORY
        for steps, blocks in (schedule(*of, self.threads // 32) for of in sums):
            directory += [end, len(steps) - 1, end + steps.size]
            parts += [steps.ravel(), blocks.ravel()]
            end += steps.size + blocks.size
        for values in lists:
            directory += [end, len(values)]
            parts.append(values.astype(np.uint64))
            end += len(values)
        ahead = np.zeros(32 * 4, np.uint64)  # `gather` looks four blocks ahead
        return np.concatenate([np.array(directory, np.uint64), *parts, ahead]).view(np.int64)


def _dense_work(n: int, m: int) -> float:
    """What an iteration costs without any pattern, in products of a sparse factorization."""
    return (_DENSE if n <= MOST_COLUMNS else _PLAIN) * (n**3 + m * n**2) / 2.0 + _COLUMNS * n / 8.0
