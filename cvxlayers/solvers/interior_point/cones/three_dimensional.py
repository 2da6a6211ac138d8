"""What the exponential and the power cone share: a primal-dual scaling of 3 x 3 blocks, from the dual barrier."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from cvxlayers.array import constant, namespace
from cvxlayers.solvers.interior_point.cones.barrier import Barrier

Array = Any


class ThreeDimensionalBarrier(Barrier):
    """A cone of three dimensions whose dual barrier F* has derivatives in closed form, of degree 3.

    With g(z) = grad F*(z), z~ = -grad F(s), s~ = -g(z), mu = s'z/3 and mu~ = s~'z~/3, the scaling is

        H = s s'/(s'z) + ds ds'/(ds'dz) + t a a',  ds = s - mu s~,  dz = z - mu z~,

    with a orthogonal to z and z~: H z = s and H z~ = s~, and t is what mu Hess F*(z) has left along a. The vectors
    (z, dz, b), with b orthogonal to s and ds, are biorthogonal to (s, ds, a), so both W and its inverse are at hand
    without a factorization, which would lose the small eigenvalues of H beside the large ones. Where ds vanishes, on
    the central path, H = mu Hess F*(z), which the cone hands over in factors.

    Source: J. Dahl, E. D. Andersen, A primal-dual interior-point algorithm for nonsymmetric exponential-cone
    optimization, doi 10.1007/s10107-021-01631-4.
    """

    size = degree = 3
    symmetric = False

    @abstractmethod
    def _gradient_primal(self, s: Array) -> Array:
        """grad F(s)."""

    @abstractmethod
    def _dual(self, z: Array) -> tuple[Array, Array, Array]:
        """grad F*(z), (*batch, count, 3), and C and C^-1, (*batch, count, 3, 3), with C C' = Hess F*(z)."""

    @abstractmethod
    def _third_dual(self, z: Array, u: Array, v: Array) -> Array:
        """The third derivative of F* at z in the directions u and v, (*batch, count, 3)."""

    def scaling(self, s: Array, z: Array) -> tuple[Array, ...]:
        """W' = [s/sqrt(s'z), ds/sqrt(ds'dz), sqrt(t) a] and W^-T, whose rows are the biorthogonal vectors."""
        xp = namespace(s)
        eps = float(xp.finfo(s.dtype).eps)
        g, C, inverse_C = self._dual(z)
        conjugate = self._gradient_primal(s)  # -z~
        product = dot(s, z)
        mu, mu_tilde = product / 3.0, dot(g, conjugate) / 3.0
        ds, dz = s + mu * g, z + mu * conjugate
        excess = mu * mu_tilde - 1.0
        product_d = product * excess  # ds'dz
        a, b = cross(z, dz), cross(s, ds)
        pair = dot(a, b)
        # The remainder of mu Hess F* lives along a; b~, orthogonal to its other two terms, reads it off.
        Hz = times(C, times(xp.matrix_transpose(C), conjugate[..., None]))[..., 0]
        reader = cross(g, Hz - mu_tilde * g)
        along = dot(a, reader)
        read = times(xp.matrix_transpose(C), reader[..., None])[..., 0]
        t = mu * dot(read, read) / xp.where(along == 0, 1.0, along * along)
        good = (product > 0) & (excess > eps**0.5) & (xp.abs(pair) > 0) & (along != 0) & (t > 0)
        t, pair = xp.where(good, t, 1.0), xp.where(good, pair, 1.0)
        root, root_d, root_t = (xp.sqrt(xp.where(good, v, 1.0)) for v in (product, product_d, t))
        columns = xp.stack([s / root, ds / root_d, root_t * a], axis=-1)
        rows = xp.stack([z / root, dz / root_d, b / (root_t * pair)], axis=-2)
        finite = xp.isfinite(xp.sum(columns, axis=(-2, -1)) + xp.sum(rows, axis=(-2, -1)))
        good = good[..., None] & finite[..., None, None]
        scale = xp.sqrt(mu)[..., None]
        return xp.where(good, columns, scale * C), xp.where(good, rows, inverse_C / scale)

    def scale(self, W: tuple[Array, ...], V: Array) -> Array:
        return times(W[1], V)

    def scale_back(self, W: tuple[Array, ...], V: Array) -> Array:
        return times(namespace(V).matrix_transpose(W[1]), V)

    def times_H(self, W: tuple[Array, ...], V: Array) -> Array:
        return times(W[0], times(namespace(V).matrix_transpose(W[0]), V))

    def corrector(self, W: tuple[Array, ...], s: Array, z: Array, ds: Array, dz: Array, mu: Array) -> Array:
        xp = namespace(s)
        g, _, inverse_C = self._dual(z)
        inner = times(xp.matrix_transpose(inverse_C), times(inverse_C, ds[..., None]))[..., 0]
        third = 0.5 * self._third_dual(z, dz, inner)
        finite = xp.all(xp.isfinite(third), axis=-1, keepdims=True)
        return s + mu * g - xp.where(finite, third, 0.0)

    def step(self, W: tuple[Array, ...], s: Array, z: Array, ds: Array, dz: Array) -> Array:
        return namespace(s).zeros_like(s[..., 0]) + float("inf")

    depth = None  # pyright: ignore[reportAssignmentType]


def times(M: Array, V: Array) -> Array:
    """M V for 3 x 3 matrices: elementwise, since libraries are slow at many small products."""
    return M[..., :, :1] * V[..., :1, :] + M[..., :, 1:2] * V[..., 1:2, :] + M[..., :, 2:] * V[..., 2:, :]


def matrix(rows: tuple) -> Array:
    """Entries (*batch, count), or 0, to matrices (*batch, count, 3, 3)."""
    entries = [entry for row in rows for entry in row]
    like = next(entry for entry in entries if not isinstance(entry, int))
    xp = namespace(like)
    flat = [xp.zeros_like(like) if isinstance(entry, int) else entry for entry in entries]
    return xp.reshape(xp.stack(flat, axis=-1), (*like.shape, 3, 3))


def unit(point: tuple[float, ...], like: Array) -> Array:
    return constant(np.array, (point,), like)


def dot(a: Array, b: Array) -> Array:
    return namespace(a).sum(a * b, axis=-1, keepdims=True)


def cross(a: Array, b: Array) -> Array:
    xp = namespace(a)
    a0, a1, a2, b0, b1, b2 = (v[..., i] for v in (a, b) for i in range(3))
    return xp.stack([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0], axis=-1)
