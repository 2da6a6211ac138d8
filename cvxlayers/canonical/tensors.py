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
        self.height = len(self.matrix.indptr) - 1
        self._counts = np.diff(self.matrix.indptr).astype(np.int64)
        self._simple = bool(np.all(self._counts == 1))
        self._unit = bool(np.all(self.matrix.data == 1.0))

    def substitute(self, rows: np.ndarray, cols: np.ndarray, values: np.ndarray):
        """Entries (row, column of the tensor, value) as entries (row, place in the stacked vectors, value)."""
        if self._simple:
            return rows, self.matrix.indices[cols], values if self._unit else values * self.matrix.data[cols]
        counts = self._counts[cols]
        which = np.repeat(np.arange(len(cols)), counts)
        within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        at = self.matrix.indptr[cols[which]] + within
        return rows[which], self.matrix.indices[at], values[which] * self.matrix.data[at]


def affine_map(size: int, rows: np.ndarray, cols: np.ndarray, values: np.ndarray, columns: Columns) -> AffineMap:
    """The map of parameter vectors to a vector of length ``size``, given by the entries of a tensor; entries add up."""
    return AffineMap(*_collect(size, rows, cols, values, columns))


def matrix_map(
    shape: tuple[int, int], i: np.ndarray, j: np.ndarray, cols: np.ndarray, values: np.ndarray, columns: Columns
) -> tuple[Pattern, AffineMap]:
    """The pattern of a matrix and the map of parameter vectors to its values, from tensor entries at (i, j)."""
    order = sp.csc_array((np.ones(len(i), dtype=np.int8), (i, j)), shape)
    order.sum_duplicates()
    row, col = order.indices.astype(np.int64), np.repeat(np.arange(shape[1]), np.diff(order.indptr))
    place = np.searchsorted(col * shape[0] + row, j * shape[0] + i)
    offset, blocks = _collect(len(row), place, cols, values, columns)
    alive = offset != 0
    for block in blocks.values():
        alive |= np.diff(block.indptr) > 0
    if not alive.all():
        row, col, offset = row[alive], col[alive], offset[alive]
        blocks = {i: block[alive] for i, block in blocks.items()}
    return Pattern(shape, row, col), AffineMap(offset, blocks)


def _collect(size, rows, cols, values, columns: Columns) -> tuple[np.ndarray, dict[int, sp.csr_array]]:
    constant = cols == columns.height
    offset = np.bincount(rows[constant], weights=values[constant], minlength=size).astype(float)
    varying = np.flatnonzero(~constant)
    return offset, _blocks(*columns.substitute(rows[varying], cols[varying], values[varying]), size, columns.starts)


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
    row, col, values = tensor.row.astype(np.int64, copy=False), tensor.col.astype(np.int64, copy=False), tensor.data
    keep = np.flatnonzero(values)
    return (row, col, values) if len(keep) == len(values) else (row[keep], col[keep], values[keep])
