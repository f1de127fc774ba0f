"""Running the command in this process."""

from __future__ import annotations

import sys

import pytest
from slotkit.cli.main import app, main
from typer.testing import CliRunner, Result


def invoke(*arguments: str) -> Result:
    """A command that may exit; stdout and stderr apart."""
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def refuse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """A command that must end with exit code 2 and one sentence on stderr."""
    monkeypatch.setattr(sys, "argv", ["slotkit", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in told.err
    return told.err
