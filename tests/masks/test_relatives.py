"""Pruned relatives of slot machines: which of them is one with the options {0, w}, and which is not."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import invoke, refuse
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.inits import KAIMING_INITS, Fans
from slotkit.machine import SlotMachine
from slotkit.making import slotify
from slotkit.reel import Reel
from slotkit.runs import checkpoint
from slotkit.selection import greedy, greedy_within, highest
from slotkit.standin import stand_in

SGD = {
    "plain": {"lr": 5.0},
    "momentum": {"lr": 0.6, "momentum": 0.9},
    "all": {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
}
SHARE = 0.3


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 20, bias=False, dtype=torch.float64),
        nn.ReLU(),
        nn.Linear(20, 3, bias=False, dtype=torch.float64),
    )


def data(step: int) -> tuple[Tensor, Tensor]:
    chance = torch.Generator().manual_seed(step)
    return torch.randn(8, 6, generator=chance, dtype=torch.float64), torch.arange(8) % 3


def machine_of(form: str = "latent", **settings: Any) -> SlotMachine:
    model = network()
    return slotify(
        model, k=2, kind="mask", form=form, seed=5, engine="eager" if form == "latent" else "auto", **settings
    )


def trained(machine: SlotMachine, sgd: dict[str, Any], steps: int = 40) -> Iterator[dict[str, Tensor]]:
    """The weights in use after each step."""
    optimizer = machine.optimizer(**sgd)
    for step in range(steps):
        optimizer.zero_grad()
        images, labels = data(step)
        nn.functional.cross_entropy(machine.model(images), labels).backward()
        optimizer.step()
        yield {
            name: machine.options(name).gather(-1, machine.selected(name)[..., None])[..., 0]
            for name in machine.reels
        }


class Pruned:
    """One score m a connection, a fixed weight w, and w * mask(m) in the network: written without slotkit."""

    def __init__(self, machine: SlotMachine, share: float | None) -> None:
        self.share, self.model = share, network()
        self.w = {name: machine.options(name)[..., 1].double() for name in machine.reels}
        self.m = {
            name: nn.Parameter((machine.scores(name)[..., 1] - machine.scores(name)[..., 0]).double())
            for name in machine.reels
        }

    def mask(self, name: str) -> Tensor:
        m = self.m[name].detach()
        if self.share is None:
            return m > 0
        kept = round(self.share * m.numel())
        return m >= m.flatten().sort(descending=True).values[kept - 1]

    def train(self, sgd: dict[str, Any], steps: int = 40) -> Iterator[dict[str, Tensor]]:
        optimizer = torch.optim.SGD(list(self.m.values()), **sgd)
        for step in range(steps):
            images, labels = data(step)
            used = {name: (self.w[name] * self.mask(name)).requires_grad_() for name in self.m}
            logits = torch.func.functional_call(self.model, used, (images,))
            found = torch.autograd.grad(nn.functional.cross_entropy(logits, labels), list(used.values()))
            for m, slope, w in zip(self.m.values(), found, self.w.values(), strict=True):
                m.grad = slope * w
            optimizer.step()
            yield {name: self.w[name] * self.mask(name) for name in self.m}


@pytest.mark.parametrize("sgd", SGD.values(), ids=SGD)
@pytest.mark.parametrize("form", ["latent", "dense"])
def test_a_supermask_is_a_slot_machine_with_the_options_0_and_w(form: str, sgd: dict[str, Any]) -> None:
    """Threshold at 0, straight through: m = s_1 - s_0, as option 0 has no gradient."""
    machine = machine_of(form)
    twin = Pruned(machine, None)
    before = {name: machine.selected(name).clone() for name in machine.reels}
    for ours, theirs in zip(trained(machine, sgd), twin.train(sgd), strict=True):
        for name in ours:
            assert torch.equal(ours[name].double(), theirs[name])
    assert sum(int((machine.selected(name) != before[name]).sum()) for name in before) > 20


def test_a_sampled_supermask_is_probabilistic_selection() -> None:
    """Bernoulli(sigmoid(m)) is softmax(s_0, s_1)."""
    machine = machine_of("dense", selection="probabilistic")
    for name in machine.reels:
        scores = machine.scores(name).double()
        torch.testing.assert_close(scores.softmax(-1)[..., 1], torch.sigmoid(scores[..., 1] - scores[..., 0]))


@pytest.mark.parametrize("sgd", SGD.values(), ids=SGD)
def test_edge_popup_is_that_machine_within_a_share(sgd: dict[str, Any]) -> None:
    machine = machine_of("dense", share=SHARE)
    twin = Pruned(machine, SHARE)
    before = {name: machine.selected(name).clone() for name in machine.reels}
    for ours, theirs in zip(trained(machine, sgd), twin.train(sgd), strict=True):
        for name in ours:
            assert torch.equal(ours[name].double(), theirs[name])
            assert int((ours[name] != 0).sum()) == round(SHARE * ours[name].numel())
    assert sum(int((machine.selected(name) != before[name]).sum()) for name in before) > 20


def test_scores_of_edge_popup_stay_on_the_line() -> None:
    """s = c S + A w: the scores are those of any slot machine, only the choice is another."""
    machine = machine_of("dense", share=SHARE)
    start = {name: machine.scores(name).clone() for name in machine.reels}
    sgd = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.01}
    for _ in trained(machine, sgd):
        pass
    c, e = 1.0, 0.0
    for step in range(40):
        e = sgd["momentum"] * e + sgd["weight_decay"] * c if step else sgd["weight_decay"] * c
        c -= sgd["lr"] * e
    for name, scores in start.items():
        moved = machine.scores(name) - c * scores
        w = machine.options(name)[..., 1]
        torch.testing.assert_close(moved[..., 0], torch.zeros_like(w), atol=1e-12, rtol=0)
        latent = moved[..., 1] / w
        assert float(latent.abs().max()) > 0.1
        torch.testing.assert_close(moved[..., 1], latent * w)


def test_edge_popup_is_no_slot_machine() -> None:
    """A connection's choice depends on the scores of others, and no threshold of its own can say so."""
    popup, free = machine_of("dense", share=SHARE), machine_of("dense")
    name = next(iter(popup.reels))
    for machine in (popup, free):
        scores = machine.scores(name).clone()
        scores[..., 0] = 0
        scores[..., 1] = -1 - torch.arange(scores[..., 1].numel()).reshape(scores.shape[:-1])
        machine.form.take_scores({**{each: machine.scores(each) for each in machine.reels}, name: scores})
    assert bool(popup.selected(name)[0, 0] == 1) != bool(free.selected(name)[0, 0] == 1)
    raised = popup.scores(name).clone()
    raised[1:, :, 1] = 9
    popup.form.take_scores({**{each: popup.scores(each) for each in popup.reels}, name: raised})
    assert bool(popup.selected(name)[0, 0] == 0)


# ---------------------------------------------------------------------------------------------------
# Selection within a share.


@given(
    st.lists(st.lists(st.integers(-2, 2), min_size=3, max_size=3), min_size=1, max_size=12),
    st.integers(0, 12),
)
def test_greedy_within_a_budget(rows: list[list[int]], kept: int) -> None:
    kept = min(kept, len(rows))
    found = greedy_within(torch.tensor(rows, dtype=torch.float32), kept).tolist()
    above = [max(row[1:]) - row[0] for row in rows]
    chosen = sorted(sorted(range(len(rows)), key=lambda i: (-above[i], i))[:kept])
    assert [i for i, option in enumerate(found) if option] == chosen
    assert all(found[i] == 1 + (rows[i][2] > rows[i][1]) for i in chosen)


def test_with_the_right_share_it_is_greedy() -> None:
    scores = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    wanted = greedy(scores)
    assert torch.equal(greedy_within(scores, int((wanted > 0).sum())), wanted)
    assert not highest(torch.ones(3), 0).any()


# ---------------------------------------------------------------------------------------------------
# States, stand-ins, refusals.


def test_a_state_says_its_share_and_fits_no_other(tmp_path: Path) -> None:
    machine = machine_of("dense", share=SHARE)
    for _ in trained(machine, SGD["momentum"], 3):
        pass
    state = machine.state_dict()
    assert (state["settings"]["share"], state["settings"]["kind"]) == (SHARE, "mask")
    assert "top share 0.3 of each tensor" in repr(machine)
    checkpoint.save(tmp_path / "x", state, step=3, epoch=0)
    again = stand_in(checkpoint.load(tmp_path / "x")[0], {})
    other = machine_of("dense", share=SHARE)
    other.load_state_dict(state)
    for name in machine.reels:
        assert torch.equal(machine.selected(name), again.selected(name))
        assert torch.equal(machine.selected(name), other.selected(name))
    for wrong in (machine_of("dense"), machine_of("dense", share=0.5)):
        with pytest.raises(SlotkitError, match=r"share is 0\.3 there and"):
            wrong.load_state_dict(state)
    with pytest.raises(SlotkitError, match=r"share is None there and 0\.3 here"):
        machine.load_state_dict(machine_of("dense").state_dict())
    learned = machine.to_learned().state_dict()
    assert [int((value != 0).sum()) for value in learned.values()] == [36, 18]


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "form": (
        {"share": 0.3, "kind": "mask"},
        "share makes a connection's choice depend on the scores of all others of its tensor, and the latent "
        "form looks at each alone. Use form='dense'.",
    ),
    "kind": (
        {"share": 0.3, "form": "dense"},
        "share says how many connections are not 0, so 0 has to be an option. Use kind='mask'.",
    ),
    "selection": (
        {"share": 0.3, "kind": "mask", "form": "dense", "selection": "PS"},
        "share ranks the connections of a tensor by their scores. Use greedy selection.",
    ),
    "share": (
        {"share": 0.0, "kind": "mask", "form": "dense"},
        "share is 0.0. Give a share of the connections, above 0 and at most 1.",
    ),
    "share of a tensor": (
        {"share": 0.05, "kind": "mask", "form": "dense"},
        "share is 0.05, which is none of the 6 connections of weight. Give a larger share, or leave that "
        "weight out with `where`.",
    ),
    "k": (
        {"k": 1, "kind": "mask"},
        "k is 1, and option 0 of the kind mask is 0. Choose k from 2 up.",
    ),
}


@pytest.mark.parametrize(("settings", "text"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(SlotkitError, match="^" + re.escape(text)):
        slotify(nn.Linear(3, 2), **settings)


# ---------------------------------------------------------------------------------------------------
# Inits.


@pytest.mark.parametrize("name", KAIMING_INITS)
def test_inits_have_the_variance_of_kaiming(name: str) -> None:
    reel = Reel("weight", (100, 50, 2, 2), 4, init=name, kind="mask")
    options, deviation = reel.options()[..., 1:].double(), math.sqrt(2 / 200)
    assert math.isclose(float(options.std()), deviation, rel_tol=0.01)
    assert abs(float(options.mean())) < 0.01 * deviation
    assert bool((options != 0).all())
    scores = reel.scores()
    assert 0 < float(scores.min()) < float(scores.max()) <= math.sqrt(6 / 200) + 1e-7
    if name == "kaiming-constant":
        assert set(options.abs().unique().tolist()) == {float(torch.tensor(deviation, dtype=torch.float32))}
    if name == "kaiming-normal":
        assert math.isclose(float((options.abs() < deviation).double().mean()), 0.6827, abs_tol=0.005)


GOLDEN = {
    "kaiming-uniform": ["bd980893", "bd77432f", "bda3aac9", "3db264f5"],
    "kaiming-normal": ["bd94630a", "bd520cd3", "bdb1516e", "3e13b7f5"],
    "kaiming-constant": ["bd4ee116", "bd4ee116", "bd4ee116", "3d4ee116"],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_bits_of_the_inits_stay(name: str) -> None:
    options = Reel("fc1.weight", (300, 784), 4, init=name).options()[299, 783]
    assert [f"{bits & 0xFFFFFFFF:08x}" for bits in options.view(torch.int32).tolist()] == GOLDEN[name]
    assert KAIMING_INITS[name].options(torch.tensor([0.5, -0.5]), Fans(8, 8, False)).sum() == 0


# ---------------------------------------------------------------------------------------------------
# Runs.

POPUP = (
    "--k",
    "2",
    "--set",
    "slots.kind=mask",
    "--set",
    "slots.share=0.3",
    "--set",
    "slots.init=kaiming-constant",
)
ONE = ("train", "--epochs", "1", "--name", "one", "--set", "training.limit_batches=3")


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLOTKIT_RUNS", raising=False)


@pytest.mark.usefixtures("in_a_folder")
def test_relatives_train_as_runs_go_on_and_are_scored() -> None:
    invoke(*ONE, *POPUP, "--trace", "off")
    found = json.loads(invoke("masks", "score", "one", "--json").stdout)
    assert [layer["edges"] for layer in found["layers"]] == [5760, 9000, 300]
    told = invoke("train", "--resume", "one", "--epochs", "2")
    assert told.exit_code == 0
    assert "top share 0.3 of each tensor" in Path("runs/one/log.txt").read_text(encoding="utf-8")
    invoke("train", "--epochs", "1", "--name", "two", *POPUP[:4], "--set", "training.limit_batches=3")
    edges = [
        layer["density"] for layer in json.loads(invoke("masks", "score", "two", "--json").stdout)["layers"]
    ]
    assert all(0.4 < density < 0.6 for density in edges)
    assert invoke("finetune", "two", "--epochs", "1").exit_code == 0


@pytest.mark.usefixtures("in_a_folder")
def test_a_share_has_no_trace(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = refuse(monkeypatch, capsys, *ONE, *POPUP)
    assert "recording.trace is summary, which follows each connection alone, and slots.share ranks" in told
    assert not Path("runs").exists()
    told = refuse(monkeypatch, capsys, *ONE, "--set", "slots.kind=x")
    assert "The kind of options is 'x' and symmetric is False." in told
