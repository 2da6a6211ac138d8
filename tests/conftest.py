"""Settings of a test run: JAX in float64, so that its results compare with PyTorch and NumPy."""

import jax

jax.config.update("jax_enable_x64", True)
