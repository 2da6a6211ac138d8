"""Python functions as targets of XLA's foreign function interface: the frame of a call, read through ctypes.

XLA calls ``XLA_FFI_Error *handler(XLA_FFI_CallFrame *)`` and says in the frame where the operands and the results lie,
and on which stream the work has to be queued. The structures are those of ``xla/ffi/api/c_api.h`` in
``jax.ffi.include_dir()``, as far as they have stayed the same since its version 0.1; each begins with its size, and a
frame that is smaller than it should be is refused.

`cvxlayers.array.jax_cuda` registers `HANDLER`.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

_MAJOR = 0  # of the interface
_EXECUTE = 3  # the stage in which there is work to do
_SCALAR, _INT64 = 3, 5  # the type of an attribute, and of its value
_METADATA = 1  # the extension of a frame that asks for the handler's version
_INTERNAL = 13  # the code of an error


class _Struct(ctypes.Structure):
    """What all structures begin with."""

    _fields_ = [("struct_size", ctypes.c_size_t), ("extension", ctypes.c_void_p)]


class _Version(_Struct):
    _fields_ = [("major", ctypes.c_int), ("minor", ctypes.c_int)]


class _Api(_Struct):
    """The functions that XLA offers, up to the last one used here."""

    _fields_ = [
        ("version", _Version),
        *((name, ctypes.c_void_p) for name in ("internal", "error_create", "error_message", "error_destroy")),
        *((name, ctypes.c_void_p) for name in ("handler_register", "stream_get")),
    ]


class _Values(_Struct):
    """Operands or results: ``count`` addresses of buffers."""

    _fields_ = [
        ("count", ctypes.c_int64),
        ("types", ctypes.POINTER(ctypes.c_int)),
        ("values", ctypes.POINTER(ctypes.c_void_p)),
    ]


class _Attributes(_Struct):
    _fields_ = [
        ("count", ctypes.c_int64),
        ("types", ctypes.POINTER(ctypes.c_int)),
        ("names", ctypes.c_void_p),
        ("values", ctypes.POINTER(ctypes.c_void_p)),
    ]


class Frame(_Struct):
    """What XLA says of a call."""

    _fields_ = [
        ("api", ctypes.POINTER(_Api)),
        ("context", ctypes.c_void_p),
        ("stage", ctypes.c_int),
        ("operands", _Values),
        ("results", _Values),
        ("attributes", _Attributes),
    ]


class _Buffer(_Struct):
    _fields_ = [
        ("dtype", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("rank", ctypes.c_int64),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
    ]


class _Scalar(ctypes.Structure):
    _fields_ = [("dtype", ctypes.c_int), ("value", ctypes.POINTER(ctypes.c_int64))]


class _Extension(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("type", ctypes.c_int), ("next", ctypes.c_void_p)]


class _Metadata(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("version", _Version), ("traits", ctypes.c_uint32)]


class _MetadataExtension(ctypes.Structure):
    _fields_ = [("base", _Extension), ("metadata", ctypes.POINTER(_Metadata))]


class _StreamArguments(_Struct):
    _fields_ = [("context", ctypes.c_void_p), ("stream", ctypes.c_void_p)]


class _ErrorArguments(_Struct):
    _fields_ = [("message", ctypes.c_char_p), ("code", ctypes.c_int)]


class _MessageArguments(_Struct):
    _fields_ = [("error", ctypes.c_void_p), ("message", ctypes.c_char_p), ("code", ctypes.c_int)]


_FUNCTION = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)


class Task(Protocol):
    """What a call has to do. Its ``repr`` says all of it, and is the same in every process."""

    def __call__(self, addresses: Sequence[int], stream: Callable[[], int]) -> None:
        """Do it, with the addresses of the operands and then of the results; ``stream()`` is the stream to queue on.

        The buffers are of the shapes with which the call was traced. An exception fails the computation.
        """
        ...


_TASKS: dict[int, Task] = {}  # by key; what has been compiled may call it at any time


def key_of(task: Task) -> int:
    """The number by which a call finds its task: a hash of what it says, as compiled programs may outlive a process."""
    key = int.from_bytes(hashlib.sha256(repr(task).encode()).digest()[:8], "little") >> 1
    _TASKS[key] = task
    return key


def _handle(address: int) -> int | None:
    """The handler: the task whose key the call has, on the addresses that the frame says."""
    frame = Frame.from_address(address)
    if asks_version(frame):
        return tell_version(frame)
    api = frame.api.contents
    try:
        _check(frame, api)
        if frame.stage != _EXECUTE:
            raise RuntimeError(f"there is nothing to do in stage {frame.stage}")
        task = _TASKS.get(_key(frame.attributes))
        if task is None:
            raise RuntimeError("the call was traced in another process; trace and compile it in this one")
        addresses = [
            _Buffer.from_address(values.values[i]).data or 0
            for values in (frame.operands, frame.results)
            for i in range(values.count)
        ]
        task(addresses, lambda: _stream(frame, api))
    except BaseException as error:  # there is C above: nothing may pass
        return failure(frame, error)
    return None


def asks_version(frame: Frame) -> bool:
    """Whether XLA does not call, but asks for the version of the handler."""
    return bool(frame.extension) and _Extension.from_address(frame.extension).type == _METADATA


def tell_version(frame: Frame) -> None:
    """Say that the handler is of the version that asks: what it reads is the same in all of them.

    XLA refuses a handler whose version it does not know. Older ones hand over no functions to read theirs from.
    """
    extension = _MetadataExtension.from_address(frame.extension)
    if extension.base.struct_size < ctypes.sizeof(_MetadataExtension):
        return
    metadata, known = extension.metadata.contents, frame.api.contents.version if frame.api else None
    metadata.version.struct_size, metadata.version.extension = ctypes.sizeof(_Version), None
    metadata.version.major = _MAJOR
    metadata.version.minor = known.minor if known else (version() or (0, 0))[1]
    metadata.traits = 0


@cache
def version() -> tuple[int, int] | None:
    """The version of the interface according to the headers that came with JAX, if its structures are known."""
    try:
        from jax import ffi

        text = Path(ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    except (ImportError, OSError):  # JAX before 0.5, or without headers
        return None
    found = [re.search(rf"#define XLA_FFI_API_{part} (\d+)", text) for part in ("MAJOR", "MINOR")]
    major, minor = (-1 if match is None else int(match[1]) for match in found)
    return (major, minor) if major == _MAJOR and minor > 0 else None


def _check(frame: Frame, api: _Api) -> None:
    """Refuse structures that are smaller than those above."""
    pairs = ((frame, Frame), (api, _Api), (frame.operands, _Values), (frame.results, _Values))
    for value, kind in (*pairs, (frame.attributes, _Attributes)):
        least = getattr(kind, kind._fields_[-1][0])
        if value.struct_size < least.offset + least.size:
            raise RuntimeError(f"XLA's {kind.__name__[1:]} has {value.struct_size} bytes, which is too few")
    if api.version.major != _MAJOR:
        raise RuntimeError(f"version {api.version.major} of XLA's foreign functions is not known")


def _key(attributes: _Attributes) -> int:
    """The only attribute, an integer of 64 bits."""
    if attributes.count == 1 and attributes.types[0] == _SCALAR:
        scalar = _Scalar.from_address(attributes.values[0])
        if scalar.dtype == _INT64:
            return scalar.value[0]
    raise RuntimeError("the call has not the attribute 'key' alone")


def _stream(frame: Frame, api: _Api) -> int:
    """The stream of the platform, on which the operands are ready and the results are expected."""
    arguments = _StreamArguments(ctypes.sizeof(_StreamArguments), None, frame.context, None)
    error = _FUNCTION(api.stream_get)(ctypes.addressof(arguments))
    if error:
        raise RuntimeError(_message(api, error))
    return arguments.stream or 0


def _message(api: _Api, error: int) -> str:
    """The text of an error of XLA's own, which is destroyed."""
    arguments = _MessageArguments(ctypes.sizeof(_MessageArguments), None, error, None, 0)
    _FUNCTION(api.error_message)(ctypes.addressof(arguments))
    text = (arguments.message or b"").decode(errors="replace")
    destroyed = (ctypes.c_size_t * 3)(3 * ctypes.sizeof(ctypes.c_size_t), 0, error)
    _FUNCTION(api.error_destroy)(ctypes.addressof(destroyed))
    return text


def failure(frame: Frame, error: BaseException) -> int:
    """The address of an error of XLA's that says so."""
    message = f"cvxlayers: {type(error).__name__}: {error}".encode(errors="replace")
    arguments = _ErrorArguments(ctypes.sizeof(_ErrorArguments), None, message, _INTERNAL)
    return _FUNCTION(frame.api.contents.error_create)(ctypes.addressof(arguments))


# C keeps its address: it lives as long as the process.
HANDLER: Any = _FUNCTION(_handle)
