"""Total variation beside other libraries: time to a relative distance from a certified optimum, one CPU thread.

    python benchmarks/total_variation.py [--python PEERS] [--only NAME]    the six problems, or one of them anew
    python benchmarks/total_variation.py --cubes [--device cuda]           cubes of side 10, 50 and 100
    python benchmarks/total_variation.py --render                          tables and picture from the stored results

``PEERS`` is the Python of an environment made from requirements-prox.txt; by default one is made. Ours, and every peer,
run in the same minutes on the same machine; results go to results/total_variation*.json, the tables to
docs/prox_total_variation.md, the picture to docs/images/cubes.png.
"""

from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import argparse  # noqa: E402
import json  # noqa: E402
import platform  # noqa: E402
import re  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import denoisers  # noqa: E402
import numpy as np  # noqa: E402
from denoisers import DENOISERS, LEVELS, proxtorch, times_to  # noqa: E402
from report import replace  # noqa: E402

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "prox_total_variation.md"
PICTURE = HERE.parent / "docs" / "images" / "cubes.png"
sys.path.insert(0, str(HERE.parent))

from cvxlayers.prox import TotalVariation  # noqa: E402

WEIGHT = 0.2
PROBLEMS = [  # name, shape, the share of the l1 norm in the weight
    ("TV+L1 64x64", (64, 64), 0.25),
    ("TV+L1 256x256", (256, 256), 0.25),
    ("TV+L1 32x32x32", (32, 32, 32), 0.25),
    ("TV 64x64", (64, 64), 0.0),
    ("TV 256x256", (256, 256), 0.0),
    ("TV 32x32x32", (32, 32, 32), 0.0),
]


def blocks(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Overlapping boxes of random heights, and noise of standard deviation 0.1."""
    rng = np.random.default_rng(seed)
    x = np.zeros(shape)
    for _ in range(6):
        box = []
        for size in shape:
            start, stop = np.sort(rng.integers(0, size + 1, 2))
            box.append(slice(start, max(stop, start + 1)))
        x[tuple(box)] += rng.normal()
    return x + 0.1 * rng.normal(size=shape)


def optimum(x: np.ndarray, weight: float, l1: float, tol: float, limit: int) -> tuple[np.ndarray, float]:
    """The minimizer, and a bound on its relative error ||y - y*|| / ||x - y|| from the duality gap."""
    f = TotalVariation(weight, l1, tol=tol, max_iter=limit, dim="all")
    y, info = f.prox(x, return_info=True)
    value = float(f(y)) + np.sum((y - x) ** 2) / 2
    return y, float(np.sqrt(2 * info.gap * value) / np.linalg.norm(x - y))


def ours(x, weight: float, l1: float):
    """Ours as a function of the number of iterations, with the certificates that it makes on its way."""
    return lambda iterations: TotalVariation(weight, l1, tol=0.0, max_iter=iterations, dim="all").prox(x)


def ours_on(x: np.ndarray, weight: float, l1: float, device: str):
    import torch

    tensor = torch.tensor(x, device=device)

    def run(iterations: int) -> np.ndarray:
        y = TotalVariation(weight, l1, tol=0.0, max_iter=iterations, dim="all").prox(tensor)
        if device != "cpu":
            torch.cuda.synchronize()
        return y.cpu().numpy()

    return run


def defaults(x: np.ndarray, weight: float, l1: float, best: np.ndarray) -> dict:
    """What a user gets who sets nothing: time, error and gap."""
    f = TotalVariation(weight, l1, dim="all")
    started = time.process_time()
    y, info = f.prox(x, return_info=True)
    seconds = time.process_time() - started
    error = float(np.linalg.norm(y - best) / np.linalg.norm(x - best))
    return {"seconds": seconds, "error": error, "gap": float(info.gap), "iterations": int(info.iterations)}


def six(python: str, only: str, tol: float) -> None:
    about, rows = machine(), {}
    path = HERE / "results" / "total_variation.json"
    if only and path.exists():  # a row anew, beside those of the same machine
        stored = json.loads(path.read_text())
        if all(stored["machine"].get(key) == about[key] for key in ("cpu", "python", "date")):
            rows = stored["problems"]
    for name, shape, share in PROBLEMS:
        if only and only not in name:
            continue
        x, weight, l1 = blocks(shape), WEIGHT * (1 - share), WEIGHT * share
        best, bound = optimum(x, weight, l1, tol, 100_000)
        row = {"weight": weight, "l1": l1, "certified error": bound, "load": os.getloadavg()[0]}
        row["cvxlayers"] = times_to(ours(x, weight, l1), best, x)
        single = x.astype(np.float32)
        row["cvxlayers, float32"] = times_to(ours(single, weight, l1), best, x)
        row["cvxlayers, defaults"] = defaults(x, weight, l1, best)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "problem.npz"
            np.savez(file, x=x, weight=weight, l1=l1, optimum=best)
            done = subprocess.run(
                [python, HERE / "denoisers.py", file, *DENOISERS], capture_output=True, text=True, check=True
            )
        row |= {(line := json.loads(text)).pop("name"): line for text in done.stdout.splitlines()}
        rows[name] = row
        print(table({name: row}), flush=True)
        if len(rows) == len(PROBLEMS) or not only:
            store("total_variation", {"machine": about, "problems": rows})


def table(rows: dict) -> str:
    """Milliseconds to each level, and how many times the best peer's time is ours."""
    names = ["cvxlayers", "cvxlayers, float32", *DENOISERS]
    lines = ["| problem | error | " + " | ".join(names) + " | best peer / ours |", "|---" * (len(names) + 3) + "|"]
    for problem, row in rows.items():
        for level in map(str, LEVELS):
            seconds = {n: (row.get(n, {}).get("reached") or {}).get(level) for n in names}
            peers = [s[0] for n, s in seconds.items() if s and n in DENOISERS]
            mine = seconds["cvxlayers"]
            ratio = f"{min(peers) / mine[0]:.1f}" if peers and mine else "no peer" if mine else "never"
            shown = [f"{1e3 * s[0]:.1f} ms" if s else "never" if row.get(n, {}).get("reached") else "-"
                     for n, s in seconds.items()]  # fmt: skip
            lines.append(f"| {problem} | {level} | " + " | ".join(shown) + f" | {ratio} |")
    return "\n".join(lines)


def cubes(device: str, python: str, sides: list[int], tol: float) -> None:
    """TV + L1 on cubes: ours and ProxTorch on ``device``, and, on a CPU, the peers too."""
    rows = {}
    for side in sides:
        x, weight, l1 = blocks((side,) * 3), WEIGHT * 0.95, WEIGHT * 0.05
        row: dict = {"weight": weight, "l1": l1, "load": os.getloadavg()[0]}
        if device == "cpu":
            best, bound = optimum(x, weight, l1, tol, 100_000 if side <= 60 else 40_000)
        else:
            import torch

            f = TotalVariation(weight, l1, tol=3e-8 if side > 60 else 1e-9, max_iter=20_000, dim="all")
            tensor = torch.tensor(x, device=device)
            started = time.perf_counter()
            y, info = f.prox(tensor, return_info=True)
            torch.cuda.synchronize()
            row["optimum"] = {"seconds": time.perf_counter() - started, "iterations": float(info.iterations)}
            value = float(f(y) + ((y - tensor) ** 2).sum() / 2)
            best = y.cpu().numpy()
            bound = float(np.sqrt(2 * float(info.gap) * value) / np.linalg.norm(x - best))
        row["certified error"] = bound
        clock = time.process_time if device == "cpu" else time.perf_counter
        for precision in (np.float64, np.float32):
            name = f"cvxlayers, {np.dtype(precision).name}"
            row[name] = times_to(ours_on(x.astype(precision), weight, l1, device), best, x, clock=clock)
        if device != "cpu":
            try:
                row["proxtorch, cuda"] = times_to(proxtorch(x, weight, l1, device), best, x, clock=clock)
            except ImportError as error:
                row["proxtorch, cuda"] = {"error": str(error)}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "problem.npz"
            np.savez(file, x=x, weight=weight, l1=l1, optimum=best)
            # Beside a GPU only the fastest of them, on the CPU of the same machine.
            names = ["proxtorch", "nilearn"] if device == "cpu" else ["nilearn"]
            command = [python or sys.executable, HERE / "denoisers.py", file, *names]
            environment = os.environ | {"MOST_SECONDS": str(denoisers.MOST_SECONDS)}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        row |= {(line := json.loads(text)).pop("name"): line for text in done.stdout.splitlines()}
        rows[str(side)] = row
        print(side, json.dumps(row), flush=True)
        store(f"total_variation_cubes_{device}", {"machine": machine(device), "cubes": rows})


# The columns of the table of the cubes: a title, whose results, the name there, and how its line is drawn.
LINES = [
    ("cvxlayers, CPU", "cpu", "cvxlayers, float64", "C0o-"),
    ("cvxlayers, CPU, float32", "cpu", "cvxlayers, float32", "C0s--"),
    ("ProxTorch, CPU", "cpu", "proxtorch", "C1^-"),
    ("nilearn, CPU", "cpu", "nilearn", "C2v-"),
    ("cvxlayers, GPU", "cuda", "cvxlayers, float64", "C3o-"),
    ("cvxlayers, GPU, float32", "cuda", "cvxlayers, float32", "C3s--"),
    ("ProxTorch, GPU", "cuda", "proxtorch, cuda", "C4^-"),
]


def cube_table(found: dict[str, dict]) -> str:
    """Milliseconds to each level for every side and library, or the error at which it was left."""
    lines = ["| side | error | " + " | ".join(title for title, *_ in LINES) + " |", "|---" * (len(LINES) + 2) + "|"]
    for side in found["cuda"]["cubes"]:
        for level in map(str, LEVELS):
            cells = []
            for _, device, name, _ in LINES:
                result = found[device]["cubes"].get(side, {}).get(name)
                seconds = reached(result, level)
                left = f"not reached ({result['best error']:.0e})" if result else "not measured"
                cells.append(f"{1e3 * seconds:,.1f} ms" if seconds else left)
            lines.append(f"| {side} | {level} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def reached(result: dict | None, level: str) -> float | None:
    """Seconds to a level, None if it was not reached."""
    found = result["reached"][level] if result else None
    return found[0] if found else None


def picture(found: dict[str, dict]) -> None:
    """Time to each level against the side, and the error against time on the largest cube."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.5))
    sides = list(found["cuda"]["cubes"])
    for axis, level in zip(axes, map(str, LEVELS), strict=False):
        for title, device, name, style in LINES:
            seconds = [reached(found[device]["cubes"].get(side, {}).get(name), level) for side in sides]
            points = [(int(side), time) for side, time in zip(sides, seconds, strict=True) if time]
            label = title if len(points) == len(sides) else f"{title} ({len(points)} of {len(sides)} reached)"
            axis.plot(*zip(*points, strict=True) if points else ([], []), style, label=label)
        axis.set(xscale="log", yscale="log", xlabel="side of the cube", ylabel="seconds")
        axis.set(title=f"time to a relative error of {level}")
        axis.set_xticks([int(side) for side in sides], sides)
        axis.minorticks_off()
    largest = list(found["cpu"]["cubes"])[-1]
    for title, device, name, style in LINES:
        if path := found[device]["cubes"].get(largest, {}).get(name, {}).get("path"):
            axes[2].plot(*zip(*((seconds, error) for _, seconds, error in path), strict=True), style, label=title)
    axes[2].set(xscale="log", yscale="log", xlabel="seconds", ylabel="relative error", title=f"side {largest}")
    for axis in axes:
        axis.legend(fontsize=7, frameon=False)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=90, pil_kwargs={"optimize": True})
    plt.close(figure)


def about(of: dict) -> str:
    """The machine in words."""
    gpu = f"{of['gpu']}, " if "gpu" in of else ""
    load = f", load average {of['load']:.1f}" if "load" in of else ""
    return f"{gpu}{of['cpu']}{load}, Python {of['python']}" + (f", {of['date']}" if "date" in of else "")


def render() -> None:
    """The tables of docs/prox_total_variation.md and the picture, from the stored results."""
    results = HERE / "results"
    six = json.loads((results / "total_variation.json").read_text())
    found = {d: json.loads((results / f"total_variation_cubes_{d}.json").read_text()) for d in ("cpu", "cuda")}
    parts = {
        "six": f"Measured on: {about(six['machine'])}.\n\n{table(six['problems'])}",
        "cubes": f"Measured on: CPU: {about(found['cpu']['machine'])}; GPU: {about(found['cuda']['machine'])}.\n\n"
        + cube_table(found),
    }
    replace(parts, PAGE)
    picture(found)


def store(name: str, found: dict) -> None:
    """Write the results, each innermost list on one line."""
    text = re.sub(r"\[[^][{}]*\]", lambda m: " ".join(m.group().split()), json.dumps(found, indent=1))
    (Path(os.environ.get("OUT", HERE / "results")) / f"{name}.json").write_text(text + "\n")


def machine(device: str = "cpu") -> dict:
    found: dict = {"python": platform.python_version(), "date": time.strftime("%Y-%m-%d")}
    with open("/proc/cpuinfo") as file:
        lines = dict(line.split(":", 1) for line in file.read().split("\n\n")[0].splitlines() if ":" in line)
    about = {key.strip(): value.strip() for key, value in lines.items()}
    found["cpu"] = f"{about.get('model name', '')} (family {about.get('cpu family')}, model {about.get('model')})"
    found["load"] = os.getloadavg()[0]
    if device != "cpu":
        import torch

        found["gpu"] = torch.cuda.get_device_name()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="")
    parser.add_argument("--only", default="")
    parser.add_argument("--tol", type=float, default=2e-9, help="relative gap of the optimum")
    parser.add_argument("--most", type=float, default=denoisers.MOST_SECONDS, help="seconds of one run of a library")
    parser.add_argument("--render", action="store_true", help="tables and picture from the stored results")
    parser.add_argument("--cubes", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sides", type=int, nargs="+", default=[10, 50, 100])
    options = parser.parse_args()
    if options.render:
        return render()
    denoisers.MOST_SECONDS = options.most
    python = options.python
    if not python and options.device == "cpu":
        from environments import interpreter

        python = str(interpreter("prox"))
    if options.cubes:
        cubes(options.device, python, options.sides, options.tol)
    else:
        six(python, options.only, options.tol)


if __name__ == "__main__":
    main()
