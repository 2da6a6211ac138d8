"""Sets that linear equations and inequalities with one normal vector define, and affine sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from cvxlayers.array import namespace, real_dtype, stop_gradient, to_library_of, visible
from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox.modulus import norm
from cvxlayers.prox.operator import Array
from cvxlayers.prox.set import Set, check_order, zero_where_small


@dataclass(frozen=True, eq=False)
class _WithNormal(Set):
    """A set of the points whose ``normal``'x is in an interval."""

    normal: Any

    _entries: ClassVar[tuple[str, ...]] = ("normal",)

    def __post_init__(self) -> None:
        super().__post_init__()
        seen = visible(self.normal)
        if seen is not None and not (seen != 0).any():
            raise SettingsError(f"normal of {type(self).__name__} should not be 0; got {self.normal!r}.")


def _height(x: Array, normal: Array) -> tuple[Array, Array]:
    """normal'x and ||normal||^2, (*batch, 1)."""
    xp = namespace(x)
    square = xp.sum(normal * normal, axis=-1, keepdims=True)
    return xp.sum(normal * x, axis=-1, keepdims=True), xp.where(square > 0, square, 1.0)


def _multiple(y: Array, normal: Array) -> tuple[Array, Array]:
    """t with y = t normal, and 0 where there is one, else inf: both (*batch,)."""
    along, square = _height(y, normal)
    t = along / square
    return t[..., 0], zero_where_small(norm(y - t * normal, (-1,)), norm(y, (-1,)))


@dataclass(frozen=True, eq=False)
class Hyperplane(_WithNormal):
    """C = {x: normal'x = offset}; the projection is x - normal (normal'x - offset) / ||normal||^2.

    ``normal``, not 0, broadcasts against x; ``offset`` is a number or one per sample. Raises SettingsError for a normal
    of zeros.

    Conjugate: t offset for y = t normal, inf for other y.

    >>> import numpy as np
    >>> Hyperplane(np.array([3.0, 4.0]), 25.0).project(np.zeros(2))
    array([3., 4.])
    """

    offset: Any = 0.0

    _samples: ClassVar[tuple[str, ...]] = ("offset",)
    _entries: ClassVar[tuple[str, ...]] = ("normal",)

    def _project(self, x: Array, normal: Array, offset: Array) -> Array:
        height, square = _height(x, normal)
        return x - normal * ((height - offset) / square)

    def _conjugate(self, x: Array, normal: Array, offset: Array) -> Array:
        t, off = _multiple(x, normal)
        return t * offset[..., 0] + off


@dataclass(frozen=True, eq=False)
class Halfspace(_WithNormal):
    """C = {x: normal'x <= offset}; the projection is x - normal (normal'x - offset)_+ / ||normal||^2.

    ``normal``, not 0, broadcasts against x; ``offset`` is a number or one per sample. Raises SettingsError for a normal
    of zeros.

    Conjugate: t offset for y = t normal with t >= 0, inf for other y.

    >>> import numpy as np
    >>> Halfspace(np.array([3.0, 4.0]), 0.0).project(np.array([[3.0, 4.0], [-3.0, 0.0]]))
    array([[ 0.,  0.],
           [-3.,  0.]])
    """

    offset: Any = 0.0

    _samples: ClassVar[tuple[str, ...]] = ("offset",)
    _entries: ClassVar[tuple[str, ...]] = ("normal",)

    def _project(self, x: Array, normal: Array, offset: Array) -> Array:
        height, square = _height(x, normal)
        return namespace(x).where(height > offset, x - normal * ((height - offset) / square), x)

    def _conjugate(self, x: Array, normal: Array, offset: Array) -> Array:
        t, off = _multiple(x, normal)
        return namespace(x).where((t < 0) & (norm(x, (-1,)) > 0), float("inf"), t * offset[..., 0] + off)


@dataclass(frozen=True, eq=False)
class Slab(_WithNormal):
    """C = {x: lower <= normal'x <= upper}, the points between two parallel hyperplanes.

    ``normal``, not 0, broadcasts against x; ``lower`` and ``upper`` are numbers or one per sample. Raises SettingsError
    for a normal of zeros and for lower > upper.

    Conjugate: max(t lower, t upper) for y = t normal, inf for other y.

    >>> import numpy as np
    >>> Slab(np.array([1.0, 1.0]), -2.0, 2.0).project(np.array([3.0, 1.0]))
    array([2., 0.])
    """

    lower: Any = -1.0
    upper: Any = 1.0

    _samples: ClassVar[tuple[str, ...]] = ("lower", "upper")
    _entries: ClassVar[tuple[str, ...]] = ("normal",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_order("Slab", "lower", self.lower, "upper", self.upper)

    def _project(self, x: Array, normal: Array, lower: Array, upper: Array) -> Array:
        xp = namespace(x)
        height, square = _height(x, normal)
        outside = (height < lower) | (height > upper)
        excess = height - xp.where(height < lower, lower, upper)
        return xp.where(outside, x - normal * (excess / square), x)

    def _conjugate(self, x: Array, normal: Array, lower: Array, upper: Array) -> Array:
        t, off = _multiple(x, normal)
        return t * namespace(x).where(t < 0, lower[..., 0], upper[..., 0]) + off


@dataclass(frozen=True, eq=False)
class AffineSet(Set):
    """C = {x in R^n: A x = b}; the projection is x - A^+ (A x - b), with the pseudoinverse A^+.

    ``A`` is (m, n) or (*batch, m, n), of any rank; ``b`` is (m,) or (*batch, m). Where the equations contradict each
    other, C is empty: the projection is NaN, the value inf. The pseudoinverse is computed in every call, and A may be
    differentiated (at constant rank); ``factor()`` computes it once, for a constant A.

    Conjugate: b'w for y = A'w, inf for other y.

    >>> import numpy as np
    >>> C = AffineSet(np.array([[1.0, 1.0, 1.0]]), np.array([3.0]))
    >>> C.project(np.array([1.0, 2.0, 3.0]))
    array([0., 1., 2.])
    >>> C.factor().project(np.array([1.0, 2.0, 3.0])).round(12)
    array([0., 1., 2.])
    """

    A: Any
    b: Any
    orthonormal: bool = False
    """Whether the rows of A are orthonormal, or 0: as `factor` leaves them. Nothing is then factored."""

    _constants: ClassVar[tuple[str, ...]] = ("A", "b")

    def __post_init__(self) -> None:
        super().__post_init__()
        A, b = getattr(self.A, "shape", ()), getattr(self.b, "shape", ())
        if len(A) < 2 or len(b) < 1 or A[-2] != b[-1]:
            raise ShapeError(
                "A and b of AffineSet should end in (m, n) and (m,), one row and one entry for each equation; got "
                f"the shapes {tuple(A)} and {tuple(b)}."
            )

    def factor(self) -> AffineSet:
        """The same set with orthonormal rows: A = U S V' becomes V'x = S^-1 U'b, and A a constant of derivatives."""
        xp = namespace(self.A)
        A = stop_gradient(self.A)
        U, s, Vh = xp.linalg.svd(A, full_matrices=False)
        kept = s > _rank_tolerance(A) * xp.max(s, axis=-1, keepdims=True)
        given = to_library_of(A, self.b)
        U = xp.where(kept[..., None, :], U, 0.0)
        along = xp.matrix_transpose(U) @ given[..., None]
        apart = given - stop_gradient(U @ along)[..., 0]
        b = along[..., 0] / xp.where(kept, s, 1.0)
        tolerance = _tolerance(A) * norm(given, (-1,), keepdims=True)
        b = xp.where(norm(apart, (-1,), keepdims=True) <= tolerance, b, float("nan"))
        return AffineSet(xp.where(kept[..., None], Vh, 0.0), b, orthonormal=True, dim=self.dim)

    def _project(self, x: Array, A: Array, b: Array) -> Array:
        xp = namespace(x)
        if A.shape[-1] != x.shape[-1]:
            raise ShapeError(
                f"A of AffineSet has {A.shape[-1]} columns, for as many entries of x; x has {x.shape[-1]}."
            )
        residual = (A @ x[..., None])[..., 0] - b
        back = xp.matrix_transpose(A) if self.orthonormal else xp.linalg.pinv(A, rtol=_rank_tolerance(A))
        y = x - (back @ residual[..., None])[..., 0]
        return y if self.orthonormal else xp.where(_solves(y, A, b, back)[..., None], y, float("nan"))

    def _conjugate(self, x: Array, A: Array, b: Array) -> Array:
        xp = namespace(x)
        origin = self._project(xp.zeros_like(x), A=A, b=b)
        # The part of x along C; the support function is finite where there is none.
        along = self._project(x, A=A, b=b) - origin
        return xp.sum(origin * x, axis=-1) + zero_where_small(norm(along, (-1,)), norm(x, (-1,)))


def _solves(y: Array, A: Array, b: Array, back: Array) -> Array:
    """Whether A y = b up to what can be corrected: where it cannot, the equations contradict each other."""
    y, A, b, back = (stop_gradient(a) for a in (y, A, b, back))
    # The rounding errors of an ill-conditioned pseudoinverse shrink with each correction, a contradiction stays.
    for _ in range(2):
        y = y - (back @ ((A @ y[..., None])[..., 0] - b)[..., None])[..., 0]
    apart = norm((A @ y[..., None])[..., 0] - b, (-1,))
    return apart <= _tolerance(A) * (norm(A, (-2, -1)) * norm(y, (-1,)) + norm(b, (-1,)))


def _tolerance(A: Array) -> float:
    """How far apart equations that contradict each other are at least, relative to their terms; as in `Set`."""
    return float(namespace(A).finfo(real_dtype(A)).eps) ** (2 / 3)


def _rank_tolerance(A: Array) -> float:
    return 10 * max(A.shape[-2:]) * float(namespace(A).finfo(real_dtype(A)).eps)
