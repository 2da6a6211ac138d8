"""Epigraphs of norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cvxlayers.array import iterate, namespace, stop_gradient
from cvxlayers.errors import SettingsError
from cvxlayers.prox.indicator import project_on_cone
from cvxlayers.prox.modulus import norm
from cvxlayers.prox.operator import Array
from cvxlayers.prox.set import Set, zero_where_small
from cvxlayers.sets import SecondOrder


@dataclass(frozen=True, eq=False)
class NormEpigraph(Set):
    """C = {(t, x) in R x R^n: ||x|| <= t} for the norm "l1", "l2" or "linf"; t is the first entry of the vector.

    - "l1": the projection is (t + theta, soft thresholding of x at theta) with sum_i (|x_i| - theta)_+ = t + theta,
      found by Newton's method as for the L1 ball.
    - "l2": the second-order cone, `cvxlayers.sets.SecondOrder`.
    - "linf": its negative is the polar cone of the first: P(v) = v + P_l1(-v), by Moreau.

    Real vectors of at least one entry. Raises SettingsError for another norm.

    Conjugate: the indicator of the polar cone.

    Source: J.-J. Moreau, Proximité et dualité dans un espace hilbertien, doi 10.24033/bsmf.1625.

    >>> import numpy as np
    >>> NormEpigraph("l1").project(np.array([0.0, 3.0, -1.0]))
    array([ 1.5,  1.5, -0. ])
    >>> NormEpigraph("linf").project(np.array([0.0, 3.0, -1.0]))
    array([ 1.5,  1.5, -1. ])
    """

    norm: Literal["l1", "l2", "linf"] = "l2"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in ("l1", "l2", "linf"):
            raise SettingsError(f"norm of NormEpigraph should be 'l1', 'l2' or 'linf'; got {self.norm!r}.")

    def _project(self, x: Array) -> Array:
        if self.norm == "l2":
            return project_on_cone(SecondOrder(x.shape[-1]), x)
        return _project_l1(x) if self.norm == "l1" else x + _project_l1(-x)

    def _conjugate(self, x: Array) -> Array:
        return zero_where_small(norm(self._project(x), (-1,)), norm(x, (-1,)))


def _project_l1(v: Array) -> Array:
    xp = namespace(v)
    t, x = v[..., :1], v[..., 1:]
    size = xp.abs(x)
    constant, height = stop_gradient(size), stop_gradient(t)
    inside = xp.sum(constant, axis=-1, keepdims=True) <= height
    # theta <- (sum_A |x| - t) / (|A| + 1), increasing from a lower bound; without A it is -t, and the projection 0.
    start = (xp.sum(constant, axis=-1, keepdims=True) - height) / (x.shape[-1] + 1)

    def step(state: tuple) -> tuple:
        theta, _ = state
        above = constant > theta
        count = xp.sum(xp.astype(above, v.dtype), axis=-1, keepdims=True)
        new = (xp.sum(xp.where(above, constant, 0.0), axis=-1, keepdims=True) - height) / (count + 1)
        grown = new > theta
        return xp.where(grown, new, theta), ~grown

    theta, _ = iterate(100, step, (start, start != start), lambda state: state[1])
    above = constant > theta
    count = xp.sum(xp.astype(above, v.dtype), axis=-1, keepdims=True)
    theta = (xp.sum(xp.where(above, size, 0.0 * size), axis=-1, keepdims=True) - t) / (count + 1)
    shrunk = xp.where(above, size - theta, 0.0 * size)
    return xp.where(inside, v, xp.concat([t + theta, xp.where(x < 0, -shrunk, shrunk)], axis=-1))
