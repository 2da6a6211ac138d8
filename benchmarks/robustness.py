"""How solvers end on problems whose outcome is known: random cone programs, and stored quadratic programs.

python benchmarks/robustness.py                                  2,000 random problems over all cones
python benchmarks/robustness.py --solvers NATIVE numpy torch jax CLARABEL
python benchmarks/robustness.py --data FOLDER                    also the QPs stored there (see qp_files.py)
python benchmarks/robustness.py --only "scaled badly" --verbose  one family, and each problem that did not end well

A solver is one of the registry's, or the name of a library: the native solver's array text on its arrays. The problems
are those of tests/solvers/random_programs.py, and tests/solvers/check_solver.py checks each answer from the data.

- right: the status is the outcome of the construction, and its solution or certificate is a proof
- inaccurate: a point with residuals above the tolerance, but at most 1e-4, and said to be that
- gave up: an honest failure
- wrong: the opposite is claimed, or the proof does not hold
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import qp_files

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cvxlayers.conic.program import ConicSolution, DenseData  # noqa: E402
from cvxlayers.sets import Product  # noqa: E402
from cvxlayers.solvers import Native, resolve  # noqa: E402
from cvxlayers.solvers.interior_point import Outcome, solve  # noqa: E402
from cvxlayers.status import Status  # noqa: E402
from tests.solvers import check_solver, random_programs  # noqa: E402
from tests.solvers.problems import dense_program  # noqa: E402
from tests.solvers.random_programs import Programs, families, random_cone  # noqa: E402

LIBRARIES = ("numpy", "torch", "jax")
VERDICTS = ("right", "inaccurate", "gave up", "wrong")
Answer = Callable[[Product, tuple], Outcome | ConicSolution]


def answerer(name: str, tol: float) -> Answer:
    """A function from a cone and P, q, A, b (dense, in NumPy) to what the solver says of them, in NumPy."""
    if name not in LIBRARIES:
        limit = {"max_iter": 100000} if name in ("SCS", "OSQP") else {}
        solver = resolve(name, {"tol": tol, **limit})

        def by_registry(cone: Product, data: tuple) -> ConicSolution:
            program = dense_program(cone.blocks, data[1].shape[-1])
            return solver.prepare(program).solve(DenseData(len(data[1]), *data, np.zeros(())))

        return by_registry
    settings = Native(tol=tol)
    if name == "jax":
        return _on_jax(settings)
    if name == "torch":
        import torch

    convert = torch.from_numpy if name == "torch" else np.asarray

    def on_arrays(cone: Product, data: tuple) -> Outcome:
        return Outcome(*(np.asarray(v) for v in solve(cone, *map(convert, data), settings)))

    return on_arrays


def _on_jax(settings: Native) -> Answer:
    """One compilation for each cone and shape."""
    import jax

    jax.config.update("jax_enable_x64", True)
    compiled = cache(lambda cone: jax.jit(lambda *data: solve(cone, *data, settings)))
    return lambda cone, data: Outcome(*(np.asarray(v) for v in compiled(cone)(*data)))


def problems(count: int, seed: int) -> list[Programs]:
    """About ``count`` random problems: every family over random cones and sizes."""
    rng, found, total = np.random.default_rng(seed), [], 0
    kinds = [Product(blocks) for blocks in random_programs.CONES.values()]
    while total < count:
        cone = kinds.pop() if kinds else random_cone(rng)
        some = families(cone, int(rng.integers(1, 9)), 8, int(rng.integers(1 << 30)))
        found += some
        total += sum(programs.batch for programs in some)
    return found


def verdicts(programs: Programs, found: Outcome | ConicSolution, tol: float) -> list[str]:
    """One word of VERDICTS for each element."""
    out = []
    for i in range(programs.batch):
        status = Status(int(found.status[i]))
        claims = status <= Status.UNBOUNDED
        if not claims:
            out.append("gave up")
            continue
        if status == Status.INACCURATE:
            out.append("inaccurate")
            continue
        one = programs.take(np.array([i]))
        kind = type(found)
        values = {key: np.asarray(getattr(found, key))[i : i + 1] for key in ("x", "z", "s", "status", "iterations")}
        mine = kind(**values, residuals=np.asarray(found.residuals)[i : i + 1])
        try:
            check_solver.check_solver(one, mine, tol)
        except AssertionError:
            out.append("wrong")
            continue
        out.append("right")
    return out


def random_table(name: str, batches: list[Programs], tol: float, verbose: bool) -> None:
    answer = answerer(name, tol)
    counts: dict[str, Counter] = {}
    iterations: dict[str, list] = {}
    seconds = 0.0
    for programs in batches:
        start = time.process_time()
        found = answer(programs.cone, programs.arrays)
        seconds += time.process_time() - start
        words = verdicts(programs, found, tol)
        counts.setdefault(programs.name, Counter()).update(words)
        iterations.setdefault(programs.name, []).extend(np.asarray(found.iterations).tolist())
        for i, word in enumerate(words):
            if verbose and word != "right":
                worst = np.nanmax(found.residuals[i]) if np.isfinite(found.residuals[i]).any() else np.nan
                print(
                    f"    {programs.name}[{i}] n={programs.n} {programs.cone.blocks}: {word}, "
                    f"{Status(int(found.status[i])).name} after {int(found.iterations[i])}, residual {worst:.1e}"
                )
    total = Counter()
    print(f"\n{name}, {seconds:.0f} s of CPU time")
    print(f"{'family':42}" + "".join(f"{word:>12}" for word in VERDICTS) + f"{'iterations':>14}")
    for family, of in counts.items():
        total.update(of)
        many = iterations[family]
        print(f"{family:42}" + "".join(f"{of[w]:12}" for w in VERDICTS) + f"{np.mean(many):9.1f}/{max(many):4}")
    print(f"{'all':42}" + "".join(f"{total[w]:12}" for w in VERDICTS), flush=True)


def stored_table(name: str, folder: Path, tol: float, verbose: bool) -> None:
    """One line: how many of the stored QPs end at the reference objective, to 1e-6 relative."""
    with (folder / "reference.csv").open() as file:
        reference = {row["name"]: float(row["objective"]) for row in csv.DictReader(file)}
    good, failed, wrong, iterations, start = 0, [], [], [], time.process_time()
    for problem in sorted(reference):
        program, data = qp_files.read(folder / f"{problem}.npz")
        dense = program.dense(data)
        arrays = tuple(np.broadcast_to(v, (1, *v.shape)) if v.ndim == k else v for v, k in _with_dimensions(dense))
        if name in LIBRARIES:
            found = answerer(name, tol)(program.cone, arrays)
        else:
            found = resolve(name, {"tol": tol}).prepare(program).solve(data)
        status, x = Status(int(found.status[0])), np.asarray(found.x[0])
        error = abs(qp_files.objective(program, data, x) - reference[problem]) / max(1.0, abs(reference[problem]))
        iterations.append(int(found.iterations[0]))
        if status <= Status.INACCURATE and error <= qp_files.SOLVED_AT:
            good += 1
        elif status > Status.UNBOUNDED:
            failed.append(problem)
        elif status != Status.INACCURATE:
            wrong.append(problem)
        else:
            failed.append(problem)
        if verbose:
            print(f"    {problem:18} n={program.n:4} m={program.m:4} {status.name:16} {error:8.1e} {iterations[-1]:5}")
    print(
        f"\n{name}: {good}/{len(reference)} of the stored QPs, mean iterations {np.mean(iterations):.1f}, "
        f"{time.process_time() - start:.0f} s; "
        f"gave up: {' '.join(failed) or 'none'}; wrong: {' '.join(wrong) or 'none'}",
        flush=True,
    )


def _with_dimensions(dense: DenseData) -> tuple:
    return (dense.P, 2), (dense.q, 1), (dense.A, 2), (dense.b, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solvers", nargs="+", default=["NATIVE", "numpy"], help="of the registry, or a library")
    parser.add_argument("--count", type=int, default=2000, help="random problems (default: 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tol", type=float, default=1e-8)
    parser.add_argument("--only", help="families whose name contains this")
    parser.add_argument("--data", type=Path, help="folder with stored QPs and reference.csv")
    parser.add_argument("--verbose", action="store_true", help="each problem that did not end well")
    options = parser.parse_args()
    batches = [b for b in problems(options.count, options.seed) if not options.only or options.only in b.name]
    for name in options.solvers:
        if batches:
            random_table(name, batches, options.tol, options.verbose)
        if options.data:
            stored_table(name, options.data, options.tol, options.verbose)


if __name__ == "__main__":
    main()
