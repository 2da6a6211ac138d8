"""Random problems: solutions agree with CVXPY, gradients with diffcp's dense mode and with differences."""

from __future__ import annotations

import warnings

import cvxpy as cp
import diffcp
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cvxlayers
from cvxlayers.torch import CvxpyLayer
from tests.layers.facts import close
from tests.layers.random_problems import KINDS, draw

seeds = st.tuples(st.sampled_from(KINDS), st.integers(0, 10_000))
few = settings(max_examples=60, deadline=None, derandomize=True, database=None)
many = settings(max_examples=600, deadline=None, derandomize=True, database=None)


def solution_agrees(kind: str, seed: int) -> None:
    """Value and variables are CVXPY's; the gradient of the value is its change along a direction."""
    case = draw(kind, seed)
    layer = CvxpyLayer(case.problem, case.parameters, case.variables)
    values = [torch.from_numpy(v).requires_grad_() for v in case.values]
    result = layer.solve(*values)
    problem = case.set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    scale = 1.0 + abs(problem.value)
    np.testing.assert_allclose(result.objective.item() / scale, problem.value / scale, atol=1e-6)
    if kind != "linear":
        np.testing.assert_allclose(result.variables[0].detach(), case.variables[0].value, atol=3e-4, rtol=1e-4)

    result.objective.backward()
    rng, step = np.random.default_rng(seed), 1e-3
    directions = [rng.normal(size=v.shape) for v in case.values]
    directions = [
        (d + d.T) / 2 if p.attributes["symmetric"] else d for p, d in zip(case.parameters, directions, strict=True)
    ]
    ends = [[v + t * d for v, d in zip(case.values, directions, strict=True)] for t in (-step, step)]
    before, after = (layer.solve(*end, solver_args={"tol": 1e-10}).objective.item() for end in ends)
    change = sum(float((v.grad.numpy() * d).sum()) for v, d in zip(values, directions, strict=True))
    # The value of a linear program has kinks: it lies between the slopes at both sides.
    if kind != "linear":
        assert abs(change - (after - before) / (2 * step)) < 2e-2 * (1 + abs(change))


@few
@given(seeds)
def test_solutions(chosen):
    solution_agrees(*chosen)


@pytest.mark.slow
@many
@given(seeds)
def test_many_solutions(chosen):
    solution_agrees(*chosen)


CONES = {
    "linear": {"z": 2, "l": 6},
    "second_order": {"z": 1, "l": 2, "q": [3, 4]},
    "semidefinite": {"z": 1, "l": 1, "s": [3]},
    "exponential": {"l": 1, "ep": 3},
    "mixed": {"z": 1, "l": 2, "q": [3], "s": [2], "ep": 1},
}


def expand(k: int) -> np.ndarray:
    """The matrix from the scaled lower triangle by columns, (k (k + 1) / 2), to the full matrix in C order."""
    rows, out = [(i, j) for j in range(k) for i in range(j, k)], np.zeros((k, k, k * (k + 1) // 2))
    for at, (i, j) in enumerate(rows):
        out[i, j, at] = out[j, i, at] = 1.0 if i == j else 1 / np.sqrt(2)
    return out.reshape(k * k, -1)


def cone_program(cone: dict, seed: int):
    """Minimize c'x with b - Ax in the cone, as CVXPY sees it and as diffcp sees it; a solution is built in."""
    rng = np.random.default_rng(seed)
    sizes = [cone.get("z", 0), cone.get("l", 0), *cone.get("q", []), *(k * (k + 1) // 2 for k in cone.get("s", []))]
    # As many variables as the cones hold still where only they are active, or more: else nothing is differentiable.
    m, n = sum(sizes) + 3 * cone.get("ep", 0), 5 if len(cone) == 5 else 4
    A, x0 = rng.normal(size=(m, n)), rng.normal(size=n)
    s0, z0, start = np.zeros(m), np.zeros(m), 0

    def block(size):
        nonlocal start
        start += size
        return slice(start - size, start)

    z0[block(cone.get("z", 0))] = rng.normal(size=cone.get("z", 0))
    rows = block(cone.get("l", 0))
    active = np.arange(rows.stop - rows.start) % 3 == 0
    s0[rows] = np.where(active, 0, rng.uniform(0.5, 2, active.size))
    z0[rows] = np.where(active, rng.uniform(0.5, 2, active.size), 0)
    for size in cone.get("q", []):
        rows, u = block(size), rng.normal(size=size - 1)
        t = np.linalg.norm(u)
        s0[rows], z0[rows] = np.append(t, u), 0.7 * np.append(t, -u)
    for k in cone.get("s", []):
        rows = block(k * (k + 1) // 2)
        Q, _ = np.linalg.qr(rng.normal(size=(k, k)))
        half = expand(k).T.reshape(-1, k, k)
        scale = np.einsum("aij,aij->a", half, half)
        lam = np.arange(k) < k - 1
        s0[rows] = np.einsum("aij,ij->a", half, (Q * (lam * rng.uniform(0.5, 2, k))) @ Q.T) / scale
        z0[rows] = np.einsum("aij,ij->a", half, (Q * (~lam * rng.uniform(0.5, 2, k))) @ Q.T) / scale
    for _ in range(cone.get("ep", 0)):
        rows, (r, y, w) = block(3), rng.uniform(0.5, 1.5, 3)
        s0[rows] = [r * y, y, y * np.exp(r)]
        z0[rows] = w * np.array([-np.exp(r), (r - 1) * np.exp(r), 1])
    b, c = A @ x0 + s0, -A.T @ z0
    return A, b, c


def as_layer(cone: dict, shape: tuple[int, int]) -> CvxpyLayer:
    A, b, c, x = cp.Parameter(shape), cp.Parameter(shape[0]), cp.Parameter(shape[1]), cp.Variable(shape[1])
    s, start, constraints = b - A @ x, 0, []

    def block(size):
        nonlocal start
        start += size
        return s[start - size : start]

    if "z" in cone:
        constraints.append(block(cone["z"]) == 0)
    constraints.append(block(cone["l"]) >= 0)
    for size in cone.get("q", []):
        rows = block(size)
        constraints.append(cp.SOC(rows[0], rows[1:]))
    for k in cone.get("s", []):
        constraints.append(cp.reshape(expand(k) @ block(k * (k + 1) // 2), (k, k), order="C") >> 0)
    for _ in range(cone.get("ep", 0)):
        rows = block(3)
        constraints.append(cp.ExpCone(rows[0], rows[1], rows[2]))
    return CvxpyLayer(cp.Problem(cp.Minimize(c @ x), constraints), [A, b, c], [x], solver_args={"tol": 1e-11})


@pytest.mark.parametrize("kind", CONES)
def test_gradients_agree_with_the_dense_mode_of_diffcp(kind):
    compared = 0
    cone = CONES[kind]
    layer = None
    for seed in range(8):
        A, b, c = cone_program(cone, seed)
        layer = layer or as_layer(cone, A.shape)
        inputs = [torch.from_numpy(v).requires_grad_() for v in (A, b, c)]
        result = layer.solve(*inputs)
        weight = np.random.default_rng(100 + seed).normal(size=A.shape[1])
        (result.variables[0] @ torch.from_numpy(weight)).backward()
        if result.certificate.degenerate.any():
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x, y, s, _, adjoint = diffcp.solve_and_derivative(
                sp.csc_matrix(A),
                b,
                c,
                cone,
                mode="dense",
                solve_method="Clarabel",
                tol_gap_abs=1e-12,
                tol_gap_rel=1e-12,
                tol_feas=1e-12,
            )
            dA, db, dc = adjoint(weight, np.zeros_like(y), np.zeros_like(s))
        close(result.variables[0].detach(), x, 1e-4)
        for ours, theirs in zip(inputs, (np.asarray(dA.todense()), db, dc), strict=True):
            close(ours.grad / (1 + np.abs(theirs).max()), theirs / (1 + np.abs(theirs).max()), 1e-3)
        compared += 1
    assert compared >= 6


def test_dense_quadratic_programs_have_exact_gradients():
    """The distribution of the NeurIPS 2019 benchmark, against the optimality conditions solved for the active rows."""
    n, m = 20, 20
    x = cp.Variable(n)
    root, p, G, h = cp.Parameter((n, n)), cp.Parameter(n), cp.Parameter((m, n)), cp.Parameter(m)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(root @ x) + p @ x), [G @ x <= h])
    layer = CvxpyLayer(problem, [root, p, G, h], [x])
    rng, errors = np.random.default_rng(0), []
    for _ in range(12):
        L = rng.uniform(size=(n, n))
        Q = L @ L.T + 1e-3 * np.eye(n)
        values, vectors = np.linalg.eigh(Q)
        p_value, G_value, z0 = rng.normal(size=n), rng.normal(size=(m, n)), rng.normal(size=n)
        h_value = G_value @ z0 + rng.uniform(size=m)
        v = torch.from_numpy(p_value).requires_grad_()
        (y,) = layer((vectors * np.sqrt(values)) @ vectors.T, v, G_value, h_value)
        y.sum().backward()
        active = h_value - G_value @ y.detach().numpy() < 1e-7
        a = int(active.sum())
        K = np.block([[Q, G_value[active].T], [G_value[active], np.zeros((a, a))]])
        exact = -np.linalg.solve(K, np.concatenate([np.ones(n), np.zeros(a)]))[:n]
        errors.append(np.linalg.norm(v.grad.numpy() - exact) / np.linalg.norm(exact))
    assert np.median(errors) < 1e-6 and np.max(errors) < 1e-4, errors


def test_a_batch_of_one_off_solves_agrees_with_cvxpy():
    rng = np.random.default_rng(0)
    x, p, A = cp.Variable(3), cp.Parameter(3), cp.Parameter((2, 3))
    problem = cp.Problem(cp.Minimize(cp.norm1(x - p) + cp.sum_squares(A @ x)), [x >= -0.5])
    p_value, A_value = rng.normal(size=(2, 5, 3)), rng.normal(size=(5, 2, 3))
    result = cvxlayers.solve(problem, parameters={p: p_value, A: A_value})
    assert result[x].shape == (2, 5, 3) and result.objective.shape == (2, 5)
    for i, j in np.ndindex(2, 5):
        p.value, A.value = p_value[i, j], A_value[j]
        problem.solve(solver=cp.CLARABEL)
        np.testing.assert_allclose(result.objective[i, j], problem.value, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(result[x][i, j], x.value, atol=1e-4)
