"""Data poisoning: how should an attacker move the training points to raise the test loss the most?

A logistic regression with elastic net is fitted to training points x_i with labels y_i in {0, 1},

    minimize  (1/n) sum_i log(1 + exp(a'x_i + b)) - y_i (a'x_i + b)  +  0.1 ||a||_1 + 0.1 ||a||_2^2.

The layer maps the training points to (a, b). The gradient of the test loss with respect to the points says where to
move each of them: by 0.01 sign(gradient), if no entry may move by more than 0.01. To first order the test loss then
rises by 0.01 ||gradient||_1. The attack takes 100 such steps, with a new gradient in each.

The claims, checked at the end: refitting after one step raises the test loss as predicted, up to 5 percent; the slope
along the step agrees with a central difference to 1e-3; all steps together raise the test loss at least ten times
as much as steps of the same size in random directions.

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
POINTS, RADIUS, STEPS = 30, 0.01, 100


def two_blobs(rng):
    """30 points of two overlapping classes."""
    labels = np.arange(POINTS) % 2
    points = np.where(labels[:, None] == 0, 2.0, -2.0) + 3.0 * rng.standard_normal((POINTS, 2))
    return torch.as_tensor(points), torch.as_tensor(labels, dtype=torch.float64)


def logistic_regression(labels):
    """A layer from points (*batch, 30, 2) to coefficients (*batch, 2) and intercept (*batch)."""
    X = cp.Parameter((POINTS, 2))
    a, b = cp.Variable(2), cp.Variable()
    scores = X @ a + b
    loss = cp.sum(cp.logistic(scores) - cp.multiply(labels.numpy(), scores)) / POINTS
    problem = cp.Problem(cp.Minimize(loss + 0.1 * cp.norm1(a) + 0.1 * cp.sum_squares(a)))
    return CvxpyLayer(problem, [X], [a, b])


def draw(path, X, labels, gradient, lines, curves):
    """The training points with the gradient at each of them, and the test loss of the attack."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    for label, color in ((0, "tab:blue"), (1, "tab:orange")):
        left.scatter(*X[labels == label].T, color=color, label=f"class {label}", zorder=2)
    arrows = gradient / np.abs(gradient).max() * 3.0
    left.quiver(*X.T, *arrows.T, angles="xy", scale_units="xy", scale=1, width=0.004, zorder=3)
    first = np.linspace(X[:, 0].min() - 3, X[:, 0].max() + 3, 2)
    for name, (a, b), style in lines:
        left.plot(first, -(a[0] * first + b) / a[1], style, label=name)
    left.set(xlim=first, ylim=(X[:, 1].min() - 3, X[:, 1].max() + 3), title="Where to move the training points")
    left.legend()
    for name, losses in curves.items():
        right.plot(RADIUS * np.arange(len(losses)), losses, label=name)
    right.set(xlabel="how far each entry may move", ylabel="test loss", title="The attack")
    right.legend()
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

    def gradient_of_test_loss(X):
        X = X.clone().requires_grad_()
        loss = test_loss(X)
        return loss.item(), *torch.autograd.grad(loss, X)

    clean, gradient = gradient_of_test_loss(X)
    predicted = RADIUS * gradient.abs().sum().item()
    step = RADIUS * gradient.sign()
    forwards, backwards = test_loss(torch.stack([X + step, X - step])).tolist()  # a batch of two fits
    rise, central = forwards - clean, (forwards - backwards) / 2

    poisoned, curves = X, {"attack": [clean], "random moves": [clean]}
    shuffled = X
    for _ in tqdm(range(STEPS), desc="attack"):
        poisoned = poisoned + RADIUS * gradient_of_test_loss(poisoned)[1].sign()
        shuffled = shuffled + RADIUS * torch.as_tensor(rng.choice([-1.0, 1.0], size=X.shape))
        for name, loss in zip(curves, test_loss(torch.stack([poisoned, shuffled])).tolist(), strict=True):
            curves[name].append(loss)

    rises = {name: losses[-1] - clean for name, losses in curves.items()}
    table = Table(title="Data poisoning")
    table.add_column("test loss")
    table.add_column("value", justify="right")
    table.add_row("fitted to the clean points", f"{clean:.6f}")
    table.add_row("predicted rise after one step of 0.01", f"{predicted:.6f}")
    table.add_row("rise after refitting", f"{rise:.6f}")
    table.add_row("half of the central difference", f"{central:.6f}")
    table.add_row(f"rise after {STEPS} steps", f"{rises['attack']:.6f}")
    table.add_row(f"rise after {STEPS} random steps", f"{rises['random moves']:.6f}")
    Console().print(table)

    with torch.no_grad():
        a, b = (v.numpy() for v in fit(torch.stack([X, poisoned])))
    lines = (("fitted to the clean points", (a[0], b[0]), "k-"), ("after the attack", (a[1], b[1]), "r--"))
    path = OUTPUT / "data_poisoning.png"
    draw(path, X.numpy(), y.numpy(), gradient.numpy(), lines, curves)
    print(f"picture: {path}")

    assert abs(rise / predicted - 1) < 0.05, "the test loss did not rise as predicted"
    assert abs(central / predicted - 1) < 1e-3, "the gradient disagrees with a central difference"
    assert rises["attack"] > 10 * abs(rises["random moves"]), "random moves do as much as the attack"


if __name__ == "__main__":
    main()
