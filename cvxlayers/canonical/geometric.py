"""Geometric programs: the change of variables x = exp(u) that makes them convex."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
from cvxpy.reductions.dgp2dcp.dgp2dcp import Dgp2Dcp

from cvxlayers.canonical.leaves import bounds_of, leaves, unbounded
from cvxlayers.canonical.rewrite import Rewriter
from cvxlayers.errors import ProblemError


@dataclass(frozen=True)
class Logarithmic:
    """A convex program in the logarithms of the variables; parameters enter as their logarithm, or as exponents.

    ``variables`` and ``parameters`` take the ids of the user's leaves to the leaves that stand for their logarithm;
    ``constraints`` start with the user's, in order.
    """

    objective: cp.Minimize | cp.Maximize
    constraints: list[cp.Constraint]
    variables: Mapping[int, cp.Variable]
    parameters: Mapping[int, cp.Parameter]


def take_logarithms(objective: cp.Minimize | cp.Maximize, constraints: list[cp.Constraint]) -> Logarithmic:
    """Rewrite a disciplined geometric program as a convex one."""
    rewriter = Rewriter()
    bare: dict[int, cp.Variable] = {}
    bounds: list[cp.Constraint] = []
    for leaf in leaves([objective.expr, *constraints]):
        if isinstance(leaf, cp.Variable) and leaf.bounds is not None:
            bare[leaf.id] = unbounded(leaf)
            rewriter.replace(leaf, bare[leaf.id])
            bounds += bounds_of(leaf, bare[leaf.id])
    inner = [rewriter.constraint(constraint) for constraint in constraints]
    program = cp.Problem(type(objective)(rewriter.expression(objective.expr)), inner + bounds + rewriter.extra)
    reduction: Any = Dgp2Dcp()
    try:
        convex, inverse = reduction.apply(program)
    except Exception as error:
        raise ProblemError(
            f"CVXPY cannot take logarithms of the problem: {type(error).__name__}: {error}. "
            "Bounds of variables must be positive, and posynomials like everything else."
        ) from error
    variables, rewriter = {}, Rewriter()
    for old, new in reduction.canon_methods._variables.items():
        variables[old.id] = new
        if old.attributes["symmetric"] and not new.attributes["symmetric"]:
            variables[old.id] = cp.Variable(new.shape, symmetric=True)
            rewriter.replace(new, variables[old.id])
    by_id = {constraint.id: constraint for constraint in convex.constraints}
    ids = [inverse.cons_id_map[constraint.id] for constraint in inner]
    others = [constraint for constraint in convex.constraints if constraint.id not in set(ids)]
    return Logarithmic(
        objective=type(objective)(rewriter.expression(convex.objective.expr)),
        constraints=[rewriter.constraint(constraint) for constraint in [*(by_id[k] for k in ids), *others]],
        variables={**variables, **{identity: variables[v.id] for identity, v in bare.items() if v.id in variables}},
        parameters={old.id: new for old, new in reduction.canon_methods._parameters.items()},
    )
