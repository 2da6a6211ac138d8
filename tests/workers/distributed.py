"""DistributedDataParallel over two processes gives the gradients of one process with the whole batch."""

import os
import socket

import cvxpy as cp
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from cvxlayers.torch import CvxpyLayer


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        x, p = cp.Variable(3), cp.Parameter(3)
        self.linear = torch.nn.Linear(2, 3)
        self.layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0, cp.sum(x) == 1]), [p], [x])

    def forward(self, v: torch.Tensor) -> torch.Tensor:
        return self.layer(self.linear(v))[0]


def batch() -> torch.Tensor:
    return torch.randn(8, 2, generator=torch.Generator().manual_seed(1))


def gradients(model: torch.nn.Module, v: torch.Tensor) -> list[torch.Tensor]:
    model(v).square().sum(-1).mean().backward()
    return [p.grad for p in model.parameters()]


def work(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    got = gradients(DistributedDataParallel(Model()), batch()[4 * rank : 4 * rank + 4])
    for a, b in zip(got, gradients(Model(), batch()), strict=True):
        assert torch.allclose(a, b, atol=1e-6), (a, b)
    dist.destroy_process_group()


def main() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(work, (port,), nprocs=2)
    print("done")


if __name__ == "__main__":
    main()
