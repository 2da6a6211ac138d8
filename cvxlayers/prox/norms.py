"""Norms as penalties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cvxlayers.array import namespace
from cvxlayers.prox.operator import Array, Primitive


@dataclass(frozen=True, eq=False)
class L1(Primitive):
    """f(x) = weight sum_i |x_i|; prox is soft thresholding, x (1 - tau weight / |x|)_+ by entry, complex x included.

    >>> import numpy as np
    >>> L1(2.0).prox(np.array([3.0, -1.0, 0.5]))
    array([ 1., -0.,  0.])
    """

    weight: Any = 1.0

    _complex: ClassVar[bool] = True

    def _value(self, x: Array, weight: Array) -> Array:
        xp = namespace(x)
        return xp.sum(weight * xp.abs(x), axis=-1)

    def _prox(self, x: Array, tau: Array, weight: Array) -> Array:
        xp = namespace(x)
        size = xp.abs(x)
        positive = size > tau * weight
        return xp.where(positive, x * (1 - tau * weight / xp.where(positive, size, 1.0)), 0 * x)
