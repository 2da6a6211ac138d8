"""The CUDA kernels of the native solver, compiled by a host compiler with emulator.hpp, on NumPy arrays."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np

import cvxlayers.solvers.interior_point.cuda.launch as launching
from cvxlayers.sets import Product
from cvxlayers.solvers.interior_point.cuda import blocked, large
from cvxlayers.solvers.interior_point.cuda.sparsity import Sparsity
from cvxlayers.solvers.interior_point.outcome import Outcome

COMPILER = shutil.which("g++")
HERE = Path(__file__).resolve().parent
BLOCK = 64  # rows of the diagonal blocks of a factor in global memory
KERNELS = Path(launching.__file__).resolve().parent


@cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory()


@cache
def _library(name: str, macros: tuple[tuple[str, int], ...]) -> ctypes.CDLL:
    """The text of a kernel as a library with one function, ``run``."""
    assert COMPILER is not None
    out = Path(_folder().name) / f"{name}_{abs(hash(macros))}.so"
    text = f"""
        #include "{HERE}/emulator.hpp"
        #include "{KERNELS}/{name}.cu"
        extern "C" void run(const Arguments *a, int blocks, long bytes) {{
            emulator::launch([a] {{ {name}(*a); }}, blocks, THREADS, bytes, CLUSTER);
        }}
    """
    flags = ["-std=c++17", "-O1", "-U_FORTIFY_SOURCE", "-fPIC", "-shared", "-w", "-xc++", "-"]
    defined = [f"-D{key}={value}" for key, value in macros]
    subprocess.run([COMPILER, *defined, *flags, "-o", str(out)], input=text, text=True, check=True)
    return ctypes.CDLL(str(out))


def run(name: str, launch: launching.Launch, blocks: int, arguments: ctypes.Structure, backwards: bool = False) -> None:
    """Start a kernel on the host."""
    library = _library(name, launch.macros)
    library.run_backwards(int(backwards))
    library.run(ctypes.byref(arguments), blocks * launch.members, ctypes.c_long(launch.shared_bytes))


def _in_workspace(launch: launching.Launch, m: int, vectors: int, cones: int) -> launching.Launch:
    """The same with the vectors of m in global memory, as for many rows."""
    macros = tuple((key, 0 if key == "TALL" else value) for key, value in launch.macros)
    workspace = launch.workspace + vectors * launching.even(m) + cones
    return replace(launch, workspace=workspace, macros=macros)


def in_parts(launch: launching.Launch, kept: int, wide: int) -> launching.Launch:
    """The same with the factor in global memory, in blocks, as for many variables."""
    macros = dict(launch.macros)
    threads = max(128, launch.threads)
    size = 8 * ((macros["VARIABLES"] + 7) // 8)
    macros |= {"LARGE": 1, "BLOCK": BLOCK, "THREADS": threads, "LANES": 32, "CHUNK": threads // 32}
    macros |= {"STATE_AT": launch.workspace, "KEPT": kept}
    workspace = launching.even(launch.workspace + 64 + wide * size + kept)
    macros = tuple(macros.items())
    return replace(launch, threads=threads, shared_bytes=227 * 1024, workspace=workspace, macros=macros, large=True)


@dataclass
class Side:
    """A stream of the host: what is queued has ended. What was copied comes when it is asked for again."""

    stream: int = 0
    copied: np.ndarray | None = None
    asked: bool = False
    recording: bool = False

    def recorded(self) -> bool:
        return self.recording

    def copy(self, address: int, count: int) -> None:
        numbers = (ctypes.c_int32 * count).from_address(address)
        self.copied, self.asked = np.ctypeslib.as_array(numbers).copy(), False

    def came(self) -> np.ndarray | None:
        asked, self.asked = self.asked, True
        return self.copied if asked else None


@dataclass
class Emulated:
    """`cvxlayers.array.cuda.Kernel` on the host."""

    name: str
    launch: launching.Launch
    backwards: bool

    def prepared(self, blocks: int, threads: int, arguments: ctypes.Structure):
        assert threads == self.launch.threads and blocks % self.launch.members == 0
        each = blocks // self.launch.members
        return lambda stream: run(self.name, self.launch, each, arguments, self.backwards)


def run_in_parts(
    name: str, launch: launching.Launch, batch: int, arguments, backwards: bool = False, recording: bool = False
) -> None:
    """`large.run` with emulated kernels."""

    @contextmanager
    def beside(device, count: int, stream: int | None):
        yield [Side(recording=recording) for _ in range(count)]

    def kernel(name: str, launch: launching.Launch, device) -> Emulated:
        return Emulated(name, launch, backwards)

    with mock.patch.object(large, "beside", beside), mock.patch.object(large, "kernel", kernel):
        large.run(name, launch, batch, arguments, None, 0)


def start(name: str, launch: launching.Launch, batch: int, arguments, backwards: bool = False) -> None:
    """Start a kernel on the host, as often as it has to be."""
    (run_in_parts if launch.large else run)(name, launch, batch, arguments, backwards)


def _workspace(launch: launching.Launch, batch: int) -> np.ndarray:
    return np.full(batch * launch.members * launch.workspace + large.scratch(launch, batch) + 1, np.nan)


def _address(array: np.ndarray) -> int:
    return array.ctypes.data


def _table(sparsity: Sparsity | None) -> int | None:
    return None if sparsity is None else _address(sparsity.table)


def _plain(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(np.ascontiguousarray(v, dtype=float) for v in arrays)


def solve(
    cone: Product,
    P,
    q,
    A,
    b,
    tol: float = 1e-8,
    backwards: bool = False,
    workspace: bool = False,
    members: int = 0,
    sparsity: Sparsity | None = None,
    recording: bool = False,
    max_iter: int = 100,
    limit: int = launching.SHARED_BYTES,
) -> Outcome:
    """`cvxlayers.solvers.interior_point.cuda.solve` on NumPy arrays; with ``members``, in parts and by clusters."""
    P, q, A, b = _plain(P, q, A, b)
    rows, (m, n) = launching.layout(cone), A.shape[-2:]
    assert rows is not None
    if sparsity:
        launch = sparsity.solve_launch(limit)
    else:
        launch = launching.solve_launch(rows, n, m, max(members, 1), limit)
    assert launch is not None
    cones = launching.even(rows.socs) + 18 * rows.threes
    if workspace:
        launch = _in_workspace(launch, m, 17, cones)
    if members:
        launch = in_parts(launch, 0 if workspace else 9 * launching.even(m) + cones, 5)
    batch = max(len(v) for v in (P, q, A, b))
    x, z, s, residuals = (np.full((batch, size), 7.0) for size in (n, m, m, 3))
    status, iterations = np.full(batch, -1, np.int32), np.full(batch, -1, np.int32)
    space = _workspace(launch, batch)
    arguments = launching.SolveArguments(
        *map(_address, (P, q, A, b)), *(launching.stride(v, batch) for v in (P, q, A, b)),
        *map(_address, (x, z, s, residuals, status, iterations)),
        *map(_address, (rows.starts, rows.block, rows.semis, rows.alphas, space)), launch.workspace, tol, max_iter, 1,
        _table(sparsity),
    )  # fmt: skip
    if recording:
        run_in_parts("solve", launch, batch, arguments, backwards, recording)
    else:
        start("solve", launch, batch, arguments, backwards)
    assert np.isnan(space[-1])
    return Outcome(x, z, s, status, iterations, residuals)


def linear_solve(
    cone: Product,
    P,
    A,
    z,
    s,
    gx,
    gz,
    backwards: bool = False,
    workspace: bool = False,
    members: int = 0,
    sparsity: Sparsity | None = None,
    limit: int = launching.SHARED_BYTES,
):
    """`cvxlayers.solvers.interior_point.cuda.linear_solve` on NumPy arrays; with ``members`` as `solve`."""
    P, A, z, s, gx, gz = _plain(P, A, z, s, gx, gz)
    rows, (m, n), (several, batch) = launching.layout(cone), A.shape[-2:], gx.shape[:2]
    assert rows is not None
    if sparsity:
        launch = sparsity.linear_launch(limit)
    else:
        launch = launching.linear_launch(rows, n, m, max(members, 1), limit)
    assert launch is not None
    cones = launching.even(3 * rows.socs) + launching.even(9 * rows.threes)
    if workspace:
        launch = _in_workspace(launch, m, 11, cones)
    if members:
        launch = in_parts(launch, 0 if workspace else 3 * launching.even(m) + cones, 1)
    wx, wz, residual = np.full(gx.shape, 7.0), np.full(gz.shape, 7.0), np.full((several, batch), 7.0)
    space = _workspace(launch, batch)
    arguments = launching.LinearArguments(
        *map(_address, (P, A, z, s)), launching.stride(P, batch), launching.stride(A, batch),
        *map(_address, (gx, gz, wx, wz, residual, rows.starts, rows.block, rows.semis, rows.alphas, space)),
        launch.workspace, batch, several, 1, _table(sparsity),
    )  # fmt: skip
    start("linear_solve", launch, batch, arguments, backwards)
    assert np.isnan(space[-1])
    return wx, wz, residual


def pair(cone: Product, u, n: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """`cvxlayers.solvers.interior_point.cuda.pair` on NumPy arrays."""
    (u,), rows = _plain(u), launching.layout(cone)
    assert rows is not None
    launch = launching.pair_launch(rows, n, u.shape[-1])
    assert launch is not None
    z, s = np.full(u.shape, 7.0), np.full(u.shape, 7.0)
    space = np.full(len(u) * launch.workspace + 1, np.nan)
    arguments = launching.PairArguments(
        *map(_address, (u, z, s, rows.starts, rows.block, rows.semis, rows.alphas, space)), launch.workspace
    )
    run("pair", launch, len(u), arguments, backwards=False)
    return z, s


def factor(M, order: int) -> np.ndarray:
    """The inverse Cholesky factors of the leading blocks of matrices (B, n, n), by factor.cu."""
    (M,) = _plain(M)
    W, n = np.full(M.shape, 7.0), M.shape[-1]
    arguments = launching.FactorArguments(_address(M), _address(W), n * n, n * n, n, n, order)
    run("factor", launching.factor_launch(), len(M), arguments, backwards=False)
    return W


def panel(A, B, C, update: bool, going=None, backwards: bool = False) -> np.ndarray:
    """C (batch, rows, columns) by panel.cu; A, B and C are parts of matrices (batch, n, n)."""
    n, rows, columns, depth = A.strides[1] // 8, C.shape[1], C.shape[2], A.shape[2]
    flags = None if going is None else np.array(going, np.int32)
    addresses = (*map(_address, (A, B, C)), flags if flags is None else _address(flags))
    arguments = launching.PanelArguments(*addresses, rows, columns, depth, update)
    blocks = len(C) * launching.panel_tiles(rows, columns)
    run("panel", launching.panel_launch(n), blocks, arguments, backwards)
    return C


def factorized(M, block: int, going=None) -> np.ndarray:
    """The Cholesky factors of matrices by their lower triangles, with inverted diagonal blocks, by kernels."""
    M, n = np.array(M), M.shape[-1]
    L, diagonal = np.full(M.shape, 7.0), np.ascontiguousarray(np.diagonal(M, axis1=-2, axis2=-1))
    M[:, *np.triu_indices(n, 1)] = np.nan
    flags = np.array([1] * len(M) if going is None else going, np.int32)
    for name, launch, blocks, arguments in blocked.factorization(
        *map(_address, (M, L, diagonal, flags)), n, len(M), block
    ):
        run(name, launch, blocks, arguments)
    return L
