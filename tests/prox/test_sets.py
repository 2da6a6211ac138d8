"""Projections on simple sets against their definitions, in every library, with their derivatives."""

import itertools
import pickle

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox.affine import AffineSet, Halfspace, Hyperplane, Slab
from cvxlayers.prox.balls import L1Ball, L1Sphere, L2Ball, L2Sphere
from cvxlayers.prox.box import Box, LInfinityBall, Orthant
from cvxlayers.prox.epigraph import NormEpigraph
from cvxlayers.prox.indicator import Indicator
from cvxlayers.prox.polyhedron import Polyhedron
from cvxlayers.prox.simplex import CappedSimplex, Simplex, SparseSimplex
from cvxlayers.prox.sparse import GroupL0Ball, L0Ball
from cvxlayers.prox.spectral_functions import Eigenvalues
from cvxlayers.prox.spectral_sets import NuclearBall, RankBall
from cvxlayers.prox.transport import Birkhoff, TransportPolytope
from cvxlayers.sets import Exponential, Nonnegative, PositiveSemidefinite, Power, RotatedSecondOrder, SecondOrder
from tests import checks
from tests.prox.projections import CASES, WEIGHTS, Case, points

every = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
# JAX compiles decompositions and loops for seconds: one of them by default.
heavy = {case.name for case in CASES if case.iterative or len(case.shape) == 2} - {"nuclear ball"}
compiled = pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow) if case.name in heavy else case for case in CASES],
    ids=[case.name for case in CASES],
)
convex = pytest.mark.parametrize("case", [c for c in CASES if c.constraints], ids=lambda case: case.name)


def close(actual, expected, tolerance=1e-10):
    checks.close(actual, expected, tolerance)


def is_symmetric(case: Case) -> bool:
    return isinstance(case.operator, Eigenvalues)


def inputs(case: Case, count: int, seed: int = 0) -> np.ndarray:
    x = points(case, count, seed)
    return (x + x.swapaxes(-1, -2)) / 2 if is_symmetric(case) else x


@convex
def test_projection_agrees_with_cvxpy(case):
    x = cp.Variable(case.shape, symmetric=is_symmetric(case))
    target = cp.Parameter(case.shape)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - target)), case.constraints(x))
    u = inputs(case, 6)
    f = case.operator
    for point, found in zip(u, f.project(u) if hasattr(f, "project") else f.prox(u), strict=True):
        target.value = point
        problem.solve(solver=cp.CLARABEL)
        assert np.sum((found - point) ** 2) <= problem.value + 1e-6 * (1 + problem.value)
        close(found, x.value, 1e-3)
        # The point itself is in the set: CVXPY's own measure of its constraints.
        x.value = found
        assert all(np.max(c.violation()) < 1e-9 for c in case.constraints(x))


@every
def test_membership(case):
    f, x = case.operator, inputs(case, 30)
    y = f.prox(x)
    assert np.all(f(y) == 0)
    apart = np.linalg.norm((y - x).reshape(30, -1), axis=-1)
    assert np.array_equal(f(x) == 0, apart < 1e-9)
    assert np.all((f(x) == 0) | (f(x) == np.inf))
    close(f.prox(y), y, 1e-9)
    close(f.prox(x, 7.3), y, 0)
    for radius in (1e-100, 1e100) if not case.iterative else ():
        assert np.all(np.isfinite(f.prox(radius * x)))


@convex
def test_firmly_nonexpansive(case):
    f = case.operator
    x, y = points(case, 40), points(case, 40, seed=1)
    p, q = f.prox(x), f.prox(y)
    axes = tuple(range(1, x.ndim))
    assert np.all(np.sum((p - q) ** 2, axes) <= np.sum((p - q) * (x - y), axes) + 1e-10)


@pytest.mark.parametrize("case", [c for c in CASES if c.bounded and not c.iterative], ids=lambda case: case.name)
def test_support_function(case):
    """sup over C of <y, x> is attained at the limit of the projections of t y."""
    f, y = case.operator, inputs(case, 8, seed=3)
    far = f.prox(1e8 * y)
    close(f.conjugate_value(y), np.sum(y * far, axis=tuple(range(1, y.ndim))), 1e-6)


@pytest.mark.parametrize("case", [c for c in CASES if c.constraints and not c.bounded], ids=lambda case: case.name)
def test_support_function_of_unbounded_sets(case):
    f, x = case.operator, inputs(case, 5)
    normals = x - f.prox(x)  # in the normal cone at the projection, which attains the supremum
    axes = tuple(range(1, x.ndim))
    close(f.conjugate_value(normals), np.sum(normals * f.prox(x), axis=axes), 1e-8)
    y = inputs(case, 20, seed=4)
    value = f.conjugate_value(y)
    assert np.any(value == np.inf) and np.all(value >= np.sum(y * f.prox(inputs(case, 20)), axis=axes) - 1e-9)


@compiled
def test_libraries_agree(case):
    f, x = case.operator, points(case, 6).reshape(2, 3, *case.shape)
    before, y = x.copy(), f.prox(x)
    assert np.array_equal(x, before) and y.dtype == x.dtype and y.shape == x.shape
    assert f(x).shape == (2, 3)
    t = torch.tensor(x)
    close(f.prox(t), y, 1e-12)
    close(jax.jit(jax.vmap(f.prox))(jnp.asarray(x)), y, 1e-12)
    close(torch.vmap(f.prox)(t), y, 1e-12)
    close(f(torch.tensor(y)), np.zeros((2, 3)), 0)
    for i, j in itertools.product(range(2), range(3)):
        close(f.prox(x[i, j]), y[i, j], 1e-12)
    single = x.astype(np.float32)
    for array in (single, torch.tensor(single)):
        found = f.prox(array)
        assert found.dtype == array.dtype
        close(found, y, 2e-5)
        assert np.all(np.asarray(f(found)) == 0)
    close(pickle.loads(pickle.dumps(f)).prox(x), y, 0)
    assert f.prox(x[:0]).shape == (0, 3, *case.shape)


@every
def test_derivatives(case):
    """At ordinary points: both modes, to the point and to the parameters, against finite differences."""
    x = torch.tensor(points(case, 2, seed=5), requires_grad=True)
    parameters = [torch.tensor(p, dtype=torch.float64, requires_grad=True) for p in case.parameters]

    def project(x, *parameters):
        return case.make(*parameters).prox(x)

    assert torch.autograd.gradcheck(project, (x, *parameters), check_forward_ad=True, atol=1e-6)


def special_points(case: Case) -> np.ndarray:
    """Zero, ties, points of the set and of its boundary."""
    ones = np.ones((1, *case.shape))
    return np.concatenate([0 * ones, ones, case.operator.prox(inputs(case, 2)), -ones])


@every
def test_derivatives_at_special_points(case):
    """Finite, and between 0 and I where the set is convex."""
    for point in torch.tensor(special_points(case)):
        J = torch.autograd.functional.jacobian(case.operator.prox, point).reshape(point.numel(), -1)
        assert torch.isfinite(J).all()
        if case.constraints:
            close(J, J.T, 1e-9)
            lam = torch.linalg.eigvalsh((J + J.T) / 2)
            assert lam.min() > -1e-9 and lam.max() < 1 + 1e-9


@compiled
def test_derivatives_agree(case):
    """PyTorch and JAX have the same gradients at ordinary points, and finite ones elsewhere."""
    special = special_points(case)
    x = np.concatenate([special, points(case, 3, seed=5)])
    weights = np.random.default_rng(6).standard_normal(x.shape)

    def loss(x, *parameters):
        return (case.make(*parameters).prox(x) * weights_like).sum()

    weights_like = jnp.asarray(weights)
    numbers = tuple(range(1 + len(case.parameters)))
    gradient = jax.jit(jax.grad(loss, argnums=numbers))
    theirs = gradient(*(jnp.asarray(v, dtype=float) for v in (x, *case.parameters)))
    assert all(np.isfinite(g).all() for g in theirs)
    # Once more with ordinary points only, for the parameters.
    x[: len(special)] = points(case, len(special), seed=7)
    theirs = gradient(*(jnp.asarray(v, dtype=float) for v in (x, *case.parameters)))
    weights_like = torch.tensor(weights)
    arguments = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (x, *case.parameters)]
    for ours, their in zip(torch.autograd.grad(loss(*arguments), arguments), theirs, strict=True):
        close(ours, their, 1e-9)


@pytest.mark.parametrize("case", [c for c in CASES if c.complex], ids=lambda case: case.name)
def test_complex(case):
    """A complex point is a point of twice as many real entries: distance, idempotence, and derivatives say so."""
    rng = np.random.default_rng(7)
    x = points(case, 5, seed=8) + 1j * rng.standard_normal((5, *case.shape))
    if is_symmetric(case):
        x = (x + x.conj().swapaxes(-1, -2)) / 2
    f = case.operator
    y = f.prox(x)
    assert y.dtype == x.dtype and np.all(f(y) == 0)
    close(f.prox(torch.tensor(x)), y, 1e-12)
    close(jax.jit(f.prox)(jnp.asarray(x)), y, 1e-12)
    axes = tuple(range(1, x.ndim))
    if case.constraints:  # the variational inequality, against other points of the set
        z = f.prox(x[::-1] + 0.3)
        assert np.all(np.sum(((x - y).conj() * (z - y)).real, axes) <= 1e-9)
    t = torch.tensor(x[:2], requires_grad=True)
    assert torch.autograd.gradcheck(f.prox, (t,), atol=1e-6)
    zero = torch.zeros(case.shape, dtype=torch.complex128, requires_grad=True)
    assert torch.isfinite(torch.view_as_real(torch.autograd.grad(f.prox(zero).abs().sum(), zero)[0])).all()


@pytest.mark.parametrize("case", [c for c in CASES if c.iterative], ids=lambda case: case.name)
def test_certificate(case):
    """The gap and the violation are at rounding level, and bound the error of a point that is not the projection."""
    x = points(case, 20)
    for library in (np.asarray, torch.tensor):
        y, info = case.operator.project(library(x), return_info=True)
        assert info.gap.shape == info.violation.shape == (20,)
        assert np.all(np.asarray(info.gap) < 1e-10) and np.all(np.asarray(info.violation) < 1e-13)
        assert 1 <= np.max(np.asarray(info.iterations)) < 40
    close(y, case.operator.project(x), 1e-10)


def test_polyhedron_at_degenerate_faces():
    """Redundant rows, a vertex of too many facets, a slab of no thickness, a row of zeros."""
    square = np.concatenate([np.eye(2), -np.eye(2)])
    more = np.concatenate([square, square, [[1.0, 1.0], [0.0, 0.0]]])
    x = np.array([[3.0, 2.0], [3.0, -0.5], [0.1, 0.2], [1.0, 1.0], [-4.0, 1.0]])
    clipped = np.clip(x, -1, 1)
    close(Polyhedron(square, np.ones(4)).project(x), clipped, 1e-9)
    close(Polyhedron(more, np.array([1.0] * 8 + [2.0, 0.0])).project(x), clipped, 1e-9)
    flat = Polyhedron(np.array([[1.0, 1.0], [-1.0, -1.0]]), np.array([1.0, -1.0]))
    close(flat.project(x), Hyperplane(np.ones(2), 1.0).project(x), 1e-7)
    J = torch.autograd.functional.jacobian(
        Polyhedron(more, np.array([1.0] * 8 + [2.0, 0.0])).project, torch.tensor([3.0, 2.0], dtype=torch.float64)
    )
    close(J, np.zeros((2, 2)), 1e-9)


def test_a_set_per_sample():
    rng = np.random.default_rng(20)
    x = rng.standard_normal((3, 4))
    G, h, A = rng.standard_normal((3, 5, 4)), rng.uniform(0, 1, (3, 5)), rng.standard_normal((3, 1, 4))
    found, one = Polyhedron(G, h, A, np.zeros((3, 1))).project(x), Polyhedron(G, h).project(x[0])
    sums = rng.uniform(0.5, 1, (3, 2))
    plans, plan = TransportPolytope(sums, sums).project(x.reshape(3, 2, 2)), TransportPolytope(sums, sums)
    for i in range(3):
        close(found[i], Polyhedron(G[i], h[i], A[i], np.zeros(1)).project(x[i]), 1e-9)
        close(one[i], Polyhedron(G[i], h[i]).project(x[0]), 1e-9)
        close(plans[i], TransportPolytope(sums[i], sums[i]).project(x[i].reshape(2, 2)), 1e-12)
        close(plan.project(np.eye(2))[i], TransportPolytope(sums[i], sums[i]).project(np.eye(2)), 1e-12)


def test_cones_of_the_conic_layers():
    """Indicator of a cone is the cone's own projection, whichever way the vector lies."""
    u = np.random.default_rng(21).standard_normal((2, 6, 3))
    cones = [RotatedSecondOrder(3), SecondOrder(3), PositiveSemidefinite(2), Exponential(), Power(0.3), Nonnegative(3)]
    for cone in [*cones, *(cone.dual() for cone in cones)]:
        close(Indicator(cone).project(u), cone.project(u), 0)
        close(Indicator(cone, dim=0).project(np.moveaxis(u, -1, 0)), np.moveaxis(cone.project(u), -1, 0), 0)
        assert np.all(Indicator(cone)(cone.project(u)) == 0)


def test_empty_sets_are_not_a_number():
    f = Polyhedron(np.array([[1.0, 0.0], [-1.0, 0.0]]), np.array([-1.0, -1.0]))
    y, info = f.project(np.zeros(2), return_info=True)
    assert np.isnan(y).all() and info.violation > 0.1


def test_transport_plans_of_all_scales():
    rng = np.random.default_rng(18)
    rows, columns = rng.uniform(0.1, 1, 6), rng.uniform(0.1, 1, 8)
    rows, columns = rows / rows.sum(), columns / columns.sum()
    rows[0], rows[1] = 0, rows[0] + rows[1]
    f = TransportPolytope(rows, columns)
    plan = np.outer(rows, columns)
    for scale in (1e-3, 1.0, 100.0):
        x = scale * rng.standard_normal((3, 6, 8))
        y = f.project(x)
        assert np.all(f(y) == 0) and np.all(np.abs(y[:, 0]) < 1e-12)
        # Nearer than any other plan: the variational inequality, at the vertices that a greedy filling finds.
        for order in (1, -1):
            left, right, vertex = rows.copy(), columns.copy(), np.zeros_like(plan)
            for i, j in itertools.product(range(6), range(8)[::order]):
                vertex[i, j] = min(left[i], right[j])
                left[i] -= vertex[i, j]
                right[j] -= vertex[i, j]
            assert np.all(np.sum((x - y) * (vertex - y), axis=(1, 2)) <= 1e-9 * scale)


def test_doubly_stochastic_matrices():
    x = np.random.default_rng(19).standard_normal((4, 5, 5)) * np.array([0.1, 1, 10, 100])[:, None, None]
    y, info = Birkhoff().project(x, return_info=True)
    close(y, TransportPolytope(np.ones(5), np.ones(5)).project(x))
    close(y.sum(-1), np.ones((4, 5)))
    close(y.sum(-2), np.ones((4, 5)))
    assert y.min() >= 0 and np.all(info.violation < 1e-13)
    best = max(itertools.permutations(range(5)), key=lambda p: x[3][np.arange(5), p].sum())
    far = Birkhoff().project(1e4 * x[3])
    close(far, np.eye(5)[list(best)], 1e-7)


def test_nonconvex_sets_by_search():
    """No point of a fine cover of the set is nearer than the projection."""
    rng = np.random.default_rng(9)
    x = rng.standard_normal((6, 3)) * rng.uniform(0.2, 3, (6, 1))
    sphere = rng.standard_normal((200_000, 3))
    cover = {
        L2Sphere(1.3): 1.3 * sphere / np.linalg.norm(sphere, axis=-1, keepdims=True),
        L1Sphere(1.3): 1.3 * sphere / np.abs(sphere).sum(axis=-1, keepdims=True),
    }
    positive = np.abs(sphere)
    positive[np.arange(len(sphere)), rng.integers(0, 3, len(sphere))] = 0
    cover[SparseSimplex(2, 1.3)] = 1.3 * positive / positive.sum(axis=-1, keepdims=True)
    for f, members in cover.items():
        for point, found in zip(x, f.project(x), strict=True):
            nearest = np.min(np.sum((members - point) ** 2, axis=-1))
            reached = np.sum((found - point) ** 2)
            assert reached <= nearest + 1e-12
            assert nearest <= reached + 0.05


def test_few_entries_by_enumeration():
    x = np.random.default_rng(10).standard_normal((5, 5))
    found = L0Ball(2).project(x)
    for row, kept in zip(x, found, strict=True):
        choices = [np.where(np.isin(np.arange(5), pair), row, 0) for pair in itertools.combinations(range(5), 2)]
        assert np.sum((kept - row) ** 2) == min(np.sum((c - row) ** 2) for c in choices)
    X = x[None, :, :2]
    kept = GroupL0Ball(2).project(X)[0]
    choices = [np.where(np.isin(np.arange(5), pair)[:, None], X[0], 0) for pair in itertools.combinations(range(5), 2)]
    assert np.sum((kept - X[0]) ** 2) == min(np.sum((c - X[0]) ** 2) for c in choices)


@pytest.mark.parametrize("f", [L0Ball(0), L0Ball(2), L0Ball(9), RankBall(0), RankBall(9)], ids=repr)
def test_counts_at_the_ends(f):
    x = np.random.default_rng(11).standard_normal((3, 4, 5))
    y = f.project(x)
    count = f.count
    if count == 0:
        assert not y.any()
    elif count == 9:
        close(y, x)
    else:
        assert np.all((y != 0).sum(-1) == 2)


def test_ties_keep_the_first():
    assert np.array_equal(L0Ball(2).project(np.array([1.0, -1.0, 1.0])), [1, -1, 0])
    assert np.array_equal(SparseSimplex(1).project(np.array([2.0, 2.0])), [1, 0])


@pytest.mark.parametrize(
    "library",
    [np.asarray, torch.tensor, pytest.param(jnp.asarray, marks=pytest.mark.slow)],
    ids=["numpy", "torch", "jax"],
)
def test_parameters_per_sample(library):
    x = np.random.default_rng(12).standard_normal((3, 2, 4))
    radius = np.array([[0.5, 1.0], [2.0, 0.3], [0.0, 10.0]])
    for make in (L1Ball, L2Ball):
        found = make(library(radius)).project(library(x))
        for i, j in itertools.product(range(3), range(2)):
            close(found[i, j], make(radius[i, j]).project(x[i, j]), 1e-12)
    counts = L0Ball(library(np.array([[1], [2], [4]]))).project(library(x))
    assert np.array_equal((np.asarray(counts) != 0).sum(-1), [[1, 1], [2, 2], [4, 4]])
    found = NuclearBall(library(radius[:, 0])).project(library(x))
    for i in range(3):
        close(found[i], NuclearBall(radius[i, 0]).project(x[i]), 1e-12)


def test_dim():
    x = np.random.default_rng(13).standard_normal((3, 4, 5))
    f = L1Ball(1.0)
    close(L1Ball(1.0, dim=0).project(x), np.moveaxis(f.project(np.moveaxis(x, 0, -1)), -1, 0), 0)
    close(
        L1Ball(1.0, dim=(0, 2)).project(x),
        f.project(x.transpose(1, 0, 2).reshape(4, 15)).reshape(4, 3, 5).transpose(1, 0, 2),
    )
    weights = np.random.default_rng(14).uniform(0.5, 2, (3, 1, 5))
    flat = L1Ball(1.0, entry_weights=weights.reshape(15)).project(x.transpose(1, 0, 2).reshape(4, 15))
    close(L1Ball(1.0, entry_weights=weights, dim=(0, 2)).project(x), flat.reshape(4, 3, 5).transpose(1, 0, 2))
    close(Simplex(dim="all").project(x).sum(), 1.0)
    X = NuclearBall(1.0, dim=(0, 1)).project(x)
    close(X[:, :, 2], NuclearBall(1.0).project(x[:, :, 2]))


def test_large_common_part_costs_no_accuracy():
    x = np.random.default_rng(15).standard_normal(50)
    close(Simplex().project(x + 1e8), Simplex().project(x), 1e-7)
    close(np.sum(Simplex().project(x + 1e12)), 1.0, 1e-12)


def test_threshold_is_exact_on_hard_rows():
    """Geometric entries, which cost Newton's method the most steps, against the sorted formula."""
    for ratio in (0.5, 0.9, 0.999):
        x = ratio ** np.arange(300.0)
        cumulative = np.cumsum(x)
        for radius in (1e-12, 1e-3, 1.0, 100.0):
            k = np.max(np.nonzero(x * np.arange(1, 301) > cumulative - radius)[0]) + 1
            expected = np.maximum(x - (cumulative[k - 1] - radius) / k, 0)
            for array in (x, np.stack([x, x]), torch.tensor(np.stack([x, x])), jnp.asarray(x)):
                close(np.atleast_2d(np.asarray(Simplex(radius).project(array)))[0], expected, 1e-12)


def test_compiled_and_plain_projections_agree(monkeypatch):
    """The kernel, and what runs without Numba, on short and long rows, inside and outside of the ball, in float32."""
    from cvxlayers.compiled import compiler

    rng = np.random.default_rng(22)
    for shape in ((3, 7), (2, 5000), (0, 4), (1,)):
        x = 1e3 * rng.standard_normal(shape)
        for radius in (0.0, 1.0, 1e5, 1e8):
            for f in (Simplex(radius), L1Ball(radius)):
                monkeypatch.undo()
                compiled = f.project(x)
                monkeypatch.setattr(compiler, "is_available", lambda: False)
                close(f.project(x), compiled, 1e-9)
                close(f.project(torch.tensor(x)), compiled, 1e-9)
                close(f.project(x.astype(np.float32)), compiled, 1e-3 * max(1, radius / 1e3))
                assert x.size == 0 or np.all(f(compiled) == 0)


def test_second_derivative_is_zero_on_a_face():
    x = torch.tensor([0.3, 1.0, -2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(Simplex().project, (x,))


def test_affine_set_of_any_rank():
    rng = np.random.default_rng(16)
    A = rng.standard_normal((2, 5))
    A = np.concatenate([A, A.sum(0, keepdims=True)])
    b = A @ rng.standard_normal(5)
    x = rng.standard_normal((4, 5))
    whole = AffineSet(A[:2], b[:2]).project(x)
    close(AffineSet(A, b).project(x), whole)
    close(AffineSet(A, b).factor().project(x), whole)
    close(AffineSet(torch.tensor(A), torch.tensor(b)).factor().project(torch.tensor(x)), whole)
    batch = AffineSet(np.stack([A[:2]] * 4), np.stack([b[:2]] * 4))
    close(batch.project(x), whole)
    close(batch.factor().project(x), whole)


def test_not_a_number_stays_in_its_row():
    x = np.random.default_rng(17).standard_normal((3, 4, 4))
    bad = x.copy()
    bad[1, 2, 2] = np.nan
    for f in (
        Simplex(dim=(-2, -1)),
        L1Ball(dim=(-2, -1)),
        CappedSimplex(dim=(-2, -1)),
        NuclearBall(),
        L2Ball(dim=(1, 2)),
    ):
        for library in (np.asarray, torch.tensor):
            found = np.asarray(f.project(library(bad)))
            close(found[[0, 2]], f.project(x)[[0, 2]], 1e-12)
            assert not np.isfinite(found[1]).all() or not f(bad)[1] == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L1Ball(-1.0), "radius of L1Ball"),
        (lambda: L1Ball(1.0, entry_weights=[-1.0, 2.0]), "entry_weights of L1Ball"),
        (lambda: L1Ball(float("nan")), "radius of L1Ball"),
        (lambda: L2Ball(np.array([1.0, -2.0])), "radius of L2Ball"),
        (lambda: LInfinityBall(-1), "radius of LInfinityBall"),
        (lambda: L1Sphere(-1), "radius of L1Sphere"),
        (lambda: L2Sphere(-1), "radius of L2Sphere"),
        (lambda: Simplex(-1), "radius of Simplex"),
        (lambda: CappedSimplex(1.0, -1.0), "cap of CappedSimplex"),
        (lambda: CappedSimplex(3.0, 0.5).project(np.zeros(4)), "radius of CappedSimplex"),
        (lambda: SparseSimplex(0), "count of SparseSimplex"),
        (lambda: L0Ball(-1), "count of L0Ball"),
        (lambda: L0Ball(1.5), "count of L0Ball"),
        (lambda: GroupL0Ball(-1), "count of GroupL0Ball"),
        (lambda: RankBall(0.5), "count of RankBall"),
        (lambda: NuclearBall(-2.0), "radius of NuclearBall"),
        (lambda: Box(1.0, 0.0), "lower of Box"),
        (lambda: Box(np.zeros(3), np.array([1.0, -1.0, 1.0])), "lower of Box"),
        (lambda: Slab(np.ones(2), 1.0, 0.0), "lower of Slab"),
        (lambda: NormEpigraph("l3"), "norm of NormEpigraph"),
        (lambda: TransportPolytope(np.ones(2), np.ones(3)), "rows and columns of TransportPolytope"),
        (lambda: TransportPolytope(-np.ones(2), -np.ones(2)), "rows of TransportPolytope"),
        (lambda: Orthant(2.0), "sign of Orthant"),
        (lambda: Hyperplane(np.zeros(3)), "normal of Hyperplane"),
        (lambda: Halfspace(np.zeros(3)), "normal of Halfspace"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(SettingsError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L1Ball(np.ones(3)).project(np.zeros((2, 4))), "radius of L1Ball"),
        (lambda: L1Ball(dim=3).project(np.zeros((2, 4))), "dim 3"),
        (lambda: Simplex().project(np.zeros(3, dtype=int)), "floating-point"),
        (lambda: Simplex().project(np.zeros(3, dtype=complex)), "real floating-point"),
        (lambda: Box(np.zeros(3)).project(np.zeros(4)), "lower of Box"),
        (lambda: Hyperplane(np.ones(3)).project(np.zeros(4)), "normal of Hyperplane"),
        (lambda: AffineSet(np.ones((2, 3)), np.ones(3)), "A and b of AffineSet"),
        (lambda: AffineSet(np.ones((2, 3)), np.ones(2)).project(np.zeros(4)), "A of AffineSet"),
        (lambda: NuclearBall().project(np.zeros(4)), "dim"),
        (lambda: Polyhedron(np.ones((2, 3)), np.ones(3)), "G and h of Polyhedron"),
        (lambda: Polyhedron(np.ones((2, 3)), np.ones(2), np.ones((1, 3))), "A and b of Polyhedron"),
        (lambda: Polyhedron(np.ones((2, 3)), np.ones(2)).project(np.ones(4)), "G of Polyhedron"),
        (lambda: Birkhoff().project(np.ones((2, 3))), "square"),
        (lambda: TransportPolytope(np.ones(2), np.ones(2)).project(np.ones((2, 3))), "columns of TransportPolytope"),
        (lambda: Eigenvalues(Simplex()).prox(np.ones((2, 3))), "square"),
    ],
)
def test_bad_shapes(make, message):
    with pytest.raises(ShapeError, match=message):
        make()


def test_pytree():
    """JAX differentiates through an operator that is an argument; PyTorch trains its parameter."""
    f = L1Ball(jnp.asarray(0.7))
    x = jnp.asarray(WEIGHTS)
    found = jax.jit(jax.grad(lambda f: jnp.sum(f.project(x) * x)))(f)
    assert isinstance(found, L1Ball)
    radius = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
    t = torch.tensor(WEIGHTS)
    (L1Ball(radius).project(t) * t).sum().backward()
    close(found.radius, radius.grad, 1e-12)
