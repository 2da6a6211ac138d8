"""Starting the kernels of chains.cu: exact signals along rows that fit into the shared memory of a GPU."""

from __future__ import annotations

import ctypes
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from array_api_compat import is_torch_array

from cvxlayers.array import cuda, namespace

Array = Any

_LONGEST = 4096
_SHARED = {"direct": lambda n: 8 * n, "hulls": lambda n: 32 * n + 32, "pooling": lambda n: 28 * n}  # bytes


class _Chain(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "w", "y", "unfinished")),
        *((name, ctypes.c_longlong) for name in ("rows", "n", "w_row", "w_step")),
    ]


def fits(x: Array) -> bool:
    """Whether the kernels can take x: a PyTorch tensor on a GPU for which they can be compiled, with short rows."""
    if not is_torch_array(x) or x.device.type != "cuda" or not 2 <= x.shape[-1] <= _LONGEST or x.numel() == 0:
        return False
    return cuda.available(x.device) and cuda.shared_memory(x.device) >= _SHARED["hulls"](x.shape[-1])


def total_variation(x: Array, w: Array) -> Array:
    """The minimizer of `total_variation_1d` for every row; shapes as there."""
    xp = namespace(x)
    # The running sums of x - y stay below n times the range of x: a larger weight would drown x in the kernel.
    reach = x.shape[-1] * (xp.max(x, axis=-1, keepdims=True) - xp.min(x, axis=-1, keepdims=True))
    return _run(("direct", "hulls"), x, xp.minimum(w, reach))


def isotonic(x: Array, w: Array) -> Array:
    """The minimizer of `isotonic_regression` for every row; shapes as there."""
    return _run(("pooling",), x, w)


def _run(names: tuple[str, ...], x: Array, w: Array) -> Array:
    xp = namespace(x)
    n, rows = x.shape[-1], prod(x.shape[:-1])
    flat = xp.reshape(x, (rows, n)).double().contiguous()
    if prod(w.shape[:-1]) != 1:
        w = xp.broadcast_to(w, (*x.shape[:-1], w.shape[-1]))
    w = xp.reshape(w, (-1, w.shape[-1])).double().contiguous()
    y = xp.empty_like(flat)
    unfinished = xp.empty(rows, dtype=xp.int32, device=x.device)
    steps = (0 if w.shape[0] == 1 else w.shape[1], 0 if w.shape[1] == 1 else 1)
    chain = _Chain(flat.data_ptr(), w.data_ptr(), y.data_ptr(), unfinished.data_ptr(), rows, n, *steps)
    for name in names:
        _kernel(name, _SHARED[name](n), x.device)(rows, 32, chain)
    y = xp.where(xp.isfinite(xp.sum(flat, axis=-1, keepdims=True)), y, float("nan"))
    return xp.astype(xp.reshape(y, x.shape), x.dtype)


@cache
def _kernel(name: str, shared_bytes: int, device: Any) -> cuda.Kernel:
    return cuda.Kernel(Path(__file__).with_name("chains.cu"), name, {}, shared_bytes, device)
