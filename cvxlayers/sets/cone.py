"""What a convex cone can do: the protocol that every cone file fills in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from numbers import Real
from typing import Any, TypeGuard

import numpy as np

from cvxlayers.array import moreau, namespace
from cvxlayers.errors import SettingsError, ShapeError

Array = Any


class Cone(ABC):
    """A closed convex cone K of vectors of length ``size``: the last axis of every array, leading axes are batch.

    Everything but ``eigen`` runs on NumPy, PyTorch and JAX arrays of a floating-point dtype, keeps dtype and device,
    and can be differentiated by the two frameworks; ``eigen`` is NumPy only.

    Derivatives are those of the projection onto the *dual* cone K*, because the conic solution map needs them: with
    u = z - s, a primal-dual pair is z = Proj_K*(u) and s = Proj_K(-u) (``pair``), and D = D(z, s) is the derivative
    of Proj_K* at u: symmetric, 0 <= D <= I.

    A cone file fills in ``dual``, ``eigen``, and the two formulas ``_pair`` and ``_derivative``; the base class checks
    arguments and attaches the derivative to ``pair``. Cones are frozen and hashable.
    """

    size: int
    _symmetric = False
    """Whether ``_derivative`` is one formula for the exact and the smoothed projection, free of ``mu``."""

    @abstractmethod
    def _pair(self, u: Array, mu: Any) -> tuple[Array, Array]:
        """``pair`` for mu None, else ``smooth``: new arrays, with no branch on values; never differentiated through."""

    @abstractmethod
    def _derivative(self, z: Array, s: Array, h: Array, mu: Any) -> Array:
        """``derivative``: exact for mu None, else smoothed."""

    def _check(self, *arrays: Array) -> None:
        xp = namespace(*arrays)
        for x in arrays:
            if x.ndim == 0 or x.shape[-1] != self.size:
                raise ShapeError(
                    f"a vector of {self!r} should end in ({self.size},); got {tuple(x.shape)}. "
                    "Batch dimensions come first."
                )
            if not xp.isdtype(x.dtype, "real floating"):
                raise ShapeError(f"a vector of {self!r} should have a floating-point dtype; got {x.dtype}. Convert it.")

    def _check_smooth(self, z: Array, s: Array, mu: Any) -> None:
        self._check(z, s)
        if is_number(mu) and not mu > 0:
            raise SettingsError(f"mu should be positive; got {mu!r}. The limit mu = 0 is `pair`.")

    def pair(self, u: Array) -> tuple[Array, Array]:
        """Moreau's decomposition u = z - s: z = Proj_K*(u), s = Proj_K(-u), z's = 0, of one evaluation.

        Shapes (*batch, size) to two arrays (*batch, size). At a kink the derivative is the element that ``derivative``
        returns. Raises ShapeError on a wrong last axis or an integer dtype.

        Source: J.-J. Moreau, Proximité et dualité dans un espace hilbertien, doi 10.24033/bsmf.1625.
        """
        self._check(u)
        return moreau(self, u)

    def project(self, u: Array) -> Array:
        """The nearest point of K: argmin over x in K of ||x - u||; (*batch, size) to (*batch, size)."""
        return self.pair(-u)[1]

    def project_dual(self, u: Array) -> Array:
        """The nearest point of K*, which is u + Proj_K(-u) by Moreau; (*batch, size) to (*batch, size)."""
        return self.pair(u)[0]

    @abstractmethod
    def dual(self) -> Cone:
        """The dual cone K* = {z: z's >= 0 for all s in K}."""

    def smooth(self, z: Array, s: Array, mu: float | Array) -> tuple[Array, Array]:
        """The pair on the central path with the same u = z - s: z = -mu grad F(s), equivalently s = -mu grad F*(z).

        F is the logarithmic barrier of K that the cone's file names and F* its conjugate barrier of K*; z and s come
        back interior, and tend to ``pair(u)`` as mu goes to 0. ``mu`` > 0 is a number or an array of the batch's
        shape, a constant of the derivative. Shapes: two arrays (*batch, size).
        """
        self._check_smooth(z, s, mu)
        return moreau(self, z - s, float(mu) if is_number(mu) else mu)

    def derivative(self, z: Array, s: Array, h: Array, mu: float | Array = 0.0) -> Array:
        """D h: exact at a pair on the boundary for ``mu=0``, else of the smoothed projection, at a ``smooth`` pair.

        D is symmetric, so this is jvp and vjp at once. z, s and h (*batch, size) broadcast against each other. At a
        kink of the projection the result is an element of its generalized Jacobian. Differentiable again in z, s and
        h (along pairs of the form z = Proj_K*(u), s = z - u), never NaN for finite pairs.
        """
        self._check(z, s, h)
        with np.errstate(all="ignore"):
            if self._symmetric:
                return self._derivative(z, s, h, None)
            if is_number(mu):
                return self._derivative(z, s, h, float(mu) if mu > 0 else None)
            xp = namespace(z, mu)
            positive: Any = xp.where(mu > 0, mu, 1.0)
            smoothed = self._derivative(z, s, h, positive)
            return xp.where((positive == mu)[..., None], smoothed, self._derivative(z, s, h, None))

    @abstractmethod
    def eigen(
        self, z: np.ndarray, s: np.ndarray, mu: float | np.ndarray = 0.0
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """D = V diag(lam) V': lam (..., size), V (..., size, size) orthogonal or None for I, margin (...).

        ``margin`` in [0, 1] measures strict complementarity: 1 where the derivative is clear-cut, 0 at a kink of the
        projection. For ``mu=0``: an eigenvalue is snapped to its exact 0 or 1 where z and s differ by a factor above
        1e4, and kept at the smoothed element z/(z + s) (1/2 at 0/0) where they do not.
        """


def is_number(mu: Any) -> TypeGuard[float]:
    """Whether ``mu`` is a Python or NumPy number, not an array."""
    return isinstance(mu, Real)


def over_entries(mu: Any) -> Any:
    """``mu`` ready to meet arrays (*batch, size)."""
    return mu if mu is None or is_number(mu) else mu[..., None]


def check_length(name: str, length: int, least: int) -> None:
    """Raise ShapeError unless ``length`` is an integer of at least ``least``."""
    if isinstance(length, bool) or not isinstance(length, (int, np.integer)) or length < least:
        raise ShapeError(f"{name} should be an integer of at least {least}; got {length!r}.")
