"""Which entries are the largest ones."""

from __future__ import annotations

from typing import Any

from cvxlayers.array import namespace, stop_gradient

Array = Any


def largest(x: Array, count: Any) -> Array:
    """Whether an entry is one of the ``count`` largest of its row, the first ones of equal ones: bool (*batch, n).

    ``count`` is a number or (*batch, 1).

    >>> import numpy as np
    >>> largest(np.array([1.0, 3.0, 2.0, 3.0, 2.0]), 3)
    array([False,  True,  True,  True, False])
    """
    xp = namespace(x)
    order = xp.argsort(-stop_gradient(x), axis=-1, stable=True)
    return xp.argsort(order, axis=-1) < count
