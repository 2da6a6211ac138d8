"""The native solver by the registry, on the host: every outcome proved, with compiled kernels and without them."""

import numpy as np
import pytest

from cvxlayers.conic.program import ConicSolution, DenseData
from cvxlayers.sets import Product
from cvxlayers.solvers import Native, resolve
from cvxlayers.solvers.solver import Solver
from tests.solvers.check_solver import check_solver
from tests.solvers.problems import dense_program
from tests.solvers.random_programs import CONES, Programs, faces, families, random_cone, strict


def by(solver: Solver, programs: Programs) -> ConicSolution:
    prepared = solver.prepare(dense_program(programs.cone.blocks, programs.n))
    return prepared.solve(DenseData(programs.batch, *programs.arrays, np.zeros(())))


@pytest.mark.parametrize("kind", CONES)
@pytest.mark.parametrize("compiled", [True, False])
def test_every_outcome_is_proved(kind, compiled):
    for programs in families(Product(CONES[kind]), 4, 3, seed=20):
        check_solver(programs, by(resolve("native", {"compiled": compiled}), programs))


@pytest.mark.parametrize("compiled", [True, False])
def test_proofs_on_a_face(compiled):
    """The other entries of the ray only tend to zero, and nothing cancels them."""
    for programs in faces():
        check_solver(programs, by(Native(compiled=compiled), programs))


@pytest.mark.parametrize("n", [1, 9])
def test_one_variable_and_many(n):
    for programs in families(Product(CONES["everything"]), n, 3, seed=21):
        check_solver(programs, by(Native(), programs))


@pytest.mark.parametrize("seed", range(4))
def test_random_cones(seed):
    rng = np.random.default_rng(seed)
    for _ in range(3):
        for programs in families(random_cone(rng), int(rng.integers(1, 9)), 3, int(rng.integers(1000))):
            check_solver(programs, by(Native(), programs))


@pytest.mark.parametrize("kind", ["linear", "second_order", "semidefinite", "everything"])
def test_compiled_and_array_text_agree(kind):
    programs = strict(Product(CONES[kind]), 4, 6, seed=22)
    one, other = (by(Native(compiled=compiled), programs) for compiled in (True, False))
    np.testing.assert_array_equal(one.status, other.status)
    np.testing.assert_allclose(one.x, other.x, atol=2e-4)
    f = [0.5 * np.vecdot(x, (programs.P @ x[..., None])[..., 0]) + np.vecdot(programs.q, x) for x in (one.x, other.x)]
    np.testing.assert_allclose(f[0], f[1], rtol=1e-6, atol=1e-6)
