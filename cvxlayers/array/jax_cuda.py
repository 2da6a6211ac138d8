"""CUDA kernels on JAX arrays: calls that XLA makes on its own stream, in programs that it compiles for NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ctypes import c_void_p, cast
from functools import cache
from typing import Any

import numpy as np

from cvxlayers.array import cuda, foreign

Array = Any

TARGET = "cvxlayers"
PLATFORM = "cuda"  # for which programs with kernels are compiled


@cache
def devices() -> tuple[Any, ...]:
    """JAX's GPUs in this process, if kernels run on all of them, started by XLA; else none."""
    import jax

    try:
        found = tuple(jax.local_devices(backend="cuda"))
    except RuntimeError:  # JAX has no such devices
        return ()
    if not found or not all(cuda.available(device) for device in found) or not register("CUDA"):
        return ()
    try:  # whether this XLA calls: its interface may be another one
        with jax.ensure_compile_time_eval(), jax.default_device(found[0]):
            jax.block_until_ready(jax.jit(lambda: call(_Nothing(), (), (((1,), np.int32),)))())
    except Exception:
        return ()
    return found


class _Nothing:
    """A task that asks for the stream and leaves it alone."""

    def __repr__(self) -> str:
        return "nothing"

    def __call__(self, addresses: Sequence[int], stream: Callable[[], int]) -> None:
        stream()


@cache
def register(platform: str) -> bool:
    """Make XLA know the target on a platform whose devices are there; False where it does not take it."""
    try:
        from jax import ffi
    except ImportError:  # JAX before 0.5
        return False
    try:
        ffi.register_ffi_target(TARGET, ffi.pycapsule(cast(foreign.HANDLER, c_void_p).value), platform=platform)
    except Exception:  # XLA of a version that knows no such handlers
        return False
    return True


def call(
    task: foreign.Task, operands: Sequence[Array], results: Sequence[tuple[tuple[int, ...], Any]]
) -> tuple[Array, ...]:
    """What ``task`` writes: arrays of the shapes and dtypes in ``results``. Operands are contiguous."""
    import jax
    from jax import ffi

    shapes = tuple(jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results)
    return tuple(ffi.ffi_call(TARGET, shapes)(*operands, key=np.int64(foreign.key_of(task))))


def on_cuda(
    kernel: Callable[..., tuple],
    otherwise: Callable[..., tuple],
    args: Sequence[Array],
    axes: Sequence[int],
    axes_out: Sequence[int],
) -> tuple[Array, ...]:
    """``kernel(*args)`` in programs for CUDA, ``otherwise(*args)``, the same in array operations, in all others.

    ``axes`` says which axis of each argument is the batch, of one length or of length one; where it is not the first,
    the first counts what the elements share: several right-hand sides of each. ``axes_out`` says the same of the
    results. An axis that ``vmap`` adds becomes part of the batch; where it adds one to the arguments with right-hand
    sides alone, there are more of these. So kernels see batches only, and what is shared is not copied.
    """
    import jax
    import jax.numpy as jnp
    from jax.custom_batching import custom_vmap

    @custom_vmap
    def run(*args: Array) -> tuple[Array, ...]:
        return tuple(jax.lax.platform_dependent(*args, **{PLATFORM: kernel}, default=otherwise))

    @run.def_vmap
    def rule(size: int, mapped: Sequence[bool], *args: Array) -> tuple[tuple[Array, ...], tuple[bool, ...]]:
        own = [x.shape[1:] if new else x.shape for x, new in zip(args, mapped, strict=True)]
        batch = max(shape[axis] for shape, axis in zip(own, axes, strict=True))
        several = not any(new for new, axis in zip(mapped, axes, strict=True) if axis == 0)
        inner = max(shape[0] for shape, axis in zip(own, axes, strict=True) if axis) if several else batch

        def merged(x: Array, new: bool, axis: int) -> Array:
            at = 0 if several else axis  # the axis that the new one becomes part of
            if not new and axis == 0 and (several or x.shape[0] == 1):
                return x
            if not new:
                x = jnp.broadcast_to(x, (size, *x.shape))
            if not several:
                x = jnp.broadcast_to(x, (*x.shape[: axis + 1], batch, *x.shape[axis + 2 :]))
            x = jnp.moveaxis(x, 0, at)
            return x.reshape(*x.shape[:at], x.shape[at] * x.shape[at + 1], *x.shape[at + 2 :])

        def apart(y: Array, axis: int) -> Array:
            at = 0 if several else axis
            return jnp.moveaxis(y.reshape(*y.shape[:at], size, inner, *y.shape[at + 1 :]), at, 0)

        flat = [merged(x, new, axis) for x, new, axis in zip(args, mapped, axes, strict=True)]
        found = on_cuda(kernel, otherwise, flat, axes, axes_out)
        return tuple(apart(y, axis) for y, axis in zip(found, axes_out, strict=True)), (True,) * len(found)

    return run(*args)
