"""Isotonic regression, row by row, by pooling adjacent violators.

Source: Ayer, Brunk, Ewing, Reid and Silverman, "An empirical distribution function for sampling with incomplete
information", doi 10.1214/aoms/1177728423.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.compiled.compiler import kernel

_READ = "Array(f8, 2, 'C', readonly=True)"  # of a caller: it may be a view that must not be written on


@kernel(f"void({_READ}, {_READ}, f8[:,::1], i8, i8)")
def isotonic(x, w, y, start, stop):
    """y[i] = argmin of sum_j w_ij (y_j - x_ij)^2 / 2 over y_1 <= y_2 <= ..., for start <= i < stop.

    ``w`` > 0 has one row for each row of x or one for all of them, and one column for each sample or one for all. A row
    with NaN or an infinity becomes NaN.
    """
    n = x.shape[1]
    pieces, lengths = np.empty((n, 2)), np.empty(n, np.int64)  # sums of w x and of w; how many samples
    for i in range(start, stop):
        weights = w[i] if w.shape[0] > 1 else w[0]
        shared = weights.size == 1
        last = -1
        for k in range(n):
            weight = weights[0] if shared else weights[k]
            value, length = weight * x[i, k], 1
            while last >= 0 and value * pieces[last, 1] <= pieces[last, 0] * weight:
                value += pieces[last, 0]
                weight += pieces[last, 1]
                length += lengths[last]
                last -= 1
            last += 1
            pieces[last, 0], pieces[last, 1], lengths[last] = value, weight, length
        position = 0
        for k in range(last + 1):
            value = pieces[k, 0] / pieces[k, 1]
            for j in range(position, position + lengths[k]):
                y[i, j] = value
            position += lengths[k]
            if not value - value == 0.0:
                y[i] = np.nan
                break
