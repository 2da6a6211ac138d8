"""Solvers: objects with settings that declare what they can do. Nothing is imported until it is used."""
