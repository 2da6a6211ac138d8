"""Compiled kernels of the host inside programs that JAX compiles for the CPU: calls that XLA makes without Python.

`cvxlayers.compiled.calls` has the kernels and says what they leave over; that ends in a `LeftOver`, which is found by a
key, as a program that XLA has compiled may be kept on disk.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cvxlayers.compiled.compiler import is_available
from cvxlayers.kernel_map import Block, LeftOver

try:
    from jax import ffi
except ImportError:  # JAX before 0.5
    ffi: Any = None

_MAJOR = 0  # the version of XLA's interface whose structures are known; a minor one only adds to them
_METADATA = 1  # the extension of a frame that asks for the handler's version
_INTERNAL = 13  # the code of an error


_programs: dict[int, LeftOver] = {}  # by key; what has been compiled may call them at any time


def key_of(program: LeftOver) -> int:
    """The number by which a call finds its program."""
    key = int.from_bytes(sha256(repr(program).encode()).digest()[:8], "little") >> 1
    _programs[key] = program
    return key


@cache
def available() -> bool:
    """Whether XLA can call the kernels; makes them known to it."""
    if ffi is None or not is_available() or _version() is None:
        return False
    from cvxlayers.compiled import calls

    calls.answer_with(_answer)
    for name, handler in (("cvxlayers_solve", calls.solve), ("cvxlayers_linear_solve", calls.linear_solve)):
        ffi.register_ffi_target(name, ffi.pycapsule(handler.address), platform="cpu")
    return True


@cache
def _version() -> tuple[int, int] | None:
    """The version of XLA's interface, if its structures are known."""
    try:
        text = (Path(ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h").read_text()
    except OSError:
        return None
    found = [re.search(rf"#define XLA_FFI_API_{part} (\d+)", text) for part in ("MAJOR", "MINOR")]
    major, minor = (-1 if match is None else int(match[1]) for match in found)
    return (major, minor) if major == _MAJOR and minor > 0 else None


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


class _Extension(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("type", ctypes.c_int), ("next", ctypes.c_void_p)]


class _Version(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("major", ctypes.c_int),
        ("minor", ctypes.c_int),
    ]


class _Metadata(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("version", _Version), ("traits", ctypes.c_uint32)]


class _MetadataExtension(ctypes.Structure):
    _fields_ = [("base", _Extension), ("metadata", ctypes.POINTER(_Metadata))]


class _Frame(ctypes.Structure):
    """The first fields of a call's frame."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("api", ctypes.c_void_p),
    ]


class _Api(ctypes.Structure):
    """The first fields of what XLA offers."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("version", _Version),
        ("internal", ctypes.c_void_p),
        ("create_error", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)),
    ]


class _Error(ctypes.Structure):
    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        ("extension", ctypes.c_void_p),
        ("message", ctypes.c_char_p),
        ("code", ctypes.c_int),
    ]


def _answer(frame: int, request: int) -> int:
    """Do what a kernel leaves over; the address of an error of XLA's, or 0."""
    of = _Frame.from_address(frame)
    try:  # there is C above: no exception may pass
        if request:
            _serve(request)
        elif not _tell_version(of):
            raise RuntimeError("XLA calls in an unknown way")
    except BaseException as error:
        api = _Api.from_address(of.api)
        message = f"cvxlayers: {type(error).__name__}: {error}".encode(errors="replace")
        return api.create_error(ctypes.addressof(_Error(ctypes.sizeof(_Error), None, message, _INTERNAL))) or 0
    return 0


def _tell_version(frame: _Frame) -> bool:
    """Answer the question for the version of the handler."""
    if not frame.extension or _Extension.from_address(frame.extension).type != _METADATA:
        return False
    extension = _MetadataExtension.from_address(frame.extension)
    if extension.base.struct_size < ctypes.sizeof(_MetadataExtension):
        return False
    metadata = extension.metadata.contents
    metadata.version.struct_size, metadata.version.extension = ctypes.sizeof(_Version), None
    metadata.version.major, metadata.version.minor = _version() or (0, 0)
    metadata.traits = 0
    return True


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
