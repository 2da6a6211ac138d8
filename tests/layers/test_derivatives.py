"""Derivatives of every cone, attribute and output are those that finite differences of exact solutions give."""

from __future__ import annotations

from functools import cache

import cvxpy as cp
import jax
import numpy as np
import pytest
import torch

import cvxlayers
from tests.layers import problems, reference
from tests.layers.facts import (
    TIGHT,
    close,
    finite_curvature,
    finite_jacobian,
    forward_jacobian,
    function,
    layer,
    reverse_jacobian,
    vector,
)

every_case = pytest.mark.parametrize("name", problems.CASES)
# What the accuracy of the solver leaves: on some conic problems its x is off by 1e-5 where its residuals are 1e-12.
TOLERANCE = 2e-5


@cache
def expected(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The outputs and their Jacobian, by finite differences."""
    f, v = reference.function(name), vector(name)
    return f(v[None])[0], finite_jacobian(f, v)


@every_case
def test_solutions(name):
    outputs, _ = expected(name)
    close(function("torch", name)(torch.from_numpy(vector(name))), outputs, TOLERANCE)


@every_case
def test_pytorch(name):
    f, v = function("torch", name), vector(name)
    _, jacobian = expected(name)
    close(reverse_jacobian(f, v), jacobian, TOLERANCE)
    close(forward_jacobian(f, v), jacobian, TOLERANCE)


@every_case
def test_pytorch_at_the_default_tolerance(name):
    close(reverse_jacobian(function("torch", name, ()), vector(name)), expected(name)[1], 3e-4)


@pytest.mark.parametrize("name", ["nonnegative", "second_order", "exponential", "complex_numbers"])
def test_jax(name):
    """Compiled vjp, jvp, and the derivative of the gradient along a direction."""
    f, v, rng = function("jax", name), vector(name), np.random.default_rng(1)
    outputs, jacobian = expected(name)
    weight, direction = rng.normal(size=len(outputs)), rng.normal(size=len(v))
    direction /= np.linalg.norm(direction)

    @jax.jit
    def derivatives(v):
        gradient, change = jax.jvp(jax.grad(lambda v: f(v) @ weight), (v,), (direction,))
        return gradient, jax.jvp(f, (v,), (direction,))[1], change @ direction

    gradient, tangent, curvature = derivatives(v)
    close(gradient, weight @ jacobian, 10 * TOLERANCE)
    close(tangent, jacobian @ direction, TOLERANCE)
    second = finite_curvature(reference.function(name), v, direction[None])[0] @ weight
    close(curvature, second, 1e-3)


@pytest.mark.slow
@every_case
def test_jax_jacobians_and_hessians(name):
    f, v = function("jax", name), vector(name)
    _, jacobian = expected(name)
    weight = np.random.default_rng(1).normal(size=len(jacobian))
    reverse, forward, hessian = jax.jit(
        lambda v: (jax.jacrev(f)(v), jax.jacfwd(f)(v), jax.hessian(lambda v: f(v) @ weight)(v))
    )(v)
    close(reverse, jacobian, TOLERANCE)
    close(forward, jacobian, TOLERANCE)
    in_torch = function("torch", name)
    tensor = torch.from_numpy(weight)
    close(hessian, torch.func.hessian(lambda v: in_torch(v) @ tensor)(torch.from_numpy(v)), 1e-6)


@every_case
def test_numpy(name):
    """vjp and jvp of `cvxlayers.solve`, with <a, b> = Re(conj(a) b)."""
    case, (_, jacobian) = problems.get(name), expected(name)
    given = dict(zip(case.parameters, case.values, strict=True))
    result = cvxlayers.solve(case.problem, parameters=given, gp=case.gp, **dict(TIGHT))
    rng = np.random.default_rng(0)

    def draw(shape, kind):
        return rng.normal(size=shape) + (1j * rng.normal(size=shape) if kind else 0)

    variables = [v for v in case.variables if isinstance(v, cp.Variable)]
    cotangents = {v: draw(v.shape, np.iscomplexobj(result[v])) for v in variables}
    tangents = {p: draw(p.shape, p.is_complex()) for p in case.parameters}
    gradients = result.vjp(cotangents, objective=1.5)
    changes, change = result.jvp(tangents)
    # The outputs of the case in the order of its variables; slacks are no variables of a one-off solve.
    rows, start = [], 0
    for asked in case.variables:
        size = layer_output_size(name, asked)
        if any(asked is v for v in variables):
            rows.append(np.arange(start, start + size))
        start += size
    rows.append(np.array([start]))
    picked = jacobian[np.concatenate(rows)]
    flat = np.concatenate([real(tangents[p]) for p in case.parameters])
    close(np.concatenate([*(real(changes[v]) for v in variables), [change]]), picked @ flat, 10 * TOLERANCE)
    cotangent = np.concatenate([*(real(cotangents[v]) for v in variables), [1.5]])
    close(np.concatenate([real(gradients[p]) for p in case.parameters]), cotangent @ picked, 10 * TOLERANCE)


def layer_output_size(name: str, asked) -> int:
    core = layer("torch", name, TIGHT).core
    output = core.form.outputs[[v is asked for v in problems.get(name).variables].index(True)]
    return int(np.prod(output.shape, dtype=int)) * (2 if output.complex else 1)


def real(value) -> np.ndarray:
    flat = np.ascontiguousarray(value).ravel()
    return flat.view(float) if np.iscomplexobj(flat) else flat


@every_case
def test_hessians(name):
    """Second derivatives along directions against second differences of exact solutions."""
    v, rng = vector(name), np.random.default_rng(1)
    f = function("torch", name)
    weight = rng.normal(size=len(expected(name)[0]))
    directions = rng.normal(size=(4, len(v)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    curvature = finite_curvature(reference.function(name), v, directions) @ weight
    tensor = torch.from_numpy(weight)
    hessian = torch.func.hessian(lambda v: f(v) @ tensor)(torch.from_numpy(v)).numpy()
    close(hessian, hessian.T, 1e-6)
    scale = max(1.0, np.abs(hessian).max())
    close(np.einsum("kn,nm,km->k", directions, hessian, directions) / scale, curvature / scale, 1e-4)


@pytest.mark.parametrize("name", problems.CONES)
def test_gradcheck(name):
    f, v = function("torch", name), torch.from_numpy(vector(name)).requires_grad_()
    options = {"eps": 1e-2, "atol": 1e-2, "rtol": 1e-2}
    assert torch.autograd.gradcheck(f, (v,), check_forward_ad=True, **options)
    assert torch.autograd.gradgradcheck(f, (v,), eps=1e-2, atol=3e-2, rtol=3e-2, fast_mode=True)


@every_case
def test_certificates_of_ordinary_points(name):
    result = layer("torch", name, TIGHT).solve(*problems.get(name).values)
    certificate = result.certificate
    assert certificate.residual.shape == certificate.unique.shape == certificate.margin.shape == (1,)
    assert certificate.residual.max() < 1e-8
    assert not certificate.degenerate.any()
