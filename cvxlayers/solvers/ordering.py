"""Rows in the order another solver wants them."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from cvxlayers.conic.program import Pattern
from cvxlayers.sets import PositiveSemidefinite, Product


class Reordering:
    """A with its rows permuted: row k of theirs is row ``rows[k]`` of ours, so v_theirs = v_ours[rows]."""

    def __init__(self, A: Pattern, rows: np.ndarray) -> None:
        self.rows = rows
        theirs = np.empty_like(rows)
        theirs[rows] = np.arange(len(rows))
        moved = theirs[A.rows]
        self._order = np.lexsort((moved, A.cols))  # by column, then by row
        self._shape = A.shape
        self._columns = A.cols[self._order]
        self._indices, self._indptr = moved[self._order].astype(np.int32), A.indptr.astype(np.int32)

    def matrix(self, values: np.ndarray) -> sp.csc_matrix:
        """The permuted matrix with these values, given in our order."""
        return sp.csc_matrix((values[self._order], self._indices, self._indptr), shape=self._shape)

    def values(self, matrix: sp.csc_matrix) -> np.ndarray:
        """The values, in our order, of a matrix with the permuted pattern, whose zeros may be missing."""
        found = np.asarray(matrix.tocsr()[self._indices, self._columns]).ravel()
        out = np.empty(len(found))
        out[self._order] = found
        return out


def lower_triangles(cone: Product) -> np.ndarray:
    """``rows`` for a solver that stores the lower triangle of a semidefinite block column by column.

    >>> lower_triangles(Product((PositiveSemidefinite(3),)))
    array([0, 1, 3, 2, 4, 5])
    """
    rows, start = [], 0
    for block in cone.blocks:
        size = block.size
        if isinstance(block, PositiveSemidefinite):
            # Entry (i, j), i <= j, of the upper triangle lies at j (j + 1) / 2 + i; theirs run over j within i.
            i, j = np.triu_indices(block.k)
            rows.append(start + j * (j + 1) // 2 + i)
        else:
            rows.append(np.arange(start, start + size))
        start += size
    return np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
