"""Equilibration of a batch of cone programs: row, column and cost scales that bring the data near size one.

Ruiz, "A scaling algorithm to equilibrate both rows and columns norms in matrices", RAL-TR-2001-034, with the cost scale
of Stellato et al., "OSQP: an operator splitting solver for quadratic programs", doi 10.1007/s12532-020-00179-2.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.conic.program import ConeData, ConeProgram
from cvxlayers.sets import Nonnegative, Zero

_LEAST, _MOST = 1e-4, 1e4


class Equilibration:
    """Scales of one program's data, found by ``sweeps`` rounds of square roots of the largest entries.

    With D = diag(d), E = diag(e) and c > 0 the scaled data are c D P D, c D q, E A D and E b. All rows of a
    second-order, semidefinite, exponential or power block share one scale, so that the cone stays what it is. A
    solution of the scaled program stands for x = D x, z = E z / c, s = E^-1 s.
    """

    def __init__(self, program: ConeProgram, sweeps: int = 4) -> None:
        self.program, self.sweeps = program, sweeps
        self.by_col = _Segments(program.A.cols)
        self.by_row = _Segments(program.A.rows)
        both = np.concatenate((program.P.rows, program.P.cols))
        self.by_P = _Segments(both)
        block = np.empty(program.m, dtype=np.int64)
        row = last = 0
        for cone in program.cone.blocks:
            alone = isinstance(cone, (Zero, Nonnegative))
            block[row : row + cone.size] = last + np.arange(cone.size) if alone else last
            row, last = row + cone.size, last + (cone.size if alone else 1)
        self.block = block if last < program.m else None
        self.by_block = _Segments(block)

    def __call__(
        self, data: ConeData
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Scaled P, q, A, b, each with the batch first, and d (batch, n), e (batch, m), c (batch,)."""
        program = self.program
        P, A = np.abs(np.atleast_2d(data.P)), np.abs(np.atleast_2d(data.A))  # one row if shared
        batch = max(len(P), len(A))
        d, e = np.ones((batch, program.n)), np.ones((batch, program.m))
        mirrored = np.concatenate((P, P), axis=-1)
        for _ in range(self.sweeps):
            # Largest entries of the scaled matrices, without forming them: the maximum of |A_ij| e_i over i is then
            # multiplied by d_j, and so on.
            Ad, Ae = A * d.take(program.A.cols, -1), A * e.take(program.A.rows, -1)
            rows = self.by_row.largest(Ad, program.m) * e
            cols = self.by_col.largest(Ae, program.n)
            if program.P.nnz:
                other = np.concatenate((program.P.cols, program.P.rows))
                cols = np.maximum(cols, self.by_P.largest(mirrored * d.take(other, -1), program.n))
            cols *= d
            if self.block is not None:
                rows = self.by_block.largest(rows, self.block[-1] + 1).take(self.block, -1)
            d = np.clip(d / np.sqrt(np.where(cols > 0, cols, 1.0)), _LEAST, _MOST)
            e = np.clip(e / np.sqrt(np.where(rows > 0, rows, 1.0)), _LEAST, _MOST)
        P = np.atleast_2d(data.P) * (d.take(program.P.rows, -1) * d.take(program.P.cols, -1))
        A = np.atleast_2d(data.A) * (e.take(program.A.rows, -1) * d.take(program.A.cols, -1))
        q, b = np.atleast_2d(data.q) * d, np.atleast_2d(data.b) * e
        cost = np.abs(q).max(-1, initial=0.0)
        if program.P.nnz:
            largest = self.by_P.largest(np.abs(np.concatenate((P, P), axis=-1)), program.n)
            cost = np.maximum(cost, largest.sum(-1) / program.n)
        c = 1.0 / np.clip(np.where(cost > 0, cost, 1.0), _LEAST, _MOST)
        full = (data.batch,)
        return (
            np.broadcast_to(P * c[:, None], full + P.shape[1:]) if len(c) == 1 else P * c[:, None],
            np.broadcast_to(q * c[:, None], full + q.shape[1:]),
            np.broadcast_to(A, full + A.shape[1:]),
            np.broadcast_to(b, full + b.shape[1:]),
            np.broadcast_to(d, full + d.shape[1:]),
            np.broadcast_to(e, full + e.shape[1:]),
            np.broadcast_to(c, full),
        )


class _Segments:
    """Largest values by label: for labels (k,), the maximum over the entries of each label."""

    def __init__(self, labels: np.ndarray) -> None:
        order = np.argsort(labels, kind="stable")
        self.order = None if np.array_equal(order, np.arange(len(labels))) else order
        self.labels, self.starts = np.unique(labels[order], return_index=True)

    def largest(self, values: np.ndarray, size: int) -> np.ndarray:
        out = np.zeros((len(values), size))
        if self.starts.size:
            ordered = values if self.order is None else values.take(self.order, -1)
            out[:, self.labels] = np.maximum.reduceat(ordered, self.starts, axis=-1)
        return out
