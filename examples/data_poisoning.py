"""Data poisoning: how should an attacker move the training points to raise the test loss the most?

A logistic regression with elastic net is fitted to training points x_i with labels y_i in {0, 1},

    minimize  (1/n) sum_i log(1 + exp(a'x_i + b)) - y_i (a'x_i + b)  +  0.1 ||a||_1 + 0.1 ||a||_2^2.

The layer maps the training points to (a, b). The gradient of the test loss with respect to the points says where to
move each of them: by 0.01 sign(gradient), if no entry may move by more than 0.01. To first order the test loss then
rises by 0.01 ||gradient||_1.

The claims, checked at the end: the gradient agrees with central differences to 1e-6, and refitting on the poisoned
points raises the test loss as predicted, up to 5 percent.

Source: Agrawal, Amos, Barratt, Boyd, Diamond and Kolter, Differentiable Convex Optimization Layers, NeurIPS 2019,
section 6.1, https://arxiv.org/abs/1910.12430.
"""

from __future__ import annotations

from pathlib import Path

import cvxpy as cp
import matplotlib
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from cvxlayers.torch import CvxpyLayer

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 (the backend comes first)

OUTPUT = Path(__file__).parent / "output"
POINTS, RADIUS = 30, 0.01
# Solve tightly, so that central differences see the derivative and not the tolerance.
TOLERANCE = 1e-11


def two_blobs(rng):
    """30 points of two overlapping classes."""
    labels = np.arange(POINTS) % 2
    centers = np.where(labels[:, None] == 0, 2.0, -2.0)
    return torch.as_tensor(centers + 3.0 * rng.standard_normal((POINTS, 2))), torch.as_tensor(
        labels, dtype=torch.float64
    )


def logistic_regression(labels):
    """A layer from points (*batch, 30, 2) to coefficients (*batch, 2) and intercept (*batch)."""
    X = cp.Parameter((POINTS, 2))
    a, b = cp.Variable(2), cp.Variable()
    scores = X @ a + b
    loss = cp.sum(cp.logistic(scores) - cp.multiply(labels.numpy(), scores)) / POINTS
    problem = cp.Problem(cp.Minimize(loss + 0.1 * cp.norm1(a) + 0.1 * cp.sum_squares(a)))
    return CvxpyLayer(problem, [X], [a, b], solver_args={"eps": TOLERANCE})


def central_differences(loss, X, step=1e-4):
    """The gradient of loss at X from two batches of refits, 60 points moved forwards and 60 backwards."""
    moves = step * torch.eye(X.numel(), dtype=X.dtype).reshape(-1, *X.shape)
    with torch.no_grad():
        forwards, backwards = (loss(X + sign * moves) for sign in tqdm((1, -1), desc="central differences"))
    return ((forwards - backwards) / (2 * step)).reshape(X.shape)


def draw(path, X, labels, gradient, lines):
    """Training points, the gradient at each of them, and the decision lines."""
    figure, axes = plt.subplots(figsize=(6, 6), layout="constrained")
    for label, color in ((0, "tab:blue"), (1, "tab:orange")):
        axes.scatter(*X[labels == label].T, color=color, label=f"class {label}", zorder=2)
    arrows = gradient / np.abs(gradient).max() * 3.0
    axes.quiver(*X.T, *arrows.T, angles="xy", scale_units="xy", scale=1, width=0.004, zorder=3)
    first = np.linspace(X[:, 0].min() - 3, X[:, 0].max() + 3, 2)
    for name, (a, b), style in lines:
        axes.plot(first, -(a[0] * first + b) / a[1], style, label=name)
    axes.set(xlim=first, ylim=(X[:, 1].min() - 3, X[:, 1].max() + 3), title="Where to move the training points")
    axes.legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    rng = np.random.default_rng(0)
    (X, y), (X_test, y_test) = two_blobs(rng), two_blobs(rng)
    fit = logistic_regression(y)

    def test_loss(X):
        a, b = fit(X)
        scores = torch.einsum("sf,...f->...s", X_test, a) + b[..., None]
        return (torch.nn.functional.softplus(scores) - y_test * scores).mean(-1)

    X.requires_grad_()
    loss = test_loss(X)
    (gradient,) = torch.autograd.grad(loss, X)
    X = X.detach()
    clean = loss.item()
    predicted = RADIUS * gradient.abs().sum().item()
    poisoned = X + RADIUS * gradient.sign()
    actual = test_loss(poisoned).item() - clean
    error = (gradient - central_differences(test_loss, X)).abs().max().item() / gradient.abs().max().item()

    table = Table(title="Data poisoning")
    table.add_column("quantity")
    table.add_column("value", justify="right")
    table.add_row("test loss, clean points", f"{clean:.6f}")
    table.add_row("predicted rise for moves of 0.01", f"{predicted:.6f}")
    table.add_row("rise after refitting", f"{actual:.6f}")
    table.add_row("gradient against central differences", f"{error:.1e}")
    Console().print(table)

    far = X + 100 * RADIUS * gradient.sign()
    with torch.no_grad():
        fits = {name: [v.numpy() for v in fit(points)] for name, points in (("clean", X), ("far", far))}
    lines = (("fitted to the clean points", fits["clean"], "k-"), ("after moves of 1.0", fits["far"], "r--"))
    path = OUTPUT / "data_poisoning.png"
    draw(path, X.numpy(), y.numpy(), gradient.numpy(), lines)
    print(f"picture: {path}")

    assert error < 1e-6, "the gradient disagrees with central differences"
    assert actual > 0 and abs(actual / predicted - 1) < 0.05, "the test loss did not rise as predicted"


if __name__ == "__main__":
    main()
