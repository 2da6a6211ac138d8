"""A layer sent to spawned processes, before and after it was used, and used in the workers of a DataLoader."""

import multiprocessing

import cvxpy as cp
import torch
from torch.utils.data import DataLoader, Dataset

from cvxlayers.torch import CvxpyLayer


def box() -> CvxpyLayer:
    x, p = cp.Variable(3), cp.Parameter(3)
    return CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0, x <= 1]), [p], [x])


def differentiate(layer: CvxpyLayer, values: list) -> tuple[list, list]:
    torch.set_num_threads(1)
    p = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    (x,) = layer(p)
    x.square().sum().backward()
    return x.tolist(), p.grad.tolist()


class Projected(Dataset):
    def __init__(self, layer: CvxpyLayer) -> None:
        self.layer = layer

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.layer(torch.full((3,), i - 1.5))[0]


def main() -> None:
    layer = box()
    jobs = [(layer, [[0.5, -1.0, 2.0]] * k) for k in (1, 3)]
    expected = [differentiate(*job) for job in jobs]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.starmap(differentiate, jobs) == expected
    batch = next(iter(DataLoader(Projected(layer), 4, num_workers=1, multiprocessing_context="spawn")))
    assert torch.allclose(batch[:, 0], torch.tensor([0.0, 0.0, 0.5, 1.0]), atol=1e-6)
    print("done")


if __name__ == "__main__":
    main()
