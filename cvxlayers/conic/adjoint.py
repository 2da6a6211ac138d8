"""Derivatives of the conic solution map, forward and reverse, from one factored system.

With w = K^-1 [g_x - A'g_s; g_z] (see `cvxlayers.conic.kkt`), x, z, s a solution and g the cotangent of (x, z, s):

    grad_q = -w_x    grad_b = w_z + g_s    grad_P = -(w_x x' + x w_x')/2    grad_A = -z w_x' - (w_z + g_s) x'

The optimal value has the gradient of the Lagrangian: x x'/2, x, -z, z x' for P, q, b, A, with no system to solve.
In the forward direction [dx; dz] = K^-1 [-(dP x + dA'z + dq); db - dA x] and ds = db - dA x - A dx.

Agrawal et al., "Differentiating through a cone program", 2019, doi 10.23952/jano.1.2019.2.02.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import scipy.sparse as sp

from cvxlayers.conic.affine import Lift, sparse_times
from cvxlayers.conic.matrix_map import OuterPullback
from cvxlayers.conic.program import ConeProgram, Pattern


class Adjoint:
    """Cotangents and tangents of (x, z, s, value) to and from those of the parameter vectors."""

    def __init__(self, program: ConeProgram, lift: Lift) -> None:
        self.program, self.lift = program, lift
        self._P = OuterPullback(lift.P, program.P, symmetric=True)
        self._A = OuterPullback(lift.A, program.A)
        self._sum_A_rows, self._sum_A_cols = _indicator(program.A, 0), _indicator(program.A, 1)
        self._sum_P_rows, self._sum_P_cols = _indicator(program.P, 0), _indicator(program.P, 1)
        self._P_off = (program.P.rows != program.P.cols).astype(float)

    def A_transposed(self, A: np.ndarray, v: np.ndarray) -> np.ndarray:
        """A'v for values (nnz,) or (B, nnz) and v (*, B, m)."""
        return sparse_times(self._sum_A_cols, A * v[..., self.program.A.rows])

    def A_times(self, A: np.ndarray, v: np.ndarray) -> np.ndarray:
        """A v for values (nnz,) or (B, nnz) and v (*, B, n)."""
        return sparse_times(self._sum_A_rows, A * v[..., self.program.A.cols])

    def P_times(self, P: np.ndarray, v: np.ndarray) -> np.ndarray:
        """P v for the symmetric P with these upper-triangle values."""
        rows, cols = self.program.P.rows, self.program.P.cols
        return sparse_times(self._sum_P_rows, P * v[..., cols]) + sparse_times(
            self._sum_P_cols, P * self._P_off * v[..., rows]
        )

    def pull(
        self,
        x: np.ndarray,
        z: np.ndarray,
        wx: np.ndarray | None,
        wz: np.ndarray | None,
        gs: np.ndarray | None,
        value: np.ndarray | None,
        wanted: Collection[int],
        shared: Sequence[bool],
    ) -> dict[int, np.ndarray | None]:
        """Gradients of the parameter vectors in ``wanted``; of a ``shared`` one, summed over the batch.

        ``wx``, ``wz`` (B, n), (B, m) solve the system (None for zero), ``gs`` (B, m) is the cotangent of s, ``value``
        (B,) that of (1/2) x'Px + q'x + r.
        """
        if wx is None or wz is None:
            wx, wz = np.zeros(x.shape), np.zeros(z.shape)
        elif wx.ndim > x.ndim:
            x, z = np.broadcast_to(x, wx.shape), np.broadcast_to(z, wz.shape)
        to_b = wz if gs is None else wz + gs
        to_q, half = -wx, wx
        if value is not None:
            v = value[..., None]
            to_b, to_q, half = to_b - v * z, to_q + v * x, wx - 0.5 * v * x
        out: dict[int, np.ndarray | None] = {}
        A_pair = P_pair = None
        for p in wanted:
            total = None
            if p in self._A.inputs:
                A_pair = A_pair or (-_rows(z, to_b), _rows(wx, x))
                total = self._A(p, *A_pair, shared[p])
            if p in self._P.inputs:
                P_pair = P_pair or (-0.5 * _rows(half, x), _rows(x, half))
                total = _sum(total, self._P(p, *P_pair, shared[p]))
            if p in self.lift.q.blocks:
                total = _sum(total, _transposed(self.lift.q, p, to_q, shared[p]))
            if p in self.lift.b.blocks:
                total = _sum(total, _transposed(self.lift.b, p, to_b, shared[p]))
            if value is not None and p in self.lift.r.blocks:
                total = _sum(total, _transposed(self.lift.r, p, value[..., None], shared[p]))
            out[p] = total
        return out

    def push(self, x: np.ndarray, z: np.ndarray, tangents: Sequence[np.ndarray | None]):
        """Right-hand side of the forward system and the direct change of the value, for (*, B, size) tangents."""
        lift = self.lift
        dP, dq, dA, db, dr = (m.linear(tangents) for m in (lift.P, lift.q, lift.A, lift.b, lift.r))
        rx, rz, value = 0.0, 0.0, 0.0
        if dP is not None:
            dPx = self.P_times(dP, x)
            rx, value = rx - dPx, value + 0.5 * (dPx * x).sum(-1)
        if dA is not None:
            dAx = self.A_times(dA, x)
            rx, rz, value = rx - self.A_transposed(dA, z), rz - dAx, value + (dAx * z).sum(-1)
        if dq is not None:
            rx, value = rx - dq, value + (dq * x).sum(-1)
        if db is not None:
            rz, value = rz + db, value - (db * z).sum(-1)
        if dr is not None:
            value = value + dr[..., 0]
        shape = np.broadcast_shapes(np.shape(rx)[:-1], np.shape(rz)[:-1], x.shape[:-1])
        return (
            np.broadcast_to(rx, (*shape, x.shape[-1])),
            np.broadcast_to(rz, (*shape, z.shape[-1])),
            np.broadcast_to(value, shape),
        )


def _rows(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(*, 2, k) from two (*, k): the factors of a sum of two outer products."""
    out = np.empty((*a.shape[:-1], 2, a.shape[-1]))
    out[..., 0, :], out[..., 1, :] = a, b
    return out


def _sum(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    return b if a is None else a if b is None else a + b


def _transposed(map_, p: int, cotangent: np.ndarray, shared: bool) -> np.ndarray | None:
    return map_.transpose(p, cotangent.sum(-2) if shared else cotangent)


def _indicator(pattern: Pattern, axis: int) -> sp.csr_array:
    index = pattern.cols if axis else pattern.rows
    shape = (pattern.shape[axis], pattern.nnz)
    return sp.csr_array((np.ones(pattern.nnz), (index, np.arange(pattern.nnz))), shape=shape)
