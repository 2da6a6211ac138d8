"""The project's promises about itself: imports go down, importing is light, metadata and files agree."""

from __future__ import annotations

import ast
import configparser
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "cvxlayers"
MODULES = sorted(PACKAGE.rglob("*.py"))

# A room may import from the rooms before it, and from itself. Rooms of one row do not know each other.
ROWS = [
    {"errors", "status", "pool", "compiled"},
    {"array"},
    {"sets"},
    {"prox", "conic"},
    {"solvers"},
    {"canonical", "result"},
    {"solution_map", "lift_recover", "vectors"},
    {"array_map", "kernel_map"},
    {"maps"},
    {"layer"},
    {"one_off", "torch", "jax"},
    {"__init__"},
]
HEIGHT = {room: height for height, row in enumerate(ROWS) for room in row}


def room_of(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(module: Path) -> Iterator[str]:
    """Dotted names of everything that a module imports, at its top or inside a function, annotations aside."""
    package = ["cvxlayers", *module.relative_to(PACKAGE).parent.parts]
    tree = ast.parse(module.read_text(encoding="utf-8"))
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *(node.module.split(".") if node.module else [])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def run_python(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("JAX_ENABLE_X64", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(PACKAGE)))
def test_imports_go_down(module):
    room = room_of(module)
    assert room in HEIGHT, f"{room} has no row in the import graph: add it to ROWS and to CONTRIBUTING.md"
    for name in imports_of(module):
        if name.split(".")[0] != "cvxlayers":
            continue
        target = (name.split(".") + ["__init__"])[1]
        if target not in HEIGHT:  # a name of cvxlayers/__init__.py
            target = "__init__"
        assert target == room or HEIGHT[target] < HEIGHT[room], f"{room} must not import {name}"


@pytest.mark.parametrize(
    ("library", "rooms"),
    [("cvxpy", {"canonical"}), ("torch", {"array", "torch"}), ("jax", {"array", "jax"})],
)
def test_only_these_rooms_import(library, rooms):
    found = {room_of(m) for m in MODULES if any(name.split(".")[0] == library for name in imports_of(m))}
    assert found <= rooms


# One interpreter answers for several tests: starting it and importing the frameworks takes seconds.
STEPS = """
import importlib, json, sys, numpy
told, errors = {}, numpy.geterr()
import cvxlayers
told["status"], told["version"] = cvxlayers.Status.SOLVED, cvxlayers.__version__
told["light"] = sorted({"torch", "jax", "cvxpy"} & set(sys.modules))

import cvxpy, jax  # CVXPY looks for solvers when it is imported, and one of them wants JAX: that does not count
wide, known = jax.config.jax_enable_x64, set(sys.modules)
cvxlayers.solve
import cvxlayers.jax
told["of jax"] = "torch" in set(sys.modules) - known

import torch
def state():
    return (jax.config.jax_enable_x64, torch.get_default_dtype(), torch.get_num_threads(), numpy.geterr(),
            torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled())
before = state()
import cvxlayers.torch
told["compiler"] = "torch._dynamo" in sys.modules
told["same state"] = state() == before and before[0] == wide and errors == before[3]

modules = [importlib.import_module(name) for name in ("cvxlayers", "cvxlayers.torch", "cvxlayers.jax")]
told["missing"] = [(m.__name__, name) for m in modules for name in m.__all__ if not hasattr(m, name)]
told["listed"] = sorted(set(modules[0].__all__) - set(dir(modules[0])))
print(json.dumps(told))
"""


@cache
def told() -> dict:
    return json.loads(run_python(STEPS))


def test_importing_is_light():
    """No framework and no CVXPY; PyTorch's compiler, as large as PyTorch itself, comes with its first use."""
    assert told()["light"] == [] and told()["status"] == 0 and not told()["compiler"]


def test_importing_the_adapters_sets_no_global_state():
    assert told()["same state"]


def test_jax_comes_without_pytorch():
    assert not told()["of jax"]


def test_pytorch_comes_without_jax():
    code = """
import sys, cvxpy
before = set(sys.modules)
import cvxlayers.torch
print("jax" in set(sys.modules) - before)
"""
    assert run_python(code) == "False"


def test_every_module_says_what_it_does():
    silent = [
        str(m.relative_to(ROOT))
        for m in MODULES
        if m.stat().st_size and not ast.get_docstring(ast.parse(m.read_text()))
    ]
    assert not silent, f"modules without a first line: {silent}"


def test_public_names_exist():
    assert told()["missing"] == [] and told()["listed"] == []


def test_metadata_and_version_agree():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    version = setup["metadata"]["version"]
    assert told()["version"] == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_imported_libraries_are_declared():
    """Every library that a module imports at its top is in install_requires, or is the framework of its adapter."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = {line.split(">")[0].split(";")[0].strip() for line in setup["options"]["install_requires"].split("\n")}
    declared |= {name.replace("-", "_") for name in declared}
    for module in MODULES:
        tree = ast.parse(module.read_text(encoding="utf-8"))
        for node in tree.body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in (n.split(".")[0] for n in names):
                allowed = name in sys.stdlib_module_names or name in declared | {"cvxlayers"}
                framework = name in {"torch", "jax"} and name in module.relative_to(PACKAGE).with_suffix("").parts
                assert allowed or framework, f"{module.relative_to(ROOT)} imports {name}: require it in setup.cfg"
