"""Runs of samples along the last axis: their numbering, their sums, and the values that they share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from array_api_compat import is_jax_array, is_torch_array

Array = Any


def run_labels(starts: Array) -> Array:
    """Number the runs along the last axis: 0 for the first; ``starts`` (*batch, n - 1) is true where one begins.

    >>> run_labels(np.array([True, False, True]))
    array([0, 1, 1, 2])
    """
    if is_torch_array(starts):
        import torch

        return torch.nn.functional.pad(torch.cumsum(starts.to(torch.int64), dim=-1), (1, 0))
    if is_jax_array(starts):
        import jax.numpy as jnp

        counts = jnp.cumsum(starts.astype(jnp.int32), axis=-1)
        return jnp.pad(counts, [(0, 0)] * (starts.ndim - 1) + [(1, 0)])
    counts = np.cumsum(starts, axis=-1, dtype=np.int64)
    return np.concatenate([np.zeros((*starts.shape[:-1], 1), np.int64), counts], axis=-1)


def run_sum(values: Array, labels: Array) -> Array:
    """The sum over its run, for every sample: (*batch, n), shapes of both; differentiable in ``values``.

    >>> run_sum(np.array([1.0, 2.0, 3.0]), np.array([0, 1, 1]))
    array([1., 5., 5.])
    """
    if is_torch_array(values):
        import torch

        return torch.gather(torch.zeros_like(values).scatter_add(-1, labels, values), -1, labels)
    n = values.shape[-1]
    rows = math.prod(values.shape[:-1])
    if is_jax_array(values):
        import jax.numpy as jnp

        flat = (labels.reshape(rows, n) + n * jnp.arange(rows, dtype=labels.dtype)[:, None]).reshape(-1)
        sums = jnp.zeros(rows * n, values.dtype).at[flat].add(values.reshape(-1), indices_are_sorted=True)
        return sums[flat].reshape(values.shape)
    if values.size == 0:
        return values
    flat = (labels.reshape(rows, n) + n * np.arange(rows)[:, None]).reshape(-1)
    sums = np.bincount(flat, weights=values.reshape(-1), minlength=rows * n)
    return sums[flat].reshape(values.shape).astype(values.dtype, copy=False)
