"""The second-order (Lorentz, ice-cream) cone, t first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cvxlayers.array import namespace
from cvxlayers.sets.cone import Array, Cone, check_length, over_entries
from cvxlayers.sets.nonnegative import snap, split


@dataclass(frozen=True)
class SecondOrder(Cone):
    """K = {(t, x) in R x R^(d-1): ||x|| <= t} = K*; d = 1 is the half line.

    With the spectral values t +- ||x|| and the vectors (1, +-x/||x||)/2, a symmetric cone acts on spectral values as
    the nonnegative cone does on entries. The smoothed pair has z o s = mu e for the Jordan product
    z o s = (z's, z_0 s_1 + s_0 z_1), e = (1, 0): barrier F(s) = -log(t^2 - ||x||^2)/2.

    Linearizing z o s, with L(w) h = w o h: L(s) dz + L(z)(dz - h) = 0, so D h = L(z + s)^-1 (z o h), exact or smoothed.
    On a pair, where z_1 and s_1 are parallel, this is, with w = z + s, delta = w_0^2 - ||w_1||^2 and
    c = s_0 z_1 - z_0 s_1,

        D h = ( a h_0 + c'h_1 / delta,  c h_0 / delta + m h_1 - c w_1'h_1 / (delta w_0) ),
        a = (z_0 w_0 - z_1'w_1) / delta,  m = z_0 / w_0.

    Source: F. Alizadeh, D. Goldfarb, Second-order cone programming, doi 10.1007/s10107-002-0339-5.

    >>> SecondOrder(3).project(np.array([0.0, 3.0, 4.0]))
    array([2.5, 1.5, 2. ])
    """

    d: int

    def __post_init__(self) -> None:
        check_length("d of SecondOrder(d)", self.d, 1)

    @property
    def size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.d

    _symmetric = True

    def dual(self) -> SecondOrder:
        return self

    def _pair(self, u: Array, mu: Any) -> tuple[Array, Array]:
        xp = namespace(u)
        t, x = u[..., :1], u[..., 1:]
        norm = xp.linalg.vector_norm(x, axis=-1, keepdims=True)
        n = x / xp.where(norm > 0, norm, 1.0)
        above, below = (split(v, over_entries(mu)) for v in (t + norm, t - norm))

        def compose(plus: Array, minus: Array) -> Array:
            return xp.concat([(plus + minus) / 2, n * ((plus - minus) / 2)], axis=-1)

        z, s = compose(above[0], below[0]), compose(above[1], below[1])
        if mu is None:
            # A point of K* or -K is its own projection to the last bit.
            inside, outside = norm <= t, norm <= -t
            z = xp.where(inside, u, xp.where(outside, 0.0, z))
            s = xp.where(outside, -u, xp.where(inside, 0.0, s))
        return z, s

    def _derivative(self, z: Array, s: Array, h: Array, mu: Any) -> Array:
        xp = namespace(z, s, h)
        z0, z1, s0, s1 = z[..., :1], z[..., 1:], s[..., :1], s[..., 1:]
        total = z0 + s0
        some = total > 0
        scale = xp.where(some, total, 1.0)
        # The element (z + e/2)/(z + s + e) is 1/2 at 0/0 and moves nothing else.
        shift = xp.where(some, 8 * float(xp.finfo(z.dtype).eps) + 0 * total, 1.0)
        z0, s0, z1, s1 = z0 / scale + shift, s0 / scale + shift, z1 / scale, s1 / scale
        w0, w1 = z0 + s0, z1 + s1
        delta = w0 * w0 - xp.sum(w1 * w1, axis=-1, keepdims=True)
        floor = shift * shift + 0 * delta
        delta = xp.where(delta > floor, delta, floor)
        c = s0 * z1 - z0 * s1
        a = (z0 * w0 - xp.sum(z1 * w1, axis=-1, keepdims=True)) / delta
        h0, h1 = h[..., :1], h[..., 1:]
        first = a * h0 + xp.sum(c * h1, axis=-1, keepdims=True) / delta
        rest = (c / delta) * (h0 - xp.sum(w1 * h1, axis=-1, keepdims=True) / w0) + (z0 / w0) * h1
        return xp.concat([first, rest], axis=-1)

    def eigen(
        self, z: np.ndarray, s: np.ndarray, mu: float | np.ndarray = 0.0
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Eigenvalues of (1, n)/sqrt(2), of (1, -n)/sqrt(2), and of the d - 2 directions orthogonal to both."""
        if self.d == 1:
            lam, margin = snap(z, s, mu)
            return lam, None, margin[..., 0]
        n, V = _frame((z - s)[..., 1:])
        values_z, values_s = (_spectral_values(x, n) for x in (z, s))
        ends, margin = snap(values_z, values_s, mu)
        sum_z = np.where(ends == 0, 0, np.maximum(values_z, 0)).sum(axis=-1)
        total = sum_z + np.where(ends == 1, 0, np.maximum(values_s, 0)).sum(axis=-1)
        middle = np.divide(sum_z, total, out=np.full_like(total, 0.5), where=total > 0)
        lam = np.concatenate([ends, np.broadcast_to(middle[..., None], (*middle.shape, self.d - 2))], axis=-1)
        return lam, V, margin.min(axis=-1)


def _spectral_values(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    along = np.sum(n * x[..., 1:], axis=-1)
    return np.stack([x[..., 0] + along, x[..., 0] - along], axis=-1)


def _frame(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """n = x/||x|| (e_1 for 0), and the orthogonal matrix of columns (1, n)/sqrt(2), (1, -n)/sqrt(2), (0, n-orthogonal).

    The n-orthogonal columns are those of a Householder reflection that takes +-e_1 to n.
    """
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    first = np.eye(1, x.shape[-1], dtype=x.dtype)[0]
    n = np.where(norm > 0, x / np.where(norm > 0, norm, 1), first)
    v = n + np.where(n[..., :1] < 0, -first, first)
    reflection = np.eye(x.shape[-1], dtype=x.dtype) - v[..., :, None] * (
        v[..., None, :] * (2 / np.sum(v * v, axis=-1))[..., None, None]
    )
    V = np.zeros((*x.shape[:-1], x.shape[-1] + 1, x.shape[-1] + 1), x.dtype)
    V[..., 0, :2] = np.sqrt(0.5)
    V[..., 1:, 0] = n * np.sqrt(0.5)
    V[..., 1:, 1] = -n * np.sqrt(0.5)
    V[..., 1:, 2:] = reflection[..., :, 1:]
    return n, V
