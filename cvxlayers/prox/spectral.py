"""Penalties of the singular values of a matrix: nuclear norm, weighted or not, spectral norm, rank."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cvxlayers.array import namespace, stop_gradient, visible
from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox.modulus import norm, peak
from cvxlayers.prox.operator import Array, Primitive
from cvxlayers.prox.set import zero_where_small
from cvxlayers.prox.singular_values import map_singular_values, values_of, zero_level
from cvxlayers.prox.spectral_sets import at_most, on_l1_ball


@dataclass(frozen=True, eq=False)
class SingularValuePenalty(Primitive):
    """f(X) = phi(s) of the singular values s of X, (*batch, m, n): the base of the penalties below.

    ``prox_{tau f}(X) = U diag(prox_{tau phi}(s)) V'`` for X = U diag(s) V', real or complex. The derivative is that of
    `cvxlayers.prox.singular_values.map_singular_values`: finite at equal and at zero singular values.
    """

    ndim: ClassVar[int] = 2
    _flat: ClassVar[bool] = False
    _complex: ClassVar[bool] = True

    @abstractmethod
    def _value_of(self, s: Array, **parameters: Array) -> Array:
        """phi(s): (*batch, k) to (*batch,); parameters (*batch, 1)."""

    @abstractmethod
    def _prox_of(self, s: Array, tau: Array, **parameters: Array) -> Array:
        """prox_{tau phi}(s): (*batch, k) to (*batch, k)."""

    def _value(self, x: Array, **parameters: Array) -> Array:
        return self._value_of(values_of(x), **self._rows(parameters))

    def _prox(self, x: Array, tau: Array, **parameters: Array) -> Array:
        rows = self._rows(parameters)
        return map_singular_values(lambda s: self._prox_of(s, tau[..., 0], **rows), x)

    def _rows(self, parameters: dict[str, Array]) -> dict[str, Array]:
        return {name: value[..., 0] if name in self._samples else value for name, value in parameters.items()}


@dataclass(frozen=True, eq=False)
class NuclearNorm(SingularValuePenalty):
    """f(X) = weight sum_i s_i(X), the nuclear norm, also called trace norm; prox shrinks the singular values.

    prox_{tau f}(X) = U diag((s - tau weight)_+) V'. Shapes (*batch, m, n), real or complex; ``weight`` >= 0 is a number
    or one per sample. Raises SettingsError for a negative one.

    Conjugate: the indicator of the spectral norm ball of radius weight.

    Source: J.-F. Cai, E. J. Candès, Z. Shen, A singular value thresholding algorithm for matrix completion,
    doi 10.1137/080738970.

    >>> import numpy as np
    >>> NuclearNorm(0.5).prox(np.diag([3.0, 1.0]), 2.0)
    array([[2., 0.],
           [0., 0.]])
    """

    weight: Any = 1.0

    def _value_of(self, s: Array, weight: Array) -> Array:
        return namespace(s).sum(weight * s, axis=-1)

    def _prox_of(self, s: Array, tau: Array, weight: Array) -> Array:
        xp = namespace(s)
        return xp.where(s > tau * weight, s - tau * weight, 0.0 * s)

    def _conjugate(self, x: Array, weight: Array) -> Array:
        s = values_of(x)
        return zero_where_small(norm(s - at_most(s, weight[..., 0]), (-1,)), norm(s, (-1,)))


@dataclass(frozen=True, eq=False)
class WeightedNuclearNorm(SingularValuePenalty):
    """f(X) = weight sum_i weights_i s_i(X), s_1 >= s_2 >= ..., with weights that do not decrease; not convex.

    prox_{tau f}(X) = U diag((s_i - tau weight weights_i)_+) V', which is a global minimizer because the weights do not
    decrease: the large singular values are shrunk least. ``weights`` >= 0 is (k,) or (*batch, k), k = min(m, n);
    ``weight`` >= 0 a number or one per sample. Raises SettingsError for negative or decreasing weights, which make the
    function a sorted L1 norm of the singular values.

    Source: S. Gu, Q. Xie, D. Meng, W. Zuo, X. Feng, L. Zhang, Weighted nuclear norm minimization and its applications
    to low level vision, doi 10.1007/s11263-016-0930-5.

    >>> import numpy as np
    >>> WeightedNuclearNorm(np.array([0.0, 2.0])).prox(np.diag([3.0, 2.5]))
    array([[3. , 0. ],
           [0. , 0.5]])
    """

    weights: Any
    weight: Any = 1.0

    convex: ClassVar[bool] = False
    _constants: ClassVar[tuple[str, ...]] = ("weights",)
    _nonnegative: ClassVar[tuple[str, ...]] = ("weight", "weights")

    def __post_init__(self) -> None:
        super().__post_init__()
        seen = visible(self.weights)
        if seen is None:
            return
        if seen.ndim == 0:
            raise ShapeError("weights of WeightedNuclearNorm should be (k,) or (*batch, k); got a number: NuclearNorm.")
        if (np.diff(seen, axis=-1) < 0).any():
            raise SettingsError(
                f"weights of WeightedNuclearNorm should not decrease along the last axis; got {self.weights!r}. "
                "Decreasing ones are a sorted L1 norm: SingularValues of that operator."
            )

    def _sized(self, s: Array, weights: Array) -> Array:
        if weights.shape[-1] != s.shape[-1]:
            raise ShapeError(
                f"weights of WeightedNuclearNorm should end in ({s.shape[-1]},), one for each singular value; got "
                f"{tuple(weights.shape)}."
            )
        return weights

    def _value_of(self, s: Array, weights: Array, weight: Array) -> Array:
        return namespace(s).sum(weight * self._sized(s, weights) * s, axis=-1)

    def _prox_of(self, s: Array, tau: Array, weights: Array, weight: Array) -> Array:
        xp = namespace(s)
        rest = s - tau * weight * self._sized(s, weights)
        return xp.where(rest > 0, rest, 0.0 * s)


@dataclass(frozen=True, eq=False)
class SpectralNorm(SingularValuePenalty):
    """f(X) = weight max_i s_i(X), the operator norm from L2 to L2; prox clips the singular values.

    prox_{tau f}(X) = X - (the projection of X on the nuclear norm ball of radius tau weight). Shapes (*batch, m, n),
    real or complex; ``weight`` >= 0 is a number or one per sample. Raises SettingsError for a negative one.

    Conjugate: the indicator of the nuclear norm ball of radius weight.

    Source: N. Parikh, S. Boyd, Proximal algorithms, section 6.7.3, doi 10.1561/2400000003.

    >>> import numpy as np
    >>> SpectralNorm().prox(np.diag([3.0, 1.0]))
    array([[2., 0.],
           [0., 1.]])
    """

    weight: Any = 1.0

    def _value_of(self, s: Array, weight: Array) -> Array:
        return weight[..., 0] * peak(s)

    def _prox_of(self, s: Array, tau: Array, weight: Array) -> Array:
        return s - on_l1_ball(s, tau * weight)

    def _conjugate(self, x: Array, weight: Array) -> Array:
        s = values_of(x)
        return zero_where_small(norm(s - on_l1_ball(s, weight[..., 0]), (-1,)), norm(s, (-1,)))


@dataclass(frozen=True, eq=False)
class Rank(SingularValuePenalty):
    """f(X) = weight rank(X); not convex. prox keeps the singular values above sqrt(2 tau weight).

    Shapes (*batch, m, n), real or complex; ``weight`` >= 0 is a number or one per sample. Raises SettingsError for a
    negative one. The value counts the singular values above the rounding error of the largest.

    >>> import numpy as np
    >>> Rank(2.0).prox(np.diag([3.0, 1.0]))
    array([[3., 0.],
           [0., 0.]])
    """

    weight: Any = 1.0

    convex: ClassVar[bool] = False

    def _value_of(self, s: Array, weight: Array) -> Array:
        xp = namespace(s)
        level = zero_level(stop_gradient(s))
        return xp.sum(xp.where(s > level, weight + 0 * s, 0 * s), axis=-1)

    def _prox_of(self, s: Array, tau: Array, weight: Array) -> Array:
        return namespace(s).where(s * s > 2 * tau * weight, s, 0.0 * s)
