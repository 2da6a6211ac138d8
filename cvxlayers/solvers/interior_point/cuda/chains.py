"""Columns of a sparse factor joined to chains, so that its inverse is a product of few that fill nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_FILL, _FEW = 0.25, 12  # the share of zeros, and their number, that a chain may bring in


class Chains:
    """Chains of the elimination tree, each of at most ``widest`` columns with (nearly) the same rows below.

    ``columns`` lists the rows below the diagonal of each column of the factor, filled with zeros so that those of a
    chain agree below it. ``chains`` come after those that go into them; ``of`` and ``position`` say where a column is.
    ``height`` and ``depth`` are those of each chain, above the lowest leaf and below its root, ``levels`` the largest.
    """

    def __init__(self, columns: Sequence[np.ndarray], widest: int) -> None:
        of, chains = _joined(columns, widest)
        order = sorted(range(len(chains)), key=lambda k: chains[k][-1])
        self.chains = [np.array(chains[k], np.int64) for k in order]
        self.of = np.argsort(order)[of]
        self.widest = max(len(chain) for chain in chains)
        self.columns = list(columns)
        self.position = np.empty(len(columns), np.int64)
        for chain in self.chains:
            self.position[chain] = np.arange(len(chain))
            for q, j in enumerate(chain[:-1].tolist()):
                self.columns[j] = np.append(chain[q + 1 :], columns[chain[-1]])
        ends = [columns[chain[-1]] for chain in self.chains]
        parents = [int(self.of[rows[0]]) if len(rows) else len(ends) for rows in ends]
        self.height, self.levels = heights(parents)
        self.depth = np.zeros(len(ends) + 1, np.int64)
        for k in range(len(ends) - 1, -1, -1):
            self.depth[k] = self.depth[parents[k]] + 1


def _joined(columns: Sequence[np.ndarray], widest: int) -> tuple[np.ndarray, list[list[int]]]:
    """The chain of each column, and the columns of each chain: a column goes on with the longest of its children."""
    children: list[list[int]] = [[] for _ in range(len(columns) + 1)]
    of, chains = np.empty(len(columns), np.int64), []
    for j, rows in enumerate(columns):
        last = max(children[j], key=lambda k: len(columns[k]), default=-1)
        chain = chains[of[last]] if last >= 0 else []
        width, zeros = len(chain) + 1, len(chain) * (len(rows) + 1 - len(columns[last]))
        if chain and width <= widest and zeros <= max(_FILL * width * (len(rows) + width / 2), _FEW):
            of[j] = of[last]
            chain.append(j)
        else:
            of[j] = len(chains)
            chains.append([j])
        children[rows[0] if len(rows) else len(columns)].append(j)
    return of, chains


def heights(parents: Sequence[int]) -> tuple[np.ndarray, int]:
    """The height of each node of a forest above its lowest leaf, and the number of levels; parents come later."""
    height = np.zeros(len(parents) + 1, np.int64)
    for k, parent in enumerate(parents):
        height[parent] = max(height[parent], height[k] + 1)
    return height[:-1], int(height[:-1].max(initial=-1)) + 1
