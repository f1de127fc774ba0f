"""An option that several commands have says the same in each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from slotkit.cli.main import app


def options(command: Any) -> Iterator[tuple[str, str]]:
    """(flag, words) of a command and of all below it."""
    for below in getattr(command, "commands", {}).values():
        yield from options(below)
    for parameter in command.params:
        yield from ((flag, getattr(parameter, "help", "")) for flag in parameter.opts)


@pytest.mark.parametrize(
    ("flag", "commands"), [("--runs-dir", 12), ("--json", 15), ("--device", 3), ("--show-config", 2)]
)
def test_a_shared_option_has_one_text(flag: str, commands: int) -> None:
    told = [words for name, words in options(typer.main.get_command(app)) if name == flag]
    assert len(told) >= commands
    assert len(set(told)) == 1
