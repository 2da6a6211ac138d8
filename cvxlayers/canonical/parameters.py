"""The user's parameters as form.Parameter, and the map from their vectors to the plain parameters of the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import cvxpy as cp
import numpy as np
import scipy.sparse as sp

from cvxlayers.canonical.form import Parameter
from cvxlayers.canonical.leaves import Pieces
from cvxlayers.errors import ProblemError

Transform = Literal["identity", "log", "both"]

_DOMAIN = ("nonneg", "nonpos", "pos", "neg", "PSD", "NSD")


def describe(parameter: cp.Parameter, transform: Transform) -> Parameter:
    """What a layer needs to know about a parameter."""
    domain = tuple(key for key in _DOMAIN if parameter.attributes[key])
    return Parameter(parameter.name(), parameter.shape, transform, parameter.is_complex(), domain)


def locate(
    parameter: cp.Parameter, logarithm: cp.Parameter | None, pieces: Mapping[int, Pieces], columns: Mapping[int, int]
) -> tuple[list[tuple[int, sp.csr_array]], Transform]:
    """Where a parameter goes, as (first column in the program's parameter vector, matrix from its vector), and how.

    ``logarithm`` is the parameter that stands for the logarithm in a geometric program; exponents enter as they are,
    and a parameter that is both has the vector (value, logarithm).
    """
    itself = _places(parameter, pieces, columns)
    if logarithm is None:
        return itself, "identity"
    log = _places(logarithm, pieces, columns)
    if not itself:
        return log, "log"
    # The vector is (value, logarithm): pad the matrices to the right and to the left.
    right = [(column, sp.csr_array(sp.hstack([matrix, sp.csr_array(matrix.shape)]))) for column, matrix in itself]
    left = [(column, sp.csr_array(sp.hstack([sp.csr_array(matrix.shape), matrix]))) for column, matrix in log]
    return right + left, "both"


def _places(leaf: cp.Parameter, pieces: Mapping[int, Pieces], columns: Mapping[int, int]):
    if leaf.id in pieces:
        split = pieces[leaf.id]
        return [(columns[p.id], m) for p, m in zip(split.plain, split.reduce, strict=True) if p.id in columns]
    if leaf.id not in columns:
        return []
    fortran = np.arange(leaf.size).reshape(leaf.shape).ravel(order="F")
    matrix = sp.csr_array((np.ones(leaf.size), fortran, np.arange(leaf.size + 1)), (leaf.size, leaf.size))
    return [(columns[leaf.id], matrix)]


def no_value(parameter: cp.Parameter) -> ProblemError:
    """The error for a parameter whose value is asked for and not set."""
    return ProblemError(f"parameter '{parameter.name()}' has no value. Set {parameter.name()}.value first.")


def stack(parts: Sequence[tuple[int, int, sp.csr_array]], height: int, sizes: Sequence[int]) -> sp.csr_array:
    """One matrix from (first row, parameter, matrix): rows are plain parameter entries, columns the stacked vectors."""
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    if not parts:
        return sp.csr_array((height, int(starts[-1])))
    rows, cols, values = [], [], []
    for first, i, matrix in parts:
        counts = np.diff(matrix.indptr)
        rows.append(first + np.repeat(np.arange(len(counts)), counts))
        cols.append(starts[i] + matrix.indices)
        values.append(matrix.data)
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))
    return sp.csr_array(entries, (height, int(starts[-1])))
