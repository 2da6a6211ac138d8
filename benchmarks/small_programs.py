"""Small quadratic programs, whose calls cost more than their arithmetic: one in JAX beside its peers; tiny batches.

    python benchmarks/small_programs.py               everything: about ten minutes
    python benchmarks/small_programs.py --only single | tiny
    python benchmarks/small_programs.py --render      write the tables from the stored results

``single`` is one dense QP, n=10, m=20, without a batch: jitted where the library can be. ``tiny`` is every n from 1 to
8 with m = 2n at batches of 1, 8 and 32: the solver of the host, which a layer takes by itself, beside the native one,
in PyTorch and under ``jax.jit``. Everything runs in float64, in turn, for several rounds; writes
results/small_programs.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import problems
import reference
import report
from environments import HERE, interpreter
from processes import Process
from worker import measure

SINGLE = {
    "native": "**cvxlayers**, JAX, native",
    "host": "**cvxlayers**, JAX, by default",
    "cvxpylayers": "cvxpylayers (eager)",
    "moreau": "Moreau",
    "qpax": "qpax",
    "jaxopt": "jaxopt OSQP",
}
OURS = ("native", "host")
SIZES, BATCHES = range(1, 9), (1, 8, 32)
WAYS = ("torch", "jax")  # each with the solver of the host and with the native one
MODES = ("forward", "backward")
ROUNDS = 7
BUDGET = {"single": 0.3, "tiny": 0.06}  # seconds for a library, mode and round
MOST = 1000  # calls of a round
NOISE = 1.15  # a ratio of two medians below it says nothing


class Worker:
    """The process of one library; methods answer the commands of the same name."""

    def __init__(self, library: str) -> None:
        self.library, self.calls = library, {}

    def hello(self) -> dict:
        return {"ready": True}

    def single(self) -> dict:
        """Prepare the single QP: errors of the solution and of the gradient in p, seconds of the first calls."""
        case = problems.dense_qp(10, 20, None)
        f, arguments = getattr(self, self.library)(case)
        forward, both = jitted(f, eager=self.library == "cvxpylayers")
        first, found = {}, {}
        for mode, call in (("forward", forward), ("backward", both)):
            start = time.perf_counter()
            found[mode] = call(*arguments)
            first[mode] = time.perf_counter() - start
            self.calls[mode] = lambda call=call: block(call(*arguments))
        x, gradient = np.asarray(found["forward"]), np.asarray(found["backward"][1][1])
        expected = {name: value[0] for name, value in reference.reference(case).items()}
        pairs = ((x, expected["x"]), (gradient, expected["p"]))
        error = [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs]
        return {"first_s": first, "error": error, "versions": versions(self.library)}

    def time(self, mode: str, budget: float) -> dict:
        return {"times": measure(self.calls[mode], budget, MOST)}

    # The libraries: a function of arrays to x, and the arrays, p second.

    def native(self, case: problems.Case) -> tuple:
        return layer(case, solver="native"), arrays(case.parameters)

    def host(self, case: problems.Case) -> tuple:
        return layer(case, solver=hosts(case)), arrays(case.parameters)

    def cvxpylayers(self, case: problems.Case) -> tuple:
        from cvxpylayers.jax import CvxpyLayer

        problem, parameters, variables = case.cvxpy()
        made = CvxpyLayer(problem, parameters, variables)
        return lambda *values: made(*values)[0], arrays(case.parameters)

    def moreau(self, case: problems.Case) -> tuple:
        import jax.numpy as jnp
        import moreau
        from moreau.jax import Solver

        (m, n), whole = case.program["G"].shape, np.arange
        made = Solver(
            n, m, whole(0, n * n + 1, n), np.tile(whole(n), n), whole(0, m * n + 1, n), np.tile(whole(n), m),
            cones=moreau.Cones(num_nonneg_cones=m), settings=moreau.Settings(device="cpu"),
        )  # fmt: skip
        return lambda Q, p, G, h: made.solve(jnp.ravel(Q), jnp.ravel(G), p, h).x, arrays(case.program)

    def qpax(self, case: problems.Case) -> tuple:
        import jax.numpy as jnp
        import qpax

        n = len(case.program["p"])
        A, b = jnp.zeros((0, n)), jnp.zeros(0)
        return lambda Q, p, G, h: qpax.solve_qp_primal(Q, p, A, b, G, h, solver_tol=1e-8), arrays(case.program)

    def jaxopt(self, case: problems.Case) -> tuple:
        import jaxopt

        made = jaxopt.OSQP(tol=1e-8, maxiter=20_000)

        def solve(Q, p, G, h):
            return made.run(params_obj=(Q, p), params_ineq=(G, h)).params.primal

        return solve, arrays(case.program)

    # The grid of tiny programs, all in this process.

    def tiny(self, n: int, batch: int, budget: float) -> dict:
        """Milliseconds by way, solver and mode: medians of rounds, their median and the least; and the plans."""
        case = problems.dense_qp(n, 2 * n, batch)
        calls = {}
        for way in WAYS:
            for solver in ("host", "native"):
                chosen = hosts(case) if solver == "host" else "native"
                for mode, call in zip(MODES, self._ways(way, case, chosen), strict=True):
                    call()
                    calls[f"{way} {solver} {mode}"] = call
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                times[name].append(statistics.median(measure(call, budget, MOST)))
        plans = {way: plan(case, way) for way in WAYS}
        medians = {name: statistics.median(of) for name, of in times.items()}
        return {"times": medians, "least": {name: min(of) for name, of in times.items()}, "plans": plans}

    def _ways(self, way: str, case: problems.Case, solver: Any) -> tuple:
        if way == "jax":
            forward, both = jitted(layer(case, solver=solver))
            values = arrays(case.parameters)
            return lambda: block(forward(*values)), lambda: block(both(*values))
        import torch

        from cvxlayers.torch import CvxpyLayer

        made = CvxpyLayer(*case.cvxpy(), solver=solver)
        values = [torch.from_numpy(v) for v in case.parameters.values()]
        leaves = [v.clone().requires_grad_() for v in values]
        return lambda: made(*values), lambda: torch.autograd.grad(made(*leaves)[0].sum(), leaves)


def hosts(case: problems.Case) -> Any:
    """The solver that the choice takes on the host."""
    from cvxlayers.torch import CvxpyLayer

    return CvxpyLayer(*case.cvxpy()).plan().solver


def plan(case: problems.Case, way: str) -> dict:
    """What a layer of this way does without being asked."""
    from importlib import import_module

    found = import_module(f"cvxlayers.{way}").CvxpyLayer(*case.cvxpy()).plan()
    return {"solver": found.solver.name, "reason": found.reason}


def layer(case: problems.Case, **options: Any) -> Any:
    from cvxlayers.jax import CvxpyLayer

    made = CvxpyLayer(*case.cvxpy(), **options)
    return lambda *values: made(*values)[0]


def arrays(values: dict[str, np.ndarray]) -> tuple:
    import jax.numpy as jnp

    return tuple(jnp.asarray(v) for v in values.values())


def jitted(f: Any, eager: bool = False) -> tuple:
    """x, and the sum of x with its gradients in all four arguments."""
    import jax

    both = jax.value_and_grad(lambda *values: f(*values).sum(), argnums=(0, 1, 2, 3))
    return (f, both) if eager else (jax.jit(f), jax.jit(both))


def block(value: Any) -> None:
    import jax

    jax.block_until_ready(value)


def versions(library: str) -> dict[str, str]:
    from importlib.metadata import version

    packages = {"cvxpylayers": ("cvxpylayers", "diffcp"), "native": ("clarabel", "numba"), "host": ()}
    return {name: version(name) for name in (*packages.get(library, (library,)), "jax")}


def serve(library: str, cores: int) -> None:
    """Answer commands, a line of JSON each."""
    import os

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-cores:])
    import jax

    jax.config.update("jax_enable_x64", True)
    answers = os.fdopen(os.dup(1), "w")  # libraries print: their output goes to the error stream
    os.dup2(2, 1)
    worker = Worker(library)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(worker, command.pop("do"))(**command)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def process(library: str, python: Path, cores: int = 2) -> Process:
    made = Process(python, library, cores, None)
    made.command = [str(python), "-W", "ignore", str(Path(__file__).resolve()), "--serve", library, str(cores)]
    if library in OURS:
        made.environment["PYTHONPATH"] = str(HERE.parent)
    return made


def single(cores: int) -> dict:
    """All libraries prepare first, and are timed in turn; each process on so many cores."""
    peers = interpreter("jax")
    pythons = {name: Path(sys.executable) if name in OURS else peers for name in SINGLE}
    processes = {name: process(name, python, cores) for name, python in pythons.items() if python is not None}
    rows = {name: one.ask(300.0, do="single") for name, one in processes.items()}
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for name, one in processes.items():
            for mode in MODES:
                if "first_s" in rows[name]:
                    answer = one.ask(60.0, do="time", mode=mode, budget=BUDGET["single"])
                    times.setdefault((name, mode), []).append(statistics.median(answer["times"]))
                    rows[name].setdefault(f"{mode}_least_ms", float("inf"))
                    rows[name][f"{mode}_least_ms"] = min(rows[name][f"{mode}_least_ms"], *answer["times"])
    for (name, mode), of in times.items():
        rows[name][f"{mode}_ms"] = statistics.median(of)
    for one in processes.values():
        one.close()
    return rows


def tiny() -> list[dict]:
    rows = []
    with process("native", Path(sys.executable)) as one:
        for n in SIZES:
            for batch in BATCHES:
                answer = one.ask(300.0, do="tiny", n=n, batch=batch, budget=BUDGET["tiny"])
                rows.append({"n": n, "batch": batch} | answer)
                print(n, batch, {k: round(v, 3) for k, v in answer.get("times", answer).items()}, flush=True)
    return rows


def render(found: dict) -> None:
    """The tables of docs/benchmarks.md."""
    one, two = found["single"]["1"], found["single"]["2"]
    lines = ["| library | one core | two cores | first call | error of x / of the gradient |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for name, row in one.items():
        if "forward_ms" not in row:
            lines.append(f"| {SINGLE[name]} | {row.get('error', '—')} | | | |")
            continue
        cells = [" / ".join(f"{r[f'{mode}_ms']:.2f}" for mode in MODES) for r in (row, two[name])]
        cells.append(" / ".join(f"{row['first_s'][mode]:.1f} s" for mode in MODES))
        cells.append(" / ".join(report.small(e) for e in row["error"]))
        lines.append(f"| {SINGLE[name]} | {' | '.join(cells)} |")
    tables = {"single": "\n".join(lines)}
    heads = [f"{'PyTorch' if way == 'torch' else 'JAX, jit'}, B={batch}" for way in WAYS for batch in BATCHES]
    lines = [f"| n | {' | '.join(heads)} |", "| --- |" + len(heads) * " --- |"]
    for n in sorted({row["n"] for row in found["tiny"]}):
        cells = []
        for way in WAYS:
            for batch in BATCHES:
                row = next(r for r in found["tiny"] if (r["n"], r["batch"]) == (n, batch))
                cells.append(cell(row, way))
        lines.append(f"| {n} | {' | '.join(cells)} |")
    tables["tiny"] = "\n".join(lines)
    tables["small-machine"] = about(found)
    report.replace(tables)


def about(found: dict) -> str:
    of = found["machine"]
    versions = {name: number for row in found["versions"].values() for name, number in row.items()}
    return (
        f"Measured on {of['date']}: {of['cpu']}, {of['cores']} cores, {of['system']}, Python {of['python']}; load of "
        f"the machine before {of['load'][0]} and after {of['load'][1]}. Versions: "
        f"{'; '.join(f'{name} {number}' for name, number in sorted(versions.items()))}."
    )


def cell(row: dict, way: str) -> str:
    """Host, then native, forward / forward and backward; the one that is chosen in bold, slower ones marked."""
    own = "native" if row["plans"][way]["solver"] == "NATIVE" else "host"
    texts = []
    for solver in ("host", "native"):
        text = " / ".join(f"{row['least'][f'{way} {solver} {mode}']:.2f}" for mode in MODES)
        texts.append(f"**{text}**" if solver == own else text)
    return ", ".join(texts)


def wrong(rows: list[dict]) -> list[str]:
    """Where the solver that a layer takes by itself is the slower one, beyond noise."""
    out = []
    for row in rows:
        for way in WAYS:
            own = "native" if row["plans"][way]["solver"] == "NATIVE" else "host"
            other = {"native": "host", "host": "native"}[own]
            for mode in MODES:
                ratio = row["least"][f"{way} {own} {mode}"] / row["least"][f"{way} {other} {mode}"]
                if ratio > NOISE:
                    out.append(f"n={row['n']}, B={row['batch']}, {way} {mode}: {own} takes {ratio:.2f} times {other}")
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("single", "tiny"))
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve[0], int(options.serve[1]))
    stored = HERE / "results" / "small_programs.json"
    found = json.loads(stored.read_text()) if stored.exists() else {}
    if not options.render:
        import run

        before = run.load()
        if options.only != "tiny":
            found["single"] = {str(cores): single(cores) for cores in (1, 2)}
            for rows in found["single"].values():
                found["versions"] = {name: row.pop("versions", {}) for name, row in rows.items()}
        if options.only != "single":
            found["tiny"] = tiny()
        found["machine"] = run.machine(2) | {"load": [before, run.load()]}
        stored.write_text(json.dumps(found, indent=1) + "\n")
    render(found)
    print("\n".join(wrong(found["tiny"])) or "no cell where the choice is the slower one")


if __name__ == "__main__":
    main()
