"""What the array standard lacks, for JAX arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
