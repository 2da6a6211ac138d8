"""A layer that was used, with threads, before the process forked."""

import multiprocessing
import os

import cvxpy as cp
import torch

from cvxlayers.torch import CvxpyLayer


def work(layer: CvxpyLayer, p: torch.Tensor, queue) -> None:
    queue.put(layer(p)[0].tolist())


def main() -> None:
    torch.set_num_threads(1)
    x, p = cp.Variable(5), cp.Parameter(5)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.norm(x - p) + cp.norm1(x)), [x >= 0]), [p], [x])
    values = torch.linspace(-1, 1, 200 * 5, dtype=torch.float64).reshape(200, 5)
    expected = layer(values)[0].tolist()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=work, args=(layer, values, queue))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(timeout=60)
    assert child.exitcode == 0 and os.getpid()
    print("done")


if __name__ == "__main__":
    main()
