"""Convex cones: the projection, its derivative, and what an interior-point method asks of them."""

from cvxlayers.sets.cone import Cone
from cvxlayers.sets.dual import Dual
from cvxlayers.sets.exponential import Exponential
from cvxlayers.sets.nonnegative import Nonnegative
from cvxlayers.sets.positive_semidefinite import PositiveSemidefinite
from cvxlayers.sets.power import Power
from cvxlayers.sets.product import Product
from cvxlayers.sets.rotated_second_order import RotatedSecondOrder
from cvxlayers.sets.second_order import SecondOrder
from cvxlayers.sets.zero import Free, Zero

__all__ = [
    "Cone",
    "Dual",
    "Exponential",
    "Free",
    "Nonnegative",
    "PositiveSemidefinite",
    "Power",
    "Product",
    "RotatedSecondOrder",
    "SecondOrder",
    "Zero",
]
