"""Layers for JAX."""

from cvxlayers.jax.layer import ConeLayer, CvxpyLayer

__all__ = ["ConeLayer", "CvxpyLayer"]
