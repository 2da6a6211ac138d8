"""The autograd functions of the PyTorch layer: numpy in the fast path, tensor operations where autograd looks inside.

A plain backward pass stays in NumPy from the cotangents to the parameters' gradients. Where the derivative is itself
recorded (double backward, ``torch.func``, forward mode), it is expressed by tensor operations around two functions:
`_Conic`, parameters to the conic solution (x, z, s), and `_LinearSolve`, the linear system of the derivative. The
derivative of each is written in terms of both, so every order works.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.autograd import Function, forward_ad
from torch.func import vjp

from cvxlayers.array.torch import outer_forward_mode
from cvxlayers.conic.kkt import Certificate
from cvxlayers.layer import Layer
from cvxlayers.solution_map import Point


class Call:
    """One call of a layer: what its forward pass leaves for its derivatives."""

    def __init__(
        self,
        core: Layer,
        dtype: torch.dtype,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: Point | None = None,
        objective: bool = True,
    ) -> None:
        self.core, self.dtype, self.solver_args, self.warm_start = core, dtype, solver_args, warm_start
        self.objective = objective  # whether the optimal value is an output, the last one
        self.batch_shape: tuple[int, ...] = ()
        self.shapes: list[tuple[int, ...]] = []
        self.point: Point
        self._values: list[np.ndarray] | None = None
        self._certificate: Certificate | None = None

    def run(self, tensors: Sequence[torch.Tensor]) -> Point:
        """Solve for these parameters, or find that it was done."""
        values = [_numpy(t) for t in tensors]
        known = self._values
        if known is None or not all(
            a is b or (a.shape == b.shape and np.array_equal(a, b, equal_nan=True))
            for a, b in zip(known, values, strict=True)
        ):
            self.shapes = [v.shape for v in values]
            self.batch_shape = self.core.batch_shape(self.shapes)
            self.point = self.core.solve(
                values, self.batch_shape, solver_args=self.solver_args, warm_start=self.warm_start
            )
            self._values = values
        return self.point

    def point_at(self, z: np.ndarray) -> Point | None:
        """The point of this call, if z is its solution."""
        kept = self.point.at_zero[1]
        return self.point if np.array_equal(kept.ravel(), z.ravel()) else None

    def pull(self, cotangents: Sequence[torch.Tensor | None], wanted: Sequence[int]) -> dict[int, np.ndarray]:
        """Gradients of the parameters in ``wanted``, in NumPy."""
        outputs = [None if g is None else _numpy(g) for g in cotangents]
        value = outputs.pop() if self.objective else None
        grads, certificate = self.core.vjp(self.point, outputs, value, self.batch_shape, self.shapes, wanted)
        if certificate is not None:
            self._certificate = certificate
        return grads

    def certify(self) -> Certificate:
        """The certificate of the last derivative, or of that of the sum of all outputs."""
        if self._certificate is None:
            self._certificate = self.core.certify(self.point, self.batch_shape, self.shapes)
        return self._certificate

    def tensor(self, array: np.ndarray, like: torch.Tensor) -> torch.Tensor:
        """An output as a tensor of the call's dtype, on the device of ``like``."""
        out = torch.from_numpy(np.asarray(array, order="C"))
        dtype = self.dtype.to_complex() if out.is_complex() else self.dtype
        return out if out.dtype == dtype and like.device == out.device else out.to(device=like.device, dtype=dtype)


def solve(call: Call, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The outputs, and the optimal value last if the call asks for it."""
    if not tensors:
        call.run(())
        like = torch.zeros((), dtype=call.dtype)
        return tuple(call.tensor(o, like) for o in _outputs(call))
    function = _Layer if torch._C._are_functorch_transforms_active() else _EagerLayer
    return function.apply(call, *tensors)


def _outputs(call: Call) -> list[np.ndarray]:
    core, point, shape = call.core, call.point, call.batch_shape
    outputs = core.outputs(point, shape)
    return [*outputs, core.objective(point).reshape(shape)] if call.objective else outputs


class _Function(Function):
    """Common to both: save the parameters for either mode; a vmapped call is a call with one more batch dimension."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        ctx.call = inputs[0]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])


class _Layer(_Function):
    """Parameters to outputs and the optimal value."""

    @staticmethod
    def forward(call: Call, *tensors: torch.Tensor):
        call.run(tensors)
        return tuple(call.tensor(o, tensors[0]) for o in _outputs(call))

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None):
        call, tensors = ctx.call, ctx.saved_tensors
        if torch.is_grad_enabled():
            return (None, *_pull(call, tensors, cotangents, _recover))
        wanted = [i for i in range(len(tensors)) if ctx.needs_input_grad[i + 1]]
        grads = call.pull(cotangents, wanted) if any(g is not None for g in cotangents) else {}
        return (None, *(_gradient(grads.get(i), t) for i, t in enumerate(tensors)))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: torch.Tensor | None):
        with outer_forward_mode():
            return _push(ctx.call, _primals(ctx), tangents, _recover)

    @staticmethod
    def vmap(info, in_dims, call: Call, *tensors: torch.Tensor):
        moved = _batch_first(call, tensors, in_dims[1:])
        return _Layer.apply(call, *moved), 0


class _EagerLayer(Function):
    """`_Layer` outside ``torch.func`` transforms, where it need not pay for them."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: torch.Tensor):
        outputs = _Layer.forward(call, *tensors)
        _Layer.setup_context(ctx, (call, *tensors), outputs)
        return outputs

    backward = _Layer.backward
    jvp = _Layer.jvp


class _Conic(_Function):
    """Parameters to (x, z, s) in float64, (*batch, n) and (*batch, m); zero where an element failed."""

    @staticmethod
    def forward(call: Call, *tensors: torch.Tensor):
        point = call.run(tensors)
        device = tensors[0].device
        out = [torch.from_numpy(v.reshape((*call.batch_shape, v.shape[-1])).copy()).to(device) for v in point.at_zero]
        kept = np.ones(point.batch, bool) if point.failed is None else ~point.failed
        return (*out, torch.from_numpy(kept.reshape((*call.batch_shape, 1))).to(device))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        _Function.setup_context(ctx, inputs, output)
        ctx.mark_non_differentiable(output[-1])

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None):
        return (None, *_pull(ctx.call, ctx.saved_tensors, cotangents[:-1], _conic_outputs))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: torch.Tensor | None):
        with outer_forward_mode():
            return (*_push(ctx.call, _primals(ctx), tangents, _conic_outputs), None)

    @staticmethod
    def vmap(info, in_dims, call: Call, *tensors: torch.Tensor):
        return _Conic.apply(call, *_batch_first(call, tensors, in_dims[1:])), 0


class _LinearSolve(Function):
    """(P, A, z, s, g_x, g_z) to the solution (w_x, w_z) of the system of the derivative, symmetric in g and w."""

    @staticmethod
    def forward(call: Call, P, A, z, s, gx, gz):
        arrays = [_numpy(t) for t in (P, A, z, s, gx, gz)]
        wx, wz = call.core.linear_solve(*arrays, point=call.point_at(arrays[2]))
        return torch.from_numpy(wx).to(gx.device), torch.from_numpy(wz).to(gx.device)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        ctx.call = inputs[0]
        ctx.save_for_backward(*inputs[1:], *output)
        ctx.save_for_forward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, cx: torch.Tensor, cz: torch.Tensor):
        call = ctx.call
        P, A, z, s, gx, gz, wx, wz = ctx.saved_tensors
        ux, uz = _LinearSolve.apply(call, P, A, z, s, cx, cz)
        residual = _residual(call, wx, wz)
        _, back = _vjp(residual, P, A, z, s, gx, gz)
        d = call.core.ends.differential
        return (None, *back((-ux, -(uz + d.A_times(A, ux) - cz))))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: torch.Tensor | None):
        call, d = ctx.call, ctx.call.core.ends.differential
        with outer_forward_mode():
            P, A, z, s, gx, gz = _primals(ctx)[:6]
            wx, wz = _LinearSolve.apply(call, P, A, z, s, gx, gz)
            rx, rz = _forward_mode(_residual(call, wx, wz), (P, A, z, s, gx, gz), tangents)
            dx, dz = _LinearSolve.apply(call, P, A, z, s, -rx - d.A_transposed(A, rz), -rz)
            return dx, dz + rz

    @staticmethod
    def vmap(info, in_dims, call: Call, *tensors: torch.Tensor):
        ndim = max(t.ndim - (d is not None) for t, d in zip(tensors, in_dims[1:], strict=True))
        moved = []
        for t, dim in zip(tensors, in_dims[1:], strict=True):
            if dim is not None:
                t = t.movedim(dim, 0)
                if t.ndim > 2:  # its own batch dimensions come right before the last
                    t = t.reshape(t.shape[0], *(1,) * (ndim + 1 - t.ndim), *t.shape[1:])
                elif ndim > 1:
                    t = t.reshape(t.shape[0], *(1,) * (ndim - 1), t.shape[1])
            moved.append(t)
        return _LinearSolve.apply(call, *moved), (0, 0)


def _primals(ctx: Any) -> list[torch.Tensor]:
    """The saved tensors without the tangents of the mode that asks, but with those of a forward mode around it."""
    return [forward_ad.unpack_dual(t).primal for t in ctx.saved_tensors]


def _residual(call: Call, wx: torch.Tensor, wz: torch.Tensor) -> Callable:
    """The equations F(P, A, z, s, g) = 0 that w solves: P w_x + A'w_z - g_x and D (A w_x + w_z - g_z) - w_z."""
    d, mu = call.core.ends.differential, call.core.mu

    def residual(P, A, z, s, gx, gz):
        top = d.P_times(P, wx) + d.A_transposed(A, wz) - gx
        return top, d.project(z, s, d.A_times(A, wx) + wz - gz, mu) - wz

    return residual


def _recover(call: Call, data: tuple[torch.Tensor, ...], x: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The outputs as a function of the conic data, x and z."""
    outputs = call.core.ends.recover(data, x, z)
    outputs = outputs if call.objective else outputs[:-1]
    return tuple(o.to(call.dtype.to_complex() if o.is_complex() else call.dtype) for o in outputs)


def _conic_outputs(call: Call, data: tuple[torch.Tensor, ...], x: torch.Tensor, z: torch.Tensor):
    """x, z and s = b - Ax as a function of the conic data, x and z."""
    return x, z, data[3] - call.core.ends.differential.A_times(data[2], x)


def _pull(call: Call, tensors: Sequence[torch.Tensor], cotangents: Sequence[torch.Tensor | None], outputs: Callable):
    """Gradients of the parameters by tensor operations, for a function of the conic data, x and z."""
    ends, ndim = call.core.ends, _batch_ndim(call, tensors)
    x, z, s, kept = _Conic.apply(call, *tensors)
    data, lift_back = _vjp(lambda t: ends.lift(t, ndim), tuple(_wide(t) for t in tensors))
    values, back = _vjp(lambda data, x, z: outputs(call, data, x, z), data, x, z)
    filled = tuple(torch.zeros_like(v) if g is None else g for g, v in zip(cotangents, values, strict=True))
    direct, gx, gz = back(filled)
    wx, wz = _LinearSolve.apply(call, *data[:3:2], z, s, torch.where(kept, gx, 0.0), torch.where(kept, gz, 0.0))
    implicit = [_sum_to(g, v) for g, v in zip(ends.differential.pull(x, z, wx, wz), data, strict=False)]
    (grads,) = lift_back((*(a + b for a, b in zip(direct, implicit, strict=False)), direct[-1]))
    return tuple(g.to(t.dtype) for g, t in zip(grads, tensors, strict=True))


def _push(call: Call, tensors: Sequence[torch.Tensor], tangents: Sequence[torch.Tensor | None], outputs: Callable):
    """Tangents of the outputs by tensor operations."""
    ends, ndim = call.core.ends, _batch_ndim(call, tensors)
    wide = tuple(_wide(t) for t in tensors)
    given = tuple(torch.zeros_like(w) if t is None else t.to(w.dtype) for t, w in zip(tangents, wide, strict=True))
    x, z, s, kept = _Conic.apply(call, *tensors)
    data = ends.lift(wide, ndim)
    moved = _forward_mode(lambda *t: ends.lift(t, ndim), wide, given)
    rx, rz = ends.differential.push(x, z, moved)
    dx, dz = _LinearSolve.apply(call, *data[:3:2], z, s, torch.where(kept, rx, 0.0), torch.where(kept, rz, 0.0))
    return _forward_mode(lambda x, z, *data: outputs(call, data, x, z), (x, z, *data), (dx, dz, *moved))


def _batch_ndim(call: Call, tensors: Sequence[torch.Tensor]) -> int:
    """The number of batch dimensions as seen here: vmapped ones are not."""
    return len(call.core.batch_shape([tuple(t.shape) for t in tensors]))


def _forward_mode(function: Callable, primals: Sequence[torch.Tensor], tangents: Sequence[torch.Tensor | None]):
    """jvp as the transpose of a vjp: forward mode does not nest in forward mode."""
    values, back = _vjp(function, *primals)
    _, forth = _vjp(back, tuple(torch.zeros_like(v) for v in values))
    given = tuple(torch.zeros_like(p) if t is None else t for t, p in zip(tangents, primals, strict=True))
    return forth(given)[0]


def _vjp(function: Callable, *primals: Any) -> tuple[Any, Callable]:
    """The values and the pullback: `torch.func.vjp` without auxiliary outputs, which its type leaves open."""
    values, back, *_ = vjp(function, *primals)
    return values, back


def _wide(t: torch.Tensor) -> torch.Tensor:
    return t.to(torch.complex128 if t.is_complex() else torch.float64)


def _sum_to(g: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The transpose of broadcasting ``like`` to the shape of ``g``."""
    return g.sum_to_size(like.shape) if g.shape != like.shape else g


def _batch_first(call: Call, tensors: Sequence[torch.Tensor], dims: Sequence[int | None]) -> list[torch.Tensor]:
    """Parameters with the vmapped dimension as their first batch dimension."""
    moved = []
    shapes = [t.shape if d is None else (*t.shape[:d], *t.shape[d + 1 :]) for t, d in zip(tensors, dims, strict=True)]
    ndim = len(call.core.batch_shape([tuple(s) for s in shapes]))
    for t, dim, parameter in zip(tensors, dims, call.core.form.parameters, strict=True):
        if dim is not None:
            t = t.movedim(dim, 0)
            lead = t.ndim - 1 - len(parameter.shape)
            t = t.reshape(t.shape[0], *(1,) * (ndim - lead), *t.shape[1:])
        moved.append(t)
    return moved


def _gradient(grad: np.ndarray | None, like: torch.Tensor) -> torch.Tensor | None:
    if grad is None:
        return None
    return torch.from_numpy(np.asarray(grad, order="C")).to(device=like.device, dtype=like.dtype)


def _numpy(t: torch.Tensor) -> np.ndarray:
    if t.dtype not in (torch.float64, torch.complex128):
        t = t.to(torch.complex128 if t.is_complex() else torch.float64)
    return t.numpy(force=True)
