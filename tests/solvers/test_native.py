"""The native solver on the host: accuracy, certificates, and that no element disturbs another."""

import numpy as np
import pytest

from cvxlayers.conic.program import ConeData, ConeProgram, Pattern
from cvxlayers.sets import Exponential, Nonnegative, PositiveSemidefinite, Power, Product, SecondOrder, Zero
from cvxlayers.solvers.interior_point import Native
from cvxlayers.status import Status
from tests.solvers.problems import (
    CONES,
    by_cvxpy,
    dense_program,
    infeasible,
    objective,
    solvable,
    sparse_qp,
    unbounded,
)

pytest.importorskip("numba")


def same(a, b) -> None:
    for name in ("x", "z", "s", "status", "iterations"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("quadratic", [True, False])
@pytest.mark.parametrize("kind", [kind for kind in CONES if kind != "equalities"])
def test_solves_to_the_tolerance(kind, quadratic):
    program = dense_program(CONES[kind], 5, quadratic)
    data = solvable(program, 20, seed=7)
    solution = Native().prepare(program).solve(data)
    assert (solution.status == Status.SOLVED).all()
    assert solution.residuals.max() <= 5e-8
    assert solution.iterations.max() <= 25
    value, _ = by_cvxpy(program, data, 0)
    np.testing.assert_allclose(objective(program, data, solution.x)[0], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in CONES if kind != "equalities"])
def test_certificates(kind):
    program = dense_program(CONES[kind], 4)
    data, _ = infeasible(program, 10, seed=3)
    solution = Native().prepare(program).solve(data)
    assert (solution.status == Status.INFEASIBLE).all()
    A = program.A.dense(data.A)
    np.testing.assert_allclose((solution.z * data.b).sum(-1), -1.0, rtol=1e-9)
    assert np.abs(np.einsum("bij,bi->bj", A, solution.z)).max() <= 1e-6 * np.abs(A).max() * np.abs(solution.z).max()
    program = dense_program(CONES[kind], 4, quadratic=False)
    data = unbounded(program, 10, seed=3)
    solution = Native().prepare(program).solve(data)
    assert (solution.status == Status.UNBOUNDED).all()
    np.testing.assert_allclose((solution.x * data.q).sum(-1), -1.0, rtol=1e-9)


def test_random_problems_are_never_wrongly_solved():
    rng = np.random.default_rng(0)
    blocks = [Zero(1), Nonnegative(3), SecondOrder(3), PositiveSemidefinite(2), Exponential(), Power(0.4)]
    for seed in range(12):
        chosen = tuple(block for block in blocks if rng.random() < 0.6) or (Nonnegative(3),)
        n = int(rng.integers(2, 5))
        m = sum(block.size for block in chosen)
        if n < m:
            program = dense_program(chosen, n, quadratic=bool(seed % 2))
            assert (Native().prepare(program).solve(solvable(program, 10, seed)).status <= Status.INACCURATE).all()
            if any(not isinstance(block, Zero) for block in chosen):
                status = Native().prepare(program).solve(infeasible(program, 10, seed)[0]).status
                assert not np.isin(status, (Status.SOLVED, Status.UNBOUNDED)).any()


def test_numbers_do_not_depend_on_threads_neighbours_or_order():
    program = dense_program(CONES["everything"], 5)
    data = solvable(program, 37, seed=1)
    prepared = Native().prepare(program)
    whole = prepared.solve(data)
    same(whole, prepared.solve(data, threads=2))
    same(whole, Native(threads=1).prepare(program).solve(data))
    back = np.arange(37)[::-1]
    same(whole.take(back), prepared.solve(data.take(back)))
    same(whole.take(np.array([5])), prepared.solve(data.take(np.array([5]))))


def test_invalid_elements_disturb_nobody():
    program = dense_program(CONES["second_order"], 4)
    data = solvable(program, 5, seed=2)
    alone = Native().prepare(program).solve(data)
    q = data.q.copy()
    q[2, 0], q[4, 1] = np.nan, np.inf
    solution = Native().prepare(program).solve(ConeData(5, data.P, q, data.A, data.b, data.r))
    assert solution.status.tolist() == [0, 0, Status.INVALID_INPUT, 0, Status.INVALID_INPUT]
    np.testing.assert_array_equal(solution.x[[0, 1, 3]], alone.x[[0, 1, 3]])
    assert np.isnan(solution.x[2]).all()


def test_the_second_order_cone_is_solved_beyond_the_tolerance():
    # The minimum of c'x over the ball of radius r around zero is -r c/||c||.
    n, batch = 6, 8
    cols = np.arange(n)
    program = ConeProgram(
        Pattern((n, n), np.zeros(0, np.int64), np.zeros(0, np.int64)),
        Pattern((n + 1, n), cols + 1, cols),
        Product((SecondOrder(n + 1),)),
    )
    rng = np.random.default_rng(0)
    c, r = rng.standard_normal((batch, n)), rng.uniform(0.5, 2.0, batch)
    b = np.concatenate([r[:, None], np.zeros((batch, n))], axis=-1)
    solution = Native().prepare(program).solve(ConeData(batch, np.zeros(0), c, -np.ones(n), b, np.zeros(())))
    assert (solution.status == Status.SOLVED).all()
    np.testing.assert_allclose(solution.x, -r[:, None] * c / np.linalg.norm(c, axis=-1, keepdims=True), atol=1e-8)


def test_the_exponential_cone_against_a_known_solution():
    # minimize -sum of a_i log x_i over the simplex: x = a/sum(a), as -log x_i <= t_i is (-t_i, 1, x_i) in the cone.
    n, batch = 4, 8
    x, t = np.arange(n), n + np.arange(n)
    rows = np.concatenate([np.zeros(n, np.int64), 1 + 3 * np.arange(n) + 2, 1 + 3 * np.arange(n)])
    cols = np.concatenate([x, x, t])
    values = np.concatenate([np.ones(n), -np.ones(n), np.ones(n)])
    order = np.lexsort((rows, cols))
    program = ConeProgram(
        Pattern((2 * n, 2 * n), np.zeros(0, np.int64), np.zeros(0, np.int64)),
        Pattern((3 * n + 1, 2 * n), rows[order], cols[order]),
        Product((Zero(1), *(Exponential() for _ in range(n)))),
    )
    a = np.random.default_rng(0).uniform(0.2, 2.0, (batch, n))
    b = np.concatenate([[1.0], np.tile([0.0, 1.0, 0.0], n)])
    q = np.concatenate([np.zeros((batch, n)), a], axis=-1)
    solution = Native().prepare(program).solve(ConeData(batch, np.zeros(0), q, values[order], b, np.zeros(())))
    assert (solution.status == Status.SOLVED).all()
    # An objective within 1e-9 of the least leaves x, which it is curved in, within the root of that.
    np.testing.assert_allclose(solution.x[:, :n], a / a.sum(-1, keepdims=True), atol=1e-4)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_bad_scales(scale):
    program = dense_program(CONES["everything"], 4)
    data = solvable(program, 5, seed=3)
    plain = Native().prepare(program).solve(data)
    scaled = ConeData(5, scale * data.P, scale * data.q, data.A, data.b, data.r)
    solution = Native().prepare(program).solve(scaled)
    assert (solution.status == Status.SOLVED).all()
    np.testing.assert_allclose(solution.x, plain.x, rtol=1e-3, atol=1e-3)


def test_edges():
    program = dense_program((Zero(2), Nonnegative(3)), 4, quadratic=False)
    data = solvable(program, 3, seed=1)
    assert (Native().prepare(program).solve(data.take(np.zeros(0, np.int64))).status.shape) == (0,)
    # redundant rows
    twice = np.concatenate([np.arange(5), np.arange(2)])
    A = program.A.dense(data.A)[:, np.sort(twice)]
    double = dense_program((Zero(4), Nonnegative(3)), 4, quadratic=False)
    values = double.A.dense(np.zeros((3, double.A.nnz)))
    values[:] = A
    redundant = ConeData(3, data.P, data.q, values[:, double.A.rows, double.A.cols], data.b[:, np.sort(twice)], data.r)
    solution = Native().prepare(double).solve(redundant)
    assert (solution.status == Status.SOLVED).all()
    np.testing.assert_allclose(solution.x, Native().prepare(program).solve(data).x, atol=1e-5)


def test_sparse_programs():
    program, data = sparse_qp(300, 2)
    solution = Native().prepare(program).solve(data)
    assert (solution.status == Status.SOLVED).all()
    assert solution.residuals.max() <= 1e-8
