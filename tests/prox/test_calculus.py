"""Operators made of operators: against CVXPY, closed forms, and the definition."""

from __future__ import annotations

import warnings

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from cvxpy.transforms import indicator

from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox import (
    L0,
    L1,
    L2,
    Distance,
    Entropy,
    Huber,
    HuberNorm,
    Indicator,
    InfimalPostcomposition,
    Linear,
    LInfinity,
    Max,
    Ridge,
    Separable,
    SquaredDistance,
    Sum,
    Wrapped,
    Zero,
    check_prox,
)
from cvxlayers.prox.balls import L2Ball
from cvxlayers.prox.box import Box
from cvxlayers.prox.simplex import Simplex
from cvxlayers.sets import SecondOrder
from tests.prox.operators import minimize, points

B = np.array([0.5, -1.0, 2.0, 0.0, 1.0, -0.3])
D = np.array([0.5, -1.0, 2.0, 1.0, 0.2, 3.0])
Q = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
FRAME = 2 * Q[:4]

DERIVED = {
    "Scaled": ((0.4 * L1(0.5)) * 5, lambda v: cp.norm1(v)),
    "Stretched": (L1().scale(-2.0), lambda v: 2 * cp.norm1(v)),
    "Diagonal": (Huber(0.8, 0.6).diagonal(D), lambda v: 0.4 * cp.sum(cp.huber(cp.multiply(D, v), 0.6))),
    "Translated": (L2().translate(B), lambda v: cp.norm2(v - B)),
    "Tilted": (L2().tilt(B), lambda v: cp.norm2(v) + B @ v),
    "Regularized": (L1().regularize(0.7, B), lambda v: cp.norm1(v) + 0.35 * cp.sum_squares(v - B)),
    "Precomposed": (L1().precompose(FRAME), lambda v: cp.norm1(FRAME @ v)),
    "of functions": (
        LInfinity().precompose(lambda x: x @ FRAME.T, lambda y: y @ FRAME, 4.0),
        lambda v: cp.norm_inf(FRAME @ v),
    ),
    "Conjugate of L1": (L1(0.7).conjugate(), lambda v: indicator([cp.norm_inf(v) <= 0.7])),
    "Conjugate of Huber": (
        Huber(1.0, 0.6).conjugate(),
        lambda v: cp.sum_squares(v) / 2 + indicator([cp.norm_inf(v) <= 0.6]),
    ),
    "Conjugate of Entropy": (Entropy().conjugate(), lambda v: cp.sum(cp.exp(v - 1))),
    "MoreauEnvelope": (L1().moreau_envelope(0.6), lambda v: cp.sum(cp.huber(v, 0.6)) / 1.2),
    "Distance": (Distance(L2Ball(0.5)), lambda v: cp.pos(cp.norm2(v) - 0.5)),
    "SquaredDistance": (
        SquaredDistance(Box(-0.5, 1.0)),
        lambda v: (cp.sum_squares(cp.pos(v - 1)) + cp.sum_squares(cp.pos(-0.5 - v))) / 2,
    ),
    "Separable": (Separable((L1(), L2()), (2, 4)), lambda v: cp.norm1(v[:2]) + cp.norm2(v[2:])),
    "all at once": (
        (2 * L1().translate(B).scale(0.5)).regularize(0.3).tilt(0.1 * B),
        lambda v: 2 * cp.norm1(0.5 * v - B) + 0.15 * cp.sum_squares(v) + 0.1 * B @ v,
    ),
}  # fmt: skip
SUMS = {
    "two norms": (L1(0.5) + L2(0.7), lambda v: 0.5 * cp.norm1(v) + 0.7 * cp.norm2(v)),
    "a penalty and a set": (L1(0.5) + L2Ball(1.0), lambda v: 0.5 * cp.norm1(v) + indicator([cp.norm2(v) <= 1])),
    "two sets": (Simplex() + Box(-1.0, 0.4), lambda v: indicator([cp.sum(v) == 1, v >= 0, v <= 0.4])),
    "a bounded maximum": (Max() + Box(-0.5, 0.5), lambda v: cp.max(v) + indicator([cp.abs(v) <= 0.5])),
}
derived = pytest.mark.parametrize("name", DERIVED)


def expected(expression, x, tau):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return np.stack([minimize(expression, row, tau) for row in x])


@derived
def test_cvxpy(name):
    f, expression = DERIVED[name]
    x = points((6,), 2)
    for tau in (0.4, 2.5):
        np.testing.assert_allclose(f.prox(x, tau), expected(expression, x, tau), atol=2e-5)
    y = f.prox(x)
    v = cp.Variable(6)
    for i in range(2):
        v.value = y[i]
        if np.isfinite(found := expression(v).value):
            np.testing.assert_allclose(f(y)[i], found, rtol=1e-9, atol=1e-9)


@derived
def test_definition_and_derivatives(name):
    f, _ = DERIVED[name]
    check_prox(f, taus=(0.4, 2.5))
    if name != "of functions":
        check_prox(f, torch.from_numpy(points((6,), 4)), taus=(0.6,))


@pytest.mark.parametrize("name", SUMS)
def test_sums(name):
    f, expression = SUMS[name]
    x = points((6,), 3)
    y, info = f.prox(x, 0.7, return_info=True)
    exact = expected(expression, x, 0.7)
    np.testing.assert_allclose(y, exact, atol=2e-5)
    assert info.gap.shape == info.residual.shape == info.iterations.shape == (3,)
    if name != "two sets":
        assert np.all(info.gap <= 1e-15 * ((x**2).sum(-1) + (y**2).sum(-1)))
    # One sample at a time: each stops on its own.
    alone = [f.prox(row, 0.7, return_info=True) for row in x]
    np.testing.assert_allclose(y, np.stack([a for a, _ in alone]), atol=1e-12)
    assert list(info.iterations) == [int(i.iterations) for _, i in alone]


@pytest.mark.parametrize("name", SUMS)
def test_derivatives_of_sums(name):
    f, _ = SUMS[name]
    x = torch.tensor(points((6,), 1, seed=4), requires_grad=True)
    tau = torch.tensor([0.6], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(f.prox, (x, tau), eps=1e-5, atol=1e-4, fast_mode=True)
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: (L1(w) + f.g).prox(x.detach()), (weight,), eps=1e-5, atol=1e-4)
    direction = points((6,), 1, seed=6)
    (wanted,) = torch.autograd.grad((f.prox(x, 0.6) * torch.from_numpy(direction)).sum(), x)
    found = jax.jit(jax.grad(lambda x: (f.prox(x, 0.6) * direction).sum()))(jnp.asarray(x.detach()))
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_sum_takes_a_start():
    """From the exact solution of a sum of differentiable functions there is little left to do."""
    f, x = Huber(1.0, 50.0) + Ridge(0.5), points((6,), 3)
    cold, first = f.prox(x, return_info=True)
    warm, second = f.prox(x, start=cold, return_info=True)
    np.testing.assert_allclose(warm, cold, atol=1e-7)
    np.testing.assert_allclose(cold, x / 2.5, atol=1e-7)
    assert np.all(second.iterations <= first.iterations)


def test_certificate_of_a_sum():
    """The gap bounds half the squared distance to the solution, also when the iteration is cut short."""
    x = points((6,), 3)
    f, expression = SUMS["two norms"]
    exact = expected(expression, x, 0.7)
    for rounds in (1, 2, 4, 8):
        y, info = Sum(f.f, f.g, max_iter=rounds).prox(x, 0.7, return_info=True)
        # The point of the next round, whose gap is no larger up to the accuracy of the reference.
        assert np.all(((y - exact) ** 2).sum(-1) / 2 <= info.gap + info.residual**2 + 1e-8)
        assert np.all(info.iterations <= rounds)


def test_sum_with_simple_terms_is_closed():
    assert (L1() + Linear(B)).prox(points((6,))).shape == (4, 6)
    assert type(L1() + Linear(B)).__name__ == "Tilted"
    f = L1()
    assert f + Zero() is f
    with pytest.raises(ShapeError, match="same axes"):
        (L1(dim=0) + L2()).prox(points((6,)))
    with pytest.raises(SettingsError, match="not convex"):
        L0() + L1()
    with pytest.raises(TypeError):
        L1() + 3


def test_infimal_postcomposition():
    """Against the definition: inf {f(z): A z = x} by CVXPY, with an injective A."""
    A = 2 * Q[:, :3]
    f = InfimalPostcomposition(L1(), A)
    x = points((6,), 2)

    def solve(row, tau):
        z = cp.Variable(3)
        cp.Problem(cp.Minimize(tau * cp.norm1(z) + cp.sum_squares(A @ z - row) / 2)).solve(solver="CLARABEL")
        return A @ z.value

    np.testing.assert_allclose(f.prox(x, 0.7), np.stack([solve(row, 0.7) for row in x]), atol=1e-4)
    z = points((3,), 2)
    np.testing.assert_allclose(f(z @ A.T), L1()(z))
    assert np.isinf(f(x)).all()
    np.testing.assert_allclose(f.conjugate_value(0.01 * x), 0.0)
    check_prox(f)
    with pytest.raises(SettingsError, match="orthogonal"):
        InfimalPostcomposition(L1(), np.ones((3, 2)))


def test_envelope_and_gradient():
    x = points((6,), 3)
    mu = np.array([0.3, 1.0, 2.0])
    envelope = L2().moreau_envelope(mu)
    np.testing.assert_allclose(envelope(x), HuberNorm(1 / mu, mu)(x))
    for f in (L2(), L1(0.7), Max(), Simplex()):
        smooth = f.moreau_envelope(0.6)
        v = torch.tensor(x, requires_grad=True)
        (gradient,) = torch.autograd.grad(smooth(v).sum(), v)
        np.testing.assert_allclose(smooth.gradient(x), gradient, atol=1e-12)
        assert torch.autograd.gradcheck(smooth, (v,), atol=1e-6)
        leaf = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda m, f=f: f.moreau_envelope(m)(torch.from_numpy(x)), (leaf,), atol=1e-6)


def test_conjugates_go_back():
    f = L1(0.7)
    g = f.conjugate()
    x = points((6,))
    assert g.conjugate() is f and g(np.zeros(6)) == 0 and np.isinf(g(np.ones(6)))
    np.testing.assert_allclose(g.prox(x, 0.3), np.clip(x, -0.7, 0.7))
    np.testing.assert_allclose(g.conj_prox(x, 0.3), f.prox(x, 0.3))
    np.testing.assert_allclose(g.conjugate_value(x), f(x))
    with pytest.raises(SettingsError, match="no closed form"):
        Wrapped(lambda x, tau: x).conjugate()(x)
    with pytest.raises(SettingsError, match="not convex"):
        L0().conjugate()
    with pytest.raises(SettingsError, match="not convex"):
        L0().conj_prox(x)


def test_separable_blocks():
    f = Separable((L1(), L2()))
    x = (points((3,)), points((2,), seed=1))
    y = f.prox(x, 0.5)
    np.testing.assert_allclose(y[0], L1().prox(x[0], 0.5))
    np.testing.assert_allclose(f(x), L1()(x[0]) + L2()(x[1]))
    leading = Separable((L1(dim=0), L2(dim=0)), (1, 2), dim=0)
    v = points((3,)).T[:3]
    np.testing.assert_allclose(leading.prox(v), np.concatenate([L1().prox(v[:1].T).T, L2().prox(v[1:].T).T]))
    gradient = jax.grad(lambda f: f(x).sum())(f)
    np.testing.assert_allclose(gradient.operators[0].weight, np.abs(x[0]).sum())
    with pytest.raises(ShapeError, match="tuple of 2"):
        f.prox(x[0])
    with pytest.raises(ShapeError, match="3 entries"):
        leading.prox(points((5,)).T)
    with pytest.raises(SettingsError, match="sizes"):
        Separable((L1(), L2()), (1,))


def test_distances_to_cones_and_sets_that_are_not_convex():
    x = points((3,))
    cone = SecondOrder(3)
    np.testing.assert_allclose(Distance(cone)(x), np.linalg.norm(x - cone.project(x), axis=-1))
    assert isinstance(Distance(cone).f, Indicator)
    from cvxlayers.prox.balls import L2Sphere

    f = Distance(L2Sphere(1.0))
    np.testing.assert_allclose(f(x), np.abs(np.linalg.norm(x, axis=-1) - 1))
    assert not f.convex
    check_prox(f, shape=(3,))
    with pytest.raises(SettingsError, match="set"):
        Distance(L1())


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: 0 * L1(), "factor of Scaled should be positive"),
        (lambda: -1.0 * L1(), "factor of Scaled"),
        (lambda: L1().scale(0.0), "a of Stretched"),
        (lambda: L1().diagonal(np.array([1.0, 0.0])), "d of Diagonal"),
        (lambda: L2().diagonal(np.ones(3)), "sum over the entries"),
        (lambda: L1().regularize(-1.0), "rho of Regularized"),
        (lambda: L1().precompose(np.ones((2, 2))), "orthogonal rows"),
        (lambda: L1().precompose(lambda x: x), "adjoint and nu"),
        (lambda: L1().moreau_envelope(0.0), "mu of MoreauEnvelope"),
        (lambda: Sum(L1(), L2(), tol=0.0), "tol of Sum"),
        (lambda: Sum(L1(), L2(), max_iter=0), "max_iter of Sum"),
        (lambda: Separable(()), "operators of Separable"),
        (lambda: Wrapped(3), "apply of Wrapped"),
    ],
)
def test_bad_settings_name_the_argument(build, text):
    with pytest.raises(SettingsError, match=text):
        build()


def test_complex_calculus():
    x = points((6,)) + 1j * points((6,), seed=1)
    unitary = np.linalg.qr(Q + 1j * Q[::-1].T)[0]
    for f in (
        L1().precompose(unitary[:4]),
        L2().translate(1j * B),
        L1().tilt(0.3j * B),
        L1().regularize(0.5, 1j),
        Huber().scale(2.0),
        L1(0.7).conjugate(),
        L2().moreau_envelope(0.5),
        2 * Ridge(),
    ):
        check_prox(f, x, taus=(0.7,))


def test_denoisers_are_operators():
    calls = []

    def denoise(x, sigma):
        calls.append(sigma)
        return x / (1 + sigma**2)

    f = Wrapped.denoiser(denoise)
    assert f.prox(np.ones((2, 4, 4)), 0.25).shape == (2, 4, 4) and calls == [0.5]
    assert f.prox(np.ones((2, 4, 4)), np.array([0.25, 1.0])).shape == (2, 4, 4) and calls[-1].shape == (2, 1, 1)
    assert not f.convex
    with pytest.raises(SettingsError, match="value of Wrapped was not given"):
        f(np.ones((4, 4)))
