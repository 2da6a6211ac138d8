"""Convex programs as PyTorch modules: a thin adapter, the mathematics is in `cvxlayers.layer`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from cvxlayers.canonical.matrices import of_matrices
from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.layer import SMOOTHING, Layer
from cvxlayers.result import Result
from cvxlayers.sets import Cone
from cvxlayers.solution_map import Point
from cvxlayers.torch.calls import ArrayCall, HostCall
from cvxlayers.torch.functions import solve

if TYPE_CHECKING:
    import cvxpy as cp


def _uncompiled(method: Callable) -> Callable:
    """The method as it is, also under torch.compile.

    torch.compiler.disable imports the compiler where it decorates, which takes a third of the time of importing this
    package.
    """
    opaque = getattr(torch, "_disable_dynamo", torch.compiler.disable)(method)

    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (opaque if torch.compiler.is_compiling() else method)(*args, **kwargs)

    return call


class _ConvexLayer(torch.nn.Module):
    """What the layers have in common: they differ in how their problem is given."""

    def __init__(self, core: Layer) -> None:
        super().__init__()
        self.core = core
        self._last: Point | None = None

    @_uncompiled
    def forward(
        self, *params: Any, solver_args: Mapping[str, Any] | None = None, warm_start: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """Optimal variables for parameters of shape (*batch, *shape), batch dimensions broadcast.

        Tensors, NumPy arrays and Python numbers are taken. The result has the dtype and device of the inputs; the
        solve itself is in float64. On a GPU the native solver works on the tensors where they are, unless another one
        is asked for; with ``on_failure="nan"`` nothing then waits for the device, while "raise" reads the statuses. The
        second call of a shape waits once: there the work is recorded as CUDA graphs (`cvxlayers.array.graphs`).
        ``warm_start`` starts from the solution of the previous call.

        Raises
        ------
        ShapeError
            A parameter's shape, device or the number of parameters is wrong.
        SolverError
            An element has no solution, unless ``on_failure="nan"``.
        """
        return self._solve(params, solver_args, warm_start, objective=False)[0]

    @_uncompiled
    def solve(self, *params: Any, solver_args: Mapping[str, Any] | None = None, warm_start: bool = False) -> Result:
        """As a call, with the optimal value, status, residuals, iterations and the derivative's certificate."""
        (*variables, value, status, residuals, iterations), call = self._solve(
            params, solver_args, warm_start, objective=True
        )
        names, ids = self.core.form.names, self.core.form.ids
        return Result(tuple(variables), value, status, residuals, iterations, names, ids, call.certify)

    def _solve(self, params, solver_args, warm_start, objective):
        tensors, dtype = _tensors(params, [p.name for p in self.core.form.parameters])
        map_ = self.core.maps.arrays(any(t.is_cuda for t in tensors), solver_args=solver_args)
        if map_ is not None:
            call = ArrayCall(self.core, dtype, objective, map_)
            return solve(call, tensors), call
        call = HostCall(self.core, dtype, objective, solver_args, self._last if warm_start else None)
        outputs = solve(call, tensors)
        if warm_start:
            self._last = call.point
        return outputs, call

    def plan(self, device: torch.device | str = "cpu"):
        """Which solver was chosen and why, and why not the others, for tensors on this device; prints as a table.

        For a GPU it also says in which form the native solver runs there, for inputs in float64.
        """
        try:
            device = torch.device(device)
        except RuntimeError as error:
            raise SettingsError(
                f"'device' should be one that PyTorch knows, such as 'cuda'; got {device!r}."
            ) from error
        plan = self.core.maps.plan_for(device.type == "cuda")
        map_ = self.core.maps.arrays(True) if device.type == "cuda" else None
        return plan if map_ is None else plan.explained(map_.form_on(device))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_last": None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.core!r}"


class CvxpyLayer(_ConvexLayer):
    """A parametrized convex program as a differentiable module: parameters in, optimal variables out.

    The problem is canonicalized once. A call solves one problem, or a batch of them, and is differentiable to any
    order, in both modes, under ``torch.func`` transforms.

    Parameters
    ----------
    problem : cvxpy.Problem
        A disciplined parametrized program (DPP), or with ``gp=True`` a geometric one.
    parameters : list of cvxpy.Parameter
        All parameters of the problem, in the order of the call's arguments.
    variables : list of cvxpy.Variable or cvxpy.Constraint
        What a call returns: variables, dual variables (``constraint.dual_variables[i]``), or the slack of a constraint.
    solver : None, str or cvxlayers.solvers.Solver
        A name in any case, a Solver or its class. None chooses by structure and size; ``layer.plan()`` says what was
        chosen and why.
    gp : bool
        Whether the problem is a geometric program.
    verbose : bool
        Short for ``solver_args={"verbose": True}``: a line is printed for each solve on the host.
    canon_backend : None or str
        The name of one of CVXPY's backends, as in calls of cvxpylayers. It changes nothing: this library has the one
        that it needs.
    solver_args : dict, optional
        Settings of the solver, such as ``{"eps": 1e-9}``.
    gradient : "exact" or "smoothed"
        The derivative of the solution map, or that of its smoothing (see the documentation of derivatives).
    smoothing : float
        Barrier parameter of the smoothed derivative.
    on_failure : "raise" or "nan"
        What happens to elements without a solution.

    Raises
    ------
    ProblemError
        The problem is not DPP, or a parameter or variable is not one of the problem's.
    SettingsError
        A setting is unknown, or the solver cannot solve the problem.

    Examples
    --------
    >>> import cvxpy as cp, torch
    >>> x, p = cp.Variable(2), cp.Parameter(2)
    >>> layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0]), [p], [x])
    >>> point = torch.tensor([[1.0, -2.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    >>> (projection,) = layer(point)
    >>> projection.sum().backward()
    >>> (point.grad.round() + 0.0).tolist()
    [[1.0, 0.0], [1.0, 1.0]]

    References
    ----------
    Agrawal, Amos, Barratt, Boyd, Diamond and Kolter, "Differentiable convex optimization layers", NeurIPS 2019,
    doi 10.48550/arXiv.1910.12430.
    """

    def __init__(
        self,
        problem: cp.Problem,
        parameters: Sequence[cp.Parameter],
        variables: Sequence[Any],
        solver: Any = None,
        gp: bool = False,
        verbose: bool = False,
        canon_backend: str | None = None,
        solver_args: Mapping[str, Any] | None = None,
        *,
        gradient: Literal["exact", "smoothed"] = "exact",
        smoothing: float = SMOOTHING,
        on_failure: Literal["raise", "nan"] = "raise",
    ) -> None:
        core = Layer.of(
            problem,
            parameters,
            variables,
            gp=gp,
            solver=solver,
            solver_args=solver_args,
            verbose=verbose,
            canon_backend=canon_backend,
            gradient=gradient,
            smoothing=smoothing,
            on_failure=on_failure,
        )
        super().__init__(core)


class ConeLayer(_ConvexLayer):
    """A cone program as a differentiable module: its matrices in, its solution out.

    minimize (1/2) x'Px + q'x subject to Ax + s = b, s in K, for the parameters P (n, n), q (n,), A (m, n), b (m,), each
    with batch dimensions in front or without. A call returns x (n,), the dual variable z (m,) in K*, and the slack
    s (m,). P enters as (P + P')/2; an element where that is not positive semidefinite is INVALID_INPUT. Batches,
    dtypes, devices, derivatives and errors are as with `CvxpyLayer`.

    Parameters
    ----------
    n : int
        The number of variables.
    cone : Cone, or a sequence of cones
        K, its blocks in the order `Zero`, `Nonnegative`, `SecondOrder`, `PositiveSemidefinite`, `Exponential`, `Power`
        of `cvxlayers.sets`: m is the sum of their sizes. `Zero` rows are equalities, `Nonnegative` rows Ax <= b.
    quadratic : bool
        Whether there is a P; without it the call takes q, A and b, and solvers without quadratic objectives will do.
    solver, solver_args, gradient, smoothing, on_failure
        As with `CvxpyLayer`.

    Raises
    ------
    ProblemError
        The cone is none that solvers take, or n is no positive integer.
    SettingsError
        A setting is unknown, or the solver cannot solve such programs.

    Examples
    --------
    The distance from a point to the halfspace x_1 + x_2 <= 1 shrinks as the halfspace grows:

    >>> import torch
    >>> from cvxlayers.sets import Nonnegative
    >>> layer = ConeLayer(2, Nonnegative(1))
    >>> P, A = torch.eye(2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    >>> b = torch.ones(1, dtype=torch.float64, requires_grad=True)
    >>> x, z, s = layer(P, -torch.tensor([2.0, 1.0], dtype=torch.float64), A, b)
    >>> x.detach().round(decimals=6).tolist(), z.detach().round(decimals=6).tolist()
    ([1.0, 0.0], [1.0])
    >>> torch.autograd.grad(z.sum(), b)[0].round(decimals=6).tolist()
    [-0.5]

    References
    ----------
    Agrawal, Barratt, Boyd, Busseti and Moursi, "Differentiating through a cone program", Journal of Applied and
    Numerical Optimization 1 (2), 2019, doi 10.23952/jano.1.2019.2.02.
    """

    def __init__(
        self,
        n: int,
        cone: Cone | Iterable[Cone],
        solver: Any = None,
        solver_args: Mapping[str, Any] | None = None,
        *,
        quadratic: bool = True,
        gradient: Literal["exact", "smoothed"] = "exact",
        smoothing: float = SMOOTHING,
        on_failure: Literal["raise", "nan"] = "raise",
    ) -> None:
        form = of_matrices(n, cone, quadratic)
        super().__init__(
            Layer(
                form,
                solver=solver,
                solver_args=solver_args,
                gradient=gradient,
                smoothing=smoothing,
                on_failure=on_failure,
            )
        )


def _tensors(params: Sequence[Any], names: Sequence[str]) -> tuple[list[torch.Tensor], torch.dtype]:
    """The inputs as tensors on one device, and the real dtype of the result."""
    for name, p in zip(names, params, strict=False):
        if isinstance(p, torch.Tensor) and (p.layout != torch.strided or p.is_meta):
            kind = "meta" if p.is_meta else str(p.layout)
            raise ShapeError(f"parameter '{name}' should be a dense tensor with values; got a {kind} tensor.")
    tensors = [p if isinstance(p, torch.Tensor) else _tensor(p, names, i) for i, p in enumerate(params)]
    typed = [t for t, p in zip(tensors, params, strict=True) if isinstance(p, (torch.Tensor, np.ndarray, np.generic))]
    devices = {t.device for t in typed if t.ndim or t.device.type != "cpu"} or {torch.device("cpu")}
    if len(devices) > 1:
        raise ShapeError(f"all parameters should be on one device; got {', '.join(sorted(map(str, devices)))}.")
    device = devices.pop()
    dtype = torch.get_default_dtype()
    floating = [t.dtype for t in typed if t.is_floating_point() or t.is_complex()]
    if floating:
        dtype = floating[0]
        for other in floating[1:]:
            dtype = torch.promote_types(dtype, other)
        dtype = dtype.to_real()
    return [t if t.device == device else t.to(device) for t in tensors], dtype


def _tensor(value: Any, names: Sequence[str], i: int) -> torch.Tensor:
    """A tensor of its own for an array or a number: the caller may change the array before the backward pass."""
    try:
        array = np.array(value)
        if array.dtype.kind not in "biufc":
            raise TypeError(array.dtype)
        if array.dtype in (np.longdouble, np.clongdouble):
            array = array.astype(complex if array.dtype.kind == "c" else float)
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    except (TypeError, ValueError) as error:
        name = f"'{names[i]}'" if i < len(names) else str(i)
        raise ShapeError(
            f"parameter {name} should be a tensor, an array or a number; got {type(value).__name__}."
        ) from error
