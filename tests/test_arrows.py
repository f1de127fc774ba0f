"""Imports run one way: in the order of the map in CONTRIBUTING.md, and never in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
PLACES = ("slotkit", "analyses", "cli")

Files = Mapping[str, str]  # path in the checkout -> source


def layers(text: str) -> list[list[str]]:
    """The lines of the map, from the core outwards: the paths that each begins with."""
    found = []
    for line in text.splitlines():
        if line.startswith(tuple(f"    {place}/" for place in PLACES)):
            found.append([word for word in line.split() if word.startswith(tuple(f"{p}/" for p in PLACES))])
    return found


def layer_of(path: str, order: list[list[str]]) -> int | None:
    """The line of the longest entry that is the file or a folder above it; None if there is none."""
    fits = [
        (len(entry), number)
        for number, entries in enumerate(order)
        for entry in entries
        if path == entry or (entry.endswith("/") and path.startswith(entry))
    ]
    return max(fits)[1] if fits else None


def module_name(path: str) -> str:
    """As it is imported: commands and analyses install inside slotkit."""
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return name if name.startswith("slotkit") else f"slotkit.{name}"


def imports(files: Files) -> Iterator[tuple[str, str]]:
    """(file, a file that it imports), wherever the import stands: on top, in a function, for types only."""
    by_name = {module_name(path): path for path in files}
    for path, source in files.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                found = by_name.get(name) or by_name.get(name.rpartition(".")[0])
                # Whoever imports a package's own __init__ gets names that are looked up late.
                if found not in (None, path, "slotkit/__init__.py"):
                    yield path, str(found)


def faults(files: Files, text: str) -> list[str]:
    """What is wrong with the imports, as sentences."""
    order, found = layers(text), []
    homeless = [path for path in files if layer_of(path, order) is None]
    found += [f"{path} is not in the map." for path in homeless]
    pairs = [pair for pair in imports(files) if not set(pair) & set(homeless)]
    for path, other in pairs:
        here, there = layer_of(path, order), layer_of(other, order)
        assert here is not None
        assert there is not None
        if there > here and path != "slotkit/__init__.py":
            found.append(f"{path} imports {other}, which stands below it in the map.")
    graph: dict[str, set[str]] = {}
    for path, other in pairs:
        graph.setdefault(path, set()).add(other)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        found.append(f"A circle: {' <- '.join(circle.args[1])}.")
    return found


def test_imports_follow_the_map() -> None:
    files = {
        path.relative_to(CHECKOUT).as_posix(): path.read_text(encoding="utf-8")
        for place in PLACES
        for path in (CHECKOUT / place).rglob("*.py")
    }
    assert len(files) > 100
    assert len(list(imports(files))) > 300
    assert faults(files, (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")) == []


MAP = """
    slotkit/core.py      the core
    slotkit/box/         what is built on it
    cli/                 commands
"""

WRONG = {
    "upwards": (
        {"slotkit/core.py": "def f():\n    from slotkit.box.one import g"},
        "slotkit/core.py imports slotkit/box/one.py, which stands below it in the map.",
    ),
    "for-types-only": (
        {"slotkit/core.py": "if TYPE_CHECKING:\n    import slotkit.cli.main"},
        "slotkit/core.py imports cli/main.py, which stands below it in the map.",
    ),
    "circle": (
        {"slotkit/box/two.py": "from slotkit.box import one"},
        "A circle: slotkit/box/two.py <- slotkit/box/one.py <- slotkit/box/two.py.",
    ),
    "not-in-the-map": ({"slotkit/new.py": "import slotkit.core"}, "slotkit/new.py is not in the map."),
}

RIGHT = {
    "slotkit/__init__.py": "from slotkit.core import f",
    "slotkit/core.py": "import math",
    "slotkit/box/one.py": "from slotkit.box.two import h\nfrom slotkit.core import f",
    "slotkit/box/two.py": "from slotkit import core",
    "cli/main.py": "from slotkit.box.one import g",
}


def test_the_right_way_has_no_faults() -> None:
    assert faults(RIGHT, MAP + "    slotkit/__init__.py\n") == []


@pytest.mark.parametrize("name", WRONG)
def test_the_wrong_way_is_noticed(name: str) -> None:
    changes, sentence = WRONG[name]
    told = faults(RIGHT | changes, MAP + "    slotkit/__init__.py\n")
    if name == "circle":
        assert any(fault.startswith("A circle: ") for fault in told)
    else:
        assert sentence in told
