"""The conic solve as a JAX function, by callbacks, kernels or JAX itself, and the rule that ties it together.

`conic` maps parameters to the conic solution; its derivative is one linear system, written with
``jax.lax.custom_linear_solve``, so that JAX can transpose it and differentiate it again.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from cvxlayers.array_map import ArrayMap
from cvxlayers.kernel_map import KernelMap
from cvxlayers.layer import Layer, failure
from cvxlayers.status import Status

# JAX 0.4.34 named the ways to vmap a callback; a callback that broadcasts its inputs itself works with both spellings.
# It also made float0 the type of what a rule says of the tangents of integers, which were integers before.
_RECENT = "vmap_method" in inspect.signature(jax.pure_callback).parameters
_VMAP: dict[str, Any] = {"vmap_method": "expand_dims"} if _RECENT else {"vectorized": True}


def work_dtype():
    """The widest real dtype that JAX offers as configured."""
    return jax.dtypes.canonicalize_dtype(np.float64)


@dataclass(frozen=True)
class Host:
    """The route through host callbacks, to any solver; the other routes stay inside the compiled program."""

    settings: tuple
    warm_start: bool


Route = Host | ArrayMap | KernelMap


@partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def conic(core: Layer, route: Route, ndim: int, values: tuple[jax.Array, ...]):
    """Parameters with all batch dimensions to (x, z, s, status, residuals, iterations); zeros where it failed."""
    if isinstance(route, Host):
        out = _solve_on_host(core, route, ndim, values)
    else:
        out = compiled(core, _solve, route)(ndim, values)
    if core.on_failure == "raise" and not isinstance(out[3], Tracer) and (out[3] > Status.INACCURATE).any():
        raise failure(np.asarray(out[3]), core.form.parameters, [np.asarray(v) for v in values])
    return out


def _solve(core: Layer, route: ArrayMap | KernelMap, ndim: int, values: tuple[jax.Array, ...]):
    batch = np.broadcast_shapes(*(v.shape[:ndim] for v in values))
    point = route.solve(values, batch)
    return point.x, point.z, point.s, point.status, point.residuals, point.iterations


def _solve_on_host(core: Layer, route: Host, ndim: int, values: tuple[jax.Array, ...]):
    program, dtype = core.form.program, work_dtype()
    batch = np.broadcast_shapes(*(v.shape[:ndim] for v in values)) if values else ()
    shapes = [jax.ShapeDtypeStruct((*batch, k), dtype) for k in (program.n, program.m, program.m)]
    shapes += [jax.ShapeDtypeStruct(batch, np.int32), jax.ShapeDtypeStruct((*batch, 3), dtype)]
    shapes += [jax.ShapeDtypeStruct(batch, np.int32)]

    def host(*arrays):
        arrays = [np.array(a) for a in arrays]
        shape = core.batch_shape([a.shape for a in arrays])
        start = core.recent if route.warm_start else None
        point = core.solve(arrays, shape, solver_args=dict(route.settings), warm_start=start, on_failure="nan")
        core.recent = point
        solution = point.solution
        out = (*point.at_zero, solution.status, point.residuals, solution.iterations)
        return tuple(np.asarray(v, s.dtype).reshape((*shape, *v.shape[1:])) for v, s in zip(out, shapes, strict=True))

    return jax.pure_callback(host, tuple(shapes), *values, **_VMAP)


@conic.defjvp
def _conic_jvp(core: Layer, route: Route, ndim: int, primals, tangents):
    (values,), (dvalues,) = primals, tangents
    out = conic(core, route, ndim, values)
    dx, dz, ds = compiled(core, _tangents, route)(ndim, values, dvalues, *out[:4])
    none = [np.zeros(v.shape, jax.dtypes.float0 if _RECENT else v.dtype) for v in (out[3], out[5])]
    return out, (dx, dz, ds, none[0], jnp.zeros_like(out[4]), none[1])


def compiled(core: Layer, function: Callable, *static: Any) -> Callable:
    """``function(core, *static, ndim, ...)`` jitted, once for each layer: eager code would compile every operation."""
    key = (function, *static)
    found = core.compiled.get(key)
    if found is None:
        reference = weakref.ref(core)  # what is compiled is kept on the layer, and must not keep it alive
        found = jax.jit(lambda ndim, *args: function(reference(), *static, ndim, *args), static_argnums=0)
        core.compiled[key] = found
    return found


def recover(core: Layer, ndim: int, values: tuple[jax.Array, ...], x: jax.Array, z: jax.Array):
    """The outputs, and the optimal value last."""
    return core.maps.ends.recover(core.maps.ends.lift(values, ndim), x, z)


def _tangents(core: Layer, route: Route, ndim: int, values, dvalues, x, z, s, status):
    """Tangents of x, z and s; zero where an element failed."""
    kept = (status <= Status.INACCURATE)[..., None]
    ends = core.maps.ends
    data, ddata = jax.jvp(lambda v: ends.lift(v, ndim), (values,), (dvalues,))
    rx, rz = ends.differential.push(x, z, ddata)
    rx, rz = jnp.where(kept, rx, 0.0), jnp.where(kept, rz, 0.0)
    dx, dz = linear_solve(core, route, data[0], data[2], z, s, rx, rz)
    return dx, dz, jnp.where(kept, rz - ends.differential.A_times(data[2], dx), 0.0)


def linear_solve(core: Layer, route: Route, P, A, z, s, gx, gz) -> tuple[jax.Array, jax.Array]:
    """K [w_x; w_z] = [g_x; g_z], as a linear system that JAX can transpose and differentiate."""
    d, mu = core.maps.ends.differential, core.mu

    def host(*arrays):
        arrays = [np.asarray(a) for a in arrays]
        wx, wz = core.linear_solve(*(a.astype(np.float64) for a in arrays), core.recent_at(*arrays[:4]))
        return wx.astype(arrays[4].dtype), wz.astype(arrays[5].dtype)

    def solve(gx, gz):
        P0, A0, z0, s0 = (jax.lax.stop_gradient(v) for v in (P, A, z, s))
        if not isinstance(route, Host):
            return route.linear_solve(P0, A0, z0, s0, gx, gz)
        shapes = (jax.ShapeDtypeStruct(gx.shape, gx.dtype), jax.ShapeDtypeStruct(gz.shape, gz.dtype))
        return jax.pure_callback(host, shapes, P0, A0, z0, s0, gx, gz, **_VMAP)

    def system(w):
        return _join(d.operator(P, A, z, s, *_split(w), mu))

    def forth(_: Any, b):
        bx, bz = _split(b)
        wx, wz = solve(bx + d.A_transposed(A, bz), bz)
        return _join((wx, wz - bz))

    def back(_: Any, b):
        bx, bz = _split(b)
        wx, wz = solve(bx, bz)
        return _join((wx, wz + d.A_times(A, wx) - bz))

    def _split(w):
        return w[..., : core.form.program.n], w[..., core.form.program.n :]

    right = _join((gx, d.project(z, s, gz, mu)))  # one vector: JAX transposes it as a whole
    return _split(jax.lax.custom_linear_solve(system, right, forth, back))


def _join(parts: tuple[jax.Array, jax.Array]) -> jax.Array:
    return jnp.concatenate(parts, axis=-1)
