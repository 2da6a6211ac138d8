"""The solution map on the caller's arrays: lift, reduce, solve by the native method, differentiate, with no host in it.

What `cvxlayers.solution_map` is for NumPy and every solver, for the arrays of PyTorch and JAX and the native solver:
arrays stay on their device, and under ``jax.jit`` in the compiled program. Derivatives of derivatives go through
`cvxlayers.lift_recover`; the plain reverse mode is here.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from array_api_compat import device

from cvxlayers.array import namespace, replayed
from cvxlayers.array.once import once
from cvxlayers.canonical.form import AffineSolverAffine, Output, Parameter
from cvxlayers.conic.affine import AffineMap
from cvxlayers.conic.array_adjoint import ArrayAdjoint
from cvxlayers.conic.array_affine import Affine
from cvxlayers.conic.array_elimination import ArrayElimination, Reduced
from cvxlayers.conic.elimination import Elimination
from cvxlayers.lift_recover import LiftRecover
from cvxlayers.solvers.interior_point import Native, fixed, form, linear_solve, polish, solve
from cvxlayers.status import Status

Array = Any


@dataclass(eq=False)
class ArrayPoint:
    """What one forward pass leaves: the reduced data and solution, zero where an element failed, and how it ended."""

    map: ArrayMap
    vectors: tuple[Array, ...]
    data: Reduced
    y: Array
    z_reduced: Array
    s_reduced: Array
    kept: Array  # (*batch), whether there is a solution
    status: Array = None  # derivatives do not ask how it ended
    iterations: Array = None
    residuals: Array = None

    @property
    def arrays(self) -> tuple:
        """All that derivatives need, but the map."""
        return self.vectors, self.data, self.y, self.z_reduced, self.s_reduced, self.kept

    @cached_property
    def full(self) -> tuple[Array, Array]:
        """x and z of the full program, zero where an element failed."""
        map_ = self.map.elimination
        if not map_.size[0]:
            return self.y, self.z_reduced
        # The data of a failed element may be NaN, in its blocks too.
        x, z = map_.expand(self.data.blocks, self.y, self.z_reduced)
        return self.map.clean(self, x), self.map.clean(self, z)

    @property
    def x(self) -> Array:
        return self.full[0]

    @property
    def z(self) -> Array:
        return self.full[1]

    @cached_property
    def s(self) -> Array:
        return self.map.elimination.expand_slack(self.s_reduced)

    @cached_property
    def value(self) -> Array:
        """(1/2) x'Px + q'x + r, (*batch)."""
        d, y = self.data, self.y
        Py = (d.P @ y[..., None])[..., 0]
        return 0.5 * (Py * y).sum(-1) + (d.q * y).sum(-1) + d.r


class ArrayMap:
    """Parameter values to conic solutions, and the derivative of that map, for one form and one setting."""

    def __init__(self, form: AffineSolverAffine, ends: LiftRecover, settings: Native, mu: float) -> None:
        self.form, self.ends, self.settings, self.mu = form, ends, settings, mu
        self._elimination = Elimination(form.program, form.lift, form.auxiliary)
        self.program = self._elimination.program
        self.elimination = ArrayElimination(self._elimination, form.lift)
        self._polished = settings.precision != "float32"
        self.readers = tuple(_Reader(output, self._elimination) for output in form.outputs)

    def form_on(self, device: Any) -> str:
        """In which form the native solver runs on an accelerator of PyTorch or JAX."""
        of = self.program
        return form(of.cone, of.n, of.m, device, self.settings, of)

    # forward

    def solve(self, values: Sequence[Array], batch: tuple[int, ...]) -> ArrayPoint:
        """Solve for parameter values (*lead, *shape), real or complex, of the dtype to work in."""
        if not fixed(self.program, values[0], self.settings, batch, solving=True):
            return self._solve(values, batch)

        def arrays(*values: Array) -> tuple:
            point = self._solve(values, batch)
            return *point.arrays, point.status, point.iterations, point.residuals

        return ArrayPoint(self, *replayed((weakref.ref(self), "solve", batch), arrays, tuple(values)))

    def _solve(self, values: Sequence[Array], batch: tuple[int, ...]) -> ArrayPoint:
        vectors = tuple(self.ends.vectors(values, len(batch), guard=True))
        data = self.elimination.reduce(vectors)
        out = solve(self.program.cone, data.P, data.q, data.A, data.b, self.settings, self.program)
        xp = namespace(out.x)
        kept = out.status <= Status.INACCURATE
        own = tuple(out.status.shape)
        y, z, s = (xp.where(kept[..., None], v, 0.0) for v in (out.x, out.z, out.s))
        residuals = out.residuals
        if self._polished:
            y, z, s, residuals = polish(
                self.program.cone, data.P, data.q, data.A, data.b, y, z, s, residuals, self.settings, self.program
            )
        status, iterations = out.status, out.iterations
        if own != batch:  # no parameter of the solution has all the batch dimensions
            y, z, s, residuals = (xp.broadcast_to(v, (*batch, v.shape[-1])) for v in (y, z, s, residuals))
            kept, status, iterations = (xp.broadcast_to(v, batch) for v in (kept, status, iterations))
        return ArrayPoint(self, vectors, data, y, z, s, kept, status, iterations, residuals)

    def clean(self, point: ArrayPoint, v: Array) -> Array:
        """v (*batch, size), zero where the element failed."""
        return namespace(v).where(point.kept[..., None], v, 0.0)

    def outputs(self, point: ArrayPoint) -> list[Array]:
        """The variables asked for, (*batch, *shape), NaN where an element failed."""
        return [reader(point) for reader in self.readers]

    def objective(self, point: ArrayPoint) -> Array:
        """The optimal value, (*batch); NaN where an element failed."""
        xp = namespace(point.y)
        value = self.form.sense * point.value
        value = xp.exp(value) if self.form.transform == "exp" else value
        return xp.where(point.kept, value, float("nan"))

    # derivatives

    def vjp(
        self,
        point: ArrayPoint,
        cotangents: Sequence[Array | None],
        value: Array | None,
        wanted: Collection[int],
        shapes: Sequence[tuple[int, ...]],
    ) -> tuple[dict[int, Array | None], Array | None]:
        """Cotangents of the outputs and of the optimal value to gradients of the parameters in ``wanted``.

        A gradient is None for zero. With them the residual of the linear system, relative to the right-hand side; None
        if there was no system to solve.
        """
        wanted, shapes, cotangents = tuple(wanted), tuple(shapes), tuple(cotangents)
        if not fixed(self.program, point.y, self.settings, tuple(point.kept.shape), solving=False, mu=self.mu):
            grads, residual = self._vjp(point, cotangents, value, wanted, shapes)
        else:

            def pulled(arrays: tuple, cotangents: tuple, value: Array | None) -> tuple:
                return self._vjp(ArrayPoint(self, *arrays), cotangents, value, wanted, shapes)

            key = (weakref.ref(self), "vjp", wanted, shapes)
            grads, residual = replayed(key, pulled, (point.arrays, cotangents, value))
        return dict(zip(wanted, grads, strict=True)), residual

    def _vjp(
        self,
        point: ArrayPoint,
        cotangents: Sequence[Array | None],
        value: Array | None,
        wanted: Sequence[int],
        shapes: Sequence[tuple[int, ...]],
    ) -> tuple[tuple[Array | None, ...], Array | None]:
        """`vjp`, with gradients in the order of ``wanted``."""
        xp = namespace(point.y)
        given = [(reader, c) for reader, c in zip(self.readers, cotangents, strict=True) if c is not None]
        small = all(reader.reduced is not None for reader, _ in given)
        g: dict[str, Array | None] = {"x": None, "z": None, "s": None}
        for reader, cotangent in given:
            part = self.clean(point, reader.transpose(point, cotangent, small))
            before = g[reader.output.source]
            g[reader.output.source] = part if before is None else before + part
        if value is not None:
            value = xp.where(point.kept, value, 0.0) * self.form.sense
            if self.form.transform == "exp":
                value = value * xp.exp(self.form.sense * point.value)
        w = gs = residual = None
        if given:
            w, gs, residual = self._adjoint(point, g["x"], g["z"], g["s"], small)
        shared = [all(k == 1 for k in v.shape[:-1]) for v in point.vectors]
        found = self._pull.pull(point.x, point.z, w, gs, value, wanted, shared)
        parameters, vectors = self.form.parameters, point.vectors
        grads = {
            p: None if grad is None else _gradient(parameters[p], grad, vectors[p], shapes[p])
            for p, grad in found.items()
        }
        return tuple(grads[p] for p in wanted), residual

    def _adjoint(self, point: ArrayPoint, gx: Array | None, gz: Array | None, gs: Array | None, small: bool):
        """w of the full system, the cotangent of the full s, and the residual.

        With ``small`` the cotangents are those of the reduced program's x, z and s.
        """
        xp = namespace(point.y)
        k, A = point.data.blocks, point.data.A
        n, m = (self.program.n, self.program.m) if small else (self.form.program.n, self.form.program.m)
        lead = tuple(point.kept.shape)
        gx = xp.zeros((*lead, n), dtype=point.y.dtype, device=device(point.y)) if gx is None else gx
        gz = xp.zeros((*lead, m), dtype=point.y.dtype, device=device(point.y)) if gz is None else gz
        gt = c = None
        if not small:
            gx, gz, gt, c = self.elimination.reduce_rhs(k, gx, gz)
        if gs is not None:  # s = b - Ax in the reduced program, whose other rows have s = 0
            gs = gs if small else self.elimination.restrict(gs)
            gx = gx - _transposed_times(A, gs)
            if k.At is not None:
                moved = _transposed_times(k.At, gs)
                gt = -moved if gt is None else gt - moved
            gs = self.elimination.expand_slack(gs)
        solution = linear_solve(
            self.program.cone,
            point.data.P,
            A,
            point.z_reduced,
            point.s_reduced,
            gx,
            gz,
            self.settings,
            self.mu,
            self.program,
        )
        wx, wz = self.elimination.expand_solution(k, gt, c, *solution[:2])
        return (self.clean(point, wx), self.clean(point, wz)), gs, xp.where(point.kept, solution[2], 0.0)

    @property
    def _pull(self) -> ArrayAdjoint:
        return once(vars(self), "_pulled", lambda: ArrayAdjoint(self.form.program, self.form.lift))

    def linear_solve(self, P: Array, A: Array, z: Array, s: Array, gx: Array, gz: Array) -> tuple[Array, Array]:
        """The system of the full program, P and A the values on its patterns: (w_x, w_z) for (*lead, n), (*lead, m)."""
        reduction = self._from_values
        P, A, k = reduction.matrices((P, A))
        gx, gz, gt, c = reduction.reduce_rhs(k, gx, gz)
        z, s = reduction.restrict(z), reduction.restrict(s)
        wy, wz, _ = linear_solve(self.program.cone, P, A, z, s, gx, gz, self.settings, self.mu, self.program)
        return reduction.expand_solution(k, gt, c, wy, wz)

    @cached_property
    def _from_values(self) -> ArrayElimination:
        return ArrayElimination.of_values(self._elimination)


class _Reader:
    """One output, read from the reduced solution where that holds all it needs."""

    def __init__(self, output: Output, elimination: Elimination) -> None:
        self.output = output
        kept = elimination.kept if output.source == "x" else elimination.rows
        reduced = restricted(output.map, kept, output.source == "s")
        self.reduced = None if reduced is None else Affine(reduced)
        self._map = Affine(output.map)

    def __call__(self, point: ArrayPoint) -> Array:
        xp, output = namespace(point.y), self.output
        lead = tuple(point.kept.shape)
        values = xp.reshape(self._real(point), (*lead, *output.shape, *((2,) if output.complex else ())))
        kept = xp.reshape(point.kept, (*lead, *(1,) * (values.ndim - len(lead))))
        values = xp.where(kept, values, float("nan"))
        return values[..., 0] + 1j * values[..., 1] if output.complex else values

    def _real(self, point: ArrayPoint) -> Array:
        """The output as a real vector (*batch, size), finite."""
        xp, source = namespace(point.y), self.output.source
        if self.reduced is not None:
            values = self.reduced([{"x": point.y, "z": point.z_reduced, "s": point.s_reduced}[source]])
        else:
            values = self._map([getattr(point, source)])
        values = xp.broadcast_to(values, (*point.kept.shape, values.shape[-1]))
        return xp.exp(values) if self.output.transform == "exp" else values

    def transpose(self, point: ArrayPoint, cotangent: Array, small: bool) -> Array:
        """The cotangent of the source, reduced if ``small``, else full; of the output (*batch, *shape)."""
        xp = namespace(point.y)
        lead = tuple(point.kept.shape)
        if self.output.complex:
            cotangent = xp.stack([xp.real(cotangent), xp.imag(cotangent)], axis=-1)
        size = self._map.size
        cotangent = xp.reshape(cotangent, (*lead, size))
        if self.output.transform == "exp":
            cotangent = cotangent * self._real(point)
        map_ = self.reduced if small and self.reduced is not None else self._map
        out = map_.transpose(0, cotangent)
        if out is not None:
            return out
        if small:
            return xp.zeros_like(point.y if self.output.source == "x" else point.z_reduced)
        return xp.zeros_like(getattr(point, self.output.source))


def restricted(map_: AffineMap, kept: np.ndarray, drop: bool) -> AffineMap | None:
    """The map as one of the kept entries alone; None if it reads others that may not be dropped."""
    if not map_.blocks:
        return map_
    matrix = map_.blocks[0].matrix
    small = matrix[:, kept]
    return AffineMap(map_.constant, {0: small}) if drop or small.nnz == matrix.nnz else None


def _gradient(parameter: Parameter, grad: Array, at: Array, shape: tuple[int, ...]) -> Array:
    """Gradient of the value, of this ``shape``, from that of the vector: (size,) if summed, else (*batch, size)."""
    xp = namespace(grad)
    if parameter.transform != "identity":
        half = at.shape[-1] // 2 if parameter.transform == "both" else 0
        value = at[..., :half] if half else xp.exp(at)
        known = xp.isfinite(value)
        part = xp.where(known, grad[..., half:] / xp.where(known, value, 1.0), 0.0)
        grad = grad[..., :half] + part if half else part
    lead = shape[: len(shape) - len(parameter.shape)]
    if grad.ndim > 1 and tuple(grad.shape[:-1]) != lead:  # sum over what was broadcast
        extra = grad.ndim - 1 - len(lead)
        axes = (*range(extra), *(extra + i for i, k in enumerate(lead) if k == 1 and grad.shape[extra + i] != 1))
        grad = xp.sum(grad, axis=axes) if axes else grad
    if parameter.complex:
        pairs = xp.reshape(grad, (*shape, 2))
        return pairs[..., 0] + 1j * pairs[..., 1]
    return xp.reshape(grad, shape)


def _transposed_times(A: Array, v: Array) -> Array:
    """A'v for each element; A may be shared."""
    return (namespace(A).matrix_transpose(A) @ v[..., None])[..., 0]
