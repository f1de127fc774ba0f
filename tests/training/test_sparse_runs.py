"""Runs whose mask changes: resumed to the same bits, in pieces, as mask files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import invoke, refuse  # type: ignore[import-not-found]
from together import run_together  # type: ignore[import-not-found]

from slotkit.config import Overrides, Resolved, resolve
from slotkit.errors import SlotkitError
from slotkit.masks import file as mask_file
from slotkit.masks.found import of_run
from slotkit.runs import checkpoint
from slotkit.runs.folder import RunFolder
from slotkit.training.checks import check_settings
from slotkit.training.experiment import resume, run
from slotkit.training.kept_masks import about as about_of
from slotkit.training.loop import Event, Step
from slotkit.training.prepare import prepare
from slotkit.training.state import TrainingState

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS: dict[str, Any] = {
    "method": "learned",
    "slots.k": 1,
    "training.device": "cpu",
    "training.epochs": 3,
    "training.limit_batches": 4,
    "training.schedule": "cosine",
    "training.log_every": 3,
    "sparse.method": "rigl",
    "sparse.density": 0.1,
    "sparse.interval": 3,
    "recording.checkpoint_minutes": 1e-9,
}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("SLOTKIT_RUNS", "SLOTKIT_DATA"):
        monkeypatch.delenv(name, raising=False)


def settings(**values: Any) -> Resolved:
    given = {path.replace("__", "."): value for path, value in values.items()}
    return resolve([Overrides("test", SETTINGS | given)])


def flags(values: dict[str, Any]) -> list[str]:
    return [part for path, value in values.items() for part in ("--set", f"{path}={json.dumps(value)}")]


@pytest.mark.parametrize("method", ["rigl", "set"])
def test_a_killed_run_goes_on_to_the_same_bits(method: str) -> None:
    """It is killed in the middle of a step after which the mask has changed and that no commit has."""
    asked = settings(
        sparse__method=method,
        sparse__keep_masks=True,
        sparse__hold_lr=True,
        sparse__grown="initial" if method == "set" else "zero",
    )
    whole = run(asked, Path("runs"), "whole")

    def stop(event: Event) -> None:
        if isinstance(event, Step) and event.step == 6:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        run(asked, Path("runs"), "part", stop)
    part = RunFolder(Path("runs/part"))
    assert checkpoint.told(part.checkpoint("last"))[0]["step"] == 5
    resume(part, [])
    for which in ("last", "best"):
        assert checkpoint.told(part.checkpoint(which))[1] == checkpoint.told(whole.checkpoint(which))[1]
    assert (part.path / "metrics.jsonl").read_bytes() == (whole.path / "metrics.jsonl").read_bytes()
    assert len(list((whole.path / "masks").iterdir())) == 4
    assert whole.summary()["sparse"] == part.summary()["sparse"]
    told = [entry for entry in whole.metrics() if entry["kind"] == "mask"]
    assert [entry["step"] for entry in told] == [3, 6, 9]  # until is 0.75 of 12 steps
    union: dict[str, torch.Tensor] = {}
    for step, entry in zip((0, 3, 6, 9), [None, *told], strict=True):
        name = f"masks/step-{step:08d}.mask.safetensors"
        masks, about = mask_file.load(whole.path / name)
        again, about_again = mask_file.load(part.path / name)
        assert about == about_again
        assert all(torch.equal(mask, again[layer]) for layer, mask in masks.items())
        assert about.settings["step"] == step
        union = {name: union.get(name, mask) | mask for name, mask in masks.items()}
        share = sum(int(mask.sum()) for mask in union.values()) / 50_200
        assert entry is None or entry["explored"] == share
    assert whole.summary()["sparse"] == {"density": 0.1, "updates": 3, "explored": share}
    rates = [entry["lr"] for entry in whole.metrics() if entry["kind"] == "step"]
    assert rates[:4] == [0.1] * 4  # held up to step 9
    assert rates[4] < 0.02


def test_a_checkpoint_whose_mask_is_not_that_of_the_settings_is_refused() -> None:
    state = TrainingState(prepare(settings()).trainee, settings().config.training, 4)
    saved = state.as_dict()
    saved["masks"] = {name: torch.zeros_like(bits) for name, bits in saved["masks"].items()}
    before = state.trainee.model.state_dict()["fc1.weight"].clone()
    with pytest.raises(SlotkitError, match=r"the mask of fc1.weight has 0 connections, where \d+ are due"):
        state.load(saved)
    assert torch.equal(state.trainee.model.state_dict()["fc1.weight"], before)


def test_pieces_grow_what_the_whole_batch_grows() -> None:
    """RigL sees the sum over all pieces: in fp64 the masks are the same."""
    masks = []
    for pieces in (1, 3):
        name = f"pieces{pieces}"
        asked = settings(training__accumulate=pieces, training__precision="fp64", training__epochs=2)
        run(asked, Path("runs"), name)
        masks.append(of_run(RunFolder(Path("runs") / name), "last").masks)
    assert all(torch.equal(mask, masks[1][name]) for name, mask in masks[0].items())


@pytest.mark.long
def test_two_processes_make_the_bits_of_one_with_two_pieces(forks: Any, tmp_path: Path) -> None:
    run(settings(training__accumulate=2), Path("runs"), "one")
    run_together(forks, "train", "--name", "two", *flags(SETTINGS), cwd=tmp_path)
    places = [Path(f"runs/{name}/checkpoints/last.safetensors") for name in ("one", "two")]
    states = [checkpoint.load(place)[0] for place in places]
    for name, value in states[0]["weights"].items():
        assert torch.equal(value, states[1]["weights"][name])
    assert all(torch.equal(bits, states[1]["masks"][name]) for name, bits in states[0]["masks"].items())


def test_its_mask_is_scored_saved_and_trained() -> None:
    asked = flags(SETTINGS | {"sparse.method": "set", "sparse.proposals": 2, "training.epochs": 1})
    done = invoke("train", "--name", "a", *asked)
    assert "mask: density 0.1, 1 updates, explored (R_s) " in done.stdout
    assert "slotkit masks score runs/a" in done.stdout
    found = json.loads(invoke("masks", "score", "a", "--json").stdout)
    # A grown weight is 0, and is there: only the mask says so.
    assert sum(layer["edges"] for layer in found["layers"]) == 5020
    assert found["of"] == "a, best checkpoint: learned weights under the mask of set"
    told = json.loads(invoke("masks", "save", "a", "--out", "x", "--json").stdout)
    assert (told["method"], told["settings"]["step"]) == ("set", 4)
    masks, about = mask_file.load(Path("x"))
    assert sum(int(mask.sum()) for mask in masks.values()) == 5020
    assert about.build()
    few = ("--set", "training.limit_batches=2", "--device", "cpu", "--epochs", "1")
    assert "run folder" in invoke("masks", "train", "x", *few, "--name", "b").stdout
    # It is a mask to begin with, too.
    again = flags({"method": "learned", "mask": "x", "sparse.method": "set", "sparse.interval": 1})
    assert "mask: density 0.1, 1 updates" in invoke("train", *again, *few, "--name", "c").stdout
    listed = invoke("runs", "list", "--sort", "-explored").stdout
    assert "set 0.1, R_s 0.1" in listed
    assert "explored (R_s)" in invoke("runs", "show", "a").stdout
    assert json.loads(invoke("evaluate", "a", "--json").stdout)


def test_a_network_that_may_not_be_written_down_is_left_out() -> None:
    data = prepare(settings()).identity
    config = settings(model__name="timm/vit_tiny_patch16_224", model__options__class_token=False).config
    assert about_of(config, data, "rigl", 0.1, 0).network is None
    plain = settings(model__name="timm/vit_tiny_patch16_224").config
    assert about_of(plain, data, "rigl", 0.1, 0).network is not None


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"method": "slot"},
        "sparse.method is rigl, which trains learned weights under a mask that changes, and this run trains "
        "a slot machine. Choose --method learned, or slots.kind=mask, which selects a mask.",
    ),
    (
        {"sparse.density": None},
        "sparse.method is rigl, and how many connections there are is not said. Give sparse.density, such as "
        "0.1, or mask, a mask file to begin with.",
    ),
    (
        {"mask": "x"},
        "sparse.density and mask both say how many connections there are. Leave one of them out.",
    ),
    (
        {"sparse.proposals": 3},
        "sparse.proposals is 3, and rigl grows by the gradient: all proposals would be one. Choose "
        "sparse.method=set, or one proposal.",
    ),
    (
        {"sparse.density": None, "mask": "x", "sparse.distribution": "er"},
        "sparse.distribution is er, and does nothing here: the layers of a mask file have the densities of "
        "that mask. Leave it out.",
    ),
    (
        {"sparse.drop_schedule": "constant", "sparse.drop_end": 0.1},
        "sparse.drop_end is 0.1, and does nothing here: a constant drop rate ends as it begins. Leave it "
        "out.",
    ),
    (
        {"sparse.proposal_score": "imdb"},
        "sparse.proposal_score is imdb, and does nothing here: of one proposal there is no best. Leave it "
        "out.",
    ),
    (
        {"sparse.method": "none"},
        "sparse.density is 0.1, and sparse.method is none: no mask would change. Choose sparse.method=set or "
        "rigl, or leave it out.",
    ),
]


@pytest.mark.parametrize(("given", "sentence"), REFUSED)
def test_what_is_refused(given: dict[str, Any], sentence: str) -> None:
    config = resolve([Overrides("test", SETTINGS | given)]).config
    with pytest.raises(SlotkitError) as caught:
        check_settings(config, here=False)
    assert str(caught.value) == sentence


def test_a_value_out_of_its_range(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refuse(monkeypatch, capsys, "train", "--set", "sparse.method=prune")
    assert "sparse.method (from --set sparse.method) is 'prune', but it should be 'none', 'set'" in told
