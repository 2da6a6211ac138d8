"""Parameters that are numbers or arrays of any library: brought to the library, dtype and device of an input."""

from __future__ import annotations

import sys
from numbers import Number
from typing import Any

import numpy as np
from array_api_compat import device, is_array_api_obj, is_numpy_array

from cvxlayers.array.library import library_of, namespace
from cvxlayers.errors import ShapeError

Array = Any


def real_dtype(x: Array) -> Any:
    """The real floating-point dtype of the precision of ``x``.

    >>> real_dtype(np.ones(2, dtype=np.complex64))
    dtype('float32')
    """
    return x.dtype if namespace(x).isdtype(x.dtype, "real floating") else x.real.dtype


def single(x: Array) -> Array:
    """``x``, in single precision if its own is lower: float16 or bfloat16.

    >>> single(np.ones(2, dtype=np.float16)).dtype
    dtype('float32')
    """
    xp = namespace(x)
    low = xp.isdtype(x.dtype, "real floating") and xp.finfo(x.dtype).bits < 32
    return xp.astype(x, xp.float32) if low else x


def to_library_of(x: Array, value: Any) -> Array:
    """``value``, a number or an array of NumPy or of the library of ``x``, in that library and on the device of ``x``.

    The dtype is the real one of the precision of x, or that of x for a complex value. Differentiable in ``value``.
    Raises ShapeError for a complex value and a real x.

    >>> to_library_of(np.ones(3, dtype=np.float32), 2)
    array(2., dtype=float32)
    """
    xp = namespace(x)
    if isinstance(value, Number) or isinstance(value, (list, tuple)):
        value = np.asarray(value)
    complex_value = "complex" in str(value.dtype)
    if complex_value and not xp.isdtype(x.dtype, "complex floating"):
        raise ShapeError(f"complex parameters need a complex x; got {value.dtype} with {x.dtype}. Convert x.")
    dtype = x.dtype if complex_value else real_dtype(x)
    if is_numpy_array(value) and not is_numpy_array(x):
        if value.ndim == 0:
            # Filling needs no copy from the host, which would wait for the device.
            return xp.full((), value.item(), dtype=dtype, device=device(x))
        return library_of(x).from_numpy(value, dtype, x)
    if is_numpy_array(x):
        return np.asarray(value, dtype=dtype)
    return xp.astype(value, dtype, copy=False)


def unify(x: Array, *values: Any) -> Array:
    """``x``, brought to the library of the first of ``values`` that is an array of PyTorch or JAX if x is of NumPy.

    So a constant NumPy input meets weights that JAX traces or PyTorch trains.
    """
    if not is_numpy_array(x):
        return x
    for value in values:
        if is_array_api_obj(value) and not is_numpy_array(value):
            library = library_of(value)
            return library.from_numpy(x, library.dtype_of(x), value)
    return x


def visible(value: Any) -> np.ndarray | None:
    """The values of a number or an array as a NumPy array where they can be seen for free, else None.

    They cannot on an accelerator (it would wait), nor while a framework traces or transforms.

    >>> visible(2.0)
    array(2.)
    """
    if isinstance(value, (Number, list, tuple)) or is_numpy_array(value):
        return np.asarray(value)
    return library_of(value).visible(value) if is_array_api_obj(value) else None


def register_pytree(cls: type, leaves: tuple[str, ...]) -> None:
    """Make ``cls`` a pytree of JAX, once JAX is imported: the attributes ``leaves`` are its children, the rest static.

    Does nothing while JAX is not imported: call it again whenever an instance is made.
    """
    if "jax" in sys.modules and "_pytree" not in vars(cls):
        from cvxlayers.array import jax

        jax.register_pytree(cls, leaves)
        # vars(cls) is read, so that a subclass is registered on its own.
        cls._pytree = True  # type: ignore[attr-defined]
