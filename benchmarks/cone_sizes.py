"""Where the compiled native solver is faster than Clarabel: programs of growing size, one thread, no peers.

python benchmarks/cone_sizes.py             measure, store and write the table of docs/benchmarks.md (two minutes)
python benchmarks/cone_sizes.py --render    write the table from the stored results

The limits of `cvxlayers.conic.structure.Structure.pays` come from here. Times are CPU time of the process, for a batch
of two, in PyTorch, medians of five calls.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import problems
import report
import run

RESULTS = Path(__file__).resolve().parent / "results" / "cone_sizes.json"
BATCH, RUNS = 2, 5


def max_cut(k: int):
    """Minimize trace(CX) subject to diag(X) = 1, X PSD."""
    C = np.random.RandomState(0).randn(BATCH, k, k)

    def build():
        import cvxpy as cp

        X, C = cp.Variable((k, k), PSD=True), cp.Parameter((k, k), symmetric=True)
        return cp.Problem(cp.Minimize(cp.trace(C @ X)), [cp.diag(X) == 1]), [C], [X]

    return build, [C + C.transpose(0, 2, 1)]


def many_cones(n: int, cones: int, stored: int):
    """Minimize c'x + ||x||^2 / 2 subject to ||F_i x - g_i|| <= 5, with 4 rows and ``stored`` entries a row."""
    random = np.random.RandomState(1)

    def build():
        import cvxpy as cp
        from scipy import sparse

        x, c, constraints = cp.Variable(n), cp.Parameter(n), []
        for _ in range(cones):
            F = np.zeros((4, n))
            for row in F:
                row[random.permutation(n)[:stored]] = random.randn(stored)
            constraints.append(cp.norm(sparse.csr_array(F) @ x - random.randn(4)) <= 5)
        return cp.Problem(cp.Minimize(c @ x + 0.5 * cp.sum_squares(x)), constraints), [c], [x]

    return build, [np.random.RandomState(2).randn(BATCH, n)]


def of_case(case: problems.Case):
    return case.cvxpy, list(case.parameters.values())


CASES = {
    **{
        f"nearest correlation matrix, k={k}": lambda k=k: of_case(problems.nearest_correlation(BATCH, k))
        for k in (5, 10, 20)
    },
    **{f"max-cut relaxation, k={k}": lambda k=k: max_cut(k) for k in (5, 10, 20)},
    **{
        f"logistic regression, {rows} x {n}": lambda rows=rows, n=n: of_case(problems.logistic(BATCH, rows, n))
        for rows, n in ((20, 5), (100, 20), (1000, 50))
    },
    **{f"portfolio, n={n}": lambda n=n: of_case(problems.portfolio(BATCH, n)) for n in (20, 50, 200, 500)},
    **{
        f"{cones} sparse second-order cones, n={n}": lambda n=n, cones=cones: many_cones(n, cones, 5)
        for n, cones in ((100, 30), (500, 200))
    },
    **{f"sparse LP, n={n}": lambda n=n: of_case(problems.sparse_lp(n)) for n in (500, 800)},
}


def measure() -> list[dict]:
    import torch

    from cvxlayers.conic.structure import Structure
    from cvxlayers.torch import CvxpyLayer

    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    entries = []
    for name, make in CASES.items():
        build, values = make()
        problem, parameters, variables = build()
        entry: dict = {"case": name}
        for solver in ("NATIVE", "CLARABEL"):
            layer = CvxpyLayer(problem, parameters, variables, solver=solver)
            tensors = [torch.tensor(v, requires_grad=True) for v in values]
            found = layer(*tensors)[0]

            def both(layer=layer, tensors=tensors):
                layer(*tensors)[0].square().sum().backward()

            with torch.no_grad():
                entry[f"{solver}_forward_ms"] = median(lambda layer=layer, tensors=tensors: layer(*tensors))
            entry[f"{solver}_backward_ms"] = median(both)
            entry.setdefault("x", found.detach().numpy())
            entry["difference"] = float(np.abs(found.detach().numpy() - entry["x"]).max())
        del entry["x"]
        form = layer.core.form.program
        entry |= {"n": form.n, "m": form.m, "chosen": CvxpyLayer(problem, parameters, variables).plan().solver.name}
        entry["work"] = Structure.of(form).system.cost
        entries.append(entry)
        print(row(entry), flush=True)
    return entries


def median(call) -> float:
    call()
    times = []
    for _ in range(RUNS):
        start = time.process_time()
        call()
        times.append(1e3 * (time.process_time() - start))
    return statistics.median(times)


def row(e: dict) -> str:
    cells = [
        " / ".join(report.number(e[f"{solver}_{mode}_ms"]) for mode in report.MODES)
        for solver in ("NATIVE", "CLARABEL")
    ]
    return f"| {e['case']} | {e['n']}, {e['m']} | {e['work']:.0e} | {cells[0]} | {cells[1]} | {e['chosen']} |"


def table(entries: list[dict]) -> str:
    titles = ("problem", "canonical n, m", "multiplications", "NATIVE", "CLARABEL", "chosen")
    head = f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}"
    return "\n".join([head, *map(row, entries)])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--render", action="store_true", help="write the table from the stored results")
    if not arguments.parse_args().render:
        found = {"machine": run.machine(1), "versions": versions(), "entries": measure()}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    found = json.loads(RESULTS.read_text())
    report.replace({"cone-sizes-machine": about(found), "cone-sizes": table(found["entries"])})


def versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("clarabel", "cvxpy", "numba", "torch")}


def about(found: dict) -> str:
    of, packages = found["machine"], "; ".join(f"{name} {number}" for name, number in found["versions"].items())
    return f"Measured on {of['date']}: {of['cpu']}, {of['system']}, Python {of['python']}. Versions: {packages}."


if __name__ == "__main__":
    main()
