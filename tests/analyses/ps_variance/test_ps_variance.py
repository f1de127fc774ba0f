"""Sampled networks of machines whose scores are set by hand, and what is refused or told in part."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_runs import value  # type: ignore[import-not-found]
from slotkit.analyses import ps_variance
from slotkit.analyses.common.statistics import mean_and_interval
from slotkit.analyses.ps_variance.sampled_networks import expected_network, read_reels
from torch import Tensor

from slotkit.config import Overrides, resolve
from slotkit.errors import SlotkitError
from slotkit.recording.trace import LEVELS, Trace
from slotkit.runs import checkpoint
from slotkit.runs.folder import RunFolder
from slotkit.training.experiment import evaluate
from slotkit.training.prepare import Prepared, prepare

pytestmark = pytest.mark.usefixtures("one_thread")

Scores = Callable[[str, Tensor], Tensor]  # tensor name, options (..., K) -> scores (..., K)

LAYERS = ("fc1.weight", "fc2.weight", "fc3.weight")


def made(tmp_path: Path, name: str = "made", scores: Scores | None = None, **settings: Any) -> RunFolder:
    """An untrained PS run on digits; with `scores`, a dense one that has them at its last checkpoint."""
    values = {path.replace("__", "."): value for path, value in settings.items()}
    own: dict[str, Any] = {"slots.selection": "probabilistic", "slots.k": 2}
    own |= {"slots.form": "dense"} if scores else {}
    folder = RunFolder.create(tmp_path, name, resolve([Overrides("test", own | values)]), {})
    if scores:
        prepared = prepare(resolve([Overrides("test", own | values)]))
        machine = prepared.trainee.machine
        assert machine is not None
        machine.form.take_scores({name: scores(name, machine.options(name)) for name in machine.reels})
        save(folder, prepared, "last", 100)
    return folder


def save(folder: RunFolder, prepared: Prepared, which: str, step: int) -> None:
    checkpoint.save(folder.checkpoint(which), prepared.trainee.state(), step=step, epoch=step // 10)


def flat(name: str, options: Tensor) -> Tensor:
    return torch.zeros_like(options)


def certain(name: str, options: Tensor) -> Tensor:
    """The largest option with probability 1, as far as float32 goes."""
    return 1e9 * (options == options.amax(dim=-1, keepdim=True))


def three_to_one(name: str, options: Tensor) -> Tensor:
    scores = torch.zeros_like(options)
    scores[..., 0] = math.log(3)
    return scores


def at_end(table: Any, quantity: str, layer: str = "all", **where: Any) -> float:
    return float(value(table[table["level"].isna()], quantity, None, layer, checkpoint="last", **where))


@pytest.mark.parametrize("k", [2, 8])
def test_uniform_reels(tmp_path: Path, k: int) -> None:
    table = ps_variance.analyze(made(tmp_path, scores=flat, slots__k=k), draws=4).table
    for layer in (*LAYERS, "all"):
        assert at_end(table, "entropy", layer) == pytest.approx(math.log(k))
        assert at_end(table, "entropy share", layer) == pytest.approx(1)
        assert at_end(table, "effective options", layer) == pytest.approx(k)
        assert at_end(table, "top probability", layer) == pytest.approx(1 / k)
        assert at_end(table, "same option, expected", layer) == pytest.approx(1 / k)
        assert at_end(table, "score spread", layer) == 0
    # Two pairs of 19,200 reels of fc1; of independent options with mean 0 the mean has 1 / K of the square.
    reels = 2 * 300 * 64
    assert at_end(table, "same option", "fc1.weight") == pytest.approx(1 / k, abs=4 * 0.5 / reels**0.5)
    assert at_end(table, "noise share", "fc1.weight") == pytest.approx(1 - 1 / k, abs=0.02)


def test_certain_reels_are_all_one_network(tmp_path: Path) -> None:
    found = ps_variance.analyze(made(tmp_path, scores=certain, slots__k=4), draws=3)
    table = found.table
    for layer in (*LAYERS, "all"):
        assert at_end(table, "entropy", layer) == 0
        assert at_end(table, "effective options", layer) == 1
        assert at_end(table, "top probability", layer) == 1
        assert at_end(table, "same option", layer) == 1
        assert at_end(table, "noise share", layer) == pytest.approx(0, abs=1e-12)
    assert at_end(table, "sampled spread") == 0
    assert at_end(table, "same prediction") == 1
    readings = [at_end(table, f"{name} accuracy") for name in ("sampled", "greedy", "expected", "ensemble")]
    assert len(set(readings)) == 1


def test_a_known_mixture(tmp_path: Path) -> None:
    folder = made(tmp_path, scores=three_to_one)
    found = ps_variance.analyze(folder, draws=4)
    assert "From the checkpoints alone, without a trace of made: There is no trace in" in found.summary
    table = found.table
    for layer in (*LAYERS, "all"):
        assert at_end(table, "entropy", layer) == pytest.approx(2 * math.log(2) - 0.75 * math.log(3))
        assert at_end(table, "top probability", layer) == pytest.approx(0.75)
        assert at_end(table, "same option, expected", layer) == pytest.approx(0.625)
        assert at_end(table, "score spread", layer) == pytest.approx(math.log(3) / 2)
    assert at_end(table, "same option", "fc1.weight") == pytest.approx(0.625, abs=4 * 0.5 / 38400**0.5)


@pytest.mark.parametrize("form", ["dense", "latent"])
def test_expected_weights_are_the_mean_of_many_samples(form: str) -> None:
    settings = {"slots.selection": "probabilistic", "slots.k": 3, "slots.form": form}
    prepared = prepare(resolve([Overrides("test", settings)]))
    machine = prepared.trainee.machine
    assert machine is not None
    expected = dict(expected_network(prepared).model.named_parameters())
    probabilities = machine.scores("fc3.weight").softmax(dim=-1)
    options = machine.options("fc3.weight")
    assert torch.allclose(expected["fc3.weight"], (probabilities * options).sum(dim=-1), atol=1e-6)
    total = torch.zeros_like(expected["fc3.weight"])
    for draw in range(40):
        with machine.using("probabilistic", draw) as model:
            total += model.get_submodule("fc3").weight.detach() / 40  # type: ignore[operator]
    error = (total - expected["fc3.weight"]).detach().square().mean().sqrt()
    noise = read_reels(machine)["fc3.weight"]["noise share"]
    deviation = math.sqrt(noise * float((probabilities * options**2).sum(dim=-1).mean()) / 40)
    assert float(error) == pytest.approx(deviation, rel=0.1)


def test_samples_are_those_of_evaluate(tmp_path: Path) -> None:
    folder = made(tmp_path, scores=three_to_one)
    table = ps_variance.analyze(folder, draws=3, split="validation").table
    end = table[(table["checkpoint"] == "last") & (table["quantity"] == "sample accuracy")]
    readings = evaluate(folder, "last", "validation", [Overrides("test", {"evaluation.draws": 3})])
    assert tuple(end["value"]) == readings["sample"].accuracies
    assert at_end(table, "greedy accuracy") == readings["greedy"].accuracy


def test_one_option_has_nothing_to_draw(tmp_path: Path) -> None:
    found = ps_variance.analyze(made(tmp_path, slots__k=1), draws=1, checkpoints=("start",))
    assert "One option a reel: nothing is drawn." in found.summary
    assert "One draw has no spread: take 2 or more." in found.summary
    assert np.isnan(value(found.table, "sampled spread", 0))
    assert value(found.table, "entropy", 0) == 0
    assert value(found.table, "noise share", 0) == pytest.approx(0, abs=1e-12)
    assert np.isnan(value(found.table, "entropy share", 0))
    found.figure()


@pytest.mark.long
def test_twenty_runs_and_one(tmp_path: Path) -> None:
    folders = [made(tmp_path, f"s{seed}", seeds__reels=seed) for seed in range(20)]
    found = ps_variance.analyze(folders, draws=2, checkpoints=("start",))
    samples = found.table[found.table["quantity"] == "sample accuracy"]
    assert len(samples) == 40
    assert "(20 runs, 2 draws each, test images), at step 0" in found.summary
    over = found.table[found.table["run"] == "over runs"]
    by_run = samples.pivot(index="run", columns="level", values="value")
    assert value(over, "sampling sd") == pytest.approx(math.sqrt(by_run.var(axis=1, ddof=1).mean()))
    assert 0 <= value(over, "seed share", level=0.025) <= value(over, "seed share", level=0.975) <= 1
    alone = ps_variance.analyze(folders[0], draws=2, checkpoints=("start",))
    assert "One run can't tell the spread of seeds" in alone.summary
    assert value(alone.table, "sample accuracy", 0, level=1) == by_run.loc["s0", 1]


def test_runs_that_are_not_as_far_as_others_are_told(tmp_path: Path) -> None:
    """Of seeds that still train, one step for all would be that of none."""
    runs = []
    for seed, step in enumerate((50, 100)):
        runs.append(made(tmp_path, f"s{seed}", scores=three_to_one, seeds__reels=seed))
        checkpoint_of(runs[-1], step)
    told = ps_variance.analyze(runs, draws=2, checkpoints=("last",)).summary
    assert "lenet on digits, K = 2 (2 runs, 2 draws each, test images), at steps 50 to 100:" in told
    assert "\n  The runs are at different steps here, and what that makes counts as by seed.\n" in told
    assert "\nRuns end at different steps: lenet on digits, K = 2 at steps 50 to 100 (a mean" in told
    assert "different steps" not in ps_variance.analyze(runs[:1], draws=2, checkpoints=("last",)).summary


def checkpoint_of(folder: RunFolder, step: int, *names: str) -> None:
    """What "last" holds, as of that step, under other names or under its own."""
    state, _ = checkpoint.load(folder.checkpoint("last"))
    for name in names or ("last",):
        checkpoint.save(folder.checkpoint(name), state, step=step, epoch=step // 10)


def test_the_interval_of_several_runs_is_over_runs(tmp_path: Path) -> None:
    """The mean of their intervals over draws has no part of the spread between seeds."""
    runs = [made(tmp_path, f"s{seed}", scores=three_to_one, seeds__reels=seed) for seed in range(2)]
    found = ps_variance.analyze(runs, draws=3, checkpoints=("last",))
    of_runs = found.table[(found.table["quantity"] == "sampled accuracy") & found.table["level"].isna()]
    mean, low, high = (100 * number for number in mean_and_interval(of_runs["value"].to_numpy()))
    spread = 100 * found.table.query("quantity == 'sampled spread'")["value"].mean()
    assert low < mean < high
    assert f"A sampled network has {mean:.2f} % ± {spread:.2f} [{low:.2f}, {high:.2f}];" in found.summary
    alone = ps_variance.analyze(runs[0], draws=3, checkpoints=("last",))
    ends = [100 * at_end_of_draws(alone.table, level) for level in (0.025, 0.975)]
    assert f" [{ends[0]:.2f}, {ends[1]:.2f}];" in alone.summary


def at_end_of_draws(table: Any, level: float) -> float:
    return float(value(table, "sampled accuracy", 100, level=level))


def test_best_and_last_of_one_step_are_no_two_ends(tmp_path: Path) -> None:
    runs = [made(tmp_path, f"s{seed}", scores=three_to_one, seeds__reels=seed) for seed in range(2)]
    for run, step in zip(runs, (100, 60), strict=True):
        checkpoint_of(run, step, "best")
    found = ps_variance.analyze(runs, draws=2, checkpoints=("best", "last"))
    assert "no split of the variance" not in found.summary
    shared = found.table[(found.table["run"] == "over runs") & (found.table["checkpoint"] == "last")]
    by_sampling = 100 * float(shared.loc[shared["quantity"] == "sampling sd", "value"].iloc[0])
    assert f"  Standard deviation by sampling {by_sampling:.2f} points, by seed" in found.summary
    bars = found.figure().axes[2].patches
    assert bars[0].get_height() == pytest.approx(by_sampling)


def test_samples_that_are_all_alike_have_no_variance_to_split(tmp_path: Path) -> None:
    runs = [made(tmp_path, f"d{seed}", scores=certain, seeds__data=seed) for seed in range(2)]
    told = ps_variance.analyze(runs, draws=2, checkpoints=("last",)).summary
    assert "\n  All samples of all runs have the same accuracy: there is no variance to split.\n" in told
    assert "nan" not in told


@pytest.mark.parametrize("ks", [(2,), (2, 4)])
def test_an_error_and_a_spread_that_end_at_0_are_not_those_of_before(
    tmp_path: Path, ks: tuple[int, ...]
) -> None:
    runs = [made(tmp_path, f"k{k}", scores=three_to_one, slots__k=k) for k in ks]
    found = ps_variance.analyze(runs, draws=2, checkpoints=("start", "last"))
    table, end = found.table.copy(), found.table["at"] == 100
    table.loc[end & table["quantity"].str.endswith(" accuracy"), "value"] = 1.0
    table.loc[end & (table["quantity"] == "score spread"), "value"] = 0.0
    axes = replace(found, table=table).figure().axes
    titles = [one.get_title(loc="left").replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ") for one in axes]
    assert titles[0] == ("A sample errs on 0 % at the end" if len(ks) > 1 else "The error is 0 % at the end")
    assert titles[5] == "The scores of a reel spread by 0 at the end"


def test_groups_and_their_figure(tmp_path: Path) -> None:
    folders = [made(tmp_path, f"k{k}", scores=three_to_one, slots__k=k) for k in (2, 4)]
    found = ps_variance.analyze(folders, draws=2)
    assert "At the end, all layers together. K = 2: sampled" in found.summary
    assert [len(axes.lines) > 0 for axes in found.figure().axes].count(True) >= 7


def test_a_step_with_two_names_is_measured_once_and_has_both(tmp_path: Path) -> None:
    folder = made(tmp_path, recording__keep_epochs=(1,))
    prepared = prepare(resolve([Overrides("test", {"slots.selection": "probabilistic", "slots.k": 2})]))
    for which in ("epoch-1", "last", "best"):
        save(folder, prepared, which, 10)
    table = ps_variance.analyze(folder, draws=2).table
    assert list(table["checkpoint"].dropna().unique()) == ["start", "epoch-1", "last"]
    some = ps_variance.analyze(folder, draws=2, checkpoints=("best", "start")).table
    assert list(some["checkpoint"].dropna().unique()) == ["start", "best"]
    more = ps_variance.analyze(folder, draws=1, checkpoints=("all", "best")).table
    assert list(more["checkpoint"].dropna().unique()) == ["start", "epoch-1", "last", "best"]
    ends = [table[table["checkpoint"] == name] for name in ("epoch-1", "last")]
    assert ends[0]["value"].equals(ends[1].set_index(ends[0].index)["value"])


def test_a_trace_gives_what_lies_between_checkpoints(tmp_path: Path) -> None:
    folder = made(tmp_path)
    prepared = prepare(resolve([Overrides("test", {"slots.selection": "probabilistic", "slots.k": 2})]))
    save(folder, prepared, "last", 20)
    trace = Trace(folder.path / "trace")
    shapes = {name: {"shape": reel.shape} for name, reel in prepared.trainee.machine.reels.items()}  # type: ignore[union-attr]
    trace.write_about(
        {"level": "summary", "selection": "probabilistic", "every": 10, "k": 2, "tensors": shapes}
    )
    quantiles = np.tile(np.array(LEVELS, np.float32), (2, 3, 1))
    columns = {
        "lr": np.ones(20),
        "changed": np.zeros((20, 3), np.int32),
        "measured": np.array([10, 20]),
        "c": np.array([[0.5] * 3, [1e-9] * 3]),
        "entropy": quantiles,
        "top": quantiles,
    }
    trace.write_chunk(1, columns)
    table = ps_variance.analyze(folder, draws=2).table
    traced = table[table["checkpoint"].isna()]
    start = value(table[table["checkpoint"] == "start"], "initial spread", 0, "fc1.weight")
    assert value(traced, "entropy quantile", 10, "fc2.weight", level=0.5) == 0.5
    assert value(traced, "c", 20, "fc1.weight") == 1e-9
    assert value(traced, "initial spread", 10, "fc1.weight") == pytest.approx(start / 2)
    (folder.path / "trace" / "steps-00000001.npz").write_bytes(b"PK half a chunk")
    found = ps_variance.analyze(folder, draws=2)
    assert "From the checkpoints alone, without a trace of made:" in found.summary
    assert "is not a whole chunk of a trace" in found.summary


@pytest.mark.parametrize(("c", "steps"), [(math.exp(-5), 4), (0.0, 0)])
def test_fading_scores_are_told(tmp_path: Path, c: float, steps: int) -> None:
    folder = made(tmp_path)
    prepared = prepare(resolve([Overrides("test", {"slots.selection": "probabilistic", "slots.k": 2})]))
    for weight in prepared.trainee.machine.form.weights.values():  # type: ignore[union-attr]
        weight.restart(c, torch.ones_like(weight.latent))
    save(folder, prepared, "last", 20)
    found = ps_variance.analyze(folder, draws=2)
    assert f"c is {c:.2g}: by the L2 penalty" in found.summary
    assert f"fades by 1/e in {steps} steps" in found.summary
    if c == 0:  # the scores are A * W = W
        options = prepared.trainee.machine.options("fc1.weight")  # type: ignore[union-attr]
        spread = value(found.table, "score spread", 20, "fc1.weight", checkpoint="last")
        assert spread == pytest.approx(float(options.var(dim=-1, unbiased=False).mean().sqrt()), rel=1e-5)


def test_greedy_runs_are_sampled_after_the_fact(tmp_path: Path) -> None:
    folder = made(tmp_path, slots__selection="greedy")
    found = ps_variance.analyze(folder, draws=2, checkpoints=("start",))
    assert "made was trained with greedy selection and is sampled after the fact" in found.summary


def test_kept_checkpoints_that_are_missing_are_told(tmp_path: Path) -> None:
    folder = made(tmp_path, recording__keep_epochs=(1, 2))
    prepared = prepare(resolve([Overrides("test", {"slots.selection": "probabilistic", "slots.k": 2})]))
    save(folder, prepared, "epoch-1", 10)
    found = ps_variance.analyze(folder, draws=2)
    assert "made has no checkpoint epoch-2, which it was to keep." in found.summary
    assert "made has no checkpoint last." in found.summary


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"draws": 0}, "draws is 0. Give an integer from 1 up"),
        ({"split": "train"}, "The split is 'train'. Choose test or validation."),
        ({"checkpoints": ("best", "step-3")}, "The checkpoints are 'best,step-3'. Choose from all, start"),
        ({"checkpoints": ("epoch-7",)}, "There is no checkpoint .*epoch-7"),
        ({}, "made has no checkpoint yet. Let it train for an epoch, or name start"),
    ],
)
def test_what_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    folder = made(tmp_path)
    with pytest.raises(SlotkitError, match=message):
        ps_variance.analyze(folder, **settings)


def test_learned_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SlotkitError, match="made trained ordinary learned weights"):
        ps_variance.analyze(made(tmp_path, method="learned"))


def test_a_checkpoint_cut_short_is_refused(tmp_path: Path) -> None:
    folder = made(tmp_path, scores=flat)
    path = folder.checkpoint("last")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SlotkitError, match=r"last\.safetensors is not a whole slotkit checkpoint"):
        ps_variance.analyze(folder, draws=2)
