"""The sum of two functions, by Douglas-Rachford splitting with a duality gap; and the sum over blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from cvxlayers.array import fixed_point, iterate, namespace, stop_gradient
from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox.modulus import inner, norm, square
from cvxlayers.prox.operator import Array, Prox, is_integer
from cvxlayers.prox.set import Set


class SumInfo(NamedTuple):
    """How `Sum.prox` ended, one value per sample.

    ``gap`` bounds ||y - prox||^2 / 2 (inf where both functions are indicators: no point is seen to be feasible for
    both), ``residual`` is the distance between the two copies of y.
    """

    gap: Array
    residual: Array
    iterations: Array


@dataclass(frozen=True, eq=False)
class Sum(Prox):
    """``f + g``, convex functions of the same axes; the prox is iterative, with a certificate.

    Douglas-Rachford splitting of tau f(y) + tau g(y) + ||y - x||^2 / 2, half of the square with each term: a and b are
    the two proximal points of a round, u and w the subgradients of f at a and of g at b that come with them. Then

        gap = tau (f(b) - f(a) - <u, b - a>) + ||b - x + tau (u + w)||^2 / 2 >= ||b - prox||^2 / 2,

    a sum of nonnegative terms. A sample stops at a gap of tol^2 (||x||^2 + ||y||^2) / 2 when a
    and b agree to tol, as the derivative needs; if both functions are indicators, the gap is not known, and the last
    test decides. The result is the point of g, which is kept in its domain.
    Put the set second in the sum of a penalty and a set.

    Derivatives are those of the fixed point of a round, by the implicit function theorem, of first order in PyTorch;
    the iterations need no memory.
    Raises SettingsError for a function that is not convex, ShapeError if f and g consume different axes.

    Source: P. L. Lions, B. Mercier, Splitting algorithms for the sum of two nonlinear operators, doi 10.1137/0716071.

    >>> import numpy as np
    >>> from cvxlayers.prox import L1, Ridge
    >>> (L1() + Ridge()).prox(np.array([3.0, -0.5])).round(6)
    array([1., 0.])
    """

    f: Prox
    g: Prox
    tol: float = 1e-8
    max_iter: int = 10000

    _leaves: ClassVar[tuple[str, ...]] = ("f", "g")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("f", "g"):
            part = getattr(self, name)
            if not isinstance(part, Prox):
                raise SettingsError(f"{name} of Sum should be a proximal operator; got {part!r}.")
            part._check_convex("Sum")
        if not 0 < self.tol < 1:
            raise SettingsError(f"tol of Sum should be between 0 and 1; got {self.tol!r}.")
        if not is_integer(self.max_iter) or self.max_iter < 1:
            raise SettingsError(f"max_iter of Sum should be a positive integer; got {self.max_iter!r}.")

    def axes(self, x: Array) -> tuple[int, ...]:
        axes, others = self.f.axes(x), self.g.axes(x)
        if sorted(axes) != sorted(others):
            raise ShapeError(f"f and g of Sum should consume the same axes; got {axes} and {others}.")
        return axes

    def __call__(self, x: Array) -> Array:
        self.axes(x)
        return self.f(x) + self.g(x)

    @np.errstate(all="ignore")
    def prox(self, x: Array, tau: Any = 1.0, *, start: Array | None = None, return_info: bool = False) -> Any:
        """The prox; ``start`` is a first guess of the shape of x, and ``return_info`` adds a `SumInfo`."""
        # The library in which f and g answer, and the batch that their weights make.
        x = self._ready(x, tau)
        x = x + 0 * self.f.prox(x) + 0 * self.g.prox(x)
        axes = self.axes(x)
        tau = self._per_sample("tau", tau, x, positive=True)
        constant = _Splitting(self.f.constant(), self.g.constant(), stop_gradient(x), _stop(tau), axes)
        xp = namespace(x)
        tol = max(self.tol, 8 * float(xp.finfo(x.dtype).eps))  # no more than there are digits
        limit = tol**2 * xp.sum(square(constant.x), axis=axes) / 2
        done = limit != limit

        def round_(state: tuple) -> tuple:
            s, _, _, old, count = state
            new, _, b, gap, residual = constant.round(s)
            size = xp.sum(square(b), axis=axes)
            goal = limit + tol**2 * size / 2
            # Relative to the result, but for the rounding of the points that it comes from.
            small = tol * xp.sqrt(size) + 4 * float(xp.finfo(x.dtype).eps) * norm(new, axes)
            near = (residual <= small) & (norm(new - s, axes) <= small)
            found = (near & ((gap <= goal) | (gap == float("inf")))) | (gap != gap)
            s = xp.where(constant.over(old), s, new)
            return s, gap, residual, old | found, count + xp.astype(~old, count.dtype)

        start = constant.x if start is None else stop_gradient(self._ready(start, x)) + 0 * constant.x
        state = (start, limit + float("inf"), limit, done, xp.zeros_like(limit))
        s, gap, residual, _, count = iterate(self.max_iter, round_, state, lambda state: state[3])
        splitting = _Splitting(self.f, self.g, x, tau, axes)
        s = fixed_point(lambda s: splitting.round(s)[0], s, self.max_iter, tol)
        y = splitting.round(s)[2]
        return (y, SumInfo(gap, residual, xp.astype(count, xp.int32))) if return_info else y


class _Splitting(NamedTuple):
    f: Prox
    g: Prox
    x: Array
    tau: Any
    axes: tuple[int, ...]

    def over(self, value: Any) -> Any:
        return self.f._over_axes(value, self.x)

    def round(self, s: Array) -> tuple[Array, Array, Array, Array, Array]:
        """The next s, the points a and b, the gap and ||a - b||."""
        xp, x, tau, axes = namespace(s), self.x, self.tau, self.axes
        # prox of tau f + ||y - x||^2 / 4 with step 2: s -> prox_{tau f}((s + x) / 2).
        a = self.f.prox((s + x) / 2, tau)
        r = 2 * a - s
        b = self.g.prox((r + x) / 2, tau)
        tau_u, tau_w = (s + x) / 2 - a, (r + x) / 2 - b
        f_a, f_b, g_a, g_b = self.f(a), self.f(b), self.g(a), self.g(b)
        rest_b = tau * (f_b - f_a) - inner(tau_u, b - a, axes)
        rest_a = tau * (g_a - g_b) - inner(tau_w, a - b, axes)
        apart = xp.sum(square(b - x + tau_u + tau_w), axis=axes) / 2
        apart_a = xp.sum(square(a - x + tau_u + tau_w), axis=axes) / 2
        gap_b = xp.where(rest_b > 0, rest_b, 0 * apart) + apart
        # Where b is outside the domain of f, the gap of a bounds its error, and ||a - b|| leads from a to b.
        gap_a = xp.where(rest_a > 0, rest_a, 0 * apart) + apart_a
        distance = xp.sum(square(a - b), axis=axes)
        gap_a = (xp.sqrt(gap_a) + xp.sqrt(distance / 2)) ** 2
        both = isinstance(self.f, Set) and isinstance(self.g, Set)
        gap = gap_b + float("inf") if both else xp.where(gap_b < float("inf"), gap_b, gap_a)
        return s + b - a, a, b, gap, norm(a - b, axes)


def _stop(tau: Any) -> Any:
    return tau if isinstance(tau, (int, float)) else stop_gradient(tau)


@dataclass(frozen=True, eq=False)
class Separable(Prox):
    """f(x_1, ..., x_k) = f_1(x_1) + ... + f_k(x_k): one operator per block; prox acts on every block alone.

    ``x`` is a tuple of k arrays with a common batch shape, and so is the result of prox. Or, with ``sizes``, it is one
    array, whose axis ``dim`` is cut into blocks of these sizes, which add up to its length.

    >>> import numpy as np
    >>> from cvxlayers.prox import L1, Ridge
    >>> f = Separable((L1(), Ridge()), sizes=(2, 1))
    >>> f.prox(np.array([3.0, -0.5, 4.0]))
    array([ 2., -0.,  2.])
    """

    operators: Sequence[Prox]
    sizes: tuple[int, ...] | None = None
    dim: int = -1

    _leaves: ClassVar[tuple[str, ...]] = ("operators",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "operators", tuple(self.operators))
        if not self.operators or not all(isinstance(f, Prox) for f in self.operators):
            raise SettingsError(f"operators of Separable should be proximal operators; got {self.operators!r}.")
        if self.sizes is not None:
            object.__setattr__(self, "sizes", tuple(int(n) for n in self.sizes))
            if len(self.sizes) != len(self.operators) or min(self.sizes) < 1:
                raise SettingsError(
                    f"sizes of Separable should be {len(self.operators)} positive integers, one for each operator; "
                    f"got {self.sizes}."
                )

    @property
    def convex(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return all(f.convex for f in self.operators)

    def axes(self, x: Array) -> tuple[int, ...]:
        return self.operators[0].axes(x)

    def _blocks(self, x: Any) -> tuple[Array, ...]:
        if self.sizes is None:
            if not isinstance(x, (tuple, list)) or len(x) != len(self.operators):
                raise ShapeError(
                    f"x of Separable should be a tuple of {len(self.operators)} arrays; got {type(x).__name__}. "
                    "With sizes=..., it is one array."
                )
            return tuple(x)
        if isinstance(x, (tuple, list)):
            raise ShapeError("x of Separable should be one array, because sizes are given; got a tuple.")
        x = self._ready(x)
        if not -x.ndim <= self.dim < x.ndim or x.shape[self.dim] != sum(self.sizes):
            raise ShapeError(
                f"x of Separable should have {sum(self.sizes)} entries along dim={self.dim}, the sum of sizes; "
                f"got shape {tuple(x.shape)}."
            )
        xp = namespace(x)
        x = xp.moveaxis(x, self.dim, -1)
        ends = np.cumsum(self.sizes)
        parts = (x[..., end - size : end] for size, end in zip(self.sizes, ends.tolist(), strict=True))
        return tuple(xp.moveaxis(part, -1, self.dim) for part in parts)

    def __call__(self, x: Any) -> Array:
        values = [f(part) for f, part in zip(self.operators, self._blocks(x), strict=True)]
        return sum(values[1:], start=values[0])

    def prox(self, x: Any, tau: Any = 1.0) -> Any:
        parts = [f.prox(part, tau) for f, part in zip(self.operators, self._blocks(x), strict=True)]
        if self.sizes is None:
            return tuple(parts)
        return namespace(*parts).concat(parts, axis=self.dim)

    def conj_prox(self, x: Any, tau: Any = 1.0) -> Any:
        parts = [f.conj_prox(part, tau) for f, part in zip(self.operators, self._blocks(x), strict=True)]
        if self.sizes is None:
            return tuple(parts)
        return namespace(*parts).concat(parts, axis=self.dim)

    def conjugate_value(self, x: Any) -> Array:
        values = [f.conjugate_value(part) for f, part in zip(self.operators, self._blocks(x), strict=True)]
        return sum(values[1:], start=values[0])
