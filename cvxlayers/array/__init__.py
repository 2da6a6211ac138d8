"""The array namespace of an input, and the few operations that the array standard lacks.

Each operation is dispatched to the file of the library that the array belongs to (numpy.py, torch.py, jax.py), which
is imported when the first such array comes: importing cvxlayers imports neither PyTorch nor JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from array_api_compat import is_torch_array

from cvxlayers.array.library import library_of, namespace
from cvxlayers.array.parameters import real_dtype, register_pytree, single, to_library_of, unify, visible
from cvxlayers.array.symmetric import eigh

Array = Any

__all__ = [
    "cholesky",
    "choose",
    "constant",
    "derivative_along",
    "eigh",
    "fixed_point",
    "implicit",
    "iterate",
    "leaves",
    "loop",
    "lyapunov",
    "moreau",
    "namespace",
    "outside_autocast",
    "pending",
    "prefers_products",
    "real_dtype",
    "recorded",
    "register_pytree",
    "replayed",
    "single",
    "stop_gradient",
    "to_library_of",
    "triangular_inverse",
    "triangular_solve",
    "unify",
    "visible",
    "sum_where",
]


def constant(build: Callable[..., np.ndarray], args: tuple, like: Array) -> Array:
    """The constant array ``build(*args)``, in the library and on the device of ``like``.

    Floating-point constants take the dtype of ``like``, index arrays keep theirs. ``build`` is a pure function of
    hashable arguments; where a library has to copy to a device, the copy is kept.

    >>> constant(np.arange, (3,), like=np.ones(2, dtype=np.float32)).dtype
    dtype('int64')
    """
    return library_of(like).constant(build, args, like)


def loop(
    count: int,
    body: Callable[[Any], Any],
    state: Any,
    like: Array,
    settled: Callable[[Any], Array] | None = None,
) -> Any:
    """``state = body(state)`` repeated ``count`` times, as one loop of the library of ``like`` (not unrolled in JAX).

    Where values can be seen for free (NumPy), the loop ends early when ``settled(state)`` is all true; ``body`` must
    leave settled entries as they are, so that this changes no result.

    >>> loop(3, lambda state: (2 * state[0],), (np.ones(1),), like=np.ones(1))
    (array([8.]),)
    """
    return library_of(like).loop(count, body, state, settled)


def lyapunov(W: Array, R: Array) -> Array:
    """X with W X + X W = R, for symmetric positive definite W; differentiable in W and R, to any order.

    Shapes: W (*batch, k, k), R (*batch, k, k) with broadcasting over the batch. With W = Q diag(lam) Q',
    X = Q [(Q'RQ)_ij / (lam_i + lam_j)] Q'. Differentiating the equation, W dX + dX W = dR - dW X - X dW: the
    derivative is another Lyapunov equation in the same W, so it does not know about repeated eigenvalues, where the
    derivative of an eigendecomposition breaks down.

    Source: R. H. Bartels, G. W. Stewart, Solution of the matrix equation AX + XB = C, doi 10.1145/361573.361582.

    >>> W, R = np.diag([1.0, 3.0]), np.ones((2, 2))
    >>> X = lyapunov(W, R)
    >>> bool(np.allclose(W @ X + X @ W, R))
    True
    """
    return library_of(W).lyapunov(W, R)


def moreau(cone: Any, u: Array, mu: Any = None) -> tuple[Array, Array]:
    """The pair (z, s) = ``cone._pair(u, mu)``, whose derivative is (D h, D h - h), D h = ``cone._derivative(...)``.

    D is symmetric, a function of (z, s) and ``mu``; nothing is differentiated inside ``_pair``, so it may iterate.
    The rule calls itself, so derivatives of every order follow from ``_derivative`` alone. ``mu`` (None, a number, or
    an array of u's batch shape) is a constant of the derivative. ``cone`` is hashable.
    """
    return library_of(u).moreau(cone, u, mu)


def stop_gradient(x: Array) -> Array:
    """x as a constant of every derivative.

    >>> stop_gradient(np.ones(2))
    array([1., 1.])
    """
    return library_of(x).stop_gradient(x)


def implicit(rule: Any, *args: Array) -> tuple[Array, ...]:
    """The outputs ``(y, *aux) = rule.forward(*args)``, where y has the derivative that ``rule`` says, aux has none.

    ``rule`` is hashable, and has

    - ``forward(*args)``: a tuple of arrays; nothing is differentiated inside, so it may iterate or leave the library;
    - ``tangent(outputs, args, tangents)``: dy, linear in ``tangents`` (one per argument), in plain operations on
      ``outputs`` and ``args``, which may be differentiated again: derivatives of every order follow;
    - optionally ``cotangent(outputs, args, g)``: a tuple, one cotangent (or None for zero) per argument: the transpose
      of ``tangent``. Without it the frameworks transpose ``tangent`` themselves, so it must then consist of operations
      that they can transpose (no loops but those of fixed length). JAX differentiates a rule that has ``cotangent`` in
      reverse mode only.

    All arguments are floating-point arrays with the same number of axes, so that a batch dimension can be put in front
    of all of them. Example: prox_{tau f} has the tangent D (dx - v dtau), v = (x - y)/tau, D symmetric, which is also
    its cotangent (D g, -<v, D g>).

    >>> class SquareRoot:
    ...     def forward(self, x):
    ...         return (np.sqrt(x),)
    ...     def tangent(self, outputs, args, tangents):
    ...         return tangents[0] / (2 * outputs[0])
    >>> implicit(SquareRoot(), np.array([4.0]))
    (array([2.]),)
    """
    return library_of(args[0]).implicit(rule, *args)


def iterate(limit: int, body: Callable[[Any], Any], state: Any, done: Callable[[Any], Array]) -> Any:
    """``state = body(state)`` until ``done(state)`` is all true, at most ``limit`` times.

    One loop in JAX, whose length is seen at run time; NumPy and PyTorch look at ``done`` after each round. While a
    CUDA graph is captured nothing can be looked at, and all rounds are made: ``body`` must leave done entries alone.

    >>> iterate(9, lambda state: (2 * state[0],), (np.ones(1),), lambda state: state[0] > 7)
    (array([8.]),)
    """
    return library_of(done(state)).iterate(limit, body, state, done)


def choose(condition: Array, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """``then()`` or ``otherwise()``, arrays of the same shapes, whose results agree where it matters.

    Where the condition has no value to look at, under a transform or while a CUDA graph is captured: ``otherwise()``.

    >>> choose(np.array(True), lambda: 1, lambda: 2)
    1
    """
    return library_of(condition).choose(condition, then, otherwise)


def pending(done: Array) -> Any:
    """Where ``done`` (batch, 1) is false, as indices; None where that cannot be seen: in JAX, under a transform of
    PyTorch, and while a CUDA graph is captured.

    >>> pending(np.array([[True], [False], [False]]))
    array([1, 2])
    """
    return library_of(done).pending(done)


def recorded(key: Any, body: Callable[[Any, Any], Any], count: int, constants: Any, state: Any) -> Any:
    """``count`` rounds of ``state = body(constants, state)`` as one CUDA graph; None where there is none to be had.

    ``constants`` and ``state`` are nested tuples of arrays; ``key`` says all that ``body`` depends on besides them. In
    PyTorch, on a GPU, for shapes that come again: see `cvxlayers.array.graphs.Graph`. ``body`` does the same operations
    whatever the values.

    >>> recorded("double", lambda constants, state: (2 * state[0],), 3, (), (np.ones(1),)) is None
    True
    """
    return library_of(leaves(state)[0]).recorded(key, body, count, constants, state)


def replayed(key: Any, function: Callable[..., Any], arguments: tuple) -> Any:
    """``function(*arguments)``, in PyTorch on a GPU as one CUDA graph for shapes that come again.

    Arguments and results are arrays, or nested tuples of arrays and None. ``key`` says all that ``function`` depends on
    besides them, and it does the same operations whatever the values; see `cvxlayers.array.graphs.replayed`.

    >>> replayed("double", lambda x: 2 * x, (np.ones(1),))
    array([2.])
    """
    return library_of(leaves(arguments)[0]).replayed(key, function, arguments)


def outside_autocast(x: Array) -> AbstractContextManager:
    """Where products are of the dtype of their factors, whatever PyTorch is told to cast on the device of ``x``.

    >>> with outside_autocast(np.ones(1)):
    ...     pass
    """
    return library_of(x).outside_autocast(x) if is_torch_array(x) else nullcontext()


def leaves(values: Any) -> list[Array]:
    """The arrays in nested tuples, in order, without what is None.

    >>> leaves((1, (2, None, 3)))
    [1, 2, 3]
    """
    if isinstance(values, tuple):
        return [leaf for v in values for leaf in leaves(v)]
    return [] if values is None else [values]


def prefers_products(x: Array) -> bool:
    """Whether matrix products are far cheaper than triangular substitutions where ``x`` lives: on accelerators.

    >>> prefers_products(np.ones(1))
    False
    """
    return library_of(x).prefers_products(x)


def cholesky(M: Array) -> Array:
    """The lower triangular L with L L' = M, (*batch, k, k); NaN where M is not positive definite, no exception."""
    return library_of(M).cholesky(M)


def triangular_solve(L: Array, B: Array, *, transpose: bool = False) -> Array:
    """L^-1 B, or L'^-1 B with ``transpose``, for lower triangular L (*batch, k, k) and B (*batch, k, c)."""
    return library_of(L).triangular_solve(L, B, transpose)


def triangular_inverse(L: Array) -> Array:
    """L^-1 for lower triangular L (*batch, k, k)."""
    return triangular_solve(L, constant(np.eye, (L.shape[-1],), L))


def derivative_along(f: Callable[[Array], Array], x: Array, v: Array) -> Array:
    """J(x) v for a function f of arrays like x whose Jacobian J is symmetric, as a constant of every derivative.

    For rules of derivatives: 0 where no derivative will be asked for, in NumPy always.

    >>> derivative_along(np.sin, np.zeros(1), np.ones(1))
    array([0.])
    """
    return library_of(x).derivative_along(f, x, v)


def fixed_point(step: Callable[[Array], Array], s: Array, limit: int, tol: float) -> Array:
    """A fixed point s = step(s) that has been found, with the derivative of the implicit function theorem.

    ds = J ds + d step is solved by repetition, at most ``limit`` times, to the relative accuracy ``tol``, forwards or
    backwards; ``step`` may hold differentiable arrays, and is nonexpansive. First derivatives only in PyTorch.

    >>> fixed_point(lambda s: s / 2 + 1, np.array([2.0]), 100, 1e-8)
    array([2.])
    """
    return library_of(s).fixed_point(step, s, limit, tol)


def pullback(f: Callable[[Array], Array], x: Array, g: Array) -> Array:
    """J(x)' g, the derivative of <g, f(x)> with respect to x, in PyTorch and JAX."""
    return library_of(x).pullback(f, x, g)


def sum_where(x: Array, kept: Array) -> tuple[Array, Array]:
    """The sum and the number of the entries of ``x`` that are ``kept``, along the last axis, which stays: (*batch, 1).

    In JAX in one pass over x; a constant of every derivative.

    >>> sum_where(np.array([1.0, 2.0, 4.0]), np.array([True, False, True]))
    (array([5.]), array([2.]))
    """
    return library_of(x).sum_where(x, kept)
