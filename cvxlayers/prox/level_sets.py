"""Exact one-dimensional total variation and isotonic regression for whole batches at once, by their level sets.

The minimizer y of sum_i v_i (y_i - x_i)^2 / 2 + up_i (y_{i+1} - y_i)_+ + down_i (y_i - y_{i+1})_+ is found by halving:
with theta the mean of a run of samples, {y > theta} minimizes a function of labels 0/1 along a chain, and the signs of
y - theta are those of its min-marginals. Messages along the chain are compositions of t -> clamp(t + a, lo, hi), which
are of that form again, so that a parallel scan finds all of them in O(log n) steps. Where the sign changes, the run is
cut, with the known sign of the jump; a run that is not cut is done, and theta is its value.

Sources: Hochbaum, "An efficient algorithm for image segmentation, Markov random fields and related problems",
doi 10.1145/502090.502093; Darbon and Sigelle, "Image restoration with discrete constrained total variation",
doi 10.1007/s10851-006-8803-0; Hillis and Steele, "Data parallel algorithms", doi 10.1145/7902.7903 (the scan).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from cvxlayers.array import iterate, namespace
from cvxlayers.array.segments import run_labels, run_sum

Array = Any


def level_sets(x: Array, v: Array, up: Array, down: Array) -> Array:
    """argmin of sum_i v_i (y_i - x_i)^2 / 2 + up_i (y_{i+1} - y_i)_+ + down_i (y_i - y_{i+1})_+ for each row.

    Shapes: x and v > 0 (*batch, n), up and down >= 0, possibly inf, (*batch, n - 1). Works in the widest precision
    there is. A run counts as one piece if its marginals differ from 0 by no more than the rounding of its sums.
    """
    xp = namespace(x)
    dtype = x.dtype
    n = x.shape[-1]
    if n < 2 or x.size == 0:
        return x
    wide = xp.asarray(np.float64(0.0)).dtype
    x, v, up, down = (xp.astype(a, wide) for a in (x, v, up, down))
    eps = float(xp.finfo(wide).eps)
    free_up, free_down = xp.isfinite(up), xp.isfinite(down)
    zero = xp.zeros_like(x)

    def means(jump):
        # With the sign of a jump known its penalty is linear, and the chain falls apart there.
        pull = xp.where(jump > 0, up, 0.0) - xp.where(jump < 0, down, 0.0)
        drift = _pad(pull, left=False) - _pad(pull, left=True)
        labels = run_labels(jump != 0)
        return run_sum(v * x + drift, labels) / run_sum(v, labels), drift, labels

    def halve(state):
        _, jump, _ = state
        theta, drift, labels = means(jump)
        slope = v * (theta - x) - drift
        low, high = xp.where(jump != 0, 0.0, -down), xp.where(jump != 0, 0.0, up)
        marginal = _marginals(slope, low, high)
        noise = 16 * eps * run_sum(xp.abs(slope) + xp.abs(v * x) + xp.abs(drift), labels)
        side = xp.where(marginal < -noise, zero + 1, xp.where(marginal > noise, zero - 1, zero))
        change = side[..., 1:] - side[..., :-1]
        change = xp.where(change > 0, xp.where(free_up, 1.0, 0.0), xp.where(free_down, 1.0, 0.0)) * xp.sign(change)
        fresh = xp.where(jump == 0, change, 0.0)
        return theta, jump + fresh, xp.any(fresh != 0, axis=-1)

    jump = zero[..., 1:]
    y, jump, _ = iterate(n, halve, (zero, jump, zero[..., 0] == 0), lambda state: ~state[2])
    # A cut that rounding made inside a piece shows by a jump of the wrong sign: heal it.
    wrong = (y[..., 1:] - y[..., :-1]) * jump < 0
    y, _, _ = means(xp.where(wrong, 0.0 * jump, jump))
    return xp.astype(y, dtype)


def _marginals(slope: Array, low: Array, high: Array) -> Array:
    """Of sum_i slope_i b_i + the pairwise costs of labels b along the chain: min at b_i = 1 minus min at b_i = 0."""
    xp = namespace(slope)
    # To the right, t -> clamp(t + slope_i, -down_i, up_i); to the left the bounds change places. Both scans at once.
    a = xp.stack([slope[..., :-1], xp.flip(slope[..., 1:], axis=-1)])
    lo = xp.stack([low, xp.flip(-high, axis=-1)])
    hi = xp.stack([high, xp.flip(-low, axis=-1)])
    step, length = 1, a.shape[-1]
    while step < length:
        # Composition with what the previous 2 step samples do; in front of the first sample, nothing.
        later = a[..., step:]
        composed = (
            a[..., :-step] + later,
            xp.clip(lo[..., :-step] + later, lo[..., step:], hi[..., step:]),
            xp.clip(hi[..., :-step] + later, lo[..., step:], hi[..., step:]),
        )
        a, lo, hi = (xp.concat([old[..., :step], new], axis=-1) for old, new in zip((a, lo, hi), composed, strict=True))
        step *= 2
    messages = xp.clip(a, lo, hi)
    return slope + _pad(messages[0], left=True) + _pad(xp.flip(messages[1], axis=-1), left=False)


def _pad(a: Array, left: bool) -> Array:
    """One zero more along the last axis."""
    xp = namespace(a)
    zero = xp.zeros_like(a[..., :1])
    return xp.concat([zero, a] if left else [a, zero], axis=-1)
