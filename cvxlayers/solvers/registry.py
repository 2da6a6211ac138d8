"""The solvers by name, and the settings that users of other libraries know them by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from importlib import import_module
from typing import Any

from cvxlayers.errors import SettingsError
from cvxlayers.solvers.settings import OURS, did_you_mean
from cvxlayers.solvers.solver import Solver

_SOLVERS = {
    "CLARABEL": "clarabel.Clarabel",
    "ACTIVE_SET": "active_set.ActiveSet",
    "DAQP": "daqp.DAQP",
    "PIQP": "piqp.PIQP",
    "OSQP": "osqp.OSQP",
    "SCS": "scs.SCS",
    "ECOS": "ecos.ECOS",
    "DIFFCP": "diffcp.DiffCP",
    "MOREAU": "moreau.Moreau",
    "NATIVE": "interior_point.native.Native",
}


def names() -> tuple[str, ...]:
    """The names that `resolve` takes."""
    return tuple(_SOLVERS)


def solver_class(name: str) -> type[Solver]:
    """The class of a solver, by its name in any case.

    >>> solver_class("clarabel").__name__
    'Clarabel'
    """
    path = _SOLVERS.get(name.upper())
    if path is None:
        hint = did_you_mean(name.upper(), _SOLVERS, cutoff=0.7)
        here = [known for known in _SOLVERS if solver_class(known).is_available()]
        others = [known for known in _SOLVERS if known not in here]
        rest = f"; not installed: {', '.join(others)}" if others else ""
        raise SettingsError(f"there is no solver '{name}'.{hint} These are installed: {', '.join(here)}{rest}.")
    module, _, attribute = path.rpartition(".")
    return getattr(import_module(f"cvxlayers.solvers.{module}"), attribute)


def resolve(solver: str | Solver | type[Solver], settings: Mapping[str, Any] | None = None) -> Solver:
    """A solver by its name in any case, its class, or itself, with these settings over its own.

    Settings go by our names, or by those that users of CVXPY and cvxpylayers know: ``eps`` for ``tol``, ``max_iters``
    for ``max_iter``, ``n_jobs_forward`` for ``threads``, and so on.

    Raises
    ------
    SettingsError
        There is no such solver, or it has no such setting.

    >>> resolve("scs", {"eps": 1e-6, "max_iters": 500})
    SCS(tol=1e-06, max_iter=500)
    """
    solver = getattr(solver, "ours", solver)  # what CVXPY takes as a custom solver holds one of ours
    if isinstance(solver, Solver):
        return replace(solver, **translate(type(solver), settings)) if settings else solver
    if isinstance(solver, str):
        solver = solver_class(solver)
    if not (isinstance(solver, type) and issubclass(solver, Solver)):
        raise SettingsError(f"a solver should be a name ({', '.join(_SOLVERS)}) or a Solver; got {solver!r}.")
    return solver(**translate(solver, settings))


def without_quadratics(solver: Any, settings: Mapping[str, Any]) -> str | None:
    """The name of the solver asked for, if it cannot have a quadratic objective."""
    solver = settings.get("solve_method") if solver is None else solver
    kind = solver_class(solver) if isinstance(solver, str) else getattr(solver, "ours", solver)
    return kind.name if hasattr(kind, "capabilities") and not kind.capabilities.quadratic else None


def refuse_unknown(settings: Mapping[str, Any]) -> None:
    """Raise SettingsError for a setting that no solver has by any name."""
    own = [[f.name for f in fields(solver_class(name))] for name in _SOLVERS]
    common = [name for name in own[0] if all(name in others for others in own)]
    known = [*common, *OURS, *(name for names in own for name in names)]
    for name in settings:
        if name not in known:
            raise SettingsError(
                f"no solver has a setting '{name}'.{did_you_mean(name, known)} All have {', '.join(common)}; "
                "solver='NAME' tells those of one solver."
            )


def translate(solver: type[Solver], settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings under our names; those that the solver does not have are left for it to refuse."""
    own = {f.name for f in fields(solver)}
    out: dict[str, Any] = {}
    for name, value in (settings or {}).items():
        ours = name if name in own else OURS.get(name, name)
        if ours == "threads" and value == -1:
            value = None
        if ours == "tol" and ours in out and isinstance(value, (int, float)):
            value = min(value, out[ours])
        out[ours if ours in own else name] = value
    return out
