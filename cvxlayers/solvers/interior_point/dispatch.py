"""Which implementation serves arrays: the fused kernels of a GPU where they fit, else the array text."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import is_torch_array

from cvxlayers.array import namespace
from cvxlayers.conic import array_kkt, array_newton
from cvxlayers.conic.program import ConeProgram
from cvxlayers.sets import Product
from cvxlayers.solvers.interior_point import cuda, method
from cvxlayers.solvers.interior_point.native import Native
from cvxlayers.solvers.interior_point.outcome import Outcome

Array = Any


def solve(
    cone: Product, P: Array, q: Array, A: Array, b: Array, settings: Native, program: ConeProgram | None = None
) -> Outcome:
    """Solutions of a batch of dense programs, on the device of the arrays; see `method.solve`.

    ``program``, here as everywhere below, tells the patterns of P and A, if they are known.
    """
    lead = np.broadcast_shapes(*(tuple(v.shape[:-k]) for v, k in ((P, 2), (q, 1), (A, 2), (b, 1))))
    if not _fused(cone, A, settings, program) or 0 in lead:
        return method.solve(cone, P, q, A, b, settings)
    P, q, A, b = (_flat(v, lead, k) for v, k in ((P, 2), (q, 1), (A, 2), (b, 1)))
    out = cuda.solve(cone, P, q, A, b, settings, program)
    xp = namespace(q)
    return Outcome(*(v if len(lead) == 1 else xp.reshape(v, (*lead, *v.shape[1:])) for v in out))


def form(cone: Product, n: int, m: int, device: Any, settings: Native, program: ConeProgram | None = None) -> str:
    """In which form the method runs for float64 PyTorch tensors on a CUDA device, in words."""
    if settings.compiled and settings.precision == "float64" and cuda.fits(cone, n, m, device, program):
        if cuda.sparsity(program, device) is not None:
            return "by kernels for sparse matrices, one thread block for each problem"
        return "by kernels, one thread block for each problem"
    if method.recordable(cone):
        return "by array operations, recorded as CUDA graphs for shapes that come again"
    return "by array operations"


def linear_solve(
    cone: Product,
    P: Array,
    A: Array,
    z: Array,
    s: Array,
    gx: Array,
    gz: Array,
    settings: Native,
    mu: float = 0.0,
    program: ConeProgram | None = None,
) -> tuple[Array, Array, Array]:
    """(w_x, w_z, residual) of the derivative's system at solutions; see `cvxlayers.conic.array_kkt.linear_solve`."""
    if mu or not _fused(cone, A, settings, program):
        return array_kkt.linear_solve(cone, P, A, z, s, gx, gz, mu)
    sides = array_kkt.Sides((P, A, z, s), (gx, gz))
    P, A, z, s = sides.system
    if 0 in (*sides.kept, sides.several):
        return array_kkt.linear_solve(cone, P, A, z, s, gx, gz, mu)
    xp, batch = namespace(gx), int(np.prod(sides.kept, dtype=int))

    def rows(g: Array) -> Array:
        """Right-hand sides (*lead, size) as (several, batch, size)."""
        g = sides.columns(xp.broadcast_to(g, (*sides.lead, g.shape[-1])))
        return xp.permute_dims(xp.reshape(g, (batch, *g.shape[-2:])), (2, 0, 1)).contiguous()

    def back(w: Array) -> Array:
        w = xp.permute_dims(w, (1, 2, 0))
        return sides.back(xp.reshape(w, (*sides.kept, *w.shape[1:])))

    z, s = (xp.broadcast_to(v, (*sides.kept, v.shape[-1])) for v in (z, s))
    P, A, z, s = (_flat(v, sides.kept, k) for v, k in ((P, 2), (A, 2), (z, 1), (s, 1)))
    wx, wz, residual = cuda.linear_solve(cone, P, A, z, s, rows(gx), rows(gz), program)
    return back(wx), back(wz), back(residual[..., None])[..., 0]


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
    settings: Native,
    program: ConeProgram | None = None,
) -> tuple[Array, Array, Array, Array]:
    """(x, z, s, residuals) after Newton's method on the optimality conditions; see `cvxlayers.conic.array_newton`."""
    arrays = (cone, P, q, A, b, x, z, s, residuals)
    if not _fused(cone, A, settings, program) or 0 in x.shape:
        return array_newton.polish(*arrays)
    if cone.linear:
        return x, z, s, residuals  # the kernel goes on until it is clear which rows are active
    xp, n = namespace(x), x.shape[-1]

    def pair(u: Array) -> tuple[Array, Array]:
        flat = xp.reshape(u, (-1, cone.size)).contiguous()
        return tuple(xp.reshape(v, u.shape) for v in cuda.pair(cone, flat, n))  # pyright: ignore[reportReturnType]

    def direction(z: Array, s: Array, top: Array, low: Array) -> tuple[Array, Array]:
        wx, wz, _ = linear_solve(cone, P, A, z, s, top, low, settings, program=program)
        # Of a singular system, whatever the kernel leaves; the residuals decide what is kept.
        return xp.where(xp.isfinite(wx), wx, 0.0), xp.where(xp.isfinite(wz), wz, 0.0)

    return array_newton.polish(*arrays, pair=pair, direction=direction)


def _fused(cone: Product, A: Array, settings: Native, program: ConeProgram | None) -> bool:
    """Whether the kernels take programs of this shape here."""
    if not (is_torch_array(A) and A.is_cuda and settings.compiled and settings.precision == "float64"):
        return False
    xp = namespace(A)
    return A.dtype == xp.float64 and cuda.fits(cone, A.shape[-1], A.shape[-2], A.device, program)


def _flat(v: Array, lead: tuple[int, ...], own: int) -> Array:
    """v (*lead or less, ...) with one batch axis, of length one where the batch shares it; contiguous."""
    xp = namespace(v)
    shape = v.shape[v.ndim - own :]
    if all(k == 1 for k in v.shape[: v.ndim - own]):
        return xp.reshape(v, (1, *shape)).contiguous()
    return xp.reshape(xp.broadcast_to(v, (*lead, *shape)), (-1, *shape)).contiguous()
