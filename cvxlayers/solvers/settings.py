"""Typed settings of a solver: what each may be, and what to say when it is something else."""

from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from cvxlayers.errors import SettingsError


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


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """' Did you mean ...?' with the closest allowed name, or nothing.

    >>> did_you_mean("max_itr", ["tol", "max_iter"])
    " Did you mean 'max_iter'?"
    """
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _setting(default: object, rule: Rule) -> Any:
    return field(default=default, metadata={"rule": rule})
