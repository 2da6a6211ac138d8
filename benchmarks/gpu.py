"""Time the native solver beside its peers on a GPU, in one run, and write the tables of docs/benchmarks.md.

python benchmarks/gpu.py                      everything, within --minutes (default: 8)
python benchmarks/gpu.py --quick              three cases, shorter measurements
python benchmarks/gpu.py --only gpu_qp_100    the cases whose name contains it; repeatable
python benchmarks/gpu.py --device cpu ...     the same code without a GPU, to see that it runs
python benchmarks/gpu.py --render             write the tables from the stored results
python benchmarks/gpu.py --merge FILE         take the cases of a partial run into the stored results
python benchmarks/gpu.py --reference          compute the reference of the conic cases again (needs SCS)

One Python environment holds all libraries: PyTorch and JAX with CUDA, NumPy and SciPy, and

    cvxpy==1.9.3 clarabel==0.11.1 cffi pycparser qdldl daqp array-api-compat array-api-extra threadpoolctl
    moreau==0.4.1 moreau-cpu==0.4.1 moreau-cuda13==0.4.1 nvidia-cudss-cu13==0.7.1.6 pydantic==2.14.3
    pydantic-core==2.50.4 annotated-types typing-inspection typing-extensions qpth==0.0.18

For a machine without a network, fetch them elsewhere, for its Python and platform, and carry the folder over:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \\
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_24_x86_64 \\
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d wheels NAME==VERSION ...
    pip wheel --no-deps -w wheels qpth==0.0.18                      (it has no wheel)
    pip install --no-index --no-deps --target site wheels/*.whl     (there; then PYTHONPATH=site)
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import problems
import report
from gpu_worker import FIRST
from processes import Process

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "gpu.json"
REFERENCE = HERE / "results" / "gpu_reference.npz"
MODES = ("forward", "backward")
BUDGET = 1.0  # seconds for each library, case and mode

TITLES = {
    "cvxlayers": "**cvxlayers**, matrices",
    "cvxlayers-torch": "**cvxlayers**, PyTorch layer",
    "cvxlayers-jax": "**cvxlayers**, JAX layer, jit",
    "moreau": "Moreau CUDA, matrices",
    "qpth": "qpth, matrices",
}
# Milliseconds to reach, forward and forward with backward.
REACH = {
    "gpu_qp_10_B4096": (1.5, 2.5),
    "gpu_qp_50_B1024": (4.0, 6.0),
    "gpu_qp_100_B128": (4.0, 6.0),
    "gpu_qp_100_B1024": (10.0, 14.0),
    "gpu_qp_200_B128": (12.0, 16.0),
    "gpu_qp_500_B32": (12.0, None),
    "conic_soc": (None, 15.0),
    "conic_sdp": (None, 150.0),
    "conic_exponential": (None, 60.0),
}
QUICK = ("gpu_qp_100_B1024", "gpu_qp_10_B4096", "conic_soc")


def cases() -> dict[str, Callable[[], problems.Case]]:
    """Every case by name, the most important ones first."""
    found: dict[str, Callable[[], problems.Case]] = {}

    def dense(n: int, m: int, batch: int) -> None:
        found[f"gpu_qp_{n}_B{batch}"] = lambda: problems.dense_qp(n, m, batch, prefix="gpu_qp")

    dense(500, 500, 32)
    found["gpu_mpc_384_B1024"] = lambda: problems.control(24, 8, 8, 1024)
    found["gpu_mpc_384_B128"] = lambda: problems.control(24, 8, 8, 128)
    dense(100, 100, 1024)
    dense(10, 20, 4096)
    found["conic_soc"] = lambda: problems.portfolio(1024)
    found["conic_exponential"] = lambda: problems.logistic(1024)
    dense(50, 50, 1024)
    dense(100, 100, 128)
    dense(200, 150, 128)
    found["conic_sdp"] = lambda: problems.nearest_correlation(1024)
    dense(20, 20, 64)  # a small one, to see that everything runs
    return found


class GpuProcess(Process):
    """One library in a process of its own, on the device."""

    def __init__(self, library: str, device: str, log: Path) -> None:
        self.command = [sys.executable, str(HERE / "gpu_worker.py"), library, device]
        path = os.pathsep.join(part for part in (str(HERE.parent), os.environ.get("PYTHONPATH", "")) if part)
        self.environment = os.environ | {
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            "OPENBLAS_NUM_THREADS": "1",  # five processes prepare at once
        }
        self.child, self.log = None, log


def first_elements(case: problems.Case) -> problems.Case:
    """The case with a batch of the elements that are compared."""
    parameters = {name: v[:FIRST] for name, v in case.parameters.items()}
    program = case.program
    if program is not None:  # constants have no batch
        program = {k: v[:FIRST] if v.ndim == (3 if k in "QGA" else 2) else v for k, v in program.items()}
    return replace(case, batch=min(FIRST, case.batch or 1), parameters=parameters, program=program)


def expected(case: problems.Case) -> dict[str, np.ndarray]:
    """The reference solution and derivatives of the first elements."""
    import reference

    if case.program is not None:
        return reference.quadratic(first_elements(case))
    with np.load(REFERENCE) as stored:
        names = [name for name in stored.files if name.startswith(case.name + "/")]
        return {name.split("/")[1]: stored[name] for name in names}


def run_case(
    case: problems.Case, processes: dict[str, GpuProcess], budget: float, limit: float, folder: Path
) -> list[dict]:
    """One entry per library: all prepare at once, then they are timed one after the other."""
    import reference

    common = {"case": case.name, "title": case.title, "group": case.group, "batch": case.batch}
    entries = {name: common | {"library": name} for name in processes}
    if case.program is None and "qpth" in entries:
        entries["qpth"]["not_run"] = "QPs only"
    ready = {name: process for name, process in processes.items() if "not_run" not in entries[name]}

    def prepare(name: str) -> dict:
        return ready[name].ask(limit, do="prepare", case=case.name, output=str(folder / f"{name}.npz"))

    with ThreadPoolExecutor(len(ready) + 1) as pool:
        wanted = pool.submit(expected, case)
        answers = dict(zip(ready, pool.map(prepare, ready), strict=True))
        best = wanted.result()
    for name, answer in answers.items():
        if "error" not in answer and answer.pop("checksum") != case.checksum():
            answer = {"error": "the process made another problem"}
        entries[name] |= answer
        if "error" in answer:
            continue
        with np.load(folder / f"{name}.npz") as got:
            entries[name] |= reference.errors(first_elements(case), best, dict(got))
    for name, process in ready.items():
        for mode in MODES:
            if "error" in entries[name]:
                continue
            answer = process.ask(limit, do="time", mode=mode, budget=budget)
            if "error" in answer:
                entries[name] |= answer
                continue
            of = answer["times"]
            entries[name] |= {f"{mode}_ms": statistics.median(of), f"{mode}_min_ms": min(of), f"{mode}_runs": len(of)}
    return list(entries.values())


def lines(entries: list[dict]) -> str:
    """One case for the screen."""
    rows = [entries[0]["title"]]
    for entry in entries:
        text = f"{report.times(entry):>20} ms   residual {report.small(entry.get('residual'))}"
        text += f"   error {report.accuracy(entry)}   {entry.get('solver', '')}"
        rows.append(f"  {entry['library']:18}" + (entry.get("error") or entry.get("not_run") or text))
    return "\n".join(rows)


def table(entries: list[dict], cell: Callable[[dict], str], judged: bool) -> str:
    """A row for each case, a column for each library, and what is to be reached."""
    names = [name for name in TITLES if any(e["library"] == name for e in entries)]
    rows = [["problem", *(TITLES[name] for name in names)] + ["to reach"] * judged]
    rows.append(["---"] * len(rows[0]))
    for case in dict.fromkeys(e["case"] for e in entries):
        of = {e["library"]: e for e in entries if e["case"] == case}
        cells = [cell(of[name]) if name in of and "error" not in of[name] else "—" for name in names]
        rows.append([next(iter(of.values()))["title"], *cells] + [reach(case, of.get("cvxlayers", {}))] * judged)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def reach(case: str, ours: dict) -> str:
    """The times to reach, and whether the matrices' own times do."""
    goal = REACH.get(case)
    if goal is None:
        return "—"
    words = " / ".join("—" if g is None else report.number(g) for g in goal)
    keys = [f"{mode}_ms" for mode in MODES]
    if not all(key in ours for key in keys):
        return words
    met = all(g is None or ours[key] <= g for key, g in zip(keys, goal, strict=True))
    return f"{words} ({'met' if met else 'not met'})"


def accuracy(entry: dict) -> str:
    """Largest residual in the batch; error of the solution / median error of the gradient."""
    return f"{report.small(entry.get('residual'))}; {report.accuracy(entry)}" if "x_error" in entry else "—"


def render(results: dict) -> None:
    """Write the part of docs/benchmarks.md."""
    of, entries = results["machine"], results["entries"]
    versions = sorted({f"{name} {number}" for found in results["versions"].values() for name, number in found.items()})
    order = list(cases())
    entries = sorted(entries, key=lambda e: order.index(e["case"]))
    runs: dict[str, list[str]] = {}
    for entry in entries:
        runs.setdefault(entry.get("run", of["date"]), []).append(entry["title"])
    several = [f"- Measured in the run of {run}: {', '.join(dict.fromkeys(of))}." for run, of in runs.items()]
    missing = sorted({f"- {TITLES[e['library']]}, {e['case']}: {e['error']}" for e in entries if "error" in e})
    parts = {
        "gpu-machine": f"Measured on {of['date']}: {of['device']}, {of['system']}, Python {of['python']}. "
        f"Versions: {'; '.join(versions)}.",
        "gpu": table(entries, report.times, judged=True),
        "gpu-errors": table(entries, accuracy, judged=False),
        "gpu-notes": "\n".join(several * (len(runs) > 1) + missing),
    }
    report.replace(parts)


def merge(path: Path) -> None:
    """The stored results; cases of another run, with all libraries side by side, take the place of their own."""
    stored, found = (json.loads(file.read_text()) for file in (RESULTS, path))
    cases_of = {entry["case"] for entry in found["entries"]}
    stored["entries"] = [e for e in stored["entries"] if e["case"] not in cases_of] + found["entries"]
    stored["versions"] |= found["versions"]
    stored["machine"] = found["machine"]
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
    render(stored)


def device_name(device: str) -> str:
    if device == "cpu":
        return f"CPU, {platform.machine()}"
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return (
            subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().replace(", ", ", driver ")
        )
    except (OSError, subprocess.CalledProcessError):
        return device


def write_reference() -> None:
    """Solutions and directional derivatives of the conic cases, by SCS at 1e-10 and central differences."""
    import reference

    found = {}
    for name, make in cases().items():
        if name.startswith("conic"):
            case = first_elements(make())
            found |= {f"{name}/{key}": value for key, value in reference.conic(case, FIRST).items()}
            print(name, flush=True)
    np.savez_compressed(REFERENCE, **found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", metavar="NAME", help="cases whose name contains NAME; repeatable")
    parser.add_argument("--libraries", metavar="A,B", help=f"of {', '.join(TITLES)}")
    parser.add_argument("--quick", action="store_true", help="three cases, shorter measurements")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0, help="no case begins after this time (default: 8)")
    parser.add_argument("--limit", type=float, default=80.0, help="seconds for one answer of a library (default: 80)")
    parser.add_argument("--out", type=Path, help="where the results go (default: benchmarks/results)")
    parser.add_argument("--render", action="store_true", help="only write the tables from the stored results")
    parser.add_argument("--merge", type=Path, metavar="FILE", help="only take a partial run into the stored results")
    parser.add_argument("--reference", action="store_true", help="only compute the reference of the conic cases")
    options = parser.parse_args()
    if options.render:
        return render(json.loads(RESULTS.read_text()))
    if options.merge:
        return merge(options.merge)
    if options.reference:
        return write_reference()
    names = options.libraries.split(",") if options.libraries else list(TITLES)
    out = options.out or RESULTS.parent
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    wanted = [
        name
        for name in cases()
        if (any(part in name for part in options.only) if options.only else name != "gpu_qp_20_B64")
        and (not options.quick or options.only or name in QUICK)
    ]
    processes = {name: GpuProcess(name, options.device, out / f"{name}.log") for name in names}
    entries: list[dict] = []
    versions: dict[str, dict] = {}
    about = {
        "device": device_name(options.device),
        "system": platform.system(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "run": time.strftime("%Y-%m-%d %H:%M"),
    }
    complete = not (options.only or options.libraries or options.quick or options.device == "cpu")
    path = out / ("gpu.json" if complete else "gpu_partial.json")
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name in wanted:
                left = 60.0 * options.minutes - (time.perf_counter() - start)
                if left < 15.0:
                    print(f"no time is left for {name}", flush=True)
                    continue
                since = time.perf_counter()
                budget = BUDGET / 3 if options.quick else BUDGET
                found = run_case(cases()[name](), processes, budget, min(options.limit, left), Path(folder))
                versions |= {entry["library"]: entry.pop("versions") for entry in found if "versions" in entry}
                entries += [entry | {"run": about["run"]} for entry in found]
                print(f"{lines(found)}\n  ({time.perf_counter() - since:.1f} s)", flush=True)
                # After each case, so that a run that is cut short leaves what it has.
                path.write_text(
                    json.dumps({"machine": about, "versions": versions, "entries": entries}, indent=1) + "\n"
                )
        finally:
            for process in processes.values():
                process.close()
    print(f"wrote {path} after {(time.perf_counter() - start) / 60:.1f} minutes")
    if complete:
        render(json.loads(path.read_text()))


if __name__ == "__main__":
    main()
