"""Ordinary quadratic and conic programs against CVXPY."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

from tests.canonical.reference import agrees


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def duals(constraints):
    return [dual for constraint in constraints for dual in constraint.dual_variables]


def test_quadratic_program(rng):
    x, p, A = cp.Variable(3), cp.Parameter(3), cp.Parameter((2, 3))
    p.value, A.value = rng.normal(size=3), rng.normal(size=(2, 3))
    constraints = [A @ x <= 1, x >= 0, cp.sum(x) == 1]
    agrees(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), constraints), [x, *duals(constraints)])
