"""Write docs/api.md: the public names, with their signatures and the first sentences of their docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterable
from pathlib import Path

from cvxlayers.solvers import registry

PAGE = Path(__file__).parent / "api.md"
HEAD = """# Public interface

Written by `make docs` from the docstrings. What is not on this page may change without notice. `help(name)` in Python
shows a whole docstring.
"""


def sections() -> Iterable[tuple[str, str, list[tuple[str, object]]]]:
    """Heading, introduction, and the names under it."""
    for name in ("cvxlayers", "cvxlayers.torch", "cvxlayers.jax", "cvxlayers.prox"):
        module = importlib.import_module(name)
        yield f"`{name}`", first_sentence(module), [(n, getattr(module, n)) for n in module.__all__]
    from cvxlayers.conic.kkt import Certificate
    from cvxlayers.one_off import NumPyResult
    from cvxlayers.result import Result

    results = [(kind.__name__, kind) for kind in (Result, NumPyResult, Certificate)]
    yield "Results", "What `layer.solve` and `cvxlayers.solve` return.", results
    solvers = [(registry.solver_class(name).__name__, registry.solver_class(name)) for name in registry.names()]
    text = "One module each; see [solvers](solvers.md) for the choice and the common settings."
    yield "`cvxlayers.solvers`", text, [(f"{kind.__module__.split('.')[-1]}.{name}", kind) for name, kind in solvers]
    sets = importlib.import_module("cvxlayers.sets")
    yield "`cvxlayers.sets`", first_sentence(sets), [(n, getattr(sets, n)) for n in sets.__all__]


def first_sentence(thing: object) -> str:
    """Up to the first full stop that ends a sentence, or the first empty line; its own docstring only."""
    paragraph = inspect.cleandoc(getattr(thing, "__doc__", None) or "").split("\n\n")[0]
    line = re.split(r"(?<!\.)\.\s+(?=[A-Z`])", " ".join(paragraph.split()))[0]
    line = re.sub(r"(?<!\.)[.:]$", "", line)  # a formula may follow; an ellipsis stays
    return line if not line or line.endswith("...") else f"{line}."


def signature(thing: object) -> str:
    """The arguments without their annotations; nothing for what is not called by users."""
    if not callable(thing) or (inspect.isclass(thing) and issubclass(thing, BaseException | int)):
        return ""
    found = inspect.signature(thing)
    hidden = ("self", "_")
    bare = [
        p.replace(annotation=inspect.Parameter.empty)
        for p in found.parameters.values()
        if not p.name.startswith(hidden) or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    return str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def entry(name: str, thing: object) -> list[str]:
    """A line for the name, and one for each public method and property with a docstring of its own."""
    lines = [f"- `{name}{signature(thing)}`: {first_sentence(thing)}"]
    for method, value in members(thing):
        described = isinstance(value, property) or inspect.isfunction(value)
        if described and not method.startswith("_") and first_sentence(value):
            lines.append(f"  - `.{method}{signature(value)}`: {first_sentence(value)}")
    return lines


def members(thing: object) -> Iterable[tuple[str, object]]:
    """What a class defines, after what a private base class of its module does for it."""
    if inspect.isclass(thing):
        for base in thing.__bases__:
            if base.__name__.startswith("_") and base.__module__ == thing.__module__:
                yield from vars(base).items()
        yield from vars(thing).items()


def page() -> str:
    lines = [HEAD]
    for heading, introduction, names in sections():
        lines += [f"## {heading}", "", introduction, ""]
        for name, thing in names:
            lines += entry(name, thing)
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
