"""Cone programs that are given by their matrices, which are the parameters: no CVXPY, and no modelling, in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.sparse as sp

from cvxlayers.canonical.form import AffineSolverAffine, Output, Parameter
from cvxlayers.conic.affine import AffineMap, Lift
from cvxlayers.conic.program import ConeProgram, Pattern
from cvxlayers.errors import ProblemError
from cvxlayers.sets import Cone, Product
from cvxlayers.sets.product import ORDER


def of_matrices(n: int, cone: Cone | Iterable[Cone], quadratic: bool = True) -> AffineSolverAffine:
    """minimize (1/2) x'Px + q'x subject to Ax + s = b, s in K: parameters P, q, A, b, outputs x, z, s.

    Without ``quadratic`` there is no P. P enters as (P + P')/2.
    """
    cone = product_of(cone)
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or n < 1:
        raise ProblemError(f"n should be the number of variables, a positive integer; got {n!r}.")
    n, m = int(n), cone.size
    shapes = {**({"P": (n, n)} if quadratic else {}), "q": (n,), "A": (m, n), "b": (m,)}
    at = {name: i for i, name in enumerate(shapes)}

    cols, rows = np.tril_indices(n if quadratic else 0)  # the upper triangle by columns
    entries, half = np.arange(len(rows)), np.full(len(rows), 0.5)
    places = (np.tile(entries, 2), np.concatenate([rows * n + cols, cols * n + rows]))
    symmetric = sp.csr_array((np.tile(half, 2), places), shape=(len(rows), n * n))
    columnwise = sp.csr_array(sp.eye_array(m * n).tocsr()[np.arange(m * n).reshape(m, n).T.ravel()])
    blocks = {"P": symmetric, "q": sp.eye_array(n), "A": columnwise, "b": sp.eye_array(m)}

    def map_(name: str, size: int) -> AffineMap:
        return AffineMap(np.zeros(size), {at[name]: blocks[name]} if name in at else {})

    lift = Lift(map_("P", len(rows)), map_("q", n), map_("A", m * n), map_("b", m), AffineMap(np.zeros(1), {}))
    program = ConeProgram(
        Pattern((n, n), rows, cols), Pattern((m, n), np.tile(np.arange(m), n), np.repeat(np.arange(n), m)), cone
    )
    outputs = (_whole("x", n), _whole("z", m), _whole("s", m))
    domain = {"P": ("PSD",)}
    parameters = tuple(Parameter(name, shape, domain=domain.get(name, ())) for name, shape in shapes.items())
    return AffineSolverAffine(program, parameters, lift, outputs, np.zeros(n, bool))


def product_of(cone: Any) -> Product:
    """The cone as a product, whose blocks a solver can take.

    Raises
    ------
    ProblemError
        It is no cone, has one that no solver takes, or has them in another order.
    """
    blocks: tuple[Any, ...] = (
        (cone,) if isinstance(cone, Cone) else tuple(cone) if isinstance(cone, Iterable) else (None,)
    )
    names = ", ".join(kind.__name__ for kind in ORDER)
    if not all(isinstance(block, Cone) for block in blocks):
        raise ProblemError(f"cone should be a cone of cvxlayers.sets, or a sequence of them; got {cone!r}.")
    product = Product(blocks)
    for block in product.blocks:
        if type(block) not in ORDER:
            raise ProblemError(
                f"cone should consist of {names}; got {block!r}. Leave the rows of a Free block out, and write a "
                "rotated second-order cone as a second-order one."
            )
    if not product.canonical:
        raise ProblemError(
            f"cone should list its blocks in the order {names}; got {', '.join(map(repr, product.blocks))}. "
            "Order the rows of A and b likewise."
        )
    return product


def _whole(name: str, size: int) -> Output:
    return Output(name, (size,), name, AffineMap(np.zeros(size), {0: sp.eye_array(size)}))  # pyright: ignore[reportArgumentType]
