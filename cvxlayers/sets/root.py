"""The root of an increasing function, for a whole batch in a fixed number of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cvxlayers.array import loop, namespace

Array = Any


def increasing_root(f: Callable[[Array], tuple[Array, Array]], bound: Array, count: int) -> Array:
    """t in [-bound, bound] with g(t) = 0, for f(t) = (g(t), g'(t)), entry by entry.

    Newton's method on sign(g) log(1 + |g|), whose roots and monotonicity are those of g and which tames exponential
    growth, inside a bracket: where a step leaves the bracket, or is not half as long as the last one, the bracket is
    bisected (W. H. Press et al., Numerical Recipes, section 9.4, give the rule for plain Newton). The best point seen
    is returned, and is final once a step is at the level of rounding, so noise near the root does no harm. An end of
    the bracket comes back where g has no root.
    """
    xp = namespace(bound)
    noise = 2 * float(xp.finfo(bound.dtype).eps)

    def step(state: tuple) -> tuple:
        t, low, high, last, best, least, settled = state
        g, slope = f(t)
        size = xp.abs(g)
        better = (size < least) & ~settled
        best, least = xp.where(better, t, best), xp.where(better, size, least)
        low, high = xp.where(g <= 0, t, low), xp.where(g >= 0, t, high)
        newton = -xp.sign(g) * xp.log1p(size) * (1 + size) / slope
        good = (t + newton >= low) & (t + newton <= high) & (xp.abs(newton) <= 0.5 * last)
        new = xp.where(good, t + newton, (low + high) / 2)
        settled = settled | (xp.abs(newton) <= noise * xp.abs(t)) | (g == 0)
        return new, low, high, xp.abs(new - t), best, least, settled

    start = xp.zeros_like(bound)
    state = (start, -bound, +bound, 2 * bound, start, start + float("inf"), start > 0)
    return loop(count, step, state, like=bound, settled=lambda state: state[-1])[4]
