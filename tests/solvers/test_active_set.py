"""The compiled active-set method against brute force, Clarabel and the definitions, on easy and on nasty programs."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cvxlayers.conic.program import ConicSolution, DenseData
from cvxlayers.errors import SettingsError
from cvxlayers.sets import Nonnegative, Zero
from cvxlayers.solvers.active_set import ActiveSet
from cvxlayers.solvers.choice import choose
from cvxlayers.solvers.clarabel import Clarabel
from cvxlayers.solvers.daqp import DAQP
from cvxlayers.status import Status
from tests.solvers.problems import dense_program


def program(n: int, m: int, equalities: int = 0):
    return dense_program((Zero(equalities), Nonnegative(m - equalities)), n)


def data_of(P, q, A, b) -> DenseData:
    q = np.atleast_2d(q)
    return DenseData(len(q), np.asarray(P, float), q, np.asarray(A, float), np.asarray(b, float), np.zeros(()))


def solve(P, q, A, b, equalities: int = 0, **settings) -> ConicSolution:
    data = data_of(P, q, A, b)
    m, n = data.A.shape[-2:]
    return ActiveSet(**settings).prepare(program(n, m, equalities)).solve(data)


def random(batch: int, n: int, m: int, equalities: int = 0, seed: int = 0, spread: float = 0.5):
    """Feasible programs; a small ``spread`` of the slacks makes many rows active."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((batch, n, n))
    P = root @ root.swapaxes(1, 2) + 0.1 * np.eye(n)
    A = rng.standard_normal((batch, m, n))
    slack = spread * rng.random((batch, m))
    slack[:, :equalities] = 0.0
    b = (A @ rng.standard_normal((batch, n, 1)))[..., 0] + slack
    return P, 3.0 * rng.standard_normal((batch, n)), A, b


def brute_force(P, q, A, b, equalities: int = 0) -> tuple[float, np.ndarray]:
    """The best feasible point among the minimizers on every set of rows taken as equalities."""
    m, n = A.shape
    best, point = np.inf, np.full(n, np.nan)
    for size in range(n - equalities + 1):
        for extra in itertools.combinations(range(equalities, m), size):
            W = A[[*range(equalities), *extra]]
            k = len(W)
            K = np.block([[P, W.T], [W, np.zeros((k, k))]])
            x = np.linalg.lstsq(K, np.concatenate((-q, b[[*range(equalities), *extra]])))[0][:n]
            slack = b - A @ x
            if slack.min(initial=0.0) > -1e-9 and np.abs(slack[:equalities]).max(initial=0.0) < 1e-9:
                value = 0.5 * x @ P @ x + q @ x
                if value < best:
                    best, point = value, x
    return best, point


def check_optimal(P, q, A, b, equalities: int, solution: ConicSolution, tol: float = 1e-11) -> None:
    """The optimality conditions, by their definition, relative to the size of their terms."""
    x, z, s = solution.x, solution.z, solution.s
    assert (solution.status == Status.SOLVED).all()
    terms = (P @ x[..., None])[..., 0], np.broadcast_to(q, x.shape), (A.swapaxes(-1, -2) @ z[..., None])[..., 0]
    scale = 1.0 + max(np.abs(t).max(initial=0.0) for t in terms)
    assert np.abs(terms[0] + terms[1] + terms[2]).max(initial=0.0) <= tol * scale
    Ax = (A @ x[..., None])[..., 0]
    scale = 1.0 + np.abs(np.broadcast_to(b, Ax.shape)) + (np.abs(A) @ np.abs(x[..., None]))[..., 0]
    assert (np.abs(Ax + s - b) <= tol * scale).all()
    assert (s[:, :equalities] == 0.0).all()
    assert (s >= 0.0).all()
    assert (z[:, equalities:] >= 0.0).all()
    assert (s * z == 0.0).all()


@pytest.mark.parametrize(("n", "m", "equalities"), [(1, 1, 0), (1, 4, 0), (2, 6, 0), (3, 6, 0), (3, 6, 1), (3, 5, 3)])
def test_agrees_with_brute_force(n, m, equalities):
    P, q, A, b = random(20, n, m, equalities, seed=n + m)
    solution = solve(P, q, A, b, equalities)
    check_optimal(P, q, A, b, equalities, solution)
    for i in range(20):
        value, x = brute_force(P[i], q[i], A[i], b[i], equalities)
        assert 0.5 * solution.x[i] @ P[i] @ solution.x[i] + q[i] @ solution.x[i] == pytest.approx(value, abs=1e-8)
        np.testing.assert_allclose(solution.x[i], x, atol=1e-7)


@pytest.mark.parametrize(
    ("n", "m", "equalities", "spread"),
    [(8, 20, 3, 0.1), (12, 40, 0, 0.01), (20, 20, 5, 1.0), (33, 70, 10, 0.1), (60, 40, 8, 0.5), (70, 150, 0, 0.01)],
)
def test_agrees_with_clarabel(n, m, equalities, spread):
    P, q, A, b = random(6, n, m, equalities, seed=n, spread=spread)
    solution = solve(P, q, A, b, equalities)
    check_optimal(P, q, A, b, equalities, solution)
    other = Clarabel(tol=1e-10).prepare(program(n, m, equalities)).solve(data_of(P, q, A, b))
    values = [0.5 * np.vecdot(x, (P @ x[..., None])[..., 0]) + np.vecdot(q, x) for x in (solution.x, other.x)]
    np.testing.assert_allclose(*values, rtol=1e-8)
    np.testing.assert_allclose(solution.x, other.x, atol=1e-4)  # as near as an interior point comes


def test_agrees_with_daqp_on_many_small_programs():
    P, q, A, b = random(300, 6, 15, 2, seed=5, spread=0.05)
    solution = solve(P, q, A, b, 2)
    check_optimal(P, q, A, b, 2, solution)
    other = DAQP().prepare(program(6, 15, 2)).solve(data_of(P, q, A, b))
    np.testing.assert_allclose(solution.x, other.x, atol=1e-7)
    np.testing.assert_allclose(solution.z, other.z, atol=1e-5, rtol=1e-5)


def test_no_row_is_active():
    P, q, A, b = random(3, 4, 6, seed=1)
    b = b + 1e3
    solution = solve(P, q, A, b)
    np.testing.assert_allclose(solution.x, -np.linalg.solve(P, q[..., None])[..., 0])
    assert (solution.iterations == 0).all()
    assert (solution.z == 0.0).all()


def test_redundant_rows():
    """Duplicates, multiples, rows implied by others, and rows of zeros."""
    P, q, A, b = random(10, 5, 8, 2, seed=3, spread=0.05)
    combined = 0.5 * (A[:, :1] + A[:, 2:3])
    more = np.concatenate((A, A[:, 2:5], 3.0 * A[:, 3:4], combined, np.zeros((10, 1, 5))), axis=1)
    values = np.concatenate(
        (b, b[:, 2:5], 3.0 * b[:, 3:4], 0.5 * (b[:, :1] + b[:, 2:3]), np.full((10, 1), 0.25)), axis=1
    )
    solution = solve(P, q, more, values, 2)
    check_optimal(P, q, more, values, 2, solution)
    np.testing.assert_allclose(solution.x, solve(P, q, A, b, 2).x, atol=1e-9)
    # equalities that follow from each other
    more = np.concatenate((A[:, :2], A[:, :1] - 2.0 * A[:, 1:2], A[:, :1], A[:, 2:]), axis=1)
    values = np.concatenate((b[:, :2], b[:, :1] - 2.0 * b[:, 1:2], b[:, :1], b[:, 2:]), axis=1)
    solution = solve(P, q, more, values, 4)
    check_optimal(P, q, more, values, 4, solution)
    np.testing.assert_allclose(solution.x, solve(P, q, A, b, 2).x, atol=1e-9)


def test_an_equality_as_two_inequalities():
    P, q, A, b = random(10, 4, 5, 2, seed=8)
    rows = np.concatenate((A, -A[:, :2]), axis=1)
    solution = solve(P, q, rows, np.concatenate((b, -b[:, :2]), axis=1))
    check_optimal(P, q, rows, np.concatenate((b, -b[:, :2]), axis=1), 0, solution)
    np.testing.assert_allclose(solution.x, solve(P, q, A, b, 2).x, atol=1e-9)


def test_degenerate_vertices():
    """Ten rows through the solution in three dimensions; and a row that the free minimizer lies on."""
    rng = np.random.default_rng(2)
    A = rng.standard_normal((50, 10, 3))
    corner = rng.standard_normal((50, 3))
    b = (A @ corner[..., None])[..., 0]
    pull = (A.swapaxes(1, 2) @ rng.random((50, 10, 1)))[..., 0]  # -gradient inside the cone of the rows
    q = -corner - pull
    P = np.broadcast_to(np.eye(3), (50, 3, 3))
    solution = solve(P, q, A, b)
    check_optimal(P, q, A, b, 0, solution)
    np.testing.assert_allclose(solution.x, corner, atol=1e-10)
    solution = solve(np.eye(2), np.array([[-1.0, -2.0]]), np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 3.0]]))
    np.testing.assert_array_equal(solution.x, [[1.0, 2.0]])
    np.testing.assert_array_equal(solution.s, [[0.0, 1.0]])
    np.testing.assert_array_equal(solution.z, [[0.0, 0.0]])


@pytest.mark.parametrize("equalities", [0, 2])
def test_infeasible(equalities):
    """z is a certificate: A'z = 0, b'z = -1, z >= 0 on inequalities."""
    P, q, A, b = random(10, 4, 9, equalities, seed=6)
    weights = np.random.default_rng(0).random(9) + 0.1
    A[:, -1] = -(weights[:-1] @ A[:, :-1]) / weights[-1]
    b[:, -1] = -(b[:, :-1] @ weights[:-1]) / weights[-1] - 0.1
    solution = solve(P, q, A, b, equalities)
    assert (solution.status == Status.INFEASIBLE).all()
    z = solution.z
    np.testing.assert_allclose((b * z).sum(-1), -1.0)
    assert np.abs((A.swapaxes(1, 2) @ z[..., None])[..., 0]).max() < 1e-10 * np.abs(z).max()
    assert (z[:, equalities:] >= 0.0).all()
    assert np.isnan(solution.x).all()


@pytest.mark.parametrize(
    ("A", "b", "equalities"),
    [
        ([[1.0], [-1.0]], [-1.0, 0.0], 0),
        ([[1.0], [1.0]], [1.0, 2.0], 2),
        ([[0.0]], [-1.0], 0),
        ([[0.0]], [2.0], 1),
        ([[1.0], [1.0]], [1.0, 0.0], 1),
        ([[1e6], [-1e-6]], [1e6, -3e-6], 0),
    ],
)
def test_rows_that_contradict_each_other(A, b, equalities):
    solution = solve(np.eye(1), np.ones((1, 1)), A, b, equalities)
    assert solution.status[0] == Status.INFEASIBLE
    assert np.dot(b, solution.z[0]) == pytest.approx(-1.0)
    assert np.abs(np.transpose(A) @ solution.z[0]).max() < 1e-12 * np.abs(solution.z).max()


def test_rows_that_contradict_each_other_by_rounding():
    A = np.array([[1.0, 2.0], [-1.0, -2.0], [3.0, 6.0]])
    b = np.array([1.0, -1.0 - 1e-15, 3.0])
    solution = solve(np.eye(2), np.array([[1.0, 0.0]]), A, b)
    assert solution.status[0] == Status.SOLVED
    assert solution.x[0] @ A[0] == pytest.approx(1.0, abs=1e-13)


@pytest.mark.parametrize("feasible", [True, False])
def test_ties_everywhere(feasible):
    """Small integers: parallel rows, rows of zeros, many rows through a vertex, often at the origin."""
    rng = np.random.default_rng(int(feasible))
    for n, m in ((1, 6), (2, 9), (3, 12), (5, 20)):
        A = rng.integers(-2, 3, (200, m, n)).astype(float)
        b = rng.integers(-1, 4, (200, m)).astype(float)
        if feasible:
            b = (A @ rng.integers(-1, 2, (200, n, 1)))[..., 0] + rng.integers(0, 2, (200, m))
        P, q = np.broadcast_to(np.eye(n), (200, n, n)), rng.integers(-3, 4, (200, n)).astype(float)
        solution = solve(P, q, A, b)
        solved = solution.status == Status.SOLVED
        assert (solved | (solution.status == Status.INFEASIBLE)).all()
        assert solved.all() == feasible
        check_optimal(P[solved], q[solved], A[solved], b[solved], 0, solution.take(solved))
        z, A, b = solution.z[~solved], A[~solved], b[~solved]
        np.testing.assert_allclose((b * z).sum(-1), -1.0)
        assert np.abs((A.swapaxes(1, 2) @ z[..., None])[..., 0]).max(initial=0.0) < 1e-12
        assert z.min(initial=0.0) >= 0.0


def test_every_program_ends_in_a_solution_or_a_certificate():
    """Rows and columns of any scale, nearly parallel after scaling, feasible or not."""
    rng = np.random.default_rng(1)
    for n, m in ((3, 8), (6, 14), (9, 20)):
        A = rng.standard_normal((100, m, n)) * 10.0 ** rng.uniform(-4, 4, (100, m, 1)) * 10.0 ** rng.uniform(-2, 2, n)
        b = rng.standard_normal((100, m)) * np.abs(A).max(-1)
        P, q, _, _ = random(100, n, m, seed=n)
        status = solve(P, q, A, b).status
        assert ((status == Status.SOLVED) | (status == Status.INFEASIBLE)).all()
        assert len(np.unique(status)) == 2


def test_no_rows():
    P, q, _, _ = random(3, 4, 1, seed=1)
    solution = solve(P, q, np.zeros((0, 4)), np.zeros(0))
    np.testing.assert_allclose(solution.x, -np.linalg.solve(P, q[..., None])[..., 0])


def test_bad_scales():
    """Rows scaled by 1e-6 to 1e6, and variables by 1e-3 to 1e3, have the scaled solution."""
    P, q, A, b = random(20, 6, 14, 2, seed=9, spread=0.1)
    plain = solve(P, q, A, b, 2)
    rng = np.random.default_rng(1)
    rows, columns = 10.0 ** rng.uniform(-6, 6, 14), 10.0 ** rng.uniform(-3, 3, 6)
    scaled = (P * columns * columns[:, None], q * columns, A * rows[:, None] * columns, b * rows)
    solution = solve(*scaled, 2)
    assert (solution.status == Status.SOLVED).all()
    np.testing.assert_allclose(solution.x * columns, plain.x, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(solution.z * rows, plain.z, rtol=1e-7, atol=1e-7)


def test_ill_conditioned():
    rng = np.random.default_rng(4)
    P, q, A, b = random(20, 10, 20, 2, seed=4, spread=0.1)
    basis = np.linalg.qr(rng.standard_normal((20, 10, 10)))[0]
    P = (basis * np.logspace(-9, 0, 10)) @ basis.swapaxes(1, 2)
    P = (P + P.swapaxes(1, 2)) / 2
    check_optimal(P, q, A, b, 2, solve(P, q, A, b, 2), tol=1e-10)
    # rows at tiny angles to each other
    A[:, 5:9] = A[:, 4:5] + 1e-6 * rng.standard_normal((20, 4, 10))
    P, q, _, _ = random(20, 10, 20, 2, seed=4)
    b = (A @ rng.standard_normal((20, 10, 1)))[..., 0] + 1e-7 * rng.random((20, 20))
    solution = solve(P, q, A, b, 2)
    check_optimal(P, q, A, b, 2, solution, tol=1e-9)


def test_singular_and_indefinite_matrices():
    P, q, A, b = random(3, 4, 12, seed=11)
    P[1] = 0.0
    box = np.concatenate((np.eye(4), -np.eye(4)))
    A[:, :8], b[:, :8] = box, 2.0
    b[:, 8:] += 20.0
    solution = solve(P, q, A, b)
    assert (solution.status == Status.SOLVED).all()
    np.testing.assert_allclose(solution.x[1], -2.0 * np.sign(q[1]), atol=1e-7)
    P[1] = -np.eye(4)
    assert solve(P, q, A, b).status.tolist()[::2] == [Status.SOLVED] * 2
    assert solve(P, q, A, b).status[1] != Status.SOLVED


@pytest.mark.parametrize(("n", "m"), [(5, 11), (40, 60)])
def test_the_same_bits_in_any_company(n, m):
    P, q, A, b = random(30, n, m, 2, seed=n)
    prepared = ActiveSet().prepare(program(n, m, 2))
    reference = prepared.solve(data_of(P, q, A, b), threads=1)
    bad = q.copy()
    bad[7] = np.nan
    order = np.random.default_rng(1).permutation(30)
    everyone = np.arange(30)
    others = np.delete(everyone, 7)
    for other, mine, theirs in (
        (prepared.solve(data_of(P, q, A, b), threads=2), everyone, everyone),
        (prepared.solve(data_of(P[order], q[order], A[order], b[order])), everyone, order),
        (prepared.solve(data_of(P[3:4], q[3:4], A[3:4], b[3:4])), np.arange(1), np.arange(3, 4)),
        (prepared.solve(data_of(P, bad, A, b)), others, others),
    ):
        for key in ("x", "z", "s", "iterations"):
            np.testing.assert_array_equal(getattr(other, key)[mine], getattr(reference, key)[theirs], err_msg=key)


def test_shared_matrices_give_the_same_bits():
    P, q, A, b = random(12, 7, 15, 3, seed=2)
    b = b[:1] + 0.1 * np.random.default_rng(0).random((12, 15))
    repeated = solve(np.repeat(P[:1], 12, 0), q, np.repeat(A[:1], 12, 0), b, 3)
    for shared in (solve(P[0], q, A[0], b, 3), solve(P[0], q, np.repeat(A[:1], 12, 0), b, 3)):
        for key in ("x", "z", "s", "status", "iterations"):
            np.testing.assert_array_equal(getattr(shared, key), getattr(repeated, key))


def test_iterations_are_limited():
    P, q, A, b = random(4, 10, 30, seed=3, spread=0.01)
    full = solve(P, q, A, b)
    assert full.iterations.min() > 2
    starved = solve(P, q, A, b, max_iter=2)
    assert (starved.status == Status.MAX_ITERATIONS).all()
    assert (starved.iterations == 2).all()


def test_warm_start():
    P, q, A, b = random(10, 10, 30, 2, seed=3, spread=0.01)
    prepared = ActiveSet().prepare(program(10, 30, 2))
    data = data_of(P, q, A, b)
    cold = prepared.solve(data)
    warm = prepared.solve(data, warm=cold)
    assert (warm.iterations == 0).all()
    np.testing.assert_allclose(warm.x, cold.x, atol=1e-10)
    wrong = ConicSolution(cold.x, np.ones_like(cold.z), np.zeros_like(cold.s), cold.status, cold.iterations)
    misled = prepared.solve(data, warm=wrong)
    check_optimal(P, q, A, b, 2, misled)
    np.testing.assert_allclose(misled.x, cold.x, atol=1e-9)


def test_data_of_any_layout():
    P, q, A, b = random(5, 4, 7, seed=1)
    reference = solve(P, q, A, b)
    turned = np.asfortranarray(P), np.asfortranarray(q), np.asfortranarray(A), np.asfortranarray(b)
    np.testing.assert_array_equal(solve(*turned).x, reference.x)
    for values in (P, q, A, b):
        values.flags.writeable = False
    np.testing.assert_array_equal(solve(P, q, A, b).x, reference.x)


def test_without_numba(monkeypatch):
    find = sys.modules["cvxlayers.solvers.solver"].find_spec
    monkeypatch.setattr("cvxlayers.solvers.solver.find_spec", lambda name: None if name == "numba" else find(name))
    assert not ActiveSet.is_available()
    with pytest.raises(SettingsError, match="pip install numba"):
        ActiveSet().prepare(program(3, 4))
    plan = choose(program(3, 4))
    assert plan.solver.name == "DAQP, then CLARABEL"
    assert "ACTIVE_SET  is not installed (pip install numba)" in str(plan)
    monkeypatch.setattr(
        "cvxlayers.solvers.solver.find_spec", lambda name: None if name in ("daqp", "numba") else find(name)
    )
    assert choose(program(3, 4)).solver == Clarabel()
    with pytest.raises(SettingsError, match="ACTIVE_SET is not installed"):
        choose(program(3, 4), solver="active_set")


def test_compiled_and_interpreted_kernels_give_the_same_bits(tmp_path):
    """Without Numba the kernels are Python, which rounds every operation as IEEE 754 has it."""
    P, q, A, b = random(3, 9, 12, 2, seed=1)
    np.savez(tmp_path / "data.npz", P=P, q=q, A=A, b=b)
    code = """
import sys
sys.modules["numba"] = None
import numpy as np
from cvxlayers.compiled.active_set import solve
d = np.load("data.npz")
x, z, s = np.empty((3, 9)), np.empty((3, 12)), np.empty((3, 12))
status, iterations = np.empty(3, dtype=np.int64), np.empty(3, dtype=np.int64)
start = np.zeros((0, 12), dtype=bool)
solve(d["P"], d["q"], d["A"], d["b"], 2, start, 100, 0, 3, x, z, s, status, iterations)
np.savez("solution.npz", x=x, z=z, s=s, iterations=iterations)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    interpreted, solution = np.load(tmp_path / "solution.npz"), solve(P, q, A, b, 2)
    for key in ("x", "z", "s", "iterations"):
        np.testing.assert_array_equal(getattr(solution, key), interpreted[key])
