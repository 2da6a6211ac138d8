"""A product of cones."""

from __future__ import annotations

from dataclasses import dataclass

from cvxlayers.sets.cone import Cone


@dataclass(frozen=True)
class Product(Cone):
    """A product of cones."""

    blocks: tuple[Cone, ...]

    @property
    def size(self) -> int:
        return sum(block.size for block in self.blocks)

    @property
    def groups(self) -> tuple[tuple[Cone, int, int], ...]:
        """Runs of equal blocks: (cone, count, start); a group covers entries start : start + count * cone.size."""
        from cvxlayers.sets.nonnegative import Nonnegative
        from cvxlayers.sets.zero import Zero

        out: list[tuple[Cone, int, int]] = []
        start = 0
        for block in self.blocks:
            if out and isinstance(block, (Zero, Nonnegative)) and type(out[-1][0]) is type(block):
                out[-1] = (type(block)(out[-1][0].size + block.size), 1, out[-1][2])
            elif out and out[-1][0] == block:
                out[-1] = (block, out[-1][1] + 1, out[-1][2])
            else:
                out.append((block, 1, start))
            start += block.size
        return tuple(out)

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
