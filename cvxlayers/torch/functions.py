"""The autograd functions of the PyTorch layer: the call's own route, tensor operations where autograd looks inside.

A plain backward pass is the call's own, in NumPy or on the device (`cvxlayers.torch.calls`). Where the derivative is
itself recorded (double backward, ``torch.func``, forward mode), it is expressed by tensor operations around two
functions: `_Conic`, parameters to the conic solution (x, z, s), and `_LinearSolve`, the linear system of the
derivative. The derivative of each is written in terms of both, so every order works.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import Function, forward_ad
from torch.func import vjp

from cvxlayers.array.torch import outer_forward_mode
from cvxlayers.errors import CvxlayersError
from cvxlayers.torch.calls import Call


def solve(call: Call, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The outputs; if the call asks for the optimal value, then that, statuses, residuals and iterations, too."""
    if _traced():
        raise CvxlayersError(
            "torch.fx, and so make_fx and torch.func.linearize, cannot trace a layer, whose solution would be a "
            "constant. Take torch.func.jvp or torch.func.vjp; torch.compile runs a layer as it is."
        )
    if not tensors:
        return _Layer.forward(call)
    function = _Layer if torch._C._are_functorch_transforms_active() else _EagerLayer
    return function.apply(call, *tensors)


def _traced() -> bool:
    """Whether tensor operations are being recorded to be run again without Python."""
    tracer = sys.modules.get("torch.fx.experimental.proxy_tensor")
    return tracer is not None and tracer.get_proxy_mode() is not None


class _Function(Function):
    """Common to both: save the parameters for either mode; a vmapped call is a call with one more batch dimension."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        ctx.call = inputs[0]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1:])
        ctx.save_for_forward(*inputs[1:])


class _Layer(_Function):
    """Parameters to outputs and the optimal value, and how the solve ended."""

    @staticmethod
    def forward(call: Call, *tensors: torch.Tensor):
        outputs = call.outputs(tensors)
        return (*outputs, *call.report(outputs[-1])) if call.objective else outputs

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        _Function.setup_context(ctx, inputs, output)
        ctx.ends = 3 if ctx.call.objective else 0
        ctx.mark_non_differentiable(*output[len(output) - ctx.ends :])

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None):
        call, tensors = ctx.call, ctx.saved_tensors
        cotangents = cotangents[: len(cotangents) - ctx.ends]
        if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():  # recorded, or vmapped
            return (None, *_pull(call, tensors, cotangents, _recover))
        wanted = [i for i in range(len(tensors)) if ctx.needs_input_grad[i + 1]]
        if all(g is None for g in cotangents):
            return (None, *(None for _ in tensors))
        return (None, *call.gradients(cotangents, tensors, wanted))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: torch.Tensor | None):
        with outer_forward_mode():
            return (*_push(ctx.call, _primals(ctx), tangents, _recover), *(None for _ in range(ctx.ends)))

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
    """Parameters to (x, z, s), (*batch, n) and (*batch, m); zero where an element failed."""

    @staticmethod
    def forward(call: Call, *tensors: torch.Tensor):
        return call.conic(tensors)

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
        return call.linear_solve(P, A, z, s, gx, gz)

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
        d = call.core.maps.ends.differential
        return (None, *back((-ux, -(uz + d.A_times(A, ux) - cz))))

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: torch.Tensor | None):
        call, d = ctx.call, ctx.call.core.maps.ends.differential
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
    d, mu = call.core.maps.ends.differential, call.core.mu

    def residual(P, A, z, s, gx, gz):
        top = d.P_times(P, wx) + d.A_transposed(A, wz) - gx
        return top, d.project(z, s, d.A_times(A, wx) + wz - gz, mu) - wz

    return residual


def _recover(call: Call, data: tuple[torch.Tensor, ...], x: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The outputs as a function of the conic data, x and z."""
    outputs = call.core.maps.ends.recover(data, x, z)
    outputs = outputs if call.objective else outputs[:-1]
    return tuple(call.narrow(o) for o in outputs)


def _conic_outputs(call: Call, data: tuple[torch.Tensor, ...], x: torch.Tensor, z: torch.Tensor):
    """x, z and s = b - Ax as a function of the conic data, x and z."""
    return x, z, data[3] - call.core.maps.ends.differential.A_times(data[2], x)


def _pull(call: Call, tensors: Sequence[torch.Tensor], cotangents: Sequence[torch.Tensor | None], outputs: Callable):
    """Gradients of the parameters by tensor operations, for a function of the conic data, x and z."""
    ends, ndim = call.core.maps.ends, _batch_ndim(call, tensors)
    x, z, s, kept = _Conic.apply(call, *tensors)
    data, lift_back = _vjp(lambda t: ends.lift(t, ndim), tuple(call.wide(t) for t in tensors))
    values, back = _vjp(lambda data, x, z: outputs(call, data, x, z), data, x, z)
    filled = tuple(torch.zeros_like(v) if g is None else g for g, v in zip(cotangents, values, strict=True))
    direct, gx, gz = back(filled)
    wx, wz = _LinearSolve.apply(call, *data[:3:2], z, s, torch.where(kept, gx, 0.0), torch.where(kept, gz, 0.0))
    implicit = [_sum_to(g, v) for g, v in zip(ends.differential.pull(x, z, wx, wz), data, strict=False)]
    (grads,) = lift_back((*(a + b for a, b in zip(direct, implicit, strict=False)), direct[-1]))
    return tuple(g.to(t.dtype) for g, t in zip(grads, tensors, strict=True))


def _push(call: Call, tensors: Sequence[torch.Tensor], tangents: Sequence[torch.Tensor | None], outputs: Callable):
    """Tangents of the outputs by tensor operations."""
    ends, ndim = call.core.maps.ends, _batch_ndim(call, tensors)
    wide = tuple(call.wide(t) for t in tensors)
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
