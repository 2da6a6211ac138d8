"""The native solver as CUDA kernels: one launch solves a batch, one thread block a problem."""

from cvxlayers.solvers.interior_point.cuda.kernels import fits, in_parts, linear_solve, pair, solve

__all__ = ["fits", "in_parts", "linear_solve", "pair", "solve"]
