"""Turn CVXPY's tensors into patterns and affine maps of the user's parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from cvxlayers.conic.affine import AffineMap
from cvxlayers.conic.program import Pattern


class Columns:
    """The columns of a tensor as functions of the parameter vectors: plain = matrix @ (all vectors, one after another).

    ``matrix`` has one row for each column of the tensor but the last, which multiplies one.
    """

    def __init__(self, matrix: sp.csr_array, sizes: Sequence[int]) -> None:
        self.matrix = sp.csr_array(matrix)
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._counts = np.diff(self.matrix.indptr).astype(np.int64)
        self._simple = bool(np.all(self._counts == 1))

    def substitute(self, rows: np.ndarray, cols: np.ndarray, values: np.ndarray):
        """Entries (row, column of the tensor, value) as entries (row, place in the stacked vectors, value)."""
        if self._simple:
            weights = self.matrix.data[cols]
            return rows, self.matrix.indices[cols].astype(np.int64), values * weights
        counts = self._counts[cols]
        which = np.repeat(np.arange(len(cols)), counts)
        within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        at = self.matrix.indptr[cols[which]] + within
        return rows[which], self.matrix.indices[at].astype(np.int64), values[which] * self.matrix.data[at]


def affine_map(
    size: int, rows: np.ndarray, cols: np.ndarray, values: np.ndarray, columns: Columns, *, compress: bool = False
) -> tuple[AffineMap, np.ndarray]:
    """The map of parameter vectors to a vector of length ``size``, given by the entries of a tensor; entries add up.

    With ``compress`` only the rows that are not identically zero are kept; they come back beside the map, in order.
    """
    constant = cols == columns.matrix.shape[0]
    keep = ~constant
    p_rows, p_cols, p_values = columns.substitute(rows[keep], cols[keep], values[keep])
    c_rows, c_values = rows[constant], values[constant]
    if compress:
        kept = np.unique(np.concatenate([p_rows, c_rows]))
        p_rows, c_rows = np.searchsorted(kept, p_rows), np.searchsorted(kept, c_rows)
    else:
        kept = np.arange(size)
    offset = np.bincount(c_rows, weights=c_values, minlength=len(kept)).astype(float)
    blocks = _blocks(p_rows, p_cols, p_values, len(kept), columns.starts)
    if compress:
        alive = offset != 0
        for block in blocks.values():
            alive |= np.diff(block.indptr) > 0
        if not alive.all():
            kept, offset, blocks = kept[alive], offset[alive], {i: block[alive] for i, block in blocks.items()}
    return AffineMap(offset, blocks), kept


def _blocks(rows, cols, values, height: int, starts: np.ndarray) -> dict[int, sp.csr_array]:
    """Split the columns by parameter; summed, and free of explicit zeros."""
    owner = np.searchsorted(starts, cols, side="right") - 1
    blocks = {}
    order = None
    counts = np.bincount(owner, minlength=len(starts) - 1)
    if np.count_nonzero(counts) > 1:
        order = np.argsort(owner, kind="stable")
    ends = np.cumsum(counts)
    for i in np.flatnonzero(counts):
        part = slice(ends[i] - counts[i], ends[i])
        part = part if order is None else order[part]
        shape = (height, int(starts[i + 1] - starts[i]))
        block = sp.csr_array((values[part], (rows[part], cols[part] - starts[i])), shape)
        block.sum_duplicates()
        block.eliminate_zeros()
        if block.nnz:
            blocks[int(i)] = block
    return blocks


def entries(tensor: sp.sparray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and value of the nonzero entries of a tensor."""
    tensor = sp.coo_array(tensor)
    keep = tensor.data != 0
    if keep.all():
        return tensor.row.astype(np.int64), tensor.col.astype(np.int64), tensor.data
    return tensor.row[keep].astype(np.int64), tensor.col[keep].astype(np.int64), tensor.data[keep]


def matrix_map(
    shape: tuple[int, int], i: np.ndarray, j: np.ndarray, cols: np.ndarray, values: np.ndarray, columns: Columns
) -> tuple[Pattern, AffineMap]:
    """The pattern of a matrix and the map of parameter vectors to its values, from entries at (i, j)."""
    values_map, kept = affine_map(shape[0] * shape[1], j * shape[0] + i, cols, values, columns, compress=True)
    col, row = np.divmod(kept, max(shape[0], 1))
    return Pattern(shape, row, col), values_map
