"""Affine-solver-affine form: what a CVXPY problem becomes, with no trace of CVXPY left in it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from cvxlayers.conic.affine import AffineMap, Lift
from cvxlayers.conic.program import ConeProgram


@dataclass(frozen=True)
class Parameter:
    """One parameter of the problem, as the caller sees it.

    Its *vector* is the value in C order, after ``transform``, as float64. Of a complex parameter it is the value seen
    as pairs (real, imaginary), so twice as long; for the transform "both" it is the value and then its logarithm.
    Attributes (symmetric, diag, sparsity, ...) are part of the lift: a symmetric parameter enters as (S + S')/2, so
    the gradient is the projection on symmetric matrices.
    ``domain`` lists the CVXPY attributes whose violation makes the problem meaningless ('nonneg', 'pos', 'PSD', ...).
    """

    name: str
    shape: tuple[int, ...]
    transform: Literal["identity", "log", "both"] = "identity"
    complex: bool = False
    domain: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Length of the parameter's vector."""
        return int(np.prod(self.shape, dtype=int)) * (2 if self.complex or self.transform == "both" else 1)


@dataclass(frozen=True)
class Output:
    """One variable, dual variable or slack: transform(map([source vector])), reshaped in C order.

    ``map`` reads one vector: x, z or s of the conic solution. A complex output is a vector of pairs (real, imaginary).
    ``id`` is that of the CVXPY object that it is the value of.
    """

    name: str
    shape: tuple[int, ...]
    source: Literal["x", "z", "s"]
    map: AffineMap
    transform: Literal["identity", "exp"] = "identity"
    complex: bool = False
    id: int = -1


@dataclass(frozen=True)
class AffineSolverAffine:
    """parameters -> (lift) -> conic data -> (solver) -> conic solution -> (outputs) -> variables.

    The value of the problem is transform(sense * ((1/2) x'Px + q'x + r)); ``sense`` is -1 for a maximization.
    ``auxiliary`` (n,) marks the entries of x that belong to no variable of the user's problem.
    """

    program: ConeProgram
    parameters: tuple[Parameter, ...]
    lift: Lift
    outputs: tuple[Output, ...]
    auxiliary: np.ndarray
    sense: int = 1
    transform: Literal["identity", "exp"] = "identity"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return tuple(output.name for output in self.outputs)

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """The ids of the CVXPY objects that the outputs are the values of."""
        return tuple(output.id for output in self.outputs)
