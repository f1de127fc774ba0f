"""Commands as a user runs them: output, exit codes, sentences."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import invoke, refuse
from forks import COMMAND, Forks
from slotkit.cli.main import main

from slotkit import recipes
from slotkit.runs.folder import RunFolder


def test_the_first_command_trains_on_digits_and_tells_what_next(tmp_path: Path, forks: Forks) -> None:
    done = forks.start(COMMAND, "train", cwd=tmp_path)
    told = done.checked()
    (folder,) = (tmp_path / "runs").iterdir()
    assert f"run folder: runs/{folder.name}" in told
    assert f"next: slotkit evaluate runs/{folder.name}" in told
    assert "test accuracy, best epoch (" in told
    assert "epoch 1/" in done.err.read_text()
    summary = RunFolder(folder).summary()
    assert summary["test"]["best"]["greedy"]["accuracy"] >= 0.95
    config = RunFolder(folder).config()
    assert (config.model.name, config.slots.k, config.slots.selection) == ("lenet", 8, "greedy")


def test_help_does_not_import_torch() -> None:
    script = (
        "import sys; sys.argv = ['slotkit', 'train', '--help']\n"
        "from slotkit.cli.main import main\n"
        "try: main()\n"
        "finally: print('imported:', sorted({'torch', 'torchvision', 'timm', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "imported: []" in done.stdout
    assert "--recipe" in done.stdout


def test_ctrl_c_leaves_a_whole_run_folder(tmp_path: Path, forks: Forks) -> None:
    # In the background of a shell the tests, and so the command, would be started with the signal ignored.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    process = forks.start(
        f"{heard}\n{COMMAND}", *("train", "--epochs", "100000", "--name", "long"), cwd=tmp_path
    )
    process.until_it_says("epoch 2/")
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    told = process.err.read_text()
    assert "Interrupted. `slotkit train --resume runs/long` goes on with it." in told
    assert "Traceback" not in told
    folder = RunFolder(tmp_path / "runs" / "long")
    assert folder.summary()["status"] == "interrupted"
    # Ctrl-C may come while a checkpoint takes the place of the last one, which is among the earlier then.
    if folder.checkpoint("last").is_file():
        assert invoke("evaluate", "long", "--checkpoint", "last").exit_code == 0
    else:
        assert list((folder.path / "earlier").glob("*.safetensors"))
    assert not list(folder.path.rglob("*.tmp"))


def test_several_seeds_report_mean_and_spread(tmp_path: Path, one_thread: None) -> None:
    short = ("--epochs", "1", "--set", "training.limit_batches=2")
    done = invoke("train", *short, "--k", "2", "--seeds", "0,1")
    assert done.exit_code == 0
    line = done.stdout.splitlines()[1]
    assert line.startswith("greedy")
    assert "±" in line
    assert line.endswith("2 of 2")
    sweep = tmp_path / "runs" / "sweep-seeds"
    configs = [RunFolder(path).config() for path in sorted(sweep.iterdir()) if path.is_dir()]
    assert {config.seeds.reels for config in configs} == {0, 1}
    assert all(config.seeds.reels == config.seeds.data == config.seeds.training for config in configs)


def test_results_for_scripts_are_json() -> None:
    done = invoke("train", "--epochs", "1", "--selection", "PS", "--json", "--name", "ps")
    (summary,) = json.loads(done.stdout)
    assert summary["folder"] == "runs/ps"
    assert set(summary["test"]["best"]) == {"greedy", "sample"}
    readings = json.loads(invoke("evaluate", "ps", "--json").stdout)["readings"]
    assert readings == summary["test"]["best"]
    (row,) = json.loads(invoke("runs", "list", "--json").stdout)
    assert row["run"] == "ps"
    shown = json.loads(invoke("runs", "show", "ps", "--json").stdout)
    assert shown["summary"]["status"] == "finished"
    assert len(shown["epochs"]) == 1


def test_learned_weights_train_with_the_same_command() -> None:
    done = invoke("train", "--method", "learned", "--epochs", "1", "--name", "twin")
    assert "% learned" in done.stdout
    assert "twin" in invoke("runs", "list").stdout


def test_runs_and_evaluate_print_what_people_read() -> None:
    assert "There are no runs in runs. `slotkit train` makes one." in invoke("runs", "list").stdout
    invoke("train", "--epochs", "2", "--name", "one", "--selection", "PS", "--set", "evaluation.draws=2")
    listed = invoke("runs", "list").stdout.splitlines()
    assert listed[0].split() == [
        "run",
        "model",
        "dataset",
        "method",
        "status",
        "epochs",
        "validation",
        "test",
        "differs",
    ]
    assert "K=8 probabilistic" in listed[1]
    assert "2/2" in listed[1]
    shown = invoke("runs", "show", "one").stdout
    assert "--set evaluation.draws" in shown
    assert "test accuracy, best epoch:" in shown
    evaluated = invoke("evaluate", "one", "--split", "validation", "--draws", "3").stdout
    assert "one, best checkpoint, validation images" in evaluated
    assert "(n = 3)" in evaluated


def test_draws_of_a_run_that_draws_nothing_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    invoke("train", "--epochs", "1", "--set", "training.limit_batches=1", "--name", "one")
    told = refuse(monkeypatch, capsys, "evaluate", "one", "--draws", "3")
    assert told.strip() == (
        "Error: --draws is 3, for networks drawn from the scores of probabilistic selection, and one has one "
        "network. Leave it out."
    )


def test_settings_and_their_origins_can_be_shown_without_training(tmp_path: Path) -> None:
    done = invoke("train", "--recipe", "paper-conv2-greedy", "--k", "64", "--show-config")
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "0.1" in rows["training.lr"]
    assert "recipe paper-conv2-greedy for k > 8" in rows["training.lr"]
    assert rows["slots.k"].split() == ["slots.k", "64", "--k"]
    assert rows["training.nesterov"].endswith("default")
    assert list(tmp_path.iterdir()) == []


def test_recipes_and_data_are_listed() -> None:
    assert "paper-vgg19-greedy" in invoke("recipes", "list").stdout
    listed = json.loads(invoke("recipes", "list", "--json").stdout)
    assert [row["recipe"] for row in listed] == list(recipes.names())
    assert 'name = "conv2"' in invoke("recipes", "show", "authors-conv2-greedy").stdout
    datasets = invoke("data", "list").stdout
    for dataset in ("digits", "mnist", "cifar10", "svhn", "imagefolder:DIR", "parquet:DIR"):
        assert dataset in datasets
    assert len(json.loads(invoke("data", "list", "--json").stdout)) >= 9


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "--k", "0"], "slots.k (from --k) is 0, but it should be greater than or equal to 1."),
        (["train", "--lr", "-1"], "training.lr (from --lr) is -1.0, but it should be greater than 0."),
        (["train", "--model", "lenett"], "There is no model 'lenett'. Did you mean lenet?"),
        (["train", "--model", "timm/resnet1"], "timm has no model 'resnet1'. Near it: "),
        (
            ["train", "--set", "slots.kk=3"],
            "slots.kk (from --set slots.kk) is not a setting. Near it: slots.k",
        ),
        (["train", "--set", "lr"], "--set lr is not of the form a.b=value"),
        (["train", "--dataset", "mnist"], "Run `slotkit data fetch mnist --data-dir "),
        (["train", "--recipe", "paper-lenet"], "There is no recipe 'paper-lenet'. Did you mean paper-lenet-"),
        (["train", "--seeds", "0,0"], "--seeds 0,0 has a seed twice: the runs would be equal."),
        (
            ["train", "--seeds", "a"],
            "--seeds a is not a list of integers such as 0,1,2, or a range such as 0-4.",
        ),
        (
            ["train", "--seeds", "1,2", "--seed", "3"],
            "--seed and --seeds both say which seeds there are. Give one of them.",
        ),
        (["train", "--model", "conv6", "--set", "model.options.padding=authors"], "too small for conv6"),
        (["evaluate", "nothing"], "There is no run 'nothing'"),
        (
            ["evaluate", "x", "--checkpoint", "first"],
            "--checkpoint is 'first'. Choose best, last, start (before",
        ),
        (["evaluate", "x", "--split", "train"], "--split is 'train'. Choose test or validation."),
        (["recipes", "show", "x"], "There is no recipe 'x'."),
        (["data", "fetch", "digits"], "digits is not downloaded"),
    ],
)
def test_a_bad_value_is_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence in refuse(monkeypatch, capsys, *arguments)
    assert not Path("runs").exists()


def test_a_full_disk_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from slotkit.runs import checkpoint

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    monkeypatch.setattr(sys, "argv", ["slotkit", "train", "--epochs", "1", "--name", "full"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        "Error: runs/full/checkpoints/best.safetensors could not be written: No space left"
    )
    assert RunFolder(Path("runs/full")).summary()["status"] == "failed"
