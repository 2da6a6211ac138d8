"""The penalties, one line each, with the same function in the words of CVXPY: a new operator is a new line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import cvxpy as cp
import numpy as np
from cvxpy.transforms import indicator

from cvxlayers.prox import (
    L0,
    L1,
    L2,
    L21,
    MCP,
    SCAD,
    SLOPE,
    ElasticNet,
    Entropy,
    GroupLasso,
    Hinge,
    Huber,
    HuberNorm,
    KullbackLeibler,
    L1MinusL2,
    LeastSquares,
    LeastSquaresOperator,
    Linear,
    LInfinity,
    LogBarrier,
    Logistic,
    LogSum,
    Lq,
    Max,
    NonnegativeL1,
    Poisson,
    Prox,
    Quadratic,
    Quantile,
    Ridge,
    SquaredHinge,
    SumLargest,
    TruncatedQuadratic,
    Zero,
)

Expression = Callable[[cp.Variable], Any]

N = 6
WEIGHTS = np.array([0.5, 1.0, 2.0, 1.0, 0.0, 3.0])
LABELS = np.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
COUNTS = np.array([0.0, 1.0, 2.0, 3.0, 0.0, 1.0])
SLOPES = np.arange(6.0) / 4
LEVELS = np.array([1.0, 0.8, 0.8, 0.3, 0.1, 0.0])
A = np.random.default_rng(3).standard_normal((4, N))
GROUPS = ((0, 3), (1, 2, 5), (4,))


@dataclass(frozen=True)
class Case:
    """An operator with two parameters or so, the shape of a sample, and the same function in CVXPY, if it is convex."""

    f: Prox
    expression: Expression | None = None
    shape: tuple[int, ...] = (N,)
    complex: bool = True

    def __repr__(self) -> str:
        return f"{type(self.f).__name__}({', '.join(n for n in self.f._leaves if getattr(self.f, n) is not None)})"


def slope(v: cp.Variable) -> Any:
    steps = LEVELS - np.append(LEVELS[1:], 0.0)
    return sum(steps[i] * cp.sum_largest(cp.abs(v), i + 1) for i in range(N))


def groups(v: cp.Variable) -> Any:
    return cp.norm2(v[[0, 3]]) + 0.5 * cp.norm2(v[[1, 2, 5]]) + 2 * cp.norm2(v[[4]])


def forward(x: Any) -> Any:
    """The difference of neighbours, on any library."""
    return x[..., 1:] - x[..., :-1]


def adjoint(y: Any) -> Any:
    from cvxlayers.array import namespace

    xp = namespace(y)
    zero = 0 * y[..., :1]
    return xp.concat([zero, y], axis=-1) - xp.concat([y, zero], axis=-1)


REAL = {"complex": False}

CONVEX = [
    Case(Zero(), lambda v: 0),
    Case(Linear(SLOPES), lambda v: SLOPES @ v),
    Case(L1(0.7), lambda v: 0.7 * cp.norm1(v)),
    Case(L1(0.7, entry_weights=WEIGHTS), lambda v: 0.7 * cp.norm1(cp.multiply(WEIGHTS, v))),
    Case(NonnegativeL1(0.6), lambda v: 0.6 * cp.sum(v) + indicator([v >= 0]), **REAL),
    Case(Ridge(0.8), lambda v: 0.4 * cp.sum_squares(v)),
    Case(ElasticNet(0.5, 0.7), lambda v: 0.5 * cp.norm1(v) + 0.35 * cp.sum_squares(v)),
    Case(
        ElasticNet(0.5, 0.7, entry_weights=WEIGHTS),
        lambda v: 0.5 * cp.norm1(cp.multiply(WEIGHTS, v)) + 0.35 * WEIGHTS @ cp.square(v),
    ),
    Case(Huber(0.8, 0.6), lambda v: 0.4 * cp.sum(cp.huber(v, 0.6))),
    Case(Quantile(0.9, 0.3), lambda v: 0.9 * cp.sum(cp.maximum(0.3 * v, -0.7 * v)), **REAL),
    Case(Hinge(0.7, LABELS), lambda v: 0.7 * cp.sum(cp.pos(1 - cp.multiply(LABELS, v))), **REAL),
    Case(SquaredHinge(0.7, LABELS), lambda v: 0.35 * cp.sum_squares(cp.pos(1 - cp.multiply(LABELS, v))), **REAL),
    Case(Logistic(1.5, LABELS), lambda v: 1.5 * cp.sum(cp.logistic(-cp.multiply(LABELS, v))), **REAL),
    Case(Poisson(0.5, COUNTS), lambda v: 0.5 * (cp.sum(v) - COUNTS[COUNTS > 0] @ cp.log(v[COUNTS > 0]))
         + indicator([v >= 0]), **REAL),
    Case(KullbackLeibler(0.5, COUNTS), lambda v: 0.5 * cp.sum(cp.kl_div(COUNTS, v)), **REAL),
    Case(LogBarrier(0.4), lambda v: -0.4 * cp.sum(cp.log(v)), **REAL),
    Case(Entropy(0.6), lambda v: -0.6 * cp.sum(cp.entr(v)), **REAL),
    Case(L2(0.9), lambda v: 0.9 * cp.norm2(v)),
    Case(HuberNorm(0.8, 0.7), lambda v: 0.4 * cp.huber(cp.norm2(v), 0.7)),
    Case(LInfinity(0.8), lambda v: 0.8 * cp.norm_inf(v)),
    Case(Max(0.8), lambda v: 0.8 * cp.max(v), **REAL),
    Case(SumLargest(3, 0.6), lambda v: 0.6 * cp.sum_largest(v, 3), **REAL),
    Case(SLOPE(LEVELS, 0.6), lambda v: 0.6 * slope(v)),
    Case(L21(0.7), lambda v: 0.7 * cp.sum(cp.norm(v, 2, axis=1)), (3, 4)),
    Case(
        L21(0.7, np.array([[1.0], [2.0], [0.0]])),
        lambda v: 0.7 * (cp.norm2(v[0]) + 2 * cp.norm2(v[1])),
        (3, 4),
    ),
    Case(GroupLasso(GROUPS, 0.7, np.array([1.0, 0.5, 2.0])), lambda v: 0.7 * groups(v)),
    Case(
        GroupLasso(GROUPS, 0.7, np.array([1.0, 0.5, 2.0]), l1=0.3),
        lambda v: 0.7 * groups(v) + 0.3 * cp.norm1(v),
    ),
    Case(Quadratic(A.T @ A, SLOPES, 0.5), lambda v: 0.25 * cp.sum_squares(A @ v) + 0.5 * SLOPES @ v, **REAL),
    Case(LeastSquares(A, np.ones(4), 0.5), lambda v: 0.25 * cp.sum_squares(A @ v - 1)),
    Case(
        LeastSquaresOperator(forward, adjoint, np.ones(N - 1), 0.5, tol=1e-12),
        lambda v: 0.25 * cp.sum_squares(v[1:] - v[:-1] - 1),
    ),
]  # fmt: skip

NONCONVEX = [
    Case(L0(0.5)),
    Case(L0(0.5, entry_weights=WEIGHTS)),
    Case(Lq(0.6, q=0.5)),
    Case(Lq(0.6, q=2 / 3)),
    Case(Lq(0.5, q=0.3)),
    Case(MCP(1.0, 0.8, 2.0)),
    Case(MCP(0.7, 0.8, 0.2)),
    Case(SCAD(1.0, 0.7, 3.0)),
    Case(LogSum(0.7, 0.5)),
    Case(LogSum(0.7, 2.0)),
    Case(TruncatedQuadratic(0.8, 0.7)),
    Case(L1MinusL2(0.6, 0.5)),
    Case(L1MinusL2(0.6, 1.0)),
]

CASES = CONVEX + NONCONVEX


def points(shape: tuple[int, ...], count: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *shape)) * 2


@cache
def parametrized(expression: Expression, shape: tuple[int, ...]) -> tuple[cp.Problem, cp.Variable, Any, Any]:
    """The problem of `minimize`, canonicalized once, with its variable and the parameters x and tau."""
    v, x, tau = cp.Variable(shape), cp.Parameter(shape), cp.Parameter(nonneg=True)
    return cp.Problem(cp.Minimize(tau * expression(v) + cp.sum_squares(v - x) / 2)), v, x, tau


def minimize(expression: Expression, x: np.ndarray, tau: float) -> np.ndarray:
    """argmin of tau f(v) + ||v - x||^2 / 2, by an interior-point method."""
    problem, v, *parameters = parametrized(expression, x.shape)
    parameters[0].value, parameters[1].value = x, tau
    for tol in (1e-11, 1e-10, 1e-9):
        try:
            problem.solve(solver="CLARABEL", **dict.fromkeys(("tol_gap_abs", "tol_gap_rel", "tol_feas"), tol))
            break
        except cp.SolverError:  # it cannot reach that many digits here
            continue
    return v.value


def value(expression: Expression, x: np.ndarray) -> float:
    v = cp.Variable(x.shape, value=x)
    found = expression(v)
    return float(found.value) if hasattr(found, "value") else float(found)
