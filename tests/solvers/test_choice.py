"""Which solver is chosen, and what is said of it."""

import importlib.util

import numpy as np
import pytest

from cvxlayers.conic.program import ConeData
from cvxlayers.errors import SettingsError
from cvxlayers.sets import Nonnegative, PositiveSemidefinite
from cvxlayers.solvers.active_set import ActiveSet
from cvxlayers.solvers.choice import choose
from cvxlayers.solvers.clarabel import Clarabel
from cvxlayers.solvers.daqp import DAQP
from cvxlayers.solvers.diffcp import DiffCP
from cvxlayers.solvers.fallback import Fallback
from cvxlayers.solvers.interior_point import Native
from cvxlayers.solvers.osqp import OSQP
from cvxlayers.status import Status
from tests.solvers.problems import CONES, dense_program, infeasible, solvable, sparse_qp, unbounded


def test_small_quadratic_programs_get_the_active_set_method():
    plan = choose(dense_program(CONES["linear"], 5))
    assert isinstance(plan.solver, Fallback)
    assert plan.solver.first == ActiveSet()
    assert plan.requested is None
    assert "measured slower" in str(plan)  # of the native solver
    assert choose(dense_program((Nonnegative(200),), 5)).solver.first == DAQP()  # many more rows than variables


@pytest.mark.parametrize("kind", ["second_order", "semidefinite", "exponential", "power", "everything"])
def test_cones_get_the_interior_point_method(kind):
    plan = choose(dense_program(CONES[kind], 4))
    assert plan.solver == Fallback(first=Native(), second=Clarabel())
    assert plan.reason.startswith("compiled interior-point method for every cone")


def test_large_cones_get_a_solver_for_sparse_programs():
    assert choose(dense_program((PositiveSemidefinite(40),), 4)).solver == Clarabel()


def test_without_a_compiler_cones_get_clarabel(monkeypatch):
    monkeypatch.setattr("cvxlayers.solvers.choice.is_available", lambda: False)
    assert choose(dense_program(CONES["everything"], 4)).solver == Clarabel()


def test_its_settings_choose_the_native_solver():
    plan = choose(dense_program(CONES["everything"], 4), settings={"precision": "mixed"})
    assert plan.solver == Fallback(first=Native(precision="mixed"), second=Clarabel())


def test_linear_programs_and_large_sparse_ones_get_the_interior_point_method():
    for program in (dense_program(CONES["linear"], 5, quadratic=False), sparse_qp(400, 1)[0]):
        plan = choose(program)
        assert plan.solver == Fallback(first=Native(), second=Clarabel())
        assert plan.reason.startswith("compiled interior-point method")
    assert choose(dense_program(CONES["linear"], 5, quadratic=False), batch=32, shared=True).solver.first == Native()


def test_batches_that_share_large_matrices_get_one_factorization():
    program = sparse_qp(600, 1)[0]
    plan = choose(program, batch=32, shared=True)
    assert plan.solver.first == OSQP(max_iter=4000)
    assert plan.solver.second == Clarabel()
    assert choose(program, shared=True, settings={"max_iters": 9}).solver.first == OSQP(max_iter=9)
    assert choose(program, batch=1, shared=True).solver.first == Native()
    assert choose(program, batch=32).solver.first == Native()


def test_a_setting_that_only_one_solver_has_names_it():
    program = dense_program(CONES["linear"], 4, quadratic=False)
    assert choose(program, settings={"mode": "lsqr"}).solver == DiffCP(mode="lsqr")
    plan = choose(program, settings={"primal_tol": 1e-9, "eps": 1e-7})
    assert plan.solver.first == DAQP(tol=1e-7, primal_tol=1e-9)
    assert plan.solver.second == Clarabel(tol=1e-7)


def test_the_table_says_why():
    text = str(choose(dense_program(CONES["linear"], 5)))
    reason = "active-set method for a dense quadratic program (n=5, m=10)"
    assert text.startswith(f"ACTIVE_SET, then CLARABEL: compiled {reason}\n")
    assert "-> ACTIVE_SET" in text
    assert f"DAQP        next: {reason}" in text
    assert "ECOS        on request only: the objective has to be rewritten" in text
    assert "CLARABEL    next: for what ACTIVE_SET leaves unsolved" in text
    text = str(choose(dense_program(CONES["semidefinite"], 4)))
    assert "DAQP        lacks the cone PositiveSemidefinite" in text


def test_settings_reach_the_solver():
    plan = choose(dense_program(CONES["linear"], 5), settings={"eps": 1e-6, "max_iters": 77})
    assert plan.solver.first == ActiveSet(tol=1e-6, max_iter=77)
    assert plan.solver.second == Clarabel(tol=1e-6, max_iter=77)
    assert plan.solver.tol == 1e-6


def test_settings_narrow_the_choice():
    plan = choose(dense_program(CONES["linear"], 5), settings={"acceleration_lookback": 0})
    assert "has no setting 'acceleration_lookback'" in str(plan)
    assert plan.solver.name.startswith("SCS")
    with pytest.raises(SettingsError, match="(?s)no solver can solve.*CLARABEL has no setting 'primal_tol'"):
        choose(dense_program(CONES["linear"], 5), settings={"primal_tol": 1e-9, "acceleration_lookback": 0})


def test_a_setting_that_no_solver_has():
    program = dense_program(CONES["linear"], 5)
    with pytest.raises(SettingsError, match="no solver has a setting 'max_itr'. Did you mean 'max_iter'.*All have tol"):
        choose(program, settings={"max_itr": 1})
    with pytest.raises(SettingsError, match="'warm_start'. It is an argument of the call"):
        choose(program, settings={"warm_start": True})
    with pytest.raises(SettingsError, match="'tolerance'. Did you mean 'tol'"):
        choose(program, settings={"tolerance": 1})


def test_solve_method_names_a_solver():
    assert choose(dense_program(CONES["linear"], 5), settings={"solve_method": "Clarabel"}).solver == Clarabel()


def test_a_solver_that_was_asked_for():
    program = dense_program(CONES["linear"], 5)
    plan = choose(program, solver="DAQP")
    assert plan.solver == DAQP()
    assert plan.requested == "DAQP"
    assert choose(program, solver=Clarabel(tol=1e-6), settings={"max_iter": 9}).solver == Clarabel(tol=1e-6, max_iter=9)


def test_a_solver_that_lacks_something():
    program = dense_program(CONES["semidefinite"], 4)
    with pytest.raises(SettingsError) as error:
        choose(program, solver="ECOS")
    text = str(error.value)
    assert "solver ECOS lacks quadratic objectives and the cone PositiveSemidefinite" in text or (
        "solver ECOS lacks the cone PositiveSemidefinite and quadratic objectives" in text
    )
    assert "These can: CLARABEL" in text
    assert "DAQP lacks the cone PositiveSemidefinite" in text
    with pytest.raises(SettingsError, match="ECOS lacks"):
        solver = choose(dense_program((Nonnegative(2),), 2, quadratic=False), solver="ECOS").solver
        solver.prepare(program)


def test_a_solver_that_is_not_installed(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("cvxlayers.solvers.solver.find_spec", lambda name: None if name == "daqp" else find(name))
    program = dense_program(CONES["linear"], 5)
    plan = choose(program)
    assert plan.solver.first == ActiveSet()
    assert "is not installed (pip install daqp)" in str(plan)
    with pytest.raises(SettingsError, match="DAQP is not installed"):
        choose(program, solver="DAQP")


def test_fallback_solves_what_the_first_solver_does_not():
    program = dense_program(CONES["linear"], 5)
    data = solvable(program, 5, seed=4)
    starved = Fallback(first=DAQP(max_iter=1), second=Clarabel())
    solution = starved.prepare(program).solve(data)
    alone = Clarabel().prepare(program).solve(data)
    assert (DAQP(max_iter=1).prepare(program).solve(data).status != Status.SOLVED).all()
    assert (solution.status == Status.SOLVED).all()
    np.testing.assert_array_equal(solution.x, alone.x)
    np.testing.assert_array_equal(solution.residuals, alone.residuals)


def test_fallback_keeps_proofs_and_invalid_elements():
    program = dense_program(CONES["linear"], 4)
    solver = Fallback(first=DAQP(), second=Clarabel())
    assert (solver.prepare(program).solve(infeasible(program, 2)[0]).status == Status.INFEASIBLE).all()
    assert (solver.prepare(program).solve(unbounded(program, 2)).status == Status.UNBOUNDED).all()
    good = solvable(program, 2)
    data = ConeData(2, good.P, good.q * np.array([[np.nan], [1.0]]), good.A, good.b, good.r)
    assert solver.prepare(program).solve(data).status.tolist() == [Status.INVALID_INPUT, Status.SOLVED]
