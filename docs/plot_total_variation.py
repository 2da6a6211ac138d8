"""Draw the pictures of the page on total variation into docs/images/."""

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


def images() -> None:
    """A noisy image of steps and a slope, and what total variation makes of it."""
    rng = np.random.default_rng(0)
    row, column = np.mgrid[:64, :64] / 64.0
    clean = 1.0 * ((row - 0.35) ** 2 + (column - 0.35) ** 2 < 0.06) + np.where(row + column > 1.1, column, 0.0)
    noisy = clean + 0.15 * rng.standard_normal(clean.shape)
    shown = {
        "noisy": noisy,
        "TotalVariation(0.2)": prox.TotalVariation(0.2).prox(noisy),
        "isotropic=False": prox.TotalVariation(0.2, isotropic=False).prox(noisy),
        "TotalVariation(0.2, l1=0.1)": prox.TotalVariation(0.2, l1=0.1).prox(noisy),
        "TotalGeneralizedVariation(0.2)": prox.TotalGeneralizedVariation(0.2, tol=1e-4).prox(noisy),
    }
    figure, axes = plt.subplots(1, len(shown), figsize=(13, 3))
    for axis, (title, image) in zip(axes, shown.items(), strict=True):
        axis.imshow(image, cmap="gray", vmin=-0.2, vmax=1.2)
        axis.set(title=title, xticks=(), yticks=())
    save(figure, "total_variation")


def signals() -> None:
    """A noisy signal, and the operators along one axis."""
    rng = np.random.default_rng(1)
    clean = np.repeat([0.0, 0.0, 1.5, 0.6, 2.0], 40)
    noisy = clean + 0.3 * rng.standard_normal(clean.size)
    shown = {
        "TotalVariation1D(2.0)": prox.TotalVariation1D(2.0),
        "FusedLasso(2.0, l1=0.3)": prox.FusedLasso(2.0, l1=0.3),
        "Monotone()": prox.Monotone(),
    }
    figure, axes = plt.subplots(1, len(shown), figsize=(12, 3), sharey=True)
    for axis, (title, f) in zip(axes, shown.items(), strict=True):
        axis.plot(noisy, ".", color="0.7", markersize=3)
        axis.plot(clean, color="C0", linewidth=1, label="true")
        axis.plot(f.prox(noisy), color="C3", label="prox")
        axis.set(title=title, xticks=())
    axes[0].legend(frameon=False)
    save(figure, "one_dimensional")


if __name__ == "__main__":
    images()
    signals()
