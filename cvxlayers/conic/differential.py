"""The derivative's formulas on any array library, so that they can be differentiated, vectorized and compiled again.

`cvxlayers.conic.adjoint` is the same mathematics for plain NumPy, where low-rank structure saves most of the work;
here every formula is a chain of array operations on the values of the sparsity patterns, (*batch, nnz).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cvxlayers.array import namespace
from cvxlayers.array.scatter import Constant, Index, add_at, indices, take
from cvxlayers.conic.affine import Lift
from cvxlayers.conic.array_affine import Affine
from cvxlayers.conic.program import ConeProgram
from cvxlayers.sets import Nonnegative
from cvxlayers.sets.nonnegative import clear_cut

Array = Any


class Differential:
    """Lift, products with P and A, and both directions of the derivative, for one program."""

    def __init__(self, program: ConeProgram, lift: Lift) -> None:
        self.program = program
        self.P, self.q, self.A, self.b, self.r = (Affine(m) for m in (lift.P, lift.q, lift.A, lift.b, lift.r))
        P, A = program.P, program.A
        off = np.flatnonzero(P.rows != P.cols)
        self._P_rows, self._P_cols, self._A_rows, self._A_cols = (indices(v) for v in (P.rows, P.cols, A.rows, A.cols))
        self._off = indices(off) if len(off) else None
        self._off_rows, self._off_cols = indices(P.rows[off]), indices(P.cols[off])
        linear = [np.full(block.size, isinstance(block, Nonnegative)) for block in program.cone.blocks]
        self._linear = Constant(np.concatenate(linear) if linear else np.zeros(0, bool))
        self._half = Constant(np.where(P.rows == P.cols, 0.5, 1.0))

    def P_times(self, P: Array, v: Array) -> Array:
        """P v, P (*batch, nnz) the upper triangle of a symmetric matrix."""
        n = self.program.n
        out = _times(P, self._P_rows, self._P_cols, v, n)
        if self._off is None:
            return out
        return out + _times(take(P, self._off), self._off_cols, self._off_rows, v, n)

    def A_times(self, A: Array, v: Array) -> Array:
        """A v."""
        return _times(A, self._A_rows, self._A_cols, v, self.program.m)

    def A_transposed(self, A: Array, v: Array) -> Array:
        """A'v."""
        return _times(A, self._A_cols, self._A_rows, v, self.program.n)

    def value(self, P: Array, q: Array, r: Array, x: Array) -> Array:
        """(1/2) x'Px + q'x + r."""
        return ((0.5 * self.P_times(P, x) + q) * x).sum(-1) + r[..., 0]

    def push(self, x: Array, z: Array, tangents: Sequence[Array]) -> tuple[Array, Array]:
        """Right-hand sides -(dP x + dA'z + dq) and db - dA x for tangents (dP, dq, dA, db, ...) of the conic data."""
        dP, dq, dA, db = tangents[:4]
        return -(self.P_times(dP, x) + self.A_transposed(dA, z) + dq), db - self.A_times(dA, x)

    def pull(self, x: Array, z: Array, wx: Array, wz: Array) -> tuple[Array, Array, Array, Array]:
        """Cotangents of P, q, A and b for a solution w of the adjoint system."""
        P_rows, P_cols, A_rows, A_cols = self._P_rows, self._P_cols, self._A_rows, self._A_cols
        gP = -self._half.like(wx) * (take(wx, P_rows) * take(x, P_cols) + take(x, P_rows) * take(wx, P_cols))
        gA = -(take(z, A_rows) * take(wx, A_cols) + take(wz, A_rows) * take(x, A_cols))
        return gP, -wx, gA, wz

    def operator(self, P: Array, A: Array, z: Array, s: Array, wx: Array, wz: Array, mu: float) -> tuple[Array, Array]:
        """(P w_x + A'w_z, D (A w_x + w_z) - w_z): the system whose right-hand side is (g_x, D g_z)."""
        D = self.project(z, s, self.A_times(A, wx) + wz, mu)
        return self.P_times(P, wx) + self.A_transposed(A, wz), D - wz

    def project(self, z: Array, s: Array, h: Array, mu: float) -> Array:
        """D h, of the projection at z - s or, for mu > 0, of its smoothing."""
        cone = self.program.cone
        z, s = cone.smooth(z, s, mu) if mu else self._settled(z, s)
        return cone.derivative(z, s, h, mu)

    def _settled(self, z: Array, s: Array) -> tuple[Array, Array]:
        """Without the rest that a solver leaves in linear rows of which it is clear whether they are active."""
        xp, some = namespace(z, s), self._linear.like(z)
        active, inactive = clear_cut(z, s)
        return xp.where(some & inactive, 0.0, z), xp.where(some & active, 0.0, s)


def _times(values: Array, rows: Index, cols: Index, v: Array, size: int) -> Array:
    return add_at(values * take(v, cols), rows, size)
