"""The native solver's array text on each library, with data from NumPy and the outcome back in NumPy."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import numpy as np
import torch

from cvxlayers.conic.array_newton import polish
from cvxlayers.sets import Product
from cvxlayers.solvers.interior_point import Native, Outcome
from cvxlayers.solvers.interior_point.method import solve

LIBRARIES = ("numpy", "torch", "jax")
DEFAULT = Native()


def run(library: str, cone: Product, data: tuple, settings: Native = DEFAULT, dtype: Any = np.float64) -> Outcome:
    """The outcome of `solve` on arrays of a library, for P, q, A, b from NumPy; under JAX it is jitted."""
    given = tuple(np.asarray(v, dtype) for v in data)
    if library == "torch":
        out = solve(cone, *map(torch.from_numpy, given), settings)
    elif library == "jax":
        out = _jitted(cone, settings)(*given)
    else:
        out = solve(cone, *given, settings)
    return Outcome(*(np.asarray(v) for v in out))


def polished(library: str, cone: Product, data: tuple) -> Outcome:
    """The outcome after Newton's method on the conditions of optimality, in NumPy."""
    out = run(library, cone, data)
    with np.errstate(all="ignore"):
        x, z, s, residuals = polish(cone, *data, out.x, out.z, out.s, out.residuals)
    return out._replace(x=x, z=z, s=s, residuals=residuals)


@cache
def _jitted(cone: Product, settings: Native):
    return jax.jit(lambda *data: solve(cone, *data, settings))
