"""Rounds of a loop on a GPU as CUDA graphs of PyTorch: recorded once for a shape, then started by one call.

A round of small kernels costs the time to launch them; a graph launches all of them at once. It reads and writes
tensors of its own, so values are copied in and out. Where recording is not possible, everything goes on without.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from array_api_compat import is_torch_array

from cvxlayers.array import leaves

Tensor = Any

MOST_GRAPHS = 16  # that are kept; the one that was used longest ago goes first
MOST_BYTES = 1 << 29  # of the values: with larger ones, launches are not what takes the time
REPEATED = 2  # calls of the same shape from which recording one pays

_graphs: OrderedDict[Hashable, Graph | None] = OrderedDict()  # None: recording failed
_calls: OrderedDict[Hashable, int] = OrderedDict()
_lock = threading.Lock()
_recording = threading.Lock()


class Graph:
    """``count`` rounds of ``body(constants, state)``, recorded for tensors like these; of one call at a time."""

    def __init__(self, body: Callable[[Any, Any], Any], count: int, constants: Any, state: Any) -> None:
        import torch

        self.device, self.lock = leaves(state)[0].device, threading.Lock()
        with torch.cuda.device(self.device), torch.no_grad(), torch.inference_mode(False):
            self.constants, self.state = (self.own(v) for v in (constants, state))
            self.used = torch.cuda.Event()
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                body(self.constants, self.state)  # libraries make their workspaces, constants go to the device
                stream.synchronize()
                self.graph = torch.cuda.CUDAGraph()
                self.graph.capture_begin(capture_error_mode="thread_local")
                try:
                    found = self.state
                    for _ in range(count):
                        found = body(self.constants, found)
                    for own, new in zip(leaves(self.state), leaves(found), strict=True):
                        own.copy_(new)
                finally:
                    self.graph.capture_end()
            self.used.record()

    @contextmanager
    def session(self, *values: Any) -> Iterator[Callable[[], Any]]:
        """A function that replays the graph and returns its state, for one problem, on the current stream.

        ``values`` are the constants and the state to start from; without them, the caller writes into the graph's. What
        it returns is the graph's own, too: `own` copies what outlives the session.
        """
        import torch

        with self.lock, torch.cuda.device(self.device), torch.no_grad():
            self.used.wait()  # a call before this one, on whichever stream
            try:
                if values:
                    for own, new in zip(leaves((self.constants, self.state)), leaves(values), strict=True):
                        own.copy_(new)

                def replay() -> Any:
                    self.graph.replay()
                    return self.state

                yield replay
            finally:
                self.used.record()

    def own(self, values: Any) -> Any:
        """Copies that the next session leaves alone."""
        return rebuilt(values, lambda t: t.clone())


def graph_of(key: Hashable, body: Callable[[Any, Any], Any], count: int, constants: Any, state: Any) -> Graph | None:
    """The graph for tensors of these shapes and whatever else ``key`` says of ``body``; None where there is none."""
    import torch

    tensors = leaves((constants, state))
    if not all(is_torch_array(t) and t.is_cuda for t in tensors) or torch.compiler.is_compiling():
        return None
    if torch.cuda.is_current_stream_capturing():  # the caller's graph is to hold the work itself
        return None
    if sum(t.numel() * t.element_size() for t in tensors) > MOST_BYTES:
        return None
    key = (key, count, tensors[0].device, tuple((t.shape, t.dtype) for t in tensors))
    with _lock:
        if key in _graphs:
            _graphs.move_to_end(key)
            return _graphs[key]
        _calls[key] = _calls.get(key, 0) + 1
        _calls.move_to_end(key)
        while len(_calls) > 8 * MOST_GRAPHS:
            _calls.popitem(last=False)
        if _calls[key] < REPEATED:
            return None
    with _recording:
        with _lock:
            if key in _graphs:
                return _graphs[key]
        try:
            made = Graph(body, count, constants, state)
        except (RuntimeError, ValueError):  # an operation that cannot be recorded, or another recording under way
            made = None
        with _lock:
            _graphs[key] = made
            gone = [_graphs.popitem(last=False)[1] for _ in range(len(_graphs) - MOST_GRAPHS)]
    for graph in gone:
        if graph is not None:
            with graph.lock:
                graph.used.synchronize()
    return made


def rebuilt(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The nested tuples with every tensor changed."""
    if not isinstance(values, tuple):
        return change(values).contiguous()
    parts = [rebuilt(v, change) for v in values]
    return type(values)(*parts) if hasattr(values, "_fields") else tuple(parts)
