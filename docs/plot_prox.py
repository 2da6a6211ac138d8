"""Draw the pictures of the pages on proximal operators into docs/images/."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from cvxlayers import prox

IMAGES = Path(__file__).parent / "images"
X = np.linspace(-4, 4, 801)


def save(figure: plt.Figure, name: str) -> None:
    IMAGES.mkdir(exist_ok=True)
    figure.tight_layout()
    figure.savefig(IMAGES / f"prox_{name}.png", dpi=80, pil_kwargs={"optimize": True})
    plt.close(figure)
    print(f"wrote docs/images/prox_{name}.png")


def curves(name: str, families: dict[str, dict[str, prox.Prox]]) -> None:
    """Values above, proxes below, one entry at a time; a jump of the prox is left open."""
    figure, axes = plt.subplots(2, len(families), figsize=(4 * len(families), 5.2), sharex=True, squeeze=False)
    for column, (title, operators) in enumerate(families.items()):
        for label, f in operators.items():
            value, y = f(X[:, None]), f.prox(X[:, None])[:, 0]
            y[1:][np.abs(np.diff(y)) > 0.2] = np.nan
            axes[0, column].plot(X, np.where(value < 6, value, np.nan))
            axes[1, column].plot(X, y, label=label)
        axes[1, column].plot(X, X, color="0.8", zorder=0, linewidth=1)
        axes[0, column].set_title(title)
        axes[1, column].legend(fontsize=6, loc="lower right")
        axes[0, column].set_ylabel("f(x)")
        axes[1, column].set_ylabel("prox(x)")
        axes[1, column].set_xlabel("x")
    save(figure, name)


def arrows(name: str, operators: dict[str, prox.Prox]) -> None:
    """The prox in the plane: an arrow from x to prox(x)."""
    side = np.linspace(-2, 2, 9)
    x = np.stack(np.meshgrid(side, side), -1)
    figure, axes = plt.subplots(2, len(operators) // 2, figsize=(8, 5.6))
    fine = np.linspace(-2.2, 2.2, 200)
    grid = np.stack(np.meshgrid(fine, fine), -1)
    for axis, (title, f) in zip(axes.flat, operators.items(), strict=True):
        axis.contour(fine, fine, f(grid), 8, colors="0.85", linewidths=0.7)
        y = f.prox(x)
        axis.quiver(
            x[..., 0], x[..., 1], *np.moveaxis(y - x, -1, 0), angles="xy", scale_units="xy", scale=1, width=6e-3
        )
        axis.set(title=title, aspect="equal", xticks=(), yticks=())
    save(figure, name)


def deblur() -> None:
    """A blurred image, and the prox of the least squares term that undoes the blur."""
    n, k = 96, 9
    rows, columns = np.mgrid[:n, :n]
    image = ((rows - 40) ** 2 + (columns - 50) ** 2 < 600) * 0.7 + (abs(rows - 70) < 8) * (abs(columns - 40) < 30) * 0.5
    kernel = np.zeros((n, n))
    kernel[:k, :k] = np.hanning(k + 2)[1:-1, None] * np.hanning(k + 2)[1:-1]
    spectrum = np.fft.fft2(np.roll(kernel / kernel.sum(), (-(k // 2), -(k // 2)), (0, 1)))

    def blur(x: np.ndarray) -> np.ndarray:
        return np.fft.ifft2(np.fft.fft2(x) * spectrum).real

    def adjoint(y: np.ndarray) -> np.ndarray:
        return np.fft.ifft2(np.fft.fft2(y) * spectrum.conj()).real

    seen = blur(image) + 0.005 * np.random.default_rng(0).standard_normal((n, n))
    f = prox.LeastSquaresOperator(blur, adjoint, seen, dim=(-2, -1))
    sharp = f.prox(seen, 100.0)
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.2))
    pictures = {"x = b, blurred": seen, "prox(x), tau = 100": sharp, "the truth": image}
    for axis, (title, shown) in zip(axes, pictures.items(), strict=True):
        axis.imshow(shown, cmap="gray", vmin=0, vmax=1.2)
        axis.set(title=title, xticks=(), yticks=())
    save(figure, "fidelity")


if __name__ == "__main__":
    curves(
        "penalties",
        {
            "convex": {
                "L1()": prox.L1(),
                "Ridge()": prox.Ridge(),
                "ElasticNet()": prox.ElasticNet(),
                "Huber(delta=0.5)": prox.Huber(delta=0.5),
                "Quantile(level=0.75)": prox.Quantile(level=0.75),
            },
            "not convex": {
                "L0()": prox.L0(),
                "Lq(q=1/2)": prox.Lq(q=0.5),
                "Lq(q=2/3)": prox.Lq(q=2 / 3),
                "LogSum(epsilon=1.5)": prox.LogSum(epsilon=1.5),
            },
            "not convex, flat ends": {
                "MCP()": prox.MCP(),
                "SCAD()": prox.SCAD(),
                "TruncatedQuadratic(threshold=2)": prox.TruncatedQuadratic(threshold=2.0),
            },
        },
    )
    curves(
        "losses",
        {
            "classification, label = 1": {
                "Hinge()": prox.Hinge(),
                "SquaredHinge()": prox.SquaredHinge(),
                "Logistic()": prox.Logistic(),
            },
            "counts, barriers": {
                "Poisson(count=2)": prox.Poisson(count=2.0),
                "LogBarrier()": prox.LogBarrier(),
                "Entropy()": prox.Entropy(),
            },
        },
    )
    arrows(
        "norms",
        {
            "L1": prox.L1(0.7),
            "L2": prox.L2(0.7),
            "LInfinity": prox.LInfinity(0.7),
            "Max": prox.Max(0.7),
            "L1MinusL2": prox.L1MinusL2(0.7),
            "SLOPE": prox.SLOPE(np.array([1.0, 0.3])),
        },
    )
    deblur()
    f = prox.L1()
    curves(
        "calculus",
        {
            "f = L1()": {"f": f, "f.translate(1)": f.translate(1.0), "f.tilt(0.5)": f.tilt(0.5)},
            "smoothed": {"f.moreau_envelope(1)": f.moreau_envelope(1.0), "f.regularize(1)": f.regularize(1.0)},
            "sums and conjugates": {"f + Box(-1, 2)": f + prox.Box(-1.0, 2.0), "f.conjugate()": f.conjugate()},
        },
    )
