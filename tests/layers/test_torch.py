"""The PyTorch layer under every transform of PyTorch, as a module, and in other threads and processes."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import cvxpy as cp
import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import cvxlayers
from cvxlayers.conic.kkt import DenseKKT
from cvxlayers.errors import CvxlayersError
from cvxlayers.solvers import Native
from cvxlayers.torch import CvxpyLayer
from tests.layers import problems
from tests.layers.facts import TIGHT, close, function, reverse_jacobian, vector

NAN = float("nan")
ROOT = Path(__file__).parents[2]
NAMES = ["nonnegative", "second_order", "semidefinite", "exponential", "power_linear", "geometric", "complex_numbers"]


def box() -> CvxpyLayer:
    """The nearest point of [0, 1]^3."""
    x, p = cp.Variable(3), cp.Parameter(3)
    return CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0, x <= 1]), [p], [x])


def by_backward(f, v):
    v = v.clone().requires_grad_()
    outputs = f(v)
    rows = [torch.autograd.grad(outputs[i], v, retain_graph=True)[0] for i in range(len(outputs))]
    return torch.stack(rows)


def by_dual_numbers(f, v):
    columns = []
    for direction in torch.eye(len(v), dtype=v.dtype):
        with fwAD.dual_level():
            columns.append(fwAD.unpack_dual(f(fwAD.make_dual(v, direction))).tangent)
    return torch.stack(columns, -1)


def by_recorded_backward(f, v):
    v = v.clone().requires_grad_()
    outputs = f(v)
    rows = [torch.autograd.grad(outputs[i], v, create_graph=True)[0] for i in range(len(outputs))]
    return torch.stack(rows).detach()


JACOBIANS = {
    "backward": by_backward,
    "backward with create_graph": by_recorded_backward,
    "jacrev": lambda f, v: jacrev(f)(v),
    "jacrev in chunks": lambda f, v: jacrev(f, chunk_size=2)(v),
    "jacfwd": lambda f, v: jacfwd(f)(v),
    "forward_ad": by_dual_numbers,
    "functional.jacobian": lambda f, v: torch.autograd.functional.jacobian(f, v),
    "jvp": lambda f, v: torch.stack([jvp(f, (v,), (e,))[1] for e in torch.eye(len(v), dtype=v.dtype)], -1),
    "vjp": lambda f, v: torch.stack([vjp(f, v)[1](e)[0] for e in torch.eye(len(f(v)), dtype=v.dtype)]),
    "vmap of vjp": lambda f, v: vmap(lambda e: vjp(f, v)[1](e)[0])(torch.eye(len(f(v)), dtype=v.dtype)),
    "vmap of jvp": lambda f, v: vmap(lambda e: jvp(f, (v,), (e,))[1])(torch.eye(len(v), dtype=v.dtype)).T,
    "vmap of jacrev": lambda f, v: vmap(jacrev(f))(torch.stack([v, v]))[1],
    "jacrev of vmap": lambda f, v: jacrev(vmap(f))(torch.stack([v, v]))[1, :, 1],
    "jacfwd of vmap of vmap": lambda f, v: jacfwd(vmap(vmap(f)))(v.expand(2, 2, -1).clone())[1, 0, :, 1, 0],
    "vmap over the last axis": lambda f, v: vmap(jacfwd(f), in_dims=1)(torch.stack([v, v], 1))[0],
}


@pytest.mark.parametrize("transform", JACOBIANS)
@pytest.mark.parametrize("name", NAMES)
def test_jacobians(name, transform):
    f, v = function("torch", name), vector(name)
    close(JACOBIANS[transform](f, torch.from_numpy(v)).numpy(), reverse_jacobian(f, v), 1e-7)


HESSIANS = {
    "jacrev of jacrev": lambda g: jacrev(jacrev(g)),
    "jacfwd of jacfwd": lambda g: jacfwd(jacfwd(g)),
    "jacrev of jacfwd": lambda g: jacrev(jacfwd(g)),
    "jacfwd of grad": lambda g: jacfwd(grad(g)),
    "vmap of hessian": lambda g: lambda v: vmap(hessian(g))(torch.stack([v, v]))[1],
    "hessian of vmap": lambda g: lambda v: hessian(lambda w: vmap(g)(w).sum())(torch.stack([v, v]))[1, :, 1],
    "double backward": lambda g: lambda v: torch.autograd.functional.hessian(g, v),
    "hvp": lambda g: lambda v: torch.stack([jvp(grad(g), (v,), (e,))[1] for e in torch.eye(len(v), dtype=v.dtype)]),
    "vhp": lambda g: (
        lambda v: torch.stack([torch.autograd.functional.vhp(g, v, e)[1] for e in torch.eye(len(v), dtype=v.dtype)])
    ),
}


@pytest.mark.parametrize("transform", HESSIANS)
@pytest.mark.parametrize("name", ["second_order", "semidefinite", "power_linear", "complex_numbers"])
def test_hessians(name, transform):
    """All of them are the Hessian that `tests.layers.test_derivatives` checks."""
    f, v = function("torch", name), torch.from_numpy(vector(name))
    weight = torch.linspace(-1, 1, len(f(v)), dtype=torch.float64)

    def value(v):
        return torch.sin(f(v)) @ weight

    close(HESSIANS[transform](value)(v).detach(), hessian(value)(v), 1e-8)


def test_third_derivatives():
    x, p = cp.Variable(2), cp.Parameter(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.norm(x) <= 1]), [p], [x])
    v, e = torch.tensor([2.0, 1.0], dtype=torch.float64), torch.tensor([0.3, -0.8], dtype=torch.float64)

    def along(t):
        return layer(v + t * e)[0][0]

    def exact(t):
        return ((v + t * e) / (v + t * e).norm())[0]

    zero = torch.zeros((), dtype=torch.float64)
    for nest in (
        lambda f: grad(grad(grad(f))),
        lambda f: jacfwd(jacfwd(jacfwd(f))),
        lambda f: jacfwd(jacrev(jacfwd(f))),
    ):
        close(nest(along)(zero), nest(exact)(zero), 1e-5)


def test_vmap_matches_a_batch():
    layer = problems.get("nonnegative")
    case, layer = layer, CvxpyLayer(layer.problem, layer.parameters, layer.variables)
    rng = np.random.default_rng(0)
    batch = [torch.from_numpy(v + 0.05 * rng.normal(size=(5, *v.shape))) for v in case.values]
    shared = [torch.from_numpy(v) for v in case.values]
    for mask in ((1, 1, 1, 1), (1, 0, 0, 0), (0, 1, 0, 1)):
        given = [b if m else s for b, s, m in zip(batch, shared, mask, strict=True)]
        expected = layer(*given)
        got = vmap(layer, in_dims=tuple(0 if m else None for m in mask))(*given)
        for a, b in zip(got, expected, strict=True):
            close(a, b, 1e-12)
    result = vmap(lambda *v: layer.solve(*v).objective)(*batch)
    close(result, layer.solve(*batch).objective, 1e-12)


def test_deep_nests_of_vmap():
    f = box()
    v = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 2, 3)))
    got = vmap(vmap(vmap(lambda p: f(p)[0])))(v)
    close(got, v.clamp(0, 1), 1e-7)
    got = vmap(vmap(vmap(grad(lambda p: f(p)[0].square().sum()))))(v)
    close(got, 2 * v.clamp(0, 1) * (v > 0) * (v < 1), 1e-6)
    got = vmap(lambda p: vmap(lambda q: f(p + q)[0], in_dims=1, out_dims=1)(v[0, 0].T))(v[:, 0, 0])
    close(got, (v[:, 0, 0][:, :, None] + v[0, 0].T).clamp(0, 1), 1e-7)


def test_the_graph_can_be_kept():
    layer, p = box(), torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64, requires_grad=True)
    (x,) = layer(p)
    loss = x.square().sum()
    loss.backward(retain_graph=True)
    first = p.grad.clone()
    loss.backward()
    close(p.grad, 2 * first, 1e-14)


def test_the_backward_pass_factors_once_and_inference_never(monkeypatch):
    made = []
    original = DenseKKT.__init__

    def counted(self, *args, **kwargs):
        made.append(1)
        original(self, *args, **kwargs)

    monkeypatch.setattr(DenseKKT, "__init__", counted)
    layer, p = box(), torch.zeros(4, 3, requires_grad=True)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            layer(p)
            layer.solve(p)
    layer(p.detach())
    (x,) = layer(p)
    assert not made
    x.sum().backward(retain_graph=True)
    x.sum().backward()
    assert len(made) == 1
    result = layer.solve(p)
    result.objective.sum().backward()
    assert len(made) == 1


def test_inference_mode():
    layer, p = box(), torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    with torch.inference_mode():
        (x,) = layer(p)
        assert x.is_inference()
    close(x, [0.5, 0, 1], 1e-7)
    q = p.clone().requires_grad_()
    layer(q)[0].sum().backward()
    close(q.grad, [1, 0, 0], 1e-7)


def test_changing_an_input_between_forward_and_backward():
    """PyTorch refuses if it can see it; what it cannot see must not matter."""
    case = problems.get("nonnegative")
    layer = CvxpyLayer(case.problem, case.parameters, case.variables)
    tensors = [torch.from_numpy(v.copy()).requires_grad_() for v in case.values]
    outputs = layer(*tensors)
    with torch.no_grad():
        tensors[2].mul_(3.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        sum(o.sum() for o in outputs).backward()

    expected = None
    for change in (False, True):
        Q, p, G, h = (v.copy() for v in case.values)
        v = torch.from_numpy(p).requires_grad_()
        result = layer.solve(Q, v, G, h)
        if change:
            for array in (Q, G, h):
                array *= 7.0
        sum(o.sum() for o in (*result.variables, result.objective)).backward()
        expected = v.grad.clone() if expected is None else expected
        close(v.grad, expected, 1e-14)


def test_changing_an_output_in_place_does_not_change_the_gradient():
    layer, p = box(), torch.tensor([0.5, 0.25, 0.2], dtype=torch.float64, requires_grad=True)
    (x,) = layer(p)
    y = x * 2
    with torch.no_grad():
        x.zero_()
    y.sum().backward()
    close(p.grad, [2, 2, 2], 1e-7)


@pytest.mark.parametrize("solver", [None, "native", "CLARABEL"])
def test_an_output_may_be_changed_in_place(solver):
    """An output that is the solution itself, too: derivatives have their own."""
    x, c, G, h = cp.Variable(2), cp.Parameter(2), cp.Parameter((4, 2)), cp.Parameter(4)
    problem = cp.Problem(cp.Minimize(c @ x), [G @ x <= h])
    layer = CvxpyLayer(problem, [c, G, h], [x], solver=solver)
    box = torch.cat([torch.eye(2), -torch.eye(2)]).double()
    given = [torch.tensor([1.0, -2.0]).double(), box + 0.1, torch.ones(4).double()]
    given = [v.requires_grad_() for v in given]
    expected = torch.autograd.grad(2 * layer(*given)[0].sum(), given)
    (x,) = layer(*given)
    found = torch.autograd.grad(x.mul_(2.0).sum(), given)
    for a, b in zip(found, expected, strict=True):
        close(a, b, 1e-12)
    result = cvxlayers.solve(problem, parameters={p: v.detach().numpy() for p, v in zip((c, G, h), given, strict=True)})
    kept, variable = result[problem.variables()[0]], problem.variables()[0]
    expected = result.vjp({variable: np.ones(2)})[G]
    kept *= 0.0
    close(result.vjp({variable: np.ones(2)})[G], expected, 1e-14)


@pytest.mark.parametrize("solver", [None, Native(compiled=False)])
def test_a_vmapped_backward_pass(solver):
    x, p = cp.Variable(3), cp.Parameter(3)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0, cp.sum(x) == 1]), [p], [x], solver)
    v = torch.tensor([0.2, 0.4, 0.9], dtype=torch.float64, requires_grad=True)
    (y,) = layer(v)
    found = vmap(lambda g: torch.autograd.grad(y, v, g, retain_graph=True)[0])(torch.eye(3, dtype=torch.float64))
    close(found, np.eye(3) - 1 / 3, 1e-7)


@pytest.mark.parametrize("solver", [None, Native(compiled=False)])
def test_how_an_element_ended_under_vmap(solver):
    """A loss that leaves failed elements out by their status."""
    x, q, b = cp.Variable(2), cp.Parameter(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x) / 2 + q @ x), [x <= b, cp.sum(x) >= -10])
    layer = CvxpyLayer(problem, [q, b], [x], solver, on_failure="nan")
    q = torch.tensor([[1.0, 2.0], [3.0, NAN], [3.0, 4.0]], dtype=torch.float64)
    b = torch.ones(2, dtype=torch.float64)

    def loss(q):
        result = layer.solve(q, b)
        assert result.status.shape == result.iterations.shape == () and result.residuals.shape == (3,)
        return torch.where(result.status[..., None] <= 1, result[x], 0.0).sum()

    close(vmap(loss)(q), [-3, 0, -7], 1e-6)
    close(vmap(grad(loss))(q), [[-1, -1], [0, 0], [-1, -1]], 1e-6)


def test_tracing_is_refused():
    layer, v = box(), torch.tensor([0.5, 0.25, 0.2], dtype=torch.float64)
    with pytest.raises(CvxlayersError, match=r"Take torch\.func\.jvp"):
        torch.func.linearize(lambda p: layer(p)[0], v)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # of the compiler itself
def test_compile():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.layer, self.last = torch.nn.Linear(2, 3), box(), torch.nn.Linear(3, 1)

        def forward(self, v):
            return self.last(torch.relu(self.layer(torch.tanh(self.first(v)))[0]))

    torch.manual_seed(0)
    model, v = Model(), torch.randn(5, 2)
    expected = model(v)
    expected.sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    compiled = torch.compile(model, backend="aot_eager")
    for _ in range(2):
        model.zero_grad()
        got = compiled(v)
        got.sum().backward()
        close(got.detach(), expected.detach(), 1e-6)
        for p, g in zip(model.parameters(), gradients, strict=True):
            close(p.grad, g, 1e-5)
    with torch.no_grad():
        close(compiled(v), expected.detach(), 1e-6)


@pytest.mark.parametrize("solved", [False, True])
def test_copies(solved):
    case = problems.get("nonnegative")
    layer = CvxpyLayer(case.problem, case.parameters, case.variables, solver_args={"eps": 1e-9}, on_failure="nan")
    expected = [o.clone() for o in layer(*case.values)] if solved else None
    if solved:
        inputs = [torch.from_numpy(v).requires_grad_() for v in case.values]
        layer(*inputs, warm_start=True)[0].sum().backward()
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    copies = [
        copy.deepcopy(layer),
        copy.copy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(buffer, weights_only=False),
        copy.deepcopy(torch.nn.Sequential(layer))[0],
    ]
    expected = expected or layer(*case.values)
    for other in copies:
        for a, b in zip(other(*case.values), expected, strict=True):
            assert torch.equal(a, b)
        assert str(other.plan()) == str(layer.plan()) and repr(other) == repr(layer)
        assert other.core.on_failure == "nan"
    assert layer.state_dict() == {} and list(layer.parameters()) == []
    layer.load_state_dict({})
    assert layer.to(torch.float32) is layer and layer.cpu() is layer


def test_a_result_can_be_pickled():
    result = box().solve(torch.zeros(2, 3))
    again = pickle.loads(pickle.dumps(result))
    assert torch.equal(again.variables[0], result.variables[0]) and again.names == result.names


def test_training_goes_down():
    torch.manual_seed(0)
    x, mu = cp.Variable(4), cp.Parameter(4)
    problem = cp.Problem(cp.Maximize(mu @ x - cp.sum_squares(x)), [cp.sum(x) == 1, x >= 0])
    model = torch.nn.ModuleDict({"predict": torch.nn.Linear(3, 4), "layer": CvxpyLayer(problem, [mu], [x])})
    v, target = torch.randn(16, 3), torch.tensor([0.7, 0.1, 0.1, 0.1])
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.05), []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (model["layer"](model["predict"](v))[0] - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_checkpointing():
    from torch.utils.checkpoint import checkpoint

    layer, p = box(), torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64, requires_grad=True)
    for reentrant in (False, True):
        p.grad = None
        checkpoint(lambda v: layer(v)[0].square(), p, use_reentrant=reentrant).sum().backward()
        close(p.grad, [1.0, 0, 0.4], 1e-6)


def test_hooks_and_autocast():
    layer, p = box(), torch.tensor([0.5, -1.0, 0.2], requires_grad=True)
    seen = []
    handle = layer.register_forward_hook(lambda module, inputs, outputs: seen.append(len(outputs)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (x,) = layer(p * 1.0)
        x.sum().backward()
    handle.remove()
    assert seen == [1] and p.grad.dtype == torch.float32
    close(p.grad, [1, 0, 1], 1e-6)


def test_autocast_with_float32():
    """What is solved in float32 is not rounded to bfloat16 on the way."""
    case = problems.get("second_order")
    layer = CvxpyLayer(
        case.problem,
        case.parameters,
        case.variables,
        solver="native",
        solver_args={"precision": "float32", "compiled": False},
    )
    inputs = [torch.tensor(v, dtype=torch.float32, requires_grad=True) for v in case.values]
    expected = layer(*inputs)[0]
    gradients = torch.autograd.grad(expected.sum(), inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(*inputs)[0]
        pairs = [(found, expected), *zip(torch.autograd.grad(found.sum(), inputs), gradients, strict=True)]
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_threads_share_a_layer():
    """Threads that call and differentiate one layer at once get what they would get alone."""
    case = problems.get("second_order")
    layer = CvxpyLayer(case.problem, case.parameters, case.variables)
    rng = np.random.default_rng(0)
    work = [[v + 0.02 * rng.normal(size=(b, *v.shape)) for v in case.values] for b in (1, 2, 3, 2, 1, 3, 2, 2)]

    def run(values):
        inputs = [torch.from_numpy(v).requires_grad_() for v in values]
        outputs = layer(*inputs)
        sum(o.square().sum() for o in outputs).backward()
        return [*(o.detach() for o in outputs), *(t.grad for t in inputs)]

    expected = [run(values) for values in work]
    got, errors = [None] * len(work), []

    def target(i):
        try:
            for _ in range(5):
                got[i] = run(work[i])
                assert all(torch.equal(a, b) for a, b in zip(got[i], expected[i], strict=True))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=target, args=(i,)) for i in range(len(work))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors, errors


def test_other_processes():
    """A forked process, spawned ones, a DataLoader, and DistributedDataParallel over two processes."""
    path = ROOT / "tests" / "workers" / "processes.py"
    done = subprocess.run([sys.executable, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["forked", "data loader", "spawned, distributed"]


def test_tight_settings_are_used():
    assert function("torch", "zero", TIGHT) is not None
    p = torch.ones(3)
    layer = box()
    with pytest.raises(TypeError):
        layer(p, unknown=1)
