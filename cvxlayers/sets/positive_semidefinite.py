"""The positive semidefinite cone, svec."""

from __future__ import annotations

from dataclasses import dataclass

from cvxlayers.sets.cone import Cone


@dataclass(frozen=True)
class PositiveSemidefinite(Cone):
    """The positive semidefinite cone, svec."""

    k: int

    @property
    def size(self) -> int:
        return self.k * (self.k + 1) // 2

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
