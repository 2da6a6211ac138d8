"""The process in which one library runs on the GPU: reads one command per line, answers with one line of JSON each.

Started by gpu.py as `python gpu_worker.py LIBRARY DEVICE`. Matrices are those of: minimize (1/2) x'Px + q'x subject to
Ax + s = b, s in K. Every class gives ``forward()``, ``backward()`` (forward and gradients together) and ``result()``.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import problems
from scipy import sparse
from worker import measure

FIRST = 4  # elements that are compared with the reference


class Library:
    """A library on one case."""

    packages: tuple[str, ...] = ("torch",)

    def __init__(self, case: problems.Case, device: str) -> None:
        self.case, self.device = case, device
        self.build()
        self.synchronize()

    def build(self) -> None:
        """Put the data on the device and make the solver."""

    def synchronize(self) -> None:
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def forward(self):
        raise NotImplementedError

    def backward(self):
        raise NotImplementedError

    def result(self, forward, backward) -> dict[str, np.ndarray]:
        """What the two calls gave: x and gradients of the first elements, by name; residuals where z is known."""
        raise NotImplementedError

    def timed(self, mode: str):
        """A call that ends when the device has ended."""

        def call():
            found = getattr(self, mode)()
            self.synchronize()
            return found

        return call

    @property
    def solver(self) -> str:
        return ""

    def versions(self) -> dict[str, str]:
        found = {}
        for name in (*self.packages, "numpy"):
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
        return found


def tensors(values: dict[str, np.ndarray], device: str) -> dict:
    import torch

    return {name: torch.as_tensor(v, dtype=torch.float64, device=device) for name, v in values.items()}


def matrices(case: problems.Case) -> dict:
    """P, q, A, b (dense), the dimensions of the cones, and the matrix from x to the variable."""
    if case.program is not None and "A" in case.program:
        of = case.program
        found = {"q": of["p"], "b": np.concatenate([of["b"], of["h"]], axis=-1), "recover": None}
        found["cones"] = {"num_zero_cones": of["b"].shape[-1], "num_nonneg_cones": of["h"].shape[-1]}
        for name, dense in (("P", of["Q"]), ("A", np.concatenate([of["A"], of["G"]]))):
            pattern = sparse.csr_array((dense != 0).astype(float))
            found |= {name: dense, f"pattern_{name}": pattern, f"values_{name}": dense[pattern.nonzero()]}
        return found
    if case.program is not None:
        of = case.program
        cones = {"num_nonneg_cones": of["h"].shape[-1]}
        return {"P": of["Q"], "q": of["p"], "A": of["G"], "b": of["h"], "cones": cones, "recover": None}
    import canonical

    data = canonical.conic_data(case)
    found = {"q": data["q"], "b": data["b"], "cones": data["cones"], "recover": data["recover"]}
    for name in "PA":
        pattern = data[f"pattern_{name}"]
        rows, columns = pattern.nonzero()
        dense = np.zeros((*data[name].shape[:-1], *pattern.shape))
        dense[..., rows, columns] = data[name]
        found |= {name: dense, f"pattern_{name}": pattern, f"values_{name}": data[name]}
    return found


def by_column(pattern):
    """A pattern with its entries column by column."""
    order = np.lexsort((pattern.rows, pattern.cols))
    return type(pattern)(pattern.shape, pattern.rows[order], pattern.cols[order])


def by_name(case: problems.Case, grad_q, grad_b) -> dict:
    """Gradients of the right-hand sides of a quadratic program, by the names of its parts."""
    equations = case.program["b"].shape[-1] if "b" in case.program else 0
    found = {"p": grad_q, "h": grad_b[..., equations:]}
    return found | ({"b": grad_b[..., :equations]} if equations else {})


def residual(P, q, A, b, x, z, s) -> float:
    """The largest relative residual (primal, dual, gap) of a batch of tensors, in float64."""
    import torch

    def times(M, v):
        return (M @ v[..., None])[..., 0]

    def largest(*vectors):
        return torch.stack([v.norm(dim=-1) for v in torch.broadcast_tensors(*vectors)]).amax(0).clamp(min=1.0)

    Px, Ax, ATz = times(P, x), times(A, x), times(A.mT, z)
    terms = torch.stack(torch.broadcast_tensors((x * Px).sum(-1), (q * x).sum(-1), (b * z).sum(-1)))
    primal = (Ax + s - b).norm(dim=-1) / largest(Ax, s, b)
    dual = (Px + q + ATz).norm(dim=-1) / largest(Px, ATz, q)
    gap = terms.sum(0).abs() / terms.abs().amax(0).clamp(min=1.0)
    return float(torch.stack((primal, dual, gap)).amax().nan_to_num(torch.inf))


class Matrices(Library):
    """This project on dense tensors: the native solver and the linear system of the derivative."""

    packages = ("torch",)

    def build(self) -> None:
        import torch

        from cvxlayers.conic.program import ConeProgram, Pattern
        from cvxlayers.sets import Exponential, Nonnegative, PositiveSemidefinite, Product, SecondOrder, Zero
        from cvxlayers.solvers import Native
        from cvxlayers.solvers.interior_point import linear_solve, solve

        self.solve, self.linear_solve, self.native = solve, linear_solve, Native()
        data = matrices(self.case)
        self.data = tensors({name: data[name] for name in "PqAb"}, self.device)
        dims = data["cones"]
        blocks = [
            kind(dims[name])
            for kind, name in ((Zero, "num_zero_cones"), (Nonnegative, "num_nonneg_cones"))
            if dims.get(name)
        ]
        blocks += [SecondOrder(size) for size in dims.get("so_cone_dims", ())]
        blocks += [PositiveSemidefinite(k) for k in dims.get("psd_dims", ())]
        blocks += [Exponential()] * dims.get("num_exp_cones", 0)
        self.cone = Product(tuple(blocks))
        self.program = None
        if "pattern_A" in data:
            upper, rows = sparse.csc_array(sparse.triu(data["pattern_P"])), sparse.csc_array(data["pattern_A"])
            patterns = (Pattern(M.shape, *sparse.csc_array(M).nonzero()) for M in (upper, rows))
            self.program = ConeProgram(*(by_column(p) for p in patterns), self.cone)
        self.recover = None if data["recover"] is None else torch.as_tensor(data["recover"], device=self.device)
        n, batch = self.data["q"].shape[-1], self.case.batch
        weights = torch.ones(n, dtype=torch.float64, device=self.device)
        if self.recover is not None and self.case.weights is not None:
            weights = self.recover.mT @ torch.as_tensor(self.case.weights, device=self.device)
        self.upstream = weights.expand(batch, n).contiguous()
        self.nothing = torch.zeros((batch, self.cone.size), dtype=torch.float64, device=self.device)

    def forward(self):
        return self.solve(self.cone, *self.data.values(), self.native, self.program)

    def backward(self):
        P, q, A, b = self.data.values()
        out = self.solve(self.cone, P, q, A, b, self.native, self.program)
        wx, wz, _ = self.linear_solve(
            self.cone, P, A, out.z, out.s, -self.upstream, self.nothing, self.native, program=self.program
        )
        if P.ndim == 2 and A.ndim == 2 and self.recover is None:  # constants
            return out, (None, wx, None, -wz)
        outer = wx[..., :, None] * out.x[..., None, :]
        grad_P = 0.5 * (outer + outer.mT)
        grad_A = out.z[..., :, None] * wx[..., None, :] + wz[..., :, None] * out.x[..., None, :]
        return out, (grad_P, wx, grad_A, -wz)

    def result(self, forward, backward) -> dict[str, np.ndarray]:
        out, (_, grad_q, grad_A, grad_b) = backward
        x = out.x if self.recover is None else out.x @ self.recover.mT
        found = {"x": x[:FIRST].cpu().numpy(), "residual": residual(*self.data.values(), out.x, out.z, out.s)}
        found["unsolved"] = int((out.status != 0).sum())
        found["iterations"] = float(out.iterations.double().mean())
        if self.case.program is not None:
            found |= by_name(self.case, grad_q[:FIRST], grad_b[:FIRST])
            if grad_A is not None:
                found["G"] = grad_A[:FIRST]
        return {name: v.cpu().numpy() if hasattr(v, "cpu") else np.asarray(v) for name, v in found.items()}

    @property
    def solver(self) -> str:
        return "native"


class Layer(Library):
    """This project's CvxpyLayer of PyTorch on tensors of the device, with everything left to its own choice."""

    packages = ("torch", "cvxpy")

    def build(self) -> None:
        from cvxlayers.torch import CvxpyLayer

        problem, parameters, variables = self.case.cvxpy()
        self.layer = CvxpyLayer(problem, parameters, variables)
        self.values = tensors(self.case.parameters, self.device)
        self.leaves = {name: v.clone().requires_grad_() for name, v in self.values.items()}
        weights = np.ones(1) if self.case.weights is None else self.case.weights
        self.weights = tensors({"w": weights}, self.device)["w"]

    def forward(self):
        import torch

        with torch.no_grad():
            return self.layer(*self.values.values())

    def backward(self):
        import torch

        (x,) = self.layer(*self.leaves.values())
        loss = (x.flatten(1) * self.weights).sum()
        return torch.autograd.grad(loss, tuple(self.leaves.values()))

    def result(self, forward, backward) -> dict[str, np.ndarray]:
        (x,) = forward
        found = dict(zip(self.leaves, backward, strict=True))
        return {name: v[:FIRST].cpu().numpy() for name, v in ({"x": x.flatten(1)} | found).items()}

    @property
    def solver(self) -> str:
        return self.layer.plan("cuda" if self.device == "cuda" else "cpu").solver.name


class JaxLayer(Library):
    """This project's CvxpyLayer of JAX, jitted."""

    packages = ("jax", "cvxpy")

    def build(self) -> None:
        import jax
        import jax.numpy as jnp

        from cvxlayers.jax import CvxpyLayer

        jax.config.update("jax_enable_x64", True)
        problem, parameters, variables = self.case.cvxpy()
        self.layer = CvxpyLayer(problem, parameters, variables)
        place = jax.devices("gpu" if self.device == "cuda" else "cpu")[0]
        self.values = [jax.device_put(v, place) for v in self.case.parameters.values()]
        weights = jax.device_put(np.ones(1) if self.case.weights is None else self.case.weights, place)

        def x(*values):
            return self.layer(*values)[0].reshape(self.case.batch, -1)

        def loss(*values):
            return jnp.sum(x(*values) * weights)

        self.solve = jax.jit(x)
        self.gradient = jax.jit(jax.grad(loss, argnums=tuple(range(len(self.values)))))
        self.wait = jax.block_until_ready

    def synchronize(self) -> None:
        """`timed` waits for the arrays."""

    def forward(self):
        return self.wait(self.solve(*self.values))

    def backward(self):
        return self.wait(self.gradient(*self.values))

    def result(self, forward, backward) -> dict[str, np.ndarray]:
        named = zip(self.case.parameters, backward, strict=True)
        return {"x": np.asarray(forward[:FIRST])} | {name: np.asarray(v[:FIRST]) for name, v in named}

    @property
    def solver(self) -> str:
        return self.layer.plan().solver.name


class Moreau(Library):
    """Moreau on the entries of the matrices that are not zero."""

    packages = ("moreau", "moreau-cuda13", "torch")

    def build(self) -> None:
        import moreau
        import moreau.torch
        import torch

        warnings.simplefilter("ignore", UserWarning)
        data, batch = matrices(self.case), self.case.batch
        (m, n), entries = data["A"].shape[-2:], {}
        patterns = {"P": data.get("pattern_P"), "A": data.get("pattern_A")}
        for name, rows in (("P", n), ("A", m)):
            if patterns[name] is None:
                patterns[name] = sparse.csr_array(np.ones((rows, n)))
            values = data.get(f"values_{name}")
            values = data[name].reshape(batch, -1) if values is None else values
            entries[name] = np.broadcast_to(values, (batch, values.shape[-1])).copy()
        self.data = tensors(entries | {"q": data["q"], "b": data["b"]}, self.device)
        for name in "qb":
            self.data[name] = self.data[name].expand(batch, -1).contiguous()
        self.full = tensors({name: data[name] for name in "PqAb"}, self.device)
        self.leaves = {name: v.clone().requires_grad_() for name, v in self.data.items()}
        if self.case.program is not None and "A" in self.case.program:
            for name in "PA":  # constants
                self.leaves[name] = self.data[name]
        weights = np.ones(n)
        self.recover = data["recover"]
        if self.recover is not None and self.case.weights is not None:
            weights = self.recover.T @ self.case.weights
        self.weights = tensors({"w": weights}, self.device)["w"]
        pattern = [
            torch.as_tensor(getattr(patterns[k], v), dtype=torch.int64) for k in "PA" for v in ("indptr", "indices")
        ]
        settings = moreau.Settings(device=self.device, batch_size=batch, enable_grad=True)
        self.implementation = moreau.torch.Solver(n, m, *pattern, moreau.Cones(**data["cones"]), settings)

    def _solution(self, of: dict):
        return self.implementation.solve(of["P"], of["A"], of["q"], of["b"])

    def forward(self):
        import torch

        with torch.no_grad():
            return self._solution(self.data)

    def backward(self):
        import torch

        loss = (self._solution(self.leaves).x * self.weights).sum()
        return torch.autograd.grad(loss, tuple(v for v in self.leaves.values() if v.requires_grad))

    def result(self, forward, backward) -> dict[str, np.ndarray]:
        found = forward
        x = found.x.detach()
        worst = residual(*self.full.values(), x, found.z.detach(), found.s.detach())
        x = x[:FIRST].cpu().numpy()
        out = {"x": x if self.recover is None else x @ self.recover.T, "residual": np.asarray(worst)}
        gradients = dict(zip((k for k, v in self.leaves.items() if v.requires_grad), backward, strict=True))
        if self.case.program is not None:
            out |= by_name(self.case, gradients["q"][:FIRST], gradients["b"][:FIRST])
            if "A" in gradients:
                out["G"] = gradients["A"][:FIRST].reshape(len(x), *self.full["A"].shape[-2:])
        return {name: v.cpu().numpy() if hasattr(v, "cpu") else v for name, v in out.items()}

    @property
    def solver(self) -> str:
        return str(self.implementation.device)


class Qpth(Library):
    """qpth on dense matrices, without its check that Q is positive definite."""

    packages = ("qpth", "torch")

    def build(self) -> None:
        from qpth.qp import QPFunction

        of = self.case.program
        assert of is not None
        equations = {name: of.get(name, np.zeros(0)) for name in "Ab"}
        self.values = tensors({"Q": of["Q"], "p": of["p"], "G": of["G"], "h": of["h"]} | equations, self.device)
        changing = self.case.program_parameters()
        self.leaves = {k: v.clone().requires_grad_() if k in changing else v for k, v in self.values.items()}
        self.function = QPFunction(verbose=-1, check_Q_spd=False)

    def forward(self):
        import torch

        with torch.no_grad():
            return self.function(*self.values.values())

    def backward(self):
        import torch

        x = self.function(*self.leaves.values())
        return torch.autograd.grad(x.sum(), tuple(v for v in self.leaves.values() if v.requires_grad))

    def result(self, forward, backward) -> dict[str, np.ndarray]:
        gradients = dict(zip((k for k, v in self.leaves.items() if v.requires_grad), backward, strict=True))
        found = {"x": forward} | {name: v for name, v in gradients.items() if name != "Q"}
        return {name: v[:FIRST].detach().cpu().numpy() for name, v in found.items()}

    @property
    def solver(self) -> str:
        return "interior point"


LIBRARIES: dict[str, type[Library]] = {
    "cvxlayers": Matrices,
    "cvxlayers-torch": Layer,
    "cvxlayers-jax": JaxLayer,
    "moreau": Moreau,
    "qpth": Qpth,
}


class Worker:
    """Makes one library for one case at a time, and times it."""

    def __init__(self, library: str, device: str) -> None:
        self.make, self.device = LIBRARIES[library], device
        self.library: Library | None = None

    def hello(self) -> dict:
        if self.device == "cuda" and self.make is not JaxLayer:
            import torch

            torch.zeros(1, device="cuda")
        return {"ready": True}

    def prepare(self, case: str, output: str) -> dict:
        """Build, solve once in each mode (which compiles), and store the result for the judgement."""
        import gpu

        self.library = None
        chosen = gpu.cases()[case]()
        self.library = self.make(chosen, self.device)
        first, results = {}, {}
        for mode in ("forward", "backward"):
            start = time.perf_counter()
            results[mode] = self.library.timed(mode)()
            first[mode] = 1e3 * (time.perf_counter() - start)
        found = self.library.result(**results)
        facts = {name: float(found.pop(name)) for name in ("residual", "unsolved", "iterations") if name in found}
        np.savez(output, **found)
        about = {"solver": self.library.solver, "versions": self.library.versions()}
        return about | facts | {"first_ms": first, "checksum": chosen.checksum()}

    def time(self, mode: str, budget: float) -> dict:
        """Milliseconds of repeated calls."""
        assert self.library is not None
        return {"times": measure(self.library.timed(mode), budget, most=50)}


def main() -> None:
    library, device = sys.argv[1:3]
    # JAX would take most of the memory that the others need.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")  # libraries print: their output goes to the error stream
    os.dup2(2, 1)
    worker = Worker(library, device)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(worker, command.pop("do"))(**command)
        except Exception as error:
            traceback.print_exc()
            where = traceback.extract_tb(error.__traceback__)[-1]
            message = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            answer = {"error": message[:300], "where": f"{Path(where.filename).name}:{where.lineno}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
