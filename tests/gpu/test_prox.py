"""The proximal operators on CUDA tensors: value, prox and gradient are those of the CPU."""

from __future__ import annotations

import pytest

from tests.prox.operators import CASES, Case, points

pytestmark = pytest.mark.gpu
torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")


def results(case: Case, device: str, dtype) -> list:
    """f(x), prox_{0.7 f}(x), and the gradients of weighted sums of the one and the other."""
    x = torch.from_numpy(points(case.shape, 16, seed=5)).to(device=device, dtype=dtype).requires_grad_()
    weights = torch.linspace(-1.0, 1.0, x.numel(), dtype=dtype, device=device).reshape(x.shape)
    prox = case.f.prox(x, 0.7)
    value = case.f(prox)
    (gradient,) = torch.autograd.grad((prox * weights).sum(), x)
    assert {v.device.type for v in (prox, value, gradient)} == {device} and prox.dtype == dtype
    return [v.detach().cpu().double() for v in (case.f(x), prox, value, gradient)]


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_operators(case):
    for found, expected in zip(results(case, "cuda", torch.float64), results(case, "cpu", torch.float64), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_single_precision(case):
    found, expected = (results(case, device, torch.float32)[1] for device in ("cuda", "cpu"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
