"""Recent options, kept: what they say is what choosing among all K says, whoever shares their place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
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
from numpy.typing import NDArray
from torch import nn

from slotkit.latent import cpu, cpu_plan, form
from slotkit.latent.cpu_plan import BLOCK, GROUPS, WORDS, Call
from slotkit.latent.cpu_recent import (
    ENTRY,
    UNKNOWN,
    begin,
    exchange,
    find_entry,
    forget,
    is_one_of,
    oldest,
    recall,
)
from slotkit.machine import slotify
from slotkit.reel import UniformInit

ZERO, WHOLE = np.float32(0), np.int32(0)


def new_table(pairs: int) -> NDArray[Any]:
    table = np.zeros((pairs, 2, ENTRY), np.int32)
    table[..., 0] = -1
    return table


def test_an_entry_has_the_words_that_a_table_has_room_for() -> None:
    assert ENTRY == WORDS


def test_a_pair_keeps_the_one_used_last() -> None:
    table = new_table(4)
    for number, known in [(3, False), (11, False), (3, True), (7, False), (3, True), (11, False), (3, True)]:
        entry, found = find_entry(table.ctypes.data, 4, number, WHOLE)
        assert found == known
        assert table.ctypes.data + 3 * 2 * ENTRY * 4 <= entry < table.ctypes.data + table.nbytes
        if not known:
            begin(entry, number, ZERO, WHOLE)
    forget(entry, WHOLE)
    assert not find_entry(table.ctypes.data, 4, 3, WHOLE)[1]


def test_what_was_before_comes_back() -> None:
    """A connection goes up a staircase of five steps and down again: three are remembered."""
    table = new_table(1)
    entry, _ = find_entry(table.ctypes.data, 1, 0, WHOLE)
    begin(entry, 0, ZERO, WHOLE)
    steps = [(np.float32(value), np.float32(value), np.float32(value + 1)) for value in range(5)]
    for option in range(1, 5):
        assert recall(entry, option + 0.5, 0.01, False, ZERO, WHOLE) == 0
        exchange(entry, oldest(entry, WHOLE), option, steps[option - 1], WHOLE)
    words = table[0, int(entry != table.ctypes.data)]
    seen = []
    for option in (3, 2, 1, 0):
        at = recall(entry, option + 0.5, 0.01, False, ZERO, WHOLE)
        seen.append((int(words[at]), float(words.view(np.float32)[at + 1])) if at else None)
        if at:
            exchange(entry, at, words[at], steps[option + 1], WHOLE)
    assert seen == [(3, 3.0), (2, 2.0), (1, 1.0), None]
    # The option of the beginning had no name.
    exchange(entry, oldest(entry, WHOLE), 0, steps[1], WHOLE)
    begin(entry, 0, ZERO, WHOLE)
    exchange(entry, oldest(entry, WHOLE), 1, steps[0], WHOLE)
    assert words[recall(entry, 0.5, 0.01, False, ZERO, WHOLE)] == UNKNOWN
    assert recall(entry, 0.5, 0.01, True, ZERO, WHOLE) == 0


@pytest.mark.parametrize(
    ("u", "found"), [(0.5, True), (0.02, True), (0.009, False), (0.995, False), (1.2, False)]
)
def test_close_to_an_end_nothing_is_recalled(u: float, found: bool) -> None:
    table = new_table(1)
    begin(table.ctypes.data, 0, ZERO, WHOLE)
    record = np.float32(7), np.float32(0), np.float32(1)
    exchange(table.ctypes.data, oldest(table.ctypes.data, WHOLE), 1, record, WHOLE)
    assert (recall(table.ctypes.data, u, 0.01, False, ZERO, WHOLE) > 0) == found
    assert recall(table.ctypes.data, np.nan, 0.01, False, ZERO, WHOLE) == 0
    assert recall(table.ctypes.data, np.inf, np.inf, False, ZERO, WHOLE) == 0


# ---------------------------------------------------------------------------------------------------
# Whole runs.


@pytest.fixture(autouse=True)
def kept_at_any_k(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "RECENT_FROM", 1)


@pytest.fixture
def few_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """So few that connections drive each other out."""
    monkeypatch.setattr(cpu_plan, "PLACES", 4 * cpu_plan.SHARDS)


RUNS = {
    **{f"{net}-{k}": Run(net, k, steps=150 if k < 64 else 60) for net in NETS for k in (1, 3, 8, 64, 200)},
    "c-turns-negative": Run("mlp", 8, lr=50.0, period=0, steps=150),
    "shared": Run("conv", 6, sharing="channel", lr=1.0, steps=60, seed=7),
    "symmetric": Run("mlp", 6, symmetric=True, lr=1.0, steps=60),
    "paper": Run("conv", 40, init="paper", steps=100),
}


@pytest.mark.usefixtures("few_places")
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_selects_what_the_dense_form_selects(run: Run) -> None:
    assert_equals_the_dense_form(run, "numba", CPU, "auto")


def test_enough_places_for_all() -> None:
    assert_equals_the_dense_form(Run("mlp", 64, steps=60), "numba", CPU, "auto")


def test_no_score_and_no_c() -> None:
    """All initial scores 0, c too small for float32: u is no number, and everyone is asked in every step."""
    seen = []
    for tables in ("auto", "recomputed"):
        torch.manual_seed(0)
        machine = slotify(nn.Linear(16, 16), 20, init=UniformInit(2.0, 0.0, 0.0), tables=tables)
        optimizer, weight, states = machine.optimizer(lr=0.5, weight_decay=1.0), first_weight(machine), []
        for step in range(200):
            weight.parameter.grad = torch.full((16, 16), 0.0 if step > 3 else 1e-3 * step)
            if step > 3:
                weight.latent[::2] = 0
            optimizer.step()
            states.append(weight.parameter.detach().clone())
        assert 0 < weight.line.c < 1e-39
        seen.append(states)
    assert all(torch.equal(one, two) for one, two in zip(*seen, strict=True))


def test_an_option_that_has_a_twin_is_not_recorded() -> None:
    w = np.array([0.5, 0.25, 0.5], np.float32)
    assert is_one_of(np.float32(0.25), w, 3)
    assert not is_one_of(np.float32(0.5), w, 3)
    assert not is_one_of(np.float32(0.1), w, 3)


@pytest.mark.usefixtures("few_places")
def test_another_reels_options_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong on purpose: entries change hands between steps."""
    honest = Call.use

    def mixed_up(call: Call, events: bool, slack: bool, recent: bool) -> None:
        table = call.recent()
        table[..., 0] = np.where(table[..., 0] >= 0, table[..., ::-1, 0], -1)
        honest(call, events, slack, recent)

    monkeypatch.setattr(cpu.Call, "use", mixed_up)
    with pytest.raises(AssertionError, match=r"(weights|selections) differ: "):
        assert_equals_the_dense_form(Run("mlp", 8, steps=100), "numba", CPU, "auto")


def states_of(tables: str, steps: int, k: int) -> tuple[list[Any], Any]:
    """Of a layer of 30 blocks, so that some share a table, in the parallel loop; later on with events."""
    torch.manual_seed(0)
    x, states = torch.randn(32, 300), []
    model = nn.Linear(300, 100)
    machine = slotify(model, k, seed=3, tables=tables)
    optimizer = machine.optimizer(lr=3.0, momentum=0.9)
    weight = first_weight(machine)
    for step in range(steps):
        weight.recorded = steps // 3 <= step
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
        states.append([weight.parameter.detach().clone(), weight.lower.clone(), weight.upper.clone()])
        states[-1] += [events.clone() for events in weight.events if weight.recorded]
        # Or all that is kept would be forgotten before the next step.
        assert weight.prepared.versions == cpu._versions([weight])
    return states, weight.prepared


@pytest.mark.parametrize("k", [4, 128])
def test_keeping_changes_no_bit_and_no_event(k: int) -> None:
    kept, call = states_of("auto", 60, k)
    recomputed, without = states_of("recomputed", 60, k)
    assert call.blocks == 30
    assert call.parallel
    assert (call.recent()[..., 0] >= 0).sum() > 100
    assert without.kept_bytes == 0
    for one, two in zip(kept, recomputed, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


SAYINGS = {
    "auto": ({"k": 64}, "tables recomputed, recent options kept"),
    "few": ({"k": 16}, "tables recomputed"),
    "asked": ({"k": 128, "tables": "recomputed"}, "tables recomputed"),
    "eager": ({"k": 128, "engine": "eager"}, "tables recomputed"),
    "own-init": ({"k": 128, "init": Coarse()}, "tables stored"),
    "sampled": ({"k": 128, "selection": "probabilistic"}, "tables stored"),
}


@pytest.mark.parametrize(("settings", "said"), SAYINGS.values(), ids=SAYINGS)
def test_auto_says_what_it_chose(
    settings: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    machine = slotify(mlp(), **settings)
    assert str(machine).removesuffix(")").endswith(said)


def test_recomputed_keeps_nothing() -> None:
    """16 bytes a connection and no more; "auto" adds slack, and a table that large networks share."""
    run = replace(Run("mlp", 128, steps=2), dtype=torch.float32)
    blocks = len(latent_form(run.machine(CPU, "latent", "numba")).weights)
    for tables, expected in (("recomputed", 0), ("auto", 4 * blocks * (BLOCK * WORDS + GROUPS))):
        machine = run.machine(CPU, "latent", "numba", tables)
        assert list(run.train(machine)) == [0, 1]
        found = [weight.prepared for weight in latent_form(machine).weights.values()]
        assert sum(each.kept_bytes for each in found if each is not None) == expected


def test_a_step_and_its_twin_without_keeping_have_the_same_bits() -> None:
    run = replace(Run("conv", 256, steps=30), dtype=torch.float32)
    one, two = (run.machine(CPU, "latent", "numba", tables) for tables in ("auto", "recomputed"))
    assert first_weight(one).keeps_recent
    for _ in zip(run.train(one), run.train(two), strict=True):
        for a, b in zip(latent_form(one).weights.values(), latent_form(two).weights.values(), strict=True):
            assert torch.equal(a.parameter, b.parameter)
