"""What the documentation tells people to type works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from slotkit.cli.main import app
from typer.testing import CliRunner

from slotkit import recipes

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
CALLS = [
    (page.name, call.strip())
    for page in PAGES
    for call in re.findall(r"^ {4}(slotkit train .*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    # which need a run, or a file: tests/runs/test_resume.py, tests/cli/test_settings.py
    if not {"--resume", "--config"} & set(call.split())
]


@pytest.mark.parametrize(("page", "call"), CALLS)
def test_every_train_command_of_the_docs_resolves(page: str, call: str) -> None:
    arguments = call.partition("#")[0].split()[1:]
    done = CliRunner().invoke(app, [*arguments, "--show-config"], catch_exceptions=False)
    assert done.exit_code == 0


def test_every_example_call_of_the_ceng501_readme_has_an_equivalent() -> None:
    # The one that is traced is ours: it answers their question.
    calls = [call for page, call in CALLS if page == "ceng501.md" and "--trace" not in call]
    assert len(calls) == 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_recipes_that_are_named_exist(page: Path) -> None:
    named = re.findall(
        r"\b(?:paper(?:-literal)?|authors|ceng501)-[a-z0-9]+(?:-[a-z]+)+\b", page.read_text(encoding="utf-8")
    )
    assert set(named) <= set(recipes.names())


def test_the_program_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGES[0].read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(program, "README.md", "exec"), names)
    again, model = names["again"].state_dict(), names["model"].state_dict()
    assert list(again) == list(model)
    assert all(torch.equal(again[name], model[name]) for name in model)
    connections = sum(value.numel() for name, value in model.items() if name.endswith("weight"))
    assert Path("mine.slot.safetensors").stat().st_size < connections
