"""Cholesky factors of batches of matrices that shared memory does not hold, by blocks.

The diagonal blocks are factored and inverted by a kernel, everything else is a product of matrices, which GPUs do at
their full speed. Libraries' batched factorizations take several times as long, and so do substitutions with the factor:
its inverse takes its place.
"""

from __future__ import annotations

from typing import Any

from cvxlayers.array import namespace
from cvxlayers.array.cuda import reachable, shared_memory
from cvxlayers.solvers.interior_point.cuda.launch import FACTOR_BLOCK, FactorArguments, factor_launch, kernel

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


def factor_blocks(M: Tensor, L: Tensor) -> None:
    """L becomes the Cholesky factor of M, both (batch, n, n) and contiguous, with the diagonal blocks inverted.

    The lower triangle of M is overwritten. Left-looking: what is subtracted from a column of blocks is one product. A
    pivot that is nothing beside M's diagonal counts as infinite.
    """
    n = M.shape[-1]
    diagonal = M.diagonal(dim1=-2, dim2=-1).contiguous()
    for start in range(0, n, FACTOR_BLOCK):
        stop = min(start + FACTOR_BLOCK, n)
        own = slice(start, stop)
        if start:
            M[:, start:, own].baddbmm_(L[:, start:, :start], L[:, own, :start].mT, alpha=-1.0)
        _factor(M, L, start, stop - start, diagonal)
        if stop < n:
            L[:, stop:, own].baddbmm_(M[:, stop:, own], L[:, own, own].mT, beta=0.0)


def _factor(A: Tensor, W: Tensor, start: int, order: int, diagonal: Tensor | None = None) -> None:
    n, launch = A.shape[-1], factor_launch()
    at, own = 8 * start * (n + 1), None if diagonal is None else diagonal.data_ptr() + 8 * start
    arguments = FactorArguments(A.data_ptr() + at, W.data_ptr() + at, n * n, n * n, n, n, order, own, n)
    kernel("factor", launch, A.device)(A.shape[0], launch.threads, arguments)
