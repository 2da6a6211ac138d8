"""Compiled kernels of the host inside programs that JAX compiles for the CPU: calls that XLA makes without Python.

`cvxlayers.compiled.calls` has the kernels and says what they leave over; that ends in a `LeftOver`, which is found by a
key, as a program that XLA has compiled may be kept on disk.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cvxlayers.array import foreign
from cvxlayers.compiled.compiler import is_available
from cvxlayers.kernel_map import Block, LeftOver

try:
    from jax import ffi
except ImportError:  # JAX before 0.5
    ffi: Any = None

_programs: dict[int, LeftOver] = {}  # by key; what has been compiled may call them at any time


def key_of(program: LeftOver) -> int:
    """The number by which a call finds its program."""
    key = int.from_bytes(sha256(repr(program).encode()).digest()[:8], "little") >> 1
    _programs[key] = program
    return key


@cache
def available() -> bool:
    """Whether XLA can call the kernels; makes them known to it."""
    if ffi is None or not is_available() or foreign.version() is None:
        return False
    from cvxlayers.compiled import calls

    calls.answer_with(_answer)
    for name, handler in (("cvxlayers_solve", calls.solve), ("cvxlayers_linear_solve", calls.linear_solve)):
        ffi.register_ffi_target(name, ffi.pycapsule(handler.address), platform="cpu")
    return True


def solve(blocks: Sequence[Block], key: int, equalities: int, max_iter: int, alone: int, tol: float) -> list[jax.Array]:
    """See `cvxlayers.kernel_map.Calls`."""
    (m, n), real = blocks[1][0].shape[-2:], _dtype(blocks)  # pyright: ignore[reportOptionalMemberAccess]
    kinds = [((n,), real), ((m,), real), ((m,), real), ((), np.int32), ((3,), real), ((), np.int32)]
    numbers = {"a_key": key, "b_equalities": equalities, "c_max_iter": max_iter, "d_alone": alone}
    return _call("cvxlayers_solve", blocks, kinds, numbers, {"e_tol": np.float64(tol)})


def linear_solve(blocks: Sequence[Block], key: int, equalities: int, alone: int) -> list[jax.Array]:
    """See `cvxlayers.kernel_map.Calls`."""
    (m, n), real = blocks[1][0].shape[-2:], _dtype(blocks)  # pyright: ignore[reportOptionalMemberAccess]
    numbers = {"a_key": key, "b_equalities": equalities, "c_alone": alone}
    return _call("cvxlayers_linear_solve", blocks, [((n,), real), ((m,), real)], numbers, {})


def _call(target: str, blocks: Sequence[Block], kinds: Sequence[tuple], numbers: dict, others: dict) -> list[jax.Array]:
    """The call: its operands all have as many batch dimensions, and its attributes are in the order of their names."""
    lead = np.broadcast_shapes(*(v.shape[: v.ndim - own] for v, own in blocks if v is not None))
    real = _dtype(blocks)
    operands = [
        jnp.zeros((1,) * len(lead) + (0,) * own, real)
        if v is None
        else jnp.reshape(v, (1,) * (len(lead) + own - v.ndim) + v.shape)
        for v, own in blocks
    ]
    shapes = [jax.ShapeDtypeStruct((*lead, *shape), dtype) for shape, dtype in kinds]
    attributes = {name: np.int64(number) for name, number in numbers.items()} | others
    return ffi.ffi_call(target, shapes, vmap_method="expand_dims")(*operands, **attributes)


def _dtype(blocks: Sequence[Block]) -> Any:
    return jnp.result_type(*(v.dtype for v, _ in blocks if v is not None))


# What the kernels leave over


def _answer(address: int, request: int) -> int:
    """Do what a kernel leaves over; the address of an error of XLA's, or 0."""
    frame = foreign.Frame.from_address(address)
    try:  # there is C above: no exception may pass
        if request:
            _serve(request)
        elif foreign.asks_version(frame):
            foreign.tell_version(frame)
        else:
            raise RuntimeError("XLA calls in an unknown way")
    except BaseException as error:
        return foreign.failure(frame, error)
    return 0


def _serve(request: int) -> None:
    """Hand the arrays of a request, as `cvxlayers.compiled.calls` writes it, to the program that it names."""
    kind, key, batch, several, n, m = (ctypes.c_int64 * 6).from_address(request)
    program = _programs.get(key)
    if program is None:
        raise RuntimeError("the layer was traced in another process; trace and compile it in this one")
    numbers = iter((ctypes.c_int64 * 30).from_address(request + 48))

    def array(*shape: int, dtype: Any = ctypes.c_double) -> np.ndarray:
        size = int(np.prod(shape, dtype=int))
        return np.ctypeslib.as_array((dtype * size).from_address(next(numbers))).reshape(shape)

    def stack(*shape: int) -> np.ndarray:
        """Of the batch, or shared by it."""
        size, address = int(np.prod(shape, dtype=int)), next(numbers)
        count = next(numbers)
        values = np.ctypeslib.as_array((ctypes.c_double * (count * size)).from_address(address))
        return values.reshape((count, *shape)) if batch == count else values.reshape(shape)

    elements = np.flatnonzero(array(batch, dtype=ctypes.c_bool))
    if kind == 0:
        P, q, A, b = stack(n, n), stack(n), stack(m, n), stack(m)
        x, z, s = array(batch, n), array(batch, m), array(batch, m)
        status, residuals = array(batch, dtype=ctypes.c_int64), array(batch, 3)
        program.solve(P, q, A, b, elements, x, z, s, status, residuals, array(batch, dtype=ctypes.c_int64))
    else:
        P, A, z, s = stack(n, n), stack(m, n), stack(m), stack(m)
        gx, gz = array(several, batch, n), array(several, batch, m)
        program.linear_solve(P, A, z, s, gx, gz, elements, array(several, batch, n), array(several, batch, m))
