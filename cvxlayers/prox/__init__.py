"""Proximal operators and their calculus."""

from cvxlayers.prox.indicator import Indicator
from cvxlayers.prox.norms import L1
from cvxlayers.prox.operator import Primitive, Prox

__all__ = ["L1", "Indicator", "Primitive", "Prox"]
