"""What a convex cone can do: the protocol that every cone file fills in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

Array = Any


class Cone(ABC):
    """A closed convex cone K of vectors of length ``size``: the last axis of every array, leading axes are batch.

    ``project``, ``derivative`` and ``smooth`` run on NumPy, PyTorch and JAX arrays and can be differentiated by the
    two frameworks; ``eigen`` is NumPy only.

    Derivatives are those of the projection onto the *dual* cone K*, because the conic solution map needs them: with
    u = z - s, a primal-dual pair is z = Proj_K*(u) and s = Proj_K(-u), and D = D(z, s) is the derivative of Proj_K*
    at u: symmetric, 0 <= D <= I.
    """

    size: int

    @abstractmethod
    def project(self, u: Array) -> Array:
        """The nearest point of K."""

    def project_dual(self, u: Array) -> Array:
        """The nearest point of K*, by Moreau: u + Proj_K(-u)."""
        return u + self.project(-u)

    @abstractmethod
    def dual(self) -> Cone:
        """The dual cone K*, or a linear image of it where that is not a cone of this library (says its docstring)."""

    @abstractmethod
    def smooth(self, z: Array, s: Array, mu: float | Array) -> tuple[Array, Array]:
        """The pair on the central path with the same u = z - s: z + mu grad F*(z) = u, s = z - u; mu > 0.

        F* is the logarithmically homogeneous barrier of K*; z and s come back interior.
        """

    @abstractmethod
    def derivative(self, z: Array, s: Array, h: Array, mu: float | Array = 0.0) -> Array:
        """D h: exact at a pair on the boundary for ``mu=0``, else of the smoothed projection, at a ``smooth`` pair.

        D is symmetric, so this is jvp and vjp at once. Differentiable again in z, s and h (along pairs of the form
        z = Proj_K*(u), s = z - u), never NaN.
        """

    @abstractmethod
    def eigen(
        self, z: np.ndarray, s: np.ndarray, mu: float | np.ndarray = 0.0
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """D = V diag(lam) V': lam (..., size), orthogonal V (..., size, size) or None for the identity, and margin (...).

        ``margin`` in [0, 1] measures strict complementarity: 1 where the derivative is clear-cut, 0 at a kink of the
        projection. For ``mu=0``: an eigenvalue is snapped to its exact 0 or 1 where z and s differ by a factor above
        1e4, and kept at the smoothed element z/(z + s) (1/2 at 0/0) where they do not.
        """
