"""What the libraries are judged by: solutions at high accuracy, and derivatives that use none of their code."""

from __future__ import annotations

import warnings

import clarabel
import numpy as np
import scipy.linalg
from problems import Case
from scipy import sparse

TOLERANCE = 1e-10


def reference(case: Case, directions: int = 4) -> dict[str, np.ndarray]:
    """Arrays to compare with: ``x``, and the gradients of the loss or its derivatives along random directions."""
    if case.program is not None:
        return quadratic(case)
    if case.group == "conic":
        return conic(case, directions)
    return {}


def quadratic(case: Case) -> dict[str, np.ndarray]:
    """x (B, n) and the gradients p, h, b, G of the sum of x; NaN for an element whose active set is not clear-cut."""
    gradients = [name for name in ("p", "h", "b", "G") if name in case.parameters]
    found: dict[str, list] = {name: [] for name in ["x", *gradients]}
    for i in range(case.batch or 1):
        Q, p, G, h, A, b = element(case, i)
        solution = case.solution
        if solution is not None and "z" in solution:
            x, z = solution["x"], solution["z"]
        elif solution is not None:
            x, z = solution["x"][i], None
        else:
            x, z = interior_point(Q, p, G, h, A, b)
        of = {name: np.full(np.shape(case.parameters[name])[(case.batch is not None) :], np.nan) for name in gradients}
        if case.gradient and z is not None:
            polished = active_set(Q, p, G, h, A, b, x, z)
            if polished is not None:
                x, derivatives = polished
                of |= {name: derivatives[name] for name in gradients if name in derivatives}
        found["x"].append(x)
        for name in gradients:
            found[name].append(of[name])
    return {name: np.stack(values) for name, values in found.items()}


def element(case: Case, i: int) -> tuple[np.ndarray, ...]:
    """Q, p, G, h, A, b of one problem of the batch; A and b are empty if there are no equations."""
    program = dict(case.program)
    if case.batch is not None:
        program |= {k: v[i] for k, v in program.items() if v.ndim == (3 if k in "QGA" else 2)}
    n = len(program["p"])
    A, b = program.get("A", np.zeros((0, n))), program.get("b", np.zeros(0))
    return program["Q"], program["p"], program["G"], program["h"], A, b


def interior_point(Q, p, G, h, A, b) -> tuple[np.ndarray, np.ndarray]:
    """x and the duals of Gx <= h from Clarabel at a tolerance of 1e-10."""
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.max_threads = 1
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = TOLERANCE
    cones = [clarabel.ZeroConeT(len(b))] * bool(len(b)) + [clarabel.NonnegativeConeT(len(h))]
    rows = sparse.csc_matrix(np.concatenate([A, G]))
    solver = clarabel.DefaultSolver(sparse.csc_matrix(np.triu(Q)), p, rows, np.concatenate([b, h]), cones, settings)
    solution = solver.solve()
    if str(solution.status) not in ("Solved", "AlmostSolved"):
        raise RuntimeError(f"the reference solver ended with {solution.status}")
    return np.array(solution.x), np.array(solution.z)[len(b) :]


def active_set(Q, p, G, h, A, b, x, z) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    """The exact solution of a QP that is known nearly, and the gradients of sum(x) there.

    The active rows are those with a dual above their slack. Rows that this gets wrong, as their signs show, are moved.

    With the active rows C, d the conditions are M [x; y] = [-p; d], M = [[Q, C'], [C, 0]]; with M [w; v] = [1; 0] the
    gradients are -w for p, v for d and -(y w' + v x') for C. The residuals are refined in extended precision. None if
    the result is not optimal to 1e-9; no gradients if a dual or a slack is below 1e-7, for then there may be none.

    >>> Q, G, h = np.eye(2), np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1.0, 9.0])
    >>> nothing = np.zeros((0, 2)), np.zeros(0)
    >>> x, of = active_set(Q, np.array([-3.0, -4.0]), G, h, *nothing, np.array([1.0, 4.0]), np.array([2.0, 0.0]))
    >>> x, of["p"], of["h"]
    (array([1., 4.]), array([-0., -1.]), array([1., 0.]))
    """
    active = z > np.maximum(h - G @ x, 0.0)
    for _ in range(10):
        found = with_rows(Q, p, G, h, A, b, active)
        if found is None:
            return None
        x, duals, gradients = found
        slack = h - G @ x
        wrong = np.where(active, duals < -1e-9, slack < -1e-9 * max(1.0, np.abs(h).max(initial=0.0)))
        if not wrong.any():
            clear = np.where(active, duals, slack) >= 1e-7
            return x, gradients if clear.all() else {}
        active ^= wrong
    return None


def with_rows(Q, p, G, h, A, b, active) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]] | None:
    """x, the duals of Gx <= h and the gradients if these rows are active; None if the matrix is singular."""
    n = len(p)
    C, d = np.concatenate([A, G[active]]), np.concatenate([b, h[active]])
    M = np.block([[Q, C.T], [C, np.zeros((len(d), len(d)))]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.linalg.LinAlgWarning)
        factor = scipy.linalg.lu_factor(M)
    pivots = np.abs(np.diag(factor[0]))
    if pivots.min() < 1e-13 * pivots.max():
        return None
    exact = M.astype(np.longdouble)

    def solve(right: np.ndarray) -> np.ndarray:
        u = scipy.linalg.lu_solve(factor, right).astype(np.longdouble)
        for _ in range(2):
            u = u + scipy.linalg.lu_solve(factor, np.asarray(right - exact @ u, dtype=float))
        return np.asarray(u, dtype=float)

    xy = solve(np.concatenate([-p, d]))
    wv = solve(np.concatenate([np.ones(n), np.zeros(len(d))]))
    x, y, w, v = xy[:n], xy[n:], wv[:n], wv[n:]
    duals = np.zeros(len(h))
    duals[active] = y[len(b) :]
    dh, dG = np.zeros(len(h)), np.zeros(G.shape)
    dh[active], dG[active] = v[len(b) :], -(np.outer(y, w) + np.outer(v, x))[len(b) :]
    return x, duals, {"p": -w, "h": dh, "b": v[: len(b)], "G": dG}


def conic(case: Case, directions: int) -> dict[str, np.ndarray]:
    """x and the derivative of the loss along a random direction for the first problems, by central differences.

    SCS at 1e-10 gives x to nine digits here; an interior-point method ends with a gap of 1e-10, and x to five.
    """
    import cvxpy as cp

    problem, parameters, variables = case.cvxpy()

    def solve(values) -> np.ndarray:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.value = value
        problem.solve(solver=cp.SCS, eps_abs=TOLERANCE, eps_rel=TOLERANCE, max_iters=200_000)
        return np.concatenate([np.ravel(variable.value, order="C") for variable in variables])

    random, step = np.random.RandomState(0), 1e-3
    found: dict[str, list] = {"x": [], "slope": [], **{f"along_{name}": [] for name in case.parameters}}
    for i in range(directions):
        values = [value[i] for value in case.parameters.values()]
        along = [random.randn(*np.shape(value)) for value in values]
        along = [d / np.sqrt(d.size) for d in map(np.asarray, along)]
        ahead, behind = (
            case.weights @ solve([v + sign * step * d for v, d in zip(values, along, strict=True)]) for sign in (1, -1)
        )
        found["x"].append(solve(values))
        found["slope"].append((ahead - behind) / (2 * step))
        for name, d in zip(case.parameters, along, strict=True):
            found[f"along_{name}"].append(d)
    return {name: np.stack(values) for name, values in found.items()}


def errors(case: Case, expected: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> dict[str, float]:
    """How far a library is from the reference: relative, per element; x at its worst, gradients as quantiles."""
    if not expected:
        return {}
    count = len(expected["x"])
    x = got["x"].reshape(-1, expected["x"].shape[1])[:count]
    size = np.maximum(np.abs(expected["x"]).max(axis=1), 1.0)
    found = {"x_error": float((np.abs(x - expected["x"]).max(axis=1) / size).max())}
    if "slope" in expected:
        if all(name in got for name in case.parameters):
            inner = sum(
                (got[name][:count] * expected[f"along_{name}"]).reshape(count, -1).sum(1) for name in case.parameters
            )
            error = np.abs(inner - expected["slope"]) / np.abs(expected["slope"])
            found |= quantiles(error)
    elif case.program is not None:
        found |= optimality(case, expected["x"], x)
        names = [name for name in ("p", "h", "b", "G") if name in expected and name in got]
        right, ours = (np.concatenate([of[k].reshape(count, -1) for k in names], 1) for of in (expected, got))
        error = np.linalg.norm(ours - right, axis=1) / np.linalg.norm(right, axis=1)
        clear = np.isfinite(right).all(axis=1)
        if clear.any():
            found |= quantiles(error[clear]) | {"gradient_count": int(clear.sum())}
    return found


def optimality(case: Case, best: np.ndarray, x: np.ndarray) -> dict[str, float]:
    """The relative error of the objective, and the largest violation of a constraint relative to 1 + its bound."""
    worst = {"objective_error": 0.0, "violation": 0.0}
    for i in range(len(best)):
        Q, p, G, h, A, b = element(case, i)
        value, least = (0.5 * v @ Q @ v + p @ v for v in (x[i], best[i]))
        above, off = (G @ x[i] - h) / (1 + np.abs(h)), np.abs(A @ x[i] - b) / (1 + np.abs(b))
        worst["objective_error"] = max(worst["objective_error"], abs(value - least) / (1 + abs(least)))
        worst["violation"] = max(worst["violation"], above.max(initial=0.0), off.max(initial=0.0))
    return {name: float(value) for name, value in worst.items()}


def quantiles(error: np.ndarray) -> dict[str, float]:
    """Median, 95 % quantile and maximum."""
    names = ("gradient_error", "gradient_error_95", "gradient_error_max")
    return dict(zip(names, map(float, np.quantile(error, [0.5, 0.95, 1.0])), strict=True))
