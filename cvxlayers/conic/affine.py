"""Affine maps between stacks of vectors: parameters to conic data, conic solutions to variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import scipy.sparse as sp


class AffineMap:
    """y = constant + sum over i of blocks[i] @ vectors[i], on vectors or batches of vectors.

    Parameters
    ----------
    constant : array (size,)
    blocks : mapping from the index of an input vector to a sparse matrix (size, size of that vector)
        Inputs that the result does not depend on are absent.

    A block whose every row holds at most one entry is applied as a gather and scale, which is what almost every block
    of a parametrized program is: a parameter entry is copied to one or two data entries.
    """

    def __init__(self, constant: np.ndarray, blocks: Mapping[int, sp.spmatrix | sp.sparray]) -> None:
        self.constant = np.asarray(constant, dtype=np.float64)
        self.blocks = {i: _Block(matrix) for i, matrix in blocks.items() if matrix.nnz}

    @property
    def size(self) -> int:
        return len(self.constant)

    def __call__(self, vectors: Sequence[np.ndarray]) -> np.ndarray:
        """``vectors[i]`` is (size_i,) or (B, size_i); the result is (size,) unless a vector it depends on is a batch."""
        out = self.constant
        for i, block in self.blocks.items():
            out = block.add_to(out, vectors[i])
        return out

    def linear(self, vectors: Sequence[np.ndarray | None]) -> np.ndarray | None:
        """The linear part alone, for tangents; None stands for a zero tangent, and comes back for a zero result."""
        out = None
        for i, block in self.blocks.items():
            if vectors[i] is not None:
                out = block.add_to(np.zeros(self.size) if out is None else out, vectors[i])
        return out

    def transpose(self, i: int, cotangent: np.ndarray) -> np.ndarray | None:
        """blocks[i]' @ cotangent for (size,) or (B, size); None if the map does not depend on input i."""
        block = self.blocks.get(i)
        return None if block is None else block.transpose(cotangent)


class _Block:
    def __init__(self, matrix) -> None:
        matrix = sp.csr_array(matrix)
        matrix.sum_duplicates()
        self.matrix = matrix
        counts = np.diff(matrix.indptr)
        self.gathers = bool(counts.size) and counts.max() <= 1
        if self.gathers:
            rows = np.flatnonzero(counts)
            self.rows = slice(int(rows[0]), int(rows[-1]) + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows
            self.covers = len(rows) == matrix.shape[0]
            self.source = _as_slice(matrix.indices)
            self.scale = None if np.all(matrix.data == 1.0) else matrix.data
            self.injective = len(np.unique(matrix.indices)) == len(matrix.indices)

    def add_to(self, out: np.ndarray, vector: np.ndarray) -> np.ndarray:
        if not self.gathers:
            product = self.matrix @ vector if vector.ndim == 1 else np.ascontiguousarray((self.matrix @ vector.T).T)
            return out + product
        values = vector[..., self.source]
        if self.scale is not None:
            values = values * self.scale
        if self.covers:
            return out + values
        if values.ndim > out.ndim:
            out = np.broadcast_to(out, (*values.shape[:-1], out.shape[-1]))
        out = out.copy()
        out[..., self.rows] += values
        return out

    def transpose(self, cotangent: np.ndarray) -> np.ndarray:
        if not (self.gathers and self.injective):
            matrix = self.matrix.T
            return matrix @ cotangent if cotangent.ndim == 1 else np.ascontiguousarray((matrix @ cotangent.T).T)
        values = cotangent[..., self.rows]
        if self.scale is not None:
            values = values * self.scale
        out = np.zeros((*cotangent.shape[:-1], self.matrix.shape[1]))
        out[..., self.source] = values
        return out


def _as_slice(indices: np.ndarray) -> slice | np.ndarray:
    start, stop = int(indices[0]), int(indices[0]) + len(indices)
    return slice(start, stop) if np.array_equal(indices, np.arange(start, stop)) else indices.astype(np.int64)
