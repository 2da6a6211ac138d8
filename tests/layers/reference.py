"""Conic solutions to machine precision: Newton's method on the optimality conditions, from Clarabel's point.

With z and s the projections of u onto K* and of -u onto K, (x, u) is a solution exactly when Px + A'z + q = 0 and
Ax + s = b. What comes back has been checked against these two equations.
"""

from __future__ import annotations

import clarabel
import numpy as np
import scipy.sparse as sp

from cvxlayers.canonical import AffineSolverAffine, build
from tests.canonical.reference import _cone, data
from tests.layers import problems


def conic_solution(form: AffineSolverAffine, values) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """x, z, s and the optimal value at these parameter values."""
    P, q, A, b, r = data(form, values)
    P, A, cone = P.toarray(), A.toarray(), form.program.cone
    x, z, s = _clarabel(form, P, q, A, b)
    u, n = z - s, len(x)
    for _ in range(30):
        z, s = cone.pair(u)
        residual = np.concatenate([P @ x + A.T @ z + q, A @ x + s - b])
        if np.abs(residual).max(initial=0.0) < 1e-13:
            break
        D = cone.derivative(z, s, np.eye(len(u)))
        step = np.linalg.lstsq(np.block([[P, A.T @ D], [A, D - np.eye(len(u))]]), -residual, rcond=1e-12)[0]
        x, u = x + step[:n], u + step[n:]
    scale = 1.0 + max(np.abs(v).max(initial=0.0) for v in (P, q, A, b, x, u))
    assert np.abs(residual).max(initial=0.0) < 1e-13 * scale**2
    return x, z, s, form.sense * float(0.5 * x @ P @ x + q @ x + r)


def function(name: str):
    """The function of `tests.layers.facts.function`, (K, N) to (K, M), to machine precision."""
    case = problems.get(name)
    form = build(case.problem, case.parameters, case.variables, gp=case.gp)

    def one(v: np.ndarray) -> np.ndarray:
        values, start = [], 0
        for value in case.values:
            size = value.size * (2 if np.iscomplexobj(value) else 1)
            part = v[start : start + size]
            values.append((part.view(complex) if np.iscomplexobj(value) else part).reshape(value.shape))
            start += size
        x, z, s, optimum = conic_solution(form, values)
        outputs = [output.map([{"x": x, "z": z, "s": s}[output.source]]) for output in form.outputs]
        outputs = [np.exp(v) if o.transform == "exp" else v for v, o in zip(outputs, form.outputs, strict=True)]
        return np.concatenate([*outputs, [np.exp(optimum) if form.transform == "exp" else optimum]])

    return lambda points: np.stack([one(np.ascontiguousarray(v)) for v in points.reshape(-1, points.shape[-1])])


def _clarabel(form: AffineSolverAffine, P, q, A, b) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_feas = settings.tol_gap_abs = settings.tol_gap_rel = 1e-12
    cones = [_cone(block) for block in form.program.cone.blocks]
    solver = clarabel.DefaultSolver(sp.csc_matrix(np.triu(P)), q, sp.csc_matrix(A), b, cones, settings)
    solution = solver.solve()
    return np.array(solution.x), np.array(solution.z), np.array(solution.s)
