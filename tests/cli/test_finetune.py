"""`slotkit finetune` as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import invoke, refuse

from slotkit.runs.folder import RunFolder

HEADINGS = "network slot epochs weight epochs all validation test"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs that holds `slot`."""
    runs = tmp_path_factory.mktemp("trained")
    flags = ("--name", "slot", "--set", "recording.keep_epochs=[1]", "--runs-dir", str(runs))
    assert invoke("train", "--epochs", "2", "--k", "4", *flags).exit_code == 0
    return runs


@pytest.fixture
def parent(trained: Path) -> str:
    """A copy of that run, in the runs of the test."""
    shutil.copytree(trained / "slot", Path("runs/slot"))
    return "slot"


def test_the_result_is_a_table(parent: str) -> None:
    done = invoke("finetune", parent, "--epoch", "1,last", "--epochs", "1", "--from-scratch", "--name", "f")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == HEADINGS.split()
    starts = [
        ("slot machine, epoch 1", "1 0 1"),
        ("finetuned from epoch 1", "1 2 3"),
        ("slot machine, epoch 2 (last)", "2 0 2"),
        ("finetuned from epoch 2 (last)", "2 1 3"),
        ("from scratch", "0 3 3"),
    ]
    for line, (network, counts) in zip(lines[1:6], starts, strict=True):
        assert line.startswith(network + " ")
        assert line.removeprefix(network).split()[:3] == counts.split()
    assert lines[6].startswith(
        "weights: sgd, lr 0.01, momentum 0.9, weight decay 0, constant schedule; biases"
    )
    assert "run folder: runs/f  (" in done.stdout
    assert "next: slotkit evaluate runs/f/from-epoch-1" in done.stdout
    assert "epoch 1/2: loss" in done.stderr


def test_every_branch_is_a_run_to_evaluate_and_the_list_shows_one(parent: str) -> None:
    summary = json.loads(invoke("finetune", parent, "--epochs", "1", "--name", "f", "--json").stdout)
    assert summary["folder"] == "runs/f"
    (branch,) = summary["branches"]
    readings = json.loads(invoke("evaluate", "runs/f/from-best", "--json").stdout)["readings"]
    assert readings == branch["test"]["best"]
    slot = json.loads(invoke("evaluate", parent, "--json").stdout)["readings"]
    assert slot["greedy"] == branch["slot"]["test"]
    rows = {row["run"]: row for row in json.loads(invoke("runs", "list", "--json").stdout)}
    assert rows.keys() == {"f", parent}
    assert (rows["f"]["status"], rows["f"]["method"], rows["f"]["epochs"]) == ("finished", "learned", "1/1")
    assert rows["f"]["test"] == f"{100 * branch['test']['best']['learned']['accuracy']:.2f} %"
    assert "f" in invoke("runs", "list").stdout
    assert invoke("runs", "show", "f").exit_code == 0


def test_recipes_flags_and_settings_lie_on_each_other(parent: str) -> None:
    done = invoke(
        *("finetune", parent, "--recipe", "finetune-authors-vgg19", "--lr", "0.3", "--seed", "5"),
        *("--set", "learned_others=kept", "--show-config"),
    )
    rows = {line.split()[0]: line.split(maxsplit=1)[1].split() for line in done.stdout.splitlines()}
    assert rows["training.lr"] == ["0.3", "--lr"]
    assert rows["training.weight_decay"] == ["0.0001", "recipe", "finetune-authors-vgg19"]
    assert rows["learned_others"] == ["kept", "--set", "learned_others"]
    assert rows["slots.k"] == ["4", "run", "slot"]
    assert (rows["seeds.training"][0], rows["seeds.reels"][0], rows["seeds.data"][0]) == ("5", "5", "0")
    assert list(Path("runs").iterdir()) == [Path("runs/slot")]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nothing"], "There is no run 'nothing'"),
        (
            ["slot", "--epoch", "7"],
            "The run slot has no checkpoint epoch-7; it has best, epoch-1, last. Train it",
        ),
        (["slot", "--epoch", "x"], "--epoch is 'x'. Give best, last, or different epochs such as 10,30."),
        (["slot", "--recipe", "paper-lenet-greedy"], "is for `slotkit train`, not for `slotkit finetune`."),
        (["slot", "--set", "slots.k=3"], "slots.k (from --set slots.k) can't differ from the slot run's"),
        (["slot", "--lr", "0"], "training.lr (from --lr) is 0.0, but it should be greater than 0."),
        (["slot", "--name", "slot"], "There is a run runs/slot already."),
    ],
)
def test_a_bad_value_is_one_sentence_and_exit_code_2(
    arguments: list[str],
    sentence: str,
    parent: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert sentence in refuse(monkeypatch, capsys, "finetune", *arguments)
    assert [path.name for path in Path("runs").iterdir()] == ["slot"]


def test_train_refuses_a_recipe_for_finetuning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refuse(monkeypatch, capsys, "train", "--recipe", "finetune-paper-lenet")
    assert "The recipe finetune-paper-lenet is for `slotkit finetune`" in told


def test_a_branch_is_resumed_with_train(parent: str) -> None:
    invoke("finetune", parent, "--epochs", "1", "--name", "f")
    assert RunFolder(Path("runs/f/from-best")).summary()["epochs"] == 1
    assert invoke("train", "--resume", "runs/f/from-best", "--epochs", "2").exit_code == 0
    longer = RunFolder(Path("runs/f/from-best"))
    assert longer.summary()["epochs"] == 2
    assert longer.tables()["parent"]["checkpoint"] == "best"


def test_step_and_epoch_do_not_go_together(
    parent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refuse(monkeypatch, capsys, "finetune", parent, "--epoch", "1", "--step", "3")
    assert told.endswith("Error: --step and --epoch both name where to start. Give one of them.\n")


def test_several_seeds_are_several_comparisons_and_a_table_over_them(parent: str) -> None:
    typed = ("finetune", parent, "--epochs", "1", "--from-scratch", "--seeds", "0-1", "--device", "cpu")
    done = invoke(*typed)
    assert done.exit_code == 0
    *_, headings, finetuned, scratch = done.stdout.splitlines()
    assert headings.split() == ["network,", "over", "seeds", "epochs", "test"]
    assert finetuned.startswith("finetuned from epoch")
    assert finetuned.endswith("± 0.00 % (n = 2)")
    assert "the same result with every seed. Seeds decide dropout and the start from scratch" in done.stderr
    assert scratch.startswith("from scratch")
    assert scratch.endswith("% (n = 2)")
    folders = [path for path in Path("runs").iterdir() if "finetune" in path.name]
    configs = [RunFolder(path).config() for path in folders]
    assert {config.seeds.training for config in configs} == {0, 1}
    assert {config.training.device for config in configs} == {"cpu"}
    assert len(json.loads(invoke(*typed, "--json").stdout)) == 2
