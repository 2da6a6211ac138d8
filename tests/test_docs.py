"""The documentation keeps its word: its examples run, and its links lead somewhere."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "paper").glob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]+)(?:#[^)]*)?\)")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [p for p in PAGES if BLOCK.search(p.read_text(encoding="utf-8"))], ids=name)
def test_examples_run(page):
    """The Python blocks of a page run one after the other, in one namespace."""
    text = page.read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "page"}
    for block in BLOCK.finditer(text):
        lines_before = text[: block.start(1)].count("\n")
        exec(compile("\n" * lines_before + block.group(1), str(page), "exec", dont_inherit=True), namespace)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    broken = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert not broken, f"{name(page)} links to {broken}"


def test_the_page_of_public_names_is_what_the_docstrings_say():
    """`make docs` writes it."""
    writer = runpy.run_path(str(ROOT / "docs" / "write_api.py"))
    assert writer["PAGE"].read_text(encoding="utf-8") == writer["page"]()
    assert writer["first_sentence"](type("C", (), {"__doc__": "With a formula:\n\n    x"})) == "With a formula."
    assert writer["first_sentence"](type("C", (), {"__doc__": "s_1 >= s_2 >= ...\n\nMore."})) == "s_1 >= s_2 >= ..."
