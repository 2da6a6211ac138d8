"""Exact one-dimensional total variation, row by row: a direct pass, and one of linear time where that pass stalls.

The running sums of the minimizer of sum_i (y_i - x_i)^2 / 2 + w_i |y_{i+1} - y_i| are the shortest path through the
tube between the running sums of x lowered and raised by w_i (the taut string). In dual words: u_i, the running sum of
x - y, stays within |u_i| <= w_i, and y jumps only where it touches.

Sources: Condat, "A direct algorithm for 1-D total variation denoising", doi 10.1109/LSP.2013.2278339 (`_direct`; here
with a weight for each edge); Davies and Kovac, "Local extremes, runs, strings and multiresolution",
doi 10.1214/aos/996986501 (`_hulls`).
"""

from __future__ import annotations

import numpy as np

from cvxlayers.compiled.compiler import apart, kernel

_READ = "Array(f8, 2, 'C', readonly=True)"  # of a caller: it may be a view that must not be written on


@apart
def _direct(x, w, y):
    """Grow one piece until its lowest or its highest possible value leaves the tube, settle it, go back to its end.

    False, with y unfinished, once the samples that were passed again are too many: on a few long pieces this is
    several times faster than the hulls, but its worst case is quadratic.
    """
    n, shared = x.size, w.size == 1
    last, spent = n - 1, -(n // 8)
    k = start = touches_low = touches_high = 0
    one = 0.0 if n == 1 else w[0]
    width = one
    low, high = x[0] - width, x[0] + width  # the values whose running sums just touch the tube
    above, below = width, -width  # x - low and x - high, summed over the piece
    while k < last:
        k += 1
        width = 0.0 if k == last else (one if shared else w[k])
        above += x[k] - low
        below += x[k] - high
        if above < -width or below > width:
            end, value, sign = (touches_low, low, 1.0) if above < -width else (touches_high, high, -1.0)
            for j in range(start, end + 1):
                y[j] = value
            spent += k - end
            if spent > 2 * end:
                return False
            before = sign * (one if shared else w[end])
            k = start = touches_low = touches_high = end + 1
            width = 0.0 if k == last else (one if shared else w[k])
            low, high = x[k] + before - width, x[k] + before + width
            above, below = width, -width
        else:
            if above >= width:
                low += (above - width) / (k - start + 1)
                above, touches_low = width, k
            if below <= -width:
                high += (below + width) / (k - start + 1)
                below, touches_high = -width, k
    for j in range(start, n):  # the tube is closed at its end, so low and high have met
        y[j] = low
    return True


@apart
def _hulls(x, w, y):
    """Keep the convex minorant of the tube's upper side and the concave majorant of its lower one, as queues.

    A piece of a hull is (sum, length). A sample joins at the back; a piece is settled and leaves at the front once
    the hulls have crossed there. Every sample joins and leaves once: linear time.
    """
    n, shared = x.size, w.size == 1
    upper, lower = np.empty((n + 1, 2)), np.empty((n + 1, 2))
    upper_first, upper_last, lower_first, lower_last = 0, -1, 0, -1
    position, before = 0, 0.0
    for i in range(n):
        after = 0.0 if i == n - 1 else (w[0] if shared else w[i])
        value, length = x[i] + (after - before), 1.0
        while upper_last >= upper_first and value * upper[upper_last, 1] <= upper[upper_last, 0] * length:
            value += upper[upper_last, 0]
            length += upper[upper_last, 1]
            upper_last -= 1
        upper_last += 1
        upper[upper_last, 0], upper[upper_last, 1] = value, length

        value, length = x[i] - (after - before), 1.0
        while lower_last >= lower_first and value * lower[lower_last, 1] >= lower[lower_last, 0] * length:
            value += lower[lower_last, 0]
            length += lower[lower_last, 1]
            lower_last -= 1
        lower_last += 1
        lower[lower_last, 0], lower[lower_last, 1] = value, length
        before = after

        # The hulls can only have crossed if the sample reached a front piece.
        while (upper_last == upper_first or lower_last == lower_first) and upper_last >= upper_first:
            high, high_length = upper[upper_first, 0], upper[upper_first, 1]
            low, low_length = lower[lower_first, 0], lower[lower_first, 1]
            if not low * high_length > high * low_length:
                break
            if high_length < low_length:
                value, length = high, high_length
                upper_first += 1
                lower[lower_first, 0] -= value
                lower[lower_first, 1] -= length
            elif low_length < high_length:
                value, length = low, low_length
                lower_first += 1
                upper[upper_first, 0] -= value
                upper[upper_first, 1] -= length
            else:  # the tube is closed here
                value, length = 0.5 * (high + low), high_length
                upper_first += 1
                lower_first += 1
            for j in range(position, position + int(length)):
                y[j] = value / length
            position += int(length)
    if position < n:  # both hulls end in the same point and have not crossed: they are one straight piece
        total = 0.0
        for k in range(upper_first, upper_last + 1):
            total += upper[k, 0]
        for j in range(position, n):
            y[j] = total / (n - position)


@kernel(f"void({_READ}, {_READ}, f8[:,::1], i8, i8)")
def taut_string(x, w, y, start, stop):
    """y[i] = argmin of sum_j (y_j - x_ij)^2 / 2 + w_ij |y_{j+1} - y_j|, for start <= i < stop.

    ``w`` has one row for each row of x or one for all of them, and one column for each edge or one for all of them.
    """
    for i in range(start, stop):
        weights = w[i] if w.shape[0] > 1 else w[0]
        if not _direct(x[i], weights, y[i]):
            _hulls(x[i], weights, y[i])
