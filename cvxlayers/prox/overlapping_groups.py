"""The group lasso with groups that share entries: iterative, certified, implicitly derived."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from cvxlayers.array import implicit, namespace, stop_gradient
from cvxlayers.array.scatter import Constant, add_at, take
from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox.dual import DualProx, Info, check_iteration, tolerance
from cvxlayers.prox.modulus import modulus, root
from cvxlayers.prox.operator import Array, Primitive, is_integer
from cvxlayers.prox.total_variation import channels, unchannel


@dataclass(frozen=True, eq=False)
class OverlappingGroupLasso(Primitive):
    """f(x) = weight sum_g group_weights_g ||x_g||_2 + l1 ||x||_1, over groups that may overlap; l1 = 0 by default.

    ``groups`` is a sequence of sequences of indices; entries in no group are not penalized by the first term. Shapes: x
    (*batch, n), real or complex. ``weight`` and ``l1`` >= 0 are numbers or one per sample, ``group_weights`` >= 0 None
    (all 1) or an array of one per group. For groups without overlap `GroupLasso` has a formula.

    The prox is iterative: ``tol``, ``max_iter``, ``prox(x, tau, warm_start=..., return_info=True)``, the certificate
    and the derivatives are as in `TotalVariation`; ``dual`` is (*batch, 1, groups, size of the largest), or with 2 for
    complex x. Raises SettingsError for negative weights and an index twice in a group, ShapeError for too few entries.

    Source: L. Jacob, G. Obozinski, J.-P. Vert, Group lasso with overlap and graph lasso, doi 10.1145/1553374.1553431;
    R. Jenatton, J. Mairal, G. Obozinski, F. Bach, Proximal methods for hierarchical sparse coding, JMLR 12 (2011).

    >>> import numpy as np
    >>> f = OverlappingGroupLasso(((0, 1), (1, 2)), weight=1.0, tol=1e-10)
    >>> f.prox(np.array([3.0, 0.0, 0.5])).round(4)
    array([2., 0., 0.])
    """

    groups: Sequence[Sequence[int]]
    weight: Any = 1.0
    group_weights: Any = None
    l1: Any = 0.0
    tol: float | None = None
    max_iter: int = 5000

    _samples: ClassVar[tuple[str, ...]] = ("weight", "l1")
    _constants: ClassVar[tuple[str, ...]] = ("group_weights",)
    _nonnegative: ClassVar[tuple[str, ...]] = ("weight", "l1", "group_weights")
    _complex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_iteration(type(self).__name__, self.tol, self.max_iter)
        groups = tuple(tuple(int(i) if is_integer(i) else i for i in group) for group in self.groups)
        for g, group in enumerate(groups):
            if not group or any(not is_integer(i) or i < 0 for i in group) or len(set(group)) < len(group):
                raise SettingsError(
                    f"groups of OverlappingGroupLasso should be sequences of different indices 0, 1, ...; "
                    f"group {g} is {group!r}."
                )
        if not groups:
            raise SettingsError("groups of OverlappingGroupLasso should not be empty: `L1` or `Zero` has no groups.")
        object.__setattr__(self, "groups", groups)
        given = self.group_weights
        if given is not None and getattr(given, "ndim", 0) and given.shape[-1] != len(groups):
            raise SettingsError(
                f"group_weights of OverlappingGroupLasso should end in ({len(groups)},), the groups; got {given.shape}."
            )

    def prox(self, x: Array, tau: Any = 1.0, *, warm_start: Array | None = None, return_info: bool = False) -> Any:
        """prox_{tau f}(x), of the shape of x; with ``return_info`` the pair (y, `Info`)."""
        arranged = self._arrange(x, tau)
        with np.errstate(all="ignore"):
            y, gap, iterations, field = self._minimize(arranged.x, arranged.tau, warm_start, **arranged.parameters)
        y = self._finish(y, arranged)
        return (y, Info(gap, iterations, field)) if return_info else y

    def _value(self, x: Array, weight: Array, l1: Array, group_weights: Any = None) -> Array:
        xp, K = namespace(x), self._map(x)
        lengths = root(K.group_sum(K.apply(channels(x, 1)) ** 2))
        if group_weights is not None:
            lengths = lengths * group_weights[..., None]
        total = weight[..., 0] * xp.sum(lengths, axis=K.field_axes)
        return total + l1[..., 0] * xp.sum(modulus(x), axis=-1)

    def _prox(self, x: Array, tau: Array, weight: Array, l1: Array, group_weights: Any = None) -> Array:
        return self._minimize(x, tau, None, weight, l1, group_weights)[0]

    def _map(self, x: Array) -> Gather:
        n = x.shape[-1]
        most = max(max(group) for group in self.groups)
        if n <= most:
            raise ShapeError(
                f"x of OverlappingGroupLasso should have more than {most} entries for its groups; got {n}."
            )
        return Gather(self.groups, n)  # pyright: ignore[reportArgumentType]

    def _minimize(
        self, x: Array, tau: Array, start: Any, weight: Array, l1: Array, group_weights: Any = None
    ) -> tuple[Array, ...]:
        K = self._map(x)
        stacked = channels(x, 1)
        radius = (tau * weight)[..., None, None]
        if group_weights is not None:
            radius = radius * group_weights[..., None, :, None]
        threshold = (tau * l1)[..., None]
        first = K.apply(0 * stacked)
        if start is not None:
            if tuple(start.shape) != tuple(first.shape):
                raise ShapeError(
                    f"warm_start of OverlappingGroupLasso should have the shape {tuple(first.shape)} of the `dual` of "
                    f"an earlier call; got {tuple(start.shape)}."
                )
            first = start
        rule = DualProx(K, tolerance(self.tol, stacked), self.max_iter)
        y, field, gap, iterations = implicit(rule, stacked, radius, threshold, stop_gradient(first))
        return unchannel(y, x, 1), gap, iterations, field


@dataclass(frozen=True)
class Gather:
    """K y: the entries of every group, (*batch, c, n) to (*batch, c, groups, largest), short groups filled with 0."""

    groups: tuple[tuple[int, ...], ...]
    size: int

    row_norm = 1.0
    sample_axes = (-2, -1)
    field_axes = (-3, -2, -1)

    @property
    def bound(self) -> float:
        """||K||^2: in how many groups an entry is, at most."""
        return float(_layout(self.groups)[2])

    def apply(self, y: Array) -> Array:
        """K y."""
        index, mask, _ = _layout(self.groups)
        gathered = take(y, index)
        return namespace(y).reshape(gathered, (*y.shape[:-1], *mask.values.shape)) * mask.like(y)

    def adjoint(self, p: Array) -> Array:
        """K'p."""
        index, mask, _ = _layout(self.groups)
        p = p * mask.like(p)
        return add_at(namespace(p).reshape(p, (*p.shape[:-2], mask.values.size)), index, self.size)

    def group_sum(self, p: Array) -> Array:
        """The sum over each group and the channels, of a shape that meets p."""
        return namespace(p).sum(p, axis=(-3, -1), keepdims=True)


@lru_cache(maxsize=64)
def _layout(groups: tuple[tuple[int, ...], ...]) -> tuple[Constant, Constant, int]:
    """The index of each entry of the field, 1 where it is in the group, and in how many groups an entry is at most."""
    width = max(len(group) for group in groups)
    index, mask = np.zeros((len(groups), width), np.int64), np.zeros((len(groups), width))
    for g, group in enumerate(groups):
        index[g, : len(group)] = group
        mask[g, : len(group)] = 1.0
    most = np.bincount(index[mask > 0]).max()
    return Constant(index.reshape(-1)), Constant(mask), int(most)
