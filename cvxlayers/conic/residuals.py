"""The one judge of "solved": relative residuals of a batch of solutions and certificates, computed from the data.

With Euclidean norms, and dist_K the distance to the cone in its largest entry (`violation`):

- primal: max(||Ax + s - b||, dist_K(s)) / max(1, ||Ax||, ||s||, ||b||)
- dual: max(||Px + q + A'z||, dist_K*(z)) / max(1, ||Px||, ||q||, ||A'z||)
- gap: |x'Px + q'x + b'z| / max(1, |x'Px|, |q'x|, |b'z|)
- infeasible: max(||A'z|| / (c || |A|'|z| ||), dist_K*(z) / ||z||, eps |z|'max(|b|, 1e-6, 1e-6 ||b||) / |b'z|)
  with c = |b'z| / |b|'|z|, the dual residual
- unbounded: max(||Ax + s|| / (c || |A||x| + |s| ||), dist_K(s) / max(||s||, || |A||x| ||)) with c = |q'x| / |q|'|x|,
  the primal residual, and ||Px|| / (c || |P||x| ||), the dual residual

Of a ray whose residuals are larger than allowed, what is left of it on its face counts (`cvxlayers.conic.face`).

The last two are free of scale, up to the third term: any point's primal residual r has |z|'|r| >= |b'z|, and that must
be more than rounding errors of b. They bound how far out a solution would have to be to escape the certificate: from
0 <= z's = b'z - (A'z)'x, any feasible x has ||x|| >= |b'z| / ||A'z||; what is lost by cancellation in b'z counts, too.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import overload
from weakref import WeakKeyDictionary

import numpy as np

from cvxlayers.conic.face import multipliers_on_face, ray_on_face
from cvxlayers.conic.program import ConeData, ConeProgram, ConicSolution, DenseData
from cvxlayers.conic.violation import violation
from cvxlayers.sets import Nonnegative, Zero
from cvxlayers.status import Status

INFINITE = 1e20  # the slack of an absent constraint
ABSENT = 0.999e20  # a nonnegative row whose b is at least this, infinity included, is an absent constraint
INACCURATE = 1e-4  # the largest residual at which a point still counts as an inaccurate solution
CERTIFICATE = 1e-6  # the largest residual at which a ray proves that there is no solution


def judge(
    program: ConeProgram, data: ConeData | DenseData, solution: ConicSolution, tol: float = 1e-8
) -> ConicSolution:
    """The same solution with ``residuals`` filled in, and each status what the residuals say it is.

    An element whose residuals are all at most 10 tol is SOLVED, whatever the solver says of it. One with residuals at
    most 1e-4 (or 100 tol, if that is more) is INACCURATE. Beyond that a claim of a solution is a NUMERICAL_ERROR, and
    MAX_ITERATIONS stays what it is. A claim that there is no solution stands if z (INFEASIBLE) or x and s (UNBOUNDED)
    are a certificate with residuals at most 1e-6 (or 10 tol), and is a NUMERICAL_ERROR otherwise. Elements whose data
    hold NaN or infinity are INVALID_INPUT. Certificates come back scaled to b'z = -1 or q'x = -1; whatever is neither
    a solution nor a certificate comes back as NaN.

    ``residuals`` is (batch, 3): primal, dual, gap; NaN where a residual has no meaning.
    """
    data, invalid, absent = screen(program, data)
    if invalid is not None:
        solution = replace(solution, status=np.where(invalid, Status.INVALID_INPUT, solution.status))
    if absent is not None:
        solution = without(solution, absent)
    judged = Judge.of(program)(data, solution, tol)
    return judged if absent is None else restore(judged, absent)


@overload
def screen(program: ConeProgram, data: ConeData) -> tuple[ConeData, np.ndarray | None, np.ndarray | None]: ...
@overload
def screen(program: ConeProgram, data: DenseData) -> tuple[DenseData, np.ndarray | None, np.ndarray | None]: ...
def screen(program, data):
    """What a solver may see of the data: (data, invalid, absent).

    ``invalid`` (batch,) marks the elements that hold NaN or infinity, and is None if there are none. ``absent``
    ((batch, m) or (m,)) marks nonnegative rows with b >= 0.999e20, and is None if there are none: in the data that come
    back such a row reads 0'x + s = 1. A b of -infinity is invalid.
    """
    b = data.b
    with np.errstate(all="ignore"):
        square = np.vdot(b, b)
        if square < ABSENT**2 and all(math.isfinite(np.vdot(v, v)) for v in (data.P, data.q, data.A)):
            return data, None, None  # every entry is finite, and every entry of b below 1e20: almost always
    free = np.zeros(program.m, dtype=bool)
    for block, _, start in program.cone.groups:
        if isinstance(block, Nonnegative):
            free[start : start + block.size] = True
    absent = free & (b >= ABSENT)
    if absent.any():
        data = _without(program, data, absent)
    valid = np.ones(data.batch, dtype=bool)
    matrix = 2 if isinstance(data, DenseData) else 1  # dimensions of the P and A of one element
    for values, own in ((data.P, matrix), (data.q, 1), (data.A, matrix), (data.b, 1)):
        finite = np.isfinite(values)
        valid &= finite.reshape(data.batch, -1).all(-1) if values.ndim > own else finite.all()
    return data, None if valid.all() else ~valid, absent if absent.any() else None


def without(solution: ConicSolution, absent: np.ndarray) -> ConicSolution:
    """What the rows 0'x + s = 1 of absent constraints make of a solution; of a ray 0'x + s = 0."""
    slack = np.where(solution.status == Status.UNBOUNDED, 0.0, 1.0)[:, None]
    return replace(solution, s=np.where(absent, slack, solution.s), z=np.where(absent, 0.0, solution.z))


def restore(solution: ConicSolution, absent: np.ndarray) -> ConicSolution:
    """The solution of the data as given: the slack of an absent constraint is 1e20."""
    keep = ~absent | ~np.isfinite(solution.s)
    return replace(solution, s=np.where(keep, solution.s, INFINITE))


class Judge:
    """Residuals and verdicts for one program; ``Judge.of(program)`` keeps one for each program."""

    _known: WeakKeyDictionary[ConeProgram, Judge] = WeakKeyDictionary()

    @classmethod
    def of(cls, program: ConeProgram) -> Judge:
        found = cls._known.get(program)
        if found is None:
            found = cls._known[program] = cls(program)
        return found

    def __init__(self, program: ConeProgram) -> None:
        self.shape = (program.m, program.n)
        self.P, self.A, self.cone = program.P, program.A, program.cone
        off = program.P.rows != program.P.cols
        self.off_diagonal, self.off_rows, self.off_cols = off, program.P.rows[off], program.P.cols[off]
        # Zero and nonnegative rows lead, and are checked without the general machinery.
        groups = program.cone.groups
        self.equalities = sum(block.size for block, _, _ in groups if isinstance(block, Zero))
        self.linear = self.equalities + sum(block.size for block, _, _ in groups if isinstance(block, Nonnegative))
        self.others = tuple(
            (block, count, start - self.linear)
            for block, count, start in groups
            if not isinstance(block, (Zero, Nonnegative))
        )

    def __call__(self, data: ConeData | DenseData, solution: ConicSolution, tol: float) -> ConicSolution:
        """`judge` on data that have been through `screen`, with the invalid elements marked by their status."""
        status, x, z, s = solution.status, solution.x, solution.z, solution.s
        if not status.any():  # all claim to be solved: almost always
            with np.errstate(all="ignore"):
                residuals = self.residuals(data, x, z, s)
            if residuals.max(initial=0.0) <= 10.0 * tol:
                return replace(solution, residuals=residuals)
        status = status.copy()
        with np.errstate(all="ignore"):
            residuals = self.residuals(data, x, z, s)
            worst = residuals.max(-1, initial=0.0)
            point = (status != Status.INVALID_INPUT) & (status != Status.INFEASIBLE) & (status != Status.UNBOUNDED)
            solved = point & (worst <= 10.0 * tol)
            near = point & ~solved & (worst <= max(INACCURATE, 100.0 * tol))
            with np.errstate(invalid="ignore", divide="ignore"):  # of the elements that claim nothing
                x, z, s = self._certificates(data, status, residuals, x, z, s, max(CERTIFICATE, 10.0 * tol))
        status[point & ~solved & ~near & (status != Status.MAX_ITERATIONS)] = Status.NUMERICAL_ERROR
        status[solved], status[near] = Status.SOLVED, Status.INACCURATE
        failed = status > Status.INACCURATE
        x = np.where((failed & (status != Status.UNBOUNDED))[:, None], np.nan, x)
        z = np.where((failed & (status != Status.INFEASIBLE))[:, None], np.nan, z)
        s = np.where((failed & (status != Status.UNBOUNDED))[:, None], np.nan, s)
        residuals[status == Status.INVALID_INPUT] = np.nan
        return replace(solution, x=x, z=z, s=s, status=status, residuals=residuals)

    def residuals(self, data: ConeData | DenseData, x: np.ndarray, z: np.ndarray, s: np.ndarray) -> np.ndarray:
        """Primal, dual and gap residuals (batch, 3)."""
        if len(x) == 1 and isinstance(data, DenseData):
            return self._single(data, x[0], z[0], s[0])
        q, b = data.q, data.b
        Px, Ax, ATz = self.products(data, x, z)
        scale = np.maximum(np.maximum(_norm(Ax), _norm(s)), np.maximum(_norm(b), 1.0))
        primal = np.maximum(_norm(Ax + s - b), self.violation(s)) / scale
        scale = np.maximum(np.maximum(_norm(Px), _norm(ATz)), np.maximum(_norm(q), 1.0))
        dual = np.maximum(_norm(Px + ATz + q), self.violation(z, dual=True)) / scale
        xPx, qx, bz = np.vecdot(x, Px), np.vecdot(x, q), np.vecdot(z, b)
        scale = np.maximum(np.maximum(np.abs(xPx), np.abs(qx)), np.maximum(np.abs(bz), 1.0))
        return np.stack((primal, dual, np.abs(xPx + qx + bz) / scale), axis=-1)

    def _single(self, data: DenseData, x: np.ndarray, z: np.ndarray, s: np.ndarray) -> np.ndarray:
        """`residuals` of a batch of one, in a third of the time; (1, 3)."""
        P, q, A, b = data.element(0)
        Px, Ax, ATz = P.dot(x), A.dot(x), A.T.dot(z)
        r, g = Ax + s - b, Px + ATz + q
        xPx, qx, bz = float(x.dot(Px)), float(x.dot(q)), float(z.dot(b))
        primal, dual, gap = math.sqrt(r.dot(r)), math.sqrt(g.dot(g)), abs(xPx + qx + bz)
        p, start = self.equalities, self.linear
        if start > p:
            primal, dual = max(primal, -s[p:start].min()), max(dual, -z[p:start].min())
        if p or self.others:
            primal, dual = max(primal, float(self.violation(s))), max(dual, float(self.violation(z, dual=True)))
        primal /= max(math.sqrt(max(Ax.dot(Ax), s.dot(s), b.dot(b))), 1.0)
        dual /= max(math.sqrt(max(Px.dot(Px), ATz.dot(ATz), q.dot(q))), 1.0)
        if not math.isfinite(primal + dual):  # max() forgets NaN
            primal = dual = math.nan
        return np.array(((primal, dual, gap / max(abs(xPx), abs(qx), abs(bz), 1.0)),))

    def products(
        self, data: ConeData | DenseData, x: np.ndarray, z: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Px, Ax and A'z; the numbers of an element are the same whatever else is in the batch."""
        if isinstance(data, DenseData):
            column = x[..., None]
            transposed = data.A.mT if data.A.ndim == 3 else data.A.T
            Ax, ATz = np.matmul(data.A, column), np.matmul(transposed, z[..., None])
            return np.matmul(data.P, column)[..., 0], Ax[..., 0], ATz[..., 0]
        m, n = self.shape
        Px = _scatter(self.P.rows, data.P * x[:, self.P.cols], n)
        if self.off_rows.size:
            Px += _scatter(self.off_cols, data.P[..., self.off_diagonal] * x[:, self.off_rows], n)
        Ax = _scatter(self.A.rows, data.A * x[:, self.A.cols], m)
        return Px, Ax, _scatter(self.A.cols, data.A * z[:, self.A.rows], n)

    def violation(self, v: np.ndarray, dual: bool = False) -> np.ndarray | float:
        """How far each v is from the cone, or from the dual cone."""
        p, start = self.equalities, self.linear
        worst: np.ndarray | float = 0.0
        if start > p:
            worst = np.maximum(-v[..., p:start].min(-1), 0.0)
        if p and not dual:
            worst = np.maximum(np.abs(v[..., :p]).max(-1), worst)
        if self.others:
            worst = np.maximum(violation(self.others, v[..., start:], dual), worst)
        return worst

    def _certificates(self, data, status, residuals, x, z, s, bound):
        """Scale and check the certificates of the elements that claim one; writes status and residuals."""
        claimed = (status == Status.INFEASIBLE) | (status == Status.UNBOUNDED)
        if not claimed.any():
            return x, z, s
        x, z, s = x.copy(), z.copy(), s.copy()
        residuals[claimed] = np.nan
        absolute = replace(data, P=np.abs(data.P), A=np.abs(data.A))
        ones = np.ones_like(x), np.ones_like(z)
        i = np.flatnonzero(status == Status.INFEASIBLE)
        if i.size:
            z[i], worst = (v[i] for v in self._infeasible(data, absolute, z))
            rest = i[~(worst <= bound)]
            if rest.size:
                size = self.products(absolute, *ones)[1] + np.abs(data.b)
                face, second = self._infeasible(data, absolute, multipliers_on_face(z, size, self.cone))
                rest = rest[second[rest] <= bound]
                z[rest], worst[np.isin(i, rest)] = face[rest], second[rest]
            residuals[i, 1] = worst
            status[i[~(worst <= bound)]] = Status.NUMERICAL_ERROR
        u = np.flatnonzero(status == Status.UNBOUNDED)
        if u.size:
            x[u], s[u], worst = (v[u] for v in self._unbounded(data, absolute, x, s))
            rest = u[~(worst.max(-1) <= bound)]
            if rest.size:
                P_size, _, AT_size = self.products(absolute, *ones)
                face = ray_on_face(x, s, P_size + AT_size + np.abs(data.q), self.cone)
                face, slack, second = self._unbounded(data, absolute, *face)
                rest = rest[second[rest].max(-1) <= bound]
                x[rest], s[rest], worst[np.isin(u, rest)] = face[rest], slack[rest], second[rest]
            residuals[u, :2] = worst
            status[u[~(worst.max(-1) <= bound)]] = Status.NUMERICAL_ERROR
        return x, z, s

    def _infeasible(self, data, absolute, z) -> tuple[np.ndarray, np.ndarray]:
        """z with b'z = -1 and its residual (batch,)."""
        b = np.broadcast_to(data.b, z.shape)
        z = z / -np.vecdot(z, b)[:, None]
        none = np.zeros((len(z), self.shape[1]))
        ATz, size = self.products(data, none, z)[2], self.products(absolute, none, np.abs(z))[2]
        share = 1.0 / np.vecdot(np.abs(z), np.abs(b))  # |b'z| is 1
        worst = np.maximum(_ratio(ATz, share[:, None] * size), self.violation(z, dual=True) / _safe_norm(z))
        # From z'(b - Ax - s) <= b'z: no point's primal residual r has |z|'|r| < 1. That must be more than rounding.
        floor = 1e-6 * np.maximum(1.0, _norm(b))[:, None]
        return z, np.maximum(worst, np.finfo(float).eps * np.vecdot(np.abs(z), np.maximum(np.abs(b), floor)))

    def _unbounded(self, data, absolute, x, s) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x and s with q'x = -1, and their primal and dual residuals (batch, 2)."""
        q = np.broadcast_to(data.q, x.shape)
        scale = -np.vecdot(x, q)[:, None]
        x, s = x / scale, s / scale
        none = np.zeros((len(x), self.shape[0]))
        Px, Ax, _ = self.products(data, x, none)
        P_size, A_size, _ = self.products(absolute, np.abs(x), none)
        share = 1.0 / np.vecdot(np.abs(x), np.abs(q))[:, None]
        size = A_size + np.abs(s)
        outside = self.violation(s) / np.maximum(_safe_norm(size), np.finfo(float).tiny)
        primal = np.maximum(_ratio(Ax + s, share * size), outside)
        return x, s, np.stack((primal, _ratio(Px, share * P_size)), axis=-1)


def _ratio(v: np.ndarray, size: np.ndarray) -> np.ndarray:
    """||v|| / ||size||, and 0 where v is zero."""
    top, bottom = _safe_norm(v), _safe_norm(size)
    return np.where(top > 0, top / np.where(bottom > 0, bottom, np.finfo(float).tiny), top)


def _norm(v: np.ndarray) -> np.ndarray:
    return np.sqrt(np.vecdot(v, v))


def _safe_norm(v: np.ndarray) -> np.ndarray:
    """The norm, with squares that neither vanish nor overflow."""
    largest = np.abs(v).max(-1, initial=0.0)
    return largest * _norm(v / np.where(largest > 0, largest, 1.0)[..., None])


def _scatter(where: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """Sums of values (batch, k) by where (k,), added in the order of storage: (batch, size)."""
    batch = len(values)
    if batch == 0 or size == 0:
        return np.zeros((batch, size))
    flat = where if batch == 1 else (np.arange(batch)[:, None] * size + where).ravel()
    return np.bincount(flat, weights=values.ravel(), minlength=batch * size).reshape(batch, size)


def _without(program: ConeProgram, data, absent: np.ndarray):
    """The data with the rows marked absent replaced by 0'x + s = 1."""
    if isinstance(data, DenseData):
        A = np.where(absent[..., None], 0.0, data.A)
    else:
        A = np.where(absent[..., program.A.rows], 0.0, data.A)
    return replace(data, A=A, b=np.where(absent, 1.0, data.b))
