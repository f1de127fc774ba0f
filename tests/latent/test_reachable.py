"""Reachable options, kept: choosing among them is choosing among all, whoever shares their place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from latent.trajectories import (
    CPU,
    NETS,
    Coarse,
    Run,
    assert_equals_the_dense_form,
    first_weight,
    latent_form,
    mlp,
)
from torch import nn

from slotkit.latent import cpu, cpu_plan, form
from slotkit.latent.cpu_plan import PLAN, REACHABLE, WIDTH, Call
from slotkit.latent.cpu_reachable import LEAST_C, MOST, NOT_YET, TOO_MANY, find, keep
from slotkit.latent.cpu_step import bounds, choose
from slotkit.machine import slotify


def kept_of(w: Any, s: Any) -> Any:
    """The entry that `keep` makes of options and scores (K,)."""
    plan = np.zeros((), PLAN)[()]
    plan["k"], plan["largest_option"], plan["largest_score"] = len(w), np.abs(w).max(), np.abs(s).max()
    entry = np.zeros(1, REACHABLE)[0]
    keep(plan, w, s, np.empty(len(w), np.int64), entry)
    assert entry["count"] != NOT_YET
    return entry


def assert_as_among_all(w: Any, s: Any, entry: Any, a: float, c: float) -> None:
    k, n, room = len(w), int(entry["count"]), np.empty((2, max(WIDTH, len(w))))
    among_all, among_kept = choose(a, c, w, s, k, room), choose(a, c, entry["w"], entry["s"], n, room)
    assert entry["option"][among_kept] == among_all
    assert bounds(among_kept, 1.0, entry["w"], entry["s"], n, room) == bounds(among_all, 1.0, w, s, k, room)


def crossings(w: Any, s: Any, c: float) -> Any:
    """Latents at which two options have the same score, give or take rounding: where choices are narrow."""
    with np.errstate(all="ignore"):
        found = c * (s[:, None].astype(float) - s[None]) / (w[None].astype(float) - w[:, None])
    found = found[np.isfinite(found)].ravel()
    return np.concatenate([found, np.nextafter(found, np.inf), np.nextafter(found, -np.inf)])


# Latents as shares of the largest at which the kept options are used.
SHARES = [0.0, 1e-300, -1e-30, 1e-9, -3e-7, 1e-6, -7e-5, 1e-3, -0.5, 1.0, -1.0]


@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.integers(1, 200),
    grid=st.sampled_from([1, 2, 5, 2**6, 2**23]),
    c=st.sampled_from([1.0, 0.37, 1e-25, 2 * LEAST_C, 1e4]),
)
def test_choosing_among_the_kept_is_choosing_among_all(seed: int, k: int, grid: int, c: float) -> None:
    """Coarse grids have equal options, equal scores, and points on lines."""
    generator = np.random.default_rng(seed)
    w = (generator.integers(-grid, grid + 1, k) / grid * 0.07).astype(np.float32)
    s = (generator.integers(1, grid + 1, k) / grid * 0.03).astype(np.float32)
    entry = kept_of(w, s)
    narrow = generator.permutation(crossings(w, s, c))[:100]
    most = MOST * c * np.abs(s).max() / max(np.abs(w).max(), 1e-9)
    checked = 0
    for a in [*(most * share for share in SHARES), *narrow.tolist()]:
        if entry["count"] > 0 and abs(a) <= most:
            assert_as_among_all(w, s, entry, a, c)
            checked += 1
    assert checked >= len(SHARES) or entry["count"] == TOO_MANY


def test_no_number_is_option_0() -> None:
    """A latent that overflowed and came back: some option, and no memory that isn't ours."""
    w, s = np.ones(8, np.float32), np.ones(8, np.float32)
    assert choose(np.nan, 1.0, w, s, 8, np.empty((2, 16))) == 0


@pytest.mark.parametrize("k", [1, 2, 8, 64, 1024, 4096])
def test_as_many_are_kept_as_the_hull_has_corners(k: int) -> None:
    """Rényi and Sulanke: (4/3) ln K + 0.845 of uniform options; more than are kept of a reel are rare."""
    generator = np.random.default_rng(k)
    counts = np.array(
        [
            kept_of(
                generator.uniform(-0.1, 0.1, k).astype(np.float32),
                generator.uniform(0, 0.05, k).astype(np.float32),
            )["count"]
            for _ in range(2000)
        ]
    )
    assert (counts == TOO_MANY).mean() < 0.03
    expected = {1: 1.0, 2: 2.0, 8: 3.69, 64: 6.40, 1024: 10.07, 4096: 11.94}[k]
    # Standard deviations are below 2; what doesn't fit pulls the mean of K = 4096 down by up to 0.1.
    assert abs(counts[counts > 0].mean() - expected) < 5 * 2 / np.sqrt(2000)


def test_a_pair_keeps_the_one_used_last() -> None:
    pair = np.zeros(2, REACHABLE)
    pair["number"] = -1
    for number, known in [(3, False), (9, False), (3, True), (5, False), (3, True), (9, False), (3, True)]:
        way, found = find(number, pair)
        assert found == known
        pair[way]["number"] = number


@pytest.fixture
def kept_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """At any K, and in so few places that connections drive each other out."""
    monkeypatch.setattr(form, "KEEP_FROM", 1)
    monkeypatch.setattr(cpu_plan, "PLACES", 4 * cpu_plan.SHARDS)


RUNS = {
    **{f"{net}-{k}": Run(net, k, steps=150 if k < 64 else 60) for net in NETS for k in (1, 3, 8, 64, 200)},
    "c-turns-negative": Run("mlp", 8, lr=50.0, period=0, steps=150),
    "shared": Run("conv", 6, sharing="channel", lr=1.0, steps=60, seed=7),
    "symmetric": Run("mlp", 6, symmetric=True, lr=1.0, steps=60),
    "paper": Run("conv", 40, init="paper", steps=100),
}


@pytest.mark.usefixtures("kept_always")
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_selects_what_the_dense_form_selects(run: Run) -> None:
    assert_equals_the_dense_form(run, "numba", CPU, "auto")


def test_enough_places_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "KEEP_FROM", 1)
    assert_equals_the_dense_form(Run("mlp", 64, steps=60), "numba", CPU, "auto")


@pytest.mark.usefixtures("kept_always")
def test_another_reels_options_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong on purpose: entries change hands between steps."""
    honest = Call.kept

    def mixed_up(call: Call) -> Any:
        kept = honest(call)
        kept["number"] = np.where(kept["number"] >= 0, kept["number"][..., ::-1], -1)
        return kept

    monkeypatch.setattr(cpu.Call, "kept", mixed_up)
    with pytest.raises(AssertionError, match=r"(weights|selections) differ: "):
        assert_equals_the_dense_form(Run("mlp", 8, steps=100), "numba", CPU, "auto")


def test_blocks_that_share_a_table_in_the_parallel_loop() -> None:
    """30 blocks, so that some share a table, in the parallel loop."""
    torch.manual_seed(0)
    x, seen = torch.randn(32, 300), []
    for tables in ("auto", "recomputed"):
        model = nn.Linear(300, 100)
        machine = slotify(model, 128, seed=3, tables=tables)
        optimizer = machine.optimizer(lr=3.0, momentum=0.9)
        weight, states = first_weight(machine), []
        for _ in range(25):
            optimizer.zero_grad()
            (model(x) - 1).square().mean().backward()
            optimizer.step()
            states.append([weight.parameter.detach().clone(), weight.lower.clone(), weight.upper.clone()])
        assert len(weight.prepared.counts) == 30
        assert weight.prepared.parallel
        if tables == "auto":
            assert (weight.prepared.kept()["count"] > 0).sum() > 100
        seen.append(states)
    assert all(
        torch.equal(a, b) for one, two in zip(*seen, strict=True) for a, b in zip(one, two, strict=True)
    )


SAYINGS = {
    "many": ({"k": 128}, "tables recomputed, reachable options kept"),
    "few": ({"k": 64}, "tables recomputed"),
    "asked": ({"k": 128, "tables": "recomputed"}, "tables recomputed"),
    "eager": ({"k": 128, "engine": "eager"}, "tables recomputed"),
    "own-init": ({"k": 128, "init": Coarse()}, "tables stored"),
    "sampled": ({"k": 128, "selection": "probabilistic"}, "tables stored"),
}


@pytest.mark.parametrize(("settings", "said"), SAYINGS.values(), ids=SAYINGS)
def test_auto_says_what_it_chose(settings: dict[str, Any], said: str) -> None:
    machine = slotify(mlp(), **settings)
    assert str(machine).removesuffix(")").endswith(said)


def test_recomputed_keeps_nothing() -> None:
    """16 bytes a connection and no more; with "auto" a table of one size comes to them."""
    run = Run("mlp", 128, steps=2)
    for tables, expected in (("recomputed", 0), ("auto", cpu_plan.PLACES * REACHABLE.itemsize)):
        machine = run.machine(CPU, "latent", "numba", tables)
        assert list(run.train(machine)) == [0, 1]
        found = [weight.prepared for weight in latent_form(machine).weights.values()]
        assert sum(each.kept_bytes for each in found if each is not None) == expected


def test_a_step_and_its_twin_without_keeping_have_the_same_bits() -> None:
    run = replace(Run("conv", 256, steps=30), dtype=torch.float32)
    one, two = (run.machine(CPU, "latent", "numba", tables) for tables in ("auto", "recomputed"))
    assert first_weight(one).keep_reachable
    for _ in zip(run.train(one), run.train(two), strict=True):
        for a, b in zip(latent_form(one).weights.values(), latent_form(two).weights.values(), strict=True):
            assert torch.equal(a.parameter, b.parameter)
            assert torch.equal(a.lower, b.lower)
            assert torch.equal(a.upper, b.upper)
