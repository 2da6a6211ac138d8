"""What the native solver returns, on arrays of any library."""

from __future__ import annotations

from typing import Any, NamedTuple

from cvxlayers.status import summary

Array = Any


class Outcome(NamedTuple):
    """Solutions of a batch of cone programs, judged by their residuals (`cvxlayers.conic.residuals`).

    ``x`` (*batch, n), ``z`` and ``s`` (*batch, m): NaN where an element failed, except for certificates (z of
    INFEASIBLE, scaled to b'z = -1; x and s of UNBOUNDED, scaled to q'x = -1). ``status`` and ``iterations`` (*batch,)
    int32; ``residuals`` (*batch, 3): relative primal, dual and gap residuals.
    """

    x: Array
    z: Array
    s: Array
    status: Array
    iterations: Array
    residuals: Array

    def __repr__(self) -> str:
        shape = tuple(getattr(self.status, "shape", ()))
        return f"Outcome({f'batch {shape}: ' if shape else ''}{summary(self.status, self.residuals)})"
