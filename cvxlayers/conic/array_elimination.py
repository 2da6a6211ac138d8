"""The substitution of equality-defined variables on any array library: conic data to dense reduced data, and back.

`cvxlayers.conic.elimination` has the formulas, and chooses once which variables are substituted; here its blocks are
gathers of the input vectors, and its products are those of the array library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from cvxlayers.array import namespace
from cvxlayers.array.scatter import Constant, add_at, indices, take
from cvxlayers.conic.affine import AffineMap, Lift
from cvxlayers.conic.array_affine import Affine, Matrix
from cvxlayers.conic.elimination import Elimination
from cvxlayers.conic.matrix_map import MatrixMap

Array = Any


class Blocks(NamedTuple):
    """Values of the blocks, for one call: None where a block is structurally zero; ``dtt`` is a diagonal Ptt."""

    M: Array | None = None
    c: Array | None = None
    Pyt: Array | None = None
    Ptt: Array | None = None
    dtt: Array | None = None
    qt: Array | None = None
    At: Array | None = None


class Reduced(NamedTuple):
    """Dense data of the reduced program: P (*batch, n, n), q, A, b, r (*batch), and what `expand` needs.

    Each has the batch dimensions of the input vectors that enter it, or none.
    """

    P: Array
    q: Array
    A: Array
    b: Array
    r: Array
    blocks: Blocks


class ArrayElimination:
    """The maps between a program and its reduced one, for values given by the input vectors of ``lift``."""

    def __init__(self, elimination: Elimination, lift: Lift) -> None:
        full = elimination.full
        y, t, o, d = elimination.kept, elimination.gone, elimination.rows, elimination.defining
        self.full, self.program, self.size = full, elimination.program, (len(t), len(d))
        self._pivots = Constant(elimination.pivots)
        self._Ay = Matrix(MatrixMap(lift.A, full.A, o, y))
        self._At = Matrix(MatrixMap(lift.A, full.A, o, t))
        self._M = Matrix(MatrixMap(lift.A, full.A, d, y, scale=1.0 / elimination.pivots))
        self._Pyy = Matrix(MatrixMap(lift.P, full.P, y, y, symmetric=True))
        self._Pyt = Matrix(MatrixMap(lift.P, full.P, y, t, symmetric=True))
        self._Ptt = Matrix(MatrixMap(lift.P, full.P, t, t, symmetric=True))
        diagonal = self._Ptt.is_diagonal and not self._Ptt.is_zero
        self._diagonal = Affine(_entries(lift.P, full.P, t)) if diagonal else None
        self._qy, self._qt, self._bo = (_restricted(*args) for args in ((lift.q, y), (lift.q, t), (lift.b, o)))
        self._c = _restricted(lift.b, d, 1.0 / elimination.pivots)
        self._r = Affine(lift.r)
        self._y, self._t, self._o, self._d = (indices(i) for i in (y, t, o, d))
        self._x_order, self._z_order = (_order(a, b) for a, b in ((y, t), (o, d)))

    @classmethod
    def of_values(cls, elimination: Elimination) -> ArrayElimination:
        """The reduction of data that are given as (P, A) on the patterns, not by the parameters."""
        program = elimination.full
        none = [AffineMap(np.zeros(k), {}) for k in (program.n, program.m, 1)]
        P, A = (
            AffineMap(np.zeros(pattern.nnz), {i: sp.eye_array(pattern.nnz, format="csr")})
            for i, pattern in enumerate((program.P, program.A))
        )
        return cls(elimination, Lift(P, none[0], A, none[1], none[2]))

    def parts(self, vectors: Sequence[Array]) -> Reduced:
        """The blocks, and the values of the reduced program as they are before the substitution."""
        P, A, q, b, r = self._Pyy(vectors), self._Ay(vectors), self._qy(vectors), self._bo(vectors), self._r(vectors)
        return Reduced(P, q, A, b, r[..., 0], self._blocks(vectors, all=True))

    def matrix_parts(self, vectors: Sequence[Array]) -> tuple[Array, Array, Blocks]:
        """P and A of `parts` alone, and their blocks."""
        return self._Pyy(vectors), self._Ay(vectors), self._blocks(vectors, all=False)

    def reduce(self, vectors: Sequence[Array]) -> Reduced:
        """Input vectors to the values of the reduced program."""
        xp = namespace(*vectors)
        P, q, A, b, r, k = self.parts(vectors)
        P, A = self._reduced_matrices(P, A, k)
        if k.M is not None and k.qt is not None:
            q = q - _times(xp.matrix_transpose(k.M), k.qt)
        if k.c is not None:
            force = self._from_t(k, k.c)
            q = q if force is None else q + force
            if k.At is not None:
                b = b - _times(k.At, k.c)
            if k.qt is not None:
                r = r + (k.qt * k.c).sum(-1)
            curvature = _apply_Ptt(k, k.c)
            r = r if curvature is None else r + 0.5 * (k.c * curvature).sum(-1)
        return Reduced(P, q, A, b, r, k)

    def matrices(self, vectors: Sequence[Array]) -> tuple[Array, Array, Blocks]:
        """P and A of the reduced program alone, and the blocks."""
        P, A, k = self.matrix_parts(vectors)
        return *self._reduced_matrices(P, A, k), k

    def _blocks(self, vectors: Sequence[Array], all: bool) -> Blocks:
        if not self.size[0]:
            return Blocks()
        M, Pyt, At = (None if m.is_zero else m(vectors) for m in (self._M, self._Pyt, self._At))
        Ptt = dtt = None
        if self._diagonal is not None:
            dtt = self._diagonal(vectors)
        elif not self._Ptt.is_zero:
            Ptt = self._Ptt(vectors)
        c, qt = (m(vectors) if all and m.touches else None for m in (self._c, self._qt))
        return Blocks(M, c, Pyt, Ptt, dtt, qt, At)

    def _reduced_matrices(self, P: Array, A: Array, k: Blocks) -> tuple[Array, Array]:
        if k.M is None:
            return P, A
        xp = namespace(k.M)
        if k.Pyt is not None:
            PytM = k.Pyt @ k.M
            P = P - PytM - xp.matrix_transpose(PytM)
        PttM = k.Ptt @ k.M if k.Ptt is not None else k.dtt[..., None] * k.M if k.dtt is not None else None
        if PttM is not None:
            product = xp.matrix_transpose(k.M) @ PttM
            P = product if self._Pyy.is_zero else P + product
        return P, A if k.At is None else A - k.At @ k.M

    def _from_t(self, k: Blocks, t: Array) -> Array | None:
        """(Pyt - M'Ptt) t, the gradient in y of a term in t; None for zero."""
        out = None if k.Pyt is None else _times(k.Pyt, t)
        curvature = _apply_Ptt(k, t)
        if k.M is not None and curvature is not None:
            part = _times(namespace(k.M).matrix_transpose(k.M), curvature)
            out = -part if out is None else out - part
        return out

    def expand(self, k: Blocks, y: Array, z: Array) -> tuple[Array, Array]:
        """x and z of the full program from those of the reduced one."""
        return self._expand(k, y, z, k.c, k.qt, -1.0)

    def expand_slack(self, s: Array) -> Array:
        """s of the full program: zero in the defining rows."""
        return add_at(s, self._o, self.full.m)

    def _expand(self, k: Blocks, y: Array, z: Array, c: Array | None, gt: Array | None, sign: float):
        if not self.size[0]:
            return y, z
        xp = namespace(y)
        zero = xp.sum(xp.zeros_like(y), axis=-1, keepdims=True)  # (*batch, 1), where y is empty too
        t = zero if c is None else c
        if k.M is not None:
            t = t - _times(k.M, y)
        t = xp.broadcast_to(t, (*y.shape[:-1], self.size[0]))
        terms = [] if gt is None else [-sign * gt]
        if k.Pyt is not None:
            terms.append(_times(xp.matrix_transpose(k.Pyt), y))
        curvature = _apply_Ptt(k, t)
        if curvature is not None:
            terms.append(curvature)
        if k.At is not None:
            terms.append(_times(xp.matrix_transpose(k.At), z))
        zd = xp.broadcast_to(-sum(terms, zero) / self._pivots.like(y), t.shape)
        return _joined(y, t, self._x_order), _joined(z, zd, self._z_order)

    def reduce_rhs(self, k: Blocks, gx: Array, gz: Array) -> tuple[Array, Array, Array | None, Array | None]:
        """Right-hand side of the full linear system to that of the reduced one, and what `expand_solution` needs."""
        if not self.size[0]:
            return gx, gz, None, None
        gt, c = take(gx, self._t), take(gz, self._d) / self._pivots.like(gz)
        ry, rz = take(gx, self._y), take(gz, self._o)
        if k.M is not None:
            ry = ry - _times(namespace(gx).matrix_transpose(k.M), gt)
        force = self._from_t(k, c)
        ry = ry if force is None else ry - force
        return ry, rz if k.At is None else rz - _times(k.At, c), gt, c

    def expand_solution(self, k: Blocks, gt: Array | None, c: Array | None, wy: Array, wz: Array):
        """Solution of the full linear system from that of the reduced one; gt and c of `reduce_rhs`, None for zero."""
        return self._expand(k, wy, wz, c, gt, 1.0)

    def restrict(self, z: Array) -> Array:
        """The entries of z or s in the rows that stay."""
        return take(z, self._o)


class _Restricted(Affine):
    """Some entries of an affine map; ``touches`` says whether any of them can differ from zero."""

    def __init__(self, map_: AffineMap) -> None:
        super().__init__(map_)
        self.touches = bool(self.blocks) or bool(map_.constant.any())


def _restricted(map_: AffineMap, rows: np.ndarray, scale: np.ndarray | None = None) -> _Restricted:
    weight = np.ones(len(rows)) if scale is None else scale
    blocks = {p: block.matrix[rows] * weight[:, None] for p, block in map_.blocks.items()}
    return _Restricted(AffineMap(map_.constant[rows] * weight, {p: m.tocsr() for p, m in blocks.items()}))


def _entries(map_: AffineMap, pattern, t: np.ndarray) -> AffineMap:
    """The diagonal entries P[t, t], zero where nothing is stored."""
    place = np.full(pattern.shape[0], -1)
    diagonal = np.flatnonzero(pattern.rows == pattern.cols)
    place[pattern.rows[diagonal]] = diagonal
    at = np.flatnonzero(place[t] >= 0)
    pick = sp.csr_array((np.ones(len(at)), (at, place[t][at])), shape=(len(t), pattern.nnz))
    return AffineMap(pick @ map_.constant, {p: pick @ block.matrix for p, block in map_.blocks.items()})


def _order(first: np.ndarray, second: np.ndarray) -> Any:
    """Where entry i of the full vector stands in (first, second), None where it stands at i."""
    order = np.argsort(np.concatenate([first, second]))
    return None if np.array_equal(order, np.arange(len(order))) else indices(order)


def _joined(first: Array, second: Array, order: Any) -> Array:
    both = namespace(first).concat([first, second], axis=-1)
    return both if order is None else take(both, order)


def _apply_Ptt(k: Blocks, t: Array) -> Array | None:
    """Ptt t; None for zero."""
    if k.dtt is not None:
        return k.dtt * t
    return None if k.Ptt is None else _times(k.Ptt, t)


def _times(matrix: Array, vector: Array) -> Array:
    """matrix @ vector for each element; either may be shared."""
    xp = namespace(matrix, vector)
    if matrix.ndim == 2:
        return vector @ xp.matrix_transpose(matrix)
    return (matrix @ vector[..., None])[..., 0]


__all__ = ["ArrayElimination", "Blocks", "Reduced"]
