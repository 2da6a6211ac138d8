"""GraphNet: sparse and smooth on a grid, with its true prox."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cvxlayers.array import implicit, iterate, loop, namespace, stop_gradient
from cvxlayers.array.linear import conjugate_gradients, symmetric_solve
from cvxlayers.prox.dual import once, tolerance
from cvxlayers.prox.gradient import Differences, move_axis
from cvxlayers.prox.grid import Grid
from cvxlayers.prox.one_dimensional import soft
from cvxlayers.prox.operator import Array

_EVERY = 10


@dataclass(frozen=True, eq=False)
class GraphNet(Grid):
    """f(x) = l1 sum_i |x_i| + (smooth / 2) ||D x||^2 on a grid, D x the differences between all neighbours.

    Shapes: x (*batch, *grid), real; ``dim`` names the one to four axes of the grid, by default the last two. ``l1`` and
    ``smooth`` >= 0 are numbers or one per sample. At the end of an axis the difference is 0, or goes to its beginning
    with ``periodic=True``.

    The prox is that of the sum: the minimizer of a strongly convex quadratic plus an l1 norm, by accelerated proximal
    gradient steps with a linear rate. With p = smooth D y' at the point y' where the last gradient was taken, the
    relative gap that ends it is ||p - smooth D y||^2 / (2 smooth) over the primal value; ``tol`` (by default 1e-10, and
    1e-7 in single precision), ``max_iter`` and ``prox(x, tau, warm_start=..., return_info=True)`` as in
    `TotalVariation`; ``dual`` is p, one field for each axis. On the support S of the result the derivative is the
    inverse of (I + tau smooth D'D) restricted to S.

    Source: L. Grosenick, B. Klingenberg, K. Katovich, B. Knutson, J. Taylor, Interpretable whole-brain prediction
    analysis with GraphNet, doi 10.1016/j.neuroimage.2012.12.062; Y. Nesterov, Lectures on convex optimization,
    doi 10.1007/978-3-319-91578-4 (2.2.20, the constant momentum).

    >>> import numpy as np
    >>> GraphNet(l1=1.0, smooth=1.0, dim=-1).prox(np.array([4.0, 1.0, 0.0])).round(4)
    array([1.8, 0.6, 0. ])
    """

    l1: Any = 1.0
    smooth: Any = 1.0
    periodic: bool = False
    tol: float | None = None
    max_iter: int = 5000

    _samples: ClassVar[tuple[str, ...]] = ("l1", "smooth")
    _nonnegative: ClassVar[tuple[str, ...]] = ("l1", "smooth")

    @property
    def _map(self) -> Differences:
        return Differences(self._count, self.periodic)

    def _value(self, x: Array, l1: Array, smooth: Array) -> Array:
        xp, K = namespace(x), self._map
        Dx = K.apply(xp.expand_dims(x, axis=-1 - K.count))
        l1, smooth = (xp.reshape(a, a.shape[: a.ndim - K.count]) for a in (l1, smooth))
        axes = tuple(range(-K.count, 0))
        return l1 * xp.sum(xp.abs(x), axis=axes) + smooth * xp.sum(Dx**2, axis=K.field_axes) / 2

    def _minimize(self, x: Array, tau: Array, start: list, l1: Array, smooth: Array) -> tuple[Array, ...]:
        xp, K = namespace(x), self._map
        at = -1 - K.count
        x, l1, smooth = (xp.expand_dims(a, axis=at) for a in (x, tau * l1, tau * smooth))
        first = x
        if start:  # the best y for the field p
            p = xp.stack([xp.expand_dims(part, axis=at) for part in start], axis=at - 1)
            first = soft(x - K.adjoint(p), l1)
        rule = _SmoothAndSparse(K, tolerance(self.tol, x, double=1e-10, single=1e-7), self.max_iter)
        y, p, gap, iterations = implicit(rule, x, l1, smooth, stop_gradient(first))
        p = xp.squeeze(p, axis=at)
        return xp.squeeze(y, axis=at), gap, iterations, move_axis(p, at, -p.ndim)


@dataclass(frozen=True)
class _SmoothAndSparse:
    """The rule (x, l1, smooth, start) -> (y, p, gap, iterations).

    y = argmin ||y - x||^2/2 + l1 |y|_1 + smooth ||K y||^2/2; ``start`` is a y to start from.
    """

    K: Differences
    tol: float
    limit: int

    def forward(self, x: Array, l1: Array, smooth: Array, start: Array) -> tuple[Array, ...]:
        K, xp = self.K, namespace(x)
        # The smooth part has curvature between 1 and 1 + bound smooth: the step, and the momentum of that condition.
        step = 1.0 / (1.0 + K.bound * smooth)
        momentum = (1.0 - xp.sqrt(step)) / (1.0 + xp.sqrt(step))
        field = xp.expand_dims(smooth, axis=K.field_axes[0])

        def descend(state: tuple) -> tuple:
            y, ahead = state
            new = soft(ahead - step * (ahead - x + smooth * K.adjoint(K.apply(ahead))), step * l1)
            return new, new + momentum * (new - y)

        def certificate(y: Array) -> tuple[Array, ...]:
            # p = smooth K y is the best field for y, and better = soft(x - K'p, l1) the best y for p.
            Ky = K.apply(y)
            better = soft(x - smooth * K.adjoint(Ky), l1)
            slack = field * (Ky - K.apply(better)) ** 2
            value = (better - x) ** 2 / 2 + l1 * xp.abs(better)
            gap = xp.sum(slack, axis=K.field_axes) / 2
            smoothness = xp.sum(field * K.apply(better) ** 2, axis=K.field_axes) / 2
            return better, field * Ky, gap, xp.sum(value, axis=K.sample_axes) + smoothness

        def some_steps(state: tuple) -> tuple:
            y, ahead, best, p, gap, value, made = state
            more = gap > self.tol * value
            y, ahead = loop(_EVERY, descend, (y, ahead), like=x)
            found = certificate(y)
            kept = [
                xp.where(xp.reshape(more, (*more.shape, *(1,) * (new.ndim - more.ndim))), new, old)
                for new, old in zip(found, (best, p, gap, value), strict=True)
            ]
            return y, ahead, *kept, xp.where(more, made + _EVERY, made)

        found = certificate(start)
        state = (start, start, *found, xp.zeros_like(found[2]))
        rounds = -(-self.limit // _EVERY)
        *_, y, p, gap, value, made = iterate(rounds, some_steps, state, lambda s: ~(s[4] > self.tol * s[5]))
        return y, p, gap / xp.where(value > 0, value, 1.0), made

    def tangent(self, outputs: tuple, args: tuple, tangents: tuple) -> Array:
        K, xp = self.K, namespace(args[0])
        y = once(outputs[0])
        l1, smooth = once(args[1]), once(args[2])
        dx, dl1, dsmooth, _ = tangents
        support = xp.where((y != 0) | (l1 == 0), xp.ones_like(y), xp.zeros_like(y))
        b = support * (dx - dl1 * xp.sign(y) - dsmooth * K.adjoint(K.apply(y)))
        return symmetric_solve(_OnSupport(self), b, support, smooth)


@dataclass(frozen=True)
class _OnSupport:
    """v -> v + smooth S K'K S v, S the restriction to the support."""

    rule: _SmoothAndSparse

    def apply(self, v: Array, *operands: Array) -> Array:
        K, (support, smooth) = self.rule.K, operands
        return v + smooth * support * K.adjoint(K.apply(support * v))

    def solve(self, b: Array, *operands: Array) -> Array:
        K, xp = self.rule.K, namespace(b)
        tol = float(xp.finfo(b.dtype).eps) ** 0.8
        apply = stop_gradient(xp.ones_like(b)) / (1.0 + K.bound * operands[1] / 2)
        return conjugate_gradients(lambda v: self.apply(v, *operands), b, apply, K.sample_axes, tol, 2000)
