"""Layers for PyTorch."""

from cvxlayers.torch.layer import CvxpyLayer

__all__ = ["CvxpyLayer"]
