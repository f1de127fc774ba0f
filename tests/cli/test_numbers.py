"""Options that are numbers refuse what is none of theirs where it comes in, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from commands import invoke, refuse
from slotkit.cli.main import app

# What each command with such options needs beside them.
NEEDS = {
    "train": "",
    "finetune": "{run}",
    "evaluate": "{run}",
    "plan": "--model lenet",
    "bench": "--steps 3 --batch 2 --k 2",
    "sweep run": "--grid k=2",
    "runs replay": "{run}",
    "analyze flips": "{run}",
    "analyze weights": "{run}",
    "analyze ps-variance": "{run}",
    "analyze gap": "--dataset digits",
    "masks make": "--method iter-snip",
    "masks control": "{mask}",
    "masks search": "--accept loss",
    "masks train": "{mask}",
    "data show": "",
}

# Which of them are of a population of masks.
OF_POPULATIONS = ("--jobs", "--threads")


def numbers(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """(command, flag) of every option that is a number."""
    for name, below in getattr(command, "commands", {}).items():
        yield from numbers(below, (*path, name))
    for parameter in command.params:
        described = getattr(parameter, "type_descriptor", None)
        kind = described.annotation if described else getattr(parameter.type, "name", "").split()[0]
        if kind in (int, float, "integer", "float"):
            yield " ".join(path), parameter.opts[0]


ALL = list(numbers(typer.main.get_command(app)))

MORE = [
    *(
        (command, flag, "0")
        for command in ("sweep run", "masks train", "analyze gap")
        for flag in OF_POPULATIONS
    ),
    *(("sweep run", "--memory", value) for value in ("nan", "inf")),
    *(("sweep run", "--gpus", value) for value in ("nan", "inf")),
    *(("bench", "--k", value) for value in ("0", "2,-1")),
    *((command, "--epochs", "0") for command in ("train", "finetune", "sweep run", "masks train")),
    *(("masks search", flag, "0") for flag in ("--draws", "--batches", "--save-every", "--held-out")),
    *((command, "--draws", "0") for command in ("evaluate", "analyze ps-variance")),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with a full trace, and a mask file."""
    place = tmp_path_factory.mktemp("made")
    short = ("--epochs", "1", "--set", "training.limit_batches=2", "--device", "cpu")
    trained = invoke("train", *short, "--trace", "full", "--name", "a", "--runs-dir", str(place))
    masked = invoke("masks", "make", "--method", "random", "--device", "cpu", "--out", str(place / "m.st"))
    assert (trained.exit_code, masked.exit_code) == (0, 0)
    return {"run": place / "a", "mask": place / "m.st"}


def test_every_option_that_is_a_number_is_tried() -> None:
    assert {command for command, _ in ALL} == set(NEEDS)
    assert len(ALL) > 40


@pytest.mark.parametrize(("command", "flag", "value"), [*((*one, "-1") for one in ALL), *MORE])
def test_nonsense_is_one_sentence_and_nothing_is_written(
    command: str,
    flag: str,
    value: str,
    made: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    needs = NEEDS[command].format(**made).split()
    if command == "masks train" and flag in OF_POPULATIONS:
        needs += ["--seeds", "0,1"]
    before = sorted(made["run"].rglob("*"))
    told = refuse(monkeypatch, capsys, *command.split(), *needs, flag, value).splitlines()[-1]
    assert value in told or "should be greater than or equal to" in told or "should be less than" in told
    assert list(Path().rglob("*")) == []
    assert sorted(made["run"].rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("masks", "train", "{mask}", "--seeds", "0,1", "--jobs", "0"), "--jobs is 0. Give 1 or more."),
        (("analyze", "gap", "--dataset", "digits", "--threads", "0"), "--threads is 0. Give 1 or more."),
        (("sweep", "--grid", "k=2", "--executor", "ray", "--gpus", "inf"), "--gpus is inf. Give 0 or more."),
        (("bench", "--k", "2,0"), "--k 2,0 is not a list of integers from 1 up, such as 2,64,1024."),
    ],
)
def test_what_is_said(
    arguments: tuple[str, ...],
    sentence: str,
    made: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [argument.format(**made) for argument in arguments]
    assert refuse(monkeypatch, capsys, *given) == f"Error: {sentence}\n"
