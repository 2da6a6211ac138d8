"""The operations beside the array standard: the same numbers in three libraries, and derivatives of every order."""

import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
import torch

from cvxlayers.array import constant, eigh, loop, lyapunov, namespace
from cvxlayers.array.scatter import Constant
from tests.checks import close

CONVERT = [np.asarray, torch.as_tensor, jax.numpy.asarray]


def equation(batch=(), k=3, seed=0):
    rng = np.random.default_rng(seed)
    A, R = rng.standard_normal((2, *batch, k, k))
    return A @ A.swapaxes(-1, -2) + 0.5 * np.eye(k), R


@pytest.mark.parametrize("convert", CONVERT)
def test_lyapunov_solves_the_equation(convert):
    W, R = equation((2, 4))
    for w, r in ((W, R), (W[0, 0], R), (W, R[1, 1])):
        X = np.asarray(lyapunov(convert(w), convert(r)))
        close(w @ X + X @ w, np.broadcast_to(r, X.shape), 1e-12)
    empty = lyapunov(convert(W[:0]), convert(R[:0]))
    assert empty.shape == (0, 4, 3, 3)


def solve(A, R, solver):
    return solver(A @ A.swapaxes(-1, -2) + 0.5 * namespace(A).eye(3, dtype=A.dtype), R)


@pytest.mark.parametrize("A", [np.random.default_rng(1).standard_normal((3, 3)), np.eye(3), np.zeros((3, 3))])
def test_lyapunov_derivatives_in_torch(A):
    """Repeated eigenvalues of W = A A' + I/2 included."""
    R = torch.as_tensor(equation()[1]).requires_grad_()
    A = torch.as_tensor(A).requires_grad_()

    def f(A, R):
        return solve(A, R, lyapunov)

    assert torch.autograd.gradcheck(f, (A, R), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, (A, R))


def test_lyapunov_transforms_agree():
    """torch.func and JAX in every composition of modes, against differences of the gradient."""
    A = np.random.default_rng(2).standard_normal((3, 3))

    def value(A):
        # A quartic of the solution, so that no derivative up to the third vanishes.
        return ((solve(A, A + 1.0, lyapunov) ** 2).sum()) ** 2

    gradient = torch.func.grad(value)
    step = 1e-5
    units = torch.eye(9, dtype=torch.float64).reshape(9, 3, 3)
    x = torch.as_tensor(A)
    differences = [(gradient(x + step * E) - gradient(x - step * E)) / (2 * step) for E in units]
    expected = torch.stack(differences, -1).reshape(3, 3, 3, 3)
    rev, fwd = torch.func.jacrev, torch.func.jacfwd
    for outer in (rev, fwd):
        for inner in (rev, fwd):
            close(outer(inner(value))(x), expected, 1e-6)
    third = rev(fwd(fwd(value)))(x)
    rev, fwd = jax.jacrev, jax.jacfwd
    modes = ((rev, rev), (rev, fwd), (fwd, rev), (fwd, fwd))
    *second, third_jax = jax.jit(lambda A: [f(g(value))(A) for f, g in modes] + [fwd(rev(fwd(value)))(A)])(A)
    for result in second:
        close(result, expected, 1e-6)
    close(third_jax, third, 1e-8)


def test_lyapunov_batches_in_torch_vmap():
    W, R = map(torch.as_tensor, equation((5,)))
    expected = lyapunov(W, R)
    close(torch.func.vmap(lyapunov)(W, R), expected, 1e-13)
    close(torch.func.vmap(lyapunov, in_dims=(2, 0))(W.movedim(0, 2), R), expected, 1e-13)
    close(torch.func.vmap(lyapunov, in_dims=(None, 0))(W[0], R), lyapunov(W[0], R), 1e-13)
    close(torch.func.vmap(lyapunov, in_dims=(0, None))(W, R[0]), lyapunov(W, R[0]), 1e-13)


@pytest.mark.parametrize("convert", CONVERT)
def test_eigh_leaves_the_neighbours_of_nan_alone(convert):
    A = equation((3,))[0]
    expected = np.linalg.eigvalsh(A)
    A[1, 0, 0] = np.nan
    lam, Q = eigh(convert(A))
    assert np.isnan(np.asarray(lam)[1]).all()
    close(np.asarray(lam)[[0, 2]], expected[[0, 2]], 1e-12)
    assert Q.shape == (3, 3, 3)


@pytest.mark.parametrize("convert", CONVERT)
def test_loop_and_constant(convert):
    x = convert(np.ones(2))
    close(loop(5, lambda state: (2 * state[0], state[1] + 1), (x, x), like=x)[0], [32, 32], 0)
    index = constant(np.arange, (3,), like=x)
    assert "int" in str(index.dtype) and namespace(index) is namespace(x)
    single = convert(np.ones(2, dtype=np.float32))
    assert str(constant(np.eye, (2,), like=single).dtype).endswith("float32")


def test_constants_are_kept_and_usable_after_inference_mode():
    def build():
        return np.arange(4.0)

    x = torch.ones(4, dtype=torch.float64)
    with torch.inference_mode():
        kept = constant(build, (), like=x)
    assert constant(build, (), like=x) is kept
    leaf = x.clone().requires_grad_()
    (leaf * kept).sum().backward()
    close(leaf.grad, np.arange(4.0), 0)


def test_foreign_arrays_are_refused():
    with pytest.raises(TypeError, match="NumPy, PyTorch or JAX"):
        loop(1, lambda state: state, (), like=[1.0])
    with pytest.raises(TypeError):
        namespace(np.ones(1), torch.ones(1))


@pytest.mark.parametrize(
    "find",
    [Constant(np.arange(3.0)).like, lambda like: constant(np.arange, (7919,), like)],
    ids=["of an object", "of a function"],
)
def test_threads_share_constants(monkeypatch, find):
    """What the first thread got stays alive: a recorded graph may have its address."""
    together, copy = threading.Barrier(2), torch.from_numpy

    def both(values):
        together.wait()
        return copy(values)

    monkeypatch.setattr(torch, "from_numpy", both)
    like = torch.zeros(1)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(find, [like, like])
    assert first is second is find(like)
