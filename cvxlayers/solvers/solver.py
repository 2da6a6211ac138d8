"""What every solver is: an object with settings that declares what it can do, and prepares itself for a program."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from cvxlayers.conic.program import ConeData, ConeProgram, ConicSolution, DenseData
from cvxlayers.conic.residuals import Judge, restore, screen, without
from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.pool import available_cpus, run
from cvxlayers.sets import Cone, Exponential, Nonnegative, PositiveSemidefinite, Power, SecondOrder, Zero
from cvxlayers.solvers.settings import did_you_mean, flag, optional_count, positive
from cvxlayers.solvers.trivial import solve_trivial
from cvxlayers.status import Status, summary

if TYPE_CHECKING:
    from cvxlayers.solvers.active_set import ActiveSet

LINEAR: frozenset[type[Cone]] = frozenset({Zero, Nonnegative})
ALL: frozenset[type[Cone]] = LINEAR | {SecondOrder, PositiveSemidefinite, Exponential, Power}
QUADRATIC = "quadratic objectives"  # what a solver lacks in whose stead CVXPY can write cones

_WORTH_A_THREAD = 1e-3  # seconds of work below which waking another thread costs more than it brings


@dataclass(frozen=True)
class Capabilities:
    """What a solver can do.

    ``cones``: the cone classes it takes; ``quadratic``: whether P may be nonzero; ``layout``: whether it wants ConeData
    ("sparse") or DenseData ("dense"); ``batched``: whether it solves a batch in one call of its own; ``warm_start``:
    whether it makes use of a starting point; ``devices``: where its arrays live; ``derivative``: whether its Prepared
    has an ``adjoint`` of its own; ``shares``: whether data shared by the batch are factored once.
    """

    cones: frozenset[type[Cone]]
    quadratic: bool = True
    layout: Literal["sparse", "dense"] = "sparse"
    batched: bool = False
    warm_start: bool = False
    devices: tuple[str, ...] = ("cpu",)
    derivative: bool = False
    shares: bool = False

    def missing(self, program: ConeProgram) -> tuple[str, ...]:
        """What the program needs and the solver lacks, in words; empty if it can solve the program."""
        needed = {type(block) for block in program.cone.blocks if block.size}
        lacks = sorted(f"the cone {cone.__name__}" for cone in needed - self.cones)
        if program.P.nnz and not self.quadratic:
            lacks.append(QUADRATIC)
        return tuple(lacks)


@dataclass(frozen=True, repr=False)
class Solver(ABC):
    """A solver with its settings: frozen, comparable, picklable. Subclasses add settings as typed fields.

    ``tol`` is the relative accuracy asked for, and what the residuals are judged by. ``threads`` bounds the threads of
    a batch; None stands for all the CPUs that this process may use. ``verbose`` prints a line for each solve, after
    whatever the package prints that does the work. ``repr`` shows the settings that differ from their defaults.

    Raises
    ------
    SettingsError
        A setting is unknown or out of range.
    """

    tol: float = positive(1e-8)
    threads: int | None = optional_count()
    verbose: bool = flag(False)

    name: ClassVar[str]
    package: ClassVar[str | None] = None
    capabilities: ClassVar[Capabilities]

    def __new__(cls, *args: Any, **settings: Any):
        if args:
            raise SettingsError(f"{cls.__name__} takes settings by name, such as tol={args[0]!r}; got {args!r}.")
        allowed = [f.name for f in fields(cls)]
        for name in settings:
            if name not in allowed:
                raise SettingsError(
                    f"{cls.__name__} has no setting '{name}'.{did_you_mean(name, allowed)} "
                    f"Its settings are {', '.join(allowed)}."
                )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(
                self, f.name, f.metadata["rule"].check(type(self).__name__, f.name, getattr(self, f.name))
            )

    def __repr__(self) -> str:
        own = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in own.items())})"

    @property
    def kernel(self) -> ActiveSet | None:
        """The active-set method that does most of the work, where compiled code may call its kernel without Python."""
        return None

    @classmethod
    def is_available(cls) -> bool:
        """Whether the package that does the work is installed."""
        return cls.package is None or find_spec(cls.package) is not None

    @classmethod
    def load(cls) -> Any:
        """The package that does the work, imported when it is first needed."""
        assert cls.package is not None
        return import_module(cls.package)

    def prepare(self, program: ConeProgram) -> Prepared:
        """Everything that depends on the program's structure alone, done once.

        Raises
        ------
        SettingsError
            The solver is not installed, or lacks something that the program needs.
        """
        if not self.is_available():
            raise SettingsError(f"solver {self.name} needs the package '{self.package}': pip install {self.package}.")
        missing = self.capabilities.missing(program)
        if missing:
            raise SettingsError(f"solver {self.name} lacks {' and '.join(missing)}, which the problem needs.")
        return self._prepare(program)

    @abstractmethod
    def _prepare(self, program: ConeProgram) -> Prepared: ...


class Prepared(ABC):
    """A solver ready for one program: `solve` as often as you like, from any number of threads."""

    def __init__(self, solver: Solver, program: ConeProgram) -> None:
        self.solver = solver
        self.program = program
        self._dense = solver.capabilities.layout == "dense"

    @cached_property
    def _judge(self) -> Judge:
        return Judge(self.program)

    def solve(
        self, data: ConeData | DenseData, warm: ConicSolution | None = None, threads: int | None = None
    ) -> ConicSolution:
        """Solve a batch of problems; the result has been judged by its residuals (`cvxlayers.conic.residuals`).

        An element's numbers do not depend on the other elements, nor on the number of threads. Elements that hold NaN
        or infinity are INVALID_INPUT and take no part. ``threads`` bounds the threads, by default as the solver's
        setting does. ``warm`` is a solution to start from: its NaN elements, and
        solvers that have no use for it, start cold.
        """
        start = perf_counter()
        if self._dense != isinstance(data, DenseData):
            data = self.program.dense(data) if isinstance(data, ConeData) else self.program.sparse(data)
        data, invalid, absent = screen(self.program, data)
        solution = self._blank(data.batch)
        elements: np.ndarray | None = None
        if invalid is not None:
            solution.status[invalid] = Status.INVALID_INPUT
            elements = np.flatnonzero(~invalid)
        size = data.batch if elements is None else len(elements)
        if warm is not None:
            warm = self._checked(warm, data.batch, absent)
        if not (self.program.n and self.program.m):
            solve_trivial(self.program, data, range(size) if elements is None else elements, solution)
        elif size:
            self._run(data, elements, size, warm, solution, threads or self.solver.threads)
        if absent is not None:
            solution = without(solution, absent)
        judged = self._judge(data, solution, self.solver.tol)
        if self.solver.verbose and data.batch:
            least, most = judged.iterations.min(), judged.iterations.max()
            count = f"iterations {least}" if least == most else f"iterations {least} to {most}"
            how = summary(judged.status, judged.residuals)
            print(f"{self.solver.name}: {how}, {count}, {perf_counter() - start:.2g} s", flush=True)
        return judged if absent is None else restore(judged, absent)

    def adjoint(
        self, solution: Any, gx: np.ndarray, gz: np.ndarray, gs: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gradients for q, A and b by the solver's own derivative, where ``capabilities.derivative`` promises one."""
        raise NotImplementedError(f"{self.solver.name} has no derivative of its own.")

    def _blank(self, batch: int) -> ConicSolution:
        n, m = self.program.n, self.program.m
        status, iterations = np.zeros(batch, dtype=np.int64), np.zeros(batch, dtype=np.int64)
        return ConicSolution(np.empty((batch, n)), np.empty((batch, m)), np.empty((batch, m)), status, iterations)

    def _run(
        self, data, elements: np.ndarray | None, size: int, warm, solution: ConicSolution, threads: int | None
    ) -> None:
        """Solve the elements in pieces, in threads. A solver that is batched itself overrides this."""

        def worker() -> Callable[[int, int], None]:
            solve = self._worker(data, warm, solution)
            if elements is None:
                return lambda start, stop: solve(range(start, stop))
            taken = elements.tolist()
            return lambda start, stop: solve(taken[start:stop])

        if threads == 1 or size == 1 or size <= self.alone(data):
            worker()(0, size)
        else:
            run(worker, size, available_cpus() if threads is None else threads, self._grain(data))

    def alone(self, data) -> int:
        """The largest batch that one thread solves by itself."""
        return 2 * self._grain(data) - 1

    def _grain(self, data) -> int:
        """The least elements worth a thread."""
        return math.ceil(_WORTH_A_THREAD / self._seconds(data))

    @abstractmethod
    def _worker(self, data, warm: ConicSolution | None, out: ConicSolution) -> Callable[[Sequence[int]], None]:
        """A function that solves the elements it is given and writes on ``out``; each thread makes its own.

        Of an element it writes status and iterations always; x, z and s of a solution or of an attempt at one; z of an
        infeasibility certificate; x and s of an unbounded ray.
        """

    def _seconds(self, data) -> float:
        """A rough estimate of the time one element takes, from the sizes alone."""
        m, n = self.program.m, self.program.n
        return 1e-4 + 1e-7 * (self.program.P.nnz + self.program.A.nnz + n + m)

    def _checked(self, warm: ConicSolution, batch: int, absent: np.ndarray | None) -> ConicSolution | None:
        if not self.solver.capabilities.warm_start:
            return None
        for name, size in (("x", self.program.n), ("z", self.program.m), ("s", self.program.m)):
            shape = np.shape(getattr(warm, name))
            if shape != (batch, size):
                raise ShapeError(f"'{name}' of the warm start should be {(batch, size)}; got {shape}.")
        if absent is not None:
            warm = ConicSolution(
                warm.x,
                np.where(absent, 0.0, warm.z),
                np.where(absent, 1.0, warm.s),
                warm.status,
                warm.iterations,
            )
        return warm


def starting_point(warm: ConicSolution | None, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """x, z and s that element ``i`` starts from, or None if it starts cold."""
    if warm is None or not math.isfinite(warm.x[i].sum() + warm.z[i].sum() + warm.s[i].sum()):
        return None
    return warm.x[i].copy(), warm.z[i].copy(), warm.s[i].copy()
