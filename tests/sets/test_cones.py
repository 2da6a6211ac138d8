"""Every cone does what every cone must do."""

import pytest

from cvxlayers.sets import (
    Dual,
    Exponential,
    Free,
    Nonnegative,
    PositiveSemidefinite,
    Power,
    Product,
    SecondOrder,
    Zero,
)
from tests.checks import CONE_CHECKS

CONES = [
    Zero(3),
    Free(2),
    Nonnegative(4),
    SecondOrder(1),
    SecondOrder(2),
    SecondOrder(4),
    PositiveSemidefinite(1),
    PositiveSemidefinite(3),
    Exponential(),
    Power(0.5),
    Dual(Power(0.2)),
    Product((Zero(1), Nonnegative(1), Nonnegative(2), SecondOrder(3), SecondOrder(3), PositiveSemidefinite(2))),
]


@pytest.mark.parametrize("cone", CONES, ids=repr)
@pytest.mark.parametrize("check", CONE_CHECKS, ids=lambda check: check.__name__)
def test_cone(check, cone):
    check(cone)
