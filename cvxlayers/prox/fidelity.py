"""Quadratic terms: with a matrix that is factored once, or with an operator that is only applied."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from cvxlayers.array import constant, implicit, iterate, namespace, visible
from cvxlayers.array.scatter import Constant
from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox.modulus import inner, square
from cvxlayers.prox.operator import Array, Primitive, is_integer


@dataclass(frozen=True, eq=False)
class Quadratic(Primitive):
    """f(x) = weight (x'P x / 2 + q'x), P symmetric positive semidefinite; prox solves (I + t P) y = x - t q.

    ``P`` is an array (n, n), or (*batch, n, n) with one matrix per sample, ``q`` is None for 0, or (n,), or
    (*batch, n); t = tau weight. A P whose values can be seen and that carries no derivatives is factored once, for
    every later call and every tau; else the system is solved in every call, and P has derivatives too. Real x,
    (*batch, n) to values (*batch,). Raises ShapeError for a P that is not square, SettingsError for one that is seen
    not to be symmetric positive semidefinite.

    >>> import numpy as np
    >>> Quadratic(np.diag([1.0, 3.0]), q=np.array([0.0, -1.0])).prox(np.array([2.0, 3.0]))
    array([1., 1.])
    """

    P: Any
    q: Any = None
    weight: Any = 1.0

    _constants: ClassVar[tuple[str, ...]] = ("P", "q")

    def __post_init__(self) -> None:
        super().__post_init__()
        shape = getattr(self.P, "shape", ())
        if len(shape) < 2 or shape[-1] != shape[-2]:
            raise ShapeError(f"P of Quadratic should be square, (n, n) or (*batch, n, n); got shape {tuple(shape)}.")
        seen = visible(self.P)
        if seen is not None:
            scale = float(np.abs(seen).max(initial=0))
            noise = 100 * np.finfo(seen.dtype).eps * scale * shape[-1]
            if np.abs(seen - seen.swapaxes(-1, -2)).max(initial=0) > noise:
                raise SettingsError("P of Quadratic should be symmetric; take (P + P') / 2.")
            if np.linalg.eigvalsh(seen).min(initial=0) < -noise:
                raise SettingsError("P of Quadratic should be positive semidefinite; it has a negative eigenvalue.")

    @cached_property
    def _factor(self) -> tuple[Constant, Constant] | None:
        seen = constant_values(self.P)
        if seen is None:
            return None
        values, vectors = np.linalg.eigh(seen)
        # An eigenvalue of the size of rounding is 0: a large tau must not make it count.
        noise = seen.shape[-1] * np.finfo(seen.dtype).eps * np.abs(values).max(axis=-1, keepdims=True, initial=0)
        return Constant(vectors), Constant(np.where(values > noise, values, 0.0))

    def _value(self, x: Array, weight: Array, P: Array, q: Any = None) -> Array:
        xp = namespace(x)
        check_columns("P of Quadratic", P, x)
        value = xp.sum(x * apply(P, x), axis=-1) / 2
        return weight[..., 0] * (value if q is None else value + xp.sum(q * x, axis=-1))

    def _prox(self, x: Array, tau: Array, weight: Array, P: Array, q: Any = None) -> Array:
        xp = namespace(x)
        check_columns("P of Quadratic", P, x)
        t = tau * weight
        right = x if q is None else x - t * q
        if self._factor is None:
            return solve(t[..., None] * P + constant(np.eye, (x.shape[-1],), right), right)
        vectors, values = (part.like(x) for part in self._factor)
        return apply(vectors, apply(xp.matrix_transpose(vectors), right) / (1 + t * values))

    def _conjugate(self, x: Array, weight: Array, P: Array, q: Any = None) -> Array:
        # (y - w q)' P^-1 (y - w q) / (2 w), inf outside the range of P.
        xp = namespace(x)
        if self._factor is None:
            raise SettingsError("the conjugate of Quadratic needs a P whose values can be seen and are constant.")
        vectors, values = (part.like(x) for part in self._factor)
        y = apply(xp.matrix_transpose(vectors), x if q is None else x - weight * q)
        tolerance = float(xp.finfo(x.dtype).eps) ** (2 / 3)
        regular = values > tolerance * xp.max(values, axis=-1, keepdims=True)
        off = xp.abs(y) > tolerance * (1 + xp.max(xp.abs(y), axis=-1, keepdims=True))
        terms = y * y / (2 * weight * xp.where(regular, values, 1.0))
        return xp.sum(xp.where(regular, terms, xp.where(off, float("inf"), 0.0)), axis=-1)


@dataclass(frozen=True, eq=False)
class LeastSquares(Primitive):
    """f(x) = (weight/2) ||A x - b||^2; prox solves (I + t A'A) y = x + t A'b, t = tau weight.

    ``A`` is an array (m, n), or (*batch, m, n) with one matrix per sample, real or complex, ``b`` is None for 0, or
    (m,), or (*batch, m). An A whose values can be seen and that carries no derivatives is decomposed once, for every
    later call and every tau; else the system is solved in every call, and A has derivatives too. x (*batch, n) to
    values (*batch,). Raises ShapeError if A or b do not fit. Without a matrix, see `LeastSquaresOperator`.

    >>> import numpy as np
    >>> LeastSquares(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([2.0, 1.0])).prox(np.array([0.0, 3.0]))
    array([1., 1.])
    """

    A: Any
    b: Any = None
    weight: Any = 1.0

    _constants: ClassVar[tuple[str, ...]] = ("A", "b")
    _complex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        shape = tuple(getattr(self.A, "shape", ()))
        if len(shape) < 2:
            raise ShapeError(f"A of LeastSquares should be a matrix (m, n) or (*batch, m, n); got shape {shape}.")
        given = tuple(getattr(self.b, "shape", ())) if self.b is not None else ()
        if given and given[-1] not in (1, shape[-2]):
            raise ShapeError(f"b of LeastSquares should end in ({shape[-2]},), the rows of A; got shape {given}.")

    @cached_property
    def _factor(self) -> tuple[Constant, Constant] | None:
        seen = constant_values(self.A)
        if seen is None:
            return None
        _, s, Vh = np.linalg.svd(seen, full_matrices=False)
        return Constant(Vh), Constant(s)

    def _residual(self, x: Array, A: Array, b: Any) -> Array:
        check_columns("A of LeastSquares", A, x)
        image = apply(A, x)
        return image if b is None else image - b

    def _value(self, x: Array, weight: Array, A: Array, b: Any = None) -> Array:
        return weight[..., 0] / 2 * namespace(x).sum(square(self._residual(x, A, b)), axis=-1)

    def _prox(self, x: Array, tau: Array, weight: Array, A: Array, b: Any = None) -> Array:
        xp = namespace(x)
        check_columns("A of LeastSquares", A, x)
        t = tau * weight
        adjoint = xp.matrix_transpose(xp.conj(A) if xp.isdtype(A.dtype, "complex floating") else A)
        right = x if b is None else x + t * apply(adjoint, b)
        if self._factor is None:
            return solve(t[..., None] * (adjoint @ A) + constant(np.eye, (x.shape[-1],), right), right)
        Vh, s = (part.like(x) for part in self._factor)
        Vh = xp.astype(Vh, x.dtype) if xp.isdtype(x.dtype, "complex floating") else Vh
        s = xp.real(s) if xp.isdtype(s.dtype, "complex floating") else s
        V = xp.matrix_transpose(xp.conj(Vh) if xp.isdtype(Vh.dtype, "complex floating") else Vh)
        share = t * s * s
        return right - apply(V, share / (1 + share) * apply(Vh, right))


class SolveInfo(NamedTuple):
    """How an iterative prox ended, for every sample: the relative residual, and the number of iterations."""

    residual: Array
    iterations: Array


@dataclass(frozen=True, eq=False)
class LeastSquaresOperator(Primitive):
    """f(x) = (weight/2) ||A x - b||^2 for a linear operator A that is only applied; prox by conjugate gradients.

    ``forward(x)`` and ``adjoint(y)`` apply A and its adjoint to arrays (*batch, *shape), any batch; ``b`` is None for
    0, or an array of the shape of A x. ``dim`` names as many axes as A takes. The iteration stops when
    ||x + t A'b - (I + t A'A) y|| <= tol ||x + t A'b||, sample by sample: that residual bounds the distance of y to the
    exact prox, because I + t A'A has no eigenvalue below 1. Derivatives with respect to x, b, tau and weight solve
    another such system; nothing is stored for the iterations. What is inside ``forward`` is a constant. In JAX these
    derivatives are of reverse mode.

    ``prox(x, tau, start=None, return_info=False)`` takes a first guess, and can return a `SolveInfo`.

    >>> import numpy as np
    >>> f = LeastSquaresOperator(lambda x: 2 * x, lambda y: 2 * y, np.array([1.0, 2.0]))
    >>> f.prox(np.array([3.0, 1.0]))
    array([1., 1.])
    """

    forward: Callable[[Array], Array]
    adjoint: Callable[[Array], Array]
    b: Any = None
    weight: Any = 1.0
    tol: float = 1e-8
    max_iter: int = 1000

    _flat: ClassVar[bool] = False
    _constants: ClassVar[tuple[str, ...]] = ("b",)
    _complex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("forward", "adjoint"):
            if not callable(getattr(self, name)):
                raise SettingsError(f"{name} of LeastSquaresOperator should be callable; got {getattr(self, name)!r}.")
        if not 0 < self.tol < 1:
            raise SettingsError(f"tol of LeastSquaresOperator should be between 0 and 1; got {self.tol!r}.")
        if not is_integer(self.max_iter) or self.max_iter < 1:
            raise SettingsError(f"max_iter of LeastSquaresOperator should be positive; got {self.max_iter!r}.")

    @property
    def ndim(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self.dim) if isinstance(self.dim, tuple) else 1

    def _value(self, x: Array, weight: Array, b: Any = None) -> Array:
        image = self.forward(x)
        image = image if b is None else image - b
        batch = x.ndim - self.ndim
        weight = namespace(x).reshape(weight, tuple(weight.shape[:batch]))
        return weight / 2 * namespace(x).sum(square(image), axis=tuple(range(batch, image.ndim)))

    def _prox(self, x: Array, tau: Array, weight: Array, b: Any = None, start: Any = None) -> Array:
        return self._solve(x, tau, weight, b, start)[0]

    def _solve(self, x: Array, tau: Array, weight: Array, b: Any, start: Any) -> tuple[Array, Array, Array]:
        t = tau * weight
        right = x
        if b is not None:
            image = namespace(b).broadcast_to(b, self.forward(0 * x).shape)
            right = x + t * namespace(x).astype(self.adjoint(image), x.dtype, copy=False)
        rule = _NormalEquations(self.forward, self.adjoint, self.ndim, self.tol, self.max_iter)
        return implicit(rule, right, t, right if start is None else start)

    def prox(self, x: Array, tau: Any = 1.0, *, start: Any = None, return_info: bool = False) -> Any:
        """The prox; ``start`` is a first guess of the shape of x, and ``return_info`` adds a `SolveInfo`."""
        guess = {} if start is None else {"start": start}
        arranged = self._arrange(x, tau, **guess)
        parameters = {"b": None, "start": None, **arranged.parameters}
        with np.errstate(all="ignore"):
            y, residual, iterations = self._solve(arranged.x, arranged.tau, **parameters)
        y = self._finish(y, arranged)
        if not return_info:
            return y
        xp = namespace(residual)
        batch = tuple(residual.shape[: residual.ndim - self.ndim])
        return y, SolveInfo(xp.reshape(residual, batch), xp.astype(xp.reshape(iterations, batch), xp.int32))


@dataclass(frozen=True)
class _NormalEquations:
    """(r, t) -> y = (I + t A'A)^-1 r, with dy = (I + t A'A)^-1 (dr - dt A'A y), which is its own transpose in r."""

    forward_map: Callable[[Array], Array]
    adjoint_map: Callable[[Array], Array]
    ndim: int
    tol: float
    max_iter: int

    def normal(self, y: Array) -> Array:
        found = self.adjoint_map(self.forward_map(y))
        return namespace(found).astype(found, y.dtype, copy=False)

    def solve(self, r: Array, t: Array, start: Array) -> tuple[Array, Array, Array]:
        xp = namespace(r)
        axes = tuple(range(-self.ndim, 0))

        def dot(a: Array, b: Array) -> Array:
            return inner(a, b, axes, keepdims=True)

        goal = self.tol**2 * dot(r, r)

        def step(state: tuple) -> tuple:
            y, left, p, size, count = state
            image = p + t * self.normal(p)
            curvature = dot(p, image)
            active = (size > goal) & (curvature > 0)
            length = xp.where(active, size / xp.where(active, curvature, 1.0), 0.0)
            y, left = y + length * p, left - length * image
            new = dot(left, left)
            ratio = xp.where(active, new / xp.where(size > 0, size, 1.0), 0.0)
            return y, left, left + ratio * p, new, count + xp.astype(active, count.dtype)

        left = r - start - t * self.normal(start)
        size = dot(left, left)
        y, _, _, size, count = iterate(
            self.max_iter, step, (start, left, left, size, 0 * goal), lambda s: ~(s[3] > goal)
        )
        scale = dot(r, r)
        return y, xp.sqrt(size / xp.where(scale > 0, scale, 1.0)), count

    def forward(self, r: Array, t: Array, start: Array) -> tuple[Array, Array, Array]:
        return self.solve(r, t, start)

    def tangent(self, outputs: tuple, args: tuple, tangents: tuple) -> Array:
        (y, *_), (_, t, _), (dr, dt, _) = outputs, args, tangents
        right = dr - dt * self.normal(y)
        return implicit(self, right, t, 0 * right)[0]

    def cotangent(self, outputs: tuple, args: tuple, g: Array) -> tuple[Array, Array, None]:
        (y, *_), (_, t, _) = outputs, args
        u = implicit(self, g, t, 0 * g)[0]
        axes = tuple(range(-self.ndim, 0))
        dt = -inner(u, self.normal(y), axes, keepdims=True)
        xp = namespace(dt)
        extra = tuple(k for k in range(-t.ndim, 0) if t.shape[k] == 1 and dt.shape[k] != 1)
        return u, xp.sum(dt, axis=extra, keepdims=True) if extra else dt, None


def constant_values(matrix: Any) -> np.ndarray | None:
    """The values of a matrix that can be seen and carries no derivative, else None."""
    return None if getattr(matrix, "requires_grad", False) else visible(matrix)


def check_columns(label: str, matrix: Array, x: Array) -> None:
    if matrix.shape[-1] != x.shape[-1]:
        raise ShapeError(f"{label} should have {x.shape[-1]} columns, the entries of x; got {matrix.shape[-1]}.")


def apply(matrix: Array, x: Array) -> Array:
    """matrix @ x for (..., m, n) and (*batch, n), which broadcast."""
    xp = namespace(matrix)
    dtype = xp.result_type(matrix.dtype, x.dtype)
    matrix, x = (xp.astype(v, dtype, copy=False) for v in (matrix, x))
    if matrix.ndim == 2:
        return x @ namespace(matrix).matrix_transpose(matrix)
    return (matrix @ x[..., None])[..., 0]


def solve(system: Array, right: Array) -> Array:
    """system^-1 right for (..., n, n) and (*batch, n)."""
    xp = namespace(right)
    lead = np.broadcast_shapes(tuple(system.shape[:-2]), tuple(right.shape[:-1]))
    system = xp.broadcast_to(system, (*lead, *system.shape[-2:]))
    return xp.linalg.solve(system, xp.broadcast_to(right, (*lead, right.shape[-1]))[..., None])[..., 0]
