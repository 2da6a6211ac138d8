"""The linear system of the derivative where every row is clearly active or inactive, by a compiled kernel.

That is the case at almost every solution of a quadratic program. The active rows W leave [P W'; W 0], solved for the
whole batch in `cvxlayers.compiled.polyhedral`; elements that it cannot factor go to `DenseKKT`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from cvxlayers.compiled.compiler import is_available
from cvxlayers.conic.kkt import AtSpectrum, DenseKKT, Null, Spectrum
from cvxlayers.conic.program import DenseData
from cvxlayers.pool import available_cpus, run

_WORTH_A_THREAD = 1e6  # floating-point operations below which another thread does not pay


class PolyhedralKKT(AtSpectrum):
    """Factors of a batch at active sets; `solve` as in `DenseKKT`."""

    def __init__(self, data: DenseData, spectrum: Spectrum) -> None:
        B, n = data.batch, data.A.shape[-1]
        self.data, self.spectrum = data, spectrum
        self._P = plain(data.P if data.P.ndim == 3 else data.P[None])
        self._A = plain(data.A if data.A.ndim == 3 else data.A[None])
        self._active = spectrum.lam > 0.5
        most = min(n, int(np.count_nonzero(self._active, axis=1).max(initial=0)))
        self._U, self._S = np.empty((len(self._P), n, n)), np.empty((B, most, most))
        self._failed = np.zeros(B, bool)
        self._factored = False
        self._others: DenseKKT | None = None
        self._grain = grain(n, most)

    @staticmethod
    def fits(spectrum: Spectrum) -> bool:
        """Whether every row is clearly active or inactive, and there is a compiler."""
        return spectrum.clear and not spectrum.bases and is_available()

    def solve(self, gx: np.ndarray, gz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, Null]:
        """As `DenseKKT.solve`."""
        B = self.data.batch
        several = int(np.prod(gx.shape[:-2], dtype=int))
        gx3 = plain(gx.reshape((several, *gx.shape[-2:])))
        gz3 = plain(gz.reshape((several, *gz.shape[-2:])))
        wx, wz, residual = np.empty_like(gx3), np.empty_like(gz3), np.empty(B)
        # Shared data are factored by the first piece alone, which then holds the whole batch.
        grain = B if len(self._P) < B and not self._factored else self._grain
        kernel = _kernel()

        def piece(start: int, stop: int) -> None:
            kernel(
                self._P, self._A, self._active, gx3, gz3, wx, wz, residual,
                self._U, self._S, self._failed, self._factored, start, stop,
            )  # fmt: skip

        if B <= grain:
            piece(0, B)
        else:
            run(lambda: piece, B, available_cpus(), grain)
        self._factored = True
        null: Null = {}
        if self._failed.any():
            at = np.flatnonzero(self._failed)
            if self._others is None:
                D = Spectrum(self.spectrum.lam[at], (), self.spectrum.margin[at], True)
                self._others = DenseKKT(self.data.take(at), D)
            wx[:, at], wz[:, at], residual[at], kernels = self._others.solve(gx3[:, at], gz3[:, at])
            null = {int(at[i]): kernel for i, kernel in kernels.items()}
        return wx.reshape(gx.shape), wz.reshape(gz.shape), residual, null


def grain(n: int, most: int) -> int:
    """The elements of a piece, of n variables and so many active rows: the largest batch that is not worth threads."""
    work = n * n * (n / 3.0 + 2.0 * most) + n * most * most
    return max(1, int(_WORTH_A_THREAD / (work + 1.0)))


def plain(array: np.ndarray) -> np.ndarray:
    """The array as the kernel's signature wants it: contiguous, and writable though it is not written."""
    return array if array.flags.c_contiguous and array.flags.writeable else array.copy()


@lru_cache(maxsize=1)
def _kernel() -> Callable:
    from cvxlayers.compiled.polyhedral import polyhedral_kkt

    return polyhedral_kkt
