"""check_prox passes what is right and catches the wrong operators that other libraries have published."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from cvxlayers.errors import CvxlayersError
from cvxlayers.prox import L0, L1, L2, CheckFailed, GroupLasso, Huber, Poisson, Ridge, Wrapped, check_prox


def soft(x, t):
    return np.sign(x) * np.maximum(np.abs(x) - t, 0)


class Wrong:
    """A value and a prox, with neither checks nor the other methods."""

    convex = True
    f = None

    def __call__(self, x):
        return self.f(x)


class Nonconvex(Wrong):
    convex = False


class HuberOffByTheStep(Wrong):
    """Past delta it thresholds at once, where the threshold is delta (1 + tau)."""

    f = Huber(1.0, 1.0)

    def prox(self, x, tau=1.0):
        return np.where(
            np.abs(x) <= 1, x / (1 + np.asarray(tau)[..., None]), x - np.asarray(tau)[..., None] * np.sign(x)
        )


class HuberOverwriting(Wrong):
    f = Huber(1.0, 1.0)

    def prox(self, x, tau=1.0):
        y = self.f.prox(x, tau)
        x[...] = y
        return x


class HardThresholdAtTheWeight(Nonconvex):
    """Thresholds at tau sigma instead of sqrt(2 tau sigma)."""

    f = L0(0.5)

    def prox(self, x, tau=1.0):
        return np.where(np.abs(x) > 0.5 * np.asarray(tau)[..., None], x, 0)


class LogWithoutComparison(Nonconvex):
    """The stationary point of the logarithm, where 0 may be lower."""

    def __call__(self, x):
        return np.log(1 + np.abs(x) / 0.5).sum(-1)

    def prox(self, x, tau=1.0):
        r, t = np.abs(x), np.asarray(tau)[..., None]
        inside = (r + 0.5) ** 2 - 4 * t
        return np.where(inside > 0, np.sign(x) * np.maximum((r - 0.5 + np.sqrt(np.maximum(inside, 0))) / 2, 0), 0)


class EmptySupportIsTheIdentity(Nonconvex):
    """The ball of L0 norm 0 is {0}."""

    def __call__(self, x):
        return np.where((x != 0).any(-1), np.inf, 0.0)

    def prox(self, x, tau=1.0):
        return x + 0.0


class WrongRowsOnAMatrix(Nonconvex):
    """Keeps the largest entries of the whole batch instead of each sample."""

    def __call__(self, x):
        return np.where((x != 0).sum(-1) > 2, np.inf, 0.0)

    def prox(self, x, tau=1.0):
        kept = np.argsort(-np.abs(x), axis=None)[: 2 * x.size // x.shape[-1]]
        y = np.zeros(x.size)
        y[kept] = x.reshape(-1)[kept]
        return y.reshape(x.shape)


def nuclear(x):
    return np.linalg.svd(x, compute_uv=False).sum(-1)


def shrink(x, t):
    u, s, v = np.linalg.svd(x, full_matrices=False)
    return (u * np.maximum(s - np.asarray(t, s.dtype)[..., None], 0)[..., None, :]) @ v


class NuclearValueOfTheRealPart(Wrong):
    def __call__(self, x):
        return nuclear(x.real)

    def prox(self, x, tau=1.0):
        return shrink(x, tau)


class NuclearBallIsZero(Wrong):
    """Thresholds the singular values at the radius instead of projecting them on the L1 ball: 0 for large radii."""

    def __call__(self, x):
        return np.where(nuclear(x) > 3 + 1e-9, np.inf, 0.0)

    def prox(self, x, tau=1.0):
        return np.where((nuclear(x) <= 3)[..., None, None], x, shrink(x, 3.0))


class OnePass(Wrong):
    """Total variation by one pass over pairs of neighbours."""

    def __call__(self, x):
        return np.abs(np.diff(x)).sum(-1)

    def prox(self, x, tau=1.0):
        y, t = x.copy(), np.asarray(tau)
        for i in range(x.shape[-1] - 1):
            half = (y[..., i + 1] - y[..., i]) / 2
            move = half - soft(half, t)
            y[..., i] += move
            y[..., i + 1] -= move
        return y


class NegativeCounts(Wrong):
    """The other root of the quadratic equation."""

    f = Poisson(count=1.0)

    def prox(self, x, tau=1.0):
        t = np.asarray(tau)[..., None]
        return (x - t - np.sqrt((x - t) ** 2 + 4 * t)) / 2


class FidelityIgnoringTheStep(Wrong):
    f = L1().translate(1.0)

    def prox(self, x, tau=1.0):
        return 1.0 + soft(x - 1.0, 1.0)


class WithState(Wrong):
    """Starts where the last call ended, and makes a few steps only."""

    f = Ridge(2.0)

    def __init__(self):
        self.last = None

    def prox(self, x, tau=1.0):
        t = np.asarray(tau)[..., None]
        y = np.zeros_like(x) if self.last is None or self.last.shape != x.shape else self.last
        for _ in range(30):
            y = y - 0.1 * (y - x + 2 * t * y) / (1 + 2 * t)
        self.last = y
        return y


class OneStoppingTestForAll(Wrong):
    """Iterates until the mean residual of the batch is small."""

    f = Ridge(2.0)

    def prox(self, x, tau=1.0):
        t = np.asarray(tau)[..., None]
        y = np.zeros_like(x)
        while True:
            step = (y - x + 2 * t * y) / (1 + 2 * t)
            if np.abs(step).mean() < 1e-2:
                return y
            y = y - 0.3 * step


class RidgeWithoutTheHalf(Wrong):
    """Documents ||x||^2 / 2 and shrinks by 1 + 2 tau."""

    f = Ridge()

    def prox(self, x, tau=1.0):
        return x / (1 + 2 * np.asarray(tau)[..., None])


class SquaredVariation(Wrong):
    """Documents the norm of the differences, computes their squares."""

    def __call__(self, x):
        return np.sqrt((np.diff(x) ** 2).sum(-1))

    def prox(self, x, tau=1.0):
        n = x.shape[-1]
        D = np.diff(np.eye(n), axis=0)
        t = np.asarray(tau)[..., None, None]
        return np.linalg.solve(np.eye(n) + t * (D.T @ D), x[..., None])[..., 0]


class DropsUncoveredEntries(Wrong):
    """Groups cover the first four entries; the others become 0."""

    f = GroupLasso(((0, 1), (2, 3), (4, 5)), 1.0, np.array([1.0, 1.0, 0.0]))

    def prox(self, x, tau=1.0):
        y = self.f.prox(x, tau)
        y[..., 4:] = 0
        return y


class BatchAsOneVector(Wrong):
    """Takes a batch and treats it as one sample."""

    f = L2()

    def prox(self, x, tau=1.0):
        return self.f.prox(x.reshape(-1), float(np.mean(tau))).reshape(x.shape)


class FusedLassoBackwards(Wrong):
    """Thresholds the differences and sums them up again."""

    def __call__(self, x):
        return np.abs(np.diff(x)).sum(-1)

    def prox(self, x, tau=1.0):
        t = np.asarray(tau)[..., None]
        return np.cumsum(np.concatenate([x[..., :1], soft(np.diff(x), t)], -1), -1)


class GraphNetWithoutTheGraph(Wrong):
    def __call__(self, x):
        return np.abs(x).sum(-1) + (np.diff(x) ** 2).sum(-1) / 2

    def prox(self, x, tau=1.0):
        return soft(x, np.asarray(tau)[..., None])


class ConjugateOfTheWrongFunction(L1):
    """The conjugate prox of twice the function; its Moreau sum with its own prox would not be asked."""

    def conj_prox(self, x, tau=1.0):
        return np.clip(x, -2, 2)


class ConjugateValueTooSmall(Ridge):
    def _conjugate(self, x, weight, entry_weights=None):
        return super()._conjugate(x, weight, entry_weights) / 2


WRONG = [
    (HuberOffByTheStep, "optimality"),
    (HuberOverwriting, "shape, dtype and inputs"),
    (HardThresholdAtTheWeight, "optimality"),
    (LogWithoutComparison, "optimality"),
    (EmptySupportIsTheIdentity, "optimality"),
    (WrongRowsOnAMatrix, "a batch is the loop over its samples"),
    (NuclearBallIsZero, "optimality"),
    (OnePass, "optimality"),
    (NegativeCounts, "optimality"),
    (FidelityIgnoringTheStep, "optimality"),
    (WithState, "a batch is the loop over its samples"),
    (OneStoppingTestForAll, "a batch is the loop over its samples"),
    (RidgeWithoutTheHalf, "optimality"),
    (SquaredVariation, "optimality"),
    (DropsUncoveredEntries, "optimality"),
    (BatchAsOneVector, "a batch is the loop over its samples"),
    (FusedLassoBackwards, "optimality"),
    (GraphNetWithoutTheGraph, "optimality"),
    (ConjugateOfTheWrongFunction, "the conjugate"),
    (ConjugateValueTooSmall, "the conjugate"),
]


@pytest.mark.parametrize(("kind", "fact"), WRONG, ids=lambda v: getattr(v, "__name__", ""))
def test_wrong_operators_are_caught(kind, fact):
    shape = (3, 4) if kind is NuclearBallIsZero else (6,)
    report = check_prox(kind(), shape=shape, raises=False)
    assert fact in [finding.name for finding in report.failed], report
    with pytest.raises(CheckFailed, match="fails the check"):
        check_prox(kind(), shape=shape)


def test_the_value_of_complex_input_is_checked():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 3, 4)) + 1j * rng.standard_normal((6, 3, 4))
    assert "optimality" in [f.name for f in check_prox(NuclearValueOfTheRealPart(), x, raises=False).failed]
    assert not check_prox(NuclearValueOfTheRealPart(), x.real, raises=False).failed


def test_gradients_that_are_nan_at_zero_are_caught():
    class NaiveGroup(Wrong):
        f = L2()

        def prox(self, x, tau=1.0):
            tau = torch.as_tensor(tau, dtype=x.dtype)[..., None]
            return x * torch.relu(1 - tau / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-30))

    class NaiveBall(Wrong):
        def __call__(self, x):
            return torch.where(x.norm(dim=-1) > 1 + 1e-6, torch.inf, 0.0)

        def prox(self, x, tau=1.0):
            norm = torch.sqrt((x * x).sum(-1, keepdim=True))
            return torch.where(norm > 1, x / norm, x)

    rng = np.random.default_rng(0)
    x = torch.tensor(rng.standard_normal((8, 6)) * 2)
    report = check_prox(NaiveBall(), x, raises=False)
    assert [f.name for f in report.failed] == ["derivatives at degenerate points"]
    check_prox(L2(), x)
    assert not [f for f in check_prox(NaiveGroup(), x, raises=False).failed if f.name == "optimality"]


def test_a_wrong_derivative_is_caught():
    class Detached(Wrong):
        f = L1()

        def prox(self, x, tau=1.0):
            return self.f.prox(x.detach(), tau)

    class WithoutTau(Wrong):
        f = L1()

        def prox(self, x, tau=1.0):
            return self.f.prox(x, tau.detach() if isinstance(tau, torch.Tensor) else tau)

    x = torch.tensor(np.random.default_rng(0).standard_normal((8, 6)) * 2)
    for kind, text in ((Detached, "with respect to x"), (WithoutTau, "with respect to tau")):
        failed = check_prox(kind(), x, raises=False).failed
        assert [f.name for f in failed] == ["derivatives"] and text in failed[0].wrong


def test_the_report_and_the_error():
    report = check_prox(L1())
    assert not report.failed and "ok     optimality" in str(report)
    with pytest.raises(CheckFailed) as error:
        check_prox(RidgeWithoutTheHalf())
    assert isinstance(error.value, (CvxlayersError, AssertionError)) and error.value.report.failed
    assert str(pickle.loads(pickle.dumps(CheckFailed("text", report)))) == "text"


def test_a_function_of_ones_own():
    f = Wrapped(lambda x, tau: x / (1 + tau), lambda x: (x**2).sum(-1) / 2)
    assert not check_prox(f).failed
    assert not check_prox((2 * f).translate(np.arange(6.0))).failed
    assert not check_prox(f, torch.tensor(np.random.default_rng(0).standard_normal((5, 6)))).failed
    wrong = Wrapped(lambda x, tau: x / (1 + 2 * tau), lambda x: (x**2).sum(-1) / 2)
    assert check_prox(wrong, raises=False).failed
