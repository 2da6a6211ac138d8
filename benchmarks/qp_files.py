"""How many of a folder of hard quadratic programs each solver solves, and how fast.

    python benchmarks/qp_files.py FOLDER [--solvers DAQP CLARABEL ...] [--runs 3] [--tol 1e-8]

Each FOLDER/NAME.npz holds minimize (1/2) x'Px + q'x subject to l <= Ax <= u: n, m, the triplets {P,A}_{row,col,val} (P
full and symmetric), q, l and u, where 1e20 stands for infinity; reference.csv lists each name with its optimal value.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from cvxlayers.conic.program import ConeData, ConeProgram, Pattern
from cvxlayers.sets import Nonnegative, Product, Zero
from cvxlayers.solvers.choice import choose, resolve

SOLVED_AT = 1e-6  # relative error of the objective


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--solvers", nargs="+", default=["CHOSEN", "DAQP", "CLARABEL", "PIQP", "OSQP", "SCS"])
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--tol", type=float, default=1e-8)
    arguments.add_argument("--verbose", action="store_true", help="one line for each problem")
    options = arguments.parse_args()
    with (options.folder / "reference.csv").open() as file:
        reference = {row["name"]: float(row["objective"]) for row in csv.DictReader(file)}
    problems = {name: read(options.folder / f"{name}.npz") for name in sorted(reference)}
    times: dict[str, dict[str, float]] = {}
    print(f"{'solver':10} {'solved':>7} {'claimed':>8} {'median ms':>10} {'mean ms':>9} {'iterations':>10}  not solved")
    for solver in options.solvers:
        line, times[solver] = run(solver, problems, reference, options)
        print(line)
    if options.verbose:
        for name, (program, _) in problems.items():
            row = "".join(f"{times[solver][name]:10.3f}" for solver in options.solvers)
            print(f"{name:18} n={program.n:4} m={program.m:4} nnz={program.P.nnz + program.A.nnz:6}{row}")


def run(name: str, problems: dict, reference: dict[str, float], options) -> tuple[str, dict[str, float]]:
    """One line of the table, and the best time in milliseconds for each problem, infinite where it is not solved."""
    limit = {"max_iter": 20000} if name in ("OSQP", "SCS") else {}
    solved = claimed = iterations = 0
    times, missed = {}, []
    for problem, (program, data) in problems.items():
        chosen = choose(program, settings={"tol": options.tol}) if name == "CHOSEN" else None
        solver = chosen.solver if chosen else resolve(name, {"tol": options.tol, **limit})
        prepared = solver.prepare(program)
        solution, best = None, np.inf
        for _ in range(options.runs):
            start = time.perf_counter()
            solution = prepared.solve(data)
            best = min(best, time.perf_counter() - start)
        claimed += int(solution.status[0] == 0)
        x = solution.x[0]
        error = abs(objective(program, data, x) - reference[problem]) / max(1.0, abs(reference[problem]))
        good = solution.status[0] <= 1 and error <= SOLVED_AT
        times[problem] = 1e3 * best if good else np.inf
        if good:
            solved, iterations = solved + 1, iterations + int(solution.iterations[0])
        else:
            missed.append(problem)
    found = [t for t in times.values() if np.isfinite(t)] or [np.nan]
    return (
        f"{name:10} {solved:4}/{len(problems)} {claimed:8} {np.median(found):10.3f} {np.mean(found):9.3f} "
        f"{iterations:10}  {' '.join(missed)}"
    ), times


def objective(program: ConeProgram, data: ConeData, x: np.ndarray) -> float:
    U = program.P.csc(data.P)
    return x @ (U @ x) - 0.5 * x @ (U.diagonal() * x) + data.q @ x


def read(path: Path) -> tuple[ConeProgram, ConeData]:
    """The problem with its equalities first, then the upper bounds, then the lower ones."""
    file = np.load(path)
    n, m = int(file["n"]), int(file["m"])
    P, A = (
        sp.csr_array((file[f"{k}_val"], (file[f"{k}_row"], file[f"{k}_col"])), shape=shape)
        for k, shape in (("P", (n, n)), ("A", (m, n)))
    )
    lower, upper = file["l"], file["u"]
    equal = upper - lower <= 1e-12 * np.maximum(1.0, np.abs(upper))
    above, below = ~equal & (upper < 0.999e20), ~equal & (lower > -0.999e20)
    rows = sp.vstack([A[equal], A[above], -A[below]])
    b = np.concatenate((upper[equal], upper[above], -lower[below]))
    cone = Product((Zero(int(equal.sum())), Nonnegative(int(above.sum() + below.sum()))))
    (P, P_values), (A, A_values) = pattern(sp.triu(P)), pattern(rows)
    return ConeProgram(P, A, cone), ConeData(1, P_values, file["q"], A_values, b, np.zeros(()))


def pattern(matrix: sp.sparray) -> tuple[Pattern, np.ndarray]:
    matrix = sp.csc_array(matrix)
    matrix.sum_duplicates()
    cols = np.repeat(np.arange(matrix.shape[1]), np.diff(matrix.indptr))
    return Pattern(matrix.shape, matrix.indices.astype(np.int64), cols), matrix.data


if __name__ == "__main__":
    main()
