"""Sets of matrices that their singular values define: norm balls, bounded rank, orthonormal columns."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from cvxlayers.array import namespace, stop_gradient
from cvxlayers.prox.largest import largest
from cvxlayers.prox.modulus import peak
from cvxlayers.prox.operator import Array
from cvxlayers.prox.set import Set, check_count
from cvxlayers.prox.singular_values import map_singular_values, values_of
from cvxlayers.prox.threshold import on_face, simplex_threshold


@dataclass(frozen=True, eq=False)
class SingularValueSet(Set):
    """C = {X: s(X) in B} for a set B of vectors that depends on neither order nor signs: the base of the sets below.

    The projection of X = U diag(s) V' is U diag(P_B(s)) V'; real or complex; the derivative is that of
    `cvxlayers.prox.singular_values.map_singular_values`.
    """

    ndim: ClassVar[int] = 2
    _flat: ClassVar[bool] = False
    _complex: ClassVar[bool] = True

    @abstractmethod
    def _project_values(self, s: Array, **parameters: Array) -> Array:
        """P_B(s): (*batch, k) to (*batch, k); parameters (*batch, 1)."""

    def _project(self, x: Array, **parameters: Array) -> Array:
        rows = {name: value[..., 0] for name, value in parameters.items()}
        return map_singular_values(lambda s: self._project_values(s, **rows), x)


@dataclass(frozen=True, eq=False)
class NuclearBall(SingularValueSet):
    """C = {X: sum_i s_i(X) <= radius}, the nuclear or trace norm ball: the singular values go on the L1 ball.

    Shapes (*batch, m, n), real or complex; ``radius`` >= 0 is a number or one per sample. Raises SettingsError for a
    negative one.

    Conjugate: radius times the spectral norm.

    >>> import numpy as np
    >>> NuclearBall(2.0).project(np.diag([3.0, 2.0]))
    array([[1.5, 0. ],
           [0. , 0.5]])
    """

    radius: Any = 1.0

    _samples: ClassVar[tuple[str, ...]] = ("radius",)
    _nonnegative: ClassVar[tuple[str, ...]] = ("radius",)

    def _project_values(self, s: Array, radius: Array) -> Array:
        return on_l1_ball(s, radius)

    def _conjugate(self, x: Array, radius: Array) -> Array:
        return radius[..., 0, 0] * peak(values_of(x))


@dataclass(frozen=True, eq=False)
class SpectralBall(SingularValueSet):
    """C = {X: max_i s_i(X) <= radius}, the spectral norm ball: the singular values are clipped.

    Shapes (*batch, m, n), real or complex; ``radius`` >= 0 is a number or one per sample. Raises SettingsError for a
    negative one.

    Conjugate: radius times the nuclear norm.

    >>> import numpy as np
    >>> SpectralBall().project(np.diag([3.0, 0.5]))
    array([[1. , 0. ],
           [0. , 0.5]])
    """

    radius: Any = 1.0

    _samples: ClassVar[tuple[str, ...]] = ("radius",)
    _nonnegative: ClassVar[tuple[str, ...]] = ("radius",)

    def _project_values(self, s: Array, radius: Array) -> Array:
        return at_most(s, radius)

    def _conjugate(self, x: Array, radius: Array) -> Array:
        return radius[..., 0, 0] * namespace(x).sum(values_of(x), axis=-1)


@dataclass(frozen=True, eq=False)
class RankBall(SingularValueSet):
    """C = {X: rank(X) <= count}; not convex. The projection is the truncated singular value decomposition.

    Shapes (*batch, m, n), real or complex; ``count`` >= 0 is an integer or one per sample. Raises SettingsError
    otherwise.

    Source: C. Eckart, G. Young, The approximation of one matrix by another of lower rank, doi 10.1007/BF02288367.

    >>> import numpy as np
    >>> RankBall(1).project(np.diag([3.0, 2.0]))
    array([[3., 0.],
           [0., 0.]])
    """

    count: Any

    convex: ClassVar[bool] = False
    _samples: ClassVar[tuple[str, ...]] = ("count",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("RankBall", "count", self.count, 0)

    def _project_values(self, s: Array, count: Array) -> Array:
        return namespace(s).where(largest(s, count), s, 0.0 * s)


@dataclass(frozen=True, eq=False)
class Stiefel(SingularValueSet):
    """C = {X: X'X = I}, matrices with orthonormal columns (rows if n > m); not convex.

    The projection of X = U diag(s) V' is the polar factor U V'. Where singular values are 0 there are several nearest
    points; the derivative is then 0 along the directions where it is infinite. Shapes (*batch, m, n), real or complex.

    Conjugate: the nuclear norm.

    Source: N. J. Higham, Computing the polar decomposition, with applications, doi 10.1137/0907079.

    >>> import numpy as np
    >>> Stiefel().project(np.array([[0.0, -2.0], [3.0, 0.0]]))
    array([[ 0., -1.],
           [ 1.,  0.]])
    """

    convex: ClassVar[bool] = False

    def _project_values(self, s: Array) -> Array:
        return namespace(s).ones_like(s) + 0.0 * s

    def _conjugate(self, x: Array) -> Array:
        return namespace(x).sum(values_of(x), axis=-1)


def at_most(s: Array, radius: Array) -> Array:
    return namespace(s).where(s > radius, radius + 0.0 * s, s)


def on_l1_ball(s: Array, radius: Array) -> Array:
    """The projection of nonnegative s on the L1 ball, with the derivative of the inside on the boundary."""
    xp = namespace(s)
    inside = xp.sum(stop_gradient(s), axis=-1, keepdims=True) <= stop_gradient(radius)
    _, above = simplex_threshold(s, radius)
    return xp.where(inside, s, on_face(s, above, radius))
