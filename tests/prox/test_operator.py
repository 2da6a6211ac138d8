"""What every operator does: axes, weights, libraries, checks, copies, and the derivatives of `implicit`."""

from __future__ import annotations

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cvxlayers.array import fixed_point, implicit
from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox import L1, L2, L21, Huber, Indicator, Linear, Ridge, Zero
from cvxlayers.sets import Exponential, Nonnegative, PositiveSemidefinite, SecondOrder
from tests import checks

X = np.random.default_rng(0).standard_normal((4, 5, 3))


# PyTorch warns at the first use of forward mode; `checks` has that behind it.
close = checks.close


def soft(x, t):
    return np.sign(x) * np.maximum(np.abs(x) - t, 0)


@pytest.mark.parametrize(
    ("dim", "batch", "axes"),
    [
        (None, (4, 5), (2,)),
        (-1, (4, 5), (2,)),
        (0, (5, 3), (0,)),
        (-2, (4, 3), (1,)),
        ((0, 2), (5,), (0, 2)),
        ((2, 0), (5,), (0, 2)),
        ([0, 1], (3,), (0, 1)),
        ("all", (), (0, 1, 2)),
        ((), (4, 5, 3), ()),
    ],
)
def test_dim_names_the_axes_of_a_sample(dim, batch, axes):
    f = L2(0.5, dim=dim)
    norm = np.sqrt((X**2).sum(axes, keepdims=True))
    np.testing.assert_allclose(f(X), 0.5 * norm.reshape(batch))
    np.testing.assert_allclose(f.prox(X, 0.7), X * np.maximum(1 - 0.35 / norm, 0))
    np.testing.assert_allclose(f.conj_prox(X, 0.7), X * np.minimum(1, 0.5 / norm))
    weight = np.random.default_rng(1).random(batch) + 0.1
    one_each = L2(weight, dim=dim)
    expanded = weight.reshape([1 if k in axes else n for k, n in enumerate(X.shape)])
    np.testing.assert_allclose(one_each.prox(X), X * np.maximum(1 - expanded / norm, 0))
    np.testing.assert_allclose(one_each.prox(X, weight), X * np.maximum(1 - expanded**2 / norm, 0))


def test_two_axes_in_either_order():
    f, g = L21(dim=(0, 2)), L21(dim=(2, 0))
    np.testing.assert_allclose(f(X), np.sqrt((X**2).sum(2)).sum(0))
    np.testing.assert_allclose(g(X), np.sqrt((X**2).sum(0)).sum(1))
    np.testing.assert_allclose(g.prox(X), X * np.maximum(1 - 1 / np.sqrt((X**2).sum(0, keepdims=True)), 0))


def test_weights_of_entries_have_the_layout_of_x():
    weights = np.random.default_rng(2).random((5, 1))
    for dim in (None, 1, (1, 2), "all"):
        np.testing.assert_allclose(L1(entry_weights=weights, dim=dim).prox(X), soft(X, weights))


def test_a_batch_of_weights_makes_a_batch_of_one_x():
    taus = np.array([[0.1], [0.5]])
    y = L1().prox(X[0, 0], taus[:, 0])
    assert y.shape == (2, 3)
    np.testing.assert_allclose(y, soft(X[0, 0], taus))
    assert L1(np.ones(7)).prox(X[0, 0]).shape == (7, 3) and L1(np.ones(7))(X[0, 0]).shape == (7,)
    assert L1(np.ones((7, 1, 1))).prox(X).shape == (7, 4, 5, 3)


def test_empty_batches_and_empty_samples():
    assert L1().prox(X[:0]).shape == (0, 5, 3) and L1()(X[:0]).shape == (0, 5)
    assert L1().prox(X[..., :0]).shape == (4, 5, 0) and (L1()(X[..., :0]) == 0).all()


def test_weights_of_any_library_meet_arrays_of_numpy():
    x = X[0]
    weight = torch.full((5,), 0.3, dtype=torch.float64, requires_grad=True)
    y = L1(weight).prox(x)
    assert isinstance(y, torch.Tensor) and y.requires_grad
    np.testing.assert_allclose(y.detach(), soft(x, 0.3))
    gradient = jax.grad(lambda w: L1(w).prox(x).sum())(0.3)
    np.testing.assert_allclose(gradient, -np.sign(soft(x, 0.3)).sum())
    np.testing.assert_allclose(L1(0.3).prox(x, torch.tensor(1.0)), soft(x, 0.3), rtol=1e-6)
    y = L1(np.float64(0.3)).prox(torch.from_numpy(x.astype(np.float32)))
    assert y.dtype == torch.float32
    reversed_weight = np.arange(5.0)[::-1]
    np.testing.assert_allclose(L1(reversed_weight).prox(torch.from_numpy(x)), soft(x, reversed_weight[:, None]))


def test_nothing_is_written():
    x, weight, tau = X.copy(), np.ones((4, 5)), np.ones((4, 5))
    for f in (L1(weight), Zero(), Huber(weight), L2(weight), Ridge(weight)):
        y = f.prox(x, tau)
        y[...] = 7
        f(x)
        assert np.array_equal(x, X) and (weight == 1).all() and (tau == 1).all()
    with pytest.raises(AttributeError):
        L1().weight = 2.0


def test_a_value_that_is_no_number_stays_in_its_sample():
    x = X.copy()
    x[1, 2, 0] = np.nan
    good = np.ones((4, 5), bool)
    good[1, 2] = False
    for f in (L1(), L2(), Huber(), Indicator(SecondOrder(3))):
        np.testing.assert_array_equal(f.prox(x)[good], f.prox(X)[good])


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: L1().prox(X, 0.0), SettingsError, "tau should be positive; got 0"),
        (lambda: L1().prox(X, -np.ones((4, 5))), SettingsError, "tau should be positive; got -1"),
        (lambda: L1().prox(X, np.nan), SettingsError, "tau should be positive"),
        (lambda: L1().prox(torch.tensor(X), torch.tensor(-1.0)), SettingsError, "tau should be positive"),
        (lambda: L1().prox(jnp.asarray(X), jnp.asarray(-1.0)), SettingsError, "tau should be positive"),
        (lambda: L1().prox(X, 1j), ShapeError, "complex"),
        (lambda: L1().conj_prox(X, -1.0), SettingsError, "tau should be positive"),
        (lambda: L1().prox(X, np.ones(3)), ShapeError, r"tau .* batch shape \(4, 5\); got shape \(3,\)"),
        (lambda: L1(np.ones(3)).prox(X), ShapeError, "weight of L1"),
        (lambda: L1(dim=3)(X), ShapeError, "dim 3 of L1.* is not there: x has 3 dimensions"),
        (lambda: L1(dim=-4)(X), ShapeError, "dim -4"),
        (lambda: L1(dim=(0, -3))(X), ShapeError, "twice"),
        (lambda: L21(dim=0)(X), ShapeError, "consumes 2 axes"),
        (lambda: L1(dim=1.0), SettingsError, "dim of L1"),
        (lambda: L1(dim=True), SettingsError, "dim of L1"),
        (lambda: L1()(np.arange(3)), ShapeError, "floating-point"),
        (lambda: L1()([1.0, 2.0]), ShapeError, "x should be a NumPy, PyTorch or JAX array; got list"),
        (lambda: Huber(np.array([1.0, -2.0])), SettingsError, "weight of Huber should be nonnegative; got -2"),
        (lambda: Linear(1j).prox(X), ShapeError, "complex"),
        (lambda: Indicator(SecondOrder(4)).project(X), ShapeError, "4 entries"),
        (lambda: Indicator("cone"), SettingsError, "cone of Indicator"),
    ],
)
def test_misuse_names_the_argument(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


def test_what_cannot_be_seen_is_nan_in_its_sample():
    tau = jnp.array([1.0, -1.0, 0.0, 2.0])
    x = jnp.asarray(X[:, 0])
    y = jax.jit(lambda x, tau: L2().prox(x, tau))(x, tau)
    np.testing.assert_allclose(y[jnp.array([0, 3])], L2().prox(X[[0, 3], 0], np.array([1.0, 2.0])))
    assert np.isnan(y[1]).all() and np.isnan(y[2]).all()
    value = jax.jit(lambda w, x: L1(w)(x))(jnp.array([1.0, -1.0, 0.0, 2.0]), x)
    assert list(np.isnan(value)) == [False, True, False, False]
    gradient = jax.jit(jax.grad(lambda x, tau: jnp.nansum(L2().prox(x, tau))))(x, tau)
    assert np.isfinite(gradient).all()
    y = torch.func.vmap(lambda x, t: L1().prox(x, t))(torch.tensor(X[:, 0]), torch.tensor([1.0, -1.0, 1.0, 1.0]))
    assert torch.isnan(y[1]).all() and torch.isfinite(y[0]).all()


def test_operators_are_pytrees():
    f = L1(np.array([0.1, 0.2, 0.3, 0.4]), dim=-1)
    leaves, structure = jax.tree_util.tree_flatten(f)
    assert len(leaves) == 1 and isinstance(jax.tree_util.tree_unflatten(structure, leaves), L1)
    mapped = jax.vmap(lambda f, x: f.prox(x))(f, X)
    np.testing.assert_allclose(mapped, soft(X, f.weight[:, None, None]))
    gradient = jax.grad(lambda f: f(X[0, 0]))(L1(0.5))
    np.testing.assert_allclose(gradient.weight, np.abs(X[0, 0]).sum())
    nested = jax.grad(lambda f: f(X[0, 0]))((2 * L1(0.5)).translate(1.0))
    np.testing.assert_allclose(nested.f.f.weight, 2 * np.abs(X[0, 0] - 1).sum())
    assert jax.jit(lambda f, x: f.project(x))(Indicator(Nonnegative(3)), X).shape == X.shape


def test_operators_in_a_module_of_pytorch():
    class Denoiser(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.raw = torch.nn.Parameter(torch.tensor(0.0))
            self.penalty = L2(dim=(-2, -1))

        def forward(self, x):
            return (torch.nn.functional.softplus(self.raw) * L1()).prox(self.penalty.prox(x))

    module = Denoiser().double()
    module(torch.tensor(X)).sum().backward()
    assert module.raw.grad is not None and torch.isfinite(module.raw.grad)
    again = copy.deepcopy(module)
    assert torch.equal(again(torch.tensor(X)), module(torch.tensor(X)))


@pytest.mark.parametrize("f", [L1(0.5), 2 * L1(np.ones(5)).translate(X[0]), Indicator(SecondOrder(3))], ids=repr)
def test_operators_are_copied_and_pickled(f):
    for again in (pickle.loads(pickle.dumps(f)), copy.deepcopy(f), copy.copy(f)):
        np.testing.assert_array_equal(again.prox(X[0]), f.prox(X[0]))


def test_printing_shows_what_is_not_the_default():
    assert repr(L1()) == "L1()" and repr(L1(0.5, dim=0)) == "L1(dim=0, weight=0.5)"


@pytest.mark.parametrize("cone", [Nonnegative(3), SecondOrder(3), PositiveSemidefinite(2), Exponential()], ids=repr)
def test_cones_are_operators(cone):
    f = Indicator(cone)
    y = f.project(X)
    np.testing.assert_array_equal(y, cone.project(X))
    assert (f(y) == 0).all() and f.contains(y).all() and np.isinf(f(X)).any()
    polar = f.conj_prox(X)
    np.testing.assert_allclose(polar, -cone.project_dual(-X), atol=1e-12)
    assert (f.conjugate_value(polar) == 0).all() and np.isinf(f.conjugate_value(X)).any()
    x = torch.tensor(X[0, :2], requires_grad=True)
    assert torch.autograd.gradcheck(f.project, (x,), atol=1e-5)


class Power:
    """y = t x^2, as a rule that is its own transpose, or leaves that to the framework."""

    def forward(self, x, t):
        return t * x * x, x

    def tangent(self, outputs, args, tangents):
        (x, t), (dx, dt) = args, tangents
        return 2 * t * x * dx + dt * x * x


class PowerWithCotangent(Power):
    def cotangent(self, outputs, args, g):
        x, t = args
        return 2 * t * x * g, g * x * x


@pytest.mark.parametrize("rule", [Power(), PowerWithCotangent()], ids=lambda r: type(r).__name__)
def test_implicit_derivatives_of_every_order(rule):
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    t = torch.tensor([0.5, 3.0], dtype=torch.float64, requires_grad=True)

    def f(x, t):
        return implicit(rule, x, t)[0]

    assert torch.autograd.gradcheck(f, (x, t), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, (x, t))
    total = lambda x, t: torch.sin(f(x, t)).sum()  # noqa: E731
    reference = lambda x, t: torch.sin(t * x * x).sum()  # noqa: E731
    expected = torch.func.hessian(reference)(x, t)
    for modes in ((torch.func.jacrev, torch.func.jacrev), (torch.func.jacfwd, torch.func.jacrev)):
        torch.testing.assert_close(modes[0](modes[1](total))(x, t), expected)
    mapped = torch.func.vmap(f)(torch.stack([x, t]), torch.stack([t, x]))
    torch.testing.assert_close(mapped[1], x * t * t)
    outer = jax.jacrev if isinstance(rule, PowerWithCotangent) else jax.jacfwd
    in_jax = jax.jit(outer(jax.grad(lambda x, t: jnp.sin(implicit(rule, x, t)[0]).sum())))
    np.testing.assert_allclose(in_jax(jnp.asarray(x.detach()), jnp.asarray(t.detach())), expected.detach(), atol=1e-12)


def test_fixed_points():
    """s = s/2 + a, s = 2a: ds/da = 2, in reverse mode, and in forward mode in JAX."""
    a = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    s = fixed_point(lambda s: s / 2 + a, torch.tensor([2.0, 4.0], dtype=torch.float64), 200, 1e-12)
    torch.testing.assert_close(s, 2 * a)
    torch.testing.assert_close(torch.autograd.grad(s.sum(), a)[0], torch.full((2,), 2.0, dtype=torch.float64))
    in_torch = torch.func.grad(lambda a: fixed_point(lambda s: s / 2 + a, 2 * a, 200, 1e-12).sum())(a)
    torch.testing.assert_close(in_torch, torch.full((2,), 2.0, dtype=torch.float64))

    def in_jax(a):
        return fixed_point(lambda s: s / 2 + a, 2 * a, 200, 1e-12).sum()

    for mode in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(jax.jit(mode(in_jax))(jnp.array([1.0, 2.0])), [2.0, 2.0])
