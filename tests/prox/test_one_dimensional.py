"""Exact one-dimensional total variation, the fused lasso and isotonic regression: value, argument and derivatives."""

from __future__ import annotations

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cvxlayers.array.segments import run_sum
from cvxlayers.compiled import compiler
from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox.level_sets import level_sets
from cvxlayers.prox.one_dimensional import FusedLasso, Monotone, TotalVariation1D, isotonic_regression

RNG = np.random.default_rng(5)
N = 9
EDGES = RNG.uniform(0.2, 1.5, N - 1)

# name: (operator, its value in CVXPY)
OPERATORS = {
    "tv": (TotalVariation1D(0.6), lambda y: 0.6 * cp.norm1(cp.diff(y))),
    "tv-edges": (TotalVariation1D(0.7, edge_weights=EDGES), lambda y: 0.7 * (EDGES @ cp.abs(cp.diff(y)))),
    "fused": (FusedLasso(0.5, l1=0.3), lambda y: 0.5 * cp.norm1(cp.diff(y)) + 0.3 * cp.norm1(y)),
    "fused-edges": (
        FusedLasso(0.5, l1=0.3, edge_weights=EDGES),
        lambda y: 0.5 * (EDGES @ cp.abs(cp.diff(y))) + 0.3 * cp.norm1(y),
    ),
}
SIGNALS = {
    "noise": RNG.normal(size=N),
    "ties": np.round(2 * RNG.normal(size=N)),
    "steps": np.repeat([0.0, 2.0, -1.0], 3) + 0.1 * RNG.normal(size=N),
    "zero": np.zeros(N),
}


def solve(objective, constraints=()):
    cp.Problem(cp.Minimize(objective), list(constraints)).solve(solver="CLARABEL")


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("name", OPERATORS)
def test_prox_is_the_minimizer(name, signal):
    f, value = OPERATORS[name]
    x, tau = SIGNALS[signal], 0.8
    y, v = f.prox(x, tau), cp.Variable(N)
    solve(cp.sum_squares(v - x) / 2 + tau * value(v))
    np.testing.assert_allclose(f(x), value(cp.Constant(x)).value, atol=1e-12)
    assert tau * f(y) + np.sum((y - x) ** 2) / 2 <= tau * f(v.value) + np.sum((v.value - x) ** 2) / 2 + 1e-12
    np.testing.assert_allclose(y, v.value, atol=1e-4)


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("decreasing", [False, True])
def test_monotone_is_the_projection(signal, decreasing):
    x, v = SIGNALS[signal], cp.Variable(N)
    f = Monotone(decreasing)
    solve(cp.sum_squares(v - x), [cp.diff(v) <= 0 if decreasing else cp.diff(v) >= 0])
    np.testing.assert_allclose(f.project(x), v.value, atol=1e-4)
    assert f.contains(f.project(x)) and f.project(x) @ (x - f.project(x)) == pytest.approx(0, abs=1e-10)


def test_isotonic_regression_with_weights():
    x, w, v = RNG.normal(size=N), RNG.uniform(0.2, 2, N), cp.Variable(N)
    solve(cp.sum(cp.multiply(w, cp.square(v - x))), [cp.diff(v) >= 0])
    np.testing.assert_allclose(isotonic_regression(x, w), v.value, atol=1e-5)


def test_long_rows_satisfy_the_optimality_conditions():
    """The running sums of x - y stay within tau w, and touch it where y jumps: on rows too long for a solver."""
    f = TotalVariation1D(1.0)
    for x in (RNG.normal(size=5000), np.cumsum(RNG.normal(size=5000)), np.repeat(RNG.normal(size=50), 100)):
        for tau in (0.1, 3.0, 300.0):
            y = f.prox(x, tau)
            u, scale = np.cumsum(x - y), 1e-11 * np.abs(x).sum()
            assert np.all(np.abs(u[:-1]) <= tau + scale) and abs(u[-1]) <= scale
            jump = np.sign(np.diff(y))
            assert np.all(np.abs(u[:-1] + tau * jump)[jump != 0] <= scale)


@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("before", [0, 500, 4000])
def test_where_the_direct_pass_stalls(before, edges):
    """Long slopes make the direct pass go back again and again; the hulls take over there, with the same result."""
    slopes = np.concatenate([np.linspace(0, 40, 3000) ** 2, np.linspace(40, 0, 3000) ** 2])
    x = np.concatenate([np.repeat(5 * RNG.normal(size=before // 100), 100), slopes])
    x, n = x + 0.01 * RNG.normal(size=x.size), x.size
    w = RNG.uniform(0, 100, (1, n - 1)) * (RNG.random((1, n - 1)) < 0.9) if edges else np.full((1, n - 1), 50.0)
    expected = level_sets(x[None], np.ones((1, n)), w, w)[0]
    f = TotalVariation1D(edge_weights=w[0]) if edges else TotalVariation1D(50.0)
    np.testing.assert_allclose(f.prox(x), expected, rtol=1e-11, atol=1e-10)
    for place in (0, before, before + 10, before + 3001, n - 1):
        for bad in (np.nan, np.inf, -np.inf):
            broken = x.copy()
            broken[place] = bad
            assert np.isnan(f.prox(broken)).all() and np.isnan(Monotone().prox(broken)).all()


@pytest.mark.parametrize("n", [2, 3, 17, 200])
def test_both_algorithms_agree(n):
    x, w = RNG.normal(size=(6, n)), RNG.uniform(0, 2, size=(6, n - 1))
    x[3:], w[3:] = np.round(3 * x[3:]), np.round(w[3:])
    rows = TotalVariation1D(edge_weights=w).prox(x)
    np.testing.assert_allclose(level_sets(x, np.ones_like(x), w, w), rows, atol=1e-12)
    v = RNG.uniform(0.1, 2, size=(6, n))
    np.testing.assert_allclose(level_sets(x, v, 0 * w, 0 * w + np.inf), isotonic_regression(x, v), atol=1e-12)


def test_level_sets_do_not_split_pieces_on_rounding(monkeypatch):
    """GPUs add in any order; a piece that was cut because of that came out wrong by up to twice the weight."""
    x = np.repeat(RNG.normal(size=(200, 20)), 20, axis=1) + 0.1 * RNG.normal(size=(200, 400))
    w = np.ones((200, 399))
    expected = TotalVariation1D(1.0).prox(x)

    def in_any_order(values, labels):
        order = RNG.permutation(values.shape[-1])
        return run_sum(values[:, order], labels[:, order])[:, np.argsort(order)]

    monkeypatch.setattr("cvxlayers.prox.level_sets.run_sum", in_any_order)
    np.testing.assert_allclose(level_sets(x, np.ones_like(x), w, w), expected, atol=1e-12)


def test_without_numba(monkeypatch):
    x = RNG.normal(size=(3, N))
    expected = TotalVariation1D(0.4).prox(x), Monotone().prox(x)
    monkeypatch.setattr(compiler, "is_available", lambda: False)
    np.testing.assert_allclose(TotalVariation1D(0.4).prox(x), expected[0], atol=1e-13)
    np.testing.assert_allclose(Monotone().prox(x), expected[1], atol=1e-13)


@pytest.mark.parametrize("f", [*(f for f, _ in OPERATORS.values()), Monotone(), Monotone(decreasing=True)], ids=repr)
def test_libraries_batches_and_precisions_agree(f):
    x = RNG.normal(size=(2, 3, N))
    before = x.copy()
    y = f.prox(x, 0.7)
    assert np.array_equal(x, before)
    for i in np.ndindex(2, 3):
        np.testing.assert_allclose(y[i], f.prox(x[i], 0.7), atol=1e-14)
    np.testing.assert_allclose(f.prox(torch.tensor(x), 0.7).numpy(), y, atol=1e-14)
    np.testing.assert_allclose(f.prox(jnp.asarray(x), 0.7), y, atol=1e-14)
    np.testing.assert_allclose(jax.jit(jax.vmap(lambda v: f.prox(v, 0.7)))(jnp.asarray(x)), y, atol=1e-14)
    np.testing.assert_allclose(torch.func.vmap(lambda v: f.prox(v, 0.7))(torch.tensor(x)).numpy(), y, atol=1e-14)
    z = f.prox(x.astype(np.float32), 0.7)
    assert z.dtype == np.float32
    np.testing.assert_allclose(z, y, atol=1e-5)
    assert f.prox(np.ones((0, N))).shape == (0, N)


def test_dim_names_the_axis():
    x = RNG.normal(size=(4, N, 2))
    y = TotalVariation1D(0.5, dim=1).prox(x)
    np.testing.assert_allclose(y, np.moveaxis(TotalVariation1D(0.5).prox(np.moveaxis(x, 1, -1)), -1, 1), atol=1e-14)
    assert TotalVariation1D(0.5, dim=1)(x).shape == (4, 2)


def test_one_weight_for_each_sample():
    x, weight = RNG.normal(size=(3, N)), np.array([0.1, 0.5, 2.0])
    y = TotalVariation1D(weight).prox(x, tau=np.array([[1.0], [2.0]]))
    assert y.shape == (2, 3, N)
    np.testing.assert_allclose(y[1, 2], TotalVariation1D(2.0).prox(x[2], 2.0), atol=1e-14)


@pytest.mark.parametrize(
    "f", [TotalVariation1D(0.4), TotalVariation1D(0.4, edge_weights=EDGES), Monotone(), Monotone(True)]
)
def test_conjugate_against_its_definition(f):
    """f* is an indicator: it is 0 at v - prox_f(v), and inf off the set; and conj_prox projects onto that set."""
    x = RNG.normal(size=N)
    inside = f.conj_prox(x, 0.9)
    assert f.conjugate_value(inside) == 0
    outside = inside + 0.1 * (x - inside) + 0.01
    assert f.conjugate_value(outside) == np.inf
    candidates = [f.conj_prox(RNG.normal(size=N)) for _ in range(20)]
    assert all((x - inside) @ (c - inside) <= 1e-10 for c in candidates)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # from PyTorch's forward mode
def test_gradients_are_those_of_finite_differences():
    x = torch.tensor(RNG.normal(size=(2, N)), requires_grad=True)
    weight = torch.tensor([0.3, 0.8], dtype=torch.float64, requires_grad=True)
    l1 = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    edges = torch.tensor(EDGES, requires_grad=True)
    tau = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w, v, e, t: FusedLasso(w, v, e).prox(x, t),
        (x, weight, l1, edges, tau),
        check_forward_ad=True,
        check_batched_grad=True,
    )
    w = torch.tensor(RNG.uniform(0.5, 2, size=(2, N)), requires_grad=True)
    assert torch.autograd.gradcheck(isotonic_regression, (x, w), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x, w: isotonic_regression(x, w) ** 2, (x, w))


def test_gradients_agree_in_jax():
    x = RNG.normal(size=(2, N))
    g = RNG.normal(size=(2, N))

    def loss(x, w):
        return jnp.sum(g * FusedLasso(w, 0.1, edge_weights=EDGES).prox(x, 0.9))

    found = jax.jit(jax.grad(loss, argnums=(0, 1)))(jnp.asarray(x), jnp.asarray(0.4))
    tx, tw = torch.tensor(x, requires_grad=True), torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    (torch.tensor(g) * FusedLasso(tw, 0.1, edge_weights=EDGES).prox(tx, 0.9)).sum().backward()
    np.testing.assert_allclose(found[0], tx.grad, atol=1e-13)
    np.testing.assert_allclose(found[1], tw.grad, atol=1e-13)
    forward = jax.jit(lambda w: jax.jvp(lambda w: loss(jnp.asarray(x), w), (w,), (1.0,))[1])(0.4)
    np.testing.assert_allclose(forward, tw.grad, atol=1e-12)


def test_gradients_are_finite_at_ties():
    for x in (torch.zeros(N), torch.tensor(SIGNALS["ties"])):
        x = x.double().requires_grad_()
        for f in (TotalVariation1D(0.5), FusedLasso(0.5, 0.5), Monotone()):
            (gradient,) = torch.autograd.grad(f.prox(x).sum(), x)
            assert torch.isfinite(gradient).all() and gradient.abs().max() <= N


def test_a_broken_row_leaves_its_neighbours_alone():
    x = RNG.normal(size=(3, N))
    x[1, 4] = np.nan
    y = TotalVariation1D(0.5).prox(x)
    assert np.isnan(y[1]).all() and np.isfinite(y[[0, 2]]).all()


@pytest.mark.parametrize("weight", [1e3, 1e18, 1e300, np.inf])
@pytest.mark.parametrize("convert", [np.asarray, torch.asarray, jnp.asarray], ids=["numpy", "torch", "jax"])
def test_huge_weights_leave_the_mean(convert, weight):
    x = np.array([[1.0, 2.0, 5.0, 3.0], [0.0, 0.0, 0.0, 0.0], [1e-9, 2e-9, 5e-9, 3e-9]])
    y = np.asarray(TotalVariation1D(weight).prox(convert(x)))
    np.testing.assert_allclose(y, np.repeat(x.mean(-1, keepdims=True), 4, axis=-1), rtol=1e-13)
    one_each = TotalVariation1D(edge_weights=np.array([weight, 0.5, weight])).prox(convert(x[0]))
    np.testing.assert_allclose(one_each, [1.75, 1.75, 3.75, 3.75], rtol=1e-13)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_short_rows(n):
    x = RNG.normal(size=(2, n))
    for f in (TotalVariation1D(100.0), Monotone()):
        assert f.prox(x).shape == (2, n)
        if n < 2:
            np.testing.assert_array_equal(f.prox(x), x)


def test_bad_input_is_named():
    with pytest.raises(SettingsError, match="weight of TotalVariation1D should be nonnegative"):
        TotalVariation1D(-1.0)
    with pytest.raises(SettingsError, match="l1 of FusedLasso"):
        FusedLasso(1.0, -1.0)
    with pytest.raises(ShapeError, match=r"edge_weights .* should end in \(8,\)"):
        TotalVariation1D(edge_weights=np.ones(3)).prox(np.ones(N))
    with pytest.raises(SettingsError, match="tau should be positive"):
        TotalVariation1D().prox(np.ones(N), 0.0)
    with pytest.raises(ShapeError, match="dim 3"):
        TotalVariation1D(dim=3).prox(np.ones(N))
    with pytest.raises(ShapeError, match="floating-point"):
        TotalVariation1D().prox(np.ones(N, dtype=int))


@pytest.mark.gpu
@pytest.mark.parametrize("n", [2, 33, 1000, 4096, 5000])
def test_gpu_rows_agree_with_the_cpu(n):
    """Through the kernels up to 4096 samples, through the level sets beyond."""
    for x in (RNG.normal(size=(7, n)), np.cumsum(RNG.normal(size=(7, n)), axis=-1), np.round(RNG.normal(size=(7, n)))):
        v = torch.tensor(x, device="cuda", requires_grad=True)
        for f in (TotalVariation1D(0.7), TotalVariation1D(np.linspace(0.1, 50, 7)), Monotone(), Monotone(True)):
            np.testing.assert_allclose(f.prox(v).detach().cpu().numpy(), f.prox(x), atol=1e-10)
        (g,) = torch.autograd.grad(TotalVariation1D(0.7).prox(v).sum(), v)
        np.testing.assert_allclose(g.cpu().numpy(), 1.0, atol=1e-10)
