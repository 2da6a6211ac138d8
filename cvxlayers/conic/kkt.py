"""The linear system of the derivative, factored once at a solution and solved for any number of right-hand sides.

With D the derivative of the projection onto K* at z - s, the linearised optimality conditions read K [w_x; w_z] =
[g_x; g_z] with K = [P A'; A I - D^-1]. Its bounded form, with S = D^(1/2) and w_z = S eta, is symmetric, has entries of
order one for every 0 <= D <= I, and holds both limits (D = 0: inactive, D = I: equality) without a division:

    [ P    A'S     ] [ w_x ]   [ g_x   ]
    [ SA   -(I - D)] [ eta ] = [ S g_z ]

In the eigenbasis D = V diag(lam) V' the rows with lam = 0 drop out, which is what makes the dense factor cheap.

Where the system is singular, the answer is the one of minimum norm (dense) or of the regularised system after
refinement (sparse), and the null space comes with it: what it does not enter is still determined.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import get_lapack_funcs

from cvxlayers.conic.program import ConeProgram, DenseData
from cvxlayers.pool import available_cpus, run
from cvxlayers.sets import Nonnegative, Zero
from cvxlayers.sets.nonnegative import clear_cut

RANK_TOLERANCE = 1e-11  # eigenvalues of the equilibrated system below this, relative to the largest, count as zero
DOUBTFUL = 1e9  # estimate of the condition number above which the rank is looked at
ROUNDING = 1e-10  # z and s that are both smaller, relative to the largest of their element, count as zero

_sytrf, _sytrf_lwork, _sytrs = get_lapack_funcs(("sytrf", "sytrf_lwork", "sytrs"), dtype=np.float64)


Null = dict[int, tuple[np.ndarray, np.ndarray]]
"""By element: vectors (k, n) and (k, m) that the system sends to zero."""


@dataclass(frozen=True, eq=False, repr=False)
class Certificate:
    """How far a derivative can be trusted, per element of the batch.

    ``residual`` is the relative residual of the linear system. ``unique`` says whether the system determines what was
    asked: it is nonsingular, or consistent and its null space does not enter the result. ``margin`` in [0, 1] is the
    strict complementarity of the solution: 0 at a kink, where "the" derivative is one of many.
    """

    residual: np.ndarray
    unique: np.ndarray
    margin: np.ndarray

    @property
    def degenerate(self) -> np.ndarray:
        """Elements at or near a kink of the solution map, or whose derivative is not unique."""
        return (self.margin < 0.5) | ~self.unique

    def __repr__(self) -> str:
        residual, margin = self.residual.max(initial=0.0), self.margin.min(initial=1.0)
        return (
            f"Certificate(largest residual {residual:.1e}, {self.unique.sum()} of {self.unique.size} unique, "
            f"smallest margin {margin:.1g})"
        )


@dataclass(frozen=True, eq=False)
class Spectrum:
    """D = V diag(lam) V' for a batch: lam (B, m), the groups of cones that need a V, and the margin (B,).

    ``clear`` says that every lam is 0 or 1 and that there are no bases.
    """

    lam: np.ndarray
    bases: tuple[tuple[int, int, np.ndarray], ...]  # start, size of one cone, V (B, count, size, size)
    margin: np.ndarray
    clear: bool = False

    def rotate(self, v: np.ndarray, *, back: bool = False) -> np.ndarray:
        """V'v, or V v with ``back``, along the last axis of (*, B, m)."""
        if not self.bases:
            return v
        v = v.copy()
        for start, size, V in self.bases:
            stop = start + V.shape[-3] * size
            part = v[..., start:stop].reshape(*v.shape[:-1], V.shape[-3], size, 1)
            part = np.matmul(V if back else V.swapaxes(-1, -2), part)
            v[..., start:stop] = part.reshape(*v.shape[:-1], stop - start)
        return v

    def rotate_rows(self, A: np.ndarray, start: int, stop: int) -> np.ndarray:
        """V'A for the elements in start : stop, whose A is (m, n) or (stop - start, m, n)."""
        if not self.bases:
            return A
        out = np.array(np.broadcast_to(A, (stop - start, *A.shape[-2:])))
        for first, size, V in self.bases:
            count = V.shape[-3]
            rows = A[..., first : first + count * size, :].reshape((*A.shape[:-2], count, size, A.shape[-1]))
            rotated = np.matmul(V[start:stop].swapaxes(-1, -2), rows)
            out[:, first : first + count * size] = rotated.reshape((stop - start, count * size, A.shape[-1]))
        return out


def spectrum(program: ConeProgram, z: np.ndarray, s: np.ndarray, mu: float = 0.0) -> Spectrum:
    """The derivative of the projection onto K* at z - s, z and s (B, m); ``mu`` > 0 for the smoothed one."""
    if not mu and program.cone.linear:
        active, inactive = clear_cut(z, s)
        for cone, _, start in program.cone.groups:
            if isinstance(cone, Zero):
                active[:, start : start + cone.size], inactive[:, start : start + cone.size] = True, False
        if (active | inactive).all():  # clear-cut: almost always
            return Spectrum(active.astype(float), (), _distinct(program, z, s), True)
    lam, bases, margin = np.empty(z.shape), [], _distinct(program, z, s)
    for start, count, cone, values, V, clear in program.cone.eigen_groups(z, s, mu):
        lam[:, start : start + count * cone.size] = values.reshape((len(z), count * cone.size))
        margin = np.minimum(margin, clear.reshape((len(z), count)).min(-1, initial=1.0))
        if V is not None:
            bases.append((start, cone.size, V))
    return Spectrum(lam, tuple(bases), margin)


def _distinct(program: ConeProgram, z: np.ndarray, s: np.ndarray) -> np.ndarray:
    """1 where of each nonnegative row z or s is more than the rounding of the largest, else 0; (B,)."""
    margin = np.ones(len(z))
    for cone, _, start in program.cone.groups:
        if isinstance(cone, Nonnegative):
            larger = np.maximum(z, s)
            floor = ROUNDING * np.maximum(1.0, larger.max(-1))
            margin[larger[:, start : start + cone.size].min(-1, initial=np.inf) <= floor] = 0.0
    return margin


class AtSpectrum:
    """A system that holds the spectrum it was made from."""

    spectrum: Spectrum

    @property
    def margin(self) -> np.ndarray:
        """Strict complementarity (B,), as `Certificate` has it."""
        return self.spectrum.margin


class DenseKKT(AtSpectrum):
    """The system of a batch of small dense programs, by one symmetric indefinite factorization per element.

    Each has as many rows as its own D has eigenvalues that are not zero: neighbours do not change its rounding errors.
    """

    def __init__(self, data: DenseData, spectrum: Spectrum) -> None:
        B, (m, n) = data.batch, data.A.shape[-2:]
        lam = spectrum.lam
        self.spectrum, self.data, self.n = spectrum, data, n
        self._rows = (lam > 0).sum(-1)
        k = int(self._rows.max(initial=0))
        self.order = None if self._rows.min(initial=m) == m else np.argsort(lam <= 0, axis=-1, kind="stable")[:, :k]
        self.lam = lam if self.order is None else np.take_along_axis(lam, self.order, -1)
        self.root = np.sqrt(self.lam)
        self.W, self.size = np.empty((B, k, n)), np.empty(B)
        self.factors: list = [None] * B
        rotation = 2.0 * m * n * max((V.shape[-1] for _, _, V in spectrum.bases), default=0)
        seconds = 1e-5 + ((n + k) ** 3 / 3.0 + rotation) / 3e9
        run(lambda: self._factor, B, available_cpus(), grain=max(1, int(2e-4 / seconds)))

    def _factor(self, start: int, stop: int) -> None:
        """Assemble and factor the elements of one piece of the batch."""
        data, n, k = self.data, self.n, self.W.shape[1]
        rotated = self.spectrum.rotate_rows(data.A if data.A.ndim == 2 else data.A[start:stop], start, stop)
        if self.order is None:
            W = rotated
        elif rotated.ndim == 2:
            W = rotated[self.order[start:stop]]
        else:
            W = rotated[np.arange(stop - start)[:, None], self.order[start:stop]]
        np.multiply(W, self.root[start:stop, :, None], out=self.W[start:stop])
        K = np.zeros((stop - start, n + k, n + k))
        K[:, :n, :n] = data.P if data.P.ndim == 2 else data.P[start:stop]
        K[:, n:, :n] = self.W[start:stop]
        diagonal = np.arange(n, n + k)
        K[:, diagonal, diagonal] = self.lam[start:stop] - 1.0
        work = int(_sytrf_lwork(n + k)[0]) if n + k else 1
        for i in range(start, stop if n + k else start):
            N = n + self._rows[i]
            own = K[i - start, :N, :N]
            self.size[i] = np.abs(own).max(initial=0.0)
            # sytrf reads the upper triangle of the Fortran view, which is the lower triangle filled above
            self.factors[i] = _sytrf(own.T, lwork=work, overwrite_a=True)[:2]

    def solve(self, gx: np.ndarray, gz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, Null]:
        """K [w_x; w_z] = [g_x; g_z] for (*, B, n) and (*, B, m), the leading axes being several right-hand sides.

        With the relative residual (B,), and the null spaces of the elements whose system is singular.
        """
        B = self.data.batch
        h = self._compress(self.spectrum.rotate(gz)) * self.root
        rhs = np.concatenate([gx, h], axis=-1)
        stacked = rhs.reshape((int(np.prod(rhs.shape[:-2], dtype=int)), B, rhs.shape[-1]))
        w, probe = np.zeros_like(stacked), np.zeros(B)
        several = np.empty((len(stacked) + 1, stacked.shape[-1]))
        several[-1] = np.random.default_rng(0).choice([-1.0, 1.0], stacked.shape[-1])
        for i, (ldu, pivots) in enumerate(self.factors if w.shape[-1] else []):
            several[:-1], N = stacked[:, i], len(ldu)
            if not N:  # no variables, and no active rows: LAPACK refuses a system of size 0
                continue
            solved = _sytrs(ldu, pivots, several[:, :N].T)[0].T
            w[:, i, :N], probe[i] = solved[:-1], np.abs(solved[-1]).max(initial=0.0)
        with np.errstate(invalid="ignore", over="ignore"):  # a singular factor gives infinities, dealt with below
            residual, scale = self._residual(stacked, w)
            # The right-hand side may hide a null vector; a random one does not.
            doubtful = ~(residual <= 1e-9 * scale) | ~(probe * self.size <= DOUBTFUL)
        null = {}
        for i in np.flatnonzero(doubtful).tolist():
            N = self.n + self._rows[i]
            w[:, i, :N], kernel = self._minimum_norm(i, stacked[:, i, :N])
            if len(kernel):
                null[i] = np.pad(kernel, ((0, 0), (0, w.shape[-1] - N)))
        if doubtful.any():
            residual, scale = self._residual(stacked, w)
        wx, wz = self._split(w.reshape(rhs.shape))
        return wx, wz, residual / scale, {i: self._split_one(i, kernel) for i, kernel in null.items()}

    def _split(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """w_x and w_z = V S eta."""
        wz = self.spectrum.rotate(self._scatter(w[..., self.n :] * self.root), back=True)
        return w[..., : self.n], wz

    def _split_one(self, i: int, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`_split` for vectors (k, N) of element i."""
        wide = np.zeros((len(w), self.data.batch, w.shape[-1]))
        wide[:, i] = w
        wx, wz = self._split(wide)
        return wx[:, i], wz[:, i]

    def _compress(self, v: np.ndarray) -> np.ndarray:
        if self.order is None:
            return v
        return np.take_along_axis(v, np.broadcast_to(self.order, (*v.shape[:-2], *self.order.shape)), -1)

    def _scatter(self, v: np.ndarray) -> np.ndarray:
        if self.order is None:
            return v
        out = np.zeros((*v.shape[:-1], self.spectrum.lam.shape[-1]))
        np.put_along_axis(out, np.broadcast_to(self.order, v.shape), v, -1)
        return out

    def _residual(self, rhs: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Largest residual and the scale to judge it by, per element; rhs and w (R, B, N)."""
        n, P, W = self.n, self.data.P, self.W
        wx, eta = w[..., :n, None], w[..., n:, None]
        top = np.matmul(P, wx)[..., 0] + np.matmul(W.swapaxes(-1, -2), eta)[..., 0] - rhs[..., :n]
        low = np.matmul(W, wx)[..., 0] - (1.0 - self.lam) * eta[..., 0] - rhs[..., n:]
        worst = np.maximum(np.abs(top).max((0, 2), initial=0.0), np.abs(low).max((0, 2), initial=0.0))
        return worst, np.abs(rhs).max((0, 2), initial=0.0) + np.finfo(float).tiny

    def _minimum_norm(self, i: int, rhs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Least squares of minimum norm for one element, (R, N); and a basis (k, N) of the null space."""
        P, k = self.data.element(i)[0], self._rows[i]
        W = self.W[i, :k]
        K = np.block([[P, W.T], [W, np.diag(self.lam[i, :k] - 1.0)]])
        if not np.isfinite(K).all():
            return np.full_like(rhs, np.nan), np.zeros((0, len(K)))
        scale = np.ones(len(K))
        noise = 1e-13 * np.abs(K).max(initial=0.0)  # a row of rounding errors is not to be blown up
        real = np.abs(K).max(0, initial=0.0) > noise
        for _ in range(3):
            largest = np.abs(K * scale * scale[:, None]).max(0, initial=0.0)
            scale /= np.sqrt(np.where(real, largest, 1.0))
        values, vectors = np.linalg.eigh(K * scale * scale[:, None])
        kept = np.abs(values) > RANK_TOLERANCE * np.abs(values).max(initial=0.0)
        inverse = np.where(kept, 1.0 / np.where(kept, values, 1.0), 0.0)
        w = (rhs * scale @ vectors * inverse) @ vectors.T * scale
        kernel, _ = np.linalg.qr(vectors[:, ~kept] * scale[:, None])
        return w - w @ kernel @ kernel.T, kernel.T
