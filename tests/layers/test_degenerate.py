"""Kinks, solutions that are not unique, bad scales: derivatives stay finite, and the certificate says what they are."""

from __future__ import annotations

import cvxpy as cp
import jax
import numpy as np
import pytest
import torch

import cvxlayers.jax
from cvxlayers.status import Status
from cvxlayers.torch import CvxpyLayer
from tests.layers import problems, reference
from tests.layers.facts import TIGHT, close, finite_jacobian, function, reverse_jacobian, vector


def project(constraints, size=3, symmetric=False):
    """The nearest point to p in a set, as a problem, with its parameter and variable."""
    x = cp.Variable((size, size), symmetric=True) if symmetric else cp.Variable(size)
    p = cp.Parameter(x.shape)
    return cp.Problem(cp.Minimize(cp.sum_squares(x - p)), constraints(x)), p, x


SETS = {
    "nonnegative": (lambda x: [x >= 0], np.array([1.0, 0.0, -1.0])),
    "second-order": (lambda x: [cp.SOC(x[0], x[1:])], np.zeros(3)),
    "second-order boundary": (lambda x: [cp.SOC(x[0], x[1:])], np.array([5.0, 3.0, 4.0])),
    "norm ball": (lambda x: [cp.norm(x) <= 1], np.array([0.6, 0.8, 0.0])),
    "positive semidefinite": (lambda X: [X >> 0], np.diag([1.0, 0.0, -1.0])),
    "zero matrix": (lambda X: [X >> 0], np.zeros((3, 3))),
    "exponential": (lambda x: [cp.ExpCone(x[0], x[1], x[2])], np.array([0.0, 0.0, 0.0])),
    "exponential boundary": (lambda x: [cp.ExpCone(x[0], x[1], x[2])], np.array([1.0, 1.0, np.e])),
    "power": (lambda x: [cp.constraints.PowCone3D(x[0], x[1], x[2], 0.3)], np.zeros(3)),
    "power boundary": (lambda x: [cp.constraints.PowCone3D(x[0], x[1], x[2], 0.5)], np.array([4.0, 1.0, 2.0])),
}


@pytest.mark.parametrize("gradient", ["exact", "smoothed"])
@pytest.mark.parametrize("name", SETS)
def test_projections_at_kinks(name, gradient):
    """Derivatives of a projection are symmetric with eigenvalues in [0, 1], at kinks too, and are called degenerate."""
    constraints, point = SETS[name]
    problem, p, x = project(constraints, symmetric=point.ndim == 2)
    layer = CvxpyLayer(problem, [p], [x], gradient=gradient, solver_args={"tol": 1e-9})
    v = torch.from_numpy(point).requires_grad_()
    result = layer.solve(v)
    close(result.variables[0].detach(), problem_projection(problem, p, x, point), 1e-3)
    J = torch.autograd.functional.jacobian(lambda v: layer(v)[0], v.detach()).reshape(point.size, point.size)
    assert J.isfinite().all()
    close(J, J.T, 1e-4)
    eigenvalues = torch.linalg.eigvalsh((J + J.T) / 2)
    assert eigenvalues.min() > -1e-4 and eigenvalues.max() < 1 + 1e-4
    if gradient == "exact":
        result.variables[0].sum().backward()
        assert result.certificate.degenerate.all(), result.certificate
    second = torch.func.hessian(lambda v: layer(v)[0].square().sum())(v.detach())
    assert second.isfinite().all()


def problem_projection(problem, p, x, point):
    p.value = point
    problem.solve(solver=cp.CLARABEL)
    return x.value


@pytest.mark.parametrize("name", [*problems.CONES, "geometric", "complex_numbers", "structured_variables"])
def test_smoothed_derivatives_tend_to_exact_ones(name):
    v = vector(name)
    exact = finite_jacobian(reference.function(name), v)
    scale = max(1.0, np.abs(exact).max())
    errors = []
    for smoothing in (1e-2, 1e-5, 1e-8, 1e-11):
        f = function("torch", name, TIGHT, gradient="smoothed", smoothing=smoothing)
        errors.append(np.abs(reverse_jacobian(f, v) - exact).max() / scale)
    assert errors[-1] < 1e-4 and errors[-1] <= errors[0] + 1e-6, errors
    assert errors[1] < 0.1, errors


@pytest.mark.parametrize("name", ["nonnegative", "second_order", "semidefinite", "exponential", "power"])
def test_smoothed_derivatives_in_every_mode(name):
    options = {"gradient": "smoothed", "smoothing": 1e-3}
    f, v = function("torch", name, TIGHT, **options), vector(name)
    reverse = reverse_jacobian(f, v)
    close(torch.func.jacrev(f)(torch.from_numpy(v)), reverse, 1e-7)
    close(torch.func.jacfwd(f)(torch.from_numpy(v)), reverse, 1e-7)
    g = function("jax", name, TIGHT, **options)
    close(jax.jit(jax.jacfwd(g))(v), reverse, 1e-7)


def test_the_optimal_value_is_differentiated_at_fixed_multipliers_in_every_mode():
    """By x in c and -z in h, also where the derivative of x itself is smoothed; and that derivative in the Hessian."""
    c, h, x = cp.Parameter(2), cp.Parameter(), cp.Variable(2)
    problem = cp.Problem(cp.Minimize(c @ x + cp.sum_squares(x)), [x >= 0, cp.sum(x) <= h])
    layer = CvxpyLayer(problem, [c, h], [x], gradient="smoothed", smoothing=1e-2)
    at = torch.tensor([-3.0, 0.05], dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)

    def value(c, h):
        return layer.solve(c, h).objective

    given = [v.clone().requires_grad_() for v in at]
    found = [
        torch.autograd.grad(value(*given), given),
        torch.autograd.grad(value(*given), given, create_graph=True),
        torch.func.jacrev(value, (0, 1))(*at),
        torch.func.jacfwd(value, (0, 1))(*at),
    ]
    for to_c, to_h in found:
        close(to_c.detach(), [1, 0], 1e-6)
        close(to_h.detach(), -1, 1e-6)
    moved = torch.func.jacrev(lambda c: layer(c, at[1])[0])(at[0])
    close(torch.func.hessian(lambda c: value(c, at[1]))(at[0]), moved, 1e-9)


def test_a_linear_program_pulls_when_smoothed():
    x, c = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(c @ x), [cp.sum(x) == 1, x >= 0])
    v = torch.tensor([1.0, 1.2], dtype=torch.float64, requires_grad=True)
    (exact,) = CvxpyLayer(problem, [c], [x])(v)
    (plain,) = torch.autograd.grad(exact[0], v)
    close(exact.detach(), [1, 0], 1e-6)
    close(plain, [0, 0], 1e-6)
    (smooth,) = CvxpyLayer(problem, [c], [x], gradient="smoothed", smoothing=1e-2)(v)
    close(smooth.detach(), exact.detach(), 1e-8)
    (pull,) = torch.autograd.grad(smooth[0], v)
    assert pull[0] < -1e-3 and pull[1] > 1e-3
    close(pull.sum(), 0, 1e-6)


def test_a_linear_program_with_many_solutions():
    x, c = cp.Variable(3), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(c @ x), [cp.sum(x) == 1, x >= 0])
    for options in ({}, {"gradient": "smoothed"}):
        layer = CvxpyLayer(problem, [c], [x], **options)
        v = torch.tensor([[1.0, 1.0, 2.0], [1.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
        result = layer.solve(v)
        close(result.objective.detach(), [1, 1], 1e-6)
        result.variables[0][:, 0].sum().backward()
        assert v.grad.isfinite().all() and v.grad.abs().max() < 1e8
        if not options:
            assert result.certificate.degenerate.tolist() == [True, False]


def test_a_constraint_that_is_there_twice():
    x, p, b = cp.Variable(2), cp.Parameter(2), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x[0] <= b, 2 * x[0] <= 2 * b, x[0] + x[1] <= b + 10])
    layer = CvxpyLayer(problem, [p, b], [x])
    v, bound = torch.tensor([2.0, 1.0], dtype=torch.float64, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    result = layer.solve(v, bound.double())
    result.variables[0].sum().backward()
    close(result.variables[0].detach(), [0.5, 1.0], 1e-6)
    close(v.grad, [0, 1], 1e-6)
    close(bound.grad, 1.0, 1e-6)


def test_two_equal_bounds_are_a_kink():
    x, p, b = cp.Variable(), cp.Parameter(), cp.Parameter(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.square(x - p)), [x <= b[0], x <= b[1]]), [p, b], [x])
    b_value = torch.tensor([0.5, 0.5], dtype=torch.float64, requires_grad=True)
    result = layer.solve(2.0, b_value)
    result.variables[0].backward()
    close(b_value.grad.sum(), 1.0, 1e-6)
    assert b_value.grad.min() > -1e-6
    assert result.certificate.degenerate.all()


@pytest.mark.parametrize("solver", [None, "CLARABEL"])
@pytest.mark.parametrize("seed", range(4))
def test_three_lines_through_one_point(solver, seed):
    """More active constraints than variables: which of them holds the point is not determined, and it is said so."""
    rng = np.random.default_rng(seed)
    G, at, z = rng.normal(size=(3, 2)), rng.normal(size=2), rng.uniform(1, 2, 3)
    x, p, h = cp.Variable(2), cp.Parameter(2), cp.Parameter(3)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [G @ x <= h]), [p, h], [x], solver=solver)
    bound = torch.from_numpy(G @ at).requires_grad_()
    result = layer.solve(at + G.T @ z / 2, bound)
    close(result.variables[0].detach(), at, 1e-6)
    weight = np.array([1.0, -2.0])
    (result.variables[0] @ torch.from_numpy(weight)).backward()
    assert result.certificate.degenerate.all()
    # Any answer moves with the lines when all of them move; the one of minimum norm is the shortest such.
    close(bound.grad.numpy() @ G, weight, 1e-5)
    if solver == "CLARABEL":
        close(bound.grad, np.linalg.pinv(G.T) @ weight, 1e-5)


def test_redundant_equalities():
    x, p, b = cp.Variable(3), cp.Parameter(3), cp.Parameter()
    equalities = [cp.sum(x) == b, 2 * cp.sum(x) == 2 * b]
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), equalities), [p, b], [x])
    v = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64, requires_grad=True)
    bound = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (y,) = layer(v, bound)
    close(y.detach(), v.detach() + (2.0 - 1.1) / 3, 1e-6)
    (y * torch.tensor([1.0, 2.0, 4.0])).sum().backward()
    close(v.grad, torch.tensor([1.0, 2, 4]) - 7 / 3, 1e-6)
    close(bound.grad, 7 / 3, 1e-6)


@pytest.mark.parametrize("solver", [None, "native", "CLARABEL"])
@pytest.mark.parametrize("others", [lambda x: [], lambda x: [x <= 3], lambda x: [cp.SOC(cp.Constant(5.0), x)]])
def test_equalities_that_leave_no_variable(others, solver):
    """x = p: the substitution leaves a program without variables, and of the others a test of feasibility."""
    x, p = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)), [x == p, *others(x)])
    layer = CvxpyLayer(problem, [p], [x], solver=solver, on_failure="nan")
    v = torch.tensor([[1.0, -2.0], [40.0, 0.0]], dtype=torch.float64, requires_grad=True)
    result = layer.solve(v)
    kept = v.new_tensor([1.0, 0.0 if others(x) else 1.0])[:, None]  # p = (40, 0) is feasible without others alone
    assert result.status.tolist() == [Status.SOLVED, Status.INFEASIBLE if others(x) else Status.SOLVED]
    (gradient,) = torch.autograd.grad(torch.nansum(result.variables[0]), v)
    close(gradient, kept.expand(2, 2), 1e-6)
    if solver == "native":  # what it does on the arrays of an accelerator
        point = layer.core.maps.arrays(True).solve((v.detach(),), (2,))
        assert point.status.tolist() == result.status.tolist()
        close(point.x[0], v[0].detach(), 1e-6)


def test_inactive_norm_bounds_are_not_called_degenerate():
    """CVXPY's variable for the norm is free between the norm and the bound; what was asked for is unique."""
    x, p = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.norm(x) <= 3, cp.norm1(x) <= 5, cp.max(x) <= 7])
    result = CvxpyLayer(problem, [p], [x]).solve(np.array([0.1, 0.2]))
    assert result.certificate.unique.all() and not result.certificate.degenerate.any()


def test_the_certificate_is_per_element():
    x, p = cp.Variable(2), cp.Parameter(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0]), [p], [x])
    v = torch.tensor([[1.0, 2.0], [0.0, 1.0], [-1.0, 1.0], [0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    result = layer.solve(v)
    result.variables[0].sum().backward()
    assert result.certificate.degenerate.tolist() == [False, True, False, True]
    kinks = torch.tensor([[False, False], [True, False], [False, False], [True, True]])
    close(v.grad[~kinks], [1, 1, 1, 0, 1], 1e-6)
    assert ((v.grad[kinks] >= 0) & (v.grad[kinks] <= 1)).all()


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
@pytest.mark.parametrize("solver", [None, "CLARABEL"])
def test_badly_scaled_data(scale, solver):
    """Nearest point of a half-space a'x <= b, with a and b scaled: the projection and its derivative do not change."""
    x, a, b, p = cp.Variable(3), cp.Parameter(3), cp.Parameter(), cp.Parameter(3)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [a @ x <= b]), [a, b, p], [x], solver=solver)
    direction = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    point = torch.tensor([2.0, -1.0, 1.0], dtype=torch.float64)
    given = [(scale * direction).requires_grad_(), torch.tensor(scale * 0.3, dtype=torch.float64, requires_grad=True)]
    given.append(point.clone().requires_grad_())
    exact = [t.detach().clone().requires_grad_() for t in given]
    (y,) = layer(*given)
    n = exact[0]
    closed = exact[2] - n * (n @ exact[2] - exact[1]) / (n @ n)
    close(y.detach(), closed.detach(), 1e-6)
    weight = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    (y @ weight).backward()
    (closed @ weight).backward()
    for got, wanted in zip(given, exact, strict=True):
        close(got.grad / wanted.grad.abs().max(), wanted.grad / wanted.grad.abs().max(), 1e-5)


@pytest.mark.parametrize("scale", [1e-3, 1e-2, 1e4, 1e6])
def test_large_and_small_solutions(scale):
    """The nearest point of a cone is homogeneous, and so is its derivative."""
    x, p = cp.Variable(3), cp.Parameter(3)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.SOC(x[0], x[1:])]), [p], [x])
    point = torch.tensor([0.2, 1.0, -0.5], dtype=torch.float64)
    jacobians = []
    for factor in (1.0, scale):
        v = (factor * point).requires_grad_()
        (y,) = layer(v, solver_args={"tol": 1e-10})
        jacobians.append(torch.stack([torch.autograd.grad(y[i], v, retain_graph=True)[0] for i in range(3)]))
    close(jacobians[1], jacobians[0], 1e-3)


@pytest.mark.parametrize("solver", ["CLARABEL", "NATIVE"])
def test_a_solution_below_the_tolerance_is_right_or_called_degenerate(solver):
    """Tolerances are relative to max(1, data): where the solution is smaller, active and inactive may look the same."""
    x, p = cp.Variable(3), cp.Parameter(3)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.SOC(x[0], x[1:])]), [p], [x], solver=solver)
    point, gradients = torch.tensor([0.2, 1.0, -0.5], dtype=torch.float64), []
    for factor in (1.0, 1e-7):
        v = (factor * point).requires_grad_()
        result = layer.solve(v)
        result.variables[0].sum().backward()
        gradients.append(v.grad)
    assert v.grad.isfinite().all()
    if solver == "CLARABEL":
        assert result.certificate.degenerate.all()
    else:  # whose Newton steps go beyond the tolerance
        assert not result.certificate.degenerate.any()
        close(gradients[1], gradients[0], 1e-4)


def test_kinks_in_jax():
    x, p = cp.Variable(2), cp.Parameter(2)
    layer = cvxlayers.jax.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0]), [p], [x])
    jacobian, second = jax.jit(
        lambda v: (jax.jacrev(lambda v: layer(v)[0])(v), jax.hessian(lambda v: (layer(v)[0] ** 2).sum())(v))
    )(np.array([0.0, 1.0]))
    assert 0 <= jacobian[0, 0] <= 1
    close(jacobian.at[0, 0].set(0.5), [[0.5, 0], [0, 1]], 1e-6)
    assert np.isfinite(second).all()
