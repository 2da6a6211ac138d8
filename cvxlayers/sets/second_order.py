"""The second-order cone, t first."""

from __future__ import annotations

from dataclasses import dataclass

from cvxlayers.sets.cone import Cone


@dataclass(frozen=True)
class SecondOrder(Cone):
    """The second-order cone, t first."""

    d: int

    @property
    def size(self) -> int:
        return self.d

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
