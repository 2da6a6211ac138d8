"""What the functions on matrices are given: of shapes that fit each other, on one device, in one dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import is_torch_array

from cvxlayers.array import namespace
from cvxlayers.errors import ShapeError
from cvxlayers.sets.product import ORDER, Product

Array = Any

_OWN = {"P": "nn", "A": "mn", "residuals": "3"} | dict.fromkeys(("q", "x", "gx"), "n")  # "m" is what is left


def checked(cone: Product, **arrays: Array) -> tuple[tuple[int, ...], tuple[Array, ...]]:
    """The common batch dimensions of arrays, named as in `solve` and `linear_solve`, and these in their common dtype.

    Kernels are told addresses, so nothing behind this looks again. Raises ShapeError, which names the argument.
    """
    try:
        xp = namespace(*arrays.values())
        shapes = {name: tuple(v.shape) for name, v in arrays.items()}
    except (TypeError, AttributeError):
        found = ", ".join(f"{name} {type(v).__name__}" for name, v in arrays.items())
        raise ShapeError(f"all should be arrays of one library; got {found}. Convert them.") from None
    if not isinstance(cone, Product) or not cone.canonical:
        order = ", ".join(kind.__name__ for kind in ORDER)
        raise ShapeError(
            f"cone should be a Product of blocks of {order}, in this order; got {cone!r}. Permute the rows of A and b."
        )
    A = arrays["A"]
    if A.ndim < 2:
        raise ShapeError(f"A should end in ({cone.size}, n), the rows of the cone first; got {tuple(A.shape)}.")
    size = {"n": A.shape[-1], "m": cone.size, "3": 3}
    for name in ("A", *arrays):
        own, shape = tuple(size[axis] for axis in _OWN.get(name, "m")), shapes[name]
        if shape[-len(own) :] != own:
            raise ShapeError(
                f"{name} should end in {own}, for n = {size['n']} columns of A and m = {size['m']} rows of the cone; "
                f"got {shape}. Batch dimensions come first."
            )
    if is_torch_array(A) and any(v.device != A.device for v in arrays.values()):
        found = ", ".join(f"{name} on {v.device}" for name, v in arrays.items())
        raise ShapeError(f"all arrays should be on one device; got {found}. Move them.")
    dtypes = {v.dtype for v in arrays.values()}
    dtype = A.dtype if len(dtypes) == 1 else xp.result_type(*dtypes)
    if dtype not in (xp.float32, xp.float64):
        found = ", ".join(f"{name} of {v.dtype}" for name, v in arrays.items())
        raise ShapeError(f"all arrays should be of float32 or float64; got {found}. Convert them.")
    values = tuple(arrays.values())
    if len(dtypes) > 1:
        values = tuple(v if v.dtype == dtype else xp.astype(v, dtype) for v in values)
    leads = {name: shape[: len(shape) - len(_OWN.get(name, "m"))] for name, shape in shapes.items()}
    try:
        return np.broadcast_shapes(*leads.values()), values
    except ValueError:
        found = ", ".join(f"{name} {lead}" for name, lead in leads.items())
        raise ShapeError(f"the batch dimensions of all arrays should broadcast; got {found}.") from None
