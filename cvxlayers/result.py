"""What a solve returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cvxlayers.conic.kkt import Certificate
from cvxlayers.status import Status


@dataclass(frozen=True, eq=False)
class Result:
    """Solutions of a batch of problems and how each element ended, as arrays of the caller's library.

    Attributes
    ----------
    variables : tuple of arrays (*batch, *shape)
        The variables, dual variables and slacks asked for; NaN where an element failed.
    objective : array (*batch)
        The optimal value.
    status : integer array (*batch)
        A `Status` for each element.
    residuals : array (*batch, 3)
        Relative primal, dual and gap residuals.
    iterations : integer array (*batch)
    """

    variables: tuple[Any, ...]
    objective: Any
    status: Any
    residuals: Any
    iterations: Any
    names: tuple[str, ...] = ()
    _certify: Callable[[], Certificate] | None = field(default=None, repr=False)

    @property
    def certificate(self) -> Certificate:
        """How far the derivative at this solution can be trusted: residual, uniqueness, margin, per element (batch,).

        That of the last backward pass; before there was one, of the derivative of the sum of all variables.
        """
        if self._certify is None:
            raise AttributeError("there is no certificate under jit: call the layer outside it")
        return self._certify()

    def __getitem__(self, name: str) -> Any:
        """A variable by name."""
        if name not in self.names:
            raise KeyError(f"there is no variable '{name}'; there are {', '.join(self.names)}")
        return self.variables[self.names.index(name)]

    def __repr__(self) -> str:
        try:
            status = np.asarray(self.status)
            count = {Status(int(k)).name: int((status == k).sum()) for k in np.unique(status)}
            worst = np.nanmax(np.asarray(self.residuals), initial=0.0)
            batch = "" if not status.shape else f", batch {status.shape}"
            names = ", ".join(self.names)
            return f"Result({names}{batch}: {count}, largest residual {worst:.1e})"
        except Exception:  # a traced array has no values to print
            return f"Result({', '.join(self.names)}, traced)"
