"""The dual of a cone, as a cone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cvxlayers.sets.cone import Array, Cone


@dataclass(frozen=True)
class Dual(Cone):
    """K = C*, the dual of a cone C; K* = C.

    Its pairs are those of C with the two parts exchanged, and its D is I - D_C.

    >>> from cvxlayers.sets import Exponential
    >>> Exponential().dual().project(np.array([-1.0, 0.0, 1.0]))
    array([-1.,  0.,  1.])
    """

    cone: Cone

    @property
    def size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.cone.size

    def pair(self, u: Array) -> tuple[Array, Array]:
        s, z = self.cone.pair(-u)
        return z, s

    def smooth(self, z: Array, s: Array, mu: float | Array) -> tuple[Array, Array]:
        s, z = self.cone.smooth(s, z, mu)
        return z, s

    def derivative(self, z: Array, s: Array, h: Array, mu: float | Array = 0.0) -> Array:
        return h - self.cone.derivative(s, z, h, mu)

    def dual(self) -> Cone:
        return self.cone

    def _pair(self, u: Array, mu: Any) -> tuple[Array, Array]:
        s, z = self.cone._pair(-u, mu)
        return z, s

    def _derivative(self, z: Array, s: Array, h: Array, mu: Any) -> Array:
        return h - self.cone._derivative(s, z, h, mu)

    def eigen(
        self, z: np.ndarray, s: np.ndarray, mu: float | np.ndarray = 0.0
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        lam, V, margin = self.cone.eigen(s, z, mu)
        return 1 - lam, V, margin
