"""Projections on the simplex and the L1 ball beside optax, jaxopt and copt: one long row, and a batch, one CPU thread.

    python benchmarks/projections.py [--python PEERS]

``PEERS`` is the Python of an environment made from requirements-projections.txt; by default one is made. Peers and we
are timed in the same minutes on the same machine, in float64, each in its own process; every result is compared with
the projection by a sorted formula in extended precision. Writes results/projections.json and prints the table.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"

import argparse  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

HERE = Path(__file__).resolve().parent
SETS = ("simplex", "L1 ball")
# Name, shape, radius: few entries of the result are not 0, or half of them.
CASES = {
    "1,000,000, sparse": ((1_000_000,), 1.0),
    "1,000,000, dense": ((1_000_000,), 300_000.0),
    "10,000 x 100, sparse": ((10_000, 100), 1.0),
    "10,000 x 100, dense": ((10_000, 100), 30.0),
}
OURS, PEERS = ("torch", "jax", "numpy"), ("optax", "jaxopt", "copt")
RUNS = 7

Projection = Callable[[np.ndarray], np.ndarray]


def points(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def reference(kind: str, x: np.ndarray, radius: float) -> np.ndarray:
    """By sorting, in extended precision."""
    size = (np.abs(x) if kind == "L1 ball" else x).astype(np.longdouble)
    ordered = -np.sort(-size, axis=-1)
    sums = np.cumsum(ordered, axis=-1) - radius
    count = np.sum(ordered * np.arange(1, x.shape[-1] + 1) > sums, axis=-1, keepdims=True)
    theta = np.take_along_axis(sums, count - 1, axis=-1) / count
    y = np.maximum(size - theta, 0)
    return (np.copysign(y, x) if kind == "L1 ball" else y).astype(float)


def ready_jax(project: Callable, x: np.ndarray) -> tuple[Callable, Callable | None]:
    import jax

    jax.config.update("jax_enable_x64", True)
    array = jax.numpy.asarray(x)
    forward = jax.jit(project)
    gradient = jax.jit(lambda x: jax.vjp(project, x)[1](x)[0])
    return lambda: jax.block_until_ready(forward(array)), lambda: jax.block_until_ready(gradient(array))


def ready(library: str, kind: str, x: np.ndarray, radius: float) -> tuple[Callable, Callable | None]:
    """What to call for the projection, and for its value and a gradient; None for a library without gradients."""
    batch = x.ndim == 2
    if library in OURS:
        sys.path.insert(0, str(HERE.parent))
        from cvxlayers.prox import L1Ball, Simplex

        f = (L1Ball if kind == "L1 ball" else Simplex)(radius)
        if library == "numpy":
            return lambda: f.project(x), None
        if library == "jax":
            return ready_jax(f.project, x)
        import torch

        torch.set_num_threads(1)
        array = torch.from_numpy(x)
        leaf = array.clone().requires_grad_()

        def gradient():
            return torch.autograd.grad(f.project(leaf), leaf, array)[0]

        return lambda: f.project(array), gradient
    if library == "optax":
        import optax

        one = optax.projections.projection_l1_ball if kind == "L1 ball" else optax.projections.projection_simplex
        return ready_jax(apply(lambda x: one(x, radius), batch), x)
    if library == "jaxopt":
        from jaxopt import projection

        one = projection.projection_l1_ball if kind == "L1 ball" else projection.projection_simplex
        return ready_jax(apply(lambda x: one(x, radius), batch), x)
    from copt import constraint

    row = constraint.euclidean_proj_l1ball if kind == "L1 ball" else constraint.euclidean_proj_simplex
    return (lambda: np.stack([row(v, radius) for v in x])) if batch else (lambda: row(x, radius)), None


def apply(one: Callable, batch: bool) -> Callable:
    import jax

    return jax.vmap(one) if batch else one


def best_of(run: Callable[[], object]) -> float:
    run()
    seconds = []
    for _ in range(RUNS):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds)


def measure(libraries: tuple[str, ...]) -> Iterator[dict]:
    for kind in SETS:
        for case, (shape, radius) in CASES.items():
            x = points(shape)
            expected = reference(kind, x, radius)
            for library in libraries:
                forward, gradient = ready(library, kind, x, radius)
                error = float(np.max(np.abs(np.asarray(forward()) - expected)))
                row = {"set": kind, "case": case, "library": library, "error": error, "forward": best_of(forward)}
                if gradient is not None:
                    row["with gradient"] = best_of(gradient)
                yield row


def peers_python() -> Path:
    sys.path.insert(0, str(HERE))
    import environments

    environments.CHECKS.setdefault("projections", "import optax, jaxopt, copt")
    found = environments.interpreter("projections")
    if found is None:
        raise SystemExit("no environment for the peers")
    return found


def collect(python: Path, libraries: tuple[str, ...]) -> list[dict]:
    command = [str(python), "-W", "ignore", str(HERE / "projections.py"), "--measure", *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def table(rows: list[dict]) -> str:
    """Milliseconds: the projection, and after the slash the projection with a gradient."""
    libraries = (*OURS, *PEERS)
    names = [f"cvxlayers, {name}" if name in OURS else name for name in libraries]
    lines = [f"| set | points | {' | '.join(names)} |", (2 + len(libraries)) * "|---" + "|"]
    for kind in SETS:
        for case in CASES:
            cells = []
            for library in libraries:
                row = next(r for r in rows if (r["set"], r["case"], r["library"]) == (kind, case, library))
                times = [row[key] for key in ("forward", "with gradient") if key in row]
                cells.append(" / ".join(f"{1e3 * t:.1f}" if t < 0.1 else f"{1e3 * t:.0f}" for t in times))
            lines.append(f"| {kind} | {case} | {' | '.join(cells)} |")
    return "\n".join(lines)


def machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, help="the interpreter of the peers")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        for row in measure(tuple(arguments.measure)):
            print(json.dumps(row), flush=True)
        return
    python = arguments.python or peers_python()
    # Peers before and after us: what the machine does meanwhile is seen by both.
    runs = [collect(p, names) for p, names in ((python, PEERS), (Path(sys.executable), OURS), (python, PEERS))]
    rows = runs[1]
    for first, second in zip(runs[0], runs[2], strict=True):
        rows.append({k: min(v, second[k]) if isinstance(v, float) else v for k, v in first.items()})
    found = {"machine": machine(), "runs": RUNS, "clock": "CPU time", "rows": rows}
    (HERE / "results" / "projections.json").write_text(json.dumps(found, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
