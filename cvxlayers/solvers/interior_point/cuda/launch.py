"""What a kernel is told: the shape of a program, the size of a thread block, and how much memory it needs."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cvxlayers.array.cuda import Kernel
from cvxlayers.sets import Exponential, Nonnegative, PositiveSemidefinite, Power, Product, SecondOrder, Zero

FOLDER = Path(__file__).parent
SHARED_BYTES = 227 * 1024  # of one block, on the GPUs that have the most
REGISTERS = 128  # that a thread may have
MOST_COLUMNS = 216  # the triangle of a larger matrix does not fit
MOST_LARGE_COLUMNS = 512  # of matrices whose factor is made between two parts of a kernel: one for each thread
MOST_ROWS = 4096
TILE = 64  # rows and columns of a tile of gram.cu and of panel.cu
FACTOR_BLOCK = 128  # rows of a diagonal block of larger matrices
_DEEP, _STAGES = 16, 3  # of the strips of a tile: how much is copied at a time, and how far ahead
FILLED = 0.9  # of all multiprocessors: what clusters of four are sure to reach
MOST_ORDER = 32  # of a semidefinite cone: the lanes of a warp


class Resumed(ctypes.Structure):
    """`Resumed` of large.cuh; the kernels of smaller programs do not look at it."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("going", "rows", "weights", "scales", "factor")),
        *((name, ctypes.c_int) for name in ("first", "part")),
    ]


class SolveArguments(ctypes.Structure):
    """`Arguments` of solve.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("P", "q", "A", "b")),
        *((name, ctypes.c_longlong) for name in ("P_stride", "q_stride", "A_stride", "b_stride")),
        *((name, ctypes.c_void_p) for name in ("x", "z", "s", "residuals", "status", "iterations")),
        *((name, ctypes.c_void_p) for name in ("starts", "block", "semis", "alphas", "workspace")),
        ("workspace_stride", ctypes.c_longlong),
        ("tol", ctypes.c_double),
        ("max_iter", ctypes.c_int),
        ("quadratic", ctypes.c_int),
        ("table", ctypes.c_void_p),
        ("resumed", Resumed),
    ]


class LinearArguments(ctypes.Structure):
    """`Arguments` of linear_solve.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("P", "A", "z", "s")),
        *((name, ctypes.c_longlong) for name in ("P_stride", "A_stride")),
        *((name, ctypes.c_void_p) for name in ("gx", "gz", "wx", "wz", "residual")),
        *((name, ctypes.c_void_p) for name in ("starts", "block", "semis", "alphas", "workspace")),
        ("workspace_stride", ctypes.c_longlong),
        *((name, ctypes.c_int) for name in ("batch", "several", "quadratic")),
        ("table", ctypes.c_void_p),
        ("resumed", Resumed),
    ]


class PairArguments(ctypes.Structure):
    """`Arguments` of pair.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("u", "z", "s", "starts", "block", "semis", "alphas", "workspace")),
        ("workspace_stride", ctypes.c_longlong),
    ]


class FactorArguments(ctypes.Structure):
    """`Arguments` of factor.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("M", "W")),
        *((name, ctypes.c_longlong) for name in ("M_stride", "W_stride")),
        *((name, ctypes.c_int) for name in ("M_row", "W_row", "order")),
        ("diagonal", ctypes.c_void_p),
        ("diagonal_stride", ctypes.c_longlong),
        ("going", ctypes.c_void_p),
    ]


class PanelArguments(ctypes.Structure):
    """`Arguments` of panel.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("A", "B", "C", "going")),
        *((name, ctypes.c_int) for name in ("rows", "columns", "depth", "update")),
    ]


class GramArguments(ctypes.Structure):
    """`Arguments` of gram.cu."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("P", "A")),
        *((name, ctypes.c_longlong) for name in ("P_stride", "A_stride")),
        *((name, ctypes.c_void_p) for name in ("going", "rows", "weights", "scales", "M", "diagonal")),
    ]


@dataclass(frozen=True, eq=False)
class Layout:
    """The rows of a cone as the kernels want them; ``None`` from `layout` where they cannot."""

    zeros: int
    linear: int
    round: int
    semi: int
    starts: np.ndarray
    block: np.ndarray
    semis: np.ndarray  # of each semidefinite cone: first row, order, sums of k^2 and of k before it
    alphas: np.ndarray
    exponentials: int

    @property
    def socs(self) -> int:
        return len(self.starts) - 1

    @property
    def orders(self) -> np.ndarray:
        return self.semis[:, 1]

    @property
    def threes(self) -> int:
        return self.exponentials + len(self.alphas)


@lru_cache(maxsize=256)
def layout(cone: Product) -> Layout | None:
    """The rows of ``cone``; None if it has other cones, or has them in another order."""
    if not cone.canonical:
        return None
    zeros = linear = exponentials = 0
    starts, semis, alphas = [], [], []
    for block, count, start in cone.groups:
        if isinstance(block, Zero):
            zeros = block.size
        if isinstance(block, (Zero, Nonnegative)):
            linear = start + block.size
        elif isinstance(block, SecondOrder):
            starts += [start + k * block.size for k in range(count)]
        elif isinstance(block, PositiveSemidefinite):
            if block.k > MOST_ORDER:
                return None
            semis += [(start + k * block.size, block.k) for k in range(count)]
        elif isinstance(block, Exponential):
            exponentials = count
        elif isinstance(block, Power):
            alphas += [block.alpha] * count
    semi = cone.size - 3 * (exponentials + len(alphas))
    end = semis[0][0] if semis else semi
    starts = np.array([*starts, end], np.int32)
    block = np.repeat(np.arange(len(starts) - 1), np.diff(starts)).astype(np.int32)
    rows, orders = np.array(semis, np.int32).reshape(-1, 2).T
    before = [np.cumsum(v) - v for v in (orders**2, orders)]
    table = np.stack([rows, orders, *before], axis=-1).astype(np.int32)
    return Layout(zeros, linear, end, semi, starts, block, table, np.array(alphas), exponentials)


@dataclass(frozen=True)
class Launch:
    """How a kernel is compiled and started for programs of one shape."""

    threads: int
    shared_bytes: int
    workspace: int  # float64 numbers of one problem
    macros: tuple[tuple[str, int], ...]  # what the text is compiled with
    large: bool = False  # whether it stops where a factor is needed; see large.py
    members: int = 1  # blocks that work on a problem


# The largest n of a class, and its threads, the registers of each, the lanes of a row, and the tiles of a warp. With
# fewer registers more blocks share a multiprocessor, which pays for blocks of a single warp.
_CLASSES = (
    (16, 32, 80, 1, 1),
    (32, 64, REGISTERS, 8, 2),
    (64, 128, REGISTERS, 8, 3),
    (128, 256, REGISTERS, 16, 4),
    (176, 512, REGISTERS, 32, 5),
    (MOST_COLUMNS, 512, REGISTERS, 32, 3),
    (MOST_LARGE_COLUMNS, 512, REGISTERS, 32, 1),
)
_HEADER, _SPARSE_HEADER = 18, 20  # numbers, as in layout.cuh
DIRECTORY = 42  # words of the directory of sparse.cuh
_HEAD = 64  # of a saved state, as in large.cuh


def solve_launch(rows: Layout, n: int, m: int, members: int = 1, limit: int = SHARED_BYTES) -> Launch | None:
    """How `solve` is started, a cluster of ``members`` blocks for each problem; None where it does not fit.

    ``limit`` is the shared memory, in bytes, that a block may have; so below.
    """
    return _launch(rows, n, m, (5, 8), (9, 8), even(rows.socs) + 18 * rows.threes, members, limit)


def linear_launch(rows: Layout, n: int, m: int, members: int = 1, limit: int = SHARED_BYTES) -> Launch | None:
    """How `linear_solve` is started; None where it does not fit."""
    return _launch(rows, n, m, (1, 8), (3, 8), even(3 * rows.socs) + even(9 * rows.threes), members, limit)


@lru_cache(maxsize=256)
def pair_launch(rows: Layout, n: int, m: int) -> Launch | None:
    """How `pair` is started for cones of programs with n variables: of shared memory it has the header alone."""
    launch = linear_launch(rows, min(n, MOST_COLUMNS), m)
    return launch and replace(launch, shared_bytes=8 * _HEADER)


def members_of(launch: Launch | None, batch: int, multiprocessors: int, clusters: bool) -> int:
    """How many blocks should work on a problem of a batch: with fewer, multiprocessors would have none.

    The multiprocessors of a GPU lie in groups, which clusters do not fill altogether.
    """
    if launch is None or not launch.large or not clusters:
        return 1
    return next((k for k in (4, 2) if k * batch <= FILLED * multiprocessors), 1)


def sparse_solve_launch(
    rows: Layout, n: int, m: int, threads: int, sizes: dict[str, int], limit: int = SHARED_BYTES
) -> Launch | None:
    """How `solve` is started where it knows a pattern; see `Sparsity`."""
    return _sparse_launch(rows, n, m, threads, sizes, 13, 17, even(rows.socs) + 18 * rows.threes, limit)


def sparse_linear_launch(
    rows: Layout, n: int, m: int, threads: int, sizes: dict[str, int], limit: int = SHARED_BYTES
) -> Launch | None:
    """How `linear_solve` is started where it knows a pattern."""
    return _sparse_launch(rows, n, m, threads, sizes, 9, 11, even(3 * rows.socs) + even(9 * rows.threes), limit)


@lru_cache(maxsize=8)
def factor_launch(order: int = FACTOR_BLOCK) -> Launch:
    """How `factor` is started for blocks of up to ``order`` rows."""
    rows = layout(Product((Nonnegative(1),)))
    launch = rows and linear_launch(rows, order, 1)
    assert launch is not None
    return launch


@lru_cache(maxsize=256)
def gram_launch(n: int, m: int, linear: int) -> Launch:
    """How `gram` is started, `gram_tiles` blocks for each matrix, where ``linear`` rows are not of curved cones."""
    return _tiled(2 * (TILE + 4) + 1, {"VARIABLES": n, "ROWS": m, "LINEAR": linear})


def gram_tiles(n: int) -> int:
    """Tiles of the lower triangle of a matrix of n rows."""
    side = -(-n // TILE)
    return side * (side + 1) // 2


@lru_cache(maxsize=256)
def panel_launch(n: int) -> Launch:
    """How `panel` is started, `panel_tiles` blocks for each matrix."""
    return _tiled(2 * TILE, {"VARIABLES": n})


def panel_tiles(rows: int, columns: int) -> int:
    """Tiles of a matrix of this shape."""
    return -(-rows // TILE) * -(-columns // TILE)


def _tiled(width: int, macros: dict[str, int]) -> Launch:
    """How a kernel is started whose blocks take a tile each; of ``width`` numbers it copies _DEEP at a time."""
    macros = macros | {"THREADS": 128, "RESIDENT": 4, "CLUSTER": 1, "TILE": TILE, "DEEP": _DEEP, "STAGES": _STAGES}
    return Launch(128, 8 * _STAGES * _DEEP * width, 0, tuple(macros.items()))


@lru_cache(maxsize=256)
def _launch(
    rows: Layout, n: int, m: int, wide: tuple[int, int], tall: tuple[int, int], cones: int, members: int, limit: int
) -> Launch | None:
    """``wide`` and ``tall`` count the vectors of n and of m: those kept, and those dead while the matrix is formed.

    ``cones`` counts the numbers that the scalings of curved cones take.
    """
    if not 0 < n <= MOST_LARGE_COLUMNS or m > MOST_ROWS:
        return None
    _, threads, registers, lanes, tiles = next(c for c in _CLASSES if n <= c[0])
    blocks = (n + 7) // 8
    size, height, warps = 8 * blocks, even(m), threads // 32
    large = n > MOST_COLUMNS
    factor = 0 if large else blocks * (blocks + 1) // 2 * 64
    exchange = (
        4 * max(size, FACTOR_BLOCK, even(-(-m // members))) if members > 1 else 0
    )  # two vectors of a member, in two places
    fixed = _HEADER + factor + size + (warps + 1) * 16 + 2 * threads + exchange + wide[0] * size
    for chunk, shared in ((16, True), (8, True), (16, False), (8, False)):
        if large and chunk < warps:  # a staged row for each warp
            continue
        passing = wide[1] * size + tall[1] * height * shared
        staged = chunk * ((n + 15) // 16 * 16 + 4)
        used = 8 * (fixed + max(staged, passing) + (tall[0] * height + cones) * shared)
        if used <= limit:
            break
    else:
        return None
    resident = _resident(used, threads, registers, limit)
    squares, orders = int((rows.orders**2).sum()), int(rows.orders.sum())
    order = int(rows.orders.max(initial=0))
    # What `cones.cuh` and `projections.cuh` keep of semidefinite cones.
    semidefinite = 5 * squares + 2 * orders + n * (rows.semi - rows.round + 8 * order)
    workspace = 2 * n * rows.socs + semidefinite + (0 if shared else (tall[0] + tall[1]) * height + cones)
    kept = (tall[0] * height + cones) * shared  # numbers after the passing ones in shared memory
    state = even(workspace)
    if large:
        workspace = state + _HEAD + wide[0] * size + even(kept)
    macros = {
        "VARIABLES": n, "ROWS": m, "ZEROS": rows.zeros, "LINEAR": rows.linear, "ROUND": rows.round,
        "SEMI": rows.semi, "SOCS": rows.socs, "SEMIS": len(rows.semis), "SQUARES": squares, "ORDERS": orders,
        "ORDER": order, "THREES": rows.threes, "EXPONENTIALS": rows.exponentials,
        "THREADS": threads, "LANES": lanes, "TILES": tiles, "CHUNK": chunk, "RESIDENT": resident, "TALL": int(shared),
        "LARGE": int(large), "BLOCK": FACTOR_BLOCK, "STATE_AT": state, "KEPT": kept,
        "CLUSTER": members, "EXCHANGE": exchange,
    }  # fmt: skip
    return Launch(threads, used, workspace, tuple(macros.items()), large, members)


def _sparse_launch(
    rows: Layout, n: int, m: int, threads: int, sizes: dict[str, int], wide: int, tall: int, cones: int, limit: int
) -> Launch | None:
    """``wide`` and ``tall`` count the vectors of n and of m, ``cones`` the numbers of the scalings of curved cones."""
    if m > MOST_ROWS:
        return None
    # What may be in shared memory or in the workspace: what is read in the most irregular way has the first claim.
    factor = even(sizes["ENTRIES"] + sizes["PIVOTS"] + 2)
    vectors, height = wide * even(n), tall * even(m) + cones
    fixed = _SPARSE_HEADER + even(DIRECTORY) + (threads // 32 + 1) * 16 + 4 * even(sizes["PIVOTS"])
    for places in ((1, 1, 1), (1, 1, 0), (1, 0, 0), (0, 1, 1), (0, 1, 0), (0, 0, 0)):
        used = 8 * (fixed + sum(p * size for p, size in zip(places, (factor, vectors, height), strict=True)))
        if used <= limit:
            break
    else:
        return None
    resident = _resident(used, threads, REGISTERS, limit)
    values = even(sizes["A_ENTRIES"] + 1) + even(sizes["P_ENTRIES"] + 1) + even(sizes["STAGED"] + 1)
    workspace = values + sum((not p) * size for p, size in zip(places, (factor, vectors, height), strict=True))
    macros = {
        "SPARSE": 1, "VARIABLES": n, "ROWS": m, "ZEROS": rows.zeros, "LINEAR": rows.linear, "ROUND": rows.round,
        "SEMI": rows.semi, "SOCS": rows.socs, "SEMIS": 0, "SQUARES": 0, "ORDERS": 0, "ORDER": 0, "THREES": rows.threes,
        "EXPONENTIALS": rows.exponentials, "THREADS": threads, "RESIDENT": resident, "FACTOR": places[0],
        "WIDE": places[1], "TALL": places[2], "LARGE": 0, "CLUSTER": 1, "EXCHANGE": 0, **sizes,
    }  # fmt: skip
    return Launch(threads, used, workspace, tuple(macros.items()))


def _resident(used: int, threads: int, registers: int, limit: int) -> int:
    """How many blocks share a multiprocessor: as its memory holds, and as leave a thread its registers."""
    return max(1, min(limit // (used + 1024), 65536 // (registers * threads)))


def stride(v: Any, batch: int) -> int:
    """Numbers from one problem of a batch to the next: 0 where all share one."""
    return 0 if v.shape[0] == 1 < batch else int(np.prod(v.shape[1:], dtype=int))


def even(count: int) -> int:
    """The next even number: vectors begin at multiples of 16 bytes."""
    return (count + 1) // 2 * 2


@cache
def kernel(name: str, launch: Launch, device: Any) -> Kernel:
    """The kernel of a file, compiled for one shape and one device."""
    return Kernel(FOLDER / f"{name}.cu", name, dict(launch.macros), launch.shared_bytes, device)
