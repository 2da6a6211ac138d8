"""The JAX layer under every transform of JAX, as a pytree, in other threads, and without float64."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import grad, hessian, jacfwd, jacrev, jit, jvp, linearize, vjp, vmap

from cvxlayers.jax import CvxpyLayer
from tests.layers import problems
from tests.layers.facts import close, function, reverse_jacobian, vector

ROOT = Path(__file__).parents[2]


def box(**options) -> CvxpyLayer:
    """The nearest point of [0, 1]^3."""
    x, p = cp.Variable(3), cp.Parameter(3)
    return CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0, x <= 1]), [p], [x], **options)


def eye(n):
    return jnp.eye(n)


JACOBIANS: dict = {
    "jit of jacrev": lambda f, v: jit(jacrev(f))(v),
    "jit of jacfwd": lambda f, v: jit(jacfwd(f))(v),
    "jacrev of jit": lambda f, v: jacrev(jit(f))(v),
    "jacfwd of jit": lambda f, v: jacfwd(jit(f))(v),
    "vmap of jvp": lambda f, v: jit(vmap(lambda e: jvp(f, (v,), (e,))[1]))(eye(len(v))).T,
    "vmap of jacrev": lambda f, v: jit(vmap(jacrev(f)))(jnp.stack([v, v]))[1],
    "jacrev of vmap": lambda f, v: jit(jacrev(vmap(f)))(jnp.stack([v, v]))[1, :, 1],
    "jacfwd of vmap of vmap": lambda f, v: jit(jacfwd(vmap(vmap(f))))(jnp.tile(v, (2, 2, 1)))[1, 0, :, 1, 0],
    "vmap over the last axis": lambda f, v: jit(vmap(jacfwd(f), in_axes=1, out_axes=2))(jnp.stack([v, v], 1))[..., 0],
    "linearize": lambda f, v: jit(vmap(linearize(f, v)[1]))(eye(len(v))).T,
    "remat": lambda f, v: jit(jacrev(jax.checkpoint(f)))(v),
}


@pytest.mark.parametrize("transform", JACOBIANS)
@pytest.mark.parametrize("name", ["linear"])
def test_jacobians(name, transform):
    """The table of transforms, on a small problem; other cones are slow to compile."""
    f, v = function("jax", name), jnp.asarray(vector(name))
    close(JACOBIANS[transform](f, v), reverse_jacobian(function("torch", name), vector(name)), 1e-7)


@pytest.mark.parametrize("transform", JACOBIANS)
@pytest.mark.parametrize(
    "name",
    ["nonnegative", "second_order", "semidefinite", "exponential", "power_linear", "geometric", "complex_numbers"],
)
@pytest.mark.slow
def test_jacobians_of_other_cones(name, transform):
    test_jacobians(name, transform)


HESSIANS = {
    "hessian": hessian,
    "jacrev of jacrev": lambda g: jacrev(jacrev(g)),
    "jacfwd of jacfwd": lambda g: jacfwd(jacfwd(g)),
    "jacrev of jacfwd": lambda g: jacrev(jacfwd(g)),
    "vmap of hessian": lambda g: lambda v: vmap(hessian(g))(jnp.stack([v, v]))[1],
    "hessian of vmap": lambda g: lambda v: hessian(lambda w: vmap(g)(w).sum())(jnp.stack([v, v]))[1, :, 1],
    "scan": lambda g: (
        lambda v: jax.lax.scan(lambda carry, e: (carry, jvp(grad(g), (v,), (e,))[1]), 0.0, eye(len(v)))[1]
    ),
}


@pytest.mark.parametrize(
    "transform",
    [
        k if k in ("hessian", "jacfwd of jacfwd", "vmap of hessian") else pytest.param(k, marks=pytest.mark.slow)
        for k in HESSIANS
    ],
)
def test_hessians(transform):
    x, p = cp.Variable(2), cp.Parameter(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.norm(x) <= 1]), [p], [x])
    v = jnp.array([2.0, 1.0])
    got = jit(HESSIANS[transform](lambda v: (layer(v)[0] ** 3).sum()))(v)
    close(got, hessian(lambda v: ((v / jnp.linalg.norm(v)) ** 3).sum())(v), 1e-6)


@pytest.mark.slow
def test_third_derivatives():
    x, p = cp.Variable(2), cp.Parameter(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [cp.norm(x) <= 1]), [p], [x])
    v, e = jnp.array([2.0, 1.0]), jnp.array([0.3, -0.8])
    expected = grad(grad(grad(lambda t: ((v + t * e) / jnp.linalg.norm(v + t * e))[0])))(0.0)
    close(jit(grad(jacfwd(grad(lambda t: layer(v + t * e)[0][0]))))(0.0), expected, 1e-5)


def test_vmap_matches_a_batch():
    case = problems.get("nonnegative")
    layer, rng = CvxpyLayer(case.problem, case.parameters, case.variables), np.random.default_rng(0)
    batch = [v + 0.05 * rng.normal(size=(5, *v.shape)) for v in case.values]
    for mask in ((1, 1, 1, 1), (0, 1, 0, 1)):
        given = [b if m else s for b, s, m in zip(batch, case.values, mask, strict=True)]
        got = jit(vmap(layer, in_axes=tuple(0 if m else None for m in mask)))(*given)
        for a, b in zip(got, layer(*given), strict=True):
            close(a, b, 1e-12)


def test_nests_of_vmap():
    f, v = box(), np.random.default_rng(0).normal(size=(2, 3, 2, 3))
    got = jit(vmap(vmap(vmap(grad(lambda p: (f(p)[0] ** 2).sum())))))(v)
    close(got, 2 * v.clip(0, 1) * (v > 0) * (v < 1), 1e-6)
    got = jit(vmap(lambda p: vmap(lambda q: f(p + q)[0], in_axes=1, out_axes=1)(v[0, 0].T)))(v[:, 0, 0])
    close(got, (v[:, 0, 0][:, :, None] + v[0, 0].T).clip(0, 1), 1e-7)


def test_scan_cond_while_and_map():
    f, v = box(), jnp.array([0.3, 1.5, -1.0])

    @jit
    def roll(v):
        def step(carry, shift):
            (x,) = f(carry + shift)
            return 0.5 * x + 0.5 * carry, x.sum()

        last, sums = jax.lax.scan(step, v, jnp.array([0.1, -0.2, 0.05]))
        return last.sum() + sums.sum()

    def plain(v):
        total = 0.0
        for shift in (0.1, -0.2, 0.05):
            x = jnp.clip(v + shift, 0, 1)
            v, total = 0.5 * x + 0.5 * v, total + x.sum()
        return v.sum() + total

    close(roll(v), plain(v), 1e-7)
    close(jit(grad(roll))(v), grad(plain)(v), 1e-6)
    picked = jit(grad(lambda v: jax.lax.cond(v[0] > 0, lambda v: f(v)[0].sum(), lambda v: v.sum(), v)))
    close(picked(v), [1, 0, 0], 1e-6)
    close(picked(-v), [1, 1, 1], 1e-6)
    final = jit(lambda v: jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, f(c[1] * 1.5)[0]), (0, v))[1])(v)
    close(final, [1.0, 1.0, 0.0], 1e-6)
    close(jit(lambda v: jax.lax.map(lambda p: f(p)[0], v))(jnp.stack([v, -v])), jnp.stack([v, -v]).clip(0, 1), 1e-7)


def test_one_compilation_serves_many_values():
    count = 0
    f = box()

    @jit
    def loss(v):
        nonlocal count
        count += 1
        return f(v)[0].sum()

    gradient = jit(grad(loss))
    for k in range(4):
        gradient(jnp.full(3, 0.1 * k))
    assert count == 1


def test_a_later_call_does_not_change_an_earlier_gradient():
    """With no constraint active the dual variables are equal for all data."""
    x, P, q = cp.Variable(2), cp.Parameter((2, 2), PSD=True), cp.Parameter(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.quad_form(x, P) + q @ x), [x <= 10]), [P, q], [x])

    def loss(P):
        return layer(P, jnp.ones(2))[0].sum()

    _, first = vjp(loss, jnp.eye(2))
    _, second = vjp(loss, 3 * jnp.eye(2))
    close(first(1.0)[0], 0.5 * np.ones((2, 2)), 1e-7)
    close(second(1.0)[0], np.ones((2, 2)) / 18, 1e-7)
    both = jit(grad(lambda P: loss(P) + loss(3 * P)))(jnp.eye(2))
    close(both, (0.5 + 3 / 18) * np.ones((2, 2)), 1e-7)
    close(jit(grad(lambda P: loss(P) * loss(3 * P)))(jnp.eye(2)), -(0.5 / 3 + 3 / 18) * np.ones((2, 2)), 1e-7)


def test_threads_share_a_layer():
    x, P, q = cp.Variable(2), cp.Parameter((2, 2), PSD=True), cp.Parameter(2)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.quad_form(x, P) + q @ x), [x <= 10]), [P, q], [x])
    gradient = jit(grad(lambda P: layer(P, jnp.ones(2))[0].sum()))
    gradient(jnp.eye(2))
    errors = []

    def target(k):
        try:
            for _ in range(10):
                close(gradient(k * jnp.eye(2)), 0.5 / k**2 * np.ones((2, 2)), 1e-7)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=target, args=(k,)) for k in (1.0, 2.0, 3.0, 4.0)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors, errors


def test_the_layer_is_a_pytree_without_leaves():
    layer = box()
    assert jax.tree_util.tree_leaves(layer) == []
    v = jnp.array([0.5, -1.0, 2.0])
    close(jit(lambda layer, v: layer(v)[0])(layer, v), [0.5, 0, 1], 1e-7)
    model = {"weight": jnp.ones(3), "layer": layer}
    gradient = jit(grad(lambda m, v: m["layer"](m["weight"] * v)[0].sum()))(model, v)
    close(gradient["weight"], [0.5, 0, 0], 1e-6)
    moved = jax.tree_util.tree_map(lambda w: w - 0.1, model)
    assert moved["layer"] is layer
    stacked = vmap(lambda m, v: m["layer"](m["weight"] * v)[0], in_axes=({"weight": None, "layer": None}, 0))
    close(stacked(model, v[None]), [[0.5, 0, 1]], 1e-7)
    partial_layer = jax.tree_util.Partial(lambda layer, v: layer(v)[0], layer)
    close(jit(lambda f, v: f(v))(partial_layer, v), [0.5, 0, 1], 1e-7)


def test_copies():
    layer, v = box(on_failure="nan"), jnp.array([0.5, -1.0, 2.0])
    layer(v)
    for other in (copy.deepcopy(layer), copy.copy(layer), pickle.loads(pickle.dumps(layer))):
        close(jit(grad(lambda v, f=other: f(v)[0].sum()))(v), [1, 0, 0], 1e-7)
        assert repr(other) == repr(layer) and str(other.plan()) == str(layer.plan())


def test_results_under_jit():
    result = jit(lambda v: box().solve(v))(jnp.zeros((2, 3)))
    assert result.status.shape == result.iterations.shape == result.objective.shape == (2,)
    assert result.residuals.shape == (2, 3) and float(result.residuals.max()) < 1e-7
    close(result.variables[0], np.zeros((2, 3)), 1e-7)


def test_results_outside_jit():
    result = box().solve(jnp.array([0.5, -1.0, 2.0]))
    close(result.objective, 2.0, 1e-7)
    assert "SOLVED" in repr(result)
    assert result.certificate.residual.max() < 1e-8 and not result.certificate.degenerate.any()


def test_pmap_of_one_device():
    f = box()
    got = jax.pmap(lambda v: f(v)[0])(jnp.array([[0.5, -1.0, 2.0]]))
    close(got, [[0.5, 0, 1]], 1e-7)


def test_without_float64():
    """In a process that leaves JAX as it is: float32 arrays, accurate to float32, and the setting stays."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "workers" / "single_precision.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["done"]


def test_static_arguments():
    f = partial(box(), solver_args={"max_iter": 500}, warm_start=True)
    close(jit(grad(lambda v: f(v)[0].sum()))(jnp.array([0.5, -1.0, 2.0])), [1, 0, 0], 1e-7)


def test_right_hand_sides_of_one_point_share_a_factor(monkeypatch):
    """A Jacobian has many right-hand sides and one system."""
    from cvxlayers.solution_map import SolutionMap

    factored, original = [], SolutionMap._factor

    def counted(self, data, z, s):
        factored.append(data.batch)
        return original(self, data, z, s)

    monkeypatch.setattr(SolutionMap, "_factor", counted)
    f, v = box(solver="CLARABEL"), jnp.array([0.5, -1.0, 2.0])
    for jacobian in (jacrev, jacfwd):
        factored.clear()
        close(jit(jacobian(lambda v: f(v)[0]))(v), np.diag([1.0, 0, 0]), 1e-7)
        assert factored == [1]


@pytest.mark.parametrize("name", ["hermitian"])
def test_singular_systems_under_vmap(name):
    """A Hermitian cone repeats its eigenvalues: its dual variable in real numbers is not unique, the derivative is."""
    f, v = function("jax", name), vector(name)
    expected = reverse_jacobian(function("torch", name), v)
    close(jit(jacfwd(f))(v), expected, 1e-6)
