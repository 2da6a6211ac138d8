"""Random problems with a solution, of every kind, each from one seed."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
from cvxpy.constraints import PowCone3D

from tests.layers.problems import Case, case

KINDS = ("quadratic", "linear", "second_order", "semidefinite", "exponential", "power", "mixed")


def draw(kind: str, seed: int) -> Case:
    """A problem that is feasible and bounded, its parameters and values, and every variable and dual asked for."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    n, m, k = int(rng.integers(1, 6)), int(rng.integers(1, 6)), int(rng.integers(0, 2))
    x, inside = cp.Variable(n), rng.normal(size=n)
    given: dict[cp.Parameter, np.ndarray] = {}

    def parameter(value, **attributes):
        made = cp.Parameter(np.shape(value), **attributes)
        given[made] = np.asarray(value, dtype=float)
        return made

    def half_spaces():
        A = rng.normal(size=(m, n))
        return parameter(A) @ x <= parameter(A @ inside + rng.uniform(0, 1, m))

    q = parameter(rng.normal(size=n))
    proximal = 0 if kind == "linear" else cp.sum_squares(x - parameter(rng.normal(size=n)))
    constraints: list[cp.Constraint] = []
    objective = q @ x
    if kind == "quadratic":
        constraints = [half_spaces()]
        objective += proximal + cp.sum_squares(parameter(rng.normal(size=(m, n))) @ x)
    elif kind == "linear":
        constraints = [half_spaces(), x >= parameter(inside - 1), x <= inside + 2]
    elif kind == "second_order":
        F, g = rng.normal(size=(m, n)), rng.normal(size=m)
        radius = np.linalg.norm(F @ inside - g) + rng.uniform(0.1, 1)
        constraints = [cp.norm(parameter(F) @ x - parameter(g)) <= parameter(radius), half_spaces()]
        objective += 0.5 * proximal
    elif kind == "semidefinite":
        matrices = [(S + S.T) / 2 for S in rng.normal(size=(n, 3, 3))]
        start = 0.5 * np.eye(3) - sum(v * S for v, S in zip(inside, matrices, strict=True))
        constraints = [
            parameter(start, symmetric=True) + sum(x[i] * S for i, S in enumerate(matrices)) >> 0,
            half_spaces(),
        ]
        objective += 0.5 * proximal
    elif kind == "exponential":
        rows = parameter(rng.normal(size=(m, n))) @ x
        objective += cp.sum(cp.logistic(rows)) + 0.3 * proximal + cp.exp(0.3 * x[0])
        constraints = [cp.log_sum_exp(x) <= np.log(np.exp(inside).sum()) + 0.5]
    elif kind == "power":
        constraints = [PowCone3D(x[0] - inside[0] + 1, 1 + 0.1 * cp.sum(x - inside), parameter(0.4), 0.3)]
        objective += proximal + cp.sum(cp.power(x, 4))
    else:
        constraints = [half_spaces(), cp.norm(x - inside, 1) <= parameter(2.0), cp.exp(x[0]) <= np.exp(inside[0]) + 1]
        constraints.append(cp.bmat([[3.0, x[0] - inside[0]], [x[0] - inside[0], 1.0]]) >> 0)
        objective += proximal + 0.3 * cp.norm(x) + cp.max(x)
    if k and n > 1 and kind != "power":
        row = rng.normal(size=(1, n))
        constraints.append(parameter(row) @ x == row @ inside)
    duals = [dual for constraint in constraints for dual in constraint.dual_variables]
    return case(cp.Problem(cp.Minimize(objective), constraints), given, [x, *duals])
