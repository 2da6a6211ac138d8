"""The power cone."""

from __future__ import annotations

from dataclasses import dataclass

from cvxlayers.sets.cone import Cone


@dataclass(frozen=True)
class Power(Cone):
    """The power cone."""

    alpha: float

    @property
    def size(self) -> int:
        return 3

    def project(self, u):
        raise NotImplementedError

    def dual(self):
        raise NotImplementedError

    def smooth(self, z, s, mu):
        raise NotImplementedError

    def derivative(self, z, s, h, mu=0.0):
        raise NotImplementedError

    def eigen(self, z, s, mu=0.0):
        raise NotImplementedError
