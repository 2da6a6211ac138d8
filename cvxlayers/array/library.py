"""Which library an array belongs to: its array-API namespace, and the file of this package that serves it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from array_api_compat import array_namespace, is_jax_array, is_numpy_array, is_torch_array

Array = Any


def namespace(*arrays: Array) -> Any:
    """The array-API namespace (NumPy, PyTorch or JAX) that all these arrays belong to.

    Raises
    ------
    TypeError
        Something is not an array, or arrays of several libraries are mixed.

    >>> import numpy as np
    >>> namespace(np.ones(3)).__name__
    'array_api_compat.numpy'
    """
    if arrays and all(is_jax_array(x) for x in arrays):
        # The tracers of JAX before 0.4.32 do not say that jax.numpy is their namespace.
        import jax.numpy

        return jax.numpy
    return array_namespace(*arrays)


def library_of(x: Array) -> ModuleType:
    """The file of this package for the library of ``x``, imported on first use."""
    if is_numpy_array(x):
        from cvxlayers.array import numpy as found
    elif is_torch_array(x):
        from cvxlayers.array import torch as found
    elif is_jax_array(x):
        from cvxlayers.array import jax as found
    else:
        raise TypeError(f"expected a NumPy, PyTorch or JAX array; got {type(x).__name__}. Convert it first.")
    return found
