"""An operator of any function that computes a prox: a user's own formula, or a denoiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from cvxlayers.errors import SettingsError
from cvxlayers.prox.axes import consumed_axes
from cvxlayers.prox.operator import Array, Dim, Prox


@dataclass(frozen=True, eq=False)
class Wrapped(Prox):
    """The operator whose prox is the function ``apply(x, tau)``, and whose value is ``value(x)``, if it is given.

    ``apply`` gets x as it comes, with any batch dimensions, and tau as a number or as an array with ones in the place
    of the axes of a sample, so that it meets x; it returns an array of the shape of x. ``value`` returns one number per
    sample. ``dim`` says which axes are a sample, for the checks and the calculus: the
    last ``ndim`` ones, or as in `Primitive`. Derivatives are those of the function. ``convex=False`` forbids what
    Moreau's identity would need. `check_prox` tells whether the two functions belong together.

    A denoiser D(x, sigma) stands for the prox of an implicit prior, with noise of variance tau: `Wrapped.denoiser`.

    Source: S. V. Venkatakrishnan, C. A. Bouman, B. Wohlberg, Plug-and-play priors for model based reconstruction,
    doi 10.1109/GlobalSIP.2013.6737048.

    >>> import numpy as np
    >>> f = Wrapped(lambda x, tau: x / (1 + tau), lambda x: (x**2).sum(-1) / 2)
    >>> f.prox(np.array([2.0, 4.0]))
    array([1., 2.])
    >>> (2 * f).translate(1.0)(np.array([2.0, 3.0]))
    np.float64(5.0)
    """

    apply: Callable[[Array, Any], Array]
    value: Callable[[Array], Array] | None = None
    convex: bool = field(default=True, kw_only=True)  # pyright: ignore[reportIncompatibleVariableOverride]
    ndim: int = field(default=1, kw_only=True)
    dim: Dim = field(default=None, kw_only=True)

    _leaves: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.apply) or isinstance(self.apply, Prox):
            raise SettingsError(f"apply of Wrapped should be a function of (x, tau); got {self.apply!r}.")
        if self.value is not None and not callable(self.value):
            raise SettingsError(f"value of Wrapped should be a function of x; got {self.value!r}.")

    @classmethod
    def denoiser(cls, denoise: Callable[[Array, Any], Array], ndim: int = 2, dim: Dim = None) -> Wrapped:
        """prox_{tau f}(x) = denoise(x, sqrt(tau)): sigma is the standard deviation of the noise; not known as convex.

        >>> import numpy as np
        >>> f = Wrapped.denoiser(lambda x, sigma: x / (1 + sigma**2), ndim=1)
        >>> f.prox(np.array([4.0]), 1.0)
        array([2.])
        """
        if not callable(denoise):
            raise SettingsError(f"denoise should be a function of (x, sigma); got {denoise!r}.")
        return cls(lambda x, tau: denoise(x, tau**0.5), convex=False, ndim=ndim, dim=dim)

    def axes(self, x: Array) -> tuple[int, ...]:
        return consumed_axes(self.dim, self.ndim, None, x.ndim, "Wrapped")

    def __call__(self, x: Array) -> Array:
        if self.value is None:
            raise SettingsError("value of Wrapped was not given: the operator has a prox only.")
        return self.value(self._ready(x))

    def prox(self, x: Array, tau: Any = 1.0) -> Array:
        x = self._ready(x, tau)
        return self.apply(x, self._over_axes(self._per_sample("tau", tau, x, positive=True), x))
