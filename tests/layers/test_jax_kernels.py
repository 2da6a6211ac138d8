"""JAX layers on the CPU by compiled kernels: the numbers and the verdicts of the host, with no callback to Python."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import grad, hessian, jacfwd, jacrev, jit, vmap

from cvxlayers.array import foreign
from cvxlayers.compiled.compiler import is_available
from cvxlayers.conic.residuals import ABSENT
from cvxlayers.jax import CvxpyLayer, kernels
from cvxlayers.kernel_map import LeftOver
from cvxlayers.maps import Maps
from cvxlayers.sets.nonnegative import SNAP
from cvxlayers.status import Status
from tests.layers.problems import get

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    kernels.ffi is None or not is_available(), reason="the kernels need Numba, and JAX 0.5 or newer"
)


def least_squares(**options) -> CvxpyLayer:
    """Variables that equalities define, equalities that stay, and parameters of every kind of data."""
    x, F, g, G, h, c = (
        cp.Variable(3), cp.Parameter((4, 3)), cp.Parameter(4), cp.Parameter((2, 3)), cp.Parameter(2), cp.Parameter()
    )  # fmt: skip
    objective = cp.sum_squares(F @ x - g) + 0.1 * cp.sum_squares(x) + c * cp.sum(x)
    problem = cp.Problem(cp.Minimize(objective), [G @ x <= h, x[0] + x[1] == c])
    return CvxpyLayer(problem, [F, g, G, h, c], [x], **options)


def values(*batch: int) -> tuple[jax.Array, ...]:
    rng = np.random.default_rng(len(batch))
    shapes = ((4, 3), (4,), (2, 3), (2,), ())
    return tuple(jnp.asarray(rng.standard_normal((*batch, *shape))) for shape in shapes)


def interval(**options) -> CvxpyLayer:
    """The nearest point of [low, high] in the norm of P."""
    x, P, p, low, high = (cp.Variable(2), cp.Parameter((2, 2)), *(cp.Parameter(2) for _ in range(3)))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(P @ x) / 2 - p @ x), [x >= low, x <= high])
    return CvxpyLayer(problem, [P, p, low, high], [x], **options)


@pytest.fixture
def by_callback(monkeypatch):
    """A function that calls another one with the route through callbacks in the place of the kernels."""

    def call(function, *args):
        with monkeypatch.context() as patch:
            patch.setattr(Maps, "kernels", lambda self, calls, solver_args=None: None)
            return function(*args)

    return call


def close(got, expected, tol=1e-12):
    got, expected = jax.tree.leaves(got), jax.tree.leaves(expected)
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        largest = np.abs(np.nan_to_num(b)).max(initial=1.0)
        np.testing.assert_allclose(a, b, rtol=0, atol=tol * largest)


def test_nothing_is_called_back():
    layer, v = least_squares(), values(5)
    both = jax.value_and_grad(lambda *v: layer(*v)[0].sum(), argnums=(0, 1, 2, 3, 4))
    text = str(jax.make_jaxpr(both)(*v))
    assert "callback" not in text and "cvxlayers_solve" in text and "cvxlayers_linear_solve" in text
    assert "under jit called without Python" in layer.plan().reason
    asked = least_squares(solver="ACTIVE_SET")
    assert "callback" not in str(jax.make_jaxpr(lambda *v: asked(*v)[0])(*v))


@pytest.mark.parametrize("batch", [(), (1,), (7,), (2, 3), (0,)])
def test_same_as_the_callback(batch, by_callback):
    v, weights = values(*batch), jnp.array([0.5, -1.0, 2.0])

    def run(transform):
        layer = least_squares()
        return transform(lambda *v: (jnp.sin(layer(*v)[0]) @ weights).sum(), layer)

    for transform in (
        lambda loss, layer: jit(lambda *v: layer.solve(*v).variables)(*v),
        lambda loss, layer: jit(lambda *v: layer.solve(*v).objective)(*v),
        lambda loss, layer: jit(grad(loss, argnums=(0, 1, 2, 3, 4)))(*v),
        lambda loss, layer: jit(lambda *v: jax.jvp(loss, v, v))(*v),
        lambda loss, layer: grad(loss, argnums=(1, 4))(*v),
    ):
        close(run(transform), by_callback(run, transform), 1e-10)


def test_statuses_are_those_of_the_host():
    """Infeasible, NaN, infinite, absent and indefinite elements, and good ones between them."""
    nan, inf = np.nan, np.inf
    P = np.array([np.eye(2)] * 7)
    P[5] = [[1, 1], [1, 1]]  # singular: for another solver
    p = np.array([[1.0, 2.0], [nan, 0], [1, 2], [0.5, 0.5], [1, 1], [1, 1], [3, -3]])
    low = np.array([[0.0, 0.0], [0, 0], [2, 2], [0, 0], [0, 0], [0, 0], [-1, -1]])
    high = np.array([[0.7, 3.0], [1, 1], [1, 1], [1e20, inf], [1, nan], [4, 4], [1, 1]])
    arrays = tuple(jnp.asarray(v) for v in (P, p, low, high))
    layer = interval(on_failure="nan")
    got, expected = jit(layer.solve)(*arrays), layer.solve(*arrays)
    assert got.status.tolist() == expected.status.tolist()
    assert got.status.tolist()[:5] == [
        Status.SOLVED, Status.INVALID_INPUT, Status.INFEASIBLE, Status.SOLVED, Status.INVALID_INPUT
    ]  # fmt: skip
    close(got.variables, expected.variables)
    close(got.residuals, expected.residuals)
    gradient = jit(grad(lambda *v: jnp.nansum(layer(*v)[0]), argnums=(0, 1, 2, 3)))(*arrays)
    close(gradient, grad(lambda *v: jnp.nansum(layer(*v)[0]), argnums=(0, 1, 2, 3))(*arrays))
    failed = np.isnan(got.variables[0]).any(-1)
    assert all(np.isfinite(g).all() and not g[failed].any() for g in gradient)
    alone = [jit(layer.solve)(*(v[i] for v in arrays)) for i in range(7)]
    assert [int(r.status) for r in alone] == got.status.tolist()
    for i, result in enumerate(alone):
        close(result.variables[0], got.variables[0][i])


def test_unbounded_elements():
    x, a, q = cp.Variable(2), cp.Parameter(2), cp.Parameter(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.square(a @ x) + q @ x), [x >= -1]), [a, q], [x], on_failure="nan")
    a, q = jnp.array([[1.0, -1.0], [1.0, 1.0]]), jnp.array([[-1.0, -1.0], [1.0, 2.0]])
    got = jit(layer.solve)(a, q)
    assert got.status.tolist() == layer.solve(a, q).status.tolist() == [Status.UNBOUNDED, Status.SOLVED]
    assert np.isnan(got.variables[0][0]).all() and np.isfinite(got.variables[0][1]).all()


def test_vmap():
    """Every way to map the parameters gives what a loop gives."""
    layer = least_squares()
    shared, mapped = values(), values(3)
    for axes in ((0, 0, 0, 0, 0), (None, 0, None, None, None), (None, None, 0, None, 0), (0, None, None, 0, None)):
        given = tuple(s if a is None else m for s, m, a in zip(shared, mapped, axes, strict=True))
        loss = lambda *v: (layer(*v)[0] ** 2).sum()  # noqa: E731
        for f in (lambda *v: layer(*v)[0], grad(loss, argnums=(0, 1, 4)), jacfwd(lambda *v: layer(*v)[0], argnums=3)):
            got = jit(vmap(f, in_axes=axes))(*given)
            one = [jit(f)(*(v if a is None else v[i] for v, a in zip(given, axes, strict=True))) for i in range(3)]
            close(got, jax.tree.map(lambda *leaves: jnp.stack(leaves), *one), 1e-10)
    # a map over F inside a map over g: no operand has both dimensions but the results
    F, g = mapped[0], values(2)[1]
    inside = vmap(lambda F, g: layer(F, g, *shared[2:])[0], in_axes=(0, None))
    got = jit(vmap(inside, in_axes=(None, 0)))(F, g)
    close(got, jnp.stack([jnp.stack([jit(lambda F, g: inside(F[None], g)[0])(f, e) for f in F]) for e in g]))
    cross = jit(vmap(grad(lambda g, F: inside(F, g).sum()), in_axes=(0, None)))(g, F)
    close(cross, jnp.stack([jit(grad(lambda g, F: inside(F, g).sum()))(e, F) for e in g]), 1e-10)


def test_jacobians_and_hessians(by_callback):
    v = values()

    def run(transform):
        layer = least_squares()
        f = lambda g: (layer(v[0], g, *v[2:])[0] ** 3).sum()  # noqa: E731
        return jit(transform(f))(v[1])

    for transform in (hessian, lambda f: jacrev(grad(f)), lambda f: jacfwd(grad(f))):
        close(run(transform), by_callback(run, transform), 1e-10)


def test_a_jacobian_has_one_system_and_many_right_hand_sides(monkeypatch):
    layer, v, asked = least_squares(), values(2), []
    route = layer.core.maps.kernels(kernels)
    monkeypatch.setattr(route, "_factored_alone", 0)  # to Python with it all
    original = LeftOver.linear_solve

    def counted(self, P, A, z, s, gx, *others):
        asked.append(gx.shape[:2])
        return original(self, P, A, z, s, gx, *others)

    monkeypatch.setattr(LeftOver, "linear_solve", counted)
    jax.block_until_ready(jit(vmap(jacrev(lambda *v: layer(*v)[0])))(*v))
    assert asked == [(3, 2)]


def test_what_is_left_over(monkeypatch, by_callback):
    """Batches worth threads go to Python at once, and come back the same."""
    v = values(6)

    def run(alone=None):
        layer = least_squares()
        route = layer.core.maps.kernels(kernels)
        if alone is not None:
            route._alone, route._factored_alone = alone, alone
        return jit(jax.value_and_grad(lambda *v: (layer(*v)[0] ** 2).sum(), argnums=(0, 1, 2, 3, 4)))(*v)

    close(run(0), run(100), 1e-10)


@pytest.mark.parametrize("gradient", ["exact", "smoothed"])
def test_kinks_and_smoothing(gradient, by_callback):
    """At z = s = 0 no row is clearly active."""
    P, low, high = jnp.eye(2), jnp.zeros(2), jnp.ones(2)

    def run():
        layer = interval(gradient=gradient)
        return jit(vmap(jacrev(lambda p: layer(P, p, low, high)[0])))(jnp.array([[0.0, 0.5], [1.0, 2.0], [-1.0, 0.2]]))

    close(run(), by_callback(run), 1e-10)


@pytest.mark.parametrize("name", ["zero", "nonnegative", "maximization", "quadratic_form"])
def test_other_problems(name, by_callback):
    case = get(name)

    def run():
        layer = CvxpyLayer(case.problem, case.parameters, case.variables, solver="ACTIVE_SET")

        def loss(*v):
            return sum(jnp.sum(jnp.abs(o) ** 2) for o in layer(*v))

        arrays = tuple(jnp.asarray(v) for v in case.values)
        return jit(jax.value_and_grad(loss, argnums=tuple(range(len(arrays)))))(*arrays)

    close(run(), by_callback(run), 1e-9)


def test_threads():
    layer, v = least_squares(), values(8)
    f = jit(grad(lambda *v: layer(*v)[0].sum(), argnums=(0, 1)))
    expected, found = f(*v), [None] * 4

    def work(k):
        for _ in range(20):
            found[k] = jax.block_until_ready(f(*v))

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for one in found:
        close(one, expected, 0)


def test_inside_control_flow():
    layer, v = interval(), jnp.array([0.3, 2.0])
    P, low, high = jnp.eye(2), jnp.zeros(2), jnp.ones(2)

    def step(p, _):
        return layer(P, 2 * p, low, high)[0], p

    expected = v
    for _ in range(3):
        expected = jnp.clip(2 * expected, 0, 1)
    close(jit(lambda v: jax.lax.scan(step, v, None, length=3)[0])(v), expected)
    picked = jit(vmap(lambda v: jax.lax.cond(v[0] > 1, lambda v: v, lambda v: step(v, None)[0], v)))
    close(picked(jnp.stack([v, v + 1])), jnp.array([[0.6, 1.0], [1.3, 3.0]]))


def test_copies():
    layer, v = least_squares(), values(2)
    expected = jit(lambda *v: layer(*v)[0])(*v)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        close(jit(lambda *v, other=other: other(*v)[0])(*v), expected, 0)


def test_a_layer_that_is_gone():
    """What was compiled does its work without the layer it came from."""

    @jit
    def f(*v):
        return least_squares(on_failure="nan")(*v)[0]

    v = values(2)
    first = f(*v)
    infeasible = (*v[:3], v[3].at[0].set(jnp.nan), v[4])
    close(f(*infeasible)[1], first[1], 0)


def test_without_kernels(monkeypatch):
    """JAX before 0.5, or no Numba: a callback, and the plan says so."""
    monkeypatch.setattr(kernels, "available", lambda: False)
    layer, v = least_squares(), values(2)
    assert "callback" in str(jax.make_jaxpr(lambda *v: layer(*v)[0])(*v))
    assert "under jit by a callback to Python" in layer.plan().reason
    close(jit(lambda *v: layer(*v)[0])(*v), layer(*v)[0])


def test_an_unknown_interface_is_left_alone(monkeypatch, tmp_path):
    """The version of XLA's interface is read before anything is registered."""
    file = tmp_path / "xla" / "ffi" / "api" / "c_api.h"
    file.parent.mkdir(parents=True)
    monkeypatch.setattr(kernels.ffi, "include_dir", lambda: str(tmp_path))
    for text, expected in (
        ("#define XLA_FFI_API_MAJOR 0\n#define XLA_FFI_API_MINOR 7\n", (0, 7)),
        ("#define XLA_FFI_API_MAJOR 1\n#define XLA_FFI_API_MINOR 2\n", None),
        ("nothing", None),
    ):
        file.write_text(text)
        assert foreign.version.__wrapped__() == expected
    file.unlink()
    assert foreign.version.__wrapped__() is None


def test_strange_calls_are_refused():
    """A call with other operands, or of a program that this process does not know, is an error of XLA's."""
    assert kernels.available()
    shape = jax.ShapeDtypeStruct((2,), np.float64)
    with pytest.raises(Exception, match="XLA calls in an unknown way"):
        jax.block_until_ready(jit(lambda v: jax.ffi.ffi_call("cvxlayers_solve", shape)(v))(jnp.ones(2)))
    layer = interval()
    layer.core.maps.kernels(kernels)._key = 12345
    with pytest.raises(Exception, match="traced in another process"):
        jax.block_until_ready(jit(lambda v: layer(jnp.eye(2), v, v, v)[0])(jnp.array([1.0, np.nan])))


def test_programs_kept_on_disk(tmp_path):
    """What JAX compiled in one process and kept serves the next, whatever is left over to Python."""
    worker = ROOT / "tests" / "workers" / "kept_programs.py"
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, str(worker), str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["done"]
    assert any(tmp_path.iterdir())


def test_constants_are_those_of_the_host():
    from cvxlayers.compiled import calls

    assert (calls.ABSENT, calls.SNAP) == (ABSENT, SNAP)
