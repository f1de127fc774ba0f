"""--config, --k with several numbers, ranges of seeds; and what is refused before a folder is made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import invoke, refuse

from slotkit.config import Overrides, parse_seeds, resolve
from slotkit.errors import SlotkitError
from slotkit.runs.folder import RunFolder
from slotkit.runs.settings_file import below, read
from slotkit.sweeps.registry import EXECUTORS

TINY = (
    *("--epochs", "1", "--set", "training.limit_batches=4", "--device", "cpu", "--set", "slots.engine=eager"),
    *("--set", "recording.trace=off"),
)


def shown(*arguments: str) -> dict[str, list[str]]:
    """Setting -> value and origin, as --show-config prints them."""
    done = invoke("train", *arguments, "--show-config")
    assert done.exit_code == 0
    return {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}


def test_a_file_lies_over_the_recipe_and_below_the_flags() -> None:
    Path("my.toml").write_text("k = 64\nlr = 0.3\n[training]\nepochs = 7\nmomentum = 0.5\n")
    told = shown("--recipe", "paper-conv2-greedy", "--config", "my.toml", "--lr", "0.4")
    assert told["slots.k"] == ["64", "--config", "my.toml"]
    assert told["training.epochs"] == ["7", "--config", "my.toml"]
    assert told["training.lr"] == ["0.4", "--lr"]
    assert told["training.momentum"] == ["0.5", "--config", "my.toml"]
    assert told["model.name"] == ["conv2", "recipe", "paper-conv2-greedy"]


def test_the_recipes_rules_for_large_k_see_the_k_of_the_file() -> None:
    Path("my.toml").write_text("k = 64\n")
    told = shown("--recipe", "paper-conv2-greedy", "--config", "my.toml")
    assert told["training.lr"][1:] == ["recipe", "paper-conv2-greedy", "for", "k", ">", "8"]


def test_a_runs_own_config_is_a_file_of_settings(one_thread: None) -> None:
    invoke("train", *TINY, "--k", "2", "--name", "one", "--lr", "0.05")
    invoke("train", "--config", "runs/one/config.toml", "--name", "two")
    one, two = (RunFolder(Path("runs", name)) for name in ("one", "two"))
    assert two.config() == one.config()
    assert (two.path / "metrics.jsonl").read_bytes() == (one.path / "metrics.jsonl").read_bytes()
    told = two.tables()["origins"]
    assert told["training.lr"] == "--config runs/one/config.toml"
    # What is a default there and here has no origin, and what the dataset says comes from the dataset.
    assert "training.momentum" not in told
    assert told["data.mean"] == "dataset digits"
    assert shown("--config", "runs/one/config.toml", "--dataset", "mnist")["data.mean"] == ["default"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[slots]\nkk = 3", "slots.kk (from --config my.toml) is not a setting. Near it: slots.k"),
        ("lrr = 3", "lrr (from --config my.toml) is not a setting."),
        ("k = 0", "slots.k (from --config my.toml) is 0, but it should be greater than or equal to 1."),
        ("k = ", "my.toml can't be read: Invalid value"),
        (None, "There is no file my.toml. --config takes a FILE.toml of settings."),
    ],
)
def test_a_file_that_is_wrong_is_one_sentence(
    text: str | None,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if text is not None:
        Path("my.toml").write_text(text)
    assert sentence in refuse(monkeypatch, capsys, "train", "--config", "my.toml")
    assert not Path("runs").exists()


def test_a_folder_is_no_file_of_settings(tmp_path: Path) -> None:
    with pytest.raises(SlotkitError, match=r"is a folder\. Give a file, such as the config\.toml of a run\."):
        read(tmp_path)


def test_without_a_file_there_is_the_recipe_alone() -> None:
    assert below(None, None, []) == []
    assert [layer.origin for layer in below("paper-lenet-greedy", None, [])] == ["recipe paper-lenet-greedy"]


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-4", [0, 1, 2, 3, 4]), ("7,0-2", [7, 0, 1, 2]), ("3", [3]), ("5-5", [5])]
)
def test_ranges_of_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["4-0", "-1", "0-", "0-1-2", "0-1000000000", "a-b", ""])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(SlotkitError, match="is not a list of integers such as 0,1,2, or a range such as 0-4"):
        parse_seeds(text)


def test_a_seed_of_a_range_twice_is_refused() -> None:
    with pytest.raises(SlotkitError, match="has a seed twice"):
        parse_seeds("0-2,1")


def test_several_k_and_seeds_train_a_sweep(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: that `train` has others train several is held by test_commands.py."""
    monkeypatch.setitem(EXECUTORS, "local", EXECUTORS["inline"])
    typed = (*TINY, "--k", "2,4", "--seeds", "1", "--lr", "0.05", "--selection", "PS", "--name", "my sweep")
    done = invoke("train", *typed, "--json")
    assert done.exit_code == 0, done.stderr
    table = json.loads(done.stdout)
    assert table["sweep"] == str(Path("runs/my sweep"))
    assert {(row["k"], row["n"]) for row in table["table"]} == {(2, 1), (4, 1)}
    config = RunFolder(Path("runs/my sweep", table["runs"][0]["run"])).config()
    assert (config.training.lr, config.slots.selection) == (0.05, "probabilistic")
    # Again, by the other command: the same sweep, and nothing is left to train.
    again = ("sweep", *TINY, "--k", "2,4", "--seeds", "1", "--set", "training.lr=0.05")
    more = invoke(*again, "--set", "slots.selection=PS", "--name", "my sweep")
    assert more.stderr == "2 runs, 0 of them left to train.\n"


def test_settings_of_several_runs_are_those_of_the_first() -> None:
    done = invoke("train", *TINY, "--k", "4,2", "--seeds", "3-5", "--show-config")
    rows = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}
    assert (rows["slots.k"], rows["seeds.reels"]) == ("4", "3")
    assert done.stderr == "These are the settings of the first of the runs that were asked for.\n"
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (
            ("--k", "2,4", "--model-factory", "os.path:join"),
            "--k 2,4 asks for several runs, which a sweep trains, and a sweep can't make a network of one's",
        ),
        (("--k", "2,x"), "slots.k (from the sweep) is 'x', but it should be a valid integer"),
        (("--k", "x"), "--k x is not a number of options a connection, such as 8."),
        (
            ("--model", "lenet", "--model-factory", "os.path:join"),
            "--model and --model-factory both say which",
        ),
        (("--resume", "a", "--k", "2,4"), "--k can't go with --resume"),
    ],
)
def test_what_several_runs_can_not_have_is_refused(
    typed: tuple[str, ...],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert sentence in refuse(monkeypatch, capsys, "train", *typed)
    assert not Path("runs").exists()


def test_a_sweep_varies_what_its_config_says() -> None:
    from slotkit.sweeps.plan import plan
    from slotkit.sweeps.spec import from_options

    base = Overrides("--config c.toml", {"slots.k": 16, "training.lr": 0.2, "seeds.reels": 9})
    planned = plan(from_options(["k=2,4"], seeds=[0, 1], base=[base]))
    configs = [resolve(one.layers).config for one in planned]
    assert [(one.slots.k, one.seeds.reels) for one in configs] == [(2, 0), (4, 0), (2, 1), (4, 1)]
    assert {one.training.lr for one in configs} == {0.2}


@pytest.mark.parametrize(
    ("assignments", "sentence"),
    [
        (
            ["training.schedule=restarts"],
            "training.schedule is restarts, but training.restart_epochs is empty.",
        ),
        (["data.augment=blur"], "there is no augmentation 'blur'."),
        (["slots.engine=cuda"], "There is no engine 'cuda'. Choose auto, numba, triton, eager."),
        (["slots.form=dense", "training.optimizer=adam"], "training.optimizer is adam, which trains latents"),
        (["slots.form=dense", "slots.engine=numba"], "engine and tables belong to the latent form."),
        (["method=learned", "recording.trace=full"], "recording.trace is full, which records the flips"),
        (["slots.symmetric=true", "slots.k=3"], "symmetric"),
        (['slots.where=["conv9.*"]'], "`where` names 'conv9.*', which matches no parameter."),
        (
            ["data.mean=[0.1,0.2]", "data.std=[1.0,1.0]"],
            "data.mean came with 2 numbers for images of 1 channels",
        ),
        (["model.name=lenett"], "There is no model 'lenett'. Did you mean lenet?"),
        (["model.options.depth=3"], "lenet has no option depth."),
        (["data.dataset=minst"], "there is no dataset 'minst'. Did you mean mnist"),
        (["training.device=cuda:99"], "The device cuda:99 was asked for"),
        (['recording.loggers=["tensorbord"]'], "There is no logger 'tensorbord'. Did you mean tensorboard?"),
    ],
)
@pytest.mark.parametrize("show", [["--show-config"], []])
def test_a_bad_setting_is_refused_before_a_folder_is_made(
    show: list[str],
    assignments: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [text for assignment in assignments for text in ("--set", assignment)]
    assert sentence in refuse(monkeypatch, capsys, "train", *given, *show)
    assert not Path("runs").exists()
