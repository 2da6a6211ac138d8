"""Overlapping groups and GraphNet: minimizer, certificate, derivatives."""

from __future__ import annotations

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox.graph_net import GraphNet
from cvxlayers.prox.overlapping_groups import OverlappingGroupLasso
from cvxlayers.prox.total_generalized_variation import TotalGeneralizedVariation
from cvxlayers.prox.total_variation import TotalVariation

RNG = np.random.default_rng(17)
GROUPS = ((0, 1, 2), (2, 3), (3, 4, 5, 0), (6,))  # entry 7 is in none
SIZES = np.array([1.7, 1.4, 2.0, 0.5])
ACCURATE = {"tol": 1e-13, "max_iter": 5000}
CLARABEL = {"solver": "CLARABEL", "tol_gap_abs": 1e-9, "tol_gap_rel": 1e-9, "tol_feas": 1e-9}


def neighbours(shape, periodic):
    index = np.arange(np.prod(shape)).reshape(shape)
    pairs = []
    for axis in range(len(shape)):
        after = np.moveaxis(np.roll(index, -1, axis), axis, 0)
        here = np.moveaxis(index, axis, 0)
        stop = None if periodic else -1
        pairs += list(zip(here[:stop].ravel(), after[:stop].ravel(), strict=True))
    return np.array(pairs)


@pytest.mark.parametrize("l1", [0.0, 0.15])
@pytest.mark.parametrize("group_weights", [None, SIZES])
def test_overlapping_groups_minimize(l1, group_weights):
    x, tau = RNG.normal(size=8), 0.7
    f = OverlappingGroupLasso(GROUPS, 0.6, group_weights, l1, tol=1e-11, max_iter=20000)
    y, info = f.prox(x, tau, return_info=True)
    v = cp.Variable(8)
    sizes = np.ones(4) if group_weights is None else group_weights

    def value(v):
        return 0.6 * sum(s * cp.norm(v[list(g)], 2) for s, g in zip(sizes, GROUPS, strict=True)) + l1 * cp.norm1(v)

    cp.Problem(cp.Minimize(cp.sum_squares(v - x) / 2 + tau * value(v))).solve(**CLARABEL)
    assert np.abs(y - v.value).max() < 1e-5 and info.gap <= 1e-11
    np.testing.assert_allclose(f(x), value(cp.Constant(x)).value, atol=1e-12)


def test_overlapping_groups_across_libraries_and_batches():
    x = RNG.normal(size=(3, 8))
    f = OverlappingGroupLasso(GROUPS, np.array([0.1, 0.5, 2.0]), SIZES, 0.05)
    y, info = f.prox(x, return_info=True)
    assert np.all(info.gap <= 1e-6)
    np.testing.assert_allclose(f.prox(torch.tensor(x)).numpy(), y, atol=1e-12)
    np.testing.assert_allclose(jax.jit(f.prox)(jnp.asarray(x)), y, atol=1e-12)
    np.testing.assert_allclose(f.prox(x, warm_start=info.dual), y, atol=5e-3)
    np.testing.assert_allclose(OverlappingGroupLasso(GROUPS, 0.5, SIZES, 0.05).prox(x[1]), y[1], atol=1e-12)
    z = f.prox(x + 0j)
    np.testing.assert_allclose(z, y, atol=1e-12)
    assert f.prox(x.astype(np.float32)).dtype == np.float32
    moved = OverlappingGroupLasso(GROUPS, 0.5, SIZES, 0.05, dim=0).prox(x.T)
    np.testing.assert_allclose(moved[:, 1], y[1], atol=1e-12)


def test_groups_without_overlap_have_the_formula():
    x = RNG.normal(size=6)
    y = OverlappingGroupLasso(((0, 1, 2), (3, 4, 5)), 0.8, tol=1e-13, max_iter=20000).prox(x)
    for block in (slice(0, 3), slice(3, 6)):
        expected = x[block] * max(0.0, 1 - 0.8 / np.linalg.norm(x[block]))
        np.testing.assert_allclose(y[block], expected, atol=1e-6)


def test_gradients_of_overlapping_groups():
    x = torch.tensor(RNG.normal(size=(2, 8)) * 2, requires_grad=True)
    weight = torch.tensor([0.4, 0.7], dtype=torch.float64, requires_grad=True)
    sizes = torch.tensor(SIZES, requires_grad=True)
    l1 = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    tau = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)

    def prox(x, weight, sizes, l1, tau):
        return OverlappingGroupLasso(GROUPS, weight, sizes, l1, **ACCURATE).prox(x, tau)

    assert torch.autograd.gradcheck(prox, (x, weight, sizes, l1, tau), eps=1e-5, atol=2e-4, rtol=1e-3)
    gradient = torch.autograd.grad(prox(0 * x, weight, sizes, l1, tau).sum(), (x, sizes), allow_unused=True)
    assert all(torch.isfinite(g).all() for g in gradient)


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("shape", [(6,), (4, 5), (3, 2, 4)])
def test_graph_net_is_the_minimizer_of_the_sum(shape, periodic):
    x, tau = 2 * RNG.normal(size=shape), 0.8
    f = GraphNet(0.4, 1.5, periodic, dim="all")
    y, info = f.prox(x, tau, return_info=True)
    v, pairs = cp.Variable(x.size), neighbours(shape, periodic)
    smooth = cp.sum_squares(v[pairs[:, 1]] - v[pairs[:, 0]]) / 2
    objective = cp.sum_squares(v - x.ravel()) / 2 + tau * (0.4 * cp.norm1(v) + 1.5 * smooth)
    cp.Problem(cp.Minimize(objective)).solve(**CLARABEL)
    assert np.abs(y.ravel() - v.value).max() < 2e-5 and info.gap <= 1e-10
    steps = x.ravel()[pairs]
    value = 0.4 * np.abs(x).sum() + 0.75 * np.sum((steps[:, 1] - steps[:, 0]) ** 2)
    np.testing.assert_allclose(f(x), value, rtol=1e-12)


def test_graph_net_across_libraries_and_batches():
    x = RNG.normal(size=(3, 5, 4))
    f = GraphNet(np.array([0.1, 0.2, 5.0]), 2.0)
    y, info = f.prox(x, return_info=True)
    assert np.all(y[2] == 0) and info.iterations[2] <= info.iterations[0]
    np.testing.assert_allclose(f.prox(torch.tensor(x)).numpy(), y, atol=1e-12)
    np.testing.assert_allclose(jax.jit(f.prox)(jnp.asarray(x)), y, atol=1e-12)
    np.testing.assert_allclose(GraphNet(0.2, 2.0).prox(x[1]), y[1], atol=1e-12)
    np.testing.assert_allclose(f.prox(x.astype(np.float32)), y, atol=1e-3)
    np.testing.assert_allclose(GraphNet(0.3, 0.0).prox(x), np.sign(x) * np.maximum(np.abs(x) - 0.3, 0), atol=1e-14)


def test_gradients_of_graph_net():
    x = torch.tensor(2 * RNG.normal(size=(2, 3, 3)), requires_grad=True)
    l1, smooth, tau = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 1.2, 0.9))

    def prox(x, l1, smooth, tau):
        return GraphNet(l1, smooth, tol=1e-14).prox(x, tau)

    assert torch.autograd.gradcheck(prox, (x, l1, smooth, tau), eps=1e-5, atol=1e-5)
    g, h = RNG.normal(size=(2, 2, 3, 3))
    along = jax.jit(lambda v, h: jax.jvp(GraphNet(0.3, 1.2).prox, (v,), (h,))[1])
    forward = along(jnp.asarray(x.detach()), jnp.asarray(h))
    (reverse,) = torch.autograd.grad(prox(x, 0.3, 1.2, 1.0), x, torch.tensor(g))
    np.testing.assert_allclose(np.sum(g * forward), np.sum(reverse.numpy() * h), rtol=1e-6)


def test_bad_input_is_named():
    with pytest.raises(SettingsError, match="group 1 is"):
        OverlappingGroupLasso(((0, 1), (2, 2)))
    with pytest.raises(SettingsError, match="groups of OverlappingGroupLasso should not be empty"):
        OverlappingGroupLasso(())
    with pytest.raises(SettingsError, match=r"group_weights .* \(1,\)"):
        OverlappingGroupLasso(((0, 1),), 1.0, np.ones(3))
    with pytest.raises(ShapeError, match="more than 6 entries"):
        OverlappingGroupLasso(GROUPS).prox(np.ones(4))
    with pytest.raises(ShapeError, match="warm_start"):
        OverlappingGroupLasso(GROUPS).prox(np.ones(8), warm_start=np.ones(3))
    with pytest.raises(SettingsError, match="smooth of GraphNet"):
        GraphNet(1.0, -1.0)
    with pytest.raises(ShapeError, match="one to four axes"):
        GraphNet(dim="all").prox(np.ones((1,) * 5))


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
@pytest.mark.parametrize(
    ("f", "fields"),
    [
        (TotalVariation(0.4, 0.1, tol=1e-6), 2),
        (GraphNet(0.3, 2.0, periodic=True, tol=1e-10), 2),
        (TotalGeneralizedVariation(0.3, 1.5, tol=1e-4), 8),
        (TotalGeneralizedVariation(np.array([[0.1], [0.4]]), dim=(1,), tol=1e-4), 3),
    ],
    ids=repr,
)
def test_a_warm_start_on_a_grid_saves_the_work(f, fields, library):
    make = {"numpy": np.asarray, "torch": torch.tensor, "jax": jnp.asarray}[library]
    x = make(np.random.default_rng(3).normal(size=(2, 9, 8)))
    y, info = f.prox(x, tau=0.7, return_info=True)
    assert info.dual.shape == (fields, *x.shape)
    again, second = f.prox(x, tau=0.7, warm_start=info.dual, return_info=True)
    assert (np.asarray(second.iterations) <= 0.5 * np.asarray(info.iterations)).all()
    assert (np.asarray(second.gap) <= f.tol).all()
    np.testing.assert_allclose(np.asarray(again), np.asarray(y), atol=2e-2)
    with pytest.raises(ShapeError, match="warm_start"):
        f.prox(x, warm_start=info.dual[:1])
