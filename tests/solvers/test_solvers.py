"""Every solver on every cone that it declares, against CVXPY and against each other."""

import numpy as np
import pytest

from cvxlayers.conic.program import ConeData, ConicSolution
from cvxlayers.sets import Exponential, Nonnegative, PositiveSemidefinite, Power, SecondOrder, Zero
from cvxlayers.solvers.registry import names, solver_class
from cvxlayers.status import Status
from tests.solvers import problems
from tests.solvers.problems import CONES, dense_program, empty, infeasible, objective, solvable, unbounded

SOLVERS = [name for name in names() if solver_class(name).is_available()]
SETTINGS = {"SCS": {"tol": 1e-9}, "OSQP": {"tol": 1e-9, "max_iter": 20000}}


def make(name: str, **settings):
    return solver_class(name)(**{**SETTINGS.get(name, {}), **settings})


def pairs() -> list:
    out = []
    for name in SOLVERS:
        capabilities = solver_class(name).capabilities
        for kind, blocks in CONES.items():
            for quadratic in (True, False):
                if not capabilities.missing(dense_program(blocks, 4, quadratic)):
                    out.append(pytest.param(name, kind, quadratic, id=f"{name}-{kind}-{'QP' if quadratic else 'LP'}"))
    return out


@pytest.mark.parametrize(("name", "kind", "quadratic"), pairs())
def test_agrees_with_cvxpy(name, kind, quadratic):
    program = dense_program(CONES[kind], 4, quadratic)
    if kind == "equalities" and not quadratic:
        program = dense_program((Zero(4),), 4, quadratic=False)  # one point is feasible
    data = solvable(program, 3, seed=3)
    solution = make(name).prepare(program).solve(data)
    assert (solution.status == Status.SOLVED).all()
    assert solution.residuals.max() <= 1e-7
    for i in range(3):
        value, x = problems.by_cvxpy(program, data, i)
        assert objective(program, data, solution.x)[i] == pytest.approx(value, rel=1e-6, abs=1e-6)
        if quadratic:
            np.testing.assert_allclose(solution.x[i], x, rtol=1e-4, atol=2e-5)
    # The dual belongs to the same problem: stationarity, complementarity and both cones, by their definitions.
    dense = program.dense(data)
    stationarity = np.einsum("bij,bj->bi", np.broadcast_to(dense.P, (3, 4, 4)), solution.x) + dense.q
    stationarity += np.einsum("bij,bi->bj", dense.A, solution.z)
    assert np.abs(stationarity).max() < 1e-6
    assert np.abs((solution.s * solution.z).sum(-1)).max() < 1e-5
    start = 0
    for block in program.cone.blocks:
        part = slice(start, start + block.size)
        for s, z in zip(solution.s[:, part], solution.z[:, part], strict=True):
            check_pair(block, s, z)
        start += block.size


def check_pair(block, s, z, tol=1e-6):
    """s in K and z in K*, by definition."""
    if isinstance(block, Zero):
        assert np.abs(s).max() < tol
    elif isinstance(block, Nonnegative):
        assert s.min() > -tol
        assert z.min() > -tol
    elif isinstance(block, SecondOrder):
        assert np.linalg.norm(s[1:]) < s[0] + tol
        assert np.linalg.norm(z[1:]) < z[0] + tol
    elif isinstance(block, PositiveSemidefinite):
        for v in (s, z):
            X, k = np.zeros((block.k, block.k)), 0
            for j in range(block.k):
                for i in range(j + 1):
                    X[i, j] = X[j, i] = v[k] / (1.0 if i == j else np.sqrt(2.0))
                    k += 1
            assert np.linalg.eigvalsh(X).min() > -tol
    elif isinstance(block, Exponential):
        assert s[1] > -tol
        assert s[1] * np.exp(s[0] / max(s[1], 1e-12)) < s[2] + 1e-5 or s[1] < tol
        assert z[0] < tol
        assert -z[0] * np.exp(z[1] / min(z[0], -1e-12) - 1.0) < z[2] + 1e-5 or z[0] > -tol
    elif isinstance(block, Power):
        a = block.alpha
        assert abs(s[2]) < max(s[0], 0) ** a * max(s[1], 0) ** (1 - a) + 1e-5
        assert abs(z[2]) < (max(z[0], 0) / a) ** a * (max(z[1], 0) / (1 - a)) ** (1 - a) + 1e-5


def certifiable() -> list:
    out = []
    for name in SOLVERS:
        capabilities = solver_class(name).capabilities
        for kind in ("linear", "inequalities", "second_order", "semidefinite", "exponential"):
            if not capabilities.missing(dense_program(CONES[kind], 4, False)):
                out.append((name, kind))
    return out


@pytest.mark.parametrize(("name", "kind"), certifiable())
def test_infeasible(name, kind):
    quadratic = solver_class(name).capabilities.quadratic
    program = dense_program(CONES[kind], 4, quadratic)
    data, _ = infeasible(program, 2, seed=5)
    solution = make(name).prepare(program).solve(data)
    assert (solution.status == Status.INFEASIBLE).all()
    assert np.isnan(solution.x).all()
    assert np.isnan(solution.s).all()
    A = program.A.dense(data.A)
    np.testing.assert_allclose((data.b * solution.z).sum(-1), -1.0)
    scale = np.maximum(1.0, np.linalg.norm(solution.z, axis=-1))
    assert (np.abs(np.einsum("bij,bi->bj", A, solution.z)).max(-1) / scale).max() < 1e-6
    assert (solution.z[:, program.cone.blocks[0].size :] > -np.inf).all()


@pytest.mark.parametrize(("name", "kind"), certifiable())
def test_unbounded(name, kind):
    quadratic = solver_class(name).capabilities.quadratic
    program = dense_program(CONES[kind], 4, quadratic)
    data = unbounded(program, 2, seed=6)
    solution = make(name).prepare(program).solve(data)
    assert (solution.status == Status.UNBOUNDED).all()
    assert np.isnan(solution.z).all()
    np.testing.assert_allclose((data.q * solution.x).sum(-1), -1.0)
    A = program.A.dense(data.A)
    scale = np.maximum(1.0, np.linalg.norm(solution.x, axis=-1, keepdims=True))
    assert np.abs((np.einsum("bij,bj->bi", A, solution.x) + solution.s) / scale).max() < 1e-6


@pytest.mark.parametrize("name", SOLVERS)
def test_a_bad_element_leaves_its_neighbours_untouched(name):
    program = dense_program(CONES["linear"], 5, solver_class(name).capabilities.quadratic)
    data = solvable(program, 6, seed=1)
    prepared = make(name).prepare(program)
    alone = prepared.solve(data)
    q, b, A = data.q.copy(), data.b.copy(), data.A.copy()
    q[1], A[2, 3], b[4] = np.nan, np.inf, 1e5 * b[4]
    broken = prepared.solve(ConeData(6, data.P, q, A, b, data.r))
    assert broken.status[1] == broken.status[2] == Status.INVALID_INPUT
    assert np.isnan(broken.x[[1, 2]]).all()
    for i in (0, 3, 5):
        assert broken.status[i] == Status.SOLVED
        np.testing.assert_array_equal(broken.x[i], alone.x[i])
        np.testing.assert_array_equal(broken.z[i], alone.z[i])
        np.testing.assert_array_equal(broken.s[i], alone.s[i])


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["SCS", "OSQP"])
def test_what_a_solver_refuses_is_the_status_of_an_element(name, shared):
    """These raise errors of their own where P is not positive semidefinite."""
    program = dense_program((Nonnegative(2),), 2)
    P = np.array([1.0, 0.0, -1.0]) if shared else np.array([[1.0, 0.0, 1.0], [1.0, 0.0, -1.0]])
    data = ConeData(2, P, np.ones((2, 2)), np.array([-1.0, 0.0, 0.0, -1.0]), np.zeros(2), np.zeros(()))
    found = make(name).prepare(program).solve(data)
    assert found.status.tolist() == [Status.NUMERICAL_ERROR if shared else Status.SOLVED, Status.NUMERICAL_ERROR]
    assert np.isnan(found.x[1]).all()


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("shared", [False, True])
def test_numbers_do_not_depend_on_batch_order_or_threads(name, shared):
    program = dense_program(CONES["linear"], 5, solver_class(name).capabilities.quadratic)
    data = solvable(program, 9, seed=2, shared=shared)
    prepared = make(name).prepare(program)
    reference = prepared.solve(data, threads=1)
    assert (reference.status == Status.SOLVED).all()
    order = np.random.default_rng(0).permutation(9)
    for other, rows in (
        (prepared.solve(data, threads=2), np.arange(9)),
        (prepared.solve(data.take(order)), order),
        (prepared.solve(data.take(slice(4, 5))), np.arange(4, 5)),
        (make(name).prepare(program).solve(data), np.arange(9)),
    ):
        for key in ("x", "z", "s", "status", "iterations"):
            np.testing.assert_array_equal(getattr(other, key), getattr(reference, key)[rows], err_msg=key)


@pytest.mark.parametrize("name", SOLVERS)
def test_edges(name):
    capabilities = solver_class(name).capabilities
    if capabilities.quadratic:
        # no constraints: x = -q / P
        program = dense_program((), 1)
        data = ConeData(2, np.array([[2.0], [4.0]]), np.array([[2.0], [-8.0]]), np.zeros(0), np.zeros(0), np.zeros(()))
        solution = make(name).prepare(program).solve(data)
        np.testing.assert_allclose(solution.x[:, 0], [-1.0, 2.0], atol=1e-7)
        assert solution.z.shape == (2, 0)
    # one variable, no quadratic term: minimize x subject to x >= 3
    program = dense_program((Nonnegative(1),), 1, quadratic=False)
    data = ConeData(1, np.zeros(0), np.ones(1), -np.ones(1), np.array([-3.0]), np.zeros(()))
    solution = make(name).prepare(program).solve(data)
    assert solution.x[0, 0] == pytest.approx(3.0, abs=1e-6)
    assert solution.z[0, 0] == pytest.approx(1.0, abs=1e-6)
    # nobody there
    nobody = ConeData(0, np.zeros(0), np.ones((0, 1)), -np.ones(1), np.ones((0, 1)), np.zeros(()))
    solution = make(name).prepare(program).solve(nobody)
    assert solution.x.shape == (0, 1)
    assert solution.residuals.shape == (0, 3)
    # P is there, but zero
    if capabilities.quadratic:
        program = dense_program((Nonnegative(1),), 1)
        data = ConeData(1, np.zeros(1), np.ones(1), -np.ones(1), np.array([-3.0]), np.zeros(()))
        assert make(name).prepare(program).solve(data).x[0, 0] == pytest.approx(3.0, abs=1e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_infinite_bounds_are_absent(name):
    program = dense_program((Nonnegative(3),), 2, solver_class(name).capabilities.quadratic)
    n_P = program.P.nnz
    P = np.array([1.0, 0.0, 1.0])[:n_P]
    A = program.A.dense(np.zeros(program.A.nnz))
    A[:] = [[-1.0, 0.0], [0.0, -1.0], [1.0, 1.0]]
    values = A[program.A.rows, program.A.cols]
    b = np.array([[-1.0, -2.0, np.inf], [-1.0, -2.0, 1e20], [-1.0, -2.0, 10.0]])
    data = ConeData(3, P, np.ones(2), values, b, np.zeros(()))
    solution = make(name).prepare(program).solve(data)
    assert (solution.status == Status.SOLVED).all()
    np.testing.assert_allclose(solution.x, [[1.0, 2.0]] * 3, atol=1e-5)
    np.testing.assert_array_equal(solution.s[:2, 2], 1e20)
    np.testing.assert_array_equal(solution.z[:2, 2], 0.0)


@pytest.mark.parametrize("name", [n for n in SOLVERS if solver_class(n).capabilities.warm_start])
def test_warm_start(name):
    program = dense_program(CONES["linear"], 5)
    data = solvable(program, 4, seed=7)
    prepared = make(name).prepare(program)
    cold = prepared.solve(data)
    z = cold.z.copy()
    z[1] = np.nan  # an element without a starting point starts cold
    warm = prepared.solve(data, warm=ConicSolution(cold.x, z, cold.s, cold.status, cold.iterations))
    assert (warm.status == Status.SOLVED).all()
    assert warm.iterations[1] == cold.iterations[1]
    assert warm.iterations.sum() < cold.iterations.sum()
    np.testing.assert_allclose(warm.x, cold.x, atol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
def test_sparse_problems_with_shared_matrices(name):
    program, data = problems.sparse_qp(30, 3)
    if solver_class(name).capabilities.missing(program):
        program, data = _linear(program, data)
    solution = make(name).prepare(program).solve(data)
    assert (solution.status == Status.SOLVED).all()
    for i in range(3):
        value, _ = problems.by_cvxpy(program, data, i)
        assert objective(program, data, solution.x)[i] == pytest.approx(value, rel=1e-6, abs=1e-6)


def _linear(program, data):
    """The same without P, and with an objective that is bounded on the feasible set."""
    q = -np.stack([program.A.csc(data.A).T @ np.abs(np.sin(np.arange(program.m) + i)) for i in range(data.batch)])
    program = type(program)(empty(program.n, program.n), program.A, program.cone)
    return program, ConeData(data.batch, np.zeros(0), q, data.A, data.b, data.r)


def test_dense_and_sparse_data_give_the_same_answer():
    program = dense_program(CONES["linear"], 5)
    data = solvable(program, 3)
    for name in ("DAQP", "CLARABEL"):
        prepared = make(name).prepare(program)
        one, two = prepared.solve(data), prepared.solve(program.dense(data))
        np.testing.assert_allclose(one.x, two.x, atol=1e-12)


def test_large_dense_problems_through_lapack():
    program = dense_program((Zero(5), Nonnegative(60)), 60)
    data = solvable(program, 4, seed=9)
    solution = make("DAQP").prepare(program).solve(data)
    assert (solution.status == Status.SOLVED).all()
    assert solution.residuals.max() < 1e-11
    for i in range(2):
        value, x = problems.by_cvxpy(program, data, i)
        np.testing.assert_allclose(solution.x[i], x, atol=1e-5)
    singular = program.dense(data)
    singular.P[:, 7], singular.P[:, :, 7] = 0.0, 0.0
    solution = make("DAQP").prepare(program).solve(singular)
    assert (solution.status <= Status.INACCURATE).all()
