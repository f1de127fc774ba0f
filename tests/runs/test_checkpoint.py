"""Checkpoints: whole or refused, and never a pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from torch import nn

from slotkit import files, slotify
from slotkit.errors import SlotkitError
from slotkit.machine import SlotMachine
from slotkit.runs import checkpoint


def machine(selection: str = "greedy") -> SlotMachine:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))
    return slotify(model, k=3, selection=selection, others="trained")


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_a_machine_comes_back_as_it_was_saved(tmp_path: Path, selection: str) -> None:
    trained = machine(selection)
    optimizer = trained.optimizer(lr=0.5)
    trained.model(torch.randn(6, 5)).square().sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path / "best.safetensors", trained.state_dict(), epoch=3)
    state, about = checkpoint.load(tmp_path / "best.safetensors")
    assert about == {"epoch": 3}
    fresh = machine(selection)
    fresh.load_state_dict(state)
    assert fresh.draws == trained.draws
    fresh.model.eval()
    trained.model.eval()
    images = torch.randn(7, 5)
    assert torch.equal(fresh.model(images), trained.model(images))


def test_learned_weights_come_back(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    checkpoint.save(tmp_path / "last.safetensors", {"weights": model.state_dict()})
    state, _ = checkpoint.load(tmp_path / "last.safetensors")
    assert torch.equal(state["weights"]["weight"], model.weight)


@given(cut=st.floats(0, 0.999))
def test_a_truncated_file_is_named(tmp_path_factory: pytest.TempPathFactory, cut: float) -> None:
    path = tmp_path_factory.mktemp("cut") / "best.safetensors"
    checkpoint.save(path, machine().state_dict())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole))])
    with pytest.raises(
        SlotkitError, match=r"best.safetensors is not a whole slotkit checkpoint: .*Use another one"
    ):
        checkpoint.load(path)


def test_a_missing_checkpoint_says_why_it_may_be_missing(tmp_path: Path) -> None:
    with pytest.raises(SlotkitError, match=r"There is no checkpoint .*The run has not come that far"):
        checkpoint.load(tmp_path / "best.safetensors")


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(SlotkitError, match="is not a whole slotkit checkpoint"):
        checkpoint.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    "fault", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")]
)
def test_a_full_disk_leaves_the_file_before_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    path = tmp_path / "last.safetensors"
    checkpoint.save(path, machine().state_dict(), epoch=1)
    before = path.read_bytes()

    def fill(tensors: object, file: Path, metadata: object) -> None:
        file.write_bytes(b"half")
        raise fault

    monkeypatch.setattr(checkpoint, "save_file", fill)
    with pytest.raises(
        SlotkitError, match=r"could not be written: .*No space left on device. Free some space"
    ):
        checkpoint.save(path, machine().state_dict(), epoch=2)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_is_never_seen_as_the_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text("before")

    def interrupted(temporary: Path) -> None:
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_whole(path, interrupted)
    assert path.read_text() == "before"


def test_another_format_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "PLAIN", 4)
    checkpoint.save(tmp_path / "last.safetensors", machine().state_dict())
    monkeypatch.undo()
    with pytest.raises(
        SlotkitError, match=r"checkpoint: it is of format 4 and this slotkit reads 1 to 3\. Use"
    ):
        checkpoint.load(tmp_path / "last.safetensors")


@pytest.mark.parametrize(("state", "kind"), [({"a": [1]}, 1), ({"a": (1,)}, 3)])
def test_the_format_is_the_oldest_that_has_all(state: dict[str, Any], kind: int, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "x.safetensors", state)
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()[checkpoint.HEADER])["format"] == kind


def test_anything_nested_comes_back(tmp_path: Path) -> None:
    one = torch.arange(3.0)
    state = {
        "a": {
            "x": one,
            "again": one,
            "none": None,
            "deep": [1, {"y": torch.tensor(2, dtype=torch.bfloat16)}],
        },
        "by number": {0: {"step": torch.tensor(1.5)}, 7: {}},
        "empty": {},
        "text": "$tensor",
        "tuples": (3, (), [(one,)]),
    }
    checkpoint.save(tmp_path / "x.safetensors", state)
    found, _ = checkpoint.load(tmp_path / "x.safetensors")
    assert torch.equal(found["a"]["x"], one)
    assert torch.equal(found["a"]["again"], one)
    assert found["a"]["none"] is None
    assert found["a"]["deep"][1]["y"].dtype == torch.bfloat16
    assert found["by number"][0]["step"].item() == 1.5
    assert found["by number"][7] == {}
    assert (found["empty"], found["text"]) == ({}, "$tensor")
    three, nothing, [(again,)] = found["tuples"]
    assert isinstance(found["tuples"], tuple)
    assert (three, nothing) == (3, ())
    assert torch.equal(again, one)
    assert (tmp_path / "x.safetensors").stat().st_size < 1200, "a tensor that is in it twice is written once"
