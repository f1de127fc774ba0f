"""`slotkit masks search` as a user runs it: killed, resumed, damaged, refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import invoke, refuse

from slotkit.errors import SlotkitError
from slotkit.masks import file as mask_file
from slotkit.masks import search_folder
from slotkit.masks.search import Search
from slotkit.masks.search_folder import HISTORY, SETTINGS, STATE, SearchFolder
from slotkit.runs.lock import LOCK

TINY = (
    *("masks", "search", "--density", "0.1", "--batches", "1", "--save-every", "3", "--device", "cpu"),
    *("--first-batches", "3", "--set", "training.batch_size=32"),
)


def content(folder: Path) -> dict[str, object]:
    """The texts, and what mask files say: safetensors writes metadata in any order."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".safetensors":
            masks, about = mask_file.load(path)
            found[path.name] = (about, {name: mask.numpy().tobytes() for name, mask in masks.items()})
        elif path.is_file() and path.name != LOCK:
            found[path.name] = path.read_bytes()
    return found


@pytest.mark.parametrize(
    "more",
    [("--accept", "both"), ("--accept", "loss", "--held-out", "64", "--repair")],
    ids=["both", "loss"],
)
def test_killed_and_resumed_a_search_has_the_same_bits(
    more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    assert invoke(*TINY, *more, "--draws", "50", "--name", "whole").exit_code == 0
    step = Search.step

    def killed_at(draw: int, search: Search) -> object:
        if search.state.draw == draw:
            raise KeyboardInterrupt
        return step(search)

    for draw in (0, 2, 23, 47):
        monkeypatch.setattr(Search, "step", lambda self, draw=draw: killed_at(draw, self))
        stopped = invoke(*TINY, *more, "--draws", "50", "--name", "parts")
        assert stopped.exit_code == 130
        assert "Interrupted. The same command goes on with" in stopped.stderr
    monkeypatch.setattr(Search, "step", step)
    done = invoke(*TINY, *more, "--draws", "50", "--name", "parts", "--json")
    assert done.exit_code == 0
    whole, parts = content(Path("runs/whole")), content(Path("runs/parts"))
    assert whole == parts
    told = json.loads(done.stdout)
    assert told["draws"] == 50
    assert told["explored"] < told["explored_by_chance"]
    if "--repair" in more:
        masks = [mask_file.load(Path("runs/parts", one["file"]))[0] for one in told["saved"]]
        assert len({sum(int(mask.sum()) for mask in one.values()) for one in masks}) == 1


@pytest.fixture
def finished(one_thread: None) -> Path:
    assert invoke(*TINY, "--draws", "3", "--name", "s").exit_code == 0
    return Path("runs/s")


def test_more_draws_go_on_and_other_settings_are_refused(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "4 draws: " in invoke(*TINY, "--draws", "4", "--name", "s").stdout
    told = refuse(monkeypatch, capsys, *TINY, "--draws", "4", "--name", "s", "--sampler", "uniform")
    assert "begun with other settings: sampler was 'random' and is 'uniform'. Give the same to go on" in told
    score = invoke("masks", "score", str(finished / "masks/mask-000000.mask.safetensors"))
    assert score.exit_code == 0
    assert "initial weights" in score.stdout


def test_a_search_of_before_goes_on(finished: Path) -> None:
    """Its search.json has what decides nothing: how data were read, and whose loss is not looked at."""
    told = json.loads((finished / SETTINGS).read_text(encoding="utf-8"))
    told["data"] |= {"memory": 1.0, "workers": None}
    told["held_out"] = 64
    assert told.pop("device") == "cpu"
    (finished / SETTINGS).write_text(json.dumps(told), encoding="utf-8")
    assert "4 draws: " in invoke(*TINY, "--draws", "4", "--name", "s").stdout
    assert "memory" not in SearchFolder(finished).settings()["data"]


def test_a_search_does_not_go_on_with_another_device(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads((finished / SETTINGS).read_text(encoding="utf-8"))
    (finished / SETTINGS).write_text(json.dumps(told | {"device": "cuda"}), encoding="utf-8")
    found = refuse(monkeypatch, capsys, *TINY, "--draws", "4", "--name", "s")
    assert "begun with other settings: device was 'cuda' and is 'cpu'. Give the same to go on" in found


def test_what_a_recipe_turns_on_a_flag_turns_off(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[tuple[bool, bool]] = []
    kept = search_folder.Plan

    def planned(draws: int, save_every: int, repair: bool, until_converged: bool) -> search_folder.Plan:
        wanted.append((repair, until_converged))
        return kept(0)  # refused by its check, before data are looked for

    monkeypatch.setattr(search_folder, "Plan", planned)
    for flags in ((), ("--no-repair", "--no-until-converged")):
        with pytest.raises(SlotkitError, match="--draws is 0"):
            invoke("masks", "search", "--recipe", "masks-lth-v7", *flags)
    assert wanted == [(True, True), (False, False)]


def test_what_is_there_already_is_not_written_into(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("runs/full").mkdir(parents=True)
    for path in (Path("runs/file"), Path("runs/full/notes.txt")):
        path.write_text("mine", encoding="utf-8")
    for name in ("file", "full"):
        assert refuse(monkeypatch, capsys, *TINY, "--name", name) == (
            f"Error: {Path('runs', name)} is there already and is not a search. Choose another --name.\n"
        )


@pytest.mark.parametrize("name", [SETTINGS, HISTORY, STATE])
def test_damaged_files_are_told_in_one_sentence(
    name: str, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (finished / name).read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"[1]\n" + whole, whole.replace(b"draw", b"drew")):
        if damaged == whole:
            continue
        (finished / name).write_bytes(damaged)
        told = refuse(monkeypatch, capsys, *TINY, "--draws", "4", "--name", "s")
        assert str(finished) in told
        assert len(told.splitlines()) == 1
    (finished / name).write_bytes(whole)
    assert len(SearchFolder(finished).open().rows) == 3


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (("--sampler", "x"), "There is no sampler 'x'. Choose random, uniform, representative."),
        (("--accept", "x"), "There is no acceptance 'x'. Choose both, imdb, spectrum, random, loss."),
        (("--method", "magnitude"), "magnitude looks at no data, so all its draws are one mask."),
        (("--draws", "0"), "--draws is 0. Give 1 or more."),
        (("--held-out", "0"), "--held-out is 0. Give 1 or more."),
        (
            ("--held-out", "64"),
            "--held-out is 64, and --accept both looks at no validation images. Leave it out, or choose "
            "--accept loss.",
        ),
        (("--batches", "0"), "--batches is 0. Give 1 or more."),
        (("--first-batches", "-1"), "--first-batches is -1. Give 0 or more."),
        (("--density", "1.5"), "The density is 1.5. Give a share of the connections above 0, at most 1."),
        (("--mode", "x"), "There is no mode 'x'. Choose train or eval"),
    ],
)
def test_what_can_not_be_is_refused(
    typed: tuple[str, ...],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert sentence in refuse(monkeypatch, capsys, *TINY, *typed)
