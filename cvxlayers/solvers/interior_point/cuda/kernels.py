"""Starting the kernels: arrays in, arrays out."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from cvxlayers.array import constant, namespace
from cvxlayers.array.cuda import Kernel, available, multiprocessors, shared_memory
from cvxlayers.conic.program import ConeProgram
from cvxlayers.sets import Product
from cvxlayers.solvers.interior_point.cuda import large
from cvxlayers.solvers.interior_point.cuda.launch import (
    MOST_COLUMNS,
    Launch,
    Layout,
    LinearArguments,
    PairArguments,
    Resumed,
    SolveArguments,
    kernel,
    layout,
    linear_launch,
    members_of,
    solve_launch,
)
from cvxlayers.solvers.interior_point.cuda.sparsity import Sparsity
from cvxlayers.solvers.interior_point.native import Native
from cvxlayers.solvers.interior_point.outcome import Outcome

Array = Any


def fits(cone: Product, n: int, m: int, device: Any, program: ConeProgram | None = None) -> bool:
    """Whether `solve` takes programs of this shape on this PyTorch device: its cones, its size, and a compiler."""
    if not available(device):
        return False
    if sparsity(program, device) is not None:
        return True
    rows = layout(cone)
    launch = rows and solve_launch(rows, n, m)
    return bool(launch) and launch.shared_bytes <= shared_memory(device)


def sparsity(program: ConeProgram | None, device: Any) -> Sparsity | None:
    """The patterns of a program, where the kernels are faster with them on this device."""
    found = None if program is None else Sparsity.of(program)
    if found is None or not (found.solve_launch and found.linear_launch):
        return None
    most = shared_memory(device)
    return found if max(found.solve_launch.shared_bytes, found.linear_launch.shared_bytes) <= most else None


def solve(
    cone: Product, P: Array, q: Array, A: Array, b: Array, settings: Native, program: ConeProgram | None = None
) -> Outcome:
    """Minimize (1/2)x'Px + q'x subject to Ax + s = b, s in K, for a batch, where `fits`.

    Contiguous float64 CUDA tensors P (B, n, n), q (B, n), A (B, m, n), b (B, m), each with B or 1 in front; what the
    batch shares is read in place. ``program`` tells the patterns of P and A, if they are known. The work is queued on
    the current stream; nothing waits for it.
    """
    rows, (m, n), batch = layout(cone), A.shape[-2:], max(v.shape[0] for v in (P, q, A, b))
    known = sparsity(program, q.device)
    launch = known.solve_launch if known else rows and _clustered(solve_launch, rows, n, m, batch, q.device)
    if not rows or not launch:
        raise ValueError(f"the kernel should be asked `fits` first; it does not take {cone!r} with n = {n}.")
    xp = namespace(P, q, A, b)
    kind = {"dtype": q.dtype, "device": q.device}
    x, z, s = (xp.empty((batch, size), **kind) for size in (n, m, m))
    residuals, workspace = xp.empty((batch, 3), **kind), xp.empty((batch * launch.members * launch.workspace,), **kind)
    status, iterations = (xp.empty((batch,), dtype=xp.int32, device=q.device) for _ in range(2))
    if batch:
        tables = (constant(_table, (rows, name), q).data_ptr() for name in ("starts", "block", "semis", "alphas"))
        arguments = SolveArguments(
            *(v.data_ptr() for v in (P, q, A, b)),
            *(_stride(v, batch) for v in (P, q, A, b)),
            *(v.data_ptr() for v in (x, z, s, residuals, status, iterations)),
            *tables, workspace.data_ptr(), launch.workspace, settings.tol, settings.max_iter, 1, _patterns(known, q),
        )  # fmt: skip
        run = partial(_started, kernel("solve", launch, q.device), launch, arguments)
        if launch.large:
            large.iterate(run, n, m, batch, q, symmetric=not rows.threes)
        else:
            run(batch)
    return Outcome(x, z, s, status, iterations, residuals)


def linear_solve(
    cone: Product,
    P: Array,
    A: Array,
    z: Array,
    s: Array,
    gx: Array,
    gz: Array,
    program: ConeProgram | None = None,
) -> tuple[Array, Array, Array]:
    """(w_x, w_z, residual): the system of `cvxlayers.conic.kkt` at primal-dual pairs, where `fits`.

    Contiguous float64 CUDA tensors P (B, n, n), A (B, m, n), with B or 1 in front, z and s (B, m), and right-hand sides
    gx (R, B, n), gz (R, B, m); ``residual`` (R, B) is relative to the largest entry of a right-hand side. One factor
    serves all R. Elements whose system is singular have a residual that is not small.
    """
    rows, (m, n), (several, batch) = layout(cone), A.shape[-2:], gx.shape[:2]
    known = sparsity(program, gx.device)
    launch = known.linear_launch if known else rows and _clustered(linear_launch, rows, n, m, batch, gx.device)
    if not rows or not launch:
        raise ValueError(f"the kernel should be asked `fits` first; it does not take {cone!r} with n = {n}.")
    xp = namespace(P, A, z, s)
    wx, wz = xp.empty_like(gx), xp.empty_like(gz)
    residual, workspace = (
        xp.empty(shape, dtype=gx.dtype, device=gx.device)
        for shape in ((several, batch), (batch * launch.members * launch.workspace,))
    )
    if several * batch:
        tables = (constant(_table, (rows, name), gx).data_ptr() for name in ("starts", "block", "semis", "alphas"))
        arguments = LinearArguments(
            *(v.data_ptr() for v in (P, A, z, s)), _stride(P, batch), _stride(A, batch),
            *(v.data_ptr() for v in (gx, gz, wx, wz, residual)),
            *tables, workspace.data_ptr(), launch.workspace, batch, several, 1, _patterns(known, gx),
        )  # fmt: skip
        run = partial(_started, kernel("linear_solve", launch, gx.device), launch, arguments)
        if launch.large:
            large.twice(run, n, m, batch, gx)
        else:
            run(batch)
    return wx, wz, residual


def pair(cone: Product, u: Array, n: int) -> tuple[Array, Array]:
    """`cone.pair(u)` for a contiguous float64 CUDA tensor u (B, m), where `fits` says so for n variables."""
    rows, (batch, m) = layout(cone), u.shape
    launch = rows and linear_launch(rows, min(n, MOST_COLUMNS), m)
    if not rows or not launch:
        raise ValueError(f"the kernel should be asked `fits` first; it does not take {cone!r} with n = {n}.")
    xp = namespace(u)
    z, s = xp.empty_like(u), xp.empty_like(u)
    workspace = xp.empty((batch * launch.workspace,), dtype=u.dtype, device=u.device)
    if batch:
        tables = (constant(_table, (rows, name), u).data_ptr() for name in ("starts", "block", "semis", "alphas"))
        arguments = PairArguments(
            *(v.data_ptr() for v in (u, z, s)), *tables, workspace.data_ptr(), launch.workspace
        )  # fmt: skip
        kernel("pair", launch, u.device)(batch, launch.threads, arguments)
    return z, s


_TABLES: WeakKeyDictionary[Sparsity, dict[Any, Array]] = WeakKeyDictionary()


def _patterns(known: Sparsity | None, like: Array) -> int | None:
    """The address of the table of a pattern, on the device of ``like``, kept as long as the pattern is."""
    if known is None:
        return None
    tables = _TABLES.setdefault(known, {})
    if like.device not in tables:
        tables[like.device] = namespace(like).asarray(known.table, device=like.device)
    return tables[like.device].data_ptr()


def _started(
    run: Kernel, launch: Launch, arguments: ctypes.Structure, blocks: int, resumed: Resumed | None = None
) -> None:
    if resumed is not None:
        arguments.resumed = resumed
    run(blocks * launch.members, launch.threads, arguments)


def _clustered(
    launch: Callable[..., Launch | None], rows: Layout, n: int, m: int, batch: int, device: Any
) -> Launch | None:
    """How a kernel is started on a device for a batch of this size."""
    alone = launch(rows, n, m)
    return launch(rows, n, m, members_of(alone, batch, *multiprocessors(device)))


def _stride(v: Array, batch: int) -> int:
    """Numbers from one problem to the next: 0 where all share one."""
    return 0 if v.shape[0] == 1 < batch else v[0].numel()


def _table(rows: Layout, name: str) -> np.ndarray:
    return getattr(rows, name)
