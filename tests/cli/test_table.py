"""Tables fit the terminal: every table that a command prints, in 80 columns."""

from __future__ import annotations

import pytest
from commands import invoke
from slotkit.cli.table import table

TINY = (
    *("--epochs", "1", "--set", "training.limit_batches=4", "--device", "cpu", "--set", "slots.engine=eager"),
    *("--set", "data.validation=0.1"),
)


def test_a_table_that_fits_is_as_wide_as_its_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = "run   test\na     97.65 %\nlong"
    rows = [("a", "97.65 %"), ("long", None)]
    assert table(("run", "test"), rows, 40) == expected
    monkeypatch.delenv("COLUMNS", raising=False)
    assert table(("run", "test"), [("x" * 300, 1)]).splitlines()[1] == "x" * 300 + "  1"  # into a pipe


def test_long_cells_have_several_lines() -> None:
    rows = [("data.dataset", "parquet:/home/someone/pictures/cifar10", "recipe paper-conv2-greedy for k > 8")]
    assert table(("setting", "value", "origin"), rows, 64).splitlines() == [
        "setting       value                     origin",
        "data.dataset  parquet:/home/someone/    recipe paper-conv2-",
        "              pictures/cifar10          greedy for k > 8",
    ]


def test_columns_without_room_stand_below() -> None:
    rows = [("20261130-lenet-digits", "lenet", "digits", "finished", "97.69 %", "96.39 %")]
    assert table(("run", "model", "dataset", "status", "validation", "test"), rows, 50).splitlines() == [
        "run                    model  dataset  status",
        "    validation  test",
        "20261130-lenet-digits  lenet  digits   finished",
        "    97.69 %     96.39 %",
    ]


@pytest.mark.parametrize("width", [1, 7, 30, 80])
def test_nothing_is_lost_at_any_width(width: int) -> None:
    rows = [("a-b/c=d e", "x" * 50, ""), ("", "two words", "-0.5")]
    text = table(("one", "another heading", "z"), rows, width)
    assert max(map(len, text.splitlines())) <= max(width, 5)  # a letter below, indented
    joined = "".join(text.split())
    for cell in ("a-b/c=d e", "x" * 50, "two words", "another heading"):
        if width >= 30:
            assert all(letter in joined for letter in cell.replace(" ", ""))
    assert sorted(joined) == sorted(
        "".join("oneanotherheadingz" + "".join("".join(row) for row in rows)).replace(" ", "")
    )


def test_every_table_of_the_house_fits_80_columns(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    name = "20261130-012639-lenet-digits-k4-probabilistic-s0"
    commands = [
        ("train", *TINY, "--name", name, "--selection", "PS", "--k", "4"),
        ("train", *TINY, "--set", "training.milestones=[10,20,30,40,50,60,70,80,90,100]", "--show-config"),
        ("runs", "list"),
        ("runs", "show", name),
        ("evaluate", name),
        ("finetune", name, "--epochs", "1", "--from-scratch", "--name", "f"),
        ("sweep", "--k", "2,4", *TINY, "--grid", "momentum=0.0", "--executor", "inline", "--name", "s"),
        ("sweep", "status", "s"),
        ("recipes", "list"),
        ("data", "list"),
        ("bench", "--k", "2", "--steps", "3", "--batch", "4", "--engines", "eager", "--dense-up-to", "1"),
    ]
    for command in commands:
        done = invoke(*command)
        assert done.exit_code == 0, (command, done.stderr)
        others = ("run folder", "next:", "      slotkit ")
        rows = [line for line in done.stdout.splitlines() if "  " in line and not line.startswith(others)]
        assert rows or command[0] == "train", command
        assert [line for line in rows if len(line) > 80] == [], command
