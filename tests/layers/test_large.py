"""Programs large enough for sparse factors: the same facts as for small ones."""

from __future__ import annotations

import cvxpy as cp
import jax
import numpy as np
import pytest
import scipy.sparse as sp
import torch

import cvxlayers.jax
from cvxlayers.torch import CvxpyLayer
from tests.layers.facts import close


def sparse_quadratic(n=500, m=400, seed=0):
    """Minimize ||x - p||^2 + ||D x||^2 over G x <= h, with sparse constants G and D."""
    rng = np.random.default_rng(seed)
    G = sp.random_array((m, n), density=0.01, rng=rng, data_sampler=rng.standard_normal) + sp.eye_array(m, n)
    D = sp.diags_array([np.ones(n), -np.ones(n - 1)], offsets=[0, 1])
    x, p, h = cp.Variable(n), cp.Parameter(n), cp.Parameter(m)
    inequality = G @ x <= h
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + cp.sum_squares(D @ x)), [inequality])
    return problem, p, h, x, inequality, G.tocsr(), D, rng


@pytest.fixture(scope="module")
def quadratic():
    problem, p, h, x, inequality, G, D, rng = sparse_quadratic()
    layer = CvxpyLayer(problem, [p, h], [x, inequality.dual_variables[0]], solver_args={"tol": 1e-10}, on_failure="nan")
    values = rng.normal(size=(3, x.size)), rng.uniform(0, 1, G.shape[0])
    return layer, values, G, D


def exact(G, D, x, h, weight):
    """The gradient of weight'x with respect to p, from the optimality conditions of the active rows."""
    n = len(x)
    active = G[h - G @ x < 1e-7]
    P = 2 * sp.eye_array(n) + 2 * D.T @ D
    K = sp.block_array([[P, active.T], [active, None]], format="csc")
    return 2 * sp.linalg.spsolve(K, np.append(weight, np.zeros(active.shape[0])))[:n]


def test_gradients(quadratic):
    layer, (p, h), G, D = quadratic
    v, bound = torch.from_numpy(p).requires_grad_(), torch.from_numpy(h).requires_grad_()
    result = layer.solve(v, bound)
    assert result.status.tolist() == [0, 0, 0]
    weight = np.random.default_rng(1).normal(size=p.shape)
    (result.variables[0] * torch.from_numpy(weight)).sum().backward()
    for i in range(3):
        close(v.grad[i], exact(G, D, result.variables[0][i].detach().numpy(), h, weight[i]), 1e-5)
    assert result.certificate.residual.max() < 1e-8
    direction, step = np.random.default_rng(2).normal(size=h.shape), 1e-4
    ends = [layer(v.detach(), torch.from_numpy(h + t * direction))[0].numpy() for t in (-step, step)]
    change = ((ends[1] - ends[0]) * weight).sum() / (2 * step)
    assert abs(change - bound.grad.numpy() @ direction) < 1e-2 * abs(change)


def test_forward_and_recorded_modes(quadratic):
    layer, (p, h), _, _ = quadratic
    rng = np.random.default_rng(3)
    weight, direction = (torch.from_numpy(rng.normal(size=p.shape[1])) for _ in range(2))

    def value(v):
        x, dual = layer(v, h)
        return torch.sin(x) @ weight + dual.sum()

    v = torch.from_numpy(p[0])
    plain = v.clone().requires_grad_()
    value(plain).backward()
    close(torch.func.grad(value)(v), plain.grad, 1e-8)
    close(torch.func.jvp(value, (v,), (direction,))[1], plain.grad @ direction, 1e-7)
    step = 1e-4
    ends = [torch.func.grad(value)(v + t * direction) for t in (-step, step)]
    twice = torch.func.jvp(torch.func.grad(value), (v,), (direction,))[1]
    close(twice, (ends[1] - ends[0]) / (2 * step), 1e-2)
    batch = torch.func.vmap(torch.func.grad(value))(torch.from_numpy(p))
    close(batch[0], plain.grad, 1e-7)


def test_failed_elements_are_alone(quadratic):
    layer, (p, h), _, _ = quadratic
    spoiled = p.copy()
    spoiled[1, 7] = np.nan
    v, reference = torch.from_numpy(spoiled).requires_grad_(), torch.from_numpy(p[[0, 2]]).requires_grad_()
    x, other = layer(v, h)[0], layer(reference, h)[0]
    assert x[1].isnan().all() and torch.equal(x[[0, 2]], other)
    x.square().sum().backward()
    other.square().sum().backward()
    assert torch.equal(v.grad[[0, 2]], reference.grad) and not v.grad[1].any()


def test_jax():
    problem, p, h, x, _, G, D, rng = sparse_quadratic(150, 120, seed=4)
    layer = cvxlayers.jax.CvxpyLayer(problem, [p, h], [x], solver_args={"tol": 1e-10})
    p_value, h_value, weight = rng.normal(size=150), rng.uniform(0, 1, 120), rng.normal(size=150)
    solution = layer(p_value, h_value)[0]
    gradient = jax.jit(jax.grad(lambda v: layer(v, h_value)[0] @ weight))(p_value)
    close(gradient, exact(G, D, np.asarray(solution), h_value, weight), 1e-5)


@pytest.mark.parametrize("kind", ["second-order", "semidefinite", "exponential"])
def test_other_cones(kind):
    """Many small cones: the gradient of a sum of parts is that of each part, solved by itself."""
    count, rng = 60, np.random.default_rng(0)
    if kind == "semidefinite":
        count = 25
        size, p_one = 9, cp.Parameter((3, 3))
        X = [cp.Variable((3, 3), symmetric=True) for _ in range(count)]
        p = [cp.Parameter((3, 3)) for _ in range(count)]
        one, constraint = cp.Variable((3, 3), symmetric=True), lambda X: [X >> 0, cp.trace(X) == 1]
    else:
        size, p_one = 3, cp.Parameter(3)
        X, p = [cp.Variable(3) for _ in range(count)], [cp.Parameter(3) for _ in range(count)]
        one = cp.Variable(3)
        if kind == "second-order":
            constraint = lambda x: [cp.SOC(x[0], x[1:]), x[0] <= 1.5]  # noqa: E731
        else:
            constraint = lambda x: [cp.ExpCone(x[0], x[1], x[2]), x[1] == 1]  # noqa: E731
    objective = sum(cp.sum_squares(x - v) for x, v in zip(X, p, strict=True))
    all_of_them = cp.Problem(cp.Minimize(objective), sum((constraint(x) for x in X), []))
    together = CvxpyLayer(all_of_them, p, X, solver_args={"tol": 1e-10})
    single = cp.Problem(cp.Minimize(cp.sum_squares(one - p_one)), constraint(one))
    alone = CvxpyLayer(single, [p_one], [one], solver_args={"tol": 1e-10})
    values = rng.normal(size=(count, *p_one.shape))
    inputs = [torch.from_numpy(v).requires_grad_() for v in values]
    weight = torch.from_numpy(rng.normal(size=values.shape))
    result = together.solve(*inputs)
    sum((x * w).sum() for x, w in zip(result.variables, weight, strict=True)).backward()
    batch = torch.from_numpy(values).requires_grad_()
    (separate,) = alone(batch)
    (separate * weight).sum().backward()
    assert size == values[0].size
    close(torch.stack(result.variables).detach(), separate.detach(), 1e-3)
    close(torch.stack([v.grad for v in inputs]), batch.grad, 2e-2)
    assert result.certificate.residual.max() < 1e-8
