"""Newton's method on the optimality conditions of a cone program, from a solution to one of machine precision.

With z and s the projections of u onto K* and of -u onto K, (x, u) is a solution exactly when Px + A'z + q = 0 and
Ax + s = b. The derivative of these equations is the system of `cvxlayers.conic.array_kkt`, so the convergence is
quadratic wherever the solution map is differentiable. An interior-point method stops at s'z of the size of its
tolerance, where x can be off by the square root of it; a step or two from there are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from array_api_compat import is_torch_array

from cvxlayers.array import loop, namespace
from cvxlayers.conic.array_kkt import System
from cvxlayers.sets import Product

Array = Any

STEPS = 2


def polish(
    cone: Product,
    P: Array,
    q: Array,
    A: Array,
    b: Array,
    x: Array,
    z: Array,
    s: Array,
    residuals: Array,
    pair: Callable | None = None,
    direction: Callable | None = None,
) -> tuple[Array, Array, Array, Array]:
    """(x, z, s, residuals) of the solution after Newton's method, where its largest residual is no larger than before.

    Shapes: P (*batch, n, n), q and x (*batch, n), A (*batch, m, n), b, z and s (*batch, m), residuals (*batch, 3) as
    `cvxlayers.conic.residuals` defines them; the batches of the data broadcast. Kernels may do the work: ``pair(u)``
    that of ``cone.pair``, and ``direction(z, s, top, low)`` returns (w_x, w_z) of the derivative's system.
    """
    xp = namespace(P, q, A, b, x, z, s)
    columns = tuple(v[..., None] for v in (q, b, x, z - s))
    q, b, x0, u0 = columns
    # One step brings most of it; without kernels, projections on curved cones take long on a GPU.
    steps = 1 if direction or (is_torch_array(x) and x.is_cuda and not cone.linear) else STEPS
    pair = pair or cone.pair

    def equations(x: Array, u: Array) -> tuple:
        z, s = pair(u[..., 0])
        z, s = z[..., None], s[..., None]
        Px, ATz, Ax = P @ x, xp.matrix_transpose(A) @ z, A @ x
        return x, u, z, s, (Px, ATz, Ax), -(Px + ATz + q), b - Ax - s

    def step(state: tuple) -> tuple:
        x, u, z, s, _, top, low = state
        if direction is None:
            # Linear cones have the same system in all steps, unless the active rows were wrong, which no step repairs.
            system = first or System(cone, P, A, z[..., 0], s[..., 0])
            dx, dz = system.approximate(top, system.times("D", low))
        else:
            dx, dz = (v[..., None] for v in direction(*(v[..., 0] for v in (z, s, top, low))))
        return equations(x + dx, u + dz - (low - A @ dx))

    def settled(state: tuple) -> Array:
        return largest(state[5], state[6]) <= 1e-15 * largest(xp.ones_like(x0[..., :1, :]), state[1])

    def largest(*columns: Array) -> Array:  # of several, as there may be no rows
        return xp.max(xp.abs(xp.concat(columns, axis=-2)), axis=-2)

    start = equations(x0, u0)
    first = System(cone, P, A, start[2][..., 0], start[3][..., 0]) if cone.linear and direction is None else None
    state = loop(steps, step, start, x, settled)
    Px, ATz, Ax = (v[..., 0] for v in state[4])
    x1, z1, s1, q, b = (v[..., 0] for v in (state[0], state[2], state[3], q, b))
    found = _residuals(Px, ATz, Ax, q, b, x1, z1, s1)
    better = xp.max(found, axis=-1, keepdims=True) <= xp.max(residuals, axis=-1, keepdims=True)
    pairs = ((x1, x), (z1, z), (s1, s), (found, residuals))
    x, z, s, residuals = (xp.where(better, new, old) for new, old in pairs)
    return x, z, s, residuals


def _residuals(Px: Array, ATz: Array, Ax: Array, q: Array, b: Array, x: Array, z: Array, s: Array) -> Array:
    """Relative primal, dual and gap residuals of a point in the cones, (*batch, 3)."""
    xp = namespace(x, z)

    def norm(v: Array) -> Array:
        return xp.linalg.vector_norm(v, axis=-1)

    def relative(total: Array, *terms: Array) -> Array:
        scale = xp.ones_like(total)
        for term in terms:
            scale = xp.maximum(scale, term)
        return total / scale

    xPx, qx, bz = (xp.sum(a * c, axis=-1) for a, c in ((x, Px), (q, x), (b, z)))
    parts = (
        relative(norm(Ax + s - b), norm(Ax), norm(s), norm(b)),
        relative(norm(Px + ATz + q), norm(Px), norm(ATz), norm(q)),
        relative(xp.abs(xPx + qx + bz), xp.abs(xPx), xp.abs(qx), xp.abs(bz)),
    )
    return xp.stack(xp.broadcast_arrays(*parts), axis=-1)
