"""The solution maps of a layer, each made once: on the host, on the caller's arrays, by kernels that JAX calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from cvxlayers.array_map import ArrayMap
from cvxlayers.canonical.form import AffineSolverAffine
from cvxlayers.conic.elimination import Elimination
from cvxlayers.errors import SettingsError
from cvxlayers.kernel_map import Calls, KernelMap
from cvxlayers.lift_recover import LiftRecover
from cvxlayers.solution_map import Direct, SolutionMap
from cvxlayers.solvers.choice import Candidate, Plan, choose
from cvxlayers.solvers.interior_point import Native
from cvxlayers.solvers.registry import resolve
from cvxlayers.solvers.settings import as_settings
from cvxlayers.solvers.solver import Solver

ARRAY_LIMIT = 4000  # variables plus constraints up to which an accelerator is given dense matrices unasked


class Maps:
    """Parameters to conic solutions and back, for one problem: by every solver and setting that is asked for."""

    def __init__(
        self,
        form: AffineSolverAffine,
        reduction: Direct | Elimination,
        plan: Plan,
        settings: Mapping[str, Any],
        mu: float,
    ) -> None:
        self.form, self.plan = form, plan
        self._reduction, self._settings, self._mu = reduction, settings, mu
        self._host = {plan.solver: SolutionMap(form, plan.solver, reduction, mu)}
        self._arrays: dict[Native, ArrayMap] = {}
        self._kernels: dict[Solver, KernelMap | None] = {}
        self._native_settings: dict[tuple[bool, bool], Native | None] = {}

    @property
    def own(self) -> SolutionMap:
        """On the host, by the solver of the plan."""
        return self._host[self.plan.solver]

    @cached_property
    def full(self) -> SolutionMap:
        """The map without substitution, for systems at data that did not come through the lift."""
        return SolutionMap(self.form, self.plan.solver, Direct(self.form.program, self.form.lift), self._mu)

    def host(self, solver_args: Mapping[str, Any] | None) -> SolutionMap:
        """The solution map with these settings over the layer's own; SettingsError for wrong ones."""
        if not solver_args:
            return self.own
        solver = choose(
            self._reduction.program,
            solver=self.plan.requested,
            settings={**self._settings, **as_settings(solver_args)},
            shared=shares_matrices(self.form),
        ).solver
        found = self._host.get(solver)
        if found is None:
            found = self._host[solver] = SolutionMap(self.form, solver, self._reduction, self._mu)
        return found

    def arrays(
        self, default: bool, asked: bool = False, solver_args: Mapping[str, Any] | None = None
    ) -> ArrayMap | None:
        """The solution map on the caller's arrays, where it is the one to take; None for the host.

        ``default`` says whether the native solver works on the arrays where the choice is left open, as it does on an
        accelerator. Asked for by name, it does so there, where ``asked`` says so, and without its compiled kernels.
        """
        if not self.form.parameters:
            return None
        if not solver_args:
            if (default, asked) not in self._native_settings:  # once: a call on a GPU is over in a millisecond
                self._native_settings[default, asked] = self._native(default, asked, self._settings)
            settings = self._native_settings[default, asked]
        else:
            settings = self._native(default, asked, {**self._settings, **as_settings(solver_args)})
        if settings is None:
            return None
        found = self._arrays.get(settings)
        if found is None:
            found = self._arrays[settings] = ArrayMap(self.form, self.ends, settings, self._mu)
        return found

    def kernels(self, calls: Calls, solver_args: Mapping[str, Any] | None = None) -> KernelMap | None:
        """The solution map by calls of the kernels of the solver on the host; None if it has none for this program."""
        if not self.form.parameters:
            return None
        host = self.host(solver_args)
        if host.solver not in self._kernels:
            fits = KernelMap.fits(host)
            self._kernels[host.solver] = KernelMap(self.form, self.ends, host, calls) if fits else None
        return self._kernels[host.solver]

    def _native(self, default: bool, by_name: bool, settings: Mapping[str, Any]) -> Native | None:
        """The native solver with these settings, if it solves on the caller's arrays."""
        asked = self.plan.requested
        if asked is None:
            program = self.form.program
            if not default or "solve_method" in settings or program.n + program.m > ARRAY_LIMIT:
                return None
            try:
                return resolve(Native, settings)  # pyright: ignore[reportReturnType]
            except SettingsError:  # one of another solver's
                return None
        if not isinstance(self.plan.solver, Native):
            return None
        solver = resolve(asked, settings)
        return solver if isinstance(solver, Native) and (default or by_name or not solver.compiled) else None

    def plan_for(self, accelerator: bool) -> Plan:
        """The plan for arrays on the CPU, or on an accelerator."""
        solver = self._native(accelerator, False, self._settings)
        if solver is None or self.plan.requested is not None:
            return self.plan
        reason = "the arrays stay on their device"
        rest = tuple(replace(c, chosen=False, reason=f"on the CPU: {c.reason}") for c in self.plan.candidates)
        rest = tuple(c for c in rest if c.name != solver.name)
        return Plan(solver, reason, (Candidate(solver.name, True, reason), *rest))

    @cached_property
    def ends(self) -> LiftRecover:
        """Lift and recover on any array library, for derivatives of the derivative."""
        return LiftRecover(self.form)


def shares_matrices(form: AffineSolverAffine) -> bool:
    """Whether every element of a batch has the same P and A."""
    return not form.lift.P.blocks and not form.lift.A.blocks
