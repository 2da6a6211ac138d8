"""The linear system of the derivative on any array library: condensed, factored by Cholesky, refined.

With D the derivative of the projection onto K* at z - s (see `cvxlayers.conic.kkt`), the system in its bounded form is

    [ P     A'      ] [ w_x ]   [ g_x   ]
    [ DA   -(I - D) ] [ w_z ] = [ D g_z ]

Replacing I - D by T^-1 = I - D + rho D, and P by P + eps, eliminates w_z = T (D A w_x - r_z): what is left is
P + eps + A'T D A, positive definite. Refinement against the bounded system takes rho and eps out again; where the
system is singular it tends to the solution of minimum norm, as every correction lies in the range of the system.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from array_api_compat import is_jax_array

from cvxlayers.array import cholesky, constant, iterate, loop, namespace, triangular_solve
from cvxlayers.sets import Nonnegative, Product, Zero
from cvxlayers.sets.nonnegative import clear_cut

Array = Any

WEIGHT = {64: 1e7, 32: 1e4}  # T D at D = I, relative to P, by bits of the dtype
RIDGE = {64: 1e-13, 32: 1e-6}  # eps, relative to the condensed matrix
STEPS = 6  # solves with the factor; three are usual
INCONSISTENT = {64: 1e-7, 32: 1e-3}  # a residual that does not shrink, and says that there is no solution


def linear_solve(
    cone: Product, P: Array, A: Array, z: Array, s: Array, gx: Array, gz: Array, mu: float = 0.0
) -> tuple[Array, Array, Array]:
    """(w_x, w_z, residual): the system at a primal-dual pair, for right-hand sides (*lead, n) and (*lead, m).

    P (*batch, n, n) full and symmetric, A (*batch, m, n), z and s (*batch, m); batches broadcast, and right-hand sides
    may have further axes, or longer ones where the batch has ones: the system is factored once for all of them. ``mu``
    > 0 smooths the projection. ``residual`` (*lead) is relative to the right-hand side.
    """
    sides = Sides((P, A, z, s), (gx, gz))
    P, A, z, s = sides.system
    if mu:
        wx, wz, residual = System(cone, P, A, z, s, mu).solve(sides.columns(gx), sides.columns(gz))
    else:
        c = _cost_scale(P, A)
        factor = c[..., None]
        wx, wz, residual = System(cone, factor * P, A, c * z, s).solve(factor * sides.columns(gx), sides.columns(gz))
        wz = wz / factor
    return sides.back(wx), sides.back(wz), sides.back(residual)[..., 0]


def _cost_scale(P: Array, A: Array) -> Array:
    """c (*batch, 1) that brings P to the size of A'A: the problem of c times the objective has the multipliers c z."""
    xp = namespace(P, A)
    curvature = _curvature(P)
    rows = xp.sum(A * A, axis=-1)
    largest = xp.max(rows, axis=-1, keepdims=True) if rows.shape[-1] else xp.zeros_like(curvature)
    known = (curvature > 0) & (largest > 0)
    c = xp.where(known, largest, 1.0) / xp.where(known, curvature, 1.0)
    return xp.where((c > 1e3) | (c < 1e-3), c, 1.0)


def _curvature(P: Array) -> Array:
    """The largest entry (*batch, 1) on the diagonal of P, 0 without variables."""
    xp = namespace(P)
    diagonal = xp.linalg.diagonal(P)
    return xp.max(diagonal, axis=-1, keepdims=True) if P.shape[-1] else xp.sum(diagonal, axis=-1, keepdims=True)


class Sides:
    """Several right-hand sides of each system: the axes along which the system is the same.

    ``system`` holds P, A, z and s without these axes, ``kept`` the batch that is left.
    """

    def __init__(self, system: tuple[Array, Array, Array, Array], right: tuple[Array, Array]) -> None:
        shape = np.broadcast_shapes(*(tuple(v.shape[:-k]) for v, k in zip(system, (2, 2, 1, 1), strict=True)))
        lead = np.broadcast_shapes(shape, *(tuple(g.shape[:-1]) for g in right))
        shape = (1,) * (len(lead) - len(shape)) + shape
        self._apart = tuple(k for k, (own, all_) in enumerate(zip(shape, lead, strict=True)) if own != all_)
        self._kept = tuple(k for k in range(len(lead)) if k not in self._apart)
        self.lead = lead
        self.kept = tuple(lead[k] for k in self._kept)
        self.several = int(np.prod([lead[k] for k in self._apart], dtype=int))
        self.system = tuple(self._dropped(v, k) for v, k in zip(system, (2, 2, 1, 1), strict=True))

    def _dropped(self, v: Array, own: int) -> Array:
        """v, whose last ``own`` axes are its own, without the axes of the right-hand sides."""
        if not self._apart:
            return v
        lead = (1,) * (len(self.lead) + own - v.ndim) + tuple(v.shape[: v.ndim - own])
        kept = tuple(lead[k] for k in self._kept)
        return namespace(v).reshape(v, (*kept, *v.shape[v.ndim - own :]))

    def columns(self, g: Array) -> Array:
        """Right-hand sides (*lead, size) as (*kept, size, several)."""
        if not self._apart:
            return g[..., None]
        xp = namespace(g)
        g = xp.broadcast_to(g, (*self.lead, g.shape[-1]))
        g = xp.permute_dims(g, (*self._kept, len(self.lead), *self._apart))
        return xp.reshape(g, (*self.kept, g.shape[len(self.kept)], self.several))

    def back(self, w: Array) -> Array:
        """Columns (*kept, size, several) as (*lead, size)."""
        if not self._apart:
            return w[..., 0]
        xp, size = namespace(w), w.shape[-2]
        moved = [self.lead[k] for k in (*self._kept, *self._apart)]
        w = xp.reshape(xp.matrix_transpose(w), (*moved, size))
        return xp.permute_dims(w, (*np.argsort((*self._kept, *self._apart)).tolist(), len(moved)))


class System:
    """One factorization; right-hand sides and solutions are columns (*batch, n, k) and (*batch, m, k)."""

    def __init__(self, cone: Product, P: Array, A: Array, z: Array, s: Array, mu: float = 0.0) -> None:
        xp = namespace(P, A, z, s)
        self.P, self.A, self.At = P, A, xp.matrix_transpose(A)
        if mu:
            z, s = cone.smooth(z, s, mu)
        width = int(xp.finfo(P.dtype).bits)
        curvature = _curvature(P)
        rows = xp.sum(A * A, axis=-1)
        largest = xp.max(rows, axis=-1, keepdims=True) if rows.shape[-1] else xp.zeros_like(curvature)
        largest = xp.where(largest > 0, largest, 1.0)
        scale = xp.where(curvature > 1e-12 * largest, curvature, largest)
        self.groups = _groups(cone, z, s, mu, (rows + 1e-10 * largest) / (WEIGHT[width] * scale))
        M = P + self.At @ self.times("TD", A)
        ridge = RIDGE[width] * (xp.linalg.diagonal(M) + scale)
        self.L = cholesky(M + ridge[..., None] * constant(np.eye, (P.shape[-1],), M))

    def solve(self, gx: Array, gz: Array) -> tuple[Array, Array, Array]:
        """The solution, and its residual (*batch, 1, k) relative to the right-hand side.

        Where refinement does not get on, the system has no solution. What is left of the right-hand side is then taken
        off it, and the iteration starts again from zero; twice, for along the null space the first iteration is large,
        and its residual has its rounding errors.
        """
        xp = namespace(gx, gz)
        given = gx, self.times("D", gz)
        size = xp.maximum(_largest(given[0]), _largest(given[1]))
        size = xp.where(size > 0, size, 1.0)
        target = 8 * float(xp.finfo(gx.dtype).eps)
        inconsistent = INCONSISTENT[int(xp.finfo(gx.dtype).bits)]

        def refine(state: tuple) -> tuple:
            gx, gz, x, z, top, low, worst, restarts = state
            dx, dz = self.approximate(top, low)
            dx, dz = x + dx, z + dz
            new_top = gx - self.P @ dx - self.At @ dz
            new_low = gz + dz - self.times("D", self.A @ dx + dz)
            new = xp.maximum(_largest(new_top), _largest(new_low)) / size
            better = (new < worst) & (worst > target)  # what is settled stays, however long others take
            pairs = ((dx, x), (dz, z), (new_top, top), (new_low, low))
            x, z, top, low = (xp.where(better, a, b) for a, b in pairs)
            again = ((new > inconsistent) & ~(new < 0.5 * worst) & (restarts == 0)) | (restarts == 1)
            worst = xp.where(better, new, worst)
            gx, gz = (xp.where(again, g - r, g) for g, r in ((gx, top), (gz, low)))
            x, z, top, low = (xp.where(again, a, b) for a, b in ((0.0, x), (0.0, z), (gx, top), (gz, low)))
            worst = xp.where(again, float("inf"), worst)
            return gx, gz, x, z, top, low, worst, xp.where(again, restarts + 1.0, restarts)

        def settled(state: tuple) -> Array:
            return ~(state[-2] > target)

        n, m = self.A.shape[-1], self.A.shape[-2]
        lead = np.broadcast_shapes(*(tuple(v.shape[:-2]) for v in (self.L, self.A, gx, gz)))
        columns = gx.shape[-1]
        gx, gz = (xp.broadcast_to(g, (*lead, k, columns)) for g, k in zip(given, (n, m), strict=True))
        one = xp.broadcast_to(xp.ones_like(size), (*lead, 1, columns))
        state = (gx, gz, xp.zeros_like(gx), xp.zeros_like(gz), gx, gz, one * float("inf"), xp.zeros_like(one))
        if is_jax_array(gx):
            state = iterate(STEPS, refine, state, settled)
        else:
            state = loop(STEPS, refine, state, gx, settled)
        lost = xp.maximum(_largest(given[0] - state[0]), _largest(given[1] - state[1])) / size
        return state[2], state[3], xp.where(state[-1] > 0, lost, state[-2])

    def approximate(self, rx: Array, rz: Array) -> tuple[Array, Array]:
        """The solution of the regularized system, for right-hand sides r_x and r_z = D g_z."""
        Tr = self.times("T", rz)
        x = triangular_solve(self.L, triangular_solve(self.L, rx + self.At @ Tr), transpose=True)
        return x, self.times("TD", self.A @ x) - Tr

    def times(self, which: str, v: Array) -> Array:
        """D, T or TD times columns."""
        parts = [group.times(getattr(group, which), v[..., group.start : group.stop, :]) for group in self.groups]
        if not parts:
            return v
        return parts[0] if len(parts) == 1 else namespace(v).concat(parts, axis=-2)


class _Linear(NamedTuple):
    """The rows of the zero and nonnegative cones: D and T are diagonal, (*batch, stop - start, 1)."""

    start: int
    stop: int
    D: Array
    T: Array
    TD: Array

    @staticmethod
    def times(d: Array, v: Array) -> Array:
        return d * v


class _Blocks(NamedTuple):
    """The rows of equal cones: D and T are (*batch, count, size, size)."""

    start: int
    stop: int
    D: Array
    T: Array
    TD: Array

    @staticmethod
    def times(D: Array, v: Array) -> Array:
        xp = namespace(D, v)
        blocks = D @ xp.reshape(v, (*v.shape[:-2], D.shape[-3], D.shape[-1], v.shape[-1]))
        return xp.reshape(blocks, (*blocks.shape[:-3], D.shape[-3] * D.shape[-1], v.shape[-1]))


def _groups(cone: Product, z: Array, s: Array, mu: float, rho: Array) -> list[_Linear | _Blocks]:
    """D and T = (I - D + rho D)^-1 by groups of cones."""
    xp = namespace(z, s)
    out: list[_Linear | _Blocks] = []
    linear = [(block, start) for block, _, start in cone.groups if isinstance(block, (Zero, Nonnegative))]
    if linear:  # these lead
        stop = linear[-1][1] + linear[-1][0].size
        d = []
        for block, start in linear:
            a, b = (v[..., start : start + block.size] for v in (z, s))
            d.append(xp.ones_like(a) if isinstance(block, Zero) else _ratio(xp, a, b, mu))
        d = d[0] if len(d) == 1 else xp.concat(d, axis=-1)
        T = 1.0 / ((1.0 - d) + rho[..., :stop] * d)
        out.append(_Linear(0, stop, d[..., None], T[..., None], (T * d)[..., None]))
    for block, count, start in cone.groups[len(linear) :]:
        stop, size = start + count * block.size, block.size
        a, b, r = (xp.reshape(v[..., start:stop], (*v.shape[:-1], count, size)) for v in (z, s, rho))
        eye = constant(np.eye, (size,), a)
        D = block.derivative(a[..., None, :], b[..., None, :], eye, mu)
        D = (D + xp.matrix_transpose(D)) / 2
        # One rho for a cone, so that T is symmetric and commutes with D.
        inner = eye - D + xp.max(r, axis=-1)[..., None, None] * (D + RIDGE[int(xp.finfo(D.dtype).bits)] * eye)
        half = triangular_solve(cholesky(inner), xp.broadcast_to(eye, D.shape))
        T = xp.matrix_transpose(half) @ half
        out.append(_Blocks(start, stop, D, T, T @ D))
    return out


def _ratio(xp: Any, z: Array, s: Array, mu: float) -> Array:
    """z/(z + s), and 0 or 1 where it is clear which."""
    z, s = xp.where(z > 0, z, 0.0), xp.where(s > 0, s, 0.0)
    total = z + s
    d = xp.where(total > 0, z / xp.where(total > 0, total, 1.0), 0.5)
    active, inactive = clear_cut(z, s)
    return d if mu else xp.where(active, 1.0, xp.where(inactive, 0.0, d))


def _largest(v: Array) -> Array:
    xp = namespace(v)
    return xp.max(xp.abs(v), axis=-2, keepdims=True) if v.shape[-2] else xp.sum(v, axis=-2, keepdims=True)
