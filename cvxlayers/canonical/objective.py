"""Take the piecewise-linear terms out of a quadratic objective, for CVXPY to canonicalize as a constraint.

CVXPY extracts a quadratic objective through a dense array with one row for each variable that is linear in it and one
column for each scalar parameter: gigabytes, for a matrix of parameters elsewhere in the problem. Constraints it
extracts sparsely. So the linear terms go through the chain as the constraint "terms <= 0", and the row that comes out
is added to the objective again.
"""

from __future__ import annotations

import cvxpy as cp
from cvxpy.atoms.affine.add_expr import AddExpression
from cvxpy.constraints.nonpos import Inequality


def separate(
    objective: cp.Minimize | cp.Maximize,
) -> tuple[cp.Minimize | cp.Maximize, Inequality | None]:
    """The objective without its linear terms, and the constraint whose one row is minus those terms (minimized)."""
    expression = objective.expr
    if not isinstance(expression, AddExpression) or not expression.has_quadratic_term():
        return objective, None
    linear = [term for term in expression.args if term.is_pwl()]
    curved = [term for term in expression.args if not term.is_pwl()]
    if not linear or not curved:
        return objective, None
    rest = sum(linear[1:], start=linear[0])
    carrier = rest <= 0 if isinstance(objective, cp.Minimize) else rest >= 0
    return type(objective)(sum(curved[1:], start=curved[0])), carrier
