"""Which implementation serves arrays: the fused kernels of a GPU where they fit, else the array text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from array_api_compat import is_jax_array

from cvxlayers.array import jax_cuda, namespace, outside_autocast, stop_gradient
from cvxlayers.array.cuda import of_jax, reachable
from cvxlayers.conic import array_kkt, array_newton
from cvxlayers.conic.program import ConeProgram
from cvxlayers.errors import SettingsError
from cvxlayers.sets import Product
from cvxlayers.solvers.interior_point import cuda, method
from cvxlayers.solvers.interior_point.arguments import checked
from cvxlayers.solvers.interior_point.native import Native
from cvxlayers.solvers.interior_point.outcome import Outcome

Array = Any

_DEFAULT = Native()


def solve(
    cone: Product,
    P: Array,
    q: Array,
    A: Array,
    b: Array,
    settings: Native = _DEFAULT,
    program: ConeProgram | None = None,
) -> Outcome:
    """Solutions of a batch of dense programs, on the device of the arrays; see `method.solve`.

    A constant for automatic differentiation: `ConeLayer` of `cvxlayers.torch` and `cvxlayers.jax` has derivatives.
    ``program``, here as everywhere below, tells the patterns of P and A, if they are known. Arrays of several
    floating-point dtypes are brought to their common one. Raises ShapeError where shapes or devices do not fit each
    other, or the cone lists its blocks in another order than the canonical one.
    """
    settings = _native(settings)
    lead, (P, q, A, b) = checked(cone, P=P, q=q, A=A, b=b)
    if not _fused(cone, A, settings, program) or 0 in lead:
        with outside_autocast(A):
            return method.solve(cone, P, q, A, b, settings)
    data = [_flat(stop_gradient(v), lead, k) for v, k in ((P, 2), (q, 1), (A, 2), (b, 1))]
    kernel = partial(cuda.solve, cone, settings=settings, sparsity=_sparsity(program, A))
    otherwise = partial(method.solve, cone, settings=settings)
    out = _on_cuda(kernel, otherwise, data, (0,) * 4, (0,) * 6)
    xp = namespace(q)
    return Outcome(*(v if len(lead) == 1 else xp.reshape(v, (*lead, *v.shape[1:])) for v in out))


def fixed(
    program: ConeProgram, like: Array, settings: Native, lead: tuple[int, ...], solving: bool, mu: float = 0.0
) -> bool:
    """Whether `solve` and `polish`, or else `linear_solve`, do the same operations whatever the values of a batch.

    Kernels do, where ``like`` is; those in parts look at the values while they solve.
    """
    n, m, cone = program.n, program.m, program.cone
    if mu or 0 in lead or not _kernels(cone, n, m, like, settings, program):
        return False
    return not solving or _sparsity(program, like) is not None or not cuda.in_parts(cone, n, m)


def form(cone: Product, n: int, m: int, device: Any, settings: Native, program: ConeProgram | None = None) -> str:
    """In which form the method runs for float64 arrays on a device of PyTorch or JAX, in words."""
    jax = of_jax(device)
    devices = jax_cuda.devices() if jax else (device,)
    if settings.compiled and settings.precision == "float64" and _takes(cone, n, m, devices, program):
        if cuda.sparse(program, devices) is not None:
            return "by kernels for sparse matrices, one thread block for each problem"
        if cuda.in_parts(cone, n, m):
            return "by kernels in parts, with matrix products between them"
        return "by kernels, one thread block for each problem"
    if jax:
        return "by array operations, compiled by XLA"
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
    settings: Native = _DEFAULT,
    mu: float = 0.0,
    program: ConeProgram | None = None,
) -> tuple[Array, Array, Array]:
    """(w_x, w_z, residual) of the derivative's system at solutions; see `cvxlayers.conic.array_kkt.linear_solve`.

    Raises what `solve` raises.
    """
    settings = _native(settings)
    _, arrays = checked(cone, P=P, A=A, z=z, s=s, gx=gx, gz=gz)
    with outside_autocast(arrays[0]):
        return _linear_solve(cone, *arrays, settings=settings, mu=mu, program=program)


def _linear_solve(
    cone: Product,
    P: Array,
    A: Array,
    z: Array,
    s: Array,
    gx: Array,
    gz: Array,
    settings: Native,
    mu: float,
    program: ConeProgram | None,
) -> tuple[Array, Array, Array]:
    """`linear_solve` of arrays that are `checked`."""
    if mu or not _fused(cone, A, settings, program):
        return array_kkt.linear_solve(cone, P, A, z, s, gx, gz, mu)
    sides = array_kkt.Sides((P, A, z, s), (gx, gz))
    P, A, z, s = sides.system
    if 0 in (*sides.kept, sides.several):
        return array_kkt.linear_solve(cone, P, A, z, s, gx, gz, mu)
    xp, batch, known = namespace(gx), int(np.prod(sides.kept, dtype=int)), _sparsity(program, A)

    def rows(g: Array) -> Array:
        """Right-hand sides (*lead, size) as (several, batch, size)."""
        g = sides.columns(xp.broadcast_to(g, (*sides.lead, g.shape[-1])))
        return _contiguous(xp.permute_dims(xp.reshape(g, (batch, *g.shape[-2:])), (2, 0, 1)))

    def back(w: Array) -> Array:
        w = xp.permute_dims(w, (1, 2, 0))
        return sides.back(xp.reshape(w, (*sides.kept, *w.shape[1:])))

    def kernel(P: Array, A: Array, z: Array, s: Array, gx: Array, gz: Array) -> tuple[Array, Array, Array]:
        z, s = (_contiguous(xp.broadcast_to(v, (gx.shape[1], v.shape[-1]))) for v in (z, s))
        return cuda.linear_solve(cone, P, A, z, s, gx, gz, known)

    system = [_flat(v, sides.kept, k) for v, k in ((P, 2), (A, 2), (z, 1), (s, 1))]
    right = [rows(gx), rows(gz)]
    otherwise = partial(array_kkt.linear_solve, cone)
    wx, wz, residual = _on_cuda(kernel, otherwise, [*system, *right], (0, 0, 0, 0, 1, 1), (1, 1, 1))
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
    settings: Native = _DEFAULT,
    program: ConeProgram | None = None,
) -> tuple[Array, Array, Array, Array]:
    """(x, z, s, residuals) after Newton's method on the optimality conditions; see `cvxlayers.conic.array_newton`.

    Raises what `solve` raises.
    """
    _, arrays = checked(cone, P=P, q=q, A=A, b=b, x=x, z=z, s=s, residuals=residuals)
    A, x = arrays[2], arrays[4]
    kernel, otherwise = partial(_polish, cone, settings, program), partial(array_newton.polish, cone)
    fused = _fused(cone, A, settings, program) and 0 not in x.shape
    if not fused or not is_jax_array(x):
        with outside_autocast(A):
            return (kernel if fused else otherwise)(*arrays)
    lead = tuple(x.shape[:-1])
    data = [_flat(v, lead, k) for v, k in zip(arrays, (2, 1, 2, 1, 1, 1, 1, 1), strict=True)]
    found = _on_cuda(kernel, otherwise, data, (0,) * 8, (0,) * 4)
    return tuple(namespace(v).reshape(v, (*lead, v.shape[-1])) for v in found)  # pyright: ignore[reportReturnType]


def _polish(
    cone: Product, settings: Native, program: ConeProgram | None, *arrays: Array
) -> tuple[Array, Array, Array, Array]:
    """`polish` by kernels."""
    P, _, A, _, x, z, s, residuals = arrays
    if cone.linear:
        return x, z, s, residuals  # the kernel's iterations end with it
    xp, n = namespace(x), x.shape[-1]

    def pair(u: Array) -> tuple[Array, Array]:
        flat = _contiguous(xp.reshape(u, (-1, cone.size)))
        return tuple(xp.reshape(v, u.shape) for v in cuda.pair(cone, flat, n))  # pyright: ignore[reportReturnType]

    def direction(z: Array, s: Array, top: Array, low: Array) -> tuple[Array, Array]:
        wx, wz, _ = _linear_solve(cone, P, A, z, s, top, low, settings, 0.0, program)
        # Of a singular system, whatever the kernel leaves; the residuals decide what is kept.
        return xp.where(xp.isfinite(wx), wx, 0.0), xp.where(xp.isfinite(wz), wz, 0.0)

    return array_newton.polish(cone, *arrays, pair=pair, direction=direction)


def _native(settings: Any) -> Native:
    """The settings, also those that `cvxlayers.Native` holds for CVXPY."""
    found = getattr(settings, "ours", settings)
    if not isinstance(found, Native):
        raise SettingsError(f"'settings' should be a cvxlayers.solvers.Native, such as Native(); got {settings!r}.")
    return found


def _fused(cone: Product, A: Array, settings: Native, program: ConeProgram | None) -> bool:
    """Whether the kernels take programs with this matrix."""
    return A.dtype == namespace(A).float64 and _kernels(cone, A.shape[-1], A.shape[-2], A, settings, program)


def _kernels(cone: Product, n: int, m: int, like: Array, settings: Native, program: ConeProgram | None) -> bool:
    """Whether the kernels take programs of this shape where an array is."""
    if not settings.compiled or settings.precision != "float64":
        return False
    if not is_jax_array(like) and not reachable(like):
        return False
    return _takes(cone, n, m, _devices(like), program)


def _takes(cone: Product, n: int, m: int, devices: Sequence[Any], program: ConeProgram | None) -> bool:
    """Whether they run on all of these devices."""
    return bool(devices) and all(cuda.fits(cone, n, m, device, program) for device in devices)


def _devices(A: Array) -> Sequence[Any]:
    """Where A may be: JAX says late where it will compute."""
    return jax_cuda.devices() if is_jax_array(A) else (A.device,)


def _sparsity(program: ConeProgram | None, A: Array) -> cuda.Sparsity | None:
    """The patterns of a program, where its kernels use them."""
    return cuda.sparse(program, _devices(A))


def _on_cuda(
    kernel: Callable[..., tuple],
    otherwise: Callable[..., tuple],
    args: Sequence[Array],
    axes: Sequence[int],
    axes_out: Sequence[int],
) -> tuple[Array, ...]:
    """``kernel(*args)`` where the arrays are on a GPU; see `cvxlayers.array.jax_cuda.on_cuda`, which has the rest."""
    if not is_jax_array(args[0]):
        return kernel(*args)
    return jax_cuda.on_cuda(kernel, otherwise, args, axes, axes_out)


def _contiguous(v: Array) -> Array:
    """v with its numbers in order, from a multiple of 16 bytes on; what XLA hands to a kernel always is."""
    if is_jax_array(v):
        return v
    v = v.contiguous()
    return v.clone() if v.data_ptr() % 16 else v


def _flat(v: Array, lead: tuple[int, ...], own: int) -> Array:
    """v (*lead or less, ...) with one batch axis, of length one where the batch shares it; contiguous."""
    xp = namespace(v)
    shape = v.shape[v.ndim - own :]
    if all(k == 1 for k in v.shape[: v.ndim - own]):
        return _contiguous(xp.reshape(v, (1, *shape)))
    return _contiguous(xp.reshape(xp.broadcast_to(v, (*lead, *shape)), (-1, *shape)))
