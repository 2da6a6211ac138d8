"""Equilibration of a batch of dense cone programs on arrays: scales that bring rows, columns and cost near size one.

Ruiz, "A scaling algorithm to equilibrate both rows and columns norms in matrices", RAL-TR-2001-034, with the cost scale
of Stellato et al., "OSQP: an operator splitting solver for quadratic programs", doi 10.1007/s12532-020-00179-2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from cvxlayers.array import loop, namespace
from cvxlayers.solvers.interior_point.cones.nonnegative import NonnegativeBarrier
from cvxlayers.solvers.interior_point.cones.product import ProductBarrier

Array = Any

_LEAST, _MOST = 1e-4, 1e4


class Scaled(NamedTuple):
    """The program in x = D x', z = E z'/c, s = E^-1 s': P = c D P D, q = c D q, A = E A D, b = E b.

    ``d`` (*batch, n), ``e`` (*batch, m) and ``c`` (*batch, 1) are the scales. Absent rows read 0'x + s = 1.
    """

    P: Array
    q: Array
    A: Array
    b: Array
    d: Array
    e: Array
    c: Array


def equilibrate(
    barrier: ProductBarrier, P: Array, q: Array, A: Array, b: Array, absent: Array, sweeps: int = 5
) -> Scaled:
    """Scales by ``sweeps`` rounds of square roots of the largest entries; one scale for each cone that is no orthant.

    ``absent`` (*batch, m) marks the rows of constraints that are not there.
    """
    xp = namespace(P, q, A, b)
    absolute_P, absolute_A = xp.abs(P), xp.abs(A)
    lead = xp.zeros_like(q[..., :1]) + xp.zeros_like(b[..., :1])
    lead = lead + xp.zeros_like(P[..., 0, :1]) + xp.zeros_like(A[..., 0, :1])
    d, e = lead + xp.ones_like(q), lead + xp.ones_like(b)

    def sweep(scales: tuple[Array, Array]) -> tuple[Array, Array]:
        d, e = scales
        weighted = absolute_A * e[..., :, None] * d[..., None, :]
        rows = _blockwise(barrier, xp.max(weighted, axis=-1))
        cols = xp.maximum(xp.max(weighted, axis=-2), xp.max(absolute_P * d[..., None, :], axis=-1) * d)
        d = xp.clip(d / xp.sqrt(xp.where(cols > 0, cols, 1.0)), _LEAST, _MOST)
        return d, xp.clip(e / xp.sqrt(xp.where(rows > 0, rows, 1.0)), _LEAST, _MOST)

    d, e = loop(sweeps, sweep, (d, e), like=q)
    P = P * d[..., :, None] * d[..., None, :]
    q = q * d
    largest = xp.mean(xp.max(xp.abs(P), axis=-1), axis=-1, keepdims=True)
    cost = xp.maximum(largest, xp.max(xp.abs(q), axis=-1, keepdims=True))
    c = 1.0 / xp.clip(xp.where(cost > 0, cost, 1.0), _LEAST, _MOST)
    A = A * xp.where(absent, 0.0, e)[..., :, None] * d[..., None, :]
    return Scaled(P * c[..., None], q * c, A, xp.where(absent, 1.0, b * e), d, e, c)


def _blockwise(barrier: ProductBarrier, rows: Array) -> Array:
    """The largest of each cone's rows, in all of them."""
    xp = namespace(rows)
    parts = [rows[..., : barrier.equalities]] if barrier.equalities else []
    for g, part in zip(barrier.groups, barrier.cut(rows), strict=True):
        if not isinstance(g.barrier, NonnegativeBarrier):
            part = xp.broadcast_to(xp.max(part, axis=-1, keepdims=True), part.shape)
        parts.append(xp.reshape(part, (*rows.shape[:-1], g.stop - g.start)))
    return xp.concat(parts, axis=-1) if len(parts) != 1 else parts[0]
