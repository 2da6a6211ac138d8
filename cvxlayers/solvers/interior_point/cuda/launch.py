"""What a kernel is told: the shape of a program, the size of a thread block, and how much memory it needs."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cvxlayers.sets import Exponential, Nonnegative, Power, Product, SecondOrder, Zero

SHARED_BYTES = 227 * 1024  # of one block, on the GPUs that have the most
MOST_COLUMNS = 224  # the triangle of a larger matrix does not fit
MOST_ROWS = 4096


class Shape(ctypes.Structure):
    """`Shape` of cones.cuh."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("batch", "n", "m", "zeros", "linear", "round")),
        *((name, ctypes.c_int) for name in ("socs", "threes", "exponentials")),
        *((name, ctypes.c_void_p) for name in ("starts", "block", "alphas")),
    ]


class SolveArguments(ctypes.Structure):
    """`Arguments` of solve.cu."""

    _fields_ = [
        ("shape", Shape),
        *((name, ctypes.c_void_p) for name in ("P", "q", "A", "b")),
        *((name, ctypes.c_longlong) for name in ("P_stride", "q_stride", "A_stride", "b_stride")),
        *((name, ctypes.c_void_p) for name in ("x", "z", "s", "residuals", "status", "iterations", "workspace")),
        ("workspace_stride", ctypes.c_longlong),
        ("tol", ctypes.c_double),
        ("max_iter", ctypes.c_int),
        ("quadratic", ctypes.c_int),
    ]


@dataclass(frozen=True, eq=False)
class Layout:
    """The rows of a cone as the kernels want them; ``None`` from `layout` where they cannot."""

    zeros: int
    linear: int
    round: int
    starts: np.ndarray
    block: np.ndarray
    alphas: np.ndarray
    exponentials: int

    @property
    def socs(self) -> int:
        return len(self.starts) - 1

    @property
    def threes(self) -> int:
        return self.exponentials + len(self.alphas)


@lru_cache(maxsize=256)
def layout(cone: Product) -> Layout | None:
    """The rows of ``cone``; None if it has other cones, or has them in another order."""
    zeros = linear = exponentials = 0
    starts, alphas = [], []
    order = (Zero, Nonnegative, SecondOrder, Exponential, Power)
    last = 0
    for block, count, start in cone.groups:
        if type(block) not in order or order.index(type(block)) < last:
            return None
        last = order.index(type(block))
        if isinstance(block, Zero):
            zeros = block.size
        if isinstance(block, (Zero, Nonnegative)):
            linear = start + block.size
        elif isinstance(block, SecondOrder):
            starts += [start + k * block.size for k in range(count)]
        elif isinstance(block, Exponential):
            exponentials = count
        elif isinstance(block, Power):
            alphas += [block.alpha] * count
    end = cone.size - 3 * (exponentials + len(alphas))
    starts = np.array([*starts, end], np.int32)
    block = np.repeat(np.arange(len(starts) - 1), np.diff(starts)).astype(np.int32)
    return Layout(zeros, linear, end, starts, block, np.array(alphas), exponentials)


@dataclass(frozen=True)
class Launch:
    """How a kernel is compiled and started for programs of one shape."""

    threads: int
    lanes: int
    columns: int
    tiles: int
    chunk: int
    resident: int
    curved: bool
    threes: bool
    vectors_shared: bool
    shared_bytes: int
    workspace: int

    @property
    def macros(self) -> dict[str, int]:
        """What the text is compiled with."""
        names = ("threads", "lanes", "columns", "tiles", "chunk", "resident", "curved", "threes", "vectors_shared")
        return {name.upper(): int(getattr(self, name)) for name in names}


def even(count: int) -> int:
    return (count + 1) // 2 * 2


_CLASSES = (  # the largest n of a class, and its threads, lanes, columns and tiles
    (16, 32, 8, 2, 1),
    (32, 64, 8, 4, 2),
    (64, 128, 16, 4, 3),
    (96, 256, 32, 3, 3),
    (128, 256, 32, 4, 5),
    (160, 256, 32, 5, 5),
    (192, 256, 32, 6, 5),
    (MOST_COLUMNS, 256, 32, 7, 5),
)


@lru_cache(maxsize=256)
def solve_launch(rows: Layout, n: int, m: int) -> Launch | None:
    """How `solve` is started; None where it does not fit."""
    if not 0 < n <= MOST_COLUMNS or m > MOST_ROWS:
        return None
    _, threads, lanes, columns, tiles = next(c for c in _CLASSES if n <= c[0])
    blocks = (n + 7) // 8
    size, tall = 8 * blocks, even(m)
    fixed = blocks * (blocks + 1) // 2 * 64 + size + 2 * (threads // 32) * 16 + 2 * threads + 5 * size
    wide, height = 8 * size, 8 * tall
    vectors = 9 * tall + even(rows.socs) + 2 * 6 * rows.threes
    for chunk in (16, 8):
        staged = chunk * ((n + 15) // 16 * 16 + 4)
        for shared in (True, False):
            doubles = fixed + max(staged, wide + height * shared) + vectors * shared
            if 8 * doubles <= SHARED_BYTES:
                workspace = 2 * n * rows.socs + (0 if shared else height + vectors)
                curved = rows.socs + rows.threes > 0
                # As many blocks on a multiprocessor as its memory holds, and as leave a thread 128 registers.
                resident = max(1, min(SHARED_BYTES // (8 * doubles + 1024), 512 // threads))
                launch = Launch(
                    threads, lanes, columns, tiles, chunk, resident,
                    curved, rows.threes > 0, shared, 8 * doubles, workspace,
                )  # fmt: skip
                if shared or chunk == 8:
                    return launch
    return None
