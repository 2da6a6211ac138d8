"""The interior-point method: residuals, scaling, Newton system, predictor, corrector, step; on arrays of any library.

The homogeneous embedding of a cone program with a quadratic objective asks for x, s in K, z in K*, tau, kappa >= 0 with

    P x + A'z + q tau = 0,   A x + s - b tau = 0,   x'Px/tau + q'x + b'z + kappa = 0,   s'z = tau kappa = 0.

Where tau > 0, (x, s, z)/tau solves the program; where kappa > 0, z or (x, s) proves that there is no solution.
Per-element scalars keep a last axis of one; an element that is done, or broken, changes no more.

Source: P. J. Goulart, Y. Chen, Clarabel: An interior-point solver for conic programs with quadratic objectives,
doi 10.48550/arXiv.2405.12762.
"""

from __future__ import annotations

from copy import copy
from typing import Any, NamedTuple

import numpy as np

from cvxlayers.array import iterate, namespace, pending, prefers_products, recorded, stop_gradient
from cvxlayers.conic.residuals import ABSENT, INFINITE
from cvxlayers.sets import Nonnegative, Product, SecondOrder, Zero
from cvxlayers.solvers.interior_point.cones.barrier import inverse
from cvxlayers.solvers.interior_point.cones.nonnegative import NonnegativeBarrier
from cvxlayers.solvers.interior_point.cones.product import ProductBarrier
from cvxlayers.solvers.interior_point.equilibrate import Scaled, equilibrate
from cvxlayers.solvers.interior_point.kkt import NewtonSystem
from cvxlayers.solvers.interior_point.native import Native
from cvxlayers.solvers.interior_point.outcome import Outcome
from cvxlayers.solvers.interior_point.verdict import dot, norm, residuals, times, transposed_times, verdict

Array = Any

STEP = 0.99  # share of the longest step that is taken
SHRINK = 0.8  # factor of the backtracking for cones without a closed form
BACKTRACKS = 40
FAR = {"float64": float("inf"), "mixed": 1e4, "float32": 1e4}
SHORT = 0.1  # a step that calls for centering
CYCLE = 10.0  # rounds without a better point after which the centering
AIM = 0.1  # is no longer the predictor's, which can alternate between too much and too little
UNDECIDED = 1e-12  # complementarity of the scaled point up to which tau < kappa may still turn
# By precision: rounds without a better point after which an element is given up; the scaled residual at which a ray
# counts as a certificate while the loop runs; what is added to the factorized matrix; how often a step is refined; the
# residual that further rounds aim at, relative to the tolerance, with linear cones alone; and the size of a starting
# point, relative to the scaled data, that is of no use.
PATIENCE = {"float64": 12, "mixed": 2, "float32": 12}
PROOF = {"float64": 1e-9, "mixed": 1e-9, "float32": 5e-5}
REGULARIZATION = {"float64": 1e-12, "mixed": 1e-6, "float32": 1e-6}
REFINEMENTS = {"float64": 2, "mixed": 6, "float32": 2}
GOAL = {"float64": 1e-2, "mixed": 1.0, "float32": 1.0}
CURVED_GOAL = 0.1  # with curved cones: further on, rounding moves dual variables that are not unique
FLOAT32_TOL = 5e-6


class Iterate(NamedTuple):
    """A point of the embedding: x (*batch, n), s and z (*batch, m), tau and kappa (*batch, 1)."""

    x: Array
    s: Array
    z: Array
    tau: Array
    kappa: Array

    @property
    def joined(self) -> Array:
        """The point as one vector (*batch, n + 2m + 2): what the loop carries, and moves in one operation."""
        return namespace(self.x).concat(list(self), axis=-1)


class Arrays(NamedTuple):
    """What a round reads of the problem: the scaled data, the units of its residuals, and 0 at the equalities."""

    scaled: Scaled
    dual_unit: Array
    primal_unit: Array
    cones: Array


class State(NamedTuple):
    """What the loop carries: the point, the best one so far with its largest residual, and who is done, (*batch, 1)."""

    point: Array
    best: Array
    merit: Array
    done: Array
    idle: Array  # rounds since a clearly better point
    waited: Array  # those of them that count against the element
    stuck: Array  # 1 where the last step was short: the next one goes for the centre
    regularization: Array
    iterations: Array


def solve(cone: Product, P: Array, q: Array, A: Array, b: Array, settings: Native) -> Outcome:
    """Minimize (1/2) x'Px + q'x subject to Ax + s = b, s in K, for a batch of dense programs.

    ``P`` (*batch, n, n) symmetric and full, ``q`` (*batch, n), ``A`` (*batch, m, n), ``b`` (*batch, m), of a floating
    dtype; batch dimensions broadcast, so shared data may lack them or have ones there. Under ``jax.jit`` and
    ``jax.vmap`` it is one loop. An element's numbers do not depend on its neighbours. The derivative is not taken
    through it: `cvxlayers.conic.array_kkt` has the system of the implicit function theorem.

    >>> import numpy as np
    >>> cone = Product((Nonnegative(2),))
    >>> out = solve(cone, np.eye(2), np.array([1.0, -2.0]), -np.eye(2), np.zeros(2), Native())
    >>> (out.x.round(6) + 0.0).tolist(), int(out.status)
    ([0.0, 2.0], 0)
    """
    P, q, A, b = (stop_gradient(v) for v in (P, q, A, b))
    with np.errstate(all="ignore"):  # the branches that `where` throws away may divide by zero or overflow
        return _solve(cone, P, q, A, b, settings)


def _solve(cone: Product, P: Array, q: Array, A: Array, b: Array, settings: Native) -> Outcome:
    xp = namespace(P, q, A, b)
    n, m = q.shape[-1], b.shape[-1]
    if settings.precision == "float32" and q.dtype != xp.float32:
        P, q32, A, b = (xp.astype(v, xp.float32) for v in (P, q, A, b))
        out = _solve(cone, P, q32, A, b, settings)
        return out._replace(**{name: xp.astype(getattr(out, name), q.dtype) for name in ("x", "z", "s", "residuals")})
    if not n:  # a variable that does nothing
        q = xp.zeros_like(b[..., :1]) if m else xp.zeros_like(xp.sum(b, axis=-1, keepdims=True))
        P, A = xp.ones_like(q)[..., None], xp.zeros_like(b)[..., None]
    if not m:  # a constraint that is not there
        A, b, cone = xp.zeros_like(q)[..., None, :], xp.zeros_like(q[..., :1]) + INFINITE, Product((Nonnegative(1),))
    barrier = ProductBarrier(cone)
    valid, absent = _valid(P, 2) & _valid(q, 1) & _valid(A, 2), _absent(barrier, b)
    valid = valid & xp.all(xp.isfinite(b) | absent, axis=-1, keepdims=True)
    data = tuple(xp.where(xp.isfinite(v), v, 0.0) for v in (P, q, A, b))
    precision = "float32" if q.dtype == xp.float32 else settings.precision
    tol = max(settings.tol, FLOAT32_TOL) if precision == "float32" else settings.tol
    method = Method(barrier, data, absent, tol, precision)
    state = method.run(method.start(valid), settings.max_iter)
    if precision == "mixed":  # what float32 factors do not bring to an end
        state = method.run(method.resumed(state), settings.max_iter)
    best, last = method.split(state.best), method.split(state.point)
    point, ray = method.unscaled(best, best.tau), method.unscaled(last, last.kappa)
    out = verdict(cone, data, point, ray, absent, valid, state.done, state.iterations, tol)
    if not n:
        out = out._replace(x=out.x[..., :0])
    return out if m else out._replace(z=out.z[..., :0], s=out.s[..., :0])


class Method:
    """The rounds of the method for one batch of finite data."""

    def __init__(self, barrier: ProductBarrier, data: tuple, absent: Array, tol: float, precision: str) -> None:
        self.barrier, self.tol, self.precision = barrier, tol, precision
        P, q, A, b = data
        self.scaled = equilibrate(barrier, P, q, A, b, absent)
        # What turns the scaled dual and primal residuals into those of the data.
        self.dual_unit = 1.0 / (self.scaled.d * self.scaled.c)
        self.primal_unit = 1.0 / self.scaled.e
        self.cones = _cones(barrier, self.scaled.b)
        self.goal = tol * (GOAL[precision] if barrier.cone.linear else max(GOAL[precision], CURVED_GOAL))

    def split(self, point: Array) -> Iterate:
        n, m = self.scaled.q.shape[-1], self.scaled.b.shape[-1]
        ends = (0, n, n + m, n + 2 * m, n + 2 * m + 1, n + 2 * m + 2)
        return Iterate(*(point[..., i:j] for i, j in zip(ends, ends[1:], strict=False)))

    def start(self, valid: Array) -> State:
        """The least-norm point moved into the cones where all of them are symmetric, else the central point.

        With linear cones alone x = 0: that of the least-norm point fits s and z no longer once these are moved, and
        large programs take fewer rounds without it.
        """
        k, barrier = self.scaled, self.barrier
        xp = namespace(k.q)
        one = xp.ones_like(k.c)
        unit = barrier.unit(k.b)
        x, s, z = xp.zeros_like(k.q), unit, unit
        regularization = one * REGULARIZATION[self.precision]
        if barrier.symmetric:
            system = self._system(barrier.scaling(unit, unit), regularization)
            x1, z1 = (v[..., 0] for v in system.solve(-k.q[..., None], k.b[..., None]))
            # A singular system has a solution of the size of 1/regularization.
            good = norm(x1) + norm(z1) < FAR[self.precision] * (1.0 + norm(k.q) + norm(k.b))
            z = xp.where(good, z1, unit)
            x = x if barrier.cone.linear else xp.where(good, x1, 0.0)
            s = self._inside(-z * self.cones, unit)
            z = self._inside(z, unit)
        point = Iterate(x, s, z, one, one).joined
        none = xp.zeros_like(one)
        return State(point, point, none + float("inf"), ~(valid & (one > 0)), none, none, none, regularization, none)

    def run(self, state: State, limit: int) -> State:
        """Rounds until every element is done. Where it can be seen who is, the others go on without them."""
        left = pending(state.done)
        if left is None or state.done.ndim != 2:
            return iterate(limit, self.round, state, lambda state: state.done)
        count = 2 if prefers_products(state.done) else 1  # a look waits for the accelerator
        if not self._few(left, state):
            state, limit = self._replayed(state, limit, count)
            left = pending(state.done)
        while limit > 0 and len(left):
            if self._few(left, state):
                some = self._going(state.done, left)
                return _put(state, some, self._with(_take(self.arrays, some)).run(_take(state, some), limit))
            for _ in range(min(count, limit)):
                state, limit = self.round(state), limit - 1
            left = pending(state.done)
        return state

    def _replayed(self, state: State, limit: int, count: int) -> tuple[State, int]:
        """The state after recorded rounds, until few elements are left; as it came where there are none."""
        if not self.recordable:
            return state, limit
        # The goal is not that of the precision where float64 goes on after "mixed".
        key = (Method, self.barrier.cone, self.tol, self.goal, self.precision)
        graph = recorded(key, lambda arrays, state: self._with(arrays).round(state), count, self.arrays, state)
        if graph is None:
            return state, limit
        with graph.session(self.arrays, state) as replay:
            while limit >= count and not self._few(pending(state.done), state):
                state, limit = replay(), limit - count
            return graph.own(state), limit

    @property
    def recordable(self) -> bool:
        return recordable(self.barrier.cone)

    def _share(self, done: Array) -> int:
        """One in how many elements is worth a smaller batch: recorded rounds take most of their time for any size."""
        return 4 if self.recordable and prefers_products(done) else 2

    def _few(self, left: Array, state: State) -> bool:
        return self._share(state.done) * len(left) <= state.done.shape[0]

    def _going(self, done: Array, left: Array) -> Array:
        """The elements that go on; with others, which do not change, up to a size for which rounds are recorded."""
        share = self._share(done)
        if share == 2:
            return left
        xp = namespace(done)
        return xp.argsort(xp.astype(done[:, 0], xp.int32), stable=True)[: -(-done.shape[0] // share)]

    @property
    def arrays(self) -> Arrays:
        return Arrays(self.scaled, self.dual_unit, self.primal_unit, self.cones)

    def _with(self, arrays: Arrays) -> Method:
        """This method for other data."""
        other = copy(self)
        other.scaled, other.dual_unit, other.primal_unit, other.cones = arrays
        return other

    def resumed(self, state: State) -> State:
        """The state from which float64 goes on: at the best point of the elements that are not at an end."""
        xp, self.precision = namespace(state.merit), "float64"
        ended = (state.merit <= self.tol) | self._ray(self.split(state.point)) | ~xp.isfinite(state.merit)
        none = xp.zeros_like(state.merit)
        point = xp.where(ended, state.point, state.best)
        regularization = none + REGULARIZATION[self.precision]
        return state._replace(
            point=point, done=ended, idle=none, waited=none, stuck=none, regularization=regularization
        )

    def _inside(self, v: Array, unit: Array) -> Array:
        """v, moved along the unit where it is not inside the cones."""
        if not self.barrier.groups:
            return v
        depth = self.barrier.depth(v)
        return v + namespace(v).where(depth < 1e-4, 1.0 - depth, 0.0) * unit

    def _system(self, W: list, regularization: Array) -> NewtonSystem:
        low = namespace(regularization).float32 if self.precision == "mixed" else None
        k = self.scaled
        return NewtonSystem(self.barrier, k.P, k.A, W, regularization, REFINEMENTS[self.precision], low)

    def unscaled(self, point: Iterate, by: Array) -> tuple[Array, Array, Array]:
        """x, z and s of the program as given: of the solution for ``by`` tau, of a ray for any other scale."""
        k, by = self.scaled, namespace(point.x).where(by > 0, by, 1.0)
        return k.d * point.x / by, k.e * point.z / (k.c * by), point.s / (k.e * by)

    def round(self, state: State) -> State:
        """One iteration: measure, factor, predict, correct, step."""
        k, barrier = self.scaled, self.barrier
        point = self.split(state.point)
        x, s, z, tau, kappa = point
        xp = namespace(x)
        # residuals
        Px, ATz, Ax = times(k.P, x), transposed_times(k.A, z), times(k.A, x)
        xPx, qx, bz = dot(x, Px), dot(k.q, x), dot(k.b, z)
        rx, rz, rtau = Px + ATz + k.q * tau, Ax + s - k.b * tau, xPx / tau + qx + bz + kappa
        mu = (dot(s, z) + tau * kappa) / (barrier.degree + 1)
        state = self._measured(state, point, Px, ATz, Ax, qx, bz)
        # scaling and factor
        W = barrier.scaling(s, z)
        system = self._system(W, state.regularization)
        # predictor, and the direction of the constant right-hand side
        top, low = xp.stack([-k.q + 0.0 * rx, -rx], axis=-1), xp.stack([k.b + 0.0 * rz, s - rz], axis=-1)
        both_x, both_z = system.solve(top, low)
        x2, z2, x1, z1 = both_x[..., 0], both_z[..., 0], both_x[..., 1], both_z[..., 1]
        slope = 2.0 * Px / tau + k.q
        # The denominator of dtau in two forms: rounding leaves the first positive, and regularization the second right.
        gap = x2 - x / tau
        Hz2 = barrier.times_H(W, z2[..., None])[..., 0]
        squares = dot(gap, times(k.P, gap)) + dot(z2, Hz2)
        curvature = kappa / tau + xp.maximum(squares, xPx / (tau * tau) - dot(slope, x2) - dot(k.b, z2))

        def direction(x1: Array, z1: Array, share: Any, dkappa: Array, refine: tuple = ()) -> Iterate:
            """The move from (x1, z1), the solution for the right-hand side ``refine``, if it is to be refined."""
            dtau = (share * rtau - dkappa / tau + dot(slope, x1) + dot(k.b, z1)) / curvature
            dx, dz = x1 + dtau * x2, z1 + dtau * z2
            if refine:
                top, low = refine[0] - dtau * k.q, refine[1] + dtau * k.b
                columns = system.refined(*(v[..., None] for v in (dx, dz, top, low)))
                dx, dz = columns[0][..., 0], columns[1][..., 0]
            ds = (k.b * dtau - times(k.A, dx) - share * rz) * self.cones
            return Iterate(dx, ds, dz, dtau, -(dkappa + kappa * dtau) / tau)

        affine = direction(x1, z1, 1.0, kappa * tau)
        alpha = self._step(W, state, point, affine, aim=float("inf"))
        sigma = xp.where(state.idle >= CYCLE, AIM, (1.0 - alpha) ** 3)
        sigma = xp.where(state.stuck > 0, 1.0, sigma)
        # corrector
        second = 1.0 - state.stuck  # of second order, in what the predictor would do
        c = barrier.corrector(W, s, z, second * affine.s, second * affine.z, sigma * mu)
        share = 1.0 - sigma
        top, low = -share * rx, c - share * rz
        x1, z1 = system.solve(top[..., None], low[..., None])
        dkappa = kappa * tau + second * affine.kappa * affine.tau - sigma * mu
        move = direction(x1[..., 0], z1[..., 0], share, dkappa, (top, low))
        alpha = STEP * self._step(W, state, point, move, aim=1.0, share=STEP)
        return self._moved(
            state, state.point + alpha * move.joined, alpha, system.ok(), (tau < kappa) & (mu > UNDECIDED)
        )

    def _measured(self, state: State, point: Iterate, Px: Array, ATz: Array, Ax: Array, qx: Array, bz: Array) -> State:
        """The state with the point compared with the best one, and the elements that are done."""
        k, (x, s, z, tau, kappa) = self.scaled, point
        xp = namespace(x)
        dual, primal, t = self.dual_unit / tau, self.primal_unit / tau, 1.0 / tau
        parts = residuals(
            dual * Px, dual * ATz, self.dual_unit * k.q, primal * Ax, primal * s, self.primal_unit * k.b,
            k.d * x * t, k.e * z * t / k.c,
        )  # fmt: skip
        merit = xp.maximum(xp.maximum(parts[0], parts[1]), parts[2])
        better = (merit < state.merit) & ~state.done
        progress, fast = (merit < 0.9 * state.merit) & ~state.done, merit < 0.5 * state.merit
        best = xp.where(better, state.point, state.best)
        merit = xp.where(better, merit, state.merit)
        idle, waited = (xp.where(progress, 0.0, v + 1.0) for v in (state.idle, state.waited))
        ray = (tau < kappa) & self._proves(Px, ATz, Ax + s, qx, bz)
        # x is less accurate than the residuals: past the tolerance it goes on while a round brings much, to the goal.
        ended = (merit <= self.tol) & ~fast | (merit <= self.goal)
        done = state.done | ended | ray | (waited > PATIENCE[self.precision])
        return state._replace(best=best, merit=merit, done=done, idle=idle, waited=waited)

    def _proves(self, Px: Array, ATz: Array, moved: Array, qx: Array, bz: Array) -> Array:
        """Whether the point is a ray with A'z = 0 and b'z < 0, or with Px = 0, Ax + s = 0 and q'x < 0."""
        k, proof = self.scaled, PROOF[self.precision]
        infeasible = norm(ATz) * (1.0 + norm(k.b)) <= -proof * bz
        unbounded = (norm(Px) + norm(moved)) * (1.0 + norm(k.q)) <= -proof * qx
        return ((bz < 0) & infeasible) | ((qx < 0) & unbounded)

    def _ray(self, point: Iterate) -> Array:
        k, (x, s, z, tau, kappa) = self.scaled, point
        Px, ATz, moved = times(k.P, x), transposed_times(k.A, z), times(k.A, x) + s
        return (tau < kappa) & self._proves(Px, ATz, moved, dot(k.q, x), dot(k.b, z))

    def _step(self, W: list, state: State, point: Iterate, move: Iterate, aim: float, share: float = 1.0) -> Array:
        """The longest step up to 1 that stays inside; ``share`` of it keeps the barriers' total at most ``aim``."""
        barrier, xp = self.barrier, namespace(point.x)
        used = xp.maximum(-move.tau / point.tau, -move.kappa / point.kappa)
        alpha = xp.minimum(inverse(used), barrier.step(W, point.s, point.z, move.s, move.z))
        alpha = xp.where(alpha < 1.0, alpha, 1.0)
        if barrier.symmetric:
            return alpha

        def central(alpha: Array) -> Array:
            _, s, z, tau, kappa = (v + share * alpha * dv for v, dv in zip(point, move, strict=True))
            mu = (dot(s, z) + tau * kappa) / (barrier.degree + 1)
            total = barrier.centrality(s, z) - xp.log(tau) - xp.log(kappa) + (barrier.degree + 1) * xp.log(mu)
            return total < aim

        def shorter(pair: tuple) -> tuple:
            alpha, good = pair
            alpha = xp.where(good, alpha, SHRINK * alpha)
            return alpha, good | central(alpha)

        idle = state.done | ~xp.isfinite(alpha)
        alpha, good = iterate(BACKTRACKS, shorter, (alpha, idle | central(alpha)), lambda pair: pair[1])
        return xp.where(good, alpha, 0.0)

    def _moved(self, state: State, new: Array, alpha: Array, factored: Array, undecided: Array) -> State:
        """The next state: done elements stay where they are, and so do those whose factorization failed.

        An ``undecided`` element is not given up while its steps are long: before tau grows no point is better.
        """
        xp = namespace(alpha)
        fine = factored & xp.isfinite(xp.sum(new, axis=-1, keepdims=True)) & xp.isfinite(alpha)
        going = ~state.done
        point = xp.where(going & fine, new, state.point)
        # More regularization for the element that needs it; past 1e-3 nothing would be left of the system.
        more = xp.where(going & ~fine, 100.0 * state.regularization, state.regularization)
        short = alpha < SHORT
        return state._replace(
            point=point,
            done=state.done | (more > 1e-3) | (fine & (state.stuck > 0) & (alpha < SHORT**3)),
            waited=xp.where(fine & undecided & (alpha > 0.5), 0.0, state.waited),
            stuck=xp.where(fine & short, xp.ones_like(alpha), 0.0),
            regularization=more,
            iterations=xp.where(going, state.iterations + 1.0, state.iterations),
        )


def recordable(cone: Product) -> bool:
    """Whether a round is the same operations whatever the values: no backtracking, no eigenvalues by a library."""
    return all(isinstance(block, (Zero, Nonnegative, SecondOrder)) for block in cone.blocks)


def _take(values: Any, elements: Array) -> Any:
    """Some elements of the arrays in a nested tuple."""
    return type(values)(*(_take(v, elements) if isinstance(v, tuple) else v[elements] for v in values))


def _put(values: Any, elements: Array, others: Any) -> Any:
    """The arrays in a nested tuple with some elements replaced."""

    def replaced(v: Any, other: Any) -> Any:
        if isinstance(v, tuple):
            return _put(v, elements, other)
        out = namespace(v).asarray(v, copy=True)
        out[elements] = other
        return out

    return type(values)(*(replaced(v, other) for v, other in zip(values, others, strict=True)))


def _cones(barrier: ProductBarrier, like: Array) -> Array:
    """0 at the equalities, 1 at the other rows, (*batch, m)."""
    xp, p = namespace(like), barrier.equalities
    one = xp.ones_like(like)
    return xp.concat([0.0 * one[..., :p], one[..., p:]], axis=-1) if p else one


def _valid(v: Array, axes: int) -> Array:
    """Whether all entries of the last axes are finite, (*batch, 1)."""
    xp = namespace(v)
    finite = xp.all(xp.isfinite(v), axis=-1, keepdims=True)
    return finite if axes == 1 else xp.all(finite, axis=-2)


def _absent(barrier: ProductBarrier, b: Array) -> Array:
    """Mask (*batch, m) of the nonnegative rows with b at least 0.999e20: constraints that are not there."""
    xp = namespace(b)
    parts = [xp.zeros_like(b[..., : barrier.equalities]) > 0]
    for g in barrier.groups:
        rows = b[..., g.start : g.stop]
        parts.append(rows >= ABSENT if isinstance(g.barrier, NonnegativeBarrier) else xp.zeros_like(rows) > 0)
    return xp.concat(parts, axis=-1)
