"""Exact one-dimensional total variation beside prox_tv and copt: one long row, and a batch of rows, one CPU thread.

    python benchmarks/one_dimensional.py [--python PEERS]     on this CPU; writes results/one_dimensional.json
    python benchmarks/one_dimensional.py --render             the table from the stored results
    python benchmarks/one_dimensional.py --device cuda        ours on a GPU (results go to $OUT, if that is set)

``PEERS`` is the Python of an environment with prox_tv and copt (requirements-prox.txt has the latter). Every method is
checked against the optimality conditions before it is timed: the running sums of x - y stay within the weight, and
touch it where y jumps. The table goes to docs/prox_total_variation.md.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import argparse  # noqa: E402
import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402

HERE = Path(__file__).resolve().parent
WEIGHTS = (0.1, 1.0, 10.0, 1000.0)
RUNS = 5
BATCH = (1000, 1000)


def signals(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    steps = np.repeat(rng.normal(size=-(-n // 1000)), 1000)[:n]
    return {
        "noise": rng.normal(size=n), "steps": steps + 0.1 * rng.normal(size=n), "walk": np.cumsum(rng.normal(size=n)),
    }  # fmt: skip


def batch() -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.repeat(rng.normal(size=(BATCH[0], 20)), BATCH[1] // 20, axis=1) + 0.1 * rng.normal(size=BATCH)


def violation(x: np.ndarray, y: np.ndarray, weight: float) -> float:
    """How far the optimality conditions are from holding, relative to the size of the sums."""
    sums, jump = np.cumsum(x - y, axis=-1), np.sign(np.diff(y, axis=-1))
    inside = np.maximum(np.abs(sums[..., :-1]) - weight, 0.0).max()
    # Jumps of the size of rounding are none: a piece may be written by several additions.
    large = np.abs(np.diff(y, axis=-1)) > 1e-8
    touching = np.abs((sums[..., :-1] + weight * jump)[large]).max(initial=0.0)
    return float(max(inside, touching, np.abs(sums[..., -1]).max()) / np.abs(x).sum(axis=-1).max())


def best_of(run: Callable[[], object], clock=time.process_time) -> float:
    run()
    seconds = []
    for _ in range(RUNS):
        started = clock()
        run()
        seconds.append(clock() - started)
    return min(seconds)


def peers() -> dict[str, Callable[[np.ndarray, float], np.ndarray]]:
    found: dict[str, Callable] = {}
    try:
        import prox_tv

        for method in ("hybridtautstring", "classictautstring", "condat", "dp"):
            found[f"prox_tv {method}"] = lambda x, w, method=method: prox_tv.tv1_1d(x, w, method=method)
    except ImportError:
        pass
    try:
        from copt.tv_prox import prox_tv1d

        found["copt"] = prox_tv1d
    except ImportError:
        pass
    return found


def own() -> dict[str, Callable[[np.ndarray, float], np.ndarray]]:
    sys.path.insert(0, str(HERE.parent))
    from cvxlayers.prox import TotalVariation1D

    return {"cvxlayers": lambda x, w: TotalVariation1D(w).prox(x)}


def measure(methods: dict[str, Callable], n: int) -> dict:
    """Seconds for the long rows and for a loop over the rows of the batch."""
    rows: dict[str, dict] = {}
    for name, method in methods.items():
        rows[name] = {}
        for kind, x in signals(n).items():
            for weight in WEIGHTS:
                error = violation(x, method(x, weight), weight)
                rows[name][f"{kind}, weight {weight:g}"] = [best_of(lambda m=method, x=x, w=weight: m(x, w)), error]
        x = batch()
        if name == "cvxlayers":
            from cvxlayers import pool

            pool.available_cpus = lambda: 1
            y, seconds = method(x, 1.0), best_of(lambda m=method, x=x: m(x, 1.0))
        else:
            y = np.stack([method(row, 1.0) for row in x])
            seconds = best_of(lambda m=method, x=x: [m(row, 1.0) for row in x])
        rows[name][f"batch of {BATCH[0]} x {BATCH[1]}, weight 1"] = [seconds, violation(x, y, 1.0)]
    return rows


def on_device(device: str) -> dict:
    sys.path.insert(0, str(HERE.parent))
    import torch

    from cvxlayers.prox import Monotone, TotalVariation1D
    from cvxlayers.prox.cuda import chains
    from cvxlayers.prox.level_sets import level_sets

    def timed(run: Callable[[], object]) -> float:
        def synchronized() -> None:
            run()
            torch.cuda.synchronize()

        return best_of(synchronized, time.perf_counter)

    found: dict[str, object] = {"gpu": torch.cuda.get_device_name(), "kernels": None}
    for dtype in (torch.float64, torch.float32):
        x = torch.tensor(batch(), device=device, dtype=dtype)
        f = TotalVariation1D(1.0)
        found["kernels"] = chains.fits(x)
        y = f.prox(x)
        error = violation(x.double().cpu().numpy(), y.double().cpu().numpy(), 1.0)
        label = str(dtype).removeprefix("torch.")
        found[f"TotalVariation1D, {label}"] = [timed(lambda f=f, x=x: f.prox(x)), error]
        found[f"Monotone, {label}"] = [timed(lambda x=x: Monotone().prox(x)), None]
        w = torch.ones((*BATCH,), device=device, dtype=dtype)[:, 1:]
        ones = torch.ones_like(x)
        z = level_sets(x, ones, w, w)
        found[f"level sets, {label}"] = [timed(lambda a=(x, ones, w, w): level_sets(*a)), float((y - z).abs().max())]
        grown = x.clone().requires_grad_()
        found[f"TotalVariation1D with its gradient, {label}"] = [
            timed(lambda f=f, v=grown: torch.autograd.grad(f.prox(v).sum(), v)), None,
        ]  # fmt: skip
    x = torch.tensor(batch().reshape(-1, 4000), device=device)
    walk = torch.cumsum(torch.randn(256, 4000, device=device, dtype=torch.float64), dim=-1)
    for name, rows, weight in (("wide rows", x, 1.0), ("walks", walk, 200.0)):
        y = TotalVariation1D(weight).prox(rows)
        expected = TotalVariation1D(weight).prox(rows.cpu().numpy())
        found[f"difference from the CPU, {name}"] = float(np.abs(y.cpu().numpy() - expected).max())
        iso = Monotone().prox(rows).cpu().numpy() - Monotone().prox(rows.cpu().numpy())
        found[f"difference from the CPU, monotone, {name}"] = float(np.abs(iso).max())
    return found


def table(rows: dict) -> str:
    names = list(rows)
    lines = ["| signal | " + " | ".join(names) + " | ours / best peer |", "|---" * (len(names) + 2) + "|"]
    for kind in rows["cvxlayers"]:
        seconds = {n: rows[n][kind][0] for n in names}
        peer = min((s for n, s in seconds.items() if n != "cvxlayers"), default=float("nan"))
        shown = " | ".join(f"{1e3 * s:.1f} ms" for s in seconds.values())
        lines.append(f"| {kind} | {shown} | {seconds['cvxlayers'] / peer:.2f} |")
    return "\n".join(lines)


def render() -> None:
    from report import replace
    from total_variation import PAGE, about

    found = json.loads((HERE / "results" / "one_dimensional.json").read_text())
    caption = f"Measured on: {about(found['machine'])}. {found.get('note', '')}"
    replace({"one-dimensional": f"{caption}\n\n{table(found['rows'])}"}, PAGE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peers", action="store_true", help="measure the peers in this Python, print JSON")
    parser.add_argument("-n", type=int, default=1_000_000)
    parser.add_argument("--render", action="store_true", help="the table from the stored results")
    options = parser.parse_args()
    if options.render:
        render()
    elif options.peers:
        print(json.dumps(measure(peers(), options.n)))
    elif options.device != "cpu":
        found = on_device(options.device)
        out = Path(os.environ.get("OUT", HERE / "results")) / f"one_dimensional_{options.device}.json"
        out.write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps(found, indent=1))
    else:
        rows = measure(own(), options.n)
        python = options.python
        if not python:
            from environments import interpreter

            python = str(interpreter("prox"))
        command = [python, __file__, "--peers", "-n", str(options.n)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows |= json.loads(done.stdout.splitlines()[-1])
        from total_variation import machine, store

        store("one_dimensional", {"machine": machine(), "rows": rows})
        print(table(rows))
        render()


if __name__ == "__main__":
    main()
