"""Layers on a GPU: nothing leaves the device, nothing waits for it, and the numbers are those of the CPU."""

from __future__ import annotations

import warnings

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers import SolverError, Status
from tests.layers import problems

pytestmark = pytest.mark.gpu
torch = pytest.importorskip("torch")

NAMES = ["nonnegative", "linear", "maximization", "second_order", "exponential", "power", "semidefinite", "geometric"]


@pytest.fixture(autouse=True)
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")


def problem():
    """A quadratic program of the size that the kernels take, n = 10, m = 20; its parameters and its variable."""
    x, Q, p = cp.Variable(10), cp.Parameter((10, 10)), cp.Parameter(10)
    G, h = cp.Parameter((20, 10)), cp.Parameter(20)
    return cp.Problem(cp.Minimize(0.5 * cp.sum_squares(Q @ x) + p @ x), [G @ x <= h]), [Q, p, G, h], [x]


def layer(**options):
    from cvxlayers.torch import CvxpyLayer

    return CvxpyLayer(*problem(), **options)


def values(batch: int, device="cuda", dtype=None):
    rng = np.random.default_rng(0)
    z, s = rng.normal(size=(batch, 10)), rng.uniform(size=(batch, 20))
    Q, p, G = rng.normal(size=(batch, 10, 10)) + 2 * np.eye(10), rng.normal(size=(batch, 10)), rng.normal(size=(20, 10))
    arrays = (Q, p, G, z @ G.T + s)
    return [torch.from_numpy(v).to(device=device, dtype=dtype).requires_grad_() for v in arrays]


def gradients(made, inputs):
    (x,) = made(*inputs)
    return x, torch.autograd.grad(x.square().sum(), inputs)


@pytest.fixture(params=[True, False], ids=["recorded", "not recorded"])
def recorded(request, monkeypatch):
    """Whether calls of a shape that comes again are recorded as CUDA graphs."""
    if not request.param:
        monkeypatch.setattr("cvxlayers.array.graphs.REPEATED", 1 << 30)


@pytest.mark.parametrize("batch", [1, 64])
def test_nothing_waits_for_the_device(batch, recorded):
    made, inputs = layer(on_failure="nan"), values(batch)
    for _ in range(3):  # kernels are compiled, constants go to the device, calls are recorded
        gradients(made, inputs)
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls itself a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        x, grads = gradients(made, inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert x.is_cuda and all(g.is_cuda for g in grads)
    reference, expected = gradients(layer(), [v.detach().cpu().requires_grad_() for v in inputs])
    torch.testing.assert_close(x.cpu(), reference, rtol=1e-6, atol=1e-6)
    for a, b in zip(grads, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["second_order", "semidefinite", "exponential"])
def test_no_transfer(name, recorded):
    """Between the parameters and the gradients, nothing is copied from the device or to it."""
    from torch.profiler import ProfilerActivity, profile

    from cvxlayers.torch import CvxpyLayer

    case = problems.get(name)
    made = CvxpyLayer(case.problem, case.parameters, case.variables, solver="native", on_failure="nan")
    inputs = [torch.as_tensor(np.stack([v, 1.01 * v]), device="cuda").requires_grad_() for v in case.values]

    def work():
        return torch.autograd.grad(sum(o.square().sum() for o in made(*inputs)), inputs)

    for _ in range(3):
        work()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiled:
        work()
        torch.cuda.synchronize()
    names = {event.key for event in profiled.key_averages()}
    assert any("solve" in name for name in names)
    assert not [name for name in names if "HtoD" in name or "DtoH" in name]


def test_torch_compile():
    """Inside a compiled function a layer breaks the graph, and is as it is outside."""
    made, inputs = layer(), values(8)

    def loss(*inputs):
        (x,) = made(inputs[0] * 1.0, torch.tanh(inputs[1]), *inputs[2:])
        return (torch.sin(x) ** 2).sum()

    expected = loss(*inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, about its own
        found = torch.compile(loss)(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    pairs = zip(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def test_in_a_cuda_graph():
    """Recorded once, replayed on other data; gradients included."""
    made, inputs = layer(on_failure="nan"), values(32)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            gradients(made, inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x, grads = gradients(made, inputs)
    with torch.no_grad():
        inputs[1].copy_(torch.linspace(-1, 1, 10, dtype=torch.float64))
    graph.replay()
    found = x.clone(), [g.clone() for g in grads]
    reference, expected = gradients(made, [v.detach().clone().requires_grad_() for v in inputs])
    torch.testing.assert_close(found[0], reference, rtol=1e-9, atol=1e-9)
    for a, b in zip(found[1], expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def test_on_another_stream():
    made, inputs = layer(on_failure="nan"), values(16)
    expected = gradients(made, inputs)[0].detach()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        x = gradients(made, inputs)[0].detach()
    stream.synchronize()
    torch.testing.assert_close(x, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_cpu(name, compiled):
    from cvxlayers.solvers.interior_point import Native
    from cvxlayers.torch import CvxpyLayer

    case, rng = problems.get(name), np.random.default_rng(0)
    found = []
    for device in ("cuda", "cpu"):
        tol = 1e-9 if device == "cuda" else 1e-11  # the reference is to be the better one
        made = CvxpyLayer(
            case.problem, case.parameters, case.variables, gp=case.gp, solver=Native(compiled=compiled, tol=tol)
        )
        inputs = [
            torch.as_tensor(np.stack([v, 1.01 * v, 0.99 * v]), device=device).requires_grad_() for v in case.values
        ]
        result = made.solve(*inputs)
        assert all(o.device.type == device for o in (*result.variables, result.status, result.residuals))
        total = sum((k + 1) * o.sin().sum() for k, o in enumerate((*result.variables, result.objective)))
        found.append([*result.variables, result.objective, *torch.autograd.grad(total, inputs)])
    del rng
    for a, b in zip(*found, strict=True):
        scale = max(1.0, b.detach().abs().max().item())
        torch.testing.assert_close(a.detach().cpu() / scale, b.detach() / scale, rtol=0, atol=2e-5)


@pytest.mark.parametrize("transform", ["jacrev", "jacfwd", "hessian", "vmap"])
def test_transforms(transform):
    made, inputs = layer(), [v.detach()[0] if v.ndim > 1 and len(v) == 4 else v.detach() for v in values(4)]

    def f(p):
        return made(inputs[0], p, inputs[2], inputs[3])[0]

    if transform == "vmap":
        p = torch.stack([inputs[1], 2 * inputs[1]])
        torch.testing.assert_close(torch.func.vmap(f)(p)[1], f(2 * inputs[1]), rtol=1e-8, atol=1e-8)
    elif transform == "hessian":
        assert torch.func.hessian(lambda p: f(p).square().sum())(inputs[1]).isfinite().all()
    else:
        jacobian = getattr(torch.func, transform)(f)(inputs[1])
        torch.testing.assert_close(jacobian, torch.autograd.functional.jacobian(f, inputs[1]), rtol=1e-6, atol=1e-7)


def test_float32():
    made, inputs = layer(), values(8, dtype=torch.float32)
    x, grads = gradients(made, inputs)
    assert x.dtype == torch.float32 and {g.dtype for g in grads} == {torch.float32}
    exact = gradients(made, [v.detach().double().requires_grad_() for v in inputs])[0]
    torch.testing.assert_close(x.double(), exact, rtol=1e-5, atol=1e-5)


def test_failures():
    inputs = values(4)
    with torch.no_grad():
        inputs[1][2, 0] = float("nan")
    with pytest.raises(SolverError) as raised:
        layer()(*inputs)
    assert raised.value.indices == (2,) and raised.value.statuses == (Status.INVALID_INPUT,)
    x, grads = gradients(lambda *v: [layer(on_failure="nan")(*v)[0].nan_to_num()], inputs)
    assert not x[2].any() and all(g.isfinite().all() for g in grads)


def test_what_the_plan_says():
    plan = layer().plan("cuda")
    assert plan.solver.name == "NATIVE" and layer().plan().solver.name != "NATIVE"
    assert "by kernels" in plan.reason and "by kernels" in str(plan)
    assert "CUDA graphs" in layer(solver="native", solver_args={"compiled": False}).plan("cuda").reason


def test_jax_on_the_gpu():
    """Under jit, in one program without callbacks, and on the device."""
    jax = pytest.importorskip("jax")
    if jax.default_backend() != "gpu":
        pytest.skip("JAX has no GPU")
    import cvxlayers.jax

    torch_layer, inputs = layer(), values(8)
    core = torch_layer.core
    made = cvxlayers.jax.CvxpyLayer.__new__(cvxlayers.jax.CvxpyLayer)
    made.core = core
    arrays = [jax.numpy.asarray(v.detach().cpu().numpy()) for v in inputs]

    def both(*arrays):
        return jax.value_and_grad(lambda *v: (made(*v)[0] ** 2).sum(), argnums=(0, 1, 2, 3))(*arrays)

    assert "callback" not in str(jax.make_jaxpr(both)(*arrays))
    value, grads = jax.jit(both)(*arrays)
    assert {d.platform for d in value.devices()} == {"gpu"}
    x, expected = gradients(torch_layer, inputs)
    np.testing.assert_allclose(float(value), x.square().sum().item(), rtol=1e-6)
    for a, b in zip(grads, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a), b.cpu().numpy(), rtol=1e-5, atol=1e-5)
