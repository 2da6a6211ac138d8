"""How an element ended: residuals of the program as given, and certificates, on arrays of any library.

The definitions are those of `cvxlayers.conic.residuals`. The points of an interior-point method lie inside the cones,
so their distance to them is no part of it.
"""

from __future__ import annotations

from typing import Any

from cvxlayers.array import choose, namespace
from cvxlayers.conic.face import multipliers_on_face, ray_on_face
from cvxlayers.conic.residuals import CERTIFICATE, INACCURATE, INFINITE
from cvxlayers.sets import Product
from cvxlayers.solvers.interior_point.outcome import Outcome
from cvxlayers.status import Status

Array = Any


def residuals(
    Px: Array, ATz: Array, q: Array, Ax: Array, s: Array, b: Array, x: Array, z: Array
) -> tuple[Array, Array, Array]:
    """Relative primal, dual and gap residuals, (*batch, 1) each, from the products of a point with the data."""
    xp = namespace(x, z)
    scale = largest(norm(Ax), norm(s), norm(b))
    primal = norm(Ax + s - b) / scale
    dual = norm(Px + ATz + q) / largest(norm(Px), norm(ATz), norm(q))
    xPx, qx, bz = dot(x, Px), dot(q, x), dot(b, z)
    return primal, dual, xp.abs(xPx + qx + bz) / largest(xp.abs(xPx), xp.abs(qx), xp.abs(bz))


def verdict(
    cone: Product,
    data: tuple[Array, Array, Array, Array],
    point: tuple[Array, Array, Array],
    ray: tuple[Array, Array, Array],
    absent: Array,
    valid: Array,
    ended: Array,
    iterations: Array,
    tol: float,
) -> Outcome:
    """The outcome for a point (x, z, s) and a ray (x, z, s): what the residuals say of the one or the other.

    ``valid`` (*batch, 1) marks elements with finite data, ``ended`` those that did not run into the limit.
    """
    P, q, A, b = data
    xp = namespace(q)
    b = xp.where(absent, 1.0, b)
    (x, z, s), (ray_x, ray_z, ray_s) = (
        (x, xp.where(absent, 0.0, z), xp.where(absent, one, s)) for (x, z, s), one in ((point, 1.0), (ray, 0.0))
    )
    Ax = xp.where(absent, 0.0, times(A, x))
    out = xp.concat(residuals(times(P, x), transposed_times(A, z), q, Ax, s, b, x, z), axis=-1)
    worst = xp.max(out, axis=-1, keepdims=True)
    solved = valid & (worst <= 10.0 * tol)
    ray, bound = (ray_x, ray_z, ray_s), max(CERTIFICATE, 10.0 * tol)
    rest = (ray, (solved, solved), (out, out))
    (ray_x, ray_z, ray_s), (infeasible, unbounded), rays = choose(
        xp.all(solved), lambda: rest, lambda: _proofs(cone, (P, q, A, b), ray, absent, bound)
    )
    infeasible, unbounded = valid & infeasible & ~solved, valid & unbounded & ~solved & ~infeasible
    near = valid & ~solved & ~infeasible & ~unbounded & (worst <= max(INACCURATE, 100.0 * tol))
    status = xp.where(ended, int(Status.NUMERICAL_ERROR), int(Status.MAX_ITERATIONS))
    for mask, kind in (
        (near, Status.INACCURATE),
        (unbounded, Status.UNBOUNDED),
        (infeasible, Status.INFEASIBLE),
        (solved, Status.SOLVED),
        (~valid, Status.INVALID_INPUT),
    ):
        status = xp.where(mask, int(kind), status)
    kept, nan = solved | near, float("nan")
    s, ray_s = (xp.where(absent, INFINITE, v) for v in (s, ray_s))
    x = xp.where(kept, x, xp.where(unbounded, ray_x, nan))
    s = xp.where(kept, s, xp.where(unbounded, ray_s, nan))
    z = xp.where(kept, z, xp.where(infeasible, ray_z, nan))
    out = xp.where(infeasible | unbounded, xp.where(infeasible, rays[0], rays[1]), out)
    out = xp.where(valid, out, nan)
    return Outcome(x, z, s, _int32(status[..., 0]), _int32(iterations[..., 0]), out)


def _proofs(cone: Product, data: tuple, ray: tuple[Array, Array, Array], absent: Array, bound: float) -> tuple:
    """`_certificates` of the ray, or of what is left of it on its face where only that is a proof."""
    P, q, A, b = data
    xp = namespace(q)
    x, z, s = ray
    size_A = xp.abs(A)
    z = multipliers_on_face(z, xp.sum(size_A, axis=-1) + xp.abs(b), cone)
    x, s = ray_on_face(x, s, xp.sum(xp.abs(P), axis=-1) + xp.sum(size_A, axis=-2) + xp.abs(q), cone)
    whole = _certificates(data, ray, absent, bound)
    face = _certificates(data, (x, z, s), absent, bound)
    infeasible, unbounded = whole[1]
    masks = (unbounded, infeasible, unbounded)
    rays = tuple(xp.where(mask, v, w) for mask, v, w in zip(masks, whole[0], face[0], strict=True))
    residuals = tuple(xp.where(mask, v, w) for mask, v, w in zip(whole[1], whole[2], face[2], strict=True))
    return rays, (infeasible | face[1][0], unbounded | face[1][1]), residuals


def _certificates(data: tuple, ray: tuple, absent: Array, bound: float) -> tuple:
    """The ray scaled to b'z = -1 or q'x = -1, whether it proves infeasibility or unboundedness, and its residuals."""
    P, q, A, b = data
    x, z, s = ray
    xp = namespace(x, z)
    nan = xp.zeros_like(x[..., :1]) + float("nan")
    bz, qx = dot(b, z), dot(q, x)
    z = z / xp.where(bz < 0, -bz, 1.0)
    scale = xp.where(qx < 0, -qx, 1.0)
    x, s = x / scale, s / scale
    size_A = xp.abs(A)
    share = 1.0 / dot(xp.abs(z), xp.abs(b))
    dual = _ratio(transposed_times(A, z), share * transposed_times(size_A, xp.abs(z)))
    # Any point's primal residual r has |z|'|r| >= 1: that must be more than rounding errors of b.
    rounding = float(xp.finfo(x.dtype).eps) * xp.maximum(xp.abs(b), 1e-6 * largest(norm(b)))
    dual = xp.maximum(dual, dot(xp.abs(z), rounding))
    infeasible = (bz < 0) & (dual <= bound)
    share = 1.0 / dot(xp.abs(x), xp.abs(q))
    moved = xp.where(absent, 0.0, times(A, x) + s)
    primal = _ratio(moved, share * (times(size_A, xp.abs(x)) + xp.abs(s)))
    curved = _ratio(times(P, x), share * times(xp.abs(P), xp.abs(x)))
    unbounded = (qx < 0) & (xp.maximum(primal, curved) <= bound)
    rays = xp.concat([nan, dual, nan], axis=-1), xp.concat([primal, curved, nan], axis=-1)
    return (x, z, s), (infeasible, unbounded), rays


def times(M: Array, v: Array) -> Array:
    """M v for matrices (*batch, i, j) and vectors (*batch, j)."""
    return (M @ v[..., None])[..., 0]


def transposed_times(M: Array, v: Array) -> Array:
    """M'v."""
    return (v[..., None, :] @ M)[..., 0, :]


def dot(a: Array, b: Array) -> Array:
    """a'b, (*batch, 1)."""
    return namespace(a, b).sum(a * b, axis=-1, keepdims=True)


def norm(v: Array) -> Array:
    """||v||, (*batch, 1)."""
    xp = namespace(v)
    return xp.sqrt(xp.sum(v * v, axis=-1, keepdims=True))


def largest(*values: Array) -> Array:
    """The largest of 1 and the values."""
    xp = namespace(*values)
    out = xp.clip(values[0], 1.0, None)
    for value in values[1:]:
        out = xp.maximum(out, value)
    return out


def _ratio(v: Array, size: Array) -> Array:
    """||v|| / ||size||, and 0 where v is zero."""
    xp = namespace(v)
    top, bottom = norm(v), norm(size)
    return xp.where(top > 0, top / xp.where(bottom > 0, bottom, 1.0), 0.0)


def _int32(v: Array) -> Array:
    xp = namespace(v)
    return xp.astype(v, xp.int32)
