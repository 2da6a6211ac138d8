"""Total variation on grids: the minimizer, its certificate, and its derivatives."""

from __future__ import annotations

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cvxlayers.compiled import compiler
from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox.total_variation import TotalVariation

RNG = np.random.default_rng(11)
TIGHT = {"tol": 1e-12, "max_iter": 50000}
KINDS = [(True, False), (True, True), (False, False), (False, True)]  # isotropic, periodic


def differences(shape, axis, periodic):
    """The matrix of forward differences along an axis of a flattened grid, written entry by entry."""
    size = int(np.prod(shape))
    index = np.arange(size).reshape(shape)
    D = np.zeros((size, size))
    for at in np.ndindex(*shape):
        after = list(at)
        after[axis] += 1
        if after[axis] == shape[axis]:
            if not periodic:
                continue
            after[axis] = 0
        D[index[at], index[at]] -= 1
        D[index[at], index[tuple(after)]] += 1
    return D


def variation(y, shape, isotropic, periodic):
    parts = [differences(shape, axis, periodic) @ y for axis in range(len(shape))]
    if isotropic:
        return cp.sum(cp.norm(cp.vstack(parts), 2, axis=0))
    return cp.sum(cp.abs(cp.vstack(parts)))


def minimizer(x, weight, l1, isotropic, periodic):
    y = cp.Variable(x.size)
    objective = cp.sum_squares(y - x.ravel()) / 2 + weight * variation(y, x.shape, isotropic, periodic)
    cp.Problem(cp.Minimize(objective + l1 * cp.norm1(y))).solve(
        solver="CLARABEL", tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9
    )
    return y.value.reshape(x.shape), objective.value


@pytest.mark.parametrize("l1", [0.0, 0.3])
@pytest.mark.parametrize(("isotropic", "periodic"), KINDS)
@pytest.mark.parametrize("shape", [(7,), (4, 6), (6, 1), (3, 4, 3), (2, 3, 2, 3)])
def test_prox_is_the_minimizer(shape, isotropic, periodic, l1):
    x = RNG.normal(size=shape)
    f = TotalVariation(0.4, l1, isotropic, periodic, tol=1e-10, max_iter=20000, dim="all")
    y, info = f.prox(x, 0.9, return_info=True)
    expected, _ = minimizer(x, 0.36, 0.9 * l1, isotropic, periodic)
    assert np.abs(y - expected).max() < 1e-4
    value = 0.9 * f(y) + np.sum((y - x) ** 2) / 2
    assert value <= 0.9 * f(expected) + np.sum((expected - x) ** 2) / 2 + 1e-8
    assert info.gap < 1e-10
    direct = 0.4 * variation(cp.Constant(x.ravel()), shape, isotropic, periodic).value + l1 * np.abs(x).sum()
    np.testing.assert_allclose(f(x), direct, atol=1e-12)


@pytest.mark.parametrize(("isotropic", "periodic"), KINDS)
def test_the_certificate_bounds_the_error(isotropic, periodic):
    """||y - y*||^2 <= 2 gap value, at every accuracy and for the array code and the kernel alike."""
    x = RNG.normal(size=(6, 7))
    f = TotalVariation(0.5, 0.1, isotropic, periodic)
    best = TotalVariation(0.5, 0.1, isotropic, periodic, **TIGHT).prox(x)
    for limit in (0, 10, 40, 160):
        y, info = TotalVariation(0.5, 0.1, isotropic, periodic, tol=0.0, max_iter=limit).prox(x, return_info=True)
        value = f(y) + np.sum((y - x) ** 2) / 2
        assert np.sum((y - best) ** 2) <= 2 * info.gap * value + 1e-12
        assert info.iterations >= limit


@pytest.mark.parametrize("shape", [(5, 8), (4, 3, 5)])
@pytest.mark.parametrize(("isotropic", "periodic"), KINDS)
def test_kernel_and_array_code_agree(shape, isotropic, periodic, monkeypatch):
    x = RNG.normal(size=(2, *shape))
    f = TotalVariation(0.3, 0.05, isotropic, periodic, tol=0.0, max_iter=60, dim=tuple(range(1, x.ndim)))
    compiled = f.prox(x, return_info=True)
    monkeypatch.setattr(compiler, "is_available", lambda: False)
    plain = f.prox(x, return_info=True)
    np.testing.assert_allclose(plain[0], compiled[0], atol=1e-12)
    np.testing.assert_allclose(plain[1].dual, compiled[1].dual, atol=1e-12)
    np.testing.assert_allclose(plain[1].gap, compiled[1].gap, atol=1e-12)
    np.testing.assert_array_equal(plain[1].iterations, compiled[1].iterations)


def test_lines_longer_and_shorter_than_a_chunk():
    """The kernel works in chunks of 2048 samples: grids around that size, against the array code."""
    for shape in ((3, 2500), (900, 5), (40, 60), (2, 2500, 2)):
        x = RNG.normal(size=shape)
        for periodic in (False, True):
            f = TotalVariation(0.3, 0.0, True, periodic, tol=0.0, max_iter=30, dim="all")
            y = f.prox(x)
            other = f.prox(x + 0j)  # complex arrays take the array code
            np.testing.assert_allclose(other.real, y, atol=1e-12)


def test_every_sample_stops_by_itself():
    easy, hard = 0.01 * RNG.normal(size=(8, 8)), np.kron(RNG.normal(size=(2, 2)), np.ones((4, 4)))
    x = np.stack([np.zeros((8, 8)), easy, hard])
    f = TotalVariation(np.array([0.3, 0.001, 0.7]))
    y, info = f.prox(x, return_info=True)
    assert info.gap.shape == (3,) and info.iterations[0] == 0 and len(set(info.iterations)) > 1
    assert np.all(info.gap <= 1e-6)
    for i in range(3):
        one, alone = TotalVariation(f.weight[i]).prox(x[i], return_info=True)
        np.testing.assert_array_equal(y[i], one)
        assert alone.iterations == info.iterations[i]


@pytest.mark.parametrize("library", ["numpy", "torch", "jax"])
def test_a_warm_start_saves_the_work(library):
    x = RNG.normal(size=(2, 9, 8))
    x = {"numpy": np.asarray, "torch": torch.tensor, "jax": jnp.asarray}[library](x)
    f = TotalVariation(0.4, 0.1)
    y, info = f.prox(x, return_info=True)
    assert info.dual.shape == (2, *x.shape)
    again, second = f.prox(x, warm_start=info.dual, return_info=True)
    assert np.all(np.asarray(second.iterations) < np.asarray(info.iterations) / 2)
    assert float(abs(again - y).max()) < 1e-2
    with pytest.raises(ShapeError, match="warm_start"):
        f.prox(x, warm_start=info.dual[:1])


@pytest.mark.parametrize("dim", [None, (0, 2), (-1,), (0, 1, 2)])
def test_libraries_agree(dim):
    x = RNG.normal(size=(4, 3, 5))
    before = x.copy()
    f = TotalVariation(0.3, 0.05, dim=dim)
    y = f.prox(x, 0.8)
    assert np.array_equal(x, before) and y.shape == x.shape
    np.testing.assert_allclose(f.prox(torch.tensor(x), 0.8).numpy(), y, atol=1e-12)
    np.testing.assert_allclose(jax.jit(f.prox)(jnp.asarray(x), 0.8), y, atol=1e-12)
    z = f.prox(x.astype(np.float32), 0.8)
    assert z.dtype == np.float32 and np.abs(z - y).max() < 2e-2


def test_the_frameworks_transform_it():
    x = RNG.normal(size=(3, 4, 5))
    f = TotalVariation(0.3)
    y = f.prox(x)
    np.testing.assert_allclose(torch.func.vmap(f.prox)(torch.tensor(x)).numpy(), y, atol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.vmap(f.prox))(jnp.asarray(x)), y, atol=1e-12)
    np.testing.assert_allclose(jax.jit(lambda f, v: f.prox(v))(f, jnp.asarray(x)), y, atol=1e-12)


def test_complex_images_by_modulus():
    x = RNG.normal(size=(4, 5)) + 1j * RNG.normal(size=(4, 5))
    f = TotalVariation(0.3, 0.2, tol=1e-11, max_iter=20000)
    v = cp.Variable((4, 5), complex=True)
    down = cp.vstack([v[1:] - v[:-1], np.zeros((1, 5))])
    right = cp.hstack([v[:, 1:] - v[:, :-1], np.zeros((4, 1))])
    # CVXPY's Frobenius norm, sample by sample: the modulus of complex differences.
    tv = sum(cp.norm(cp.hstack([down[i, j], right[i, j]]), 2) for i in range(4) for j in range(5))
    objective = cp.sum_squares(v - x) / 2 + 0.3 * tv + 0.2 * cp.sum(cp.abs(v))
    cp.Problem(cp.Minimize(objective)).solve(solver="CLARABEL")
    y, info = f.prox(x, return_info=True)
    assert np.abs(y - v.value).max() < 1e-4 and info.dual.dtype == x.dtype
    assert f(y).dtype == np.float64
    real = f.prox(x.real + 0j)
    np.testing.assert_allclose(real, TotalVariation(0.3, 0.2, tol=1e-11, max_iter=20000).prox(x.real), atol=1e-5)


@pytest.mark.parametrize("l1", [0.0, 0.1])
@pytest.mark.parametrize(("isotropic", "periodic"), KINDS)
def test_gradients_are_those_of_finite_differences(isotropic, periodic, l1):
    """The derivative of the solution by the implicit function theorem, in x, tau, weight and l1."""
    x = torch.tensor(np.random.default_rng(3).normal(size=(4, 5)), requires_grad=True)
    weight = torch.tensor(0.35, dtype=torch.float64, requires_grad=True)
    tau = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    level = torch.tensor(l1, dtype=torch.float64, requires_grad=l1 > 0)

    def prox(x, weight, tau, level):
        return TotalVariation(weight, level, isotropic, periodic, tol=1e-15, max_iter=40000).prox(x, tau)

    inputs = (x, weight, tau, level)
    assert torch.autograd.gradcheck(prox, inputs, eps=1e-5, atol=2e-4, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # from PyTorch's forward mode
def test_forward_and_reverse_mode_agree():
    x, g, h = (RNG.normal(size=(2, 5, 4)) for _ in range(3))

    def prox(x, weight):
        return TotalVariation(weight, 0.05, tol=1e-10, max_iter=20000).prox(x)

    weight, dweight = np.array([0.3, 0.6]), np.array([0.2, -0.1])

    def both(x, w):
        return jax.jvp(prox, (x, w), (jnp.asarray(h), jnp.asarray(dweight)))[1], jax.vjp(prox, x, w)[1](jnp.asarray(g))

    forward, (gx, gw) = jax.jit(both)(jnp.asarray(x), jnp.asarray(weight))
    np.testing.assert_allclose(np.sum(g * forward), np.sum(gx * h) + np.sum(gw * dweight), rtol=1e-7)
    tx, tw = (torch.tensor(a, requires_grad=True) for a in (x, weight))
    prox(tx, tw).backward(torch.tensor(g))
    np.testing.assert_allclose(tx.grad, gx, atol=1e-7)
    np.testing.assert_allclose(tw.grad, gw, atol=1e-7)
    dual = torch.func.jvp(prox, (tx.detach(), tw.detach()), (torch.tensor(h), torch.tensor(dweight)))[1]
    np.testing.assert_allclose(dual, forward, atol=1e-7)


def test_gradients_of_complex_images():
    x = torch.tensor(RNG.normal(size=(3, 4)) + 1j * RNG.normal(size=(3, 4)), requires_grad=True)
    f = TotalVariation(0.2, 0.1, tol=1e-14, max_iter=20000)
    assert torch.autograd.gradcheck(f.prox, (x,), eps=1e-5, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("case", ["constant", "zero", "flat solution", "no weight", "no weight at zero"])
def test_gradients_where_everything_is_degenerate(case):
    """At kinks the derivative is an element of the generalized Jacobian: finite, symmetric, between 0 and 1."""
    x = torch.zeros(4, 4).double() if "zero" in case else torch.ones(4, 4).double()
    if case in ("flat solution", "no weight"):
        x = torch.tensor(RNG.normal(size=(4, 4)))
    weight = torch.tensor(0.0 if "no weight" in case else 20.0, dtype=torch.float64, requires_grad=True)
    f = TotalVariation(weight)
    J = torch.autograd.functional.jacobian(f.prox, x).reshape(16, 16)
    assert torch.isfinite(J).all() and torch.allclose(J, J.T, atol=1e-8)
    eigenvalues = torch.linalg.eigvalsh((J + J.T) / 2)
    assert eigenvalues.min() > -1e-8 and eigenvalues.max() < 1 + 1e-8
    if case == "flat solution":
        assert torch.allclose(J, torch.full((16, 16), 1 / 16, dtype=torch.float64), atol=1e-6)
    (gradient,) = torch.autograd.grad(f.prox(x).sum(), weight)
    assert torch.isfinite(gradient)


def test_a_second_derivative_is_refused_rather_than_wrong():
    x = torch.tensor(RNG.normal(size=(3, 3)), requires_grad=True)
    (g,) = torch.autograd.grad(TotalVariation(0.2).prox(x).sum() ** 2, x, create_graph=True)
    with pytest.raises(SettingsError, match="second derivatives"):
        torch.autograd.grad(g.sum(), x)
    with pytest.raises(SettingsError, match="second derivatives"):
        first = jax.grad(lambda v: TotalVariation(0.2).prox(v).sum() ** 2)
        jax.eval_shape(jax.grad(lambda v: first(v).sum()), jnp.ones((3, 3)))


def test_single_precision_far_from_zero():
    x = (RNG.normal(size=(12, 12)) + 1000.0).astype(np.float32)
    y, info = TotalVariation(0.5).prox(x, return_info=True)
    expected = TotalVariation(0.5, tol=1e-9).prox(x.astype(np.float64))
    assert info.gap <= 1e-5 and np.abs(y - expected).max() < 2e-2


def test_firmly_nonexpansive_and_shift_invariant():
    f = TotalVariation(0.5, tol=1e-10, max_iter=20000)
    x, z = RNG.normal(size=(2, 5, 6))
    px, pz = f.prox(x), f.prox(z)
    assert np.sum((px - pz) * (x - z)) >= np.sum((px - pz) ** 2) - 1e-6
    np.testing.assert_allclose(f.prox(x + 3.0), px + 3.0, atol=1e-5)
    np.testing.assert_allclose(f.prox(x).mean(), x.mean(), atol=1e-12)


def test_empty_batches_and_broken_samples():
    assert TotalVariation().prox(np.ones((0, 3, 3))).shape == (0, 3, 3)
    x = RNG.normal(size=(3, 4, 4))
    x[1, 2, 2] = np.nan
    y = TotalVariation(0.2).prox(x)
    assert np.isnan(y[1]).any() and np.isfinite(y[[0, 2]]).all()


def test_bad_input_is_named():
    with pytest.raises(SettingsError, match="weight of TotalVariation should be nonnegative"):
        TotalVariation(-0.1)
    with pytest.raises(SettingsError, match="tol of TotalVariation"):
        TotalVariation(tol=-1.0)
    with pytest.raises(SettingsError, match="max_iter of TotalVariation"):
        TotalVariation(max_iter=2.5)
    with pytest.raises(ShapeError, match="one to four axes"):
        TotalVariation(dim="all").prox(np.ones((2,) * 5))
    with pytest.raises(SettingsError, match="tau should be positive"):
        TotalVariation().prox(np.ones((3, 3)), -1.0)
