"""Exact one-dimensional total variation, row by row: a direct pass, and one of linear time from where that pass stalls.

The running sums of the minimizer of sum_i (y_i - x_i)^2 / 2 + w_i |y_{i+1} - y_i| are the shortest path through the
tube between the running sums of x lowered and raised by w_i (the taut string). In dual words: u_i, the running sum of
x - y, stays within |u_i| <= w_i, and y jumps only where it touches.

Indices are unsigned: those that might be negative cost a test at every sample.

Sources: Condat, "A direct algorithm for 1-D total variation denoising", doi 10.1109/LSP.2013.2278339 (`_direct`; here
with a weight for each edge); Davies and Kovac, "Local extremes, runs, strings and multiresolution",
doi 10.1214/aos/996986501 (`_hulls`).
"""

from __future__ import annotations

import numpy as np

from cvxlayers.compiled.compiler import apart, kernel

_READ = "Array(f8, 2, 'C', readonly=True)"  # of a caller: it may be a view that must not be written on
_ONE = np.uint64(1)


@apart
def _direct(x, w, y):
    """Grow one piece until its lowest or its highest possible value leaves the tube, settle it, go back to its end.

    Once the samples that were passed again are too many, `_hulls` takes over at the piece to come: on a few long pieces
    this is several times faster than the hulls, but its worst case is quadratic. False if x has entries that are not
    finite.
    """
    n, shared = np.uint64(x.size), w.size == 1
    last, spent = n - _ONE, -np.int64(n // np.uint64(8))
    k = start = touches_low = touches_high = np.uint64(0)
    one = 0.0 if n == _ONE else w[0]
    width = one
    low, high = x[0] - width, x[0] + width  # the values whose running sums just touch the tube
    above, below = width, -width  # x - low and x - high, summed over the piece
    while k < last:
        k += _ONE
        if k == last:
            width = 0.0
        elif not shared:
            width = w[k]
        above += x[k] - low
        below += x[k] - high
        if above < -width or below > width:
            if above < -width:
                end, value = touches_low, low
                before = one if shared else w[end]
            else:
                end, value = touches_high, high
                before = -(one if shared else w[end])
            if not value - value == 0.0:
                return False
            for j in range(start, end + _ONE):
                y[j] = value
            spent += np.int64(k - end)
            if spent > np.int64(2) * np.int64(end):
                return _hulls(x, w, y, end + _ONE, before)
            k = start = touches_low = touches_high = end + _ONE
            width = 0.0 if k == last else (one if shared else w[k])
            low, high = x[k] + before - width, x[k] + before + width
            above, below = width, -width
        else:
            if above >= width:
                low += (above - width) / np.float64(k - start + _ONE)
                above, touches_low = width, k
            if below <= -width:
                high += (below + width) / np.float64(k - start + _ONE)
                below, touches_high = -width, k
    for j in range(start, n):  # the tube is closed at its end, so low and high have met
        y[j] = low
    return low - low == 0.0 and above - above == 0.0


@apart
def _hulls(x, w, y, position, before):
    """Keep the convex minorant of the tube's upper side and the concave majorant of its lower one, as queues.

    A piece of a hull is (sum, length). A sample joins at the back; a piece is settled and leaves at the front once
    the hulls have crossed there. Every sample joins and leaves once: linear time. ``position`` is the first sample,
    ``before`` the height of the string there. False if x has entries that are not finite.
    """
    n, shared, zero = np.uint64(x.size), w.size == 1, np.uint64(0)
    upper, lower = np.empty((n - position, 2)), np.empty((n - position, 2))
    upper_first = upper_end = lower_first = lower_end = zero
    over = under = before
    for i in range(position, n):
        after = 0.0 if i == n - _ONE else (w[0] if shared else w[i])
        value, length = x[i] + (after + over), 1.0
        while upper_end > upper_first and value * upper[upper_end - _ONE, 1] <= upper[upper_end - _ONE, 0] * length:
            upper_end -= _ONE
            value += upper[upper_end, 0]
            length += upper[upper_end, 1]
        upper[upper_end, 0], upper[upper_end, 1] = value, length
        upper_end += _ONE

        value, length = x[i] - (after - under), 1.0
        while lower_end > lower_first and value * lower[lower_end - _ONE, 1] >= lower[lower_end - _ONE, 0] * length:
            lower_end -= _ONE
            value += lower[lower_end, 0]
            length += lower[lower_end, 1]
        lower[lower_end, 0], lower[lower_end, 1] = value, length
        lower_end += _ONE
        over, under = -after, after

        # The hulls can only have crossed if the sample reached a front piece.
        while upper_end > upper_first and (upper_end == upper_first + _ONE or lower_end == lower_first + _ONE):
            high, high_length = upper[upper_first, 0], upper[upper_first, 1]
            low, low_length = lower[lower_first, 0], lower[lower_first, 1]
            if not low * high_length > high * low_length:
                break
            if high_length < low_length:
                value, length = high, high_length
                upper_first += _ONE
                lower[lower_first, 0] -= value
                lower[lower_first, 1] -= length
            elif low_length < high_length:
                value, length = low, low_length
                lower_first += _ONE
                upper[upper_first, 0] -= value
                upper[upper_first, 1] -= length
            else:  # the tube is closed here
                value, length = 0.5 * (high + low), high_length
                upper_first += _ONE
                lower_first += _ONE
            value /= length
            if not value - value == 0.0:
                return False
            for _ in range(np.uint64(length)):
                y[position] = value
                position += _ONE
    if position < n:  # both hulls end in the same point and have not crossed: they are one straight piece
        total = 0.0
        for j in range(upper_first, upper_end):
            total += upper[j, 0]
        value = total / np.float64(n - position)
        for j in range(position, n):
            y[j] = value
        return value - value == 0.0
    return True


@kernel(f"void({_READ}, {_READ}, f8[:,::1], i8, i8)")
def taut_string(x, w, y, start, stop):
    """y[i] = argmin of sum_j (y_j - x_ij)^2 / 2 + w_ij |y_{j+1} - y_j|, for start <= i < stop.

    ``w`` has one row for each row of x or one for all of them, and one column for each edge or one for all of them. A
    row with NaN or an infinity becomes NaN.
    """
    for i in range(start, stop):
        if not _direct(x[i], w[i] if w.shape[0] > 1 else w[0], y[i]):
            y[i] = np.nan
