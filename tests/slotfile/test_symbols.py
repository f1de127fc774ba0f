"""Symbols of the entropy coder, made by compiled loops, against a slow form that is obviously right."""

from __future__ import annotations

import itertools
import threading

import pytest
import torch
from torch import Tensor

from slotkit.reel import Reel
from slotkit.selection import greedy, take
from slotkit.slotfile import symbols as module
from slotkit.slotfile.symbols import Work, from_symbols, silent, to_symbols

REELS = [
    *(Reel("w", (5, 6), k) for k in (2, 3, 8, 64, 1000)),
    *(
        Reel("w", (4, 3, 2), 10, 5, init, sharing, symmetric, channel)
        for init, sharing, symmetric, channel in itertools.product(
            ("glorot-uniform", "glorot-deviation"),
            ("none", "layer", "channel", "network"),
            (False, True),
            (0, 1),
        )
    ),
]


def slow(reel: Reel, selected: Tensor) -> Tensor:
    """By sorting all options of every connection."""
    options, scores = reel.rows(torch.arange(len(selected)))
    first = greedy(scores)
    rank = (options < take(options, selected).unsqueeze(-1)).sum(-1)
    return torch.where(take(options, first) == take(options, selected), reel.k, rank)


def selections(reel: Reel) -> Tensor:
    """Options at random; half of the connections have their first one."""
    n = reel.scores().reshape(-1, reel.k).shape[0]
    torch.manual_seed(1)
    random = torch.randint(reel.k, (n,))
    return torch.where(torch.arange(n) % 2 == 0, greedy(reel.scores().reshape(n, reel.k)), random)


@pytest.mark.parametrize("reel", REELS, ids=str)
def test_symbols_are_first_picks_and_ranks(reel: Reel) -> None:
    selected = selections(reel)
    values = reel.chosen(selected.reshape(reel.shape)).reshape(-1)
    found = to_symbols(reel, values, Work(len(values), silent))
    assert found is not None
    assert torch.equal(found[0].long(), slow(reel, selected))
    assert torch.equal(reel.chosen(found[1].long().reshape(reel.shape)).reshape(-1), values)
    assert torch.equal(from_symbols(reel, found[0], Work(len(values), silent)), values)


def test_equal_options_have_the_same_value() -> None:
    """Two of a thousand options are equal now and then: the lowest stands for both, and ranks go on."""
    reel = Reel("w", (200, 2), 1000)
    options = reel.options().reshape(400, 1000)
    ordered, order = options.sort(dim=-1, stable=True)
    twice = ordered[:, 1:] == ordered[:, :-1]
    having = twice.any(-1)
    assert having.sum() > 5
    place = twice.int().argmax(-1)  # the first of the pair, by rank
    initial = greedy(reel.scores().reshape(400, 1000))
    for step in (0, 1, 2):
        rank = (place + step).clamp(max=999)
        selected = take(order, rank)
        found = to_symbols(reel, take(options, selected), Work(400, silent))
        assert found is not None
        lowest = rank - (step == 1) * 1
        moved = having & (take(options, selected) != take(options, initial))
        assert torch.equal(found[0][moved].long(), lowest[moved])
        assert torch.equal(from_symbols(reel, found[0], Work(400, silent)), take(options, selected))
    # A file of before may have the rank of the second.
    symbols = (place + 1).int()
    values = from_symbols(reel, symbols, Work(400, silent))
    assert torch.equal(values[having], ordered.gather(-1, place.unsqueeze(-1)).squeeze(-1)[having])


def test_a_value_that_is_no_option_is_noticed() -> None:
    reel = Reel("w", (5, 6), 8)
    for ranked in (True, False):
        values = reel.chosen(torch.zeros(5, 6, dtype=torch.int64)).reshape(-1)
        assert to_symbols(reel, values, Work(30, silent), ranked) is not None
        values[29] += 1e-3
        assert to_symbols(reel, values, Work(30, silent), ranked) is None
        values[29] = float("nan")
        assert to_symbols(reel, values, Work(30, silent), ranked) is None


def test_parts_and_threads_change_nothing_and_tell_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    reel = Reel("w", (5, 7), 8)
    selected = selections(reel)
    values = reel.chosen(selected.reshape(reel.shape)).reshape(-1)
    whole = to_symbols(reel, values, Work(35, silent))
    monkeypatch.setattr(module, "PART", 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    told: list[float] = []
    work = Work(70, told.append)
    parts = to_symbols(reel, values, work)
    assert parts is not None
    assert whole is not None
    assert torch.equal(parts[0], whole[0])
    assert torch.equal(from_symbols(reel, parts[0], work), values)
    assert told == sorted(told)
    assert len(told) == 18
    assert (told[8], told[-1]) == (0.5, 1.0)


def test_an_error_of_the_report_ends_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART", 1)
    before = threading.active_count()

    def stop(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Work(50, stop).over(50, lambda part: part.start)
    assert threading.active_count() == before
