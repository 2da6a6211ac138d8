"""Degenerate, singular and badly scaled quadratic programs, and programs with nothing in them."""

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers.conic.program import ConeData, DenseData
from cvxlayers.sets import Nonnegative, SecondOrder, Zero
from cvxlayers.solvers.choice import choose
from cvxlayers.solvers.clarabel import Clarabel
from cvxlayers.solvers.daqp import DAQP
from cvxlayers.solvers.osqp import OSQP
from cvxlayers.status import Status
from tests.solvers.problems import dense_program, objective, solvable, sparse_qp


def degenerate(seed: int):
    """Integer data: repeated and dependent rows, ties, a singular P; perhaps infeasible or unbounded."""
    rng = np.random.default_rng(seed)
    n, p = int(rng.integers(1, 8)), int(rng.integers(0, 3))
    p = min(p, n)
    m = p + int(rng.integers(1, 15))
    program = dense_program((Zero(p), Nonnegative(m - p)) if p else (Nonnegative(m),), n)
    root = rng.integers(-2, 3, (n, int(rng.integers(0, n + 1)))).astype(float)
    A = rng.integers(-1, 2, (m, n)).astype(float)
    A[-1] = A[-2] if m > 1 else A[-1]
    if rng.random() < 0.7:
        b = A @ rng.integers(-2, 3, n) + np.concatenate((np.zeros(p), rng.integers(0, 2, m - p)))
    else:
        b = rng.integers(-3, 4, m).astype(float)
    q = rng.integers(-3, 4, n) * 10.0 ** rng.integers(-2, 3)
    return program, DenseData(1, (root @ root.T)[None], q[None], A[None], b[None], np.zeros(())), p


@pytest.mark.parametrize("seed", range(40))
def test_degenerate_problems_end_as_cvxpy_says(seed):
    program, data, p = degenerate(seed)
    solution = choose(program).solver.prepare(program).solve(data)
    P, q, A, b = data.element(0)
    x = cp.Variable(program.n)
    constraints = [A[p:] @ x <= b[p:]] + ([A[:p] @ x == b[:p]] if p else [])
    problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, cp.psd_wrap(P)) + q @ x), constraints)
    value = problem.solve(solver=cp.PIQP)
    if problem.status == cp.OPTIMAL:
        assert solution.status[0] == Status.SOLVED
        found = objective(program, program.sparse(data), solution.x)[0]
        assert found == pytest.approx(value, rel=1e-5, abs=1e-5)
    else:
        expected = {cp.INFEASIBLE: Status.INFEASIBLE, cp.UNBOUNDED: Status.UNBOUNDED}[problem.status]
        assert solution.status[0] == expected


@pytest.mark.parametrize("solver", [Clarabel(), DAQP(), OSQP(max_iter=20000)], ids=lambda s: s.name)
def test_numbers_do_not_depend_on_hard_neighbours(solver):
    """Neighbours that are scaled badly, infeasible or singular leave no trace in a workspace that is used again."""
    program = dense_program((Nonnegative(9),), 4)
    data = solvable(program, 8, seed=1, shared=True)
    q, b = data.q * np.logspace(-3, 3, 8)[:, None], data.b.copy()
    b[2] = -100.0 * np.abs(b[2])
    shared = ConeData(8, data.P, q, data.A, b, data.r)
    P, A = np.tile(data.P, (8, 1)), np.tile(data.A, (8, 1))
    P[4], A[5] = 0.0, 1e3 * A[5]
    own = ConeData(8, P, q, A, b, data.r)
    for batch in (shared, own):
        prepared = solver.prepare(program)
        forwards = prepared.solve(batch, threads=1)
        backwards = prepared.solve(batch.take(np.arange(8)[::-1]), threads=1)
        for key in ("x", "z", "s", "status", "iterations"):
            np.testing.assert_array_equal(getattr(forwards, key), getattr(backwards, key)[::-1], err_msg=key)
        for i in (0, 7):
            one = prepared.solve(batch.take(slice(i, i + 1)))
            np.testing.assert_array_equal(one.x[0], forwards.x[i])


def test_no_constraints():
    program = dense_program((), 2)
    P = np.array([[1.0, 0.0, 2.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    q = np.array([[-1.0, -4.0], [-1.0, 0.0], [-1.0, -4.0]])
    data = ConeData(3, P, q, np.zeros(0), np.zeros(0), np.zeros(()))
    for solver in (Clarabel(), DAQP()):
        solution = solver.prepare(program).solve(data)
        assert solution.status.tolist() == [Status.SOLVED, Status.SOLVED, Status.UNBOUNDED]
        np.testing.assert_allclose(solution.x, [[1.0, 2.0], [1.0, 0.0], [0.0, 0.25]], atol=1e-12)


def test_no_variables():
    program = dense_program((Zero(1), Nonnegative(1), SecondOrder(2)), 0)
    b = np.array([[0.0, 1.0, 2.0, 1.0], [0.0, -1.0, 2.0, 1.0], [0.5, 1.0, 2.0, 1.0], [0.0, 1.0, 1.0, 2.0]])
    solution = Clarabel().prepare(program).solve(ConeData(4, *(np.zeros(0),) * 3, b, np.zeros(())))
    assert solution.status.tolist() == [Status.SOLVED] + [Status.INFEASIBLE] * 3
    np.testing.assert_array_equal(solution.s[0], b[0])
    np.testing.assert_allclose((solution.z[1:] * b[1:]).sum(-1), -1.0)


def test_the_paper_s_sparse_problems_with_shared_matrices():
    program, data = sparse_qp(120, 4)
    one, other = (solver.prepare(program).solve(data) for solver in (Clarabel(tol=1e-9), OSQP(tol=1e-9)))
    assert (one.status == Status.SOLVED).all()
    assert (other.status == Status.SOLVED).all()
    np.testing.assert_allclose(one.x, other.x, atol=1e-5)
