"""Convex optimization as a differentiable function, for PyTorch and JAX.

``cvxlayers.torch.CvxpyLayer`` and ``cvxlayers.jax.CvxpyLayer`` turn a CVXPY problem into a layer; ``cvxlayers.solve``
solves one without a framework, derivatives on request.
"""

from typing import TYPE_CHECKING

from cvxlayers.errors import CvxlayersError, ProblemError, SettingsError, ShapeError, SolverError
from cvxlayers.status import Status

if TYPE_CHECKING:
    from cvxlayers.one_off import solve

__version__ = "0.1.0"

__all__ = ["CvxlayersError", "ProblemError", "SettingsError", "ShapeError", "SolverError", "Status", "solve"]


def __getattr__(name: str):
    if name == "solve":  # imports CVXPY, which takes a second
        from cvxlayers.one_off import solve

        return solve
    raise AttributeError(f"module 'cvxlayers' has no attribute {name!r}")
