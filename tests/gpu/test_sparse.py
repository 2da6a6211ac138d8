"""The kernels with patterns on a GPU: solutions and derivatives of the dense routes, and layers that choose them."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers.conic import array_kkt
from cvxlayers.conic.array_newton import polish
from cvxlayers.solvers.interior_point import cuda, dispatch, form, method
from cvxlayers.solvers.interior_point.cuda.launch import layout
from cvxlayers.solvers.interior_point.cuda.sparsity import Sparsity
from cvxlayers.solvers.interior_point.native import Native
from cvxlayers.status import Status
from tests.interior_point.sparse_programs import CASES, control

pytestmark = pytest.mark.gpu
torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")


LARGER = CASES | {
    "longer": lambda: control(20, 8, 3, 40),
    "long": lambda: control(50, 12, 4, 20),
    "many states": lambda: control(10, 40, 10, 5),
}


def on_gpu(case) -> list:
    return [torch.from_numpy(np.ascontiguousarray(v)).cuda() for v in case.arrays]


@pytest.fixture
def made(request, monkeypatch):
    """A case whose program counts as one that pays."""
    case = LARGER[request.param]()
    rows = layout(case.cone)
    assert rows is not None
    monkeypatch.setitem(Sparsity._known, case.program, Sparsity(case.program, rows))
    assert cuda.sparse(case.program, ["cuda"]) is not None
    return case


def known(made) -> Sparsity | None:
    return cuda.sparse(made.program, ["cuda"])


@pytest.mark.parametrize("made", LARGER, indirect=True)
def test_solves(made):
    P, q, A, b = on_gpu(made)
    out = cuda.solve(made.cone, P, q, A, b, Native(tol=1e-10), known(made))
    assert (out.status == Status.SOLVED).all()
    again = cuda.solve(made.cone, P, q, A, b, Native(tol=1e-10), known(made))
    assert all(torch.equal(one, two) for one, two in zip(out, again, strict=True))
    plain = method.solve(made.cone, *made.arrays, Native(tol=1e-10))
    found = polish(made.cone, *made.arrays, *(v.cpu().numpy() for v in (out.x, out.z, out.s, out.residuals)))
    wanted = polish(made.cone, *made.arrays, plain.x, plain.z, plain.s, plain.residuals)
    for value, other in zip(found[:3], wanted[:3], strict=True):
        np.testing.assert_allclose(value, other, rtol=0, atol=1e-9 * (1.0 + np.abs(other).max()))


@pytest.mark.parametrize("made", LARGER, indirect=True)
def test_derivative(made):
    """At solutions after Newton's method: elsewhere z and s are no projections, and define it to a few digits only."""
    P, q, A, b = on_gpu(made)
    out = cuda.solve(made.cone, P, q, A, b, Native(), known(made))
    point = polish(made.cone, *made.arrays, *(v.cpu().numpy() for v in (out.x, out.z, out.s, out.residuals)))
    z, s = (torch.from_numpy(v).cuda() for v in point[1:3])
    generator = torch.Generator().manual_seed(0)
    gx, gz = (torch.randn((2, *v.shape), dtype=q.dtype, generator=generator).cuda() for v in (out.x, z))
    wx, wz, residual = cuda.linear_solve(made.cone, P, A, z, s, gx, gz, known(made))
    assert residual.max() <= 1e-9
    wanted_x, wanted_z, _ = array_kkt.linear_solve(made.cone, P, A, z, s, gx, gz, 0.0)
    torch.testing.assert_close(wx, wanted_x, rtol=1e-7, atol=1e-7 * float(wanted_x.abs().max()))
    torch.testing.assert_close(wz, wanted_z, rtol=1e-7, atol=1e-7 * float(wanted_z.abs().max()))


@pytest.mark.parametrize("made", ["control", "curved"], indirect=True)
def test_dispatch(made):
    """Batch dimensions, and the words of a plan."""
    P, q, A, b = on_gpu(made)
    n, m = made.program.n, made.program.m
    assert "sparse" in form(made.cone, n, m, q.device, Native(), made.program)
    assert "sparse" not in form(made.cone, n, m, q.device, Native())
    q, b = torch.stack([q, q]), torch.stack([b, b])
    out = dispatch.solve(made.cone, P, q, A, b, Native(), made.program)
    one = cuda.solve(made.cone, P, q[0].contiguous(), A, b[0].contiguous(), Native(), known(made))
    assert out.x.shape == q.shape and torch.equal(out.x[0], one.x) and torch.equal(out.x[1], one.x)
    zeros = torch.zeros_like(out.z)
    w, other = (
        dispatch.linear_solve(made.cone, P, A, out.z, out.s, q, zeros, Native(), program=program)
        for program in (made.program, None)
    )
    torch.testing.assert_close(w[0], other[0], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("round_", [False, True], ids=["bounds", "second-order cones"])
def test_layer(round_):
    """A layer of model predictive control: nothing is dense in it, and the gradients are those of the host."""
    from cvxlayers.torch import CvxpyLayer

    horizon, states, inputs = 40, 6, 2
    rng = np.random.default_rng(0)
    F, G = 0.3 * rng.standard_normal((states, states)), rng.standard_normal((states, inputs))
    x, u = cp.Variable((horizon + 1, states)), cp.Variable((horizon, inputs))
    start, target = cp.Parameter(states), cp.Parameter((horizon, states))
    limits = [cp.norm(u, axis=1) <= 0.4] if round_ else [u >= -0.3, u <= 0.3]
    constraints = [x[0] == start, x[1:] == x[:-1] @ F.T + u @ G.T, *limits]
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x[1:] - target) + 0.1 * cp.sum_squares(u)), constraints)
    made = CvxpyLayer(problem, [start, target], [u], solver="native")
    assert "sparse" in str(made.plan("cuda"))
    values = [rng.standard_normal((5, states)), 0.3 * rng.standard_normal((5, horizon, states))]
    found = []
    for device in ("cuda", "cpu"):
        inputs_ = [torch.from_numpy(v).to(device).requires_grad_() for v in values]
        (solution,) = made(*inputs_)
        grads = torch.autograd.grad((solution * solution).sum(), inputs_)
        found.append([v.detach().cpu() for v in (solution, *grads)])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
