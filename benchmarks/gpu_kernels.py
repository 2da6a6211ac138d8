"""Times the CUDA kernels of the native solver on one GPU, and checks what they return.

    python -m benchmarks.gpu_kernels [--quick] [--only dense,conic] [--json FILE]

Each row is one batch: the median over repetitions of the time between two CUDA events, from dense P, q, A, b on the
device to x, z, s there, and to the gradients of all four. Residuals are computed here, from the data. Needs NumPy and
PyTorch only.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cvxlayers.array.cuda import compile_text
from cvxlayers.sets import Exponential, Nonnegative, Product, SecondOrder, Zero
from cvxlayers.solvers.interior_point.cuda import fits, linear_solve, solve
from cvxlayers.solvers.interior_point.cuda.launch import FOLDER, layout, linear_launch, solve_launch
from cvxlayers.solvers.interior_point.native import Native

DENSE = [(10, 20, 4096), (50, 50, 1024), (100, 100, 128), (100, 100, 1024), (200, 150, 128)]
TARGETS = {
    "10/20/4096": (1.5, 2.5), "50/50/1024": (4, 6), "100/100/128": (4, 6), "100/100/1024": (10, 14),
    "200/150/128": (12, 16), "portfolio/1024": (None, 15), "logistic/1024": (None, 60),
}  # fmt: skip


def dense_qp(n: int, m: int, batch: int, equalities: int = 0, seed: int = 0):
    """The dense QPs of Agrawal et al. (2019), with the first rows as equalities."""
    random = np.random.RandomState(seed)
    L = random.rand(batch, n, n)
    A, slack = random.randn(batch, m, n), random.rand(batch, m)
    slack[:, :equalities] = 0.0
    b = np.einsum("bij,bj->bi", A, random.randn(batch, n)) + slack
    blocks = (Zero(equalities),) * (equalities > 0) + (Nonnegative(m - equalities),)
    return Product(blocks), L @ L.transpose(0, 2, 1) + 1e-3 * np.eye(n), random.randn(batch, n), A, b


def portfolio(batch: int, n: int = 50, factors: int = 10, seed: int = 0):
    """Maximize mu'x over the simplex with the risk ||(F'x, sqrt(d) x)|| <= t <= s; P and A shared."""
    random = np.random.RandomState(seed)
    F, d = random.randn(n, factors) / np.sqrt(factors), random.uniform(0.05, 0.15, n)
    A = np.zeros((1, n + 63, n + 1))
    A[0, 0, :n] = 1.0
    A[0, 1 : n + 1, :n] = -np.eye(n)
    A[0, n + 1, n] = 1.0
    A[0, n + 2, n] = -1.0
    A[0, n + 3 : n + 3 + factors, :n] = -F.T
    A[0, n + 3 + factors :, :n] = -np.diag(np.sqrt(d))
    b, q = np.zeros((batch, n + 63)), np.zeros((batch, n + 1))
    b[:, 0], b[:, n + 1] = 1.0, random.uniform(0.25, 0.35, batch)
    q[:, :n] = -0.1 * random.randn(batch, n)
    cone = Product((Zero(1), Nonnegative(n + 1), SecondOrder(1 + factors + n)))
    return cone, np.zeros((1, n + 1, n + 1)), q, A, b


def logistic(batch: int, rows: int = 50, n: int = 20, seed: int = 0):
    """Minimize mean(logistic(-Z w)) + 0.05 ||w||^2, two exponential cones a row; the variables are w, t, p, r."""
    Z = np.random.RandomState(seed).randn(batch, rows, n)
    size, at = n + 3 * rows, np.arange(rows)
    A, b = np.zeros((batch, 7 * rows, size)), np.zeros((1, 7 * rows))
    A[:, at, n + rows + at] = A[:, at, n + 2 * rows + at] = b[:, at] = 1.0  # p + r <= 1
    first, second = rows + 6 * at, rows + 6 * at + 3
    A[:, first, :n], A[:, first, n + at], A[:, second, n + at] = Z, 1.0, 1.0  # exp(-Zw - t) <= p, exp(-t) <= r
    b[:, first + 1] = b[:, second + 1] = 1.0
    A[:, first + 2, n + rows + at] = A[:, second + 2, n + 2 * rows + at] = -1.0
    P, q = np.zeros((1, size, size)), np.zeros((1, size))
    P[0, range(n), range(n)] = 0.1
    q[0, n : n + rows] = 1.0 / rows
    return Product((Nonnegative(rows),) + (Exponential(),) * (2 * rows)), P, q, A, b


def residuals(P, q, A, b, x, z, s) -> torch.Tensor:
    """The largest of the relative primal, dual and gap residuals, from the data; the points lie inside the cones."""
    Px, Ax, ATz = ((M @ v[..., None])[..., 0] for M, v in ((P, x), (A, x), (A.mT, z)))
    norms = [torch.linalg.vector_norm(v.expand(len(x), -1), dim=-1) for v in (Ax, s, b, Px, q, ATz)]
    one = torch.ones_like(norms[0])
    primal = torch.linalg.vector_norm(Ax + s - b, dim=-1) / torch.stack([*norms[:3], one]).amax(0)
    dual = torch.linalg.vector_norm(Px + q + ATz, dim=-1) / torch.stack([*norms[3:], one]).amax(0)
    terms = torch.stack([(x * Px).sum(-1), (q * x).sum(-1), (b * z).sum(-1)])
    gap = terms.sum(0).abs() / torch.cat([terms.abs(), one[None]]).amax(0)
    return torch.stack([primal, dual, gap]).amax(0)


def gradients(P, q, A, b, x, w_x, z, w_z) -> tuple[torch.Tensor, ...]:
    """Of P, q, A, b from the adjoint (conic/adjoint.py): sums over the batch for what the batch shares."""
    if len(P) > 1:
        grad_P = torch.bmm(torch.stack([w_x, x], -1), torch.stack([x, w_x], -2) / 2)
    else:
        grad_P = w_x.mT @ x
        grad_P = ((grad_P + grad_P.mT) / 2)[None]
    if len(A) > 1:
        grad_A = torch.bmm(torch.stack([z, w_z], -1), torch.stack([w_x, x], -2))
    else:
        grad_A = (z.mT @ w_x + w_z.mT @ x)[None]
    grad_q, grad_b = (g if len(v) > 1 else g.sum(0, keepdim=True) for g, v in ((w_x, q), (-w_z, b)))
    return grad_P, grad_q, grad_A, grad_b


def both_ways(cone, P, q, A, b, settings):
    """Forward, and backward for the loss sum(x)."""
    out = solve(cone, P, q, A, b, settings)
    minus, zero = -torch.ones_like(out.x)[None], torch.zeros_like(out.z)[None]
    w_x, w_z, residual = linear_solve(cone, P, A, out.z, out.s, minus, zero)
    return *gradients(P, q, A, b, out.x, w_x[0], out.z, w_z[0]), residual


def milliseconds(work, repetitions: int) -> float:
    """Median time of ``work()`` on the device."""
    times = []
    for k in range(repetitions + 3):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        stop.record()
        stop.synchronize()
        if k >= 3:
            times.append(start.elapsed_time(stop))
    return statistics.median(times)


def compile_seconds(cone: Product, n: int, m: int) -> float:
    """Seconds that the compiler takes for the two kernels of a shape, with nothing in the cache."""
    rows, capability, before = layout(cone), torch.cuda.get_device_capability(), os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        start = time.perf_counter()
        for kernel, launch in (("solve", solve_launch(rows, n, m)), ("linear_solve", linear_launch(rows, n, m))):
            compile_text(FOLDER / f"{kernel}.cu", dict(launch.macros), capability)
        seconds = time.perf_counter() - start
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before
    return seconds


def measure(name: str, problem, repetitions: int) -> dict:
    cone, *data = problem
    P, q, A, b = (torch.from_numpy(np.ascontiguousarray(v)).cuda() for v in data)
    if not fits(cone, q.shape[-1], b.shape[-1], q.device):
        return {"name": name, "note": "does not fit"}
    settings = Native()
    out = solve(cone, P, q, A, b, settings)
    worst = residuals(P, q, A, b, out.x, out.z, out.s)
    adjoint = both_ways(cone, P, q, A, b, settings)[-1]
    row = {
        "name": name,
        "compile": compile_seconds(cone, q.shape[-1], b.shape[-1]),
        "forward": milliseconds(lambda: solve(cone, P, q, A, b, settings), repetitions),
        "both": milliseconds(lambda: both_ways(cone, P, q, A, b, settings), repetitions),
        "status": torch.bincount(out.status, minlength=7).tolist(),
        "iterations": [float(v) for v in (out.iterations.double().mean(), out.iterations.max())],
        "residual": float(worst.nan_to_num(torch.inf).max()),
        "claimed": float(out.residuals.nan_to_num(torch.inf).max()),
        "adjoint": [float(torch.quantile(adjoint, v)) for v in (0.5, 0.99, 1.0)],
    }
    return row


def cases(quick: bool) -> dict[str, Callable]:
    found: dict[str, Callable] = {}
    for n, m, B in DENSE[: 2 if quick else None]:
        found[f"{n}/{m}/{B}"] = lambda n=n, m=m, B=B: dense_qp(n, m, B)
    found["100/100/1024 (10 equalities)"] = lambda: dense_qp(100, 100, 1024, 10)
    found |= {"portfolio/1024": lambda: portfolio(1024), "logistic/1024": lambda: logistic(1024)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="", help="names of cases, or parts of them, separated by commas")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repetitions", type=int, default=15)
    options = parser.parse_args()
    rows = []
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for name, make in cases(options.quick).items():
        if options.only and not any(part in name for part in options.only.split(",")):
            continue
        rows.append(measure(name, make(), options.repetitions))
        target = TARGETS.get(name)
        print(
            " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in rows[-1].items()),
            target,
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
