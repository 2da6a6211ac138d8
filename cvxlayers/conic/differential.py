"""The derivative's formulas on any array library, so that they can be differentiated, vectorized and compiled again.

`cvxlayers.conic.adjoint` is the same mathematics for plain NumPy, where low-rank structure saves most of the work;
here every formula is a chain of array operations on the values of the sparsity patterns, (*batch, nnz).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cvxlayers.array.scatter import add_at, constant, take
from cvxlayers.conic.affine import AffineMap, Lift
from cvxlayers.conic.program import ConeProgram, Pattern

Array = Any


class Affine:
    """An AffineMap on any array library: gather, scale, scatter-add."""

    def __init__(self, map_: AffineMap) -> None:
        self.constant = map_.constant
        self.entries = {}
        for p, block in map_.blocks.items():
            coo = block.matrix.tocoo()
            self.entries[p] = (*coo.coords, coo.data, block.matrix.shape[1])

    def __call__(self, vectors: Sequence[Array]) -> Array:
        """constant + sum of blocks @ vectors, for (*batch, size) vectors."""
        linear = self.linear(vectors)
        start = constant(self.constant, vectors[0] if linear is None else linear)
        return start if linear is None else start + linear

    def linear(self, tangents: Sequence[Array | None]) -> Array | None:
        """The linear part; None for zero."""
        out = None
        for p, (target, source, value, _) in self.entries.items():
            tangent = tangents[p]
            if tangent is None:
                continue
            part = add_at(take(tangent, source) * constant(value, tangent), target, len(self.constant))
            out = part if out is None else out + part
        return out

    def transpose(self, p: int, cotangent: Array) -> Array | None:
        """blocks[p]' @ cotangent; None if the map does not depend on vector p."""
        if p not in self.entries:
            return None
        target, source, value, size = self.entries[p]
        return add_at(take(cotangent, target) * constant(value, cotangent), source, size)


class Differential:
    """Lift, products with P and A, and both directions of the derivative, for one program."""

    def __init__(self, program: ConeProgram, lift: Lift) -> None:
        self.program = program
        self.P, self.q, self.A, self.b, self.r = (Affine(m) for m in (lift.P, lift.q, lift.A, lift.b, lift.r))
        off = np.flatnonzero(program.P.rows != program.P.cols)
        rows, cols = program.P.rows, program.P.cols
        self._P_entries = np.concatenate([np.arange(len(rows)), off])
        self._P_full = Pattern(program.P.shape, np.concatenate([rows, cols[off]]), np.concatenate([cols, rows[off]]))

    def P_times(self, P: Array, v: Array) -> Array:
        """P v, P (*batch, nnz) the upper triangle of a symmetric matrix."""
        return _times(take(P, self._P_entries), self._P_full, v)

    def A_times(self, A: Array, v: Array) -> Array:
        """A v."""
        return _times(A, self.program.A, v)

    def A_transposed(self, A: Array, v: Array) -> Array:
        """A'v."""
        return add_at(A * take(v, self.program.A.rows), self.program.A.cols, self.program.n)

    def value(self, P: Array, q: Array, r: Array, x: Array) -> Array:
        """(1/2) x'Px + q'x + r."""
        return ((0.5 * self.P_times(P, x) + q) * x).sum(-1) + r[..., 0]

    def push(self, x: Array, z: Array, tangents: Sequence[Array]) -> tuple[Array, Array]:
        """Right-hand sides -(dP x + dA'z + dq) and db - dA x for tangents (dP, dq, dA, db, ...) of the conic data."""
        dP, dq, dA, db = tangents[:4]
        return -(self.P_times(dP, x) + self.A_transposed(dA, z) + dq), db - self.A_times(dA, x)

    def pull(self, x: Array, z: Array, wx: Array, wz: Array) -> tuple[Array, Array, Array, Array]:
        """Cotangents of P, q, A and b for a solution w of the adjoint system."""
        P, A = self.program.P, self.program.A
        weight = constant(np.where(P.rows == P.cols, 0.5, 1.0), wx)
        gP = -weight * (take(wx, P.rows) * take(x, P.cols) + take(x, P.rows) * take(wx, P.cols))
        gA = -(take(z, A.rows) * take(wx, A.cols) + take(wz, A.rows) * take(x, A.cols))
        return gP, -wx, gA, wz

    def operator(self, P: Array, A: Array, z: Array, s: Array, wx: Array, wz: Array, mu: float) -> tuple[Array, Array]:
        """(P w_x + A'w_z, D (A w_x + w_z) - w_z): the system whose right-hand side is (g_x, D g_z)."""
        D = self.project(z, s, self.A_times(A, wx) + wz, mu)
        return self.P_times(P, wx) + self.A_transposed(A, wz), D - wz

    def project(self, z: Array, s: Array, h: Array, mu: float) -> Array:
        """D h, of the projection at z - s or, for mu > 0, of its smoothing."""
        cone = self.program.cone
        if mu:
            z, s = cone.smooth(z, s, mu)
        return cone.derivative(z, s, h, mu)


def _times(values: Array, pattern: Pattern, v: Array) -> Array:
    return add_at(values * take(v, pattern.cols), pattern.rows, pattern.shape[0])
