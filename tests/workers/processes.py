"""Layers in other processes: forked, spawned, the workers of a DataLoader, and DistributedDataParallel over two.

One script for all of them: a process that starts anew takes seconds to import the frameworks.
"""

import multiprocessing
import os
import socket

import cvxpy as cp
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

from cvxlayers.torch import CvxpyLayer


def box() -> CvxpyLayer:
    x, p = cp.Variable(3), cp.Parameter(3)
    return CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0, x <= 1]), [p], [x])


def send(layer: CvxpyLayer, p: torch.Tensor, queue) -> None:
    queue.put(layer(p)[0].tolist())


def forked() -> None:
    """A layer that was used, with threads, before the process forked."""
    x, p = cp.Variable(5), cp.Parameter(5)
    layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.norm(x - p) + cp.norm1(x)), [x >= 0]), [p], [x])
    values = torch.linspace(-1, 1, 200 * 5, dtype=torch.float64).reshape(200, 5)
    expected = layer(values)[0].tolist()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=send, args=(layer, values, queue))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(timeout=60)
    assert child.exitcode == 0 and os.getpid()


def differentiate(layer: CvxpyLayer, values: list) -> tuple[list, list]:
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


def work(rank: int, port: int, jobs: list, expected: list) -> None:
    """In a spawned process: layers that were sent to it, and then half of a batch."""
    torch.set_num_threads(1)
    assert [differentiate(*job) for job in jobs] == expected
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    got = gradients(DistributedDataParallel(Model()), batch()[4 * rank : 4 * rank + 4])
    for a, b in zip(got, gradients(Model(), batch()), strict=True):
        assert torch.allclose(a, b, atol=1e-6), (a, b)
    dist.destroy_process_group()


def main() -> None:
    torch.set_num_threads(1)
    forked()
    print("forked")
    fresh, used = box(), box()
    values = [[[0.5, -1.0, 2.0]] * k for k in (1, 3)]
    expected = [differentiate(used, v) for v in values]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    jobs = [(layer, v) for layer in (fresh, used) for v in values]
    spawned = mp.spawn(work, (port, jobs, expected * 2), nprocs=2, join=False)
    loaded = next(iter(DataLoader(Projected(used), 4, num_workers=1, multiprocessing_context="spawn")))
    assert torch.allclose(loaded[:, 0], torch.tensor([0.0, 0.0, 0.5, 1.0]), atol=1e-6)
    print("data loader")
    while not spawned.join():
        pass
    print("spawned, distributed")


if __name__ == "__main__":
    main()
