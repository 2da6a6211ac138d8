"""Running a NumPy function (a compiled kernel) on arrays that lie on the CPU, whatever library they belong to."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import is_jax_array, is_torch_array

Array = Any


def on_cpu(kernel: Callable[..., tuple], otherwise: Callable[..., tuple], *args: Array) -> tuple[Array, ...]:
    """``kernel(*args)`` on NumPy arrays where the arguments lie on the CPU, else ``otherwise(*args)``.

    Both return a tuple of arrays of the same shapes and dtypes; ``kernel`` writes on nothing that it is handed. Not
    differentiable: call it inside a rule of `implicit`. JAX decides when it compiles for a platform; under its vmap the
    leading axes that it adds are handed to ``kernel`` as batch dimensions in front, of the same length everywhere.

    >>> on_cpu(lambda x: (x + 1,), lambda x: (x + 2,), np.ones(2))
    (array([2., 2.]),)
    """
    if is_torch_array(args[0]):
        if any(x.device.type != "cpu" for x in args):
            return tuple(otherwise(*args))
        import torch

        found = kernel(*(x.detach().resolve_conj().resolve_neg().numpy() for x in args))
        return tuple(torch.from_numpy(np.ascontiguousarray(y)) for y in found)
    if is_jax_array(args[0]):
        return _from_jax(kernel, otherwise, args)
    return tuple(kernel(*args))


def _from_jax(kernel: Callable[..., tuple], otherwise: Callable[..., tuple], args: tuple) -> tuple[Array, ...]:
    import jax

    shapes = tuple(jax.ShapeDtypeStruct(y.shape, y.dtype) for y in jax.eval_shape(otherwise, *args))
    # JAX 0.4.34 named the ways to vmap a callback; one that broadcasts its inputs itself works with both spellings.
    named = "vmap_method" in inspect.signature(jax.pure_callback).parameters
    method: dict[str, Any] = {"vmap_method": "expand_dims"} if named else {"vectorized": True}
    ranks = [x.ndim for x in args]

    def host(*values):
        found = [np.asarray(v) for v in values]
        lead = np.broadcast_shapes(*(v.shape[: v.ndim - rank] for v, rank in zip(found, ranks, strict=True)))
        found = [np.broadcast_to(v, (*lead, *v.shape[v.ndim - rank :])) for v, rank in zip(found, ranks, strict=True)]
        return tuple(
            np.asarray(y, s.dtype).reshape((*lead, *s.shape)) for y, s in zip(kernel(*found), shapes, strict=True)
        )

    def callback(*values):
        return jax.pure_callback(host, shapes, *values, **method)

    if all(device.platform == "cpu" for device in jax.devices()):
        return tuple(callback(*args))
    return tuple(jax.lax.platform_dependent(*args, cpu=callback, default=lambda *values: tuple(otherwise(*values))))
