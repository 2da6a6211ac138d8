"""Regression tests for what layers of this kind have been seen to get wrong elsewhere, one for each observation."""

from __future__ import annotations

import copy
import pickle
import resource
import time

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from cvxpy.constraints import PowCone3D, PowConeND

import cvxlayers
import cvxlayers.jax
from cvxlayers import SolverError, Status
from cvxlayers.torch import CvxpyLayer

RECENT = tuple(int(part) for part in cp.__version__.split(".")[:2]) >= (1, 9)


def double(value, grad: bool = False) -> torch.Tensor:
    return torch.tensor(np.asarray(value), dtype=torch.float64, requires_grad=grad)


@pytest.mark.parametrize("n", [20, 50])
def test_gradients_of_dense_quadratic_programs_are_exact_by_default(n):
    """An iterative solver that stops early is 8 % off in the median here, and up to 47 %."""
    rng = np.random.default_rng(n)
    x, root, p, G, h = cp.Variable(n), cp.Parameter((n, n)), cp.Parameter(n), cp.Parameter((n, n)), cp.Parameter(n)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(root @ x) + p @ x), [G @ x <= h])
    layer, errors = CvxpyLayer(problem, [root, p, G, h], [x]), []
    for _ in range(6):
        L = rng.uniform(size=(n, n))
        values, vectors = np.linalg.eigh(L @ L.T + 1e-3 * np.eye(n))
        Q = (vectors * values) @ vectors.T
        G_value, p_value = rng.normal(size=(n, n)), rng.normal(size=n)
        h_value = G_value @ rng.normal(size=n) + rng.uniform(size=n)
        v = double(p_value, True)
        (y,) = layer((vectors * np.sqrt(values)) @ vectors.T, v, G_value, h_value)
        y.sum().backward()
        active = G_value[h_value - G_value @ y.detach().numpy() < 1e-7]
        K = np.block([[Q, active.T], [active, np.zeros((len(active),) * 2)]])
        exact = -np.linalg.solve(K, np.append(np.ones(n), np.zeros(len(active))))[:n]
        errors.append(np.linalg.norm(v.grad.numpy() - exact) / np.linalg.norm(exact))
    assert max(errors) < 1e-4 and np.median(errors) < 1e-6, errors


@pytest.mark.parametrize("how", ["inequality", "attribute", "bounds", "cone"])
@pytest.mark.parametrize("solver", [None, "CLARABEL", "SCS"])
def test_constraints_that_are_cones_themselves_are_kept(how, solver):
    """They have been dropped: the projection on the box [0, 1] returned -1."""
    x = cp.Variable(3, **{"attribute": {"nonneg": True}, "bounds": {"bounds": [0, 1]}}.get(how, {}))
    constraints = {
        "inequality": [x >= 0, x <= 1],
        "attribute": [x <= 1],
        "bounds": [],
        "cone": [cp.NonNeg(x), cp.NonNeg(1 - x)],
    }[how]
    p = cp.Parameter(3)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), constraints), [p], [x], solver=solver)
    torch.testing.assert_close(layer(double([-1, 0.5, 2]))[0], double([0, 0.5, 1]), rtol=0, atol=1e-5)


def test_directly_conic_variables_of_other_cones_are_kept():
    X, t, y, p = cp.Variable((2, 2), PSD=True), cp.Variable(), cp.Variable(2), cp.Parameter((2, 2))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X - p) + t), [cp.SOC(t, y), y == 3])
    X_value, t_value = CvxpyLayer(problem, [p], [X, t])(double([[1.0, 0], [0, -2]]))
    torch.testing.assert_close(X_value, double([[1.0, 0], [0, 0]]), rtol=0, atol=1e-5)
    torch.testing.assert_close(t_value, double(3 * 2**0.5), rtol=1e-6, atol=0)


@pytest.mark.parametrize("solver", [None, "CLARABEL", "SCS", "DIFFCP"])
def test_a_second_layer_and_a_later_solve_of_one_problem(solver):
    """A cached canonical form, permuted in place, gave [-7, 3] for [-8, 5] the second time."""
    x, p = cp.Variable(2), cp.Parameter(2)
    constraints = [cp.sum(x) == -3, x[0] >= -8, cp.norm(x) <= 100, x[1] <= 9]
    problem = cp.Problem(cp.Minimize(p @ x + cp.norm1(x - np.array([-8, 5]))), constraints)
    value = np.array([0.1, -0.2])
    answers = [CvxpyLayer(problem, [p], [x], solver=solver)(double(value))[0] for _ in range(3)]
    p.value = value
    problem.solve(solver=cp.CLARABEL)
    answers += [double(x.value), CvxpyLayer(problem, [p], [x], solver=solver)(double(value))[0]]
    problem.solve(solver=cp.SCS, eps=1e-9)
    for answer in [*answers, double(x.value)]:
        torch.testing.assert_close(answer, double([-8, 5]), rtol=0, atol=2e-3)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.85])
def test_gradients_of_power_cones(alpha):
    """Maximize x^a y^(1-a) with p x + q y <= r has the solution x = a r / p, y = (1 - a) r / q."""
    x, y, z = cp.Variable(), cp.Variable(), cp.Variable()
    p, q, r = (cp.Parameter() for _ in range(3))
    problem = cp.Problem(cp.Maximize(z), [PowCone3D(x, y, z, alpha), p * x + q * y <= r])
    layer, results = CvxpyLayer(problem, [p, q, r], [x, y], solver_args={"tol": 1e-11}), []
    for _ in range(2):
        given = [double(v, True) for v in (2.0, 0.5, 3.0)]
        a, b = layer(*given)
        (a + 2 * b).backward()
        results.append([t.grad for t in given])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
    expected = [-alpha * 3 / 4, -2 * (1 - alpha) * 3 / 0.25, alpha / 2 + 2 * (1 - alpha) / 0.5]
    torch.testing.assert_close(torch.stack(results[0]), double(expected), rtol=1e-4, atol=1e-4)


def test_gradients_of_power_cones_of_many_factors():
    W, z, p = cp.Variable(3), cp.Variable(), cp.Parameter(3)
    alpha = np.array([0.2, 0.3, 0.5])
    problem = cp.Problem(cp.Maximize(z), [PowConeND(W, z, alpha), p @ W <= 1])
    v = double([1.0, 2.0, 4.0], True)
    (got,) = CvxpyLayer(problem, [p], [W], solver_args={"tol": 1e-11})(v)
    got.sum().backward()
    torch.testing.assert_close(got.detach(), double(alpha / [1, 2, 4]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(v.grad, double(-alpha / np.square([1, 2, 4])), rtol=1e-3, atol=1e-4)


def test_elements_without_a_solution_are_named_and_harm_nobody():
    """Elsewhere: plausible numbers and no error, or the whole batch lost without an index."""
    x, low, high = cp.Variable(), cp.Parameter(), cp.Parameter()
    problem = cp.Problem(cp.Minimize(x), [x >= low, x <= high])
    lows, highs = double([0.0, 3.0, float("nan"), 1.0]), double([1.0, 2.0, 1.0, 1.5])
    with pytest.raises(SolverError) as raised:
        CvxpyLayer(problem, [low, high], [x])(lows, highs)
    assert raised.value.indices == (1, 2)
    assert raised.value.statuses == (Status.INFEASIBLE, Status.INVALID_INPUT)
    for solver in (None, "CLARABEL", "SCS", "ECOS", "DIFFCP"):
        layer = CvxpyLayer(problem, [low, high], [x], solver=solver, on_failure="nan")
        v = lows.clone().requires_grad_()
        (y,) = layer(v, highs)
        assert y.isnan().tolist() == [False, True, True, False]
        torch.testing.assert_close(y[[0, 3]].detach(), double([0, 1]), rtol=0, atol=1e-4)
        y.nansum().backward()
        torch.testing.assert_close(v.grad, double([1, 0, 0, 1]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("solver", [None, "CLARABEL", "SCS", "ECOS", "DIFFCP"])
def test_infeasible_and_unbounded_linear_programs_have_no_solution(solver):
    """An infeasible one has come back as x near 0, with a gradient."""
    x, c, b = cp.Variable(2), cp.Parameter(2), cp.Parameter()
    problem = cp.Problem(cp.Minimize(c @ x), [x >= 0, cp.sum(x) <= b])
    layer = CvxpyLayer(problem, [c, b], [x], solver=solver, on_failure="nan")
    assert layer.solve(double([1, 1]), double(-1.0)).status.item() == Status.INFEASIBLE
    free = cp.Problem(cp.Minimize(c @ x), [x >= b])
    layer = CvxpyLayer(free, [c, b], [x], solver=solver, on_failure="nan")
    assert layer.solve(double([1, -1]), double(0.0)).status.item() == Status.UNBOUNDED


@pytest.mark.parametrize("axis", [0, 1])
def test_duals_of_many_second_order_cones_are_not_interleaved(axis):
    """Minimize w't with ||x_i - p_i|| <= t_i, x fixed at 0: the dual of cone i is w_i (1, p_i / ||p_i||)."""
    weight = np.arange(1.0, 4)
    shape = (2, 3) if axis == 0 else (3, 2)
    t, X, p = cp.Variable(3), cp.Variable(shape), cp.Parameter(shape)
    cone = cp.SOC(t, X - p, axis=axis)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(weight @ t), [cone, X == 0]), [p], [*cone.dual_variables])
    value = np.random.default_rng(0).normal(size=p.shape)
    dt, dX = layer(double(value))
    norms = np.linalg.norm(value, axis=axis)
    torch.testing.assert_close(dt, double(weight), rtol=1e-5, atol=1e-5)
    expected = value / np.expand_dims(norms, axis) * np.expand_dims(weight, axis)
    torch.testing.assert_close(dX, double(expected), rtol=1e-4, atol=1e-4)


def test_duals_of_many_exponential_cones_are_not_interleaved():
    """Minimize w'z with y exp(x / y) <= z and x, y fixed: the dual is w (-e^r, (r - 1) e^r, 1), r = x / y."""
    weight = np.arange(1.0, 5)
    x, y, z, p = cp.Variable(4), cp.Variable(4), cp.Variable(4), cp.Parameter(4)
    cone = cp.ExpCone(x, y, z)
    problem = cp.Problem(cp.Minimize(weight @ z), [cone, x == p, y == np.array([1, 2, 0.5, 1])])
    value = np.array([0.3, -0.4, 0.2, -1.0])
    ratio = value / [1, 2, 0.5, 1]
    got = CvxpyLayer(problem, [p], [*cone.dual_variables], solver_args={"tol": 1e-11})(double(value))
    exact = [-weight * np.exp(ratio), weight * (ratio - 1) * np.exp(ratio), weight]
    for a, b in zip(got, exact, strict=True):
        torch.testing.assert_close(a, double(b), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_dense_quadratic_program_with_many_parameters_is_made_quickly():
    """0.72 million scalar parameters took 25 seconds and 6.8 GB where the objective was lowered to a cone."""
    n = 600
    x, Q, p, G, h = cp.Variable(n), cp.Parameter((n, n)), cp.Parameter(n), cp.Parameter((n, n)), cp.Parameter(n)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(Q @ x) + p @ x), [G @ x <= h])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    layer = CvxpyLayer(problem, [Q, p, G, h], [x])
    assert time.process_time() - start < 8
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1.5e6  # kilobytes
    rng = np.random.default_rng(0)
    v = double(rng.normal(size=n), True)
    (y,) = layer(np.eye(n) + 0.01 * rng.normal(size=(n, n)), v, rng.normal(size=(n, n)), np.ones(n))
    y.sum().backward()
    assert v.grad.isfinite().all()


def test_the_form_of_a_quadratic_objective_stays_quadratic():
    n = 40
    x, Q, p = cp.Variable(n), cp.Parameter((n, n)), cp.Parameter(n)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(Q @ x) + p @ x), [x >= 0]), [Q, p], [x])
    assert {type(block).__name__ for block in layer.core.form.program.cone.blocks} <= {"Zero", "Nonnegative"}
    assert layer.core.form.program.P.nnz


@pytest.mark.parametrize("attribute", ["symmetric", "PSD", "NSD"])
def test_the_gradient_of_a_symmetric_parameter_is_symmetric(attribute):
    """<gradient, dS> is the directional derivative along every symmetric dS; elsewhere triangular, or twice that."""
    X, S = cp.Variable((3, 3)), cp.Parameter((3, 3), **{attribute: True})
    weight = np.arange(9.0).reshape(3, 3)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(X - S) + cp.trace(weight @ S @ X))), [S], [X])
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    value = {"symmetric": root + root.T, "PSD": root @ root.T, "NSD": -root @ root.T}[attribute]
    v = double(value, True)
    loss = (layer(v)[0] * double(weight)).sum()
    loss.backward()
    torch.testing.assert_close(v.grad, v.grad.T, rtol=0, atol=1e-10)
    direction = rng.normal(size=(3, 3))
    direction, step = direction + direction.T, 1e-4
    ends = [(layer(double(value + t * direction))[0] * double(weight)).sum().item() for t in (-step, step)]
    np.testing.assert_allclose((v.grad.numpy() * direction).sum(), (ends[1] - ends[0]) / (2 * step), rtol=1e-6)


def test_diagonal_and_sparse_leaves():
    places = [(0, 1), (1, 0)]
    D, S = cp.Parameter((2, 2), diag=True), cp.Parameter((2, 2), sparsity=places)
    X, Y = cp.Variable((2, 2), diag=True), cp.Variable((2, 2), sparsity=places)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(X - D) + cp.sum_squares(Y - 2 * S))), [D, S], [X, Y])
    d, s = double([[1.0, 9], [9, 2]], True), double([[9.0, 3], [4, 9]], True)
    x, y = layer(d, s)
    torch.testing.assert_close(x.detach(), double([[1, 0], [0, 2]]), rtol=0, atol=1e-6)
    torch.testing.assert_close(y.detach(), double([[0, 6], [8, 0]]), rtol=0, atol=1e-6)
    (x.sum() + y.sum()).backward()
    torch.testing.assert_close(d.grad, double(np.eye(2)), rtol=0, atol=1e-6)
    torch.testing.assert_close(s.grad, double([[0, 2], [2, 0]]), rtol=0, atol=1e-6)
    batch = layer(double(np.ones((3, 2, 2))), double(np.ones((2, 2))))
    assert [o.shape for o in batch] == [(3, 2, 2), (3, 2, 2)]


def test_complex_parameters_and_variables():
    z, p = cp.Variable(2, complex=True), cp.Parameter(2, complex=True)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(z - p)), [cp.abs(z) <= 1]), [p], [z])
    v = torch.tensor([3 + 4j, 0.1j], dtype=torch.complex128, requires_grad=True)
    (y,) = layer(v)
    torch.testing.assert_close(y.detach(), torch.tensor([0.6 + 0.8j, 0.1j], dtype=torch.complex128), rtol=0, atol=1e-6)
    y.real.sum().backward()
    exact = torch.tensor([3 + 4j, 0.1j], dtype=torch.complex128, requires_grad=True)
    (exact[0] / exact[0].abs() + exact[1]).real.backward()
    torch.testing.assert_close(v.grad, exact.grad, rtol=0, atol=1e-5)
    assert layer(v.to(torch.complex64))[0].dtype == torch.complex64
    in_jax = cvxlayers.jax.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(z - p)), [cp.abs(z) <= 1]), [p], [z])
    gradient = jax.jit(jax.grad(lambda v: in_jax(v)[0].real.sum()))(jnp.asarray(v.detach().numpy()))
    # JAX's convention is the conjugate of PyTorch's.
    np.testing.assert_allclose(np.conj(gradient), v.grad, atol=1e-5)


def test_problems_without_parameters_empty_batches_and_many_dimensions():
    x, p, q = cp.Variable(2), cp.Parameter(2), cp.Parameter(2)
    (y,) = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - 1))), [], [x])()
    torch.testing.assert_close(y, torch.ones(2), rtol=0, atol=1e-6)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p) + cp.sum_squares(x - q))), [p, q], [x])
    for p_lead, q_lead in (((0,), ()), ((2, 3), (2, 3)), ((1,), (4,)), ((4,), (1,)), ((2, 1), (3,))):
        a, b = torch.randn(*p_lead, 2, requires_grad=True), torch.randn(*q_lead, 2, requires_grad=True)
        (y,) = layer(a, b)
        torch.testing.assert_close(y, (a + b) / 2, rtol=0, atol=1e-5)
        y.sum().backward()
        assert a.grad.shape == a.shape and b.grad.shape == b.shape
    torch.testing.assert_close(layer(np.ones(2), [3.0, 3.0])[0].double(), double([2, 2]), rtol=0, atol=1e-5)
    scalar, s = cp.Variable(), cp.Parameter()
    assert CvxpyLayer(cp.Problem(cp.Minimize(cp.square(scalar - s))), [s], [scalar])(2.0)[0].shape == ()


def test_float32_stays_float32():
    """That JAX's own setting stays what it is: tests/workers/single_precision.py."""
    x, p = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)))
    assert CvxpyLayer(problem, [p], [x])(torch.ones(2))[0].dtype == torch.float32
    assert cvxlayers.jax.CvxpyLayer(problem, [p], [x])(jnp.ones(2, jnp.float32))[0].dtype == jnp.float32


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # from PyTorch's forward mode
def test_transforms_that_have_failed_and_copies():
    x, p = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.norm(x) <= 1])
    layer, in_jax = CvxpyLayer(problem, [p], [x]), cvxlayers.jax.CvxpyLayer(problem, [p], [x])
    v = double([3.0, 4.0])
    exact = (torch.eye(2).double() - torch.outer(v, v) / 25) / 5
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(transform(lambda v: layer(v)[0])(v), exact, rtol=0, atol=1e-6)
    for transform in (jax.jacrev, jax.jacfwd):
        np.testing.assert_allclose(jax.jit(transform(lambda v: in_jax(v)[0]))(v.numpy()), exact, atol=1e-6)
    torch.func.vmap(layer)(v[None])
    torch.func.hessian(lambda v: layer(v)[0].sum())(v)
    jax.jit(jax.vmap(in_jax))(v[None].numpy())
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(v), layer(v))


def test_a_bounded_semidefinite_program_in_a_symmetric_variable():
    """Some versions of CVXPY call it unbounded."""
    X, C = cp.Variable((3, 3), symmetric=True), cp.Parameter((3, 3), symmetric=True)
    problem = cp.Problem(cp.Minimize(cp.trace(C @ X)), [X >> 0, cp.trace(X) == 1])
    value = np.diag([1.0, 2.0, 3.0]) + 0.1
    result = CvxpyLayer(problem, [C], [X]).solve(double(value))
    np.testing.assert_allclose(result.objective, np.linalg.eigvalsh(value)[0], atol=1e-6)


if RECENT:  # Older versions of CVXPY do not call it DPP.

    @pytest.mark.parametrize("solver", [None, "CLARABEL", "DAQP", "SCS", "ECOS", "DIFFCP"])
    def test_quadratic_forms_with_a_parameter(solver):
        x, P, q = cp.Variable(2), cp.Parameter((2, 2), PSD=True), cp.Parameter(2)
        problem = cp.Problem(cp.Minimize(cp.quad_form(x, P) + q @ x), [x <= 5])
        try:
            layer = CvxpyLayer(problem, [P, q], [x], solver=solver)
        except cvxlayers.SettingsError as error:
            assert solver in ("ECOS", "DIFFCP") and "quadratic" in str(error)
            return
        P_value, q_value = double([[2.0, 0.5], [0.5, 1.0]], True), double([1.0, -2.0], True)
        (y,) = layer(P_value, q_value)
        exact = -0.5 * torch.linalg.solve((P_value + P_value.T) / 2, q_value)
        torch.testing.assert_close(y, exact, rtol=0, atol=1e-5)
        torch.testing.assert_close(
            torch.autograd.grad(y.sum(), [P_value, q_value]),
            torch.autograd.grad(exact.sum(), [P_value, q_value]),
            rtol=0,
            atol=1e-5,
        )

    def test_quadratic_forms_in_constraints_are_refused_with_advice():
        x, P = cp.Variable(2), cp.Parameter((2, 2), PSD=True)
        problem = cp.Problem(cp.Minimize(cp.sum(x)), [cp.quad_form(x, P) <= 1])
        with pytest.raises(cvxlayers.ProblemError, match="P_sqrt"):
            CvxpyLayer(problem, [P], [x])


def test_sparse_constants_and_large_shared_data():
    rng = np.random.default_rng(0)
    n = 60
    A = sp.random_array((n, n), density=0.05, rng=rng) + sp.eye_array(n)
    x, b = cp.Variable(n), cp.Parameter(n)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x)), [A @ x == b]), [b], [x])
    v = double(rng.normal(size=(4, n)), True)
    (y,) = layer(v)
    np.testing.assert_allclose(y.detach(), np.linalg.solve(A.toarray(), v.detach().numpy().T).T, atol=1e-6)
    y.sum().backward()
    np.testing.assert_allclose(v.grad, np.tile(np.linalg.solve(A.toarray().T, np.ones(n)), (4, 1)), atol=1e-6)
