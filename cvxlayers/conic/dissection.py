"""Orders of elimination with a shallow tree: nested dissection by the levels of breadth-first searches.

George and Liu, "An automatic nested dissection algorithm for irregular finite element problems", doi 10.1137/0715069.
Where many threads eliminate, the depth of the tree is what an elimination waits for: a chain of T blocks of width w
takes about w log2(T) turns this way, and w T/2 in an order of minimum degree, which begins at the ends.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from cvxlayers.conic.affine import Sparse
from cvxlayers.conic.supernodes import minimum_degree

_SMALL = 4  # vertices that are not worth a separator
_UNEVEN = 0.7  # the largest share of the vertices that a part may have


def nested_dissection(pattern: Sparse) -> np.ndarray:
    """An order of elimination for the pattern of a symmetric matrix: separators last, and so on in each part.

    >>> nested_dissection(sp.diags_array([np.ones(6), np.ones(7), np.ones(6)], offsets=[-1, 0, 1])).tolist()[-1]
    3
    """
    graph: Sparse = sp.csr_array(pattern)
    out = np.empty(graph.shape[0], np.int64)
    stack = [(np.arange(graph.shape[0]), len(out))]  # vertices, and the place after their last
    while stack:
        vertices, end = stack.pop()
        part = graph[vertices][:, vertices]
        count, label = connected_components(part, directed=False)
        if count > 1:
            for k in range(count):
                own = vertices[label == k]
                stack.append((own, end))
                end -= len(own)
            continue
        separator = _separator(part) if len(vertices) > _SMALL else None
        if separator is None:
            out[end - len(vertices) : end] = vertices[minimum_degree(sp.csc_array(part))]
            continue
        own = vertices[separator]
        out[end - len(own) : end] = own
        stack.append((np.delete(vertices, separator), end - len(own)))
    return out


def _separator(graph: Sparse) -> np.ndarray | None:
    """Vertices of a connected graph without which it has two parts; None if there is no good choice."""
    levels = _levels(graph, 0)
    for _ in range(4):  # from an end of a longest path, as nearly as this finds one
        last = np.flatnonzero(levels == levels.max())
        farther = _levels(graph, int(last[np.argmin(np.diff(graph.indptr)[last])]))
        if farther.max() <= levels.max():
            break
        levels = farther
    if levels.max() < 2:
        return None
    sizes = np.bincount(levels)
    before = np.cumsum(sizes) - sizes
    larger = np.maximum(before, len(levels) - before - sizes)[1:-1]
    # Of the levels that leave no large part, the smallest; of those, the most even.
    best = None
    for level in 1 + np.lexsort((larger, larger > _UNEVEN * len(levels)))[:8]:
        own = np.flatnonzero(levels == level)
        beyond = np.isin(graph[own].indices, np.flatnonzero(levels == level + 1))
        starts = graph[own].indptr
        linked = np.add.reduceat(np.append(beyond, False).astype(int), np.minimum(starts[:-1], len(beyond))) > 0
        own = own[linked & (np.diff(starts) > 0)]  # what has no neighbour beyond stays on this side
        left = len(levels) - len(own)
        rest = max(before[level] + sizes[level] - len(own), left - before[level] - sizes[level] + len(own))
        score = (rest > _UNEVEN * left, len(own), rest)
        if best is None or score < best[0]:
            best = score, own
    assert best is not None
    return best[1] if len(best[1]) < len(levels) // 3 else None


def _levels(graph: Sparse, start: int) -> np.ndarray:
    """Distances of all vertices of a connected graph from one."""
    out = np.full(graph.shape[0], -1)
    front, distance = np.array([start]), 0
    while len(front):
        out[front] = distance
        near = np.unique(graph[front].indices)
        front, distance = near[out[near] < 0], distance + 1
    return out
