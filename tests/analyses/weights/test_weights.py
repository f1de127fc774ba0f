"""Weights of machines whose answers are known by construction, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from made_runs import (  # type: ignore[import-not-found]
    make_run,
    others_than_first,
    value,
    write_flips,
)
from slotkit.analyses import weights
from slotkit.analyses.weights import compute
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.inits import UniformInit
from slotkit.latent.form import LatentForm
from slotkit.making import slotify
from slotkit.recording import replay
from slotkit.reel import Reel
from slotkit.runs import checkpoint
from slotkit.runs.fingerprint import fingerprint
from slotkit.runs.folder import RunFolder

SHAPES = {"a.weight": (20, 50), "b.weight": (10, 20)}
FAR = 1e9


def made(
    place: Path,
    name: str = "made",
    step: int = 100,
    latents: Mapping[str, Tensor | float] | None = None,
    selection: str = "greedy",
    reel: Mapping[str, Any] | None = None,
    **settings: Any,
) -> RunFolder:
    """A run on a dataset that isn't there, with a checkpoint "last" of these latents (0: as at the start)."""
    extra = dict(reel or {})
    slots = {f"slots__{key}": setting for key, setting in {**extra, "selection": selection}.items()}
    settings = {"k": 4, "level": "summary", "data__dataset": "mnist", **settings}
    folder = make_run(place, name, SHAPES, **slots, **settings)
    layers = {name[0]: nn.Linear(shape[1], shape[0], bias=False) for name, shape in SHAPES.items()}
    config = folder.config()
    machine = slotify(
        nn.ModuleDict(layers),
        k=config.slots.k,
        seed=config.seeds.reels,
        selection=selection,
        engine="eager",
        **extra,
    )
    assert isinstance(machine.form, LatentForm)
    for tensor, latent in (latents or {}).items():
        weight = machine.form.weights[tensor]
        weight.restart(1.0, torch.as_tensor(latent).expand(SHAPES[tensor]).reshape(-1))
    if selection == "probabilistic":
        machine.spin()
    checkpoint.save(folder.checkpoint("last"), machine.state_dict(), step=step, epoch=1)
    return folder


def options(folder: RunFolder, name: str) -> Tensor:
    return replay.reels_of(folder)[name].options()


def end(table: Any, quantity: str, layer: str = "a.weight", at: float | None = None) -> float:
    return float(value(table, quantity, at, layer, step=100))


def test_the_largest_value_always(tmp_path: Path) -> None:
    folder = made(tmp_path, latents={"a.weight": FAR})
    table = weights.analyze(folder).table
    assert [end(table, "rank of value", at=at) for at in (1, 2, 3, 4)] == [1, 0, 0, 0]
    assert end(table, "rank of value / random", at=0.125) == 4
    largest = options(folder, "a.weight").amax(dim=-1)
    assert end(table, "preference") == pytest.approx(
        float(largest.abs().mean() / options(folder, "a.weight").abs().mean())
    )
    assert end(table, "frobenius") == pytest.approx(float(largest.norm()))
    # The other way it is the smallest, and what a coin would choose is between.
    smallest = options(folder, "a.weight").amin(dim=-1)
    assert end(table, "preference, mirrored") == pytest.approx(
        float(smallest.abs().mean() / options(folder, "a.weight").abs().mean())
    )
    between = (end(table, "preference") + end(table, "preference, mirrored")) / 2
    assert value(table, "preference, extreme", None, "a.weight") == pytest.approx(between)
    assert value(table, "moved", None, "b.weight", step=100) == 0


def test_the_largest_magnitude_always(tmp_path: Path) -> None:
    offered = options(made(tmp_path, "before"), "a.weight")
    towards = torch.where(offered.amax(dim=-1) > -offered.amin(dim=-1), FAR, -FAR)
    found = weights.analyze(made(tmp_path, latents={"a.weight": towards}))
    table = found.table
    assert end(table, "preference") == pytest.approx(value(table, "preference, largest", None, "a.weight"))
    assert [end(table, "rank of magnitude", at=at) for at in (1, 2, 3, 4)] == [1, 0, 0, 0]
    assert end(table, "preference, moved") > 1.4
    norms = offered.abs().amax(dim=-1).norm(dim=-1)
    assert end(table, "unit norm", at=0.5) == pytest.approx(float(norms.double().quantile(0.5)), rel=1e-6)
    assert "a.weight: large magnitudes are preferred" in found.summary
    assert "100.0 % have the largest magnitude of their options" in found.summary


def test_the_smallest_magnitude_always(tmp_path: Path) -> None:
    """Only latents at the right place between two thresholds could do so; weights are put in by hand."""
    folder = made(tmp_path)
    state, about = checkpoint.load(folder.checkpoint("last"))
    offered = options(folder, "a.weight")
    chosen = offered.gather(-1, offered.abs().argmin(dim=-1, keepdim=True))[..., 0]
    checkpoint.save(
        folder.checkpoint("last"), state | {"others": state["others"] | {"a.weight": chosen}}, **about
    )
    found = weights.analyze(folder)
    assert end(found.table, "rank of magnitude", at=4) == 1
    assert "a.weight: small magnitudes are preferred" in found.summary


def test_initial_options(tmp_path: Path) -> None:
    found = weights.analyze(made(tmp_path, k=8))
    table = found.table
    for layer, n in (("a.weight", 1000), ("b.weight", 200)):
        assert end(table, "moved", layer) == 0
        assert end(table, "preference", layer) == value(table, "preference", None, layer, step=0)
        # A random choice: the deviation of |W| over its mean is 1 / sqrt(3).
        assert end(table, "preference", layer) == pytest.approx(1, abs=4 * 0.577 / n**0.5)
        assert end(table, "frobenius / random", layer) == pytest.approx(1, abs=4 * 0.45 / n**0.5)
        assert end(table, "effective rank / start", layer) == 1
        assert end(table, "preference, mirrored", layer) == end(table, "preference", layer)
    for quantity in ("density, selected", "density, offered"):
        rows = table[(table["quantity"] == quantity) & (table["layer"] == "a.weight") & (table["step"] != 0)]
        assert rows["value"].sum() * 0.05 == pytest.approx(1)
    assert value(table, "connections", None, "a.weight") == 1000
    assert "left their initial option" not in found.summary


def test_chance_is_no_preference(tmp_path: Path) -> None:
    """Untrained weights are a choice at random, off by more than 2 % where there are few connections."""
    seen = set()
    for seed in range(4):
        found = weights.analyze(made(tmp_path, f"s{seed}", k=8, seeds__reels=seed))
        for layer, n in (("a.weight", 1000), ("b.weight", 200)):
            preference, chance = end(found.table, "preference", layer), 1.96 * (7 / 8 / 3 / n) ** 0.5
            told = "large magnitudes are preferred" if preference > 1 else "small magnitudes are preferred"
            if abs(preference - 1) <= chance:
                told = f"no preference that {n:,} connections can tell from chance"
            if 1 / 1.02 <= preference <= 1.02:
                told = "no preference"
            seen.add(told)
            assert f"  {layer}: {told}: the mean magnitude" in found.summary
    assert "no preference that 200 connections can tell from chance" in seen


def test_one_option(tmp_path: Path) -> None:
    found = weights.analyze(made(tmp_path, k=1))
    assert "a.weight: one option each" in found.summary
    assert end(found.table, "rank of magnitude", at=1) == 1
    assert end(found.table, "preference") == pytest.approx(1)
    found.figure()


def test_a_matrix_of_rank_one(tmp_path: Path) -> None:
    """With one option shared by a channel, every row of the weight is one number over and over."""
    folder = made(tmp_path, k=1, reel={"sharing": "channel"})
    found = weights.analyze(folder)
    assert end(found.table, "effective rank") == pytest.approx(1)
    assert end(found.table, "above the edge") == 1
    # All energy in one: s^2 m n = top^2.
    assert end(found.table, "top / edge") == pytest.approx((20 * 50) ** 0.5 / (20**0.5 + 50**0.5))
    assert end(found.table, "top singular value") == pytest.approx(end(found.table, "frobenius"))


def test_options_in_pairs_have_ranks_of_their_own(tmp_path: Path) -> None:
    folder = made(tmp_path, k=2, reel={"symmetric": True}, latents={"a.weight": FAR, "b.weight": -FAR})
    table = weights.analyze(folder).table
    assert end(table, "rank of magnitude", at=1) == 1  # of +v and -v the larger value comes first
    assert end(table, "rank of magnitude", "b.weight", at=2) == 1
    assert end(table, "preference") == pytest.approx(1)


def test_ranks_come_in_groups_where_there_are_many(tmp_path: Path) -> None:
    table = weights.analyze(made(tmp_path, k=64, latents={"a.weight": FAR})).table
    rows = table[(table["quantity"] == "rank of value") & (table["layer"] == "a.weight")]
    last = rows[rows["step"] == 100]
    assert last["at"].tolist() == [2.5 + 4 * i for i in range(16)]
    assert last["value"].tolist() == [1] + [0] * 15
    assert end(table, "rank of value / random", at=2 / 64) == 16


def test_a_group_of_ranks_is_told_with_its_share_at_random(tmp_path: Path) -> None:
    """Of 24 options in 16 groups the first group has two."""
    found = weights.analyze(made(tmp_path, k=24, latents={"a.weight": FAR}))
    assert "have one of the 2 largest magnitudes of their options (of all" in found.summary
    assert "at random 8.3 %)." in found.summary


def test_the_opposite_latents_may_prefer_more(tmp_path: Path) -> None:
    offered = options(made(tmp_path, "before"), "a.weight")
    away = torch.where(offered.amax(dim=-1) > -offered.amin(dim=-1), -FAR, FAR)
    found = weights.analyze(made(tmp_path, latents={"a.weight": away}))
    assert value(found.table, "preference, mirrored", None, "a.weight") > end(found.table, "preference")
    assert "the direction of the latents takes from it." in found.summary


def test_a_sample_stands_for_the_connections(tmp_path: Path) -> None:
    found = weights.analyze(made(tmp_path, latents={"a.weight": FAR}), sample=30)
    assert value(found.table, "sampled", None, "a.weight") == 30
    assert end(found.table, "rank of value", at=1) == 1
    assert "those of 60, evenly spread, of 1,200 connections" in found.summary
    whole = weights.analyze(made(tmp_path, "whole", latents={"a.weight": FAR}))
    assert end(whole.table, "frobenius") == end(found.table, "frobenius")
    assert "those of all 1,200 connections" in whole.summary


def test_chunks_of_options_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path, latents={"a.weight": 0.3}, selection="probabilistic")
    before = weights.analyze(folder).table
    for module in ("choice", "snapshots"):
        monkeypatch.setattr(f"slotkit.analyses.weights.{module}.ROWS", 28)
    after = weights.analyze(folder).table
    assert before["value"].to_numpy() == pytest.approx(after["value"].to_numpy(), nan_ok=True)


def test_moments_of_a_full_trace(tmp_path: Path) -> None:
    """a[0] moves at 20 and back at 60, b[3] moves at 90."""
    folder = made(tmp_path, level="full", recording__trace="full")
    a, b = others_than_first(folder)
    flips = [(20, 0, 0, a[0][1]), (60, 0, 0, a[0][0]), (90, 1, 3, b[3][1])]
    write_flips(folder, 100, flips, chunk=30)
    found = weights.analyze(folder, moments=9)
    table = found.table
    moved = table[(table["quantity"] == "moved") & (table["layer"] == "a.weight")]
    assert moved["step"].tolist() == list(range(0, 101, 10))
    assert moved["value"].tolist() == [0, 0] + [1 / 1000] * 4 + [0] * 5
    assert value(table, "moved", None, "b.weight", step=80) == 0
    assert value(table, "moved", None, "b.weight", step=90) == 1 / 200
    assert "partial answer" not in found.summary


def test_a_trace_that_ends_early_is_told(tmp_path: Path) -> None:
    folder = made(tmp_path, level="full", recording__trace="full")
    write_flips(folder, 70, [], chunk=30)
    found = weights.analyze(folder, moments=9)
    assert sorted(found.table["step"].dropna().unique()) == [*range(0, 71, 10), 100]
    assert "ends at step 70 and its checkpoint is of step 100: nothing is shown" in found.summary


def test_damaged_traces_are_refused(tmp_path: Path) -> None:
    folder = made(tmp_path, level="full", recording__trace="full")
    write_flips(folder, 90, [], chunk=30)
    chunks = sorted((folder.path / "trace").glob("*.npz"))
    whole = chunks[1].read_bytes()
    chunks[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SlotkitError, match="not a whole chunk"):
        weights.analyze(folder)
    chunks[1].unlink()
    with pytest.raises(SlotkitError, match="lacks steps 31 to 60"):
        weights.analyze(folder)


def test_the_trace_of_another_run_is_refused(tmp_path: Path) -> None:
    folder = made(tmp_path, level="full", recording__trace="full")
    other = made(tmp_path, "other", level="full", k=2)
    write_flips(other, 90, [])
    shutil.copytree(other.path / "trace", folder.path / "trace", dirs_exist_ok=True)
    with pytest.raises(
        SlotkitError, match=r"The trace .*made/trace is of another run than the config\.toml beside it"
    ):
        weights.analyze(folder)


def test_a_kept_epoch_of_another_run_is_refused(tmp_path: Path) -> None:
    """With equal seeds its weights are some of the options, so that nothing else would tell."""
    folder, other = made(tmp_path), made(tmp_path, "other", training__lr=0.5, step=50)
    kept = folder.checkpoint("epoch-1")
    state, _ = checkpoint.load(other.checkpoint("last"))
    held = fingerprint(other, other.config())
    checkpoint.save(kept, state, step=50, epoch=1, **held)
    with pytest.raises(
        SlotkitError, match=rf"config\.toml was changed since {kept} .*: training\.lr was 0\.5"
    ):
        weights.analyze(folder)
    checkpoint.save(kept, state, step=50, epoch=1, **fingerprint(folder, folder.config()))
    assert sorted(weights.analyze(folder).table["step"].dropna().unique()) == [0, 50, 100]


def test_without_trace_and_kept_epochs_there_are_start_and_end(tmp_path: Path) -> None:
    folder = made(tmp_path)
    shutil.rmtree(folder.path / "trace")
    found = weights.analyze(folder)
    assert sorted(found.table["step"].dropna().unique()) == [0, 100]
    assert "made has neither a trace of every flip nor kept epochs, so this is a partial" in found.summary
    assert "or with --trace full" in found.summary


def test_without_images_nothing_is_said_of_dead_units(tmp_path: Path) -> None:
    found = weights.analyze(made(tmp_path), data_dir=tmp_path)
    assert "Nothing on dead units of made" in found.summary
    assert "the dataset mnist is not there. Say where with --data-dir (" in found.summary
    assert "dead units" not in set(found.table["quantity"])


def test_twenty_runs_in_two_groups(tmp_path: Path) -> None:
    folders = [
        made(tmp_path, f"k{k}-{seed}", k=k, seeds__reels=seed, latents={"a.weight": 0.2 * k})
        for k in (4, 8)
        for seed in range(10)
    ]
    found = weights.analyze(folders)
    assert list(found.table["group"].unique()) == ["K = 4", "K = 8"]
    assert "K = 4 (10 runs, checkpoint of step 100):" in found.summary
    assert "By K, a.weight at the end" in found.summary
    figure = found.figure()
    axes = figure.axes
    # A line a group, one more where the start is dashed or the moved are, one for what is random.
    drawn = [sum(len(line.get_xdata()) > 0 for line in one.lines) for one in axes]
    assert drawn == [3, 5, 5, 4, 3, 5]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["K = 4", "K = 8"]


def test_figure_and_files(tmp_path: Path) -> None:
    found = weights.analyze(made(tmp_path, latents={"a.weight": 1.0}))
    paths = found.save(tmp_path / "out")
    assert [path.name for path in paths] == ["weights.csv", "weights.png", "weights.svg", "weights.txt"]
    assert all(path.stat().st_size > 0 for path in paths)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"checkpoint": "best"}, "There is no checkpoint"),
        ({"moments": -1}, "moments is -1. Give an integer from 0 up."),
        ({"sample": 0}, "sample is 0. Give an integer from 1 up."),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(SlotkitError, match=sentence):
        weights.analyze(made(tmp_path), **arguments)


def test_shared_channels_of_unknown_models_are_refused(tmp_path: Path) -> None:
    folder = made(tmp_path, reel={"sharing": "channel"}, model__name="timm/any")
    shutil.rmtree(folder.path / "trace")
    with pytest.raises(SlotkitError, match="has no trace, which would say what dimension of its tensors"):
        weights.analyze(folder)


def test_weights_that_are_no_options_are_refused(tmp_path: Path) -> None:
    folder = made(tmp_path)
    state, about = checkpoint.load(folder.checkpoint("last"))
    state["others"]["a.weight"] += 0.1
    checkpoint.save(folder.checkpoint("last"), state, step=about["step"], epoch=1)
    with pytest.raises(SlotkitError, match=r"Some weights of a\.weight are none of their options"):
        weights.analyze(folder)
    checkpoint_bytes = folder.checkpoint("last").read_bytes()
    folder.checkpoint("last").write_bytes(checkpoint_bytes[:-9])
    with pytest.raises(SlotkitError, match="is not a whole slotkit checkpoint"):
        weights.analyze(folder)


def test_densities_need_a_bound() -> None:
    class Square:
        def options(self, uniform: Tensor, fans: Any) -> Tensor:
            return uniform * uniform

        def scores(self, uniform: Tensor, fans: Any) -> Tensor:
            return uniform

    told = Reel("fc.weight", (3, 2), 4, init=UniformInit(5.0))
    assert compute._bound(told) == told.bound == 1.0
    with pytest.raises(SlotkitError) as caught:
        compute._bound(Reel("fc.weight", (3, 2), 4, init=Square()))
    assert str(caught.value) == (
        f"fc.weight has options of the init {Square.__qualname__} and the kind independent. Densities are "
        "told in units of the bound of uniform options, and these have none. Analyze runs with one of the "
        "inits glorot-uniform, glorot-deviation, deviation-options-uniform-scores, "
        "uniform-options-deviation-scores, kaiming-uniform."
    )
