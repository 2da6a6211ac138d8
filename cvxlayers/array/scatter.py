"""Constant arrays on the device of another, gather and scatter-add along the last axis, for the three libraries."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import is_jax_array, is_torch_array

from cvxlayers.array.once import once

Array = Any
Index = Any  # a Constant of integers, or a slice


class Constant:
    """A NumPy array that goes to the library and device of other arrays; a copy on a device is made once and kept.

    >>> Constant(np.array([1.0, 2.0])).like(np.ones(1, np.float32)).dtype
    dtype('float32')
    """

    def __init__(self, values: Any) -> None:
        self.values = np.ascontiguousarray(values)
        self._floating = self.values.dtype.kind == "f"
        self._copies: dict[tuple, Array] = {}

    def like(self, other: Array) -> Array:
        """The values as an array of the library and on the device of ``other``; floats take its dtype."""
        if is_torch_array(other):
            key = (other.device, other.dtype if self._floating else None)
            return once(self._copies, key, lambda: self._tensor(*key))
        if is_jax_array(other):
            import jax.numpy as jnp

            return jnp.asarray(self.values, dtype=other.dtype if self._floating else None)
        return self.values.astype(other.dtype, copy=False) if self._floating else self.values

    def _tensor(self, device, dtype) -> Array:
        import torch

        # An ordinary tensor: one made inside a torch.func transform or in inference mode could not be used outside.
        with torch._C._DisableFuncTorch(), torch.inference_mode(False), torch.no_grad():
            return torch.from_numpy(self.values.copy()).to(device=device, dtype=dtype)

    def __getstate__(self) -> dict[str, Any]:
        return {"values": self.values}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["values"])


def indices(values: np.ndarray) -> Index:
    """The index array, as a slice where it is a range: that gathers without a copy."""
    if not len(values):
        return slice(0, 0)
    start, stop = int(values[0]), int(values[0]) + len(values)
    return slice(start, stop) if np.array_equal(values, np.arange(start, stop)) else Constant(values.astype(np.int64))


def take(values: Array, index: Index) -> Array:
    """values[..., index]."""
    if isinstance(index, slice):
        whole = index.start == 0 and index.stop == values.shape[-1]
        return values if whole else values[..., index]
    if is_torch_array(values):
        return values.index_select(-1, index.like(values))
    return values[..., index.like(values)]


def add_at(values: Array, index: Index, size: int) -> Array:
    """out[..., index[k]] += values[..., k] into zeros of length ``size`` along the last axis."""
    if isinstance(index, slice):
        return pad(values, index.start, size)
    if is_torch_array(values):
        out = values.new_zeros((*values.shape[:-1], size))
        return out.index_add(-1, index.like(values), values)
    if is_jax_array(values):
        import jax.numpy as jnp

        return jnp.zeros((*values.shape[:-1], size), values.dtype).at[..., index.values].add(values)
    out = np.zeros((*values.shape[:-1], size), values.dtype)
    # NumPy's stubs want integers as indices; it takes whatever out[...] takes.
    np.add.at(out, (..., index.values), values)  # pyright: ignore[reportArgumentType]
    return out


def pad(values: Array, start: int, size: int) -> Array:
    """Zeros of length ``size`` along the last axis, with ``values`` from ``start`` on."""
    stop = start + values.shape[-1]
    if stop - start == size:
        return values
    if is_torch_array(values):
        import torch

        return torch.nn.functional.pad(values, (start, size - stop))
    widths = [(0, 0)] * (values.ndim - 1) + [(start, size - stop)]
    if is_jax_array(values):
        import jax.numpy as jnp

        return jnp.pad(values, widths)
    return np.pad(values, widths)


__all__ = ["Constant", "add_at", "indices", "pad", "take"]
