"""Populations of masks: who draws what, and what is kept."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from slotkit.config import Overrides
from slotkit.data.seeds import generator
from slotkit.errors import SlotkitError
from slotkit.masks.acceptance import ACCEPTANCES, Acceptance
from slotkit.masks.file import Masks
from slotkit.masks.keeping import are_equal, share_of
from slotkit.masks.making import prepared_for
from slotkit.masks.methods import METHODS, Request
from slotkit.masks.problem import Asked, Drawn
from slotkit.masks.samplers import SAMPLERS
from slotkit.masks.scores import DST, score_layer
from slotkit.masks.search import Search, State, explored_by_chance, has_converged

LABELS = torch.arange(90) % 3
SHAPES = {"a": (12, 40), "b": (9, 5, 3, 3)}


class Toy:
    """Random masks; the loss is a function of the mask."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self.weights = {
            name: torch.randn(shape, generator=generator(name, seed)) for name, shape in SHAPES.items()
        }

    def draw(self, number: int) -> Masks:
        return {
            name: torch.rand(shape, generator=generator(f"toy {name}", self._seed, number)) < 0.3
            for name, shape in SHAPES.items()
        }

    def first(self) -> Masks:
        return self.draw(0)

    def loss(self, masks: Masks) -> float:
        return float(sum((self.weights[name] * mask).sum() for name, mask in masks.items()))

    def saliency(self) -> dict[str, Tensor]:
        return {name: weight.abs() for name, weight in self.weights.items()}


def search(accept: Acceptance | str, seed: int = 0) -> Search:
    rule = ACCEPTANCES[accept] if isinstance(accept, str) else accept
    return Search(Toy(seed), rule, DST, seed)


def scores_of(found: Search, problem: Toy) -> list[tuple[float, float]]:
    scored = [
        score_layer(mask.numpy(), problem.weights[name].double().numpy(), DST)
        for name, mask in found.state.best.items()
    ]
    return [(one.imdb, one.norm) for one in scored]


def never_falls(accept: Acceptance | str, score: int) -> bool:
    """Whether no layer's score is ever lower than before."""
    for seed in range(3):
        found, problem = search(accept, seed), Toy(seed)
        before = scores_of(found, problem)
        for _ in range(12):
            found.step()
            now = scores_of(found, problem)
            if any(new[score] < old[score] for new, old in zip(now, before, strict=True)):
                return False
            before = now
    return True


@pytest.mark.parametrize(
    ("accept", "kept"),
    [("both", (0, 1)), ("imdb", (0,)), ("spectrum", (1,))],
    ids=["both", "imdb", "spectrum"],
)
def test_scores_that_decide_never_fall(accept: str, kept: tuple[int, ...]) -> None:
    assert [never_falls(accept, score) for score in (0, 1)] == [score in kept for score in (0, 1)]


def test_a_rule_that_takes_everything_is_found_out() -> None:
    careless = Acceptance("all", "", lambda best, drawn, draw, layer: True)
    assert not never_falls(careless, 0)
    assert not never_falls(careless, 1)


def test_the_loss_control_takes_whole_masks_and_never_gets_worse() -> None:
    found, problem = search("loss"), Toy()
    losses, taken = [problem.loss(found.state.best)], Counter[int]()
    for _ in range(20):
        row = found.step()
        taken[row.accepted] += 1
        assert row.loss == problem.loss(found.state.best)
        losses.append(row.loss)
    assert losses == sorted(losses, reverse=True)
    assert set(taken) == {0, len(SHAPES)}


def test_the_random_control_keeps_every_draw_alike_often() -> None:
    """After 5 draws each of 6 masks is the kept one with probability 1/6: 1,200 layers, 5 deviations."""
    counts: Counter[int] = Counter()
    for seed in range(600):
        problem, found = Toy(0), Search(Toy(0), ACCEPTANCES["random"], DST, seed)
        origins = dict.fromkeys(SHAPES, 0)
        for number in range(1, 6):
            before = dict(found.state.best)
            found.step()
            for name, mask in found.state.best.items():
                origins[name] = number if mask is not before[name] else origins[name]
        assert all(found.state.best[name].equal(problem.draw(at)[name]) for name, at in origins.items())
        counts.update(origins.values())
    expected, deviation = 200, (1200 * (1 / 6) * (5 / 6)) ** 0.5
    assert all(abs(counts[number] - expected) < 5 * deviation for number in range(6))


def test_explored_is_the_union_of_all_masks() -> None:
    found, problem = search("both"), Toy()
    union = problem.first()
    for number in range(1, 6):
        row = found.step()
        union = {name: union[name] | mask for name, mask in problem.draw(number).items()}
        assert row.explored == share_of(union)
        assert row.density == share_of(found.state.best)
    assert abs(row.explored - explored_by_chance(0.3, 6)) < 0.05


def test_random_masks_explore_what_the_log_says() -> None:
    assert explored_by_chance(0.01, 200) == pytest.approx(0.866, abs=0.001)


def test_convergence_is_a_slope_over_five_updates() -> None:
    assert not has_converged([0.06] * 4)
    assert has_converged([0.01, 0.06] + [0.06 + 0.0005 * n for n in range(5)])
    assert not has_converged([0.06 + 0.0006 * n for n in range(5)])


@pytest.mark.parametrize("kept", [1, 100, 300, 700])
def test_a_repair_gives_the_wanted_number_and_little_else(kept: int) -> None:
    found = search("both")
    best = found.state.best
    repaired = found.repaired(kept)
    assert sum(int(mask.sum()) for mask in repaired.values()) == kept
    smaller = kept <= sum(int(mask.sum()) for mask in best.values())
    pairs = [(repaired[name], best[name]) for name in best]
    assert all(not (one & ~other).any() if smaller else not (other & ~one).any() for one, other in pairs)


@pytest.mark.parametrize(
    ("saliency", "best", "kept", "wanted"),
    [
        # Connections that are worth little beside the largest one are told apart all the same.
        ([1e-9, 2e-9, 3e-9, 1.0, 5e-9], [1, 1, 1, 1, 0], 3, [0, 1, 1, 1, 0]),
        # GraSP's may be negative: what is there stays where some are to be added.
        ([0.1, -5.0, -0.2, 0.05, 0.01], [0, 1, 0, 0, 0], 2, [1, 1, 0, 0, 0]),
        ([-3.0, -2.0, -1.0, -4.0, -5.0], [1, 1, 1, 0, 0], 2, [0, 1, 1, 0, 0]),
    ],
)
def test_a_repair_goes_by_saliency(
    saliency: list[float], best: list[int], kept: int, wanted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = search("both")
    found.state = State({"w": torch.tensor(best).bool()}, {}, 1)
    monkeypatch.setattr(Toy, "saliency", lambda self: {"w": torch.tensor(saliency)})
    assert found.repaired(kept)["w"].tolist() == [bool(one) for one in wanted]


def test_a_draw_is_a_function_of_its_number_in_a_network_with_dropout_too(one_thread: None) -> None:
    """Else a search that goes on would have other masks than one that was never stopped."""
    settings = {"model.name": "conv2", "training.batch_size": 4, "training.device": "cpu"}
    asked = Asked(METHODS["snip"], SAMPLERS["random"], Request(0.1), 1, first_batches=1, held_out=8)
    problem = Drawn(prepared_for([Overrides("test", settings)]), asked)
    first, second, loss = problem.draw(1), problem.draw(2), problem.loss(problem.first())
    assert are_equal(problem.draw(2), second)
    assert are_equal(problem.draw(1), first)
    assert problem.loss(problem.first()) == loss


@pytest.mark.parametrize("name", SAMPLERS)
def test_batches_are_a_function_of_seed_and_draw(name: str) -> None:
    def order(seed: int, draw: int) -> list[int]:
        return SAMPLERS[name].images(LABELS, seed, draw, 30).tolist()

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2)
    assert order(0, 1) != order(1, 1)
    assert len(set(order(0, 1))) == 30
    with pytest.raises(SlotkitError, match="The batches of a draw have 120 images, and there are 90"):
        SAMPLERS[name].images(LABELS, 0, 1, 120)


def test_classes_are_dealt_in_turn_or_drawn() -> None:
    lopsided = torch.cat([torch.zeros(80), torch.ones(8), torch.full((2,), 2.0)]).long()

    def counts(name: str, draw: int) -> list[int]:
        batch = SAMPLERS[name].images(lopsided, 0, draw, 30)
        return torch.bincount(lopsided[batch], minlength=3).tolist()

    assert counts("representative", 0) == [10, 10, 10]
    drawn = torch.tensor([counts("uniform", draw) for draw in range(100)]).sum(0)
    # 3,000 images of three classes: a standard deviation is 26.
    assert bool(((drawn - 1000).abs() < 5 * 26).all())
    plain = torch.tensor([counts("random", draw) for draw in range(100)]).sum(0)
    assert int(plain[0]) > 2400
