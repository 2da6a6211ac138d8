"""How one element of a batch ended, and what to try next."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """How one element of a batch ended.

    ``Status(k).advice`` says in one line what to try next.

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
