"""torch.compile of modules with layers and proximal operators in them: the same numbers, compiled once."""

from __future__ import annotations

import cvxpy as cp
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from cvxlayers.prox import L1, L2Ball
from cvxlayers.solvers.interior_point import Native
from cvxlayers.torch import CvxpyLayer


class Portfolio(torch.nn.Module):
    """A linear map, a layer, and another map; also the optimal value."""

    def __init__(self, solver) -> None:
        super().__init__()
        x, mu, root = cp.Variable(3), cp.Parameter(3), cp.Parameter((3, 3))
        problem = cp.Problem(cp.Minimize(cp.sum_squares(root @ x) - mu @ x), [cp.sum(x) == 1, x >= 0])
        self.layer = CvxpyLayer(problem, [mu, root], [x], solver=solver)
        self.first, self.last = (torch.nn.Linear(a, b, dtype=torch.float64) for a, b in ((4, 3), (3, 2)))
        self.root = torch.nn.Parameter(torch.eye(3, dtype=torch.float64) + 0.1)

    def forward(self, u):
        result = self.layer.solve(torch.tanh(self.first(u)), self.root)
        return torch.sin(self.last(result.variables[0])) + result.objective[:, None]


class Denoiser(torch.nn.Module):
    """Proximal operators with learned step sizes, between linear maps."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 3, dtype=torch.float64)
        self.tau = torch.nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
        self.sparse, self.ball = L1(), L2Ball(1.0)

    def forward(self, u):
        v = self.sparse.prox(self.first(u), torch.nn.functional.softplus(self.tau))
        return self.ball.project(torch.sin(v))


MODULES = {
    "host": lambda: Portfolio(None),
    "native": lambda: Portfolio(Native(compiled=False)),
    "prox": Denoiser,
}


# Of the compiler itself, about what it does on its way through other modules.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning")
@pytest.mark.parametrize("name", MODULES)
def test_values_and_gradients(name):
    """As without compilation, for every call; after the second call nothing is compiled."""
    torch.manual_seed(0)
    module = MODULES[name]()
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(module, backend=counter)
    counts = []
    for _ in range(4):
        u = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
        found = []
        for f in (module, compiled):
            inputs = (u, *module.parameters())
            out = f(u)
            found.append((out.detach(), *torch.autograd.grad(out.square().sum(), inputs)))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        counts.append(counter.frame_count)
    assert counts[0] and counts[1] == counts[3]
