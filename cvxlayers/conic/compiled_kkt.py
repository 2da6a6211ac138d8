"""The linear system of the derivative of programs with curved cones, by a compiled kernel on the sparsity pattern.

It factors what an iteration of the native solver factors, see `cvxlayers.compiled.derivative`. Elements that it gives
up, at kinks and where the system is singular, go to another form of the system.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from cvxlayers.compiled.compiler import is_available
from cvxlayers.conic.kkt import Null
from cvxlayers.conic.polyhedral_kkt import plain
from cvxlayers.conic.program import ConeData, ConeProgram
from cvxlayers.conic.structure import Structure
from cvxlayers.pool import available_cpus, run

_WORTH_A_THREAD = 5e-4  # seconds


class CompiledKKT:
    """The system of a batch at primal-dual pairs z and s (B, m); `solve` as in `cvxlayers.conic.kkt.DenseKKT`.

    ``others(elements)`` makes another form of the system for some elements.
    """

    def __init__(self, structure: Structure, data: ConeData, z: np.ndarray, s: np.ndarray, others: Callable) -> None:
        self._structure, self._others, self.batch = structure, others, data.batch
        self._values = [plain(np.atleast_2d(v)) for v in (data.P, data.q, data.A, data.b)]
        self._pair = plain(z), plain(s)
        self._probe = np.random.default_rng(0).choice([-1.0, 1.0], structure.program.n + structure.program.m)
        self._margin: np.ndarray | None = None
        self._rest, self._given_up = None, np.zeros(0, np.int64)

    @staticmethod
    def fits(program: ConeProgram) -> bool:
        """Whether there is a compiler, a cone that is not polyhedral, and not too much work for the kernel."""
        return not program.cone.linear and is_available() and Structure.pays(program)

    @property
    def margin(self) -> np.ndarray:
        """Strict complementarity (B,), as `cvxlayers.conic.kkt.Certificate` has it; known after `solve`."""
        assert self._margin is not None
        return self._margin

    def solve(self, gx: np.ndarray, gz: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, Null]:
        """As `DenseKKT.solve`. The factor is made again in each call: keeping those of a batch costs more memory."""
        B, program = self.batch, self._structure.program
        several = int(np.prod(gx.shape[:-2], dtype=int))
        gx3 = plain(np.broadcast_to(gx, (*gx.shape[:-2], B, program.n)).reshape((several, B, program.n)))
        gz3 = plain(np.broadcast_to(gz, (*gz.shape[:-2], B, program.m)).reshape((several, B, program.m)))
        wx, wz, residual = np.empty_like(gx3), np.empty_like(gz3), np.zeros(B)
        margin, failed = np.zeros(B), np.zeros(B, bool)
        kernel, arrays = _kernel(), self._structure.arrays

        def piece(start: int, stop: int) -> None:
            kernel(
                *self._values, arrays, *self._pair, gx3, gz3, self._probe, start, stop,
                wx, wz, residual, margin, failed,
            )  # fmt: skip

        grain = max(1, int(_WORTH_A_THREAD / self._seconds(several)))
        if B <= grain:
            piece(0, B)
        else:
            run(lambda: piece, B, available_cpus(), grain)
        self._margin = margin
        null: Null = {}
        if failed.any():
            at = np.flatnonzero(failed)
            if self._rest is None or not np.array_equal(at, self._given_up):  # other right-hand sides, other elements
                self._rest, self._given_up = self._others(at), at
            wx[:, at], wz[:, at], residual[at], kernels = self._rest.solve(gx3[:, at], gz3[:, at])
            margin[at] = self._rest.margin
            null = {int(at[i]): kernel for i, kernel in kernels.items()}
        return wx.reshape(gx.shape), wz.reshape(gz.shape), residual, null

    def _seconds(self, several: int) -> float:
        program, system = self._structure.program, self._structure.system
        return 5e-6 + 3e-10 * system.cost + 2e-8 * (several + 1) * (program.A.nnz + program.m + system.N)


@lru_cache(maxsize=1)
def _kernel() -> Callable:
    from cvxlayers.compiled.derivative import derivative

    return derivative
