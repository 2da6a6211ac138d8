"""The native solver: a batched interior-point method for all cones, on NumPy, PyTorch and JAX arrays."""

from cvxlayers.solvers.interior_point.dispatch import fixed, form, linear_solve, polish, solve
from cvxlayers.solvers.interior_point.native import Native
from cvxlayers.solvers.interior_point.outcome import Outcome

__all__ = ["Native", "Outcome", "fixed", "form", "linear_solve", "polish", "solve"]
