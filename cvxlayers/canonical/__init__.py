"""CVXPY problems in affine-solver-affine form; the only part of the library that imports CVXPY."""

from cvxlayers.canonical.build import build, current_values, everything
from cvxlayers.canonical.check import check_backend
from cvxlayers.canonical.form import AffineSolverAffine, Lift, Output, Parameter

__all__ = [
    "AffineSolverAffine",
    "Lift",
    "Output",
    "Parameter",
    "build",
    "check_backend",
    "current_values",
    "everything",
]
