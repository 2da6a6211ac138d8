"""Norms of groups of entries: whole groups become zero together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cvxlayers.array import namespace, stop_gradient
from cvxlayers.array.scatter import add_at, indices, take
from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox.modulus import modulus, norm, square
from cvxlayers.prox.norms import shrink_norm
from cvxlayers.prox.operator import Array, Primitive
from cvxlayers.prox.separable import inf_unless


@dataclass(frozen=True, eq=False)
class L21(Primitive):
    """f(X) = weight sum_i row_weights_i ||X_i||_2, the sum of the norms of the rows of a matrix.

    ``dim=(i, j)`` names two axes: the norms are taken along the second, the last one by default, and summed along the
    first. The field says L21, L2,1 or L12; here the norms are inside and the sum outside. prox multiplies each row by
    max(0, 1 - tau weight row_weights_i / ||X_i||).

    Real or complex X, (*batch, m, n) to values (*batch,). ``weight`` >= 0 is a number or one per sample,
    ``row_weights`` >= 0 None (all 1) or an array (m, 1), or one that broadcasts against X. Raises SettingsError for
    negative ones. The conjugate is the indicator of ||Y_i|| <= weight row_weights_i.

    Source: M. Yuan, Y. Lin, Model selection and estimation in regression with grouped variables,
    doi 10.1111/j.1467-9868.2005.00532.x.

    >>> import numpy as np
    >>> L21(1.0).prox(np.array([[3.0, 4.0], [0.1, 0.2]]))
    array([[2.4, 3.2],
           [0. , 0. ]])
    """

    weight: Any = 1.0
    row_weights: Any = None

    ndim: ClassVar[int] = 2
    _flat: ClassVar[bool] = False
    _entries: ClassVar[tuple[str, ...]] = ("row_weights",)
    _nonnegative: ClassVar[tuple[str, ...]] = ("weight", "row_weights")
    _complex: ClassVar[bool] = True

    def _factor(self, weight: Array, row_weights: Any) -> Array:
        # A row weight is broadcast along its row: any column will do.
        return weight if row_weights is None else weight * row_weights[..., :1]

    def _value(self, x: Array, weight: Array, row_weights: Any = None) -> Array:
        if not x.shape[-1]:
            return namespace(x).sum(modulus(x), axis=(-2, -1))
        factor = self._factor(weight, row_weights)
        return namespace(x).sum(factor[..., 0] * norm(x, (-1,)), axis=-1)

    def _prox(self, x: Array, tau: Array, weight: Array, row_weights: Any = None) -> Array:
        return shrink_norm(x, tau * self._factor(weight, row_weights), (-1,))

    def _conjugate(self, x: Array, weight: Array, row_weights: Any = None) -> Array:
        return inf_unless(norm(x, (-1,)), self._factor(weight, row_weights)[..., 0])


@dataclass(frozen=True, eq=False)
class GroupLasso(Primitive):
    """f(x) = weight sum_g group_weights_g ||x_g||_2 + l1 ||x||_1, over groups that share no entry; l1 = 0 by default.

    ``groups`` is a sequence of sequences of indices, or one array of n integers that says the group 0, 1, ... of each
    entry. Each index of 0 ... n-1 is in one group: an index in two is an error (see `OverlappingGroupLasso`), and so is
    a gap. For entries that should not be penalized, give a group of weight 0.

    prox is soft thresholding of the entries at tau l1, then x_g max(0, 1 - tau weight group_weights_g / ||x_g||): with
    l1 > 0 the sparse group lasso. ``weight`` and ``l1`` >= 0 are numbers or one per sample, ``group_weights`` >= 0 None
    (all 1; sqrt(size) is usual too) or an array of one per group. Real or complex x, (*batch, n) to values (*batch,).
    Raises SettingsError for negative weights, overlaps and gaps, ShapeError if x does not have n entries.

    Source: M. Yuan, Y. Lin, doi 10.1111/j.1467-9868.2005.00532.x; N. Simon, J. Friedman, T. Hastie, R. Tibshirani,
    A sparse-group lasso, doi 10.1080/10618600.2012.681250.

    >>> import numpy as np
    >>> f = GroupLasso(((0, 2), (1,)), weight=1.0)
    >>> f.prox(np.array([3.0, 0.5, 4.0]))
    array([2.4, 0. , 3.2])
    """

    groups: Any
    weight: Any = 1.0
    group_weights: Any = None
    l1: Any = 0.0

    _samples: ClassVar[tuple[str, ...]] = ("weight", "l1")
    _constants: ClassVar[tuple[str, ...]] = ("group_weights",)
    _nonnegative: ClassVar[tuple[str, ...]] = ("weight", "l1", "group_weights")
    _complex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "groups", check_groups(self.groups))
        given = self.group_weights
        if given is not None and getattr(given, "ndim", 0) and given.shape[-1] != len(self.groups):
            raise SettingsError(
                f"group_weights of GroupLasso should end in ({len(self.groups)},), the groups; got {given.shape}."
            )

    def _sizes(self, x: Array) -> tuple[Array, Any]:
        """The norm of every group (*batch, groups), and the index that takes it back to the entries."""
        labels = group_labels(self.groups)
        if x.shape[-1] != len(labels):
            raise ShapeError(
                f"x of GroupLasso should have {len(labels)} entries, those of its groups; got {x.shape[-1]}."
            )
        xp = namespace(x)
        index = indices(labels)
        # In units of the largest entry, whose square may be no number.
        scale = xp.max(stop_gradient(modulus(x)), axis=-1, keepdims=True)
        scale = xp.where((scale > 0) & xp.isfinite(scale), scale, 1.0)
        total = add_at(square(x / scale), index, len(self.groups))
        some = total > 0
        return xp.where(some, xp.sqrt(xp.where(some, total, 1.0)), 0.0) * scale, index

    def _value(self, x: Array, weight: Array, l1: Array, group_weights: Any = None) -> Array:
        xp = namespace(x)
        sizes, _ = self._sizes(x)
        factor = weight if group_weights is None else weight * group_weights
        return xp.sum(factor * sizes, axis=-1) + xp.sum(l1 * modulus(x), axis=-1)

    def _prox(self, x: Array, tau: Array, weight: Array, l1: Array, group_weights: Any = None) -> Array:
        x = shrink_norm(x[..., None], (tau * l1)[..., None], (-1,))[..., 0]
        xp = namespace(x)
        sizes, index = self._sizes(x)
        t = tau * (weight if group_weights is None else weight * group_weights) + 0 * sizes
        kept = sizes > t
        factor = xp.where(kept, 1 - t / xp.where(kept, sizes, 1.0), xp.where(t > 0, 0 * t, 0 * t + 1))
        return x * take(factor, index)

    def _conjugate(self, x: Array, weight: Array, l1: Array, group_weights: Any = None) -> Array:
        # What the L1 part leaves of y has to fit into the dual balls of the groups.
        left = shrink_norm(x[..., None], l1[..., None], (-1,))[..., 0]
        return inf_unless(self._sizes(left)[0], weight if group_weights is None else weight * group_weights)


def check_groups(groups: Any) -> tuple[tuple[int, ...], ...]:
    """``groups`` as tuples of indices; SettingsError unless they hold each of 0 ... n-1 once."""
    if isinstance(groups, np.ndarray) or (len(groups) and np.ndim(groups[0]) == 0):
        labels = np.asarray(groups)
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
            raise SettingsError(
                "groups should be sequences of indices, or one array of a nonnegative integer per entry; "
                f"got shape {labels.shape} of {labels.dtype}."
            )
        count = int(labels.max(initial=-1)) + 1
        found = tuple(tuple(int(i) for i in np.flatnonzero(labels == g)) for g in range(count))
    else:
        found = tuple(tuple(int(i) for i in group) for group in groups)
    if not found or not all(found):
        empty = [g for g, group in enumerate(found) if not group]
        raise SettingsError(f"groups should not be empty; got {f'none in group {empty[0]}' if empty else 'no group'}.")
    counts = np.bincount(np.concatenate(found)) if min(min(g) for g in found) >= 0 else None
    if counts is None:
        raise SettingsError("groups should hold indices from 0 on; got a negative one.")
    if counts.max() > 1:
        raise SettingsError(
            f"groups should not overlap; index {int(np.argmax(counts > 1))} is in {int(counts.max())} of them. "
            "OverlappingGroupLasso takes such groups."
        )
    if counts.min() < 1:
        raise SettingsError(
            f"groups should leave no gap; index {int(np.argmin(counts))} is in none of them. "
            "Give it a group of weight 0 if it should not be penalized."
        )
    return found


def group_labels(groups: Sequence[Sequence[int]]) -> np.ndarray:
    """The group of each entry."""
    labels = np.empty(sum(len(group) for group in groups), dtype=np.int64)
    for g, group in enumerate(groups):
        labels[list(group)] = g
    return labels
