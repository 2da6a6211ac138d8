"""One class per way to call a library; each takes a `Case` and runs in the library's own environment.

Every class gives ``forward()``, the inference call on tensors that need no gradient, and ``backward()``, the call on
tensors that do followed by the gradient of the loss. The layers also give ``lift()``, from parameters to conic data.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.metadata import version

import numpy as np
import torch
from problems import INFINITY, Case

DTYPE = torch.float64


class Library:
    """What all have in common: the tensors of the parameters, the loss and the comparison with the reference."""

    environment: str
    title: str
    packages: tuple[str, ...]

    def __init__(self, case: Case, threads: int) -> None:
        self.case, self.threads = case, threads
        self.values = {k: torch.as_tensor(v, dtype=DTYPE) for k, v in self.inputs().items()}
        self.leaves = {k: v.clone().requires_grad_() for k, v in self.values.items()}
        self.weights = None if case.weights is None else torch.as_tensor(case.weights)
        self.build()

    def inputs(self) -> dict[str, np.ndarray]:
        """The values that the library differentiates with respect to."""
        return self.case.parameters

    def build(self) -> None:
        """Make the layer."""

    def solve(self, values: dict[str, torch.Tensor], differentiate: bool) -> tuple[torch.Tensor, ...]:
        """The variables."""
        raise NotImplementedError

    def forward(self) -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return self.solve(self.values, False)

    def backward(self) -> tuple[torch.Tensor, ...]:
        solution = self.solve(self.leaves, True)
        loss = sum(
            x.sum() if self.weights is None else (x.reshape(-1, len(self.weights)) @ self.weights).sum()
            for x in solution
        )
        return torch.autograd.grad(loss, tuple(self.leaves.values()))

    def result(self, solution: tuple[torch.Tensor, ...], gradients: tuple[torch.Tensor, ...]) -> dict[str, np.ndarray]:
        """What the two calls gave, to compare with the reference."""
        x = torch.cat([x.reshape(self.case.batch or 1, -1) for x in solution], 1)
        named = zip(self.leaves, gradients, strict=True)
        return {"x": x.numpy(), **{name: np.asarray(g.detach()) for name, g in named}}

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in (*self.packages, "torch", "numpy")}

    @property
    def solver(self) -> str:
        """What solves and what differentiates, as far as the library tells."""
        return ""


class Layer(Library):
    """A CVXPY layer of PyTorch: `CvxpyLayer(problem, parameters, variables)`."""

    module = "cvxpylayers.torch"
    packages = ("cvxpylayers", "cvxpy", "diffcp")
    options: dict = {}

    def build(self) -> None:
        problem, parameters, variables = self.case.cvxpy()
        self.layer = import_module(self.module).CvxpyLayer(problem, parameters, variables, **self.options)

    def arguments(self, differentiate: bool) -> dict:
        return {}

    def solve(self, values, differentiate):
        return self.layer(*values.values(), **self.arguments(differentiate))

    def lift(self):
        from cvxpylayers.torch import cvxpylayer as own

        layer, values = self.layer, tuple(self.values.values())
        stacked = own._flatten_and_batch_params(values, layer.ctx, layer.ctx.validate_params(list(values)))
        matrices = (layer._P_scipy, layer._q_scipy, layer._A_scipy)
        return [own._ScipySparseMatmul.apply(M, stacked) for M in matrices if M is not None]


class Cvxlayers(Layer):
    """This project, with everything left to its own choice."""

    environment, title, module = "own", "cvxlayers", "cvxlayers.torch"
    packages = ("cvxpy", "clarabel", "daqp", "qdldl")

    def lift(self):
        core = self.layer.core
        vectors = core.vectors([value.numpy() for value in self.values.values()], ())
        return core.reduction.reduce(vectors, 1)

    @property
    def solver(self) -> str:
        return self.layer.core.plan.solver.name


class DiffcpDefault(Layer):
    """cvxpylayers as it comes: SCS at its own tolerance, and LSQR for the adjoint."""

    environment, title, solver = "diffcp", "cvxpylayers, default", "SCS, LSQR"

    def arguments(self, differentiate):
        jobs = {"n_jobs_forward": self.threads}
        return {"solver_args": jobs | {"n_jobs_backward": self.threads} if differentiate else jobs}


class DiffcpAccurate(Layer):
    """cvxpylayers at 1e-8 with Clarabel, and the adjoint by a dense factorization where the matrix is small.

    With a semidefinite cone SCS solves: the gradient of diffcp is wrong there after Clarabel.
    """

    environment, title = "diffcp", "cvxpylayers, Clarabel"

    def build(self) -> None:
        super().build()
        context = self.layer.ctx.solver_ctx
        self.mode = "dense" if sum(context.A_shape) <= 1500 else "lsqr"
        self.method = {"solve_method": "SCS", "eps": 1e-8} if context.dims.psd else {"solve_method": "Clarabel"}

    def arguments(self, differentiate):
        options = self.method | {"n_jobs_forward": self.threads}
        if differentiate:
            options |= {"n_jobs_backward": self.threads, "mode": self.mode}
        return {"solver_args": options}

    @property
    def solver(self) -> str:
        return f"{self.method['solve_method']}, {'dense' if self.mode == 'dense' else 'LSQR'}"


class LayerMoreau(Layer):
    """cvxpylayers with Moreau."""

    environment, title, packages = "moreau", "cvxpylayers, Moreau", ("cvxpylayers", "cvxpy", "moreau")
    options = {"solver": "MOREAU"}

    def build(self) -> None:
        warnings.simplefilter("ignore", UserWarning)
        super().build()

    @property
    def solver(self) -> str:
        return _algorithm(self.layer.ctx.solver_ctx._torch_solver_cpu)


class Moreau(Library):
    """Moreau alone, on conic data: a QP in its own form, other problems as CVXPY canonicalized them beforehand."""

    environment, title, packages = "moreau", "Moreau, direct", ("moreau",)

    def inputs(self) -> dict[str, np.ndarray]:
        if self.case.program is None:
            import canonical

            self.data = canonical.conic_data(self.case)
            return {name: self.data[name] for name in ("P", "q", "A", "b") if self.data[name].ndim == 2}
        return self.case.program_parameters()

    def build(self) -> None:
        import moreau
        import moreau.torch
        from scipy import sparse

        warnings.simplefilter("ignore", UserWarning)
        if self.case.program is None:
            P, A, cones = self.data["pattern_P"], self.data["pattern_A"], self.data["cones"]
            self.constant = {k: torch.as_tensor(self.data[k]) for k in ("P", "A") if k not in self.values}
            if len(self.constant) == 1:  # it takes both matrices shared or both batched
                self.constant = {k: v.expand(self.case.batch, -1).contiguous() for k, v in self.constant.items()}
            self.recover = torch.as_tensor(self.data["recover"])
        else:
            program, n = self.case.program, len(self.case.program["p"].reshape(-1, self.case.program["p"].shape[-1])[0])
            equations, rows = (program[k].shape[-1] if k in program else 0 for k in ("b", "h"))
            if "G" in self.values:
                P, A = sparse.csr_array(np.ones((n, n))), sparse.csr_array(np.ones((equations + rows, n)))
                self.constant = {}
            else:
                P = sparse.csr_array(program["Q"])
                A = sparse.csr_array(np.concatenate([program.get("A", np.zeros((0, n))), program["G"]]))
                self.constant = {"P": torch.as_tensor(P.data), "A": torch.as_tensor(A.data)}
            cones = {"num_zero_cones": equations, "num_nonneg_cones": rows}
        self.implementation = moreau.torch.Solver(
            P.shape[0],
            A.shape[0],
            *(torch.as_tensor(v, dtype=torch.int64) for v in (P.indptr, P.indices, A.indptr, A.indices)),
            moreau.Cones(**cones),
            moreau.Settings(device="cpu", enable_grad=True),
        )

    def solve(self, values, differentiate):
        if self.case.program is None:
            of = {**self.constant, **values}
            x = self.implementation.solve(of["P"], of["A"], of["q"], of["b"]).x
            return (x @ self.recover.T,)
        of = dict(self.constant)
        if "G" in values:
            of = {"P": values["Q"].flatten(-2), "A": values["G"].flatten(-2)}
        b = torch.cat([values["b"], values["h"]], -1) if "b" in values else values["h"]
        return (self.implementation.solve(of["P"], of["A"], values["p"], b).x,)

    @property
    def solver(self) -> str:
        return _algorithm(self.implementation)


def _algorithm(solver) -> str:
    if solver is None:  # it is made by the first solve
        return ""
    return str(getattr(solver._settings.solver, "value", solver._settings.solver)).replace("_", " ")


class QPLayer(Library):
    """QPLayer of proxsuite, on the matrices of a QP."""

    environment, title, packages, solver = "qplayer", "QPLayer", ("proxsuite",), "ProxQP"

    def inputs(self) -> dict[str, np.ndarray]:
        return self.case.program_parameters()

    def build(self) -> None:
        from proxsuite.torch.qplayer import QPFunction

        torch.set_default_dtype(DTYPE)  # it makes its gradients in the default type
        self.function = QPFunction
        names = {k: v for k, v in self.case.program.items() if k not in self.values}
        self.constant = {k: torch.as_tensor(v) for k, v in names.items()}
        self.low = torch.full_like(self.values["h"], -INFINITY)

    def solve(self, values, differentiate):
        of, nothing = {**self.constant, **values}, torch.empty(0)
        A, b = of.get("A", nothing), of.get("b", nothing)
        solve = self.function(omp_parallel=self.threads > 1)
        x = solve(of["Q"], of["p"], A, b, of["G"], self.low, of["h"])[0]
        return (x.reshape(of["p"].shape),)


LIBRARIES: dict[str, type[Library]] = {
    "cvxlayers": Cvxlayers,
    "cvxpylayers-default": DiffcpDefault,
    "cvxpylayers-clarabel": DiffcpAccurate,
    "cvxpylayers-moreau": LayerMoreau,
    "moreau": Moreau,
    "qplayer": QPLayer,
}
