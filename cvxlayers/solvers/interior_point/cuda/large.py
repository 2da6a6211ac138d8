"""Programs of a size for which shared memory does not hold the factor: kernels in parts, and products by libraries.

A kernel stops where it needs the factor of P + A'H^-1 A, and leaves the terms of that matrix. Another one makes the
matrix, library products make its factor, for which they take all of the GPU, and the next part of the first kernel goes
on with it (large.cuh). A factor's diagonal blocks take long and occupy few multiprocessors: portions of a batch go on
beside each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from cvxlayers.array import namespace, recorded
from cvxlayers.array.cuda import in_turn, on_its_way
from cvxlayers.solvers.interior_point.cuda.blocked import factor_blocks
from cvxlayers.solvers.interior_point.cuda.launch import (
    GramArguments,
    Layout,
    Resumed,
    gram_launch,
    gram_tiles,
    kernel,
    stride,
)

Tensor = Any
Start = Callable[[int, Resumed], None]

BESIDE = 3  # portions of a batch that are solved at the same time
MOST_BYTES = 1 << 29  # of the matrices and factors of one


def portion(n: int, batch: int) -> int:
    """How many problems of a batch are solved together."""
    return min(-(-batch // BESIDE), max(1, MOST_BYTES // (16 * n * n)))


def iterate(start: Start, rows: Layout, P: Tensor, A: Tensor, batch: int, symmetric: bool, most: int) -> None:
    """All parts of solve.cu for a batch, at most ``most``; ``start(blocks, resumed)`` queues one.

    Where all cones are ``symmetric``, the first factor serves the point to start from.
    """
    going = namespace(A).empty((batch,), dtype=namespace(A).int32, device=A.device)

    def parts(work: Work) -> Iterator[None]:
        for count in range(most):
            start(work.count, work.resumed(going, 2 if count > 1 or (count and not symmetric) else count))
            copy, came = on_its_way(going)
            work.form(going)  # before it is known whether a problem goes on, to keep the GPU busy
            while not came():
                yield
            if copy is not None and not copy[work.first : work.first + work.count].any():
                return
            work.factorize()

    _beside(parts, rows, P, A, batch)


def twice(start: Start, rows: Layout, P: Tensor, A: Tensor, batch: int) -> None:
    """Both parts of linear_solve.cu for a batch."""

    def parts(work: Work) -> Iterator[None]:
        start(work.count, work.resumed(None, 0))
        work.form(None)
        work.factorize()
        start(work.count, work.resumed(None, 1))
        yield

    _beside(parts, rows, P, A, batch)


def _beside(parts: Callable[[Work], Iterator[None]], rows: Layout, P: Tensor, A: Tensor, batch: int) -> None:
    """The parts of all portions of a batch, BESIDE of them at a time."""

    def run(first: int, place: int) -> Iterator[None]:
        with _work(rows, P, A, batch, first, min(size, batch - first), place) as work:
            yield from parts(work)

    size = portion(A.shape[-1], batch)
    for start in range(0, batch, size * BESIDE):
        firsts = range(start, min(start + size * BESIDE, batch), size)
        in_turn([run(first, place) for place, first in enumerate(firsts)], A.device)


@dataclass(frozen=True)
class Work:
    """A portion of a batch: its problems, the terms of their matrices, and the matrices (count, n, n) and factors."""

    rows: Layout
    P: Tensor
    A: Tensor
    batch: int
    first: int
    count: int
    elements: Tensor
    terms: tuple[Tensor, Tensor, Tensor]  # rows, weights and scales of large.cuh
    matrices: tuple[Tensor, Tensor]
    factorize: Callable[[], Any]

    def resumed(self, going: Tensor | None, part: int) -> Resumed:
        """What a part of a kernel is told."""
        return Resumed(*map(_address, (self.elements, going, *self.terms, self.matrices[1])), part)

    def form(self, going: Tensor | None) -> None:
        """The lower triangle of c d P d + A'H^-1 A of the problems that go on."""
        m, n = self.A.shape[-2:]
        launch = gram_launch(self.rows, n, m)
        strides = (stride(v, self.batch) for v in (self.P, self.A))
        data, terms = (self.P, self.A), (self.elements, going, *self.terms, self.matrices[0])
        arguments = GramArguments(*map(_address, data), *strides, *map(_address, terms))
        kernel("gram", launch, self.A.device)(self.count * gram_tiles(n), launch.threads, arguments)


@contextmanager
def _work(rows: Layout, P: Tensor, A: Tensor, batch: int, first: int, count: int, place: int) -> Iterator[Work]:
    """Room for a portion; the factorization is recorded where that pays."""
    xp, (m, n) = namespace(A), A.shape[-2:]

    def empty(*shape: int) -> Tensor:
        return xp.empty((count, *shape), dtype=A.dtype, device=A.device)

    elements = xp.arange(first, first + count, dtype=xp.int32, device=A.device)
    terms, matrices = (empty(m - rows.linear, n), empty(m), empty(n + 2)), (empty(n, n), empty(n, n))
    work = partial(Work, rows, P, A, batch, first, count, elements, terms)
    graph = recorded((_factor, place), lambda _, matrices: _factor(matrices), 1, (), matrices)
    if graph is None:
        yield work(matrices, partial(_factor, matrices))
        return
    with graph.session() as replay:
        yield work(graph.state, replay)


def _factor(matrices: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    factor_blocks(*matrices)
    return matrices


def _address(v: Tensor | None) -> int | None:
    return None if v is None else v.data_ptr()
