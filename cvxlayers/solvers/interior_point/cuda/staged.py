"""The patterns of a program's matrices as the sparse kernels use them: A by rows, and B = W^(1/2) A.

W holds the weights of the cones in an iteration: a number for a linear row, a small matrix for each curved cone. So B
has the pattern of A in linear rows, and in each row of a curved cone entries wherever any row of that cone has one.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.conic.program import ConeProgram
from cvxlayers.solvers.interior_point.cuda.launch import Layout

_LONG = 10.0  # a row with more than this many times sqrt(n) entries may be too long to be squared
_SHARE = 0.25  # and so may one with more than this share of the variables


class Staged:
    """The entries of A, row by row, and those of B: first the ``linear`` ones of linear rows, then cone after cone.

    ``rows`` and ``cols`` are those of A. ``size`` counts the entries of B. ``cliques`` lists, for each curved cone, its
    columns (k,) and the numbers (rows, k) of its entries of B. A unit is one column of one cone: first row, column,
    number of its first entry of B, and how many entries it is to the next row. ``members`` says of which entry of A,
    the number of all for none, each entry of B in a cone has the place.
    """

    def __init__(self, program: ConeProgram, layout: Layout) -> None:
        self.program, self.layout = program, layout
        A, n = program.A, program.n
        by_row = np.lexsort((A.cols, A.rows))
        self.rows, self.cols = A.rows[by_row].astype(np.int64), A.cols[by_row].astype(np.int64)
        self.linear = self.size = int(np.searchsorted(self.rows, layout.linear))
        keys = self.rows * n + self.cols
        units, members, self.cliques = [], [], []
        lengths = np.diff(layout.starts).tolist() + [3] * layout.threes
        starts = layout.starts[:-1].tolist() + [layout.semi + 3 * k for k in range(layout.threes)]
        for start, length in zip(starts, lengths, strict=True):
            own = np.unique(self.cols[slice(*np.searchsorted(self.rows, [start, start + length]))])
            entries = self.size + np.arange(length * len(own)).reshape(length, len(own))
            wanted = ((start + np.arange(length))[:, None] * n + own).ravel()
            at = np.searchsorted(keys, wanted)
            members.append(np.where(np.append(keys, -1)[at] == wanted, at, A.nnz))
            units += [(start, j, self.size + k, len(own)) for k, j in enumerate(own)]
            self.cliques.append((own, entries))
            self.size += entries.size
        self.units = np.array(units, np.int64).reshape(-1, 4)
        self.members = np.concatenate([np.zeros(0, np.int64), *members])

    def squares(self, long: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """What B'B is made of without the ``long`` rows (m,): columns (k,), and entries (rows, k) of B in all these."""
        short = np.flatnonzero((np.arange(len(self.rows)) < self.linear) & ~long[self.rows])
        begins = np.flatnonzero(np.diff(self.rows[short], prepend=-1))
        parts = np.split(short, begins[1:]) if len(begins) else []
        return [(self.cols[part], part[None]) for part in parts] + self.cliques

    def longs(self) -> list[np.ndarray]:
        """Masks (m,) of linear rows that may be too long to be squared, if no variable depends on them."""
        n, m, P = self.program.n, self.program.m, self.program.P
        stored = np.bincount(self.rows, minlength=m) * (np.arange(m) < self.layout.linear)
        solid = np.zeros(n, bool)
        solid[P.rows[P.rows == P.cols]] = True
        masks = {}
        for limit in (n + 1.0, max(_LONG * np.sqrt(n), 40.0), max(_SHARE * n, 8.0)):
            long = stored > limit
            lone = ~solid
            lone[self.cols[~long[self.rows]]] = False
            long[self.rows[lone[self.cols]]] = False  # the pivots of these variables would be next to nothing
            masks[long.tobytes()] = long
        return list(masks.values())
