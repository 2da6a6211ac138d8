"""A worker process that answers commands, with a limit on its time and its memory."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Process:
    """One library in its own interpreter, started by the first command and again after it was stopped."""

    def __init__(self, python: Path, library: str, threads: int, data: Path | None) -> None:
        self.command = [str(python), str(HERE / "worker.py"), library, str(threads)] + ([str(data)] if data else [])
        self.arguments = (python, library, threads, data)
        self.environment = os.environ | dict.fromkeys(VARIABLES, str(threads))
        # The own interpreter finds the checkout; the others must not.
        self.environment["PYTHONPATH"] = str(HERE.parent) if library == "cvxlayers" else ""
        self.child: subprocess.Popen | None = None
        self.log: Path | None = None  # where its error stream goes

    def fresh(self) -> Process:
        """Another process of the same library."""
        return Process(*self.arguments)

    def ask(self, limit: float, gib: float = float("inf"), **command) -> dict:
        """The answer, or {"error": why} if there is none within ``limit`` seconds and ``gib`` GiB of memory."""
        if self.child is None:
            errors = None if self.log is None else self.log.open("a")
            self.child = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if errors is None else errors,
                text=True,
            )
            if errors is not None:
                errors.close()
            hello = self.ask(120.0, do="hello")
            if "error" in hello:
                self.close()
                return hello
        try:
            self.child.stdin.write(json.dumps(command) + "\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            return self.stop("the process ended")
        deadline = time.monotonic() + limit
        while not select.select([self.child.stdout], [], [], 0.05)[0]:
            if time.monotonic() > deadline:
                return self.stop(f"more than {limit:.0f} s")
            if gib < float("inf") and self.resident() > gib:
                return self.stop(f"more than {gib:.0f} GiB")
        line = self.child.stdout.readline()
        return json.loads(line) if line else self.stop("the process ended")

    def resident(self) -> float:
        """GiB that the process holds now, where the system tells."""
        try:
            pages = int(Path(f"/proc/{self.child.pid}/statm").read_text().split()[1])
        except OSError:
            return 0.0
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**30

    def stop(self, why: str) -> dict:
        self.close()
        return {"error": why}

    def close(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
            self.child = None

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_) -> None:
        self.close()
