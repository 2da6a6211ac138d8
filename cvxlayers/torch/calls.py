"""One call of a layer: what its forward pass leaves for its derivatives, on the host or on the tensors' device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cvxlayers.array import outside_autocast
from cvxlayers.array_map import ArrayMap, ArrayPoint
from cvxlayers.conic.kkt import Certificate
from cvxlayers.errors import CvxlayersError
from cvxlayers.layer import Layer, failure
from cvxlayers.solution_map import Point
from cvxlayers.status import Status
from cvxlayers.vectors import check_real


class Call(ABC):
    """Parameters to outputs and back; ``dtype`` is that of the outputs, ``work`` that of everything in between."""

    work = torch.float64

    def __init__(self, core: Layer, dtype: torch.dtype, objective: bool) -> None:
        self.core, self.dtype = core, dtype
        self.objective = objective  # whether the optimal value is an output, the last one
        self.batch_shape: tuple[int, ...] = ()
        self.shapes: list[tuple[int, ...]] = []
        self._given: list[torch.Tensor] = []  # the parameters of the last solve, and what they were then
        self._key: list[tuple] | None = None

    @abstractmethod
    def outputs(self, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The outputs, and the optimal value last if the call asks for it."""

    @abstractmethod
    def conic(self, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """(x, z, s) of the full program, zero where an element failed, and (*batch, 1) whether it did not."""

    @abstractmethod
    def gradients(
        self, cotangents: Sequence[torch.Tensor | None], tensors: Sequence[torch.Tensor], wanted: Sequence[int]
    ) -> list[torch.Tensor | None]:
        """Gradients of the parameters, None for those that are not wanted; not recorded for further derivatives."""

    @abstractmethod
    def linear_solve(self, P, A, z, s, gx, gz) -> tuple[torch.Tensor, torch.Tensor]:
        """(w_x, w_z) of the system of the derivative, P and A the values on the patterns."""

    @abstractmethod
    def report(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Status, residuals and iterations, on the device of ``like``."""

    @abstractmethod
    def certify(self) -> Certificate:
        """The certificate of the derivative: of the last one, or of that of the sum of all outputs."""

    def wide(self, t: torch.Tensor) -> torch.Tensor:
        """The tensor in the dtype to work in."""
        return t.to(self.work.to_complex() if t.is_complex() else self.work)

    def narrow(self, t: torch.Tensor) -> torch.Tensor:
        """An output in the dtype of the call."""
        return t.to(self.dtype.to_complex() if t.is_complex() else self.dtype)


class HostCall(Call):
    """A call that is solved and differentiated in NumPy."""

    def __init__(
        self,
        core: Layer,
        dtype: torch.dtype,
        objective: bool = True,
        solver_args: Mapping[str, Any] | None = None,
        warm_start: Point | None = None,
    ) -> None:
        super().__init__(core, dtype, objective)
        self.solver_args, self.warm_start = solver_args, warm_start
        self.point: Point
        self._values: list[np.ndarray] | None = None
        self._certificate: Certificate | None = None

    def run(self, tensors: Sequence[torch.Tensor]) -> Point:
        """Solve for these parameters, or find that it was done."""
        values = [_numpy(t) for t in tensors]
        known = self._values
        if known is None or not all(
            a is b or (a.shape == b.shape and np.array_equal(a, b, equal_nan=True))
            for a, b in zip(known, values, strict=True)
        ):
            self.shapes = [v.shape for v in values]
            self.batch_shape = self.core.batch_shape(self.shapes)
            self.point = self.core.solve(
                values, self.batch_shape, solver_args=self.solver_args, warm_start=self.warm_start
            )
            self._values = values
            if self.objective:  # only then a result is made, which may be asked for its certificate
                self._given, self._key = [t.detach() for t in tensors], [_identity(t) for t in tensors]
        return self.point

    def outputs(self, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        point = self.run(tensors)
        outputs = self.core.outputs(point, self.batch_shape)
        if self.objective:
            outputs = [*outputs, self.core.objective(point).reshape(self.batch_shape)]
        device = tensors[0].device if tensors else None
        return tuple(self._tensor(o, device) for o in outputs)

    def conic(self, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        point = self.run(tensors)
        device = tensors[0].device
        out = [torch.from_numpy(v.reshape((*self.batch_shape, v.shape[-1])).copy()).to(device) for v in point.at_zero]
        kept = np.ones(point.batch, bool) if point.failed is None else ~point.failed
        return (*out, torch.from_numpy(kept.reshape((*self.batch_shape, 1))).to(device))

    def gradients(
        self, cotangents: Sequence[torch.Tensor | None], tensors: Sequence[torch.Tensor], wanted: Sequence[int]
    ) -> list[torch.Tensor | None]:
        outputs = [None if g is None else _numpy(g) for g in cotangents]
        value = outputs.pop() if self.objective else None
        grads, certificate = self.core.vjp(self.point, outputs, value, self.batch_shape, self.shapes, wanted)
        if certificate is not None:
            self._certificate = certificate
        out: list[torch.Tensor | None] = [None] * len(tensors)
        for i, grad in grads.items():
            like = tensors[i]
            out[i] = torch.from_numpy(np.asarray(grad, order="C")).to(device=like.device, dtype=like.dtype)
        return out

    def linear_solve(self, P, A, z, s, gx, gz) -> tuple[torch.Tensor, torch.Tensor]:
        arrays = [_numpy(t) for t in (P, A, z, s, gx, gz)]
        kept = self.point.at_zero[1]
        own = self.point if np.array_equal(kept.ravel(), arrays[2].ravel()) else None
        wx, wz = self.core.linear_solve(*arrays, point=own)
        return torch.from_numpy(wx).to(gx.device), torch.from_numpy(wz).to(gx.device)

    def report(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        solution, shape = self.point.solution, self.batch_shape
        arrays = (
            np.array(solution.status).reshape(shape),
            np.array(self.point.residuals).reshape((*shape, 3)),
            np.array(solution.iterations).reshape(shape),
        )
        status, residuals, iterations = (torch.from_numpy(a).to(like.device) for a in arrays)
        return status, residuals, iterations

    def certify(self) -> Certificate:
        if self._certificate is None:
            _unchanged(self._given, self._key)
            self._certificate = self.core.certify(self.point, self.batch_shape, self.shapes)
        return self._certificate

    def _tensor(self, array: np.ndarray, device: torch.device | None) -> torch.Tensor:
        out = torch.from_numpy(np.asarray(array, order="C"))
        dtype = self.dtype.to_complex() if out.is_complex() else self.dtype
        return out if out.dtype == dtype and device in (None, out.device) else out.to(device=device, dtype=dtype)


class ArrayCall(Call):
    """A call that is solved and differentiated by operations on the tensors, on their device, with no copy elsewhere.

    With ``on_failure="raise"`` the statuses are read once, which waits for the device; with "nan" nothing is.
    """

    def __init__(self, core: Layer, dtype: torch.dtype, objective: bool, map_: ArrayMap) -> None:
        super().__init__(core, dtype, objective)
        self.map = map_
        self.work = torch.float32 if map_.settings.precision == "float32" else torch.float64
        self.point: ArrayPoint

    def run(self, tensors: Sequence[torch.Tensor]) -> ArrayPoint:
        """Solve for these parameters, or find that it was done: for these very tensors, unchanged."""
        key = [_identity(t) for t in tensors]
        if key != self._key:
            for parameter, t in zip(self.core.form.parameters, tensors, strict=True):
                check_real(parameter, t.is_complex())
            self.shapes = [tuple(t.shape) for t in tensors]
            self.batch_shape = self.core.batch_shape(self.shapes)
            with outside_autocast(tensors[0]):
                self.point = self.map.solve([self.wide(t.detach()) for t in tensors], self.batch_shape)
            self._key, self._given = key, [t.detach() for t in tensors]  # which keeps the memory from another's use
            if self.core.on_failure == "raise" and bool((self.point.status > Status.INACCURATE).any()):
                values = [_numpy(t) for t in tensors]
                raise failure(self.point.status.cpu().numpy(), self.core.form.parameters, values)
        return self.point

    def outputs(self, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        point = self.run(tensors)
        with outside_autocast(point.y):
            outputs = self.map.outputs(point)
            if self.objective:
                outputs.append(self.map.objective(point))
        return tuple(_own(self.narrow(o)) for o in outputs)

    def conic(self, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        point = self.run(tensors)
        with outside_autocast(point.y):
            return point.x.clone(), point.z.clone(), point.s.clone(), point.kept[..., None].clone()

    def gradients(
        self, cotangents: Sequence[torch.Tensor | None], tensors: Sequence[torch.Tensor], wanted: Sequence[int]
    ) -> list[torch.Tensor | None]:
        outputs = [None if g is None else self.wide(g) for g in cotangents]
        value = outputs.pop() if self.objective else None
        point = self.run(tensors)
        with outside_autocast(tensors[0]):
            grads, _ = self.map.vjp(point, outputs, value, wanted, self.shapes)
        out: list[torch.Tensor | None] = [None] * len(tensors)
        for i, grad in grads.items():
            out[i] = torch.zeros_like(tensors[i]) if grad is None else grad.to(tensors[i].dtype)
        return out

    def linear_solve(self, P, A, z, s, gx, gz) -> tuple[torch.Tensor, torch.Tensor]:
        with outside_autocast(A):
            wx, wz = self.map.linear_solve(P, A, z, s, gx, gz)
        return _own(wx), _own(wz)

    def report(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        point = self.point
        return point.status, point.residuals, point.iterations

    def certify(self) -> Certificate:
        """Found on the host, of the derivative of the sum of all outputs: what asks for it wants to see numbers."""
        _unchanged(self._given, self._key)
        values = [_numpy(t) for t in self._given]
        point = self.point
        solution = [_numpy(v) for v in (point.x, point.z, point.s)]
        status, iterations = (v.cpu().numpy() for v in (point.status, point.iterations))
        return self.core.certify(
            self.core.point_at(values, self.batch_shape, solution, status, iterations), self.batch_shape, self.shapes
        )


def _own(t: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy of what is a view: forward mode wants its outputs to have memory of their own."""
    return t.clone() if t._is_view() else t


def _identity(t: torch.Tensor) -> tuple:
    """What tells a tensor from another, and from itself after a change in place, without a look at its values."""
    version = -1 if t.is_inference() else t._version
    return t.data_ptr(), tuple(t.shape), t.stride(), t.dtype, t.device, version


def _unchanged(tensors: Sequence[torch.Tensor], key: list[tuple] | None) -> None:
    """Raise CvxlayersError if tensors are not any more what they were."""
    if [_identity(t) for t in tensors] != key:
        raise CvxlayersError(
            "the parameters were changed in place after the solve: ask for the certificate before, or hand clones to "
            "the layer."
        )


def _numpy(t: torch.Tensor) -> np.ndarray:
    if t.dtype not in (torch.float64, torch.complex128):
        t = t.to(torch.complex128 if t.is_complex() else torch.float64)
    return t.numpy(force=True)
