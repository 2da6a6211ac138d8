"""What every solution and every certificate must satisfy, checked from the data by the definitions.

Nothing of `cvxlayers.conic.residuals` is used: distances to cones are Euclidean, by the projections of
`cvxlayers.sets`, which `tests/sets` checks against their definitions.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.sets import Product
from cvxlayers.status import Status
from tests.solvers.random_programs import Programs


def check_solver(programs: Programs, outcome, tol: float = 1e-8, certificate: float = 1e-6) -> None:
    """The whole batch has ended as the construction says, and the proof holds: a solution or a certificate.

    ``outcome`` has x, z, s, status and iterations, and residuals if they are to be checked, as NumPy arrays.
    """
    check_shapes(programs, outcome)
    allowed = [programs.outcome]
    if programs.hard:
        solvable = programs.outcome == Status.SOLVED
        allowed += [Status.INACCURATE] if solvable else [Status.MAX_ITERATIONS, Status.NUMERICAL_ERROR]
    bad = ~np.isin(outcome.status, allowed)
    names = [Status(k).name for k in outcome.status[bad]]
    assert not bad.any(), f"{programs.name}: {names} at {np.flatnonzero(bad).tolist()}, not {programs.outcome.name}"
    if programs.outcome == Status.INFEASIBLE:
        check_infeasible(programs, outcome, outcome.status == Status.INFEASIBLE, certificate)
    elif programs.outcome == Status.UNBOUNDED:
        check_unbounded(programs, outcome, outcome.status == Status.UNBOUNDED, certificate)
    else:
        for level, bound in ((Status.SOLVED, 10 * tol), (Status.INACCURATE, 1e-4)):
            check_optimal(programs, outcome, outcome.status == level, bound)


def check_shapes(programs: Programs, outcome) -> None:
    """Shapes, integer counts, and NaN wherever an element claims nothing."""
    batch, n, m = programs.batch, programs.n, programs.cone.size
    assert outcome.x.shape == (batch, n) and outcome.z.shape == outcome.s.shape == (batch, m)
    assert outcome.status.shape == outcome.iterations.shape == (batch,)
    assert np.issubdtype(outcome.status.dtype, np.integer) and (outcome.iterations >= 0).all()
    failed = outcome.status > Status.INACCURATE
    no_ray, no_certificate = outcome.status != Status.UNBOUNDED, outcome.status != Status.INFEASIBLE
    assert np.isnan(outcome.x[failed & no_ray]).all() and np.isnan(outcome.s[failed & no_ray]).all()
    assert np.isnan(outcome.z[failed & no_certificate]).all()
    for v in (outcome.x, outcome.z, outcome.s):
        assert np.isfinite(v[~failed]).all()


def check_optimal(programs: Programs, outcome, which: np.ndarray, tol: float) -> None:
    """Ax + s = b, s in K, z in K*, Px + q + A'z = 0 and s'z = 0 on the elements ``which``, each relative to its terms.

    With these, f(x) - f* <= s'z + what the residuals allow: the value is compared where it is known.
    """
    P, q, A, b = (v[which] for v in programs.arrays)
    x, z, s = outcome.x[which], outcome.z[which], outcome.s[which]
    Px, Ax, ATz = _times(P, x), _times(A, x), _times(A.mT, z)
    found = {
        "Ax + s = b": _norm(Ax + s - b) / _largest(Ax, s, b),
        "Px + q + A'z = 0": _norm(Px + q + ATz) / _largest(Px, q, ATz),
        "s in K": distance(programs.cone, s) / _largest(Ax, s, b),
        "z in K*": distance(programs.cone, z, dual=True) / _largest(Px, q, ATz),
    }
    terms = np.abs([np.vecdot(x, Px), np.vecdot(q, x), np.vecdot(b, z)]) if len(x) else np.zeros((3, 0))
    found["duality gap"] = np.abs(np.vecdot(x, Px) + np.vecdot(q, x) + np.vecdot(b, z)) / np.maximum(1.0, terms.max(0))
    for what, error in found.items():
        assert (error <= tol).all(), f"{programs.name}: {what} is off by {error.max():.1e} at {np.argmax(error)}"
    # s'z is what the gap is up to the residuals, which stand in products with x and z.
    slack = np.abs(np.vecdot(s, z))
    bound = tol * (
        np.maximum(1.0, terms.max(0, initial=0.0)) + _largest(Ax, s, b) * _norm(z) + _largest(Px, q, ATz) * _norm(x)
    )
    assert (slack <= 2 * bound).all(), f"{programs.name}: s'z is {slack.max():.1e}"
    if programs.value is not None:
        value = 0.5 * np.vecdot(x, Px) + np.vecdot(q, x)
        assert (np.abs(value - programs.value[which]) <= 10 * bound + tol).all(), f"{programs.name}: wrong value"
    if getattr(outcome, "residuals", None) is not None:
        reported = outcome.residuals[which]
        assert reported.shape == (len(x), 3) and (reported <= tol).all()
        recomputed = np.stack([found[name] for name in ("Ax + s = b", "Px + q + A'z = 0", "duality gap")], -1)
        assert (recomputed <= 2 * reported + 1e-12).all(), f"{programs.name}: the residuals are not what is reported"


def check_infeasible(programs: Programs, outcome, which: np.ndarray, tol: float) -> None:
    """z in K* with b'z = -1 and A'z = 0, the latter relative to the terms that cancel."""
    z, A, b = outcome.z[which], programs.A[which], programs.b[which]
    np.testing.assert_allclose(np.vecdot(b, z), -1.0, rtol=1e-6)
    share = 1.0 / np.vecdot(np.abs(b), np.abs(z))
    assert (_norm(_times(A.mT, z)) <= 2 * tol * share * _norm(_times(np.abs(A).mT, np.abs(z)))).all()
    assert (distance(programs.cone, z, dual=True) <= 4 * tol * _norm(z)).all()


def check_unbounded(programs: Programs, outcome, which: np.ndarray, tol: float) -> None:
    """Px = 0, Ax + s = 0, s in K and q'x = -1, relative to the terms that cancel."""
    x, s = outcome.x[which], outcome.s[which]
    P, q, A, _ = (v[which] for v in programs.arrays)
    np.testing.assert_allclose(np.vecdot(q, x), -1.0, rtol=1e-6)
    share = 1.0 / np.vecdot(np.abs(q), np.abs(x))
    assert (_norm(_times(P, x)) <= 2 * tol * share * _norm(_times(np.abs(P), np.abs(x)))).all()
    size = _times(np.abs(A), np.abs(x)) + np.abs(s)
    assert (_norm(_times(A, x) + s) <= 2 * tol * share * _norm(size)).all()
    assert (distance(programs.cone, s) <= 4 * tol * _norm(size)).all()


def distance(cone: Product, v: np.ndarray, dual: bool = False) -> np.ndarray:
    """The Euclidean distance to K or K*."""
    return _norm(v - (cone.project_dual(v) if dual else cone.project(v)))


def _times(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return (matrix @ vector[..., None])[..., 0]


def _norm(v: np.ndarray) -> np.ndarray:
    return np.sqrt(np.vecdot(v, v))


def _largest(*vectors: np.ndarray) -> np.ndarray:
    return np.maximum(1.0, np.max([_norm(v) for v in vectors], axis=0))
