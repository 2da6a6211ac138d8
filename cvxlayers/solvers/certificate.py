"""Certificates for solvers that find no solution and do not say why: Farkas by nonnegative least squares."""

from __future__ import annotations

import numpy as np

from cvxlayers.conic.program import ConicSolution, DenseData
from cvxlayers.status import Status


def certify(i: int, data: DenseData, equalities: int, out: ConicSolution) -> None:
    """Write the certificate that goes with the status of element ``i`` of a program with linear constraints.

    It is NaN where there is none: the judge then takes back the claim that there is no solution.
    """
    P, q, A, b = data.element(i)
    if out.status[i] == Status.INFEASIBLE:
        z = infeasibility(A, b, equalities)
        out.z[i] = np.nan if z is None else z
    elif out.status[i] == Status.UNBOUNDED:
        ray = unboundedness(P, q, A, equalities)
        out.x[i], out.s[i] = (np.nan, np.nan) if ray is None else ray


def infeasibility(A: np.ndarray, b: np.ndarray, equalities: int) -> np.ndarray | None:
    """z with A'z = 0, b'z = -1 and z >= 0 past the first ``equalities`` rows, as nearly as least squares can; or None.

    Lawson and Hanson, "Solving Least Squares Problems", SIAM 1995, chapter 23, doi 10.1137/1.9781611971217.

    >>> infeasibility(np.array([[1.0], [-1.0]]), np.array([-1.0, 0.0]), 0)  # x <= -1 and x >= 0
    array([1., 1.])
    """
    size = np.sqrt(np.vecdot(A, A) + b * b)
    size = np.where(size > 0, size, 1.0)
    rows = np.column_stack((A, b)) / size[:, None]
    target = np.zeros(A.shape[1] + 1)
    target[-1] = -1.0
    z = _least_squares(rows.T, target, free=equalities)
    return None if z is None else z / size


def unboundedness(P: np.ndarray, q: np.ndarray, A: np.ndarray, equalities: int) -> tuple[np.ndarray, np.ndarray] | None:
    """x and s with Px = 0, q'x = -1, Ax + s = 0, and s = 0 on the first ``equalities`` rows, s >= 0 past them; or None.

    >>> unboundedness(np.zeros((1, 1)), np.array([-2.0]), np.array([[-1.0]]), 0)  # maximize 2 x over x >= 0
    (array([0.5]), array([0.5]))
    """
    m, n = A.shape
    slack = np.eye(m)[:, equalities:]
    rows = np.concatenate((A, P, q[None]))
    size = np.sqrt(np.vecdot(rows, rows))
    size = np.where(size > 0, size, 1.0)
    matrix = np.column_stack((rows, np.concatenate((slack, np.zeros((n + 1, slack.shape[1])))))) / size[:, None]
    target = np.zeros(m + n + 1)
    target[-1] = -1.0 / size[-1]
    v = _least_squares(matrix, target, free=n)
    return None if v is None else (v[:n], np.concatenate((np.zeros(equalities), v[n:])))


def _least_squares(matrix: np.ndarray, target: np.ndarray, free: int) -> np.ndarray | None:
    """Least squares with the entries past the first ``free`` nonnegative; None if the method does not converge."""
    from scipy.optimize import nnls

    try:
        v, _ = nnls(np.column_stack((matrix[:, :free], -matrix[:, :free], matrix[:, free:])), target)
    except RuntimeError:
        return None
    return np.concatenate((v[:free] - v[free : 2 * free], v[2 * free :]))
