"""The flight recorder: what it says is what happened, and weights come back from it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs.test_resume import settings  # type: ignore[import-not-found]
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.inits import Fans
from slotkit.making import slotify
from slotkit.recording import recorder, replay, trace
from slotkit.recording.trace import LEVELS, Trace, flips
from slotkit.runs import checkpoint
from slotkit.runs.folder import RunFolder
from slotkit.training.experiment import evaluate, run


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (trace, recorder):
        monkeypatch.setattr(module, "CHUNK", 20)


# `settings` has a commit after each step, which most of these tests have no need of.
RARELY = {"recording__checkpoint_minutes": 60.0}

SHARINGS: list[dict[str, Any]] = [
    {},
    {"slots__sharing": "layer", "slots__symmetric": True, "slots__k": 6, **RARELY},
    {"slots__sharing": "channel", "slots__init": "glorot-deviation", **RARELY},
    {"slots__sharing": "network", "slots__symmetric": True, "slots__k": 6, **RARELY},
    {"slots__k": 1, **RARELY},
    {"slots__k": 300, **RARELY},
]


@pytest.mark.parametrize("kind", SHARINGS, ids=str)
def test_replay_gives_the_weights_of_checkpoints(
    kind: dict[str, Any], tmp_path: Path, short_chunks: None
) -> None:
    folder = run(settings(recording__keep_epochs=(1, 2, 3), **kind), tmp_path, "run")
    for epoch in (1, 2, 3):
        state, about = checkpoint.load(folder.checkpoint(f"epoch-{epoch}"))
        weights = replay.replay(folder, about["step"])
        assert len(weights) == 3
        for name, weight in weights.items():
            assert torch.equal(weight, state["others"][name])
    assert len(list((folder.path / "trace").glob("*.npz"))) > 2


def test_a_replayed_step_is_a_checkpoint(tmp_path: Path) -> None:
    folder = run(settings(recording__keep_epochs=(2,), **RARELY), tmp_path, "run")
    step = checkpoint.load(folder.checkpoint("epoch-2"))[1]["step"]
    path = replay.write_checkpoint(folder, step)
    assert path.name == f"step-{step}.safetensors"
    replayed, kept = (evaluate(folder, which, "test") for which in (path.stem, "epoch-2"))
    assert (replayed["greedy"].accuracy, replayed["greedy"].loss) == (
        kept["greedy"].accuracy,
        kept["greedy"].loss,
    )
    start = replay.replay(folder, 0)
    fresh = replay.reels_of(folder)
    for name, reel in fresh.items():
        index = reel.scores().argmax(dim=-1, keepdim=True)
        assert torch.equal(start[name], reel.options().gather(-1, index)[..., 0])


def test_several_steps_are_replayed_in_one_pass(tmp_path: Path, short_chunks: None) -> None:
    folder = run(settings(**RARELY), tmp_path, "run")
    last = Trace(folder.path / "trace").last_step()
    assert last == max(entry["step"] for entry in folder.metrics())
    steps = [0, 1, 19, 20, 21, 40, last]
    for step, together in zip(steps, replay.selections_at(folder, steps), strict=True):
        for name, alone in replay.selections(folder, step).items():
            assert torch.equal(together[name], alone)
    passing = replay.selections_at(folder, [3, last + 1])
    next(passing)
    with pytest.raises(SlotkitError, match=f"Step {last + 1} is not in the trace of run, which has"):
        next(passing)


def test_counts_are_the_flips(tmp_path: Path, short_chunks: None) -> None:
    """Between the weights of consecutive steps, rebuilt from the trace, as many differ as `changed` says."""
    folder = run(settings(training__epochs=1), tmp_path, "run")
    before = replay.replay(folder, 0)
    total = 0
    for first, columns in Trace(folder.path / "trace").chunks():
        for row in range(len(columns["lr"])):
            after = replay.replay(folder, first + row)
            counted = [int((after[name] != before[name]).sum()) for name in before]
            assert counted == columns["changed"][row].tolist()
            total += sum(counted)
            before = after
    assert total > 500


def test_a_summary_has_the_same_counts_and_statistics(tmp_path: Path, short_chunks: None) -> None:
    full = run(settings(**RARELY), tmp_path, "full")
    summary = run(settings(recording__trace="summary", **RARELY), tmp_path, "summary")
    pairs = zip(*(Trace(folder.path / "trace").chunks() for folder in (full, summary)), strict=True)
    for (_, whole), (_, part) in pairs:
        assert set(whole) - set(part) == {"connection", "option"}
        assert all(np.array_equal(whole[name], part[name], equal_nan=True) for name in part)
    with pytest.raises(SlotkitError) as caught:
        replay.replay(summary, 3)
    assert str(caught.value) == (
        "The trace of summary is 'summary', and a replay needs every flip. Train with --trace full."
    )


def recorded(selection: str, latents: list[torch.Tensor], every: int, folder: Path) -> dict[str, Any]:
    """A layer of one input and output whose latents are set by hand, recorded at every step."""
    machine = slotify(nn.Linear(1, 1, bias=False), 3, selection)
    weight = machine.form.weights["weight"]  # type: ignore[attr-defined]
    flight = recorder.Recorder(machine, Trace(folder), "summary", every)
    for step, latent in enumerate(latents, start=1):
        weight.latent.copy_(latent)
        if selection == "greedy":
            machine.spin()
        flight.record(step, 0.1)
    flight.flush()
    ((_, columns),) = Trace(folder).chunks()
    return {**columns, "weight": weight}


def test_margin_speed_and_steps_to_flip(tmp_path: Path) -> None:
    """One connection: distance to the next threshold, the last step in u, and how many of them that is."""
    machine = slotify(nn.Linear(1, 1, bias=False), 3)
    weight = machine.form.weights["weight"]  # type: ignore[attr-defined]
    lower, upper = float(weight.lower), float(weight.upper)
    assert lower < 0
    columns = recorded("greedy", [torch.tensor([0.25 * lower]), torch.tensor([0.5 * lower])], 2, tmp_path)
    assert columns["measured"].tolist() == [2]
    assert columns["c"].tolist() == [[1.0]]
    assert columns["margin"].shape == (1, 1, len(LEVELS))
    nearest = min(0.5 * abs(lower), upper - 0.5 * lower)
    assert columns["margin"][0, 0] == pytest.approx(np.full(len(LEVELS), nearest), rel=1e-5)
    assert columns["speed"][0, 0] == pytest.approx(np.full(len(LEVELS), 0.25 * abs(lower)), rel=1e-5)
    assert columns["steps_to_flip"][0, 0] == pytest.approx(np.full(len(LEVELS), 2.0), rel=1e-5)


def test_entropy_and_top_probability(tmp_path: Path) -> None:
    columns = recorded("probabilistic", [torch.tensor([0.0]), torch.tensor([3.0])], 2, tmp_path)
    scores = columns["weight"].scores().reshape(-1).double()
    probabilities = scores.softmax(dim=-1)
    entropy = float(-(probabilities * probabilities.log()).sum())
    assert columns["entropy"][0, 0] == pytest.approx(np.full(len(LEVELS), entropy), rel=1e-5)
    assert columns["top"][0, 0] == pytest.approx(np.full(len(LEVELS), float(probabilities.max())), rel=1e-5)


def test_ps_counts_changed_reels(tmp_path: Path) -> None:
    folder = run(settings(slots__selection="PS", recording__trace="summary", **RARELY), tmp_path, "run")
    ((_, columns),) = Trace(folder.path / "trace").chunks()
    connections = np.array([64 * 300, 300 * 100, 100 * 10])
    # With K = 4 and nearly flat scores three quarters of the reels change in a step.
    assert (abs(columns["changed"][:5] / connections - 0.75) < 0.05).all()
    of_the_reading = {"greedy_changed", "margin", "speed", "steps_to_flip"}
    of_the_softmax = {"entropy", "top", "mean_entropy", "decided", "drift"}
    assert set(columns) == {"lr", "changed", "measured", "c"} | of_the_reading | of_the_softmax


def test_full_where_nothing_flips_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlotkitError) as caught:
        run(settings(method="learned"), tmp_path, "run")
    assert str(caught.value) == (
        "recording.trace is full, which records the flips of a slot machine, and this run trains "
        "ordinary learned weights (method=learned). Choose summary or off: then nothing is recorded."
    )
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run(settings(training__epochs=1), tmp_path_factory.mktemp("traced"), "run")


@pytest.fixture
def copied(traced: RunFolder, tmp_path: Path) -> RunFolder:
    shutil.copytree(traced.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


def test_steps_out_of_range_are_refused(copied: RunFolder) -> None:
    for step in (-1, 10_000):
        with pytest.raises(
            SlotkitError, match=rf"Step {step} is not in the trace of run, which has steps 0 to"
        ):
            replay.replay(copied, step)


def test_damaged_traces_are_named(copied: RunFolder) -> None:
    chunk = copied.path / "trace" / "steps-00000001.npz"
    whole = chunk.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1], b"", whole.replace(b"lr.npy", b"rl.npy")):
        chunk.write_bytes(damaged)
        with pytest.raises(SlotkitError, match="is not a whole chunk of a trace"):
            replay.replay(copied, 3)
    chunk.rename(chunk.with_name("steps-00000007.npz"))
    with pytest.raises(SlotkitError, match=r"lacks steps 1 to 6: steps-00000001\.npz is missing"):
        replay.replay(copied, 10)
    (copied.path / "trace" / "about.json").write_text(json.dumps({"format": 4}))
    with pytest.raises(SlotkitError, match=r"is of trace format 4, and this slotkit reads 1, 2, 3\. Update"):
        replay.replay(copied, 1)
    shutil.rmtree(copied.path / "trace")
    with pytest.raises(
        SlotkitError, match=r"There is no trace in .*run\. Train with --trace summary or full"
    ):
        replay.replay(copied, 1)


def test_what_the_trace_does_not_have_is_not_made_up(tmp_path: Path) -> None:
    trained = run(
        settings(slots__others="trained", model__options__bias=True, training__epochs=1), tmp_path, "others"
    )
    with pytest.raises(SlotkitError, match="biases or norms were trained too"):
        replay.write_checkpoint(trained, 2)
    assert replay.replay(trained, 2)


def test_flips_of_a_chunk() -> None:
    columns = {
        "changed": np.array([[2, 0], [0, 0], [1, 2]], np.int32),
        "connection": np.array([3, 4, 9, 0, 2], np.uint32),
        "option": np.array([1, 2, 3, 4, 5], np.uint8),
    }
    found = [(s, t, c.tolist(), o.tolist()) for s, t, c, o in flips(columns)]
    assert found == [(0, 0, [3, 7], [1, 2]), (2, 0, [9], [3]), (2, 1, [0, 2], [4, 5])]


# ---------------------------------------------------------------------------------------------------
# A trace describes itself, and belongs to one run.


def test_a_trace_is_replayed_without_its_config(tmp_path: Path, short_chunks: None) -> None:
    folder = run(settings(**SHARINGS[2]), tmp_path, "run")
    whole = replay.replay(folder, 45)
    alone = tmp_path / "elsewhere" / "trace"
    shutil.copytree(folder.path / "trace", alone)
    found = replay.replay(RunFolder(alone.parent), 45)
    assert all(torch.equal(weight, found[name]) for name, weight in whole.items())
    assert Trace(alone).about()["reels"] == {
        "k": folder.config().slots.k,
        "seed": 0,
        "init": "glorot-deviation",
        "sharing": "channel",
        "symmetric": False,
    }


def test_a_trace_of_before_is_replayed_with_its_config(tmp_path: Path) -> None:
    folder = run(settings(training__epochs=1), tmp_path, "run")
    whole, path = replay.replay(folder, 5), folder.path / "trace" / "about.json"
    about = json.loads(path.read_text())
    del about["reels"], about["run"]
    path.write_text(json.dumps(about))
    assert all(torch.equal(weight, whole[name]) for name, weight in replay.replay(folder, 5).items())


def steps_of(folder: Path, steps: range, run: str | None = None, lr: float = 0.1) -> recorder.Recorder:
    machine = slotify(nn.Linear(2, 2, bias=False), 3)
    flight = recorder.Recorder(machine, Trace(folder), "full", 10, run)
    for step in steps:
        flight.record(step, lr)
    return flight


def test_another_runs_trace_is_not_written_to(tmp_path: Path, short_chunks: None) -> None:
    first = steps_of(tmp_path, range(1, 46))
    first.flush()
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    text = (
        f"{tmp_path} holds the trace of another run, of 45 steps. Record into another folder, resume that "
        "run, or delete its trace."
    )
    with pytest.raises(SlotkitError) as caught:
        steps_of(tmp_path, range(1, 2))
    assert str(caught.value) == text
    elsewhere = steps_of(tmp_path / "elsewhere", range(1, 31))
    with pytest.raises(SlotkitError) as caught:
        steps_of(tmp_path, range(0)).load(elsewhere.state())
    assert str(caught.value) == text
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == files
    resumed = steps_of(tmp_path, range(0))
    resumed.load(first.state())
    for step in range(46, 51):
        resumed.record(step, 0.1)
    resumed.flush()
    assert Trace(tmp_path).last_step() == 50


def test_a_state_that_the_trace_contradicts_is_not_continued(tmp_path: Path, short_chunks: None) -> None:
    """Two runs of the same settings that did not do the same."""
    steps_of(tmp_path / "one", range(1, 46), "same settings").flush()
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    other = steps_of(tmp_path / "other", range(1, 46), "same settings", lr=0.2)
    with pytest.raises(SlotkitError, match="holds the trace of another run, of 45 steps"):
        steps_of(tmp_path / "one", range(0), "same settings").load(other.state())
    assert {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()} == files


@dataclass(frozen=True)
class Doubled:
    """An init of one's own."""

    factor: float = 2.0

    def options(self, uniform: Tensor, fans: Fans) -> Tensor:
        return uniform * self.factor

    def scores(self, uniform: Tensor, fans: Fans) -> Tensor:
        return uniform * self.factor


def test_an_init_of_ones_own_is_given_again(tmp_path: Path) -> None:
    machine = slotify(nn.Linear(4, 3, bias=False), 5, init=Doubled())
    flight = recorder.Recorder(machine, Trace(tmp_path / "trace"), "full", 10)
    optimizer = machine.optimizer(5.0)
    for step in range(1, 6):
        machine.model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        flight.record(step, 5.0)
    flight.flush()
    folder = RunFolder(tmp_path)
    assert torch.equal(replay.replay(folder, 5, Doubled())["weight"], machine.model.get_parameter("weight"))
    for given, text in (
        (
            None,
            "The reels were made with the init Doubled(factor=2.0), an object that can't be written down. "
            "Give that object again, as `init`.",
        ),
        (
            Doubled(3.0),
            "The init is Doubled(factor=3.0), and the reels were made with Doubled(factor=2.0). Give the "
            "object that they were made with.",
        ),
    ):
        with pytest.raises(SlotkitError) as caught:
            replay.replay(folder, 5, given)
        assert str(caught.value) == text


@pytest.mark.parametrize("damage", ["last chunk", "no description", "broken description"])
def test_a_run_is_resumed_over_a_damaged_trace(damage: str, tmp_path: Path, short_chunks: None) -> None:
    """What lies after the checkpoint is written again anyway; a description too."""
    first = steps_of(tmp_path, range(1, 31))
    state = first.state()
    for step in range(31, 56):
        first.record(step, 0.1)
    first.flush()
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    about = tmp_path / "about.json"
    if damage == "last chunk":
        (tmp_path / "steps-00000041.npz").write_bytes(b"half a chunk")
    elif damage == "no description":
        about.unlink()
    else:
        about.write_text("{")
    resumed = steps_of(tmp_path, range(0))
    resumed.load(state)
    for step in range(31, 56):
        resumed.record(step, 0.1)
    resumed.flush()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole
