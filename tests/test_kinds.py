"""Kinds of options: a new one is added in the registry, and every engine trains with it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from latent.trajectories import CPU, Centred, Coarse, Run, assert_equals_the_oracle, normal
from torch import Tensor, nn, where

import slotkit
from slotkit import slotfile
from slotkit.errors import SlotkitError
from slotkit.inits import NAMED_INITS, Fans, Init, UniformInit, find_init
from slotkit.kinds import KINDS, Kind, find_kind
from slotkit.latent.engines.registry import ENGINES, runnable
from slotkit.latent.weight import LatentWeight
from slotkit.making import slotify
from slotkit.models import create
from slotkit.reel import INITIAL_PICK, SHARINGS, Reel, ReelSettings
from slotkit.selection import pick_uniformly, take

DOCS = Path(__file__).parents[1] / "docs"


class Halves(Kind):
    """{w, w/2, ...}: options 2 i and 2 i + 1 come from uniform number i."""

    name, spec, words, symmetric = "halves", 4, "with their halves", None

    def refusal(self, k: int) -> str | None:
        return None if k % 2 == 0 else f"k is {k}, and options come with their halves. Choose an even k."

    def uniforms(self, k: int) -> int:
        return k // 2

    def source(self, option: Tensor) -> Tensor:
        return option // 2

    def value(self, value: Tensor, option: Tensor, fans: Fans) -> Tensor:
        return where(option % 2 == 1, value / 2, value)


class Margin(Kind):
    """The first choice has an initial score above all others."""

    name, spec, words, symmetric = "margin", 4, "with a first choice", None

    def score(self, score: Tensor, option: Tensor, fans: Fans) -> Tensor:
        return score + where(option == 0, math.sqrt(6 / fans.fan_in), 0.0)


class Shared(Kind):
    """One set of uniform numbers for the network: with sharing "layer" all connections have its options."""

    name, spec, words, symmetric = "shared by network", 4, "shared", None

    def key_name(self, name: str) -> str:
        return ""


TOYS: dict[str, Kind] = {kind.name: kind for kind in (Halves(), Margin(), Shared())}


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    KINDS.update(TOYS)
    yield
    for name in TOYS:
        del KINDS[name]


def chosen_of(kind: str) -> dict[str, object]:
    """How settings say a kind."""
    symmetric = KINDS[kind].symmetric
    return {"kind": kind} if symmetric is None else {"symmetric": symmetric}


def bits(values: Tensor) -> list[int]:
    """In row-major order; +0 and -0 differ."""
    values = values.detach().contiguous().view(torch.int32)
    return values.flatten().tolist()  # type: ignore[no-any-return]


ALL = (*KINDS, *TOYS)


# ---------------------------------------------------------------------------------------------------
# What every kind keeps, for each init and sharing.


@st.composite
def reels(draw: st.DrawFn) -> Reel:
    kind = draw(st.sampled_from(ALL))
    accepted = [k for k in range(1, 13) if KINDS[kind].refusal(k) is None]
    inits: list[str | Init] = [*NAMED_INITS, UniformInit(3.0), Coarse(), Centred()]
    return Reel(
        name=draw(st.sampled_from(["weight", "fc.weight"])),
        shape=tuple(draw(st.lists(st.integers(1, 4), min_size=2, max_size=4))),
        k=draw(st.sampled_from(accepted)),
        seed=draw(st.sampled_from([0, 7, 2**63 - 1])),
        init=draw(st.sampled_from(inits)),
        sharing=draw(st.sampled_from(list(SHARINGS))),
        channel_dim=draw(st.integers(0, 1)),
        **chosen_of(kind),  # type: ignore[arg-type]
    )


@given(reels())
def test_one_option_is_that_of_the_rows_and_of_the_whole(device: torch.device, reel: Reel) -> None:
    selected = pick_uniformly(reel.k, reel.draw(INITIAL_PICK, 0, device))
    backwards = torch.arange(math.prod(reel.shape), device=device).flip(0)
    options, scores = reel.rows(backwards)
    one = reel.chosen(selected)
    assert bits(one) == bits(take(reel.options(device), selected))
    assert bits(one.flatten().flip(0)) == bits(take(options, selected.flatten().flip(0)))
    assert bits(scores.flip(0)) == bits(reel.scores(device))


@given(reels(), st.integers(1, 4))
def test_a_larger_k_begins_with_a_smaller_one(device: torch.device, reel: Reel, more: int) -> None:
    k = next(k for k in range(reel.k + more, 2 * reel.k + 8) if reel.rule.refusal(k) is None)
    large = replace(reel, k=k)
    assert bits(large.options(device)[..., : reel.k]) == bits(reel.options(device))
    assert bits(large.scores(device)[..., : reel.k]) == bits(reel.scores(device))


@given(reels())
def test_settings_are_told_and_read_back(reel: Reel) -> None:
    told = reel.settings.to_dict()
    assert ("kind" in told) == (reel.rule.symmetric is None)
    if isinstance(reel.init, str):
        again = ReelSettings.from_dict(told)
        assert again == reel.settings
        assert again.reel(reel.name, reel.shape, reel.channel_dim) == reel


@given(reels())
def test_a_bound_is_one(device: torch.device, reel: Reel) -> None:
    known = reel.rule.symmetric is not None and isinstance(find_init(reel.init), UniformInit)
    assert (reel.bound is not None) == known
    if reel.bound is not None:
        assert (reel.options(device).abs() <= reel.bound).all()


@settings(max_examples=25, deadline=None)
@given(reels(), st.integers(0, 2**32))
def test_numbers_for_compiled_engines_make_the_bits_of_the_tables(reel: Reel, seed: int) -> None:
    """Where each connection's interval ends depends on all of its options and scores."""
    assume(reel.compiled_spec() is not None)
    found = []
    for tables in ("stored", "recomputed"):
        weight = LatentWeight(reel, nn.Parameter(torch.zeros(reel.shape)), [], "numba", tables == "stored")
        assert (weight.tables is not None) == (tables == "stored")
        weight.restart(1.0, normal(math.prod(reel.shape), seed=seed, dtype=torch.float32))
        found.append([bits(values) for values in (weight.parameter, weight.lower, weight.upper)])
    assert found[0] == found[1]


# ---------------------------------------------------------------------------------------------------
# A kind that has only been registered: engines know nothing of it.


RUNS = {
    "halves": Run("mlp", 4, kind="halves"),
    "mask-of-three": Run("mlp", 3, kind="mask"),
    "mask-by-channel": Run("conv", 4, kind="mask", sharing="channel", steps=100),
    "mask-of-another-init": Run("mlp", 2, kind="mask", init=Centred(), lr=1.0),
    "margin": Run("mlp", 4, kind="margin", lr=2.0),
    "shared-by-network": Run("mlp", 8, kind="shared by network", sharing="layer"),
    **{name: Run("mlp", 4, **chosen_of(name)) for name in KINDS},  # type: ignore[arg-type]
}


@pytest.mark.parametrize("tables", ["stored", "recomputed"])
@pytest.mark.parametrize("engine", runnable(CPU))
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_engines_select_what_the_dense_form_selects(
    run: Run, engine: str, tables: str, one_thread: None
) -> None:
    reel = Reel("weight", (2, 2), run.k, symmetric=run.symmetric, kind=run.kind)
    if ENGINES[engine].refusal(CPU, torch.float64, reel, tables == "stored") is None:
        assert_equals_the_oracle(run, engine, CPU, tables)
    else:
        with pytest.raises(SlotkitError, match="store the tables"):
            run.machine(CPU, "latent", engine, tables)


def test_every_machine_has_the_options_of_its_kind() -> None:
    for form in ("latent", "dense"):
        mask = RUNS["mask-of-three"].machine(CPU, form)
        for name in mask.reels:
            options = mask.options(name)
            assert not options[..., 0].any()
            assert options[..., 1:].all()
        halves = RUNS["halves"].machine(CPU, form)
        for name in halves.reels:
            options = halves.options(name)
            assert torch.equal(options[..., 1::2], options[..., ::2] / 2)
        margin = RUNS["margin"].machine(CPU, form)
        assert not any(margin.selected(name).any() for name in margin.reels)
        shared = RUNS["shared-by-network"].machine(CPU, form)
        ratios = [shared.options(name)[0, 0] / shared.options(name)[0, 0, 0] for name in shared.reels]
        torch.testing.assert_close(ratios[0], ratios[1])
        torch.testing.assert_close(ratios[0], ratios[2])


def test_a_machine_tells_its_kind_and_takes_no_state_of_another() -> None:
    model = nn.Linear(3, 2)
    mask, plain = slotify(model, 4, kind="mask"), slotify(nn.Linear(3, 2), 4)
    assert "options with a zero, sharing none" in repr(mask)
    state = mask.state_dict()
    assert (state["settings"]["reel_spec"], state["settings"]["kind"]) == (3, "mask")
    assert "kind" not in plain.state_dict()["settings"]
    slotify(nn.Linear(3, 2), 4, kind="mask").load_state_dict(state)
    with pytest.raises(SlotkitError, match="reel_spec is 3 there and 1 here; kind is 'mask' there"):
        plain.load_state_dict(state)
    with pytest.raises(SlotkitError, match="1 there and 3 here; kind is None there and 'mask' here"):
        mask.load_state_dict(plain.state_dict())


def test_a_slot_file_holds_no_kind_of_a_later_spec(tmp_path: Path) -> None:
    model = create("lenet", (1, 2, 2), 5)
    machine = slotify(model, k=4, kind="halves")
    with pytest.raises(SlotkitError) as caught:
        slotfile.save(tmp_path / "x", machine, slotfile.architecture("lenet", (1, 2, 2), 5))
    assert "has options of the kind 'halves', which a file can't hold. Only independent" in str(caught.value)
    assert not (tmp_path / "x").exists()


# ---------------------------------------------------------------------------------------------------
# Names.


@pytest.mark.parametrize(
    ("kind", "symmetric"), [("halfs", False), ("pairs", False), ("independent", False), ("halves", True)]
)
def test_kinds_that_are_none_or_said_twice(kind: str, symmetric: bool) -> None:
    with pytest.raises(SlotkitError) as caught:
        ReelSettings(4, kind=kind, symmetric=symmetric)
    assert str(caught.value) == (
        f"The kind of options is {kind!r} and symmetric is {symmetric}. Choose a kind of mask, halves, "
        "margin, shared by network, with symmetric=False; or no kind, and symmetric=True for pairs +v, -v or "
        "symmetric=False for independent options."
    )


def test_a_kind_says_what_k_it_accepts() -> None:
    with pytest.raises(SlotkitError, match=r"k is 3, and options come with their halves\. Choose an"):
        Reel("weight", (2, 2), 3, kind="halves")


def test_the_kinds_of_today() -> None:
    for name in TOYS:
        del KINDS[name]
    try:
        assert list(KINDS) == ["independent", "pairs", "mask"]
        assert find_kind(None, False) is KINDS["independent"]
        assert find_kind(None, True) is KINDS["pairs"]
        with pytest.raises(SlotkitError, match="Choose a kind of mask, with"):
            find_kind("halves", False)
    finally:
        KINDS.update(TOYS)


def test_the_page_lists_every_kind_and_its_spec() -> None:
    text = (DOCS / "reel-spec-1.md").read_text("utf-8").partition("kinds of options\n")[2]
    rows = re.findall(r"^\| `([a-z ]+)` \| (\d+) \|", text, flags=re.MULTILINE)
    assert dict(rows) == {name: str(kind.spec) for name, kind in KINDS.items() if name not in TOYS}


def test_the_example_of_the_page_is_the_kind_that_is_tested_here() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "extend.md").read_text("utf-8"), re.DOTALL)
    (code,) = (block for block in blocks if "class Halves" in block)
    names: dict[str, Any] = {"slotkit": slotkit, "model": nn.Linear(3, 2)}
    exec(code, names)
    assert type(KINDS["halves"]) is names["Halves"]
    expected = Halves()
    for k in range(1, 5):
        assert KINDS["halves"].refusal(k) == expected.refusal(k)
    assert bits(names["machine"].options("weight")) == bits(
        Reel("weight", (2, 3), 8, kind="halves").options()
    )
    assert torch.equal(*(names["machine"].options("weight")[..., at::2] * (1 + at) for at in (0, 1)))
