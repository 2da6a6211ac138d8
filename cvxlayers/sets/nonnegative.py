"""The nonnegative orthant, and the split of a number into its two nonnegative parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cvxlayers.array import namespace
from cvxlayers.sets.cone import Array, Cone, check_length, over_entries

SNAP = 1e4
"""z and s that differ by more than this factor have a clear-cut derivative."""


def split(u: Array, mu: Any) -> tuple[Array, Array]:
    """z, s >= 0 with z - s = u and z s = mu (0 for None), entry by entry, each to full relative accuracy."""
    xp = namespace(u)
    size = xp.abs(u)
    if mu is None:
        return (size + u) / 2, (size - u) / 2
    large = (size + xp.sqrt(u * u + 4 * mu)) / 2
    small = mu / large
    return xp.where(u < 0, small, large), xp.where(u < 0, large, small)


def clear_cut(z: Any, s: Any) -> tuple[Any, Any]:
    """Where it is clear that an entry is active (z), and where that it is not (s)."""
    return z > SNAP * s, s > SNAP * z


def snap(z: np.ndarray, s: np.ndarray, mu: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvalues z/(z + s) of D, snapped where mu = 0, and their margins |z - s|/(z + s), by entry."""
    z, s = np.maximum(z, 0), np.maximum(s, 0)
    total = z + s
    some = total > 0
    lam = np.divide(z, total, out=np.full_like(total, 0.5), where=some)
    margin = np.divide(np.abs(z - s), total, out=np.zeros_like(total), where=some)
    exact = np.asarray(mu)[..., None] == 0
    active, inactive = clear_cut(z, s)
    lam = np.where(exact & active, 1, np.where(exact & inactive, 0, lam))
    return lam.astype(total.dtype, copy=False), margin


@dataclass(frozen=True)
class Nonnegative(Cone):
    """K = {s in R^d: s >= 0} = K*.

    z = max(u, 0) and s = max(-u, 0). The smoothed pair has z s = mu (barrier F(s) = -sum log s):
    z = (u + sqrt(u^2 + 4 mu))/2. From z s = mu, s dz + z (dz - h) = 0: both have D = diag(z/(z + s)), and 1/2 at 0/0.

    >>> Nonnegative(3).project(np.array([1.0, -2.0, 0.0]))
    array([1., 0., 0.])
    """

    d: int

    def __post_init__(self) -> None:
        check_length("d of Nonnegative(d)", self.d, 0)

    @property
    def size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.d

    _symmetric = True

    def pair(self, u: Array) -> tuple[Array, Array]:
        self._check(u)
        return split(u, None)

    def smooth(self, z: Array, s: Array, mu: float | Array) -> tuple[Array, Array]:
        self._check_smooth(z, s, mu)
        return split(z - s, over_entries(mu))

    def dual(self) -> Nonnegative:
        return self

    def _pair(self, u: Array, mu: Any) -> tuple[Array, Array]:
        return split(u, over_entries(mu))

    def _derivative(self, z: Array, s: Array, h: Array, mu: Any) -> Array:
        xp = namespace(z, s, h)
        total = z + s
        some = total > 0
        return h * xp.where(some, z / xp.where(some, total, 1.0), 0.5)

    def eigen(
        self, z: np.ndarray, s: np.ndarray, mu: float | np.ndarray = 0.0
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        lam, margin = snap(z, s, mu)
        return lam, None, margin.min(axis=-1, initial=1.0)
