"""Total generalized variation: the minimizer, the value, the certificate and the derivative."""

from __future__ import annotations

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cvxlayers.errors import SettingsError
from cvxlayers.prox.total_generalized_variation import TotalGeneralizedVariation

RNG = np.random.default_rng(23)
SHAPE = (4, 5)
IMAGE = np.add.outer(np.arange(4.0), np.abs(np.arange(5.0) - 2)) + 0.3 * RNG.normal(size=SHAPE)


def tgv(y, weight, ratio):
    """The definition in CVXPY, difference by difference: w lives where y has a difference."""
    rows, columns = SHAPE
    v = {}
    for i in range(rows):
        for j in range(columns):
            for k, (a, b) in enumerate(((i + 1, j), (i, j + 1))):
                v[k, i, j] = cp.Variable() if a < rows and b < columns else None
    # At the end of an axis w has no meaning for y; it is free there.
    w = {key: cp.Variable() if value is None else value for key, value in v.items()}
    first, second = [], []
    for i in range(rows):
        for j in range(columns):
            slopes = []
            if i + 1 < rows:
                slopes.append(y[i + 1, j] - y[i, j] - w[0, i, j])
            if j + 1 < columns:
                slopes.append(y[i, j + 1] - y[i, j] - w[1, i, j])
            if slopes:
                first.append(cp.norm(cp.hstack(slopes), 2))
            D = [[w[k, i + 1, j] - w[k, i, j] if i + 1 < rows else 0.0 for k in (0, 1)],
                 [w[k, i, j + 1] - w[k, i, j] if j + 1 < columns else 0.0 for k in (0, 1)]]  # fmt: skip
            E = [(D[a][b] + D[b][a]) / 2 for a in (0, 1) for b in (0, 1)]
            second.append(cp.norm(cp.hstack(E), 2))
    return weight * (sum(first) + ratio * sum(second))


def test_prox_and_value_are_those_of_the_definition():
    y = cp.Variable(SHAPE)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(y - IMAGE) / 2 + 0.8 * tgv(y, 0.3, 1.5)))
    problem.solve(solver="CLARABEL")
    f = TotalGeneralizedVariation(0.3, 1.5, tol=1e-8, max_iter=40000)
    found, info = f.prox(IMAGE, 0.8, return_info=True)
    assert np.abs(found - y.value).max() < 2e-4 and info.gap <= 1e-8
    value = cp.Problem(cp.Minimize(tgv(IMAGE, 0.3, 1.5))).solve(solver="CLARABEL")
    assert f(IMAGE) == pytest.approx(value, rel=1e-4)


def test_affine_images_have_no_variation():
    plane = np.add.outer(2 * np.arange(4.0), -np.arange(5.0))
    assert TotalGeneralizedVariation()(plane) < 1e-6
    np.testing.assert_allclose(TotalGeneralizedVariation(5.0).prox(plane), plane, atol=2e-2)


def test_libraries_and_batches_agree():
    x = np.stack([IMAGE, IMAGE[::-1], 0 * IMAGE])
    f = TotalGeneralizedVariation(np.array([0.2, 0.4, 1.0]), tol=1e-3)
    y = f.prox(x)
    np.testing.assert_allclose(f.prox(torch.tensor(x)).numpy(), y, atol=1e-10)
    np.testing.assert_allclose(jax.jit(f.prox)(jnp.asarray(x)), y, atol=1e-10)
    np.testing.assert_allclose(TotalGeneralizedVariation(0.4, tol=1e-3).prox(x[1]), y[1], atol=1e-10)
    assert f.prox(x.astype(np.float32)).dtype == np.float32 and np.all(y[2] == 0)


def test_gradients_are_those_of_finite_differences():
    x = torch.tensor(IMAGE, requires_grad=True)
    f = TotalGeneralizedVariation(0.3, 1.5, tol=1e-10, max_iter=8000)
    weight, ratio = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 1.5))
    y = TotalGeneralizedVariation(weight, ratio, tol=1e-10, max_iter=8000).prox(x)
    g = torch.tensor(RNG.normal(size=SHAPE))
    found = torch.autograd.grad((g * y).sum(), (x, weight, ratio))
    h = RNG.normal(size=SHAPE)

    def slope(minus, plus, step):
        return float(np.sum(g.numpy() * (plus.prox(IMAGE) - minus.prox(IMAGE))) / (2 * step))

    moved = (f.prox(IMAGE + 1e-5 * h) - f.prox(IMAGE - 1e-5 * h)) / 2e-5
    np.testing.assert_allclose(np.sum(found[0].numpy() * h), np.sum(g.numpy() * moved), rtol=2e-3)
    tight = {"tol": 1e-10, "max_iter": 8000}
    for k, (minus, plus) in enumerate((((0.3 - 1e-5, 1.5), (0.3 + 1e-5, 1.5)), ((0.3, 1.5 - 1e-5), (0.3, 1.5 + 1e-5)))):
        expected = slope(TotalGeneralizedVariation(*minus, **tight), TotalGeneralizedVariation(*plus, **tight), 1e-5)
        np.testing.assert_allclose(float(found[k + 1]), expected, rtol=5e-3, atol=1e-4)


def test_the_value_has_a_gradient():
    """By the envelope theorem, against finite differences; a second derivative is refused."""
    x = torch.tensor(IMAGE, requires_grad=True)
    weight, ratio = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 1.5))

    def value(x, weight, ratio):
        return TotalGeneralizedVariation(weight, ratio, max_iter=3000)(x)

    found = torch.autograd.grad(value(x, weight, ratio), (x, weight, ratio))
    point, h = (x.detach(), weight.detach(), ratio.detach()), torch.tensor(RNG.normal(size=SHAPE))
    for k, move in enumerate((h, 1.0, 1.0)):
        ends = [value(*(a + sign * 1e-4 * move if i == k else a for i, a in enumerate(point))) for sign in (1, -1)]
        torch.testing.assert_close((found[k] * move).sum(), (ends[0] - ends[1]) / 2e-4, rtol=5e-3, atol=1e-3)
    with pytest.raises(SettingsError, match="second derivatives"):
        torch.func.grad(lambda v: torch.func.grad(lambda u: value(u, 0.3, 1.5))(v).sum())(point[0])


def test_vmap_of_pytorch_is_the_batch():
    f, x = TotalGeneralizedVariation(0.3, max_iter=50), torch.tensor(np.stack([IMAGE, IMAGE[::-1]]))
    for call in (f, f.prox, torch.func.grad(lambda v: f.prox(v).sum()), torch.func.grad(f)):
        torch.testing.assert_close(torch.func.vmap(call)(x), torch.stack([call(v) for v in x]))


def test_bad_input_is_named():
    with pytest.raises(SettingsError, match="ratio of TotalGeneralizedVariation should be positive"):
        TotalGeneralizedVariation(1.0, 0.0)
