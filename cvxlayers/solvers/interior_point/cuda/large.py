"""Programs of a size for which shared memory does not hold the factor: kernels in parts, and products between them.

A kernel stops where it needs the factor of P + A'H^-1 A, and leaves the terms of that matrix. Other kernels make the
matrix and its factor, for which they take all of the GPU, and the next part of the first kernel goes on with it
(large.cuh). A factor's diagonal blocks take long and occupy few multiprocessors: portions of a batch go on beside each
other. All that is asked for are addresses and a stream, so PyTorch and XLA are served alike.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any

from cvxlayers.array.cuda import SIDE_NUMBERS, Prepared, Side, beside
from cvxlayers.solvers.interior_point.cuda.blocked import factorization
from cvxlayers.solvers.interior_point.cuda.launch import (
    GramArguments,
    Launch,
    Resumed,
    even,
    factor_launch,
    gram_launch,
    gram_tiles,
    kernel,
    panel_launch,
)

BESIDE = 3  # portions of a batch that are solved at the same time
MOST_BYTES = 1 << 29  # of the matrices and factors of one


def portion(n: int, batch: int) -> int:
    """How many problems of a batch are solved together."""
    return min(-(-batch // BESIDE), max(1, MOST_BYTES // (16 * n * n)), SIDE_NUMBERS)


def scratch(launch: Launch, batch: int) -> int:
    """The float64 numbers behind a batch's workspace that `run` needs for one of these kernels."""
    if not launch.large or not batch:
        return 0
    return _flags(batch) + len(_places(launch, batch)) * sum(_sizes(launch, batch))


def between(launch: Launch) -> Sequence[tuple[str, Launch]]:
    """The kernels that are started between the parts of this one, with how they are compiled."""
    n, m, linear, block = _shape(launch)
    return ("gram", gram_launch(n, m, linear)), ("factor", factor_launch(block)), ("panel", panel_launch(n))


def run(
    name: str, launch: Launch, batch: int, arguments: ctypes.Structure, device: Any, stream: int | None = None
) -> None:
    """All parts of solve.cu or linear_solve.cu for a batch, queued from a stream on, or from PyTorch's current one.

    The workspace that the arguments name has `scratch` more numbers at its end. Of solve.cu the host looks from time to
    time who is done, and returns when all are; while a CUDA graph is recorded, it records as many parts as there may
    be.
    """
    size = portion(_shape(launch)[0], batch)
    with beside(device, len(_places(launch, batch)), stream) as sides:

        def one(place: int, side: Side) -> Iterator[None]:
            for first in range(place * size, batch, len(sides) * size):
                yield from _PARTS[name](Work(name, launch, batch, arguments, device, side, place, first))

        _in_turn([one(place, side) for place, side in enumerate(sides)])


class Work:
    """A portion of a batch, the problems from ``first`` on, with all that is started for it on a stream of its own.

    ``place`` numbers the portions that are solved at the same time.
    """

    def __init__(
        self,
        name: str,
        launch: Launch,
        batch: int,
        arguments: Any,
        device: Any,
        side: Side,
        place: int,
        first: int,
    ) -> None:
        self.launch, self.device, self.side, self.first = launch, device, side, first
        self.count = min(portion(_shape(launch)[0], batch), batch - first)
        start, sizes = arguments.workspace + 8 * batch * launch.members * launch.workspace, _sizes(launch, batch)
        self.flags = start + 4 * first  # what solve.cu says of these problems
        self.going = self.flags if name == "solve" else None
        own = start + 8 * (_flags(batch) + place * sum(sizes))
        *self.terms, self.factor, self.matrix, self.diagonal = (own + 8 * k for k in accumulate(sizes[:-1], initial=0))
        # The structure that the parts are told, with another part in it for each.
        self.arguments = type(arguments).from_buffer_copy(arguments)
        self.arguments.resumed = Resumed(start, *self.terms, self.factor, first, 0)
        self._part = self._prepared(name, launch, self.count * launch.members, self.arguments)

    def part(self, number: int) -> None:
        """Queue a part of the kernel."""
        self.arguments.resumed.part = number
        self._part(self.side.stream)

    def factorize(self) -> None:
        """Queue what makes the factors of the problems that go on, of the terms that a part left."""
        for start in self._between:
            start(self.side.stream)

    @cached_property
    def _between(self) -> Sequence[Prepared]:
        n, m, linear, block = _shape(self.launch)
        given, number = self.arguments, self.first
        strides = (given.P_stride, given.A_stride)
        P, A = given.P + 8 * number * strides[0], given.A + 8 * number * strides[1]
        gram = GramArguments(P, A, *strides, self.going, *self.terms, self.matrix, self.diagonal)
        blocks = factorization(self.matrix, self.factor, self.diagonal, self.going, n, self.count, block)
        starts = [("gram", gram_launch(n, m, linear), self.count * gram_tiles(n), gram), *blocks]
        return [self._prepared(*start) for start in starts]

    def _prepared(self, name: str, launch: Launch, blocks: int, arguments: ctypes.Structure) -> Prepared:
        return kernel(name, launch, self.device).prepared(blocks, launch.threads, arguments)


def _iterate(work: Work) -> Iterator[None]:
    """The parts of solve.cu. Where all cones are symmetric, the first factor serves the point to start from."""
    symmetric, recorded = not dict(work.launch.macros)["THREES"], work.side.recorded()
    for count in range(work.arguments.max_iter + 2):
        work.part(2 if count > 1 or (count and not symmetric) else count)
        if not recorded:
            work.side.copy(work.flags, work.count)
        if count == 0:
            yield  # other portions begin
        work.factorize()  # before it is known whether a problem goes on, to keep the GPU busy
        if not recorded:
            while (going := work.side.came()) is None:
                yield
            if not going.any():
                return


def _twice(work: Work) -> Iterator[None]:
    """The parts of linear_solve.cu."""
    work.part(0)
    yield  # other portions begin
    work.factorize()
    work.part(1)


_PARTS: dict[str, Callable[[Work], Iterator[None]]] = {"solve": _iterate, "linear_solve": _twice}


def _in_turn(runs: Sequence[Iterator[None]]) -> None:
    """All of the runs, in turn: one yields while it waits for its stream."""
    going = list(runs)
    while going:
        going = [run for run in going if next(run, run) is not run]
        time.sleep(0)  # other threads may go on


def _shape(launch: Launch) -> tuple[int, int, int, int]:
    """Variables and rows, the rows that are not of curved cones, and the rows of a diagonal block."""
    n, m, linear, block = map(dict(launch.macros).__getitem__, ("VARIABLES", "ROWS", "LINEAR", "BLOCK"))
    return n, m, linear, block


def _places(launch: Launch, batch: int) -> range:
    """The first problems of the portions that are solved first."""
    return range(0, batch, portion(_shape(launch)[0], batch))[:BESIDE]


def _flags(batch: int) -> int:
    """Numbers that take an integer for each problem: whether it needs another part."""
    return even((batch + 1) // 2)


def _sizes(launch: Launch, batch: int) -> tuple[int, ...]:
    """Numbers of a portion: the rows, weights and scales of large.cuh, factors, matrices and their diagonals."""
    n, m, linear, _ = _shape(launch)
    return tuple(even(portion(n, batch) * k) for k in ((m - linear) * n, m, n + 2, n * n, n * n, n))
