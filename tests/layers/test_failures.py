"""Elements without a solution: what is raised, what is NaN, and that the others do not notice."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import cvxlayers
import cvxlayers.jax
import cvxlayers.torch
from cvxlayers import SolverError, Status
from cvxlayers.solvers import Native

NAN = float("nan")


def interval(library, **options):
    """Minimize ||x - p||^2 + w'x with low <= x <= high: infeasible where low > high."""
    x, low, high, p, w = cp.Variable(2), cp.Parameter(2), cp.Parameter(2), cp.Parameter(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + w @ x), [low <= x, x <= high])
    return library.CvxpyLayer(problem, [low, high, p, w], [x], **options)


def cone(library, **options):
    """Minimize c't with ||t - p|| <= r, and t >= -5: infeasible where r < 0."""
    t, c, p, r = cp.Variable(2), cp.Parameter(2), cp.Parameter(2), cp.Parameter()
    problem = cp.Problem(cp.Minimize(c @ t), [cp.norm(t - p) <= r, t >= -5])
    return library.CvxpyLayer(problem, [c, p, r], [t], **options)


def ray(library, **options):
    """Minimize c x with x >= low: unbounded where c < 0."""
    x, c, low = cp.Variable(), cp.Parameter(), cp.Parameter()
    return library.CvxpyLayer(cp.Problem(cp.Minimize(c * x), [x >= low]), [c, low], [x], **options)


def rows(good: list, bad: list, place: int) -> tuple[np.ndarray, np.ndarray]:
    """A batch with the bad row at this place, and the mask of the good ones."""
    values = [*good[:place], bad, *good[place:]]
    return np.array(values, dtype=float), np.arange(len(values)) != place


def spoiled(kind: str, library):
    """A layer, a batch with one element that fails, that batch without it, the mask of the good ones, the status."""
    rng = np.random.default_rng(0)
    if kind == "unbounded":
        made = ray(library, on_failure="nan")
        c, good = rows(list(rng.uniform(1, 2, 4)), -1.0, 2)
        low = rng.normal(size=5)
        return made, [c, low], good, Status.UNBOUNDED
    if kind.startswith("interval"):
        made = interval(library, on_failure="nan")
        low, good = rows(list(-rng.uniform(0, 1, (4, 2))), [2.0, 2.0], 1)
        high, p, w = rng.uniform(0, 1, (5, 2)), rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
        status = Status.INFEASIBLE
        if kind == "interval nan":
            low[1], p[1, 0], status = -1.0, NAN, Status.INVALID_INPUT
        elif kind == "interval infinite":
            low[1], p[1, 1], status = -1.0, np.inf, Status.INVALID_INPUT
        return made, [low, high, p, w], good, status
    made = cone(library, on_failure="nan")
    c, p = rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
    r, good = rows(list(rng.uniform(0.5, 1, 4)), -1.0, 3)
    status = Status.INFEASIBLE
    if kind == "cone nan":
        r[3], c[3], status = 1.0, NAN, Status.INVALID_INPUT
    return made, [c, p, r], good, status


KINDS = ["unbounded", "interval", "interval nan", "interval infinite", "cone", "cone nan"]


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_are_bit_identical(kind):
    layer, values, good, status = spoiled(kind, cvxlayers.torch)
    inputs = [torch.from_numpy(v).requires_grad_() for v in values]
    alone = [torch.from_numpy(v[good]).requires_grad_() for v in values]
    result, reference = layer.solve(*inputs), layer.solve(*alone)
    assert result.status.tolist() == [0 if g else status for g in good]
    assert torch.equal(result.variables[0][good], reference.variables[0])
    assert torch.equal(result.objective[good], reference.objective)
    assert result.variables[0][~good].isnan().all() and result.objective[~good].isnan().all()
    for r in (result, reference):
        (r.variables[0].square().nansum() + r.objective.nansum()).backward()
    for a, b in zip(inputs, alone, strict=True):
        assert torch.equal(a.grad[good], b.grad)
        assert torch.equal(a.grad[~good], torch.zeros_like(a.grad[~good]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_nan_has_zero_gradient_at_the_failed_element_only(kind):
    layer, values, good, _ = spoiled(kind, cvxlayers.torch)
    inputs = [torch.from_numpy(v).requires_grad_() for v in values]
    alone = [torch.from_numpy(v[good]).requires_grad_() for v in values]
    for given in (inputs, alone):
        result = layer.solve(*given)
        (result.variables[0].square().sum() + (result.objective**2).sum()).backward()
    for a, b in zip(inputs, alone, strict=True):
        assert torch.equal(a.grad[good], b.grad)
        assert torch.equal(a.grad[~good], torch.zeros_like(a.grad[~good]))


def test_a_shared_parameter_gets_the_gradient_of_the_others():
    layer, (low, high, p, w), good, _ = spoiled("interval", cvxlayers.torch)
    shared = [torch.from_numpy(v[0]).requires_grad_() for v in (high, w)]
    alone = [t.detach().clone().requires_grad_() for t in shared]
    low, p = torch.from_numpy(low), torch.from_numpy(p)
    layer(low, shared[0] + 0.5, p, shared[1])[0].square().sum().backward()
    layer(low[good], alone[0] + 0.5, p[good], alone[1])[0].square().sum().backward()
    for a, b in zip(shared, alone, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("solver", [None, "CLARABEL", Native(compiled=False)])
def test_nan_in_one_element_stays_out_of_every_derivative_of_shared_parameters(solver):
    x, A, b, w = cp.Variable(3), cp.Parameter((4, 3)), cp.Parameter(4), cp.Parameter(nonneg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b) + w * cp.norm1(x)))
    rng = np.random.default_rng(0)
    good = rng.normal(size=(2, 4, 3))
    spoiled = np.insert(good, 1, NAN, axis=0)
    b_value, w_value, direction = rng.normal(size=4), 0.1, rng.normal(size=4)
    layer = cvxlayers.torch.CvxpyLayer(problem, [A, b, w], [x], solver=solver, on_failure="nan")

    def facts(A):
        A, w, v, h = (torch.tensor(v) for v in (A, w_value, b_value, direction))

        def loss(b):
            return layer(A, b, w)[0].pow(2).nansum()

        leaf = v.clone().requires_grad_()
        (recorded,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
        (twice,) = torch.autograd.grad(recorded @ h, leaf)
        forward = torch.func.jvp(lambda b: layer(A, b, w)[0], (v,), (h,))[1]
        return recorded.detach(), twice, torch.func.grad(loss)(v), torch.func.hessian(loss)(v), forward

    *found, forward = facts(spoiled)
    *expected, alone = facts(good)
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(forward[[0, 2]], alone, rtol=1e-9, atol=1e-9)
    assert not forward[1].any()
    if solver is None:
        jax_layer = cvxlayers.jax.CvxpyLayer(problem, [A, b, w], [x], on_failure="nan")
        second = jax.hessian(lambda b: jnp.nansum(jax_layer(spoiled, b, w_value)[0] ** 2))(jnp.asarray(b_value))
        np.testing.assert_allclose(second, expected[-1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bound", [np.inf, 1e30, 1e20])
@pytest.mark.parametrize("solver", [None, "NATIVE", "CLARABEL", "DAQP", "SCS", Native(compiled=False)])
def test_unbounded_where_a_constraint_is_absent(solver, bound):
    x, high = cp.Variable(), cp.Parameter()
    problem = cp.Problem(cp.Minimize(-x), [x >= 0, x <= high])
    layer = cvxlayers.torch.CvxpyLayer(problem, [high], [x], solver=solver, on_failure="nan")
    result = layer.solve(torch.tensor([bound, 2.0], dtype=torch.float64))
    assert result.status.tolist() == [Status.UNBOUNDED, Status.SOLVED]


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_beside_a_failed_element(kind):
    layer, values, good, _ = spoiled(kind, cvxlayers.torch)

    def second(*inputs):
        first = torch.autograd.grad(layer(*inputs)[0].pow(3).nansum(), inputs, create_graph=True)
        total = sum((g.square().sum() for g in first), torch.zeros((), dtype=torch.float64))
        return torch.autograd.grad(total, inputs, allow_unused=True)

    whole = second(*(torch.from_numpy(v).requires_grad_() for v in values))
    alone = second(*(torch.from_numpy(v[good]).requires_grad_() for v in values))
    for a, b in zip(whole, alone, strict=True):
        if b is None:
            assert a is None
            continue
        torch.testing.assert_close(a[good], b, rtol=1e-12, atol=1e-12)
        assert torch.equal(a[~good], torch.zeros_like(a[~good]))


@pytest.mark.parametrize("kind", KINDS)
def test_forward_mode_beside_a_failed_element(kind):
    layer, values, good, _ = spoiled(kind, cvxlayers.torch)

    def push(rows):
        primals = tuple(torch.from_numpy(v[rows]) for v in values)
        return torch.func.jvp(lambda *v: layer(*v)[0], primals, tuple(torch.ones_like(t) for t in primals))[1]

    torch.testing.assert_close(push(slice(None))[good], push(good), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", ["unbounded", "interval nan", "cone"])
def test_jax(kind):
    layer, values, good, status = spoiled(kind, cvxlayers.jax)

    def loss(v):
        result = layer.solve(*v)
        return jnp.nansum(result.variables[0] ** 2) + jnp.nansum(result.objective), (result.variables[0], result.status)

    gradients, (x, statuses) = jax.jit(jax.grad(loss, has_aux=True))(tuple(map(jnp.asarray, values)))
    expected, (x_good, _) = jax.jit(jax.grad(loss, has_aux=True))(tuple(jnp.asarray(v[good]) for v in values))
    assert statuses.tolist() == [0 if g else status for g in good]
    assert np.array_equal(x[good], x_good) and np.isnan(x[~good]).all()
    for a, b in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(a[good], b, rtol=1e-12, atol=1e-13)
        assert not np.asarray(a[~good]).any()


def test_jax_raises_in_eager_code_only():
    layer = interval(cvxlayers.jax)
    one, p = np.ones(2), np.zeros((3, 2))
    low = np.array([[0.0, 0], [2, 2], [0, 0]])
    with pytest.raises(SolverError) as raised:
        layer(low, one, p, one)
    assert raised.value.indices == (1,) and raised.value.statuses == (Status.INFEASIBLE,)
    x = jax.jit(lambda *v: layer(*v)[0])(low, one, p, one)
    assert np.isnan(x[1]).all() and not np.isnan(x[::2]).any()
    with pytest.raises(SolverError):
        jax.grad(lambda p: layer(low, one, p, one)[0].sum())(jnp.asarray(p))


def test_numpy():
    x, c, low = cp.Variable(), cp.Parameter(), cp.Parameter()
    problem = cp.Problem(cp.Minimize(c * x), [x >= low])
    given = {c: np.array([1.0, -1.0, 2.0]), low: np.array([0.3, 0.5, -1.0])}
    result = cvxlayers.solve(problem, parameters=given, on_failure="nan")
    assert result.status.tolist() == [0, Status.UNBOUNDED, 0]
    np.testing.assert_allclose(result[x], [0.3, NAN, -1.0], atol=1e-6)
    np.testing.assert_allclose(result.vjp({x: 1.0})[low], [1, 0, 1], atol=1e-6)
    np.testing.assert_allclose(result.jvp({low: 1.0})[0][x], [1, NAN, 1], atol=1e-6)
    with pytest.raises(SolverError):
        cvxlayers.solve(problem, parameters=given)


def test_what_is_raised():
    layer = interval(cvxlayers.torch)
    one, zero = np.ones(2), np.zeros(2)
    with pytest.raises(SolverError, match="the problem has no solution. INFEASIBLE: .*relax") as raised:
        layer(2 * one, one, zero, one)
    assert raised.value.indices == ((),) and raised.value.statuses == (Status.INFEASIBLE,)
    low = np.zeros((2, 3, 2))
    low[1, 0], low[0, 2, 0] = 2.0, NAN
    with pytest.raises(SolverError, match=r"2 of 6 .*on_failure='nan'") as raised:
        layer(low, one, zero, one)
    assert raised.value.indices == ((0, 2), (1, 0))
    assert raised.value.statuses == (Status.INVALID_INPUT, Status.INFEASIBLE)
    name = layer.core.form.parameters[0].name
    assert f"INVALID_INPUT at (0, 2): parameter '{name}' holds NaN; INFEASIBLE at (1, 0): no point" in str(raised.value)
    for again in (pickle.loads(pickle.dumps(raised.value)), copy.copy(raised.value)):
        assert again.indices == raised.value.indices and str(again) == str(raised.value)


def test_unfinished_elements():
    """An active-set method needs no iteration for points inside, and more than it has for the others."""
    x, p = cp.Variable(6), cp.Parameter(6)
    constraints = [x >= 0, x <= 1, cp.sum(x) <= 2, cp.diff(x) <= 0.3]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + cp.sum_squares(cp.diff(x))), constraints)
    make = partial(cvxlayers.torch.CvxpyLayer, problem, [p], [x], solver="DAQP", on_failure="nan")
    rng = np.random.default_rng(1)
    values = np.stack([np.full(6, 0.2), 3 * rng.normal(size=6), np.full(6, 0.3), 5 * rng.normal(size=6)])
    v = torch.from_numpy(values).requires_grad_()
    result = make(solver_args={"max_iter": 2}).solve(v)
    assert result.status.tolist() == [0, Status.MAX_ITERATIONS, 0, Status.MAX_ITERATIONS]
    result.variables[0].nansum().backward()
    complete = torch.from_numpy(values).requires_grad_()
    reference = make().solve(complete)
    assert reference.status.tolist() == [0, 0, 0, 0]
    reference.variables[0].sum().backward()
    assert torch.equal(result.variables[0][::2], reference.variables[0][::2])
    assert torch.equal(v.grad[::2], complete.grad[::2]) and not v.grad[1::2].any()


def test_values_outside_the_domain_of_a_parameter():
    x, w, P = cp.Variable(2), cp.Parameter(nonneg=True), cp.Parameter((2, 2), NSD=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) + w * cp.norm1(x - 1) + cp.trace(P) * x[0]))
    layer = cvxlayers.torch.CvxpyLayer(problem, [w, P], [x], on_failure="nan")
    good = -np.eye(2)
    result = layer.solve(np.array([1.0, -1.0, 0.0, 2.0]), np.stack([good, good, good, np.eye(2)]))
    assert result.status.tolist() == [0, Status.INVALID_INPUT, 0, Status.INVALID_INPUT]
    y, a = cp.Variable(pos=True), cp.Parameter(pos=True)
    geometric = cvxlayers.torch.CvxpyLayer(cp.Problem(cp.Minimize(a * y + 1 / y)), [a], [y], gp=True, on_failure="nan")
    v = torch.tensor([4.0, 0.0, -1.0, 1.0], dtype=torch.float64, requires_grad=True)
    result = geometric.solve(v)
    assert result.status.tolist() == [0, Status.INVALID_INPUT, Status.INVALID_INPUT, 0]
    result.variables[0].nansum().backward()
    torch.testing.assert_close(v.grad, torch.tensor([-1 / 16, 0, 0, -0.5], dtype=torch.float64), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("library", "solver"),
    [
        (cvxlayers.torch, "CLARABEL"),
        (cvxlayers.torch, "NATIVE"),
        (cvxlayers.jax, "CLARABEL"),
        pytest.param(cvxlayers.jax, "NATIVE", marks=pytest.mark.slow),  # three shapes to compile
    ],
)
def test_the_parameters_at_fault_are_named(library, solver):
    x, w, P = cp.Variable(2), cp.Parameter(nonneg=True, name="w"), cp.Parameter((2, 2), PSD=True, name="P")
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) + w * cp.norm1(x - 1) + cp.trace(P) * x[0]))
    layer = library.CvxpyLayer(
        problem, [w, P], [x], solver=solver, solver_args={"compiled": False} if solver == "NATIVE" else {}
    )
    good = np.eye(2)
    with pytest.raises(SolverError, match="INVALID_INPUT: parameter 'w' is not nonneg. With"):
        layer(-1.0, good)
    text = "parameter 'w' holds NaN at 3, parameter 'w' is not nonneg at 0, 1, parameter 'P' is not PSD at 0. With"
    with pytest.raises(SolverError, match=text):
        layer(np.array([-1.0, -2.0, 1.0, NAN]), np.stack([-good, good, good, good]))
    with pytest.raises(SolverError, match="parameter 'P' holds infinity at 1"):
        layer(np.array([-1.0, 1.0]), np.stack([good, np.full((2, 2), np.inf)]))


def test_an_infinite_bound_is_no_bound():
    layer = interval(cvxlayers.torch)
    p = torch.tensor([[1.0, -2.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    (x,) = layer(np.array([-np.inf, 0.0]), np.array([np.inf, np.inf]), p, np.zeros(2))
    torch.testing.assert_close(x, torch.tensor([[1.0, 0.0], [3.0, 4.0]], dtype=torch.float64), rtol=0, atol=1e-6)
    x.sum().backward()
    torch.testing.assert_close(p.grad, torch.tensor([[1.0, 0], [1, 1]], dtype=torch.float64), rtol=0, atol=1e-6)


def test_smoothed_gradients_beside_a_failed_element():
    x, c, G, h = cp.Variable(2), cp.Parameter(2), cp.Parameter((3, 2)), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(c @ x), [G @ x <= h])
    layer = cvxlayers.torch.CvxpyLayer(problem, [c, G, h], [x], gradient="smoothed", on_failure="nan")
    G = np.array([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    c = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [2.0, 1.0]], dtype=torch.float64, requires_grad=True)
    h = np.array([[1.0, 0, 0], [-1.0, 0, 0], [1.0, 0, 0]])
    (x,) = layer(c, G, h)
    x.square().sum().backward()
    assert x[1].isnan().all() and not c.grad[1].any() and c.grad[[0, 2]].isfinite().all()
