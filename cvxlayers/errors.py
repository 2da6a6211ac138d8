"""The errors that cvxlayers raises: misuse raises before the work starts, no solution is a status after it."""

from __future__ import annotations

from collections.abc import Sequence


class CvxlayersError(Exception):
    """Base of every error that cvxlayers raises on purpose."""


class ProblemError(CvxlayersError, ValueError):
    """The problem, or what is asked of it, is not one that can become a layer."""


class ShapeError(CvxlayersError, ValueError):
    """An input has a shape, count, dtype or device other than the layer expects."""


class SettingsError(CvxlayersError, ValueError):
    """A setting is unknown or out of range, or no solver can do what is asked."""


class SolverError(CvxlayersError, RuntimeError):
    """Some elements of a batch have no solution.

    Attributes
    ----------
    indices : tuple of int or of tuple of int
        The batch indices of the elements that failed; ``()`` stands for an unbatched problem.
    statuses : tuple of Status
        One status for each of ``indices``.
    """

    def __init__(self, message: str, indices: Sequence = (), statuses: Sequence = ()) -> None:
        super().__init__(message)
        self.indices = tuple(indices)
        self.statuses = tuple(statuses)

    def __reduce__(self):
        return type(self), (self.args[0], self.indices, self.statuses)
