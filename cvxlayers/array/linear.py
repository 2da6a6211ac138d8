"""Symmetric linear systems that are given as a function: conjugate gradients, and the derivative of the solution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from array_api_compat import is_jax_array

from cvxlayers.array.library import library_of, namespace

Array = Any


class SymmetricSystem(Protocol):
    """A symmetric positive semidefinite operator that depends on arrays, and how to solve with it. Hashable."""

    def apply(self, v: Array, *operands: Array) -> Array:
        """A v, linear in v."""
        ...

    def solve(self, b: Array, *operands: Array) -> Array:
        """Some v with A v = b, for b in the range of A."""
        ...


def symmetric_solve(system: SymmetricSystem, b: Array, *operands: Array) -> Array:
    """v with A v = b, A = ``system.apply(., *operands)``; differentiable in b, where it is its own transpose.

    Operands are constants of the derivative. ``system.solve`` may iterate: nothing is differentiated inside.
    """
    if is_jax_array(b):
        import jax

        return jax.lax.custom_linear_solve(
            lambda v: system.apply(v, *operands), b, lambda _, r: system.solve(r, *operands), symmetric=True
        )
    return library_of(b).implicit(_Solution(system), b, *operands)[0]


@dataclass(frozen=True)
class _Solution:
    """The rule of `symmetric_solve` for libraries that differentiate by rules."""

    system: SymmetricSystem

    def forward(self, b: Array, *operands: Array) -> tuple[Array]:
        return (self.system.solve(b, *operands),)

    def tangent(self, outputs: tuple, args: tuple, tangents: tuple) -> Array:
        return symmetric_solve(self.system, tangents[0], *args[1:])

    def cotangent(self, outputs: tuple, args: tuple, g: Array) -> tuple:
        return symmetric_solve(self.system, g, *args[1:]), *(None for _ in args[1:])


def conjugate_gradients(
    apply: Callable[[Array], Array], b: Array, preconditioner: Array, axes: tuple[int, ...], tol: float, limit: int
) -> Array:
    """v with A v = b for every sample, by preconditioned conjugate gradients; not differentiable.

    ``axes`` are the axes of one sample, the others are batch: every sample has steps of its own and rests once its
    residual is at most tol ||b||. ``preconditioner`` approximates the inverse diagonal of A and meets b. A may be
    singular if b is in its range.

    Source: Hestenes and Stiefel, "Methods of conjugate gradients for solving linear systems", doi 10.6028/jres.049.044.
    """
    from cvxlayers.array import iterate

    xp = namespace(b)

    def dot(u: Array, v: Array) -> Array:
        return xp.sum(u * v, axis=axes, keepdims=True)

    goal = tol**2 * dot(b, b)

    def step(state: tuple) -> tuple:
        v, r, direction, rz, _ = state
        along = apply(direction)
        curvature = dot(direction, along)
        more = (dot(r, r) > goal) & (curvature > 0)
        zero = xp.zeros_like(rz)
        alpha = xp.where(more, rz / xp.where(more, curvature, 1.0), zero)
        v, r = v + alpha * direction, r - alpha * along
        z = preconditioner * r
        new = dot(r, z)
        beta = xp.where(more, new / xp.where(rz > 0, rz, 1.0), zero)
        return v, r, z + beta * direction, new, ~more

    z = preconditioner * b
    rz = dot(b, z)
    start = (xp.zeros_like(b), b, z, rz, ~(rz > 0))
    return iterate(limit, step, start, lambda state: state[4])[0]
