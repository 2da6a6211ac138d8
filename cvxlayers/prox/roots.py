"""Newton's method on scalar equations, whose root carries the derivatives of the implicit function theorem."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cvxlayers.array import iterate, namespace, stop_gradient

Array = Any


def newton(equation: Callable[..., tuple[Array, Array]], start: Array, parameters: tuple[Array, ...]) -> Array:
    """The root y of an equation h(y, *parameters) = 0 by entry; ``equation`` returns h and dh/dy > 0.

    ``start`` has the full shape, and Newton's method has to converge from there (h monotone, and convex or concave
    between start and root). The iteration is no part of the derivative. Two more steps are: with y a root, one step
    y - h/h' has the first derivatives of the implicit function theorem, and each step doubles the order that is right.
    """
    xp = namespace(start)
    constants = tuple(stop_gradient(p) for p in parameters)
    noise = 4 * float(xp.finfo(start.dtype).eps)

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        y, _ = state
        h, slope = equation(y, *constants)
        move = h / slope
        return y - move, ~(xp.abs(move) > noise * xp.abs(y))

    start = stop_gradient(start)
    y, _ = iterate(100, step, (start, start != start), lambda state: state[1])
    return with_derivatives(equation, y, parameters)


def with_derivatives(equation: Callable[..., tuple[Array, Array]], root: Array, parameters: tuple[Array, ...]) -> Array:
    """A root of `newton` that was found in another way, with the same derivatives."""
    y = stop_gradient(root)
    for _ in range(2):
        h, slope = equation(y, *parameters)
        y = y - h / slope
    return y
