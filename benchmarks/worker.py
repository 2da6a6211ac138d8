"""The process in which one library runs: reads one command per line, answers with one line of JSON each.

Started by run.py as `python worker.py LIBRARY THREADS [DATA]`, in the environment of that library.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path

import numpy as np


def measure(call, budget: float, most: int = 200) -> list[float]:
    """Milliseconds of repeated calls, at least one, until ``budget`` seconds have passed."""
    times, start = [], time.perf_counter()
    while not times or (time.perf_counter() - start < budget and len(times) < most):
        before = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - before))
    return times


class Worker:
    """Makes one library's layer for one case at a time, and times it."""

    def __init__(self, library: str, threads: int, data: Path | None) -> None:
        import torch
        from libraries import LIBRARIES

        torch.set_num_threads(threads)
        self.make, self.threads, self.data = LIBRARIES[library], threads, data

    def hello(self) -> dict:
        return {"ready": True}

    def prepare(self, case: str, output: str) -> dict:
        """Build the layer, solve once in each mode, and store the result for the judgement."""
        import problems

        self.library = None
        gc.collect()
        chosen = problems.cases(self.data)[case]()
        start = time.perf_counter()
        self.library = self.make(chosen, self.threads)
        construction = 1e3 * (time.perf_counter() - start)
        first, results = {}, {}
        for mode in () if chosen.group == "lift" else ("forward", "backward"):
            start = time.perf_counter()
            results[mode] = getattr(self.library, mode)()
            first[mode] = 1e3 * (time.perf_counter() - start)
        np.savez(output, **(self.library.result(results["forward"], results["backward"]) if results else {}))
        about = {"solver": str(self.library.solver), "versions": self.library.versions()}
        return about | {"construction_ms": construction, "first_ms": first, "checksum": chosen.checksum()}

    def time(self, mode: str, budget: float) -> dict:
        """Times of one mode: forward, backward (forward and backward together) or lift."""
        return {"times": measure(getattr(self.library, mode), budget)}

    def construct(self, n: int) -> dict:
        """Seconds that the layer of a dense QP takes to build, after a small one has loaded everything."""
        import problems

        self.make(problems.dense_qp(5, 5, None), self.threads)
        case = problems.dense_qp(n, n, None)
        forget_peak()
        before, start = peak(), time.perf_counter()
        library = self.make(case, self.threads)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "gib": peak() - before, "versions": library.versions()}


def forget_peak() -> None:
    """Let the peak of the memory begin anew, where the system can (Linux)."""
    if (forget := Path("/proc/self/clear_refs")).exists():
        forget.write_text("5")


def peak() -> float:
    """The most memory that this process has held, in GiB."""
    if (status := Path("/proc/self/status")).exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def main() -> None:
    library, threads = sys.argv[1], int(sys.argv[2])
    data = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    answers = os.fdopen(os.dup(1), "w")  # libraries print: their output goes to the error stream
    os.dup2(2, 1)
    worker = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            worker = worker or Worker(library, threads, data)
            answer = getattr(worker, command.pop("do"))(**command)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            message = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            answer = {"error": message[:300], "where": f"{Path(where.filename).name}:{where.lineno}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
