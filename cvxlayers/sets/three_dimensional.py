"""What the exponential and the power cones share: a smooth boundary in three dimensions."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from cvxlayers.array import namespace
from cvxlayers.sets.cone import Array, Cone
from cvxlayers.sets.dual import Dual


class ThreeDimensional(Cone):
    """A nonsymmetric cone of three-dimensional vectors.

    With phi <= 0 a smooth description of K near s on its boundary, z = -lambda grad phi(s): the derivative of Proj_K
    at -u = s - z is B - B n n'B / (n'B n), where B = (I + lambda Hess phi(s))^-1 and n is the normal, here z itself,
    and D = I minus that. With the barrier F and z = -mu grad F(s), D = I - (I + mu Hess F(s))^-1. Inside K* (s = 0),
    D = I; inside -K (z = 0), D = 0. D = I/2 at u = 0.
    """

    size = 3

    def dual(self) -> Cone:
        """K*, a linear image of K, as `Dual`."""
        return Dual(self)

    @abstractmethod
    def _contains(self, x: Array) -> Array:
        """Whether x is in K: (*batch, 3) to booleans (*batch, 1)."""

    @abstractmethod
    def _dual_contains(self, x: Array) -> Array:
        """Whether x is in K*."""

    @abstractmethod
    def _depth(self, s: np.ndarray) -> np.ndarray:
        """How far inside K a point of K is, in its own units: 0 on the boundary; NumPy, (*batch, 3) to (*batch)."""

    @abstractmethod
    def _dual_depth(self, z: np.ndarray) -> np.ndarray:
        """How far inside K* a point of K* is."""

    @abstractmethod
    def _regular_pair(self, v: Array, mu: Any) -> tuple[Array, Array]:
        """``_pair`` for u = -v where neither part is zero and K has its smooth boundary; anything else elsewhere."""

    @abstractmethod
    def _special_point(self, v: Array) -> tuple[Array, Array]:
        """Where the projection onto K lies on a face of K and is explicit: a mask (*batch, 1), and the projection."""

    @abstractmethod
    def _regular_derivative(self, z: Array, s: Array, h: Array) -> Array:
        """The exact D h at pairs of nonzero vectors."""

    @abstractmethod
    def _smoothed_derivative(self, z: Array, s: Array, h: Array, mu: Any) -> Array:
        """D h = h - (I + mu Hess F(s))^-1 h."""

    _regular: tuple[tuple[float, float, float], tuple[float, float, float]]
    """A pair (z, s) on the smooth boundary, put in the place of what `where` throws away."""

    def _pair(self, u: Array, mu: Any) -> tuple[Array, Array]:
        xp = namespace(u)
        # D and the pair are homogeneous: (z, s, mu) -> (c z, c s, c^2 mu).
        scale = xp.max(xp.abs(u), axis=-1)
        if mu is not None:
            root = xp.sqrt(mu + xp.zeros_like(scale))
            scale = xp.where(scale > root, scale, root)
        scale = xp.where(scale == 0, 1.0, scale)[..., None]
        v = -u / scale
        if mu is not None:
            z, s = self._regular_pair(v, mu / scale[..., 0] / scale[..., 0])
            return z * scale, s * scale
        inside, outside = self._dual_contains(-v), self._contains(v)
        special, point = self._special_point(v)
        regular = _point(self._regular, v)
        z, s = self._regular_pair(xp.where(inside | outside | special, regular[1] - regular[0], v), None)
        z, s = xp.where(special, point - v, z) * scale, xp.where(special, point, s) * scale
        return xp.where(inside, u, xp.where(outside, 0.0, z)), xp.where(outside, -u, xp.where(inside, 0.0, s))

    def _derivative(self, z: Array, s: Array, h: Array, mu: Any) -> Array:
        if mu is not None:
            return self._smoothed_derivative(z, s, h, mu)
        xp = namespace(z, s, h)
        inside, outside = self._dual_contains(z - s), self._contains(s - z)
        element = xp.where(inside, 1.0 - 0.5 * xp.astype(outside, z.dtype), 0.0)
        either = inside | outside
        regular = _point(self._regular, z)
        curved = self._regular_derivative(xp.where(either, regular[0], z), xp.where(either, regular[1], s), h)
        return xp.where(either, element * h, curved)

    def eigen(
        self, z: np.ndarray, s: np.ndarray, mu: float | np.ndarray = 0.0
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Eigenvalues of the 3 x 3 matrix D; margin compares (depth of z, |s|) and (|z|, depth of s)."""
        unit = np.eye(3, dtype=z.dtype).reshape(3, *(1,) * (z.ndim - 1), 3)
        D = np.moveaxis(self.derivative(z, s, unit, mu), 0, -1)
        finite = np.isfinite(D).all(axis=(-2, -1), keepdims=True)
        lam, V = np.linalg.eigh(np.where(finite, (D + D.swapaxes(-1, -2)) / 2, 0.5 * np.eye(3, dtype=z.dtype)))
        noise = 16 * np.finfo(z.dtype).eps
        lam = np.where(lam < noise, 0, np.where(lam > 1 - noise, 1, lam)).astype(z.dtype, copy=False)
        with np.errstate(all="ignore"):
            depths = np.stack([self._dual_depth(z), self._depth(s)], axis=-1)
        lengths = np.stack([np.linalg.norm(s, axis=-1), np.linalg.norm(z, axis=-1)], axis=-1)
        total = depths + lengths
        margin = np.divide(np.abs(depths - lengths), total, out=np.zeros_like(total), where=total > 0)
        return lam, V, margin.min(axis=-1)


def _point(pair: tuple, like: Array) -> tuple[Array, Array]:
    """The pair as arrays that broadcast against ``like``, with no copy to its device."""
    xp = namespace(like)
    zero = xp.zeros_like(like[..., 0])
    z, s = (xp.stack([zero + value for value in vector], axis=-1) for vector in pair)
    return z, s


def positive_root(c: Array, A: Array) -> tuple[Array, Array, Array]:
    """x > 0 and y = x - c > 0 with x y = A, each to full relative accuracy, and x + y; c of any sign, A > 0."""
    xp = namespace(A)
    total = xp.sqrt(c * c + 4 * A)
    large = (xp.abs(c) + total) / 2
    small = A / xp.where(large > 0, large, 1.0)
    return xp.where(c > 0, large, small), xp.where(c > 0, small, large), total


def inverse_after(diagonal: Array, updates: list[tuple[Array, Array, Any]], h: Array) -> Array:
    """(A + sum_i (a_i/b_i) v_i v_i')^-1 h for A^-1 = diag(diagonal) and updates (v_i, a_i, b_i), a_i >= 0, b_i > 0.

    Sherman and Morrison's formula, one update after the other; vectors (*batch, 3), weights (*batch, 1).
    """
    xp = namespace(diagonal)
    directions: list[tuple[Array, Array]] = []

    def apply(x: Array) -> Array:
        out = diagonal * x
        for w, weight in directions:
            out = out - w * (weight * xp.sum(w * x, axis=-1, keepdims=True))
        return out

    for v, a, b in updates:
        w = apply(v)
        directions.append((w, a / (b + a * xp.sum(v * w, axis=-1, keepdims=True))))
    return apply(h)


def curved_derivative(cos: Array, sin: Array, beta: Array, z_a: Array, z_b: Array, z_c: Array, h: Array) -> Array:
    """I - B + B z z'B/(z'B z), B = diag(beta, 1, 1) in the basis a = (cos, -sin, 0), b = (sin, cos, 0), c = (0, 0, 1).

    The second term is left out where z'B z = 0.
    """
    xp = namespace(z_a, h)
    size = xp.abs(z_a) + xp.abs(z_b) + xp.abs(z_c)
    size = xp.where(size > 0, size, 1.0)
    z_a, z_b, z_c = z_a / size, z_b / size, z_c / size
    total = beta * z_a * z_a + z_b * z_b + z_c * z_c
    some = total > 0
    m_a, total = beta * z_a, xp.where(some, total, 1.0)
    h_a, h_b, h_c = cos * h[..., :1] - sin * h[..., 1:2], sin * h[..., :1] + cos * h[..., 1:2], h[..., 2:]
    inner = xp.where(some, (m_a * h_a + z_b * h_b + z_c * h_c) / total, 0.0)
    out_a, out_b = (1 - beta) * h_a + m_a * inner, z_b * inner
    return xp.concat([cos * out_a + sin * out_b, cos * out_b - sin * out_a, z_c * inner], axis=-1)
