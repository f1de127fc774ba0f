"""Checkpoints of the dense form: smaller than K numbers a connection, and the same bits."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from slotkit import slotify
from slotkit.errors import SlotkitError
from slotkit.machine import SlotMachine
from slotkit.reel import Reel, ReelSettings
from slotkit.runs import checkpoint, residuals
from slotkit.runs.residuals import (
    BASES,
    INTEGERS,
    Near,
    Prediction,
    Rows,
    decode,
    encode,
    optimizer_state,
    with_reels,
)

REEL = ReelSettings(k=8, seed=3).reel("weight", (32, 16))
ODD = [0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, 1e-45, -1e-45, 3e38, -1e-38, 65504.0, 1.0]


def bits(values: Tensor) -> Tensor:
    return values.view(INTEGERS[values.dtype])


def rows(dtype: torch.dtype, reel: Reel = REEL) -> Rows:
    return Rows.of(reel, torch.arange(math.prod(reel.shape)), dtype)


def bit_patterns(dtype: torch.dtype) -> st.SearchStrategy[int]:
    """Any bits, and those of odd numbers and of the numbers beside them."""
    limits = torch.iinfo(INTEGERS[dtype])
    odd = bits(torch.tensor(ODD, dtype=torch.float64).to(dtype)).tolist()
    beside = [min(max(bit + step, limits.min), limits.max) for bit in odd for step in (-1, 0, 1)]
    return st.sampled_from(beside) | st.integers(limits.min, limits.max)


@pytest.mark.parametrize("dtype", INTEGERS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_bits_come_back(dtype: torch.dtype, data: st.DataObject) -> None:
    """A trained tensor in which some numbers are anything: NaN of any kind, infinities, denormals, -0.0."""
    c = data.draw(st.sampled_from([1.0, 0.0, -0.3]) | st.floats(-1e4, 1e4))
    a = data.draw(st.sampled_from([0.0, 0.1, 1e3, math.inf]))
    options, scores = rows(torch.float64)
    tensor = (c * scores + a * options).to(dtype)
    places = st.tuples(st.integers(0, tensor.numel() - 1), bit_patterns(dtype))
    for place, pattern in data.draw(st.lists(places, max_size=20)):
        bits(tensor).view(-1)[place] = pattern
    tensor = tensor.reshape(*REEL.shape, REEL.k)
    found = encode(Near(tensor, REEL), "x")
    assert found is not None or not math.isfinite(a)
    if found is not None:
        told, entries = found
        assert torch.equal(bits(decode(json.loads(json.dumps(told)), entries)), bits(tensor))


@pytest.mark.parametrize("sharing", ["none", "channel"])
@pytest.mark.parametrize("k", [1, 2, 6])
def test_parts_that_end_in_the_middle(k: int, sharing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residuals, "PART", 100)
    reel = ReelSettings(k, sharing=sharing, symmetric=k == 2).reel("weight", (70, 6, 3))
    # Of one score a connection, A is all: nothing is gained unless it never moved.
    moved = torch.randn(70, 6, 3, 1) if k > 1 else 0.0
    tensor = reel.scores() * 0.5 + reel.options() * moved
    told, entries = encode(Near(tensor, reel), "x") or pytest.fail("not smaller")
    assert len(entries["x:lengths"]) == -(-(70 * 6 * 3) // (100 // k))
    assert torch.equal(decode(told, entries), tensor)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("basis", BASES)
def test_a_prediction_is_plain_arithmetic(basis: str | None, dtype: torch.dtype) -> None:
    """Python's own floats, one operation after the other, say what every machine has to compute."""
    options, scores = rows(dtype)
    slopes = torch.linspace(-1.3, 1e20, len(options)).to(residuals._exact(dtype))
    of = {
        None: lambda w: 0.0,
        "options": lambda w: w,
        "squares": lambda w: w * w,
        "signs": lambda w: (w > 0) - (w < 0),
    }
    found = Prediction(-0.7, basis).of(Rows(options, scores), None if basis is None else slopes, dtype)
    limits, wanted = torch.finfo(dtype), []
    for a, many, more in zip(slopes.tolist(), options.tolist(), scores.tolist(), strict=True):
        for w, s in zip(many, more, strict=True):
            value = -0.7 * s + a * of[basis](w)
            value = value if limits.tiny <= abs(value) <= limits.max else 0.0
            wanted.append(value if dtype == torch.float64 else struct.unpack("f", struct.pack("f", value))[0])
    assert torch.equal(bits(found).view(-1), bits(torch.tensor(wanted, dtype=torch.float64).to(dtype)))


def test_what_has_no_prediction_is_left_as_it_is() -> None:
    noise = torch.randint(-(2**31), 2**31, (*REEL.shape, REEL.k)).to(torch.int32).view(torch.float32)
    assert encode(Near(noise, REEL), "x") is None


# update, dtype, optimizer
TRAININGS: dict[str, tuple[str, torch.dtype, Callable[..., Optimizer]]] = {
    "all": ("all", torch.float32, lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3)),
    "all, double": ("all", torch.float64, lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3)),
    "all, bfloat16": ("all", torch.bfloat16, lambda p: SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3)),
    "selected": ("selected", torch.float32, lambda p: SGD(p, lr=0.1)),
    "selected, momentum": ("selected", torch.float32, lambda p: SGD(p, 0.1, momentum=0.9, weight_decay=1e-3)),
    "adam": ("all", torch.float32, lambda p: Adam(p, lr=0.01)),
}


def made(update: str, dtype: torch.dtype, selection: str) -> SlotMachine:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8)).to(dtype)
    return slotify(model, k=16, form="dense", update=update, selection=selection, others="trained")


def train(machine: SlotMachine, optimizer: Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(32, 12, generator=generator).to(next(machine.parameters()).dtype)
        machine.model(images).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def saved(path: Path, machine: SlotMachine, optimizer: Optimizer, coded: bool) -> int:
    state, moments = machine.state_dict(), optimizer.state_dict()
    if coded:
        state, moments = with_reels(state, machine), optimizer_state(optimizer, machine)
    checkpoint.save(path, state | {"optimizer": moments})
    return path.stat().st_size


def same(one: Any, two: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, Tensor) and one.is_floating_point():
        return one.dtype == two.dtype and torch.equal(bits(one), bits(two))
    return bool(torch.equal(one, two)) if isinstance(one, Tensor) else bool(one == two)


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("name", TRAININGS)
def test_training_goes_on_with_the_same_bits(name: str, selection: str, tmp_path: Path) -> None:
    update, dtype, of = TRAININGS[name]
    whole = made(update, dtype, selection)
    optimizer = of(list(whole.parameters()))
    train(whole, optimizer, 0, 4)
    size = saved(tmp_path / "coded", whole, optimizer, coded=True)
    assert size < saved(tmp_path / "plain", whole, optimizer, coded=False) * 0.75
    state, _ = checkpoint.load(tmp_path / "coded")
    plain, _ = checkpoint.load(tmp_path / "plain")
    assert same(state, plain)
    resumed = made(update, dtype, selection)
    again = of(list(resumed.parameters()))
    resumed.load_state_dict(state)
    again.load_state_dict(state["optimizer"])
    train(whole, optimizer, 4, 7)
    train(resumed, again, 4, 7)
    assert same(whole.state_dict(), resumed.state_dict())
    assert same(optimizer.state_dict()["state"], again.state_dict()["state"])


def format_of(path: Path) -> int:
    with safe_open(path, framework="pt") as file:
        return int(json.loads(file.metadata()[checkpoint.HEADER])["format"])


def test_only_files_with_residuals_are_of_the_new_format(tmp_path: Path) -> None:
    machine = made("all", torch.float32, "greedy")
    optimizer = machine.optimizer(lr=0.1)
    saved(tmp_path / "plain", machine, optimizer, coded=False)
    saved(tmp_path / "coded", machine, optimizer, coded=True)
    assert (format_of(tmp_path / "plain"), format_of(tmp_path / "coded")) == (1, 2)


def test_scores_that_never_moved_take_next_to_nothing(tmp_path: Path) -> None:
    tensor = REEL.scores()
    _, entries = encode(Near(tensor, REEL), "x") or pytest.fail("not smaller")
    assert sum(entry.nbytes for entry in entries.values()) < tensor.nbytes / 100


def test_what_a_checkpoint_says_is_read_without_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = made("all", torch.float32, "greedy")
    checksum = checkpoint.save(tmp_path / "best", with_reels(machine.state_dict(), machine), epoch=3)
    monkeypatch.setattr(checkpoint, "decode", lambda *given: pytest.fail("decoded"))
    assert checkpoint.told(tmp_path / "best") == ({"epoch": 3}, checksum)


def test_an_init_of_ones_own_is_not_coded() -> None:
    class Own:
        def options(self, uniform: Tensor, fans: object) -> Tensor:
            return uniform * 0.5

        def scores(self, uniform: Tensor, fans: object) -> Tensor:
            return uniform * 0.25

    machine = slotify(nn.Linear(64, 8), k=4, form="dense", init=Own())
    assert isinstance(with_reels(machine.state_dict(), machine)["scores"]["weight"], Tensor)


Told = dict[str, Any]
FORGERIES: dict[str, tuple[Callable[[Told, Told], object], str]] = {
    "more connections": (
        lambda told, entries: told["reel"].update(shape=[2**40, 16]),
        "weight has not the lengths of 17,592,186,044,416 connections' parts",
    ),
    "more options": (
        lambda told, entries: told["reel"]["settings"].update(k=2**13),
        "weight has not the lengths of 512 connections' parts",
    ),
    "a bomb": (
        lambda told, entries: entries.update(
            {"x:lengths": torch.tensor([15]), "x:data": torch.zeros(15, dtype=torch.uint8)}
        ),
        "weight has a part of 15 bytes, too few for its 8 options",
    ),
    "other lengths": (
        lambda told, entries: entries["x:lengths"].add_(1),
        "weight has other bytes than its parts' lengths",
    ),
    "fewer slopes": (
        lambda told, entries: entries.update({"x:slopes": entries["x:slopes"][1:]}),
        "x:data has not one slope a connection",
    ),
    "a longer stream": (
        lambda told, entries: told["reel"].update(shape=[16, 16]),
        "x:data has not one slope|x:data has a part of another size than it says",
    ),
    "infinite c": (lambda told, entries: told.update(c=math.inf), "c"),
    "negative shape": (lambda told, entries: told["reel"].update(shape=[-1, 5]), "shape"),
    "another dtype": (lambda told, entries: told.update(dtype="int8"), "dtype"),
    "another kind": (
        lambda told, entries: told["reel"]["settings"].update(kind="x"),
        "The kind of options is",
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_residuals_are_refused(forgery: str) -> None:
    tensor = REEL.scores() * 0.5 + REEL.options() * torch.linspace(0.01, 1, 512).reshape(32, 16, 1)
    told, entries = encode(Near(tensor, REEL), "x") or pytest.fail("not smaller")
    change, words = FORGERIES[forgery]
    change(told, entries)
    with pytest.raises((ValueError, SlotkitError), match=words):
        decode(told, entries)


def test_the_residual_of_neighbours_is_small() -> None:
    """Zigzag of the distance in floats, across zero, too."""
    tensor = torch.tensor([[1.0, -1.0, 1e-45, -1e-45, -0.0]])
    apart = torch.tensor([[1.0, -1.0, -0.0, 0.0, 0.0]])
    planes = np.frombuffer(residuals.zlib.decompress(residuals._pack(tensor, apart)), np.uint8)
    assert planes.reshape(4, -1)[0].tolist() == [0, 0, 4, 3, 1]
