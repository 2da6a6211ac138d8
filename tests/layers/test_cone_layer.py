"""Layers that are given by their matrices: solutions by the optimality conditions, derivatives by differences."""

from __future__ import annotations

import copy
import pickle

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import cvxlayers.jax
import cvxlayers.torch
from cvxlayers.errors import ProblemError, SettingsError, ShapeError
from cvxlayers.sets import Free, Nonnegative, PositiveSemidefinite, Product, RotatedSecondOrder, SecondOrder, Zero
from cvxlayers.solvers import Native
from cvxlayers.status import Status
from tests.layers.facts import close
from tests.solvers.problems import CONES, dense_program, infeasible, solvable

N = 5


def matrices(
    name: str, batch: int = 3, seed: int = 0, quadratic: bool = True, shared: bool = False
) -> list[np.ndarray]:
    """P, q, A, b of a batch of programs with solutions, P and A ``shared`` or not; without P if not ``quadratic``."""
    program = dense_program(CONES[name], N, quadratic)
    data = program.dense(solvable(program, batch, seed, shared))
    return [np.array(v) for v in ([data.P] if quadratic else []) + [data.q, data.A, data.b]]


def tensors(values, **options) -> list[torch.Tensor]:
    return [torch.from_numpy(v.copy()).requires_grad_(**options) for v in values]


@pytest.mark.parametrize("solver", [None, "native", "clarabel"])
@pytest.mark.parametrize("name", CONES)
def test_solutions_meet_the_optimality_conditions(name, solver):
    layer = cvxlayers.torch.ConeLayer(N, CONES[name], solver=solver)
    P, q, A, b = matrices(name)
    x, z, s = (v.numpy() for v in layer(*map(torch.from_numpy, (P, q, A, b))))
    cone = Product(CONES[name])
    close(np.einsum("bij,bj->bi", P, x) + q + np.einsum("bij,bi->bj", A, z), 0 * x, 1e-6)
    close(np.einsum("bij,bj->bi", A, x) + s, b, 1e-6)
    close(cone.project(s), s, 1e-6)
    close(cone.dual().project(z), z, 1e-6)
    close(np.vecdot(s, z), np.zeros(len(x)), 1e-6)


@pytest.mark.parametrize("quadratic", [True, False], ids=["quadratic", "linear"])
@pytest.mark.parametrize("solver", [None, "native"])
@pytest.mark.parametrize("name", ["linear", "inequalities", "second_order", "semidefinite", "everything"])
def test_derivatives_by_differences(name, solver, quadratic):
    """Of a weighted sum of x, z and s, for every matrix at once; P and A are shared and get the sum over the batch."""
    options = {"solver": solver, "solver_args": {"tol": 1e-11}, "quadratic": quadratic}
    layer = cvxlayers.torch.ConeLayer(N, CONES[name], **options)
    values = matrices(name, seed=4, quadratic=quadratic, shared=True)
    rng = np.random.default_rng(1)
    given = tensors(values)
    outputs = layer(*given)
    weights = [torch.from_numpy(rng.standard_normal(v.shape)) for v in outputs]

    def loss(values) -> torch.Tensor:
        return sum((w * v).sum() for w, v in zip(weights, layer(*values), strict=True))

    loss(given).backward()
    step = 1e-5
    for changed, v in enumerate(given):
        direction = torch.from_numpy(rng.standard_normal(v.shape))
        ends = []
        with torch.no_grad():
            for k in (1, -1):
                moved = list(given)
                moved[changed] = v + k * step * direction
                ends.append(loss(moved))
        close((v.grad * direction).sum(), (ends[0] - ends[1]) / (2 * step), 2e-4)


@pytest.mark.parametrize(
    ("name", "solver"), [("everything", None), pytest.param("inequalities", "native", marks=pytest.mark.slow)]
)
def test_jax_and_torch_agree_under_every_transform(name, solver):
    values = matrices(name)
    given = tensors(values)
    outputs = cvxlayers.torch.ConeLayer(N, CONES[name], solver=solver)(*given)
    sum(v.sum() for v in outputs).backward()
    layer = cvxlayers.jax.ConeLayer(N, CONES[name], solver=solver)

    @jax.jit
    @jax.vmap
    def both(*values):
        def loss(*values):
            outputs = layer(*values)
            return sum(v.sum() for v in outputs), outputs

        return jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(*values)

    grads, mapped = both(*values)
    for found, expected in zip((*layer(*map(jnp.asarray, values)), *mapped), (*outputs, *outputs), strict=True):
        close(found, expected.detach(), 1e-7)
    for found, expected in zip(grads, given, strict=True):
        close(found, expected.grad, 1e-5)


def test_second_derivatives():
    """The Hessian in q is the derivative of the gradient."""
    layer = cvxlayers.torch.ConeLayer(N, CONES["second_order"], solver_args={"tol": 1e-11})
    P, q, A, b = (torch.from_numpy(v[0]) for v in matrices("second_order", 1))

    def loss(q: torch.Tensor) -> torch.Tensor:
        return layer(P, q, A, b)[0].square().sum()

    hessian = torch.func.hessian(loss)(q)
    step = 1e-4
    ends = [torch.stack([torch.func.grad(loss)(q + k * step * e) for e in torch.eye(N).double()]) for k in (1, -1)]
    close(hessian, (ends[0] - ends[1]) / (2 * step), 1e-5)


def test_only_the_symmetric_part_of_P_counts():
    P, q, A, b = matrices("linear")
    skew = np.triu(np.ones((N, N)), 1)
    layer = cvxlayers.torch.ConeLayer(N, CONES["linear"])
    given = tensors([P + skew - skew.T, q, A, b])
    x = layer(*given)[0]
    close(x.detach(), layer(*map(torch.from_numpy, (P, q, A, b)))[0], 1e-9)
    x.sum().backward()
    close(given[0].grad, given[0].grad.mT, 1e-12)


@pytest.mark.parametrize(
    ("library", "solver"),
    [
        *((cvxlayers.torch, s) for s in (None, "native", "clarabel", "scs", "osqp", Native(compiled=False))),
        (cvxlayers.jax, None),
        pytest.param(cvxlayers.jax, "native", marks=pytest.mark.slow),
    ],
)
def test_an_indefinite_P_is_invalid_input(library, solver):
    """A saddle meets the optimality conditions, too."""
    layer = library.ConeLayer(2, Nonnegative(2), solver=solver, on_failure="nan")
    P = np.stack([np.eye(2), np.diag([1.0, -1.0]), np.diag([1.0, 0.0])])
    given = [P, np.array([1.0, 1.0]), -np.eye(2), np.zeros(2)]
    result = layer.solve(*(map(torch.from_numpy, given) if library is cvxlayers.torch else given))
    assert result.status.tolist() == [Status.SOLVED, Status.INVALID_INPUT, Status.SOLVED]
    close(np.asarray(result["x"])[[0, 2]], np.zeros((2, 2)), 1e-6)


def test_a_linear_program_with_and_without_P():
    q, A, b = (torch.from_numpy(v) for v in matrices("inequalities", quadratic=False))
    without = cvxlayers.torch.ConeLayer(N, Nonnegative(12), quadratic=False)(q, A, b)
    with_zero = cvxlayers.torch.ConeLayer(N, Nonnegative(12))(torch.zeros(N, N).double(), q, A, b)
    for v, expected in zip(with_zero, without, strict=True):
        close(v, expected, 1e-6)


@pytest.mark.parametrize("solver", [None, "native"])
def test_an_element_without_a_solution(solver):
    """Is NaN with zero gradients; of what the batch shares, only the others move it."""
    program = dense_program((Nonnegative(12),), N)
    P, q, A, b = matrices("inequalities")
    bad = program.dense(infeasible(program, 1)[0])
    A[1], b[1] = np.squeeze(bad.A), np.squeeze(bad.b)
    layer = cvxlayers.torch.ConeLayer(N, Nonnegative(12), solver=solver, on_failure="nan")
    given = tensors([P[0], q, A, b])
    result = layer.solve(*given)
    assert result.status.tolist() == [Status.SOLVED, Status.INFEASIBLE, Status.SOLVED]
    x = result["x"]
    assert x[1].isnan().all() and x[[0, 2]].isfinite().all()
    x.sum().backward()
    others = tensors([P[0], q[[0, 2]], A[[0, 2]], b[[0, 2]]])
    layer(*others)[0].sum().backward()
    close(given[0].grad, others[0].grad, 1e-9)
    for v, other in zip(given[1:], others[1:], strict=True):
        assert not v.grad[1].any()
        close(v.grad[[0, 2]], other.grad, 1e-9)


def test_the_quadratic_program_of_qpth():
    """minimize (1/2) z'Qz + p'z subject to Gz <= h, Az = b, as CVXPY has it."""
    rng = np.random.default_rng(5)
    Q, p, G, h = np.eye(4) + 0.1, rng.standard_normal(4), rng.standard_normal((3, 4)), np.ones(3)
    A, b = rng.standard_normal((1, 4)), np.zeros(1)
    layer = cvxlayers.torch.ConeLayer(4, (Zero(1), Nonnegative(3)))
    stacked = torch.from_numpy(np.vstack([A, G])), torch.from_numpy(np.concatenate([b, h]))
    x, y, _ = layer(torch.from_numpy(Q), torch.from_numpy(p), *stacked)
    z = cp.Variable(4)
    constraints = [A @ z == b, G @ z <= h]
    cp.Problem(cp.Minimize(0.5 * cp.quad_form(z, Q) + p @ z), constraints).solve(solver="CLARABEL")
    close(x, z.value, 1e-6)
    close(y, np.concatenate([c.dual_value for c in constraints]), 1e-6)


def test_no_rows():
    """minimize (1/2) x'Px + q'x alone."""
    P, q = np.diag([1.0, 2.0]), np.array([1.0, -4.0])
    x, z, s = cvxlayers.torch.ConeLayer(2, ())(*map(torch.from_numpy, (P, q, np.zeros((0, 2)), np.zeros(0))))
    close(x, [-1.0, 2.0], 1e-9)
    assert z.shape == s.shape == (0,)


def test_copies_work():
    layer = cvxlayers.torch.ConeLayer(N, CONES["linear"], solver="native", on_failure="nan")
    given = [torch.from_numpy(v) for v in matrices("linear")]
    expected = layer(*given)
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert repr(other) == repr(layer) and repr(layer).startswith("ConeLayer(P[5, 5], q[5], A[10, 5], b[10])")
        for v, w in zip(other(*given), expected, strict=True):
            close(v, w, 1e-12)


@pytest.mark.parametrize(
    ("n", "cone", "message"),
    [
        (0, Nonnegative(2), "n should be the number of variables, a positive integer; got 0"),
        (2.0, Nonnegative(2), "n should be"),
        (2, 3, "cone should be a cone of cvxlayers.sets, or a sequence of them; got 3"),
        (2, (Nonnegative(2), "soc"), "cone should be a cone"),
        (2, (Nonnegative(2), Zero(1)), "in the order Zero, Nonnegative"),
        (2, (PositiveSemidefinite(2), SecondOrder(3)), "in the order Zero, Nonnegative"),
        (2, Free(2), "cone should consist of Zero"),
        (2, RotatedSecondOrder(3), "cone should consist of Zero"),
    ],
)
@pytest.mark.parametrize("library", [cvxlayers.torch, cvxlayers.jax])
def test_misuse_of_the_constructor(library, n, cone, message):
    with pytest.raises(ProblemError, match=message):
        library.ConeLayer(n, cone)


def test_misuse_of_the_call_and_of_settings():
    layer = cvxlayers.torch.ConeLayer(N, CONES["linear"])
    P, q, A, b = (torch.from_numpy(v) for v in matrices("linear"))
    with pytest.raises(ShapeError, match=r"parameter 'A' should end in \(10, 5\)"):
        layer(P, q, A.mT, b)
    with pytest.raises(ShapeError, match="P', 'q', 'A', 'b'"):
        layer(P, q, A)
    with pytest.raises(SettingsError, match="tolerance"):
        cvxlayers.torch.ConeLayer(N, CONES["linear"], solver="native", solver_args={"tolerance": 1e-3})
