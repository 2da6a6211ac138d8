"""Polyhedra: projection by an interior-point method, made exact on its face, with a certificate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from cvxlayers.array import cholesky, constant, iterate, namespace, real_dtype, stop_gradient, triangular_solve
from cvxlayers.errors import ShapeError
from cvxlayers.prox.modulus import norm
from cvxlayers.prox.operator import Array
from cvxlayers.prox.set import Set, zero_where_small

_ROUNDS = 60


class ProjectionInfo(NamedTuple):
    """How an iterative projection ended, one value per sample."""

    gap: Array
    """The duality gap over ||y - x||^2 / 2 + eps (1 + ||x||)^2. For y in the set, ||y - y*||^2 / 2 <= the gap."""
    violation: Array
    """By how much y violates the worst constraint, relative to 1 + ||x||; rows of constraints have length 1."""
    iterations: Array
    """Iterations made, of the slowest sample."""


@dataclass(frozen=True, eq=False)
class Polyhedron(Set):
    """C = {x in R^n: G x <= h, A x = b}; the projection is iterative, with a certificate.

    ``G`` is (m, n) or (*batch, m, n), ``h`` (m,) or (*batch, m), and likewise for the equations, which are optional.

    A primal-dual interior-point method finds which inequalities are active, about 15 steps with a Cholesky factor of
    size min(m, n); the projection on the affine hull of that face is then exact to rounding, and is what derivatives
    see: those to x are I - R^+ R with the active rows R, and G, h, A and b have them too. Where the multipliers leave
    no doubt about the face, this is the derivative; elsewhere it is an element of the generalized Jacobian.
    ``project(x, return_info=True)`` returns (y, `ProjectionInfo`). There is nothing to start warm from: an
    interior-point method gains nothing by it. Where C is empty the result is NaN.

    Raises ShapeError for arrays that do not fit.

    Source: S. Mehrotra, On the implementation of a primal-dual interior point method, doi 10.1137/0802028.

    >>> import numpy as np
    >>> triangle = Polyhedron(np.array([[-1.0, 0.0], [0.0, -1.0], [1.0, 1.0]]), np.array([0.0, 0.0, 1.0]))
    >>> triangle.project(np.array([[2.0, 1.0], [-1.0, 0.25], [0.25, 0.5]])).round(12) + 0.0
    array([[1.  , 0.  ],
           [0.  , 0.25],
           [0.25, 0.5 ]])
    """

    G: Any
    h: Any
    A: Any = None
    b: Any = None

    _constants: ClassVar[tuple[str, ...]] = ("G", "h", "A", "b")

    def __post_init__(self) -> None:
        super().__post_init__()
        for matrix, vector in (("G", "h"), ("A", "b")):
            M, v = (getattr(getattr(self, name), "shape", None) for name in (matrix, vector))
            if matrix == "A" and M is None and v is None:
                continue
            if M is None or v is None or len(M) < 2 or len(v) < 1 or M[-2] != v[-1]:
                raise ShapeError(
                    f"{matrix} and {vector} of Polyhedron should end in (m, n) and (m,), a row and an entry for each "
                    f"constraint; got the shapes {M} and {v}."
                )

    def project(self, x: Array, *, return_info: bool = False) -> Any:
        """The nearest point of C, of the shape and dtype of x; with ``return_info`` the pair (y, `ProjectionInfo`)."""
        return self.prox(x, return_info=return_info)

    def prox(self, x: Array, tau: Any = 1.0, *, return_info: bool = False) -> Any:
        """`project`, for every tau."""
        arranged = self._arrange(x, tau)
        with np.errstate(all="ignore"):
            y, info = self._solve(arranged.x, **arranged.parameters)
        y = self._finish(y, arranged)
        return (y, info) if return_info else y

    def _project(self, x: Array, **parameters: Array) -> Array:
        return self._solve(x, **parameters)[0]

    def _value(self, x: Array, G: Array, h: Array, A: Array | None = None, b: Array | None = None) -> Array:
        """Membership by the constraints, without a projection: the distance to the worst half-space."""
        xp = namespace(x)
        _check_columns(x, G, A)
        G, h = _unit_rows(G, h)
        over = _apply(G, x) - h
        if A is not None and b is not None:
            A, b = _unit_rows(A, b)
            over = xp.concat([over, xp.abs(_apply(A, x) - b)], axis=-1)
        worst = xp.max(over, axis=-1)
        return zero_where_small(xp.where(worst < 0, 0.0 * worst, worst), norm(x, (-1,)))

    def _solve(
        self, x: Array, G: Array, h: Array, A: Array | None = None, b: Array | None = None
    ) -> tuple[Array, ProjectionInfo]:
        xp = namespace(x)
        given = _check_columns(x, G, A)
        batch = np.broadcast_shapes(x.shape[:-1], *(M.shape[:-2] for M in given.values()), h.shape[:-1])
        x = xp.broadcast_to(x, (*batch, x.shape[-1]))
        G, h = xp.broadcast_to(G, (*batch, *G.shape[-2:])), xp.broadcast_to(h, (*batch, h.shape[-1]))
        G, h = _unit_rows(G, h)
        if A is not None and b is not None:
            A, b = xp.broadcast_to(A, (*batch, *A.shape[-2:])), xp.broadcast_to(b, (*batch, b.shape[-1]))
            A, b = _unit_rows(A, b)
        else:
            A, b = G[..., :0, :], h[..., :0]

        # Which faces a point near the set is projected on shows in double precision only.
        dtype, wide = x.dtype, xp.asarray(np.float64(0.0)).dtype
        x, G, h, A, b = (xp.astype(v, wide, copy=False) for v in (x, G, h, A, b))
        fixed = [stop_gradient(v) for v in (x, G, h, A, b)]
        near, multipliers, slack, rounds = _interior_point(*fixed)
        active = xp.astype(multipliers > slack, x.dtype)
        on_face = xp.concat([xp.ones_like(b), active], axis=-1)
        R, r = xp.concat([A, G], axis=-2) * on_face[..., None], xp.concat([b, h], axis=-1) * on_face
        back = xp.linalg.pinv(R, rtol=_rank_tolerance(x))
        y = x - _apply(back, _apply(R, x) - r)

        # The certificate, of the exact point of the face or of the interior-point method, whichever is better.
        duals = _apply(xp.matrix_transpose(stop_gradient(back)), stop_gradient(x - y))
        least = duals[..., : duals.shape[-1] - h.shape[-1]] * 0 - float("inf")
        duals = xp.maximum(duals, xp.concat([least, xp.zeros_like(h)], axis=-1))
        exact = _certificate(stop_gradient(y), duals, *fixed)
        rest = fixed[0] - near - _apply(xp.matrix_transpose(fixed[1]), multipliers)
        free = _apply(xp.linalg.pinv(xp.matrix_transpose(fixed[3]), rtol=_rank_tolerance(x)), rest)
        inner = _certificate(near, xp.concat([free, multipliers], axis=-1), *fixed)
        better = xp.maximum(exact[0], exact[1]) <= xp.maximum(inner[0], inner[1])
        gap, violation = (xp.where(better, a, c) for a, c in zip(exact, inner, strict=True))
        y = xp.where(better[..., None], y, y + (near - stop_gradient(y)))
        # By the gap ||y - P(x)||^2 / 2 <= gap: small against ||y - x||, or against x, which is what rounding leaves.
        size, moved = norm(fixed[0], (-1,)), norm(stop_gradient(y) - fixed[0], (-1,))
        close = xp.sqrt(gap) * moved <= 1e-3 * (1 + size)
        solved = ((gap <= 1e-3) | close) & (violation <= 1e-3)
        y = xp.where(solved[..., None], y, float("nan"))
        return xp.astype(y, dtype, copy=False), ProjectionInfo(
            *(xp.astype(v, dtype, copy=False) for v in (gap, violation, rounds))
        )


def _check_columns(x: Array, G: Array, A: Array | None) -> dict[str, Array]:
    """The matrices by their names; ShapeError unless they have a column per entry of x."""
    given: dict[str, Any] = {"G": G} if A is None else {"G": G, "A": A}
    for name, M in given.items():
        if M.shape[-1] != x.shape[-1]:
            raise ShapeError(
                f"{name} of Polyhedron should have a column per entry of x, {x.shape[-1]}; got {M.shape[-1]}."
            )
    return given


def _rank_tolerance(x: Array) -> float:
    return 1e3 * float(namespace(x).finfo(real_dtype(x)).eps)


def _apply(M: Array, v: Array) -> Array:
    return (M @ v[..., None])[..., 0]


def _unit_rows(M: Array, v: Array) -> tuple[Array, Array]:
    """The same constraints with rows of length 1, or 0."""
    xp = namespace(M)
    size = norm(M, (-1,))
    size = xp.where(size > 0, size, 1.0)
    return M / size[..., None], v / size


def _certificate(y: Array, duals: Array, x: Array, G: Array, h: Array, A: Array, b: Array) -> tuple[Array, Array]:
    """The relative gap and the relative violation of y, for multipliers of the equations and the inequalities.

    With w = x - A'nu - G'lam, ||y - x||^2/2 minus the dual value is ||y - w||^2/2 + lam'(h - G y) + nu'(b - A y).
    """
    xp = namespace(x)
    room = xp.concat([b - _apply(A, y), h - _apply(G, y)], axis=-1)
    w = x - _apply(xp.matrix_transpose(xp.concat([A, G], axis=-2)), duals)
    gap = xp.sum((y - w) ** 2, axis=-1) / 2 + xp.sum(xp.abs(duals * room), axis=-1)
    size = norm(x, (-1,))
    noise = float(xp.finfo(x.dtype).eps) * (1 + size) ** 2
    p = b.shape[-1]
    outside = xp.concat([xp.abs(room[..., :p]), xp.maximum(-room[..., p:], 0 * room[..., p:])], axis=-1)
    worst = xp.max(outside, axis=-1) if outside.shape[-1] else 0 * size
    return gap / (xp.sum((y - x) ** 2, axis=-1) / 2 + noise), worst / (1 + size)


def _interior_point(x: Array, G: Array, h: Array, A: Array, b: Array) -> tuple[Array, Array, Array, Array]:
    """y, multipliers and slacks of G y <= h, and the number of rounds.

    With y = x0 + w, x0 the projection of x on {A x = b} and G' = G (I - A^+ A), w is the point of least norm of
    {G' w <= h - G x0}: with slacks s and multipliers lam, w + G'^T lam = 0, G' w + s = h', lam s = 0.
    """
    xp = namespace(x)
    back = xp.linalg.pinv(A, rtol=_rank_tolerance(x))
    origin = x - _apply(back, _apply(A, x) - b)
    h = h - _apply(G, origin)
    G = G - (G @ back) @ A
    Gt = xp.matrix_transpose(G)
    m, n = G.shape[-2:]
    zero = xp.sum(0 * x, axis=-1, keepdims=True)
    if m == 0:
        return origin, h, h, zero[..., 0]
    scale = xp.max(-h, axis=-1, keepdims=True)
    scale = xp.where(scale > 0, scale, 1.0)
    h = h / scale
    small = m <= n - A.shape[-2]
    eye = constant(np.eye, (m if small else n,), x)
    eps = float(xp.finfo(x.dtype).eps)
    # Dependent active rows leave a singular matrix in the limit.
    shift = 4 * eps * xp.sum(G * G, axis=(-2, -1))[..., None, None]

    def solve(D: Array) -> Any:
        """(G G' + D)^-1, by whichever of the two sizes is smaller."""
        if small:
            L = cholesky(G @ Gt + (D[..., None] + shift) * eye)
            return lambda q: triangular_solve(L, triangular_solve(L, q[..., None]), transpose=True)[..., 0]
        L = cholesky(eye + Gt @ (G / D[..., None]))

        def apply(q: Array) -> Array:
            inner = triangular_solve(L, triangular_solve(L, (Gt @ (q / D)[..., None])), transpose=True)[..., 0]
            return (q - _apply(G, inner)) / D

        return apply

    def longest(v: Array, dv: Array) -> Array:
        """The longest step t with v + t dv >= 0."""
        return xp.min(xp.where(dv < 0, -v / xp.where(dv < 0, dv, 1.0), float("inf")), axis=-1, keepdims=True)

    def length(ds: Array, dlam: Array, s: Array, lam: Array, share: float) -> Array:
        t = share * xp.minimum(longest(s, ds), longest(lam, dlam))
        return xp.where(t < 1, t, 1.0)

    def step(state: tuple) -> tuple:
        w, s, lam, done, rounds = state
        primal, dual = _apply(G, w) + s - h, w + _apply(Gt, lam)
        mu = xp.sum(s * lam, axis=-1, keepdims=True) / m
        invert = solve(s / lam)

        def direction(center: Array) -> tuple[Array, Array, Array]:
            dlam = invert(primal - _apply(G, dual) + center / lam)
            return -dual - _apply(Gt, dlam), (center - s * dlam) / lam, dlam

        _, ds, dlam = direction(-s * lam)
        t = length(ds, dlam, s, lam, 1.0)
        ahead = xp.sum((s + t * ds) * (lam + t * dlam), axis=-1, keepdims=True) / m
        sigma = (ahead / mu) ** 3
        dw, ds, dlam = direction(sigma * mu - s * lam - ds * dlam)
        t = length(ds, dlam, s, lam, 0.995)
        new = w + t * dw, s + t * ds, lam + t * dlam
        fine = xp.all(xp.isfinite(new[0]), axis=-1, keepdims=True) & xp.all(new[1] > 0, axis=-1, keepdims=True)
        fine = fine & xp.all(new[2] > 0, axis=-1, keepdims=True)
        move = fine & ~done
        w, s, lam = (xp.where(move, a, c) for a, c in zip(new, (w, s, lam), strict=True))
        size = 1 + xp.sum(w * w, axis=-1, keepdims=True)
        mu = xp.sum(s * lam, axis=-1, keepdims=True)
        error = xp.max(xp.abs(_apply(G, w) + s - h), axis=-1, keepdims=True)
        error = xp.maximum(error, xp.max(xp.abs(w + _apply(Gt, lam)), axis=-1, keepdims=True))
        done = done | ~fine | ((mu <= 64 * eps * size) & (error <= 64 * eps * size))
        return w, s, lam, done, rounds + 1

    one = xp.ones_like(h)
    start = (0 * x, xp.maximum(h, one), one, zero != zero, 0 * zero)
    w, s, lam, _, rounds = iterate(_ROUNDS, step, start, lambda state: state[3])
    return origin + scale * w, scale * lam, scale * s, rounds[..., 0]
