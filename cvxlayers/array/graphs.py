"""Work of many small kernels on a GPU as CUDA graphs of PyTorch: recorded once for a shape, then started by one call.

Rounds of a loop, or a function. Small kernels cost the time to launch them; a graph launches all of them at once. It
reads and writes tensors of its own, so values are copied in and out. Where recording is not possible, everything goes
on without.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from array_api_compat import is_torch_array

from cvxlayers.array import leaves

Tensor = Any

MOST_GRAPHS = 16  # that are kept; the one that was used longest ago goes first
MOST_BYTES = 1 << 29  # of the values, results among them: with larger ones, launches are not what takes the time
MOST_KEPT_BYTES = 1 << 31  # of the values of all that are kept
REPEATED = 2  # calls of the same shape from which recording one pays

_graphs: OrderedDict[Hashable, Graph] = OrderedDict()
# Of what has no graph, the calls so far, and how many times REPEATED it takes to record it: twice as many whenever its
# graph had to go, or more shapes in turn than are kept would be recorded at each call; infinitely many if it cannot be.
_calls: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()
_orphans: deque[Hashable] = deque()  # whose layers are gone
_lock = threading.Lock()
_recording = threading.Lock()
_thread = threading.local()  # .records: whether this thread does


class Graph:
    """``count`` rounds of ``body(constants, state)``, recorded for tensors like these; of one call at a time.

    With an empty state, ``body`` is a function of the constants, and its result the state.
    """

    def __init__(self, body: Callable[[Any, Any], Any], count: int, constants: Any, state: Any) -> None:
        import torch

        self.device, self.lock = leaves((constants, state))[0].device, threading.Lock()
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
                    if state:
                        _copy(self.state, found)
                finally:
                    self.graph.capture_end()
            self.state = self.state or found
            self.used.record()

    @contextmanager
    def session(self, *values: Any) -> Iterator[Callable[[], Any]]:
        """A function that replays the graph and returns its state, for one problem, on the current stream.

        ``values`` are the constants, and the state to start from where there is one; without them, the caller writes
        into the graph's. What it returns is the graph's own, too: `own` copies what outlives the session.
        """
        import torch

        with self.lock, torch.cuda.device(self.device), torch.no_grad():
            self.used.wait()  # a call before this one, on whichever stream
            try:
                if values:
                    _copy((self.constants, self.state)[: len(values)], values)

                def replay() -> Any:
                    self.graph.replay()
                    return self.state

                yield replay
            finally:
                self.used.record()

    def own(self, values: Any) -> Any:
        """Copies that the next session leaves alone."""
        import torch

        copies = rebuilt(values, torch.empty_like)
        _copy(copies, values)
        return copies

    @property
    def bytes(self) -> int:
        """Of the values."""
        return _bytes(leaves((self.constants, self.state)))


def replayed(key: Hashable, function: Callable[..., Any], arguments: tuple) -> Any:
    """``function(*arguments)``, by a graph where there is one for tensors of these shapes."""
    graph = graph_of(key, lambda arguments, _: function(*arguments), 1, arguments, ())
    if graph is None:
        return function(*arguments)
    with graph.session(arguments) as replay:
        return graph.own(replay())


def graph_of(key: Hashable, body: Callable[[Any, Any], Any], count: int, constants: Any, state: Any) -> Graph | None:
    """The graph for tensors of these shapes and whatever else ``key`` says of ``body``; None where there is none."""
    import torch

    tensors = leaves((constants, state))
    if not (is_torch_array(tensors[0]) and tensors[0].is_cuda) or torch.compiler.is_compiling():
        return None
    if torch._C._are_functorch_transforms_active():
        return None
    if torch.cuda.is_current_stream_capturing() or getattr(_thread, "records", False):
        return None  # the graph under way is to hold the work itself
    key = (key, count, tensors[0].device, _outline((constants, state)))
    if _orphans:
        _freed(_forgotten())
    with _lock:
        if key in _graphs:
            _graphs.move_to_end(key)
            return _graphs[key]
        if not all(is_torch_array(t) and t.is_cuda for t in tensors) or _bytes(tensors) > MOST_BYTES:
            return None
        calls, factor = _calls.get(key, (0, 1))
        _calls[key] = (calls + 1, factor)
        _calls.move_to_end(key)
        while len(_calls) > 8 * MOST_GRAPHS:
            _calls.popitem(last=False)
        if calls + 1 < REPEATED * factor:
            return None
    with _recording:
        with _lock:
            if key in _graphs:
                return _graphs[key]
            if math.isinf(_calls.get(key, (0, 1))[1]):  # another thread has tried
                return None
        _thread.records = True
        try:
            made = Graph(body, count, constants, state)
        except (RuntimeError, ValueError):  # an operation that cannot be recorded, or another recording under way
            made = None
        finally:
            _thread.records = False
        if made is None or made.bytes > MOST_BYTES:
            with _lock:
                _calls[key] = (0, math.inf)
            return None
        with _lock:
            _graphs[key] = made
            gone = dict(_graphs.popitem(last=False) for _ in range(_too_many()))
            for old in gone:
                _calls[old] = (0, 2 * _calls.get(old, (0, 1))[1])
        _watch(key)
    _freed(gone.values())
    return made


def _watch(key: tuple) -> None:
    """Have the key among the orphans as soon as an object is gone that it refers to."""
    for part in key[0] if isinstance(key[0], tuple) else ():
        if isinstance(part, weakref.ref) and (owner := part()) is not None:
            weakref.finalize(owner, _orphans.append, key).atexit = False


def _forgotten() -> list[Graph]:
    """The graphs of layers that are gone, which nobody can ask for any more."""
    found = []
    with _lock:
        while _orphans:
            key = _orphans.popleft()
            _calls.pop(key, None)
            if key in _graphs:
                found.append(_graphs.pop(key))
    return found


def _freed(graphs: Iterable[Graph]) -> None:
    """Wait for the last use of graphs that are not kept."""
    for graph in graphs:
        with graph.lock:
            graph.used.synchronize()


def _too_many() -> int:
    """How many of the graphs go, the one that was used longest ago first; the last one stays."""
    sizes = [graph.bytes for graph in _graphs.values()]
    too_large = next((k for k in range(len(sizes)) if sum(sizes[k:]) <= MOST_KEPT_BYTES), len(sizes) - 1)
    return max(too_large, len(_graphs) - MOST_GRAPHS)


def _bytes(tensors: list[Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def _copy(to: Any, values: Any) -> None:
    """Copy nested tuples of tensors, by few kernels; what is there already stays."""
    from torch import _foreach_copy_  # pyright: ignore[reportPrivateImportUsage]

    together: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}  # those of one dtype are
    for own, new in zip(leaves(to), leaves(values), strict=True):
        if own is not new:
            targets, sources = together.setdefault(own.dtype, ([], []))
            targets.append(own)
            sources.append(new)
    for targets, sources in together.values():
        _foreach_copy_(targets, sources)


def _outline(values: Any) -> Hashable:
    """The nested tuples with the shape and dtype of every tensor in its place."""
    if isinstance(values, tuple):
        return tuple(map(_outline, values))
    return values if values is None else (values.shape, values.dtype)


def rebuilt(values: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The nested tuples with every tensor changed, and contiguous."""
    if isinstance(values, tuple):
        parts = [rebuilt(v, change) for v in values]
        return type(values)(*parts) if hasattr(values, "_fields") else tuple(parts)
    return None if values is None else change(values).contiguous()
