"""What a shell completes, without torch; -h; python -m slotkit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import invoke
from slotkit.cli import completion

from slotkit.recipes import names
from slotkit.runs.folder import MARKS
from slotkit.sweeps.manifest import MANIFEST


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    place = tmp_path / "runs"
    for file in ("mine/config.toml", "many/sweep.json", "many/k2-s0/config.toml", "other/notes.txt"):
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).touch()
    return place


def completed(place: Path, *words: str, incomplete: str = "") -> list[str]:
    """What bash would offer, from a process of its own, and whether it has imported torch."""
    program = (
        "import sys; from slotkit.cli.main import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    line = " ".join(["slotkit", *words, incomplete])
    asked = {"_SLOTKIT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) + 1)}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv = ['slotkit']\n{program}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=place.parent,
        env=os.environ | asked,
    )
    assert done.stderr.strip() == "False"
    return done.stdout.split()


def test_a_shell_completes_runs_without_torch(runs: Path) -> None:
    assert completed(runs, "evaluate", incomplete="m") == ["many", "mine"]


def test_what_is_completed(runs: Path) -> None:
    context = SimpleNamespace(params={})

    def offered(complete: object, incomplete: str) -> list[str]:
        return complete(context, incomplete)  # type: ignore[operator,no-any-return]

    assert offered(completion.complete_run, "") == ["many", "mine"]
    assert offered(completion.complete_run, "many/") == ["many/k2-s0"]
    assert offered(completion.complete_run, "none/") == []
    assert offered(completion.complete_sweep, "") == ["many"]
    assert offered(completion.complete_run_or_sweep, "mi") == ["mine"]
    context.params["runs_dir"] = runs / "many"
    assert offered(completion.complete_run, "k") == ["k2-s0"]
    assert completion.complete_recipe("ceng501-") == [one for one in names() if one.startswith("ceng501-")]


def test_the_names_of_files_are_those_of_runs_and_sweeps() -> None:
    assert (completion.RUN_FILES, completion.SWEEP_FILE) == (MARKS, MANIFEST)


@pytest.mark.parametrize(
    "command", [[], ["train"], ["sweep"], ["sweep", "run"], ["runs", "list"], ["analyze", "flips"]]
)
def test_h_is_help(command: list[str]) -> None:
    assert invoke(*command, "-h").stdout == invoke(*command, "--help").stdout
    assert "Usage:" in invoke(*command, "-h").stdout


def test_completion_can_be_installed() -> None:
    assert "--install-completion" in invoke("--help").stdout


def test_python_m_slotkit() -> None:
    told = [
        subprocess.run([*program, "--version"], capture_output=True, text=True, check=True).stdout
        for program in (
            [sys.executable, "-m", "slotkit"],
            [sys.executable, "-c", "from slotkit.cli.main import main; main()"],
        )
    ]
    assert told[0] == told[1]
    assert told[0].startswith("slotkit ")
