"""Which CUDA graphs are recorded and kept, with graphs that record nothing, on the host."""

from __future__ import annotations

import threading
import weakref
from types import SimpleNamespace

import pytest
import torch

from cvxlayers.array import graphs

ROUNDS = 12


class Layer:
    """What the key of a graph refers to."""


@pytest.fixture
def made(monkeypatch):
    """The shapes for which a graph was recorded, in their order, and the graphs that were waited for."""
    made = SimpleNamespace(shapes=[], freed=[], bytes=1000, fails=False)

    class Graph:
        def __init__(self, body, count, constants, state):
            made.shapes.append(tuple(constants[0].shape))
            if made.fails:
                raise RuntimeError("this cannot be recorded")
            self.lock, self.bytes = threading.Lock(), made.bytes
            self.used = SimpleNamespace(synchronize=lambda: made.freed.append(self))

    monkeypatch.setattr(graphs, "Graph", Graph)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    for name in ("_graphs", "_calls", "_orphans"):
        monkeypatch.setattr(graphs, name, type(getattr(graphs, name))())
    return made


def call(batch: int, key=("solve",)):
    return graphs.graph_of(key, lambda constants, state: state, 1, (torch.zeros(batch, 3),), ())


def test_the_second_call_records(made):
    assert call(2) is None and call(3) is None and not made.shapes
    first = call(2)
    assert first is not None and call(2) is first and made.shapes == [(2, 3)]


@pytest.mark.parametrize("more", [1, 2, 10])
def test_more_shapes_in_turn_than_are_kept(made, more):
    """Recording takes far longer than what it saves: it comes to an end, and some of the graphs stay."""
    shapes = range(1, graphs.MOST_GRAPHS + more + 1)
    for _ in range(ROUNDS):
        found = [call(batch) for batch in shapes]
    assert len(made.shapes) <= 3 * len(shapes) < ROUNDS * len(shapes)
    assert len(graphs._graphs) == graphs.MOST_GRAPHS
    assert sum(graph is not None for graph in found) >= 4
    assert len(made.freed) == len(made.shapes) - graphs.MOST_GRAPHS


def test_results_that_are_too_large(made):
    """They are known after the first recording, and it is not tried again."""
    made.bytes = graphs.MOST_BYTES + 1
    assert [call(2) for _ in range(5)] == [None] * 5
    assert made.shapes == [(2, 3)] and not graphs._graphs


def test_what_cannot_be_recorded(made):
    made.fails = True
    assert [call(2) for _ in range(5)] == [None] * 5 and made.shapes == [(2, 3)]
    made.fails = False
    call(3)
    assert call(3) is not None and call(2) is None


def test_the_bytes_of_all_that_is_kept(made, monkeypatch):
    monkeypatch.setattr(graphs, "MOST_KEPT_BYTES", 2500)
    kept = [[call(batch) for _ in range(2)][1] for batch in (1, 2, 3)]
    assert list(graphs._graphs.values()) == kept[1:] and made.freed == kept[:1]


def test_graphs_go_with_their_layer(made):
    """At the next call of any layer, which waits for their last use."""
    layers = [Layer(), Layer()]
    keys = [(weakref.ref(layer), "solve", (2,)) for layer in layers]
    first, second = ([call(2, key) for _ in range(2)][1] for key in keys)
    assert list(graphs._graphs.values()) == [first, second]
    del layers[0]
    assert call(2, keys[1]) is second
    assert list(graphs._graphs.values()) == [second] and made.freed == [first]
    assert [key[0] for key in graphs._calls] == keys[1:]
