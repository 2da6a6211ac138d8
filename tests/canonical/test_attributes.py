"""Attributes of parameters and variables, complex ones among them."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import scipy.sparse as sp
from cvxpy.expressions.constants.callback_param import CallbackParam

from cvxlayers.canonical import build, current_values
from tests.canonical.reference import agrees, data, dense, duals, parameter, solve

RECENT = tuple(int(part) for part in cp.__version__.split(".")[:2]) >= (1, 9)
PLACES = [(0, 1, 2), (1, 2, 0)]


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def hermitian(rng, n=3):
    A = rng.normal(size=(n, n)) + 1j * rng.normal(size=(n, n))
    return A + A.conj().T


def sparse(values) -> np.ndarray:
    return sp.coo_array((values, PLACES), shape=(3, 3)).toarray()


@pytest.mark.parametrize("sign", ["nonneg", "nonpos", "pos", "neg"])
def test_signs_of_variables(rng, sign):
    x, p = cp.Variable(3, **{sign: True}), parameter(rng.normal(size=3))
    agrees(cp.Problem(cp.Minimize(cp.sum_squares(x - p))))


@pytest.mark.parametrize("sign", ["nonneg", "nonpos", "pos", "neg"])
def test_signs_of_parameters(sign):
    factor = 1.0 if sign in ("nonneg", "pos") else -1.0
    x, p = cp.Variable(3), parameter(factor * np.array([0.5, 1, 2]), **{sign: True})
    problem = cp.Problem(cp.Minimize(factor * p @ cp.abs(x - 1) + cp.sum_squares(x)))
    agrees(problem)
    assert build(problem, [p], [x]).parameters[0].domain == (sign,)


@pytest.mark.parametrize("attribute", ["symmetric", "PSD", "NSD", "diag", "sparsity"])
def test_structured_variables(rng, attribute):
    X = cp.Variable((3, 3), **{attribute: PLACES if attribute == "sparsity" else True})
    C = parameter(rng.normal(size=(3, 3)))
    form = build(cp.Problem(cp.Minimize(cp.sum_squares(X) + cp.trace(C @ X))), [C], [X])
    full, mask = cp.Variable((3, 3)), np.ones((3, 3))
    constraints = {
        "symmetric": [full == full.T],
        "PSD": [full == full.T, full >> 0],
        "NSD": [full == full.T, full << 0],
        "diag": [cp.multiply(full, mask - np.eye(3)) == 0],
        "sparsity": [cp.multiply(full, mask - sparse(np.ones(3))) == 0],
    }[attribute]
    reference = cp.Problem(cp.Minimize(cp.sum_squares(full) + cp.trace(C @ full)), constraints)
    agrees(reference)
    value, (got,) = solve(form, [C.value])
    np.testing.assert_allclose(value, reference.value, atol=1e-6)
    np.testing.assert_allclose(got, full.value, atol=1e-5)


def test_structured_variables_with_signs_and_bounds(rng):
    C = parameter(rng.normal(size=(3, 3)))
    X = cp.Variable((3, 3), symmetric=True, nonneg=True)
    Y = cp.Variable((3, 3), symmetric=True, bounds=[-0.2, np.full((3, 3), 0.3)])
    agrees(cp.Problem(cp.Minimize(cp.sum_squares(X - C) + cp.sum_squares(Y - C))))


def test_bounds(rng):
    p = parameter(rng.normal(size=3))
    x = cp.Variable(3, bounds=[-0.5, np.array([0, np.inf, 0.1])])
    y = cp.Variable(3, bounds=[None, 0.2])
    agrees(cp.Problem(cp.Minimize(cp.sum_squares(x - p) + cp.sum_squares(y + p))))


if RECENT:  # Older versions of CVXPY have no parametric bounds, stacks of matrices or empty arrays.

    def test_parametric_bounds(rng):
        low, high = parameter(np.array([-0.1, 0, 0.1])), parameter(hermitian(rng).real[0] ** 2, nonneg=True)
        x, p = cp.Variable(3, bounds=[low, 1.0]), parameter(rng.normal(size=3))
        y = cp.Variable(3, nonneg=True, bounds=[-1, 0.1 * high + 0.2])
        agrees(cp.Problem(cp.Minimize(cp.sum_squares(x - p) + cp.sum_squares(y - p))))

    def test_bound_by_a_structured_parameter(rng):
        S = rng.normal(size=(2, 2))
        low, X = parameter(S + S.T, symmetric=True), cp.Variable((2, 2))
        X = cp.Variable((2, 2), bounds=[low, 9.0])
        agrees(cp.Problem(cp.Minimize(cp.sum_squares(X + 1))))

    def test_stacks_of_symmetric_matrices(rng):
        X, Y = cp.Variable((2, 3, 3), symmetric=True), cp.Variable((2, 3, 3))
        p = parameter(rng.normal(size=(2, 3, 3)))
        constraint = cp.PSD(Y)
        problem = cp.Problem(cp.Minimize(cp.sum_squares(X - p) + cp.sum_squares(Y - p)), [constraint])
        agrees(problem, [X, Y, constraint.dual_variables[0]])

    def test_stack_as_a_symmetric_parameter(rng):
        S = cp.Parameter((2, 3, 3), symmetric=True)
        X, value = cp.Variable((2, 3, 3)), rng.normal(size=(2, 3, 3))
        form = build(cp.Problem(cp.Minimize(cp.sum_squares(X - S))), [S], [X])
        _, (got,) = solve(form, [value])
        np.testing.assert_allclose(got, (value + np.swapaxes(value, -1, -2)) / 2, atol=1e-6)

    def test_zero_sized_leaves():
        x, p = cp.Variable(2), parameter(np.zeros((0, 2)))
        constraints = [x >= 1, p <= 3]
        form = build(cp.Problem(cp.Minimize(cp.sum(x)), constraints), [p], [x, *duals(constraints), constraints[1]])
        _, (got, dual, none, slack) = solve(form, [p.value])
        np.testing.assert_allclose(got, 1, atol=1e-7)
        np.testing.assert_allclose(dual, 1, atol=1e-7)
        assert none.shape == slack.shape == (0, 2)


@pytest.mark.parametrize(
    ("attribute", "project"),
    [
        ("symmetric", lambda S: (S + S.T) / 2),
        ("PSD", lambda S: (S + S.T) / 2),
        ("NSD", lambda S: (S + S.T) / 2),
        ("diag", lambda S: np.diag(np.diag(S))),
        ("sparsity", lambda S: S * sparse(np.ones(3))),
        ("hermitian", lambda S: (S + S.conj().T) / 2),
        ("complex", lambda S: S),
        ("imag", lambda S: 1j * S.imag),
    ],
)
def test_the_structure_of_a_parameter_is_a_projection(rng, attribute, project):
    """A value off the structure acts as its projection, and every gradient lies in the structure."""
    is_complex = attribute in ("hermitian", "complex", "imag")
    S = cp.Parameter((3, 3), **{attribute: PLACES if attribute == "sparsity" else True})
    X = cp.Variable((3, 3), complex=is_complex)
    form = build(cp.Problem(cp.Minimize(cp.norm(X - S, "fro")), [X[0] == 2 * S[0]]), [S], [X])
    value = rng.normal(size=(3, 3)) + (1j * rng.normal(size=(3, 3)) if is_complex else 0)
    for got, expected in zip(data(form, [value]), data(form, [project(value)]), strict=True):
        np.testing.assert_allclose(dense(got), dense(expected))
    gradient = form.lift.b.transpose(0, rng.normal(size=form.program.m))
    gradient = (gradient.view(complex) if is_complex else gradient).reshape(3, 3)
    np.testing.assert_allclose(gradient, project(gradient))
    assert np.linalg.norm(gradient) > 0.1


def test_structured_parameters(rng):
    root = rng.normal(size=(3, 3))
    D = parameter(np.diag([1.0, 2, 3]), diag=True)
    S = parameter(root + root.T, symmetric=True)
    N = parameter(-root @ root.T, NSD=True)
    T = cp.Parameter((3, 3), sparsity=PLACES)
    T.value_sparse = sp.coo_array((np.array([1.0, 2, 3]), PLACES), shape=(3, 3))
    X = cp.Variable((3, 3))
    expected = D.value + S.value - 2 * N.value + 2 * current_values([T])[0]
    form = build(cp.Problem(cp.Minimize(cp.sum_squares(X - D - S + 2 * N - 2 * T))), [D, S, N, T], [X])
    _, (got,) = solve(form, current_values([D, S, N, T]))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_complex_equalities_and_norms(rng):
    def draw(*shape):
        return rng.normal(size=shape) + 1j * rng.normal(size=shape)

    z = cp.Variable(3, complex=True)
    p, A = parameter(draw(3), complex=True), parameter(draw(2, 3), complex=True)
    constraints = [A @ z == p[:2], cp.abs(z) <= 3, cp.real(z) >= -2, cp.norm(z) <= 4]
    agrees(cp.Problem(cp.Minimize(cp.sum_squares(z - p)), constraints), [z, *duals(constraints)])


def test_complex_matrices_in_c_order(rng):
    value = rng.normal(size=(2, 3)) + 1j * rng.normal(size=(2, 3))
    Z, p = cp.Variable((2, 3), complex=True), parameter(value, complex=True)
    constraint = Z == p
    form = build(cp.Problem(cp.Minimize(cp.norm(Z - 1, "fro")), [constraint]), [p], [Z, constraint.dual_variables[0]])
    _, (got, dual) = solve(form, [value])
    np.testing.assert_allclose(got, value, atol=1e-6)
    # The gradient of the norm and the multiplier cancel: Re(conj(dual) dZ) = -d norm.
    np.testing.assert_allclose(dual, -(value - 1) / np.linalg.norm(value - 1), atol=1e-5)


def test_hermitian_variable_and_parameter(rng):
    H = parameter(hermitian(rng), hermitian=True)
    X = cp.Variable((3, 3), hermitian=True)
    constraints = [X >> 0, cp.real(cp.trace(X)) == 1]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - H)), constraints)
    agrees(problem, [X, constraints[1].dual_variables[0]])
    form = build(problem, [H], [X, *duals(constraints), constraints[0]])
    _, (x, Z, nu, slack) = solve(form, [H.value])
    # Stationarity of the Lagrangian, with <Z, X> = Re tr(Z^H X).
    np.testing.assert_allclose(2 * (x - H.value) - Z + nu * np.eye(3), 0, atol=1e-4)
    np.testing.assert_allclose(slack, x, atol=1e-6)
    np.testing.assert_allclose(Z, Z.conj().T, atol=1e-8)


def test_complex_semidefinite_variable(rng):
    C = parameter(rng.normal(size=(3, 3)) + 1j * rng.normal(size=(3, 3)), complex=True)
    X, Y = cp.Variable((3, 3), complex=True, PSD=True), cp.Variable((3, 3), hermitian=True)
    form = build(cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [cp.real(cp.trace(X)) == 1]), [C], [X])
    reference = cp.Problem(cp.Minimize(cp.sum_squares(Y - C)), [cp.real(cp.trace(Y)) == 1, Y >> 0])
    agrees(reference)
    _, (got,) = solve(form, [C.value])
    np.testing.assert_allclose(got, Y.value, atol=1e-5)


def test_imaginary_leaves(rng):
    z, p = cp.Variable(3, imag=True), parameter(1j * rng.normal(size=3), imag=True)
    constraint = z[0] == p[0]
    problem = cp.Problem(cp.Minimize(cp.norm(z - 2 * p) + cp.sum(cp.abs(z))), [constraint])
    agrees(problem, [z, constraint.dual_variables[0]])
    # The real part of the equation says nothing, and is not in the program.
    form = build(cp.Problem(cp.Minimize(cp.sum_squares(z - 2 * p)), [constraint]), [p], [z])
    expected = 2 * p.value
    expected[0] = p.value[0]
    np.testing.assert_allclose(solve(form, [p.value])[1][0], expected, atol=1e-6)


def test_complex_second_order_cone(rng):
    for axis, shape in ((0, (3, 2)), (1, (2, 3))):
        value = rng.normal(size=shape) + 1j * rng.normal(size=shape)
        t, X, p = cp.Variable(2), cp.Variable(shape, complex=True), parameter(value, complex=True)
        cone = cp.SOC(t, X, axis=axis)
        form = build(cp.Problem(cp.Minimize(np.array([1.0, 2]) @ t), [cone, X == p]), [p], [*duals([cone]), cone])
        _, (dt, dX, slack) = solve(form, [value])
        norm = np.linalg.norm(value, axis=axis)
        weight = np.array([1.0, 2]) if axis == 0 else np.array([[1.0], [2]])
        np.testing.assert_allclose(dt, [1, 2], atol=1e-6)
        np.testing.assert_allclose(dX, -weight * value / (norm if axis == 0 else norm[:, None]), atol=1e-5)
        np.testing.assert_allclose(slack, np.concatenate([np.expand_dims(norm, axis), value], axis=axis), atol=1e-5)


def test_callback_parameter():
    p = parameter(2.0)
    squared = CallbackParam(lambda: np.diag(p.value**2 * np.ones(2)), (2, 2), symmetric=True)
    X = cp.Variable((2, 2))
    form = build(cp.Problem(cp.Minimize(cp.sum_squares(X - squared))), [squared], [X])
    np.testing.assert_allclose(solve(form, current_values([squared]))[1][0], 4 * np.eye(2), atol=1e-6)
