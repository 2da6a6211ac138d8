"""Reject what cannot become a layer, and say where and why."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import cvxpy as cp
from cvxpy import settings
from cvxpy.atoms.affine.add_expr import AddExpression
from cvxpy.atoms.quad_form import QuadForm
from cvxpy.utilities import scopes

from cvxlayers.canonical.leaves import parameters_of
from cvxlayers.errors import ProblemError, SettingsError

_LENGTH = 200


def quote(node: object) -> str:
    """A CVXPY object as text, cut where it gets long."""
    text = " ".join(str(node).split())
    return text if len(text) <= _LENGTH else f"{text[: _LENGTH - 4]} ..."


def check_problem(problem: cp.Problem, gp: bool) -> None:
    """Raise ProblemError unless the problem is continuous, and disciplined and parametrized (DPP)."""
    if not isinstance(problem, cp.Problem):
        raise ProblemError(f"'problem' should be a cvxpy.Problem; got {type(problem).__name__}")
    for variable in problem.variables():
        if variable.attributes["boolean"] or variable.attributes["integer"]:
            raise ProblemError(
                f"variable '{variable.name()}' is boolean or integer: the solution map of a mixed-integer problem has "
                "no useful derivative. Relax it to a continuous variable, with bounds such as [0, 1]."
            )
    for constraint in problem.constraints:
        if type(constraint).__name__ == "FiniteSet":
            raise ProblemError(f"'{quote(constraint)}' makes the problem mixed-integer. Relax it to an interval.")
    if gp:
        _check_geometric(problem)
    else:
        _check_convex(problem)


def _check_convex(problem: cp.Problem) -> None:
    if not problem.is_dcp():
        culprit = _problem_culprit(problem, lambda e: e.is_dcp(), lambda c: c.is_dcp(), problem.objective.is_dcp())
        advice = "Rewrite it with convex atoms (see the DCP rules of CVXPY)."
        if isinstance(culprit, QuadForm) and culprit.args[1].parameters():
            advice = (
                "Declare the parameter PSD=True, or NSD=True for a concave form: symmetric=True does not say enough."
            )
        if problem.is_dgp():
            advice = "The problem is a geometric program: pass gp=True."
        elif problem.is_dqcp():
            advice = (
                "The problem is quasiconvex (DQCP), and is solved by bisection, which has no derivative: fix the level "
                "t of the objective as a parameter, and make the layer of the convex feasibility problem at t."
            )
        raise ProblemError(f"the problem is not convex by the DCP rules because of '{quote(culprit)}'. {advice}")
    objective: Any = problem.objective
    with _objective_scope():
        fits = objective.is_dcp(dpp=True)
    if fits and all(c.is_dcp(dpp=True) for c in problem.constraints) and all(map(_bounds_ok, problem.variables())):
        return
    culprit = _problem_culprit(
        problem, lambda e: e.is_dcp(dpp=True), lambda c: c.is_dcp(dpp=True), fits, parametric=True
    )
    raise ProblemError(f"the problem is not DPP because of '{quote(culprit)}'. {_advice(culprit)}")


def _check_geometric(problem: cp.Problem) -> None:
    for leaf in [*problem.parameters(), *problem.variables()]:
        wrong = [
            key for key in ("diag", "sparsity", "PSD", "NSD", "complex", "imag", "hermitian") if leaf.attributes[key]
        ]
        if wrong:
            raise ProblemError(
                f"'{leaf.name()}' is declared {wrong[0]}, but every entry of a geometric program is positive and real. "
                "Declare it with pos=True alone."
            )
    if not problem.is_dgp():
        culprit = _problem_culprit(problem, lambda e: e.is_dgp(), lambda c: c.is_dgp(), problem.objective.is_dgp())
        advice = "Declare variables and parameters with pos=True, and use posynomials."
        if problem.is_dcp():
            advice = "The problem is convex by the DCP rules: pass gp=False."
        raise ProblemError(f"the problem is not a geometric program (DGP) because of '{quote(culprit)}'. {advice}")
    objective: Any = problem.objective
    parametrized: Any = problem.is_dgp
    if not parametrized(dpp=True):
        culprit = _problem_culprit(
            problem,
            lambda e: e.is_dgp(dpp=True),
            lambda c: c.is_dgp(dpp=True),
            objective.is_dgp(dpp=True),
            parametric=True,
        )
        raise ProblemError(
            f"the geometric program is not DPP because of '{quote(culprit)}'. Exponents may be parameters only of "
            "expressions without parameters, and the parameters themselves positive."
        )


def _bounds_ok(variable: cp.Variable) -> bool:
    bounds = [bound for bound in variable.bounds or () if isinstance(bound, cp.Expression)]
    with scopes.dpp_scope():
        return all(bound.is_affine() for bound in bounds)


def _objective_scope():
    """Where CVXPY knows the rule: x'Px in the objective is affine in a parameter P."""
    scope = getattr(scopes, "quad_form_dpp_scope", None)
    return nullcontext() if scope is None else scope()


def _problem_culprit(
    problem: cp.Problem,
    expression_ok: Callable[[Any], bool],
    constraint_ok: Callable[[Any], bool],
    objective_ok: bool,
    parametric: bool = False,
) -> object:
    """The smallest expression that breaks the rules."""
    with ExitStack() as stack:
        if parametric:
            stack.enter_context(scopes.dpp_scope())
        if not objective_ok:
            stack.enter_context(_objective_scope())
            found: Any = _smallest([problem.objective.expr], expression_ok)
            if found is problem.objective.expr and isinstance(problem.objective.expr, AddExpression):
                # Each term is fine by itself: the one to name curves the wrong way.
                minimize = isinstance(problem.objective, cp.Minimize)
                wrong = [e for e in found.args if not (e.is_convex() if minimize else e.is_concave())]
                return wrong[0] if wrong else found
            return problem.objective if found is None else found
        for constraint in problem.constraints:
            if not constraint_ok(constraint):
                found = _smallest(constraint.args, expression_ok)
                return constraint if found is None else found
    for variable in problem.variables():
        if not _bounds_ok(variable):
            return variable.bounds
    return problem


def _smallest(nodes: Sequence[Any], ok: Callable[[Any], bool]) -> Any:
    """The first expression that is not ok while its arguments are; None if all nodes are ok."""
    for node in nodes:
        if not isinstance(node, cp.Constraint) and not ok(node):
            deeper = _smallest(node.args, ok)
            return node if deeper is None else deeper
    return None


def _advice(culprit: object) -> str:
    if isinstance(culprit, QuadForm):
        newer = "" if hasattr(scopes, "quad_form_dpp_scope") else " from CVXPY 1.9 on"
        return (
            f"x'Px with a parameter P is allowed{newer} in the objective, with P declared PSD=True and x free of "
            "parameters. Elsewhere pass a square root as the parameter: sum_squares(P_sqrt @ x)."
        )
    return (
        "Parameters must enter affinely: replace a product of parameters by a new parameter, or by a variable that an "
        "equality constraint sets to one of the factors."
    )


def check_backend(name: str | None) -> None:
    """Raise SettingsError unless this is None or the name of one of CVXPY's backends for canonicalization."""
    known = sorted(value for key, value in vars(settings).items() if re.fullmatch("[A-Z]+_CANON_BACKEND", key))
    if name is not None and name not in known:
        names = ", ".join(map(repr, dict.fromkeys(known)))
        raise SettingsError(f"'canon_backend' should be None or one of {names}; got {name!r}. Leave it out.")


def check_request(problem: cp.Problem, parameters: Sequence[cp.Parameter], variables: Sequence[object]) -> None:
    """Raise ProblemError unless ``parameters`` are those of the problem and ``variables`` what it solves for."""
    for name, given in (("parameters", parameters), ("variables", variables)):
        if not isinstance(given, (list, tuple)):
            raise ProblemError(f"'{name}' should be a list or tuple; got {type(given).__name__}")
    known = {parameter.id: parameter for parameter in parameters_of(problem)}
    seen: set[int] = set()
    for k, parameter in enumerate(parameters):
        if not isinstance(parameter, cp.Parameter):
            raise ProblemError(f"'parameters[{k}]' should be a cvxpy.Parameter; got {type(parameter).__name__}")
        if parameter.id not in known:
            raise ProblemError(
                f"'parameters[{k}]' ('{parameter.name()}') is not in the problem. Remove it, or use it in the problem."
            )
        if parameter.id in seen:
            raise ProblemError(f"'parameters[{k}]' ('{parameter.name()}') is listed twice. Remove one of them.")
        seen.add(parameter.id)
    missing = [parameter.name() for identity, parameter in known.items() if identity not in seen]
    if missing:
        raise ProblemError(
            f"the problem has parameters that 'parameters' does not list: {', '.join(missing)}. List every parameter; "
            "what never changes can be a constant."
        )
    _check_variables(problem, variables)


def _check_variables(problem: cp.Problem, variables: Sequence[object]) -> None:
    known = {variable.id for variable in problem.variables()}
    constraints = {constraint.id for constraint in problem.constraints}
    duals = {dual.id for constraint in problem.constraints for dual in constraint.dual_variables}
    seen: set[tuple[str, int]] = set()
    for k, variable in enumerate(variables):
        if isinstance(variable, cp.Variable):
            key = ("variable", variable.id)
            found = variable.id in known | duals
        elif isinstance(variable, cp.Constraint):
            key = ("constraint", variable.id)
            found = variable.id in constraints
        else:
            raise ProblemError(
                f"'variables[{k}]' should be a cvxpy.Variable of the problem, a constraint's dual_variables[i], or a "
                f"constraint (for its slack); got {type(variable).__name__}"
            )
        if not found:
            raise ProblemError(f"'variables[{k}]' ('{quote(variable)}') is not in the problem. Remove it.")
        if key in seen:
            raise ProblemError(f"'variables[{k}]' ('{quote(variable)}') is listed twice. Remove one of them.")
        seen.add(key)
