"""Draw the pictures of the pages on sets and on spectral operators into docs/images/."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from cvxlayers import prox

IMAGES = Path(__file__).parent / "images"


def save(figure: plt.Figure, name: str) -> None:
    IMAGES.mkdir(exist_ok=True)
    figure.tight_layout()
    figure.savefig(IMAGES / f"prox_{name}.png", dpi=80, pil_kwargs={"optimize": True})
    plt.close(figure)
    print(f"wrote docs/images/prox_{name}.png")


def sets() -> None:
    """Points of the plane, and where they go."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    x = np.concatenate([r * np.stack([np.cos(angle), np.sin(angle)], -1) for r in (0.45, 1.9)])
    side = np.linspace(-2.2, 2.2, 120)
    fill = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    triangle = prox.Polyhedron(np.array([[-1.0, 0.3], [0.2, -1.0], [1.0, 1.0]]), np.array([0.5, 0.6, 0.8]))
    shown = {
        "L1Ball()": prox.L1Ball(),
        "L2Ball()": prox.L2Ball(),
        "LInfinityBall(0.8)": prox.LInfinityBall(0.8),
        "Simplex()": prox.Simplex(),
        "Halfspace([1, 2], 0)": prox.Halfspace(np.array([1.0, 2.0])),
        "Polyhedron(G, h)": triangle,
        "L0Ball(1)": prox.L0Ball(1),
        'NormEpigraph("l1")': prox.NormEpigraph("l1"),
    }
    figure, axes = plt.subplots(2, 4, figsize=(10, 5.2))
    for axis, (title, f) in zip(axes.flat, shown.items(), strict=True):
        axis.plot(*f.prox(fill).T, ".", color="0.8", markersize=2)
        y = f.prox(x)
        axis.quiver(*x.T, *(y - x).T, angles="xy", scale_units="xy", scale=1, width=5e-3, color="C0")
        axis.plot(*y.T, "o", color="C3", markersize=3)
        axis.set(title=title, aspect="equal", xticks=(), yticks=(), xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
    save(figure, "sets")


def spectral() -> None:
    """An image of low rank with noise, and what the operators make of it and of its singular values."""
    rng = np.random.default_rng(0)
    u = np.sign(np.sin(np.outer(np.arange(60), [0.2, 0.11, 0.35])))
    v = np.sign(np.sin(np.outer(np.arange(80), [0.13, 0.3, 0.07])))
    noisy = u @ v.T + 1.2 * rng.standard_normal((60, 80))
    made = {
        "noisy": noisy,
        "NuclearNorm(18)": prox.NuclearNorm(18.0).prox(noisy),
        "RankBall(3)": prox.RankBall(3).project(noisy),
        "WeightedNuclearNorm": prox.WeightedNuclearNorm(np.concatenate([np.zeros(3), np.full(57, 14.0)])).prox(noisy),
    }
    figure, axes = plt.subplots(2, 4, figsize=(10, 4.4))
    for column, (title, image) in enumerate(made.items()):
        axes[0, column].imshow(image, cmap="gray", vmin=-3, vmax=3)
        axes[0, column].set(title=title, xticks=(), yticks=())
        axes[1, column].bar(np.arange(12), np.linalg.svd(image, compute_uv=False)[:12], color=f"C{column}")
        axes[1, column].set(ylim=(0, 80), xlabel="singular values")
    save(figure, "spectral")


if __name__ == "__main__":
    sets()
    spectral()
