"""Imports run one way: the order of CONTRIBUTING's map holds, and no files import each other in a circle.

Late imports, imports for type checking and modules that a registry names as text count like all others.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Folder of the checkout -> the package that it installs as.
PACKAGES = {
    "slotkit": "slotkit",
    "analyses": "slotkit.analyses",
    "reports": "slotkit.reports",
    "cli": "slotkit.cli",
}


def order_in(contributing: str) -> list[str]:
    """The modules and packages of the map, from the core outwards, in the map's order of reading."""
    _, _, after = contributing.partition("The house, from the core outwards")
    house = re.findall(r"^ {4}.*$", after.partition("\n* ")[0], flags=re.MULTILINE)
    paths = re.findall(rf"(?<![\w/])(?:{'|'.join(PACKAGES)})/[\w/]*(?:\.py)?", "\n".join(house))
    return [_module(Path(path)) for path in paths]


def _module(path: Path) -> str:
    """slotkit/data/idx.py -> slotkit.data.idx; cli/ -> slotkit.cli; slotkit/__init__.py -> slotkit."""
    first, *rest = path.with_suffix("").parts
    return ".".join([PACKAGES[first], *(part for part in rest if part != "__init__")])


def house() -> dict[str, str]:
    """Module -> source, of every file that installs."""
    return {
        _module(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for folder in PACKAGES
        for path in (ROOT / folder).rglob("*.py")
    }


def imports_of(source: str, modules: Mapping[str, str]) -> set[str]:
    """Those of `modules` that a file imports, wherever in the file it does."""
    named: set[str | None] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import: write the whole name, so that this test can read it"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                named.add(whole if whole in modules else node.module)
        elif isinstance(node, ast.Import):
            named.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            named.add(node.value)
    return {name for name in named if name in modules}


def place_of(module: str, order: Sequence[str]) -> int | None:
    """Where the map has a module, or the package that it is in. "slotkit" alone is slotkit/__init__.py."""
    inside = [
        name for name in order if module == name or (name != "slotkit" and module.startswith(f"{name}."))
    ]
    return order.index(max(inside, key=len)) if inside else None


def faults(files: Mapping[str, str], order: Sequence[str]) -> list[str]:
    """What is wrong with the imports of `files` (module -> source), a sentence each."""
    found = [f"{module} is not in CONTRIBUTING's map" for module in files if place_of(module, order) is None]
    graph = {module: imports_of(source, files) - {module} for module, source in files.items()}
    for module, imported in graph.items():
        here = place_of(module, order)
        for other in sorted(imported):
            there = place_of(other, order)
            if here is not None and there is not None and there > here:
                found.append(f"{module} imports {other}, which the map has further out")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as fault:
        found.append("a circle: " + " <- ".join(fault.args[1]))
    return found


def test_imports_run_one_way() -> None:
    order = order_in((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(order) == len(set(order))
    assert faults(house(), order) == []


# What analyses/ has beside its folders of one analysis each.
COMMON, REGISTRY = "slotkit.analyses.common", "slotkit.analyses.registry"


def analysis_of(module: str) -> str | None:
    """slotkit.analyses.flips.compute -> slotkit.analyses.flips; None for what is no part of an analysis."""
    folder = ".".join(module.split(".")[:3])
    return folder if folder.startswith("slotkit.analyses.") and folder not in (COMMON, REGISTRY) else None


def strays(files: Mapping[str, str]) -> list[str]:
    """What imports another analysis: each builds on common/ and below alone."""
    return [
        f"{module} imports {other}, which is another analysis: put what they share into common/"
        for module, source in files.items()
        for other in sorted(imports_of(source, files))
        if module.startswith("slotkit.analyses") and analysis_of(other) not in (None, analysis_of(module))
    ]


def test_no_analysis_imports_another() -> None:
    assert len({analysis_of(module) for module in house()} - {None}) >= 5
    assert strays(house()) == []


@pytest.mark.parametrize("module", ["flips.words", "common.result", "registry"])
def test_an_import_of_another_analysis_is_found(module: str) -> None:
    files = {
        "slotkit.analyses.weights.choice": "",
        "slotkit.analyses.common.result": "",
        f"slotkit.analyses.{module}": "from slotkit.analyses.common import result\n"
        "from slotkit.analyses.weights.choice import EDGES",
    }
    (found,) = strays(files)
    assert found.startswith(f"slotkit.analyses.{module} imports slotkit.analyses.weights.choice, which is")


def test_every_package_is_installed() -> None:
    """setuptools can't find what lies in analyses/ and cli/: pyproject.toml lists it."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = [
        _module(path.relative_to(ROOT))
        for folder in PACKAGES
        for path in (ROOT / folder).rglob("__init__.py")
    ]
    assert sorted(packages) == sorted(listed["packages"])


MAP = """
The house, from the core outwards; words:

    slotkit/errors.py  sentences    slotkit/data/  datasets
    slotkit/__init__.py  names
    cli/               commands

* slotkit/other.py is not in the map.
"""
GOOD = {
    "slotkit": "from slotkit.data.idx import read",
    "slotkit.errors": "import os",
    "slotkit.data": "",
    "slotkit.data.idx": "from slotkit.errors import SlotkitError",
    "slotkit.data.registry": "READERS = ['slotkit.data.idx']",
    "slotkit.cli.main": "def main():\n    from slotkit.data import registry\n    import slotkit",
}


def test_the_map_is_read_in_its_order() -> None:
    assert order_in(MAP) == ["slotkit.errors", "slotkit.data", "slotkit", "slotkit.cli"]


def test_a_good_house_has_no_fault() -> None:
    assert faults(GOOD, order_in(MAP)) == []


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        (
            "slotkit.errors",
            "def late():\n    from slotkit.data import idx",
            ["slotkit.errors imports slotkit.data.idx, which the map has further out", "a circle: "],
        ),
        (
            "slotkit.data",
            "if TYPE_CHECKING:\n    import slotkit.cli.main",
            ["slotkit.data imports slotkit.cli.main, which the map has further out"],
        ),
        (
            "slotkit.data.pictures",
            "from slotkit import data\nimport slotkit",
            ["slotkit.data.pictures imports slotkit, which the map has further out"],
        ),
        (
            "slotkit.data.idx",
            "from slotkit.data.registry import READERS",
            ["a circle: "],
        ),
        ("slotkit.other", "", ["slotkit.other is not in CONTRIBUTING's map"]),
    ],
)
def test_each_fault_is_found(module: str, source: str, fault: list[str]) -> None:
    found = faults(GOOD | {module: source}, order_in(MAP))
    assert len(found) == len(fault)
    assert all(text.startswith(start) for text, start in zip(found, fault, strict=True))
