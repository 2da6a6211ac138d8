"""A public check of proximal operators: does this prox belong to this value, on batches, with right derivatives?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import is_array_api_obj, is_numpy_array

from cvxlayers.array import namespace, pullback, stop_gradient, to_library_of, visible
from cvxlayers.errors import CvxlayersError
from cvxlayers.prox.candidates import best_found, real_view

Array = Any


class CheckFailed(CvxlayersError, AssertionError):
    """An operator is not what it says; ``report`` has the findings."""

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self):
        return type(self), (self.args[0], self.report)


@dataclass(frozen=True)
class Finding:
    """One fact about an operator: its ``name``, and what was found ``wrong``, None if nothing."""

    name: str
    wrong: str | None


@dataclass(frozen=True)
class Report:
    """What `check_prox` looked at; printed, one line for each fact."""

    findings: tuple[Finding, ...]

    @property
    def failed(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.wrong)

    def __str__(self) -> str:
        return "\n".join(
            f"{'FAILED' if f.wrong else 'ok':7}{f.name}{': ' + f.wrong if f.wrong else ''}" for f in self.findings
        )


def check_prox(
    f: Any,
    x: Array | None = None,
    *,
    shape: tuple[int, ...] = (6,),
    taus: tuple[float, ...] = (0.3, 1.0, 3.0),
    tol: float = 1e-6,
    seed: int = 0,
    raises: bool = True,
) -> Report:
    """Check that ``f.prox`` is the proximal operator of ``f``: by definition, not by the formula of either.

    - optimality: tau f(p) + ||p - x||^2 / 2 at p = prox is not beaten by more than ``tol`` (1 + its value), by random
      restarts, sparse and scaled points, points of the range of the prox, and a random descent; p is in the domain;
    - firm nonexpansiveness: <p - p', x - x'> >= ||p - p'||^2, if ``f.convex`` (True if there is no such attribute);
    - the conjugate, if f is convex: q = f.conj_prox(x, tau) is a subgradient of f at (x - q)/tau; and f*, where
      ``f.conjugate_value`` knows it, satisfies Fenchel's inequality, with equality at subgradients;
    - a batch is the loop over its samples, with one tau for all or one each, in any order, and again in a second call;
    - shape, dtype and inputs are kept, in float32 too;
    - derivatives, if ``x`` is an array of PyTorch or JAX: against finite differences with respect to x and tau, and
      finite at degenerate points: zero, equal entries, points of the range.

    ``f`` has ``f(x)`` and ``f.prox(x, tau)``; whatever else it has of the interface of `Prox` is checked too. ``x`` are
    points, (samples, \\*shape), of any library, real or complex; without it, NumPy points of ``shape`` are drawn.
    Returns a `Report`, raises `CheckFailed` if something is wrong, unless ``raises`` is false.

    >>> from cvxlayers.prox import L1
    >>> class TwiceThreshold(L1):
    ...     def prox(self, x, tau=1.0):
    ...         return super().prox(x, 2 * tau)
    >>> print(check_prox(TwiceThreshold(), raises=False).failed[0].name)
    optimality
    >>> check_prox(L1()).failed
    ()
    """
    check = _Check(f, x if x is not None else _draw(shape, seed), taus, tol, seed)
    findings = tuple(Finding(name, _first_problem(facts)) for name, facts in check.facts())
    report = Report(findings)
    if raises and report.failed:
        first = report.failed[0]
        raise CheckFailed(f"{f!r} fails the check of {first.name}: {first.wrong}\n{report}", report)
    return report


def _first_problem(facts: Callable[[], Iterator[str]]) -> str | None:
    try:
        return next(iter(facts()), None)
    except Exception as error:  # whatever a user's operator raises is a finding
        return f"{type(error).__name__}: {error}"


def _draw(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Ordinary points, large and small ones, whole numbers with ties, and points with zeros."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((12, *shape)) * 2
    points[3:5] *= 0.1
    points[5:7] *= 5
    points[7:9] = np.round(points[7:9])
    points[9:11] *= rng.random((2, *shape)) < 0.5
    points[11] = np.abs(points[11])
    return points


class _Check:
    def __init__(self, f: Any, x: Array, taus: tuple[float, ...], tol: float, seed: int) -> None:
        self.f, self.x, self.taus, self.tol = f, x, taus, tol
        self.rng = np.random.default_rng(seed)
        self.points = self._numpy(x)
        self.convex = getattr(f, "convex", True)
        self.count = len(self.points)
        self.tolerance = tol if np.real(self.points).dtype == np.float64 else max(tol, 2e-4)

    def facts(self) -> Iterator[tuple[str, Callable[[], Iterator[str]]]]:
        yield "shape, dtype and inputs", self.kept
        yield "optimality", self.optimality
        if self.convex:
            yield "firm nonexpansiveness", self.nonexpansive
            yield "the conjugate", self.conjugate
        yield "a batch is the loop over its samples", self.batch
        if not is_numpy_array(self.x):
            yield "derivatives", self.derivatives
            yield "derivatives at degenerate points", self.degenerate

    # The operator on NumPy arrays, in the library of the points.

    def _numpy(self, value: Any) -> np.ndarray:
        if not is_array_api_obj(value):
            return np.asarray(value)
        seen = visible(stop_gradient(value))
        return np.asarray(seen if seen is not None else namespace(value).asarray(value, device="cpu"))

    def _like(self, points: np.ndarray) -> Array:
        if not is_numpy_array(self.x):
            return to_library_of(self.x, points)
        return points.astype(self.points.dtype if np.iscomplexobj(points) else np.real(self.points).dtype)

    def prox(self, points: np.ndarray, tau: Any) -> np.ndarray:
        return self._numpy(self.f.prox(self._like(points), tau))

    def value(self, points: np.ndarray) -> np.ndarray:
        return self._numpy(self.f(self._like(points)))

    def _sum(self, values: np.ndarray) -> np.ndarray:
        return np.sum(np.real(values), axis=tuple(range(1, values.ndim)))

    def _inner(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return self._sum(np.conj(a) * b)

    # The facts; each yields what is wrong.

    def kept(self) -> Iterator[str]:
        for points in (self.points, self.points.astype(np.complex64 if np.iscomplexobj(self.points) else np.float32)):
            x = points.copy() if is_numpy_array(self.x) else namespace(self.x).asarray(points.copy())
            y = self.f.prox(x, self.taus[0])
            if not np.array_equal(self._numpy(x), points):
                yield "prox writes on its input"
            if tuple(y.shape) != points.shape:
                yield f"prox turns the shape {points.shape} into {tuple(y.shape)}"
            if y.dtype != x.dtype:
                yield f"prox turns the dtype {x.dtype} into {y.dtype}"
            value = self.f(x)
            if not np.array_equal(self._numpy(x), points):
                yield "the value writes on its input"
            if tuple(value.shape) != (self.count,):
                yield f"the value of {points.shape} should have the shape ({self.count},); it has {tuple(value.shape)}"
            if "complex" in str(value.dtype):
                yield "the value should be real; it is complex"
            if points.dtype != self.points.dtype:
                precise = self.prox(self.points, self.taus[0])
                off = np.abs(self._numpy(y) - precise).max(initial=0)
                if self.convex and not off <= 1e-3 * (1 + np.abs(precise).max(initial=0)):
                    yield f"prox in single precision differs by {off:.1e}"

    def optimality(self) -> Iterator[str]:
        proxes = {tau: self.prox(self.points, tau) for tau in self.taus}
        for tau, p in proxes.items():
            if not np.isfinite(p).all():
                yield f"prox is not finite for tau={tau}"

            def cost(y: np.ndarray, tau: float = tau) -> np.ndarray:
                gap = y - self.points
                return tau * self.value(y) + self._inner(gap, gap) / 2

            reached = cost(p)
            if not np.isfinite(reached).all():
                yield f"the value of the prox is not finite for tau={tau}: it is outside the domain of f"
            best, point = best_found(
                cost, self.points, p, list(proxes.values()), lambda v, tau=tau: self.prox(v, tau), self.rng
            )
            excess = (reached - best) / (1 + np.abs(reached))
            worst = int(np.argmax(excess))
            if excess[worst] > self.tolerance:
                yield (
                    f"for tau={tau} and x={_short(self.points[worst])}, prox={_short(p[worst])} costs "
                    f"{reached[worst]:.6g}, but {_short(point[worst])} costs {best[worst]:.6g}"
                )

    def nonexpansive(self) -> Iterator[str]:
        for tau in self.taus:
            p = self.prox(self.points, tau)
            for shift in range(1, min(self.count, 6)):
                dx, dp = self.points - np.roll(self.points, shift, 0), p - np.roll(p, shift, 0)
                lack = self._inner(dp, dp) - self._inner(dp, dx)
                if (lack > self.tolerance * (1 + self._inner(dx, dx))).any():
                    yield f"<p - p', x - x'> < ||p - p'||^2 by {lack.max():.2e} for tau={tau}"

    def conjugate(self) -> Iterator[str]:
        """Subgradients u of f at z: f(y) >= f(z) + <u, y - z> for all y, and f*(u) = <u, z> - f(z)."""
        trials = [self.prox(np.roll(self.points, k, 0) * s, 1.0) for k, s in ((0, 1.0), (1, 1.0), (2, 3.0), (0, 0.1))]
        known = hasattr(self.f, "conjugate_value")
        # A point that costs too much by tol (1 + cost) may be as far from the minimizer as this.
        accuracy = np.sqrt(2 * self.tolerance * (1 + self._inner(self.points, self.points)))
        for tau in self.taus:
            p = self.prox(self.points, tau)
            pairs = [("prox", p, (self.points - p) / tau)]
            if hasattr(self.f, "conj_prox"):
                q = self._numpy(self.f.conj_prox(self._like(self.points), tau))
                pairs.append(("conj_prox", (self.points - q) / tau, q))
            for name, z, u in pairs:
                value = self.value(z)
                if not np.isfinite(value).all():
                    # conj_prox: z is a point of the range of the prox up to rounding, magnified by 1 / tau.
                    z = self.prox(z + tau * u, tau) if name == "conj_prox" else z
                    value = self.value(z)
                for y in trials:
                    with np.errstate(invalid="ignore"):
                        lack = value + self._inner(u, y - z) - self.value(y)
                    scale = 1 + np.abs(value) + np.abs(self._inner(u, y - z))
                    inexact = accuracy * max(1.0, 1 / tau) * np.sqrt(self._inner(y - z, y - z))
                    if (lack > self.tolerance * scale + inexact).any():
                        yield f"{name} for tau={tau} gives no subgradient of f: off by {np.nanmax(lack):.2e}"
                if not known:
                    continue
                try:
                    conjugate = self._numpy(self.f.conjugate_value(self._like(u)))
                except CvxlayersError:
                    known = False
                    continue
                off = np.abs(conjugate - (self._inner(u, z) - value))
                scale = 1 + np.abs(value) + np.abs(self._inner(u, z))
                if not (off <= self.tolerance * 10 * scale).all():
                    yield f"f(z) + f*(u) should be <u, z> for subgradients u; off by {off.max():.2e} (tau={tau})"
                for v in trials:
                    with np.errstate(invalid="ignore"):
                        lack = self._inner(u, v) - self.value(v) - conjugate
                    if (lack > self.tolerance * 10 * scale).any():
                        yield f"f*(u) is less than <u, v> - f(v), by {np.nanmax(lack):.2e}"

    def batch(self) -> Iterator[str]:
        tau = self.taus[0]
        first = self.prox(self.points, tau)
        scale = 1 + np.abs(first).max(initial=0)
        each = np.linspace(0.2, 2.0, self.count)
        cases = {
            "a second call": lambda: self.prox(self.points, tau),
            "the loop": lambda: np.stack([self.prox(point, tau) for point in self.points]),
            "the reversed batch": lambda: self.prox(self.points[::-1], tau)[::-1],
            "the batch (2, samples)": lambda: self.prox(np.stack([self.points, self.points]), tau)[1],
        }
        for name, other in cases.items():
            off = np.abs(first - other()).max(initial=0)
            if not off <= self.tolerance * scale:
                yield f"{name} differs from the batch by {off:.2e}"
        together = self.prox(self.points, self._like(each))
        alone = np.stack([self.prox(point, float(t)) for point, t in zip(self.points, each, strict=True)])
        if not np.abs(together - alone).max(initial=0) <= self.tolerance * scale:
            yield f"one tau per sample differs from the loop by {np.abs(together - alone).max():.2e}"
        values = np.stack([self.value(point) for point in first])
        if not np.allclose(self.value(first), values, rtol=self.tolerance, atol=self.tolerance, equal_nan=False):
            yield "the value of a batch differs from the loop"

    def derivatives(self) -> Iterator[str]:
        single = np.real(self.points).dtype != np.float64
        step, allowed = (1e-2, 3e-2) if single else (1e-5, 1e-4)
        tau = self.taus[1 % len(self.taus)]
        # Points away from those with ties and zeros.
        x = self.points + 0.1 * real_view(self.rng.standard_normal, self.points)
        direction = real_view(self.rng.standard_normal, x)
        weight = real_view(self.rng.standard_normal, x)

        def along(s: float) -> np.ndarray:
            return self._inner(weight, self.prox(x + s * direction, tau))

        middle, ahead, behind = along(0.0), along(step), along(-step)
        smooth = np.abs(ahead + behind - 2 * middle) <= 10 * step * step + (1e-5 if single else 1e-9)
        gradient = self._numpy(pullback(lambda v: self.f.prox(v, tau), self._like(x), self._like(weight)))
        off = np.abs(self._inner(gradient, direction) - (ahead - behind) / (2 * step))[smooth]
        if not (off <= allowed * (1 + np.abs(self._inner(gradient, direction)[smooth]))).all():
            yield f"the derivative with respect to x differs from finite differences by {off.max():.2e}"
        times = np.full(self.count, tau)

        def at(s: float) -> np.ndarray:
            return self._inner(weight, self.prox(x, self._like(times + s)))

        middle, ahead, behind = at(0.0), at(step), at(-step)
        smooth = np.abs(ahead + behind - 2 * middle) <= 10 * step * step + (1e-5 if single else 1e-9)
        fixed = self._like(x)
        by_tau = self._numpy(pullback(lambda t: self.f.prox(fixed, t), self._like(times), self._like(weight)))
        off = np.abs(by_tau - (ahead - behind) / (2 * step))[smooth]
        if not (off <= allowed * (1 + np.abs(by_tau[smooth]))).all():
            yield f"the derivative with respect to tau differs from finite differences by {off.max():.2e}"

    def degenerate(self) -> Iterator[str]:
        tau = self.taus[0]
        weight = real_view(self.rng.standard_normal, self.points)
        cases = {
            "zero": 0 * self.points,
            "equal entries": np.ones_like(self.points),
            "a point of the range": self.prox(self.points, tau),
            "one nonzero entry": np.where(
                np.arange(self.points[0].size).reshape(self.points[0].shape) == 0, self.points, 0
            ),
        }
        times = np.full(self.count, tau)
        for name, points in cases.items():
            x = self._like(points)
            for variable, function, at in (
                ("x", lambda v: self.f.prox(v, tau), x),
                ("tau", lambda t, x=x: self.f.prox(x, t), self._like(times)),
            ):
                gradient = self._numpy(pullback(function, at, self._like(weight)))
                if not np.isfinite(gradient).all():
                    yield f"the derivative with respect to {variable} is not finite at {name}"
                elif variable == "x" and self.convex:
                    longest = np.sqrt(self._inner(gradient, gradient) / self._inner(weight, weight)).max()
                    if longest > 1 + 1e-3:
                        yield f"the derivative at {name} has a norm of {longest:.3f}, and prox is nonexpansive"


def _short(x: np.ndarray) -> str:
    flat = x.reshape(-1)
    shown = ", ".join(f"{v:.4g}" for v in flat[:6])
    return f"[{shown}{', ...' if flat.size > 6 else ''}]"
