"""The edges of what a quadratic program can be, on every library, against an enumeration of the active sets."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest

from cvxlayers.sets import Nonnegative, Product, Zero
from cvxlayers.status import Status
from tests.interior_point.libraries import LIBRARIES, polished, run

Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def enumerated(equalities: int, P: np.ndarray, q: np.ndarray, A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """x by trying every set of active rows: stationary, feasible, with multipliers of the right sign."""
    m, n = A.shape
    rows = range(equalities, m)
    for active in chain.from_iterable(combinations(rows, k) for k in range(len(rows) + 1)):
        kept = [*range(equalities), *active]
        C, scale = A[kept], 1e-9 * (1 + np.abs(q).max())
        K = np.block([[P, C.T], [C, np.zeros((len(kept), len(kept)))]])
        u, right = np.linalg.lstsq(K, np.r_[-q, b[kept]], rcond=1e-12)[0], np.r_[-q, b[kept]]
        x, y = u[:n], u[n + equalities :]
        if np.abs(K @ u - right).max() < scale and (A @ x <= b + 1e-9).all() and (y >= -scale).all():
            return x
    raise AssertionError("no active set is optimal")


def drawn(seed: int) -> Data:
    """Two equalities, six inequalities, three variables: a definite P and rows that matter."""
    rng = np.random.default_rng(seed)
    A, root, x = rng.normal(size=(8, 3)), rng.normal(size=(3, 3)), rng.normal(size=3)
    slack = np.r_[0, 0, rng.uniform(0.05, 0.5, 6)]
    return root @ root.T + 0.1 * np.eye(3), 3 * rng.normal(size=3), A, A @ x + slack


def redundant() -> Data:
    """One equality and three inequalities, each of them twice."""
    P, q, A, b = drawn(1)
    twice = [0, 0, 2, 3, 4, 2, 3, 4]
    return P, q, A[twice], b[twice]


def linear() -> Data:
    P, q, A, b = drawn(2)
    box, x = np.r_[np.eye(3), -np.eye(3)], np.array([0.2, 0.3, 0.4])
    return 0 * P, q, np.r_[A[:1], 0 * A[:1], box], np.r_[A[0] @ x, 0, 1, 1, 1, 0, 0, 0]


def scaled() -> tuple[Data, np.ndarray]:
    """Rows and variables in units of their own, over six powers of ten, the cost times a thousand; and x."""
    P, q, A, b = drawn(3)
    rows, columns = 10.0 ** np.array([-3, 3, 2, -2, 0, 3, -3, 1]), 10.0 ** np.array([-3, 0, 3])
    data = 1e3 * columns[:, None] * P * columns, 1e3 * columns * q, rows[:, None] * A * columns, rows * b
    return data, enumerated(2, P, q, A, b) / columns


def only(rows: int) -> Data:
    P, q, A, b = drawn(4)
    return P, q, A[:rows], b[:rows]


BOTH = Product((Zero(2), Nonnegative(6)))
BOUNDS: Data = np.array([[2.0]]), np.array([-6.0]), np.array([[1.0], [-1.0]]), np.array([1.5, 0.0])
CASES: dict[str, tuple[Product, Data, np.ndarray]] = {
    "nothing special": (BOTH, drawn(0), enumerated(2, *drawn(0))),
    "redundant rows": (BOTH, redundant(), enumerated(2, *redundant())),
    "P = 0": (BOTH, linear(), enumerated(2, *linear())),
    "scaled by 1e6": (BOTH, *scaled()),
    "only equalities": (Product((Zero(2),)), only(2), enumerated(2, *only(2))),
    "no constraints": (Product(()), only(0), enumerated(0, *only(0))),
    "one variable": (Product((Nonnegative(2),)), BOUNDS, np.array([1.5])),
}


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", CASES)
def test_solutions(name, library):
    """x as the method leaves it, and to 1e-10 after Newton's method, relative to its entries, on every library."""
    cone, data, expected = CASES[name]
    units = np.maximum(1.0, np.abs(expected))
    out = run(library, cone, data)
    assert out.status == Status.SOLVED and (out.residuals <= 1e-7).all()
    np.testing.assert_allclose(out.x / units, expected / units, rtol=0, atol=1e-6)
    out = polished(library, cone, data)
    np.testing.assert_allclose(out.x / units, expected / units, rtol=0, atol=1e-10)
