"""What users of cvxpylayers know works here: signature, solver names, settings; and what a solve says of itself."""

from __future__ import annotations

import inspect
import warnings

import cvxpy as cp
import numpy as np
import pytest
import torch

import cvxlayers
import cvxlayers.jax
import cvxlayers.torch
from cvxlayers import ProblemError, SettingsError, ShapeError, Status
from cvxlayers.solvers.clarabel import Clarabel
from cvxlayers.solvers.daqp import DAQP
from tests.layers import problems
from tests.layers.facts import close

LIBRARIES = [cvxlayers.torch, cvxlayers.jax]
libraries = pytest.mark.parametrize("library", LIBRARIES, ids=["torch", "jax"])


def projection():
    """The nearest point to p in {x >= 0, 1'x = 1}."""
    x, p = cp.Variable(3), cp.Parameter(3)
    constraints = [cp.sum(x) == 1, x >= 0]
    return cp.Problem(cp.Minimize(cp.sum_squares(x - p)), constraints), p, x, constraints


@libraries
def test_signature(library):
    """Names, order and defaults of cvxpylayers 1.2.0; ours come after them, by name only."""
    parameters = list(inspect.signature(library.CvxpyLayer.__init__).parameters.values())[1:]
    theirs = [p for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    empty = inspect.Parameter.empty
    assert [(p.name, p.default) for p in theirs] == [
        ("problem", empty),
        ("parameters", empty),
        ("variables", empty),
        ("solver", None),
        ("gp", False),
        ("verbose", False),
        ("canon_backend", None),
        ("solver_args", None),
    ]
    call = library.CvxpyLayer.forward if library is cvxlayers.torch else library.CvxpyLayer.__call__
    parameters = inspect.signature(call).parameters
    assert parameters["params"].kind is inspect.Parameter.VAR_POSITIONAL
    assert parameters["solver_args"].default is None and parameters["warm_start"].default is False


@libraries
def test_positional_arguments(library):
    problem, p, x, _ = projection()
    layer = library.CvxpyLayer(problem, [p], [x], "CLARABEL", False, False, "SCIPY", {"eps": 1e-9})
    result = layer(np.array([1.0, 0.5, -1.0]))
    assert isinstance(result, tuple) and len(result) == 1
    close(result[0], [0.75, 0.25, 0], 1e-6)


@libraries
@pytest.mark.parametrize(
    "solver",
    ["DIFFCP", "CLARABEL", "SCS", "ECOS", "diffcp", "clarabel", cp.CLARABEL, cp.SCS, cp.ECOS, cp.DIFFCP, None],
)
def test_solver_names(library, solver):
    x, p = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.norm(x - p)), [x >= 0])
    (got,) = library.CvxpyLayer(problem, [p], [x], solver=solver)(np.array([1.0, -2.0]))
    close(got, [1, 0], 1e-4)


@libraries
@pytest.mark.parametrize("solver", ["DIFFCP", "SCS", "ECOS"])
def test_solvers_without_quadratic_objectives(library, solver):
    """They lower the quadratic objective to a cone, as they do in cvxpylayers."""
    problem, p, x, _ = projection()
    (got,) = library.CvxpyLayer(problem, [p], [x], solver=solver)(np.array([1.0, 0.5, -1.0]))
    close(got, [0.75, 0.25, 0], 1e-4)


@libraries
def test_moreau_is_known_by_name(library):
    problem, p, x, _ = projection()
    try:
        layer = library.CvxpyLayer(problem, [p], [x], solver="MOREAU")
    except SettingsError as error:
        assert "pip install moreau" in str(error)
    else:
        close(layer(np.array([1.0, 0.5, -1.0]))[0], [0.75, 0.25, 0], 1e-5)


@libraries
@pytest.mark.parametrize(
    ("solver", "settings"),
    [
        (None, {"eps": 1e-9}),
        (None, {"max_iters": 100}),
        (None, {"tol": 1e-9, "max_iter": 100, "threads": 1}),
        ("CLARABEL", {"eps_abs": 1e-9, "eps_rel": 1e-9}),
        ("CLARABEL", {"tol_gap_abs": 1e-9, "tol_feas": 1e-9, "max_iter": 100}),
        ("SCS", {"eps": 1e-7, "max_iters": 10_000, "acceleration_lookback": 5}),
        ("ECOS", {"abstol": 1e-9, "feastol": 1e-9, "max_iters": 200}),
        (
            "DIFFCP",
            {"solve_method": "SCS", "eps": 1e-7, "max_iters": 10_000, "n_jobs_forward": 1, "n_jobs_backward": -1},
        ),
        ("DIFFCP", {"mode": "lsqr"}),
        (None, {"solve_method": "SCS", "eps": 1e-7}),
        (None, {"solve_method": "Clarabel"}),
        (Clarabel(tol=1e-9), {}),
        (Clarabel, {"tol": 1e-9}),
    ],
    ids=str,
)
def test_settings(library, solver, settings):
    x, p = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.norm(x - p) + cp.norm1(x)), [x >= -1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (at_once,) = library.CvxpyLayer(problem, [p], [x], solver=solver, solver_args=settings)(np.array([3.0, -2.0]))
        (later,) = library.CvxpyLayer(problem, [p], [x], solver=solver)(np.array([3.0, -2.0]), solver_args=settings)
    for got in (at_once, later):
        assert np.isfinite(np.asarray(got)).all()
        close(np.abs(np.asarray(got) - np.array([3.0, -2.0])).max() + np.abs(np.asarray(got)).sum(), value(got), 1e-3)


def value(x) -> float:
    x = np.asarray(x)
    return float(np.abs(x - np.array([3.0, -2.0])).max() + np.abs(x).sum())


@libraries
def test_unknown_settings_are_refused(library):
    problem, p, x, _ = projection()
    with pytest.raises(SettingsError, match="no setting 'toll'.* Did you mean 'tol'"):
        library.CvxpyLayer(problem, [p], [x], solver="CLARABEL", solver_args={"toll": 1e-9})
    layer = library.CvxpyLayer(problem, [p], [x], solver="CLARABEL")
    with pytest.raises(SettingsError, match="toll"):
        layer(np.zeros(3), solver_args={"toll": 1e-9})
    with pytest.raises(SettingsError, match="CLARABELL"):
        library.CvxpyLayer(problem, [p], [x], solver="CLARABELL")
    for name, wrong in (("gradient", "inexact"), ("on_failure", "ignore"), ("smoothing", 0.0), ("smoothing", -1.0)):
        with pytest.raises(SettingsError, match=name):
            library.CvxpyLayer(problem, [p], [x], **{name: wrong})
    with pytest.raises(SettingsError):
        library.CvxpyLayer(problem, [p], [x], solver_args={"tol": -1.0})
    with pytest.raises(SettingsError, match="PositiveSemidefinite"):
        X, C = cp.Variable((2, 2), PSD=True), cp.Parameter((2, 2))
        library.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(X - C))), [C], [X], solver="DAQP")


@libraries
def test_wrong_problems_are_refused(library):
    x, y, p, q = cp.Variable(2), cp.Variable(2), cp.Parameter(2), cp.Parameter()
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)))
    cases = [
        (problem, [], [x], "does not list"),
        (problem, [p, q], [x], "not in the problem"),
        (problem, [p], [y], "not in the problem"),
        (problem, [p, p], [x], "twice"),
        (problem, p, [x], "list or tuple"),
        (cp.Problem(cp.Minimize(cp.sum_squares(q * p[0] * x))), [p, q], [x], "not DPP"),
        (cp.Problem(cp.Maximize(cp.sum_squares(x - p))), [p], [x], "DCP"),
        (cp.Problem(cp.Minimize(cp.sum_squares(cp.Variable(2, integer=True) - p))), [p], [], "integer"),
    ]
    for wrong, parameters, variables, message in cases:
        with pytest.raises(ProblemError, match=message):
            library.CvxpyLayer(wrong, parameters, variables)


@libraries
def test_solver_args_of_a_call_hold_for_that_call(library):
    problem, p, x, _ = projection()
    layer = library.CvxpyLayer(problem, [p], [x], solver="CLARABEL", on_failure="nan")
    v = np.array([1.0, 0.5, -1.0])
    short = layer.solve(v, solver_args={"max_iter": 1})
    assert int(short.status) == Status.MAX_ITERATIONS and int(short.iterations) <= 1
    assert np.isnan(np.asarray(short.variables[0])).all()
    full = layer.solve(v)
    assert int(full.status) == 0 and int(full.iterations) > 1
    loose, tight = (layer.solve(v, solver_args={"eps": eps}) for eps in (1e-3, 1e-10))
    assert int(loose.iterations) < int(tight.iterations)
    assert np.asarray(tight.residuals).max() < 1e-9


@libraries
def test_gradients_after_solver_args_of_a_call(library):
    problem, p, x, _ = projection()
    layer = library.CvxpyLayer(problem, [p], [x])
    v = np.array([1.0, 0.5, -1.0])
    if library is cvxlayers.torch:
        t = torch.from_numpy(v).requires_grad_()
        layer(t, solver_args={"eps": 1e-10})[0][0].backward()
        gradient = t.grad
    else:
        import jax

        gradient = jax.jit(jax.grad(lambda v: layer(v, solver_args={"eps": 1e-10})[0][0]))(v)
    close(gradient, [0.5, -0.5, 0], 1e-6)


@libraries
@pytest.mark.parametrize("solver", [None, "CLARABEL", "SCS", DAQP()])
def test_warm_start(library, solver):
    problem, p, x, _ = projection()
    if solver == "SCS":
        problem = cp.Problem(cp.Minimize(cp.norm(x - p)), problem.constraints)
    cold = library.CvxpyLayer(problem, [p], [x], solver=solver)
    warm = library.CvxpyLayer(problem, [p], [x], solver=solver)
    rng = np.random.default_rng(0)
    v = rng.normal(size=(4, 3))
    for batch in (v, v + 1e-3, v[:2], v[0], v):  # a start of another batch is left alone
        a, b = cold.solve(batch), warm.solve(batch, warm_start=True)
        close(b.variables[0], a.variables[0], 1e-5)
    if solver == "SCS":
        again = warm.solve(v, warm_start=True)
        assert np.asarray(again.iterations).sum() < np.asarray(cold.solve(v).iterations).sum()


def test_warm_start_keeps_gradients():
    problem, p, x, _ = projection()
    layer = cvxlayers.torch.CvxpyLayer(problem, [p], [x])
    for k in range(3):
        v = torch.tensor([1.0 + 0.01 * k, 0.5, -1.0], dtype=torch.float64, requires_grad=True)
        layer(v, warm_start=True)[0][0].backward()
        close(v.grad, [0.5, -0.5, 0], 1e-6)


@libraries
def test_what_solve_returns(library):
    problem, p, x, (total, _) = projection()
    layer = library.CvxpyLayer(problem, [p], [x, total.dual_variables[0]])
    v = np.array([[1.0, 0.5, -1.0], [0.2, 0.3, 0.5]])
    result = layer.solve(v)
    assert len(result.variables) == 2
    close(result.variables[0], [[0.75, 0.25, 0], [0.2, 0.3, 0.5]], 1e-6)
    close(result.objective, [2 * 0.25**2 + 1, 0], 1e-6)
    assert np.asarray(result.status).tolist() == [0, 0] and result.residuals.shape == (2, 3)
    assert np.asarray(result.residuals).max() < 1e-7 and np.asarray(result.iterations).min() >= 0
    close(result[x.name()], result.variables[0], 0)
    certificate = result.certificate
    assert certificate.residual.shape == (2,) and certificate.unique.all() and (certificate.margin > 0.9).all()
    assert "SOLVED" in repr(result)
    scalar = layer.solve(v[0])
    assert (
        scalar.objective.shape == scalar.status.shape == scalar.iterations.shape == ()
        and scalar.residuals.shape == (3,)
    )


@libraries
def test_plan_and_repr(library):
    problem, p, x, _ = projection()
    layer = library.CvxpyLayer(problem, [p], [x])
    text = str(layer.plan())
    assert layer.plan().solver.name in text and "CLARABEL" in text and layer.plan().reason
    assert p.name() in repr(layer) and x.name() in repr(layer)


@libraries
def test_verbose_reaches_the_solver(library, capfd):
    problem, p, x, _ = projection()
    library.CvxpyLayer(problem, [p], [x], solver="CLARABEL", verbose=True)(np.zeros(3))
    assert "Clarabel" in capfd.readouterr().out
    library.CvxpyLayer(problem, [p], [x], solver="CLARABEL")(np.zeros(3))
    assert capfd.readouterr().out == ""
    library.CvxpyLayer(problem, [p], [x], solver="NATIVE", verbose=True)(np.array([[0.0, 1.0, 2.0], [1.0, 0.0, 2.0]]))
    if library is cvxlayers.torch:  # in JAX the native solver is part of the program
        assert capfd.readouterr().out.startswith("NATIVE: 2 SOLVED, largest residual ")


@libraries
def test_backends_of_cvxpy(library):
    problem, p, x, _ = projection()
    with pytest.raises(SettingsError, match="'canon_backend' should be None or one of .*'SCIPY'; got 'FOO'"):
        library.CvxpyLayer(problem, [p], [x], canon_backend="FOO")


@libraries
def test_settings_that_are_no_mapping(library):
    problem, p, x, _ = projection()
    with pytest.raises(SettingsError, match=r"'solver_args' should be a mapping.*got \['tol'\]"):
        library.CvxpyLayer(problem, [p], [x], solver_args=["tol"])
    with pytest.raises(SettingsError, match="'solver_args' should be a mapping"):
        library.CvxpyLayer(problem, [p], [x])(np.zeros(3), solver_args=["tol"])


@libraries
def test_the_class_of_a_solver_stands_for_its_defaults(library):
    problem, p, x, _ = projection()
    assert library.CvxpyLayer(problem, [p], [x], solver=DAQP).plan().solver == DAQP()


@libraries
def test_the_solver_that_lacks_quadratic_objectives_is_named(library):
    x, Q = cp.Variable(2), cp.Parameter((2, 2), PSD=True)
    problem = cp.Problem(cp.Minimize(cp.quad_form(x, Q) + cp.sum(x)))
    with pytest.raises(SettingsError, match="solver ECOS lacks quadratic objectives"):
        library.CvxpyLayer(problem, [Q], [x], solver_args={"solve_method": "ECOS"})


@libraries
def test_results_by_object_name_and_position(library):
    x, y, p = cp.Variable(2, name="x"), cp.Variable(name="x"), cp.Parameter(2)
    total = cp.sum(x) == 1
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + cp.square(y - 3)), [total])
    layer = library.CvxpyLayer(problem, [p], [x, y, total.dual_variables[0], total])
    result = layer.solve(np.ones((4, 2)))
    for k, key in enumerate((x, y, total.dual_variables[0], total)):
        assert result[key] is result[k] is result.variables[k]
    assert [v is w for v, w in zip(result, result.variables, strict=True)] == [True] * 4
    assert len(result) == 4 and x in result and "x" in result and p not in result and "y" not in result
    assert result[total.dual_variables[0].name()] is result[2]
    with pytest.raises(KeyError, match="there are several variables 'x'; all are x, x, "):
        result["x"]
    for wrong in ("y", p):
        with pytest.raises(KeyError, match=f"there is no variable '{wrong}'; all are x, x, "):
            result[wrong]
    with pytest.raises(IndexError, match="no variable 4; there are 4"):
        result[4]
    assert repr(result).startswith("Result(x, x, ")
    assert repr(result.certificate).startswith("Certificate(largest residual ")


def test_the_optimal_value_has_a_gradient():
    problem, p, x, _ = projection()
    point = torch.tensor([1.0, 0.5, -1.0], dtype=torch.float64, requires_grad=True)
    result = cvxlayers.torch.CvxpyLayer(problem, [p], [x]).solve(point)
    result.objective.backward()
    close(point.grad, 2 * (point - result[x]).detach(), 1e-6)


def test_devices_that_pytorch_does_not_know():
    problem, p, x, _ = projection()
    with pytest.raises(SettingsError, match="'device' should be one that PyTorch knows.*got 'gpu'"):
        cvxlayers.torch.CvxpyLayer(problem, [p], [x]).plan("gpu")


def test_what_solve_refuses():
    x, p = cp.Variable(2, name="x"), cp.Parameter(2, name="p", value=np.ones(2))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0])
    with pytest.raises(SettingsError, match="give settings as keywords"):
        cvxlayers.solve(problem, solver_args={"tol": 1e-9})
    with pytest.raises(ShapeError, match=r"'parameters' should be a mapping .*parameters \(p\).*got list"):
        cvxlayers.solve(problem, parameters=[np.ones(2)])
    with pytest.raises(ProblemError, match="p is not a parameter of the problem; these are: p. Use the CVXPY object"):
        cvxlayers.solve(problem, parameters={"p": np.ones(2)})
    for value, kind in ((torch.ones(2, requires_grad=True), "Tensor"), ("ab", "str")):
        with pytest.raises(ShapeError, match=f"parameter 'p' should be a NumPy array .* got {kind} .*detach|convert"):
            cvxlayers.solve(problem, parameters={p: value})
    result = cvxlayers.solve(problem)
    with pytest.raises(ShapeError, match="'cotangents' should be a mapping from the problem's variables.*got ndarray"):
        result.vjp(np.ones(2))
    with pytest.raises(ProblemError, match="x is not a variable .*; these are: x, .* Use the CVXPY object"):
        result.vjp({"x": np.ones(2)})
    with pytest.raises(ShapeError, match="'tangents' should be a mapping from the problem's parameters.*got ndarray"):
        result.jvp(np.ones(2))


@libraries
def test_two_layers_on_one_problem_and_the_problem_itself(library):
    problem, p, x, (total, positive) = projection()
    v = np.array([1.0, 0.5, -1.0])
    first = library.CvxpyLayer(problem, [p], [x])
    close(first(v)[0], [0.75, 0.25, 0], 1e-6)
    second = library.CvxpyLayer(problem, [p], [positive.dual_variables[0], x])
    p.value = np.array([0.0, 0.0, 3.0])
    problem.solve(solver=cp.CLARABEL)
    close(x.value, [0, 0, 1], 1e-5)
    close(second(v)[1], [0.75, 0.25, 0], 1e-6)
    close(first(v)[0], [0.75, 0.25, 0], 1e-6)
    close(library.CvxpyLayer(problem, [p], [x])(v)[0], [0.75, 0.25, 0], 1e-6)
    assert np.array_equal(p.value, [0.0, 0.0, 3.0])
    problem.solve(solver=cp.SCS, eps=1e-8)
    close(x.value, [0, 0, 1], 1e-5)


@libraries
def test_the_problem_is_not_changed(library):
    problem, p, x, (total, _) = projection()
    p.value = np.array([0.0, 0.0, 3.0])
    x.value = np.array([9.0, 9.0, 9.0])
    library.CvxpyLayer(problem, [p], [x])(np.zeros(3))
    assert problem.status is None and problem.value is None and total.dual_value is None
    assert np.array_equal(p.value, [0, 0, 3]) and np.array_equal(x.value, [9, 9, 9])


@libraries
def test_a_problem_that_cvxpy_solved_before(library):
    problem, p, x, _ = projection()
    p.value = np.array([0.0, 0.0, 3.0])
    for solver in (cp.CLARABEL, cp.SCS):
        problem.solve(solver=solver)
    close(library.CvxpyLayer(problem, [p], [x])(np.array([1.0, 0.5, -1.0]))[0], [0.75, 0.25, 0], 1e-6)


def test_every_case_has_a_plan():
    for name in problems.CASES:
        case = problems.get(name)
        layer = cvxlayers.torch.CvxpyLayer(case.problem, case.parameters, case.variables, gp=case.gp)
        assert layer.plan().solver.name in str(layer.plan())
