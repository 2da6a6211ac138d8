"""One bounded pool of threads for batches: sized by the CPUs this process may use, shared, safe to nest and to fork."""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

_lock = threading.Lock()
_executor: ThreadPoolExecutor | None = None
_registered = False


def available_cpus() -> int:
    """The CPUs this process may use: its affinity, and the quota of its control group (Linux), whichever is less."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux has an affinity
        cpus = os.cpu_count() or 1
    return max(1, min(cpus, _quota()))


def run(worker: Callable[[], Callable[[int, int], None]], size: int, threads: int, grain: int = 1) -> None:
    """Cover range(size) by calls f(start, stop) with f = worker(), in at most ``threads`` threads.

    The calling thread takes part, so that a run inside a run always ends, however busy the pool is. Each thread that
    takes part makes its own ``f`` once. Pieces hold at least ``grain`` elements. The first error is raised again here,
    after every thread has stopped.
    """
    threads = max(1, min(threads, available_cpus(), size // max(grain, 1)))
    if threads == 1:
        if size:
            worker()(0, size)
        return
    step = max(grain, math.ceil(size / (4 * threads)))
    starts = itertools.count(0, step)  # next() on it is atomic: each piece is taken once
    failed = threading.Event()

    def take() -> None:
        function = None
        try:
            while not failed.is_set() and (start := next(starts)) < size:
                function = function or worker()
                function(start, min(start + step, size))
        except BaseException:
            failed.set()
            raise

    helpers = _submit(take, threads - 1)
    try:
        take()
    finally:
        # A helper that never started has nothing left to do; one that started is waited for.
        started = [helper for helper in helpers if not helper.cancel()]
        errors = [error for helper in started if (error := helper.exception()) is not None]
    if errors:
        raise errors[0]


def _submit(task: Callable[[], None], times: int) -> list[Future]:
    global _executor, _registered
    with _lock:
        if _executor is None:
            _executor = ThreadPoolExecutor(available_cpus(), thread_name_prefix="cvxlayers")
            if not _registered and hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=_forget)
                _registered = True
        executor = _executor
    try:
        return [executor.submit(task) for _ in range(times)]
    except RuntimeError:  # the interpreter is shutting down: the caller does all the work
        return []


def _forget() -> None:
    """In a forked child: the threads are gone, and the lock may have been held by one of them."""
    global _executor, _lock
    _executor = None
    _lock = threading.Lock()


@lru_cache(maxsize=1)
def _quota() -> int:
    """Whole CPUs in the tightest CPU quota over this process's control groups, rounded up; a big number if none."""
    least = math.inf
    for path in _control_groups():
        for folder in (path, *path.parents):
            least = min(least, _quota_of(folder))
            if folder in (Path("/sys/fs/cgroup"), Path("/")):
                break
    return 1 << 20 if math.isinf(least) else max(1, math.ceil(least))


def _control_groups() -> list[Path]:
    root = Path("/sys/fs/cgroup")
    found = [root, root / "cpu", root / "cpu,cpuacct"]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found.append(root / path.lstrip("/"))
        elif "cpu" in controllers.split(","):
            found.append(root / controllers / path.lstrip("/"))
            found.append(root / "cpu" / path.lstrip("/"))
    return found


def _quota_of(folder: Path) -> float:
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return math.inf if quota in ("max", "-1") else float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
