"""Convex programs as JAX functions: a thin adapter, the mathematics is in `cvxlayers.layer`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from cvxlayers.canonical.form import Parameter
from cvxlayers.canonical.matrices import of_matrices
from cvxlayers.conic.kkt import Certificate
from cvxlayers.errors import ShapeError
from cvxlayers.jax import kernels
from cvxlayers.jax.functions import Host, compiled, conic, recover, work_dtype
from cvxlayers.kernel_map import KernelMap
from cvxlayers.layer import SMOOTHING, Layer
from cvxlayers.result import Result
from cvxlayers.sets import Cone
from cvxlayers.solution_map import Point
from cvxlayers.vectors import check_real

if TYPE_CHECKING:
    import cvxpy as cp


jax.tree_util.register_pytree_node(
    Result,
    lambda r: ((r.variables, r.objective, r.status, r.residuals, r.iterations), (r.names, r.ids)),
    lambda known, arrays: Result(*arrays, *known),
)


class _ConvexLayer:
    """What the layers have in common: they differ in how their problem is given."""

    def __init__(self, core: Layer) -> None:
        self.core = core

    def __call__(
        self, *params: Any, solver_args: Mapping[str, Any] | None = None, warm_start: bool = False
    ) -> tuple[jax.Array, ...]:
        """Optimal variables for parameters of shape (*batch, *shape), batch dimensions broadcast.

        Raises
        ------
        ShapeError
            A parameter's shape or the number of parameters is wrong.
        SolverError
            In eager code: an element has no solution, unless ``on_failure="nan"``.
        """
        return self.solve(*params, solver_args=solver_args, warm_start=warm_start).variables

    def solve(self, *params: Any, solver_args: Mapping[str, Any] | None = None, warm_start: bool = False) -> Result:
        """As a call, with the optimal value, status, residuals, iterations, and in eager code the certificate."""
        core = self.core
        arrays, dtype = _arrays(params, core.form.parameters)
        ndim = len(core.batch_shape([a.shape for a in arrays]))
        wide = tuple(_padded(a, len(p.shape), ndim) for a, p in zip(arrays, core.form.parameters, strict=True))
        route = core.maps.arrays(jax.default_backend() != "cpu", asked=True, solver_args=solver_args)
        if route is None and not warm_start and any(isinstance(a, Tracer) for a in arrays):
            route = _kernels(core, solver_args)  # in eager code they would be compiled for each shape
        if route is None:
            core.maps.host(solver_args)  # refuses wrong settings here rather than in the callback
            route = Host(tuple(sorted((solver_args or {}).items())), warm_start)
        x, z, s, status, residuals, iterations = conic(core, route, ndim, wide)
        outputs = compiled(core, recover)(ndim, wide, x, z) if wide else _constant_outputs(core, x, z)
        failed = status > 1
        outputs = tuple(_masked(o, failed, dtype) for o in outputs)
        certify = None
        if not isinstance(status, Tracer) and not isinstance(route, Host):
            certify = partial(_certify_at, core, (x, z, s), status, iterations, arrays)
        elif core.recent is not None and not isinstance(status, Tracer):
            certify = partial(_certify, core, core.recent, status.shape, arrays)
        return Result(
            outputs[:-1],
            outputs[-1],
            status,
            residuals,
            iterations,
            core.form.names,
            core.form.ids,
            certify,
        )

    def plan(self):
        """Which solver was chosen and why, and why not the others; prints as a table.

        Where the native solver is part of the compiled program it also says in which form and precision it runs; else
        how a program that JAX compiles reaches the solver.
        """
        core, accelerator = self.core, jax.default_backend() != "cpu"
        plan = core.maps.plan_for(accelerator)
        map_ = core.maps.arrays(accelerator, asked=True)
        if map_ is not None and work_dtype() != np.float64:
            return plan.explained("by array operations, compiled by XLA, in float32: jax_enable_x64 is off")
        if map_ is not None:
            return plan.explained(map_.form_on(jax.local_devices()[0]))
        if not core.form.parameters:
            return plan
        way = "called without Python" if _kernels(core) is not None else "by a callback to Python"
        return plan.explained(f"under jit {way}")

    def tree_flatten(self):
        return (), self

    @classmethod
    def tree_unflatten(cls, layer, leaves):
        return layer

    def __repr__(self) -> str:
        return f"{type(self).__name__}{self.core!r}"


@jax.tree_util.register_pytree_node_class
class CvxpyLayer(_ConvexLayer):
    """A parametrized convex program as a differentiable function of JAX arrays.

    The problem is canonicalized once. A call solves one problem, or a batch of them; it can be jitted, vmapped,
    scanned, and differentiated to any order in both modes. A layer is a pytree without leaves, so that it can be part
    of a model. Arguments and errors are those of `cvxlayers.torch.CvxpyLayer`. ``on_failure="raise"`` acts in eager
    code; under ``jit`` an element without a solution is NaN, with a zero gradient.

    Without JAX's ``jax_enable_x64`` the arrays are float32. So is the work of the native solver where it is part of the
    compiled program (``solver="native"``, and accelerators); every other solver works in float64.

    Examples
    --------
    >>> import cvxpy as cp, jax, jax.numpy as jnp
    >>> x, p = cp.Variable(2), cp.Parameter(2)
    >>> layer = CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0]), [p], [x])
    >>> jax.jit(jax.grad(lambda p: layer(p)[0].sum()))(jnp.array([1.0, -2.0])).round().tolist()
    [1.0, 0.0]

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


@jax.tree_util.register_pytree_node_class
class ConeLayer(_ConvexLayer):
    """A cone program as a differentiable function of its matrices.

    minimize (1/2) x'Px + q'x subject to Ax + s = b, s in K, for the parameters P (n, n), q (n,), A (m, n), b (m,), each
    with batch dimensions in front or without. A call returns x (n,), the dual variable z (m,) in K*, and the slack
    s (m,). Arguments and errors are those of `cvxlayers.torch.ConeLayer`, all else is as with `CvxpyLayer`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from cvxlayers.sets import Nonnegative
    >>> layer = ConeLayer(2, Nonnegative(1))
    >>> q, A, b = -jnp.array([2.0, 1.0]), jnp.ones((1, 2)), jnp.ones(1)
    >>> jax.jit(jax.grad(lambda b: layer(jnp.eye(2), q, A, b)[1].sum()))(b).round(6).tolist()
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


def _kernels(core: Layer, solver_args: Mapping[str, Any] | None = None) -> KernelMap | None:
    """The solution map by compiled kernels, on the CPU and where XLA can call them."""
    return core.maps.kernels(kernels, solver_args) if jax.default_backend() == "cpu" and kernels.available() else None


def _certify(core: Layer, point: Point, batch_shape: tuple[int, ...], arrays: Sequence[jax.Array]) -> Certificate:
    return core.certify(point, batch_shape, [a.shape for a in arrays])


def _certify_at(core: Layer, solution, status, iterations, arrays: Sequence[jax.Array]) -> Certificate:
    values, (*solution, status, iterations) = (
        [np.asarray(v) for v in vs] for vs in (arrays, (*solution, status, iterations))
    )
    point = core.point_at(values, status.shape, solution, status, iterations)
    return _certify(core, point, status.shape, arrays)


def _constant_outputs(core: Layer, x: jax.Array, z: jax.Array) -> tuple[jax.Array, ...]:
    lift = core.form.lift
    data = tuple(jnp.asarray(m.constant, x.dtype) for m in (lift.P, lift.q, lift.A, lift.b, lift.r))
    return core.maps.ends.recover(data, x, z)


def _masked(output: jax.Array, failed: jax.Array, dtype) -> jax.Array:
    mask = failed.reshape(failed.shape + (1,) * (output.ndim - failed.ndim))
    complex_ = jnp.issubdtype(output.dtype, jnp.complexfloating)
    return jnp.where(mask, jnp.nan, output).astype(jnp.promote_types(dtype, jnp.complex64) if complex_ else dtype)


def _padded(array: jax.Array, own: int, ndim: int) -> jax.Array:
    """The array in the working precision, with all its batch dimensions: a shared one has ones there."""
    real = work_dtype()
    complex_ = jnp.issubdtype(array.dtype, jnp.complexfloating)
    array = array.astype(jnp.promote_types(real, jnp.complex64) if complex_ else real)
    return array.reshape((1,) * (ndim - (array.ndim - own)) + array.shape)


def _arrays(params: Sequence[Any], parameters: Sequence[Parameter]) -> tuple[list[jax.Array], Any]:
    """The inputs as JAX arrays, and the real dtype of the result."""
    arrays = []
    for i, p in enumerate(params):
        try:
            arrays.append(p if isinstance(p, jax.Array) else jnp.asarray(p))
        except (TypeError, ValueError) as error:
            name = f"'{parameters[i].name}'" if i < len(parameters) else str(i)
            raise ShapeError(f"parameter {name} should be an array or a number; got {type(p).__name__}.") from error
    for parameter, array in zip(parameters, arrays, strict=False):
        check_real(parameter, jnp.issubdtype(array.dtype, jnp.complexfloating))
    kinds = [a.dtype for a, p in zip(arrays, params, strict=True) if isinstance(p, (jax.Array, np.ndarray, np.generic))]
    kinds = [k for k in kinds if jnp.issubdtype(k, jnp.inexact)] or [work_dtype()]
    dtype = jnp.finfo(jnp.result_type(*kinds)).dtype
    return arrays, dtype
