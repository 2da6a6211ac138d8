"""What the interior-point method asks of a cone: the protocol that every file of this folder fills in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from cvxlayers.array import namespace

Array = Any


class Barrier(ABC):
    """The logarithmic barrier of a group of equal cones, as the Newton system needs it.

    Vectors are (*batch, count, size), count cones one after the other; linear maps take matrices
    (*batch, count, size, k). A *scaling* is a tuple of arrays that describes H = W'W, a positive definite matrix with
    H z = s: the complementarity conditions are linearized as ds + H dz = -c, and c comes from ``corrector``.

    ``degree`` is the parameter of one cone's barrier; ``symmetric`` says whether W is the Nesterov-Todd scaling.
    """

    size: int
    degree: int
    symmetric = True

    @abstractmethod
    def unit(self, like: Array) -> Array:
        """The central point e, where s = z = e: (size,) with the dtype and device of ``like``."""

    @abstractmethod
    def scaling(self, s: Array, z: Array) -> tuple[Array, ...]:
        """W at an interior pair."""

    @abstractmethod
    def scale(self, W: tuple[Array, ...], V: Array) -> Array:
        """W^-T V: what turns rows of A into those whose Gram matrix is A'H^-1 A."""

    @abstractmethod
    def scale_back(self, W: tuple[Array, ...], V: Array) -> Array:
        """W^-1 V, the transpose of ``scale``."""

    @abstractmethod
    def times_H(self, W: tuple[Array, ...], V: Array) -> Array:
        """H V."""

    @abstractmethod
    def corrector(self, W: tuple[Array, ...], s: Array, z: Array, ds: Array, dz: Array, mu: Array) -> Array:
        """The c of ds + H dz = -c after a predictor, with the central point of ``mu`` (*batch, 1, 1) as the aim."""

    @abstractmethod
    def step(self, W: tuple[Array, ...], s: Array, z: Array, ds: Array, dz: Array) -> Array:
        """The longest step at which s + step ds and z + step dz stay inside, (*batch, count); infinity if any does.

        Cones without a closed form leave it to `centrality`, by which the method backtracks.
        """

    @abstractmethod
    def depth(self, v: Array) -> Array:
        """The largest t with v - t e in the cone, (*batch, count); only symmetric cones need it."""

    @abstractmethod
    def centrality(self, s: Array, z: Array) -> Array:
        """The barriers' sum F(s) + F*(z), (*batch, count); infinity or NaN outside the interior."""


def inverse(step: Array) -> Array:
    """1/step where positive, else infinity: from how much of an inequality a unit step uses up to the longest step."""
    xp = namespace(step)
    positive = step > 0
    return xp.where(positive, 1.0 / xp.where(positive, step, 1.0), float("inf"))
