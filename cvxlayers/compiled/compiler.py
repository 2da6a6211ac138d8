"""Compiling a kernel: to machine code that holds no lock and is kept on disk, or not at all where Numba is missing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import Any

Function = Callable[..., Any]

_LONG = 2.0  # seconds of compilation after which to say what is going on
_log = logging.getLogger("cvxlayers")

# Nobody takes a kernel for a C function, and the way in for one takes as long to compile as a short function.
_OPTIONS = {"error_model": "numpy", "no_cfunc_wrapper": True}


def is_available() -> bool:
    """Whether Numba is installed."""
    return find_spec("numba") is not None


def kernel(signature: str) -> Callable[[Function], Function]:
    """Compile a function for one signature, when its module is imported; without Numba the function stays Python.

    Floating-point operations are those of IEEE 754 in the order written, so that an element of a batch gets the same
    bits whatever else is in the batch.
    """

    def decorate(function: Function) -> Function:
        if not is_available():
            return function
        from numba import njit

        # Numba's cache goes by the name of the function and the age of its file; `inner` functions of other files
        # count too, so their text becomes part of the name.
        function.__qualname__ = f"{function.__qualname__}_{_text()}"
        options = {"nogil": True, **_OPTIONS}
        with _announced():
            try:
                return njit(signature, cache=True, **options)(function)
            except RuntimeError:  # no folder to keep it in
                return njit(signature, **options)(function)

    return decorate


@contextmanager
def _announced() -> Iterator[None]:
    """Say so when what is done takes long: a program that compiles looks like one that hangs."""
    timer = Timer(_LONG, _announce)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@lru_cache(maxsize=1)  # once in a process is enough
def _announce() -> None:
    _log.warning("cvxlayers compiles kernels for this machine, which takes up to a minute; Numba keeps them on disk.")


def handler(function: Function) -> Any:
    """Compile a function of one address, which returns one, for calls from C; ``.address`` is what C calls."""
    from numba import cfunc

    function.__qualname__ = f"{function.__qualname__}_{_text()}"
    try:
        return cfunc("i8(i8)", cache=True, error_model="numpy")(function)
    except RuntimeError:  # no folder to keep it in
        return cfunc("i8(i8)", error_model="numpy")(function)


def linked(kernel: Any) -> Function:
    """The kernel, with its arguments in a tuple, for other compiled code: called, and not compiled again with it.

    It goes by a name among the symbols of this process, so that the caller can be kept on disk.
    """
    import llvmlite.binding
    from numba.core import cgutils
    from numba.extending import intrinsic

    ((types, compiled),) = kernel.overloads.items()
    name = f"cvxlayers_{kernel.py_func.__module__.rpartition('.')[2]}_{kernel.py_func.__qualname__}"
    llvmlite.binding.add_symbol(name, compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name))

    def build(context, builder, signature, values):
        given = zip(signature.args[0], types, cgutils.unpack_tuple(builder, values[0]), strict=True)
        arguments = [context.cast(builder, value, own, wanted) for own, wanted, value in given]
        convention, result = context.call_conv, signature.return_type
        kind = convention.get_function_type(result, types)
        callee = cgutils.get_or_insert_function(builder.module, kind, name)
        status, out = convention.call_function(builder, callee, result, types, arguments)
        with cgutils.if_unlikely(builder, status.is_error):
            convention.return_status_propagate(builder, status)
        return out

    @intrinsic
    def call(context, arguments):  # pyright: ignore[reportUnusedParameter]
        return compiled.signature.return_type(arguments), build

    return call


def external(name: str, function: Any) -> Any:
    """A C function (a callback of ctypes, which must stay alive) of two addresses and to one, as kernels call it.

    It goes by the name, so that the caller can be kept on disk.
    """
    import ctypes

    import llvmlite.binding
    from numba import types

    llvmlite.binding.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
    return types.ExternalFunction(name, types.int64(types.int64, types.int64))


def memory() -> tuple[Any, Any]:
    """For kernels: ``carray(pointer(address), shape, dtype)``, the array that lies at an address."""
    import numba
    from numba import types
    from numba.extending import intrinsic

    def pointer(context, address):  # pyright: ignore[reportUnusedParameter]
        def build(context, builder, signature, values):
            return builder.inttoptr(values[0], context.get_value_type(types.voidptr))

        return types.voidptr(types.int64), build

    return numba.carray, intrinsic(pointer)  # pyright: ignore[reportPrivateImportUsage]


def inner(function: Function) -> Function:
    """Mark a function that kernels call often: it becomes part of them, wherever it is called.

    Arrays that it is handed are lent to it and not counted, which would cost an atomic increment and decrement each: it
    may neither make nor return arrays, but use parts of those it has.
    """
    if not is_available():
        return function
    from numba import njit

    return njit(forceinline=True, **_OPTIONS, **_lent())(function)


def lent(function: Function) -> Function:
    """Mark a function that is compiled once, however often it is called; its arrays are lent to it, as to `inner`."""
    if not is_available():
        return function
    from numba import njit

    return njit(**_OPTIONS, **_lent())(function)


def apart(function: Function) -> Function:
    """Mark a function that kernels call seldom: it is compiled once, and may make arrays."""
    if not is_available():
        return function
    from numba import njit

    return njit(**_OPTIONS)(function)


@lru_cache(maxsize=1)
def _lent() -> dict[str, Any]:
    """Numba's option for functions that do not count references, where it has one."""
    from numba.core.options import DefaultOptions

    return {"_nrt": False} if hasattr(DefaultOptions, "_nrt") else {}


@lru_cache(maxsize=1)
def _text() -> str:
    """A fingerprint of the text of all kernels."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
