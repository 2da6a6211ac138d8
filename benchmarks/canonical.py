"""Conic data of a batch of problems as CVXPY makes them for Clarabel, for a solver that is called below CVXPY."""

from __future__ import annotations

import numpy as np
from problems import Case
from scipy import sparse


def conic_data(case: Case) -> dict:
    """P, q, A, b of: minimize (1/2) x'Px + q'x, Ax + s = b, s in K, each (batch, ...) or, if constant, without it.

    P (full) and A hold the entries of ``pattern_P`` and ``pattern_A`` by rows; ``recover`` maps x to the variable.
    """
    import cvxpy as cp

    problem, parameters, (variable,) = case.cvxpy()
    found: dict[str, list[np.ndarray]] = {"P": [], "q": [], "A": [], "b": []}
    for i in range(case.batch):
        for parameter, value in zip(parameters, case.parameters.values(), strict=True):
            parameter.value = value[i]
        data, chain, _ = problem.get_problem_data(cp.CLARABEL)
        P = data["P"].toarray() if data.get("P") is not None else np.zeros((len(data["c"]),) * 2)
        upper = np.triu(P)
        for name, values in (("P", upper + np.triu(P, 1).T), ("q", data["c"]), ("A", data["A"].toarray())):
            found[name].append(values)
        found["b"].append(data["b"])
    stacked = {name: np.stack(values) for name, values in found.items()}
    result: dict = {}
    for name, values in stacked.items():
        if name in "PA":
            pattern = sparse.csr_array((values != 0).any(axis=0).astype(float))
            pattern.sort_indices()
            rows, columns = pattern.nonzero()
            result[f"pattern_{name}"], values = pattern, values[:, rows, columns]
        result[name] = values if name in "qb" or not (values == values[0]).all() else values[0]
    dims = data["dims"]
    result["cones"] = {
        "num_zero_cones": dims.zero,
        "num_nonneg_cones": dims.nonneg,
        "so_cone_dims": list(dims.soc),
        "num_exp_cones": dims.exp,
        "psd_dims": list(dims.psd),
    }
    identity = chain.compose_var_id_map().get(variable.id, [variable.id])[0]
    column = data["param_prob"].var_id_to_col[identity]
    result["recover"] = recovery(variable, column, len(data["c"]))
    return result


def recovery(variable, column: int, n: int) -> np.ndarray:
    """The matrix from x to the entries of the variable in C order; a symmetric one is stored as its upper triangle."""
    size = variable.size
    matrix = np.zeros((size, n))
    if variable.attributes.get("PSD") or variable.attributes.get("symmetric"):
        side = variable.shape[0]
        for k, (i, j) in enumerate(zip(*np.triu_indices(side), strict=True)):
            matrix[[i * side + j, j * side + i], column + k] = 1.0
        return matrix
    order = np.arange(size).reshape(variable.shape, order="F").ravel()
    matrix[np.arange(size), column + order] = 1.0
    return matrix
