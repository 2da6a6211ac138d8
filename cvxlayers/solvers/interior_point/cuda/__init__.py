"""The native solver as CUDA kernels: one launch solves a batch, one thread block a problem."""

from cvxlayers.solvers.interior_point.cuda.kernels import fits, in_parts, linear_solve, pair, solve, sparse
from cvxlayers.solvers.interior_point.cuda.sparsity import Sparsity

__all__ = ["Sparsity", "fits", "in_parts", "linear_solve", "pair", "solve", "sparse"]
