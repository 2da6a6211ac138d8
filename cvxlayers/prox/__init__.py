"""Proximal operators and their calculus."""
