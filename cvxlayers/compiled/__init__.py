"""Kernels compiled by Numba, if it is installed; nothing is imported or compiled until it is used."""
