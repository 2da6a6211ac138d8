"""Which library an array belongs to: its array-API namespace, and the file of this package that serves it."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_jax_array, is_numpy_array, is_torch_array

Array = Any

_KNOWN: dict[type, Any] = {}  # namespaces by the type of the array, where the type says it all: asking takes longer


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
    kinds = {type(x) for x in arrays}
    if len(kinds) == 1 and (found := _KNOWN.get(*kinds)) is not None:
        return found
    if arrays and all(is_jax_array(x) for x in arrays):
        # The tracers of JAX before 0.4.32 do not say that jax.numpy is their namespace.
        import jax.numpy

        return jax.numpy
    found = array_namespace(*arrays)
    if len(kinds) == 1 and kinds <= {np.ndarray, getattr(sys.modules.get("torch"), "Tensor", None)}:
        _KNOWN[type(arrays[0])] = found
    return found


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
