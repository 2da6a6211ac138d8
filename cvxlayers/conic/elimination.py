"""Substitution of equality-defined variables, before a dense solver sees the problem.

CVXPY writes ``sum_squares(Q @ x)`` as a quadratic form of new variables t with the equality t = Qx, and fixed entries
of a variable as equalities too. With x = (y, t), the defining rows E y + T t = e with T constant and diagonal give
t = c - M y for M = E / T, c = e / T, and the rest of the program is one in y alone:

    P' = Pyy - Pyt M - M'Pty + M'Ptt M     q' = qy - M'qt + (Pyt - M'Ptt) c     A' = Ay - At M     b' = b - At c

The multipliers of the defining rows follow from stationarity in t. The linear system of the derivative has the same
structure, so its right-hand sides and solutions pass through the same formulas: nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cvxlayers.conic.affine import AffineMap, Lift, Sparse, as_slice
from cvxlayers.conic.matrix_map import MatrixMap
from cvxlayers.conic.program import ConeProgram, DenseData, Pattern
from cvxlayers.sets import Product, Zero


@dataclass(frozen=True, eq=False)
class Blocks:
    """Values of the blocks, for one call: None where a block is structurally zero; ``dtt`` is a diagonal Ptt."""

    M: np.ndarray | None = None
    c: np.ndarray | None = None
    Pyt: np.ndarray | None = None
    Ptt: np.ndarray | None = None
    dtt: np.ndarray | None = None
    qt: np.ndarray | None = None
    At: np.ndarray | None = None

    def apply_Ptt(self, t: np.ndarray) -> np.ndarray:
        """Ptt t, for t (k,) or (B, k)."""
        if self.dtt is not None:
            return self.dtt * t
        return np.zeros_like(t) if self.Ptt is None else _times(self.Ptt, t)


class Elimination:
    """Which variables of a program are substituted, and the maps between the program and the reduced one.

    Attributes
    ----------
    kept, gone : index arrays of the columns y and t
    rows, defining : index arrays of the rows that stay and of the rows that define t
    program : the reduced ConeProgram
    """

    def __init__(self, full: ConeProgram, lift: Lift, auxiliary: np.ndarray) -> None:
        self.full = full
        self.defining, self.gone, pivots = _choose(full, lift, auxiliary)
        self.kept = np.setdiff1d(np.arange(full.n), self.gone)
        self.rows = np.setdiff1d(np.arange(full.m), self.defining)
        self.pivots = pivots
        y, t, o, d = self.kept, self.gone, self.rows, self.defining
        self._Ay = MatrixMap(lift.A, full.A, o, y)
        self._At = MatrixMap(lift.A, full.A, o, t)
        self._M = MatrixMap(lift.A, full.A, d, y, scale=1.0 / pivots)
        self._Pyy = MatrixMap(lift.P, full.P, y, y, symmetric=True)
        self._Pyt = MatrixMap(lift.P, full.P, y, t, symmetric=True)
        self._Ptt = MatrixMap(lift.P, full.P, t, t, symmetric=True)
        self._diagonal = self._Ptt.is_diagonal
        self._lift = lift
        self._has_c = _touches(lift.b, d)
        self._has_qt = _touches(lift.q, t)
        self._y, self._t, self._o, self._d = (as_slice(i) for i in (y, t, o, d))
        blocks = full.cone.blocks
        zeros = sum(block.size for block in blocks if isinstance(block, Zero)) - len(d)
        rest = tuple(block for block in blocks if not isinstance(block, Zero))
        self.program = ConeProgram(*self._reduced_patterns(), Product(((Zero(zeros),) if zeros else ()) + rest))

    def _reduced_patterns(self) -> tuple[Pattern, Pattern]:
        M, At, Ay = (_structure(x) for x in (self._M, self._At, self._Ay))
        Pyy, Pyt, Ptt = (_structure(x) for x in (self._Pyy, self._Pyt, self._Ptt))
        P = Pyy + Pyt @ M + (Pyt @ M).T + M.T @ Ptt @ M
        return _pattern(sp.triu(P)), _pattern(Ay + At @ M)

    def reduce(self, vectors: Sequence[np.ndarray], batch: int) -> tuple[DenseData, Blocks]:
        """Parameter vectors to the values of the reduced program, and the blocks that `expand` needs."""
        q, b, r = self._lift.q(vectors), self._lift.b(vectors), self._lift.r(vectors)[..., 0]
        P, A = self._Pyy(vectors), self._Ay(vectors)
        if not len(self.gone):
            return DenseData(batch, P, q, A, b, r), Blocks()
        M = None if self._M.is_zero else self._M(vectors)
        Pyt = None if self._Pyt.is_zero else self._Pyt(vectors)
        At = None if self._At.is_zero else self._At(vectors)
        Ptt = None if self._Ptt.is_zero else self._Ptt(vectors)
        dtt = None
        if Ptt is not None and self._diagonal:
            Ptt, dtt = None, np.einsum("...ii->...i", Ptt)
        qt = q[..., self._t] if self._has_qt else None
        c = b[..., self._d] / self.pivots if self._has_c else None
        blocks = Blocks(M, c, Pyt, Ptt, dtt, qt, At)
        q, b = q[..., self._y], b[..., self._o]
        if M is not None:
            Mt = M.swapaxes(-1, -2)
            if Pyt is not None:
                PytM = Pyt @ M
                P = P - PytM - PytM.swapaxes(-1, -2)
            PttM = Ptt @ M if Ptt is not None else dtt[..., None] * M if dtt is not None else None
            if PttM is not None:
                product = Mt @ PttM
                P = product if self._Pyy.is_zero else P + product
            if qt is not None:
                q = q - _times(Mt, qt)
            if At is not None:
                A = A - At @ M
        if c is not None:
            q = q + self._from_t(blocks, c)
            if At is not None:
                b = b - _times(At, c)
            if qt is not None:
                r = r + (qt * c).sum(-1)
            r = r + 0.5 * (c * blocks.apply_Ptt(c)).sum(-1)
        return DenseData(batch, P, q, A, b, r), blocks

    def _from_t(self, k: Blocks, t: np.ndarray) -> np.ndarray | float:
        """(Pyt - M'Ptt) t, the gradient in y of a term in t."""
        out: np.ndarray | float = 0.0
        if k.Pyt is not None:
            out = out + _times(k.Pyt, t)
        if k.M is not None and (k.Ptt is not None or k.dtt is not None):
            out = out - _times(k.M.swapaxes(-1, -2), k.apply_Ptt(t))
        return out

    def expand(self, k: Blocks, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and z of the full program from those of the reduced one, (B, n') and (B, m') to (B, n) and (B, m)."""
        if not len(self.gone):
            return y, z
        return self._expand(k, y, z, k.c, k.qt, -1.0)

    def expand_slack(self, s: np.ndarray) -> np.ndarray:
        """s of the full program: zero in the defining rows."""
        if not len(self.gone):
            return s
        full = np.zeros((*s.shape[:-1], self.full.m))
        full[..., self._o] = s
        return full

    def _expand(self, k, y, z, c, gt, sign):
        t = 0.0 if c is None else c
        if k.M is not None:
            t = t - _times(k.M, y)
        t = np.broadcast_to(t, (*y.shape[:-1], len(self.gone)))
        force = 0.0 if gt is None else -sign * gt
        if k.Pyt is not None:
            force = force + _times(k.Pyt.swapaxes(-1, -2), y)
        force = force + k.apply_Ptt(t)
        if k.At is not None:
            force = force + _times(k.At.swapaxes(-1, -2), z)
        x, full_z = np.empty((*y.shape[:-1], self.full.n)), np.empty((*y.shape[:-1], self.full.m))
        x[..., self._y], x[..., self._t] = y, t
        full_z[..., self._o], full_z[..., self._d] = z, -force / self.pivots
        return x, full_z

    def reduce_rhs(self, k: Blocks, gx: np.ndarray, gz: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Right-hand side of the full linear system, (*, B, n) and (*, B, m), to that of the reduced one."""
        if not len(self.gone):
            return gx, gz
        gt, c = gx[..., self._t], gz[..., self._d] / self.pivots
        ry, rz = gx[..., self._y], gz[..., self._o]
        if k.M is not None:
            ry = ry - _times(k.M.swapaxes(-1, -2), gt)
        ry = ry - self._from_t(k, c)
        if k.At is not None:
            rz = rz - _times(k.At, c)
        return ry, rz

    def expand_solution(self, k: Blocks, gx, gz, wy, wz) -> tuple[np.ndarray, np.ndarray]:
        """Solution of the full linear system from that of the reduced one."""
        if not len(self.gone):
            return wy, wz
        return self._expand(k, wy, wz, gz[..., self._d] / self.pivots, gx[..., self._t], 1.0)


def _choose(full: ConeProgram, lift: Lift, auxiliary: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Zero-cone rows that define a variable with a constant coefficient, no variable in two of them."""
    zeros = sum(block.size for block in full.cone.blocks if isinstance(block, Zero))
    constant = lift.A.constant != 0
    for block in lift.A.blocks.values():
        constant &= np.diff(block.matrix.indptr) == 0
    pattern: Sparse = sp.csr_array((np.arange(full.A.nnz), (full.A.rows, full.A.cols)), shape=full.A.shape)
    role = np.zeros(full.n, dtype=np.int8)  # 1: substituted, 2: in a defining row, so to be kept
    defining, gone, pivots = [], [], []
    for i in range(zeros):
        entries = pattern.data[pattern.indptr[i] : pattern.indptr[i + 1]]
        cols = full.A.cols[entries]
        if (role[cols] == 1).any():
            continue
        free = constant[entries] & (role[cols] == 0) & (auxiliary[cols] | (len(cols) == 1))
        if not free.any():
            continue
        best = np.argmax(np.where(free, np.abs(lift.A.constant[entries]), -1.0))
        role[cols] = 2
        role[cols[best]] = 1
        defining.append(i)
        gone.append(cols[best])
        pivots.append(lift.A.constant[entries[best]])
    order = np.argsort(gone)
    return np.array(defining, int)[order], np.array(gone, int)[order], np.array(pivots, float)[order]


def _touches(map_: AffineMap, rows: np.ndarray) -> bool:
    """Whether any of these entries of an affine map can differ from zero."""
    touched = map_.constant != 0
    for block in map_.blocks.values():
        touched |= np.diff(block.matrix.indptr) > 0
    return bool(touched[rows].any())


def _structure(block: MatrixMap) -> sp.csr_array:
    touched = block.map.constant != 0
    for part in block.map.blocks.values():
        touched |= np.diff(part.matrix.indptr) > 0
    at = np.flatnonzero(touched)
    return sp.csr_array((np.ones(len(at)), np.divmod(at, max(block.shape[1], 1))), shape=block.shape)


def _pattern(matrix: Sparse) -> Pattern:
    csc: Sparse = sp.csc_array(matrix)
    csc.sort_indices()
    cols = np.repeat(np.arange(csc.shape[1]), np.diff(csc.indptr))
    return Pattern(csc.shape, csc.indices.astype(np.int64), cols)


def _times(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """matrix @ vector for each element; either may be shared."""
    if matrix.ndim == 2:
        return vector @ matrix.T
    return np.matmul(matrix, np.atleast_2d(vector)[..., None])[..., 0]
