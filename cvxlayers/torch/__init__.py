"""Layers for PyTorch."""

from cvxlayers.torch.layer import ConeLayer, CvxpyLayer

__all__ = ["ConeLayer", "CvxpyLayer"]
