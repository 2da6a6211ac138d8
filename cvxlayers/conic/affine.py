"""Affine maps between stacks of vectors: parameters to conic data, conic solutions to variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

Sparse = Any  # a sparse array of SciPy, which has no type hints


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

    def __init__(self, constant: np.ndarray, blocks: Mapping[int, Sparse]) -> None:
        self.constant = np.asarray(constant, dtype=np.float64)
        self.blocks = {i: _Block(matrix) for i, matrix in blocks.items() if matrix.nnz}
        self._starts_at_zero = not self.constant.any()

    @property
    def size(self) -> int:
        return len(self.constant)

    def __call__(self, vectors: Sequence[np.ndarray]) -> np.ndarray:
        """``vectors[i]`` is (size_i,) or (B, size_i); the result is (size,) unless a vector it depends on is a batch.

        The result may be a view of an input or of the constant: it is not to be written on.
        """
        out = None if self._starts_at_zero else self.constant
        for i, block in self.blocks.items():
            out = block.add_to(out, vectors[i])
        return self.constant if out is None else out

    def linear(self, vectors: Sequence[np.ndarray | None]) -> np.ndarray | None:
        """The linear part alone, for tangents; None stands for a zero tangent, and comes back for a zero result."""
        out = None
        for i, block in self.blocks.items():
            vector = vectors[i]
            if vector is not None:
                out = block.add_to(out, vector)
        return out

    def transpose(self, i: int, cotangent: np.ndarray) -> np.ndarray | None:
        """blocks[i]' @ cotangent for (size,) or (B, size); None if the map does not depend on input i."""
        block = self.blocks.get(i)
        return None if block is None else block.transpose(cotangent)


class _Block:
    """One sparse matrix, applied to vectors (size,) and batches (B, size)."""

    def __init__(self, matrix: Sparse) -> None:
        matrix = sp.csr_array(matrix)
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        self.matrix: Sparse = matrix
        self.size, self.input_size = map(int, matrix.shape)
        counts = np.diff(matrix.indptr)
        self.gathers = bool(counts.size) and counts.max() == 1
        if self.gathers:
            self.covers = len(matrix.indices) == self.size
            self.rows = as_slice(np.flatnonzero(counts))
            self.source = as_slice(matrix.indices)
            self.scale = None if np.all(matrix.data == 1.0) else matrix.data
            self.injective = bool(np.bincount(matrix.indices).max() == 1)

    def add_to(self, out: np.ndarray | None, vector: np.ndarray) -> np.ndarray:
        """out + matrix @ vector; ``out`` None stands for zero."""
        if not self.gathers:
            product = sparse_times(self.matrix, vector)
            return product if out is None else out + product
        values = vector[..., self.source]
        if self.scale is not None:
            values = values * self.scale
        if self.covers:
            return values if out is None else out + values
        shape = (*values.shape[:-1], self.size)
        if out is None:
            total = np.zeros(shape)
            total[..., self.rows] = values
            return total
        if out.shape != shape:
            out = np.broadcast_to(out, np.broadcast_shapes(out.shape, shape))
        total = np.array(out)
        total[..., self.rows] += values
        return total

    def transpose(self, cotangent: np.ndarray) -> np.ndarray:
        if not (self.gathers and self.injective):
            return sparse_times(self.matrix.T, cotangent)
        values = cotangent[..., self.rows]
        if self.scale is not None:
            values = values * self.scale
        if values.shape[-1] == self.input_size and isinstance(self.source, slice):
            return values
        out = np.zeros((*cotangent.shape[:-1], self.input_size))
        out[..., self.source] = values
        return out


@dataclass(frozen=True)
class Lift:
    """Parameter vectors to conic data: one affine map for each of P (upper triangle), q, A, b and r (size 1)."""

    P: AffineMap
    q: AffineMap
    A: AffineMap
    b: AffineMap
    r: AffineMap


def sparse_times(matrix: Sparse, vector: np.ndarray) -> np.ndarray:
    """matrix @ vector for (size,) or (*batch, size)."""
    if vector.ndim == 1:
        return matrix @ vector
    flat = matrix @ vector.reshape((int(np.prod(vector.shape[:-1], dtype=int)), vector.shape[-1])).T
    return np.ascontiguousarray(flat.T).reshape(*vector.shape[:-1], matrix.shape[0])


def as_slice(indices: np.ndarray) -> slice | np.ndarray:
    """The indices, as a slice where they are a range: that gathers without a copy."""
    if not len(indices):
        return slice(0, 0)
    start, stop = int(indices[0]), int(indices[0]) + len(indices)
    return slice(start, stop) if np.array_equal(indices, np.arange(start, stop)) else indices.astype(np.int64)
