"""The solvers by name, and the settings that users of other libraries know them by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from importlib import import_module
from typing import Any

from cvxlayers.errors import SettingsError
from cvxlayers.solvers.settings import did_you_mean
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

# Ours, by the names that solvers and CVXPY give to it. Of several tolerances the tightest counts.
_SYNONYMS = {
    "tol": ("eps", "eps_abs", "eps_rel", "abstol", "reltol", "feastol", "tol_feas", "tol_gap_abs", "tol_gap_rel"),
    "max_iter": ("max_iters", "iter_limit", "max_iterations"),
    "time_limit": ("time_limit_secs", "max_time"),
    "threads": ("n_jobs", "n_jobs_forward", "n_jobs_backward", "max_threads"),
    "polish": ("polishing",),
    "device": ("devices",),
}
_OURS = {other: ours for ours, others in _SYNONYMS.items() for other in others}


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
        hint = did_you_mean(name.upper(), _SOLVERS)
        raise SettingsError(f"there is no solver '{name}'.{hint} Ours are {', '.join(_SOLVERS)}.")
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

    >>> resolve("scs", {"eps": 1e-6, "max_iters": 500})  # doctest: +ELLIPSIS
    SCS(tol=1e-06, threads=None, verbose=False, max_iter=500, ...)
    """
    solver = getattr(solver, "ours", solver)  # what CVXPY takes as a custom solver holds one of ours
    if isinstance(solver, Solver):
        return replace(solver, **translate(type(solver), settings)) if settings else solver
    if isinstance(solver, str):
        solver = solver_class(solver)
    if not (isinstance(solver, type) and issubclass(solver, Solver)):
        raise SettingsError(f"a solver should be a name ({', '.join(_SOLVERS)}) or a Solver; got {solver!r}.")
    return solver(**translate(solver, settings))


def takes_quadratics(solver: Any, settings: Mapping[str, Any]) -> bool:
    """Whether a problem for this solver may keep a quadratic objective; with no solver asked for, it may."""
    solver = settings.get("solve_method") if solver is None else solver
    if solver is None:
        return True
    kind = solver_class(solver) if isinstance(solver, str) else getattr(solver, "ours", solver)
    return kind.capabilities.quadratic if hasattr(kind, "capabilities") else True


def translate(solver: type[Solver], settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings under our names; those that the solver does not have are left for it to refuse."""
    own = {f.name for f in fields(solver)}
    out: dict[str, Any] = {}
    for name, value in (settings or {}).items():
        ours = name if name in own else _OURS.get(name, name)
        if ours == "threads" and value == -1:
            value = None
        if ours == "tol" and ours in out and isinstance(value, (int, float)):
            value = min(value, out[ours])
        out[ours if ours in own else name] = value
    return out
