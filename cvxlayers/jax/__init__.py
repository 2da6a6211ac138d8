"""Layers for JAX."""

from cvxlayers.jax.layer import CvxpyLayer

__all__ = ["CvxpyLayer"]
