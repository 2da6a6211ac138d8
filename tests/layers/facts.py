"""A layer as one function from a real vector to a real vector, its Jacobians, and Jacobians by differences."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch

import cvxlayers.jax
import cvxlayers.torch
from tests.layers import problems

TIGHT = (("tol", 1e-12),)


@cache
def layer(library: str, name: str, settings: tuple = (), **options: Any):
    """The layer of a case, made once."""
    case = problems.get(name)
    kind = {"torch": cvxlayers.torch, "jax": cvxlayers.jax}[library].CvxpyLayer
    return kind(case.problem, case.parameters, case.variables, gp=case.gp, solver_args=dict(settings), **options)


def vector(name: str) -> np.ndarray:
    """The case's parameter values as one real vector, complex numbers as pairs."""
    return np.concatenate([_real(np.asarray(value)) for value in problems.get(name).values])


def function(library: str, name: str, settings: tuple = TIGHT, **options: Any) -> Callable:
    """(*batch, N) to (*batch, M): parameters as in `vector`, to all outputs and the optimal value likewise."""
    case, solver = problems.get(name), layer(library, name, settings, **options)
    xp = torch if library == "torch" else jnp

    def call(v):
        batch, values, start = v.shape[:-1], [], 0
        for value in case.values:
            size = value.size * (2 if np.iscomplexobj(value) else 1)
            part = v[..., start : start + size]
            start += size
            if np.iscomplexobj(value):
                part = part.reshape((*batch, value.size, 2))
                part = part[..., 0] + 1j * part[..., 1]
            values.append(part.reshape((*batch, *value.shape)))
        result = solver.solve(*values)
        outputs = [(output, len(output.shape) - len(batch)) for output in (*result.variables, result.objective)]
        flat = []
        for output, own in outputs:
            if xp is torch and output.is_complex() or xp is jnp and jnp.iscomplexobj(output):
                output = xp.stack([xp.real(output), xp.imag(output)], **{"dim" if xp is torch else "axis": -1})
                own += 1
            flat.append(output.reshape((*output.shape[: len(output.shape) - own], -1)))
        return xp.concatenate(flat, -1)

    return call


def finite_jacobian(f: Callable, v: np.ndarray, step: float = 1e-3) -> np.ndarray:
    """The Jacobian of a batched function of NumPy arrays by central differences of fourth order, (M, N)."""
    steps, weights = step * np.array([-2, -1, 1, 2]), np.array([1, -8, 8, -1]) / (12 * step)
    values = f((v + steps[:, None, None] * np.eye(len(v))).reshape(-1, len(v)))
    return np.einsum("s,snm->mn", weights, values.reshape(4, len(v), -1))


def finite_curvature(f: Callable, v: np.ndarray, directions: np.ndarray, step: float = 1e-2) -> np.ndarray:
    """The second derivatives of a batched function along directions (K, N), of fourth order, (K, M)."""
    steps, weights = step * np.arange(-2, 3), np.array([-1, 16, -30, 16, -1]) / (12 * step**2)
    values = f((v + steps[:, None, None] * directions).reshape(-1, len(v)))
    return np.einsum("s,skm->km", weights, values.reshape(5, len(directions), -1))


def reverse_jacobian(f: Callable, v: np.ndarray) -> np.ndarray:
    """The Jacobian by one backward pass through a batch of copies, (M, N)."""
    with torch.no_grad():
        size = f(torch.from_numpy(v)).shape[-1]
    copies = torch.from_numpy(np.tile(v, (size, 1))).requires_grad_()
    f(copies).diagonal().sum().backward()
    return copies.grad.numpy()


def forward_jacobian(f: Callable, v: np.ndarray) -> np.ndarray:
    """The Jacobian by one forward-mode pass through a batch of copies, (M, N)."""
    copies = torch.from_numpy(np.tile(v, (len(v), 1)))
    return torch.func.jvp(f, (copies,), (torch.eye(len(v), dtype=torch.float64),))[1].numpy().T


def close(actual: Any, expected: Any, tolerance: float) -> None:
    """Equal up to a tolerance relative to the largest expected entry, at least one."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    np.testing.assert_allclose(actual / scale, expected / scale, rtol=0, atol=tolerance)


def _real(value: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(value).ravel()
    return flat.view(float) if np.iscomplexobj(flat) else flat.astype(float)
