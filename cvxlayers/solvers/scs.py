"""SCS: a first-order (operator splitting) method for every cone, for large problems and modest accuracy.

O'Donoghue, "Operator splitting for a homogeneous embedding of the linear complementarity problem",
doi 10.1137/20M1366307.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cvxlayers.conic.program import ConeData, ConeProgram, ConicSolution
from cvxlayers.sets import Exponential, Nonnegative, PositiveSemidefinite, Power, SecondOrder, Zero
from cvxlayers.solvers.ordering import Reordering, lower_triangles
from cvxlayers.solvers.settings import between, count, flag, positive
from cvxlayers.solvers.solver import ALL, Capabilities, Prepared, Solver, starting_point
from cvxlayers.status import Status


@dataclass(frozen=True, repr=False)
class SCS(Solver):
    """The splitting solver SCS, for all cones and quadratic objectives.

    ``tol`` is its eps_abs and eps_rel; ``acceleration_lookback`` the memory of its Anderson acceleration, 0 for none.

    >>> SCS(tol=1e-6).max_iter
    100000
    """

    max_iter: int = count(100000)
    time_limit: float = positive(math.inf)
    acceleration_lookback: int = count(10, least=0)
    acceleration_interval: int = count(10)
    scale: float = positive(0.1)
    rho_x: float = positive(1e-6)
    alpha: float = between(1.5, 0.0, 2.0)
    normalize: bool = flag(True)
    adaptive_scale: bool = flag(True)

    name = "SCS"
    package = "scs"
    capabilities = Capabilities(ALL, warm_start=True)

    def _prepare(self, program: ConeProgram) -> Prepared:
        return _Prepared(self, program)


class _Prepared(Prepared):
    """SCS takes the lower triangle of a semidefinite block, column by column; all else is as ours."""

    solver: SCS

    def __init__(self, solver: SCS, program: ConeProgram) -> None:
        super().__init__(solver, program)
        self._order = Reordering(program.A, lower_triangles(program.cone))
        self._cone = scs_cone(program)

    def _worker(
        self, data: ConeData, warm: ConicSolution | None, out: ConicSolution
    ) -> Callable[[Sequence[int]], None]:
        scs = self.solver.load()
        solver, program, order = self.solver, self.program, self._order
        settings = {
            "eps_abs": solver.tol,
            "eps_rel": solver.tol,
            "eps_infeas": min(solver.tol, 1e-7),
            "max_iters": solver.max_iter,
            "time_limit_secs": 0.0 if math.isinf(solver.time_limit) else solver.time_limit,
            "verbose": solver.verbose,
            "acceleration_lookback": solver.acceleration_lookback,
            "acceleration_interval": solver.acceleration_interval,
            "scale": solver.scale,
            "rho_x": solver.rho_x,
            "alpha": solver.alpha,
            "normalize": solver.normalize,
            "adaptive_scale": solver.adaptive_scale,
            "linear_solver": "qdldl",  # the same on every machine
        }

        def solve(elements: Sequence[int]) -> None:
            for i in elements:
                P, q, A, b = data.element(i)
                problem = {"A": order.matrix(A), "b": b[order.rows], "c": q.copy()}
                if program.P.nnz:
                    problem["P"] = program.P.csc(P)
                start = starting_point(warm, i)
                try:
                    workspace = scs.SCS(problem, self._cone, **settings)
                except ValueError:  # it found no factor
                    out.give_up(i)
                    continue
                if start is None:
                    result = workspace.solve(warm_start=False)
                else:
                    result = workspace.solve(x=start[0], y=start[1][order.rows], s=start[2][order.rows])
                out.status[i] = _STATUS.get(result["info"]["status_val"], Status.NUMERICAL_ERROR)
                out.iterations[i] = result["info"]["iter"]
                out.x[i] = result["x"]
                out.z[i, order.rows], out.s[i, order.rows] = result["y"], result["s"]

        return solve

    def _seconds(self, data: ConeData) -> float:
        return 1e-3 + 1e-6 * self.program.A.nnz


def scs_cone(program: ConeProgram) -> dict:
    """The cone in SCS's terms: z zero, l nonnegative, q second order, s semidefinite, ep exponential, p power."""
    blocks = program.cone.blocks
    size = {kind: sum(block.size for block in blocks if isinstance(block, kind)) for kind in (Zero, Nonnegative)}
    return {
        "z": size[Zero],
        "l": size[Nonnegative],
        "q": [block.size for block in blocks if isinstance(block, SecondOrder)],
        "s": [block.k for block in blocks if isinstance(block, PositiveSemidefinite)],
        "ep": sum(isinstance(block, Exponential) for block in blocks),
        "p": [block.alpha for block in blocks if isinstance(block, Power)],
    }


_STATUS = {
    1: Status.SOLVED,
    2: Status.MAX_ITERATIONS,  # a limit was reached; the residuals decide what the point is worth
    -1: Status.UNBOUNDED,
    -6: Status.UNBOUNDED,
    -2: Status.INFEASIBLE,
    -7: Status.INFEASIBLE,
}
