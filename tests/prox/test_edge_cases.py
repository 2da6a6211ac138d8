"""NaN, empty batches, kinks, extreme scales, and arguments that make no sense."""

from __future__ import annotations

import copy
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cvxlayers import prox
from cvxlayers.errors import SettingsError, ShapeError
from tests.prox.operators import CASES, points
from tests.prox.projections import CASES as SETS

ENTRYWISE = [case for case in CASES if isinstance(case.f, prox.separable.Entrywise)]


@pytest.mark.parametrize("case", ENTRYWISE, ids=repr)
@pytest.mark.parametrize("convert", [np.asarray, torch.asarray, jnp.asarray], ids=["numpy", "torch", "jax"])
def test_nan_stays_nan_in_its_entry(case, convert):
    x = points(case.shape)
    x[1, 2] = np.nan

    def both(x):
        return case.f.prox(x, 0.5), case.f(x)

    y, value = (np.asarray(v) for v in (jax.jit(both) if convert is jnp.asarray else both)(convert(x)))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
    np.testing.assert_array_equal(np.isnan(value), [False, True, False, False])


@pytest.mark.parametrize("kind", [prox.Hinge, prox.SquaredHinge, prox.Logistic])
@pytest.mark.parametrize("label", [0.0, 2, 0.5, np.array([1.0, 0.0]), torch.tensor([0.0, 1.0]), [1, 0]])
def test_labels_are_signs(kind, label):
    with pytest.raises(SettingsError, match="label of"):
        kind(1.0, label)


@pytest.mark.parametrize(
    ("f", "shape"),
    [
        (prox.TotalVariation(1.0), (4, 3)),
        (prox.TotalVariation(1.0, l1=0.5, isotropic=False), (4, 3)),
        (prox.OverlappingGroupLasso(((0, 1, 2), (2, 3), (3, 4))), (5,)),
        (prox.OverlappingGroupLasso(((0, 1), (1, 2)), l1=0.5), (5,)),
        (prox.TotalGeneralizedVariation(), (4, 3)),
    ],
    ids=lambda v: type(v).__name__,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_gradient_of_the_value_is_zero_at_zero(f, shape, dtype):
    if dtype.is_complex and not f._complex:
        dtype = torch.float64
    x = torch.zeros(shape, dtype=dtype, requires_grad=True)
    f(x).backward()
    assert x.grad is not None
    assert not x.grad.any()


@pytest.mark.parametrize("convert", [np.asarray, torch.asarray, jnp.asarray], ids=["numpy", "torch", "jax"])
def test_contradicting_equations_make_an_empty_set(convert):
    x, compiled = convert(np.array([0.3, 0.4])), jax.jit if convert is jnp.asarray else lambda f: f
    for A, b in (([[1.0, 0.0], [1.0, 0.0]], [0.0, 1.0]), (np.zeros((2, 2)), np.ones(2))):
        f = prox.AffineSet(convert(np.asarray(A)), convert(np.asarray(b)))
        for g in (f, f.factor()):
            projected, value = compiled(lambda x, g=g: (g.project(x), g(x)))(x)
            assert np.isnan(np.asarray(projected)).all()
            assert float(value) == np.inf
    some = prox.AffineSet(convert(np.ones((3, 2, 2))), convert(np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])))
    expected = np.array([[0.45, 0.55], [np.nan, np.nan], [-0.05, 0.05]])
    for g in (some, some.factor()):
        found = compiled(g.project)(convert(np.array([[0.3, 0.4]] * 3)))
        np.testing.assert_allclose(np.asarray(found), expected, atol=1e-14)


@pytest.mark.parametrize("condition", [1e4, 1e8, 1e11])
def test_ill_conditioned_equations_are_not_taken_for_contradictions(condition):
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.standard_normal((k, k)))[0] for k in (4, 6))
    A = left * np.geomspace(1, 1 / condition, 4) @ right[:4]
    f = prox.AffineSet(A, A @ rng.standard_normal(6))
    for g in (f, f.factor()):
        assert np.isfinite(g.project(rng.standard_normal((20, 6)))).all()


@pytest.mark.parametrize("bad", [-1.0, 0.0])
def test_isotonic_regression_takes_positive_weights(bad):
    with pytest.raises(SettingsError, match="weights should be positive"):
        prox.isotonic_regression(np.array([3.0, 1.0, 2.0]), np.array([1.0, bad, 1.0]))


@pytest.mark.parametrize("f", [prox.NuclearNorm(), prox.SpectralNorm(), prox.Rank()], ids=repr)
def test_an_empty_batch_of_matrices_has_a_gradient(f):
    x = torch.zeros(0, 4, 3, dtype=torch.float64, requires_grad=True)
    (f.prox(x).sum() + f(x).sum()).backward()
    assert x.grad is not None
    assert x.grad.shape == (0, 4, 3)


def test_tiny_singular_values_have_a_gradient():
    x = torch.full((1, 4, 3), 1e-200, dtype=torch.float64, requires_grad=True)
    prox.NuclearNorm().prox(x).sum().backward()
    assert x.grad is not None
    assert not x.grad.any()


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e20), (np.float64, 1e160), (np.float64, 1e300)])
@pytest.mark.parametrize("convert", [np.asarray, torch.asarray, jnp.asarray], ids=["numpy", "torch", "jax"])
def test_positive_roots_at_large_scales(dtype, size, convert):
    x = convert(np.array([size, -size], dtype))
    for f in (prox.LogBarrier(), prox.Poisson(), prox.KullbackLeibler()):
        # y - 1/y = x, up to 1: y = x and y = -1/x.
        y = (jax.jit(f.prox) if convert is jnp.asarray else f.prox)(x)
        np.testing.assert_allclose(np.asarray(y), np.array([size, 1 / size]), rtol=1e-6)


@pytest.mark.parametrize("tau", ["a", None, {}])
@pytest.mark.parametrize("f", [prox.L1(), prox.L2Ball(), 2 * prox.L1()], ids=repr)
def test_tau_is_a_number_or_an_array(f, tau):
    with pytest.raises(SettingsError, match="tau should be a number or an array"):
        f.prox(np.ones(3), tau)


GRIDS = [
    (prox.TotalVariation(0.3, l1=0.1), (4, 3)),
    (prox.TotalGeneralizedVariation(0.3, tol=1e-2, max_iter=100), (4, 3)),
    (prox.GraphNet(), (4, 3)),
    (prox.FusedLasso(0.3), (5,)),
    (prox.Monotone(), (5,)),
    (prox.OverlappingGroupLasso(((0, 1), (1, 2))), (4,)),
    (prox.NuclearNorm(), (4, 3)),
]
DERIVED = [
    2 * prox.L1(),
    prox.L1().translate(1.0),
    prox.L1().conjugate(),
    prox.L2().regularize(0.5),
    prox.L1().scale(-2.0),
    prox.L1().diagonal(np.arange(1.0, 5.0)),
    prox.L1() + prox.L2Ball(),
    prox.Distance(prox.L2Ball()),
    prox.SquaredDistance(prox.Simplex()),
]
ALL = [
    *((case.f, case.shape, repr(case)) for case in CASES),
    *((case.operator, case.shape, case.name) for case in SETS),
    *((f, shape, repr(f)) for f, shape in GRIDS),
]
EVERY = [*ALL, *((f, (4,), repr(f)) for f in DERIVED)]
every = pytest.mark.parametrize(("f", "shape"), [(f, shape) for f, shape, _ in EVERY], ids=[n for *_, n in EVERY])


@every
def test_layouts_copies_and_threads(f, shape):
    """Read-only, strided and reversed arrays, one tau per sample, copies, and calls from several threads."""
    x = points(shape, 3)
    y = f.prox(x, 0.7)
    still = np.asfortranarray(x)
    still.flags.writeable = False
    sparse = np.zeros(tuple(2 * n for n in x.shape))
    every_other = (slice(None, None, 2),) * x.ndim
    sparse[every_other] = x
    found = [f.prox(still, 0.7), f.prox(sparse[every_other], 0.7), f.prox(x[::-1], 0.7)[::-1]]
    found += [f.prox(torch.tensor(sparse)[every_other], 0.7).numpy(), f.prox(x, np.full(3, 0.7))]
    found += [pickle.loads(pickle.dumps(f)).prox(x, 0.7), copy.deepcopy(f).prox(x, 0.7)]
    with ThreadPoolExecutor(4) as threads:
        found += threads.map(lambda _: f.prox(x, 0.7), range(4))
    for again in found:
        np.testing.assert_allclose(again, y, rtol=1e-6, atol=1e-6)
    two = f.prox(x[:, None], np.full((3, 2), 0.7))
    np.testing.assert_allclose(two, np.repeat(y[:, None], 2, axis=1), rtol=1e-6, atol=1e-6)


@every
def test_nan_and_infinity_stay_in_their_sample(f, shape):
    x = points(shape, 3)
    y = f.prox(x, 0.7)
    for bad in (np.nan, np.inf):
        broken = x.copy()
        broken.reshape(3, -1)[1, 0] = bad
        with np.errstate(invalid="ignore"):
            found = f.prox(broken, 0.7)
        np.testing.assert_allclose(found[[0, 2]], y[[0, 2]], rtol=1e-6, atol=1e-6)
        assert np.isinf(bad) or np.isnan(found[1]).any()


@every
def test_samples_and_batches_of_nothing(f, shape):
    """An empty batch has a gradient; samples without entries are kept, or their shape is named in an error."""
    empty = torch.zeros(0, *shape, dtype=torch.float64, requires_grad=True)
    y = f.prox(empty)
    (y.sum() + f(empty).sum()).backward()
    assert y.shape == empty.shape == empty.grad.shape and f(empty).shape == (0,)
    if isinstance(f, prox.LeastSquaresOperator):  # the operator of the user refuses
        return
    for k in range(len(shape)):
        x = np.zeros((3, *shape[:k], 0, *shape[k + 1 :]))
        try:
            assert f.prox(x).shape == x.shape and f(x).shape == (3,)
        except (ShapeError, SettingsError) as error:
            assert re.search(r"\bshould|has 4 columns", str(error))


@every
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_single_precision_at_every_scale(f, shape, scale):
    x = torch.tensor(scale * points(shape, 3), dtype=torch.float32, requires_grad=True)
    y = f.prox(x)
    (gradient,) = torch.autograd.grad(y.sum(), x, allow_unused=True)
    assert torch.isfinite(y).all() and (gradient is None or torch.isfinite(gradient).all())


@pytest.mark.parametrize(("f", "shape"), [(f, shape) for f, shape, _ in ALL], ids=[name for *_, name in ALL])
@pytest.mark.parametrize("dtype", [np.float16, torch.bfloat16], ids=str)
def test_half_precision_is_kept(f, shape, dtype):
    """The result is that of single precision, rounded; a rounded projection counts as a point of its set."""
    values = points(shape, 3)
    x = values.astype(dtype) if dtype is np.float16 else torch.tensor(values, dtype=dtype)
    y, wide = f.prox(x, 0.5), x.astype(np.float32) if dtype is np.float16 else x.float()
    assert y.dtype == x.dtype == f(x).dtype
    expected = f.prox(wide, 0.5)
    eps = 2.0**-7 if dtype is torch.bfloat16 else 2.0**-10
    np.testing.assert_allclose(
        np.asarray(y if dtype is np.float16 else y.float()), np.asarray(expected), rtol=eps, atol=1e-3 * eps
    )
    if not np.isinf(np.asarray(f(expected))).any():
        assert not np.isinf(np.asarray(f(y).astype(np.float32) if dtype is np.float16 else f(y).float())).any()


SMOOTH = [case for case in CASES if not isinstance(case.f, (prox.SLOPE, prox.SumLargest, prox.Linear, prox.Quadratic))]


@pytest.mark.parametrize("case", SMOOTH, ids=repr)
@pytest.mark.parametrize(("dtype", "tau"), [(torch.float64, 1e-300), (torch.float32, 1e-37)], ids=str)
def test_the_smallest_steps_have_finite_gradients(case, dtype, tau):
    """And leave a point of the domain where it is."""
    given = {name: value for name in case.f._leaves if (value := getattr(case.f, name)) is not None}
    leaves = [torch.tensor(np.asarray(v), dtype=dtype, requires_grad=True) for v in (tau, *given.values())]
    x = torch.tensor(points(case.shape), dtype=dtype, requires_grad=True)
    f = replace(case.f, **dict(zip(given, leaves[1:], strict=True)))
    y = f.prox(x, leaves[0])
    inside = torch.isfinite(f(x))
    torch.testing.assert_close(y[inside], x[inside])
    for gradient in torch.autograd.grad(torch.sin(y).sum(), (x, *leaves), allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()


@pytest.mark.parametrize("tau", [1e6, 1e12, 1e18])
def test_quadratic_terms_leave_their_null_space_alone(tau):
    """A large tau made the rounding of an eigenvalue 0 count."""
    A = np.random.default_rng(3).standard_normal((2, 4))
    x = np.random.default_rng(4).standard_normal((3, 4))
    expected = x @ (np.eye(4) - np.linalg.pinv(A) @ A)  # up to 1 / tau
    np.testing.assert_allclose(prox.Quadratic(A.T @ A).prox(x, tau), expected, atol=10 / tau + 1e-12)


@pytest.mark.parametrize(
    "convert",
    [np.asarray, torch.asarray, pytest.param(jnp.asarray, marks=pytest.mark.slow)],
    ids=["numpy", "torch", "jax"],
)
def test_points_near_a_polyhedron_in_single_precision(convert):
    """Rounding hid which faces they are on, and the result was NaN."""
    f = next(case.operator for case in SETS if case.name == "polyhedron")
    rng = np.random.default_rng(0)
    far = np.geomspace(1e-4, 1e-1, 200)[:, None]
    x = (f.prox(rng.normal(size=(200, 4))) + far * rng.normal(size=(200, 4))).astype(np.float32)
    np.testing.assert_allclose(np.asarray(f.prox(convert(x))), f.prox(x.astype(float)), atol=1e-6)
