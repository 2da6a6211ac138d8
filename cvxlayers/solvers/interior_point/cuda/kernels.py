"""Starting the kernels: arrays in, arrays out; PyTorch's on its current stream, JAX's when XLA calls."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import is_jax_array

from cvxlayers.array import constant, jax_cuda, namespace
from cvxlayers.array.cuda import available, device_of, multiprocessors, shared_memory
from cvxlayers.array.once import once
from cvxlayers.conic.program import ConeProgram
from cvxlayers.sets import Product
from cvxlayers.solvers.interior_point.cuda import large
from cvxlayers.solvers.interior_point.cuda.launch import (
    SHARED_BYTES,
    Launch,
    Layout,
    LinearArguments,
    PairArguments,
    SolveArguments,
    kernel,
    layout,
    linear_launch,
    members_of,
    pair_launch,
    solve_launch,
    stride,
)
from cvxlayers.solvers.interior_point.cuda.sparsity import Sparsity
from cvxlayers.solvers.interior_point.native import Native
from cvxlayers.solvers.interior_point.outcome import Outcome

Array = Any

_ARGUMENTS = {"solve": SolveArguments, "linear_solve": LinearArguments, "pair": PairArguments}
_TABLES = ("starts", "block", "semis", "alphas")
_Shapes = Mapping[str, tuple[tuple[int, ...], str]]  # of results, with their dtypes, by name


@dataclass(frozen=True)
class Start:
    """A kernel with all that it is told but addresses: its name, its shape, the numbers among its arguments.

    ``pointers`` are the names of the other arguments, in the order in which their addresses come. A large kernel is
    started as often as it has to be, with others in between; see `large`.
    """

    name: str
    launch: Launch
    blocks: int
    numbers: tuple[tuple[str, float], ...]
    pointers: tuple[str, ...]

    def __call__(self, addresses: Sequence[int], stream: Callable[[], int]) -> None:
        """Queue it on a stream of any device."""
        if self.blocks:
            queue = stream()
            self.queue(addresses, device_of(queue), queue)

    def queue(self, addresses: Sequence[int], device: Any, stream: int | None = None) -> None:
        """Queue it on a stream of this device, or on PyTorch's current one."""
        arguments = self.arguments(addresses)
        if self.launch.large:
            large.run(self.name, self.launch, self.blocks, arguments, device, stream)
        else:
            kernel(self.name, self.launch, device)(self.blocks, self.launch.threads, arguments, stream)

    def compile(self, device: Any) -> None:
        """Have the machine code at hand."""
        for name, launch in ((self.name, self.launch), *(large.between(self.launch) if self.launch.large else ())):
            kernel(name, launch, device)

    def arguments(self, addresses: Sequence[int]) -> ctypes.Structure:
        """The structure that the kernel gets."""
        return _ARGUMENTS[self.name](**dict(self.numbers), **dict(zip(self.pointers, addresses, strict=True)))


def fits(cone: Product, n: int, m: int, device: Any, program: ConeProgram | None = None) -> bool:
    """Whether the kernels take programs of this shape on this device: its cones, its size, and a compiler."""
    if sparse(program, [device]) is not None:
        return True
    rows = layout(cone)
    if not rows or not available(device):
        return False
    limit = _limit([device])
    launches = [solve_launch(rows, n, m, limit=limit), linear_launch(rows, n, m, limit=limit)]
    if not cone.linear:
        launches.append(pair_launch(rows, n, m))
    found = [launch for launch in launches if launch]
    if len(found) < len(launches):
        return False
    needed = [*found, *(launch for _, launch in large.between(found[0]))] if found[0].large else found
    return max(launch.shared_bytes for launch in needed) <= limit


def _limit(devices: Sequence[Any]) -> int:
    """The shared memory, in bytes, that a block is given: what all of the devices have."""
    return min([SHARED_BYTES, *map(shared_memory, devices)])


def in_parts(cone: Product, n: int, m: int) -> bool:
    """Whether `solve` stops where it needs a factor, if it `fits`; see `large`."""
    rows = layout(cone)
    launch = rows and solve_launch(rows, n, m)
    return bool(launch and launch.large)


def sparse(program: ConeProgram | None, devices: Sequence[Any]) -> Sparsity | None:
    """The patterns of a program, where the kernels are faster with them, and fit on these devices."""
    if program is None or not all(available(device) for device in devices):
        return None
    found, limit = Sparsity.of(program), _limit(devices)
    return found if found and found.solve_launch(limit) and found.linear_launch(limit) else None


def solve(
    cone: Product, P: Array, q: Array, A: Array, b: Array, settings: Native, sparsity: Sparsity | None = None
) -> Outcome:
    """Minimize (1/2)x'Px + q'x subject to Ax + s = b, s in K, for a batch, where `fits`.

    Contiguous float64 arrays on a GPU, P (B, n, n), q (B, n), A (B, m, n), b (B, m), each with B or 1 in front; what
    the batch shares is read in place, with ``sparsity`` on its patterns only. The work is queued on the stream of the
    arrays. Nothing waits for it, but where `in_parts` the host, which looks who is done.
    """
    rows, (m, n), batch = layout(cone), A.shape[-2:], max(v.shape[0] for v in (P, q, A, b))
    if sparsity:
        launch = sparsity.solve_launch(_limit(_devices(q)))
    else:
        launch = rows and _clustered(solve_launch, rows, n, m, batch, q)
    if not rows or not launch:
        raise ValueError(f"the kernel should be asked `fits` first; it does not take {cone!r} with n = {n}.")
    data = {"P": P, "q": q, "A": A, "b": b}
    strides = {f"{name}_stride": stride(v, batch) for name, v in data.items()}
    numbers = {"tol": settings.tol, "max_iter": settings.max_iter, "quadratic": 1}
    results: _Shapes = {
        **{name: ((batch, size), "float64") for name, size in (("x", n), ("z", m), ("s", m), ("residuals", 3))},
        **dict.fromkeys(("status", "iterations"), ((batch,), "int32")),
    }
    found = _run("solve", launch, batch, rows, data, strides | numbers, results, sparsity)
    x, z, s, residuals, status, iterations = found
    return Outcome(x, z, s, status, iterations, residuals)


def linear_solve(
    cone: Product,
    P: Array,
    A: Array,
    z: Array,
    s: Array,
    gx: Array,
    gz: Array,
    sparsity: Sparsity | None = None,
) -> tuple[Array, Array, Array]:
    """(w_x, w_z, residual): the system of `cvxlayers.conic.kkt` at primal-dual pairs, where `fits`.

    Contiguous float64 arrays on a GPU, P (B, n, n), A (B, m, n), with B or 1 in front, z and s (B, m), and right-hand
    sides gx (R, B, n), gz (R, B, m); ``residual`` (R, B) is relative to the largest entry of a right-hand side. One
    factor serves all R. Elements whose system is singular have a residual that is not small.
    """
    rows, (m, n), (several, batch) = layout(cone), A.shape[-2:], gx.shape[:2]
    if sparsity:
        launch = sparsity.linear_launch(_limit(_devices(gx)))
    else:
        launch = rows and _clustered(linear_launch, rows, n, m, batch, gx)
    if not rows or not launch:
        raise ValueError(f"the kernel should be asked `fits` first; it does not take {cone!r} with n = {n}.")
    data = {"P": P, "A": A, "z": z, "s": s, "gx": gx, "gz": gz}
    strides = {f"{name}_stride": stride(data[name], batch) for name in "PA"}
    numbers = {"batch": batch, "several": several, "quadratic": 1}
    results: _Shapes = {
        "wx": (tuple(gx.shape), "float64"),
        "wz": (tuple(gz.shape), "float64"),
        "residual": ((several, batch), "float64"),
    }
    blocks = batch if several else 0
    wx, wz, residual = _run("linear_solve", launch, blocks, rows, data, strides | numbers, results, sparsity)
    return wx, wz, residual


def pair(cone: Product, u: Array, n: int) -> tuple[Array, Array]:
    """`cone.pair(u)` for a contiguous float64 array u (B, m) on a GPU, where `fits` says so for n variables."""
    rows, (batch, m) = layout(cone), u.shape
    launch = rows and pair_launch(rows, n, m)
    if not rows or not launch:
        raise ValueError(f"the kernel should be asked `fits` first; it does not take {cone!r} with n = {n}.")
    results: _Shapes = dict.fromkeys("zs", ((batch, m), "float64"))
    z, s = _run("pair", launch, batch, rows, {"u": u}, {}, results)
    return z, s


def _run(
    name: str,
    launch: Launch,
    blocks: int,
    rows: Layout,
    data: Mapping[str, Array],
    numbers: Mapping[str, float],
    results: _Shapes,
    sparsity: Sparsity | None = None,
) -> Sequence[Array]:
    """The results of a kernel, in one cluster of blocks for each element; ``data`` and ``numbers`` by its own names."""
    like = next(iter(data.values()))
    tables = {name: constant(_table, (rows, name), like) for name in _TABLES}
    if sparsity:
        tables["table"] = _patterns(sparsity, like)
    operands = [*data.values(), *tables.values()]
    # One more result: XLA sees to it that its memory is there while the kernel runs.
    space = blocks * launch.members * launch.workspace + large.scratch(launch, blocks)
    wanted = {**results, "workspace": ((max(1, space),), "float64")}
    numbers = {**numbers, "workspace_stride": launch.workspace}
    start = Start(name, launch, blocks, tuple(numbers.items()), (*data, *tables, *wanted))
    if is_jax_array(like):
        return _by_xla(start, operands, list(wanted.values()))[:-1]
    xp, device = namespace(like), like.device
    found = [xp.empty(shape, dtype=getattr(xp, dtype), device=device) for shape, dtype in wanted.values()]
    if blocks:
        start.queue([v.data_ptr() for v in (*operands, *found)], device)
    return found[:-1]


def _patterns(sparsity: Sparsity, like: Array) -> Array:
    """The table of a pattern in the library of ``like``; for PyTorch it stays on the device as long as the pattern."""
    if is_jax_array(like):
        return namespace(like).asarray(sparsity.table)
    device = like.device
    return once(sparsity.kept, device, lambda: namespace(like).asarray(sparsity.table, device=device))


def _clustered(
    launch: Callable[..., Launch | None], rows: Layout, n: int, m: int, batch: int, like: Array
) -> Launch | None:
    """How a kernel is started on the device of ``like``, or on any that JAX may choose, for a batch of this size."""
    devices = _devices(like)
    limit = _limit(devices)
    alone = launch(rows, n, m, limit=limit)
    if alone is None or not alone.large or not batch:
        return alone
    counts, clusters = zip(*map(multiprocessors, devices), strict=True)
    members = members_of(alone, large.portion(n, batch), min(counts), all(clusters))
    return launch(rows, n, m, members, limit) or alone  # members take more memory each


def _devices(like: Array) -> Sequence[Any]:
    """Where ``like`` is, or all devices that JAX may choose."""
    return jax_cuda.devices() if is_jax_array(like) else (like.device,)


def _by_xla(start: Start, operands: Sequence[Array], results: Sequence[tuple[tuple[int, ...], str]]) -> Sequence[Array]:
    """The results as XLA computes them, in a program for CUDA."""
    for device in jax_cuda.devices():  # compiled here rather than while a program runs
        start.compile(device.local_hardware_id)
    return jax_cuda.call(start, operands, results)


def _table(rows: Layout, name: str) -> np.ndarray:
    return getattr(rows, name)
