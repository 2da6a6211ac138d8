"""Parameters to blocks of the conic matrices, and the transpose of that map at a sum of outer products.

The derivative of a conic solution with respect to the entries of A (or P) is a matrix of rank two. Forming it on the
whole pattern and scattering it to the parameters would cost more than the solve, so the pull-back reads the rank-two
factors and writes each parameter's gradient at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from cvxlayers.conic.affine import AffineMap, sparse_times
from cvxlayers.conic.program import Pattern


class MatrixMap:
    """The block of a parametrized matrix at ``rows`` and ``cols``, as a dense matrix.

    ``entries`` maps the parameter vectors to the values on ``pattern``. With ``symmetric`` the pattern holds the upper
    triangle of a symmetric matrix. ``scale`` (len(rows),) multiplies the rows.
    """

    def __init__(
        self,
        entries: AffineMap,
        pattern: Pattern,
        rows: np.ndarray,
        cols: np.ndarray,
        *,
        symmetric: bool = False,
        scale: np.ndarray | None = None,
    ) -> None:
        self.shape = (len(rows), len(cols))
        to_row, to_col = _inverse(rows, pattern.shape[0]), _inverse(cols, pattern.shape[1])
        at, i, j = _inside(to_row[pattern.rows], to_col[pattern.cols])
        if symmetric:
            off = np.flatnonzero(pattern.rows != pattern.cols)
            mirrored, mi, mj = _inside(to_row[pattern.cols[off]], to_col[pattern.rows[off]])
            at, i, j = np.concatenate([at, off[mirrored]]), np.concatenate([i, mi]), np.concatenate([j, mj])
        self.is_zero = len(at) == 0
        weight = np.ones(len(at)) if scale is None else scale[i]
        place = sp.csr_array(
            (weight, (i * self.shape[1] + j, at)), shape=(self.shape[0] * self.shape[1], len(entries.constant))
        )
        self.map = AffineMap(place @ entries.constant, {p: place @ b.matrix for p, b in entries.blocks.items()})
        self.depends = tuple(self.map.blocks)

    @property
    def is_diagonal(self) -> bool:
        """Whether all that may be there lies on the diagonal."""
        n = min(self.shape)
        touched = self.map.constant != 0
        for block in self.map.blocks.values():
            touched |= np.diff(block.matrix.indptr) > 0
        i, j = np.divmod(np.flatnonzero(touched), self.shape[1])
        return bool(np.array_equal(i, j)) and self.shape == (n, n)

    def __call__(self, vectors: Sequence[np.ndarray]) -> np.ndarray:
        """(*shape) where shared by the batch, else (B, *shape)."""
        flat = self.map(vectors)
        return flat.reshape(*flat.shape[:-1], *self.shape)


class OuterPullback:
    """Transpose of ``entries`` at the values of sum_r left_r right_r' on the pattern, for one input vector at a time.

    With ``symmetric``, the pattern is an upper triangle whose off-diagonal entries each stand for two.
    """

    def __init__(self, entries: AffineMap, pattern: Pattern, *, symmetric: bool = False) -> None:
        self.inputs = {}
        for p, block in entries.blocks.items():
            coo = block.matrix.tocoo()
            target, source = coo.coords
            rows, cols, value = pattern.rows[target], pattern.cols[target], coo.data
            if symmetric:
                value = value * np.where(rows == cols, 1.0, 2.0)
            order = np.argsort(source, kind="stable")
            self.inputs[p] = _Input(rows[order], cols[order], source[order], value[order], block.input_size)

    def __call__(self, p: int, left: np.ndarray, right: np.ndarray, shared: bool) -> np.ndarray | None:
        """left (*, B, R, rows), right (*, B, R, cols) to (*, B, size of p); (*, size), summed, if ``shared``."""
        part = self.inputs.get(p)
        return None if part is None else part(left, right, shared)


class _Input:
    def __init__(self, rows, cols, source, value, size) -> None:
        self.size, self.rows, self.cols, self.source, self.value = size, rows, cols, source, value
        self.outer = _outer_structure(rows, cols) if _is_bijection(source, size) and np.all(value == value[0]) else None
        if self.outer is None:
            self.scatter = sp.csr_array((value, (source, np.arange(len(source)))), shape=(size, len(source)))

    def __call__(self, left: np.ndarray, right: np.ndarray, shared: bool) -> np.ndarray:
        if self.outer is not None:
            swap, major, minor = self.outer
            if swap:
                left, right = right, left
            left, right = left[..., major], right[..., minor]
            if self.value[0] != 1.0:
                right = right * self.value[0]
            if shared:  # the sum over the batch is one more sum of outer products
                left = left.reshape(*left.shape[:-3], -1, left.shape[-1])
                right = right.reshape(*right.shape[:-3], -1, right.shape[-1])
            product = np.matmul(left.swapaxes(-1, -2), right)
            return product.reshape(*product.shape[:-2], self.size)
        values = np.einsum("...rk,...rk->...k", left[..., self.rows], right[..., self.cols])
        return sparse_times(self.scatter, values.sum(-2) if shared else values)


def _outer_structure(rows: np.ndarray, cols: np.ndarray) -> tuple[bool, np.ndarray | slice, np.ndarray | slice] | None:
    """Index vectors with (rows, cols)[i * q + j] = (major[i], minor[j]), or swapped; None if there are none."""
    for swap, slow, fast in ((False, rows, cols), (True, cols, rows)):
        change = np.flatnonzero(np.diff(slow))
        q = int(change[0]) + 1 if len(change) else len(slow)
        if len(slow) % q:
            continue
        major, minor = slow[::q], fast[:q]
        if np.array_equal(slow, np.repeat(major, q)) and np.array_equal(fast, np.tile(minor, len(major))):
            return swap, _slice_if_range(major), _slice_if_range(minor)
    return None


def _slice_if_range(index: np.ndarray) -> np.ndarray | slice:
    start, stop = int(index[0]), int(index[0]) + len(index)
    return slice(start, stop) if np.array_equal(index, np.arange(start, stop)) else index


def _is_bijection(source: np.ndarray, size: int) -> bool:
    return len(source) == size and np.array_equal(source, np.arange(size))


def _inverse(index: np.ndarray, size: int) -> np.ndarray:
    out = np.full(size, -1, dtype=np.int64)
    out[index] = np.arange(len(index))
    return out


def _inside(i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    at = np.flatnonzero((i >= 0) & (j >= 0))
    return at, i[at], j[at]
