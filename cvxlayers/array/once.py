"""Making something once, whichever threads ask for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def once(kept: dict, key: Any, make: Callable[[], Any]) -> Any:
    """What ``kept`` has under ``key``, made where it has nothing: all threads get the first one that is put there.

    A recorded CUDA graph has the addresses of constants. One that a second thread replaced would be freed under it.

    >>> kept = {}
    >>> once(kept, 1, list) is once(kept, 1, list)
    True
    """
    found = kept.get(key)
    return kept.setdefault(key, make()) if found is None else found
