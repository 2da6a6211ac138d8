"""The native solver on the caller's own arrays: no host in it, the same solutions, every derivative."""

from __future__ import annotations

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, vmap

import cvxlayers.jax
import cvxlayers.torch
from cvxlayers import CvxlayersError, SettingsError, ShapeError, SolverError, Status
from cvxlayers.array.scatter import Constant
from cvxlayers.conic import array_kkt
from cvxlayers.solvers.interior_point import Native, dispatch, method
from tests.layers import problems
from tests.layers.facts import close, forward_jacobian, function, layer, reverse_jacobian, vector
from tests.layers.test_derivatives import expected
from tests.layers.test_failures import KINDS, interval, spoiled
from tests.layers.test_torch import HESSIANS, JACOBIANS

ARRAYS = Native(compiled=False)  # works on the arrays it is given, wherever they are


def native(library: str, name: str):
    return function(library, name, (), solver=ARRAYS)


def projection(library, **options):
    """The nearest point to p in {x: sum(x) = 1, 0 <= x}, with the multiplier of the sum."""
    x, p = cp.Variable(3), cp.Parameter(3)
    budget = cp.sum(x) == 1
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [budget, x >= 0])
    return library.CvxpyLayer(problem, [p], [x, budget.dual_variables[0]], **{"solver": ARRAYS, **options})


@pytest.mark.parametrize("name", problems.CASES)
def test_solutions_and_jacobians(name):
    """Against exact solutions and their finite differences; Newton's method makes the conic ones exact."""
    outputs, jacobian = expected(name)
    f, v = native("torch", name), vector(name)
    close(f(torch.from_numpy(v)), outputs, 1e-7)
    close(reverse_jacobian(f, v), jacobian, 1e-6)
    close(forward_jacobian(f, v), jacobian, 1e-6)


@pytest.mark.parametrize("transform", JACOBIANS)
@pytest.mark.parametrize("name", ["nonnegative", pytest.param("exponential", marks=pytest.mark.slow)])
def test_transforms_of_pytorch(name, transform):
    f, v = native("torch", name), vector(name)
    close(JACOBIANS[transform](f, torch.from_numpy(v)), reverse_jacobian(f, v), 1e-7)


@pytest.mark.parametrize("transform", HESSIANS)
def test_hessians_of_pytorch(transform):
    f, g, v = native("torch", "second_order"), function("torch", "second_order"), vector("second_order")
    weight = torch.linspace(-1, 1, len(f(torch.from_numpy(v))), dtype=torch.float64)
    expected = hessian(lambda v: torch.sin(g(v)) @ weight)(torch.from_numpy(v))
    close(HESSIANS[transform](lambda v: torch.sin(f(v)) @ weight)(torch.from_numpy(v)).detach(), expected, 1e-6)


def test_batches_and_shared_parameters():
    """Any mix of batch dimensions: outputs, gradients of shared parameters and duals are those of the host's route."""
    case, rng = problems.get("nonnegative"), np.random.default_rng(0)
    leads = [(2, 3), (), (3,), (2, 1)]
    values = [v + 0.05 * rng.normal(size=(*lead, *v.shape)) for v, lead in zip(case.values, leads, strict=True)]
    for options in ({}, {"gradient": "smoothed", "smoothing": 1e-2}):
        found = []
        for solver in (ARRAYS, None):
            made = cvxlayers.torch.CvxpyLayer(case.problem, case.parameters, case.variables, solver=solver, **options)
            inputs = [torch.from_numpy(v).requires_grad_() for v in values]
            result = made.solve(*inputs)
            total = sum((o.sin() * (k + 1)).sum() for k, o in enumerate((*result.variables, result.objective)))
            total.backward()
            found.append([*result.variables, result.objective, *(t.grad for t in inputs)])
        for a, b in zip(*found, strict=True):
            assert a.shape == b.shape
            close(a.detach(), b.detach(), 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_failed_elements(kind):
    """NaN forward and zero backward, to the last bit without influence on the others, with the host's status."""
    made, values, good, status = spoiled(kind, cvxlayers.torch)
    made = cvxlayers.torch.CvxpyLayer(*_again(kind), on_failure="nan", solver=ARRAYS)
    inputs = [torch.from_numpy(v).requires_grad_() for v in values]
    alone = [torch.from_numpy(v[good]).requires_grad_() for v in values]
    result, reference = made.solve(*inputs), made.solve(*alone)
    assert result.status.tolist() == [0 if g else status for g in good]
    assert torch.equal(result.variables[0][good], reference.variables[0])
    assert result.variables[0][~good].isnan().all() and result.objective[~good].isnan().all()
    for r in (result, reference):
        (r.variables[0].square().sum() + (r.objective**2).sum()).backward()
    for a, b in zip(inputs, alone, strict=True):
        assert torch.equal(a.grad[good], b.grad)
        assert torch.equal(a.grad[~good], torch.zeros_like(a.grad[~good]))


def _again(kind: str):
    """The problem of `spoiled`, its parameters and variables."""
    if kind == "unbounded":
        x, c, low = cp.Variable(), cp.Parameter(), cp.Parameter()
        return cp.Problem(cp.Minimize(c * x), [x >= low]), [c, low], [x]
    if kind.startswith("interval"):
        x, low, high, p, w = cp.Variable(2), cp.Parameter(2), cp.Parameter(2), cp.Parameter(2), cp.Parameter(2)
        problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + w @ x), [low <= x, x <= high])
        return problem, [low, high, p, w], [x]
    t, c, p, r = cp.Variable(2), cp.Parameter(2), cp.Parameter(2), cp.Parameter()
    return cp.Problem(cp.Minimize(c @ t), [cp.norm(t - p) <= r, t >= -5]), [c, p, r], [t]


def test_second_derivatives_beside_a_failed_element():
    made = cvxlayers.torch.CvxpyLayer(*_again("cone"), on_failure="nan", solver=ARRAYS)
    _, values, good, _ = spoiled("cone", cvxlayers.torch)

    def second(*inputs):
        first = torch.autograd.grad(made(*inputs)[0].pow(3).nansum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    whole = second(*(torch.from_numpy(v).requires_grad_() for v in values))
    alone = second(*(torch.from_numpy(v[good]).requires_grad_() for v in values))
    for a, b in zip(whole, alone, strict=True):
        close(a[good], b, 1e-11)
        assert not a[~good].any()


def test_what_is_raised():
    made = interval(cvxlayers.torch, solver=ARRAYS)
    one, low = np.ones(2), np.zeros((2, 3, 2))
    low[1, 0], low[0, 2, 0] = 2.0, np.nan
    with pytest.raises(SolverError, match=r"2 of 6 .*on_failure='nan'") as raised:
        made(low, one, np.zeros(2), one)
    assert raised.value.indices == ((0, 2), (1, 0))
    assert raised.value.statuses == (Status.INVALID_INPUT, Status.INFEASIBLE)
    with pytest.raises(ShapeError, match="real"):
        made(low[0, 0] + 1j, one, np.zeros(2), one)


def test_domains_of_parameters():
    x, w, P, H = cp.Variable(2), cp.Parameter(nonneg=True), cp.Parameter((2, 2), NSD=True), cp.Parameter(2, neg=True)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) + w * cp.norm1(x - 1) + cp.trace(P) * x[0] + H @ x))
    made = cvxlayers.torch.CvxpyLayer(problem, [w, P, H], [x], on_failure="nan", solver=ARRAYS)
    good, ones = -np.eye(2), -np.ones(2)
    result = made.solve(
        np.array([1.0, -1.0, 0.0, 2.0, 1.0]),
        np.stack([good, good, np.zeros((2, 2)), np.diag([-1, 1e-3]), good]),
        np.stack([ones, ones, 0 * ones, ones, -ones]),
    )
    assert result.status.tolist() == [0, Status.INVALID_INPUT, 0, Status.INVALID_INPUT, Status.INVALID_INPUT]
    y, a = cp.Variable(pos=True), cp.Parameter(pos=True)
    geometric = cvxlayers.torch.CvxpyLayer(
        cp.Problem(cp.Minimize(a * y + 1 / y)), [a], [y], gp=True, on_failure="nan", solver=ARRAYS
    )
    v = torch.tensor([4.0, 0.0, -1.0, 1.0], dtype=torch.float64, requires_grad=True)
    result = geometric.solve(v)
    assert result.status.tolist() == [0, Status.INVALID_INPUT, Status.INVALID_INPUT, 0]
    result.variables[0].nansum().backward()
    close(v.grad, np.array([-1 / 16, 0, 0, -0.5]), 1e-9)


def test_dtypes_and_empty_batches():
    made, p = projection(cvxlayers.torch), torch.tensor([[0.2, 0.9, -1.0]])
    expected = torch.tensor([[0.15, 0.85, 0.0]])
    for dtype, tolerance in ((torch.float64, 1e-7), (torch.float32, 1e-6), (torch.float16, 1e-3)):
        v = p.to(dtype).detach().requires_grad_()
        x = made(v)[0]
        x[0, 0].backward()
        assert x.dtype == v.grad.dtype == dtype
        close(x.detach().double(), expected.double(), tolerance)
        close(v.grad.double(), np.array([[0.5, -0.5, 0.0]]), tolerance)
    single = projection(cvxlayers.torch, solver=Native(compiled=False, precision="float32"))
    v = p.clone().requires_grad_()
    single(v)[0][0, 0].backward()
    close(v.grad, np.array([[0.5, -0.5, 0.0]]), 1e-3)
    v = torch.zeros((0, 2, 3), requires_grad=True)
    x, dual = made(v)
    assert x.shape == (0, 2, 3) and dual.shape == (0, 2)
    x.sum().backward()
    assert v.grad.shape == (0, 2, 3)


def test_a_call_solves_once(monkeypatch):
    """Whatever derivatives are asked for, as long as nothing is vmapped over the parameters."""
    import cvxlayers.array_map

    calls = []
    inner = cvxlayers.array_map.solve
    monkeypatch.setattr(cvxlayers.array_map, "solve", lambda *args: calls.append(1) or inner(*args))
    made, v = projection(cvxlayers.torch), torch.tensor([0.2, 0.9, -1.0], dtype=torch.float64)
    for derivative in (
        lambda f: jacrev(f)(v),
        lambda f: jacrev(jacrev(f))(v),
        lambda f: torch.autograd.functional.hessian(lambda p: f(p).sum(), v),
    ):
        calls.clear()
        derivative(lambda p: made(p)[0])
        assert len(calls) == 1


def test_an_input_changed_in_place_is_noticed():
    made = projection(cvxlayers.torch)
    v = torch.tensor([0.2, 0.9, -1.0], dtype=torch.float64)
    w = v.clone().requires_grad_()
    (x, _) = made(w * 1.0)
    first = x.detach().clone()
    with torch.no_grad():
        v.add_(0.1)
    made(v)
    x.sum().backward()
    assert torch.equal(x.detach(), first)
    total = w * 1.0
    y = made(total)[0].sum()
    with torch.no_grad():
        total.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_constants_belong_to_no_transform():
    constant, kept = Constant(np.arange(3.0)), []

    def f(x):
        kept.append(constant.like(x))
        return (x * kept[-1]).sum()

    grad(lambda x: vmap(f)(x).sum())(torch.ones(2, 3))
    with torch.inference_mode():
        f(torch.ones(3))
    x = torch.ones(3, requires_grad=True)
    f(x).backward()
    assert torch.equal(x.grad, torch.arange(3.0)) and all(c is kept[0] for c in kept)
    assert not kept[0].is_inference() and not kept[0].requires_grad


@pytest.mark.parametrize("name", ["nonnegative", "second_order"])
def test_certificates(name):
    values = problems.get(name).values
    found, expected = (layer("torch", name, (), solver=s).solve(*values).certificate for s in (ARRAYS, None))
    assert found.residual.shape == (1,) and found.residual.max() < 1e-8
    assert found.unique.tolist() == expected.unique.tolist()
    close(found.margin, expected.margin, 1e-3)


@pytest.mark.parametrize("library", [cvxlayers.torch, cvxlayers.jax])
def test_certificates_of_a_batch(library):
    x, c, h = cp.Variable(2), cp.Parameter(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) + c @ x), [x <= h])
    made = library.CvxpyLayer(problem, [c, h], [x], solver=ARRAYS)
    values = np.array([[1.0, -2.0], [-3.0, -3.0], [0.0, 5.0]]), np.ones(2)
    found = made.solve(*map(torch.from_numpy if library is cvxlayers.torch else jnp.asarray, values)).certificate
    assert found.residual.shape == (3,) and found.residual.max() < 1e-8 and found.unique.all()


def test_the_choice():
    """On the CPU the host's route, unless the arrays' one is asked for; on an accelerator the arrays' one."""
    open_, named = projection(cvxlayers.torch, solver=None).core, projection(cvxlayers.torch, solver="native").core
    assert open_.maps.arrays(False) is None and named.maps.arrays(False) is None
    assert open_.maps.arrays(True).settings == Native()
    assert named.maps.arrays(True, solver_args={"eps": 1e-6}).settings == Native(tol=1e-6)
    assert named.maps.arrays(False, asked=True).settings == Native()
    assert open_.maps.arrays(False, asked=True) is None
    assert projection(cvxlayers.torch).core.maps.arrays(False).settings == ARRAYS
    assert projection(cvxlayers.torch, solver="CLARABEL").core.maps.arrays(True) is None
    assert open_.maps.arrays(True, solver_args={"solve_method": "SCS"}) is None
    assert open_.maps.arrays(True, solver_args={"time_limit": 1.0}) is None  # which is Clarabel's
    assert open_.maps.arrays(True) is open_.maps.arrays(True)
    plan = projection(cvxlayers.torch, solver=None).plan("cuda")
    assert plan.solver == Native() and "device" in str(plan)
    assert projection(cvxlayers.torch, solver=None).plan() == open_.plan
    with pytest.raises(SettingsError, match="setting"):
        named.maps.arrays(True, solver_args={"max_itr": 3})


@pytest.mark.parametrize("name", problems.CASES)
def test_data_lie_on_their_patterns(name):
    """Sparse kernels read nothing else; values that are zero by chance are on them, too."""
    case = problems.get(name)
    made = cvxlayers.torch.CvxpyLayer(case.problem, case.parameters, case.variables, solver=ARRAYS, gp=case.gp)
    map_ = made.core.maps.arrays(True)
    values = [torch.as_tensor(np.asarray(v)) for v in case.values]
    data = map_.elimination.reduce(map_.ends.vectors(values, 0, guard=True))
    P, A = data.P.reshape(-1, *data.P.shape[-2:]), data.A.reshape(-1, *data.A.shape[-2:])
    for v, own in ((P.triu(), map_.program.P), (A, map_.program.A)):
        assert not v[:, own.dense(np.ones(own.nnz)) == 0].any()


class Kernels:
    """What takes the place of the kernels of a GPU: it insists on the layout that they ask for."""

    @staticmethod
    def sparse(program, devices):
        assert len(devices) == 1
        return program

    @staticmethod
    def solve(cone, P, q, A, b, settings, sparsity):
        assert (sparsity.m, sparsity.n) == A.shape[1:]
        batch = max(len(v) for v in (P, q, A, b))
        for v, own in ((P, 2), (q, 1), (A, 2), (b, 1)):
            assert v.is_contiguous() and v.ndim == own + 1 and len(v) in (1, batch)
        return method.solve(cone, P, q, A, b, settings)

    @staticmethod
    def linear_solve(cone, P, A, z, s, gx, gz, sparsity):
        several, batch, n = gx.shape
        assert gz.shape == (several, batch, cone.size) and z.shape == s.shape == (batch, cone.size)
        assert A.shape[1:] == (cone.size, n) and P.shape[1:] == (n, n) and {len(P), len(A)} <= {1, batch}
        assert all(v.is_contiguous() for v in (P, A, z, s, gx, gz))
        return array_kkt.linear_solve(cone, P, A, z, s, gx, gz)


def test_kernels_get_the_layout_that_they_want(monkeypatch):
    """Whatever the batch: none, several dimensions, shared data, several right-hand sides; with the same results."""
    case = problems.get("nonnegative")
    made = cvxlayers.torch.CvxpyLayer(case.problem, case.parameters, case.variables, solver=ARRAYS)

    def results():
        out = []
        for leads in (
            [(), (), (), ()],
            [(4,)] * 4,
            [(2, 3), (), (3,), (2, 1)],
            [(), (), (), (3, 1)],
            [(1,), (), (), ()],
        ):
            rng = np.random.default_rng(0)
            values = [v + 0.05 * rng.normal(size=(*lead, *v.shape)) for v, lead in zip(case.values, leads, strict=True)]
            inputs = [torch.from_numpy(v).requires_grad_() for v in values]
            outputs = made(*inputs)
            out += [*outputs, *torch.autograd.grad(sum(o.sin().sum() for o in outputs), inputs)]
        v = torch.from_numpy(vector("nonnegative"))
        out += [
            jacrev(native("torch", "nonnegative"))(v),
            vmap(jacfwd(native("torch", "nonnegative")))(v.expand(2, -1)),
        ]
        return out

    # The Newton steps afterwards are not the same.
    monkeypatch.setattr("cvxlayers.array_map.polish", lambda cone, P, q, A, b, *point: point[:4])
    expected = results()
    monkeypatch.setattr(dispatch, "_fused", lambda *args: True)
    monkeypatch.setattr(dispatch, "cuda", Kernels)
    for a, b in zip(results(), expected, strict=True):
        close(a.detach(), b.detach(), 1e-12)


def test_jax_stays_in_jax():
    """One compiled program, forward and backward, with no callback in it, that agrees with PyTorch's."""
    name = "nonnegative"
    f, v = native("jax", name), jnp.asarray(vector(name))
    weight = np.random.default_rng(0).normal(size=jax.eval_shape(f, v).shape[-1])
    both = jax.value_and_grad(lambda v: f(v) @ weight)
    assert "callback" not in str(jax.make_jaxpr(both)(v))
    value, gradient = jax.jit(both)(v)
    g = native("torch", name)
    t = torch.from_numpy(vector(name)).requires_grad_()
    total = g(t) @ torch.from_numpy(weight)
    total.backward()
    close(value, total.item(), 1e-10)
    close(gradient, t.grad, 1e-6)


@pytest.mark.slow
def test_jax_batches_itself():
    """vmap over the parameters, and over the directions of a derivative, is a batch of the same program."""
    f, v = native("jax", "nonnegative"), jnp.asarray(vector("nonnegative"))
    values = jnp.stack([v, 1.01 * v, 0.99 * v])
    batched = jax.vmap(jax.jacrev(f))
    assert "callback" not in str(jax.make_jaxpr(batched)(values))
    found = jax.jit(batched)(values)
    for one, jacobian in zip(values, found, strict=True):
        close(jacobian, reverse_jacobian(native("torch", "nonnegative"), np.array(one)), 1e-6)


def test_jax_with_a_failed_element():
    _, values, good, status = spoiled("interval nan", cvxlayers.jax)
    made = cvxlayers.jax.CvxpyLayer(*_again("interval"), on_failure="nan", solver=ARRAYS)

    def loss(v):
        result = made.solve(*v)
        return jnp.nansum(result.variables[0] ** 2), (result.status, result.variables[0])

    given = tuple(map(jnp.asarray, values))
    gradients, (statuses, x) = jax.jit(jax.grad(loss, has_aux=True))(given)
    assert statuses.tolist() == [0 if g else status for g in good]
    assert np.isnan(x[~good]).all() and np.isfinite(x[good]).all()
    for g in gradients:
        assert np.isfinite(g).all() and not np.asarray(g[~good]).any()
    raising = cvxlayers.jax.CvxpyLayer(*_again("interval"), solver=ARRAYS)
    with pytest.raises(SolverError) as raised:
        raising(*given)
    assert raised.value.indices == (1,)


@pytest.mark.slow
@pytest.mark.parametrize("name", problems.CASES)
def test_jax(name):
    outputs, jacobian = expected(name)
    f, v = native("jax", name), jnp.asarray(vector(name))
    weight = np.random.default_rng(1).normal(size=len(outputs))
    values, reverse, forward, second = jax.jit(
        lambda v: (f(v), jax.jacrev(f)(v), jax.jacfwd(f)(v), jax.hessian(lambda v: f(v) @ weight)(v))
    )(v)
    close(values, outputs, 1e-7)
    close(reverse, jacobian, 1e-5)
    close(forward, jacobian, 1e-5)
    in_torch, tensor = function("torch", name), torch.from_numpy(weight)
    close(second, hessian(lambda v: in_torch(v) @ tensor)(torch.from_numpy(vector(name))), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", problems.CONES)
def test_hessians(name):
    f, g, v = native("torch", name), function("torch", name), torch.from_numpy(vector(name))
    weight = torch.linspace(-1, 1, len(f(v)), dtype=torch.float64)
    for transform in (hessian, lambda h: jacfwd(jacfwd(h)), lambda h: jacrev(jacrev(h))):
        close(transform(lambda v: f(v) @ weight)(v), hessian(lambda v: g(v) @ weight)(v), 1e-4)


def test_nothing_is_cast_where_outputs_are_read():
    """Under autocast: variables that equalities define, multipliers and the value are products, too."""
    n = 6
    x, y, F, p = cp.Variable(n), cp.Variable(n), cp.Parameter((n, n)), cp.Parameter(n)
    equality = y == F @ x - p
    problem = cp.Problem(cp.Minimize(cp.sum_squares(y) + cp.sum_squares(x)), [x >= -1, equality])
    settings = Native(compiled=False, precision="float32")
    layer = cvxlayers.torch.CvxpyLayer(problem, [F, p], [y, x, equality.dual_variables[0]], solver=settings)
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(shape, generator=generator) for shape in ((4, n, n), (4, n))]
    wanted = layer.solve(*given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer.solve(*given)
    for a, b in zip((*found.variables, found.objective), (*wanted.variables, wanted.objective), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("solver", [ARRAYS, None, "CLARABEL"])
def test_a_certificate_of_parameters_that_changed(solver):
    """It is found later than the call, from memory that it shares with the caller."""
    layer, p = projection(cvxlayers.torch, solver=solver), torch.tensor([0.3, 0.2, 0.1], dtype=torch.float64)
    result = layer.solve(p)
    assert result.certificate is not None
    result = layer.solve(p)
    p[0] = 2.0
    with pytest.raises(CvxlayersError, match="changed in place"):
        _ = result.certificate
    assert layer.solve(p).certificate is not None
