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

    With g(z) = grad F*(z), and z~ = -grad F(s), s~ = -g(z), mu = s'z/3, mu~ = s~'z~/3, the scaling is

        H = s s'/(s'z) + ds ds'/(ds'dz) + t a a',  ds = s - mu s~,  dz = z - mu z~,

    with a the unit vector orthogonal to z and z~: H z = s and H z~ = s~, and t the size of mu Hess F*(z) that is left.
    Where that is ill-conditioned, at points close to the central path or to the boundary, H = mu Hess F*(z). The
    corrector holds the third derivative of F*.

    Source: J. Dahl, E. D. Andersen, A primal-dual interior-point algorithm for nonsymmetric exponential-cone
    optimization, doi 10.1007/s10107-021-01631-4.
    """

    size = degree = 3
    symmetric = False

    @abstractmethod
    def _gradient_primal(self, s: Array) -> Array:
        """grad F(s)."""

    @abstractmethod
    def _derivatives_dual(self, z: Array) -> tuple[Array, Array]:
        """grad F*(z), (*batch, count, 3), and Hess F*(z), (*batch, count, 3, 3)."""

    @abstractmethod
    def _third_dual(self, z: Array, u: Array, v: Array) -> Array:
        """The third derivative of F* at z in the directions u and v, (*batch, count, 3)."""

    def scaling(self, s: Array, z: Array) -> tuple[Array, ...]:
        xp = namespace(s)
        eps = float(xp.finfo(s.dtype).eps)
        g, hessian = self._derivatives_dual(z)
        conjugate = self._gradient_primal(s)
        product = _dot(s, z)
        mu, mu_tilde = product / 3.0, _dot(g, conjugate) / 3.0
        ds, dz = s + mu * g, z + mu * conjugate
        product_d = _dot(ds, dz)
        e1 = mu * mu_tilde - 1.0
        Hz = times(hessian, conjugate[..., None])[..., 0]
        e2 = _dot(conjugate, Hz) - 3.0 * mu_tilde * mu_tilde
        # Neither on the central path, where ds vanishes, nor so far out that rounding rules.
        good = (xp.abs(e1) > eps**0.5) & (xp.abs(e2) > eps) & (product > 0) & (product_d > 0)
        tmp = Hz - mu_tilde * g
        rest = hessian - outer(g, g) / 3.0 - outer(tmp, tmp) / xp.where(good, e2, 1.0)[..., None]
        t = mu * xp.sqrt(xp.sum(rest * rest, axis=(-2, -1)))[..., None]
        axis = _cross(z, conjugate)
        length = xp.sqrt(_dot(axis, axis))
        axis = axis / xp.where(length > 0, length, 1.0)
        good = (good & (length > 0))[..., None]
        safe, safe_d = xp.where(good, product[..., None], 1.0), xp.where(good, product_d[..., None], 1.0)
        primal_dual = outer(s, s) / safe + outer(ds, ds) / safe_d + t[..., None] * outer(axis, axis)
        H = xp.where(good, primal_dual, mu[..., None] * hessian)
        return H, lower_inverse(cholesky3(H))

    def scale(self, W: tuple[Array, ...], V: Array) -> Array:
        return times(W[1], V)

    def scale_back(self, W: tuple[Array, ...], V: Array) -> Array:
        return times(namespace(V).matrix_transpose(W[1]), V)

    def times_H(self, W: tuple[Array, ...], V: Array) -> Array:
        return times(W[0], V)

    def corrector(self, W: tuple[Array, ...], s: Array, z: Array, ds: Array, dz: Array, mu: Array) -> Array:
        xp = namespace(s)
        g, hessian = self._derivatives_dual(z)
        inverse = lower_inverse(cholesky3(hessian))
        inner = times(xp.matrix_transpose(inverse), times(inverse, ds[..., None]))[..., 0]
        third = 0.5 * self._third_dual(z, dz, inner)
        finite = xp.all(xp.isfinite(third), axis=-1, keepdims=True)
        return s + mu * g - xp.where(finite, third, 0.0)

    def step(self, W: tuple[Array, ...], s: Array, z: Array, ds: Array, dz: Array) -> Array:
        return namespace(s).zeros_like(s[..., 0]) + float("inf")

    depth = None  # pyright: ignore[reportAssignmentType]


def times(M: Array, V: Array) -> Array:
    """M V for 3 x 3 matrices: elementwise, since libraries are slow at many small products."""
    return M[..., :, :1] * V[..., :1, :] + M[..., :, 1:2] * V[..., 1:2, :] + M[..., :, 2:] * V[..., 2:, :]


def outer(a: Array, b: Array) -> Array:
    return a[..., :, None] * b[..., None, :]


def cholesky3(H: Array) -> tuple[Array, ...]:
    """The entries l00, l10, l11, l20, l21, l22 of the Cholesky factor of a 3 x 3 matrix, (*batch, count) each."""
    xp = namespace(H)
    l00 = xp.sqrt(H[..., 0, 0])
    l10, l20 = H[..., 1, 0] / l00, H[..., 2, 0] / l00
    l11 = xp.sqrt(H[..., 1, 1] - l10 * l10)
    l21 = (H[..., 2, 1] - l20 * l10) / l11
    l22 = xp.sqrt(H[..., 2, 2] - l20 * l20 - l21 * l21)
    return l00, l10, l11, l20, l21, l22


def lower_inverse(L: tuple[Array, ...]) -> Array:
    """The inverse of a lower triangular 3 x 3 matrix, as (*batch, count, 3, 3)."""
    l00, l10, l11, l20, l21, l22 = L
    i00, i11, i22 = 1.0 / l00, 1.0 / l11, 1.0 / l22
    i10, i21 = -l10 * i00 * i11, -l21 * i11 * i22
    return matrix(((i00, 0, 0), (i10, i11, 0), (-(l20 * i00 + l21 * i10) * i22, i21, i22)))


def matrix(rows: tuple) -> Array:
    """Entries (*batch, count), or 0, to matrices (*batch, count, 3, 3)."""
    xp, like = namespace(rows[0][0]), rows[0][0]
    flat = [xp.zeros_like(like) if isinstance(entry, int) else entry for row in rows for entry in row]
    return xp.reshape(xp.stack(flat, axis=-1), (*like.shape, 3, 3))


def unit(point: tuple[float, ...], like: Array) -> Array:
    return constant(np.array, (point,), like)


def _dot(a: Array, b: Array) -> Array:
    return namespace(a).sum(a * b, axis=-1, keepdims=True)


def _cross(a: Array, b: Array) -> Array:
    xp = namespace(a)
    a0, a1, a2, b0, b1, b2 = (v[..., i] for v in (a, b) for i in range(3))
    return xp.stack([a1 * b2 - a2 * b1, a2 * b0 - a0 * b2, a0 * b1 - a1 * b0], axis=-1)
