"""Programs without constraints or without variables, which solvers do not take."""

from __future__ import annotations

import numpy as np

from cvxlayers.conic.program import ConeData, ConeProgram, ConicSolution, DenseData
from cvxlayers.status import Status


def solve_trivial(program: ConeProgram, data: ConeData | DenseData, elements, out: ConicSolution) -> None:
    """Solve the elements of a program with m = 0 or n = 0, writing on ``out``.

    Without constraints x is the solution of Px = -q of minimum norm, or else the part of -q in the null space of P is a
    ray. Without variables s is b, or else z is the projection of -b on the dual cone, a certificate.
    """
    dense = data if isinstance(data, DenseData) else program.dense(data)
    for i in elements:
        P, q, _, b = dense.element(i)
        if program.n == 0:
            z = program.cone.project_dual(-b) if program.m else b
            inside = np.linalg.norm(z) <= 1e-9 * max(1.0, np.linalg.norm(b))
            out.s[i], out.z[i] = b, 0.0 if inside else z
            out.status[i] = Status.SOLVED if inside else Status.INFEASIBLE
            continue
        x = np.linalg.lstsq(P, -q)[0]
        rest = -(P @ x + q)
        ray = np.linalg.norm(rest) > 1e-9 * max(1.0, np.linalg.norm(q))
        out.x[i] = rest if ray else x
        out.status[i] = Status.UNBOUNDED if ray else Status.SOLVED
