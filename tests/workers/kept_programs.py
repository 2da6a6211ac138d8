"""A JAX layer with the folder of the first argument as JAX's cache of compiled programs."""

import sys

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np

from cvxlayers.jax import CvxpyLayer


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_compilation_cache_dir", sys.argv[1])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    x, p = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0])
    layer = CvxpyLayer(problem, [p], [x], on_failure="nan")
    v = jnp.array([[1.0, -2.0], [np.nan, 0.0], [0.0, 3.0]])  # NaN, and a kink: both are left over to Python
    found, gradients = jax.jit(jax.value_and_grad(lambda v: jnp.nansum(layer(v)[0])))(v)
    assert np.isclose(found, 4.0, rtol=1e-12), found
    assert (
        np.allclose(gradients[0], [1.0, 0.0])
        and gradients[1].tolist() == [0.0, 0.0]
        and np.isclose(gradients[2][1], 1.0)
    )
    print("done")


if __name__ == "__main__":
    main()
