"""What the array standard lacks, for PyTorch tensors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from cvxlayers.array.once import once
from cvxlayers.array.symmetric import eigh, lyapunov_in_basis

_CONSTANTS: dict[tuple, Tensor] = {}


def constant(build: Callable[..., np.ndarray], args: tuple, like: Tensor) -> Tensor:
    key = (build, args, like.device, like.dtype)
    found = _CONSTANTS.get(key)
    if found is None:
        value = build(*args)
        dtype = like.dtype if value.dtype.kind == "f" else None
        # An ordinary tensor, also when the first call is made in inference mode. Under a torch.func transform it would
        # belong to that transform, and is not kept.
        with torch.inference_mode(False):
            made = torch.from_numpy(np.array(value)).to(dtype=dtype, device=like.device)
        found = made if torch._C._are_functorch_transforms_active() else once(_CONSTANTS, key, lambda: made)
    return found


def outside_autocast(x: Tensor) -> AbstractContextManager:
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def loop(count: int, body: Callable[[Any], Any], state: Any, settled: Any = None) -> Any:
    for _ in range(count):
        state = body(state)
    return state


def _to_front(x: Any, dim: int | None, size: int) -> Any:
    """The vmapped axis of x in front, whether x had one or not; None and numbers pass."""
    if not isinstance(x, Tensor):
        return x
    return x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)


def outer_forward_mode():
    """Lets a jvp rule see the tangents of an outer forward mode, which PyTorch switches off while it runs the rule.

    The rule takes the primal part of its inputs at its own level and computes its outputs again, for a saved output
    has lost the outer tangent. Without this, jacfwd of jacfwd is silently wrong.
    """
    return forward_ad._set_fwd_grad_enabled(True)


class _Lyapunov(torch.autograd.Function):
    """(W, R) -> X; the eigendecomposition of W rides along as a constant, so that it is computed once."""

    @staticmethod
    def forward(W, R, lam, Q):
        return lyapunov_in_basis(R, lam, Q)

    @staticmethod
    def setup_context(ctx, inputs, output):
        W, _, lam, Q = inputs
        ctx.save_for_backward(W, lam, Q, output)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, G):
        W, lam, Q, X = ctx.saved_tensors
        Y = _Lyapunov.apply(W, G, lam, Q)
        return -(Y @ X.mT + X.mT @ Y), Y, None, None

    @staticmethod
    def jvp(ctx, dW, dR, *_):
        with outer_forward_mode():
            W, R, lam, Q = (forward_ad.unpack_dual(x).primal for x in ctx.saved_tensors)
            X = _Lyapunov.apply(W, R, lam, Q)
            return _Lyapunov.apply(W, dR - dW @ X - X @ dW, lam, Q)

    @staticmethod
    def vmap(info, in_dims, *inputs):
        return _Lyapunov.apply(*(_to_front(x, d, info.batch_size) for x, d in zip(inputs, in_dims, strict=True))), 0


class _Eigh(torch.autograd.Function):
    """The eigendecomposition as a constant: no derivative of any kind goes through."""

    @staticmethod
    def forward(W):
        return eigh(W)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *_):
        return None

    @staticmethod
    def jvp(ctx, *_):
        return None, None

    @staticmethod
    def vmap(info, in_dims, W):
        return _Eigh.apply(W.movedim(in_dims[0], 0)), (0, 0)


def lyapunov(W: Tensor, R: Tensor) -> Tensor:
    lam, Q = _Eigh.apply(W)
    shape = torch.broadcast_shapes(W.shape, R.shape)
    return _Lyapunov.apply(W.expand(shape), R.expand(shape), lam.expand(shape[:-1]), Q.expand(shape))


class _Moreau(torch.autograd.Function):
    """u -> (z, s) of a cone, differentiated by the cone's own formula."""

    @staticmethod
    def forward(cone, u, mu):
        return cone._pair(u, mu)

    @staticmethod
    def setup_context(ctx, inputs, output):
        cone, u, mu = inputs
        ctx.cone = cone
        ctx.number = None if isinstance(mu, Tensor) else mu
        rest = (mu,) if isinstance(mu, Tensor) else ()
        ctx.save_for_backward(*output, *rest)
        ctx.save_for_forward(u, *rest)

    @staticmethod
    def backward(ctx, gz, gs):
        z, s, *rest = ctx.saved_tensors
        return None, ctx.cone._derivative(z, s, gz + gs, rest[0] if rest else ctx.number) - gs, None

    @staticmethod
    def jvp(ctx, _cone, h, _mu):
        with outer_forward_mode():
            u, *rest = (forward_ad.unpack_dual(x).primal for x in ctx.saved_tensors)
            mu = rest[0] if rest else ctx.number
            z, s = _Moreau.apply(ctx.cone, u, mu)
            Dh = ctx.cone._derivative(z, s, h, mu)
            return Dh, Dh - h

    @staticmethod
    def vmap(info, in_dims, cone, u, mu):
        u, mu = (_to_front(x, d, info.batch_size) for x, d in zip((u, mu), in_dims[1:], strict=True))
        return _Moreau.apply(cone, u, mu), (0, 0)


def moreau(cone: Any, u: Tensor, mu: Any) -> tuple[Tensor, Tensor]:
    return _Moreau.apply(cone, u, mu.expand(u.shape[:-1]) if isinstance(mu, Tensor) else mu)


def stop_gradient(x: Tensor) -> Tensor:
    return x.detach()


def visible(x: Tensor) -> np.ndarray | None:
    if x.device.type != "cpu" or torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling():
        return None
    x = x.detach().resolve_conj().resolve_neg()
    return (x.to(torch.float32) if x.dtype == torch.bfloat16 else x).numpy()


class _Implicit(torch.autograd.Function):
    """The outputs of a rule, the first of them differentiated as the rule says."""

    @staticmethod
    def forward(rule, *args):
        # An input that is returned as it came could not be saved.
        return tuple(y.view_as(y) if any(y is x for x in args) else y for y in rule.forward(*args))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.rule, *args = inputs
        ctx.count = len(output)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output, *args)
        ctx.save_for_forward(*args)

    @staticmethod
    def backward(ctx, g, *_):
        saved = ctx.saved_tensors
        outputs, args = saved[: ctx.count], saved[ctx.count :]
        if hasattr(ctx.rule, "cotangent"):
            return None, *ctx.rule.cotangent(outputs, args, g)
        zeros = tuple(torch.zeros_like(x) for x in args)
        transpose = torch.func.vjp(lambda *tangents: ctx.rule.tangent(outputs, args, tangents), *zeros)[1]
        return None, *transpose(g)

    @staticmethod
    def jvp(ctx, _rule, *tangents):
        with outer_forward_mode():
            args = tuple(forward_ad.unpack_dual(x).primal for x in ctx.saved_tensors)
            outputs = _Implicit.apply(ctx.rule, *args)
            tangents = tuple(torch.zeros_like(x) if h is None else h for x, h in zip(args, tangents, strict=True))
            dy = ctx.rule.tangent(outputs, args, tangents)
            return dy, *(None for _ in outputs[1:])

    @staticmethod
    def vmap(info, in_dims, rule, *args):
        args = tuple(_to_front(x, d, info.batch_size) for x, d in zip(args, in_dims[1:], strict=True))
        outputs = _Implicit.apply(rule, *args)
        return outputs, tuple(0 for _ in outputs)


def implicit(rule: Any, *args: Tensor) -> tuple[Tensor, ...]:
    return _Implicit.apply(rule, *args)


def iterate(limit: int, body: Callable[[Any], Any], state: Any, done: Callable[[Any], Tensor]) -> Any:
    for _ in range(limit):
        found = done(state)
        if _readable(found) and bool(found.all()):
            break
        state = body(state)
    return state


def _readable(x: Tensor) -> bool:
    """Whether x has values to look at: not under torch.func.vmap, nor while a CUDA graph is recorded on its device."""
    transforms: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    while not transforms.is_batchedtensor(x):
        if not transforms.is_gradtrackingtensor(x):
            return not (x.is_cuda and torch.cuda.is_current_stream_capturing())
        x = transforms.get_unwrapped(x)
    return False


def choose(condition: Tensor, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    return then() if _readable(condition) and bool(condition) else otherwise()


def pending(done: Tensor) -> Tensor | None:
    if torch._C._are_functorch_transforms_active() or not _readable(done):
        return None
    return torch.nonzero(~done.flatten()).flatten()


def recorded(key: Any, body: Callable[[Any, Any], Any], count: int, constants: Any, state: Any) -> Any:
    from cvxlayers.array.graphs import graph_of

    return graph_of(key, body, count, constants, state)


def replayed(key: Any, function: Callable[..., Any], arguments: tuple) -> Any:
    from cvxlayers.array import graphs

    return graphs.replayed(key, function, arguments)


def prefers_products(x: Tensor) -> bool:
    return x.device.type != "cpu"


def cholesky(M: Tensor) -> Tensor:
    L, info = torch.linalg.cholesky_ex(M)
    return torch.where((info == 0)[..., None, None], L, torch.nan)


def triangular_solve(L: Tensor, B: Tensor, transpose: bool) -> Tensor:
    return torch.linalg.solve_triangular(L.mT if transpose else L, B, upper=transpose)


def derivative_along(f: Callable[[Any], Any], x: Tensor, v: Tensor) -> Tensor:
    forward_mode = forward_ad._current_level >= 0
    if not (torch.is_grad_enabled() or forward_mode or torch._C._are_functorch_transforms_active()):
        return torch.zeros_like(x)
    # J is symmetric: in reverse mode, which nests in the forward mode of the caller. Its own forward mode would not.
    with torch.enable_grad():
        transpose: Any = torch.func.vjp(f, x.detach())[1]
    return transpose(v)[0].detach()


def fixed_point(step: Callable[[Tensor], Tensor], s: Tensor, limit: int, tol: float) -> Tensor:
    s = s.detach()
    if torch._C._are_functorch_transforms_active():
        # Their levels see no hooks: a few rounds from the solution, differentiated as they are.
        for _ in range(min(limit, 100)):
            s = step(s)
        return s
    out = step(s)
    if not out.requires_grad:
        return s
    with torch.enable_grad():
        leaf = s.clone().requires_grad_()
        image = step(leaf)

    def series(g: Tensor) -> Tensor:
        """v = g + J'v, repeated."""
        if g is None or not image.requires_grad:
            return g
        v, goal = g, tol * g.norm()
        for _ in range(limit):
            (moved,) = torch.autograd.grad(image, leaf, v, retain_graph=True)
            change = g + moved - v
            v = v + change
            if change.norm() <= goal:
                break
        return v

    out.register_hook(series)
    return out


def pullback(f: Callable[[Tensor], Tensor], x: Tensor, g: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        y = f(x)
        if not y.requires_grad:
            return torch.zeros_like(x)
        (found,) = torch.autograd.grad(y, x, g.to(y.dtype), allow_unused=True)
    return torch.zeros_like(x) if found is None else found


def sum_where(x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach()
    return torch.where(kept, x, 0).sum(-1, keepdim=True), kept.sum(-1, keepdim=True, dtype=x.dtype)


def from_numpy(value: np.ndarray, dtype: torch.dtype, like: Tensor) -> Tensor:
    # PyTorch takes no negative strides, and warns of arrays that it must not write on, unless it copies.
    return torch.from_numpy(np.array(value)).to(dtype=dtype, device=like.device)


def dtype_of(x: np.ndarray) -> torch.dtype:
    return torch.from_numpy(np.zeros((), x.dtype)).dtype
