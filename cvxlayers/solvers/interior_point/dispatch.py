"""Which implementation serves arrays: the fused kernels of a GPU where they fit, else the array text."""

from __future__ import annotations

from typing import Any

from cvxlayers.conic import array_kkt
from cvxlayers.sets import Product
from cvxlayers.solvers.interior_point import method
from cvxlayers.solvers.interior_point.native import Native
from cvxlayers.solvers.interior_point.outcome import Outcome

Array = Any


def solve(cone: Product, P: Array, q: Array, A: Array, b: Array, settings: Native) -> Outcome:
    """Solutions of a batch of dense programs, on the device of the arrays; see `method.solve`."""
    return method.solve(cone, P, q, A, b, settings)


def linear_solve(
    cone: Product, P: Array, A: Array, z: Array, s: Array, gx: Array, gz: Array, settings: Native, mu: float = 0.0
) -> tuple[Array, Array, Array]:
    """(w_x, w_z, residual) of the derivative's system at solutions; see `cvxlayers.conic.array_kkt.linear_solve`."""
    return array_kkt.linear_solve(cone, P, A, z, s, gx, gz, mu)
