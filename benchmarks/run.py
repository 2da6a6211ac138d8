"""Time cvxlayers beside its peers on the CPU, in one run, and write the tables of docs/benchmarks.md.

python benchmarks/run.py                          everything: about six minutes, and the installation of the peers
python benchmarks/run.py --quick                  fewer and shorter measurements
python benchmarks/run.py --only dense_qp_50       the cases whose name contains it; --only construction, too
python benchmarks/run.py --data data/qp           with the model-predictive-control problems stored there
python benchmarks/run.py --render                 write the tables from the stored results
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import problems
import reference
import report
from environments import HERE, interpreter
from processes import Process

LIBRARIES = {
    "cvxlayers": "own",
    "cvxpylayers-default": "diffcp",
    "cvxpylayers-clarabel": "diffcp",
    "cvxpylayers-moreau": "moreau",
    "moreau": "moreau",
    "qplayer": "qplayer",
}
LAYERS = ("cvxlayers", "cvxpylayers-default", "cvxpylayers-moreau")
ROUNDS = 3
SLOW, VERY_SLOW = 1500.0, 5000.0  # milliseconds from which a call is timed in one round, or its first run counts
# Seconds for each library, case and mode together over all rounds; the table needs less of some groups.
BUDGET = {"small": 0.6, "dense": 0.6, "paper": 0.6, "conic": 0.6, "mpc": 0.15, "accuracy": 0.2, "lp": 0.2, "lift": 0.2}


def machine(threads: int) -> dict:
    """What the numbers were measured on."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        of = {key.strip(): value.strip() for key, value in lines.items()}
        name = of.get("model name", name)
        if {"cpu family", "model"} <= of.keys():
            name += f" (family {of['cpu family']}, model {of['model']})"
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "threads": threads,
        "system": platform.system(),
        "python": platform.python_version(),
        "load": load(),
        "date": time.strftime("%Y-%m-%d"),
    }


def load() -> float | None:
    """How many processes wanted to run in the last minute, where the system tells."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def excluded(library: str, case: problems.Case) -> str | None:
    """Why a library does not take part in a case."""
    if library in case.skip:
        return case.skip[library]
    if library == "qplayer" and case.program is None:
        return "QPs only"
    if case.group == "lift" and library not in LAYERS:
        return "the step is that of another column, or there is none"
    return None


def run_case(case: problems.Case, processes: dict[str, Process], quick: bool, limit: float, folder: Path) -> list[dict]:
    """One entry per library; all prepare first, then they are timed in turn, a part of the budget in each round."""
    expected, entries, ready = reference.reference(case), [], []
    for library, process in processes.items():
        entry = {"case": case.name, "title": case.title, "group": case.group, "batch": case.batch, "library": library}
        entries.append(entry)
        if why := excluded(library, case):
            entry["not_run"] = why
            continue
        output = folder / f"{library}.npz"
        answer = process.ask(limit, do="prepare", case=case.name, output=str(output))
        if "error" not in answer and answer.pop("checksum") != case.checksum():
            answer = {"error": "the process made another problem: NumPy's random numbers differ between versions"}
        entry |= answer
        if "error" in answer:
            continue
        with np.load(output) as got:
            entry |= reference.errors(case, expected, dict(got))
        ready.append((entry, process))
    modes = ("lift",) if case.group == "lift" else ("forward", "backward")
    budget, rounds = BUDGET[case.group] / (3 if quick else 1), 2 if quick else ROUNDS
    times: dict[tuple[str, str], list[float]] = {}
    for entry, _ in ready:
        for mode, first in entry["first_ms"].items():
            if first > VERY_SLOW:
                times[entry["library"], mode] = [first]
    for _ in range(rounds):
        for entry, process in ready:
            for mode in modes:
                key = (entry["library"], mode)
                if "error" in entry or max(times.get(key, [0.0])) > SLOW:
                    continue
                answer = process.ask(limit, do="time", mode=mode, budget=budget / rounds / len(modes))
                times.setdefault(key, []).extend(answer.get("times", []))
                if "error" in answer:
                    entry |= answer
    for entry, _ in ready:
        for mode in modes:
            if of := times.get((entry["library"], mode)):
                entry |= {f"{mode}_ms": statistics.median(of), f"{mode}_min_ms": min(of), f"{mode}_runs": len(of)}
    return entries


def construction(processes: dict[str, Process], sizes: tuple[int, ...], limit: float, gib: float) -> list[dict]:
    """Time and memory of the construction of a dense QP layer, each in a new process."""
    entries = []
    for n in sizes:
        for library in processes:
            if library not in LAYERS:
                continue
            with processes[library].fresh() as process:
                entry = {"case": f"construction_{n}", "title": f"construction of the dense QP, n=m={n}, no batch"}
                entry |= {"group": "construction", "library": library}
                entries.append(entry | process.ask(limit, gib, do="construct", n=n))
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", metavar="NAME", help="cases whose name contains NAME; repeatable")
    parser.add_argument("--libraries", metavar="A,B", help=f"of {', '.join(LIBRARIES)}")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter measurements")
    parser.add_argument("--data", type=Path, help="folder with mpc_*.npz")
    parser.add_argument("--threads", type=int, default=2, help="for every library (default: 2)")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds for one answer of a library (default: 60)")
    parser.add_argument("--gib", type=float, default=10.0, help="memory limit of a construction (default: 10 GiB)")
    parser.add_argument("--render", action="store_true", help="only write the tables from results/cpu.json")
    options = parser.parse_args()
    complete = not (options.only or options.libraries or options.quick)
    if options.render:
        return report.write(json.loads((HERE / "results" / "cpu.json").read_text()))
    names = options.libraries.split(",") if options.libraries else list(LIBRARIES)
    pythons = {environment: interpreter(environment) for environment in {LIBRARIES[name]: None for name in names}}
    data = options.data.resolve() if options.data else None

    def wanted(name: str) -> bool:
        return not options.only or any(part in name for part in options.only)

    entries, start = [], time.perf_counter()
    about = machine(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        processes = {
            name: Process(python, name, options.threads, data)
            for name in names
            if (python := pythons[LIBRARIES[name]]) is not None
        }
        try:
            for name, make in problems.cases(data, options.quick).items():
                if wanted(name):
                    since = time.perf_counter()
                    found = run_case(make(), processes, options.quick, options.limit, Path(folder))
                    entries += found
                    print(f"{report.lines(found)}\n  ({time.perf_counter() - since:.1f} s)", flush=True)
        finally:
            for process in processes.values():
                process.close()
        sizes = tuple(n for n in ((600,) if options.quick else (600, 1000)) if wanted(f"construction_{n}"))
        found = construction(processes, sizes, options.limit, options.gib)
        entries += found
        print(report.lines(found))
    about["load"] = [about["load"], load()]
    about["minutes"] = round((time.perf_counter() - start) / 60, 1)
    versions = {entry["library"]: entry.pop("versions") for entry in entries if "versions" in entry}
    results = {"machine": about, "versions": versions, "entries": entries}
    (HERE / "results").mkdir(exist_ok=True)
    name = "cpu" if complete else "quick" if options.quick and not options.only else "partial"
    rows = ",\n".join(json.dumps(entry) for entry in entries)
    text = f'{{"machine": {json.dumps(about)},\n"versions": {json.dumps(versions)},\n"entries": [\n{rows}\n]}}\n'
    (HERE / "results" / f"{name}.json").write_text(text)
    if complete:
        report.write(results)
    print(f"wrote benchmarks/results/{name}.json after {about['minutes']} minutes")


if __name__ == "__main__":
    main()
