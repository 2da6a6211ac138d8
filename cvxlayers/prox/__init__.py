"""Proximal operators and their calculus."""

from cvxlayers.prox.affine import AffineSet, Halfspace, Hyperplane, Slab
from cvxlayers.prox.balls import L1Ball, L1Sphere, L2Ball, L2Sphere
from cvxlayers.prox.box import Box, LInfinityBall, Orthant
from cvxlayers.prox.calculus import (
    Conjugate,
    Diagonal,
    InfimalPostcomposition,
    MoreauEnvelope,
    Precomposed,
    Regularized,
    Scaled,
    Stretched,
    Tilted,
    Translated,
)
from cvxlayers.prox.check import CheckFailed, check_prox
from cvxlayers.prox.distance import Distance, SquaredDistance
from cvxlayers.prox.epigraph import NormEpigraph
from cvxlayers.prox.fidelity import LeastSquares, LeastSquaresOperator, Quadratic
from cvxlayers.prox.graph_net import GraphNet
from cvxlayers.prox.groups import L21, GroupLasso
from cvxlayers.prox.indicator import Indicator
from cvxlayers.prox.losses import Entropy, Hinge, KullbackLeibler, LogBarrier, Logistic, Poisson, SquaredHinge
from cvxlayers.prox.nonconvex import L0, MCP, SCAD, LogSum, Lq, TruncatedQuadratic
from cvxlayers.prox.norms import L2, SLOPE, HuberNorm, L1MinusL2, LInfinity, Max, SumLargest
from cvxlayers.prox.one_dimensional import FusedLasso, Monotone, TotalVariation1D, isotonic_regression
from cvxlayers.prox.operator import Primitive, Prox
from cvxlayers.prox.overlapping_groups import OverlappingGroupLasso
from cvxlayers.prox.polyhedron import Polyhedron
from cvxlayers.prox.separable import L1, ElasticNet, Huber, Linear, NonnegativeL1, Quantile, Ridge, Zero
from cvxlayers.prox.set import Set
from cvxlayers.prox.simplex import CappedSimplex, Simplex, SparseSimplex
from cvxlayers.prox.sparse import GroupL0Ball, L0Ball
from cvxlayers.prox.spectral import NuclearNorm, Rank, SpectralNorm, WeightedNuclearNorm
from cvxlayers.prox.spectral_functions import Eigenvalues, SingularValues
from cvxlayers.prox.spectral_sets import NuclearBall, RankBall, SpectralBall, Stiefel
from cvxlayers.prox.sum import Separable, Sum
from cvxlayers.prox.total_generalized_variation import TotalGeneralizedVariation
from cvxlayers.prox.total_variation import TotalVariation
from cvxlayers.prox.transport import Birkhoff, TransportPolytope
from cvxlayers.prox.wrap import Wrapped

__all__ = [
    "AffineSet",
    "Birkhoff",
    "Box",
    "CappedSimplex",
    "CheckFailed",
    "Conjugate",
    "Diagonal",
    "Distance",
    "Eigenvalues",
    "ElasticNet",
    "Entropy",
    "FusedLasso",
    "GraphNet",
    "GroupL0Ball",
    "GroupLasso",
    "Halfspace",
    "Hinge",
    "Huber",
    "HuberNorm",
    "Hyperplane",
    "Indicator",
    "InfimalPostcomposition",
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
    "Monotone",
    "MoreauEnvelope",
    "NonnegativeL1",
    "NormEpigraph",
    "NuclearBall",
    "NuclearNorm",
    "Orthant",
    "OverlappingGroupLasso",
    "Poisson",
    "Polyhedron",
    "Precomposed",
    "Primitive",
    "Prox",
    "Quadratic",
    "Quantile",
    "Rank",
    "RankBall",
    "Regularized",
    "Ridge",
    "SCAD",
    "SLOPE",
    "Scaled",
    "Separable",
    "Set",
    "Simplex",
    "SingularValues",
    "Slab",
    "SparseSimplex",
    "SpectralBall",
    "SpectralNorm",
    "SquaredDistance",
    "SquaredHinge",
    "Stiefel",
    "Stretched",
    "Sum",
    "SumLargest",
    "Tilted",
    "TotalGeneralizedVariation",
    "TotalVariation",
    "TotalVariation1D",
    "Translated",
    "TransportPolytope",
    "TruncatedQuadratic",
    "WeightedNuclearNorm",
    "Wrapped",
    "Zero",
    "check_prox",
    "isotonic_regression",
]
