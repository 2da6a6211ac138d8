"""Kernels for NVIDIA GPUs that proximal operators use where they can be compiled; the array code is the definition."""
