"""Lift and recover on any array library: what is left of a layer once the conic solve is taken out.

Both are compositions of gathers, scalings and elementwise functions, so PyTorch and JAX differentiate, vectorize and
compile them themselves; only the conic solve between them has a derivative of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cvxlayers.array import cholesky, constant, implicit, namespace
from cvxlayers.canonical.form import AffineSolverAffine, Parameter
from cvxlayers.conic.array_affine import Affine
from cvxlayers.conic.differential import Differential

SLACK = 1e-6  # how far, relative to its size, a value may leave its domain by rounding

Array = Any


class LiftRecover:
    """The two ends of a layer in ASA form, and the formulas of the derivative between them."""

    def __init__(self, form: AffineSolverAffine) -> None:
        self.form = form
        self.differential = Differential(form.program, form.lift)
        self._outputs = tuple(Affine(output.map) for output in form.outputs)

    def vectors(self, values: Sequence[Array], batch_ndim: int, *, guard: bool = False) -> list[Array]:
        """Parameter values (*lead, *shape) to vectors (*lead, size), real, after their transform.

        ``lead`` is empty, or padded in front with ones to ``batch_ndim`` dimensions. With ``guard``, elements whose
        value lies outside the parameter's domain are NaN.
        """
        out = []
        for parameter, value in zip(self.form.parameters, values, strict=True):
            xp = namespace(value)
            lead = tuple(value.shape[: value.ndim - len(parameter.shape)])
            if lead:
                lead = (1,) * (batch_ndim - len(lead)) + lead
            if parameter.complex:
                value = xp.stack([xp.real(value), xp.imag(value)], axis=-1)
            vector = xp.reshape(value, (*lead, parameter.size // (2 if parameter.transform == "both" else 1)))
            bad = outside(parameter, vector) if guard else None
            if parameter.transform != "identity":  # where keeps elements outside the domain, which failed, free of NaN
                logarithm = xp.log(xp.where(vector > 0, vector, xp.ones_like(vector)))
                both = parameter.transform == "both"
                vector = xp.concat([vector, logarithm], axis=-1) if both else logarithm
            out.append(vector if bad is None else xp.where(bad[..., None], float("nan"), vector))
        return out

    def lift(self, values: Sequence[Array], batch_ndim: int) -> tuple[Array, ...]:
        """Parameter values to P (upper triangle), q, A, b and r.

        NaN, and infinity where no solution has it, is zero: such an element failed, and zero stays zero in products.
        """
        d = self.differential
        vectors = self.vectors(values, batch_ndim)
        P, q, A, b, r = (m(vectors) for m in (d.P, d.q, d.A, d.b, d.r))
        xp = namespace(P)
        P, q, A, r = (xp.where(xp.isfinite(v), v, 0.0) for v in (P, q, A, r))
        return P, q, A, xp.where(xp.isnan(b), 0.0, b), r

    def recover(self, data: tuple[Array, ...], x: Array, z: Array) -> tuple[Array, ...]:
        """(P, q, A, b, r), x (*batch, n) and z (*batch, m) to the outputs, and the optimal value last."""
        P, q, A, b, r = data
        xp = namespace(x)
        read: dict[str, Array] = {"x": x, "z": z}
        results = []
        for output, map_ in zip(self.form.outputs, self._outputs, strict=True):
            if output.source == "s" and "s" not in read:
                read["s"] = b - self.differential.A_times(A, x)
            values = map_([read[output.source]])
            if output.transform == "exp":
                values = xp.exp(values)
            batch = x.shape[:-1]
            values = xp.broadcast_to(values, (*batch, values.shape[-1]))
            if output.complex:
                pairs = xp.reshape(values, (*batch, *output.shape, 2))
                results.append(pairs[..., 0] + 1j * pairs[..., 1])
            else:
                results.append(xp.reshape(values, (*batch, *output.shape)))
        arguments = (xp.reshape(v, (*(1,) * (x.ndim - v.ndim), *v.shape)) for v in (*data, x, z))
        value = self.form.sense * implicit(OptimalValue(self.differential), *arguments)[0]
        return (*results, xp.exp(value) if self.form.transform == "exp" else value)


@dataclass(frozen=True)
class OptimalValue:
    """(1/2) x'Px + q'x + r as a rule of `implicit`: at a solution it moves as the Lagrangian does at fixed x and z."""

    differential: Differential

    def forward(self, P: Array, q: Array, A: Array, b: Array, r: Array, x: Array, z: Array) -> tuple[Array]:
        return (self.differential.value(P, q, r, x),)

    def tangent(self, outputs: Sequence[Array], args: Sequence[Array], tangents: Sequence[Array]) -> Array:
        x, z = args[5:]
        dP, dq, dA, db, dr = tangents[:5]
        return self.differential.value(dP, dq, dr, x) + (z * (self.differential.A_times(dA, x) - db)).sum(-1)


def outside(parameter: Parameter, vector: Array) -> Array | None:
    """Which elements of a vector (*lead, size) leave the parameter's domain by more than rounding; None if none can.

    As `cvxlayers.vectors` has it, but by a Cholesky factorization alone: no values are looked at, nothing is raised.
    """
    if not parameter.domain and parameter.transform == "identity":
        return None
    xp = namespace(vector)
    largest = xp.max(xp.abs(vector), axis=-1) if vector.shape[-1] else xp.sum(vector, axis=-1)
    slack = SLACK * (1.0 + largest)
    bad = ~xp.all(vector > 0, axis=-1) if parameter.transform != "identity" else xp.isnan(slack)
    for attribute in parameter.domain:
        if attribute in ("nonneg", "pos"):
            bad = bad | xp.any(vector < -slack[..., None], axis=-1)
        elif attribute in ("nonpos", "neg"):
            bad = bad | xp.any(vector > slack[..., None], axis=-1)
        elif attribute in ("PSD", "NSD"):
            n = parameter.shape[-1]
            lead = vector.shape[:-1]
            M = vector if attribute == "PSD" else -vector
            if parameter.complex:  # Hermitian a + ib is semidefinite where the symmetric [a, -b; b, a] is
                M = xp.reshape(M, (*lead, *parameter.shape, 2))
                a, b = M[..., 0], M[..., 1]
                M = xp.concat([xp.concat([a, -b], axis=-1), xp.concat([b, a], axis=-1)], axis=-2)
            else:
                M = xp.reshape(M, (*lead, *parameter.shape))
            M = (M + xp.matrix_transpose(M)) / 2
            M = M + (slack * n)[..., None, None] * constant(np.eye, (M.shape[-1],), M)
            positive = xp.isfinite(xp.linalg.diagonal(cholesky(M))[..., -1])
            bad = bad | ~xp.all(xp.reshape(positive, (*lead, -1)), axis=-1)
    return bad
