"""The substitution in kernels, against its formulas with NumPy's products."""

import numpy as np
import pytest

from cvxlayers.compiled import reduction
from cvxlayers.compiled.compiler import is_available

pytestmark = pytest.mark.skipif(not is_available(), reason="Numba is missing")

n, m, gone = 5, 4, 3
NONE = np.empty((1, 0))


def symmetric(stack: np.ndarray) -> np.ndarray:
    return stack + stack.mT


@pytest.mark.parametrize("curvature", ["full", "diagonal", "none"])
@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("shared", ["P M", "A At c", "q qt Pyt", ""])
@pytest.mark.parametrize("moved", [True, False])
def test_formulas(curvature, mixed, shared, moved):
    rng = np.random.default_rng(0)

    def values(name: str, *shape: int) -> np.ndarray:
        return rng.standard_normal((1 if name in shared.split() else 3, *shape))

    P, A, M, At = symmetric(values("P", n, n)), values("A", m, n), values("M", gone, n), values("At", m, gone)
    q, b, c, qt = values("q", n), values("b", m), values("c", gone) * moved, values("qt", gone)
    Pyt = values("Pyt", n, gone) * mixed
    Ptt = {"full": symmetric(values("Ptt", gone, gone)), "none": np.zeros((1, gone, gone))}.get(curvature)
    dtt = values("dtt", gone) if Ptt is None else None
    if Ptt is None:
        Ptt = dtt[..., None] * np.eye(gone)

    def flat(v: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(v.reshape((len(v), -1))) if v.any() else NONE

    blocks = [flat(v) for v in (M, Pyt)] + ([NONE, dtt] if dtt is not None else [flat(Ptt), NONE])
    got_P, got_A = reduction.matrices(flat(P), flat(A), *blocks, flat(At), n, m)
    M_blocks, rest = blocks[0], blocks[1:]
    got_q, got_b = reduction.vectors(q, b, M_blocks, flat(c), *rest, qt, flat(At), n, m)
    expected = (
        P - Pyt @ M - (Pyt @ M).mT + M.mT @ Ptt @ M,
        A - At @ M,
        q - (M.mT @ qt[..., None])[..., 0] + ((Pyt - M.mT @ Ptt) @ c[..., None])[..., 0],
        b - (At @ c[..., None])[..., 0],
    )
    for got, wanted in zip((got_P, got_A, got_q, got_b), expected, strict=True):
        np.testing.assert_allclose(*np.broadcast_arrays(got, wanted), atol=1e-13)


def test_without_substitution():
    rng = np.random.default_rng(0)
    P, A, q, b = (rng.standard_normal((2, k)) for k in (n * n, m * n, n, m))
    got_P, got_A = reduction.matrices(P, A, NONE, NONE, NONE, NONE, NONE, n, m)
    got_q, got_b = reduction.vectors(q, b, NONE, NONE, NONE, NONE, NONE, NONE, NONE, n, m)
    for got, given in ((got_P, P), (got_A, A), (got_q, q), (got_b, b)):
        np.testing.assert_array_equal(got.reshape(given.shape), given)
