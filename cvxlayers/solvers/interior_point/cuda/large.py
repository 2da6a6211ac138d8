"""Programs of a size for which shared memory does not hold the factor: kernels in parts, and products by libraries.

A kernel stops where it needs the factor of P + A'H^-1 A, and leaves the terms of that matrix. Library products make the
factor, for which they take all of the GPU; the next part of the kernel goes on with it (large.cuh). A factor's diagonal
blocks take long and occupy few multiprocessors: two halves of a batch go on beside each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cvxlayers.array import namespace, recorded
from cvxlayers.array.cuda import in_turn
from cvxlayers.solvers.interior_point.cuda.blocked import factor_blocks
from cvxlayers.solvers.interior_point.cuda.launch import Resumed

Tensor = Any
Start = Callable[[int, Resumed], None]

BESIDE = 2  # portions of a batch that are solved at the same time
MOST_BYTES = 1 << 30  # of the matrices of one
SURE = 5  # parts after which the first problem may have come to its end: looking for it waits for the GPU
PANEL = 256  # columns of the matrix that are one product: above it, nothing is computed
WORTHWHILE = 0.75  # a share of problems that go on from which the others are left out


def portion(n: int, m: int, batch: int) -> int:
    """How many problems of a batch are solved together."""
    return min(-(-batch // BESIDE), max(1, MOST_BYTES // (8 * n * (m + 2 * n))))


def iterate(start: Start, n: int, m: int, batch: int, like: Tensor, symmetric: bool) -> None:
    """All parts of solve.cu for a batch; ``start(blocks, resumed)`` queues one.

    Where all cones are ``symmetric``, the first factor serves the point to start from.
    """
    xp = namespace(like)
    going = xp.empty((batch,), dtype=xp.int32, device=like.device)

    def parts(elements: Tensor, place: int) -> Iterator[None]:
        with _workplace(n, m, len(elements), like, place) as (matrices, factor):
            part, count = 0, 0
            while True:
                start(len(elements), _resumed(elements, going, matrices, part))
                part, count = (1 if symmetric and not count else 2), count + 1
                if count >= SURE:
                    yield
                    left = xp.nonzero(going[elements])[0]
                    if not len(left):
                        return
                    if factor is _factor and len(left) <= WORTHWHILE * len(elements):
                        elements, matrices = elements[left], tuple(v[left] for v in matrices)
                factor(*matrices)

    _beside(parts, n, m, batch, like)


def twice(start: Start, n: int, m: int, batch: int, like: Tensor) -> None:
    """Both parts of linear_solve.cu for a batch."""

    def parts(elements: Tensor, place: int) -> Iterator[None]:
        with _workplace(n, m, len(elements), like, place) as (matrices, factor):
            start(len(elements), _resumed(elements, None, matrices, 0))
            factor(*matrices)
            start(len(elements), _resumed(elements, None, matrices, 1))
        yield

    _beside(parts, n, m, batch, like)


def _beside(parts: Callable[[Tensor, int], Iterator[None]], n: int, m: int, batch: int, like: Tensor) -> None:
    """The parts of all portions, as many beside each other as there are places: ``parts(elements, place)``."""
    xp = namespace(like)
    portions = xp.arange(batch, dtype=xp.int32, device=like.device).split(portion(n, m, batch))
    for first in range(0, len(portions), BESIDE):
        some = portions[first : first + BESIDE]
        in_turn([parts(elements, place) for place, elements in enumerate(some)], like.device)


@contextmanager
def _workplace(n: int, m: int, count: int, like: Tensor, place: int) -> Iterator[tuple[tuple, Callable[..., Any]]]:
    """Room for the rows of H^(-1/2) A, for the matrices and for their factors; and `_factor`, or a record of it."""
    xp = namespace(like)
    matrices = tuple(xp.empty((count, k, n), dtype=like.dtype, device=like.device) for k in (m, n, n))
    graph = recorded((_factor, place), lambda _, matrices: _factor(*matrices), 1, (), matrices)
    if graph is None:
        yield matrices, _factor
        return
    with graph.session() as replay:
        yield graph.state, lambda *_: replay()


def _factor(rows: Tensor, matrix: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The factor of matrix + rows'rows, of which the lower triangle takes the place of ``matrix``."""
    n = matrix.shape[-1]
    for start in range(0, n, PANEL):
        below, own = slice(start, n), slice(start, start + PANEL)
        matrix[:, below, own].baddbmm_(rows[:, :, below].mT, rows[:, :, own])
    factor_blocks(matrix, factor)
    return rows, matrix, factor


def _resumed(elements: Tensor, going: Tensor | None, matrices: tuple, part: int) -> Resumed:
    return Resumed(*(None if v is None else v.data_ptr() for v in (elements, going, *matrices)), part)
