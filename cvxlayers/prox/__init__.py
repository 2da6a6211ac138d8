"""Proximal operators and their calculus."""

from cvxlayers.prox.fidelity import LeastSquares, LeastSquaresOperator, Quadratic
from cvxlayers.prox.groups import L21, GroupLasso
from cvxlayers.prox.indicator import Indicator
from cvxlayers.prox.losses import Entropy, Hinge, KullbackLeibler, LogBarrier, Logistic, Poisson, SquaredHinge
from cvxlayers.prox.nonconvex import L0, MCP, SCAD, LogSum, Lq, TruncatedQuadratic
from cvxlayers.prox.norms import L2, SLOPE, HuberNorm, L1MinusL2, LInfinity, Max, SumLargest
from cvxlayers.prox.operator import Primitive, Prox
from cvxlayers.prox.separable import L1, ElasticNet, Huber, Linear, NonnegativeL1, Quantile, Ridge, Zero

__all__ = [
    "ElasticNet",
    "Entropy",
    "GroupLasso",
    "Hinge",
    "Huber",
    "HuberNorm",
    "Indicator",
    "KullbackLeibler",
    "L0",
    "L1",
    "L1MinusL2",
    "L2",
    "L21",
    "LInfinity",
    "LeastSquares",
    "LeastSquaresOperator",
    "Linear",
    "LogBarrier",
    "LogSum",
    "Logistic",
    "Lq",
    "MCP",
    "Max",
    "NonnegativeL1",
    "Poisson",
    "Primitive",
    "Prox",
    "Quadratic",
    "Quantile",
    "Ridge",
    "SCAD",
    "SLOPE",
    "SquaredHinge",
    "SumLargest",
    "TruncatedQuadratic",
    "Zero",
]
