"""Which solver for which program: by what each can do, and by structure and size; with the reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from cvxlayers.compiled.compiler import is_available
from cvxlayers.conic.program import ConeProgram
from cvxlayers.conic.structure import Structure
from cvxlayers.errors import SettingsError
from cvxlayers.solvers.fallback import Fallback
from cvxlayers.solvers.registry import names, refuse_unknown, resolve, solver_class, translate
from cvxlayers.solvers.settings import as_settings
from cvxlayers.solvers.solver import LINEAR, QUADRATIC, Solver

__all__ = ["Candidate", "Plan", "choose", "resolve"]

# In the order of preference, where settings or what is installed rule out the preferred one.
_AUTOMATIC = ("CLARABEL", "NATIVE", "PIQP", "ACTIVE_SET", "DAQP", "SCS", "OSQP", "ECOS")

# Measured on two x86 cores, dense and sparse quadratic programs, one problem at a time (benchmarks/qp_files.py).
_DENSE_WORK = 1e9  # n (n + m)^2 up to which an active-set method wins on dense data
_SPARSE_WORK = 1.5e7  # the same on sparse data
_TALL = 20  # rows for each variable up to which ACTIVE_SET is the faster one: by a third, for small ones several times
_SHARED_SIZE, _SHARED_BATCH = 1000, 4  # variables plus constraints, and elements, from which sharing P and A pays
_DENSE = 0.25  # the share of stored entries from which data count as dense


@dataclass(frozen=True)
class Candidate:
    """A solver that was considered, and what speaks for or against it."""

    name: str
    chosen: bool
    reason: str


@dataclass(frozen=True)
class Plan:
    """Which solver a program gets, and why. ``str(plan)`` is a table.

    ``requested`` is what the caller asked for: a name, a Solver or None.
    """

    solver: Solver
    reason: str
    candidates: tuple[Candidate, ...] = ()
    requested: Any = None

    def explained(self, more: str) -> Plan:
        """The plan with more to say of the solver that was chosen."""
        rows = (replace(c, reason=f"{c.reason}, {more}") if c.chosen else c for c in self.candidates)
        return replace(self, reason=f"{self.reason}, {more}", candidates=tuple(rows))

    def __str__(self) -> str:
        width = max((len(c.name) for c in self.candidates), default=0)
        lines = [f"{self.solver.name}: {self.reason}", f"  settings: {self.solver!r}"]
        lines += [f"  {'->' if c.chosen else '  '} {c.name:<{width}}  {c.reason}" for c in self.candidates]
        return "\n".join(lines)


def choose(
    program: ConeProgram,
    solver: Any = None,
    settings: Mapping[str, Any] | None = None,
    batch: int | None = None,
    shared: bool = False,
) -> Plan:
    """The solver for a program: the one asked for, or with ``solver=None`` the one expected to be fastest.

    A small or dense quadratic program with a positive diagonal in P gets an active-set method, with an interior-point
    method behind it; a large one whose batch shares P and A a splitting method; all else an interior-point method, the
    compiled one of this library where a factorization is cheap.
    Settings narrow the choice to solvers that have them. ``batch`` is the size of the batches to come, if that is
    known, and ``shared`` says that they share P and A.

    Raises
    ------
    SettingsError
        The solver lacks what the program needs or is not installed (the message says what each candidate lacks), or a
        setting is unknown or out of range.

    >>> import numpy as np
    >>> from cvxlayers.conic.program import Pattern
    >>> from cvxlayers.sets import Nonnegative, Product
    >>> one = Pattern((1, 1), np.array([0]), np.array([0]))
    >>> choose(ConeProgram(one, one, Product((Nonnegative(1),))), settings={"time_limit": 1.0}).solver.name
    'DAQP, then CLARABEL'
    """
    settings = as_settings(settings)
    if solver is None and "solve_method" in settings:  # how diffcp's users name a solver
        solver = settings.pop("solve_method")
        return _asked(program, solver, settings, None)
    if solver is not None:
        return _asked(program, solver, settings, solver)
    refuse_unknown(settings)
    linear = all(type(block) in LINEAR or not block.size for block in program.cone.blocks)
    preferred = (
        _preferred(program, batch, shared)
        if linear
        else _interior_point(program, "interior-point method for every cone")
    )
    candidates, able = [], []
    order = (*preferred, *(name for name in _AUTOMATIC if name not in preferred))
    for name in (*order, *(name for name in names() if name not in order)):
        against = _against(program, name, settings)
        if against is None:
            able.append(name)
        candidates.append((name, against))
    if not able:
        raise SettingsError(_nobody(program, "no solver can solve this problem with these settings", candidates))
    best = next((name for name in able if name in _AUTOMATIC), able[0])
    chosen: Solver = resolve(best, {**_FIRST.get(best, {}), **settings})
    reason = preferred.get(best, "the first that can")
    behind = solver_class("CLARABEL")
    if best in _AUTOMATIC and best != "CLARABEL" and _against(program, "CLARABEL", {}) is None:
        own = {f.name for f in fields(behind)}
        second = behind(**{name: value for name, value in translate(behind, settings).items() if name in own})
        chosen = Fallback(tol=chosen.tol, threads=chosen.threads, first=chosen, second=second)
        preferred = {**preferred, "CLARABEL": f"for what {best} leaves unsolved"}
    rows = []
    for name, against in candidates:
        if name == best:
            rows.append(Candidate(name, True, reason))
        else:
            why = f"next: {preferred[name]}" if name in preferred else _WHY_NOT.get(name, "expected to be slower here")
            if name == "NATIVE" and best in _ACTIVE_SETS:
                why = _WHY_NOT_SMALL
            rows.append(Candidate(name, False, against or why))
    return Plan(chosen, reason, tuple(rows))


def _preferred(program: ConeProgram, batch: int | None, shared: bool) -> dict[str, str]:
    """Solvers of a linear or quadratic program, best first, with the reasons."""
    n, m = program.n, program.m
    if int((program.P.rows == program.P.cols).sum()) < n or n == 0:
        return _interior_point(program, "interior-point method, as P has zeros on its diagonal")
    if shared and n + m >= _SHARED_SIZE and (batch is None or batch >= _SHARED_BATCH):
        return {"OSQP": "splitting method whose one factorization serves the batch, which shares P and A"}
    stored = program.P.nnz + program.A.nnz
    dense = stored >= _DENSE * (n * (n + 1) / 2 + m * n)
    work = n * float(n + m) ** 2
    if work <= (_DENSE_WORK if dense else _SPARSE_WORK):
        reason = f"active-set method for a {'dense' if dense else 'small'} quadratic program (n={n}, m={m})"
        reasons = {"ACTIVE_SET": f"compiled {reason}", "DAQP": reason}
        return reasons if m <= _TALL * n else dict(reversed(reasons.items()))
    kind = "large" if dense else "sparse"
    return _interior_point(program, f"interior-point method for a {kind} quadratic program")


def _interior_point(program: ConeProgram, reason: str) -> dict[str, str]:
    """Interior-point methods, best first, with the reasons."""
    compiled = is_available() and Structure.pays(program)
    return {**({"NATIVE": f"compiled {reason}"} if compiled else {}), "CLARABEL": reason}


# Settings of a solver that has another one behind it: how long to try.
_FIRST: dict[str, dict[str, Any]] = {"OSQP": {"max_iter": 4000}}

# Measured for one to eight variables at batches of 1, 8 and 32 (benchmarks/small_programs.py).
_ACTIVE_SETS = ("ACTIVE_SET", "DAQP")
_WHY_NOT_SMALL = "measured slower on small quadratic programs"

_WHY_NOT = {
    "ACTIVE_SET": "for small or dense quadratic programs with a positive diagonal in P",
    "DAQP": "for small or dense quadratic programs with a positive diagonal in P",
    "CLARABEL": "slower on small dense quadratic programs",
    "OSQP": "slower to high accuracy, as a first-order method",
    "SCS": "slower to high accuracy, as a first-order method",
    "PIQP": "holds Python's lock, so that a batch runs in one thread",
    "ECOS": "slower than Clarabel",
    "DIFFCP": "on request only: another solver, with its own derivative",
    "MOREAU": "on request only",
    "NATIVE": "for accelerators, and where it is compiled and a factorization is cheap",
}


def _against(program: ConeProgram, name: str, settings: Mapping[str, Any]) -> str | None:
    """What keeps a solver from being used, or None."""
    kind = solver_class(name)
    missing = kind.capabilities.missing(program)
    if missing and missing != (QUADRATIC,):
        return "lacks " + " and ".join(missing)
    own = {f.name for f in fields(kind)}
    unknown = [setting for setting in translate(kind, settings) if setting not in own]
    if unknown:
        return "has no setting " + " or ".join(f"'{setting}'" for setting in unknown)
    if not kind.is_available():
        return f"is not installed (pip install {kind.package})"
    if missing:
        return "on request only: the objective has to be rewritten with cones"
    return None


def _asked(program: ConeProgram, solver: Any, settings: Mapping[str, Any], requested: Any) -> Plan:
    chosen = resolve(solver, settings)
    missing = chosen.capabilities.missing(program)
    if missing or not chosen.is_available():
        problem = (
            f"solver {chosen.name} lacks {' and '.join(missing)}, which the problem needs"
            if missing
            else f"solver {chosen.name} is not installed (pip install {chosen.package})"
        )
        raise SettingsError(_nobody(program, problem, [(name, _against(program, name, {})) for name in names()]))
    return Plan(chosen, "asked for", (Candidate(chosen.name, True, "asked for"),), requested)


def _nobody(program: ConeProgram, problem: str, candidates: list[tuple[str, str | None]]) -> str:
    able = [name for name, against in candidates if against is None]
    lines = [f"{problem}."]
    if able:
        lines.append(f"These can: {', '.join(able)}; or leave the choice open with solver=None.")
    lines += [f"  {name} {against}" for name, against in candidates if against is not None]
    return "\n".join(lines)
