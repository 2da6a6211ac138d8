"""Statuses from arrays of any library, and what is said of many of them."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cvxlayers.solvers.interior_point import Outcome
from cvxlayers.status import Status, summary


@pytest.mark.parametrize("make", [np.array, jnp.array, torch.tensor], ids=["numpy", "jax", "torch"])
def test_elements_of_arrays(make):
    statuses = make([0, 2])
    assert Status(statuses[1]) is Status.INFEASIBLE
    for wrong in (make(7), statuses, make(0.5)):
        with pytest.raises(ValueError, match="not a valid Status|ambiguous"):
            Status(wrong)
    assert summary(statuses, make([[1e-9], [float("nan")]])) == "1 SOLVED, 1 INFEASIBLE, largest residual 1.0e-09"


def test_an_outcome_in_one_line():
    n = np.zeros((3, 500))
    found = Outcome(n, n, n, np.array([0, 0, 2]), np.zeros(3, int), np.full((3, 3), 1e-9))
    assert repr(found) == "Outcome(batch (3,): 2 SOLVED, 1 INFEASIBLE, largest residual 1.0e-09)"
