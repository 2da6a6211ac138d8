"""Proximal operators and their calculus."""

from cvxlayers.prox.affine import AffineSet, Halfspace, Hyperplane, Slab
from cvxlayers.prox.balls import L1Ball, L1Sphere, L2Ball, L2Sphere
from cvxlayers.prox.box import Box, LInfinityBall, Orthant
from cvxlayers.prox.fidelity import LeastSquares, LeastSquaresOperator, Quadratic
from cvxlayers.prox.groups import L21, GroupLasso
from cvxlayers.prox.indicator import Indicator
from cvxlayers.prox.losses import Entropy, Hinge, KullbackLeibler, LogBarrier, Logistic, Poisson, SquaredHinge
from cvxlayers.prox.nonconvex import L0, MCP, SCAD, LogSum, Lq, TruncatedQuadratic
from cvxlayers.prox.norms import L2, SLOPE, HuberNorm, L1MinusL2, LInfinity, Max, SumLargest
from cvxlayers.prox.operator import Primitive, Prox
from cvxlayers.prox.separable import L1, ElasticNet, Huber, Linear, NonnegativeL1, Quantile, Ridge, Zero
from cvxlayers.prox.simplex import CappedSimplex, Simplex, SparseSimplex
from cvxlayers.prox.sparse import GroupL0Ball, L0Ball
from cvxlayers.prox.spectral import NuclearNorm, Rank, SpectralNorm, WeightedNuclearNorm
from cvxlayers.prox.spectral_functions import Eigenvalues, SingularValues
from cvxlayers.prox.spectral_sets import NuclearBall, RankBall, SpectralBall, Stiefel

__all__ = [
    "AffineSet",
    "Box",
    "CappedSimplex",
    "Eigenvalues",
    "ElasticNet",
    "Entropy",
    "GroupL0Ball",
    "GroupLasso",
    "Halfspace",
    "Hinge",
    "Huber",
    "HuberNorm",
    "Hyperplane",
    "Indicator",
    "KullbackLeibler",
    "L0",
    "L0Ball",
    "L1",
    "L1Ball",
    "L1MinusL2",
    "L1Sphere",
    "L2",
    "L21",
    "L2Ball",
    "L2Sphere",
    "LInfinity",
    "LInfinityBall",
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
    "NuclearBall",
    "NuclearNorm",
    "Orthant",
    "Poisson",
    "Primitive",
    "Prox",
    "Quadratic",
    "Quantile",
    "Rank",
    "RankBall",
    "Ridge",
    "SCAD",
    "SLOPE",
    "Simplex",
    "SingularValues",
    "Slab",
    "SparseSimplex",
    "SpectralBall",
    "SpectralNorm",
    "SquaredHinge",
    "Stiefel",
    "SumLargest",
    "TruncatedQuadratic",
    "WeightedNuclearNorm",
    "Zero",
]
