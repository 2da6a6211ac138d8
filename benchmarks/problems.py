"""The problems of the benchmarks: one definition for every library, which needs NumPy only.

A `Case` holds the values of the parameters and builds what a library takes: the CVXPY problem for the layers, or the
matrices of the quadratic program for the libraries that take them directly. CVXPY is imported where it is used.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

INFINITY = 1e20


@dataclass(frozen=True, eq=False)
class Case:
    """One problem at one batch size.

    ``parameters`` holds the values in the order in which a layer takes them, each (batch, ...), or its own shape if
    ``batch`` is None. ``cvxpy()`` gives (problem, parameters, variables).
    ``program`` holds Q, p, G, h, A, b of: minimize (1/2) x'Qx + p'x subject to Gx <= h, Ax = b; None if the problem is
    no QP. What is a parameter has its batch dimension there, what is constant has not. ``solution`` holds x and the
    duals z of Gx <= h where the problem was made from them. The loss is the sum of the solution, or its inner product
    with ``weights`` (in C order): a portfolio always sums to one. ``gradient`` is False where there is none. ``skip``
    names the libraries that cannot take the problem, each with the reason.
    """

    name: str
    title: str
    group: str
    batch: int | None
    parameters: dict[str, np.ndarray]
    cvxpy: Callable[[], tuple]
    program: dict[str, np.ndarray] | None = None
    solution: dict[str, np.ndarray] | None = None
    weights: np.ndarray | None = None
    gradient: bool = True
    skip: dict[str, str] = field(default_factory=dict)

    def program_parameters(self) -> dict[str, np.ndarray]:
        """The entries of the program that are parameters; Q is one where the layer takes its square root."""
        changing = {*self.parameters, *({"Q"} if "Q_sqrt" in self.parameters else ())}
        return {name: value for name, value in self.program.items() if name in changing}

    def checksum(self) -> int:
        """A number that shows whether two processes made the same problem."""
        return zlib.crc32(b"".join(np.round(v, 6).tobytes() for v in self.parameters.values()))


def dense_qp(n: int, m: int, batch: int | None, group: str = "dense", seed: int = 0, prefix: str = "dense_qp") -> Case:
    """The dense QPs of Agrawal et al. (2019), section 6: Q = LL' + 1e-3 I with L uniform, and a point strictly inside.

    minimize (1/2)||Q_sqrt x||^2 + p'x subject to Gx <= h; parameters Q_sqrt, p, G, h.
    """
    random, B = np.random.RandomState(seed), batch or 1
    L = random.rand(B, n, n)
    Q = L @ L.transpose(0, 2, 1) + 1e-3 * np.eye(n)
    p, G = random.randn(B, n), random.randn(B, m, n)
    h = (G @ random.randn(B, n, 1))[..., 0] + random.rand(B, m)
    values, vectors = np.linalg.eigh(Q)
    root = (vectors * np.sqrt(values)[:, None]) @ vectors.transpose(0, 2, 1)

    def build():
        import cvxpy as cp

        x, Q_sqrt = cp.Variable(n), cp.Parameter((n, n))
        p, G, h = cp.Parameter(n), cp.Parameter((m, n)), cp.Parameter(m)
        problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(Q_sqrt @ x) + p @ x), [G @ x <= h])
        return problem, [Q_sqrt, p, G, h], [x]

    parameters = {"Q_sqrt": root, "p": p, "G": G, "h": h}
    program = {"Q": Q, "p": p, "G": G, "h": h}
    if batch is None:
        parameters = {k: v[0] for k, v in parameters.items()}
        program = {k: v[0] for k, v in program.items()}
    name = f"{prefix}_{n}" + (f"_B{batch}" if batch else "")
    title = f"dense QP, n={n}, m={m}, " + (f"B={batch}" if batch else "no batch")
    return Case(name, title, group, batch, parameters, build, program)


def paper_sparse_qp(n: int = 1024, batch: int = 32, seed: int = 0) -> Case:
    """The sparse QP of Agrawal et al. (2019), section 6: A and G shared and constant, 1 % dense plus the identity."""
    random = np.random.RandomState(seed)

    def matrix():
        return np.where(random.rand(n, n) < 0.01, random.rand(n, n), 0.0) + np.eye(n)

    A, G = matrix(), matrix()
    x, p = random.randn(batch, n), random.randn(batch, n)
    parts = constant_matrices(np.eye(n), A, G, {"p": p, "b": x @ A.T, "h": x @ G.T})
    skip = {"qplayer": "takes dense matrices only"}
    title = f"sparse QP, n=m=p={n}, 1 % dense, B={batch}"
    return Case("paper_sparse", title, "paper", batch, *parts, {"x": x}, gradient=False, skip=skip)


def constant_matrices(Q, A, G, vectors) -> tuple:
    """The parameters, the builder and the program of a QP whose matrices are constants and whose vectors are not."""

    def build():
        import cvxpy as cp
        from scipy import sparse

        x, constraints = cp.Variable(len(Q)), []
        of = {name: cp.Parameter(value.shape[-1]) for name, value in vectors.items()}
        objective = of["p"] @ x
        if Q.any():
            identity = np.array_equal(Q, np.eye(len(Q)))
            square = cp.sum_squares(x) if identity else cp.quad_form(x, cp.psd_wrap(sparse.csc_array(Q)))
            objective = 0.5 * square + objective
        if "b" in of:
            constraints.append(sparse.csr_array(A) @ x == of["b"])
        if "h" in of:
            constraints.append(sparse.csr_array(G) @ x <= of["h"])
        return cp.Problem(cp.Minimize(objective), constraints), list(of.values()), [x]

    program = {"Q": Q, "A": A, "G": G, **vectors}
    return vectors, build, {k: v for k, v in program.items() if v is not None}


def mpc(path: Path, batch: int = 16, seed: int = 0) -> Case:
    """A stored model-predictive-control QP, l <= Ax <= u, as a batch with q perturbed by 10 % of its largest entry."""
    with np.load(path) as file:
        stored = dict(file)
    n, m = int(stored["n"]), int(stored["m"])
    P, C = np.zeros((n, n)), np.zeros((m, n))
    np.add.at(P, (stored["P_row"], stored["P_col"]), stored["P_val"])
    np.add.at(C, (stored["A_row"], stored["A_col"]), stored["A_val"])
    q, low, high = stored["q"], stored["l"], stored["u"]
    equal = low == high
    above, below = ~equal & (high < INFINITY), ~equal & (low > -INFINITY)
    G, h = np.concatenate([C[above], -C[below]]), np.concatenate([high[above], -low[below]])
    random = np.random.RandomState(seed)
    vectors = {"p": q + 0.1 * (np.abs(q).max() or 1.0) * random.randn(batch, n)}
    if equal.any():
        vectors["b"] = np.tile(low[equal], (batch, 1))
    vectors["h"] = np.tile(h, (batch, 1))
    name = path.stem
    title = f"{name.removeprefix('mpc_')}, n={n}, m={equal.sum()}+{len(h)}, B={batch}"
    return Case(name, title, "mpc", batch, *constant_matrices(P, C[equal] if equal.any() else None, G, vectors))


def control(horizon: int, states: int, inputs: int, batch: int, seed: int = 0) -> Case:
    """Model predictive control: x_{t+1} = F x_t + G u_t from x_0, |u_t| <= 1/2 and |x_t| <= 10, with constant matrices.

    The variables are (u_0, x_1, u_1, ...), the objective 0.1 |u_t|^2 + |x_t|^2 and a small linear term; parameters are
    the vectors.
    """
    random = np.random.RandomState(seed)
    F = np.eye(states) + 0.1 * random.randn(states, states)
    F *= min(1.0, 1.05 / np.abs(np.linalg.eigvals(F)).max())
    G, stage = random.randn(states, inputs), states + inputs
    n = horizon * stage
    dynamics = np.zeros((horizon * states, n))
    for t in range(horizon):
        own, at = slice(t * states, (t + 1) * states), t * stage
        dynamics[own, at : at + inputs], dynamics[own, at + inputs : at + stage] = -G, np.eye(states)
        if t:
            dynamics[own, at - states : at] = -F
    b = np.zeros((batch, len(dynamics)))
    b[:, :states] = random.randn(batch, states) @ F.T
    h = np.tile(np.r_[np.full(inputs, 0.5), np.full(states, 10.0)], 2 * horizon)
    Q = np.diag(np.tile(np.r_[np.full(inputs, 0.2), np.full(states, 2.0)], horizon))
    vectors = {"p": 0.1 * random.randn(batch, n), "b": b, "h": np.tile(h, (batch, 1))}
    title = f"model predictive control, n={n}, m={len(dynamics)}+{len(h)}, B={batch}"
    parts = constant_matrices(Q, dynamics, np.concatenate([np.eye(n), -np.eye(n)]), vectors)
    return Case(f"gpu_mpc_{n}_B{batch}", title, "mpc", batch, *parts)


def portfolio(batch: int = 128, n: int = 50, factors: int = 10, seed: int = 0) -> Case:
    """Maximize mu'x over the simplex with the risk ||(F'x, sqrt(d) x)|| <= s: one second-order cone."""
    random = np.random.RandomState(seed)
    F, d = random.randn(n, factors) / np.sqrt(factors), random.uniform(0.05, 0.15, n)
    parameters = {"mu": 0.1 * random.randn(batch, n), "s": random.uniform(0.25, 0.35, batch)}

    def build():
        import cvxpy as cp

        x, mu, s = cp.Variable(n), cp.Parameter(n), cp.Parameter()
        risk = cp.norm(cp.hstack([F.T @ x, cp.multiply(np.sqrt(d), x)]))
        return cp.Problem(cp.Maximize(mu @ x), [cp.sum(x) == 1, x >= 0, risk <= s]), [mu, s], [x]

    return Case(
        "conic_soc",
        f"portfolio (second-order cone), B={batch}",
        "conic",
        batch,
        parameters,
        build,
        weights=np.cos(np.arange(n)),
    )


def nearest_correlation(batch: int = 128, n: int = 10, seed: int = 0) -> Case:
    """The nearest correlation matrix: minimize ||X - C||_F^2 subject to diag(X) = 1, X positive semidefinite."""
    C = np.random.RandomState(seed).randn(batch, n, n)

    def build():
        import cvxpy as cp

        X, C = cp.Variable((n, n), PSD=True), cp.Parameter((n, n))
        return cp.Problem(cp.Minimize(cp.sum_squares(X - C)), [cp.diag(X) == 1]), [C], [X]

    parameters = {"C": (C + C.transpose(0, 2, 1)) / 2}
    return Case(
        "conic_sdp",
        f"nearest correlation matrix (semidefinite), B={batch}",
        "conic",
        batch,
        parameters,
        build,
        weights=np.cos(np.arange(n * n)),
    )


def logistic(batch: int = 128, rows: int = 50, n: int = 20, seed: int = 0) -> Case:
    """Regularized logistic regression: minimize mean(logistic(-Zw)) + 0.05 ||w||^2, one exponential cone per term."""

    def build():
        import cvxpy as cp

        w, Z = cp.Variable(n), cp.Parameter((rows, n))
        loss = cp.sum(cp.logistic(-Z @ w)) / rows + 0.05 * cp.sum_squares(w)
        return cp.Problem(cp.Minimize(loss)), [Z], [w]

    parameters = {"Z": np.random.RandomState(seed).randn(batch, rows, n)}
    title = f"logistic regression (exponential cone), B={batch}"
    return Case("conic_exponential", title, "conic", batch, parameters, build, weights=np.cos(np.arange(n)))


def data_poisoning(seed: int = 0) -> Case:
    """The logistic regression of table 1: 60 points in the plane, elastic net, the points are the parameter."""
    random = np.random.RandomState(seed)
    side = np.repeat([1.0, -1.0], 30)
    points = 2.0 * side[:, None] + random.randn(60, 2)

    def build():
        import cvxpy as cp

        w, offset, X = cp.Variable(2), cp.Variable(), cp.Parameter((60, 2))
        loss = cp.sum(cp.logistic(cp.multiply(-side, X @ w + offset))) / 60
        penalty = 0.1 * cp.norm(w, 1) + 0.1 * cp.sum_squares(w)
        return cp.Problem(cp.Minimize(loss + penalty)), [X], [w, offset]

    return Case("lift_logistic", "logistic regression, 60 points", "lift", None, {"X": points}, build)


def stochastic_control(n: int = 2, m: int = 3, seed: int = 1) -> Case:
    """The control policy of table 1: minimize ||P_sqrt (Ax + Bu)||^2 + ||u||^2 + q'(Ax + Bu) subject to ||u|| <= 1."""
    random = np.random.RandomState(seed)
    A, B = np.eye(n) + 0.1 * random.randn(n, n), random.randn(n, m)

    def build():
        import cvxpy as cp

        u, following = cp.Variable(m), cp.Variable(n)
        x, P_sqrt, q = cp.Parameter(n), cp.Parameter((n, n)), cp.Parameter(n)
        cost = cp.sum_squares(P_sqrt @ following) + cp.sum_squares(u) + q @ following
        return cp.Problem(cp.Minimize(cost), [following == A @ x + B @ u, cp.norm(u) <= 1]), [x, P_sqrt, q], [u]

    parameters = {"x": random.randn(n), "P_sqrt": np.eye(n), "q": random.randn(n)}
    return Case("lift_control", f"stochastic control, n={n}, m={m}", "lift", None, parameters, build)


def sparse_lp(n: int, per_column: int = 16, seed: int = 0) -> Case:
    """A sparse LP with 2n constraints and one nondegenerate vertex: n rows hold with equality and positive duals.

    minimize c'x subject to Gx <= h; parameters c (named p) and h.
    """
    random = np.random.RandomState(seed)
    density = (per_column - 2) / (2 * n)
    G = np.where(random.rand(2 * n, n) < density, random.randn(2 * n, n), 0.0)
    G[:n] += 2.5 * np.diag(random.choice([-1.0, 1.0], n))
    G[n:] += np.eye(n)
    x, duals = random.randn(n), random.rand(n) + 0.1
    vectors = {"p": -G[:n].T @ duals, "h": G @ x + np.concatenate([np.zeros(n), random.rand(n) + 0.1])}
    skip = {"qplayer": "takes dense matrices only"} if n > 500 else {}
    title = f"sparse LP, n={n}, {np.count_nonzero(G):,} nonzeros"
    solution = {"x": x, "z": np.concatenate([duals, np.zeros(n)])}
    parts = constant_matrices(np.zeros((n, n)), None, G, vectors)
    return Case(f"lp_{n}", title, "lp", None, *parts, solution, skip=skip)


def cases(data: Path | None = None, quick: bool = False) -> dict[str, Callable[[], Case]]:
    """Every case by name, made when it is called."""
    found: dict[str, Callable[[], Case]] = {"small_qp_10": lambda: dense_qp(10, 20, None, "small", prefix="small_qp")}
    for n, m in ((10, 20), (50, 50), (100, 100)):
        for batch in (1, 32, 128):
            found[f"dense_qp_{n}_B{batch}"] = lambda n=n, m=m, batch=batch: dense_qp(n, m, batch)
    found["paper_dense_128_B128"] = lambda: dense_qp(128, 128, 128, "paper", prefix="paper_dense")
    found["paper_sparse"] = paper_sparse_qp
    found |= {"conic_soc": portfolio, "conic_sdp": nearest_correlation, "conic_exponential": logistic}
    files = sorted(data.glob("mpc_*.npz")) if data else []
    if quick:
        files = sorted({path.stem.rstrip("0123456789"): path for path in reversed(files)}.values())
    for path in files:
        found[path.stem] = lambda path=path: mpc(path)
    for n in (20, 50):
        found[f"accuracy_{n}_B100"] = lambda n=n: dense_qp(n, n, 100, "accuracy", seed=1, prefix="accuracy")
    found |= {"lp_500": lambda: sparse_lp(500), "lp_1500": lambda: sparse_lp(1500)}
    found |= {"lift_logistic": data_poisoning, "lift_control": stochastic_control}
    return found
