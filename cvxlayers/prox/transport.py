"""Transport polytopes: matrices with given row and column sums, among them the doubly stochastic ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cvxlayers.array import constant, iterate, namespace, stop_gradient, visible
from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox.modulus import norm
from cvxlayers.prox.operator import Array
from cvxlayers.prox.polyhedron import ProjectionInfo
from cvxlayers.prox.set import Set, zero_where_small
from cvxlayers.prox.threshold import simplex_threshold

_ROUNDS = 100
_STEPS = 12
"""Steps of the line search."""


@dataclass(frozen=True, eq=False)
class _Transport(Set):
    """A transport polytope; subclasses say what the sums are."""

    ndim: ClassVar[int] = 2
    _flat: ClassVar[bool] = False

    def project(self, x: Array, *, return_info: bool = False) -> Any:
        """The nearest point of C, of the shape and dtype of x; with ``return_info`` the pair (y, `ProjectionInfo`)."""
        return self.prox(x, return_info=return_info)

    def prox(self, x: Array, tau: Any = 1.0, *, return_info: bool = False) -> Any:
        """`project`, for every tau."""
        arranged = self._arrange(x, tau)
        with np.errstate(all="ignore"):
            y, info = _project(arranged.x, *self._sums(arranged.x, **arranged.parameters))
        y = self._finish(y, arranged)
        return (y, info) if return_info else y

    def _sums(self, x: Array, **parameters: Array) -> tuple[Array, Array]:
        """The sums of the rows (*batch, m) and of the columns (*batch, n)."""
        raise NotImplementedError

    def _project(self, x: Array, **parameters: Array) -> Array:
        return _project(x, *self._sums(x, **parameters))[0]

    def _value(self, x: Array, **parameters: Array) -> Array:
        """Membership by the constraints, without a projection."""
        xp = namespace(x)
        rows, columns = self._sums(x, **parameters)
        off = norm(xp.sum(x, axis=-1) - rows, (-1,)) + norm(xp.sum(x, axis=-2) - columns, (-1,))
        return zero_where_small(off + norm(xp.where(x < 0, x, 0.0 * x), (-2, -1)), norm(x, (-2, -1)))


@dataclass(frozen=True, eq=False)
class TransportPolytope(_Transport):
    """C = {X: X >= 0, X 1 = rows, X'1 = columns}: the transport plans between two histograms.

    X is (*batch, m, n); ``rows`` (m,) or (*batch, m) and ``columns`` (n,) or (*batch, n) are nonnegative, with the same
    sum. The projection is max(X + u 1' + 1 v', 0), with u and v from a semismooth Newton method on the dual problem,
    whose last step is exact on the entries that are positive; that step is what derivatives see, to X and to both sums.
    Where the positive entries do not determine u and v the solution of least norm is taken, which leaves X as it is.
    ``project(x, return_info=True)`` returns (y, `ProjectionInfo`).

    Raises SettingsError for negative sums, or sums that are seen to differ; ShapeError where they do not fit.

    Source: X. Li, D. Sun, K.-C. Toh, On the efficient computation of a generalized Jacobian of the projector over the
    Birkhoff polytope, doi 10.1007/s10107-018-1342-9.

    >>> import numpy as np
    >>> C = TransportPolytope(np.array([1.0, 2.0]), np.array([2.0, 1.0]))
    >>> C.project(np.array([[0.0, 3.0], [1.0, 0.0]])).round(12) + 0.0
    array([[0., 1.],
           [2., 0.]])
    """

    rows: Any
    columns: Any

    _constants: ClassVar[tuple[str, ...]] = ("rows", "columns")
    _nonnegative: ClassVar[tuple[str, ...]] = ("rows", "columns")

    def __post_init__(self) -> None:
        super().__post_init__()
        rows, columns = visible(self.rows), visible(self.columns)
        if rows is None or columns is None:
            return
        if not rows.ndim or not columns.ndim:
            raise ShapeError("rows and columns of TransportPolytope should end in (m,) and (n,); got a number.")
        totals = rows.sum(axis=-1), columns.sum(axis=-1)
        if not np.allclose(*totals, rtol=1e-5):
            raise SettingsError(
                f"rows and columns of TransportPolytope should have the same sum; got {totals[0]} and {totals[1]}: "
                "the set is empty."
            )

    def _sums(self, x: Array, **parameters: Array) -> tuple[Array, Array]:
        for name, length in (("rows", x.shape[-2]), ("columns", x.shape[-1])):
            if parameters[name].shape[-1] != length:
                raise ShapeError(
                    f"{name} of TransportPolytope should have {length} entries, one for each of the {name} of x, of "
                    f"shape {tuple(x.shape[-2:])}; got {parameters[name].shape[-1]}."
                )
        return parameters["rows"], parameters["columns"]


@dataclass(frozen=True, eq=False)
class Birkhoff(_Transport):
    """C = {X: X >= 0, X 1 = 1, X'1 = 1}, the doubly stochastic matrices: the Birkhoff polytope.

    X is square, (*batch, n, n). The projection is that of `TransportPolytope`, whose notes hold here.
    Raises ShapeError for a matrix that is not square.

    Source: as of `TransportPolytope`.

    >>> import numpy as np
    >>> Birkhoff().project(np.array([[0.0, 3.0], [0.5, 0.0]])).round(12) + 0.0
    array([[0., 1.],
           [1., 0.]])
    """

    def _sums(self, x: Array, **parameters: Array) -> tuple[Array, Array]:
        if x.shape[-1] != x.shape[-2]:
            raise ShapeError(f"x of Birkhoff should be square along dim; got {tuple(x.shape[-2:])}.")
        one = namespace(x).ones_like(x[..., 0])
        return one, one


def _project(x: Array, rows: Array, columns: Array) -> tuple[Array, ProjectionInfo]:
    xp = namespace(x)
    m, n = x.shape[-2:]
    batch = np.broadcast_shapes(x.shape[:-2], rows.shape[:-1], columns.shape[:-1])
    x = xp.broadcast_to(x, (*batch, m, n))
    rows, columns = xp.broadcast_to(rows, (*batch, m)), xp.broadcast_to(columns, (*batch, n))
    sums = xp.concat([rows, columns], axis=-1)
    potentials, rounds = _dual_newton(stop_gradient(x), stop_gradient(sums))
    positive = _plan(stop_gradient(x), potentials, m) > 0
    mask = xp.astype(positive, x.dtype)
    # A Newton step on the positive entries, from the potentials w found: H dw = sums - sums of x + w, of least norm.
    inverse = xp.linalg.pinv(_hessian(mask, 0.0), rtol=1e2 * (m + n) * float(xp.finfo(x.dtype).eps))
    kept = xp.where(positive, _spread(x, potentials, m), 0.0 * x)
    step = (inverse @ (sums - _marginals(kept))[..., None])[..., 0] + potentials
    exact = xp.where(positive, _spread(x, step, m), 0.0 * x)

    # Whichever is nearer to the set: the exact point of the face, or that of the last step.
    found, plan = stop_gradient(exact), _plan(stop_gradient(x), potentials, m)
    total = stop_gradient(sums)

    def violation(y: Array) -> Array:
        below = xp.max(xp.where(y < 0, -y, 0.0 * y), axis=(-2, -1))
        return xp.maximum(below, xp.max(xp.abs(_marginals(y) - total), axis=-1))

    size = norm(stop_gradient(x), (-2, -1))
    better = violation(found) <= violation(plan)
    y = xp.where(better[..., None, None], exact, exact + (plan - found))
    y = y + stop_gradient(xp.where(y < 0, -y, 0.0 * y))  # rounding of an entry that is all but 0
    w = xp.where(better[..., None], stop_gradient(step), potentials)
    found = stop_gradient(y)
    # ||y - x||^2 / 2 minus the dual value of w, by entries: both factors vanish on a face.
    best = _plan(stop_gradient(x), w, m)
    gap = xp.sum((found - best) ** 2, axis=(-2, -1)) / 2
    gap = gap + xp.abs(xp.sum((found - best) * (best - _spread(stop_gradient(x), w, m)), axis=(-2, -1)))
    noise = float(xp.finfo(x.dtype).eps) * (1 + size) ** 2
    gap = gap / (xp.sum((found - stop_gradient(x)) ** 2, axis=(-2, -1)) / 2 + noise)
    worst = violation(found) / (1 + size)
    y = xp.where(((gap <= 1e-3) & (worst <= 1e-3))[..., None, None], y, float("nan"))
    return y, ProjectionInfo(gap, worst, rounds)


def _spread(x: Array, w: Array, m: int) -> Array:
    """x + u 1' + 1 v' for w = (u, v)."""
    return x + w[..., :m, None] + w[..., None, m:]


def _plan(x: Array, w: Array, m: int) -> Array:
    y = _spread(x, w, m)
    return namespace(x).where(y > 0, y, 0.0 * y)


def _marginals(y: Array) -> Array:
    xp = namespace(y)
    return xp.concat([xp.sum(y, axis=-1), xp.sum(y, axis=-2)], axis=-1)


def _hessian(mask: Array, shift: Any) -> Array:
    """[diag(M 1) M; M' diag(M'1)] + shift I."""
    xp = namespace(mask)
    upper, lower = xp.zeros_like(mask @ xp.matrix_transpose(mask)), xp.zeros_like(xp.matrix_transpose(mask) @ mask)
    blocks = [[upper, mask], [xp.matrix_transpose(mask), lower]]
    H = xp.concat([xp.concat(row, axis=-1) for row in blocks], axis=-2)
    return H + (_marginals(mask) + shift)[..., None] * constant(np.eye, (H.shape[-1],), mask)


def _dual_newton(x: Array, sums: Array) -> tuple[Array, Array]:
    """w = (u, v) that minimizes ||max(x + u 1' + 1 v', 0)||^2 / 2 - sums'w, and the number of rounds.

    A round is a Newton step with a line search, then the exact minimization over u and over v alone, by the threshold
    of the simplex: they never go up, and leave no row or column empty, where Newton's method would be lost.
    """
    xp = namespace(x)
    m, n = x.shape[-2:]
    eps = float(xp.finfo(x.dtype).eps)
    rows, columns = sums[..., :m], sums[..., m:]
    scale = 1 + xp.max(xp.abs(x), axis=(-2, -1))[..., None]
    xt = xp.matrix_transpose(x)

    def search(w: Array, direction: Array) -> Array:
        """The step t in [0, 1] of least objective: the root of its increasing, piecewise linear derivative."""
        y, d = _spread(x, w, m), direction[..., :m, None] + direction[..., None, m:]
        drop = xp.sum(sums * direction, axis=-1, keepdims=True)

        def derivative(t: Array) -> tuple[Array, Array]:
            ahead = y + t[..., None] * d
            there = xp.where(ahead > 0, d, 0.0 * d)
            return xp.sum(ahead * there, axis=(-2, -1))[..., None] - drop, xp.sum(there * d, axis=(-2, -1))[..., None]

        t, low, high = xp.ones_like(drop), xp.zeros_like(drop), xp.ones_like(drop)
        for _ in range(_STEPS):
            g, slope = derivative(t)
            low, high = xp.where(g <= 0, t, low), xp.where(g >= 0, t, high)
            newton = t - g / xp.where(slope > 0, slope, 1.0)
            inside = (slope > 0) & (newton >= low) & (newton <= high)
            t = xp.where(inside, newton, (low + high) / 2)
        return t

    def blocks(v: Array) -> Array:
        u = -simplex_threshold(x + v[..., None, :], rows[..., None])[0][..., 0]
        return xp.concat([u, -simplex_threshold(xt + u[..., None, :], columns[..., None])[0][..., 0]], axis=-1)

    def step(state: tuple) -> tuple:
        w, done, rounds = state
        y = _plan(x, w, m)
        residual = _marginals(y) - sums
        size = xp.sqrt(xp.sum(residual * residual, axis=-1, keepdims=True))
        shift = xp.where(size < 1, 1e-3 * size, 1e-3 + 0 * size) + 8 * eps * (m + n)
        direction = -xp.linalg.solve(_hessian(xp.astype(y > 0, x.dtype), shift), residual[..., None])[..., 0]
        best = w + search(w, direction) * direction
        new = blocks(best[..., m:])
        # At the level of rounding the objective no longer tells; the residual does.
        ahead = xp.sqrt(xp.sum((_marginals(_plan(x, w + direction, m)) - sums) ** 2, axis=-1, keepdims=True))
        new = xp.where(ahead <= 1e-2 * size, w + direction, new)
        done = done | (size <= 2 * eps * (m + n) ** 0.5 * scale)
        return xp.where(done, w, new), done, rounds + 1

    start = blocks(0.0 * x[..., 0, :])
    zero = 0.0 * start[..., :1]
    w, _, rounds = iterate(_ROUNDS, step, (start, zero != zero, zero), lambda state: state[1])
    return w, rounds[..., 0]
