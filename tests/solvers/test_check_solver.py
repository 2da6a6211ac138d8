"""The checks themselves: right solutions pass, and each way to spoil one is found out."""

from dataclasses import replace

import numpy as np
import pytest

from cvxlayers.conic.program import ConicSolution, DenseData
from cvxlayers.sets import Product
from cvxlayers.solvers.clarabel import Clarabel
from cvxlayers.status import Status
from tests.solvers.check_solver import check_solver
from tests.solvers.problems import dense_program
from tests.solvers.random_programs import CONES, Programs, families, infeasible, random_cone, strict, unbounded


def by_clarabel(programs: Programs) -> ConicSolution:
    prepared = Clarabel().prepare(dense_program(programs.cone.blocks, programs.n))
    return prepared.solve(DenseData(programs.batch, *programs.arrays, np.zeros(())))


@pytest.mark.parametrize("kind", CONES)
def test_the_constructions_end_as_they_say(kind):
    for programs in families(Product(CONES[kind]), 4, 3, seed=0):
        check_solver(programs, by_clarabel(programs))


def test_random_cones_too():
    rng = np.random.default_rng(0)
    for seed in range(10):
        cone, n = random_cone(rng), int(rng.integers(2, 8))
        for make in (strict, infeasible, unbounded):
            check_solver(programs := make(cone, n, 2, seed), by_clarabel(programs))


def refused(programs: Programs, solution: ConicSolution, **changes) -> None:
    with pytest.raises(AssertionError):
        check_solver(programs, replace(solution, **{"residuals": None, **changes}))


@pytest.mark.parametrize("kind", [kind for kind in CONES if kind != "zero"])
def test_spoiled_solutions_are_refused(kind):
    programs = strict(Product(CONES[kind]), 4, 3, seed=1)
    good = by_clarabel(programs)
    check_solver(programs, good)
    x, z, s, status = good.x.copy(), good.z.copy(), good.s.copy(), good.status.copy()
    x[1, 2] += 1e-5
    refused(programs, good, x=x)
    refused(programs, good, s=s + 1e-5)
    refused(programs, good, z=z * (1 + 1e-5))
    refused(programs, good, z=-z)
    refused(programs, good, x=x[:, ::-1], s=programs.b - (programs.A @ x[:, ::-1, None])[..., 0])
    for wrong in (Status.INFEASIBLE, Status.UNBOUNDED, Status.MAX_ITERATIONS, Status.INACCURATE):
        status[1] = wrong
        refused(programs, good, status=status)
    assert good.residuals is not None
    refused(programs, good, x=x + 1e-9, residuals=np.zeros_like(good.residuals))


def test_feasible_points_that_are_not_optimal_are_refused():
    programs = strict(Product(CONES["linear"]), 4, 3, seed=2)
    worse = replace(programs, q=programs.q + 1e-3)
    refused(programs, by_clarabel(worse))


@pytest.mark.parametrize("kind", ["linear", "semidefinite", "exponential", "everything"])
def test_spoiled_certificates_are_refused(kind):
    programs = infeasible(Product(CONES[kind]), 4, 3, seed=3)
    good = by_clarabel(programs)
    check_solver(programs, good)
    z = good.z.copy()
    z[0] *= 2.0
    refused(programs, good, z=z)
    refused(programs, good, z=-good.z)
    refused(programs, good, z=good.z + 1e-3 * np.abs(good.z).max())
    refused(programs, good, status=np.full(3, Status.SOLVED))
    programs = unbounded(Product(CONES[kind]), 4, 3, seed=4)
    good = by_clarabel(programs)
    check_solver(programs, good)
    refused(programs, good, x=1.001 * good.x)
    refused(programs, good, s=-good.s)
    refused(programs, good, x=good.x + 1e-3)
    refused(programs, good, status=np.full(3, Status.INFEASIBLE))
