"""The compiled linear system of the derivative against NumPy's solution of the system as it is written."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cvxlayers.compiled.polyhedral import polyhedral_kkt


def random(batch: int, n: int, m: int, rhs: int = 1, seed: int = 0, most: int | None = None):
    """P, A, active, gx and gz with at most ``most`` active rows for each element."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((batch, n, n))
    P = root @ root.swapaxes(1, 2) + 0.1 * np.eye(n)
    active = np.zeros((batch, m), dtype=bool)
    for i in range(batch):
        count = rng.integers(0, (min(n, m) if most is None else most) + 1)
        active[i, rng.permutation(m)[:count]] = True
    A = rng.standard_normal((batch, m, n))
    return P, A, active, rng.standard_normal((rhs, batch, n)), rng.standard_normal((rhs, batch, m))


class System:
    """Room for what the kernel writes, and the kernel on it."""

    def __init__(self, P, A, active, rhs: int = 1) -> None:
        B, m = active.shape
        n, k = P.shape[-1], int(active.sum(-1).max(initial=0))
        self.given = P, A, active
        self.wx, self.wz = np.full((rhs, B, n), np.nan), np.full((rhs, B, m), np.nan)
        self.residual, self.failed = np.full(B, np.nan), np.zeros(B, dtype=bool)
        self.U, self.S = np.full((len(P), n, n), np.nan), np.full((B, k, k), np.nan)

    def __call__(self, gx, gz, factored: bool = False, start: int = 0, stop: int | None = None):
        stop = len(self.failed) if stop is None else stop
        factors = self.U, self.S, self.failed
        polyhedral_kkt(*self.given, gx, gz, self.wx, self.wz, self.residual, *factors, factored, start, stop)
        return self


def check_solves(P, A, active, gx, gz, system: System, elements=None, tol: float = 1e-9) -> None:
    """Against the system as it is written, element by element."""
    for i in range(len(active)) if elements is None else elements:
        W = A[i if len(A) > 1 else 0][active[i]]
        n, k = W.shape[1], len(W)
        K = np.block([[P[i if len(P) > 1 else 0], W.T], [W, np.zeros((k, k))]])
        for r in range(len(gx)):
            expected = np.linalg.solve(K, np.concatenate((gx[r, i], gz[r, i][active[i]])))
            scale = 1.0 + np.abs(expected).max(initial=0.0)
            np.testing.assert_allclose(system.wx[r, i], expected[:n], rtol=0, atol=tol * scale)
            np.testing.assert_allclose(system.wz[r, i][active[i]], expected[n:], rtol=0, atol=tol * scale)
            assert (system.wz[r, i][~active[i]] == 0.0).all()


@pytest.mark.parametrize(("n", "m", "rhs"), [(1, 1, 1), (1, 3, 2), (5, 0, 1), (4, 9, 3), (17, 11, 1), (40, 60, 2)])
def test_solves_the_system(n, m, rhs):
    P, A, active, gx, gz = random(12, n, m, rhs, seed=n, most=max(min(n, m) - 1, min(m, 1)))
    system = System(P, A, active, rhs)(gx, gz)
    assert not system.failed.any()
    assert system.residual.max() < 1e-12
    check_solves(P, A, active, gx, gz, system)


def test_factors_serve_again():
    P, A, active, gx, gz = random(6, 8, 12, 2, seed=3, most=6)
    system = System(P, A, active, 2)(gx, gz)
    first = system.wx.copy(), system.wz.copy()
    system(gx, gz, factored=True)
    np.testing.assert_array_equal(system.wx, first[0])
    np.testing.assert_array_equal(system.wz, first[1])
    system(gx[::-1].copy(), 2.0 * gz, factored=True)
    check_solves(P, A, active, gx[::-1], 2.0 * gz, system)


@pytest.mark.parametrize("own", ["none", "P", "A"])
def test_shared_matrices(own):
    P, A, active, gx, gz = random(7, 9, 14, 1, seed=5, most=7)
    P, A = P if own == "P" else P[:1], A if own == "A" else A[:1]
    system = System(P, A, active)(gx, gz)
    assert not system.failed.any()
    check_solves(P, A, active, gx, gz, system)
    system.wx[:] = np.nan
    check_solves(P, A, active, gx, gz, system(gx, gz, factored=True))


@pytest.mark.parametrize("shared", [False, True])
def test_the_same_bits_in_any_piece(shared):
    P, A, active, gx, gz = random(11, 12, 20, 2, seed=6, most=9)
    P, A = (P[:1], A[:1]) if shared else (P, A)
    whole, pieces = System(P, A, active, 2)(gx, gz), System(P, A, active, 2)
    for start, stop in ((7, 11), (0, 1), (1, 7)):
        pieces(gx, gz, False, start, stop)
    for name in ("wx", "wz", "residual", "failed"):
        np.testing.assert_array_equal(getattr(pieces, name), getattr(whole, name), err_msg=name)


def test_elements_that_are_left_to_others():
    """A singular P, dependent rows, more rows than variables: flagged, zero, and the neighbours are untouched."""
    P, A, active, gx, gz = random(6, 4, 8, 1, seed=7, most=2)
    good = System(P, A, active)(gx, gz)
    P[1, :, 2] = P[1, 2, :] = 0.0
    active[3, :2] = True
    A[3, 1] = -2.0 * A[3, 0]
    active[4] = True
    system = System(P, A, active)(gx, gz)
    assert system.failed.tolist() == [False, True, False, True, True, False]
    assert (system.wx[:, system.failed] == 0.0).all()
    assert (system.wz[:, system.failed] == 0.0).all()
    assert np.isinf(system.residual[system.failed]).all()
    for i in (0, 2, 5):
        np.testing.assert_array_equal(system.wx[:, i], good.wx[:, i])
        np.testing.assert_array_equal(system.wz[:, i], good.wz[:, i])
    again = system(gx, gz, factored=True)
    assert (again.wx[:, again.failed] == 0.0).all()


def test_ill_conditioned_systems_are_refined():
    P, A, active, gx, gz = random(20, 10, 15, 1, seed=8, most=6)
    basis = np.linalg.qr(np.random.default_rng(1).standard_normal((20, 10, 10)))[0]
    P = (basis * np.logspace(-6, 0, 10)) @ basis.swapaxes(1, 2)
    system = System(P, A, active)(gx, gz)
    solved = np.flatnonzero(~system.failed)
    assert len(solved) > 15
    # backward stable: small relative to the terms of the residual
    size = np.abs(system.wx[0]).max(-1) + np.abs(system.wz[0]).max(-1, initial=0.0)
    assert (system.residual[solved] <= 1e-14 * size[solved] + 1e-14).all()
    check_solves(P, A, active, gx, gz, system, solved, tol=1e-8)


def test_no_elements_and_no_right_hand_sides():
    P, A, active, gx, gz = random(3, 4, 5, 1)
    system = System(P, A, active)(gx, gz, False, 1, 1)
    assert np.isnan(system.wx).all()
    system = System(P, A, active, 0)(gx[:0], gz[:0])
    assert (system.residual == 0.0).all()


def test_interpreted_kernels_give_the_same_bits(tmp_path):
    """Without Numba the kernel is Python, which rounds every operation as IEEE 754 has it."""
    P, A, active, gx, gz = random(3, 9, 12, 1, seed=9, most=7)
    compiled = System(P, A, active)(gx, gz)
    np.savez(tmp_path / "data.npz", P=P, A=A, active=active, gx=gx, gz=gz)
    code = """
import sys
sys.modules["numba"] = None
import numpy as np
from cvxlayers.compiled.compiler import is_available
from cvxlayers.compiled.polyhedral import polyhedral_kkt
assert not is_available()
d = np.load("data.npz")
wx, wz, residual, failed = np.empty((1, 3, 9)), np.empty((1, 3, 12)), np.empty(3), np.zeros(3, dtype=bool)
k = d["active"].sum(-1).max()
factors = np.empty((3, 9, 9)), np.empty((3, k, k)), failed
polyhedral_kkt(d["P"], d["A"], d["active"], d["gx"], d["gz"], wx, wz, residual, *factors, False, 0, 3)
np.savez("solution.npz", wx=wx, wz=wz, residual=residual)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    interpreted = np.load(tmp_path / "solution.npz")
    for name in ("wx", "wz", "residual"):
        np.testing.assert_array_equal(getattr(compiled, name), interpreted[name])
