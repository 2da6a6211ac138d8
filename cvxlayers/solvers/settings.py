"""Typed settings of a solver: what each may be, and what to say when it is something else."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cvxlayers.errors import SettingsError

# Ours, by the names that solvers and CVXPY give to it. Of several tolerances the tightest counts.
SYNONYMS = {
    "tol": ("eps", "eps_abs", "eps_rel", "abstol", "reltol", "feastol", "tol_feas", "tol_gap_abs", "tol_gap_rel"),
    "max_iter": ("max_iters", "iter_limit", "max_iterations"),
    "time_limit": ("time_limit_secs", "max_time"),
    "threads": ("n_jobs", "n_jobs_forward", "n_jobs_backward", "max_threads"),
    "polish": ("polishing",),
    "device": ("devices",),
}
OURS = {other: ours for ours, others in SYNONYMS.items() for other in others}


@dataclass(frozen=True)
class Rule:
    """What a setting may be: ``expected`` in words, ``allows`` a value, and ``kind``, the type in which it is kept."""

    expected: str
    allows: Callable[[Any], bool]
    kind: Callable[[Any], Any]

    def check(self, owner: str, name: str, value: object) -> Any:
        if not self.allows(value):
            raise SettingsError(f"setting '{name}' of {owner} should be {self.expected}; got {value!r}.")
        return self.kind(value)


def positive(default: float) -> Any:
    """A number above 0; infinity is allowed."""
    return _setting(default, Rule("a number above 0", lambda v: _is_number(v) and v > 0, float))


def nonnegative(default: float) -> Any:
    """A finite number of at least 0."""
    rule = Rule("a finite number of at least 0", lambda v: _is_number(v) and 0 <= v < math.inf, float)
    return _setting(default, rule)


def between(default: float, low: float, high: float) -> Any:
    """A number strictly between two others."""
    rule = Rule(f"a number between {low:g} and {high:g}", lambda v: _is_number(v) and low < v < high, float)
    return _setting(default, rule)


def count(default: int, least: int = 1) -> Any:
    """A whole number of at least ``least``."""
    rule = Rule(
        f"a whole number of at least {least}",
        lambda v: _is_number(v) and float(v).is_integer() and v >= least,
        int,
    )
    return _setting(default, rule)


def flag(default: bool) -> Any:
    """True or False."""
    return _setting(
        default, Rule("True or False", lambda v: isinstance(v, bool) or (_is_number(v) and v in (0, 1)), bool)
    )


def choice(default: str, *allowed: str) -> Any:
    """One of a few words."""
    rule = Rule("one of " + ", ".join(map(repr, allowed)), lambda v: isinstance(v, str) and v in allowed, str)
    return _setting(default, rule)


def optional_count(default: int | None = None, least: int = 1) -> Any:
    """None, or a whole number of at least ``least``."""
    rule = Rule(
        f"None or a whole number of at least {least}",
        lambda v: v is None or (_is_number(v) and float(v).is_integer() and v >= least),
        lambda v: None if v is None else int(v),
    )
    return _setting(default, rule)


def solver_setting() -> Any:
    """A solver; there is no default."""
    return _setting(None, Rule("a Solver", lambda v: hasattr(v, "capabilities"), lambda v: v))


def as_settings(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a caller gave as ``solver_args``, as a new dict; SettingsError for what is no mapping."""
    known = settings is None or (isinstance(settings, Mapping) and all(isinstance(name, str) for name in settings))
    if not known:
        raise SettingsError(
            "'solver_args' should be a mapping from names of settings to values, such as {'tol': 1e-9}; "
            f"got {settings!r}."
        )
    return dict(settings or {})


# What callers look for among the settings, and where it is.
_ELSEWHERE = {
    "warm_start": "It is an argument of the call: layer(values, warm_start=True).",
    "raise_on_error": "It is an argument of the layer: on_failure='nan' goes on where an element has no solution.",
}


def did_you_mean(name: str, allowed: Iterable[str], cutoff: float = 0.5) -> str:
    """' Did you mean ...?' with the allowed name that means the same or is the closest, or nothing.

    >>> did_you_mean("max_itr", ["tol", "max_iter"]) + did_you_mean("eps", ["tol", "max_iter"])
    " Did you mean 'max_iter'? Did you mean 'tol'?"
    """
    if name in _ELSEWHERE:
        return f" {_ELSEWHERE[name]}"
    allowed = list(allowed)
    close = [name] if name in OURS else difflib.get_close_matches(name, allowed, n=1, cutoff=cutoff)
    found = [OURS.get(other, other) for other in close]
    return f" Did you mean '{found[0]}'?" if found and found[0] in allowed else ""


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _setting(default: object, rule: Rule) -> Any:
    return field(default=default, metadata={"rule": rule})
