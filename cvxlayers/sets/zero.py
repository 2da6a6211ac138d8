"""The zero cone {0}, which stands for equality rows, and its dual, the whole space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cvxlayers.sets.cone import Array, Cone, check_length


@dataclass(frozen=True)
class Zero(Cone):
    """K = {0} in R^d; K* = R^d.

    The projection onto K* is the identity: z = u, s = 0, D = I, smoothed or not. K has no interior, so ``smooth``
    returns s = 0.

    >>> Zero(2).project(np.array([1.0, -2.0]))
    array([0., 0.])
    """

    d: int

    def __post_init__(self) -> None:
        check_length("d of Zero(d)", self.d, 0)

    @property
    def size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.d

    _symmetric = True

    def pair(self, u: Array) -> tuple[Array, Array]:
        self._check(u)
        return self._pair(u, None)

    def smooth(self, z: Array, s: Array, mu: float | Array) -> tuple[Array, Array]:
        self._check_smooth(z, s, mu)
        return self._pair(z - s, None)

    def dual(self) -> Free:
        return Free(self.d)

    def _pair(self, u: Array, mu: Any) -> tuple[Array, Array]:
        return +u, u - u

    def _derivative(self, z: Array, s: Array, h: Array, mu: Any) -> Array:
        return h + (z - z)

    def eigen(
        self, z: np.ndarray, s: np.ndarray, mu: float | np.ndarray = 0.0
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        return np.ones_like(z), None, np.ones(z.shape[:-1], z.dtype)


@dataclass(frozen=True)
class Free(Cone):
    """K = R^d; K* = {0}: z = 0, s = -u, D = 0, smoothed or not.

    >>> Free(2).project(np.array([1.0, -2.0]))
    array([ 1., -2.])
    """

    d: int

    def __post_init__(self) -> None:
        check_length("d of Free(d)", self.d, 0)

    @property
    def size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.d

    _symmetric = True

    def pair(self, u: Array) -> tuple[Array, Array]:
        self._check(u)
        return self._pair(u, None)

    def smooth(self, z: Array, s: Array, mu: float | Array) -> tuple[Array, Array]:
        self._check_smooth(z, s, mu)
        return self._pair(z - s, None)

    def dual(self) -> Zero:
        return Zero(self.d)

    def _pair(self, u: Array, mu: Any) -> tuple[Array, Array]:
        return u - u, -u

    def _derivative(self, z: Array, s: Array, h: Array, mu: Any) -> Array:
        return (h - h) + (z - z)

    def eigen(
        self, z: np.ndarray, s: np.ndarray, mu: float | np.ndarray = 0.0
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        return np.zeros_like(z), None, np.ones(z.shape[:-1], z.dtype)
