"""What the array standard lacks, for NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.linalg import get_lapack_funcs

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


def stop_gradient(x: np.ndarray) -> np.ndarray:
    return x


def visible(x: np.ndarray) -> np.ndarray:
    return x


def implicit(rule: Any, *args: np.ndarray) -> tuple[np.ndarray, ...]:
    with np.errstate(all="ignore"):
        return tuple(rule.forward(*args))


def iterate(limit: int, body: Callable[[Any], Any], state: Any, done: Callable[[Any], Any]) -> Any:
    for _ in range(limit):
        if np.all(done(state)):
            break
        state = body(state)
    return state


def choose(condition: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    return then() if condition else otherwise()


def pending(done: np.ndarray) -> np.ndarray:
    return np.flatnonzero(~done)


def recorded(key: Any, body: Any, count: int, constants: Any, state: Any) -> None:
    return None


def replayed(key: Any, function: Any, arguments: tuple) -> Any:
    return function(*arguments)


def prefers_products(x: np.ndarray) -> bool:
    return False


def cholesky(M: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.cholesky(M)
    except np.linalg.LinAlgError:
        return np.stack([_cholesky(m) for m in M.reshape((-1, *M.shape[-2:]))]).reshape(M.shape)


def _cholesky(M: np.ndarray) -> np.ndarray:
    try:
        return np.linalg.cholesky(M)
    except np.linalg.LinAlgError:
        return np.full_like(M, np.nan)


def triangular_solve(L: np.ndarray, B: np.ndarray, transpose: bool) -> np.ndarray:
    lead = np.broadcast_shapes(L.shape[:-2], B.shape[:-2])
    out = np.empty((*lead, *B.shape[-2:]), np.result_type(L, B))
    if out.size == 0:
        return out
    (trtrs,) = get_lapack_funcs(("trtrs",), dtype=out.dtype)
    L, B = (np.broadcast_to(v, (*lead, *v.shape[-2:])) for v in (L, B))
    for i in np.ndindex(*lead):
        # The Fortran view of L is upper triangular, its transpose.
        out[i] = trtrs(L[i].T, B[i], lower=0, trans=0 if transpose else 1)[0]
    return out


def derivative_along(f: Callable[[Any], Any], x: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.zeros_like(x)


def fixed_point(step: Callable[[np.ndarray], np.ndarray], s: np.ndarray, limit: int, tol: float) -> np.ndarray:
    return s


def pullback(f: Callable[[np.ndarray], np.ndarray], x: np.ndarray, g: np.ndarray) -> np.ndarray:
    raise TypeError("NumPy arrays carry no derivatives; use PyTorch or JAX.")


def sum_where(x: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.where(kept, x, 0).sum(-1, keepdims=True), kept.sum(-1, keepdims=True, dtype=x.dtype)
