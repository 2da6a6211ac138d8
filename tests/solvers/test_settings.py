"""Settings: typed, checked when a solver is made, known by the names of other libraries."""

import copy
import pickle

import pytest

from cvxlayers.errors import SettingsError
from cvxlayers.solvers.clarabel import Clarabel
from cvxlayers.solvers.daqp import DAQP
from cvxlayers.solvers.diffcp import DiffCP
from cvxlayers.solvers.fallback import Fallback
from cvxlayers.solvers.osqp import OSQP
from cvxlayers.solvers.registry import names, resolve, solver_class
from cvxlayers.solvers.scs import SCS


def test_an_unknown_setting_names_the_nearest_one():
    with pytest.raises(SettingsError, match="Clarabel has no setting 'max_itr'. Did you mean 'max_iter'.*tol, threads"):
        Clarabel(max_itr=3)
    with pytest.raises(SettingsError, match="Clarabel has no setting 'eps'. Did you mean 'tol'"):
        Clarabel(eps=1e-6)


def test_settings_have_names():
    with pytest.raises(SettingsError, match="Clarabel takes settings by name, such as tol=1e-09"):
        Clarabel(1e-9)


def test_repr_shows_what_differs_from_the_defaults():
    assert repr(SCS()) == "SCS()"
    both = Fallback(first=DAQP(tol=1e-6, max_iter=7), second=Clarabel())
    assert repr(both) == "Fallback(first=DAQP(tol=1e-06, max_iter=7), second=Clarabel())"


@pytest.mark.parametrize(
    ("solver", "settings", "message"),
    [
        (Clarabel, {"tol": 0.0}, "'tol' of Clarabel should be a number above 0; got 0.0"),
        (Clarabel, {"tol": float("nan")}, "above 0; got nan"),
        (Clarabel, {"tol": "small"}, "got 'small'"),
        (Clarabel, {"tol": True}, "got True"),
        (Clarabel, {"max_iter": 0}, "whole number of at least 1; got 0"),
        (Clarabel, {"max_iter": 2.5}, "whole number"),
        (Clarabel, {"verbose": "yes"}, "True or False; got 'yes'"),
        (Clarabel, {"threads": 0}, "None or a whole number"),
        (DAQP, {"proximal": -1.0}, "at least 0"),
        (OSQP, {"alpha": 2.0}, "between 0 and 2"),
        (DiffCP, {"mode": "magic"}, "one of 'dense', 'lsqr'"),
        (Fallback, {"first": DAQP(), "second": "CLARABEL"}, "a Solver; got 'CLARABEL'"),
    ],
)
def test_a_value_out_of_range(solver, settings, message):
    with pytest.raises(SettingsError, match=message):
        solver(**settings)


def test_values_are_kept_in_their_type():
    solver = Clarabel(tol=1, max_iter=50.0)
    assert isinstance(solver.tol, float)
    assert isinstance(solver.max_iter, int)


def test_solvers_are_values():
    for name in names():
        solver = solver_class(name)(tol=1e-7)
        assert solver == solver_class(name)(tol=1e-7)
        assert hash(solver) == hash(copy.deepcopy(solver))
        assert pickle.loads(pickle.dumps(solver)) == solver
        assert "tol=1e-07" in repr(solver)
        with pytest.raises(AttributeError):
            solver.tol = 1.0
    both = Fallback(first=DAQP(), second=Clarabel())
    assert pickle.loads(pickle.dumps(both)) == both


@pytest.mark.parametrize("name", ["clarabel", "CLARABEL", "Clarabel"])
def test_names_in_any_case(name):
    assert resolve(name) == Clarabel()


def test_cvxpy_constants_are_names():
    import cvxpy as cp

    for constant in (cp.CLARABEL, cp.SCS, cp.ECOS, cp.DAQP, cp.OSQP, cp.PIQP, cp.DIFFCP):
        assert resolve(constant).name == constant


def test_an_unknown_name():
    with pytest.raises(SettingsError, match="no solver 'CLARABLE'. Did you mean 'CLARABEL'"):
        resolve("CLARABLE")
    with pytest.raises(SettingsError, match="no solver 'MOSEK'. These are installed: CLARABEL"):
        resolve("MOSEK")
    with pytest.raises(SettingsError, match="a name .* or a Solver; got 3"):
        resolve(3)


def test_settings_by_other_names():
    assert resolve("SCS", {"eps": 1e-6, "max_iters": 500, "acceleration_lookback": 0}) == SCS(
        tol=1e-6, max_iter=500, acceleration_lookback=0
    )
    assert resolve("CLARABEL", {"tol_gap_abs": 1e-7, "tol_feas": 1e-9, "tol_gap_rel": 1e-8}) == Clarabel(tol=1e-9)
    assert resolve("ECOS", {"abstol": 1e-7, "reltol": 1e-7, "feastol": 1e-6}).tol == 1e-7
    assert resolve("DIFFCP", {"mode": "lsqr", "n_jobs_forward": 2, "eps": 1e-5}) == DiffCP(
        mode="lsqr", threads=2, tol=1e-5
    )
    assert resolve("SCS", {"n_jobs_forward": -1}).threads is None
    assert resolve(Clarabel(max_iter=7), {"eps": 1e-5}) == Clarabel(max_iter=7, tol=1e-5)
    assert resolve(Clarabel) == Clarabel()


def test_settings_that_a_solver_lacks():
    with pytest.raises(SettingsError, match="Clarabel has no setting 'acceleration_lookback'"):
        resolve("CLARABEL", {"acceleration_lookback": 0})
