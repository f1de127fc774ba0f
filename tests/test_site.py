"""The site: every page has its place, every public name its entry, and what a page shows is true.

`nox -s docs` builds it. These are the quick tests of what a build would not notice, or late.
"""

from __future__ import annotations

import doctest
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import slotkit

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
TEXTS = {path: path.read_text(encoding="utf-8") for path in PAGES}
DIRECTIVES = re.findall(
    r"^\.\. auto(module|function|class|exception):: ([\w.]+)$", "\n".join(TEXTS.values()), flags=re.MULTILINE
)
MODULES = [name for kind, name in DIRECTIVES if kind == "module"]
ENTRIES = [name for kind, name in DIRECTIVES if kind != "module"]


def in_toctrees(page: Path) -> Iterator[Path]:
    """The pages that a page's toctrees name, and those that these name."""
    for block in re.findall(r"^```\{toctree\}\n(.*?)^```$", TEXTS[page], flags=re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line and not line.startswith(":"):
                named = re.sub(r"^.*<(.*)>$", r"\1", line)
                below = page.parent / f"{named}.md"
                assert below in TEXTS, f"{page} names {named}, which is no page"
                yield below
                yield from in_toctrees(below)


def test_every_page_is_in_one_toctree() -> None:
    reached = list(in_toctrees(DOCS / "index.md"))
    assert sorted(reached) == [page for page in PAGES if page != DOCS / "index.md"]


def defined(module: ModuleType) -> Iterator[tuple[str, object]]:
    """The public functions and classes of a module, and what these classes define."""
    told = getattr(module, "__all__", None)
    for name, thing in (
        list(vars(module).items()) if told is None else [(n, getattr(module, n)) for n in told]
    ):
        at_home = getattr(thing, "__module__", None) == module.__name__
        if (
            not name.startswith("_")
            and (inspect.isclass(thing) or inspect.isfunction(thing))
            and (told or at_home)
        ):
            yield from whole(name, thing)


def whole(name: str, thing: object) -> Iterator[tuple[str, object]]:
    """A function or class and, of a class, its public methods and properties.

    What a method does that overrides one of ours is told where that is defined.
    """
    yield name, thing
    if not inspect.isclass(thing):
        return
    told = {
        inner
        for base in thing.__mro__[1:]
        if ours(base)
        for inner, held in vars(base).items()
        if held.__doc__
    }
    for inner, held in vars(thing).items():
        member = getattr(held, "__func__", held)
        is_own = not inner.startswith("_") and inner not in told
        if is_own and isinstance(member, Callable | property | cached_property):
            yield f"{name}.{inner}", member


def ours(base: type) -> bool:
    return base.__module__.startswith(("slotkit", __name__))


def without_docstring(names: Iterator[tuple[str, object]]) -> list[str]:
    return [name for name, thing in names if not (getattr(thing, "__doc__", None) or "").strip()]


def test_every_public_name_has_an_entry() -> None:
    assert (
        sorted(name.removeprefix("slotkit.") for name in ENTRIES if name.count(".") == 1) == slotkit.__all__
    )


@pytest.mark.parametrize("module", MODULES)
def test_what_a_documented_module_has_from_elsewhere_has_an_entry(module: str) -> None:
    """autodoc shows of a module what is defined in it."""
    loaded = import_module(module)
    things = [getattr(loaded, name) for name in getattr(loaded, "__all__", ())]
    strangers = [thing for thing in things if getattr(thing, "__module__", module) != module]
    homes = {f"{thing.__module__}.{thing.__qualname__}" for thing in strangers if inspect.isroutine(thing)}
    assert homes <= {*ENTRIES}


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_has_its_docstrings(name: str) -> None:
    place, _, last = name.rpartition(".")
    assert without_docstring(whole(name, getattr(import_module(place), last))) == []


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_of_a_documented_module_has_a_docstring(module: str) -> None:
    loaded = import_module(module)
    assert (loaded.__doc__ or "").strip()
    assert without_docstring(defined(loaded)) == []


def test_a_name_without_docstring_is_found() -> None:
    class Told:
        """It is told."""

        @property
        def silent(self) -> int:
            return 1

        def spoken(self) -> None:
            """It speaks."""

        def _private(self) -> None: ...

    class Below(Told):
        """It is told, too."""

        def spoken(self) -> None: ...

        def another(self) -> None: ...

    assert without_docstring(whole("Told", Told)) == ["Told.silent"]
    assert without_docstring(whole("Below", Below)) == ["Below.another"]


def test_the_example_of_the_idea_is_true() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXTS[DOCS / "idea.md"], flags=re.MULTILINE | re.DOTALL)
    example = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "docs/idea.md", None, None)
    assert len(example.examples) == 12
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_to_files_and_images_have_words(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for words, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text):
        assert len(words) > 20, f"{target} has no alt text"
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target
