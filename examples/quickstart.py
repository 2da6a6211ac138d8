"""Learn one lasso penalty per feature by gradient descent on a validation loss, in PyTorch and in JAX.

The layer maps penalties to coefficients,

    w(lam) = argmin_w  ||X w - y||^2 / n + sum_j lam_j |w_j|,

on the training part of the diabetes data of scikit-learn (442 patients, 10 features). The usual method gives every
feature the same penalty and searches a grid for the best one. Here gradient descent goes on from there: the derivative
of the validation loss passes through the argmin, and each feature gets a penalty of its own. All random splits of the
data are one batch. The coefficients have kinks where they become zero, and the descent likes to stop there: hence the
smoothed derivative.

The claims, checked at the end: the validation and the test error fall below those of the best single penalty, on
average over the splits, and PyTorch and JAX give the same penalties up to 1e-6.
"""

from __future__ import annotations

import time
from pathlib import Path

import cvxpy as cp
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_diabetes
from tqdm import tqdm

import cvxlayers.jax
import cvxlayers.torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 (the backend comes first)

jax.config.update("jax_enable_x64", True)  # float64, to compare with PyTorch

OUTPUT = Path(__file__).parent / "output"
SPLITS, TRAINING, STEPS, RATE, MOMENTUM = 16, 100, 60, 1.0, 0.9
GRID = np.geomspace(1e-3, 1.0, 30)
FEATURES = ("age", "sex", "bmi", "pressure", "s1", "s2", "s3", "s4", "s5", "s6")


def random_splits():
    """Training, validation and test parts: X (splits, samples, features) and y (splits, samples), standardized."""
    X, y = load_diabetes(return_X_y=True)
    orders = np.stack([np.random.default_rng(seed).permutation(len(y)) for seed in range(SPLITS)])
    X, y = X[orders], y[orders]
    mean, scale = X[:, :TRAINING].mean(1, keepdims=True), X[:, :TRAINING].std(1, keepdims=True)
    X = (X - mean) / scale
    y = (y - y[:, :TRAINING].mean(1, keepdims=True)) / y[:, :TRAINING].std(1, keepdims=True)
    middle = TRAINING + (y.shape[1] - TRAINING) // 2
    parts = slice(TRAINING), slice(TRAINING, middle), slice(middle, None)
    return [(X[:, part], y[:, part]) for part in parts]


def weighted_lasso(samples: int, features: int):
    """The problem, its parameters and its variables, written in CVXPY."""
    X, y = cp.Parameter((samples, features)), cp.Parameter(samples)
    penalty = cp.Parameter(features, nonneg=True)
    w = cp.Variable(features)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(X @ w - y) / samples + penalty @ cp.abs(w)))
    return problem, [X, y, penalty], [w]


def errors(w, part):
    """Mean squared error of each split; NumPy arrays."""
    X, y = part
    return ((np.einsum("bsf,bf->bs", X, w) - y) ** 2).mean(1)


def best_single_penalty(training, validation):
    """Search the grid: for each split, the penalty with the smallest validation error."""
    layer = cvxlayers.torch.CvxpyLayer(*weighted_lasso(*training[0].shape[1:]))
    scores = []
    for value in tqdm(GRID, desc="grid search"):
        (w,) = layer(*map(torch.as_tensor, training), torch.full((training[0].shape[2],), value, dtype=torch.float64))
        scores.append(errors(w.numpy(), validation))
    return GRID[np.argmin(scores, axis=0)]


def fit_torch(log_penalty, training, validation):
    """Gradient descent on the validation loss, in PyTorch. Returns log penalties, coefficients and losses."""
    layer = cvxlayers.torch.CvxpyLayer(*weighted_lasso(*training[0].shape[1:]), gradient="smoothed")
    (X, y), (X_val, y_val) = (tuple(map(torch.as_tensor, part)) for part in (training, validation))
    theta = torch.tensor(log_penalty, requires_grad=True)
    optimizer = torch.optim.SGD([theta], lr=RATE, momentum=MOMENTUM)
    losses = []
    for _ in tqdm(range(STEPS), desc="PyTorch"):
        optimizer.zero_grad()
        (w,) = layer(X, y, theta.exp())
        loss = ((torch.einsum("bsf,bf->bs", X_val, w) - y_val) ** 2).mean(1).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item() / SPLITS)
    with torch.no_grad():
        (w,) = layer(X, y, theta.exp())
    return theta.detach().numpy(), w.numpy(), losses


def fit_jax(log_penalty, training, validation):
    """The same in JAX."""
    layer = cvxlayers.jax.CvxpyLayer(*weighted_lasso(*training[0].shape[1:]), gradient="smoothed")
    (X, y), (X_val, y_val) = (tuple(map(jnp.asarray, part)) for part in (training, validation))

    def validation_loss(theta):
        (w,) = layer(X, y, jnp.exp(theta))
        return ((jnp.einsum("bsf,bf->bs", X_val, w) - y_val) ** 2).mean(1).sum()

    step = jax.jit(jax.value_and_grad(validation_loss))
    theta, velocity, losses = jnp.asarray(log_penalty), jnp.zeros(log_penalty.shape), []
    for _ in tqdm(range(STEPS), desc="JAX"):
        loss, gradient = step(theta)
        velocity = MOMENTUM * velocity + gradient
        theta = theta - RATE * velocity
        losses.append(float(loss) / SPLITS)
    (w,) = layer(X, y, jnp.exp(theta))
    return np.asarray(theta), np.asarray(w), losses


def draw(path, losses, start, penalties, before, after):
    """Validation loss, penalties, and test error of each split before and after."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    left.plot(losses, color="tab:blue")
    left.axhline(losses[0], color="gray", linestyle="--", label="best single penalty")
    left.set(xlabel="step", ylabel="validation error, mean over the splits", title="Descent through the argmin")
    left.legend()
    middle.boxplot(np.log10(penalties / start), tick_labels=FEATURES)
    middle.axhline(0, color="gray", linestyle="--")
    middle.tick_params(axis="x", rotation=60)
    middle.set(ylabel="log10(learned / single penalty)", title="One penalty per feature")
    low, high = min(before.min(), after.min()) - 0.02, max(before.max(), after.max()) + 0.02
    right.plot([low, high], [low, high], color="gray", linestyle="--")
    right.scatter(before, after, color="tab:blue")
    right.set(xlabel="test error, best single penalty", ylabel="test error, learned penalties")
    right.set_title(f"Better on {np.sum(after < before)} of {len(after)} splits")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    training, validation, test = random_splits()
    single = best_single_penalty(training, validation)
    start = np.repeat(np.log(single)[:, None], training[0].shape[2], axis=1)

    began = time.perf_counter()
    theta, w, losses = fit_torch(start, training, validation)
    torch_time, began = time.perf_counter() - began, time.perf_counter()
    jax_theta, jax_w, _ = fit_jax(start, training, validation)
    jax_time = time.perf_counter() - began

    layer = cvxlayers.torch.CvxpyLayer(*weighted_lasso(*training[0].shape[1:]))
    w_start = layer(*map(torch.as_tensor, training), torch.as_tensor(np.exp(start)))[0].numpy()

    table = Table(title=f"Diabetes data, mean over {SPLITS} splits")
    for column in ("", "validation error", "test error", "seconds"):
        table.add_column(column, justify="right" if column else "left")
    for name, coefficients, seconds in (
        ("best single penalty (grid of 30)", w_start, ""),
        ("learned penalties, PyTorch", w, f"{torch_time:.1f}"),
        ("learned penalties, JAX", jax_w, f"{jax_time:.1f}"),
    ):
        scores = (f"{errors(coefficients, part).mean():.4f}" for part in (validation, test))
        table.add_row(name, *scores, seconds)
    Console().print(table)

    path = OUTPUT / "quickstart.png"
    draw(path, losses, np.exp(start), np.exp(theta), errors(w_start, test), errors(w, test))
    difference = max(np.abs(theta - jax_theta).max(), np.abs(w - jax_w).max())
    print(f"largest difference between PyTorch and JAX: {difference:.1e}\npicture: {path}")

    assert errors(w, validation).mean() < errors(w_start, validation).mean(), "the validation error did not fall"
    assert errors(w, test).mean() < errors(w_start, test).mean(), "the test error did not fall"
    assert difference < 1e-6, "PyTorch and JAX differ"


if __name__ == "__main__":
    main()
