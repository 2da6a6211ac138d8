"""Sparse cone programs with solutions, as patterns and a batch of dense matrices on them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp

from cvxlayers.conic.program import ConeProgram, Pattern
from cvxlayers.sets import Cone, Exponential, Nonnegative, Power, Product, SecondOrder, Zero
from tests.solvers.problems import interior


class Programs(NamedTuple):
    """The structure, and P (B or 1, n, n), q (B, n), A (B or 1, m, n), b (B, m)."""

    program: ConeProgram
    P: np.ndarray
    q: np.ndarray
    A: np.ndarray
    b: np.ndarray

    @property
    def cone(self) -> Product:
        return self.program.cone

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self[1:]


def pattern(stored: np.ndarray) -> Pattern:
    """The pattern of a matrix's nonzeros."""
    columns = sp.csc_array(stored)
    columns.sort_indices()
    cols = np.repeat(np.arange(stored.shape[1]), np.diff(columns.indptr))
    return Pattern(stored.shape, columns.indices.astype(np.int64), cols)


def solvable(blocks: tuple[Cone, ...], P: np.ndarray, A: np.ndarray, batch: int, seed: int = 0) -> Programs:
    """Right-hand sides that give strictly feasible points on both sides, for matrices (B or 1, ., .)."""
    rng = np.random.default_rng(seed)
    program = ConeProgram(pattern(np.triu(P.any(0))), pattern(A.any(0)), Product(blocks))
    x = rng.standard_normal((batch, A.shape[-1]))
    s, z = (
        np.stack([np.concatenate([interior(k, rng, dual) for k in blocks]) for _ in range(batch)])
        for dual in (False, True)
    )
    b = np.einsum("bij,bj->bi", np.broadcast_to(A, (batch, *A.shape[1:])), x) + s
    q = -np.einsum("bij,bj->bi", np.broadcast_to(P, (batch, *P.shape[1:])), x)
    q -= np.einsum("bij,bi->bj", np.broadcast_to(A, (batch, *A.shape[1:])), z)
    return Programs(program, P, q, A, b)


def scattered(
    blocks: tuple[Cone, ...], n: int, batch: int = 3, quadratic: bool = True, seed: int = 0, long: tuple[int, ...] = ()
) -> Programs:
    """About three entries in each row, at random; full rows ``long``; every element has matrices of its own."""
    rng = np.random.default_rng(seed)
    m = sum(block.size for block in blocks)
    there = rng.random((m, n)) < 3.0 / n
    there[np.arange(m), np.arange(m) % n] = True
    there[list(long)] = True
    A = rng.standard_normal((batch, m, n)) * there
    P = np.zeros((batch, n, n))
    if quadratic:
        root = rng.standard_normal((batch, n, n)) * (np.eye(n, dtype=bool) | np.eye(n, k=1, dtype=bool))
        P = root @ root.swapaxes(-1, -2) + np.eye(n)
    return solvable(blocks, P, A, batch, seed)


def control(horizon: int, states: int, inputs: int, batch: int, seed: int = 0) -> Programs:
    """Model predictive control: x_{t+1} = F x_t + G u_t from x_0, |u_t| <= 1/2, with shared matrices.

    The variables are (u_0, x_1, u_1, ...), the objective 0.1 |u_t|^2 + |x_t|^2 and a small linear term.
    """
    rng = np.random.default_rng(seed)
    F = np.eye(states) + 0.1 * rng.standard_normal((states, states))
    F *= min(1.0, 1.05 / np.abs(np.linalg.eigvals(F)).max())
    G, stage = rng.standard_normal((states, inputs)), states + inputs
    n = horizon * stage
    dynamics, u = np.zeros((horizon * states, n)), np.zeros((horizon * inputs, n))
    for t in range(horizon):
        own, at = slice(t * states, (t + 1) * states), t * stage
        dynamics[own, at : at + inputs], dynamics[own, at + inputs : at + stage] = -G, np.eye(states)
        if t:
            dynamics[own, at - states : at] = -F
        u[t * inputs : (t + 1) * inputs, at : at + inputs] = np.eye(inputs)
    A = np.concatenate([dynamics, u, -u])
    P = np.diag(np.tile(np.r_[np.full(inputs, 0.2), np.full(states, 2.0)], horizon))
    b = np.full((batch, len(A)), 0.5)
    b[:, : len(dynamics)] = 0.0
    b[:, :states] = rng.standard_normal((batch, states)) @ F.T
    cone = Product((Zero(len(dynamics)), Nonnegative(2 * len(u))))
    return Programs(
        ConeProgram(pattern(P), pattern(A), cone), P[None], 0.1 * rng.standard_normal((batch, n)), A[None], b
    )


def network(nodes: int, arcs: int, batch: int, seed: int = 0) -> Programs:
    """Cheapest flows through a network: a linear objective, and three entries in each column."""
    rng = np.random.default_rng(seed)
    tail, head = np.arange(arcs) % nodes, (np.arange(arcs) % nodes + 1 + rng.integers(0, nodes - 1, arcs)) % nodes
    incidence = np.zeros((nodes, arcs))
    incidence[tail, np.arange(arcs)], incidence[head, np.arange(arcs)] = 1.0, -1.0
    A = np.concatenate([incidence[:-1], -np.eye(arcs)])
    blocks = (Zero(nodes - 1), Nonnegative(arcs))
    return solvable(blocks, np.zeros((1, arcs, arcs)), A[None], batch, seed)


CURVED = (
    Zero(2),
    Nonnegative(4),
    *(SecondOrder(3),) * 3,
    SecondOrder(1),
    *(Exponential(),) * 2,
    Power(0.7),
    Power(0.4),
)

CASES = {
    "linear": lambda: scattered((Zero(3), Nonnegative(17)), 12),
    "linear objective": lambda: scattered((Zero(3), Nonnegative(30)), 12, quadratic=False),
    "long rows": lambda: scattered((Zero(2), Nonnegative(48)), 40, long=(0, 30)),
    "equalities": lambda: scattered((Zero(6),), 12),
    "second-order": lambda: scattered((Zero(1), Nonnegative(6), *(SecondOrder(3),) * 5), 14),
    "curved": lambda: scattered(CURVED, 15),
    "control": lambda: control(6, 3, 2, 3),
    "network": lambda: network(6, 15, 3),
}
