"""Approximate dynamic programming: learn a control policy that solves a convex problem in every step.

The system x_{t+1} = A x_t + B u_t + w_t, with two states and three inputs, is steered by the policy

    u(x) = argmin_u  (1/2) ||P u||^2 + (C'x + q)'u   subject to  ||u||_2 <= 1,

and pays ||x_t||^2 + ||u_t||^2 in every step. Gradient descent on P, C and q lowers the average cost of 8 rollouts of 25
steps each, which are one batch; the derivative passes through all 25 layers. The start is the linear-quadratic
regulator, which would be optimal without the bound on u.

The claim, checked at the end: the cost falls from 1.519 to 0.910 in 100 iterations, the figures that the source
publishes for seed 1.

Source: Agrawal, Amos, Barratt, Boyd, Diamond and Kolter, Differentiable Convex Optimization Layers, NeurIPS 2019,
section 6.2, https://arxiv.org/abs/1910.12430.
"""

from __future__ import annotations

from pathlib import Path

import cvxpy as cp
import matplotlib
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.linalg import solve_discrete_are, sqrtm
from tqdm import tqdm

from cvxlayers.torch import CvxpyLayer

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402 (the backend comes first)

OUTPUT = Path(__file__).parent / "output"
STATES, INPUTS, STEPS, ROLLOUTS, ITERATIONS = 2, 3, 25, 8, 100


def random_system():
    """A (2, 2) and B (2, 3), from the legacy generator because the published figures use it."""
    rng = np.random.RandomState(1)  # noqa: NPY002
    A = np.eye(STATES) + 1e-2 * rng.randn(STATES, STATES)
    return A, 1e-2 / 3 * rng.randn(STATES, INPUTS)


def random_disturbances():
    """w (steps, rollouts, states), drawn two numbers at a time: the order of the published run."""
    generator = torch.Generator().manual_seed(1)
    draws = [torch.randn(STATES, generator=generator) for _ in range(ROLLOUTS * STEPS)]
    return 0.2 * torch.stack(draws).double().reshape(ROLLOUTS, STEPS, STATES).transpose(0, 1)


def policy_layer():
    """P (3, 3) and c (*batch, 3) to the input u (*batch, 3)."""
    P, c = cp.Parameter((INPUTS, INPUTS)), cp.Parameter(INPUTS)
    u = cp.Variable(INPUTS)
    problem = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(P @ u) + c @ u), [cp.norm(u) <= 1])
    return CvxpyLayer(problem, [P, c], [u])


def rollout(policy, A, B, w, P, C, q):
    """Average cost over steps and rollouts, and the states (steps, rollouts, 2) on the way."""
    x, cost, states = torch.zeros(ROLLOUTS, STATES, dtype=torch.float64), 0.0, []
    for t in range(STEPS):
        states.append(x)
        (u,) = policy(P, x @ C + q)
        cost = cost + ((x**2).sum(1) + (u**2).sum(1)).mean() / STEPS
        x = x @ A.T + u @ B.T + w[t]
    return cost, torch.stack(states).detach()


def draw(path, costs, before, after):
    """The cost of each iteration, and the rollouts of the first and the last one."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(costs)
    left.set(xlabel="iteration", ylabel="average cost", title="Learning the policy")
    for states, color, name in ((before, "gray", "regulator, clipped"), (after, "tab:blue", "learned policy")):
        lines = right.plot(states[:, :, 0].numpy(), states[:, :, 1].numpy(), color=color, linewidth=1)
        lines[0].set_label(name)
    right.set(xlabel="first state", ylabel="second state", title="Eight rollouts")
    right.legend()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> None:
    A, B = random_system()
    value = solve_discrete_are(A, B, np.eye(STATES), np.eye(INPUTS))
    start = sqrtm(np.eye(INPUTS) + B.T @ value @ B).real, A.T @ value @ B, np.zeros(INPUTS)
    P, C, q = parameters = [torch.tensor(v, requires_grad=True) for v in start]
    A, B, w, policy = torch.as_tensor(A), torch.as_tensor(B), random_disturbances(), policy_layer()

    optimizer = torch.optim.SGD(parameters, lr=0.02, momentum=0.9)
    costs, first = [], None
    for _ in tqdm(range(ITERATIONS), desc="learning"):
        optimizer.zero_grad()
        cost, states = rollout(policy, A, B, w, P, C, q)
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
        first = states if first is None else first

    table = Table(title="Approximate dynamic programming")
    for column in ("iteration", "average cost", "published"):
        table.add_column(column, justify="right")
    for i, published in ((0, "1.519"), (ITERATIONS - 1, "0.910")):
        table.add_row(str(i), f"{costs[i]:.4f}", published)
    Console().print(table)

    path = OUTPUT / "dynamic_programming.png"
    draw(path, costs, first, states)
    print(f"picture: {path}")

    assert abs(costs[0] - 1.519) < 1e-3, "the cost of the regulator differs from the published one"
    assert abs(costs[-1] - 0.910) < 1e-3, "the cost of the learned policy differs from the published one"


if __name__ == "__main__":
    main()
