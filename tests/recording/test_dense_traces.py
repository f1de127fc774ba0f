"""The flight recorder beside the dense form: flips, gaps and expected flips read off the K scores."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from slotkit.analyses import thresholds
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.machine import SlotMachine
from slotkit.making import slotify
from slotkit.recording import recorder, replay, trace
from slotkit.recording.trace import Trace
from slotkit.runs.folder import RunFolder


def build(selection: str = "greedy", update: str = "all", form: str = "dense", **more: Any) -> SlotMachine:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    return slotify(network, 4, selection, seed=5, form=form, update=update, **more)


def steps(machine: SlotMachine, optimizer: torch.optim.Optimizer, count: int, first: int = 0) -> Any:
    for step in range(first, first + count):
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(16, 6, dtype=torch.float64, generator=generator)
        loss = nn.functional.cross_entropy(machine.model(inputs), torch.arange(16) % 3)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        yield step + 1


def sgd(machine: SlotMachine) -> torch.optim.Optimizer:
    return machine.optimizer(lr=20.0, momentum=0.9, weight_decay=0.01)


def argmaxes(machine: SlotMachine) -> dict[str, Tensor]:
    return {name: machine.scores(name).argmax(dim=-1) for name in machine.reels}


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (trace, recorder):
        monkeypatch.setattr(module, "CHUNK", 8)


def recorded(
    machine: SlotMachine, folder: Path, optimizer: torch.optim.Optimizer, count: int
) -> recorder.Recorder:
    flight = recorder.Recorder(machine, Trace(folder / "trace"), "full", 5, "run")
    for step in steps(machine, optimizer, count):
        flight.record(step, 0.1)
    flight.flush()
    return flight


def test_the_same_trace_as_the_latent_form(tmp_path: Path) -> None:
    """In float64 both forms select the same, so both traces name the same flips."""
    found = []
    for form in ("dense", "latent"):
        machine = build(form=form)
        recorded(machine, tmp_path / form, sgd(machine), 30)
        found.append([columns for _, columns in Trace(tmp_path / form / "trace").chunks()])
    for dense, latent in zip(*found, strict=True):
        assert dense.keys() == latent.keys()
        for name in ("lr", "changed", "connection", "option"):
            assert np.array_equal(dense[name], latent[name])
        assert "c" not in dense or np.isnan(dense["c"]).all()
    assert sum(len(columns["connection"]) for columns in found[0]) > 30


def test_draws_are_counted_beside_the_greedy_reading(tmp_path: Path) -> None:
    machine = build("probabilistic")
    flight = recorder.Recorder(machine, Trace(tmp_path / "trace"), "full", 5)
    drawn, counts = [machine.selected(name).clone() for name in machine.reels], []
    for step in steps(machine, sgd(machine), 7):
        flight.record(step, 0.1)
        now = [machine.selected(name).clone() for name in machine.reels]
        counts.append([int((one != other).sum()) for one, other in zip(now, drawn, strict=True)])
        drawn = now
    flight.flush()
    ((_, columns),) = Trace(tmp_path / "trace").chunks()
    assert columns["changed"].tolist() == counts
    assert columns["entropy"].shape == (1, 2, len(trace.LEVELS))


@pytest.mark.parametrize("update", ["all", "selected"])
@pytest.mark.parametrize("adam", [False, True])
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_flips_of_any_optimizer_are_the_changes_of_the_highest_score(
    selection: str, update: str, adam: bool, tmp_path: Path
) -> None:
    machine = build(selection, update)
    optimizer = torch.optim.Adam(machine.parameters(), 0.05) if adam else sgd(machine)
    flight = recorder.Recorder(machine, Trace(tmp_path / "trace"), "full", 5)
    expected = [argmaxes(machine)]
    for step in steps(machine, optimizer, 30):
        flight.record(step, 0.1)
        expected.append(argmaxes(machine))
    flight.flush()
    for step, found in enumerate(replay.selections_at(RunFolder(tmp_path), range(31))):
        assert all(torch.equal(found[name], expected[step][name]) for name in found)
    flips = sum(int((after[n] != before[n]).sum()) for before, after in pairwise(expected) for n in after)
    assert flips > 20
    about = Trace(tmp_path / "trace").about()
    assert (about["format"], about["form"], about["update"]) == (3, "dense", update)


def test_margin_speed_and_wait_are_those_of_the_scores(tmp_path: Path) -> None:
    """A reel of three: the runner-up does not come nearer, a third score does, and arrives first."""
    machine = slotify(nn.Linear(2, 1, bias=False).double(), 3, form="dense")
    (scores,) = machine.parameters()
    flight = recorder.Recorder(machine, Trace(tmp_path / "trace"), "summary", 2)
    for step, rows in enumerate([[[5.0, 4.0, 1.0], [0.0, 2.0, 7.0]], [[5.0, 4.0, 2.0], [0.0, 1.0, 7.0]]], 1):
        scores.data.copy_(torch.tensor(rows, dtype=torch.float64).view_as(scores))
        flight.record(step, 0.1)
    flight.flush()
    ((_, columns),) = Trace(tmp_path / "trace").chunks()
    last = {name: columns[name][0, 0, -1] for name in ("margin", "speed", "steps_to_flip")}
    first = {name: columns[name][0, 0, 0] for name in last}
    # Reel 1: 4 stays 1 below 5; 2 is 3 below and comes 1 nearer a step. Reel 2: nothing comes nearer.
    assert first == {"margin": 1.0, "speed": 0.0, "steps_to_flip": 3.0}
    assert last == {"margin": 6.0, "speed": 1.0, "steps_to_flip": np.inf}


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_a_recorder_goes_on_with_the_same_bits(selection: str, tmp_path: Path) -> None:
    whole, parts = (build(selection, "selected") for _ in range(2))
    recorded(whole, tmp_path / "whole", sgd(whole), 30)
    optimizer = sgd(parts)
    flight = recorded(parts, tmp_path / "parts", optimizer, 13)
    states = parts.state_dict(), optimizer.state_dict(), flight.state()
    again = build(selection, "selected")
    optimizer = sgd(again)
    again.load_state_dict(states[0])
    optimizer.load_state_dict(states[1])
    flight = recorder.Recorder(again, Trace(tmp_path / "parts" / "trace"), "full", 5, "run")
    flight.load(states[2])
    for step in steps(again, optimizer, 17, first=13):
        flight.record(step, 0.1)
    flight.flush()
    files = [sorted((tmp_path / name / "trace").iterdir()) for name in ("whole", "parts")]
    assert [path.name for path in files[0]] == [path.name for path in files[1]]
    for left, right in zip(*files, strict=True):
        assert left.read_bytes() == right.read_bytes(), left.name


@pytest.mark.parametrize("form", ["latent", "dense"])
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
def test_a_recording_that_begins_late_is_replayed(form: str, selection: str, tmp_path: Path) -> None:
    """The options of the beginning are written down if they are not those of the initial scores."""
    machine = build(selection, form=form)
    optimizer = sgd(machine)
    for _ in steps(machine, optimizer, 10):
        pass
    flight = recorder.Recorder(machine, Trace(tmp_path / "trace"), "full", 5)
    expected = [argmaxes(machine)]
    for step in steps(machine, optimizer, 10, first=10):
        flight.record(step - 10, 0.1)
        expected.append(argmaxes(machine))
    flight.flush()
    for step, found in enumerate(replay.selections_at(RunFolder(tmp_path), range(11))):
        assert all(torch.equal(found[name], expected[step][name]) for name in found)
    start = tmp_path / "trace" / "start.safetensors"
    start.write_bytes(start.read_bytes()[:-8] + bytes(8))
    with pytest.raises(SlotkitError) as caught:
        replay.selections(RunFolder(tmp_path), 0)
    assert str(caught.value) == (
        f"{start} can't be read: it is not the file that was written. Put the file back, or record again."
    )


def test_scores_in_half_precision_are_replayed(tmp_path: Path) -> None:
    """Rounded to bfloat16, initial scores tie, and another option may be the highest."""
    torch.manual_seed(0)
    machine = slotify(nn.Linear(40, 30).bfloat16(), 16, form="dense")
    flight = recorder.Recorder(machine, Trace(tmp_path / "trace"), "full", 5)
    flight.record(1, 0.1)
    flight.flush()
    found = replay.selections(RunFolder(tmp_path), 0)["weight"]
    assert torch.equal(found, machine.selected("weight"))
    assert not torch.equal(found, replay.first_selection(machine.reels["weight"]).view_as(found))


def test_thresholds_of_the_dense_form(tmp_path: Path) -> None:
    """Gaps of scores, in words and figure; nothing of c and of options that a line could reach."""
    machine = build(update="selected")
    recorded(machine, tmp_path, sgd(machine), 30)
    found = thresholds.analyze(tmp_path)
    quantities = set(found.table["quantity"])
    assert not quantities & {"c", "c forgotten", "reachable options"}
    assert "a margin is the gap between the highest score and the next one" in found.summary
    assert "reachable" not in found.summary
    assert len(found.figure().axes) == 5
