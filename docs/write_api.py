"""Write docs/api.md: every public name, with its signature and the first sentence of its docstring."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import cvxlayers

PAGE = Path(__file__).parent / "api.md"
HEAD = """# Public interface

Written by `make docs` from the docstrings. The names that a module lists in `__all__` are public; everything else may
change. `help(name)` in Python shows the whole docstring.
"""


def public_modules() -> list[str]:
    """cvxlayers and the packages in it that declare what is public."""
    names = ["cvxlayers"]
    names += sorted(
        f"cvxlayers.{m.name}" for m in pkgutil.iter_modules(cvxlayers.__path__) if not m.name.startswith("_")
    )
    return [name for name in names if getattr(importlib.import_module(name), "__all__", None)]


def first_sentence(thing: object) -> str:
    """Up to the first full stop or empty line."""
    paragraph = (inspect.getdoc(thing) or "").split("\n\n")[0]
    line = " ".join(paragraph.split())
    return line.split(". ")[0].rstrip(".") + "." if line else ""


def signature(thing: object) -> str:
    """The arguments without their annotations; nothing for what has none."""
    if not callable(thing) or (inspect.isclass(thing) and issubclass(thing, (BaseException, int))):
        return ""
    try:
        found = inspect.signature(thing)
    except ValueError:
        return ""
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values() if p.name != "self"]
    return str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def entry(name: str, thing: object, level: int) -> list[str]:
    if not (inspect.isclass(thing) or callable(thing)):
        return [f"- `{name}`"]
    lines = [f"{'  ' * level}- `{name}{signature(thing)}`: {first_sentence(thing)}"]
    if inspect.isclass(thing):
        for method, value in vars(thing).items():
            described = isinstance(value, property) or inspect.isfunction(value)
            if described and not method.startswith("_") and inspect.getdoc(value):
                lines += [f"{'  ' * (level + 1)}- `.{method}{signature(value)}`: {first_sentence(value)}"]
    return lines


def page() -> str:
    lines = [HEAD]
    for module_name in public_modules():
        module = importlib.import_module(module_name)
        lines += [f"## `{module_name}`", "", first_sentence(module), ""]
        for name in module.__all__:
            lines += entry(name, getattr(module, name), 0)
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
