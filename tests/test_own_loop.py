"""slotkit.record around a loop of one's own: the folder it leaves, and resuming to the same bits."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from own_loops import IMAGES, KINDS, KilledError, Net, make, train
from safetensors.torch import load_file
from slotkit.analyses import flips, thresholds, weights

import slotkit
from slotkit.config import resolve
from slotkit.errors import SlotkitError
from slotkit.export import SLOT_FILE, WEIGHTS, export
from slotkit.loop_recording import Recording
from slotkit.machine import SlotMachine
from slotkit.recording import replay
from slotkit.runs.folder import RunFolder


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_loop_goes_on_with_the_same_bits(kind: dict[str, Any], tmp_path: Path) -> None:
    whole, _ = train(tmp_path / "whole", kind=kind)
    with pytest.raises(KilledError):
        train(tmp_path / "parts", stop=17, kind=kind)
    assert RunFolder(tmp_path / "parts").summary()["status"] == "failed"
    parts, run = train(tmp_path / "parts", resume=True, kind=kind)
    assert run.values == {"epoch": 1}
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name
    chunks = [(tmp_path / run / "trace" / "steps-00000001.npz").read_bytes() for run in ("whole", "parts")]
    assert chunks[0] == chunks[1]
    metrics = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "parts")]
    assert metrics[0] == metrics[1]
    assert len(metrics[0].splitlines()) == 6


def test_adam_and_no_trace(tmp_path: Path) -> None:
    whole, _ = train(tmp_path / "whole", adam=True, trace="off")
    with pytest.raises(KilledError):
        train(tmp_path / "parts", stop=25, adam=True, trace="off")
    parts, _ = train(tmp_path / "parts", resume=True, adam=True, trace="off")
    assert torch.equal(whole.selected("head.weight"), parts.selected("head.weight"))
    assert not (tmp_path / "whole" / "trace").exists()


def test_resume_without_a_checkpoint_begins_at_the_start(tmp_path: Path) -> None:
    whole, run = train(tmp_path / "whole", resume=True)
    assert run.step == 30
    with pytest.raises(KilledError):
        train(tmp_path / "parts", stop=7)
    parts, run = train(tmp_path / "parts", resume=True)
    assert run.values == {}
    assert torch.equal(whole.selected("head.weight"), parts.selected("head.weight"))


class Sampler:
    """Draws with a generator of its own, whose state has tuples."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def state_dict(self) -> dict[str, Any]:
        return {"random": self.random.getstate()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random.setstate(state["random"])


def test_what_else_has_a_state_gets_it_as_it_gave_it(tmp_path: Path) -> None:
    first, second = Sampler(1), Sampler(2)
    train(tmp_path / "mine", steps=10, also={"sampler": first})
    train(tmp_path / "mine", steps=10, resume=True, also={"sampler": second})
    assert second.state_dict() == first.state_dict()


def test_what_the_folder_says(tmp_path: Path) -> None:
    machine, run = train(tmp_path / "mine", config={"batch": 16, "augment": {"flip": True}, "seed": 5})
    folder = RunFolder(tmp_path / "mine")
    assert run.folder.path == folder.path
    settings = folder.settings()
    assert settings["slots.k"] == 8
    assert settings["training.lr"] == 1.0
    assert settings["config.augment.flip"] is True
    assert "training.epochs" not in settings
    assert "batch_size" not in (tmp_path / "mine" / "config.toml").read_text()
    recorded = folder.recorded()
    assert recorded is not None
    assert (recorded["network"], recorded["optimizer"]) == ("Net", "SlotSGD")
    summary = folder.summary()
    assert (summary["status"], summary["kind"], summary["steps"]) == ("finished", "recorded", 30)
    assert summary["logged"].keys() == {"loss"}
    kept = sorted(path.stem for path in (tmp_path / "mine" / "checkpoints").iterdir())
    assert kept == ["best", "last", "start"]  # it has biases, which no seed gives
    last = {name: machine.selected(name) for name in machine.reels}
    assert all(torch.equal(last[name], value) for name, value in replay.selections(folder, 30).items())


def test_analyses_take_folders_recordings_and_machines(tmp_path: Path) -> None:
    def ask(run: Recording) -> None:
        if run.step == 20:  # while it is recorded
            assert "K = 8" in flips.analyze(run).summary

    machine, run = train(tmp_path / "mine", meanwhile=ask)
    found = [flips.analyze(what).table for what in (tmp_path / "mine", run, machine, [machine])]
    assert all(found[0].equals(other) for other in found)
    assert "head.weight" in thresholds.analyze(machine).summary
    seen = weights.analyze([machine])
    assert "Nothing on dead units of mine" in seen.summary
    assert set(seen.table["layer"]) == {"body.0.weight", "head.weight"}
    for result in (flips.analyze(run), thresholds.analyze(run), seen):
        assert result.figure().axes
    other, _ = make()
    with pytest.raises(SlotkitError) as caught:
        flips.analyze([other])
    assert str(caught.value) == (
        "This machine was never recorded, and an analysis reads what was. Train it within "
        "`with slotkit.record(machine, optimizer, folder):`, or name its run."
    )


def test_a_machine_that_was_trained_before(tmp_path: Path) -> None:
    """The beginning is written down, since the seed does not give it."""
    machine, optimizer = make()
    for step in range(20):
        if step == 10:
            begun = machine.selected("head.weight").clone()
            recording = slotkit.record(machine, optimizer, tmp_path / "late", trace="full", every=2)
            run = recording.__enter__()
        machine.model(IMAGES).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    run.__exit__(None, None, None)
    folder = RunFolder(tmp_path / "late")
    assert torch.equal(replay.selections(folder, 0)["head.weight"], begun)
    assert torch.equal(replay.selections(folder, 10)["head.weight"], machine.selected("head.weight"))
    table = weights.analyze(run, moments=0).table
    start = table[
        (table["layer"] == "head.weight") & (table["quantity"] == "frobenius") & (table["step"] == 0)
    ]
    value = float(machine.reels["head.weight"].chosen(begun).square().sum().sqrt())
    assert float(start["value"].iloc[0]) == pytest.approx(value, rel=1e-6)


def test_several_optimizers_and_a_best_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Net()
    machine = slotkit.slotify(model, k=4, where="body.0.weight")
    model.head.requires_grad_(True)
    optimizers = [machine.optimizer(lr=1.0), torch.optim.AdamW(model.head.parameters())]
    with slotkit.record(machine, optimizers, tmp_path / "two", trace="off") as run:
        for step in range(4):
            model(IMAGES).square().mean().backward()
            for optimizer in optimizers:
                optimizer.step()
            if step == 1:
                best = model.head.weight.detach().clone()
                run.checkpoint("best", accuracy=0.5)
    assert run.step == 4
    from slotkit.runs import checkpoint

    state, about = checkpoint.load(tmp_path / "two" / "checkpoints" / "best.safetensors")
    assert torch.equal(state["others"]["head.weight"], best)
    assert about["step"] == 2


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_exported_without_its_class(kind: dict[str, Any], tmp_path: Path) -> None:
    """Weights for plain PyTorch, and a slot file for her own class, from the checkpoint alone."""
    machine, run = train(tmp_path / "mine", steps=8, kind=kind)
    made = export(run.folder, "last")
    with machine.using("greedy"):
        expected = {name: value.clone() for name, value in ordinary(machine).items()}
    again, plain = Net(), Net()
    plain.load_state_dict(load_file(tmp_path / "mine" / "export" / WEIGHTS))
    slotkit.load(tmp_path / "mine" / "export" / SLOT_FILE, into=again)
    for network in (plain, again):
        state = network.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert made.connections == sum(reel.numel() for reel in map(machine.selected, machine.reels))
    with pytest.raises(SlotkitError, match="--onnx needs the network itself"):
        export(run.folder, "last", onnx=True)


def ordinary(machine: SlotMachine) -> dict[str, torch.Tensor]:
    """What an ordinary Net would hold."""
    dense = machine.form.name == "dense"
    own = machine.state_dict()["others"]
    weights = (
        {name: machine.model.get_parameter(name) for name in machine.reels}
        if not dense
        else {name: machine.reels[name].chosen(machine.selected(name)) for name in machine.reels}
    )
    return {**own, **weights}


def test_loggers_get_what_is_logged(tmp_path: Path) -> None:
    """By the same protocol as in `slotkit train`; one that fails ends no loop."""

    class Kept:
        def __init__(self, fails: bool = False) -> None:
            self.told: list[tuple[int, dict[str, float]]] = []
            self.fails, self.closed = fails, False

        def log(self, step: int, values: Mapping[str, float]) -> None:
            if self.fails:
                raise OSError("no network")
            self.told.append((step, dict(values)))

        def close(self) -> None:
            self.closed = True

    kept, failing = Kept(), Kept(fails=True)
    train(tmp_path / "mine", steps=10, loggers=[failing, kept])
    assert [step for step, _ in kept.told] == [5, 10]
    assert kept.closed
    log = (tmp_path / "mine" / "log.txt").read_text()
    assert "The logger Kept failed and gets nothing more: OSError: no network." in log
    with pytest.raises(SlotkitError, match="There is no logger 'tensorbord'"):
        train(tmp_path / "other", loggers=["tensorbord"])


@pytest.mark.parametrize("selection", ["GS", "PS"])
@pytest.mark.parametrize("form", ["latent", "dense"])
def test_a_state_loaded_within_a_loop_is_in_the_trace(form: str, selection: str, tmp_path: Path) -> None:
    """Such as the best one, taken back after a divergence: no step names what flips then."""
    machine, optimizer = make(form=form, selection=selection)

    def steps(count: int) -> None:
        for _ in range(count):
            torch.nn.functional.cross_entropy(machine.model(IMAGES), torch.arange(64) % 3).backward()
            optimizer.step()
            optimizer.zero_grad()

    with slotkit.record(machine, optimizer, tmp_path / "mine", trace="full", every=2):
        steps(3)
        kept = copy.deepcopy(machine.state_dict())
        steps(30)
        machine.load_state_dict(kept)
        steps(2)
    folder = RunFolder(tmp_path / "mine")
    end = replay.replay(folder, 35)
    with machine.using("greedy"):
        for name in machine.reels:
            module, _, own = name.rpartition(".")
            assert torch.equal(end[name], getattr(machine.model.get_submodule(module), own).detach())


def test_a_logger_is_told_that_a_loop_failed(tmp_path: Path) -> None:
    ends: list[str] = []

    class Kept:
        def log(self, step: int, values: Mapping[str, float]) -> None:
            pass

        def close(self) -> None:
            ends.append("finished")

        def fail(self) -> None:
            ends.append("failed")

    with pytest.raises(KilledError):
        train(tmp_path / "mine", steps=10, stop=7, loggers=[Kept()])
    assert ends == ["failed"]
    train(tmp_path / "mine", steps=10, resume=True, loggers=[Kept()])
    assert ends == ["failed", "finished"]


def test_a_run_of_slotkits_own_is_left_alone(tmp_path: Path) -> None:
    """Nothing in it is written before it is refused."""
    folder = RunFolder.create(tmp_path, "trained", resolve([]), {})
    (folder.path / "trace").mkdir()
    (folder.path / "trace" / "about.json").write_text("its own")
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(SlotkitError, match="was trained by slotkit itself: `slotkit train --resume"):
        train(folder.path, resume=True)
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_an_analysis_on_the_way_changes_nothing_that_is_resumed_from(tmp_path: Path) -> None:
    """A loop goes on from its own checkpoints, which fit its values."""
    with pytest.raises(KilledError):
        train(
            tmp_path / "asked", stop=17, meanwhile=lambda run: flips.analyze(run) if run.step == 15 else None
        )  # type: ignore[arg-type,return-value]
    _, run = train(tmp_path / "asked", steps=0, resume=True)
    assert (run.step, run.values) == (10, {"epoch": 1})


def test_the_beginning_is_that_of_the_first_process(tmp_path: Path) -> None:
    """A machine that was trained before, killed in its first chunk, and resumed by one that was not."""

    def loop(trained: int, steps: int, resume: bool) -> SlotMachine:
        machine, optimizer = make()

        def step() -> None:
            machine.model(IMAGES).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        for _ in range(trained):
            step()
        with slotkit.record(machine, optimizer, tmp_path / "late", trace="full", resume=resume) as run:
            begun.append(machine.selected("head.weight").clone())
            for _ in range(steps):
                step()
            run.checkpoint()
            if not resume:
                raise KilledError
        return machine

    begun: list[torch.Tensor] = []
    with pytest.raises(KilledError):
        loop(trained=5, steps=3, resume=False)
    machine = loop(trained=2, steps=2, resume=True)
    folder = RunFolder(tmp_path / "late")
    assert torch.equal(replay.selections(folder, 0)["head.weight"], begun[0])
    assert torch.equal(replay.selections(folder, 5)["head.weight"], machine.selected("head.weight"))
