"""Of a probabilistic machine the recorder keeps the greedy reading, and what its softmax is like."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs.test_resume import settings  # type: ignore[import-not-found]
from slotkit.analyses import flips as flips_analysis
from slotkit.analyses.common.recorded import read, read_any
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.latent.engines.registry import runnable
from slotkit.machine import SlotMachine
from slotkit.making import slotify
from slotkit.recording import recorder, replay, trace
from slotkit.recording.latent_watch import LatentWatch
from slotkit.recording.reading import GreedyReading
from slotkit.recording.trace import LEVELS, Trace, flips
from slotkit.runs import checkpoint
from slotkit.runs.folder import RunFolder
from slotkit.training.experiment import resume, run


def build(k: int, engine: str = "auto", dtype: torch.dtype = torch.float64, **settings: Any) -> SlotMachine:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(12, 20, bias=False), nn.ReLU(), nn.Linear(20, 5, bias=False)).to(dtype)
    return slotify(model, k, "probabilistic", engine=engine, seed=4, **settings)


def train(machine: SlotMachine, steps: int, **settings: float) -> Any:
    """Steps on random numbers, each of which is yielded when it is done, counted from 1."""
    optimizer = machine.optimizer(**{"lr": 3.0, "momentum": 0.9, **settings})
    generator = torch.Generator().manual_seed(5)
    dtype = next(machine.model.parameters()).dtype
    for step in range(1, steps + 1):
        images = torch.rand(16, 12, generator=generator, dtype=dtype)
        labels = torch.randint(5, (16,), generator=generator)
        nn.functional.cross_entropy(machine.model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        yield step


def dense_scores(machine: SlotMachine, name: str) -> Tensor:
    """All K scores in float64, from the reel and the latents alone."""
    weight, reel = machine.form.latents[name], machine.reels[name]
    shape = (*reel.shape, 1)
    initial, options = reel.scores().double(), reel.options().double()
    return weight.line.c * initial + weight.latent.double().reshape(shape) * options


def argmaxes(machine: SlotMachine) -> dict[str, Tensor]:
    return {name: dense_scores(machine, name).argmax(dim=-1) for name in machine.reels}


KINDS: list[dict[str, Any]] = [
    {"k": 1},
    {"k": 2},
    {"k": 8},
    {"k": 300},
    {"k": 6, "sharing": "layer", "symmetric": True},
    {"k": 5, "tables": "recomputed", "dtype": torch.float32},
]


@pytest.mark.parametrize("engine", runnable(torch.device("cpu")))
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_flips_are_the_changes_of_the_highest_score(
    kind: dict[str, Any], engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step the argmax over all K scores; c changes its sign on the way."""
    for module in (trace, recorder):
        monkeypatch.setattr(module, "CHUNK", 20)
    machine = build(engine=engine, **kind)
    flight = recorder.Recorder(machine, Trace(tmp_path / "trace"), "full", 10)
    expected = [argmaxes(machine)]
    signs = set()
    for step in train(machine, 50, weight_decay=0.05):
        flight.record(step, 3.0)
        expected.append(argmaxes(machine))
        signs.add(machine.form.latents["0.weight"].line.sign)
    flight.flush()
    assert signs == {1.0, -1.0}
    folder = RunFolder(tmp_path)
    for step, found in enumerate(replay.selections_at(folder, range(51))):
        assert all(torch.equal(found[name], expected[step][name]) for name in found)
    told: list[tuple[int, int]] = []
    for first, columns in Trace(tmp_path / "trace").chunks():
        assert columns["greedy_changed"].sum() == len(columns["connection"])
        told += [(first + row, len(connections)) for row, _, connections, _ in flips(columns)]
    changes = [
        (step, int((after[name] != before[name]).sum()))
        for step, (before, after) in enumerate(pairwise(expected), start=1)
        for name in after
    ]
    assert told == [(step, count) for step, count in changes if count]
    assert kind["k"] == 1 or len(told) > 40


def test_the_draws_are_counted_beside_it(tmp_path: Path) -> None:
    """`changed` is of the draws, as before, and a summary counts the same flips as a full trace."""
    found = {}
    for level in ("summary", "full"):
        machine = build(4)
        flight = recorder.Recorder(machine, Trace(tmp_path / level), level, 10)
        before, drawn = machine.model.state_dict()["0.weight"].clone(), []
        for step in train(machine, 20):
            after = machine.model.state_dict()["0.weight"].clone()
            drawn.append(int((after != before).sum()))
            before = after
            flight.record(step, 3.0)
        flight.flush()
        ((_, found[level]),) = Trace(tmp_path / level).chunks()
        assert found[level]["changed"][:, 0].tolist() == drawn
    assert set(found["full"]) - set(found["summary"]) == {"connection", "option"}
    assert all(np.array_equal(found["full"][name], column) for name, column in found["summary"].items())


@pytest.mark.parametrize("engine", runnable(torch.device("cpu")))
@pytest.mark.parametrize("tables", ["stored", "recomputed"])
@pytest.mark.parametrize("sharing", ["none", "channel"])
def test_a_summary_counts_the_flips_of_the_sample(
    sharing: str, tables: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "SAMPLE", 60)
    machine = build(5, engine=engine, tables=tables, sharing=sharing)
    chosen = torch.linspace(0, 239, 60, dtype=torch.float64).long()
    flight = recorder.Recorder(machine, Trace(tmp_path / "trace"), "summary", 10)
    before, expected = argmaxes(machine)["0.weight"].flatten()[chosen], []
    for step in train(machine, 50, weight_decay=0.05):
        flight.record(step, 3.0)
        after = argmaxes(machine)["0.weight"].flatten()[chosen]
        expected.append(int((after != before).sum()))
        before = after
    flight.flush()
    ((_, columns),) = Trace(tmp_path / "trace").chunks()
    assert columns["greedy_changed"][:, 0].tolist() == expected
    assert sum(expected) > 100
    recorded = read(RunFolder(tmp_path), events=True)
    assert recorded.changed[:, 0] == pytest.approx(np.array(expected) * 4)  # of 240 connections
    assert recorded.reservations == (
        f"The flips of {tmp_path.name} were counted on a sample of 60 reels of a layer (--trace summary), so "
        "its flip rates are estimates.",
    )


def test_the_reading_changes_nothing_of_the_run(tmp_path: Path) -> None:
    recorded, alone = build(4), build(4)
    flight = recorder.Recorder(recorded, Trace(tmp_path), "full", 5)
    for step, _ in zip(train(recorded, 20), train(alone, 20), strict=True):
        flight.record(step, 3.0)
    for name, weight in recorded.form.latents.items():
        assert torch.equal(weight.parameter, alone.form.latents[name].parameter)
        for key, value in weight.as_dict().items():
            other = alone.form.latents[name].as_dict()[key]
            assert torch.equal(value, other) if isinstance(value, Tensor) else value == other


def directly(machine: SlotMachine, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy, highest probability and expected weight of every connection, in float64."""
    p = dense_scores(machine, name).softmax(dim=-1).flatten(0, -2)
    entropy = -(p * p.clamp_min(1e-300).log()).sum(dim=-1)
    return entropy, p.amax(dim=-1), (p * machine.reels[name].options().double().flatten(0, -2)).sum(dim=-1)


@pytest.mark.parametrize("init", ["authors", "paper"])
def test_entropy_drift_and_decided_reels(init: str, tmp_path: Path) -> None:
    machine = build(4, init=init)
    flight = recorder.Recorder(machine, Trace(tmp_path), "summary", 10)
    names = list(machine.reels)
    before = {name: directly(machine, name)[2] for name in names}
    expected: dict[str, list[list[float]]] = {"mean_entropy": [], "decided": [], "drift": []}
    for step in train(machine, 40, lr=100.0):
        flight.record(step, 100.0)
        if step % 10 == 0:
            entropies, tops, means = zip(*(directly(machine, name) for name in names), strict=True)
            expected["mean_entropy"].append([float(entropy.mean()) for entropy in entropies])
            expected["decided"].append([float((top >= 0.99).double().mean()) for top in tops])
            bounds = [machine.reels[name].compiled_spec().bound for name in names]  # type: ignore[union-attr]
            expected["drift"].append(
                [
                    float((mean - before[name]).abs().mean() / bound)
                    for name, mean, bound in zip(names, means, bounds, strict=True)
                ]
            )
            before = dict(zip(names, means, strict=True))
    flight.flush()
    ((_, columns),) = Trace(tmp_path).chunks()
    for name, values in expected.items():
        assert columns[name] == pytest.approx(np.array(values), rel=1e-5), name
    assert 0 < columns["decided"][-1].min() < columns["decided"][-1].max() < 1
    assert (columns["drift"] > 0).all()


def test_distances_to_thresholds_are_those_of_the_reading(tmp_path: Path) -> None:
    machine = build(3)
    flight = recorder.Recorder(machine, Trace(tmp_path), "summary", 10)
    weight, u = machine.form.latents["0.weight"], []
    for step in train(machine, 10):
        flight.record(step, 3.0)
        u.append(weight.latent.clone())
    flight.flush()
    ((_, columns),) = Trace(tmp_path).chunks()
    options, initial = (rows.double() for rows in machine.reels["0.weight"].rows(torch.arange(240)))
    margins = []
    for row in range(240):
        best = int((initial[row] + u[-1][row] * options[row]).argmax())
        crossings = [
            float((initial[row, best] - initial[row, j]) / (options[row, j] - options[row, best]))
            for j in range(3)
            if j != best
        ]
        margins.append(min(abs(float(u[-1][row]) - x) for x in crossings))
    ranks = [int(level * 239) for level in LEVELS]
    assert columns["margin"][0, 0] == pytest.approx(np.sort(margins)[ranks], rel=1e-5)
    speeds = np.sort((u[-1] - u[-2]).abs().numpy())
    assert columns["speed"][0, 0] == pytest.approx(speeds[ranks], rel=1e-5)


def test_a_bound_of_ones_own_options(tmp_path: Path) -> None:
    """Without a distribution that is known, the bound is the largest option."""
    weight = build(3, engine="eager").form.latents["0.weight"]
    everything = torch.arange(240)
    watch = LatentWatch(weight, everything, True, False)
    assert watch.bound() == pytest.approx(math.sqrt(6 / 32), rel=1e-6)
    arrays = weight.arrays()
    object.__setattr__(arrays, "largest_option", math.inf)
    assert watch.bound() == float(weight.rows(everything)[0].abs().max())


# ---------------------------------------------------------------------------------------------------
# States, and traces of before.


def ps_settings(**values: Any) -> Any:
    given = {"slots__selection": "PS", "training__lr": 20.0, "training__epochs": 1, **values}
    return settings(**given)


def test_a_reading_of_other_scores_is_refused() -> None:
    machine = build(4)
    reading = GreedyReading(machine.form.latents["0.weight"], None, recorded=True)
    old = reading.state()
    for _ in train(machine, 5, lr=30.0):
        pass
    reading.follow()
    reading.load(reading.state())
    for state, words in (
        (old, "is not that of its scores"),
        (old[:2], "is not that of its connections"),
        (old.float(), "is not that of its connections"),
        (torch.full_like(old, math.nan), "is not that of its scores"),
    ):
        with pytest.raises(SlotkitError) as caught:
            reading.load(state)
        assert str(caught.value) == f"the greedy reading of 0.weight {words}"


@pytest.mark.parametrize("sample", [None, torch.arange(240)], ids=["all", "sample"])
def test_a_reading_goes_where_the_weight_goes(sample: Tensor | None) -> None:
    """To another dtype: the options stay, the bounds are those that they were."""
    machine = build(4, dtype=torch.float32)
    weight = machine.form.latents["0.weight"]
    reading = GreedyReading(weight, sample, recorded=False)
    before = reading.values.clone()
    machine.model.double()
    machine.spin()
    reading.follow()
    assert reading.values.dtype == torch.float64
    assert reading.changed == 0
    assert torch.equal(reading.values, before.double())
    machine.spin("greedy")
    assert torch.equal(reading.values, weight.parameter.detach().reshape(-1))


NEW = ("greedy_changed", "margin", "speed", "steps_to_flip", "mean_entropy", "decided", "drift")


def make_old(folder: RunFolder) -> None:
    """Trace and checkpoint of a PS run as slotkit wrote them before there was a reading."""
    about_path = folder.path / "trace" / "about.json"
    about = json.loads(about_path.read_text())
    assert about["format"] == 2
    assert (about.pop("reading"), about.pop("sample")) == ("greedy", 4096)
    about_path.write_text(json.dumps(about | {"format": 1}, indent=2) + "\n")
    for path in (folder.path / "trace").glob("*.npz"):
        with np.load(path) as columns:
            kept = {name: columns[name] for name in columns.files if name not in NEW}
        np.savez_compressed(path, **kept)
    for path in folder.path.glob("checkpoints/*.safetensors"):
        state, told = checkpoint.load(path)
        if state.get("trace"):
            del state["trace"]["readings"], state["trace"]["expected"]
            state["trace"]["columns"] = {
                name: column for name, column in state["trace"]["columns"].items() if name not in NEW
            }
            checkpoint.save(path, state, **told)


def test_a_run_of_before_goes_on_as_it_was(tmp_path: Path) -> None:
    """Its trace stays of one piece; only what needs a reading is refused."""
    resolved = ps_settings(recording__trace="summary", training__epochs=2, recording__keep_last=1)

    def stop(event: Any) -> None:
        if getattr(event, "step", 0) == 25 and hasattr(event, "total"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(resolved, tmp_path, "run", stop)
    folder = RunFolder(tmp_path / "run")
    make_old(folder)
    resume(folder, [])
    recorded = read_any(folder)
    assert recorded.steps == 40
    assert set(recorded.quantiles) == {"entropy", "top"}
    assert recorded.means == {}
    assert json.loads((folder.path / "trace" / "about.json").read_text())["format"] == 1
    with pytest.raises(SlotkitError) as caught:
        flips_analysis.analyze(folder)
    assert str(caught.value) == (
        "run trained with probabilistic selection, which draws its options anew in every step: a change of "
        "option is no flip. Its greedy reading flips, and its trace, which an older slotkit wrote, does not "
        "have it. Train again."
    )


def test_a_state_without_the_reading_of_its_trace_is_refused(tmp_path: Path) -> None:
    machine = build(4)
    flight = recorder.Recorder(machine, Trace(tmp_path), "summary", 5, "run")
    for step in train(machine, 12):
        flight.record(step, 3.0)
    flight.flush()
    state = flight.state()
    del state["readings"], state["expected"]
    with pytest.raises(SlotkitError, match="it lacks the greedy reading of a tensor"):
        recorder.Recorder(machine, Trace(tmp_path), "summary", 5, "run").load(state)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return run(ps_settings(), tmp_path_factory.mktemp("sampled"), "run")


def contradicted(folder: RunFolder, tmp_path: Path, **changes: Any) -> str:
    """The sentence about a copy of the trace in which columns are others, or missing (None)."""
    ((first, columns),) = Trace(folder.path / "trace").chunks()
    about = json.loads((folder.path / "trace" / "about.json").read_text())
    about |= changes.pop("about", {})
    forged = Trace(tmp_path / "trace")
    forged.folder.mkdir(parents=True)
    (forged.folder / "about.json").write_text(json.dumps(about))
    kept = {name: column for name, column in (columns | changes).items() if column is not None}
    forged.write_chunk(first, kept)
    with pytest.raises(SlotkitError) as caught:
        list(forged.chunks())
    return str(caught.value)


def counts_of(folder: RunFolder) -> Any:
    ((_, columns),) = Trace(folder.path / "trace").chunks()
    return columns["greedy_changed"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"greedy_changed": None, "connection": None, "option": None},
            "it lacks greedy_changed of the greedy",
        ),
        ({"drift": None}, "it lacks drift of the greedy reading"),
        ({"margin": None}, "it lacks margin of the greedy reading"),
        ({"connection": None, "option": None}, "flips and holds 0"),
        ({"decided": np.full((4, 3), 1.5, np.float32)}, "decided has a number outside of 0 to 1"),
        (
            {"mean_entropy": np.full((4, 3), 1.5, np.float32)},
            "mean_entropy has a number outside of 0 to 1.387",
        ),
        ({"drift": np.full((4, 3), -0.1, np.float32)}, "drift has a number outside of 0 to 2.001"),
        ({"drift": np.zeros((3, 3), np.float32)}, "drift has the shape (3, 3), which fits not"),
        ({"about": {"reading": None, "format": 1}}, "and about.json knows of no greedy reading"),
        ({"about": {"format": 1}}, "format 1 and the reading greedy don't go together"),
        ({"about": {"reading": None}}, "format 2 and the reading None don't go together"),
        ({"about": {"sample": 100}}, "100 as the sample of its reading does not go with its level"),
        ({"about": {"level": "summary"}}, "None as the sample of its reading does not go with its level"),
        ({"about": {"selection": "greedy"}}, "it has a reading, which greedy selection needs none of"),
        ({"about": {"reading": "sample"}}, "input should be 'greedy'"),
        ({"about": {"format": 4}}, "is of trace format 4, and this slotkit reads 1, 2, 3. Update slotkit."),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_traces_that_contradict_themselves_are_refused(
    changes: dict[str, Any], words: str, sampled: RunFolder, tmp_path: Path
) -> None:
    assert words in contradicted(sampled, tmp_path, **changes)


def test_counts_of_flips_are_held_to_the_flips(sampled: RunFolder, tmp_path: Path) -> None:
    counts = counts_of(sampled).copy()
    counts[3, 1] += 1
    assert f"it counts {counts.sum()} flips and holds {counts.sum() - 1}" in contradicted(
        sampled, tmp_path, greedy_changed=counts
    )
    counts[3, 1] = -1
    assert "greedy_changed counts fewer than none" in contradicted(
        sampled, tmp_path / "two", greedy_changed=counts
    )
