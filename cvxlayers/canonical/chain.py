"""Run CVXPY's reductions up to the stuffed cone program, and find the variables and constraints in it again."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.sparse as sp
from cvxpy import settings
from cvxpy.constraints.power import PowCone3D
from cvxpy.constraints.second_order import SOC
from cvxpy.reductions.cvx_attr2constr import CvxAttr2Constr
from cvxpy.reductions.solvers.conic_solvers.conic_solver import ConicSolver

from cvxlayers.errors import ProblemError

# Its tensors are made with array operations only, whatever the number of parameters.
_BACKEND = settings.COO_CANON_BACKEND if hasattr(settings, "COO_CANON_BACKEND") else settings.SCIPY_CANON_BACKEND


class _Formatter(ConicSolver):
    """The end of the chain: takes every cone of ours and quadratic objectives, and hands the program back as it is."""

    SUPPORTED_CONSTRAINTS = [*ConicSolver.SUPPORTED_CONSTRAINTS, SOC, cp.PSD, cp.ExpCone, PowCone3D]
    EXP_CONE_ORDER = [0, 1, 2]

    def __init__(self, quadratic: bool) -> None:
        super().__init__()
        self.quadratic = quadratic

    def name(self) -> str:
        return "CVXLAYERS"

    def import_solver(self) -> None:
        """Nothing to import."""

    def supports_quad_obj(self) -> bool:
        return self.quadratic

    def apply(self, problem):
        return {settings.PARAM_PROB: problem}, {}

    def solve_via_data(self, data, warm_start, verbose, solver_opts, solver_cache=None):
        raise NotImplementedError

    def cite(self, data) -> str:
        return ""


@dataclass(frozen=True)
class Stuffed:
    """CVXPY's cone program, with tensors that map the stacked plain parameters (then a one) to its data.

    Minimize (1/2) x'Px + q'x + r subject to A x + b in the cones. Rows: P is n x n, q is n + 1 with r last, A is the
    columns of A and then b, one after the other. ``n`` counts the variables, ``width`` the plain scalar parameters.
    """

    P: sp.sparray | None
    q: sp.sparray
    A: sp.sparray
    n: int
    width: int
    constraints: tuple[cp.Constraint, ...]
    parameter_columns: Mapping[int, int]
    variables: Mapping[int, sp.csr_array]
    constraint_ids: Mapping[int, int]


def stuff(objective: cp.Minimize | cp.Maximize, constraints: list[cp.Constraint], quadratic: bool = True) -> Stuffed:
    """Apply the chain to a fresh problem, so that nothing is written on the caches of another."""
    problem = cp.Problem(objective, constraints)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found: Any = problem.get_problem_data(_Formatter(quadratic), enforce_dpp=True, canon_backend=_BACKEND)
        except Exception as error:
            raise ProblemError(
                f"CVXPY cannot canonicalize the problem: {type(error).__name__}: {error}. "
                "Check that problem.solve() works with the Clarabel solver; if it does, please report it."
            ) from error
    data, chain, inverse = found
    program = data[settings.PARAM_PROB]
    steps = list(zip(chain.reductions, inverse, strict=True))
    return Stuffed(
        P=program.P,
        q=program.q,
        A=program.A,
        n=program.x.size,
        width=program.q.shape[1] - 1,
        constraints=tuple(program.constraints),
        parameter_columns=program.param_id_to_col,
        variables={v.id: _variable(v, steps, program) for v in problem.variables()},
        constraint_ids={c.id: _follow(c.id, steps) for c in problem.constraints},
    )


def _variable(variable: cp.Variable, steps, program) -> sp.csr_array:
    """The map from x to the variable's value in C order."""
    final = variable
    for reduction, inverse in steps:
        if isinstance(reduction, CvxAttr2Constr) and inverse:
            final = inverse[0].get(variable.id, variable)
    offset = program.var_id_to_col.get(final.id)
    if offset is None:
        return sp.csr_array((variable.size, program.x.size))
    fortran = np.arange(variable.size).reshape(variable.shape).ravel(order="F")
    columns = offset + np.arange(variable.size)
    return sp.csr_array((np.ones(variable.size), (fortran, columns)), (variable.size, program.x.size))


def _follow(identity: int, steps) -> int:
    """The id under which a constraint ends up in the stuffed program."""
    for _, inverse in steps:
        if isinstance(inverse, tuple):
            ids = inverse[2] if inverse else {}
        elif isinstance(inverse, dict):
            ids = inverse.get("cons_id_map", {})
        else:
            ids = getattr(inverse, "cons_id_map", {})
        identity = ids.get(identity, identity)
    return identity
