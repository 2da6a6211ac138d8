"""What the array standard lacks, for NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cvxlayers.array.symmetric import eigh, lyapunov_in_basis


def constant(build: Callable[..., np.ndarray], args: tuple, like: np.ndarray) -> np.ndarray:
    value = build(*args)
    return value.astype(like.dtype, copy=False) if value.dtype.kind == "f" else value


def loop(count: int, body: Callable[[Any], Any], state: Any, settled: Callable[[Any], Any] | None = None) -> Any:
    for _ in range(count):
        state = body(state)
        if settled is not None and np.all(settled(state)):
            break
    return state


def lyapunov(W: np.ndarray, R: np.ndarray) -> np.ndarray:
    lam, Q = eigh(W)
    return lyapunov_in_basis(R, lam, Q)


def moreau(cone: Any, u: np.ndarray, mu: Any) -> tuple[np.ndarray, np.ndarray]:
    # The branches that `where` throws away may divide by zero or overflow.
    with np.errstate(all="ignore"):
        return cone._pair(u, mu)
