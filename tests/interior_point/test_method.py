"""The native solver's array text, on NumPy, PyTorch and JAX: outcomes, proofs, and independence of the elements."""

from contextlib import contextmanager
from dataclasses import replace

import jax
import numpy as np
import pytest
import torch

from cvxlayers.array import leaves
from cvxlayers.sets import Exponential, Nonnegative, Product, SecondOrder, Zero
from cvxlayers.solvers.interior_point import Native, Outcome
from cvxlayers.solvers.interior_point.method import solve
from cvxlayers.status import Status
from tests.interior_point.libraries import LIBRARIES, polished, run
from tests.solvers.check_solver import check_optimal, check_solver
from tests.solvers.random_programs import (
    CONES,
    faces,
    families,
    infeasible,
    known,
    random_cone,
    scaled,
    strict,
    unbounded,
)

EVERYTHING, LINEAR = Product(CONES["everything"]), Product(CONES["linear"])
# JAX compiles for each cone and shape, which takes seconds.
KINDS = [("numpy", kind) for kind in CONES] + [("torch", kind) for kind in CONES if kind != "power"]
KINDS += [("jax", "everything"), pytest.param("torch", "power", marks=pytest.mark.slow)]
KINDS += [pytest.param("jax", kind, marks=pytest.mark.slow) for kind in CONES if kind != "everything"]


@pytest.mark.parametrize(("library", "kind"), KINDS)
def test_every_outcome_is_proved(library, kind):
    for programs in families(Product(CONES[kind]), 4, 3, seed=0):
        if library == "jax" and programs.name == "redundant rows":
            continue  # another cone, and another compilation
        check_solver(programs, run(library, programs.cone, programs.arrays))


@pytest.mark.parametrize("library", LIBRARIES)
def test_proofs_on_a_face(library):
    """The other entries of the ray only tend to zero, and nothing cancels them."""
    for programs in faces()[:: 5 if library == "jax" else 1]:
        check_solver(programs, run(library, programs.cone, programs.arrays))


@pytest.mark.parametrize("n", [1, 9])
def test_one_variable_and_many(n):
    for programs in families(EVERYTHING, n, 3, seed=1):
        check_solver(programs, run("numpy", programs.cone, programs.arrays))


def test_random_cones():
    rng = np.random.default_rng(2)
    for seed in range(8):
        cone, n = random_cone(rng), int(rng.integers(1, 8))
        for make in (strict, known, scaled, infeasible, unbounded):
            programs = make(cone, n, 3, seed)
            check_solver(programs, run("numpy", programs.cone, programs.arrays))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_many_random_problems(seed):
    rng = np.random.default_rng(seed)
    for _ in range(8):
        for programs in families(random_cone(rng), int(rng.integers(1, 12)), 6, int(rng.integers(1000))):
            check_solver(programs, run("numpy", programs.cone, programs.arrays))


@pytest.mark.parametrize("kind", ["linear", "second_order", "everything"])
def test_libraries_agree(kind):
    """To 1e-10 after Newton's method: the method itself ends where the residuals, not x, are small."""
    programs = strict(Product(CONES[kind]), 4, 3, seed=0)
    wanted = polished("numpy", programs.cone, programs.arrays)
    for library in ("torch", "jax") if kind == "everything" else ("torch",):
        found = polished(library, programs.cone, programs.arrays)
        np.testing.assert_array_equal(found.status, wanted.status)
        for name in ("x", "z", "s"):
            one, other = getattr(found, name), getattr(wanted, name)
            np.testing.assert_allclose(one, other, atol=1e-10 * max(1.0, np.abs(other).max()), err_msg=library)


@pytest.mark.parametrize("kind", ["linear", "second_order", "everything"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_batch_is_the_loop_over_its_elements(library, kind):
    programs = strict(Product(CONES[kind]), 4, 5, seed=3)
    batch = polished(library, programs.cone, programs.arrays)
    for i in range(5):
        one = polished(library, programs.cone, tuple(v[i] for v in programs.arrays))
        assert one.status.shape == () and one.residuals.shape == (3,)
        assert one.status == batch.status[i]
        for name in ("x", "z", "s"):
            np.testing.assert_allclose(getattr(one, name), getattr(batch, name)[i], rtol=1e-9, atol=1e-9)


def spoiled(programs, where: int) -> list[tuple]:
    """The data of a batch with one element spoiled, in every way."""
    n, m, out = programs.n, programs.cone.size, []
    for k, at in enumerate(((0, n - 1), (0,), (m - 1, 0), (m - 1,))):
        for value in (np.nan, np.inf, -np.inf):
            data = [v.copy() for v in programs.arrays]
            data[k][(where, *at)] = value
            out.append(tuple(data))
    for other in (infeasible, unbounded, scaled):
        theirs = other(programs.cone, n, 1, seed=5)
        data = [v.copy() for v in programs.arrays]
        for mine, of in zip(data, theirs.arrays, strict=True):
            mine[where] = of[0]
        out.append(tuple(data))
    return out


@pytest.mark.parametrize(("library", "kind"), [("numpy", "everything"), ("torch", "everything"), ("jax", "everything")])
def test_neighbours_leave_no_trace(library, kind):
    programs = strict(Product(CONES[kind]), 4, 3, seed=0)
    alone = run(library, programs.cone, programs.arrays)
    assert (alone.status == Status.SOLVED).all()
    for k, data in enumerate(spoiled(programs, where=1)):
        found = run(library, programs.cone, data)
        for name in Outcome._fields:
            one, other = getattr(found, name)[[0, 2]], getattr(alone, name)[[0, 2]]
            np.testing.assert_array_equal(one, other, err_msg=f"{name}, {k}")
        if k < 12:
            assert found.status[1] == Status.INVALID_INPUT
            assert np.isnan(found.x[1]).all() and np.isnan(found.z[1]).all() and np.isnan(found.s[1]).all()


def test_batch_dimensions_and_shared_data():
    programs = strict(EVERYTHING, 4, 6, seed=4)
    P, q, A, b = programs.arrays
    flat = run("numpy", EVERYTHING, (P[0], q, A[0], b))
    assert flat.x.shape == (6, 4)
    for data in (
        (P[0], q.reshape(2, 3, 4), A[0], b.reshape(2, 3, -1)),
        (P[:1], q.reshape(2, 3, 4), A[None, :1], b.reshape(2, 3, -1)),
        (np.broadcast_to(P[0], (2, 3, 4, 4)), q.reshape(2, 3, 4), A[0], b.reshape(2, 3, -1)),
    ):
        out = run("numpy", EVERYTHING, data)
        assert out.x.shape == (2, 3, 4) and out.s.shape == (2, 3, EVERYTHING.size)
        assert out.status.shape == out.iterations.shape == (2, 3) and out.residuals.shape == (2, 3, 3)
        np.testing.assert_array_equal(out.status.ravel(), flat.status)
        np.testing.assert_allclose(out.x.reshape(6, 4), flat.x, rtol=1e-9, atol=1e-9)
    # only the matrix differs from element to element
    one = run("numpy", EVERYTHING, (P[0], q[0], A, b[0]))
    assert one.x.shape == (6, 4) and one.status.shape == (6,)


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_empty_batch(library):
    n, m = 3, LINEAR.size
    data = np.zeros((0, n, n)), np.zeros((0, n)), np.zeros((0, m, n)), np.zeros((0, m))
    out = run(library, LINEAR, data)
    assert out.x.shape == (0, n) and out.z.shape == out.s.shape == (0, m)
    assert out.status.shape == out.iterations.shape == (0,) and out.residuals.shape == (0, 3)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_nothing_to_choose_or_to_satisfy(library):
    # no constraints: x = -P^-1 q
    P, q = np.array([[[2.0, 0.0], [0.0, 4.0]]]), np.array([[2.0, -8.0]])
    out = run(library, Product(()), (P, q, np.zeros((1, 0, 2)), np.zeros((1, 0))))
    np.testing.assert_allclose(out.x, [[-1.0, 2.0]], atol=1e-7)
    assert out.z.shape == out.s.shape == (1, 0) and out.status[0] == Status.SOLVED
    # no constraints, and a linear objective
    out = run(library, Product(()), (0 * P, q, np.zeros((1, 0, 2)), np.zeros((1, 0))))
    assert out.status[0] == Status.UNBOUNDED
    # no variables: s = b, if it is in the cone
    cone, b = Product((Zero(1), Nonnegative(2))), np.array([[0.0, 1.0, 2.0], [0.0, 1.0, -1.0], [1.0, 1.0, 1.0]])
    out = run(library, cone, (np.zeros((3, 0, 0)), np.zeros((3, 0)), np.zeros((3, 3, 0)), b))
    assert out.status.tolist() == [Status.SOLVED, Status.INFEASIBLE, Status.INFEASIBLE]
    np.testing.assert_allclose(out.s[0], b[0], atol=1e-7)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_absent_constraints(library):
    cone = Product((Nonnegative(3),))
    A, b = np.array([[-1.0, 0.0], [0.0, -1.0], [1.0, 1.0]]), np.array([[-1.0, -2.0, np.inf], [-1.0, -2.0, 1e20]])
    out = run(library, cone, (np.eye(2), np.ones(2), A, b))
    assert (out.status == Status.SOLVED).all()
    np.testing.assert_allclose(out.x, [[1.0, 2.0]] * 2, atol=1e-7)
    np.testing.assert_array_equal(out.z[:, 2], 0.0)
    np.testing.assert_array_equal(out.s[:, 2], 1e20)
    out = run(library, cone, (np.eye(2), np.ones(2), A, np.array([-1.0, -np.inf, 1.0])))
    assert out.status == Status.INVALID_INPUT


F32 = [("numpy", kind) for kind in CONES] + [("torch", "everything"), ("torch", "linear"), ("jax", "linear")]
F32 += [pytest.param("jax", "everything", marks=pytest.mark.slow)]


@pytest.mark.parametrize(("library", "kind"), F32)
def test_single_precision(library, kind):
    """float32 in, float32 out: residuals of 1e-4 on the rounded data, and the same outcomes."""
    cone = Product(CONES[kind])
    for programs in (strict(cone, 4, 4, seed=6), known(cone, 4, 4, seed=7)):
        P, q, A, b = (v.astype(np.float32).astype(float) for v in programs.arrays)
        programs = replace(programs, P=P, q=q, A=A, b=b, value=None)
        out = run(library, cone, programs.arrays, dtype=np.float32)
        for v in (out.x, out.z, out.s, out.residuals):
            assert v.dtype == np.float32
        wide = out._replace(**{name: getattr(out, name).astype(float) for name in "xzs"}, residuals=None)
        # The tolerance is 1e-5: up to ten times that is solved, up to a hundred times inaccurate.
        check_optimal(programs, wide, out.status == Status.SOLVED, 1e-4)
        check_optimal(programs, wide, out.status == Status.INACCURATE, 1e-3)
        assert (out.status <= Status.INACCURATE).all() and (out.status == Status.SOLVED).mean() >= 0.75
    programs = infeasible(cone, 4, 4, seed=8)
    assert (run(library, cone, programs.arrays, dtype=np.float32).status == Status.INFEASIBLE).all()
    programs = unbounded(cone, 4, 4, seed=9, quadratic=False)  # a null space of P would not survive the rounding
    assert (run(library, cone, programs.arrays, dtype=np.float32).status == Status.UNBOUNDED).all()


@pytest.mark.parametrize("kind", ["linear", "everything"])
@pytest.mark.parametrize("precision", ["mixed", "float32"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_precisions(library, precision, kind):
    """Data in float64: "mixed" reaches 1e-8, "float32" 1e-4; what comes back is float64."""
    programs = strict(Product(CONES[kind]), 4, 4, seed=10)
    out = run(library, programs.cone, programs.arrays, Native(precision=precision))
    assert out.x.dtype == out.residuals.dtype == np.float64
    assert (out.status <= Status.INACCURATE).all()
    check_optimal(
        programs, out._replace(residuals=None), np.ones(4, dtype=bool), 1e-7 if precision == "mixed" else 1e-4
    )
    if precision == "mixed":
        check_solver(programs, out)


def test_settings():
    programs = strict(EVERYTHING, 4, 4, seed=11)
    fine = run("numpy", EVERYTHING, programs.arrays)
    coarse = run("numpy", EVERYTHING, programs.arrays, Native(tol=1e-3))
    assert (coarse.iterations < fine.iterations).all() and (coarse.status == Status.SOLVED).all()
    assert (coarse.residuals <= 1e-2).all()
    cut = run("numpy", EVERYTHING, programs.arrays, Native(max_iter=2))
    assert (cut.status == Status.MAX_ITERATIONS).all() and (cut.iterations == 2).all()
    assert np.isnan(cut.x).all() and np.isnan(cut.z).all() and np.isnan(cut.s).all()


def test_inputs_stay_as_they_are():
    programs = strict(EVERYTHING, 4, 3, seed=12)
    before = [v.copy() for v in programs.arrays]
    run("numpy", EVERYTHING, programs.arrays)
    run("torch", EVERYTHING, programs.arrays)
    for was, now in zip(before, programs.arrays, strict=True):
        np.testing.assert_array_equal(was, now)


def test_vmap():
    """jax.vmap, over some of the arguments, is the batch."""
    cone = Product((Nonnegative(4),))
    P, q, A, b = strict(cone, 3, 3, seed=13).arrays
    wanted = run("numpy", cone, (P[0], q, A[0], b))
    shared = jax.numpy.asarray(P[0]), jax.numpy.asarray(A[0])
    out = jax.jit(jax.vmap(lambda q, b: solve(cone, shared[0], q, shared[1], b, Native())))(q, b)
    np.testing.assert_array_equal(out.status, wanted.status)
    np.testing.assert_array_equal(out.iterations, wanted.iterations)
    np.testing.assert_allclose(out.x, wanted.x, atol=1e-7)
    np.testing.assert_allclose(out.z, wanted.z, atol=1e-7)


def test_torch_tensors_that_need_a_gradient():
    """The outcome is a constant of the graph: the derivative is another function's."""
    programs = strict(LINEAR, 4, 2, seed=14)
    data = [torch.from_numpy(v).requires_grad_() for v in programs.arrays]
    out = solve(LINEAR, *data, Native())
    assert not any(v.requires_grad for v in out)


def test_counts_of_iterations_stay_low():
    """8 to 15 for quadratic programs, 10 to 20 with second-order and semidefinite cones, 15 to 30 with the others."""
    for kind, most in (("linear", 15), ("second_order", 20), ("semidefinite", 20), ("exponential", 30), ("power", 30)):
        programs = strict(Product(CONES[kind]), 4, 20, seed=15)
        assert run("numpy", programs.cone, programs.arrays).iterations.max() <= most


def test_a_large_exponential_problem_and_a_tall_one():
    for cone, n in (
        (Product((Nonnegative(10), *(Exponential(),) * 30)), 12),
        (Product((Zero(2), Nonnegative(200))), 5),
    ):
        programs = strict(cone, n, 2, seed=16)
        check_solver(programs, run("numpy", cone, programs.arrays))


def test_an_embedding_that_turns_late_is_not_given_up():
    """The sixth element has tau far below kappa for fourteen rounds, all of which bring complementarity down."""
    cone = Product((Zero(4), Nonnegative(150), SecondOrder(20), SecondOrder(20)))
    rng, batch, n = np.random.default_rng(2), 6, 240
    A, x = rng.standard_normal((batch, cone.size, n)) / np.sqrt(n), rng.standard_normal((batch, n))
    F = rng.standard_normal((batch, n // 2, n)) / np.sqrt(n)
    inside = np.concatenate([np.zeros(4), rng.uniform(0.1, 2.0, 150), *[np.r_[3.0, 0.3 * np.ones(19)]] * 2])
    b = np.einsum("bij,bj->bi", A, x) + inside * 10.0 ** rng.uniform(-3, 1, (batch, 1))
    P = np.einsum("bij,bik->bjk", F, F) + 1e-2 * np.eye(n)
    out = solve(cone, P[5:], rng.standard_normal((batch, n))[5:], A[5:], b[5:], Native())
    assert out.status[0] == Status.SOLVED and out.residuals.max() < 1e-7


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_weights_that_drown_the_objective(library):
    """Rows a'x <= b, -a'x <= -b - 1 of a quadratic program: H becomes so small that P is lost beside A'H^-1 A."""
    rng, batch, n, m = np.random.default_rng(1001), 150, 8, 14
    A, x = rng.normal(size=(batch, m, n)), rng.normal(size=(batch, n))
    s = np.where(rng.random((batch, m)) < 0.5, rng.exponential(size=(batch, m)), 0.0)
    z, R = np.where(s > 0, 0.0, rng.exponential(size=(batch, m))), rng.normal(size=(batch, n, 3))
    P, b = R @ R.mT, np.einsum("bij,bj->bi", A, x) + s
    q = -(np.einsum("bij,bj->bi", P, x) + np.einsum("bij,bi->bj", A, z))
    A[:, 1], b[:, 1] = -A[:, 0], -b[:, 0] - 1.0
    out = run(library, Product((Nonnegative(m),)), (P, q, A, b))
    assert (np.asarray(out.status) == Status.INFEASIBLE).all()


@pytest.mark.parametrize("library", LIBRARIES)
def test_rounds_that_go_in_circles(library):
    """Of 4,000 quadratic programs the one for which the predictor's centering was too much and too little in turn."""
    rng, batch, n, m = np.random.default_rng(0), 4000, 8, 14
    A, x, R = rng.normal(size=(batch, m, n)), rng.normal(size=(batch, n)), rng.normal(size=(batch, n, n))
    s = np.where(rng.random((batch, m)) < 0.5, rng.exponential(size=(batch, m)), 0.0)
    z = np.where(s > 0, 0.0, rng.exponential(size=(batch, m)))
    A, x, R, s, z = (v[4:5] for v in (A, x, R, s, z))
    P, b = R @ R.mT, 1e6 * (np.einsum("bij,bj->bi", A, x) + s)
    q = -1e6 * (np.einsum("bij,bj->bi", P, x) + np.einsum("bij,bi->bj", A, z))
    out = run(library, Product((Nonnegative(m),)), (P, q, A, b))
    assert out.status[0] == Status.SOLVED and out.iterations[0] <= 30


class Recorded:
    """A graph on the host: it goes on with the function that it was made of."""

    def __init__(self, body, count):
        self.body, self.count = body, count

    @contextmanager
    def session(self, constants, state):
        def replay():
            nonlocal state
            for _ in range(self.count):
                state = self.body(constants, state)
            return state

        yield replay

    def own(self, values):
        return values


@pytest.fixture
def kept(monkeypatch):
    """Graphs by key and shapes, as PyTorch on a GPU has them."""
    graphs = {}

    def recorded(key, body, count, constants, state):
        shapes = tuple(tuple(v.shape) for v in leaves((constants, state)))
        return graphs.setdefault((key, count, shapes), Recorded(body, count))

    monkeypatch.setattr("cvxlayers.array.torch.recorded", recorded)
    monkeypatch.setattr("cvxlayers.array.torch.prefers_products", lambda x: True)
    return graphs


def test_a_graph_of_another_goal(kept):
    """After "mixed", float64 goes on with a goal of its own: its graph is not that of float64 from the start."""
    rng = np.random.default_rng(0)
    cone = Product((Nonnegative(24),))
    P, A = 0.1 * np.eye(12)[None], rng.normal(size=(8, 24, 12))
    data = [torch.from_numpy(v) for v in (P, rng.normal(size=(8, 12)), A, rng.uniform(size=(8, 24)))]
    settings = Native(tol=1e-6)
    wanted = solve(cone, *data, settings)
    kept.clear()
    solve(cone, *data, replace(settings, precision="mixed"))
    assert kept
    for a, b in zip(solve(cone, *data, settings), wanted, strict=True):
        assert torch.equal(a, b)


def test_nothing_is_recorded_for_few(kept):
    """Where most elements have ended before the first round."""
    q = torch.full((8, 2), torch.nan, dtype=torch.float64)
    q[0] = 1.0
    eye = torch.eye(2, dtype=torch.float64)
    out = solve(Product((Nonnegative(2),)), eye, q, -eye, torch.zeros(2, dtype=torch.float64), Native())
    assert out.status[0] == Status.SOLVED and (out.status[1:] == Status.INVALID_INPUT).all()
    assert all(shapes[0][0] < 8 for _, _, shapes in kept)
