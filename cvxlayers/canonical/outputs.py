"""Variables, dual variables and slacks as affine maps of the conic solution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from cvxlayers.canonical.chain import Stuffed
from cvxlayers.canonical.check import quote
from cvxlayers.canonical.constraints import Argument, slack_layout
from cvxlayers.canonical.form import Output
from cvxlayers.canonical.leaves import Pieces
from cvxlayers.canonical.rows import Rows
from cvxlayers.conic.affine import AffineMap
from cvxlayers.errors import ProblemError


def primal_matrix(variable: cp.Variable, pieces: Mapping[int, Pieces], stuffed: Stuffed) -> sp.csr_array:
    """The map from x to the vector of a variable."""
    if variable.id in pieces:
        split = pieces[variable.id]
        size = variable.size * (2 if variable.is_complex() else 1)
        total = sp.csr_array((size, stuffed.n))
        for plain, expand in zip(split.plain, split.expand, strict=True):
            if plain.id in stuffed.variables:
                total = total + expand @ stuffed.variables[plain.id]
        return sp.csr_array(total)
    if variable.id in stuffed.variables:
        return stuffed.variables[variable.id]
    return sp.csr_array((variable.size, stuffed.n))


def primal(variable: cp.Variable, matrix: sp.csr_array, gp: bool) -> Output:
    """The output for a variable; of a geometric program x holds the logarithm."""
    transform = "exp" if gp else "identity"
    return _output(variable.name(), variable.shape, "x", matrix, transform, variable.is_complex())


def dual(name: str, argument: Argument, stuffed: Stuffed, rows: Rows) -> Output:
    """The output for a dual variable of a constraint, with the sign that CVXPY gives it."""
    matrix = _collect(argument, stuffed, rows, slack=False)
    return _output(name, argument.shape, "z", matrix, "identity", argument.complex)


def slack(constraint: cp.Constraint, arguments: Sequence[Argument], stuffed: Stuffed, rows: Rows) -> Output:
    """The output for the slack of a constraint: the point of the cone that its arguments make up."""
    shape, parts = slack_layout(constraint)
    is_complex = any(argument.complex for argument in arguments)
    width = 2 if is_complex else 1
    size = int(np.prod(shape, dtype=int)) * width
    total = sp.csr_array((size, rows.cone.size))
    for argument, part in zip(arguments, parts, strict=True):
        matrix = _collect(argument, stuffed, rows, slack=True)
        target = width * part
        if argument.complex:
            target = (target[:, None] + np.arange(2)).ravel()
        place = sp.csr_array((np.ones(len(target)), (target, np.arange(len(target)))), (size, len(target)))
        total = total + place @ matrix
    return _output(quote(constraint), shape, "s", sp.csr_array(total), "identity", is_complex)


def _collect(argument: Argument, stuffed: Stuffed, rows: Rows, slack: bool) -> sp.csr_array:
    size = int(np.prod(argument.shape, dtype=int)) * (2 if argument.complex else 1)
    total = sp.csr_array((size, rows.cone.size))
    for term in argument.terms:
        index, factor = rows.entries(stuffed.constraint_ids[term.constraint], term.argument)
        weight = (term.slack if slack else term.dual) * factor[term.index]
        total = total + sp.csr_array((weight, (term.target, index[term.index])), total.shape)
    return sp.csr_array(total)


def curved_slack(constraint: cp.Constraint) -> ProblemError:
    """The error for the slack of a constraint that is not affine."""
    return ProblemError(
        f"the slack of '{quote(constraint)}' is not part of the solution, because its arguments are not affine: "
        "compute it from the variables, or give the curved expression a variable of its own."
    )


def unknown_dual(constraint: cp.Constraint) -> ProblemError:
    """The error for a constraint that the canonical form does not hold as it is."""
    return ProblemError(
        f"the dual variables and the slack of '{quote(constraint)}' are not available, because CVXPY approximates "
        f"{type(constraint).__name__} by other cones. Leave them out, or write the constraint with other cones."
    )


def _output(name, shape, source, matrix: sp.csr_array, transform, is_complex: bool) -> Output:
    size = len(matrix.indptr) - 1
    return Output(name, shape, source, AffineMap(np.zeros(size), {0: matrix}), transform, is_complex)
