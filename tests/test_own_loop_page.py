"""docs/own-loop.md: every program and every command on it runs, in its order, and a killed loop goes on."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from forks import Fork, Forks  # type: ignore[import-not-found]
from slotkit.analyses.common.result import Result
from slotkit.cli.main import app
from typer.testing import CliRunner

from slotkit import slotfile

PAGE = (Path(__file__).parent.parent / "docs" / "own-loop.md").read_text(encoding="utf-8")
# A program begins with its file's name: "# mine.py" or, for a further part of it, "# mine.py goes on".
BLOCKS = re.findall(r"^```python\n# (\w+\.py)(?: goes on)?\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^ {4}(slotkit .*)$", PAGE, flags=re.MULTILINE)


def program(name: str) -> str:
    """The parts of one file, put together; a program that lies in the present folder finds its neighbours."""
    parts = [code for file, code in BLOCKS if file == name]
    assert parts, f"the page has no {name}"
    return "import sys; sys.path.insert(0, '')\n" + "\n".join(parts)


def start(forks: Forks, name: str, folder: Path) -> Fork:
    folder.mkdir(exist_ok=True)
    (folder / "nets.py").write_text(program("nets.py"), encoding="utf-8")
    return forks.start(program(name), cwd=folder)


@pytest.fixture(scope="module")
def done(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a reader whose loop was killed once."""
    folder: Path = tmp_path_factory.mktemp("page") / "mine"
    killed = start(forks, "mine.py", folder)
    while killed.poll() is None and "step 120:" not in killed.out.read_text():
        time.sleep(0.02)
    assert killed.kill() == -9
    assert not (folder / "mine.slot.safetensors").exists()
    assert "step 300:" in start(forks, "mine.py", folder).checked()
    return folder


def test_every_block_of_code_is_part_of_a_program() -> None:
    assert PAGE.count("\n```python\n") == len(BLOCKS)
    assert {name for name, _ in BLOCKS} == {"nets.py", "mine.py", "elsewhere.py", "plain.py"}
    others = set(re.findall(r"^ {4}(\S.*)$", PAGE.split("## All of")[0], flags=re.MULTILINE))
    inside = {line.strip() for _, code in BLOCKS for line in code.splitlines()}
    assert others - inside - {*COMMANDS} == {"python mine.py"}, "which the tests run as a fork"


def test_a_killed_loop_ends_with_the_bits_of_one_that_was_never_stopped(forks: Forks, done: Path) -> None:
    whole = done.with_name("whole")
    said = start(forks, "mine.py", whole).checked()
    assert len(re.findall(r"^step ", said, flags=re.MULTILINE)) == 10
    files = [folder / "mine.slot.safetensors" for folder in (done, whole)]
    assert slotfile.describe(files[0]) == slotfile.describe(files[1])  # a checksum of all weights is in it
    connections = 16 * 9 + 32 * 16 * 9 + 10 * 512
    assert files[0].stat().st_size < connections  # a byte each would be a quarter of what weights take
    assert (done / "runs/mine/analyses/flips.png").stat().st_size > 10_000


def test_its_commands_and_other_programs_run(
    forks: Forks, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Figures take most of the time, and the program has written one.
    monkeypatch.setattr(Result, "save", lambda found, folder: [])
    monkeypatch.chdir(done)
    monkeypatch.syspath_prepend(str(done))
    assert len(COMMANDS) == 7
    for command in COMMANDS:
        ran = CliRunner().invoke(app, command.split()[1:], catch_exceptions=False)
        assert ran.exit_code == 0, command
    right = start(forks, "elsewhere.py", done).checked()
    assert float(right.split("%")[0]) > 80
    start(forks, "plain.py", done).checked()
