"""What is recorded, rounds of the array path and calls of layers: the numbers of what is not, on any stream.

And what the caller records, kernels in parts among it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cvxlayers.sets import Nonnegative, Product, SecondOrder, Zero
from cvxlayers.solvers import Native
from cvxlayers.solvers.interior_point import linear_solve, solve
from cvxlayers.status import Status
from tests.layers import problems

pytestmark = pytest.mark.gpu
torch = pytest.importorskip("torch")
CONE = Product((Zero(4), Nonnegative(150), SecondOrder(20), SecondOrder(20)))


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    """The cache of graphs, empty before and after; the first call records."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    from cvxlayers.array import graphs

    monkeypatch.setattr(graphs, "REPEATED", 1)
    graphs._graphs.clear()
    graphs._calls.clear()
    yield graphs
    torch.cuda.synchronize()
    graphs._graphs.clear()


def problem(batch: int, n: int = 240, seed: int = 0, cone: Product = CONE):
    """Programs with more variables than one kernel takes, of different difficulty, with a point inside."""
    rng = np.random.default_rng(seed)
    m = cone.size
    A, x = rng.standard_normal((batch, m, n)) / np.sqrt(n), rng.standard_normal((batch, n))
    F = rng.standard_normal((batch, n // 2, n)) / np.sqrt(n)
    inside = np.concatenate([np.zeros(4), rng.uniform(0.1, 2.0, 150), *[np.r_[3.0, 0.3 * np.ones(19)]] * 2])[:m]
    b = np.einsum("bij,bj->bi", A, x) + inside * 10.0 ** rng.uniform(-1, 1, (batch, 1))
    P = np.einsum("bij,bik->bjk", F, F) + 1e-2 * np.eye(n)
    return [torch.from_numpy(v).cuda() for v in (P, rng.standard_normal((batch, n)), A, b)]


def plain(graphs, monkeypatch, *arguments, function=solve):
    with monkeypatch.context() as patch:
        patch.setattr(graphs, "REPEATED", 1 << 30)
        patch.setattr(graphs, "_graphs", type(graphs._graphs)())
        return function(*arguments)


def close(found, expected):
    assert torch.equal(found.status, expected.status) and (found.status == Status.SOLVED).all()
    for a, b in zip((found.x, found.z, found.s), (expected.x, expected.z, expected.s), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("settings", [{"precision": "mixed"}, {"compiled": False}], ids=str)
def test_the_numbers_of_the_plain_path(graphs, monkeypatch, settings):
    settings, data = Native(**settings), problem(9)
    found = solve(CONE, *data, settings)
    assert graphs._graphs
    close(found, plain(graphs, monkeypatch, CONE, *data, settings))
    again = solve(CONE, *data, settings)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize("batch", [1, 2, 9, 50])
def test_kernels_in_parts_record_nothing(graphs, monkeypatch, batch):
    """They take all of a batch in portions beside each other, with the numbers of the array text."""
    data = problem(batch)
    found, again = (solve(CONE, *data, Native()) for _ in range(2))
    assert not graphs._graphs and all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    P, q = data[:2]

    def values(x):
        return torch.einsum("bi,bij,bj->b", x, P, x) / 2 + (q * x).sum(-1)

    expected = plain(graphs, monkeypatch, CONE, *data, Native(compiled=False))
    assert (found.status == Status.SOLVED).all() and (expected.status == Status.SOLVED).all()
    torch.testing.assert_close(values(found.x), values(expected.x), rtol=1e-7, atol=1e-7)


def test_odd_addresses():
    """Data that begin in the middle of what a kernel copies at once."""
    data = problem(5)
    moved = [torch.cat([v.new_zeros(1), v.flatten()])[1:].view(v.shape) for v in data]
    assert all(v.is_contiguous() and v.data_ptr() % 16 for v in moved)
    close(solve(CONE, *moved, Native()), solve(CONE, *data, Native()))


def test_other_data_and_other_shapes(graphs, monkeypatch):
    """One graph for each shape; other data of a shape go through its graph; the oldest graphs go."""
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 3)
    settings = Native(compiled=False)
    for batch, seed in ((6, 1), (6, 2), (3, 3), (11, 4), (6, 5)):
        data = problem(batch, seed=seed)
        close(solve(CONE, *data, settings), plain(graphs, monkeypatch, CONE, *data, settings))
        assert len(graphs._graphs) <= 3


def test_float32(graphs, monkeypatch):
    data = [v.float() for v in problem(5)]
    found = solve(CONE, *data, Native())
    assert graphs._graphs
    torch.testing.assert_close(found.x, plain(graphs, monkeypatch, CONE, *data, Native()).x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("compiled", [False, True])
def test_neighbours(graphs, compiled):
    """A broken element and one without a solution are their own affair."""
    data, settings = problem(8), Native(compiled=compiled)
    before = solve(CONE, *data, settings)
    data[1][3, 0] = torch.nan
    data[2][5, 4:6] = 0.0
    data[2][5, 4, 0], data[2][5, 5, 0] = 1.0, -1.0
    data[3][5, 4:6] = -1.0  # x_0 <= -1 and x_0 >= 1
    after = solve(CONE, *data, settings)
    assert after.status[3] == Status.INVALID_INPUT and after.status[5] == Status.INFEASIBLE
    keep = [0, 1, 2, 4, 6, 7]
    torch.testing.assert_close(after.x[keep], before.x[keep], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("compiled", [False, True])
def test_threads_and_streams(graphs, monkeypatch, compiled):
    """One graph serves one call at a time, whichever thread and stream it comes from; parts share nothing."""
    settings, problems = Native(compiled=compiled), [problem(6, seed=seed) for seed in range(4)]
    expected = [plain(graphs, monkeypatch, CONE, *data, settings) for data in problems]
    torch.cuda.synchronize()

    def work(k: int):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            found = [solve(CONE, *problems[k], settings) for _ in range(3)]
        stream.synchronize()
        return found

    with ThreadPoolExecutor(4) as pool:
        for k, found in enumerate(pool.map(work, range(4))):
            for out in found:
                close(out, expected[k])


def test_what_cannot_be_recorded(graphs):
    """No graph, no exception, and the device works on."""
    state = (torch.ones(4, device="cuda"),)
    found = graphs.graph_of("reads", lambda constants, state: (state[0] * float(state[0].sum()),), 1, (), state)
    assert found is None
    assert graphs.graph_of("reads", lambda constants, state: state, 1, (), state) is None  # it is known by now
    assert float(state[0].sum()) == 4.0


def test_the_mode_of_the_caller(graphs):
    """Whether PyTorch records derivatives is as before, after portions of a batch that went on side by side too."""
    rng = np.random.default_rng(0)
    F, A = rng.standard_normal((9, 240, 240)), rng.standard_normal((9, 60, 240))
    data = [torch.from_numpy(v).cuda() for v in (F @ F.swapaxes(1, 2), F[..., 0], A, np.ones((9, 60)))]
    for _ in range(3):
        assert (solve(Product((Nonnegative(60),)), *data, Native()).status == Status.SOLVED).all()
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_in_a_graph_of_the_caller(graphs):
    """While the caller records, nothing is looked at and nothing is recorded inside; other calls are not part of it."""
    data, other = problem(3), problem(7, seed=1)

    def both(P, q, A, b):
        out = solve(CONE, P, q, A, b, Native(max_iter=20))
        return out, linear_solve(CONE, P, A, out.z, out.s, torch.ones_like(q), torch.zeros_like(b), Native())

    expected, beside = both(*data), both(*other)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        recording = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recording, stream=stream):
            found = both(*data)
    for _ in range(2):
        recording.replay()
        again = both(*other)
        close(found[0], expected[0])
        close(again[0], beside[0])
        for a, b in zip((*found[1], *again[1]), (*expected[1], *beside[1]), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    data[1].copy_(problem(3, seed=2)[1])
    recording.replay()
    close(found[0], solve(CONE, *data, Native(max_iter=20)))
    assert not graphs._graphs


@pytest.mark.parametrize("cone", [Product((Zero(3), Nonnegative(20), SecondOrder(5)))], ids=["fused"])
def test_matrices_in_a_graph_of_the_caller(graphs, cone):
    """The kernels, solution and derivative, recorded by the caller and replayed on other data."""
    rng = np.random.default_rng(0)
    A, x = rng.standard_normal((16, 28, 12)), rng.standard_normal((16, 12))
    slack = np.concatenate([np.zeros(3), rng.uniform(0.1, 1.0, 20), [2.0, 0.1, 0.1, 0.1, 0.1]])
    P, b = np.tile(np.eye(12), (16, 1, 1)), np.einsum("bij,bj->bi", A, x) + slack
    P, q, A, b = (torch.from_numpy(v).cuda() for v in (P, rng.standard_normal((16, 12)), A, b))

    def both():
        out = solve(cone, P, q, A, b, Native())
        return out, linear_solve(cone, P, A, out.z, out.s, torch.ones_like(out.x), torch.zeros_like(out.z), Native())

    both()
    torch.cuda.synchronize()
    recording = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recording):
        found = both()
    q.copy_(torch.linspace(-1.0, 1.0, 12, dtype=q.dtype))
    recording.replay()
    found = [v.clone() for part in found for v in part]
    for a, b_ in zip(found, (v for part in both() for v in part), strict=True):
        torch.testing.assert_close(a, b_, rtol=0, atol=0)


def layer_of(name: str, **options):
    from cvxlayers.torch import CvxpyLayer

    case = problems.get(name)
    return CvxpyLayer(case.problem, case.parameters, case.variables, gp=case.gp, solver="native", **options)


def inputs_of(name: str, *factors: float):
    values = problems.get(name).values
    return [torch.as_tensor(np.stack([k * v for k in factors]), device="cuda").requires_grad_() for v in values]


def everything(layer, inputs, outputs=slice(None)):
    """Outputs, value and statuses of a layer, and gradients of some of them."""
    result = layer.solve(*inputs)
    total = sum((k + 1) * o.sin().abs().sum() for k, o in enumerate([*result.variables, result.objective][outputs]))
    gradients = torch.autograd.grad(total, inputs, allow_unused=True)
    return [*result.variables, result.objective, result.status, result.residuals, *gradients]


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        if a is None or b is None:
            assert a is b
        else:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, equal_nan=True)


LAYERS = ["nonnegative", "second_order", "exponential", "semidefinite", "geometric", "complex_numbers"]
LAYERS += ["semidefinite_parameters", "mixed", "many_dimensions"]


@pytest.mark.parametrize("name", LAYERS)
def test_layers(graphs, monkeypatch, name):
    """Recorded once, for the forward and for the backward pass; other data of the shape go through the same graphs."""
    layer = layer_of(name)
    for factors in ((1.0, 1.01, 0.99), (1.02, 0.98, 1.0), (1.0, 1.01, 0.99)):
        inputs = inputs_of(name, *factors)
        same(everything(layer, inputs), plain(graphs, monkeypatch, layer, inputs, function=everything))
        assert len(graphs._graphs) == 2


def test_cotangents_of_some_outputs(graphs, monkeypatch):
    """Which outputs have a cotangent tells graphs apart, where all of them have the same shape."""
    layer = layer_of("nonnegative")
    inputs = inputs_of("nonnegative", 1.0, 1.01)
    for outputs in (slice(0, 1), slice(1, 2), slice(-1, None), slice(0, 1)):
        found = everything(layer, inputs, outputs)
        same(found, plain(graphs, monkeypatch, layer, inputs, outputs, function=everything))


def test_failures_in_a_recorded_layer(graphs, monkeypatch):
    layer = layer_of("nonnegative", on_failure="nan")
    for broken in (None, 1, 0, None):
        inputs = inputs_of("nonnegative", 1.0, 1.01, 1.02)
        if broken is not None:
            with torch.no_grad():
                inputs[0][broken] = torch.nan
        found = everything(layer, inputs)
        assert (found[-len(inputs) - 2] == Status.INVALID_INPUT).tolist() == [k == broken for k in range(3)]
        same(found, plain(graphs, monkeypatch, layer, inputs, function=everything))


def test_layers_in_parts(graphs, monkeypatch):
    """Kernels in parts look at the values while they solve: the backward pass alone is recorded."""
    import cvxpy as cp

    from cvxlayers.torch import CvxpyLayer

    rng = np.random.default_rng(0)
    x, p, A, F = cp.Variable(240), cp.Parameter(240), rng.normal(size=(60, 240)), rng.normal(size=(240, 240))
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(F @ x - p)), [A @ x <= 1.0]), [p], [x])
    for _ in range(3):
        inputs = [torch.randn(5, 240, dtype=torch.float64, device="cuda", requires_grad=True)]
        same(everything(layer, inputs), plain(graphs, monkeypatch, layer, inputs, function=everything))
    assert [key[0][1] for key in graphs._graphs if key[0][0].__class__.__name__ == "ReferenceType"] == ["vjp"]


def test_empty_batches(graphs):
    layer = layer_of("nonnegative")
    for _ in range(3):
        inputs = [t.detach()[:0].requires_grad_() for t in inputs_of("nonnegative", 1.0)]
        found = everything(layer, inputs)
        assert all(v is None or len(v) == 0 for v in found)


def test_recorded_inside_another(graphs):
    """What is recorded would record something itself: it is one graph."""
    ones = (torch.ones(4, device="cuda"),)

    def double(x):
        return (2.0 * x,)

    def outer(x):
        return graphs.replayed("inner", double, graphs.replayed("inner", double, (x,)))

    for _ in range(3):
        assert torch.equal(graphs.replayed("outer", outer, ones)[0], 4.0 * ones[0])
    assert len(graphs._graphs) == 1


def test_layers_of_the_same_shape(graphs, monkeypatch):
    """Each has graphs of its own, and a graph does not keep a layer."""
    import gc
    import weakref

    inputs, layers = inputs_of("nonnegative", 1.0, 1.01), [layer_of("nonnegative") for _ in range(2)]
    for layer in layers:
        same(everything(layer, inputs), plain(graphs, monkeypatch, layer, inputs, function=everything))
    assert len(graphs._graphs) == 4
    maps = [weakref.ref(layer.core.maps.arrays(True)) for layer in layers]
    del layer, layers
    gc.collect()
    assert not any(map_() for map_ in maps)


def test_memory_of_what_is_kept(graphs, monkeypatch):
    monkeypatch.setattr(graphs, "MOST_KEPT_BYTES", 1)
    layer = layer_of("nonnegative")
    for factors in ((1.0, 1.01), (1.0, 1.01, 0.99)):
        inputs = inputs_of("nonnegative", *factors)
        same(everything(layer, inputs), plain(graphs, monkeypatch, layer, inputs, function=everything))
        assert len(graphs._graphs) == 1


def test_threads_with_a_layer(graphs, monkeypatch):
    layer = layer_of("mixed")
    factors = [(1.0, 1.0 + 0.01 * k) for k in range(4)]
    expected = [plain(graphs, monkeypatch, layer, inputs_of("mixed", *f), function=everything) for f in factors]
    torch.cuda.synchronize()

    def work(k: int):
        with torch.cuda.stream(torch.cuda.Stream()):
            found = [everything(layer, inputs_of("mixed", *factors[k])) for _ in range(4)]
            torch.cuda.current_stream().synchronize()
        return found

    with ThreadPoolExecutor(4) as pool:
        for k, found in enumerate(pool.map(work, range(4))):
            for out in found:
                same(out, expected[k])
