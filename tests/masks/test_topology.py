"""Dynamic sparse training: what is dropped and grown, against a slow loop over connections."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from slotkit.errors import DivergedError, SlotkitError
from slotkit.masks.densities import erk_densities, kept_by_layer
from slotkit.masks.exchange import grown, number_exchanged, random_scores, without_smallest
from slotkit.masks.scores import score_layer
from slotkit.masks.sparse_settings import SparseSettings
from slotkit.masks.topology import Change, Topology

Bools = npt.NDArray[np.bool_]

TOTAL = 40  # steps


def dropped_slowly(weight: npt.NDArray[Any], mask: Bools, number: int) -> set[int]:
    """Which connections go: one after the other the smallest; of equal ones those that come last."""
    there = [place for place in range(mask.size) if mask.flat[place]]
    gone: set[int] = set()
    for _ in range(number):
        left = [place for place in there if place not in gone]
        gone.add(min(left, key=lambda place: (abs(weight.flat[place]), -place)))
    return gone


def grown_slowly(scores: npt.NDArray[Any], mask: Bools, number: int) -> set[int]:
    """Which come: one after the other the highest; of equal ones those that come first."""
    come: set[int] = set()
    for _ in range(number):
        free = [place for place in range(mask.size) if not mask.flat[place] and place not in come]
        come.add(max(free, key=lambda place: (scores.flat[place], -place)))
    return come


def places(mask: Tensor) -> set[int]:
    return set(mask.reshape(-1).nonzero().squeeze(1).tolist())


# Small whole numbers, so that there are ties and zeros.
layers = st.lists(
    st.tuples(st.integers(-3, 3), st.integers(0, 4), st.booleans()), min_size=1, max_size=30
).flatmap(lambda rows: st.tuples(st.just(rows), st.floats(0.01, 1)))


@given(layers)
@settings(max_examples=60, deadline=None)
def test_the_smallest_go_and_the_highest_come(drawn: tuple[list[tuple[int, int, bool]], float]) -> None:
    rows, rate = drawn
    weight = torch.tensor([[float(row[0]) for row in rows]])
    gradient = torch.tensor([[float(row[1]) for row in rows]])
    mask = torch.tensor([[row[2] for row in rows]])
    number = number_exchanged(rate, int(mask.sum()), mask.numel())
    assert 0 <= number <= min(int(mask.sum()), int((~mask).sum()))
    stays = without_smallest(weight, mask, number)
    gone = dropped_slowly(weight.numpy(), mask.numpy(), number)
    assert places(stays) == places(mask) - gone
    after = grown(gradient, stays, number)
    assert places(after) == places(stays) | grown_slowly(gradient.numpy(), stays.numpy(), number)
    assert after.sum() == mask.sum()
    by_signs = without_smallest(weight, mask, number, "signs")
    assert by_signs.sum() == stays.sum()
    assert not bool((by_signs & ~mask).any())


def test_signs_drops_half_of_each() -> None:
    weight = torch.tensor([-3.0, -1, -2, 0, 5, 1, 2, 9])
    mask = torch.tensor([True] * 7 + [False])
    # The odd one is positive, and 0 counts as such: 0, 1 and -1 go.
    assert places(without_smallest(weight, mask, 3, "signs")) == {0, 2, 4, 6}
    # Three negative ones are all there are.
    assert places(without_smallest(weight, mask, 7, "signs")) == set()
    assert places(without_smallest(weight, mask, 6, "signs")) == {4}


def test_a_share_is_rounded_up_and_a_dense_layer_is_left_alone() -> None:
    assert number_exchanged(0.07, 100, 1000) == 7  # 0.07 * 100 is 7.000000000000001
    assert number_exchanged(0.071, 100, 1000) == 8
    assert number_exchanged(0.5, 100, 110) == 10
    assert number_exchanged(0.5, 100, 100) == 0


def test_random_words_depend_on_what_they_are_named_by_and_nothing_else() -> None:
    like = torch.zeros(7, 3)
    words = random_scores(like, "fc1", 0, 100)
    assert torch.equal(words, random_scores(like, "fc1", 0, 100))
    assert words.shape == like.shape
    assert torch.equal(words.reshape(-1)[:9], random_scores(torch.zeros(9), "fc1", 0, 100))  # by place
    others = [("fc2", 0, 100, 0), ("fc1", 1, 100, 0), ("fc1", 0, 101, 0), ("fc1", 0, 100, 1)]
    assert all(not torch.equal(words, random_scores(like, *other)) for other in others)


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 12), nn.Linear(12, 3))


def dynamic(**values: Any) -> SparseSettings:
    return SparseSettings(**({"method": "set", "density": 0.3, "interval": 4, "until": 1.0} | values))


def optimizer_of(model: nn.Module, kind: str = "sgd") -> torch.optim.Optimizer:
    if kind == "adam":
        return torch.optim.AdamW(model.parameters(), 0.01)
    return torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=0.01)


class Watched(Topology):
    """`seen` looks at every update."""

    seen: Callable[..., None]

    def update(self, step: int, total: int, optimizer: Any, gradients: Mapping[str, Tensor]) -> Change:
        before = {name: mask.clone() for name, mask in self.masked.masks.items()}
        weights = {name: weight.detach().clone() for name, weight in self.masked.weights.items()}
        change = super().update(step, total, optimizer, gradients)
        self.seen(step, change, before, weights)
        return change


def train(
    model: nn.Module, topology: Topology, optimizer: torch.optim.Optimizer, raw: dict[str, Tensor]
) -> None:
    """TOTAL steps. Before each, `raw` gets the gradients of all connections."""
    chance = torch.Generator().manual_seed(2)
    for step in range(1, TOTAL + 1):
        images = torch.randn(6, 1, 4, 4, generator=chance)
        nn.functional.cross_entropy(model(images), torch.arange(6) % 3).backward()
        for name, weight in topology.masked.weights.items():
            assert weight.grad is not None
            raw[name] = weight.grad.clone()
        topology.step(optimizer, step, TOTAL)
        optimizer.zero_grad()
        for name, weight in topology.masked.weights.items():
            assert bool((weight[~topology.masked.masks[name]] == 0).all())


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("method", ["set", "rigl"])
def test_a_training_keeps_each_layers_number_and_explores_the_union(method: str, kind: str) -> None:
    model = network()
    topology = Watched(model, dynamic(method=method), seed=3)
    shapes = {name: tuple(mask.shape) for name, mask in topology.masked.masks.items()}
    due = kept_by_layer(shapes, erk_densities(shapes, 0.3), 0.3)
    union = {name: places(mask) for name, mask in topology.masked.masks.items()}
    assert topology.explored_share == topology.density == sum(due.values()) / 264
    updates, optimizer, raw = [], optimizer_of(model, kind), {}

    def seen(step: int, change: Change, before: Any, weights: Any) -> None:
        updates.append(step)
        dropped = new = 0
        for name, mask in before.items():
            after = topology.masked.masks[name]
            assert int(after.sum()) == due[name]
            rate = 0.005 + 0.495 * (1 + np.cos(np.pi * step / TOTAL)) / 2
            number = min(int(np.ceil(rate * due[name] - 1e-9)), after.numel() - due[name])
            gone = dropped_slowly(weights[name].numpy(), mask.numpy(), number)
            stays = places(mask) - gone
            assert stays <= places(after)
            if method == "rigl":
                left = mask.clone()
                left.view(-1)[list(gone)] = False
                come = grown_slowly(raw[name].abs().numpy(), left.numpy(), number)
                assert places(after) == stays | come
            union[name] |= places(after)
            fresh = list(places(after) - stays)
            assert bool((topology.masked.weights[name].detach().view(-1)[fresh] == 0).all())
            memory = optimizer.state[topology.masked.weights[name]].values()
            for value in [value for value in memory if isinstance(value, Tensor) and value.ndim > 1]:
                assert bool((value.view(-1)[fresh] == 0).all())
                assert bool((value.view(-1)[list(gone)] == 0).all())
            dropped, new = dropped + number, new + len(places(after) - places(mask))
        assert (change.dropped, change.new) == (dropped, new)
        assert change.explored == sum(map(len, union.values())) / 264

    topology.seen = seen
    train(model, topology, optimizer, raw)
    assert updates == list(range(4, TOTAL + 1, 4))
    assert topology.explored_share > 1.2 * topology.density
    assert {name: places(mask) for name, mask in topology.explored.items()} == union


WRONG: dict[str, tuple[str, Any]] = {
    "drops the largest": (
        "without_smallest",
        lambda weight, mask, number, by: without_smallest(-1 / (weight.abs() + 1), mask, number),
    ),
    "grows one too few": (
        "grown",
        lambda scores, mask, number: grown(scores, mask, number - 1),
    ),
    "grows the smallest": ("grown", lambda scores, mask, number: grown(1 / (1 + scores), mask, number)),
    "rounds down": (
        "number_exchanged",
        lambda rate, active, connections: min(int(rate * active), connections - active),
    ),
}


@pytest.mark.parametrize(("name", "wrong"), WRONG.values(), ids=WRONG)
def test_wrong_variants_are_rejected(name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"slotkit.masks.topology.{name}", wrong)
    with pytest.raises(AssertionError):
        test_a_training_keeps_each_layers_number_and_explores_the_union("rigl", "sgd")


def test_momentum_that_is_kept_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    put = Topology._put

    def keeping(self: Topology, name: str, stays: Tensor, after: Tensor, optimizer: Any) -> None:
        put(self, name, stays, after, type("Optimizer", (), {"state": {}}))

    monkeypatch.setattr(Topology, "_put", keeping)
    with pytest.raises(AssertionError):
        test_a_training_keeps_each_layers_number_and_explores_the_union("rigl", "sgd")


def test_grown_weights_have_their_initial_values_where_that_is_asked_for() -> None:
    model = network()
    initial = {name: value.detach().clone() for name, value in model.named_parameters()}
    topology = Watched(model, dynamic(grown="initial"), seed=3)
    found = []

    def seen(step: int, change: Change, before: Any, weights: Any) -> None:
        for name, mask in before.items():
            new = topology.masked.masks[name] & ~mask
            found.append(int(new.sum()))
            assert torch.equal(topology.masked.weights[name][new], initial[name][new])

    topology.seen = seen
    train(model, topology, optimizer_of(model), {})
    assert sum(found) > 20


@pytest.mark.parametrize("score", ["spectrum", "imdb"])
def test_the_best_of_several_proposals_is_taken(score: str) -> None:
    """Each layer has, of the masks that its words would make, the one of the highest score."""
    model = nn.Sequential(nn.Linear(12, 10, bias=False), nn.Linear(10, 8, bias=False))
    initial = {name: value.detach().clone() for name, value in model.named_parameters()}
    topology = Topology(model, dynamic(proposals=4, proposal_score=score, density=0.5), seed=5)
    before = {name: mask.clone() for name, mask in topology.masked.masks.items()}
    weights = {name: weight.detach().clone() for name, weight in topology.masked.weights.items()}
    topology.update(4, TOTAL, optimizer_of(model), {})
    chosen = []
    for name, mask in before.items():
        number = number_exchanged(topology.rate(4, TOTAL), topology.kept[name], mask.numel())
        stays = without_smallest(weights[name], mask, number)
        tried = [grown(random_scores(mask, name, 5, 4, p), stays, number) for p in range(4)]
        scores = [score_layer(one.numpy(), initial[name].numpy()) for one in tried]
        values = [one.norm if score == "spectrum" else one.imdb for one in scores]
        assert len(set(values)) > 1
        assert torch.equal(topology.masked.masks[name], tried[int(np.argmax(values))])
        chosen.append(int(np.argmax(values)))
    assert any(chosen)


def test_rates_over_time() -> None:
    model = network()
    for schedule, rates in (
        ("constant", [0.4, 0.4, 0.4]),
        ("linear", [0.4, 0.25, 0.1]),
        ("cosine", [0.4, 0.25, 0.1]),
    ):
        end = {} if schedule == "constant" else {"drop_end": 0.1}
        values = dynamic(drop_schedule=schedule, drop_rate=0.4, until=0.5, **end)
        topology = Topology(model, values, seed=0)
        found = [topology.rate(step, TOTAL) for step in (0, TOTAL // 4, TOTAL // 2)]
        assert found == pytest.approx(rates)
        assert [step for step in range(1, TOTAL + 1) if topology.is_due(step, TOTAL)] == [4, 8, 12, 16, 20]


def test_numbers_that_are_not_finite_end_the_training_in_a_sentence() -> None:
    model = network()
    topology = Topology(model, dynamic(method="rigl"), seed=0)
    gradients = {name: torch.full_like(weight, torch.nan) for name, weight in topology.masked.weights.items()}
    with pytest.raises(DivergedError) as caught:
        topology.update(4, TOTAL, optimizer_of(model), gradients)
    assert str(caught.value) == (
        "Weights or gradients of 0.weight are not finite where its mask is to change, after step 4. Lower "
        "--lr and start again."
    )


def test_states_that_contradict_themselves_are_refused() -> None:
    topology = Topology(network(), dynamic(), seed=0)
    masks = topology.masks_state()
    assert topology.masks_in(masks).keys() == topology.masked.masks.keys()
    with pytest.raises(SlotkitError, match=r"the mask of 0.weight has 0 connections, where \d+ are due"):
        topology.masks_in(masks | {"0.weight": torch.zeros_like(masks["0.weight"])})
    empty = {"explored": {name: torch.zeros_like(bits) for name, bits in masks.items()}}
    with pytest.raises(SlotkitError, match=r"the explored connections of 0.weight lack some of its mask"):
        topology.explored_in(empty, topology.masks_in(masks))


def test_a_mask_to_begin_with() -> None:
    model, like = network(), Topology(network(), dynamic(density=0.5), seed=9)
    begun = Topology(model, dynamic(density=None), seed=0, masks=like.masked.masks)
    assert begun.kept == like.kept
    assert all(torch.equal(begun.masked.masks[n], mask) for n, mask in like.masked.masks.items())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "none"}, "sparse.method is none, so no mask would change. Choose set or rigl;"),
        ({"density": None}, "sparse.method is set, and how many connections there are is not said."),
        ({"method": "rigl", "proposals": 2}, "sparse.proposals is 2, and rigl grows by the gradient"),
    ],
)
def test_settings_that_do_nothing_are_refused_in_a_loop_of_ones_own(
    changes: dict[str, Any], sentence: str
) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(SlotkitError, match="^" + re.escape(sentence)):
        Topology(model, dynamic(**changes), seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_masks_and_a_density_are_one_too_many() -> None:
    masks = Topology(network(), dynamic(), seed=0).masked.masks
    with pytest.raises(
        SlotkitError, match=r"sparse\.density and mask both say how many connections there are"
    ):
        Topology(network(), dynamic(), seed=0, masks=masks)


def test_the_program_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "sparse.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    exec(program, {})
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[0]) for line in lines] == [10, 20, 30, 40]
