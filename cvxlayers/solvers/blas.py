"""BLAS in one thread: inside a pool of threads, and where the same numbers must come out each time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

_lock = threading.Lock()
_depth = 0
_before: list[tuple] = []


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS uses one thread inside; what was set before is set again when the last thread leaves."""
    global _depth, _before
    with _lock:
        if _depth == 0:
            _before = [(library, library.num_threads) for library in _libraries()]
            for library, threads in _before:
                if threads != 1:
                    library.set_num_threads(1)
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                for library, threads in _before:
                    if threads != 1:
                        library.set_num_threads(threads)
                _before = []


@lru_cache(maxsize=1)
def _libraries() -> tuple:
    import scipy.linalg.blas  # noqa: F401  so that SciPy's BLAS is loaded and found
    from threadpoolctl import ThreadpoolController

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget)
    return tuple(ThreadpoolController().select(user_api="blas").lib_controllers)


def _forget() -> None:
    """In a forked child: the threads that were inside are gone, and so is whoever held the lock."""
    global _lock, _depth
    _lock, _depth = threading.Lock(), 0
    for library, threads in _before:
        library.set_num_threads(threads)
