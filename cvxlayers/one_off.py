"""Solve one CVXPY problem, or a batch of its parameters, without a framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cvxlayers.canonical import current_values, everything
from cvxlayers.conic.kkt import Certificate
from cvxlayers.errors import ProblemError, SettingsError, ShapeError
from cvxlayers.layer import SMOOTHING, Layer
from cvxlayers.result import Result
from cvxlayers.solution_map import Point

if TYPE_CHECKING:
    import cvxpy as cp


@dataclass(frozen=True, eq=False, repr=False)
class NumPyResult(Result):
    """A `Result` of NumPy arrays that knows its derivatives.

    ``variables`` lists the problem's variables, then the dual variables of its constraints.
    """

    _session: _Session | None = None

    def vjp(self, cotangents: Mapping[Any, Any], objective: Any = None) -> dict[Any, np.ndarray]:
        """Gradients of sum_v <cotangents[v], v> + <objective, optimal value>, for each parameter of the problem.

        ``cotangents`` maps variables to arrays of their shape, (*batch, *shape).
        """
        assert self._session is not None
        return self._session.vjp(cotangents, objective)

    def jvp(self, tangents: Mapping[Any, Any]) -> tuple[dict[Any, np.ndarray], np.ndarray]:
        """Directional derivatives of every variable, and of the optimal value, for changes of the parameters."""
        assert self._session is not None
        return self._session.jvp(tangents)


class _Session:
    """The layer behind one result, its point, and the certificate of its last derivative."""

    def __init__(self, layer: Layer, parameters, variables, values: list[np.ndarray]) -> None:
        self.layer, self.parameters, self.variables = layer, parameters, variables
        self.shapes = [v.shape for v in values]
        self.batch_shape = layer.batch_shape(self.shapes)
        self.position = {v.id: i for i, v in enumerate(variables)}
        self.point: Point = layer.solve(values, self.batch_shape)
        self._certificate: Certificate | None = None

    def vjp(self, cotangents: Mapping[Any, Any], objective: Any) -> dict[Any, np.ndarray]:
        given: list[np.ndarray | None] = [None] * len(self.variables)
        for variable, cotangent in _mapping(cotangents, "cotangents", "variables", self.variables).items():
            at = self.position.get(getattr(variable, "id", None))
            if at is None:
                raise _unknown(variable, "variable or dual variable", self.variables)
            shape = (*self.batch_shape, *self.layer.form.outputs[at].shape)
            given[at] = _broadcast(cotangent, shape, f"the cotangent of {variable}")
        value = None if objective is None else np.broadcast_to(np.asarray(objective, float), self.batch_shape)
        wanted = range(len(self.parameters))
        grads, certificate = self.layer.vjp(self.point, given, value, self.batch_shape, self.shapes, wanted)
        self._certificate = certificate or self._certificate
        return {parameter: grads[i] for i, parameter in enumerate(self.parameters)}

    def jvp(self, tangents: Mapping[Any, Any]) -> tuple[dict[Any, np.ndarray], np.ndarray]:
        given: list[np.ndarray | None] = [None] * len(self.parameters)
        index = {p.id: i for i, p in enumerate(self.parameters)}
        for parameter, tangent in _mapping(tangents, "tangents", "parameters", self.parameters).items():
            i = index.get(getattr(parameter, "id", None))
            if i is None:
                raise _unknown(parameter, "parameter", self.parameters)
            given[i] = _broadcast(tangent, self.shapes[i], f"the tangent of {parameter}")
        outputs, value, self._certificate = self.layer.jvp(self.point, given, self.batch_shape)
        return dict(zip(self.variables, outputs, strict=True)), value.reshape(self.batch_shape)

    def certify(self) -> Certificate:
        if self._certificate is None:
            self._certificate = self.layer.certify(self.point, self.batch_shape, self.shapes)
        return self._certificate


def solve(
    problem: cp.Problem,
    solver: Any = None,
    *,
    parameters: Mapping[cp.Parameter, Any] | None = None,
    gp: bool = False,
    gradient: Literal["exact", "smoothed"] = "exact",
    smoothing: float = SMOOTHING,
    on_failure: Literal["raise", "nan"] = "raise",
    **settings: Any,
) -> NumPyResult:
    """Solve a CVXPY problem in float64, its parameters at their values or at the batches given.

    Parameters
    ----------
    problem : cvxpy.Problem
        A disciplined parametrized program; it is read, not changed.
    solver : None, str or cvxlayers.solvers.Solver
        A name in any case, a Solver or its class. None chooses by structure and size.
    parameters : mapping from cvxpy.Parameter to array (*batch, *shape), optional
        Values in place of those that the problem holds; batch dimensions broadcast.
    gp, gradient, smoothing, on_failure
        As for the layers.
    **settings
        Settings of the solver, such as ``tol=1e-9``.

    Raises
    ------
    ProblemError
        The problem is not DPP, or a parameter has no value.
    SolverError
        An element has no solution, unless ``on_failure="nan"``.

    Examples
    --------
    >>> import cvxpy as cp, numpy as np
    >>> x, p = cp.Variable(2, name="x"), cp.Parameter(2, name="p")
    >>> problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0])
    >>> result = solve(problem, parameters={p: np.array([[1.0, -2.0], [3.0, 4.0]])})
    >>> (result[x].round(6) + 0.0).tolist()
    [[1.0, 0.0], [3.0, 4.0]]
    >>> (result.vjp({x: 1.0})[p].round(6) + 0.0).tolist()
    [[1.0, 0.0], [1.0, 1.0]]
    """
    if not hasattr(problem, "constraints"):
        raise ProblemError(f"'problem' should be a cvxpy.Problem; got {type(problem).__name__}.")
    owned, variables = everything(problem)
    if "solver_args" in settings:
        raise SettingsError("'solver_args' is for layers: give settings as keywords, as in solve(problem, tol=1e-9).")
    given = _mapping({} if parameters is None else parameters, "parameters", "parameters", owned)
    for parameter in given:
        if not any(parameter is own for own in owned):
            raise _unknown(parameter, "parameter", owned)
    values = [_value(p, given[p]) if p in given else current_values([p])[0] for p in owned]
    layer = Layer.of(
        problem,
        owned,
        variables,
        gp=gp,
        solver=solver,
        solver_args=settings,
        gradient=gradient,
        smoothing=smoothing,
        on_failure=on_failure,
    )
    session = _Session(layer, owned, variables, values)
    point, shape = session.point, session.batch_shape
    return NumPyResult(
        tuple(layer.outputs(point, shape)),
        layer.objective(point).reshape(shape),
        np.asarray(point.solution.status).reshape(shape),
        point.residuals.reshape((*shape, 3)),
        np.asarray(point.solution.iterations).reshape(shape),
        layer.form.names,
        layer.form.ids,
        session.certify,
        session,
    )


def _broadcast(value: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    try:
        return np.broadcast_to(value, shape)
    except ValueError:
        raise ShapeError(f"{name} should broadcast to {shape}; got {np.shape(value)}.") from None


def _value(parameter: cp.Parameter, value: Any) -> np.ndarray:
    try:
        return np.array(np.asarray(value), dtype=complex if parameter.is_complex() else float)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(
            f"parameter '{parameter.name()}' should be a NumPy array or what NumPy makes one of; got "
            f"{type(value).__name__} ({str(error).rstrip('.')}). "
            "For gradients of tensors take a layer of cvxlayers.torch."
        ) from error


def _mapping(given: Any, name: str, kind: str, known: Sequence[Any]) -> Mapping[Any, Any]:
    """What was given, if it maps CVXPY objects to values."""
    if not isinstance(given, Mapping):
        raise ShapeError(
            f"'{name}' should be a mapping from the problem's {kind} ({_named(known)}) to values, such as "
            f"{{{known[0].name() if known else 'x'}: value}}; got {type(given).__name__}."
        )
    return given


def _unknown(key: Any, kind: str, known: Sequence[Any]) -> ProblemError:
    hint = f" Use the CVXPY object in place of its name {key!r}." if isinstance(key, str) else ""
    return ProblemError(f"{key} is not a {kind} of the problem; these are: {_named(known)}.{hint}")


def _named(leaves: Sequence[Any]) -> str:
    return ", ".join(leaf.name() for leaf in leaves) or "none"


__all__: Sequence[str] = ["NumPyResult", "solve"]
