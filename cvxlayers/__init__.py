"""Convex optimization as a differentiable function, for PyTorch and JAX.

``cvxlayers.torch.CvxpyLayer`` and ``cvxlayers.jax.CvxpyLayer`` turn a CVXPY problem into a layer; ``cvxlayers.solve``
solves one without a framework, derivatives on request. ``problem.solve(solver=cvxlayers.Native())`` uses the native
solver, and ``cvxlayers.CvxpySolver(name)`` any other, inside CVXPY.
"""

from typing import TYPE_CHECKING

from cvxlayers.errors import CvxlayersError, ProblemError, SettingsError, ShapeError, SolverError
from cvxlayers.status import Status

if TYPE_CHECKING:
    from cvxlayers.canonical.custom_solver import CvxpySolver, Native
    from cvxlayers.one_off import solve

__version__ = "0.1.0"

__all__ = [
    "CvxlayersError",
    "CvxpySolver",
    "Native",
    "ProblemError",
    "SettingsError",
    "ShapeError",
    "SolverError",
    "Status",
    "solve",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str):
    # These import CVXPY, which takes a second.
    if name == "solve":
        from cvxlayers.one_off import solve

        return solve
    if name in ("CvxpySolver", "Native"):
        from cvxlayers.canonical import custom_solver

        return getattr(custom_solver, name)
    raise AttributeError(f"module 'cvxlayers' has no attribute {name!r}")
