"""One word, one meaning: docs/glossary.md has the words, and the code uses none that was given up."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
TERMS, _, GIVEN_UP = GLOSSARY.partition("## Words that were given up")


def given_up(section: str) -> set[str]:
    """The words before the colon of each entry; "owner.word" is a word defined in that module or class."""
    entries = re.findall(r"^\* (.*?):", section, flags=re.MULTILINE)
    return {word for entry in entries for word in re.findall(r"`([\w.]+)`", entry)}


def identifiers(name: str, tree: ast.AST) -> Iterator[str]:
    """Every identifier of a module or class, and what it defines as "name.word" too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{word}" for word in defined(node))
        for field in ("id", "attr", "arg", "name", "asname"):
            word = getattr(node, field, None)
            if isinstance(word, str):
                yield word
    yield from (f"{name}.{word}" for word in defined(tree))


def defined(tree: ast.AST) -> Iterator[str]:
    """The functions, and the annotated or self-assigned attributes, of a module or class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def used(path: Path) -> set[str]:
    return set(identifiers(path.stem, ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("folder", ["slotkit", "analyses", "reports", "cli"])
def test_no_identifier_is_a_word_that_was_given_up(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    words = given_up(GIVEN_UP)
    found = {str(path.relative_to(ROOT)): used(path) & words for path in files}
    assert {path: there for path, there in found.items() if there} == {}


@pytest.mark.parametrize(
    "source",
    [
        "room = 1",
        "def f(room): pass",
        "f(room=1)",
        "import a as room",
        "x.moving = True",
        "def draw(table): pass",
        "class Picked:\n    owners: list[int]",
        "class Guard:\n    def __init__(self): self.x, self.owners = 1, 2",
    ],
)
def test_a_word_that_was_given_up_is_found(source: str) -> None:
    assert set(identifiers("figure", ast.parse(source))) & given_up(GIVEN_UP)


@pytest.mark.parametrize("source", ["mushroom = 'room'", "class Spec:\n    owners: int", "machine.draw"])
def test_other_words_are_not(source: str) -> None:
    assert not set(identifiers("figure", ast.parse(source))) & given_up(GIVEN_UP)


def test_every_word_has_one_entry() -> None:
    entries = re.findall(r"^\* \*\*(.*?)\*\*:", TERMS, flags=re.MULTILINE)
    words = [word for entry in entries for word in entry.split(", ")]
    assert len(words) >= 40
    assert len(set(words)) == len(words)
    assert len(entries) == len(re.findall(r"^\* ", TERMS, flags=re.MULTILINE)), (
        "an entry begins with its word"
    )
