"""Moduli and norms whose derivatives are finite everywhere: zero at zero."""

from __future__ import annotations

from typing import Any

from cvxlayers.array import namespace, stop_gradient

Array = Any


def is_complex(x: Array) -> bool:
    return bool(namespace(x).isdtype(x.dtype, "complex floating"))


def modulus(x: Array) -> Array:
    """|x| by entry, of real or complex x; its derivative at 0 is 0.

    >>> import numpy as np
    >>> modulus(np.array([3 + 4j, 0j, -2]))
    array([5., 0., 2.])
    """
    xp = namespace(x)
    if not is_complex(x):
        return xp.abs(x)
    some = (xp.real(x) != 0) | (xp.imag(x) != 0)
    return xp.where(some, xp.abs(xp.where(some, x, 1.0)), 0.0)


def phase(x: Array) -> Array:
    """x / |x| by entry, and 0 at 0: the sign of a real number."""
    xp = namespace(x)
    if not is_complex(x):
        # Not sign, which torch.func.vmap does not take in array_api_compat.
        return xp.where(x > 0, 1.0 + 0 * x, xp.where(x < 0, -1.0 + 0 * x, 0 * x))
    size = modulus(x)
    return x / xp.where(size > 0, size, 1.0)


def square(x: Array) -> Array:
    """|x|^2 by entry, real."""
    xp = namespace(x)
    return xp.real(x) ** 2 + xp.imag(x) ** 2 if is_complex(x) else x * x


def inner(x: Array, y: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """Re <x, y> = Re sum conj(x) y over ``axes``."""
    xp = namespace(x, y)
    product = xp.real(xp.conj(x) * y) if is_complex(x) else x * y
    return xp.sum(product, axis=axes, keepdims=keepdims)


def root(x: Array) -> Array:
    """sqrt(x) by entry, x >= 0; its derivative at 0 is 0.

    >>> import numpy as np
    >>> root(np.array([4.0, 0.0]))
    array([2., 0.])
    """
    xp = namespace(x)
    zero = x == 0
    return xp.where(zero, 0.0, xp.sqrt(xp.where(zero, 1.0, x)))


def peak(size: Array) -> Array:
    """The largest of nonnegative numbers along the last axis, 0 of none."""
    xp = namespace(size)
    return xp.max(size, axis=-1) if size.shape[-1] else xp.sum(size, axis=-1)


def norm(x: Array, axes: tuple[int, ...], keepdims: bool = False) -> Array:
    """sqrt(sum |x|^2) over ``axes``, without overflow or underflow; its derivative at 0 is 0.

    >>> import numpy as np
    >>> norm(np.array([3e200, 4e200]), (-1,))
    array(5.e+200)
    """
    xp = namespace(x)
    if not axes:
        return modulus(x)
    if any(x.shape[a] == 0 for a in axes):
        return xp.sqrt(xp.sum(square(x), axis=axes, keepdims=keepdims))
    scale = xp.max(xp.abs(stop_gradient(x)), axis=axes, keepdims=True)
    scale = xp.where((scale > 0) & xp.isfinite(scale), scale, 1.0)
    total = xp.sum(square(x / scale), axis=axes, keepdims=True)
    some = total != 0
    size = xp.where(some, xp.sqrt(xp.where(some, total, 1.0)), 0.0) * scale
    return size if keepdims else xp.squeeze(size, axis=axes)
