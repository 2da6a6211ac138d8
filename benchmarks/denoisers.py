"""Total variation in other libraries: each as a function of the number of iterations, and its time to an accuracy.

Run in the environment of those libraries: ``python denoisers.py problem.npz [names]`` prints one line of JSON for each.
``problem.npz`` holds x, the weights of total variation and of the l1 norm, and the certified optimum.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
import warnings
from collections.abc import Callable

import numpy as np

LEVELS = (1e-3, 1e-4)
# Of one run; after that a library counts as not having got there.
MOST_SECONDS = float(os.environ.get("MOST_SECONDS", 4))
MOST_ITERATIONS = 50_000
Denoiser = Callable[[int], np.ndarray]


def proxtorch(x, weight, l1, device="cpu") -> Denoiser:
    import torch
    from proxtorch.operators import TVL1_2D, TVL1_3D

    total = weight + l1
    kind = {2: TVL1_2D, 3: TVL1_3D}[x.ndim]
    tensor = torch.tensor(x, device=device)

    def run(iterations):
        y = kind(total, l1_ratio=l1 / total, max_iter=iterations, tol=0.0).prox(tensor, 1.0)
        if device != "cpu":
            torch.cuda.synchronize()
        return y.cpu().numpy()

    return run


def nilearn(x, weight, l1) -> Denoiser:
    from nilearn.decoding._proximal_operators import prox_tvl1

    total = weight + l1
    return lambda iterations: prox_tvl1(
        x.copy(), l1_ratio=l1 / total, weight=total, dgap_tol=1e-15, max_iter=iterations, check_gap_frequency=iterations
    )[0]


def deepinv(x, weight, l1) -> Denoiser | None:
    import torch
    from deepinv.models import TVDenoiser

    if l1:
        return None
    tensor = torch.tensor(x)[None, None]

    def run(iterations):
        with torch.no_grad():
            return TVDenoiser(n_it_max=iterations, crit=0.0)(tensor, ths=weight)[0, 0].numpy()

    return run


def pyproximal(x, weight, l1) -> Denoiser | None:
    import pyproximal

    if l1:
        return None
    return lambda iterations: pyproximal.TV(x.shape, weight, iterations, 0.0).prox(x.ravel(), 1.0).reshape(x.shape)


def skimage(x, weight, l1) -> Denoiser | None:
    from skimage.restoration import denoise_tv_chambolle

    if l1:
        return None
    return lambda iterations: denoise_tv_chambolle(x, weight, eps=0.0, max_num_iter=iterations)


DENOISERS = {
    "proxtorch": proxtorch, "nilearn": nilearn, "deepinv": deepinv, "pyproximal": pyproximal, "skimage": skimage,
}  # fmt: skip
PACKAGES = {"skimage": "scikit-image"}


def times_to(run: Denoiser, optimum: np.ndarray, x: np.ndarray, levels=LEVELS, clock=time.process_time) -> dict:
    """Seconds to each relative error ||y - y*|| / ||x - y*||, with ever more iterations, and the best error.

    "path" has (iterations, seconds, error) of every run.
    """
    reached: dict[str, list | None] = {str(level): None for level in levels}
    path = []
    scale, best, iterations = np.linalg.norm(x - optimum), np.inf, 8
    run(2)
    while True:
        started = clock()
        y = run(iterations)
        seconds = clock() - started
        for _ in range(2 if seconds < 0.2 else 0):  # short runs again, the best counts
            started = clock()
            run(iterations)
            seconds = min(seconds, clock() - started)
        error = float(np.linalg.norm(y - optimum) / scale)
        best = min(best, error)
        path.append((iterations, float(f"{seconds:.4g}"), float(f"{error:.3g}")))
        for level in levels:
            if error <= level and reached[str(level)] is None:
                reached[str(level)] = [seconds, iterations]
        if error <= min(levels) or seconds > MOST_SECONDS or iterations > MOST_ITERATIONS:
            return {"reached": reached, "best error": best, "path": path}
        iterations = max(iterations + 2, int(iterations * 1.3))


def main() -> None:
    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    problem = np.load(sys.argv[1])
    x, optimum, weight, l1 = problem["x"], problem["optimum"], float(problem["weight"]), float(problem["l1"])
    for name in sys.argv[2:] or DENOISERS:
        try:
            run = DENOISERS[name](x, weight, l1)
            result = {} if run is None else times_to(run, optimum, x)
            result["version"] = importlib.metadata.version(PACKAGES.get(name, name))
        except Exception as error:  # a peer that fails is a result too
            result = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"name": name, **result}), flush=True)


if __name__ == "__main__":
    main()
