"""`slotkit masks train` of a population: a small search end to end, killed, resumed, reported, refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import invoke, refuse

from slotkit.config import Resolved
from slotkit.masks import file as mask_file
from slotkit.masks.correlations import pearson
from slotkit.masks.members import BY_SCORE
from slotkit.masks.outcomes import SCORES
from slotkit.masks.population import report
from slotkit.runs import checkpoint
from slotkit.sweeps.sweep import Sweep
from slotkit.training import experiment

SEARCH = (
    *("masks", "search", "--density", "0.1", "--batches", "1", "--device", "cpu", "--first-batches", "3"),
    *("--set", "training.batch_size=32"),
)
TRAIN = ("--epochs", "1", "--set", "training.limit_batches=3", "--device", "cpu", "--executor", "inline")


@pytest.fixture(scope="module")
def searches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of 50 draws, and two of a few, that begin with the same mask."""
    place = tmp_path_factory.mktemp("searches")
    for accept, name, draws in (("both", "both", "50"), ("random", "random", "10"), ("imdb", "few", "5")):
        done = invoke(
            *(*SEARCH, "--accept", accept, "--draws", draws, "--save-every", "5"),
            *("--name", name, "--runs-dir", str(place)),
        )
        assert done.exit_code == 0
    return place


@pytest.fixture
def here(searches: Path) -> Path:
    """The same in the test's own folder."""
    shutil.copytree(searches, "runs")
    return Path("runs")


def weights(population: Path) -> dict[str, Any]:
    """Run -> the bits of its best network."""
    found = {}
    for path in sorted(population.glob("*/checkpoints/best.safetensors")):
        state, _ = checkpoint.load(path)
        values = state["weights"].items()
        found[path.parts[-3]] = {name: value.numpy().tobytes() for name, value in values}
    return found


def test_killed_and_resumed_a_population_has_the_same_bits_and_report(
    here: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    command = ("masks", "train", "both", "random", *TRAIN, "--json")
    whole = invoke(*command, "--name", "whole")
    assert whole.exit_code == 0
    fit, calls = experiment.fit, []

    def killed(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) in (2, 5):
            raise KeyboardInterrupt
        return fit(*given, **named)

    monkeypatch.setattr(experiment, "fit", killed)
    for _ in range(2):
        stopped = invoke(*command, "--name", "parts")
        assert stopped.exit_code == 130
        assert "The same command goes on from there" in stopped.stderr
    trained = len(calls)
    done = invoke(*command, "--name", "parts")
    assert done.exit_code == 0
    runs = weights(Path("runs/whole"))
    assert runs == weights(Path("runs/parts"))
    assert len(calls) < trained + len(runs)  # finished runs are not trained again
    told, again = json.loads(whole.stdout), json.loads(done.stdout)
    assert told.pop("population") != again.pop("population")
    assert told == again
    # The report, from its own parts.
    assert (told["baseline"]["draw"], told["left"], told["diverged"]) == (0, 0, 0)
    groups = {one["group"]: one for one in told["groups"]}
    assert list(groups) == [BY_SCORE, "acceptance random"]
    assert sum(one["n"] for one in groups.values()) + 1 == len(runs)
    assert "trained once" in whole.stderr  # both searches begin with the same mask
    for one in groups.values():
        assert list(one["pearson"]) == list(SCORES)


def test_controls_seeds_and_a_table(here: Path, one_thread: None) -> None:
    command = ("masks", "train", "few", "random", "--controls", "shuffled,reinitialised", "--seeds", "0,1")
    done = invoke(*command, *TRAIN)
    assert done.exit_code == 0
    assert "the first mask, few draw 0: test accuracy" in done.stdout
    assert "next: slotkit analyze masks runs/few-trained" in done.stdout
    masks, about = mask_file.load(here / "few/controls/shuffled-000000.mask.safetensors")
    assert about.method == "shuffled snip search"
    own, _ = mask_file.load(here / "few/masks/mask-000000.mask.safetensors")
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        name: int(mask.sum()) for name, mask in own.items()
    }
    assert not (here / "random/controls").exists()  # a search without a score is a control itself
    told = report(Sweep.open(Path("runs/few-trained")))
    assert told.seeds == 2
    assert told.best is not None
    assert len(told.best.test) == 2
    assert [one.name for one in told.groups if one.name != BY_SCORE] == [
        *("acceptance random", "shuffled", "reinitialised"),
    ]


def test_files_are_a_population_too_and_the_best_is_chosen_by_validation(one_thread: None) -> None:
    names = []
    for method in ("snip", "magnitude", "random"):
        invoke("masks", "make", "--method", method, "--out", method)
        names.append(method)
    done = invoke("masks", "train", *names, *TRAIN, "--json", "--name", "x")
    told = json.loads(done.stdout)
    assert told["baseline"]["file"] == "snip"
    summaries = {
        name: json.loads(next(Path("runs/x").glob(f"{name}-*/summary.json")).read_text(encoding="utf-8"))
        for name in names
    }
    best = max(names[1:], key=lambda name: summaries[name]["validation"]["best"]["accuracy"])
    assert told["best"]["file"] == best
    assert told["best"]["accuracy"] == next(iter(summaries[best]["test"]["best"].values()))["accuracy"]
    (group,) = told["groups"]
    accuracies = [next(iter(summaries[one]["test"]["best"].values()))["accuracy"] for one in names[1:]]
    assert group["mean"] == pytest.approx(sum(accuracies) / 2)
    assert group["pearson"]["density"] == pearson([0.1, 0.1], accuracies).as_dict()


def test_what_can_not_be_a_population(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*typed: str) -> str:
        return refuse(monkeypatch, capsys, "masks", "train", *typed)

    assert "none is no mask file, and no search: neither as a path nor in runs." in told("none")
    invoke("masks", "make", "--out", "x", "--seed", "4")
    invoke("masks", "make", "--out", "y", "--seed", "5")
    assert "is of another network, or of other initial weights, than" in told("x", "y")
    assert "--controls makes controls of the masks of searches, and x is a file." in told(
        "x", "--controls", "all"
    )
    assert "There is no control 'z'." in told("both", "--controls", "z")
    assert "--seed and --seeds both say which seeds there are." in told(
        "both", "--seed", "1", "--seeds", "0,1"
    )
    shutil.copytree(here / "random", here / "other")
    for name in ("both", "other"):
        path = here / name / "masks/mask-000000.mask.safetensors"
        masks, about = mask_file.load(path)
    mask_file.save(path, {name: ~mask for name, mask in masks.items()}, about)
    assert "began with different masks, so there is no one mask to compare with." in told("both", "other")


def test_flags_win_over_a_recipe_for_one_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Resolved] = []
    monkeypatch.setattr("slotkit.cli.train.train_resolved", lambda resolved, *rest: begun.append(resolved))
    assert invoke("masks", "make", "--out", "x").exit_code == 0
    typed = ("masks", "train", "x", "--recipe", "masks-lth-v3")
    assert invoke(*typed, "--epochs", "1", "--lr", "0.01", "--seed", "4").exit_code == 0
    assert invoke(*typed, "--set", "training.lr=0.02").exit_code == 0
    flags, other = (one.config for one in begun)
    assert (flags.training.epochs, flags.training.lr, flags.seeds.data, flags.seeds.reels) == (1, 0.01, 4, 0)
    assert (other.training.epochs, other.training.lr) == (250, 0.02)
    assert (flags.mask, flags.method, flags.data.dataset) == (str(Path("x").resolve()), "learned", "digits")


@pytest.mark.parametrize(
    ("assignments", "size"), [((), None), (("--set", "data.size=12"), 12), (("--set", "data.size=8"), None)]
)
def test_a_mask_is_trained_with_images_of_the_size_that_it_was_made_for(
    assignments: tuple[str, ...], size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ResNets take any size: nothing else would notice."""
    begun: list[Resolved] = []
    monkeypatch.setattr("slotkit.cli.train.train_resolved", lambda resolved, *rest: begun.append(resolved))
    made = ("masks", "make", "--method", "magnitude", "--out", "x", *assignments)
    assert invoke(*made).exit_code == 0
    assert invoke("masks", "train", "x").exit_code == 0
    assert [one.config.data.size for one in begun] == [size]


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("seeds.reels=5", "seeds.reels (from --set seeds.reels) is 5, and has to be 0: "),
        (
            "slots.init=kaiming-normal",
            "slots.init (from --set slots.init) is 'kaiming-normal', and has to be",
        ),
        ("mask=y", "mask (from --set mask) is 'y', and has to be "),
        ("model.name=conv2", "model.name (from --set model.name) is 'conv2', and has to be 'lenet': "),
        (
            "slots.where=['fc1*']",
            "slots.where (from --set slots.where) is ['fc1*'], and has to be left open: ",
        ),
        ("method=slot", "method (from --set method) is 'slot', and has to be 'learned': "),
    ],
)
def test_a_mask_is_trained_in_its_network_from_its_initial_weights(
    assignment: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x", "y"):
        assert invoke("masks", "make", "--method", "random", "--out", name).exit_code == 0
    for named in (("x",), ("x", "y")):
        sentence = refuse(monkeypatch, capsys, "masks", "train", *named, "--set", assignment, "--epochs", "1")
        assert told in sentence
        assert f"{Path('x').resolve()} was made for that network and these initial weights. Leave" in sentence


@pytest.mark.parametrize(
    "option", [("--executor", "local"), ("--jobs", "2"), ("--threads", "1"), ("--changed",)], ids=str
)
def test_one_file_has_no_options_of_a_population(
    option: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("x").touch()
    assert refuse(monkeypatch, capsys, "masks", "train", "x", *option) == (
        f"Error: {option[0]} is of a population, and one mask file is trained as one run. Leave it out, or "
        "give --seeds, which makes a population of it.\n"
    )


def test_a_mask_that_has_changed_since_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_thread: None
) -> None:
    path = here / "random/masks/mask-000005.mask.safetensors"
    assert invoke("masks", "train", str(path), "random", *TRAIN, "--name", "p").exit_code == 0
    masks, about = mask_file.load(path)
    mask_file.save(path, {name: ~mask for name, mask in masks.items()}, about)
    told = refuse(monkeypatch, capsys, "masks", "train", str(path), "random", *TRAIN, "--name", "p")
    assert f"was trained under another mask than {path.resolve()} has now. Choose another --name" in told
