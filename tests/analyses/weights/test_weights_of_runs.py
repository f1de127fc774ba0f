"""Weights of real runs, of every kind."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from made_runs import make_run, value  # type: ignore[import-not-found]
from slotkit.analyses import weights
from slotkit.analyses.weights import activity, snapshots
from torch import nn

import slotkit
from slotkit.config import Overrides, resolve
from slotkit.errors import SlotkitError
from slotkit.recording import replay
from slotkit.runs import checkpoint
from slotkit.runs.folder import RunFolder
from slotkit.training.experiment import run
from slotkit.training.prepare import own_settings, prepare
from slotkit.training.trainee import build


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """Real runs on digits, a few steps each."""
    place = tmp_path_factory.mktemp("runs")
    kinds: dict[str, dict[str, Any]] = {
        "full": {"recording.trace": "full"},
        "kept": {},
        "sampled": {"slots.selection": "probabilistic", "training.lr": 20.0},
        "dense": {"slots.form": "dense", "slots.update": "selected"},
        "convolutions": {"model.name": "conv2", "slots.k": 2},
    }
    common = {
        "training.epochs": 2,
        "training.limit_batches": 4,
        "recording.keep_epochs": (1,),
        "data.mean": (0.0,),
        "data.std": (1.0,),
    }
    return {
        name: run(resolve([Overrides("test", {**common, **settings})]), place, name)
        for name, settings in kinds.items()
    }


def test_real_runs_over_training(trained: dict[str, RunFolder]) -> None:
    """What a trace replays at the end of an epoch is what was kept of it."""
    replayed = dict(snapshots.open_course(trained["full"], "last", 100).snapshots())
    kept = dict(snapshots.open_course(trained["kept"], "last", 100).snapshots())
    assert list(replayed) == list(range(9))
    assert list(kept) == [0, 4, 8]
    for step, tensors in kept.items():
        for name, weight in tensors.items():
            assert torch.equal(weight, replayed[step][name])
    assert list(dict(snapshots.open_course(trained["full"], "epoch-1", 1).snapshots())) == [0, 2, 4]


@pytest.mark.parametrize("kind", ["full", "kept", "sampled", "dense", "convolutions"])
def test_weights_are_the_greedy_reading(kind: str, trained: dict[str, RunFolder]) -> None:
    folder = trained[kind]
    course = snapshots.open_course(folder, "last", 2)
    trainee = build(folder.config(), (1, 8, 8), 10)
    trainee.load(checkpoint.load(folder.checkpoint("last"))[0])
    assert trainee.machine is not None
    *_, (step, found) = course.snapshots()
    with trainee.machine.using("greedy"):
        for name, weight in found.items():
            module = trainee.model.get_submodule(name.removesuffix(".weight"))
            assert torch.equal(module.get_parameter("weight") if kind != "dense" else module.weight, weight)
    assert step == 8


@pytest.mark.parametrize("kind", ["sampled", "dense", "convolutions"])
def test_all_kinds_of_runs(kind: str, trained: dict[str, RunFolder]) -> None:
    found = weights.analyze(trained[kind])
    assert sorted(found.table["step"].dropna().unique()) == [0, 4, 8]
    assert ("opposite sign" in found.summary) == (kind != "dense")
    assert ("greedy reading" in found.summary) == (kind == "sampled")
    layers = list(found.table["layer"].unique())
    if kind == "convolutions":
        rows = found.table[(found.table["layer"] == "conv2.weight") & (found.table["step"] == 8)]
        spectrum = rows[rows["quantity"] == "singular value / edge"]
        assert len(spectrum) == 64  # (64, 64 * 3 * 3)
    # The last layer has no ReLU.
    dead = found.table[(found.table["quantity"] == "dead units") & (found.table["step"] == 8)]
    assert dead["layer"].tolist() == layers[:-1]


@pytest.mark.parametrize("form", ["latent", "dense"])
def test_a_network_in_half_precision(form: str, tmp_path: Path) -> None:
    """Its weights are rounded options, and are compared as the options that they are."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3)).to(torch.bfloat16)
    machine = slotkit.slotify(model, k=4, form=form)
    optimizer = machine.optimizer(lr=1.0)
    with slotkit.record(machine, optimizer, tmp_path / "mine", trace="full", every=5) as recorded:
        for _ in range(20):
            optimizer.zero_grad()
            model(torch.randn(16, 12, dtype=torch.bfloat16)).float().logsumexp(dim=-1).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    table = weights.analyze(recorded.folder).table
    last = replay.replay(recorded.folder, 20)["0.weight"]
    offered = replay.reels_of(recorded.folder)["0.weight"].options()
    assert value(table, "moved", None, "0.weight", step=20) > 0
    assert value(table, "preference", None, "0.weight", step=20) == pytest.approx(
        float(last.abs().mean() / offered.abs().mean())
    )


def test_units_are_counted_in_what_comes_out() -> None:
    """A transposed convolution in groups has a weight of (in, out / groups, ...)."""
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2)
    with torch.no_grad():
        layer.bias[[1, 5]] = -100.0  # never above 0
    network = nn.Sequential(layer, nn.ReLU())
    with activity._Watch(network, ["0.weight"]) as watch, torch.no_grad():
        network(torch.rand(3, 4, 5, 5))
    assert watch.active["0.weight"].tolist() == [True, False, True, True, True, False]


def test_dead_units(trained: dict[str, RunFolder], tmp_path: Path) -> None:
    """Unit 7 has the smallest option everywhere, and pixels are positive: its ReLU stays 0."""
    shutil.copytree(trained["kept"].path, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    state, about = checkpoint.load(folder.checkpoint("last"))
    smallest = replay.reels_of(folder)["fc1.weight"].options().amin(dim=-1)
    state["others"]["fc1.weight"][7] = smallest[7]
    checkpoint.save(folder.checkpoint("last"), state, step=about["step"], epoch=2)
    course = snapshots.open_course(folder, "last", 0)
    *_, (_, last) = course.snapshots()
    (dead,) = activity.dead_units(course, [last], {})
    assert dead.keys() == {"fc1.weight", "fc2.weight"}
    assert bool(dead["fc1.weight"][7])
    # By hand, on the same images.
    prepared = prepare(resolve([own_settings(folder)]))
    images = prepared.images("train").images.flatten(1).float() / 255
    hidden = (images @ last["fc1.weight"].T).relu()
    assert torch.equal(dead["fc1.weight"], ~(hidden > 0).any(dim=0))
    second = (hidden @ last["fc2.weight"].T).relu()
    assert torch.equal(dead["fc2.weight"], ~(second > 0).any(dim=0))
    found = weights.analyze(folder)
    share = value(found.table, "dead units", None, "fc1.weight", step=about["step"])
    assert share == pytest.approx(float(dead["fc1.weight"].double().mean()))
    assert "% of 300 units" in found.summary


def small(width: int = 5, more: int = 0) -> nn.Module:
    layers = [
        nn.Linear(64, width),
        nn.ReLU(),
        nn.Linear(width, 10),
        *(nn.Linear(10, 10) for _ in range(more)),
    ]
    return nn.Sequential(nn.Flatten(), *layers)


def test_dead_units_are_those_of_the_network_that_was_trained(tmp_path: Path) -> None:
    """Another one would run on with numbers of its own, or fail in the middle."""
    machine = slotkit.slotify(small(), k=4)
    optimizer = machine.optimizer(lr=0.5)
    with slotkit.record(machine, optimizer, tmp_path / "mine", trace="off"):
        machine.model(torch.ones(2, 1, 8, 8)).sum().backward()
        optimizer.step()

    def told(**made: int) -> str:
        return weights.analyze(
            tmp_path / "mine", dataset="digits", model_factory=lambda: small(**made)
        ).summary

    assert "% of 5 units" in told()
    for made, names in (({"width": 7}, "1.bias, 1.weight, 3.weight"), ({"more": 1}, "4.bias, 4.weight")):
        assert (
            "Nothing on dead units of mine: the network that is made for it now is another one; "
            f"they differ in {names}. Name what makes it with --model-factory."
        ) in told(**made).splitlines()


def test_what_is_no_slot_machine_is_refused(tmp_path: Path, trained: dict[str, RunFolder]) -> None:
    with pytest.raises(SlotkitError, match="learned weights, which have no options"):
        weights.analyze(make_run(tmp_path, "learned", {"a": (2, 3)}, method="learned"))
    shutil.copytree(trained["full"].path, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    replay.write_checkpoint(folder, 3)
    with pytest.raises(SlotkitError, match="holds weights without their scores"):
        weights.analyze(folder, checkpoint="step-3")
