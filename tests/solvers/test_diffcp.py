"""diffcp's own derivative, through our conventions, against finite differences."""

import numpy as np
import pytest

from cvxlayers.conic.program import ConeData
from cvxlayers.errors import SettingsError
from cvxlayers.sets import Exponential, Nonnegative, PositiveSemidefinite, SecondOrder, Zero
from cvxlayers.solvers.clarabel import Clarabel
from cvxlayers.solvers.diffcp import DiffCP
from cvxlayers.status import Status
from tests.solvers.problems import CONES, dense_program, infeasible, solvable, unbounded

# Blocks, number of variables, and how well finite differences of solutions of curved problems do.
BLOCKS = {
    "linear": ((Zero(1), Nonnegative(4)), 3, 1e-6),
    "second_order": ((Nonnegative(1), SecondOrder(3)), 2, 1e-3),
    "semidefinite": ((Zero(1), PositiveSemidefinite(3)), 3, 1e-2),
    "exponential": ((Nonnegative(1), Exponential()), 2, 2e-2),
}


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("mode", ["dense", "lsmr", "lsqr", "lpgd", "lpgd_left", "lpgd_right"])
def test_adjoint_is_that_of_finite_differences(kind, mode):
    blocks, n, tolerance = BLOCKS[kind]
    program = dense_program(blocks, n, quadratic=False)
    data = solvable(program, 2, seed=2)
    rng = np.random.default_rng(0)
    gx = rng.standard_normal((2, n))
    nothing = np.zeros((2, program.m))
    prepared = DiffCP(mode=mode, tol=1e-10, tau=1e-4).prepare(program)
    solution = prepared.solve(data)
    assert (solution.status == Status.SOLVED).all()
    dq, dA, db = prepared.adjoint(solution, gx, nothing, nothing)
    reference = Clarabel(tol=1e-12).prepare(program)
    tq, tA, tb = (rng.standard_normal(v.shape) for v in (data.q, data.A, data.b))

    def loss(step):
        moved = ConeData(2, data.P, data.q + step * tq, data.A + step * tA, data.b + step * tb, data.r)
        return (gx * reference.solve(moved).x).sum(-1)

    expected = (loss(1e-4) - loss(-1e-4)) / 2e-4
    found = (dq * tq).sum(-1) + (dA * tA).sum(-1) + (db * tb).sum(-1)
    if mode.startswith("lpgd"):
        tolerance = max(tolerance, 1e-2)
    np.testing.assert_allclose(found, expected, atol=tolerance * max(1.0, np.abs(expected).max()))


def test_zeros_in_the_data_have_gradients():
    # minimize x1 + x2 subject to x >= b, -x1 + 0 x2 <= ...: the stored zeros of A are entries like any other.
    program = dense_program((Nonnegative(2),), 2, quadratic=False)
    data = ConeData(1, np.zeros(0), np.ones(2), np.array([-1.0, 0.0, 0.0, -1.0]), np.array([-1.0, -2.0]), np.zeros(()))
    prepared = DiffCP(mode="dense", tol=1e-10).prepare(program)
    solution = prepared.solve(data)
    np.testing.assert_allclose(solution.x, [[1.0, 2.0]], atol=1e-6)
    dq, dA, db = prepared.adjoint(solution, np.ones((1, 2)), np.zeros((1, 2)), np.zeros((1, 2)))
    # x = A^-1 b, so the gradient of the sum of x in A is -w x' for A'w = (1, 1): by column, (1, 1) x1 and (1, 1) x2
    np.testing.assert_allclose(dA, [[1.0, 1.0, 2.0, 2.0]], atol=1e-5)
    np.testing.assert_allclose(db, [[-1.0, -1.0]], atol=1e-5)
    np.testing.assert_allclose(dq, [[0.0, 0.0]], atol=1e-5)


@pytest.mark.parametrize("method", ["Clarabel", "SCS", "ECOS"])
def test_solvers_underneath(method):
    program = dense_program(CONES["second_order"], 4, quadratic=False)
    data = solvable(program, 2)
    found = DiffCP(solve_method=method).prepare(program).solve(data)
    assert (found.status <= Status.INACCURATE).all()
    np.testing.assert_allclose(found.x, Clarabel().prepare(program).solve(data).x, atol=1e-4)


def test_failures_have_certificates_and_zero_gradients():
    program = dense_program(CONES["linear"], 4, quadratic=False)
    prepared = DiffCP().prepare(program)
    bad, _ = infeasible(program, 1)
    good, ray = solvable(program, 1), unbounded(program, 1)
    parts = [good, bad, ray]
    data = ConeData(3, np.zeros(0), *(np.concatenate([getattr(d, k) for d in parts]) for k in ("q", "A", "b")), good.r)
    solution = prepared.solve(data)
    assert solution.status.tolist() == [Status.SOLVED, Status.INFEASIBLE, Status.UNBOUNDED]
    gradients = prepared.adjoint(solution, np.ones((3, 4)), np.zeros((3, program.m)), np.zeros((3, program.m)))
    assert all((g[1:] == 0).all() and np.isfinite(g).all() for g in gradients)
    assert np.abs(gradients[2][0]).max() > 0


def test_ecos_underneath_lacks_semidefinite_cones():
    with pytest.raises(SettingsError, match="solve_method='ECOS' lacks the cone PositiveSemidefinite"):
        DiffCP(solve_method="ECOS").prepare(dense_program(CONES["semidefinite"], 4, quadratic=False))
