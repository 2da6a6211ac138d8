"""Proximable functions: the interface, and the base class of those with a formula of their own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from numbers import Number, Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from array_api_compat import is_array_api_obj

from cvxlayers.array import namespace, real_dtype, register_pytree, single, stop_gradient, to_library_of, unify, visible
from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.prox.axes import consumed_axes, from_last, to_last

if TYPE_CHECKING:
    from cvxlayers.prox import calculus

Array = Any
Dim = int | tuple[int, ...] | str | None


@dataclass(frozen=True, eq=False)
class Prox(ABC):
    """A function f with a proximal operator: prox_{tau f}(x) = argmin_y tau f(y) + ||y - x||^2 / 2.

    ``f(x)`` is the value of every batch element (inf outside the domain), ``f.prox(x, tau)`` the proximal operator. An
    operator consumes some axes of ``x`` and treats the others as batch dimensions. Operators run on NumPy, PyTorch and
    JAX arrays, keep dtype and device, never write on their inputs, and are differentiable in x, tau and their weights;
    at a kink the derivative is an element of the generalized Jacobian, never NaN.

    Operators are immutable; the methods below and ``2 * f`` give new ones. In JAX they are pytrees, whose leaves are
    the weights. Copying and pickling work as for any dataclass.
    """

    _leaves: ClassVar[tuple[str, ...]] = ()
    """The attributes that hold numbers, arrays and operators: the leaves of the pytree."""
    convex: ClassVar[bool] = True
    """Whether f is convex, so that prox is single-valued and firmly nonexpansive. An instance may say otherwise."""

    def __post_init__(self) -> None:
        register_pytree(type(self), self._leaves)
        for name in self._leaves:
            value = getattr(self, name)
            if is_integer(value) and not self._counts(name):
                # JAX differentiates no integers.
                object.__setattr__(self, name, float(value))

    def _counts(self, name: str) -> bool:
        """Whether a leaf is a number of things, which stays an integer."""
        return False

    @abstractmethod
    def axes(self, x: Array) -> tuple[int, ...]:
        """The axes of ``x`` that f consumes, as negative integers; the others are batch dimensions."""

    @abstractmethod
    def __call__(self, x: Array) -> Array:
        """f(x) for every batch element: the shape of x without the consumed axes, real."""

    @abstractmethod
    def prox(self, x: Array, tau: Any = 1.0) -> Array:
        """prox_{tau f}(x) = argmin_y tau f(y) + ||y - x||^2 / 2, of the shape and dtype of x.

        ``tau`` > 0 is a number or an array that broadcasts against the batch shape, one per sample. Where it is not
        positive, SettingsError is raised if that can be seen without waiting for a device or during a trace, else the
        result is NaN.
        """

    def conj_prox(self, x: Array, tau: Any = 1.0) -> Array:
        """prox_{tau f*}(x) = x - tau prox_{f/tau}(x/tau), f* the convex conjugate; shapes as `prox`.

        Source: J.-J. Moreau, Proximité et dualité dans un espace hilbertien, doi 10.24033/bsmf.1625.
        """
        self._check_convex("conj_prox")
        x = self._ready(x, tau)
        tau = self._per_sample("tau", tau, x, positive=True)
        step = self._over_axes(tau, x)
        return x - step * self.prox(x / step, 1 / tau)

    def conjugate_value(self, x: Array) -> Array:
        """f*(x) = max_y <x, y> - f(y), for every batch element, where a closed form is known.

        Raises SettingsError where it is not.
        """
        raise SettingsError(f"the value of the conjugate of {self!r} has no closed form here; its prox is `conj_prox`.")

    def _check_convex(self, what: str) -> None:
        if not self.convex:
            raise SettingsError(f"{what} needs a convex function; {self!r} is not convex.")

    def _ready(self, x: Array, *values: Any) -> Array:
        """x in the library of the values that it meets; ShapeError unless it is an array of floating-point numbers."""
        return check_input(unify(x, *values), self, True)

    def _per_sample(self, name: str, value: Any, x: Array, positive: bool = False) -> Any:
        """A parameter with one value per sample, checked: a number, or an array like x that fits its batch shape."""
        if isinstance(value, Real):
            check_range(name, value, "positive" if positive else "")
            return value
        axes = self.axes(x)
        batch = tuple(n for k, n in enumerate(x.shape, -x.ndim) if k not in axes)
        return per_sample(name, value, x, batch, "positive" if positive else "")

    def _over_axes(self, value: Any, x: Array) -> Any:
        """A per-sample array with ones in the place of the consumed axes of x, so that it meets x; numbers pass."""
        if isinstance(value, Real):
            return value
        axes = self.axes(x)
        xp = namespace(value)
        value = xp.reshape(value, (1,) * (x.ndim - len(axes) - value.ndim) + tuple(value.shape))
        for axis in sorted(axes):
            # Counted from the end, the axes before the first new one keep their distance once all are in place.
            value = xp.expand_dims(value, axis=value.ndim + 1 + axis + sum(other > axis for other in axes))
        return value

    # Calculus: each of these is a class of prox/calculus.py, which says the formulas.

    def __mul__(self, factor: Any) -> calculus.Scaled:
        """``factor * f``: x -> factor f(x), factor > 0 a number or one per sample."""
        from cvxlayers.prox.calculus import Scaled

        return Scaled(self, factor)

    # NumPy arrays on the left would otherwise make an array of operators.
    __array_ufunc__ = None
    __rmul__ = __mul__

    def __add__(self, other: Any) -> Prox:
        """``f + g``: the sum of two convex functions, whose prox is iterative (`Sum`), or closed if g is `Linear`."""
        from cvxlayers.prox.separable import Linear, Zero
        from cvxlayers.prox.sum import Sum

        if not isinstance(other, Prox):
            return NotImplemented
        if isinstance(other, Zero):
            return self
        if isinstance(other, Linear) and isinstance(self, Primitive) and self.dim == other.dim and self.ndim == 1:
            return self.tilt(other.slope)
        return Sum(self, other)

    def scale(self, a: Any) -> calculus.Stretched:
        """x -> f(a x), a != 0 a number or one per sample."""
        from cvxlayers.prox.calculus import Stretched

        return Stretched(self, a)

    def diagonal(self, d: Any) -> calculus.Diagonal:
        """x -> f(d x), d != 0 an array that broadcasts against x; for sums over the entries."""
        from cvxlayers.prox.calculus import Diagonal

        return Diagonal(self, d)

    def precompose(self, A: Any, adjoint: Callable[[Array], Array] | None = None, nu: Any = None) -> Prox:
        """x -> f(A x), for A A' = nu I: a matrix along the one axis that f consumes, or a function and its adjoint."""
        from cvxlayers.prox.calculus import Precomposed

        return Precomposed(self, A, adjoint, nu)

    def translate(self, b: Any) -> calculus.Translated:
        """x -> f(x - b), b a number or an array that broadcasts against x."""
        from cvxlayers.prox.calculus import Translated

        return Translated(self, b)

    def tilt(self, a: Any) -> calculus.Tilted:
        """x -> f(x) + Re <a, x>, a a number or an array that broadcasts against x."""
        from cvxlayers.prox.calculus import Tilted

        return Tilted(self, a)

    def regularize(self, rho: Any, center: Any = 0.0) -> calculus.Regularized:
        """x -> f(x) + (rho/2) ||x - center||^2, rho >= 0 a number or one per sample."""
        from cvxlayers.prox.calculus import Regularized

        return Regularized(self, rho, center)

    def conjugate(self) -> Prox:
        """f*(y) = max_x Re <x, y> - f(x), for convex f."""
        from cvxlayers.prox.calculus import Conjugate

        return Conjugate(self)

    def moreau_envelope(self, mu: Any = 1.0) -> calculus.MoreauEnvelope:
        """x -> min_y f(y) + ||y - x||^2 / (2 mu), with its ``gradient``."""
        from cvxlayers.prox.calculus import MoreauEnvelope

        return MoreauEnvelope(self, mu)

    def constant(self) -> Any:
        """The same operator, whose weights are constants of every derivative."""
        copy = object.__new__(type(self))
        for name, value in vars(self).items():
            if name in self._leaves:
                value = value.constant() if isinstance(value, Prox) else _constant(value)
            object.__setattr__(copy, name, value)
        return copy


class Arranged(NamedTuple):
    """What a primitive operator works on: the consumed axes last, the parameters ready to meet x."""

    x: Array
    """(*batch, *consumed), or (*batch, n) for operators that flatten."""
    tau: Any
    """Positive, of as many axes as x, ones in the place of the consumed axes; None without a step."""
    parameters: dict[str, Any]
    """One array for each parameter that is not None; see `Primitive`."""
    restore: Callable[[Array], Array]
    """Back from the arrangement to the layout and the dtype of the caller's x."""
    valid: Any
    """Whether tau and weights are in range, (*batch, 1...), where that could not be checked before; else None."""
    dtype: Any
    """That of the caller's x: float16 and bfloat16 are worked on in float32."""


@dataclass(frozen=True, eq=False)
class Primitive(Prox):
    """An operator with formulas of its own, on the axes that ``dim`` names.

    ``dim`` is an axis or a tuple of axes, counted from either end, ``"all"`` for no batch dimensions, or None for the
    last ``ndim`` axes.

    A subclass is a ``@dataclass(frozen=True, eq=False)`` that

    - names its parameters: ``_samples`` are one number or one per sample (they broadcast against the batch shape),
      ``_entries`` broadcast against x itself, ``_constants`` are arrays with a layout of their own. All are numbers or
      arrays of any library, or None, and all are differentiable; other fields are settings, hashable.
      ``_nonnegative`` and ``_positive`` say which of them are checked so;
    - says which axes it takes: ``_flat`` operators take any number of axes and see them as one, (*batch, n); the others
      take ``ndim`` axes and see (*batch, *consumed);
    - fills in ``_value(x, **parameters)``, of shape (*batch,), and ``_prox(x, tau, **parameters)``, of the shape of x.
      Parameters come as arrays of the library, the device and the precision of x, with as many axes as x (constants
      excepted), so that they broadcast against it; ``tau`` likewise, positive. Neither may write on its arguments.
    """

    dim: Dim = field(default=None, kw_only=True)

    ndim: ClassVar[int] = 1
    _flat: ClassVar[bool] = True
    _samples: ClassVar[tuple[str, ...]] = ("weight",)
    _entries: ClassVar[tuple[str, ...]] = ()
    _constants: ClassVar[tuple[str, ...]] = ()
    _nonnegative: ClassVar[tuple[str, ...]] = ("weight",)
    _positive: ClassVar[tuple[str, ...]] = ()
    _complex: ClassVar[bool] = False
    """Whether complex x make sense."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__repr__" not in vars(cls):
            # Before dataclass() writes one that shows every default.
            cls.__repr__ = Primitive.__repr__
        cls._leaves = (*cls._samples, *cls._entries, *cls._constants)

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = type(self).__name__
        dim = self.dim
        if isinstance(dim, list):
            object.__setattr__(self, "dim", dim := tuple(dim))
        numbers = dim if isinstance(dim, tuple) else (dim,)
        if not (dim is None or dim == "all" or all(is_integer(k) for k in numbers)):
            raise SettingsError(f"dim of {kind} should be an integer, a tuple of integers, 'all' or None; got {dim!r}.")
        for name in self._leaves:
            value = getattr(self, name)
            if not (value is None or is_array_api_obj(value) or isinstance(value, (int, float, complex, np.number))):
                if not isinstance(value, (list, tuple)):
                    raise SettingsError(f"{name} of {kind} should be a number or an array; got {value!r}.")
                object.__setattr__(self, name, value := np.asarray(value, dtype=float))
            if value is not None:
                check_range(f"{name} of {kind}", value, self._range(name))

    def _counts(self, name: str) -> bool:
        return not self._range(name)

    def _range(self, name: str) -> str:
        return "positive" if name in self._positive else "nonnegative" if name in self._nonnegative else ""

    @abstractmethod
    def _value(self, x: Array, **parameters: Array) -> Array:
        """f(x) on arranged arrays: (*batch, n) to (*batch,)."""

    @abstractmethod
    def _prox(self, x: Array, tau: Array, **parameters: Array) -> Array:
        """prox_{tau f}(x) on arranged arrays: the shape of x."""

    def axes(self, x: Array) -> tuple[int, ...]:
        return consumed_axes(self.dim, self.ndim, None if self._flat else self.ndim, x.ndim, repr(self))

    def _arrange(self, x: Array, tau: Any = None, **more: Any) -> Arranged:
        """Checked and moved arguments. ``more`` are arrays laid out as x (a warm start), returned as parameters."""
        values = {name: getattr(self, name) for name in self._leaves}
        values = {name: value for name, value in values.items() if value is not None}
        x = check_input(unify(x, tau, *values.values()), self, self._complex)
        dtype, x = x.dtype, single(x)
        axes = self.axes(x)
        batch = tuple(n for k, n in enumerate(x.shape, -x.ndim) if k not in axes)
        samples: dict[str, Array] = {}
        entries: dict[str, Array] = {name: single(value) for name, value in more.items()}
        constants: dict[str, Array] = {}
        for name, value in values.items():
            label = f"{name} of {type(self).__name__}"
            if name in self._samples:
                samples[name] = per_sample(label, value, x, batch, "")
            elif name in self._entries:
                entries[name] = per_entry(label, value, x)
            else:
                constants[name] = to_library_of(x, value)
        if tau is not None:
            samples["tau"] = per_sample("tau", tau, x, batch, "positive")
        valid, samples = mask_invalid(samples, values, tau, self._range)

        # The common batch shape: a batch of weights makes a batch of one x.
        parts = {name: to_last(value, axes, x, flat=self._flat) for name, value in entries.items()}
        moved = to_last(x, axes, x, flat=self._flat)
        width = moved.ndim - len(batch)
        shapes = [v.shape for v in samples.values()] + [v.shape[: v.ndim - width] for v in (moved, *parts.values())]
        full = np.broadcast_shapes(*shapes)
        rank = len(full) + width

        def align(value: Array, trailing: int) -> Array:
            shape = (1,) * (rank - trailing - value.ndim) + tuple(value.shape) + (1,) * trailing
            return namespace(value).reshape(value, shape)

        xp = namespace(x)
        parameters = {name: align(value, width) for name, value in samples.items()}
        parameters.update({name: align(value, 0) for name, value in parts.items()})
        moved = xp.broadcast_to(moved, (*full, *moved.shape[len(batch) :]))
        step = parameters.pop("tau", None)
        if valid is not None:
            valid = align(valid, width)
        consumed = tuple(x.shape[k] for k in axes)

        def restore(y: Array) -> Array:
            return keep_precision(from_last(y, axes, consumed, flat=self._flat), dtype)

        return Arranged(moved, step, {**parameters, **constants}, restore, valid, dtype)

    def __call__(self, x: Array) -> Array:
        arranged = self._arrange(x)
        with np.errstate(all="ignore"):
            value = keep_precision(self._value(arranged.x, **arranged.parameters), arranged.dtype)
        if arranged.valid is None:
            return value
        xp = namespace(value)
        valid = xp.reshape(arranged.valid, arranged.valid.shape[: value.ndim])
        return xp.where(valid, value, float("nan"))

    def prox(self, x: Array, tau: Any = 1.0) -> Array:
        check_number("tau", tau)
        arranged = self._arrange(x, tau)
        # The branches that `where` throws away may divide by zero or overflow.
        with np.errstate(all="ignore"):
            y = self._prox(arranged.x, arranged.tau, **arranged.parameters)
        return self._finish(y, arranged)

    def _finish(self, y: Array, arranged: Arranged) -> Array:
        """NaN where the parameters turned out to be invalid, then back to the caller's layout."""
        if arranged.valid is not None:
            y = namespace(y).where(arranged.valid, y, float("nan"))
        return arranged.restore(y)

    def conjugate_value(self, x: Array) -> Array:
        formula = getattr(self, "_conjugate", None)
        if formula is None:
            return super().conjugate_value(x)
        arranged = self._arrange(x)
        with np.errstate(all="ignore"):
            return keep_precision(formula(arranged.x, **arranged.parameters), arranged.dtype)

    def __repr__(self) -> str:
        shown = []
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not f.default and not (isinstance(value, (int, float)) and value == f.default):
                shown.append(f"{f.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _constant(value: Any) -> Any:
    """A leaf without derivatives; leaves may be tuples of operators."""
    if isinstance(value, tuple):
        return tuple(v.constant() if isinstance(v, Prox) else _constant(v) for v in value)
    return stop_gradient(value) if is_array_api_obj(value) else value


def is_integer(k: Any) -> bool:
    """An integer of Python or NumPy, not a bool."""
    return isinstance(k, (int, np.integer)) and not isinstance(k, bool)


def check_input(x: Array, operator: Prox, complex_allowed: bool) -> Array:
    """``x`` itself, or ShapeError unless it is an array of a floating-point dtype that the operator takes."""
    array: Any = x
    if not is_array_api_obj(x):
        raise ShapeError(
            f"x should be a NumPy, PyTorch or JAX array; got {type(x).__name__}. Convert it, e.g. by numpy.asarray."
        )
    isdtype = namespace(array).isdtype
    if isdtype(array.dtype, "real floating") or (complex_allowed and isdtype(array.dtype, "complex floating")):
        return array
    kinds = "a floating-point or complex dtype" if complex_allowed else "a real floating-point dtype"
    raise ShapeError(f"x of {operator!r} should have {kinds}; got {array.dtype}. Convert it.")


def keep_precision(y: Array, dtype: Any) -> Array:
    """A result in the precision of the caller's ``dtype``, if that is lower than single."""
    # By its name: x may have been brought to another library.
    xp, name = namespace(y), str(dtype).rpartition(".")[-1]
    low = name in ("float16", "bfloat16") and xp.isdtype(y.dtype, "real floating")
    return xp.astype(y, getattr(xp, name)) if low else y


def check_number(label: str, value: Any) -> None:
    """SettingsError unless ``value`` is a number or an array."""
    if not (is_array_api_obj(value) or isinstance(value, (Number, list, tuple))):
        raise SettingsError(f"{label} should be a number or an array; got {value!r}.")


def check_range(label: str, value: Any, range_: str) -> None:
    """SettingsError unless ``value``, where it can be seen, is positive, or nonnegative, as ``range_`` says."""
    seen = visible(value) if range_ else None
    if seen is None:
        return
    fine = seen > 0 if range_ == "positive" else seen >= 0
    if not np.all(fine):
        bad = seen if seen.ndim == 0 else seen[~fine][0]
        raise SettingsError(f"{label} should be {range_}; got {bad}.")


def check_interval(label: str, value: Any, low: float, high: float) -> None:
    """SettingsError unless ``value``, where it can be seen, is in [low, high]."""
    seen = visible(value)
    if seen is not None and not np.all((seen >= low) & (seen <= high)):
        raise SettingsError(f"{label} should be between {low:g} and {high:g}; got {value!r}.")


def per_sample(label: str, value: Any, x: Array, batch: tuple[int, ...], range_: str) -> Array:
    """``value`` as an array like x, checked to broadcast against the batch shape, and for its range."""
    check_number(label, value)
    check_range(label, value, range_)
    value = to_library_of(x, value)
    if value.dtype != real_dtype(x):
        raise SettingsError(f"{label} should be real; got {value.dtype}.")
    try:
        np.broadcast_shapes(tuple(value.shape), batch)
    except ValueError:
        raise ShapeError(
            f"{label} should be a number or hold one value per sample, broadcasting against the batch shape {batch}; "
            f"got shape {tuple(value.shape)}. `dim` says which axes of x are not batch."
        ) from None
    return value


def per_entry(label: str, value: Any, x: Array) -> Array:
    """``value`` as an array like x, checked to broadcast against the shape of x."""
    value = to_library_of(x, value)
    try:
        np.broadcast_shapes(tuple(value.shape), tuple(x.shape))
    except ValueError:
        raise ShapeError(
            f"{label} should be a number or an array that broadcasts against x, of shape {tuple(x.shape)}; "
            f"got shape {tuple(value.shape)}."
        ) from None
    return value


def mask_invalid(
    samples: dict[str, Array], given: dict[str, Any], tau: Any, range_of: Callable[[str], str]
) -> tuple[Array | None, dict[str, Array]]:
    """Where the parameters could not be seen: which samples are in range, and 1 in the place of the others' values."""
    valid = None
    masked = dict(samples)
    for name, value in samples.items():
        original, range_ = (tau, "positive") if name == "tau" else (given[name], range_of(name))
        if not range_ or visible(original) is not None:
            continue
        fine = value > 0 if range_ == "positive" else value >= 0
        masked[name] = namespace(value).where(fine, value, 1.0)
        valid = fine if valid is None else valid & fine
    return valid, masked
