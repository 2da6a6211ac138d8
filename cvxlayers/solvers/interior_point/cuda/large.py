"""Programs of a size for which shared memory does not hold the factor: kernels in parts, and products by libraries.

A kernel stops where it needs the factor of P + A'H^-1 A, and leaves the terms of that matrix. Library products make the
factor, for which they take all of the GPU; the next part of the kernel goes on with it (large.cuh).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cvxlayers.array import namespace
from cvxlayers.solvers.interior_point.cuda.blocked import factor_blocks
from cvxlayers.solvers.interior_point.cuda.launch import Resumed

Tensor = Any
Start = Callable[[int, Resumed], None]

MOST_BYTES = 1 << 31  # of the matrices of the problems that are solved at a time
SURE = 5  # parts after which the first problem may have come to its end: looking for it waits for the GPU
WORTHWHILE = 0.75  # a share of problems that go on from which the others are left out


def iterate(start: Start, n: int, m: int, batch: int, like: Tensor, symmetric: bool) -> None:
    """All parts of solve.cu for a batch; ``start(blocks, resumed)`` queues one.

    Where all cones are ``symmetric``, the first factor serves the point to start from.
    """
    xp = namespace(like)
    going = xp.empty((batch,), dtype=xp.int32, device=like.device)
    for elements in _portions(n, m, batch, like):
        rows, matrix, factor = _matrices(n, m, len(elements), like)
        part, count = 0, 0
        while len(elements):
            start(len(elements), _resumed(elements, going, rows, matrix, factor, part))
            part, count = (1 if symmetric and not count else 2), count + 1
            if count >= SURE:
                left = xp.nonzero(going[elements])[0]
                if len(left) <= WORTHWHILE * len(elements):
                    elements, rows, matrix, factor = elements[left], rows[left], matrix[left], factor[: len(left)]
            if len(elements):
                _factor(rows, matrix, factor)


def twice(start: Start, n: int, m: int, batch: int, like: Tensor) -> None:
    """Both parts of linear_solve.cu for a batch."""
    for elements in _portions(n, m, batch, like):
        rows, matrix, factor = _matrices(n, m, len(elements), like)
        start(len(elements), _resumed(elements, None, rows, matrix, factor, 0))
        _factor(rows, matrix, factor)
        start(len(elements), _resumed(elements, None, rows, matrix, factor, 1))


def _portions(n: int, m: int, batch: int, like: Tensor) -> tuple[Tensor, ...]:
    """The numbers of the problems, as many at a time as there is room for."""
    xp = namespace(like)
    size = max(1, MOST_BYTES // (8 * n * (m + 2 * n)))
    return xp.arange(batch, dtype=xp.int32, device=like.device).split(size)


def _matrices(n: int, m: int, count: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the rows of H^(-1/2) A, for the matrix, and for its factor."""
    xp = namespace(like)
    return tuple(xp.empty((count, k, n), dtype=like.dtype, device=like.device) for k in (m, n, n))  # pyright: ignore[reportReturnType]


def _factor(rows: Tensor, matrix: Tensor, factor: Tensor) -> None:
    """The factor of matrix + rows'rows, which takes the place of ``matrix``."""
    matrix.baddbmm_(rows.mT, rows)
    factor_blocks(matrix, factor)


def _resumed(
    elements: Tensor, going: Tensor | None, rows: Tensor, matrix: Tensor, factor: Tensor, part: int
) -> Resumed:
    return Resumed(*(None if v is None else v.data_ptr() for v in (elements, going, rows, matrix, factor)), part)
