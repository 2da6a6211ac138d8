"""The rotated second-order cone, its two scalars first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cvxlayers.array import namespace
from cvxlayers.sets.cone import Array, Cone, check_length
from cvxlayers.sets.second_order import SecondOrder


@dataclass(frozen=True)
class RotatedSecondOrder(Cone):
    """K = {(a, b, x) in R x R x R^(d-2): ||x||^2 <= 2 a b, a >= 0, b >= 0} = K*.

    The isometry (a, b) -> (a + b, a - b)/sqrt(2), its own inverse, makes it the second-order cone: everything is that
    cone's, seen through the isometry.

    >>> RotatedSecondOrder(3).project(np.array([1.0, 0.0, 1.0])).round(4)
    array([1.0774, 0.2887, 0.7887])
    """

    d: int

    def __post_init__(self) -> None:
        check_length("d of RotatedSecondOrder(d)", self.d, 2)

    @property
    def size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.d

    _symmetric = True

    def dual(self) -> RotatedSecondOrder:
        return self

    def _pair(self, u: Array, mu: Any) -> tuple[Array, Array]:
        z, s = SecondOrder(self.d)._pair(_rotated(u), mu)
        return _rotated(z), _rotated(s)

    def _derivative(self, z: Array, s: Array, h: Array, mu: Any) -> Array:
        return _rotated(SecondOrder(self.d)._derivative(_rotated(z), _rotated(s), _rotated(h), mu))

    def eigen(
        self, z: np.ndarray, s: np.ndarray, mu: float | np.ndarray = 0.0
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        lam, V, margin = SecondOrder(self.d).eigen(_rotated(z), _rotated(s), mu)
        if V is None:
            return lam, None, margin
        return lam, np.swapaxes(_rotated(np.swapaxes(V, -1, -2)), -1, -2), margin


def _rotated(u: Array) -> Array:
    a, b = u[..., :1], u[..., 1:2]
    return namespace(u).concat([(a + b) * 0.5**0.5, (a - b) * 0.5**0.5, u[..., 2:]], axis=-1)
