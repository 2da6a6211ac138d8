"""Every penalty is what its formula says: against CVXPY, global search, closed forms and finite differences."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox import (
    L0,
    L1,
    L2,
    L21,
    MCP,
    SCAD,
    SLOPE,
    GroupLasso,
    Huber,
    L1MinusL2,
    LeastSquares,
    LeastSquaresOperator,
    LogBarrier,
    Logistic,
    LogSum,
    Lq,
    Poisson,
    Quadratic,
    Quantile,
    SumLargest,
    TruncatedQuadratic,
    check_prox,
)
from tests.prox.operators import CASES, CONVEX, GROUPS, NONCONVEX, A, N, adjoint, forward, minimize, points, value

names = repr
# JAX compiles for seconds: the first case of each class goes there.
FIRST = list({type(case.f): case for case in reversed(CASES)}.values())
every = pytest.mark.parametrize("case", CASES, ids=names)


def with_parameters(f, values):
    """The operator with other values of its leaves."""
    copy = object.__new__(type(f))
    copy.__dict__.update(vars(f))
    copy.__dict__.pop("_factor", None)
    copy.__dict__.update(values)
    return copy


def parameters(f):
    return {name: getattr(f, name) for name in f._leaves if getattr(f, name) is not None}


@every
def test_definition(case):
    """Optimality by search, firm nonexpansiveness, conjugate, batches, dtypes."""
    check_prox(case.f, shape=case.shape, taus=(0.4, 2.5))


@pytest.mark.parametrize("case", [case for case in CASES if case.complex], ids=names)
def test_definition_of_complex(case):
    x = points(case.shape) + 1j * points(case.shape, seed=1)
    check_prox(case.f, x, taus=(0.6,))
    if not isinstance(case.f, L0):
        check_prox(case.f, torch.from_numpy(x[:2]), taus=(0.6,))


@pytest.mark.parametrize("case", CONVEX, ids=names)
def test_cvxpy(case):
    x = points(case.shape, 2)
    for tau in (0.4, 2.5):
        y = case.f.prox(x, tau)
        for i in range(2):
            with warnings.catch_warnings():
                # Clarabel is asked for more digits than it always has.
                warnings.simplefilter("ignore", UserWarning)
                expected = minimize(case.expression, x[i], tau)
            np.testing.assert_allclose(y[i], expected, atol=2e-5)
            np.testing.assert_allclose(case.f(y[i]), value(case.expression, y[i]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", [c for c in NONCONVEX if not isinstance(c.f, L1MinusL2)], ids=names)
def test_global_grid(case):
    """One entry at a time, a grid finds nothing better, and the value at the prox is that of the grid's best."""
    f = with_parameters(case.f, {"entry_weights": None})
    grid = np.linspace(-6, 6, 24001)
    for tau in (0.3, 1.0, 4.0):
        for x in np.linspace(-5, 5, 41):
            cost = tau * f(grid[:, None]) + (grid - x) ** 2 / 2
            y = f.prox(np.array([x]), tau)
            reached = tau * f(y) + (y[0] - x) ** 2 / 2
            assert reached <= cost.min() + 1e-12
            assert abs(y[0] - grid[np.argmin(cost)]) < 1e-3 or reached > np.sort(cost)[0] - 1e-6


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_l1_minus_l2_on_a_grid(beta):
    f = L1MinusL2(0.8, beta)
    side = np.linspace(-4, 4, 321)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    for x in (*points((2,), 6), np.array([0.5, 0.5]), np.array([0.8, 0.1]), np.array([0.3, -0.2])):
        cost = f(grid) + ((grid - x) ** 2).sum(-1) / 2
        y = f.prox(x)
        assert f(y) + ((y - x) ** 2).sum() / 2 <= cost.min() + 1e-12


@pytest.mark.parametrize("case", FIRST, ids=names)
def test_libraries(case):
    """PyTorch and JAX, jitted and vmapped over the operator, give NumPy's numbers and keep float32."""
    f, x = case.f, points(case.shape)
    tau = np.array([0.3, 1.0, 2.0, 0.7])
    expected = f.prox(x, tau), f(f.prox(x, tau))

    def both(f, x, tau):
        y = f.prox(x, tau)
        return y, f(y)

    results = [
        both(f, torch.from_numpy(x), torch.from_numpy(tau)),
        torch.func.vmap(lambda x, t: both(f, x, t))(torch.from_numpy(x), torch.from_numpy(tau)),
        jax.jit(jax.vmap(both, in_axes=(None, 0, 0)))(f, x, tau),
    ]
    for result in results:
        for actual, wanted in zip(result, expected, strict=True):
            np.testing.assert_allclose(np.asarray(actual), wanted, rtol=1e-9, atol=1e-9)
    single = x.astype(np.float32)
    for y in (f.prox(torch.from_numpy(single), 0.5), jax.jit(lambda f, x: f.prox(x, 0.5))(f, single)):
        assert str(y.dtype).endswith("float32")
        np.testing.assert_allclose(np.asarray(y), f.prox(x, 0.5), rtol=1e-3, atol=1e-4)


@every
def test_derivatives(case):
    """Finite differences at generic points with respect to x, tau and every weight; finite at degenerate points."""
    f, x = case.f, points(case.shape, 3, seed=5)
    check_prox(f, torch.from_numpy(x), taus=(0.5,))
    given = parameters(f)
    if isinstance(f, SLOPE):
        del given["levels"]  # checked to be in order, which finite differences leave
    leaves = [torch.tensor(np.asarray(v, dtype=float), requires_grad=True) for v in given.values()]

    def prox(x, tau, *leaves):
        return with_parameters(f, dict(zip(given, leaves, strict=True))).prox(x, tau)

    tau = torch.tensor([0.5, 0.8, 1.2], dtype=torch.float64, requires_grad=True)
    variables = (torch.from_numpy(x).requires_grad_(), tau, *leaves)
    smooth = not isinstance(f, (L0, Quadratic))  # a step of P leaves the symmetric matrices
    if smooth and not any(np.any(np.asarray(v) == 0) for v in given.values()):
        assert torch.autograd.gradcheck(prox, variables, atol=1e-6)
    loss = (torch.sin(prox(*variables))).sum()
    expected = torch.autograd.grad(loss, variables, allow_unused=True)

    def in_jax(x, tau, *leaves):
        return jnp.sin(with_parameters(f, dict(zip(given, leaves, strict=True))).prox(x, tau)).sum()

    if case not in FIRST:
        return
    values = [jnp.asarray(v.detach().numpy()) for v in variables]
    found = jax.jit(jax.grad(in_jax, tuple(range(len(values)))))(*values)
    for actual, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(actual, 0 if wanted is None else wanted.numpy(), rtol=1e-8, atol=1e-10)


@every
def test_zero_weight_is_no_penalty(case):
    """With all weights 0, prox is the identity on the domain, with the derivative 1 at 0 too."""
    f, x = case.f, np.abs(points(case.shape))
    zeros = {name: 0.0 for name in ("weight", "l1", "ridge") if name in f._leaves}
    if not zeros:
        return
    f = with_parameters(f, zeros)
    np.testing.assert_allclose(f.prox(x), x, atol=1e-12)
    if isinstance(f, (LeastSquares, Quadratic, LeastSquaresOperator)) or not case.complex:
        return
    origin = torch.zeros(case.shape, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(f.prox(origin).sum(), origin)
    assert torch.equal(gradient, torch.ones_like(gradient))


@pytest.mark.parametrize("case", [c for c in CASES if type(c.f) in (L1, L2, Huber, Lq, MCP, SCAD, LogSum)], ids=names)
def test_second_derivatives(case):
    x = torch.from_numpy(points(case.shape, 1, seed=8)).requires_grad_()
    tau = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, tau: case.f.prox(x, tau), (x, tau), atol=1e-5)


@pytest.mark.parametrize("t", [1e-8, 1e-3, 1.0, 1e3, 1e8])
def test_newton_converges_at_every_scale(t):
    """The residual of the stationarity condition, relative to its terms."""
    x = np.concatenate([-np.geomspace(1e-6, 1e6, 40), [0.0], np.geomspace(1e-6, 1e6, 40)])
    y = Logistic(t).prox(x[:, None])[:, 0]
    slope = np.where(y > 0, np.exp(-np.abs(y)), 1) / (1 + np.exp(-np.abs(y)))
    assert np.all(np.abs(y - x - t * slope) <= 1e-12 * (np.abs(x) + np.abs(y) + t * slope))
    from cvxlayers.prox import Entropy

    y = Entropy(t).prox(x[:, None])[:, 0]
    inside = y > 0
    error = y + t * np.log(np.where(inside, y, 1)) + t - x
    assert np.all(
        np.abs(error)[inside] <= 1e-11 * (np.abs(x) + y + t * (1 + np.abs(np.log(np.where(inside, y, 1)))))[inside]
    )
    y = Lq(t, q=0.5).prox(np.abs(x)[:, None])[:, 0]
    kept = y > 0
    error = y + t / 2 / np.sqrt(np.where(kept, y, 1)) - np.abs(x)
    assert np.all(np.abs(error)[kept] <= 1e-12 * np.abs(x)[kept])


def test_iteration_reports_its_accuracy_and_takes_a_start():
    f = LeastSquaresOperator(forward, adjoint, np.ones(N - 1), 0.5, tol=1e-10)
    x = points((N,))
    y, info = f.prox(x, 2.0, return_info=True)
    matrix = np.diff(np.eye(N), axis=0)
    right = x + matrix.sum(0)
    exact = np.linalg.solve(np.eye(N) + matrix.T @ matrix, right.T).T
    assert info.residual.shape == (4,) and np.all(info.residual <= 1e-10) and np.all(info.iterations <= N + 1)
    assert np.all(np.linalg.norm(y - exact, axis=-1) <= 1e-10 * np.linalg.norm(right, axis=-1) + 1e-14)
    _, again = f.prox(x, 2.0, start=exact, return_info=True)
    assert np.all(again.iterations == 0)


def test_a_matrix_per_sample_and_a_matrix_with_derivatives():
    rng = np.random.default_rng(0)
    many, x = rng.standard_normal((4, 3, N)), points((N,))
    for kind, matrices in ((LeastSquares, many), (Quadratic, many.swapaxes(-1, -2) @ many)):
        together = kind(matrices).prox(x, 0.7)
        alone = np.stack([kind(matrices[i]).prox(x[i], 0.7) for i in range(4)])
        np.testing.assert_allclose(together, alone, atol=1e-12)
        traced = torch.tensor(matrices[0], requires_grad=True)
        np.testing.assert_allclose(kind(traced).prox(torch.from_numpy(x), 0.7).detach(), kind(matrices[0]).prox(x, 0.7))


def test_gradients_at_a_zero_group_are_finite():
    for f in (GroupLasso(GROUPS), L2(), L21(), Huber(), Poisson(count=0.0), LogBarrier(0.0)):
        shape = (3, 4) if isinstance(f, L21) else (N,)
        x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        tau = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
        gradients = torch.autograd.grad(f.prox(x, tau).sum(), (x, tau))
        assert all(torch.isfinite(g).all() for g in gradients)
        if not isinstance(f, (Poisson, LogBarrier)):
            (gradient,) = torch.autograd.grad(f(x), x)
            assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: L1(-1.0), "weight of L1"),
        (lambda: L1(entry_weights=np.array([1.0, -1.0])), "entry_weights of L1"),
        (lambda: L1("much"), "weight of L1"),
        (lambda: Huber(delta=0.0), "delta of Huber"),
        (lambda: Quantile(level=1.5), "level of Quantile"),
        (lambda: Lq(q=1.0), "q of Lq"),
        (lambda: MCP(gamma=0.0), "gamma of MCP"),
        (lambda: SCAD(a=2.0), "a - 2 of SCAD"),
        (lambda: LogSum(epsilon=0.0), "epsilon of LogSum"),
        (lambda: TruncatedQuadratic(threshold=-1.0), "threshold of TruncatedQuadratic"),
        (lambda: L1MinusL2(beta=1.5), "beta of L1MinusL2"),
        (lambda: SLOPE(np.array([1.0, 2.0])), "levels of SLOPE"),
        (lambda: SLOPE(1.0), "levels of SLOPE"),
        (lambda: SumLargest(0), "count of SumLargest"),
        (lambda: GroupLasso(((0, 1), (1, 2))), "index 1 is in 2"),
        (lambda: GroupLasso(((0, 1), (3,))), "index 2 is in none"),
        (lambda: GroupLasso(((0, 1), ())), "none in group 1"),
        (lambda: GroupLasso(((-1, 0),)), "negative"),
        (lambda: GroupLasso(((0,), (1,)), group_weights=np.ones(3)), "group_weights"),
        (lambda: Quadratic(np.array([[1.0, 2.0], [0.0, 1.0]])), "P of Quadratic should be symmetric"),
        (lambda: Quadratic(-np.eye(2)), "P of Quadratic should be positive"),
        (lambda: LeastSquaresOperator(1, 2), "forward"),
        (lambda: LeastSquaresOperator(forward, adjoint, tol=0.0), "tol"),
    ],
)
def test_bad_settings_name_the_argument(build, text):
    with pytest.raises(SettingsError, match=text):
        build()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: SumLargest(7).prox(np.zeros(6)), "count of SumLargest"),
        (lambda: SLOPE(np.ones(3)).prox(np.zeros(6)), "levels of SLOPE"),
        (lambda: GroupLasso(GROUPS).prox(np.zeros(5)), "GroupLasso"),
        (lambda: LeastSquares(A).prox(np.zeros(5)), "A of LeastSquares"),
        (lambda: LeastSquares(A, np.zeros(3)), "b of LeastSquares"),
        (lambda: Quadratic(np.ones((2, 3))), "P of Quadratic"),
        (lambda: Quadratic(np.eye(3)).prox(np.zeros(4)), "P of Quadratic"),
        (lambda: Logistic().prox(np.zeros(3) * 1j), "real"),
        (lambda: L21().prox(np.zeros(3)), "dim"),
        (lambda: L1(entry_weights=np.ones(4)).prox(np.zeros(3)), "entry_weights of L1"),
    ],
)
def test_inputs_that_do_not_fit_name_the_argument(call, text):
    with pytest.raises(ShapeError, match=text):
        call()
