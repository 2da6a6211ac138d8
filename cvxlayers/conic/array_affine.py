"""Affine maps on any array library: gathers and scalings where the matrix allows, scatter-add elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp

from cvxlayers.array import namespace
from cvxlayers.array.once import once
from cvxlayers.array.scatter import Constant, add_at, indices, take
from cvxlayers.conic.affine import AffineMap, Sparse
from cvxlayers.conic.matrix_map import MatrixMap

Array = Any

_GATHERS = 4  # entries of a row up to which a sum of gathers is faster than a scatter-add


class Rows:
    """A constant sparse matrix, applied to vectors (*batch, size) along the last axis."""

    def __init__(self, matrix: Sparse) -> None:
        matrix = sp.csr_array(matrix)
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        self.size, self.input_size = map(int, matrix.shape)
        counts = np.diff(matrix.indptr)
        most = int(counts.max(initial=0))
        rows = np.flatnonzero(counts)
        self.start = self.stop = -1  # where one slice of rows holds one entry each, and no other row holds any
        self.gathers: list[tuple[Any, float | Constant]] = []
        if most == 1 and len(rows) == rows[-1] - rows[0] + 1:
            self.start, self.stop = int(rows[0]), int(rows[-1]) + 1
            self.gathers.append((indices(matrix.indices), uniform(matrix.data)))
        elif 0 < most <= _GATHERS:
            for k in range(most):
                at, have = matrix.indptr[:-1] + k, counts > k
                source, value = np.zeros(self.size, np.int64), np.zeros(self.size)
                source[have], value[have] = matrix.indices[at[have]], matrix.data[at[have]]
                self.gathers.append((indices(source), uniform(value)))
        else:
            coo = matrix.tocoo()
            self.target, self.source, self.value = indices(coo.coords[0]), indices(coo.coords[1]), uniform(coo.data)

    def piece(self, v: Array) -> Array:
        """The entries start : stop of the product, all that can differ from zero."""
        index, scale = self.gathers[0]
        return scaled(take(v, index), scale)

    def __call__(self, v: Array) -> Array:
        """matrix @ v: (*batch, input_size) to (*batch, size)."""
        if self.start >= 0:
            return add_at(self.piece(v), slice(self.start, self.stop), self.size)
        if self.gathers:
            out = None
            for index, scale in self.gathers:
                part = scaled(take(v, index), scale)
                out = part if out is None else out + part
            return out
        return add_at(scaled(take(v, self.source), self.value), self.target, self.size)


class Affine:
    """An AffineMap on any array library."""

    def __init__(self, map_: AffineMap) -> None:
        self.size = map_.size
        self.blocks = {p: Rows(block.matrix) for p, block in map_.blocks.items()}
        self._matrices = {p: block.matrix for p, block in map_.blocks.items()}
        self._transposed: dict[int, Rows] = {}
        self._constant = Constant(map_.constant)
        self._starts_at_zero = not map_.constant.any()
        # Blocks that fill separate pieces of the result are laid side by side, with pieces of the constant between.
        self._pieces: list[tuple[int | None, Constant | None]] = []
        pieces = sorted((block.start, block.stop, p) for p, block in self.blocks.items())
        ends = [(0, 0, -1), *pieces, (self.size, self.size, -1)]
        if all(a[1] <= b[0] for a, b in zip(ends, ends[1:], strict=False)) and len(self.blocks) > 0:
            for (_, last, _), (start, stop, p) in zip(ends, ends[1:], strict=False):
                if start > last:
                    self._pieces.append((None, Constant(map_.constant[last:start])))
                if p >= 0:
                    own = map_.constant[start:stop]
                    self._pieces.append((p, Constant(own) if own.any() else None))

    def __call__(self, vectors: Sequence[Array]) -> Array:
        """constant + sum of blocks @ vectors, for (*batch, size) vectors; (size,) where no vector enters."""
        if not self.blocks:
            return self._constant.like(vectors[0])
        if self._pieces:
            return self._concatenated(vectors)
        linear = self.linear(vectors)
        return linear if self._starts_at_zero else self._constant.like(linear) + linear

    def _concatenated(self, vectors: Sequence[Array]) -> Array:
        parts, lead = [], ()
        for p, constant in self._pieces:
            if p is None:
                parts.append(constant)
                continue
            part = self.blocks[p].piece(vectors[p])
            parts.append(part if constant is None else part + constant.like(part))
            lead = np.broadcast_shapes(lead, tuple(part.shape[:-1]))
        like = next(part for part in parts if not isinstance(part, Constant))
        if len(parts) == 1:
            return like
        xp = namespace(like)
        parts = [part.like(like) if isinstance(part, Constant) else part for part in parts]
        return xp.concat([xp.broadcast_to(part, (*lead, part.shape[-1])) for part in parts], axis=-1)

    def linear(self, tangents: Sequence[Array | None]) -> Array | None:
        """The linear part; None for zero."""
        out = None
        for p, block in self.blocks.items():
            tangent = tangents[p]
            if tangent is not None:
                part = block(tangent)
                out = part if out is None else out + part
        return out

    def transpose(self, p: int, cotangent: Array) -> Array | None:
        """blocks[p]' @ cotangent; None if the map does not depend on vector p."""
        if p not in self.blocks:
            return None
        return once(self._transposed, p, lambda: Rows(self._matrices[p].T))(cotangent)


class Matrix:
    """A MatrixMap on any array library: input vectors to a dense block (*batch, rows, cols)."""

    def __init__(self, map_: MatrixMap) -> None:
        self.shape, self.is_zero, self.is_diagonal = map_.shape, map_.is_zero, map_.is_diagonal
        self._flat = Affine(map_.map)

    def __call__(self, vectors: Sequence[Array]) -> Array:
        flat = self._flat(vectors)
        return namespace(flat).reshape(flat, (*flat.shape[:-1], *self.shape))


def uniform(values: np.ndarray) -> float | Constant:
    """Weights as one number where they are equal."""
    return float(values[0]) if len(values) and (values == values[0]).all() else Constant(values)


def scaled(v: Array, scale: float | Constant) -> Array:
    """v * scale."""
    if isinstance(scale, Constant):
        return v * scale.like(v)
    return v if scale == 1.0 else v * scale
