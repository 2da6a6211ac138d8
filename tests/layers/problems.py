"""The problems that the layers are tested on: each cone, attribute and output, at values away from kinks.

Every name in `CASES` makes a `Case`: a problem, what a layer of it takes and returns, and values of the parameters at
which the solution map is differentiable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cvxpy as cp
import numpy as np
from cvxpy.constraints import SOC, PowCone3D, PowConeND

RECENT = tuple(int(part) for part in cp.__version__.split(".")[:2]) >= (1, 9)
PLACES = [(0, 1, 2), (1, 2, 0)]


@dataclass(frozen=True, eq=False)
class Case:
    """A problem with its parameters, the variables asked for, and values of the parameters."""

    problem: cp.Problem
    parameters: list[cp.Parameter]
    variables: list
    values: tuple[np.ndarray, ...]
    gp: bool = False

    def set(self) -> cp.Problem:
        """The problem, with the parameters at their values."""
        for parameter, value in zip(self.parameters, self.values, strict=True):
            assign(parameter, value)
        return self.problem


def assign(parameter: cp.Parameter, value: np.ndarray) -> None:
    """Give a CVXPY parameter its value, sparse ones included."""
    if parameter.attributes["sparsity"]:
        import scipy.sparse as sp

        places = tuple(np.asarray(index) for index in parameter.sparse_idx)
        parameter.value_sparse = sp.coo_array((np.asarray(value)[places], places), shape=parameter.shape)
    elif parameter.attributes["diag"]:
        import scipy.sparse as sp

        parameter.value = sp.diags_array(np.diag(value))
    else:
        parameter.value = value


def case(problem: cp.Problem, given: dict, variables: list, gp: bool = False) -> Case:
    return Case(problem, list(given), variables, tuple(np.asarray(v) for v in given.values()), gp)


def _dual(constraint: cp.Constraint) -> list:
    return list(constraint.dual_variables)


def _normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def _complex(seed: int, *shape: int) -> np.ndarray:
    return _normal(seed, *shape) + 1j * _normal(seed + 1000, *shape)


def _symmetric(seed: int, n: int = 3) -> np.ndarray:
    S = _normal(seed, n, n)
    return (S + S.T) / 2


def zero() -> Case:
    x, p, A, b = cp.Variable(4), cp.Parameter(4), cp.Parameter((2, 4)), cp.Parameter(2)
    equality = A @ x == b
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [equality])
    return case(problem, {p: _normal(0, 4), A: _normal(1, 2, 4), b: _normal(2, 2)}, [x, *_dual(equality)])


def nonnegative() -> Case:
    x, Q, p, G, h = cp.Variable(3), cp.Parameter((3, 3)), cp.Parameter(3), cp.Parameter((4, 3)), cp.Parameter(4)
    inequality = G @ x <= h
    problem = cp.Problem(cp.Minimize(cp.sum_squares(Q @ x) + p @ x), [inequality])
    values = {
        Q: np.eye(3) + 0.3 * _normal(3, 3, 3),
        p: _normal(4, 3),
        G: _normal(5, 4, 3),
        h: np.array([-0.2, 1, -0.1, 2]),
    }
    return case(problem, values, [x, *_dual(inequality), inequality])


def linear() -> Case:
    x, c, G, h = cp.Variable(2), cp.Parameter(2), cp.Parameter((3, 2)), cp.Parameter(3)
    inequality = G @ x <= h
    problem = cp.Problem(cp.Maximize(c @ x), [inequality, x >= 0])
    values = {c: np.array([1.0, 1.2]), G: np.array([[1.0, 2.0], [3.0, 1.0], [1.0, 1.0]]), h: np.array([4.0, 6.0, 9.0])}
    return case(problem, values, [x, *_dual(inequality), inequality])


def second_order() -> Case:
    x, q, A, b, r = cp.Variable(3), cp.Parameter(3), cp.Parameter((2, 3)), cp.Parameter(2), cp.Parameter()
    cone = SOC(r + 0.1 * x[0], A @ x - b)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) + q @ x), [cone])
    values = {q: 3 * _normal(6, 3), A: _normal(7, 2, 3), b: _normal(8, 2), r: np.array(0.7)}
    return case(problem, values, [x, *_dual(cone), cone])


def second_order_linear() -> Case:
    x, q, F, r = cp.Variable(3), cp.Parameter(3), cp.Parameter((4, 3)), cp.Parameter()
    norm, budget = cp.norm(F @ x) <= r, cp.sum(x) == 1
    problem = cp.Problem(cp.Maximize(q @ x), [norm, budget])
    return case(problem, {q: _normal(9, 3), F: _normal(10, 4, 3), r: np.array(2.0)}, [x, *_dual(budget), *_dual(norm)])


def second_order_rows() -> Case:
    t, X, p = cp.Variable(3), cp.Variable((3, 2)), cp.Parameter((3, 2))
    cone = SOC(t, X, axis=1)
    problem = cp.Problem(cp.Minimize(np.arange(1, 4) @ t + cp.sum_squares(X - p)), [cone])
    return case(problem, {p: 2 + 2 * np.abs(_normal(11, 3, 2))}, [X, t, *_dual(cone), cone])


def semidefinite() -> Case:
    X, C = cp.Variable((3, 3), symmetric=True), cp.Parameter((3, 3))
    cone, ones = X >> 0, cp.diag(X) == 1
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [cone, ones])
    return case(problem, {C: 2 * _normal(12, 3, 3)}, [X, *_dual(cone), *_dual(ones), cone])


def semidefinite_linear() -> Case:
    x, A0, A1, A2 = cp.Variable(2), *(cp.Parameter((3, 3), symmetric=True) for _ in range(3))
    cone = A0 + x[0] * A1 + x[1] * A2 >> 0
    problem = cp.Problem(cp.Minimize(x[0] + 0.5 * x[1] + 0.1 * cp.sum_squares(x)), [cone])
    values = {A0: np.eye(3), A1: _symmetric(13), A2: _symmetric(14)}
    return case(problem, values, [x, *_dual(cone), cone])


def exponential() -> Case:
    x, y, z, p, w = cp.Variable(2), cp.Variable(2), cp.Variable(2), cp.Parameter(2), cp.Parameter(2)
    cone = cp.ExpCone(x, y, z)
    objective = cp.sum_squares(x - p) + cp.sum_squares(y - 1) + w @ z
    problem = cp.Problem(cp.Minimize(objective), [cone])
    return case(problem, {p: np.array([0.4, -0.3]), w: np.array([0.5, 0.8])}, [x, y, z, *_dual(cone), cone])


def logistic() -> Case:
    w, Z, lam = cp.Variable(2), cp.Parameter((4, 2)), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum(cp.logistic(-Z @ w)) + lam * cp.sum_squares(w)))
    return case(problem, {Z: _normal(15, 4, 2), lam: np.array(0.4)}, [w])


def entropy() -> Case:
    x, c, A = cp.Variable(3), cp.Parameter(3), cp.Parameter((1, 3))
    simplex, row = cp.sum(x) == 1, A @ x == 0.9
    problem = cp.Problem(cp.Maximize(cp.sum(cp.entr(x)) - c @ x), [simplex, row])
    values = {c: _normal(16, 3), A: np.array([[0.5, 1.0, 1.5]])}
    return case(problem, values, [x, *_dual(simplex), *_dual(row)])


def power() -> Case:
    x, p, w = cp.Variable(3), cp.Parameter(3), cp.Parameter()
    cone = PowCone3D(x[0], x[1], x[2], 0.3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) - w * x[2]), [cone])
    return case(problem, {p: np.array([0.7, 0.4, 1.1]), w: np.array(0.5)}, [x, *_dual(cone), cone])


def power_linear() -> Case:
    x, y, z, c, b = cp.Variable(2), cp.Variable(2), cp.Variable(2), cp.Parameter(2), cp.Parameter(2)
    cone, budget = PowCone3D(x, y, z, np.array([0.4, 0.7])), x + cp.multiply(c, y) <= b
    problem = cp.Problem(cp.Maximize(np.array([1.0, 2.0]) @ z), [cone, budget])
    return case(problem, {c: np.array([2.0, 1.5]), b: np.array([1.0, 2.0])}, [x, y, z, *_dual(budget), *_dual(cone)])


def power_of_many() -> Case:
    W, z, p = cp.Variable(3), cp.Variable(), cp.Parameter(3)
    cone = PowConeND(W, z, np.array([0.2, 0.3, 0.5]))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(W - p) - z), [cone])
    return case(problem, {p: np.array([0.6, 1.0, 0.8])}, [W, z, *_dual(cone), cone])


def mixed() -> Case:
    x, p, r = cp.Variable(3), cp.Parameter(3), cp.Parameter(pos=True)
    constraints = [
        cp.sum(x) == 1,
        x >= -1,
        cp.norm(x - p) <= r,
        cp.exp(x[0]) <= 1.1,
        PowCone3D(x[1] + 2, x[2] + 2, 2, 0.4),
    ]
    constraints.append(cp.bmat([[x[0] + 2, x[1]], [x[1], x[2] + 2]]) >> 0)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - 2 * p)), constraints)
    return case(
        problem, {p: np.array([0.9, 0.6, -0.2]), r: np.array(1.5)}, [x, *_dual(constraints[0]), constraints[-1]]
    )


def maximization() -> Case:
    x, mu, s = cp.Variable(3, nonneg=True), cp.Parameter(3), cp.Parameter(nonneg=True)
    budget = cp.sum(x) == 1
    problem = cp.Problem(cp.Maximize(mu @ x - s * cp.sum_squares(x)), [budget])
    return case(problem, {mu: np.array([0.3, 0.9, -1.0]), s: np.array(0.8)}, [x, *_dual(budget)])


def geometric() -> Case:
    x, a, b, e = cp.Variable(2, pos=True), cp.Parameter(pos=True), cp.Parameter(2, pos=True), cp.Parameter()
    problem = cp.Problem(cp.Minimize(a * x[0] * x[1] + cp.sum(1 / x)), [b[0] * x[0] + b[1] * x[1] ** e <= 1])
    return case(problem, {a: np.array(2.0), b: np.array([1.5, 0.8]), e: np.array(0.7)}, [x], gp=True)


def geometric_exponent() -> Case:
    x, a = cp.Variable(pos=True), cp.Parameter(pos=True)
    return case(cp.Problem(cp.Minimize(a * x**a + 1 / x)), {a: np.array(2.0)}, [x], gp=True)


def quadratic_form() -> Case:
    x, P, q = cp.Variable(3), cp.Parameter((3, 3), PSD=True), cp.Parameter(3)
    inequality = x >= -0.2
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, P) + q @ x), [inequality])
    root = _normal(17, 3, 3)
    return case(problem, {P: root @ root.T + np.eye(3), q: 3 * _normal(18, 3)}, [x, *_dual(inequality)])


def symmetric() -> Case:
    X, S = cp.Variable((3, 3)), cp.Parameter((3, 3), symmetric=True)
    inequality = X[0] >= S[0] + 0.3
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - 2 * S) + cp.sum(S @ X)), [inequality])
    return case(problem, {S: _symmetric(19)}, [X, *_dual(inequality)])


def semidefinite_parameters() -> Case:
    X, S, N = cp.Variable((2, 2)), cp.Parameter((2, 2), PSD=True), cp.Parameter((2, 2), NSD=True)
    equality = cp.trace(S @ X) == 1
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - S + 2 * N)), [equality])
    root = _normal(20, 2, 2)
    values = {S: root @ root.T + np.eye(2), N: -root.T @ root - 0.1 * np.eye(2)}
    return case(problem, values, [X, *_dual(equality)])


def diagonal() -> Case:
    X, D = cp.Variable((3, 3), diag=True), cp.Parameter((3, 3), diag=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - D) + cp.sum(D @ X)), [cp.sum(X) <= 0.7])
    return case(problem, {D: np.diag([1.0, 2.0, -0.5])}, [X])


def sparse() -> Case:
    X, S = cp.Variable((3, 3), sparsity=PLACES), cp.Parameter((3, 3), sparsity=PLACES)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - S) + cp.sum(S @ X)), [X >= -0.3])
    value = np.zeros((3, 3))
    value[tuple(PLACES)] = [1.0, 2.0, -1.5]
    return case(problem, {S: value}, [X])


def signs() -> Case:
    x, y = cp.Variable(2, nonneg=True), cp.Variable(2, nonpos=True)
    p, q = cp.Parameter(2, pos=True), cp.Parameter(2, neg=True)
    problem = cp.Problem(cp.Minimize(p @ cp.abs(x - 1) + cp.sum_squares(x + y - q) - q @ cp.abs(y) + cp.sum_squares(y)))
    return case(problem, {p: np.array([0.5, 1.2]), q: np.array([-0.6, -2.5])}, [x, y])


def bounds() -> Case:
    x, p = cp.Variable(3, bounds=[-0.5, np.array([0.1, np.inf, 0.2])]), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + cp.sum_squares(cp.diff(x))))
    return case(problem, {p: np.array([1.0, -2.0, 0.1])}, [x])


def parametric_bounds() -> Case:
    low, high, p = cp.Parameter(3), cp.Parameter(), cp.Parameter(3)
    x = cp.Variable(3, bounds=[low, 0.5 * high])
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + cp.sum_squares(cp.diff(x))))
    values = {low: np.array([-0.1, -0.3, -3.0]), high: np.array(0.8), p: np.array([1.5, -2.0, 0.1])}
    return case(problem, values, [x])


def structured_variables() -> Case:
    C = cp.Parameter((3, 3))
    X, Y, Z = cp.Variable((3, 3), PSD=True), cp.Variable((3, 3), NSD=True), cp.Variable((3, 3), symmetric=True)
    problem = cp.Problem(cp.Minimize(sum(cp.sum_squares(V - C) for V in (X, Y, Z))), [cp.trace(Z) <= -0.5])
    return case(problem, {C: 1.5 * _normal(21, 3, 3)}, [X, Y, Z])


def complex_numbers() -> Case:
    z, p, A = cp.Variable(3, complex=True), cp.Parameter(3, complex=True), cp.Parameter((1, 3), complex=True)
    equality, inequality = A @ z == p[:1], cp.real(z) >= -0.3
    problem = cp.Problem(cp.Minimize(cp.sum_squares(z - p)), [equality, inequality, cp.abs(z) <= 3])
    values = {p: _complex(22, 3), A: _complex(23, 1, 3)}
    return case(problem, values, [z, *_dual(equality), *_dual(inequality)])


def hermitian() -> Case:
    X, H = cp.Variable((2, 2), hermitian=True), cp.Parameter((2, 2), hermitian=True)
    cone, trace = X >> 0, cp.real(cp.trace(X)) == 1
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - H)), [cone, trace])
    value = _complex(24, 2, 2)
    return case(problem, {H: value + value.conj().T}, [X, *_dual(cone), *_dual(trace)])


def imaginary() -> Case:
    z, p = cp.Variable(2, imag=True), cp.Parameter(2, imag=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(z - 2 * p) + cp.sum(cp.abs(z))))
    return case(problem, {p: 1j * np.array([1.0, -0.7])}, [z])


def many_dimensions() -> Case:
    X, p = cp.Variable((2, 2, 2)), cp.Parameter((2, 2, 2))
    inequality = cp.sum(X, axis=1) <= 0.5
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - p)), [inequality])
    return case(problem, {p: _normal(25, 2, 2, 2)}, [X, *_dual(inequality), inequality])


_CONES = (
    zero,
    nonnegative,
    linear,
    second_order,
    second_order_linear,
    second_order_rows,
    semidefinite,
    semidefinite_linear,
    exponential,
    logistic,
    entropy,
    power,
    power_linear,
    power_of_many,
    mixed,
)
_ATTRIBUTES = (
    maximization,
    geometric,
    geometric_exponent,
    quadratic_form,
    symmetric,
    semidefinite_parameters,
    diagonal,
    sparse,
    signs,
    bounds,
    parametric_bounds,
    structured_variables,
    complex_numbers,
    hermitian,
    imaginary,
    many_dimensions,
)
# Older versions of CVXPY do not have these, or do not call them DPP.
_NEW = (quadratic_form, parametric_bounds, many_dimensions)

MAKERS: dict[str, Callable[[], Case]] = {
    make.__name__: make for make in _CONES + _ATTRIBUTES if RECENT or make not in _NEW
}
CONES = tuple(make.__name__ for make in _CONES)
CASES = tuple(MAKERS)


@cache
def get(name: str) -> Case:
    """The case of that name, made once."""
    return MAKERS[name]()
