"""Any function of vectors as a function of the singular values or the eigenvalues of a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cvxlayers.array import eigh, namespace, real_dtype, single, stop_gradient, unify
from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox.axes import consumed_axes, from_last, to_last
from cvxlayers.prox.eigenvalues import eigenvalues, hermitian_part, map_eigenvalues
from cvxlayers.prox.modulus import norm
from cvxlayers.prox.operator import Array, Dim, Prox, keep_precision
from cvxlayers.prox.set import zero_where_small
from cvxlayers.prox.singular_values import map_singular_values, values_of, zero_level


@dataclass(frozen=True, eq=False)
class _OfValues(Prox):
    """A function of the singular values or eigenvalues, given as an operator on vectors."""

    function: Prox
    dim: Dim = None

    _leaves: ClassVar[tuple[str, ...]] = ("function",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.function, Prox):
            raise SettingsError(
                f"function of {type(self).__name__} should be an operator on vectors, like L1(2.0); got "
                f"{self.function!r}."
            )

    @property
    def convex(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.function.convex

    def axes(self, x: Array) -> tuple[int, ...]:
        return consumed_axes(self.dim, 2, 2, x.ndim, repr(self))

    def _arranged(self, x: Array, tau: Any = None) -> tuple[Array, tuple[int, ...]]:
        x = unify(x, tau, *_parameters(self.function))
        xp = namespace(x)
        if not xp.isdtype(x.dtype, ("real floating", "complex floating")):
            raise ShapeError(f"x of {self!r} should have a floating-point or complex dtype; got {x.dtype}. Convert it.")
        axes, x = self.axes(x), single(x)  # no library decomposes matrices of float16 or bfloat16
        return to_last(x, axes, x, flat=False), axes


@dataclass(frozen=True, eq=False)
class SingularValues(_OfValues):
    """f(X) = phi(s(X)) for an operator phi on the vector of the singular values, s_1 >= s_2 >= ...

    prox_{tau f}(X) = U diag(prox_{tau phi}(s)) V' for X = U diag(s) V', real or complex, (*batch, m, n). phi consumes
    the last axis, and must not depend on the order or the signs of its entries. Weights and tau with one value per
    sample go with the matrices. Any penalty or set of vectors gives one of matrices: `L1` the nuclear norm, `L1Ball`
    its ball, `L2Norm` the Frobenius norm, and so on: Schatten norms and their nonconvex relatives.

    Conjugate: that of phi, of the singular values.

    Source: A. S. Lewis, The convex analysis of unitarily invariant matrix functions, J. Convex Anal. 2 (1995),
    173-183; derivative: `cvxlayers.prox.singular_values.map_singular_values`.

    >>> import numpy as np
    >>> from cvxlayers.prox import L1
    >>> SingularValues(L1(2.0)).prox(np.diag([3.0, 1.0]))
    array([[1., 0.],
           [0., 0.]])
    """

    def __call__(self, x: Array) -> Array:
        s = values_of(self._arranged(x)[0])
        # What rounding leaves of a zero must not count as an entry.
        return self.function(keep_precision(namespace(s).where(s > zero_level(stop_gradient(s)), s, 0.0 * s), x.dtype))

    def prox(self, x: Array, tau: Any = 1.0) -> Array:
        X, axes = self._arranged(x, tau)
        with np.errstate(all="ignore"):
            Y = map_singular_values(lambda s: self.function.prox(s, tau), X)
        return keep_precision(from_last(Y, axes, (), flat=False), x.dtype)

    def conjugate_value(self, x: Array) -> Array:
        return self.function.conjugate_value(keep_precision(values_of(self._arranged(x)[0]), x.dtype))


@dataclass(frozen=True, eq=False)
class Eigenvalues(_OfValues):
    """f(X) = phi(l(X)) for an operator phi on the vector of the eigenvalues, l_1 <= l_2 <= ..., of a Hermitian X.

    f is inf where X is not Hermitian.
    prox_{tau f}(X) = Q diag(prox_{tau phi}(l)) Q' for the Hermitian part Q diag(l) Q' of X, real or complex,
    (*batch, k, k). phi consumes the last axis, and must not depend on the order of its entries. `Orthant` gives the
    positive semidefinite matrices, `Simplex` the density matrices, the logarithmic barrier gives -log det, and so on.

    Conjugate, for Hermitian arguments: that of phi, of the eigenvalues.

    Source: A. S. Lewis, Convex analysis on the Hermitian matrices, doi 10.1137/0806009; derivative:
    `cvxlayers.prox.eigenvalues.map_eigenvalues`.

    >>> import numpy as np
    >>> from cvxlayers.prox import Orthant
    >>> Eigenvalues(Orthant()).prox(np.array([[1.0, 2.0], [2.0, 1.0]]))
    array([[1.5, 1.5],
           [1.5, 1.5]])
    """

    def _arranged(self, x: Array, tau: Any = None) -> tuple[Array, tuple[int, ...]]:
        X, axes = super()._arranged(x, tau)
        if X.shape[-1] != X.shape[-2]:
            raise ShapeError(f"x of {self!r} should be square along dim={self.dim}; got {tuple(X.shape[-2:])}.")
        return X, axes

    def __call__(self, x: Array) -> Array:
        X, _ = self._arranged(x)
        part = hermitian_part(X)
        value = self.function(keep_precision(eigenvalues(part, eigh(stop_gradient(part))), x.dtype))
        eps = float(namespace(x).finfo(real_dtype(x)).eps)
        return value + keep_precision(zero_where_small(norm(X - part, (-2, -1)), norm(X, (-2, -1)), eps), x.dtype)

    def prox(self, x: Array, tau: Any = 1.0) -> Array:
        X, axes = self._arranged(x, tau)
        with np.errstate(all="ignore"):
            Y = map_eigenvalues(lambda s: self.function.prox(s, tau), hermitian_part(X))
        return keep_precision(from_last(Y, axes, (), flat=False), x.dtype)

    def conjugate_value(self, x: Array) -> Array:
        part = hermitian_part(self._arranged(x)[0])
        return self.function.conjugate_value(keep_precision(eigenvalues(part, eigh(stop_gradient(part))), x.dtype))


def _parameters(operator: Prox) -> list[Any]:
    """Every number and array in an operator and the operators inside it."""
    found: list[Any] = []
    for name in operator._leaves:
        value = getattr(operator, name)
        for item in value if isinstance(value, (list, tuple)) else (value,):
            found += _parameters(item) if isinstance(item, Prox) else [item]
    return found
