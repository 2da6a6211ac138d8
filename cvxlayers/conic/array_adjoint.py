"""The pull-back of `cvxlayers.conic.adjoint` on any array library: solutions of the linear system to parameters."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from cvxlayers.array import namespace
from cvxlayers.array.scatter import Constant, Index, indices, take
from cvxlayers.conic.affine import Lift
from cvxlayers.conic.array_affine import Affine, Rows, scaled, uniform
from cvxlayers.conic.matrix_map import OuterPullback
from cvxlayers.conic.program import ConeProgram

Array = Any


class ArrayAdjoint:
    """Gradients of the parameter vectors; the formulas are those of `cvxlayers.conic.adjoint`."""

    def __init__(self, program: ConeProgram, lift: Lift) -> None:
        P = OuterPullback(lift.P, program.P, symmetric=True).inputs
        A = OuterPullback(lift.A, program.A).inputs
        self._P, self._A = ({p: _Outer(part) for p, part in inputs.items()} for inputs in (P, A))
        self._q, self._b, self._r = (Affine(m) for m in (lift.q, lift.b, lift.r))

    def pull(
        self,
        x: Array,
        z: Array,
        w: tuple[Array, Array] | None,
        gs: Array | None,
        value: Array | None,
        wanted: Collection[int],
        shared: Sequence[bool],
    ) -> dict[int, Array | None]:
        """Gradients (*batch, size) of the vectors in ``wanted``, None for zero; (size,), summed, of a ``shared`` one.

        ``w`` = (w_x, w_z) solves the system (None for zero), ``gs`` is the cotangent of s, ``value`` (*batch) that of
        (1/2) x'Px + q'x + r.
        """
        xp = namespace(x, z)
        wx, wz = (xp.zeros_like(x), xp.zeros_like(z)) if w is None else w
        to_b = wz if gs is None else wz + gs
        to_q, half = -wx, wx
        if value is not None:
            v = value[..., None]
            to_b, to_q, half = to_b - v * z, to_q + v * x, wx - 0.5 * v * x
        A_pair = P_pair = None
        if any(p in self._A for p in wanted):
            A_pair = xp.stack([-z, -to_b], axis=-2), xp.stack([wx, x], axis=-2)
        if any(p in self._P for p in wanted):
            P_pair = xp.stack([-0.5 * half, -0.5 * x], axis=-2), xp.stack([x, half], axis=-2)
        out: dict[int, Array | None] = {}
        for p in wanted:
            parts = []
            if A_pair is not None and p in self._A:
                parts.append(self._A[p](*A_pair, shared[p]))
            if P_pair is not None and p in self._P:
                parts.append(self._P[p](*P_pair, shared[p]))
            for map_, g in ((self._q, to_q), (self._b, to_b), (self._r, None if value is None else value[..., None])):
                if g is not None and p in map_.blocks:
                    parts.append(map_.transpose(p, _summed(g, 1) if shared[p] else g))
            out[p] = None if not parts else parts[0] if len(parts) == 1 else sum(parts[1:], parts[0])
        return out


class _Outer:
    """One input of an OuterPullback: sum_r left_r right_r' at the entries that the input enters, scattered to it."""

    def __init__(self, part: Any) -> None:
        self.size, self._outer = part.size, None
        self._scale = uniform(part.value)
        if part.outer is not None:
            swap, major, minor = part.outer
            self._outer = swap, _index(major), _index(minor)
        else:
            self._rows, self._cols, self._scatter = indices(part.rows), indices(part.cols), Rows(part.scatter)

    def __call__(self, left: Array, right: Array, shared: bool) -> Array:
        """left (*batch, R, rows), right (*batch, R, cols) to (*batch, size); (size,), summed, if ``shared``."""
        xp = namespace(left)
        if self._outer is not None:
            swap, major, minor = self._outer
            if swap:
                left, right = right, left
            left, right = take(left, major), scaled(take(right, minor), self._scale)
            if shared:
                left, right = (xp.reshape(v, (-1, v.shape[-1])) for v in (left, right))
            product = xp.matrix_transpose(left) @ right
            return xp.reshape(product, (*product.shape[:-2], self.size))
        values = xp.sum(take(left, self._rows) * take(right, self._cols), axis=-2)
        return self._scatter(_summed(values, 1) if shared else values)


def _index(part: np.ndarray | slice) -> Index:
    return part if isinstance(part, slice) else Constant(part.astype(np.int64))


def _summed(v: Array, own: int) -> Array:
    """The sum over the batch, all axes but the last ``own``."""
    axes = tuple(range(v.ndim - own))
    return namespace(v).sum(v, axis=axes) if axes else v
