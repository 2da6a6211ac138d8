"""What a solve returns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cvxlayers.conic.kkt import Certificate
from cvxlayers.status import summary


@dataclass(frozen=True, eq=False)
class Result:
    """Solutions of a batch of problems and how each element ended, as arrays of the caller's library.

    Attributes
    ----------
    variables : tuple of arrays (*batch, *shape)
        The variables, dual variables and slacks asked for; NaN where an element failed.
    objective : array (*batch)
        The optimal value; like ``variables`` a differentiable function of the parameters.
    status : integer array (*batch)
        A `Status` for each element.
    residuals : array (*batch, 3)
        Relative primal, dual and gap residuals.
    iterations : integer array (*batch)
    names, ids : tuple
        The names of ``variables``, and the ids of their CVXPY objects.
    """

    variables: tuple[Any, ...]
    objective: Any
    status: Any
    residuals: Any
    iterations: Any
    names: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    _certify: Callable[[], Certificate] | None = field(default=None, repr=False)

    @property
    def certificate(self) -> Certificate:
        """How far the derivative at this solution can be trusted: residual, uniqueness, margin, per element (batch,).

        That of the last backward pass; before there was one, of the derivative of the sum of all variables.
        """
        if self._certify is None:
            raise AttributeError("there is no certificate under jit: call the layer outside it")
        return self._certify()

    def __getitem__(self, key: Any) -> Any:
        """One of ``variables`` by its CVXPY object, its name or its position; KeyError where there is none, or several.

        Iteration, too, goes over ``variables``.
        """
        if isinstance(key, (int, np.integer, slice)):
            if not isinstance(key, slice) and not -len(self.variables) <= key < len(self.variables):
                raise IndexError(f"there is no variable {key}; there are {len(self.variables)}, counted from 0")
            return self.variables[key]
        known, own = (self.names, key) if isinstance(key, str) else (self.ids, getattr(key, "id", None))
        if known.count(own) != 1:
            wrong = f"there are several variables '{key}'" if own in known else f"there is no variable '{key}'"
            raise KeyError(
                f"{wrong}; all are {', '.join(self.names) or 'none'}. Index by position, name, or CVXPY object."
            )
        return self.variables[known.index(own)]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.variables)

    def __len__(self) -> int:
        return len(self.variables)

    def __contains__(self, key: Any) -> bool:
        """Whether this is the name, or the CVXPY object, of one of ``variables``."""
        return key in self.names if isinstance(key, str) else getattr(key, "id", None) in self.ids

    def __repr__(self) -> str:
        shape = tuple(getattr(self.status, "shape", ()))
        batch = f", batch {shape}" if shape else ""
        return f"{type(self).__name__}({', '.join(self.names)}{batch}: {summary(self.status, self.residuals)})"
