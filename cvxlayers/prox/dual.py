"""The prox of weighted norms of groups of K y plus an l1 norm of y, through its dual field, with a certificate.

    minimize over y   ||y - x||^2 / 2 + weight sum_g ||(K y)_g|| + l1 sum_i |y_i|,

|y_i| over the channels of entry i. With a dual field p, ||p_g|| <= weight, and v = x - K'p, the best y for that p is
s = soft(v, l1), and for any y

    gap = sum_g weight ||(K y)_g|| - <p_g, (K y)_g>  +  ||y - s||^2 / 2  +  sum_i l1 |y_i| - <v_i - s_i, y_i>,

a sum of nonnegative terms: no cancellation, so it can be trusted in single precision, and ||y - y*||^2 / 2 <= gap.

The iteration is the over-relaxed primal-dual method, tau_k = floor + 2 / (k + 2), sigma_k = 1 / (tau_k ||K||^2):

    y' = argmin of the problem with <K y, p> for the norms + ||y - y_k||^2 / (2 tau),
    p' = proj(p + sigma K (2 y' - y)),

both moved on by the factor 1.9, except for the step before a certificate, after which y is sparse and p feasible.
Every sample rests when its gap is at most tol times its primal value.

Sources: Chambolle and Pock, "A first-order primal-dual algorithm for convex problems with applications to imaging",
doi 10.1007/s10851-010-0251-1; Condat, "A primal-dual splitting method", doi 10.1007/s10957-012-0245-9 (relaxation).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from cvxlayers.array import implicit, iterate, loop, namespace
from cvxlayers.array.linear import conjugate_gradients, symmetric_solve
from cvxlayers.errors import SettingsError

Array = Any

EVERY = 10  # iterations before the first certificate; later every tenth of those made is added
RELAXATION, FLOOR, HEAD = 1.9, 0.003, 2.0


class Info(NamedTuple):
    """How an iterative prox ended, one entry for each sample."""

    gap: Array
    """The relative duality gap (primal - dual value) / primal value. The error has ||y - y*||^2 <= 2 gap value."""
    iterations: Array
    """Iterations made."""
    dual: Any
    """The dual field, to be handed to the next call as ``warm_start``."""


def tolerance(tol: float | None, x: Array, double: float = 1e-6, single: float = 1e-5) -> float:
    """``tol``, or the default for the precision of x."""
    if tol is not None:
        return float(tol)
    return double if float(namespace(x).finfo(x.dtype).eps) < 1e-10 else single


def check_iteration(kind: str, tol: float | None, max_iter: int) -> None:
    """Raise SettingsError for a tolerance or a limit that makes no sense."""
    if tol is not None and not 0 <= tol < 1:
        raise SettingsError(f"tol of {kind} should be a relative duality gap in [0, 1), or None; got {tol!r}.")
    if isinstance(max_iter, bool) or not isinstance(max_iter, (int, np.integer)) or max_iter < 0:
        raise SettingsError(f"max_iter of {kind} should be a nonnegative integer; got {max_iter!r}.")


class LinearMap(Protocol):
    """A linear map K of arrays y (*batch, c, *entries) to fields (*batch, ...), with groups of entries. Hashable."""

    @property
    def row_norm(self) -> float: ...
    @property
    def bound(self) -> float: ...
    @property
    def sample_axes(self) -> tuple[int, ...]: ...
    @property
    def field_axes(self) -> tuple[int, ...]: ...
    def apply(self, y: Array) -> Array: ...
    def adjoint(self, p: Array) -> Array: ...
    def group_sum(self, p: Array) -> Array:
        """The sum over each group, along axes that stay, of length 1."""
        ...


@dataclass(frozen=True)
class DualProx:
    """The rule (x, weight, l1, start) -> (y, dual field, gap, iterations) for `implicit`.

    Shapes: x (*batch, c, *entries); l1 (*batch, 1, ...) meets x, weight meets a dual field, constant on each group, and
    start is a dual field. The derivative is the implicit function theorem at the solution. Along dx, the dual field of
    an active group (whose K y is not 0) turns, but keeps its length, and that of a group at rest is free, which keeps
    K dy = 0 there:

        dy = S (dh - K'dp),  Pi K dy = W dp,  dp in range(Pi),

    with Pi the projection on the free directions, W = ||K y|| / weight on active groups and 0 elsewhere, S the
    derivative of soft thresholding. dp is found by conjugate gradients; nothing is stored per iteration.
    """

    K: LinearMap
    tol: float
    limit: int
    compiled: Callable[..., tuple] | None = None
    """Takes over from ``minimize``, with the same arguments and results."""

    def forward(self, x: Array, weight: Array, l1: Array, start: Array) -> tuple[Array, ...]:
        return (self.compiled or minimize)(self.K, x, weight, l1, start, self.tol, self.limit)

    def tangent(self, outputs: tuple, args: tuple, tangents: tuple) -> Array:
        K, xp = self.K, namespace(args[0])
        y, p, *_ = outputs
        x, weight, l1, _ = args
        dx, dweight, dl1, _ = tangents
        # At the fixed point of the dual step with sigma = 1/||K||^2: a group is active if it lands outside its ball.
        y, p, x, weight, l1 = (once(a) for a in (y, p, x, weight, l1))
        u = p + K.apply(y) / K.bound
        length = xp.sqrt(K.group_sum(u * u))
        active = length > weight
        n = xp.where(active, u / xp.where(length > 0, length, 1.0), xp.zeros_like(u))
        positive = weight > 0
        W = xp.where(active & positive, K.bound * (length - weight) / xp.where(positive, weight, 1.0), 0.0 * length)
        v = x - K.adjoint(p)
        size = xp.sqrt(xp.sum(v * v, axis=self._channel, keepdims=True))
        direction = v / xp.where(size > 0, size, 1.0)
        shrink = l1 / xp.where(size > 0, size, 1.0)
        support = xp.where((size > l1) | (l1 == 0), xp.ones_like(size), xp.zeros_like(size))
        free = xp.where(positive, xp.ones_like(weight), xp.zeros_like(weight))

        h = dx - K.adjoint(n * dweight) - dl1 * direction
        system = _Response(self)
        operands = (n, W + 0.0 * n, direction, shrink, support)
        b = free * system.project(K.apply(system.threshold(h, *operands[2:])), n)
        dp = symmetric_solve(system, b, *operands)
        return system.threshold(h - K.adjoint(system.project(dp, n)), *operands[2:])

    @property
    def _channel(self) -> int:
        return self.K.sample_axes[0]


@dataclass(frozen=True)
class _Response:
    """The system of the derivative: dp -> Pi K S K' Pi dp + W dp."""

    rule: DualProx

    def project(self, p: Array, n: Array) -> Array:
        """Pi p: without its part along n in every active group."""
        return p - n * self.rule.K.group_sum(n * p)

    def threshold(self, h: Array, direction: Array, shrink: Array, support: Array) -> Array:
        """S h; with one channel, h on the support."""
        xp = namespace(h)
        along = direction * xp.sum(direction * h, axis=self.rule._channel, keepdims=True)
        return support * (h - shrink * (h - along))

    def apply(self, v: Array, *operands: Array) -> Array:
        K, (n, W, *S) = self.rule.K, operands
        inside = self.threshold(K.adjoint(self.project(v, n)), *S)
        return self.project(K.apply(inside), n) + W * v

    def solve(self, b: Array, *operands: Array) -> Array:
        K, W, xp = self.rule.K, operands[1], namespace(b)
        tol = float(xp.finfo(b.dtype).eps) ** 0.7
        limit = max(self.rule.limit, 100)
        return conjugate_gradients(
            lambda v: self.apply(v, *operands), b, 1.0 / (K.row_norm + W), K.field_axes, tol, limit
        )


def minimize(
    K: LinearMap, x: Array, weight: Array, l1: Array, start: Array, tol: float, limit: int
) -> tuple[Array, Array, Array, Array]:
    """(y, p, relative gap, iterations) of the problem above, in array operations; gap and iterations are (*batch,)."""
    xp = namespace(x)
    channel = K.sample_axes[0]

    def norm(p: Array) -> Array:
        return xp.sqrt(K.group_sum(p * p))

    def project(p: Array) -> Array:
        length = norm(p)
        return p * xp.where(length > weight, weight / xp.where(length > 0, length, 1.0), xp.ones_like(length))

    def soft(v: Array, threshold: Array) -> Array:
        size = xp.sqrt(xp.sum(v * v, axis=channel, keepdims=True))
        above = size > threshold
        return v * xp.where(above, 1.0 - threshold / xp.where(above, size, 1.0), xp.zeros_like(size))

    def total(a: Array, axes: tuple[int, ...]) -> Array:
        return xp.sum(a, axis=axes)

    def certificate(y: Array, p: Array) -> tuple[Array, Array]:
        v = x - K.adjoint(p)
        s = soft(v, l1)
        Ky = K.apply(y)
        size = xp.sqrt(xp.sum(y * y, axis=channel, keepdims=True))
        lengths = weight * norm(Ky)
        slack = xp.clip(lengths - K.group_sum(p * Ky), 0.0, None)
        sparse = xp.clip(l1 * size - xp.sum((v - s) * y, axis=channel, keepdims=True), 0.0, None)
        axes = K.sample_axes
        gap = total(slack, K.field_axes) + total((y - s) ** 2, axes) / 2 + total(sparse, axes)
        value = total(lengths, K.field_axes) + total((y - x) ** 2, axes) / 2 + total(l1 * size, axes)
        return gap, value

    def step(state: tuple, relaxation: float) -> tuple:
        y, p, k = state
        size = FLOOR + HEAD / (k + HEAD)
        tau, sigma = xp.asarray(size, dtype=x.dtype), xp.asarray(1.0 / (K.bound * size), dtype=x.dtype)
        new = soft((y + tau * (x - K.adjoint(p))) / (1.0 + tau), l1 * (tau / (1.0 + tau)))
        field = project(p + sigma * K.apply(2.0 * new - y))
        if relaxation == 1.0:
            return new, field, k + 1
        return y + relaxation * (new - y), p + relaxation * (field - p), k + 1

    def some_steps(state: tuple) -> tuple:
        y, p, gap, value, made, k = state
        count = EVERY + k // EVERY - 1
        moved = loop(count, lambda s: step(s, RELAXATION), (y, p, k), like=x)
        ynew, pnew, after = step(moved, 1.0)
        more = gap > tol * value
        gap_new, value_new = certificate(ynew, pnew)

        def keep(new: Array, old: Array, axes: tuple[int, ...]) -> Array:
            return xp.where(xp.reshape(more, (*more.shape, *(1,) * len(axes))), new, old)

        made = xp.where(more, made + (after - k), made)
        return (
            keep(ynew, y, K.sample_axes),
            keep(pnew, p, K.field_axes),
            xp.where(more, gap_new, gap),
            xp.where(more, value_new, value),
            made,
            after,
        )

    p = project(start)
    y = soft(x - K.adjoint(p), l1)
    gap, value = certificate(y, p)
    state = (y, p, gap, value, xp.zeros_like(gap), 0)
    # Certificates come at intervals that grow: so many fit into the limit.
    y, p, gap, value, made, _ = iterate(
        certificates(limit), some_steps, state, lambda state: ~(state[2] > tol * state[3])
    )
    return y, p, gap / xp.where(value > 0, value, 1.0), made


def certificates(limit: int) -> int:
    """How many certificates are made until ``limit`` iterations are reached."""
    k = rounds = 0
    while k < limit:
        k += EVERY + k // EVERY
        rounds += 1
    return rounds


class _Once:
    """x -> x, whose derivative is refused."""

    def forward(self, x: Array) -> tuple[Array]:
        return (x,)

    def tangent(self, outputs: tuple, args: tuple, tangents: tuple) -> Array:
        raise SettingsError(
            "second derivatives of an iterative proximal operator are not available: differentiate it once."
        )


_ONCE = _Once()


def once(x: Array) -> Array:
    """x inside a first derivative: to differentiate it again raises SettingsError."""
    return implicit(_ONCE, x)[0]
