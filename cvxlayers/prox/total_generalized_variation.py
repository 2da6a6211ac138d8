"""Total generalized variation of second order: piecewise affine images; iterative, certified, implicitly derived."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cvxlayers.array import implicit, iterate, loop, namespace, stop_gradient
from cvxlayers.prox.dual import EVERY, RELAXATION, DualProx, certificates, once, tolerance
from cvxlayers.prox.gradient import Differences, GridMap, move_axis
from cvxlayers.prox.grid import Grid
from cvxlayers.prox.operator import Array

_STEP = 0.05  # of the primal variables
_RIDGE = 1e-6  # added to the field w when the solution is differentiated, where w is not determined by itself


@dataclass(frozen=True, eq=False)
class TotalGeneralizedVariation(Grid):
    """f(x) = weight min over w of sum_i ||(D x - w)_i||_2 + ratio sum_i ||(E w)_i||_F on a grid.

    D x are the forward differences of x along the consumed axes, w is a field of the same shape, 0 where there is no
    difference, and E w = (D w + (D w)') / 2 holds its differences, symmetrized; all are 0 at the end of an axis. Affine
    images have the value 0. ``ratio`` > 0 is usually 2; where it is small the result is that of second differences,
    where it is large that of `TotalVariation` up to a plane.

    Shapes: x (*batch, *grid), real; ``dim`` names the one to four axes of the grid, by default the last two. ``weight``
    >= 0 and ``ratio`` > 0 are numbers or one per sample. ``f(x)`` is itself found by iteration, to a relative 1e-6.

    The prox is iterative: ``tol`` (by default 1e-5, and 1e-4 in single precision), ``max_iter``,
    ``prox(x, tau, warm_start=..., return_info=True)`` and derivatives as in `TotalVariation`; the gap is relative to
    the primal value plus tol times half the squared norm of x without its mean. ``dual`` holds w and the dual fields.

    Source: K. Bredies, K. Kunisch, T. Pock, Total generalized variation, doi 10.1137/090769521.

    >>> import numpy as np
    >>> x = np.add.outer(np.arange(4.0), 2 * np.arange(5.0))
    >>> f = TotalGeneralizedVariation(1.0)
    >>> bool(abs(f.prox(x) - x).max() < 1e-2)
    True
    """

    weight: Any = 1.0
    ratio: Any = 2.0
    tol: float | None = None
    max_iter: int = 20000

    _samples: ClassVar[tuple[str, ...]] = ("weight", "ratio")
    _positive: ClassVar[tuple[str, ...]] = ("ratio",)

    @property
    def _map(self) -> Symmetrized:
        return Symmetrized(self._count)

    def _value(self, x: Array, weight: Array, ratio: Array) -> Array:
        """The minimum over w, with y held at x."""
        return implicit(_Value(self._map, self.max_iter), *self._fields(x, weight, ratio))[0]

    def _fields(self, x: Array, weight: Array, ratio: Array) -> tuple[Array, Array]:
        """z = (x, w = 0), its channels in front of the grid, and the radius of every direction of the dual field."""
        xp, d = namespace(x), self._map.count
        at = -1 - d
        x = xp.expand_dims(x, axis=at)
        weight, ratio = (a[..., None, None] for a in (weight, ratio))
        parts = [weight] * d + [weight * ratio] * (d * d)
        return xp.concat([x] + [0 * x] * d, axis=at), xp.concat(parts, axis=at - 1)

    def _fields_kept(self, count: int) -> int:
        """w, and the dual fields of D y - w and of E w."""
        return 2 * count + count**2

    def _minimize(self, x: Array, tau: Array, start: list, weight: Array, ratio: Array) -> tuple[Array, ...]:
        K, xp = self._map, namespace(x)
        d, at = K.count, -2 - K.count
        shift = stop_gradient(K.mean(x))
        padded, radius = self._fields(x - shift, tau * weight, ratio)
        rule = DualProx(Ridged(d), tolerance(self.tol, x, 1e-5, 1e-4), self.max_iter, _minimize)
        if start:
            first = xp.stack([xp.expand_dims(part, axis=1 + at) for part in start], axis=at)
        else:
            p = K.apply(0 * padded)
            first = xp.concat([_part(p, 0, d, d + 1), p], axis=at)
        l1 = 0 * radius[..., 0, :, *(slice(None),) * d]
        z, p, gap, iterations = implicit(rule, padded, radius, l1, stop_gradient(first))
        w = stop_gradient(_part(z, 1, None, d)) / _RIDGE**0.5
        field = xp.concat([w, xp.squeeze(p, axis=1 + at)], axis=1 + at)
        return z[(..., 0, *(slice(None),) * d)] + shift, gap, iterations, move_axis(field, 1 + at, -field.ndim)


@dataclass(frozen=True)
class _Value:
    """The rule (z = (x, 0), radius) -> the minimum over w of sum of radius ||(K z)_g||, and where it is attained.

    By the envelope theorem the derivative is that of <p, K z> in z and of the radii in front of the lengths, with the
    dual field p, where (K'p)_w = 0, and the lengths at the solution held fixed.
    """

    K: Symmetrized
    limit: int

    def forward(self, x: Array, radius: Array) -> tuple[Array, Array, Array]:
        K, xp = self.K, namespace(x)
        z, p, *_ = primal_dual(K, x, radius, 1e-6, self.limit, fixed=True)
        Kz = K.apply(z)
        # Each group counts once: its length is repeated over its entries.
        lengths = xp.sqrt(K.group_sum(Kz * Kz)) * K.share(Kz)
        return xp.sum(radius * lengths, axis=K.field_axes), p, lengths

    def tangent(self, outputs: tuple, args: tuple, tangents: tuple) -> Array:
        K, (_, p, lengths), (dx, dradius) = self.K, outputs, tangents
        # The outputs are constants here; their own derivatives are refused by way of the arguments.
        p, lengths = p + K.apply(0 * once(args[0])), lengths + 0 * once(args[1])
        return namespace(dx).sum(p * K.apply(dx) + dradius * lengths, axis=K.field_axes)


@dataclass(frozen=True)
class Symmetrized(GridMap):
    """K z = (D y - w, E w) of z = (y, w), (*batch, 1 + d, *grid) to (*batch, d + d^2, 1, *grid)."""

    count: int

    @property
    def bound(self) -> float:
        """At least ||K||^2."""
        return 8.0 * self.count + 1.0

    def apply(self, y: Array) -> Array:
        """K z."""
        xp, d, D = namespace(y), self.count, Differences(self.count)
        at = -2 - d
        y, w = _part(y, 0, 1, d), _part(y, 1, None, d)
        slopes = D.apply(y) - D.mask(move_axis(xp.expand_dims(w, axis=at), -1 - d, at))
        Dw = D.apply(w)  # (directions, components)
        E = (Dw + move_axis(Dw, -1 - d, at)) / 2
        return xp.concat(
            [slopes, xp.reshape(E, (*E.shape[: E.ndim - d - 2], d * d, 1, *E.shape[E.ndim - d :]))], axis=at
        )

    def adjoint(self, p: Array) -> Array:
        """K'p."""
        xp, d, D = namespace(p), self.count, Differences(self.count)
        at = -1 - d
        slopes, q = _part(p, 0, d, d + 1), _part(p, d, None, d + 1)
        q = xp.reshape(q, (*q.shape[: q.ndim - d - 2], d, d, *q.shape[q.ndim - d :]))
        q = (q + move_axis(q, -1 - d, -2 - d)) / 2
        masked = xp.squeeze(move_axis(D.mask(slopes), -2 - d, at), axis=at - 1)
        return xp.concat([D.adjoint(slopes), D.adjoint(q) - masked], axis=at)

    def group_sum(self, p: Array) -> Array:
        """The sum over D y - w and over E w at each sample, repeated for their directions."""
        xp, d = namespace(p), self.count
        at = -2 - d
        sums = [xp.sum(_part(p, *ends, d + 1), axis=at, keepdims=True) for ends in ((0, d), (d, None))]
        return xp.concat([sums[0]] * d + [sums[1]] * (d * d), axis=at)

    def share(self, p: Array) -> Array:
        """One over the number of directions of each group."""
        xp, d = namespace(p), self.count
        one = xp.ones_like(_part(p, 0, 1, d + 1))
        return xp.concat([one / d] * d + [one / (d * d)] * (d * d), axis=-2 - d)


@dataclass(frozen=True)
class Ridged(Symmetrized):
    """K with w in units in which a small ridge of it is ||.||^2 / 2: the map of the derivative's linear system."""

    row_norm = 2.0 / _RIDGE

    def apply(self, y: Array) -> Array:
        """K z."""
        return super().apply(self._rescale(y))

    def adjoint(self, p: Array) -> Array:
        """K'p."""
        return self._rescale(super().adjoint(p))

    def _rescale(self, z: Array) -> Array:
        d = self.count
        return namespace(z).concat([_part(z, 0, 1, d), _part(z, 1, None, d) / _RIDGE**0.5], axis=-1 - d)


def _minimize(K: Ridged, x: Array, radius: Array, l1: Array, start: Array, tol: float, limit: int) -> tuple[Array, ...]:
    """The forward half of `DualProx`: (z, p, gap, iterations), z in the units of ``K``."""
    d = K.count
    z, p, gap, iterations = primal_dual(Symmetrized(d), x, radius, tol, limit, start)
    return namespace(z).concat([_part(z, 0, 1, d), _part(z, 1, None, d) * _RIDGE**0.5], axis=-1 - d), p, gap, iterations


def primal_dual(
    K: Symmetrized, x: Array, radius: Array, tol: float, limit: int, start: Array | None = None, fixed: bool = False
) -> tuple[Array, Array, Array, Array]:
    """(z, p, relative gap, iterations) of min ||y - x||^2 / 2 + sum of radius ||(K z)_g||, or with y = x ``fixed``.

    The dual field must have no pull on w, (K'p)_w = 0: with q its part for E w, that for D y - w is taken as E'q, and
    both are scaled into their balls.
    """
    xp, d = namespace(x), K.count
    data = _part(x, 0, 1, d)
    tau = _STEP
    sigma = 1.0 / (tau * K.bound)

    def norm(p: Array) -> Array:
        return xp.sqrt(K.group_sum(p * p))

    def step(state: tuple, relaxation: float) -> tuple:
        z, p = state
        moved = z - tau * K.adjoint(p)
        y = data if fixed else (_part(moved, 0, 1, d) + tau * data) / (1.0 + tau)
        new = xp.concat([y, _part(moved, 1, None, d)], axis=-1 - d)
        u = p + sigma * K.apply(2.0 * new - z)
        length = norm(u)
        field = u * xp.where(length > radius, radius / xp.where(length > 0, length, 1.0), xp.ones_like(length))
        return z + relaxation * (new - z), p + relaxation * (field - p)

    def certificate(z: Array, p: Array) -> tuple[Array, Array, Array]:
        # (K'(p1, q))_w = E'q - p1, so that adding it to p1 makes it vanish.
        pull = _part(K.adjoint(p), 1, None, d)
        slopes = _part(p, 0, d, d + 1) + move_axis(xp.expand_dims(pull, axis=-2 - d), -1 - d, -2 - d)
        p = xp.concat([Differences(d).mask(slopes), _part(p, d, None, d + 1)], axis=-2 - d)
        excess = norm(p) / xp.where(radius > 0, radius, 1.0)
        excess = xp.max(excess, axis=K.field_axes, keepdims=True) if 0 not in excess.shape else excess
        p = xp.where(radius > 0, p / xp.clip(excess, 1.0, None), 0 * p)
        Kz = K.apply(z)
        lengths = radius * norm(Kz) * K.share(Kz)
        slack = xp.sum(lengths - p * Kz, axis=K.field_axes)
        best = data - _part(K.adjoint(p), 0, 1, d)
        rest = xp.sum((_part(z, 0, 1, d) - best) ** 2, axis=K.sample_axes) / 2
        change = xp.sum((_part(z, 0, 1, d) - data) ** 2, axis=K.sample_axes) / 2
        # The value of an affine image is 0, which no gap is small against: its size counts a little.
        value = xp.sum(lengths, axis=K.field_axes) + change + tol * xp.sum(data**2, axis=K.sample_axes) / 2
        return p, xp.clip(slack, 0.0, None) + (0 * rest if fixed else rest), value

    def some_steps(state: tuple) -> tuple:
        z, p, best, gap, value, made, k = state
        count = EVERY + k // EVERY - 1
        z, p = loop(count, lambda s: step(s, RELAXATION), (z, p), like=x)
        z, p = step((z, p), 1.0)
        more = gap > tol * value
        zbest, feasible = best
        field, gap_new, value_new = certificate(z, p)

        def keep(new: Array, old: Array) -> Array:
            return xp.where(xp.reshape(more, (*more.shape, *(1,) * (new.ndim - more.ndim))), new, old)

        best = keep(z, zbest), keep(field, feasible)
        made = xp.where(more, made + (count + 1), made)
        return z, p, best, keep(gap_new, gap), keep(value_new, value), made, k + count + 1

    z, p = x, K.apply(0 * x)
    if start is not None:  # w and p; the best y for p
        w, p = xp.squeeze(_part(start, 0, d, d + 1), axis=-1 - d), _part(start, d, None, d + 1)
        z = xp.concat([data - _part(K.adjoint(p), 0, 1, d), w], axis=-1 - d)
    field, gap, value = certificate(z, p)
    state = (z, p, (z, field), gap, value, 0 * gap, 0)
    rounds = certificates(limit)
    *_, (z, p), gap, value, made, _ = iterate(rounds, some_steps, state, lambda s: ~(s[3] > tol * s[4]))
    return z, p, gap / xp.where(value > 0, value, 1.0), made


def _part(a: Array, start: int, stop: int | None, trailing: int) -> Array:
    """A slice along the axis in front of the last ``trailing``."""
    return a[(..., slice(start, stop), *(slice(None),) * trailing)]
