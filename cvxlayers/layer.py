"""The framework-free layer: check inputs, batch, lift, solve, judge, recover; and the same backwards.

The adapters for PyTorch and JAX, and `cvxlayers.solve`, hand it NumPy arrays and shapes; it knows no framework.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cvxlayers import vectors
from cvxlayers.array_map import restricted
from cvxlayers.canonical.form import AffineSolverAffine, Output, Parameter
from cvxlayers.conic.affine import AffineMap
from cvxlayers.conic.elimination import Elimination
from cvxlayers.conic.kkt import Certificate
from cvxlayers.conic.program import ConicSolution
from cvxlayers.errors import ProblemError, SettingsError, ShapeError, SolverError
from cvxlayers.maps import Maps, shares_matrices
from cvxlayers.solution_map import DENSE_LIMIT, Direct, Point, threads_for
from cvxlayers.solvers.choice import Plan, choose
from cvxlayers.solvers.registry import without_quadratics
from cvxlayers.solvers.settings import as_settings
from cvxlayers.status import Status
from cvxlayers.vectors import to_complex, to_pairs

if TYPE_CHECKING:
    import cvxpy as cp

SMOOTHING = 1e-4


class Layer:
    """A parametrized convex program, ready to be solved and differentiated for batches of its parameters.

    Parameters
    ----------
    form : AffineSolverAffine
        The problem in canonical form.
    solver : None, str or Solver
        None chooses by structure and size, and falls back on another solver where the first one fails.
    solver_args : mapping
        Settings of the solver, by our names or by those that cvxpylayers users know (``eps``, ``max_iters``, ...).
    gradient : "exact" or "smoothed"
        "smoothed" differentiates through the projection smoothed by the cone's barrier with parameter ``smoothing``.
    on_failure : "raise" or "nan"
        Whether elements without a solution raise SolverError, or are NaN forward and have zero gradients.
    """

    def __init__(
        self,
        form: AffineSolverAffine,
        *,
        solver: Any = None,
        solver_args: Mapping[str, Any] | None = None,
        gradient: Literal["exact", "smoothed"] = "exact",
        smoothing: float = SMOOTHING,
        on_failure: Literal["raise", "nan"] = "raise",
    ) -> None:
        if gradient not in ("exact", "smoothed"):
            raise SettingsError(f"gradient should be 'exact' or 'smoothed'; got {gradient!r}.")
        if on_failure not in ("raise", "nan"):
            raise SettingsError(f"on_failure should be 'raise' or 'nan'; got {on_failure!r}.")
        if isinstance(smoothing, bool) or not isinstance(smoothing, Real) or not smoothing > 0:
            raise SettingsError(f"smoothing should be a positive number; got {smoothing!r}.")
        self.form, self.on_failure, self.gradient = form, on_failure, gradient
        self.solver_args = as_settings(solver_args)
        self.mu = smoothing if gradient == "smoothed" else 0.0
        self.reduction = _reduction(form)
        self.plan = choose(
            self.reduction.program, solver=solver, settings=self.solver_args, shared=shares_matrices(form)
        )
        if self.plan.solver.capabilities.derivative:  # its own derivative is that of the program as it stands
            self.reduction = Direct(form.program, form.lift)
        self.maps = Maps(form, self.reduction, self.plan, self.solver_args, self.mu)
        self.recent: Point | None = None  # of the last solve through JAX, whose callbacks have no other memory
        self.compiled: dict[Any, Any] = {}
        self._readers = tuple(_Reader(output, self.reduction) for output in form.outputs)

    @classmethod
    def of(
        cls,
        problem: cp.Problem,
        parameters: Sequence[cp.Parameter],
        variables: Sequence[Any],
        *,
        gp: bool = False,
        solver: Any = None,
        solver_args: Mapping[str, Any] | None = None,
        verbose: bool = False,
        canon_backend: str | None = None,
        **options: Any,
    ) -> Layer:
        """The layer of a CVXPY problem; a solver without quadratic objectives gets the problem without one."""
        from cvxlayers.canonical import build, check_backend

        check_backend(canon_backend)
        settings = as_settings(solver_args)
        if verbose:
            settings.setdefault("verbose", True)
        lacking = without_quadratics(solver, settings)
        try:
            form = build(problem, parameters, variables, gp=gp, quadratic=lacking is None)
        except ProblemError as error:
            if lacking is None:
                raise
            build(problem, parameters, variables, gp=gp)  # where the problem itself is at fault, this says so
            raise SettingsError(
                f"solver {lacking} lacks quadratic objectives, and the objective '{problem.objective.expr}' cannot be "
                "written without one: take another solver (solver=None chooses), or sum_squares(P_sqrt @ x) in place "
                "of quad_form(x, P)."
            ) from error
        return cls(form, solver=solver, solver_args=settings, **options)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "form": self.form,
            "solver": self.plan.requested,
            "solver_args": self.solver_args,
            "gradient": self.gradient,
            "smoothing": self.mu or SMOOTHING,
            "on_failure": self.on_failure,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state.pop("form"), **state)

    # inputs

    def batch_shape(self, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        """The batch dimensions of a call with parameters of these shapes.

        Raises
        ------
        ShapeError
            The number of parameters is wrong, a shape does not end in the parameter's, or batches do not broadcast.
        """
        parameters = self.form.parameters
        if len(shapes) != len(parameters):
            names = ", ".join(f"'{p.name}'" for p in parameters)
            kind = "parameter" if len(parameters) == 1 else "parameters"
            raise ShapeError(f"expected {len(parameters)} {kind}{names and f' ({names})'}; got {len(shapes)}.")
        batch: tuple[int, ...] = ()
        for parameter, shape in zip(parameters, shapes, strict=True):
            k = len(parameter.shape)
            lead = shape[: len(shape) - k]
            if shape[len(shape) - k :] != parameter.shape or len(shape) < k:
                raise ShapeError(
                    f"parameter '{parameter.name}' should end in {parameter.shape}; got {tuple(shape)}. "
                    "Batch dimensions come first."
                )
            if lead != batch:
                try:
                    batch = np.broadcast_shapes(batch, lead)
                except ValueError:
                    raise ShapeError(
                        f"the batch dimensions {lead} of parameter '{parameter.name}' do not broadcast with {batch}, "
                        "those of the parameters before it."
                    ) from None
        return batch

    def vectors(self, values: Sequence[np.ndarray], batch_shape: tuple[int, ...]) -> list[np.ndarray]:
        """Parameter values to the vectors of the canonical form: (size,) if shared, else (batch, size), float64.

        Values outside the parameter's domain become NaN, which fails their element alone.
        """
        return [vectors.vector(p, v, batch_shape) for p, v in zip(self.form.parameters, values, strict=True)]

    # forward

    def solve(
        self,
        values: Sequence[np.ndarray],
        batch_shape: tuple[int, ...],
        *,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: Point | None = None,
        on_failure: str | None = None,
    ) -> Point:
        """Solve for these parameter values."""
        batch = int(np.prod(batch_shape, dtype=int))
        map_ = self.maps.host(solver_args)
        warm = None if warm_start is None or warm_start.batch != batch else warm_start.solution
        point = map_.solve(self.vectors(values, batch_shape), batch, warm)
        if point.failed is not None and (on_failure or self.on_failure) == "raise":
            raise failure(point.solution.status.reshape(batch_shape), self.form.parameters, values)
        return point

    def recent_at(self, P: np.ndarray, A: np.ndarray, z: np.ndarray, s: np.ndarray) -> Point | None:
        """The point of the last solve through JAX, if this is its system (perhaps rounded to float32)."""
        point = self.recent
        if point is None or point.z.size != z.size:
            return None
        lift = self.form.lift
        own = (lift.P(point.vectors), lift.A(point.vectors), *point.at_zero[1:])
        return point if all(_equal(a, b) for a, b in zip(own, (P, A, z, s), strict=True)) else None

    def certify(self, point: Point, batch_shape: tuple[int, ...], shapes: Sequence[tuple[int, ...]]) -> Certificate:
        """The certificate of the derivative of the sum of all outputs."""
        ones = [np.ones((*batch_shape, *output.shape)) for output in self.form.outputs]
        certificate = self.vjp(point, ones, None, batch_shape, shapes, [])[1]
        if certificate is None:  # no outputs, no derivative
            certificate = Certificate(np.zeros(point.batch), np.ones(point.batch, bool), np.ones(point.batch))
        return certificate

    def point_at(
        self,
        values: Sequence[np.ndarray],
        batch_shape: tuple[int, ...],
        solution: Sequence[np.ndarray],
        status: np.ndarray,
        iterations: np.ndarray,
    ) -> Point:
        """The point of a solution (x, z, s) of the full program that was found elsewhere."""
        batch = int(np.prod(batch_shape, dtype=int))
        x, z, s = (np.reshape(v, (batch, v.shape[-1])) for v in solution)
        vectors = self.vectors(values, batch_shape)
        with np.errstate(invalid="ignore", over="ignore"):
            data, blocks = self.reduction.reduce(vectors, batch)
        if isinstance(self.reduction, Elimination):
            x, z, s = x[:, self.reduction.kept], z[:, self.reduction.rows], s[:, self.reduction.rows]
        x, z, s = (np.ascontiguousarray(v, np.float64) for v in (x, z, s))
        found = ConicSolution(x, z, s, status.reshape(batch), iterations.reshape(batch))
        return Point(self.reduction, batch, vectors, data, blocks, found)

    def outputs(self, point: Point, batch_shape: tuple[int, ...]) -> list[np.ndarray]:
        """The variables asked for, (*batch, *shape), NaN where an element failed."""
        return [reader(point).reshape((*batch_shape, *reader.output.shape)) for reader in self._readers]

    def objective(self, point: Point) -> np.ndarray:
        """The optimal value, (batch,)."""
        value = self.form.sense * point.value
        if self.form.transform == "exp":
            value = np.exp(value)
        return value if point.failed is None else np.where(point.failed, np.nan, value)

    # derivatives

    def vjp(
        self,
        point: Point,
        cotangents: Sequence[np.ndarray | None],
        value: np.ndarray | None,
        batch_shape: tuple[int, ...],
        shapes: Sequence[tuple[int, ...]],
        wanted: Collection[int],
    ) -> tuple[dict[int, np.ndarray], Certificate | None]:
        """Cotangents of the outputs and of the optimal value to gradients of the parameters in ``wanted``."""
        g: dict[str, np.ndarray | None] = {"x": None, "z": None, "s": None}
        for reader, cotangent in zip(self._readers, cotangents, strict=True):
            if cotangent is not None:
                part = reader.transpose(point, cotangent.reshape((point.batch, reader.size)))
                source = reader.output.source
                g[source] = part if g[source] is None else g[source] + part
        if value is not None:
            value = value.reshape(point.batch) * self.form.sense
            if self.form.transform == "exp":
                value = value * np.nan_to_num(self.objective(point))
        with threads_for(point.batch):
            grads, certificate = self.maps.own.vjp(point, g["x"], g["z"], g["s"], value, wanted)
        out = {}
        for p, grad in grads.items():
            parameter = self.form.parameters[p]
            if grad is None:  # the parameter has no influence
                out[p] = np.zeros(shapes[p], complex if parameter.complex else float)
            else:
                out[p] = vectors.gradient(parameter, grad, point.vectors[p], batch_shape, shapes[p])
        return out, certificate

    def jvp(
        self, point: Point, tangents: Sequence[np.ndarray | None], batch_shape: tuple[int, ...]
    ) -> tuple[list[np.ndarray], np.ndarray, Certificate]:
        """Tangents of the parameters (None for zero) to those of the outputs and of the optimal value (batch,)."""
        moved = [
            None if t is None else vectors.tangent(p, t, at, batch_shape)
            for p, t, at in zip(self.form.parameters, tangents, point.vectors, strict=True)
        ]
        dx, dz, ds, dvalue, certificate = self.maps.own.jvp(point, moved)
        d = {"x": dx, "z": dz, "s": ds}
        outputs = [
            reader.linear(point, d[reader.output.source]).reshape((*batch_shape, *reader.output.shape))
            for reader in self._readers
        ]
        dvalue = self.form.sense * dvalue
        return outputs, dvalue * self.objective(point) if self.form.transform == "exp" else dvalue, certificate

    def linear_solve(self, P, A, z, s, gx, gz, point: Point | None) -> tuple[np.ndarray, np.ndarray]:
        """The system of the derivative at (P, A, z, s), for right-hand sides (*extra, *batch, n), (*extra, *batch, m).

        P and A hold the values of the full program, (*lead, nnz) with a lead that broadcasts to the batch of z. With a
        ``point``, z is its solution, and the factors kept there are used.
        """
        n, m = self.form.program.n, self.form.program.m
        system = np.broadcast_shapes(*(v.shape[:-1] for v in (P, A, z, s)))
        lead = np.broadcast_shapes(system, gx.shape[:-1], gz.shape[:-1])
        system = (1,) * (len(lead) - len(system)) + system
        # Axes along which the system is the same hold several right-hand sides of it: they go first.
        apart = [k for k, (own, all_) in enumerate(zip(system, lead, strict=True)) if own != all_]
        order = (*apart, *(k for k in range(len(lead)) if k not in apart), len(lead))
        several, batch = (int(np.prod(v, dtype=int)) for v in ([lead[k] for k in apart], system))
        gx = np.broadcast_to(gx, (*lead, n)).transpose(order).reshape((several, batch, n))
        gz = np.broadcast_to(gz, (*lead, m)).transpose(order).reshape((several, batch, m))
        z, s = (np.broadcast_to(v, (*system, m)).reshape((batch, m)) for v in (z, s))
        if point is not None and point.batch == batch:
            wx, wz = self.maps.own.linear_solve(point, gx, gz)[:2]
            if point.failed is not None:
                wx, wz = (np.where(point.failed[:, None], 0.0, w) for w in (wx, wz))
        else:
            P, A = (
                v if v.ndim == 1 else np.broadcast_to(v, (*system, v.shape[-1])).reshape((batch, v.shape[-1]))
                for v in (P, A)
            )
            wx, wz = self.maps.full.linear_solve_at(P, A, z, s, gx, gz, batch)
        moved = [lead[k] for k in order[:-1]]
        back = (*np.argsort(order[:-1]).tolist(), len(lead))
        return wx.reshape((*moved, n)).transpose(back), wz.reshape((*moved, m)).transpose(back)

    def __repr__(self) -> str:
        program = self.form.program
        parameters = ", ".join(f"{p.name}{_shape(p.shape)}" for p in self.form.parameters)
        outputs = ", ".join(f"{o.name}{_shape(o.shape)}" for o in self.form.outputs)
        return (
            f"({parameters or 'no parameters'}) -> ({outputs or 'no variables'})\n"
            f"  program: {program.n} variables, {program.m} rows"
            f", reduced to {self.reduction.program.n} and {self.reduction.program.m}\n"
            f"  solver: {self.plan.solver} ({self.plan.reason})\n"
            f"  gradient: {self.gradient}, on_failure: {self.on_failure}"
        )


@dataclass(frozen=True, eq=False)
class _Reader:
    """One output, read from the reduced solution where that holds all it needs."""

    output: Output
    reduction: Direct | Elimination
    reduced: AffineMap | None = field(init=False)
    size: int = field(init=False)

    def __post_init__(self) -> None:
        reduced = None
        if isinstance(self.reduction, Elimination):
            kept = self.reduction.kept if self.output.source == "x" else self.reduction.rows
            reduced = restricted(self.output.map, kept, self.output.source == "s")
        object.__setattr__(self, "reduced", reduced)
        object.__setattr__(self, "size", int(np.prod(self.output.shape, dtype=int)))

    def __call__(self, point: Point) -> np.ndarray:
        read = point if self.reduced is None else point.solution
        source, map_ = getattr(read, self.output.source), self.reduced or self.output.map
        values = map_([source])
        if values.ndim == 1:
            values = np.tile(values, (point.batch, 1))
        if self.output.transform == "exp":
            values = np.exp(values)
        if point.failed is not None:
            values = np.where(point.failed[:, None], np.nan, values)
        elif np.may_share_memory(values, source):  # the caller may write on an output, derivatives need the solution
            values = values.copy()
        return to_complex(values) if self.output.complex else values

    def transpose(self, point: Point, cotangent: np.ndarray) -> np.ndarray:
        if self.output.complex:
            cotangent = to_pairs(cotangent)
        cotangent = cotangent.astype(np.float64, copy=False)
        if self.output.transform == "exp":
            cotangent = cotangent * self(point)
        out = self.output.map.transpose(0, cotangent)
        size = getattr(point, self.output.source).shape[-1]
        return np.zeros((*cotangent.shape[:-1], size)) if out is None else out

    def linear(self, point: Point, tangent: np.ndarray) -> np.ndarray:
        out = self.output.map.linear([tangent])
        if out is None:
            out = np.zeros((*tangent.shape[:-1], self.output.map.size))
        if self.output.transform == "exp":
            out = out * self(point)
        return to_complex(out) if self.output.complex else out


def _equal(own: np.ndarray, given: np.ndarray) -> bool:
    """Whether two stacks of vectors agree, where a shared vector stands for its copies."""
    own = own.astype(given.dtype).reshape((-1, own.shape[-1])) if own.size else own
    given = given.reshape((-1, given.shape[-1])) if given.size else given
    if not own.size or not given.size:
        return own.size == given.size
    return (len(own) == len(given) or 1 in (len(own), len(given))) and bool((own == given).all())


def _reduction(form: AffineSolverAffine) -> Direct | Elimination:
    program = form.program
    if program.n + program.m <= 4 * DENSE_LIMIT:
        elimination = Elimination(program, form.lift, form.auxiliary)
        if elimination.program.n + elimination.program.m <= DENSE_LIMIT:
            return elimination
    return Direct(program, form.lift)


def failure(status: np.ndarray, parameters: Sequence[Parameter], values: Sequence[np.ndarray]) -> SolverError:
    """The error for the elements of a batch, (*batch), that have no solution with these values of the parameters."""
    indices = _indices(status > Status.INACCURATE)
    statuses = [Status(int(status[index])) for index in indices]
    lines = []
    for kind in dict.fromkeys(statuses):
        at = status == kind
        advice = kind is Status.INVALID_INPUT and _blame(at, parameters, values) or kind.advice
        lines.append(f"{kind.name}{_at(at)}: {advice}")
    count = f"{len(indices)} of {status.size} problems have" if status.ndim else "the problem has"
    return SolverError(
        f"{count} no solution. {'; '.join(lines)}. "
        "With on_failure='nan' such elements are NaN with zero gradients, and the others go on.",
        indices,
        statuses,
    )


def _blame(invalid: np.ndarray, parameters: Sequence[Parameter], values: Sequence[np.ndarray]) -> str:
    """Which parameters break which rule, at these elements (*batch)."""
    found = []
    for parameter, value in zip(parameters, values, strict=True):
        for words, where in vectors.faults(parameter, value, invalid.shape).items():
            here = where & invalid
            if here.any():
                found.append(f"parameter '{parameter.name}' {words}{'' if (here == invalid).all() else _at(here)}")
    return ", ".join(found)


def _indices(mask: np.ndarray) -> list[Any]:
    found = np.argwhere(mask).tolist()
    return [index[0] if len(index) == 1 else tuple(index) for index in found]


def _at(mask: np.ndarray) -> str:
    """' at 0, 3' for the elements (*batch) of a mask, and nothing for a problem alone."""
    where = _indices(mask)
    return f" at {', '.join(map(str, where[:8]))}{', ...' if len(where) > 8 else ''}" if mask.ndim else ""


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]" if shape else ""


__all__ = ["Layer", "Plan"]
