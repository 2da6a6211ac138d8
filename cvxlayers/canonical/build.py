"""Canonicalize a CVXPY problem once: parameters to conic data, and conic solutions to variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from cvxlayers.canonical import outputs
from cvxlayers.canonical import parameters as plain
from cvxlayers.canonical.chain import Stuffed, stuff
from cvxlayers.canonical.check import check_problem, check_request
from cvxlayers.canonical.constraints import lower_constraint
from cvxlayers.canonical.form import AffineSolverAffine, Lift
from cvxlayers.canonical.geometric import take_logarithms
from cvxlayers.canonical.leaves import lower_leaves, parameters_of
from cvxlayers.canonical.objective import separate
from cvxlayers.canonical.rows import Rows, arrange
from cvxlayers.canonical.tensors import Columns, affine_map, entries, matrix_map
from cvxlayers.conic.program import ConeProgram


def build(
    problem: cp.Problem,
    parameters: Sequence[cp.Parameter],
    variables: Sequence[cp.Variable | cp.Constraint],
    gp: bool = False,
    quadratic: bool = True,
) -> AffineSolverAffine:
    """The affine-solver-affine form of a disciplined parametrized program.

    Parameters
    ----------
    problem : cvxpy.Problem
        A DPP problem; it is read, and neither solved nor changed.
    parameters : list of cvxpy.Parameter
        All parameters of the problem, in the order in which the layer takes their values.
    variables : list
        What the layer returns: variables of the problem, dual variables (``constraint.dual_variables[i]``), and
        constraints, which stand for their slack.
    gp : bool
        Read the problem as a disciplined geometric program.
    quadratic : bool
        Keep a quadratic objective; else it becomes a linear one over second-order cones, for solvers without.

    Raises
    ------
    ProblemError
        If the problem is not DPP or is mixed-integer, or if ``parameters`` or ``variables`` do not fit it.

    Examples
    --------
    >>> import cvxpy as cp
    >>> x, p = cp.Variable(2), cp.Parameter(2)
    >>> form = build(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0]), [p], [x])
    >>> form.program.n, form.program.m, [output.name for output in form.outputs] == [x.name()]
    (4, 4, True)
    """
    check_problem(problem, gp)
    check_request(problem, parameters, variables)
    objective, constraints = problem.objective, _distinct(problem.constraints)
    user = constraints
    logarithms, log_parameters = {}, {}
    if gp:
        convex = take_logarithms(objective, constraints)
        objective, constraints = convex.objective, convex.constraints
        logarithms, log_parameters = convex.variables, convex.parameters
    expression, constraints, implied, pieces = lower_leaves(objective.expr, constraints)
    lowered, arguments = [], []
    imaginary = [constraint.is_imag() for constraint in user]
    for k, constraint in enumerate(constraints):
        real, parts = lower_constraint(constraint, k < len(user) and imaginary[k])
        lowered += real
        arguments.append(parts)
    known = dict(zip((constraint.id for constraint in user), arguments[: len(user)], strict=True))
    for constraint in implied:
        lowered += lower_constraint(constraint)[0]
    if not cp.Problem(type(objective)(expression), lowered).variables():
        lowered.append(cp.Variable(name="none") == 0)
    curved, linear = separate(type(objective)(expression))
    stuffed = stuff(curved, lowered if linear is None else [*lowered, linear], quadratic)
    rows = arrange(stuffed.constraints, None if linear is None else stuffed.constraint_ids[linear.id])

    described, sources = [], []
    for i, parameter in enumerate(parameters):
        parts, transform = plain.locate(parameter, log_parameters.get(parameter.id), pieces, stuffed.parameter_columns)
        described.append(plain.describe(parameter, transform))
        sources += [(column, i, matrix) for column, matrix in parts]
    sizes = [parameter.size for parameter in described]
    columns = Columns(plain.stack(sources, stuffed.width, sizes), sizes)
    program, lift = _lift(stuffed, rows, columns)

    primal = {v.id: outputs.primal_matrix(logarithms.get(v.id, v), pieces, stuffed) for v in problem.variables()}
    owners = {dual.id: (c, j) for c in problem.constraints for j, dual in enumerate(c.dual_variables)}
    made = []
    for requested in variables:
        if isinstance(requested, cp.Constraint):
            if not gp and not all(argument.is_affine() for argument in requested.args):
                raise outputs.curved_slack(requested)
            if known[requested.id] is None:
                raise outputs.unknown_dual(requested)
            made.append(outputs.slack(requested, known[requested.id], stuffed, rows))
        elif requested.id in primal:
            made.append(outputs.primal(requested, primal[requested.id], gp))
        else:
            constraint, j = owners[requested.id]
            if known[constraint.id] is None:
                raise outputs.unknown_dual(constraint)
            made.append(outputs.dual(requested.name(), known[constraint.id][j], stuffed, rows))
    auxiliary = np.ones(stuffed.n, dtype=bool)
    for matrix in primal.values():
        auxiliary[matrix.indices] = False
    return AffineSolverAffine(
        program=program,
        parameters=tuple(described),
        lift=lift,
        outputs=tuple(replace(o, id=requested.id) for o, requested in zip(made, variables, strict=True)),
        auxiliary=auxiliary,
        sense=-1 if isinstance(objective, cp.Maximize) else 1,
        transform="exp" if gp else "identity",
    )


def _distinct(constraints: Sequence[cp.Constraint]) -> list[cp.Constraint]:
    """Each constraint once: listed twice it would share its dual variable with its copy."""
    return list({constraint.id: constraint for constraint in constraints}.values())


def _lift(stuffed: Stuffed, rows: Rows, columns: Columns) -> tuple[ConeProgram, Lift]:
    """The patterns of P and A, and the maps of the parameters to P, q, A, b and r."""
    n, height, m = stuffed.n, len(rows.target), rows.cone.size
    at, cols, values = entries(stuffed.A)
    variable, row = np.divmod(at, max(height, 1))
    i, values = rows.target[row], values * rows.scale[row]
    # One row may stand for linear terms of the objective, with the opposite sign: it is of q and r, not of A and b.
    linear, offset = i < 0, variable == n
    part = np.flatnonzero(~(linear | offset))
    A, A_map = matrix_map((m, n), i[part], variable[part], cols[part], -values[part], columns)
    part = np.flatnonzero(offset & ~linear)
    b_map = affine_map(m, i[part], cols[part], values[part], columns)
    terms = variable[linear], cols[linear], -values[linear]
    at, cols, values = (np.concatenate(parts) for parts in zip(entries(stuffed.q), terms, strict=True))
    r_part = at == n
    q_map = affine_map(n, at[~r_part], cols[~r_part], values[~r_part], columns)
    r_map = affine_map(1, at[r_part] - n, cols[r_part], values[r_part], columns)
    if stuffed.P is None:
        at = cols = np.zeros(0, dtype=np.int64)
        values = np.zeros(0)
    else:
        at, cols, values = entries(stuffed.P)
    j, i = np.divmod(at, n)
    # Of (P + P')/2 the upper triangle: an entry off the diagonal is half of the two mirrored ones.
    values = np.where(i == j, values, 0.5 * values)
    P, P_map = matrix_map((n, n), np.minimum(i, j), np.maximum(i, j), cols, values, columns)
    return ConeProgram(P, A, rows.cone), Lift(P_map, q_map, A_map, b_map, r_map)


def everything(problem: cp.Problem) -> tuple[list[cp.Parameter], list[cp.Variable | cp.Constraint]]:
    """All parameters of a problem, and all of its variables and dual variables, as `build` takes them."""
    duals = []
    for constraint in _distinct(problem.constraints):
        if lower_constraint(constraint)[1] is not None:
            duals += constraint.dual_variables
    return parameters_of(problem), [*problem.variables(), *duals]


def current_values(parameters: Sequence[cp.Parameter]) -> list[np.ndarray]:
    """The values that CVXPY holds for the parameters, as arrays of the parameters' shapes.

    Raises ProblemError for a parameter without a value.
    """
    values = []
    for parameter in parameters:
        value: Any = parameter.value_sparse if parameter.attributes["sparsity"] else parameter.value
        if value is None:
            raise plain.no_value(parameter)
        value = value.toarray() if sp.issparse(value) else value
        values.append(np.asarray(value, dtype=complex if parameter.is_complex() else float).reshape(parameter.shape))
    return values
