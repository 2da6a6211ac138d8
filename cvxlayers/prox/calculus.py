"""New operators from old ones: scaling, translation, tilt, quadratic terms, linear maps, conjugates, envelopes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cvxlayers.array import namespace, real_dtype, to_library_of, visible
from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox.modulus import inner, square
from cvxlayers.prox.operator import Array, Prox, check_range, per_entry
from cvxlayers.prox.separable import Entrywise


@dataclass(frozen=True, eq=False)
class Derived(Prox):
    """An operator made of another one, ``f``, with the same axes."""

    f: Prox

    _leaves: ClassVar[tuple[str, ...]] = ("f",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.f, Prox):
            raise SettingsError(
                f"f of {type(self).__name__} should be a proximal operator; got {self.f!r}. "
                "Indicator makes one of a cone, Wrapped of any function."
            )

    @property
    def convex(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.f.convex

    def axes(self, x: Array) -> tuple[int, ...]:
        return self.f.axes(x)

    def _entry(self, name: str, value: Any, x: Array) -> Array:
        return per_entry(f"{name} of {type(self).__name__}", value, x)


@dataclass(frozen=True, eq=False)
class Scaled(Derived):
    """``factor * f``: x -> factor f(x), factor > 0; prox_{tau factor f}. The conjugate is factor f*(y / factor).

    ``factor`` is a number or one per sample. Raises SettingsError if it is not positive.

    >>> import numpy as np
    >>> from cvxlayers.prox import L1
    >>> (2 * L1()).prox(np.array([3.0, -1.0]))
    array([ 1., -0.])
    """

    factor: Any

    _leaves: ClassVar[tuple[str, ...]] = ("f", "factor")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("factor of Scaled", self.factor, "positive")

    def __call__(self, x: Array) -> Array:
        x = self._ready(x, self.factor)
        return self._per_sample("factor of Scaled", self.factor, x) * self.f(x)

    def prox(self, x: Array, tau: Any = 1.0) -> Array:
        x = self._ready(x, self.factor, tau)
        tau = self._per_sample("tau", tau, x, positive=True)
        return self.f.prox(x, tau * self._per_sample("factor of Scaled", self.factor, x))

    def conjugate_value(self, x: Array) -> Array:
        x = self._ready(x, self.factor)
        factor = self._per_sample("factor of Scaled", self.factor, x)
        return factor * self.f.conjugate_value(x / self._over_axes(factor, x))


@dataclass(frozen=True, eq=False)
class Stretched(Derived):
    """``f.scale(a)``: x -> f(a x), a != 0; prox is prox_{tau a^2 f}(a x) / a. The conjugate is f*(y / a).

    ``a`` is a number or one per sample; for one per entry see `Diagonal`. Raises SettingsError for 0.

    >>> import numpy as np
    >>> from cvxlayers.prox import L1
    >>> L1().scale(-2.0).prox(np.array([3.0, -4.0]))
    array([ 1., -2.])
    """

    a: Any

    _leaves: ClassVar[tuple[str, ...]] = ("f", "a")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonzero("a of Stretched", self.a)

    def __call__(self, x: Array) -> Array:
        x = self._ready(x, self.a)
        return self.f(x * self._over_axes(self._per_sample("a of Stretched", self.a, x), x))

    def prox(self, x: Array, tau: Any = 1.0) -> Array:
        x = self._ready(x, self.a, tau)
        tau = self._per_sample("tau", tau, x, positive=True)
        a = self._per_sample("a of Stretched", self.a, x)
        factor = self._over_axes(a, x)
        return self.f.prox(x * factor, tau * a * a) / factor

    def conjugate_value(self, x: Array) -> Array:
        x = self._ready(x, self.a)
        return self.f.conjugate_value(x / self._over_axes(self._per_sample("a of Stretched", self.a, x), x))


@dataclass(frozen=True, eq=False)
class Diagonal(Derived):
    """``f.diagonal(d)``: x -> f(d x) by entry, d != 0, for f a sum over the entries; prox_{tau d^2 f}(d x) / d.

    ``d`` is a number or an array that broadcasts against x. Raises SettingsError for zeros, and if f is no
    `Entrywise` operator.

    >>> import numpy as np
    >>> from cvxlayers.prox import L1
    >>> L1().diagonal(np.array([1.0, 2.0])).prox(np.array([3.0, 3.0]))
    array([2., 1.])
    """

    d: Any

    _leaves: ClassVar[tuple[str, ...]] = ("f", "d")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_nonzero("d of Diagonal", self.d)
        if not isinstance(self.f, Entrywise):
            raise SettingsError(f"f of Diagonal should be a sum over the entries, as L1 is; got {self.f!r}.")

    def __call__(self, x: Array) -> Array:
        x = self._ready(x, self.d)
        return self.f(x * self._entry("d", self.d, x))

    def prox(self, x: Array, tau: Any = 1.0) -> Array:
        assert isinstance(self.f, Entrywise)
        x = self._ready(x, self.d, tau)
        # In the arrangement of f, a step may differ from entry to entry.
        arranged = self.f._arrange(x, tau, d=self._entry("d", self.d, x))
        parameters = dict(arranged.parameters)
        d = parameters.pop("d")
        with np.errstate(all="ignore"):
            y = self.f._prox(arranged.x * d, arranged.tau * d * d, **parameters) / d
        return self.f._finish(y, arranged)

    def conjugate_value(self, x: Array) -> Array:
        x = self._ready(x, self.d)
        return self.f.conjugate_value(x / self._entry("d", self.d, x))


@dataclass(frozen=True, eq=False)
class Translated(Derived):
    """``f.translate(b)``: x -> f(x - b); prox is b + prox_{tau f}(x - b). The conjugate is f*(y) + Re <b, y>.

    ``b`` is a number or an array that broadcasts against x.

    >>> import numpy as np
    >>> from cvxlayers.prox import L1
    >>> L1().translate(np.array([1.0, 2.0])).prox(np.array([0.5, 4.0]))
    array([1., 3.])
    """

    b: Any

    _leaves: ClassVar[tuple[str, ...]] = ("f", "b")

    def __call__(self, x: Array) -> Array:
        x = self._ready(x, self.b)
        return self.f(x - self._entry("b", self.b, x))

    def prox(self, x: Array, tau: Any = 1.0) -> Array:
        x = self._ready(x, self.b, tau)
        b = self._entry("b", self.b, x)
        return self.f.prox(x - b, tau) + b

    def conjugate_value(self, x: Array) -> Array:
        x = self._ready(x, self.b)
        return self.f.conjugate_value(x) + inner(self._entry("b", self.b, x) + 0 * x, x, self.axes(x))


@dataclass(frozen=True, eq=False)
class Tilted(Derived):
    """``f.tilt(a)``: x -> f(x) + Re <a, x>; prox is prox_{tau f}(x - tau a). The conjugate is f*(y - a).

    ``a`` is a number or an array that broadcasts against x.

    >>> import numpy as np
    >>> from cvxlayers.prox import L1
    >>> L1().tilt(np.array([1.0, -1.0])).prox(np.array([3.0, 3.0]))
    array([1., 3.])
    """

    a: Any

    _leaves: ClassVar[tuple[str, ...]] = ("f", "a")

    def __call__(self, x: Array) -> Array:
        x = self._ready(x, self.a)
        return self.f(x) + inner(self._entry("a", self.a, x) + 0 * x, x, self.axes(x))

    def prox(self, x: Array, tau: Any = 1.0) -> Array:
        x = self._ready(x, self.a, tau)
        tau = self._per_sample("tau", tau, x, positive=True)
        return self.f.prox(x - self._over_axes(tau, x) * self._entry("a", self.a, x), tau)

    def conjugate_value(self, x: Array) -> Array:
        x = self._ready(x, self.a)
        return self.f.conjugate_value(x - self._entry("a", self.a, x))


@dataclass(frozen=True, eq=False)
class Regularized(Derived):
    """``f.regularize(rho, center)``: x -> f(x) + (rho/2) ||x - center||^2, rho >= 0.

    prox is prox_{s f}(v), s = tau / (1 + tau rho), v = (x + tau rho center) / (1 + tau rho). The conjugate is the
    Moreau envelope of f* with parameter rho, at y + rho center, less (rho/2) ||center||^2.

    ``rho`` is a number or one per sample, ``center`` a number or an array that broadcasts against x.

    >>> import numpy as np
    >>> from cvxlayers.prox import L1
    >>> L1().regularize(1.0).prox(np.array([3.0, -0.5]))
    array([ 1., -0.])
    """

    rho: Any
    center: Any = 0.0

    _leaves: ClassVar[tuple[str, ...]] = ("f", "rho", "center")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("rho of Regularized", self.rho, "nonnegative")

    def __call__(self, x: Array) -> Array:
        x = self._ready(x, self.rho, self.center)
        rho = self._per_sample("rho of Regularized", self.rho, x)
        distance = namespace(x).sum(square(x - self._entry("center", self.center, x)), axis=self.axes(x))
        return self.f(x) + rho / 2 * distance

    def prox(self, x: Array, tau: Any = 1.0) -> Array:
        x = self._ready(x, self.rho, self.center, tau)
        tau = self._per_sample("tau", tau, x, positive=True)
        pull = tau * self._per_sample("rho of Regularized", self.rho, x)
        share = self._over_axes(pull / (1 + pull), x)
        center = self._entry("center", self.center, x)
        return self.f.prox(x + share * (center - x), tau / (1 + pull))

    def conjugate_value(self, x: Array) -> Array:
        x = self._ready(x, self.rho, self.center)
        rho = self._per_sample("rho of Regularized", self.rho, x)
        center = self._entry("center", self.center, x) + 0 * x
        envelope = MoreauEnvelope(Conjugate(self.f), self.rho)
        norm = namespace(x).sum(square(center), axis=self.axes(x))
        return envelope(x + self._over_axes(rho, x) * center) - rho / 2 * norm


@dataclass(frozen=True, eq=False)
class Precomposed(Derived):
    """``f.precompose(A)``: x -> f(A x), for A A' = nu I (orthogonal maps, tight frames, subsampling).

    prox is x + A'(prox_{tau nu f}(A x) - A x) / nu.

    ``A`` is a matrix (m, n), applied along the one axis that f consumes, for which nu is found and checked; or a
    function, with ``adjoint`` and ``nu`` > 0, that keeps the number and the batch of the axes. Raises SettingsError for
    a matrix whose rows are seen not to be orthogonal and of equal length.

    Source: P. L. Combettes, J.-C. Pesquet, doi 10.1109/JSTSP.2007.910264, proposition 11.

    >>> import numpy as np
    >>> from cvxlayers.prox import L1
    >>> rotation = np.array([[0.6, 0.8], [-0.8, 0.6]])
    >>> L1().precompose(rotation).prox(np.array([3.0, 4.0])).round(12)
    array([2.4, 3.2])
    """

    A: Any
    adjoint: Callable[[Array], Array] | None = None
    nu: Any = None

    _leaves: ClassVar[tuple[str, ...]] = ("f", "nu")

    def __post_init__(self) -> None:
        super().__post_init__()
        if callable(self.A):
            if not callable(self.adjoint) or self.nu is None:
                raise SettingsError("adjoint and nu of Precomposed should be given with a function A, A A' = nu I.")
            check_range("nu of Precomposed", self.nu, "positive")
        else:
            object.__setattr__(self, "A", matrix := Frame(self.A, "A of Precomposed"))
            object.__setattr__(self, "adjoint", matrix.adjoint)
            object.__setattr__(self, "nu", matrix.nu if self.nu is None else self.nu)

    def _maps(self, x: Array) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
        if isinstance(self.A, Frame):
            axes = self.axes(x)
            if len(axes) != 1:
                raise ShapeError(f"a matrix A of Precomposed acts along one axis; f consumes {len(axes)}.")
            frame: Frame = self.A
            return (lambda v: frame.along(v, axes[0], False)), (lambda v: frame.along(v, axes[0], True))
        assert self.adjoint is not None
        return self.A, self.adjoint

    def __call__(self, x: Array) -> Array:
        x = self._ready(x)
        return self.f(self._maps(x)[0](x))

    def prox(self, x: Array, tau: Any = 1.0) -> Array:
        x = self._ready(x, self.nu, tau)
        forward, adjoint = self._maps(x)
        tau = self._per_sample("tau", tau, x, positive=True)
        nu = self._per_sample("nu of Precomposed", self.nu, x)
        image = forward(x)
        change = adjoint(self.f.prox(image, tau * nu) - image)
        xp = namespace(x)
        if xp.isdtype(change.dtype, "real floating"):
            # A function may hold arrays of more precision than x.
            change = xp.astype(change, real_dtype(x), copy=False)
        return x + change / self._over_axes(nu, x)


class Frame:
    """A constant matrix (m, n) with orthogonal rows of one length: A A' = nu I."""

    def __init__(self, matrix: Any, label: str) -> None:
        shape = tuple(getattr(matrix, "shape", ()))
        seen = visible(matrix)
        if len(shape) != 2 or seen is None:
            raise SettingsError(f"{label} should be a matrix (m, n) whose values can be seen; got {matrix!r}.")
        gram = seen @ seen.conj().T
        self.matrix = seen
        self.nu = float(np.real(np.trace(gram))) / max(shape[0], 1)
        if not self.nu > 0 or np.abs(gram - self.nu * np.eye(shape[0])).max() > 1e-5 * self.nu:
            raise SettingsError(f"{label} should have orthogonal rows of equal length, A A' = nu I.")

    def along(self, x: Array, axis: int, adjoint: bool) -> Array:
        """A x, or A'x, along an axis of x."""
        matrix = to_library_of(x, self.matrix.conj().T if adjoint else self.matrix)
        xp = namespace(x)
        if x.shape[axis] != matrix.shape[-1]:
            raise ShapeError(f"x should have {matrix.shape[-1]} entries along axis {axis}; got {x.shape[axis]}.")
        matrix = xp.astype(matrix, x.dtype, copy=False)
        return xp.moveaxis(xp.moveaxis(x, axis, -1) @ xp.matrix_transpose(matrix), -1, axis)

    def adjoint(self, x: Array) -> Array:
        return self.along(x, -1, True)


@dataclass(frozen=True, eq=False)
class InfimalPostcomposition(Derived):
    """x -> inf {f(z): A z = x}, the image of f under A, for A'A = nu I; inf outside the range of A.

    prox is A prox_{(tau/nu) f}(A'x / nu). The conjugate is f*(A'y). ``A`` is a matrix (m, n) with orthogonal columns of
    one length, applied along the one axis that f consumes.

    Source: H. H. Bauschke, P. L. Combettes, Convex Analysis and Monotone Operator Theory in Hilbert Spaces,
    doi 10.1007/978-3-319-48311-5, section 12.5.

    >>> import numpy as np
    >>> from cvxlayers.prox import L1
    >>> f = InfimalPostcomposition(L1(), np.array([[1.0], [1.0]]))
    >>> f.prox(np.array([3.0, 1.0]))
    array([1.5, 1.5])
    """

    A: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.A, Frame):
            matrix = visible(self.A)
            transposed = self.A if matrix is None else matrix.conj().T
            object.__setattr__(self, "A", Frame(transposed, "A' of InfimalPostcomposition"))

    def _axis(self, x: Array) -> int:
        axes = self.axes(x)
        if len(axes) != 1:
            raise ShapeError(f"A of InfimalPostcomposition acts along one axis; f consumes {len(axes)}.")
        return axes[0]

    def __call__(self, x: Array) -> Array:
        xp, axis = namespace(x), self._axis(x)
        z = self.A.along(x, axis, False) / self.A.nu
        apart = xp.sum(square(x - self.A.along(z, axis, True)), axis=axis)
        tolerance = float(xp.finfo(apart.dtype).eps) ** (4 / 3)
        inside = apart <= tolerance * (1 + xp.sum(square(x), axis=axis))
        return xp.where(inside, self.f(z), float("inf"))

    def prox(self, x: Array, tau: Any = 1.0) -> Array:
        x = self._ready(x, tau)
        axis = self._axis(x)
        tau = self._per_sample("tau", tau, x, positive=True)
        z = self.f.prox(self.A.along(x, axis, False) / self.A.nu, tau / self.A.nu)
        return self.A.along(z, axis, True)

    def conjugate_value(self, x: Array) -> Array:
        return self.f.conjugate_value(self.A.along(x, self._axis(x), False))


@dataclass(frozen=True, eq=False)
class Conjugate(Derived):
    """``f.conjugate()``: the convex conjugate f*(y) = max_x Re <x, y> - f(x); prox by Moreau's identity.

    The value has a closed form for most operators of this package, and raises SettingsError for the others. Raises
    SettingsError if f is not convex.

    >>> import numpy as np
    >>> from cvxlayers.prox import L1
    >>> L1(2.0).conjugate().prox(np.array([3.0, -1.0]))
    array([ 2., -1.])
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.f._check_convex("the conjugate")

    def __call__(self, x: Array) -> Array:
        return self.f.conjugate_value(x)

    def prox(self, x: Array, tau: Any = 1.0) -> Array:
        return self.f.conj_prox(x, tau)

    def conj_prox(self, x: Array, tau: Any = 1.0) -> Array:
        return self.f.prox(x, tau)

    def conjugate_value(self, x: Array) -> Array:
        return self.f(x)

    def conjugate(self) -> Any:
        return self.f


@dataclass(frozen=True, eq=False)
class MoreauEnvelope(Derived):
    """``f.moreau_envelope(mu)``: x -> min_y f(y) + ||y - x||^2 / (2 mu), mu > 0: f, smoothed.

    With p = prox_{mu f}(x), the value is f(p) + ||p - x||^2 / (2 mu), the ``gradient`` (x - p) / mu (for convex f), and
    the prox x + tau/(tau + mu) (prox_{(tau + mu) f}(x) - x). The conjugate is f*(y) + (mu/2) ||y||^2. ``mu`` is a
    number or one per sample.

    Source: J.-J. Moreau, Proximité et dualité dans un espace hilbertien, doi 10.24033/bsmf.1625.

    >>> import numpy as np
    >>> from cvxlayers.prox import L1
    >>> envelope = L1().moreau_envelope(1.0)  # the Huber function
    >>> envelope(np.array([[0.5], [3.0]]))
    array([0.125, 2.5  ])
    >>> envelope.gradient(np.array([0.5, 3.0]))
    array([0.5, 1. ])
    """

    mu: Any

    _leaves: ClassVar[tuple[str, ...]] = ("f", "mu")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("mu of MoreauEnvelope", self.mu, "positive")

    def __call__(self, x: Array) -> Array:
        x = self._ready(x, self.mu)
        mu = self._per_sample("mu of MoreauEnvelope", self.mu, x)
        p = self.f.prox(x, mu)
        return self.f(p) + namespace(x).sum(square(x - p), axis=self.axes(x)) / (2 * mu)

    def gradient(self, x: Array) -> Array:
        """(x - prox_{mu f}(x)) / mu, of the shape of x."""
        x = self._ready(x, self.mu)
        mu = self._per_sample("mu of MoreauEnvelope", self.mu, x)
        return (x - self.f.prox(x, mu)) / self._over_axes(mu, x)

    def prox(self, x: Array, tau: Any = 1.0) -> Array:
        x = self._ready(x, self.mu, tau)
        tau = self._per_sample("tau", tau, x, positive=True)
        mu = self._per_sample("mu of MoreauEnvelope", self.mu, x)
        return x + self._over_axes(tau / (tau + mu), x) * (self.f.prox(x, tau + mu) - x)

    def conjugate_value(self, x: Array) -> Array:
        x = self._ready(x, self.mu)
        mu = self._per_sample("mu of MoreauEnvelope", self.mu, x)
        return self.f.conjugate_value(x) + mu / 2 * namespace(x).sum(square(x), axis=self.axes(x))


def check_nonzero(label: str, value: Any) -> None:
    """SettingsError if a value is seen to be 0, or not to be finite."""
    seen = visible(value)
    if seen is not None and not np.all((seen != 0) & np.isfinite(seen)):
        raise SettingsError(f"{label} should not be zero; got {value!r}.")
