"""How one element of a batch ended, and what to try next."""

from __future__ import annotations

import operator
from enum import IntEnum
from typing import Any

import numpy as np


class Status(IntEnum):
    """How one element of a batch ended.

    ``Status(k)`` takes an element of an array of statuses; its ``advice`` says in one line what to try next.

    >>> Status.INFEASIBLE.advice
    'no point satisfies the constraints: relax them, or check the sign and scale of the parameters'
    """

    SOLVED = 0
    INACCURATE = 1
    INFEASIBLE = 2
    UNBOUNDED = 3
    MAX_ITERATIONS = 4
    NUMERICAL_ERROR = 5
    INVALID_INPUT = 6

    @classmethod
    def _missing_(cls, value: object) -> Status | None:
        try:  # an element of an integer array, of whichever library
            return cls._value2member_map_.get(operator.index(value))  # pyright: ignore
        except (TypeError, ValueError):
            return None

    @property
    def advice(self) -> str:
        return _ADVICE[self]


_ADVICE = {
    Status.SOLVED: "solved to the tolerance asked for",
    Status.INACCURATE: (
        "a solution was found, but not to the tolerance: loosen tol, scale the problem, or try another solver"
    ),
    Status.INFEASIBLE: "no point satisfies the constraints: relax them, or check the sign and scale of the parameters",
    Status.UNBOUNDED: "the objective decreases without end: add a bound or a regularizer",
    Status.MAX_ITERATIONS: (
        "the iteration or time limit was reached: raise max_iter, scale the problem, or try another solver"
    ),
    Status.NUMERICAL_ERROR: "the solver broke down: scale the problem, or try another solver",
    Status.INVALID_INPUT: (
        "a parameter holds NaN or infinity, or leaves its declared domain: check the inputs of this element"
    ),
}


def summary(status: Any, residuals: Any) -> str:
    """How many elements ended how, and their largest residual, in words; arrays of any library.

    >>> summary(np.array([0, 2, 0]), np.array([[1e-9], [np.nan], [3e-9]]))
    '2 SOLVED, 1 INFEASIBLE, largest residual 3.0e-09'
    """
    try:
        status, residuals = (np.asarray(v.cpu() if hasattr(v, "cpu") else v) for v in (status, residuals))
    except Exception:  # a traced array has no values to print
        return "traced"
    kinds, counts = np.unique(status, return_counts=True)
    ends = [f"{count} {Status(int(kind)).name}" for kind, count in zip(kinds, counts, strict=True)]
    return ", ".join([*ends, f"largest residual {np.nanmax(residuals, initial=0.0):.1e}"])
