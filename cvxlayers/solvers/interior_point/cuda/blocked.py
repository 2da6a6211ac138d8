"""Cholesky factors of batches of matrices that shared memory does not hold, by blocks.

The diagonal blocks are factored and inverted by a kernel, everything else is a product of matrices, which GPUs do at
their full speed: PyTorch's for the array text, kernels of our own between the parts of a kernel. Libraries' batched
factorizations take several times as long, and so do substitutions with the factor: its inverse takes its place.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

from cvxlayers.array import namespace
from cvxlayers.array.cuda import reachable, shared_memory
from cvxlayers.solvers.interior_point.cuda.launch import (
    FACTOR_BLOCK,
    FactorArguments,
    Launch,
    PanelArguments,
    factor_launch,
    kernel,
    panel_launch,
    panel_tiles,
)

Tensor = Any


def factors(M: Tensor) -> bool:
    """Whether `inverse_factor` takes M (*batch, n, n)."""
    if not reachable(M) or M.dtype != namespace(M).float64 or 0 in M.shape:
        return False
    return factor_launch().shared_bytes <= shared_memory(M.device)


def inverse_factor(M: Tensor, extra: Tensor | float = 0.0) -> Tensor:
    """W = L^-1 (*batch, n, n), lower triangular, with L L' = M + diag(extra), where `factors`; NaN where that is not
    positive definite.

    M is overwritten. Right-looking: each diagonal block in turn, the panel below it, and the rest without the panel's
    square; then the inverse by rows of blocks, W_i = -W_ii L_i W.
    """
    n = M.shape[-1]
    M.diagonal(dim1=-2, dim2=-1).add_(extra)
    A = M.reshape(-1, n, n).contiguous()
    W = namespace(A).zeros_like(A)
    ends = [*range(0, n, FACTOR_BLOCK), n]
    spans = list(zip(ends, ends[1:], strict=False))
    for start, stop in spans:
        own = slice(start, stop)
        _factor(A, W, start, stop - start)
        if stop < n:
            panel = A[:, stop:, own] @ W[:, own, own].mT
            A[:, stop:, own] = panel
            A[:, stop:, stop:].baddbmm_(panel, panel.mT, alpha=-1.0)
    for start, stop in spans[1:]:
        own, before = slice(start, stop), slice(0, start)
        row = A[:, own, before] @ W[:, before, before]
        W[:, own, before] = (W[:, own, own] @ row).neg_()
    return W.reshape(M.shape)


def _factor(A: Tensor, W: Tensor, start: int, order: int) -> None:
    n, launch, at = A.shape[-1], factor_launch(), 8 * start * (A.shape[-1] + 1)
    arguments = FactorArguments(A.data_ptr() + at, W.data_ptr() + at, n * n, n * n, n, n, order)
    kernel("factor", launch, A.device)(A.shape[0], launch.threads, arguments)


def factorization(
    M: int, L: int, diagonal: int, going: int | None, n: int, count: int, block: int = FACTOR_BLOCK
) -> Iterator[tuple[str, Launch, int, ctypes.Structure]]:
    """The kernels that make of M its Cholesky factor L, with the diagonal blocks inverted, in their order: the name of
    each, how it is compiled and started, its thread blocks, and what it is told.

    M and L are the addresses of ``count`` contiguous matrices (n, n), of which the lower triangles count, ``diagonal``
    that of M's diagonals (count, n), and ``going`` that of an integer for each, 0 where nothing is to be done, if there
    are any. M is overwritten. Left-looking: what is subtracted from a column of blocks is one product. A pivot that is
    nothing beside M's diagonal counts as infinite.
    """

    def at(i: int, j: int) -> int:
        return 8 * (i * n + j)

    def panel(A: int, B: int, C: int, rows: int, columns: int, depth: int, update: int):
        arguments = PanelArguments(A, B, C, going, rows, columns, depth, update)
        return "panel", panel_launch(n), count * panel_tiles(rows, columns), arguments

    for start in range(0, n, block):
        stop, own = min(start + block, n), at(start, start)
        order = stop - start
        if start:
            left = L + at(start, 0)
            yield panel(left, left, M + own, n - start, order, start, 1)
        pivots = (diagonal + 8 * start, n)
        arguments = FactorArguments(M + own, L + own, n * n, n * n, n, n, order, *pivots, going)
        yield "factor", factor_launch(block), count, arguments
        if stop < n:
            yield panel(M + at(stop, start), L + own, L + at(stop, start), n - stop, order, order, 0)
