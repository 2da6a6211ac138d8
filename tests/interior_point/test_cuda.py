"""The CUDA kernels on a GPU: results judged by their residuals, no copies, streams, the cache of machine code."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
import torch

from benchmarks.gpu_kernels import dense_qp, logistic, portfolio, residuals
from cvxlayers.array.cuda import available, cache_folder, compile_text
from cvxlayers.sets import Exponential, Nonnegative, PositiveSemidefinite, Power, Product, SecondOrder, Zero
from cvxlayers.solvers.interior_point.cuda import blocked, fits, linear_solve, pair, solve
from cvxlayers.solvers.interior_point.cuda.blocked import factors, inverse_factor
from cvxlayers.solvers.interior_point.cuda.launch import FOLDER, layout, solve_launch
from cvxlayers.solvers.interior_point.native import Native
from cvxlayers.status import Status


def on_gpu(problem):
    cone, *data = problem
    return cone, *(torch.from_numpy(np.ascontiguousarray(v)).cuda() for v in data)


def powers(batch: int, seed: int = 0):
    """Programs over power cones, with strictly feasible points on both sides."""
    rng = np.random.default_rng(seed)
    cone, n = Product((Zero(1), Power(0.3), Power(0.8))), 5
    A, x = rng.standard_normal((batch, 7, n)), rng.standard_normal((batch, n))
    s = np.concatenate([np.zeros((batch, 1)), np.tile([1.0, 1.5, 0.2, 2.0, 1.0, -0.4], (batch, 1))], 1)
    z = np.concatenate([rng.standard_normal((batch, 1)), np.tile([0.5, 1.0, 0.1, 1.0, 0.7, 0.2], (batch, 1))], 1)
    P = np.tile(0.1 * np.eye(n), (batch, 1, 1))
    b = np.einsum("bij,bj->bi", A, x) + s
    return cone, P, -0.1 * x - np.einsum("bij,bi->bj", A, z), A, b


def semidefinite(batch: int, orders: tuple[int, ...], n: int, seed: int = 0):
    """Programs over semidefinite cones with identities, in the interior, on both sides."""
    rng = np.random.default_rng(seed)
    blocks = (Nonnegative(2), *(PositiveSemidefinite(k) for k in orders))
    unit = np.concatenate([np.ones(2), *(block.vector(np.eye(block.k)) for block in blocks[1:])])
    A, x = rng.standard_normal((batch, len(unit), n)), rng.standard_normal((batch, n))
    P = np.tile(0.1 * np.eye(n), (batch, 1, 1))
    q = -0.1 * x - np.einsum("bij,i->bj", A, unit)
    return Product(blocks), P, q, A, np.einsum("bij,bj->bi", A, x) + unit


PROBLEMS = {
    "one variable": lambda: dense_qp(1, 3, 40),
    "small": lambda: dense_qp(10, 20, 300),
    "equalities": lambda: dense_qp(33, 40, 50, equalities=10),
    "only equalities": lambda: dense_qp(12, 5, 20, equalities=5),
    "medium": lambda: dense_qp(100, 100, 140),
    "large": lambda: dense_qp(200, 150, 10),
    "many rows": lambda: dense_qp(20, 1500, 10),
    "second-order": lambda: portfolio(60),
    "exponential": lambda: logistic(6, rows=20, n=5),
    "power": lambda: powers(40),
    "semidefinite": lambda: semidefinite(20, (3, 3, 6), 12),
    "many semidefinite": lambda: semidefinite(10, (2,) * 20, 20),
    "large semidefinite": lambda: semidefinite(8, (20,), 150),
    "factor in global memory": lambda: dense_qp(300, 250, 20, equalities=10),
    "factor in global memory, large batch": lambda: dense_qp(230, 180, 140),
    "factor in global memory, semidefinite": lambda: semidefinite(3, (12, 5), 220),
}


def test_only_on_gpus():
    assert not available("cpu")
    assert not fits(Product((Nonnegative(3),)), 2, 3, "cpu")


def test_only_some_cones():
    assert layout(Product((PositiveSemidefinite(33),))) is None
    rows = layout(Product((Zero(2), SecondOrder(4), Exponential())))
    assert rows is not None and solve_launch(rows, 600, 9) is None


@pytest.mark.gpu
@pytest.mark.parametrize("name", PROBLEMS)
def test_solves(name):
    cone, P, q, A, b = on_gpu(PROBLEMS[name]())
    assert fits(cone, q.shape[-1], b.shape[-1], q.device)
    out = solve(cone, P, q, A, b, Native())
    assert all(v.device == q.device for v in out)
    assert (out.status == Status.SOLVED).all()
    worst = residuals(P, q, A, b, out.x, out.z, out.s)
    assert worst.max() <= 5e-8 and worst.median() <= 1e-8
    torch.testing.assert_close(out.residuals.amax(-1), worst, rtol=1e-3, atol=1e-12)
    linear = sum(block.size for block in cone.blocks if isinstance(block, (Zero, Nonnegative)))
    free = sum(block.size for block in cone.blocks if isinstance(block, Zero))
    assert (out.s[:, :free] == 0).all()
    z, s = out.z[:, free:linear], out.s[:, free:linear]
    assert (z >= 0).all() and (s >= 0).all() and (z + s > 0).all()
    if linear == cone.size:
        assert worst.max() <= 1e-10  # the last steps are on the active rows, wherever it can be told which these are
        assert (z * s == 0).all(-1).double().mean() >= 0.9


@pytest.mark.gpu
@pytest.mark.parametrize("name", PROBLEMS)
def test_derivative(name):
    """The reported residual, and w against a dense solution of the bounded system."""
    cone, P, q, A, b = on_gpu(PROBLEMS[name]())
    out = solve(cone, P, q, A, b, Native())
    generator = torch.Generator().manual_seed(0)
    gx, gz = (torch.randn((2, *v.shape), dtype=q.dtype, generator=generator).cuda() for v in (out.x, out.z))
    wx, wz, residual = linear_solve(cone, P, A, out.z, out.s, gx, gz)
    assert residual.shape == gx.shape[:2] and residual.max() <= 1e-9
    B, m, n = len(out.x), *A.shape[-2:]
    D = torch.stack([cone.derivative(out.z, out.s, e) for e in torch.eye(m, dtype=q.dtype, device=q.device)], -1)
    clear = all(isinstance(block, (Zero, Nonnegative)) for block in cone.blocks)
    if clear:
        diagonal = torch.diagonal(D, dim1=-2, dim2=-1)
        diagonal = torch.where(out.z > 1e4 * out.s, 1.0, torch.where(out.s > 1e4 * out.z, 0.0, diagonal))
        diagonal[:, : sum(block.size for block in cone.blocks if isinstance(block, Zero))] = 1.0
        D = torch.diag_embed(diagonal)
    eye = torch.eye(m, dtype=q.dtype, device=q.device)
    top = torch.cat([P.expand(B, n, n), A.mT.expand(B, n, m)], -1)
    K = torch.cat([top, torch.cat([D @ A, D - eye], -1)], -2)
    wanted = torch.linalg.solve(K, torch.cat([gx, (D @ gz[..., None])[..., 0]], -1)[..., None])[..., 0]
    tolerance = 1e-6 if clear else 1e-3  # the kernel snaps eigenvalues that are nearly 0 or 1
    torch.testing.assert_close(wx, wanted[..., :n], rtol=tolerance, atol=tolerance * float(wanted.abs().max()))


@pytest.mark.gpu
def test_pair():
    cone = Product((Zero(1), Nonnegative(2), SecondOrder(3), PositiveSemidefinite(4), Exponential(), Power(0.4)))
    rng = np.random.default_rng(3)
    u = rng.standard_normal((300, cone.size)) * 10.0 ** rng.integers(-3, 4, (300, cone.size))
    size = torch.from_numpy(np.abs(u).max(-1, keepdims=True))
    for found, expected in zip(pair(cone, torch.from_numpy(u).cuda(), 4), cone.pair(u), strict=True):
        torch.testing.assert_close(found.cpu() / size, torch.from_numpy(expected) / size, rtol=0, atol=1e-13)


@pytest.mark.gpu
@pytest.mark.parametrize("n", [5, 128, 155, 300])
def test_inverse_factor(n):
    """By blocks, with the kernel for the diagonal ones; NaN for the matrix that is not positive definite."""
    X = torch.randn((4, n, n), dtype=torch.float64, device="cuda", generator=torch.Generator("cuda").manual_seed(0))
    M = X @ X.mT + torch.eye(n, dtype=X.dtype, device=X.device)
    M[2, -1, -1] = -1.0
    assert factors(M)
    W, keep = inverse_factor(M.clone()), [0, 1, 3]
    identity = W[keep] @ M[keep] @ W[keep].mT
    torch.testing.assert_close(
        identity, torch.eye(n, dtype=X.dtype, device=X.device).expand(3, n, n), rtol=0, atol=1e-9
    )
    assert (W[keep].triu(1) == 0).all() and W[2, -1, -1].isnan()


def test_blocks_of_a_factor(monkeypatch):
    """The same with the diagonal blocks by a library, on the host."""

    def diagonal(A, W, start, order):
        own = slice(start, start + order)
        L = torch.linalg.cholesky(A[:, own, own])
        W[:, own, own] = torch.linalg.solve_triangular(L, torch.eye(order, dtype=L.dtype).expand_as(L), upper=False)

    monkeypatch.setattr(blocked, "_factor", diagonal)
    for n in (5, 128, 300):
        X = torch.randn((2, n, n), dtype=torch.float64, generator=torch.Generator().manual_seed(n))
        M = X @ X.mT + torch.eye(n, dtype=X.dtype)
        expected = torch.linalg.inv(torch.linalg.cholesky(M))
        torch.testing.assert_close(inverse_factor(M.clone()), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.gpu
def test_streams_and_neighbours():
    cone, P, q, A, b = on_gpu(dense_qp(10, 20, 50))
    out = solve(cone, P, q, A, b, Native())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        other = solve(cone, P, q, A, b, Native())
    stream.synchronize()
    assert all(torch.equal(one, two) for one, two in zip(out, other, strict=True))
    q = q.clone()
    q[3, 2] = torch.nan
    spoiled = solve(cone, P, q, A, b, Native())
    assert spoiled.status[3] == Status.INVALID_INPUT and spoiled.x[3].isnan().all()
    keep = torch.arange(50, device="cuda") != 3
    assert all(torch.equal(one[keep], two[keep]) for one, two in zip(out, spoiled, strict=True))


@pytest.mark.gpu
def test_certificates():
    one = torch.ones((1, 1), dtype=torch.float64, device="cuda")
    cone, A = Product((Nonnegative(2),)), torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64, device="cuda")
    b = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64, device="cuda")  # x <= -1 and x >= 1; |x| <= 1
    out = solve(cone, one[None], one, A, b, Native())
    assert out.status.tolist() == [Status.INFEASIBLE, Status.SOLVED]
    assert float(out.z[0] @ b[0]) == pytest.approx(-1.0)
    out = solve(Product((Nonnegative(1),)), 0 * one[None], one, one[None], one, Native())  # minimize x, x <= 1
    assert out.status.tolist() == [Status.UNBOUNDED] and float(out.x) == pytest.approx(-1.0)


@pytest.mark.gpu
def test_machine_code_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    rows = layout(Product((Nonnegative(3),)))
    assert rows is not None
    launch = solve_launch(rows, 2, 3)
    folder = cache_folder()
    assert launch is not None and folder is not None and folder.is_relative_to(tmp_path)
    code = compile_text(FOLDER / "solve.cu", dict(launch.macros), (9, 0))
    (kept,) = folder.glob("*.code")
    assert kept.read_bytes() == sha256(code).digest() + code
    kept.write_bytes(sha256(b"kept").digest() + b"kept")
    assert compile_text(FOLDER / "solve.cu", dict(launch.macros), (9, 0)) == b"kept"
