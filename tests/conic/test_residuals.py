"""The judge: residuals by their definitions, statuses by residuals, certificates that are checked."""

from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest

from cvxlayers.conic.program import ConeData, ConicSolution, DenseData
from cvxlayers.conic.residuals import judge
from cvxlayers.conic.violation import violation
from cvxlayers.sets import Exponential, Nonnegative, PositiveSemidefinite, Power, Product, SecondOrder, Zero
from cvxlayers.solvers.clarabel import Clarabel
from cvxlayers.status import Status
from tests.solvers.problems import CONES, dense_program, infeasible, interior, solvable, unbounded

BLOCKS = [Zero(2), Nonnegative(3), SecondOrder(3), PositiveSemidefinite(3), Exponential(), Power(0.3), Power(0.6)]


def solved(kind="everything", batch=4):
    program = dense_program(CONES[kind], 4)
    data = solvable(program, batch)
    return program, data, Clarabel(tol=1e-10).prepare(program).solve(data)


def test_residuals_by_their_definitions():
    program, data, solution = solved("linear")
    rng = np.random.default_rng(0)
    x, z, s = (v + 1e-3 * rng.standard_normal(v.shape) for v in (solution.x, solution.z, solution.s))
    dense = program.dense(data)
    found = judge(program, data, replace(solution, x=x, z=z, s=s), tol=1.0).residuals
    for i in range(4):
        P, q, A, b = dense.element(i)
        norm = np.linalg.norm
        away = max(np.abs(s[i, :2]).max(), -s[i, 2:].min(), 0.0)
        primal = max(norm(A @ x[i] + s[i] - b), away) / max(1, norm(A @ x[i]), norm(s[i]), norm(b))
        dual = max(norm(P @ x[i] + q + A.T @ z[i]), -z[i, 2:].min(), 0.0)
        dual /= max(1, norm(P @ x[i]), norm(q), norm(A.T @ z[i]))
        terms = x[i] @ P @ x[i], q @ x[i], b @ z[i]
        gap = abs(sum(terms)) / max(1, *map(abs, terms))
        np.testing.assert_allclose(found[i], (primal, dual, gap), rtol=1e-9)


@pytest.mark.parametrize("kind", ["linear", "everything"])
def test_layouts_and_batches_agree(kind):
    program, data, solution = solved(kind)
    sparse, dense = judge(program, data, solution), judge(program, program.dense(data), solution)
    np.testing.assert_allclose(sparse.residuals, dense.residuals, atol=1e-13)
    for i in range(4):
        rows = slice(i, i + 1)
        one = judge(program, data.take(rows), solution.take(rows))
        np.testing.assert_array_equal(one.residuals, sparse.residuals[rows])
        one = judge(program, program.dense(data).take(rows), solution.take(rows))
        np.testing.assert_allclose(one.residuals, dense.residuals[rows], atol=1e-14)


def test_statuses_follow_the_residuals():
    program, data, solution = solved()
    assert (judge(program, data, solution, 1e-8).status == Status.SOLVED).all()
    x = solution.x + np.array([0.0, 1e-6, 1e-1, 1e-1])[:, None]
    claims = np.array([Status.NUMERICAL_ERROR, Status.SOLVED, Status.SOLVED, Status.MAX_ITERATIONS])
    found = judge(program, data, replace(solution, x=x, status=claims), 1e-8)
    assert found.status.tolist() == [
        Status.SOLVED,  # whatever the solver says, the residuals are small
        Status.INACCURATE,
        Status.NUMERICAL_ERROR,  # a claim that the residuals refute
        Status.MAX_ITERATIONS,
    ]
    assert np.isfinite(found.x[:2]).all()
    assert np.isnan(found.x[2:]).all()
    assert np.isnan(found.z[2:]).all()
    np.testing.assert_array_equal(found.x[0], solution.x[0])
    assert claims.tolist()[0] == Status.NUMERICAL_ERROR  # the input is left alone


def test_a_point_outside_its_cone_is_not_solved():
    program, data, solution = solved()
    for key, row in (("s", 1), ("z", 1), ("s", 3), ("z", 3), ("z", 9), ("s", 0)):
        moved = getattr(solution, key).copy()
        moved[0, row] -= 1.0
        assert judge(program, data, replace(solution, **{key: moved})).status[0] == Status.NUMERICAL_ERROR


def test_nan_from_a_solver_is_an_error():
    program, data, solution = solved()
    for key in ("x", "z", "s"):
        broken = getattr(solution, key).copy()
        broken[2, 0] = np.nan
        found = judge(program, data, replace(solution, **{key: broken}))
        assert found.status.tolist() == [0, 0, Status.NUMERICAL_ERROR, 0]
        one = judge(
            program, program.dense(data).take(slice(2, 3)), replace(solution, **{key: broken}).take(slice(2, 3))
        )
        assert one.status.tolist() == [Status.NUMERICAL_ERROR]


@pytest.mark.parametrize("kind", ["linear", "second_order", "semidefinite", "exponential", "everything"])
def test_certificates_are_checked(kind):
    program = dense_program(CONES[kind], 4)
    data, z = infeasible(program, 3)
    nothing = np.full((3, 4), np.nan), np.full((3, program.m), np.nan)
    rng = np.random.default_rng(0)
    claim = np.stack((z, 1e7 * z, z + 1e-2 * rng.standard_normal(program.m)))
    status = np.full(3, Status.INFEASIBLE)
    found = judge(program, data, ConicSolution(nothing[0], claim, nothing[1], status, np.zeros(3)))
    assert found.status.tolist() == [Status.INFEASIBLE, Status.INFEASIBLE, Status.NUMERICAL_ERROR]
    np.testing.assert_allclose(found.z[0], found.z[1])
    np.testing.assert_allclose((data.b[:2] * found.z[:2]).sum(-1), -1.0)
    assert np.isnan(found.z[2]).all()
    # A feasible problem has no certificate.
    found = judge(program, solvable(program, 3), ConicSolution(nothing[0], claim, nothing[1], status, np.zeros(3)))
    assert (found.status == Status.NUMERICAL_ERROR).all()


def test_rays_are_checked():
    program = dense_program(CONES["linear"], 4)
    data = unbounded(program, 2)
    solution = Clarabel().prepare(program).solve(data)
    assert (solution.status == Status.UNBOUNDED).all()
    claim = replace(solution, x=solution.x * np.array([[3.0], [1.0]]) + np.array([[0.0], [0.1]]), s=solution.s * 3.0)
    assert judge(program, data, claim).status.tolist() == [Status.UNBOUNDED, Status.NUMERICAL_ERROR]


def test_invalid_data():
    program, data, solution = solved("linear", 5)
    P, q, A, b = data.P.copy(), data.q.copy(), data.A.copy(), data.b.copy()
    P[0, 3], q[1, 0], A[2, 5], b[3, 4] = np.nan, np.inf, -np.inf, -np.inf
    found = judge(program, ConeData(5, P, q, A, b, data.r), solution)
    assert found.status.tolist() == [Status.INVALID_INPUT] * 4 + [Status.SOLVED]
    assert np.isnan(found.x[:4]).all()
    assert np.isnan(found.residuals[:4]).all()
    b[3, 4], b[4, 0] = data.b[3, 4], np.inf  # an equality with infinity
    found = judge(program, ConeData(5, data.P, data.q, data.A, b, data.r), solution)
    assert found.status.tolist() == [0, 0, 0, 0, Status.INVALID_INPUT]
    shared = ConeData(5, np.full(program.P.nnz, np.nan), data.q, data.A, data.b, data.r)
    assert (judge(program, shared, solution).status == Status.INVALID_INPUT).all()


def test_huge_finite_data_is_not_invalid():
    program, data, solution = solved("linear", 1)
    dense = program.dense(data)
    huge = DenseData(1, dense.P, 1e200 * dense.q, dense.A, dense.b, dense.r)
    assert judge(program, huge, solution).status[0] == Status.NUMERICAL_ERROR


@pytest.mark.parametrize("block", BLOCKS, ids=str)
@pytest.mark.parametrize("dual", [False, True])
def test_violation_bounds_the_distance(block, dual):
    rng = np.random.default_rng(0)
    groups = Product((block,)).groups
    inside = np.stack([interior(block, rng, dual) for _ in range(20)])
    np.testing.assert_array_equal(violation(groups, inside, dual), 0.0)
    points = inside[:8] + rng.standard_normal((8, block.size)) * np.logspace(-3, 1, 8)[:, None]
    found = violation(groups, points, dual)
    for v, bound in zip(points, found, strict=True):
        distance = distance_by_cvxpy(block, v, dual)
        assert distance <= bound + 1e-6
        assert bound <= 50.0 * distance + 1e-6


def distance_by_cvxpy(block, v, dual):
    """min ||v - w||_inf over w in the cone, or in its dual."""
    w = cp.Variable(block.size)
    if isinstance(block, Zero):
        inside = [] if dual else [w == 0]
    elif isinstance(block, Nonnegative):
        inside = [w >= 0]
    elif isinstance(block, SecondOrder):
        inside = [cp.norm(w[1:]) <= w[0]]
    elif isinstance(block, PositiveSemidefinite):
        X = cp.Variable((block.k, block.k), symmetric=True)
        entries = [(i, j) for j in range(block.k) for i in range(j + 1)]
        inside = [X >> 0] + [w[k] == X[i, j] * (1 if i == j else np.sqrt(2)) for k, (i, j) in enumerate(entries)]
    elif isinstance(block, Exponential):
        # -x exp(y/x - 1) <= z with x < 0 reads p exp(r/p) <= z with p = -x and r = -(y - x)
        inside = [cp.ExpCone(w[0] - w[1], -w[0], w[2])] if dual else [cp.ExpCone(w[0], w[1], w[2])]
    else:
        a = block.alpha
        u, t = (w[0] / a, w[1] / (1 - a)) if dual else (w[0], w[1])
        inside = [cp.PowCone3D(u, t, w[2], a)]
    return cp.Problem(cp.Minimize(cp.norm(w - v, "inf")), inside).solve(solver=cp.CLARABEL)


def test_a_certificate_is_judged_on_its_face():
    """0'x <= -1 proves that there is no solution, whatever small multipliers the bounds on x still have."""
    program = dense_program((Nonnegative(3),), 2)
    A, b = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), np.array([-1.0, 1.0, 1.0])
    data = program.sparse(DenseData(2, np.eye(2), np.ones(2), A, b, np.zeros(())))
    z = np.array([[2.0, 1e-9, 1e-8], [2.0, 1e-4, 1e-4]])
    none = np.full((2, 3), np.nan)
    claim = ConicSolution(none[:, :2], z, none, np.full(2, Status.INFEASIBLE), np.zeros(2, np.int64))
    for own in (data, program.dense(data)):
        found = judge(program, own, claim)
        assert found.status.tolist() == [Status.INFEASIBLE, Status.NUMERICAL_ERROR]
        np.testing.assert_array_equal(found.z[0], [1.0, 0.0, 0.0])
