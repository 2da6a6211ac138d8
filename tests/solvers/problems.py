"""Random cone programs with known properties, and what CVXPY says of them."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from cvxlayers.conic.program import ConeData, ConeProgram, DenseData, Pattern
from cvxlayers.sets import Exponential, Nonnegative, PositiveSemidefinite, Power, Product, SecondOrder, Zero

CONES = {
    "linear": (Zero(2), Nonnegative(8)),
    "inequalities": (Nonnegative(12),),
    "equalities": (Zero(3),),
    "second_order": (Zero(1), Nonnegative(3), SecondOrder(4), SecondOrder(3)),
    "semidefinite": (Zero(1), PositiveSemidefinite(3), PositiveSemidefinite(2)),
    "exponential": (Nonnegative(2), Exponential(), Exponential()),
    "power": (Zero(1), Power(0.3), Power(0.5)),
    "everything": (Zero(1), Nonnegative(2), SecondOrder(3), PositiveSemidefinite(2), Exponential(), Power(0.7)),
}


def full(rows: int, cols: int, upper: bool = False) -> Pattern:
    """The pattern of a dense matrix, or of its upper triangle."""
    i, j = np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij")
    keep = (i <= j) if upper else np.ones_like(i, dtype=bool)
    order = np.lexsort((i[keep], j[keep]))
    return Pattern((rows, cols), i[keep][order], j[keep][order])


def empty(rows: int, cols: int) -> Pattern:
    return Pattern((rows, cols), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


def dense_program(blocks: tuple, n: int, quadratic: bool = True) -> ConeProgram:
    cone = Product(blocks)
    return ConeProgram(full(n, n, upper=True) if quadratic else empty(n, n), full(cone.size, n), cone)


def interior(block, rng: np.random.Generator, dual: bool = False) -> np.ndarray:
    """A point inside a cone, or inside its dual."""
    if isinstance(block, Zero):
        return rng.standard_normal(block.size) if dual else np.zeros(block.size)
    if isinstance(block, Nonnegative):
        return rng.uniform(0.5, 2.0, block.size)
    if isinstance(block, SecondOrder):
        v = rng.standard_normal(block.size - 1)
        return np.concatenate(([np.linalg.norm(v) + rng.uniform(0.5, 1.0)], v))
    if isinstance(block, PositiveSemidefinite):
        root = rng.standard_normal((block.k, block.k))
        return svec(root @ root.T + 0.5 * np.eye(block.k))
    if isinstance(block, Exponential):
        x, y = 0.5 * rng.standard_normal(), rng.uniform(0.5, 1.5)
        if dual:
            return np.array((-y, x, y * np.exp(-x / y - 1.0) + 0.5))
        return np.array((x, y, y * np.exp(x / y) + 0.5))
    x, y = rng.uniform(0.5, 1.5, 2)
    z = rng.uniform(-0.8, 0.8) * x**block.alpha * y ** (1.0 - block.alpha)
    return np.array((block.alpha * x, (1.0 - block.alpha) * y, z)) if dual else np.array((x, y, z))


def svec(X: np.ndarray) -> np.ndarray:
    """The upper triangle, column by column, off-diagonals times sqrt(2)."""
    k = len(X)
    return np.array([X[i, j] * (1.0 if i == j else np.sqrt(2.0)) for j in range(k) for i in range(j + 1)])


def solvable(program: ConeProgram, batch: int, seed: int = 0, shared: bool = False) -> ConeData:
    """Strictly feasible problems with strictly feasible duals, hence with solutions."""
    rng = np.random.default_rng(seed)
    m, n = program.m, program.n
    A = rng.standard_normal((1 if shared else batch, m, n))
    root = rng.standard_normal((len(A), n, n))
    P = root @ np.swapaxes(root, 1, 2) / n + 0.1 * np.eye(n) if program.P.nnz else np.zeros((len(A), n, n))
    x = rng.standard_normal((batch, n))
    s, z = (
        np.stack([np.concatenate([interior(k, rng, dual) for k in program.cone.blocks] or [[]]) for _ in range(batch)])
        for dual in (False, True)
    )
    b = np.einsum("bij,bj->bi", np.broadcast_to(A, (batch, m, n)), x) + s
    q = -np.einsum("bij,bj->bi", np.broadcast_to(P, (batch, n, n)), x) - np.einsum(
        "bij,bi->bj", np.broadcast_to(A, (batch, m, n)), z
    )
    if shared:
        P, A = P[0], A[0]
    return program.sparse(DenseData(batch, P, q, A, b, np.zeros(())))


def infeasible(program: ConeProgram, batch: int, seed: int = 0) -> tuple[ConeData, np.ndarray]:
    """Problems with a certificate z inside K*, A'z = 0 and b'z = -1; and that z."""
    rng = np.random.default_rng(seed)
    data = solvable(program, batch, seed)
    z = np.concatenate([interior(k, rng, dual=True) for k in program.cone.blocks])
    A = program.A.dense(data.A)
    A = A - (np.einsum("bij,i->bj", A, z)[:, None, :] * z[:, None]) / (z @ z)
    b = data.b - ((data.b @ z + 1.0) / (z @ z))[:, None] * z
    dense = DenseData(batch, program.dense(data).P, data.q, A, b, data.r)
    return program.sparse(dense), z


def unbounded(program: ConeProgram, batch: int, seed: int = 0) -> ConeData:
    """Problems with a ray x: Px = 0, q'x = -1, Ax + s = 0 with s inside K; their P is zero."""
    rng = np.random.default_rng(seed)
    data = solvable(program, batch, seed)
    s = np.concatenate([interior(k, rng) for k in program.cone.blocks])
    x = rng.standard_normal(program.n)
    A = program.A.dense(data.A)
    A = A - np.einsum("bi,j->bij", A @ x + s, x) / (x @ x)
    q = data.q - np.outer(data.q @ x + 1.0, x) / (x @ x)
    return program.sparse(DenseData(batch, np.zeros((program.n, program.n)), q, A, data.b, data.r))


def by_cvxpy(program: ConeProgram, data: ConeData, i: int) -> tuple[float, np.ndarray]:
    """Optimal value and solution of one problem, written in CVXPY's own words."""
    dense = program.dense(data)
    P, q, A, b = dense.element(i)
    x = cp.Variable(program.n)
    s, constraints, start = b - A @ x, [], 0
    for block in program.cone.blocks:
        v = s[start : start + block.size]
        if isinstance(block, Zero):
            constraints.append(v == 0)
        elif isinstance(block, Nonnegative):
            constraints.append(v >= 0)
        elif isinstance(block, SecondOrder):
            constraints.append(cp.norm(v[1:]) <= v[0])
        elif isinstance(block, PositiveSemidefinite):
            X, k = cp.Variable((block.k, block.k), symmetric=True), 0
            for col in range(block.k):
                for row in range(col + 1):
                    constraints.append(v[k] == X[row, col] * (1.0 if row == col else np.sqrt(2.0)))
                    k += 1
            constraints.append(X >> 0)
        elif isinstance(block, Exponential):
            constraints.append(cp.ExpCone(v[0], v[1], v[2]))
        else:
            constraints.append(cp.PowCone3D(v[0], v[1], v[2], block.alpha))
        start += block.size
    problem = cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, cp.psd_wrap(P)) + q @ x), constraints)
    value = problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    return value, x.value


def objective(program: ConeProgram, data: ConeData, x: np.ndarray) -> np.ndarray:
    dense = program.dense(data)
    P = np.broadcast_to(dense.P, (data.batch, program.n, program.n))
    return 0.5 * np.einsum("bi,bij,bj->b", x, P, x) + (dense.q * x).sum(-1)


def sparse_qp(n: int, batch: int, seed: int = 0) -> tuple[ConeProgram, ConeData]:
    """Sparse quadratic programs with equalities and inequalities; P and A are shared."""
    rng = np.random.default_rng(seed)
    E, G = (sp.random(n // 2, n, 3.0 / n, random_state=seed + k) + sp.eye(n // 2, n) for k in range(2))
    A = sp.csc_array(sp.vstack([E, G]))
    A.sum_duplicates()
    cols = np.repeat(np.arange(n), np.diff(A.indptr))
    diagonal = Pattern((n, n), np.arange(n), np.arange(n))
    blocks = (Zero(n // 2), Nonnegative(n // 2))
    program = ConeProgram(diagonal, Pattern(A.shape, A.indices.astype(np.int64), cols), Product(blocks))
    x = rng.standard_normal((batch, n))
    slack = np.concatenate((np.zeros(n // 2), rng.uniform(0, 1, n // 2)))
    b = x @ A.T.toarray() + slack
    q = 3.0 * rng.standard_normal((batch, n))
    return program, ConeData(batch, np.full(n, 0.5), q, A.data, b, np.zeros(()))
