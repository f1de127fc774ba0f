"""The commands that are suggested fit the run, and work."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from commands import invoke
from slotkit.cli.hints import after_training

from slotkit.runs.folder import RunFolder

TINY = (
    *("--epochs", "1", "--set", "training.limit_batches=3", "--device", "cpu", "--set", "slots.engine=eager"),
    *("--name", "r"),
)


def suggested(stdout: str) -> list[str]:
    """The commands below "next:"."""
    lines = stdout.partition("next: ")[2].splitlines()
    return [line.partition("   (")[0].strip() for line in lines]


@pytest.mark.parametrize(
    ("flags", "commands"),
    [
        ((), ["evaluate", "analyze flips", "finetune", "train --config", "recipes list"]),
        (("--trace", "off", "--k", "64"), ["evaluate", "finetune", "recipes list"]),
        (("--set", "slots.kind=mask", "--k", "2"), ["evaluate", "analyze flips", "finetune", "recipes list"]),
        (("--method", "learned"), ["evaluate", "export"]),
        (
            ("--recipe", "authors-lenet-greedy", "--dataset", "digits", "--trace", "off"),
            ["evaluate", "finetune"],
        ),
    ],
)
def test_what_is_suggested_fits_the_run(
    flags: tuple[str, ...], commands: list[str], one_thread: None
) -> None:
    done = invoke("train", *TINY, *flags)
    assert done.exit_code == 0
    told = suggested(done.stdout)
    for command, expected in zip(told, commands, strict=True):
        assert command.startswith(f"slotkit {expected}")
    assert len(told) == len(commands)


def test_the_suggested_commands_work(one_thread: None) -> None:
    evaluate, flips, finetune, more, _ = suggested(invoke("train", *TINY).stdout)
    for command in (evaluate, flips, f"{finetune} --epochs 1"):
        assert invoke(*shlex.split(command)[1:]).exit_code == 0, command
    assert invoke(*shlex.split(more)[1:], "--show-config").exit_code == 0
    assert Path("runs/r/analyses").is_dir()
    own = [command for command, _ in after_training(RunFolder(Path("runs/r")), "m:f")]
    assert [command.endswith(" --model-factory m:f") for command in own] == [True, False, True, True, False]
    learned = invoke("train", *TINY[:-1], "l", "--method", "learned")
    assert learned.exit_code == 0
    told = [command for command, _ in after_training(RunFolder(Path("runs/l")), "m:f")]
    assert told == ["slotkit evaluate runs/l --model-factory m:f", "slotkit export runs/l"]


def test_commands_work_where_names_have_spaces(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate, _, _, more, _ = suggested(invoke("train", *TINY[:-1], "a run", "--runs-dir", "all runs").stdout)
    assert evaluate == "slotkit evaluate 'all runs/a run'"
    assert invoke(*shlex.split(evaluate)[1:]).exit_code == 0
    assert invoke(*shlex.split(more)[1:], "--show-config").exit_code == 0

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    # Also where the folder was only a name, and where its network is made by a function.
    monkeypatch.setattr("slotkit.training.experiment.resume", interrupted)
    done = invoke(
        *("train", "--resume", "a run", "--runs-dir", "all runs", "--model-factory", "collections:Counter")
    )
    assert done.exit_code == 130
    assert done.stderr.splitlines()[-1] == (
        "Interrupted. `slotkit train --resume 'all runs/a run' --model-factory collections:Counter` goes on "
        "with it."
    )
