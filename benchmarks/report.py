"""The stored results as lines on the screen and as the tables of docs/benchmarks.md."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
OURS = "cvxlayers"
TITLES = {
    OURS: "**cvxlayers**",
    "cvxpylayers-default": "cvxpylayers",
    "cvxpylayers-clarabel": "cvxpylayers + Clarabel",
    "cvxpylayers-moreau": "cvxpylayers + Moreau",
    "moreau": "Moreau",
    "qplayer": "QPLayer",
}
MODES = ("forward", "backward")
WRONG = 1e-2  # a larger relative error of x is no solution


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def small(value: float | None) -> str:
    """One digit and an exponent."""
    return "—" if value is None or value != value else f"{value:.0e}".replace("e-0", "e-").replace("e+00", "")


def solved(entry: dict) -> bool:
    """Whether the result is a solution at all; the accuracy itself is in a table of its own."""
    return "error" not in entry and entry.get("usual_error", entry.get("x_error", 0.0)) <= WRONG


def times(entry: dict) -> str:
    """Forward / forward and backward, in milliseconds."""
    if "not_run" in entry:
        return "—"
    if not solved(entry):
        return "wrong"
    if "lift_ms" in entry:
        return number(entry["lift_ms"])
    if "seconds" in entry:
        return f"{number(entry['seconds'])} s, {entry['gib']:.2f} GiB"
    wrong = f" ({entry['wrong']} wrong)" if entry.get("wrong") else ""
    return " / ".join(number(entry[f"{m}_ms"]) if f"{m}_ms" in entry else "—" for m in MODES) + wrong


def accuracy(entry: dict) -> str:
    """Error of the solution / median error of the gradient."""
    return f"{small(entry.get('x_error'))} / {small(entry.get('gradient_error'))}" if "x_error" in entry else "—"


def spread(entry: dict) -> str:
    """Median, 95 % quantile and maximum of the error of the gradient."""
    quantiles = [entry.get(f"gradient_error{suffix}") for suffix in ("", "_95", "_max")]
    return " / ".join(map(small, quantiles)) if quantiles[0] is not None else "—"


def lines(entries: list[dict]) -> str:
    """One case for the screen."""
    if not entries:
        return ""
    rows = [entries[0]["title"]]
    for entry in entries:
        text = f"{times(entry):>24} ms   {accuracy(entry)}   {entry.get('solver', '')}"
        if "seconds" in entry:
            text = times(entry)
        rows.append(f"  {entry['library']:22}" + (entry.get("error") or entry.get("not_run") or text))
    return "\n".join(rows)


def target(entries: list[dict]) -> str:
    """The ratio to the fastest peer that solves it, for each mode, and whether the last one meets its target."""
    ours = next((e for e in entries if e["library"] == OURS), {})
    first = entries[0]
    need = {"dense": 3 if first.get("batch") == 128 else 2, "paper": 3 if "dense" in first["case"] else 1}
    factor, words = need.get(first["group"], 1), []
    for key in ("forward_ms", "backward_ms", "lift_ms", "seconds"):
        peers = [e[key] for e in entries if e["library"] != OURS and key in e and solved(e)]
        if key in ours and solved(ours) and peers:
            words.append((min(peers) / ours[key], min(peers) >= factor * ours[key]))
    if not words:
        return "not available"
    met = words[-1][1]
    if first["group"] == "small":
        met = ours["backward_ms"] <= 0.5
        aim = "≤ 0.5 ms"
    else:
        aim = f"≥ {factor}" if factor > 1 else "> 1"
    return " / ".join(f"{ratio:.1f}×" for ratio, _ in words) + f" ({aim}: {'met' if met else 'not met'})"


def table(entries: list[dict], cell: Callable[[dict], str], judged: bool = True) -> str:
    """A row for each case, a column for each library, and the target."""
    cases = list(dict.fromkeys(e["case"] for e in entries))
    took_part = {e["library"] for e in entries if "not_run" not in e}
    names = [name for name in TITLES if name in took_part]
    rows = [["problem", *(TITLES[name] for name in names)] + ["peer / cvxlayers (target)"] * judged]
    for case in cases:
        row = [e for e in entries if e["case"] == case]
        of = {e["library"]: e for e in row}
        cells = [cell(of[name]) if name in of and "error" not in of[name] else "—" for name in names]
        rows.append([row[0]["title"], *cells] + [target(row)] * judged)
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def families(entries: list[dict]) -> list[dict]:
    """The MPC problems gathered by family: medians of the times, and the largest errors."""
    found: dict[tuple[str, str], list[dict]] = {}
    for entry in entries:
        found.setdefault((entry["case"].rstrip("0123456789"), entry["library"]), []).append(entry)
    gathered = []
    for (case, _), of in found.items():
        good = [e for e in of if "error" not in e] or of
        title = re.sub(r"^([A-Z]+)\d+", rf"\1 ({len(of)} problems)" if len(of) > 1 else r"\g<0>", of[0]["title"])
        entry = good[0] | {"case": case, "title": title}
        for key in ("forward_ms", "backward_ms"):
            if values := [e[key] for e in good if key in e]:
                entry[key] = statistics.median(values)
        if values := [e["x_error"] for e in good if "x_error" in e]:
            entry |= {"usual_error": statistics.median(values), "wrong": sum(value > WRONG for value in values)}
        for key in ("x_error", "objective_error", "violation", "gradient_error"):
            if values := [e[key] for e in good if key in e]:
                entry[key] = max(values)
        gathered.append(entry)
    return gathered


def notes(entries: list[dict]) -> str:
    """Why something is missing, each reason once."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        if why := entry.get("error") or entry.get("not_run"):
            found.setdefault(f"{TITLES[entry['library']]}: {why}", []).append(entry["case"])
    texts = (f"- {why} ({', '.join(cases[:3])}{', …' if len(cases) > 3 else ''})" for why, cases in found.items())
    return "\n".join(texts)


def about(results: dict) -> str:
    """The machine and the versions."""
    of, versions = results["machine"], {}
    for library, packages in results["versions"].items():
        for name, number in packages.items():
            versions.setdefault(name, {}).setdefault(number, []).append(TITLES[library])
    listed = []
    for name in sorted(versions):
        numbers = versions[name]
        if len(numbers) == 1:
            listed.append(f"{name} {next(iter(numbers))}")
        else:
            listed += [f"{name} {k} ({', '.join(dict.fromkeys(v))})" for k, v in sorted(numbers.items())]
    return (
        f"Measured on {of['date']}: {of['cpu']}, {of['cores']} cores, {of['threads']} threads for every library, "
        f"{of['system']}, Python {of['python']}; load of the machine before {of['load'][0]} and after {of['load'][1]}. "
        f"Versions: {'; '.join(listed)}."
    )


def write(results: dict) -> None:
    """Replace what stands between the markers of docs/benchmarks.md."""
    entries = results["entries"]

    def group(*names: str) -> list[dict]:
        return [e for e in entries if e["group"] in names]

    speed, mpc = group("small", "dense", "paper"), families(group("mpc"))
    parts = {
        "machine": about(results),
        "qp": table(speed, times),
        "qp-errors": table(speed, accuracy, judged=False),
        "conic": table(group("conic"), times),
        "conic-errors": table(group("conic"), accuracy, judged=False),
        "mpc": table(mpc, times) if mpc else "Not measured: `--data` was not given.",
        "mpc-errors": table(mpc, accuracy, judged=False) if mpc else "",
        "construction": table(group("construction"), times),
        "lift": table(group("lift"), times),
        "gradients": table(group("accuracy", "lp"), spread, judged=False),
        "lp": table(group("lp"), times),
        "notes": notes(entries),
    }
    replace(parts)


def replace(parts: dict[str, str], page: Path = PAGE) -> None:
    """Put each part between its markers in docs/benchmarks.md, or in another page."""
    text = page.read_text()
    for name, part in parts.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        text = re.sub(f"{begin}.*?{end}", lambda _, p=part, b=begin, e=end: f"{b}\n{p}\n{e}", text, flags=re.DOTALL)
    page.write_text(text)
