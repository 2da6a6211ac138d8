"""Parameter values to the vectors of the canonical form, tangents along with them, and gradients back.

A vector is (size,) where the whole batch shares the value, else (batch, size), float64. Complex values are seen as
pairs (real, imaginary); in geometric programs a parameter enters by its logarithm, its value, or both.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.canonical.form import Parameter
from cvxlayers.errors import ShapeError

SLACK = 1e-6  # how far, relative to its size, a value may leave its domain by rounding


def check_real(parameter: Parameter, is_complex: bool) -> None:
    """Raise ShapeError for a complex value of a real parameter."""
    if is_complex and not parameter.complex:
        raise ShapeError(
            f"parameter '{parameter.name}' should be real; got complex values. Pass its real part, or declare the "
            "cvxpy.Parameter with complex=True."
        )


def vector(parameter: Parameter, value: np.ndarray, batch_shape: tuple[int, ...]) -> np.ndarray:
    """(*lead, *shape) to the vector; NaN for the elements whose value lies outside the parameter's domain."""
    check_real(parameter, value.dtype.kind == "c")
    flat = _flat(parameter, value, batch_shape)
    if parameter.domain or parameter.transform != "identity":
        bad = _outside(parameter, flat)
        if bad.any():
            flat = np.where(bad[..., None], np.nan, flat)
    if parameter.transform == "log":
        return np.log(flat)
    if parameter.transform == "both":
        return np.concatenate([flat, np.log(flat)], axis=-1)
    return flat


def tangent(parameter: Parameter, change: np.ndarray, at: np.ndarray, batch_shape: tuple[int, ...]) -> np.ndarray:
    """The change of the vector ``at`` for a change of the value."""
    flat = _flat(parameter, change, batch_shape)
    if parameter.transform == "log":
        return flat / np.exp(at)
    if parameter.transform == "both":
        return np.concatenate([flat, flat / at[..., : at.shape[-1] // 2]], axis=-1)
    return flat


def gradient(
    parameter: Parameter, cotangent: np.ndarray, at: np.ndarray, batch_shape: tuple[int, ...], shape: tuple[int, ...]
) -> np.ndarray:
    """Gradient of the value, of this ``shape``, from that of the vector: the transpose of `tangent`."""
    if parameter.transform == "log":
        cotangent = _divide(cotangent, np.exp(at))
    elif parameter.transform == "both":
        half = at.shape[-1] // 2
        cotangent = cotangent[..., :half] + _divide(cotangent[..., half:], at[..., :half])
    if cotangent.ndim == 2:
        lead = shape[: len(shape) - len(parameter.shape)]
        cotangent = cotangent.reshape((*batch_shape, cotangent.shape[-1]))
        if lead != batch_shape:  # sum over what was broadcast
            extra = len(batch_shape) - len(lead)
            ones = tuple(extra + i for i, k in enumerate(lead) if k == 1)
            cotangent = cotangent.sum((*range(extra), *ones))
    if parameter.complex:
        cotangent = to_complex(cotangent)
    return cotangent.reshape(shape)


def faults(parameter: Parameter, value: np.ndarray, batch_shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """What may be wrong with a value, in words, with the elements (*batch) where it is."""
    flat = _flat(parameter, value, batch_shape)
    unknown = np.isnan(flat).any(-1)
    with np.errstate(invalid="ignore"):
        outside = _outside(parameter, flat) & ~unknown
    rule = f"is not {' and '.join(parameter.domain) or 'positive'}"
    masks = {"holds NaN": unknown, "holds infinity": np.isinf(flat).any(-1), rule: outside}
    return {words: np.reshape(mask, batch_shape if np.ndim(mask) else ()) for words, mask in masks.items()}


def to_pairs(values: np.ndarray) -> np.ndarray:
    """Complex (*, k) to real (*, 2k)."""
    return np.ascontiguousarray(values, dtype=np.complex128).view(np.float64)


def to_complex(pairs: np.ndarray) -> np.ndarray:
    """Real (*, 2k) to complex (*, k)."""
    return np.ascontiguousarray(pairs).view(np.complex128)


def _flat(parameter: Parameter, value: np.ndarray, batch_shape: tuple[int, ...]) -> np.ndarray:
    """(*lead, *shape) to (k,) where shared, else (batch, k)."""
    k = value.ndim - len(parameter.shape)
    lead = value.shape[:k]
    if parameter.complex:
        value = to_pairs(value.reshape((*lead, int(np.prod(parameter.shape, dtype=int)))))
    elif value.dtype != np.float64:
        value = value.astype(np.float64)
    if not k or lead.count(1) == k:
        return value.reshape(-1)
    value = value.reshape((*lead, int(np.prod(value.shape[k:], dtype=int))))
    if lead != batch_shape:
        value = np.broadcast_to(value, (*batch_shape, value.shape[-1]))
    return value.reshape((int(np.prod(batch_shape, dtype=int)), value.shape[-1]))


def _divide(cotangent: np.ndarray, value: np.ndarray) -> np.ndarray:
    """cotangent / value, and zero where the value was outside the domain."""
    known = np.broadcast_to(np.isfinite(value), cotangent.shape)
    return np.divide(cotangent, value, out=np.zeros_like(cotangent), where=known)


def _outside(parameter: Parameter, flat: np.ndarray) -> np.ndarray:
    """Which elements lie outside the parameter's domain by more than rounding."""
    bad = np.zeros(flat.shape[:-1], bool)
    slack = SLACK * (1.0 + np.maximum(flat.max(-1, initial=0.0), -flat.min(-1, initial=0.0)))
    if parameter.transform != "identity":
        bad |= ~(flat > 0).all(-1)
    for attribute in parameter.domain:
        if attribute in ("nonneg", "pos"):
            bad |= flat.min(-1, initial=0.0) < -slack
        elif attribute in ("nonpos", "neg"):
            bad |= flat.max(-1, initial=0.0) > slack
        elif attribute in ("PSD", "NSD"):
            n = parameter.shape[-1]
            matrix = (to_complex(flat) if parameter.complex else flat).reshape((*flat.shape[:-1], *parameter.shape))
            matrix = matrix + matrix.swapaxes(-1, -2).conj()
            bad |= _indefinite(matrix if attribute == "PSD" else -matrix, 2.0 * slack * n)
    return bad


def _indefinite(matrix: np.ndarray, slack: np.ndarray) -> np.ndarray:
    """Which finite elements of (*batch, ..., n, n) have an eigenvalue below -slack, (*batch). Writes on the matrix."""
    known, inner = np.isfinite(slack), (1,) * (matrix.ndim - slack.ndim)
    slack = np.where(known, slack, 0.0)
    if not known.all():
        matrix[~known] = 0.0
    diagonal = np.einsum("...ii->...i", matrix)
    diagonal += slack.reshape((*slack.shape, *inner[1:]))
    try:  # a tenth of the time of eigenvalues
        np.linalg.cholesky(matrix)
        return np.zeros(slack.shape, bool)
    except np.linalg.LinAlgError:
        eigenvalues = np.linalg.eigvalsh(matrix)
        return known & (eigenvalues.reshape((*slack.shape, -1)).min(-1, initial=0.0) < 0.0)
