"""Spectral penalties against CVXPY and direct search, with derivatives at equal and at zero singular values."""

from dataclasses import replace

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox.box import Orthant
from cvxlayers.prox.losses import LogBarrier
from cvxlayers.prox.nonconvex import L0
from cvxlayers.prox.norms import L2, SLOPE
from cvxlayers.prox.operator import Prox
from cvxlayers.prox.separable import L1, Ridge
from cvxlayers.prox.spectral import NuclearNorm, Rank, SpectralNorm, WeightedNuclearNorm
from cvxlayers.prox.spectral_functions import Eigenvalues, SingularValues
from cvxlayers.prox.spectral_sets import NuclearBall, RankBall, SpectralBall, Stiefel
from tests import checks

WEIGHTS = np.array([0.1, 0.4, 0.9])


def close(actual, expected, tolerance=1e-10):
    checks.close(actual, expected, tolerance)


def matrix(rng, s, m, n, complex_=False):
    """A random matrix with the singular values s."""

    def draw(k):
        x = rng.standard_normal((k, len(s)))
        return np.linalg.qr(x + 1j * rng.standard_normal(x.shape) if complex_ else x)[0]

    return (draw(m) * s) @ draw(n).conj().T


def hermitian(rng, lam, complex_=False):
    Q = matrix(rng, np.ones(len(lam)), len(lam), len(lam), complex_)
    return (Q * lam) @ Q.conj().T


PENALTIES = {
    "nuclear": (NuclearNorm(0.7), lambda X: 0.7 * cp.normNuc(X)),
    "spectral norm": (SpectralNorm(0.7), lambda X: 0.7 * cp.sigma_max(X)),
    "Frobenius": (SingularValues(L2(0.7)), lambda X: 0.7 * cp.norm(X, "fro")),
    "nuclear of vectors": (SingularValues(L1(0.7)), lambda X: 0.7 * cp.normNuc(X)),
    "half square": (SingularValues(Ridge(0.7)), None),
    "sorted": (
        SingularValues(SLOPE(np.array([0.9, 0.2]))),
        lambda X: 0.2 * cp.normNuc(X) + 0.7 * cp.sigma_max(X),
    ),
}


@pytest.mark.parametrize("name", [n for n, (_, g) in PENALTIES.items() if g])
def test_penalties_agree_with_cvxpy(name):
    f, definition = PENALTIES[name]
    X, target = cp.Variable((3, 2)), cp.Parameter((3, 2))
    problem = cp.Problem(cp.Minimize(1.3 * definition(X) + cp.sum_squares(X - target) / 2))
    for point in np.random.default_rng(0).standard_normal((4, 3, 2)) * 1.5:
        target.value = point
        problem.solve(solver=cp.CLARABEL)
        found = f.prox(point, 1.3)
        value = 1.3 * f(found) + np.sum((found - point) ** 2) / 2
        assert abs(value - problem.value) <= 1e-6 * (1 + value)
        close(found, X.value, 1e-3)


def test_log_det_agrees_with_cvxpy():
    f = Eigenvalues(LogBarrier())
    point = np.random.default_rng(1).standard_normal((3, 3))
    point = point + point.T
    X = cp.Variable((3, 3), symmetric=True)
    problem = cp.Problem(cp.Minimize(-cp.log_det(X) + cp.sum_squares(X - point) / 2))
    problem.solve(solver=cp.CLARABEL)
    found = f.prox(point)
    close(found, X.value, 1e-4)
    close(f(found) + np.sum((found - point) ** 2) / 2, problem.value, 1e-7)


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("f", [WeightedNuclearNorm(WEIGHTS), Rank(0.4), SingularValues(L0(0.4))], ids=repr)
def test_no_random_point_is_better(f, complex_):
    """Global, for those that are not convex too: near the prox, and among matrices of every rank."""
    rng = np.random.default_rng(2)
    x = matrix(rng, [1.5, 1.1, 0.3], 4, 3, complex_)
    y = f.prox(x, 0.8)
    best = 0.8 * f(y) + np.sum(np.abs(y - x) ** 2) / 2
    noise = rng.standard_normal((3000, 4, 3)) * 10.0 ** rng.uniform(-6, 0, (3000, 1, 1))
    for count in (1, 2, 3):
        other = RankBall(count).project(y + noise)
        assert np.all(0.8 * f(other) + np.sum(np.abs(other - x) ** 2, (-2, -1)) / 2 >= best - 1e-9)
    assert 0.8 * f(x) >= best and np.sum(np.abs(x) ** 2) / 2 >= best - 1e-12


def test_conjugates():
    """f*(Y) = max <X, Y> - f(X), for norms the indicator of the dual ball; balls have the dual norm."""
    rng = np.random.default_rng(3)
    Y = matrix(rng, [0.69, 0.3], 3, 2)
    s = np.linalg.svd(Y, compute_uv=False)
    assert NuclearNorm(0.7).conjugate_value(Y) == 0 and NuclearNorm(0.68).conjugate_value(Y) == np.inf
    assert SpectralNorm(1.0).conjugate_value(Y) == 0 and SpectralNorm(0.98).conjugate_value(Y) == np.inf
    close(NuclearBall(2.0).conjugate_value(Y), 2 * s[0])
    close(SpectralBall(2.0).conjugate_value(Y), 2 * s.sum())
    close(Stiefel().conjugate_value(Y), s.sum())
    close(SingularValues(Ridge(0.5)).conjugate_value(Y), np.sum(Y * Y) / (2 * 0.5))
    assert Eigenvalues(Orthant()).conjugate_value(-np.eye(2)) == 0
    assert Eigenvalues(Orthant()).conjugate_value(np.diag([1.0, -1.0])) == np.inf
    for f in (NuclearNorm(0.7), SpectralNorm(0.7)):
        other = {NuclearNorm: SpectralBall, SpectralNorm: NuclearBall}[type(f)](0.7)
        close(f.conj_prox(3 * Y, 1.7), other.project(3 * Y))


SPECTRA = {
    "generic": [2.1, 1.3, 0.4],
    "equal": [1.5, 1.5, 0.4],
    "all equal": [1.5, 1.5, 1.5],
    "nearly equal": [1.5, 1.5 - 1e-9, 0.4],
    "zero": [1.5, 0.0, 0.0],
    "equal and zero": [1.5, 1.5, 0.0],
    "nothing": [0.0, 0.0, 0.0],
}
SMOOTH = {  # no kink at the spectra above
    "nuclear": lambda t: NuclearNorm(t),
    "half square": lambda t: SingularValues(Ridge(t)),
    "rank": lambda t: Rank(t),
    "ball": lambda t: NuclearBall(2.2 * t),
    "clip": lambda t: SpectralBall(2 * t),
}


@pytest.mark.parametrize("shape", [(3, 3), (4, 3), (3, 4)], ids=str)
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_at_ties(name, spectrum, shape):
    """The derivative exists at these points, however singular values coincide: finite differences see it."""
    rng = np.random.default_rng(4)
    complex_ = shape == (4, 3)
    x = torch.tensor(matrix(rng, SPECTRA[spectrum], *shape, complex_), requires_grad=True)
    weight = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)

    def prox(x, weight):
        return SMOOTH[name](weight).prox(x, 0.9)

    assert torch.autograd.gradcheck(prox, (x, weight), atol=1e-5, check_forward_ad=shape == (3, 4))


@pytest.mark.parametrize("name", ["nuclear", *(pytest.param(n, marks=pytest.mark.slow) for n in ("ball", "clip"))])
def test_derivatives_agree(name):
    """JAX and PyTorch, at every spectrum, real and complex, batched with parameters per sample."""
    rng = np.random.default_rng(5)
    for complex_ in (False, True):
        x = np.stack([matrix(rng, s, 4, 3, complex_) for s in SPECTRA.values()])
        weights = np.linspace(0.5, 0.7, len(x))
        direction = rng.standard_normal(x.shape) + (1j * rng.standard_normal(x.shape) if complex_ else 0)

        def loss(x, weights, other):
            return (SMOOTH[name](weights).prox(x) * other.conj()).real.sum()

        t, w = torch.tensor(x, requires_grad=True), torch.tensor(weights, requires_grad=True)
        ours = torch.autograd.grad(loss(t, w, torch.tensor(direction)), (t, w))
        theirs = jax.jit(jax.grad(loss, argnums=(0, 1)))(*map(jnp.asarray, (x, weights, direction)))
        # JAX has the conjugate of PyTorch's gradient.
        close(ours[0], np.conj(theirs[0]), 1e-9)
        close(ours[1], theirs[1], 1e-9)


def test_eigenvalues_at_ties():
    rng = np.random.default_rng(6)
    for lam in ([2.0, 1.0, -1.0], [1.0, 1.0, -0.5], [-0.5, -0.5, -0.5]):
        for complex_ in (False, True):
            x = torch.tensor(hermitian(rng, np.array(lam), complex_), requires_grad=True)
            assert torch.autograd.gradcheck(Eigenvalues(Orthant()).prox, (x,), atol=1e-5, check_forward_ad=True)
            assert torch.autograd.gradcheck(Eigenvalues(LogBarrier(0.3)).prox, (x,), atol=1e-5)


def test_second_derivatives():
    """Exact where singular values differ, finite where they do not."""
    rng = np.random.default_rng(7)
    for complex_ in (False, True):
        x = torch.tensor(matrix(rng, SPECTRA["generic"], 4, 3, complex_), requires_grad=True)
        weight = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradgradcheck(lambda x, w: NuclearNorm(w).prox(x), (x, weight), atol=1e-5)
        h = torch.tensor(hermitian(rng, np.array([2.0, 0.7, -1.0]), complex_), requires_grad=True)
        assert torch.autograd.gradgradcheck(Eigenvalues(LogBarrier(0.5)).prox, (h,), atol=1e-5)
    x = torch.tensor(matrix(rng, SPECTRA["equal and zero"], 3, 3))
    assert torch.isfinite(torch.func.hessian(lambda x: (NuclearNorm(0.6).prox(x) ** 3).sum())(x)).all()


def test_value_derivative_is_a_subgradient():
    rng = np.random.default_rng(8)
    for spectrum in SPECTRA.values():
        x = torch.tensor(matrix(rng, spectrum, 4, 3), requires_grad=True)
        (G,) = torch.autograd.grad(NuclearNorm(0.7)(x), x)
        y = rng.standard_normal((50, 4, 3))
        step = np.sum(G.numpy() * (y - x.detach().numpy()), (-2, -1))
        assert np.all(NuclearNorm(0.7)(y) >= NuclearNorm(0.7)(x).item() + step - 1e-10)


LIBRARIES = [NuclearNorm(0.7), Rank(0.5), SpectralNorm(0.4), SingularValues(L1(0.3)), SingularValues(L2())]


@pytest.mark.parametrize("f", LIBRARIES, ids=repr)
def test_libraries_agree(f):
    rng = np.random.default_rng(9)
    x = rng.standard_normal((2, 3, 4, 3)) + 1j * rng.standard_normal((2, 3, 4, 3))
    tau = rng.uniform(0.5, 1.5, (2, 3))
    for point in (x, x.real):
        before, y = point.copy(), f.prox(point, tau)
        assert np.array_equal(before, point) and y.dtype == point.dtype
        close(f.prox(torch.tensor(point), torch.tensor(tau)), y, 1e-12)
        for i in range(2):
            for j in range(3):
                close(f.prox(point[i, j], tau[i, j]), y[i, j], 1e-12)
                close(f(point)[i, j], f(point[i, j]), 1e-12)
    close(jax.jit(jax.vmap(f.prox))(jnp.asarray(x.real), jnp.asarray(tau)), f.prox(x.real, tau), 1e-12)
    close(torch.vmap(f.prox)(torch.tensor(x.real), torch.tensor(tau)), f.prox(x.real, tau), 1e-12)
    single = f.prox(x.astype(np.complex64), tau)
    assert single.dtype == np.complex64 and f(x.astype(np.complex64)).dtype == np.float32
    close(single, f.prox(x, tau), 1e-4)
    f_moved = replace(f, dim=(2, 0))
    moved = f_moved.prox(np.moveaxis(x.real[0], (0, 1, 2), (1, 2, 0)))
    close(np.moveaxis(moved, (1, 2, 0), (0, 1, 2)), f.prox(x.real[0]), 1e-12)


def test_asymmetric_matrices():
    """Eigenvalues take the Hermitian part, and the value of another matrix is infinite."""
    f = Eigenvalues(L1(0.3))
    x = np.random.default_rng(10).standard_normal((2, 3, 3))
    x[1] = x[1] + x[1].T
    assert np.array_equal(f(x) == np.inf, [True, False])
    close(f.prox(x), f.prox((x + x.swapaxes(-1, -2)) / 2))


def test_a_bad_matrix_leaves_its_neighbours():
    x = np.random.default_rng(11).standard_normal((3, 4, 3))
    bad = x.copy()
    bad[1, 0, 0] = np.inf
    for library in (np.asarray, torch.tensor, jnp.asarray):
        found = np.asarray(NuclearNorm(0.3).prox(library(bad)))
        close(found[[0, 2]], NuclearNorm(0.3).prox(x[[0, 2]]), 1e-12)
        assert not np.isfinite(found[1]).any()


def test_weights_in_another_library():
    """A constant NumPy matrix meets a weight that is trained."""
    weight = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    x = np.random.default_rng(12).standard_normal((3, 2))
    for f in (NuclearNorm(weight), SingularValues(L1(weight))):
        assert isinstance(f, Prox)
        (g,) = torch.autograd.grad(f.prox(x).sum(), weight)
        h = 1e-6
        close(g, (NuclearNorm(0.4 + h).prox(x).sum() - NuclearNorm(0.4 - h).prox(x).sum()) / (2 * h), 1e-7)
    leaves = jax.tree_util.tree_leaves(SingularValues(L1(jnp.asarray(0.4))))
    assert len(leaves) == 1
    found = jax.jit(jax.grad(lambda f: jnp.sum(f.prox(jnp.asarray(x)))))(SingularValues(L1(jnp.asarray(0.4))))
    close(found.function.weight, g, 1e-7)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: NuclearNorm(-1.0), SettingsError, "weight of NuclearNorm"),
        (lambda: NuclearNorm().prox(np.eye(2), 0.0), SettingsError, "tau"),
        (lambda: NuclearNorm().prox(np.ones(3)), ShapeError, "dim"),
        (lambda: NuclearNorm(dim=0).prox(np.eye(2)), ShapeError, "2 axes"),
        (lambda: NuclearNorm(np.ones(3)).prox(np.ones((2, 2, 2))), ShapeError, "weight of NuclearNorm"),
        (lambda: WeightedNuclearNorm(np.array([2.0, 1.0])), SettingsError, "weights of WeightedNuclearNorm"),
        (lambda: WeightedNuclearNorm(np.array([-1.0, 1.0])), SettingsError, "weights of WeightedNuclearNorm"),
        (lambda: WeightedNuclearNorm(WEIGHTS).prox(np.eye(2)), ShapeError, "weights of WeightedNuclearNorm"),
        (lambda: SingularValues(1.0), SettingsError, "function of SingularValues"),
        (lambda: Eigenvalues(L1()).prox(np.ones((2, 3))), ShapeError, "square"),
        (lambda: SingularValues(L1()).prox(np.eye(2, dtype=int)), ShapeError, "floating-point"),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
