"""Gather and scatter-add along the last axis, on NumPy, PyTorch and JAX arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import device, is_jax_array, is_torch_array

Array = Any


def constant(values: np.ndarray, like: Array) -> Array:
    """A NumPy array as an array of the library and on the device of ``like``; floats take its dtype."""
    if is_torch_array(like):
        import torch

        out = torch.from_numpy(np.ascontiguousarray(values)).to(device=like.device)
        return out.to(like.dtype) if out.is_floating_point() else out
    if is_jax_array(like):
        import jax.numpy as jnp

        return jnp.asarray(values, dtype=like.dtype if values.dtype.kind == "f" else None)
    return values


def take(values: Array, index: np.ndarray) -> Array:
    """values[..., index]."""
    return values[..., constant(index, values)]


def add_at(values: Array, index: np.ndarray, size: int) -> Array:
    """out[..., index[k]] += values[..., k] into zeros of length ``size`` along the last axis."""
    if is_torch_array(values):
        out = values.new_zeros((*values.shape[:-1], size))
        return out.index_add(-1, constant(index, values), values)
    if is_jax_array(values):
        import jax.numpy as jnp

        return jnp.zeros((*values.shape[:-1], size), values.dtype).at[..., index].add(values)
    out = np.zeros((*values.shape[:-1], size), values.dtype)
    # NumPy's stubs want integers as indices; it takes whatever out[...] takes.
    np.add.at(out, (..., index), values)  # pyright: ignore[reportArgumentType]
    return out


__all__ = ["add_at", "constant", "device", "take"]
