"""Our solvers inside CVXPY: values, dual variables and statuses are those of CVXPY with Clarabel."""

import copy
import pickle
import warnings

import cvxpy as cp
import numpy as np
import pytest

import cvxlayers
from cvxlayers import CvxpySolver, Native, SettingsError, solvers
from cvxlayers.sets import Nonnegative, Product
from cvxlayers.solvers import interior_point

random = np.random.default_rng(0)
C, D, rows = random.standard_normal((4, 4)), random.standard_normal((3, 3)), random.standard_normal((5, 3))
SOLVERS = {
    "native": Native,
    "native as arrays": lambda: Native(compiled=False),
    "clarabel": lambda: CvxpySolver("CLARABEL"),
}


def quadratic():
    x = cp.Variable(3)
    cost = cp.sum_squares(rows @ x - np.arange(5)) + cp.sum(x)
    return cp.Problem(cp.Minimize(cost + 7.0), [x >= 0.1, cp.sum(x) == 1, x[0] - x[1] <= 0.2])


def maximization():
    x = cp.Variable((2, 3))
    return cp.Problem(cp.Maximize(cp.sum(x) - cp.sum_squares(x - D[:2]) + 1.0), [x.T <= 0.3, x[0, 0] == x[1, 2]])


def linear():
    x = cp.Variable(3)
    return cp.Problem(cp.Minimize(np.array([1.0, -2.0, 0.5]) @ x), [cp.abs(x) <= 1, cp.sum(x) == 0.3])


def cones():
    x, t = cp.Variable((5, 3)), cp.Variable(3)
    cost = cp.sum(cp.multiply(rows, x)) + cp.sum(t) + cp.sum_squares(t) + 0.1 * cp.sum_squares(x)
    return cp.Problem(cp.Minimize(cost), [cp.SOC(t, x, axis=0), t <= np.array([1, 2, 3]), x[0] == 0.1])


def semidefinite():
    X = cp.Variable((4, 4), symmetric=True)
    return cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [X >> 0, cp.diag(X) == 1, X[0, 1] >= 0.1])


def linear_matrix_inequality():
    X = cp.Variable((3, 3))
    return cp.Problem(cp.Minimize(cp.trace(D @ X) + cp.sum_squares(X)), [X + X.T >> 0, cp.trace(X) == 1])


def hermitian():
    X = cp.Variable((3, 3), hermitian=True)
    cost = cp.sum_squares(cp.real(X) - D) + cp.sum_squares(cp.imag(X) - D.T)
    return cp.Problem(cp.Minimize(cost), [X >> 0, cp.real(cp.trace(X)) == 1])


def exponential():
    x = cp.Variable(4)
    cost = cp.sum(cp.exp(x)) + cp.sum_squares(x - 1)
    return cp.Problem(cp.Minimize(cost), [cp.ExpCone(x, np.ones(4), 2.0 + x), cp.sum(x) == 1, x <= 0.7])


def power():
    x, y, z = cp.Variable(3), cp.Variable(3), cp.Variable(3)
    cost = -cp.sum(z) + cp.sum_squares(x) + cp.sum_squares(y)
    return cp.Problem(cp.Minimize(cost), [cp.PowCone3D(x, y, z, np.array([0.2, 0.5, 0.7])), x <= 1])


def mixed():
    x, X = cp.Variable(3), cp.Variable((2, 2), PSD=True)
    cost = cp.sum_squares(x) + cp.sum(cp.exp(x)) + cp.trace(X) + cp.norm(x + 1)
    return cp.Problem(cp.Minimize(cost), [X[0, 1] == x[0] + 1, cp.geo_mean(x + 2) >= 1.2, cp.sum(x) >= -1])


def unconstrained():
    x = cp.Variable(3)
    return cp.Problem(cp.Minimize(cp.sum_squares(D @ x - 1) + cp.sum(x)))


def constant():
    return cp.Problem(cp.Minimize(3.0))


PROBLEMS = [quadratic, maximization, linear, cones, semidefinite, linear_matrix_inequality, hermitian]
PROBLEMS += [exponential, power, mixed, unconstrained, constant]


def close(found, wanted) -> None:
    if wanted is None:
        assert found is None
        return
    assert np.shape(found) == np.shape(wanted)
    np.testing.assert_allclose(found, wanted, atol=2e-4)


@pytest.mark.parametrize("make", PROBLEMS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("solver", SOLVERS)
def test_agrees_with_clarabel(make, solver):
    reference, problem = make(), make()
    reference.solve(solver=cp.CLARABEL)
    value = problem.solve(solver=SOLVERS[solver]())
    assert problem.status == cp.OPTIMAL
    assert value == pytest.approx(reference.value, abs=1e-6, rel=1e-6)
    for ours, theirs in zip(problem.variables(), reference.variables(), strict=True):
        close(ours.value, theirs.value)
    for ours, theirs in zip(problem.constraints, reference.constraints, strict=True):
        for one, other in zip(ours.dual_variables, theirs.dual_variables, strict=True):
            close(one.value, other.value)


def test_random_problems_agree_with_clarabel():
    """Duals of the right sign and place: of strictly convex problems over every cone, with parameters."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        found = []
        for solver in (cp.CLARABEL, Native()):
            x, p = cp.Variable(4), cp.Parameter(4, value=rng.standard_normal(4) if not found else found[0][3])
            A = np.random.default_rng(100 + seed).standard_normal((7, 4))
            s = A @ x + np.array([2.0, 0, 0, 1, 1, 3, 1])
            constraints = [x <= 1 + p, cp.SOC(s[0], s[1:3]), cp.ExpCone(s[3] - 2, s[4], s[5]), cp.sum(x) == p[0]]
            constraints.append(cp.PowCone3D(s[6] + 1, s[5] + 1, x[0], 0.4))
            constraints.append(cp.bmat([[s[0] + 2, x[1]], [x[1], s[4] + 2]]) >> 0)
            problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + x[2]), constraints)
            problem.solve(solver=solver)
            duals = [np.ravel(d.value) for c in constraints for d in c.dual_variables] if x.value is not None else []
            found.append((problem.status, x.value, duals, p.value))
        assert found[0][0] == found[1][0]
        for theirs, ours in zip([found[0][1], *found[0][2]], [found[1][1], *found[1][2]], strict=True):
            close(ours, theirs)


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_solution(solver):
    x = cp.Variable(2)
    infeasible = [x >= 1, cp.sum(x) <= 1]
    problem = cp.Problem(cp.Minimize(cp.sum(x)), infeasible)
    assert problem.solve(solver=SOLVERS[solver]()) == np.inf
    assert problem.status == cp.INFEASIBLE
    assert x.value is None
    if not cp.__version__.startswith("1.8."):  # which drops the dual values of an infeasible problem
        # They are the certificate: z >= 0 with A'z = 0 and b'z < 0, up to its scale.
        z, y = infeasible[0].dual_value, infeasible[1].dual_value
        np.testing.assert_allclose(z / y, 1.0, atol=1e-5)
        assert y > 0
    problem = cp.Problem(cp.Minimize(cp.sum(x)), [x <= 1])
    assert problem.solve(solver=SOLVERS[solver]()) == -np.inf
    assert problem.status == cp.UNBOUNDED
    problem = cp.Problem(cp.Maximize(cp.sum(x)), [x >= 1])
    assert problem.solve(solver=SOLVERS[solver]()) == np.inf
    assert problem.status == cp.UNBOUNDED


@pytest.mark.parametrize("solver", SOLVERS)
def test_no_answer(solver):
    problem = exponential()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        problem.solve(solver=SOLVERS[solver](), max_iter=2)
    assert problem.status == cp.USER_LIMIT
    assert problem.solver_stats.num_iters == 2
    assert np.isnan(problem.variables()[0].value).all()


def test_what_a_solver_says_is_what_cvxpy_says():
    wrapped = CvxpySolver("CLARABEL")
    problem = linear()
    data, chain, inverse = problem.get_problem_data(wrapped)
    raw = wrapped.solve_via_data(data, False, False, {})
    for status, expected in (
        (cvxlayers.Status.INACCURATE, cp.OPTIMAL_INACCURATE),
        (cvxlayers.Status.NUMERICAL_ERROR, cp.SOLVER_ERROR),
        (cvxlayers.Status.INVALID_INPUT, cp.SOLVER_ERROR),
    ):
        raw["solution"].status[:] = status
        assert chain.invert(raw, list(inverse)).status == expected
    with pytest.raises(cp.SolverError, match="CVXLAYERS_CLARABEL"):
        problem.unpack_results(raw, chain, inverse)


def test_statistics():
    problem = quadratic()
    problem.solve(solver=Native())
    stats = problem.solver_stats
    assert stats.solver_name == "CVXLAYERS_NATIVE"
    assert stats.num_iters > 0 and stats.solve_time > 0
    assert stats.extra_stats["residuals"].max() <= 1e-7


def test_quadratic_objectives_stay_quadratic():
    data = quadratic().get_problem_data(Native())[0]
    assert "P" in data and data["P"].nnz > 0
    assert not data["dims"].soc
    data = quadratic().get_problem_data(CvxpySolver("ECOS"))[0]
    assert "P" not in data and data["dims"].soc


def test_settings():
    problem = quadratic()
    problem.solve(solver=Native(), max_iter=50, eps=1e-6)
    with pytest.raises(SettingsError, match="max_iter"):
        problem.solve(solver=Native(), max_itr=50)
    with pytest.raises(SettingsError, match="tol"):
        Native(tol=-1.0)
    assert Native(tol=1e-6).ours == solvers.Native(tol=1e-6)
    assert Native(eps=1e-6, max_iters=7).ours == solvers.Native(tol=1e-6, max_iter=7)
    with pytest.raises(SettingsError, match="by name"):
        Native(1e-9)
    assert repr(Native(tol=1e-6)) == "cvxlayers.Native(tol=1e-06)"
    assert repr(solvers.Native(tol=1e-6)) == "Native(tol=1e-06)"
    assert repr(CvxpySolver("scs", eps=1e-6)) == "cvxlayers.CvxpySolver(SCS(tol=1e-06))"
    with pytest.raises(SettingsError, match="no solver"):
        CvxpySolver("CLARABELL")


def test_cvxpy_refuses_what_the_solver_lacks():
    with pytest.raises(cp.SolverError):
        cones().solve(solver=CvxpySolver("DAQP"))
    i = cp.Variable(integer=True)
    with pytest.raises(cp.SolverError):
        cp.Problem(cp.Minimize(cp.square(i - 0.3))).solve(solver=Native())


def test_the_canonical_form_is_kept():
    problem = quadratic()
    first = problem.get_problem_data(Native())[1]
    assert problem.get_problem_data(Native())[1] is first
    assert problem.get_problem_data(Native(tol=1e-5))[1] is not first
    for other in (copy.deepcopy(Native(tol=1e-5)), pickle.loads(pickle.dumps(Native(tol=1e-5)))):
        assert other == Native(tol=1e-5) and hash(other) == hash(Native(tol=1e-5))
    assert Native() != Native(tol=1e-5) and Native() != solvers.Native()


def test_warm_start():
    x, p = cp.Variable(3), cp.Parameter(3, value=np.array([1.0, -1.0, 2.0]))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(rows @ x - 1) + p @ x), [x >= 0, cp.sum(x) <= 1])
    solver = CvxpySolver("SCS", tol=1e-9)
    cold, iterations = problem.solve(solver=solver, warm_start=True), problem.solver_stats.num_iters
    assert problem.solve(solver=solver, warm_start=True) == pytest.approx(cold, abs=1e-6)
    assert problem.solver_stats.num_iters < iterations
    problem.solve(solver=solver, warm_start=False)
    assert problem.solver_stats.num_iters == iterations
    p.value = -p.value
    value = problem.solve(solver=solver, warm_start=True)
    assert value == pytest.approx(problem.solve(solver=cp.CLARABEL), abs=1e-6)


def test_geometric_programs():
    x, y = cp.Variable(pos=True), cp.Variable(pos=True)
    problem = cp.Problem(cp.Minimize(x / y + y), [x * y >= 2, x <= 3])
    reference = problem.solve(gp=True, solver=cp.CLARABEL)
    assert problem.solve(gp=True, solver=Native()) == pytest.approx(reference, rel=1e-6)


def test_our_own_doors_take_it_too():
    x, p = cp.Variable(2), cp.Parameter(2, value=np.array([1.0, -2.0]))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0])
    result = cvxlayers.solve(problem, solver=Native(tol=1e-9))
    np.testing.assert_allclose(result[x], [1.0, 0.0], atol=1e-6)
    from cvxlayers.torch import CvxpyLayer

    assert CvxpyLayer(problem, [p], [x], solver=Native(tol=1e-9)).plan().solver == solvers.Native(tol=1e-9)
    assert CvxpyLayer(problem, [p], [x], solver=Native).plan().solver == solvers.Native()


def test_the_method_takes_the_settings_out_of_it():
    cone, one = Product((Nonnegative(1),)), np.ones((1, 1))
    data = (one, -np.ones(1), one, np.full(1, 0.5))  # minimize x^2/2 - x subject to x <= 1/2
    found = interior_point.solve(cone, *data, Native(compiled=False))
    np.testing.assert_allclose(found.x, [0.5], atol=1e-7)
    wx, wz, _ = interior_point.linear_solve(cone, one, one, found.z, found.s, np.ones(1), np.ones(1), Native())
    np.testing.assert_allclose([*wx, *wz], [1, 0], atol=1e-6)
    with pytest.raises(SettingsError, match="'settings' should be a cvxlayers.solvers.Native.*got 'native'"):
        interior_point.solve(cone, *data, "native")
