"""What the array standard lacks, for JAX arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from cvxlayers.array.symmetric import eigh, lyapunov_in_basis


def constant(build: Callable[..., np.ndarray], args: tuple, like: jax.Array) -> jax.Array:
    value = build(*args)
    return jnp.asarray(value, dtype=like.dtype) if value.dtype.kind == "f" else jnp.asarray(value)


def loop(count: int, body: Callable[[Any], Any], state: Any, settled: Any = None) -> Any:
    return jax.lax.fori_loop(0, count, lambda _, carry: body(carry), state)


def lyapunov(W: jax.Array, R: jax.Array) -> jax.Array:
    lam, Q = eigh(jax.lax.stop_gradient(W))
    # X -> WX + XW is self-adjoint, and JAX derives every derivative from it: tangents, transposes and their own.
    return jax.lax.custom_linear_solve(
        lambda X: W @ X + X @ W,
        jnp.broadcast_to(R, jnp.broadcast_shapes(W.shape, R.shape)),
        lambda _, B: lyapunov_in_basis(B, lam, Q),
        symmetric=True,
    )


@partial(jax.custom_jvp, nondiff_argnums=(0,))
@partial(jax.jit, static_argnums=(0,))
def _moreau(cone, u, mu):
    return cone._pair(u, mu)


@_moreau.defjvp
def _moreau_jvp(cone, primals, tangents):
    u, mu = primals
    u, h = jnp.asarray(u), jnp.asarray(tangents[0])
    z, s = _moreau(cone, u, mu)
    Dh = cone._derivative(z, s, h, mu)
    return (z, s), (Dh, Dh - h)


def moreau(cone: Any, u: jax.Array, mu: Any) -> tuple[jax.Array, jax.Array]:
    return _moreau(cone, u, mu)


def stop_gradient(x: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(x)


def visible(x: jax.Array) -> np.ndarray | None:
    if isinstance(x, Tracer) or any(d.platform != "cpu" for d in x.devices()):
        return None
    return np.asarray(x)


@partial(jax.jit, static_argnums=(0,))
def _forward(rule, *args):
    return tuple(rule.forward(*args))


_with_tangent = jax.custom_jvp(_forward, nondiff_argnums=(0,))
_with_cotangent = jax.custom_vjp(_forward, nondiff_argnums=(0,))


@_with_tangent.defjvp
def _tangent(rule, primals, tangents):
    outputs = _with_tangent(rule, *primals)
    return outputs, (rule.tangent(outputs, primals, tangents), *(_zero_tangent(a) for a in outputs[1:]))


def _zero_tangent(a: jax.Array) -> Any:
    """The zero tangent of an output: of an integer one, an array of float0; older JAX wants the output's own dtype."""
    if jnp.issubdtype(a.dtype, jnp.inexact) or not _tangents_are_float0():
        return jnp.zeros_like(a)
    return np.zeros(a.shape, jax.dtypes.float0)


@cache
def _tangents_are_float0() -> bool:
    @jax.custom_jvp
    def count(x):
        return jnp.zeros((), jnp.int32)

    @count.defjvp
    def _(primals, tangents):
        zero: Any = np.zeros((), jax.dtypes.float0)
        return count(*primals), zero

    try:
        jax.eval_shape(lambda x: jax.jvp(count, (x,), (x,))[0], jax.ShapeDtypeStruct((), jnp.float32))
    except TypeError:
        return False
    return True


def _save(rule, *args):
    outputs = _with_cotangent(rule, *args)
    return outputs, (outputs, args)


def _cotangent(rule, saved, cotangents):
    outputs, args = saved
    found = rule.cotangent(outputs, args, cotangents[0])
    return tuple(jnp.zeros_like(x) if c is None else c for c, x in zip(found, args, strict=True))


_with_cotangent.defvjp(_save, _cotangent)


def implicit(rule: Any, *args: jax.Array) -> tuple[jax.Array, ...]:
    call = _with_cotangent if hasattr(rule, "cotangent") else _with_tangent
    return call(rule, *(jnp.asarray(x) for x in args))


def register_pytree(cls: type, leaves: tuple[str, ...]) -> None:
    def flatten(instance):
        # The fields only: what an instance has cached is left behind.
        rest = tuple((f.name, getattr(instance, f.name)) for f in fields(instance) if f.name not in leaves)
        return tuple(getattr(instance, name) for name in leaves), rest

    def unflatten(rest, children):
        # Not through __init__: JAX also unflattens with children that are no arrays.
        instance = object.__new__(cls)
        instance.__dict__.update(rest, **dict(zip(leaves, children, strict=True)))
        return instance

    jax.tree_util.register_pytree_node(cls, flatten, unflatten)


def iterate(limit: int, body: Callable[[Any], Any], state: Any, done: Callable[[Any], jax.Array]) -> Any:
    def more(carry: Any) -> jax.Array:
        k, state = carry
        return (k < limit) & ~jnp.all(done(state))

    return jax.lax.while_loop(more, lambda carry: (carry[0] + 1, body(carry[1])), (0, state))[1]


def choose(condition: jax.Array, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    return jax.lax.cond(condition, then, otherwise)


def pending(done: jax.Array) -> None:
    return None


def recorded(key: Any, body: Any, count: int, constants: Any, state: Any) -> None:
    return None


def replayed(key: Any, function: Any, arguments: tuple) -> Any:
    return function(*arguments)


def prefers_products(x: jax.Array) -> bool:
    return any(device.platform != "cpu" for device in jax.devices())


def cholesky(M: jax.Array) -> jax.Array:
    return jax.lax.linalg.cholesky(M, symmetrize_input=False)


def triangular_solve(L: jax.Array, B: jax.Array, transpose: bool) -> jax.Array:
    lead = jnp.broadcast_shapes(L.shape[:-2], B.shape[:-2])
    L, B = (jnp.broadcast_to(v, (*lead, *v.shape[-2:])) for v in (L, B))
    return jax.lax.linalg.triangular_solve(L, B, left_side=True, lower=True, transpose_a=transpose)


def derivative_along(f: Callable[[Any], Any], x: jax.Array, v: jax.Array) -> jax.Array:
    # J is symmetric, and some rules have a reverse mode only.
    _, transpose = jax.vjp(f, jax.lax.stop_gradient(x))
    return jax.lax.stop_gradient(transpose(v)[0])


def fixed_point(step: Callable[[jax.Array], jax.Array], s: jax.Array, limit: int, tol: float) -> jax.Array:
    def series(g: Callable[[jax.Array], jax.Array], y: jax.Array) -> jax.Array:
        """v with g(v) = y for g(v) = J v - v: v = J v - y, repeated."""
        goal = tol * jnp.linalg.vector_norm(y)

        def more(state: tuple) -> jax.Array:
            _, moved, count = state
            return (count < limit) & (moved > goal)

        def round_(state: tuple) -> tuple:
            v, _, count = state
            change = g(v) - y
            return v + change, jnp.linalg.vector_norm(change), count + 1

        return jax.lax.while_loop(more, round_, (0 * y, jnp.asarray(jnp.inf, goal.dtype), 0))[0]

    def solve(g: Callable[[jax.Array], jax.Array], y: jax.Array) -> jax.Array:
        return jax.lax.custom_linear_solve(g, y, series, transpose_solve=series)

    return jax.lax.custom_root(lambda v: step(v) - v, jax.lax.stop_gradient(s), lambda _, v: v, solve)


def pullback(f: Callable[[jax.Array], jax.Array], x: jax.Array, g: jax.Array) -> jax.Array:
    y, transpose = jax.vjp(f, x)
    # JAX pairs complex numbers without conjugation.
    return jnp.conj(transpose(jnp.conj(jnp.asarray(g, y.dtype)))[0])


def sum_where(x: jax.Array, kept: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Two sums next to each other read x twice on the CPU.
    x, zero = jax.lax.stop_gradient(x), np.zeros((), x.dtype)
    parts = (jnp.where(kept, x, zero), kept.astype(x.dtype))
    found = jax.lax.reduce(parts, (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), (x.ndim - 1,))
    return found[0][..., None], found[1][..., None]


def from_numpy(value: np.ndarray, dtype: Any, like: jax.Array) -> jax.Array:
    return jnp.asarray(value, dtype=dtype)


def dtype_of(x: np.ndarray) -> Any:
    return None  # as JAX converts it, to 32 bits unless x64 is on
