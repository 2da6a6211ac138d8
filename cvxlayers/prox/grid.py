"""What the penalties on a grid share: their axes, and how an iterative prox is called."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np

from cvxlayers.errors import ShapeError
from cvxlayers.prox.axes import consumed_axes
from cvxlayers.prox.dual import Info, check_iteration
from cvxlayers.prox.operator import Array, Primitive, check_input


class Grid(Primitive):
    """A penalty on the one to four axes in ``dim``, by default the last two, with an iterative prox.

    A dataclass of it has ``tol`` and ``max_iter`` among its fields and fills in ``_value`` and
    ``_minimize(x, tau, start, **parameters)``, ``start`` the fields of a warm start or empty: the result, the relative
    gap, the iterations, and the fields to start from, stacked in front.
    """

    tol: float | None
    max_iter: int

    _flat: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_iteration(type(self).__name__, self.tol, self.max_iter)

    def axes(self, x: Array) -> tuple[int, ...]:
        axes = consumed_axes(self.dim, 2, None, x.ndim, repr(self))
        if not 1 <= len(axes) <= 4:
            raise ShapeError(f"dim of {self!r} should name one to four axes, those of the grid; got {len(axes)}.")
        return axes

    def __call__(self, x: Array) -> Array:
        return super(Grid, self._with_dim(x)).__call__(x)

    def prox(self, x: Array, tau: Any = 1.0, *, warm_start: Array | None = None, return_info: bool = False) -> Any:
        """prox_{tau f}(x), of the shape of x; with ``return_info`` the pair (y, `Info`).

        ``warm_start`` is the ``dual`` of an earlier call: fields of the shape of x, stacked in front.
        """
        f = self._with_dim(x)
        parts = {}
        if warm_start is not None:
            count = f._fields_kept(len(f.axes(x)))
            if tuple(warm_start.shape[:1]) != (count,):
                raise ShapeError(
                    f"warm_start of {self!r} should be ({count}, *x.shape); got {tuple(warm_start.shape)}. "
                    "It is the `dual` of an earlier call."
                )
            parts = {f"start{k}": warm_start[k] for k in range(count)}
        arranged = f._arrange(x, tau, **parts)
        parameters = dict(arranged.parameters)
        start = [parameters.pop(name) for name in parts]
        with np.errstate(all="ignore"):
            y, gap, iterations, field = f._minimize(arranged.x, arranged.tau, start, **parameters)
        y = f._finish(y, arranged)
        return (y, Info(gap, iterations, arranged.restore(field))) if return_info else y

    def _prox(self, x: Array, tau: Array, **parameters: Array) -> Array:
        return self._minimize(x, tau, [], **parameters)[0]

    def _minimize(self, x: Array, tau: Array, start: list, **parameters: Any) -> tuple[Array, ...]:
        raise NotImplementedError

    def _fields_kept(self, count: int) -> int:
        """How many fields a warm start holds on ``count`` axes."""
        return count

    def _with_dim(self, x: Array) -> Self:
        """This operator with ``dim`` spelled out, so that the axes of an arranged array can be counted."""
        check_input(x, self, self._complex)
        return replace(self, dim=self.axes(x)) if self.dim == "all" else self

    @property
    def _count(self) -> int:
        """The number of axes of the grid."""
        return 2 if self.dim is None else len(self.dim) if isinstance(self.dim, tuple) else 1
