"""Imports between the packages point one way, without circles, and take no private name."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest
from ansible_collections.precog.fleet.tests.places import ROOT

UTILS = ROOT / "plugins/module_utils"
# What each package may import from.
BELOW = {
    "_host": set(),
    "_engine": {"_host"},
    "_settings": {"_host", "_engine"},
    "_environment": {"_host", "_engine"},
    "_miner": {"_host", "_engine", "_environment"},
}
FILES = sorted(path for path in UTILS.rglob("*.py") if path.name != "__init__.py")
NAMES = {".".join(path.relative_to(UTILS).with_suffix("").parts): path for path in FILES}


def imports(name: str, *, at_runtime: bool = False) -> dict[str, set[str]]:
    """The modules that one imports, each with the names that it takes of it.

    :param at_runtime: only those that importing it imports: not in a function, nor for the types alone.
    """
    found: dict[str, set[str]] = {}
    tree = ast.parse(NAMES[name].read_text())
    nodes = tree.body if at_runtime else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*name.split(".")[: -node.level], *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                whole = ".".join([*base, alias.name])
                module, taken = (whole, set()) if whole in NAMES else (".".join(base), {alias.name})
                found.setdefault(module, set()).update(taken)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_module_imports_from_its_own_package_and_those_below(name):
    package = name.partition(".")[0]
    assert {other.partition(".")[0] for other in imports(name)} <= BELOW[package] | {package}


@pytest.mark.parametrize("name", NAMES)
def test_module_takes_no_private_name_of_another(name):
    private = {f"{module}.{taken}" for module, names in imports(name).items() for taken in names if taken[0] == "_"}
    assert private == set()


def test_there_is_no_circle():
    graphlib.TopologicalSorter({name: imports(name, at_runtime=True) for name in NAMES}).prepare()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(Path(path).relative_to(UTILS)))
def test_module_imports_of_this_collection_are_relative(path):
    assert "ansible_collections" not in {
        (node.module or "").partition(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
    }
