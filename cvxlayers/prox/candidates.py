"""A search for points that cost less than a claimed minimizer: random restarts, structured guesses, random descent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Cost = Callable[[np.ndarray], np.ndarray]


def best_found(
    cost: Cost,
    x: np.ndarray,
    p: np.ndarray,
    others: list[np.ndarray],
    prox: Callable[[np.ndarray], np.ndarray],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """The least cost that was found for every sample, and where; all arrays (samples, *shape).

    ``p`` is the claimed minimizer, ``others`` further points of the domain, ``prox`` maps into the domain.
    """
    best, point = cost(p), p.copy()

    def look(y: np.ndarray) -> None:
        nonlocal best, point
        found = cost(y)
        better = found < best  # false for NaN
        best = np.where(better, found, best)
        point = np.where(better.reshape(-1, *[1] * (x.ndim - 1)), y, point)

    for y in structured(x, p, others):
        look(y)
    for scale in (0.01, 0.1, 0.3, 1.0, 3.0):
        look(prox(scale * x))
        for _ in range(3):
            look(prox(p + scale * real_view(rng.standard_normal, x)))
            look(scale * real_view(rng.standard_normal, x) * np.abs(x).max(initial=0))
    # Descent from the best point: along all entries, along one, and inside the domain by the prox itself.
    size = x[0].size
    for step in np.geomspace(1.0, 1e-5, 12):
        for trial in range(12):
            move = step * real_view(rng.standard_normal, x)
            if trial % 3 == 1:
                one = np.zeros((len(x), size), bool)
                one[np.arange(len(x)), rng.integers(size, size=len(x))] = True
                move = move * one.reshape(x.shape)
            y = point + move
            look(prox(y) if trial % 3 == 2 else y)
            look(point + step * (trial - 6) / 6 * (x - point))
    return best, point


def structured(x: np.ndarray, p: np.ndarray, others: list[np.ndarray]):
    """x, 0, scaled and sparse versions of x and of p, points between them, and the points of the other samples."""
    yield x
    yield 0 * x
    for share in (-0.2, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.01, 1.1, 1.5):
        yield p + share * (x - p)
        yield share * x
        yield share * p
    for y in others:
        yield y
        for k in range(1, min(len(x), 4)):
            yield np.roll(y, k, axis=0)
    flat = x.reshape(len(x), -1)
    order = np.argsort(-np.abs(flat), axis=1)
    for kept in range(1, min(flat.shape[1], 8) + 1):
        mask = np.zeros(flat.shape, bool)
        np.put_along_axis(mask, order[:, :kept], True, axis=1)
        mask = mask.reshape(x.shape)
        yield np.where(mask, x, 0)
        yield np.where(mask, p, 0)
        yield np.where(mask, x, p)


def real_view(draw: Callable[..., np.ndarray], like: np.ndarray) -> np.ndarray:
    """Random numbers of the shape of ``like``, complex if it is complex."""
    values = draw(like.shape)
    return values + 1j * draw(like.shape) if np.iscomplexobj(like) else values
