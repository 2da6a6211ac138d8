"""Sums over lists of terms as the warps of a thread block take them: who adds what, and when all of them meet.

A sum has a target and terms, which are 64-bit words; what they mean is between the caller and `gather` of sparse.cuh.
Sums of one level do not depend on each other. A block is 32 words, one for each lane of a warp; a slice is a block of
targets, and after it one block for each round of terms. The 1, 2, 4, ... or 32 lanes that share a target take its terms
in turn, and the first of them has the target. A step says which slice each warp takes:

    bits 0-35  block of the slice's targets
    bits 36-57 rounds
    bits 58-60 logarithm of the number of lanes that share a target
    bit 63     whether the warps meet after it
"""

from __future__ import annotations

import numpy as np

_LEAST = 4  # terms that a lane takes before a second one helps it: their loads overlap
_NO_TARGET = np.uint64(2**64 - 1)
_MEET = np.uint64(2**63)


def schedule(
    levels: np.ndarray, targets: np.ndarray, counts: np.ndarray, terms: np.ndarray, padding: int, warps: int
) -> tuple[np.ndarray, np.ndarray]:
    """(steps, blocks) (., warps) and (., 32), for sums of ``counts`` terms, which stand sum after sum in ``terms``.

    ``padding`` is a term that adds nothing. Where a level ends, and at the end, the warps meet. After the last step
    there is one more that does nothing, for those who look ahead.
    """
    targets, counts = np.asarray(targets, np.int64), np.asarray(counts, np.int64)
    if not len(targets):
        return np.array([[_MEET], [0]], np.uint64).repeat(warps, 1), np.full((1, 32), _NO_TARGET)
    levels = np.unique(levels, return_inverse=True)[1]
    share = np.maximum(_LEAST, np.ceil(np.bincount(levels, counts) / (32 * warps)))[levels]
    shift = np.clip(np.ceil(np.log2(np.maximum(counts / share, 1.0))), 0, 5).astype(np.int64)
    rounds = -(-counts // 2**shift)
    order = np.lexsort((-rounds, shift, levels))
    level, width = levels[order], 2 ** shift[order]
    change = np.diff(level, prepend=-1).astype(bool) | np.diff(width, prepend=0).astype(bool)
    rank = np.arange(len(order)) - np.maximum.accumulate(np.where(change, np.arange(len(order)), 0))
    new = change | (rank % (32 // width) == 0)
    own = np.cumsum(new) - 1  # the slice of each target
    first = np.flatnonzero(new)
    deep = np.maximum.reduceat(rounds[order], first)
    base = 1 + np.cumsum(1 + deep) - (1 + deep)
    blocks = np.full((1 + int((1 + deep).sum()), 32), padding, np.uint64)
    blocks[0] = blocks[base] = _NO_TARGET
    lane = rank % (32 // width) * width
    blocks[base[own], lane] = targets[order].astype(np.uint64)
    # Term t of a target goes to the lane t mod width of its lanes, in round t // width.
    begin = np.cumsum(counts) - counts
    of = np.repeat(np.arange(len(order)), counts[order])
    turn = np.arange(len(of)) - np.repeat(np.cumsum(counts[order]) - counts[order], counts[order])
    row, column = base[own[of]] + 1 + turn // width[of], lane[of] + turn % width[of]
    blocks[row, column] = np.asarray(terms, np.uint64)[begin[order][of] + turn]
    words = base + (deep << 36) + (shift[order][first] << 58)
    return _steps(words.astype(np.uint64), deep, level[first], warps), blocks


def _steps(words: np.ndarray, rounds: np.ndarray, level: np.ndarray, warps: int) -> np.ndarray:
    """The slices of each level dealt out to the warps, the long ones first."""
    order = np.lexsort((-rounds, level))
    count = np.bincount(level)
    turn = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
    height = -(-count // warps)
    end = np.cumsum(height)
    row = (end - height)[level[order]] + turn // warps
    # To and fro, so that the warp that had the longest slice of a row has the shortest of the next one.
    place = np.where(turn // warps % 2, warps - 1 - turn % warps, turn % warps)
    steps = np.zeros((int(end[-1]) + 1, warps), np.uint64)
    steps[row, place] = words[order]
    steps[end - 1] |= _MEET
    return steps
