"""What is saved is what is loaded, bit by bit: every K, sharing, init, form, and in another process."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from forks import Forks
from slotfile.made import NARROW, Case, bits, ordinary
from slotfile.page_reader import read
from torch import nn

import slotkit
from slotkit import slotfile

pytestmark = pytest.mark.usefixtures("narrow_networks")

CONV = Case("conv2", (2, 4, 4), {"dropout": 0.0})
MASKS = [
    Case("conv2", (2, 4, 4), {}, {"k": 2, "kind": "mask"}),
    Case("lenet", (1, 3, 3), {}, {"k": 5, "kind": "mask", "sharing": "channel", "init": "glorot-deviation"}),
    Case("lenet", (1, 3, 3), {}, {"k": 2, "kind": "mask", "share": 0.1, "form": "dense"}),
]
CASES = [
    *(Case(CONV.model, CONV.image, CONV.options, {"k": k}) for k in (1, 2, 3, 8, 64)),
    *(
        Case(
            CONV.model, CONV.image, CONV.options, {"k": 8, "sharing": s, "symmetric": y, "init": i, "seed": 7}
        )
        for s, y, i in itertools.product(
            ("none", "layer", "channel", "network"), (False, True), ("glorot-deviation", "glorot-uniform")
        )
    ),
    Case("conv4", (1, 8, 8), {"bias": True}, {"k": 3, "others": "trained"}),
    Case("conv4", (1, 8, 8), {"bias": True, "padding": "same"}, {"k": 3, "others": "kept"}),
    Case("vgg19", (3, 16, 16), {}, {"k": 8}),
    Case("vgg19", (3, 16, 16), {"batch_norm": "plain", "bias": True}, {"k": 64, "others": "trained"}),
    Case("vgg19", (3, 16, 16), {}, {"k": 4, "selection": "probabilistic"}),
    Case("lenet", (1, 3, 3), {}, {"k": 8, "form": "dense", "selection": "probabilistic"}),
    Case(
        "lenet",
        (1, 3, 3),
        {"bias": True},
        {"k": 3, "form": "dense", "update": "selected", "others": "trained"},
    ),
    Case("conv2", (2, 4, 4), {}, {"k": 1200, "sharing": "layer"}),
    *MASKS,
    Case("timm/resnet18", (3, 32, 32), {}, {"k": 4, "where": "layer1*conv*.weight", "others": "kept"}),
]

CHILD = """
import json, sys
from slotfile.made import bits
import slotkit
print(json.dumps({path: bits(slotkit.load(path).state_dict()) for path in sys.argv[1:]}))
"""


def test_a_new_process_loads_the_same_bits(tmp_path: Path, forks: Forks) -> None:
    expected = {}
    for number, case in enumerate(CASES):
        state, _ = case.write(tmp_path / f"{number}.safetensors")
        expected[str(tmp_path / f"{number}.safetensors")] = bits(state)
    found = json.loads(forks.start(NARROW + CHILD, *expected, cwd=tmp_path).checked())
    wrong = {str(case) for case, path in zip(CASES, expected, strict=True) if found[path] != expected[path]}
    assert wrong == set()


def test_the_cases_have_both_codings_and_moved_selections(tmp_path: Path) -> None:
    codings, moved = set(), 0
    for case in CASES[:6]:
        _, machine = case.trained()
        for name, reel in machine.reels.items():
            moved += int((machine.selected(name) != reel.scores().argmax(-1)).sum())
        slotfile.save(tmp_path / "x", machine, case.architecture)
        codings |= {record["coding"] for record in slotfile.describe(tmp_path / "x")["reels"]}
    assert codings == {"packed", "entropy"}
    assert moved > 200


@pytest.mark.parametrize(
    "case",
    [
        Case(CONV.model, CONV.image, CONV.options, {"k": 2, "seed": 2**63 - 1}),
        Case(
            CONV.model, CONV.image, CONV.options, {"k": 3, "init": "glorot-deviation", "sharing": "channel"}
        ),
        Case(CONV.model, CONV.image, {"bias": True}, {"k": 8, "symmetric": True, "others": "trained"}),
        Case("conv2", (1, 2, 2), {}, {"k": 1}),
        Case("vgg19", (1, 16, 16), {}, {"k": 12, "sharing": "layer"}),
        Case("conv2", (1, 4, 4), {}, {"k": 5, "sharing": "network"}),
        Case("lenet", (1, 3, 3), {}, {"k": 8, "sharing": "network", "symmetric": True}),
        *MASKS,
    ],
    ids=str,
)
def test_a_reader_written_from_the_pages_reads_the_file(case: Case, tmp_path: Path) -> None:
    state, _ = case.write(tmp_path / "x")
    found = read((tmp_path / "x").read_bytes())
    about = slotfile.describe(tmp_path / "x")
    usual = 2 if about["sharing"] == "network" else 1
    assert about["reel_spec"] == (3 if "kind" in about else usual)
    assert ("kind" in about) == (case in MASKS)
    assert set(found) | {*about["zeros"], *about["ones"]} == set(state)
    for name, values in found.items():
        assert values == state[name].reshape(-1).tolist(), name
    for name in about["zeros"]:
        assert not state[name].any(), name


def test_a_file_with_an_architecture_is_one_that_older_readers_know(tmp_path: Path) -> None:
    Case("lenet", (1, 2, 2), {}, {"k": 3}).write(tmp_path / "x")
    about = slotfile.describe(tmp_path / "x")
    assert about["format"] == 1
    assert set(about) == {
        *("format", "made_by", "architecture", "reading", "reel_spec", "seed", "k", "init", "sharing"),
        *("symmetric", "reels", "zeros", "ones", "stored", "blake2b"),
    }
    told = {"name", "shape", "channel_dim", "coding", "counts", "blake2b"}
    assert all(set(record) == told for record in about["reels"])


def test_a_mask_takes_the_shorter_coding_of_its_own_options(tmp_path: Path) -> None:
    """A tenth of the connections costs less than a bit each; half of them cost a bit."""
    for case, coding, most in ((MASKS[0], "packed", 1.1), (MASKS[2], "entropy", 0.48)):
        _, sizes = case.write(tmp_path / "x")
        largest = max(slotfile.describe(tmp_path / "x")["reels"], key=lambda one: one["shape"][1])
        assert largest["coding"] == coding
        assert largest.get("counts") is None or len(largest["counts"]) == 2
        assert sizes.bits_per_connection < most


@pytest.mark.parametrize("sharing", ["none", "layer", "channel", "network"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("channel_dim", [0, 1])
def test_one_option_is_made_without_the_others(sharing: str, symmetric: bool, channel_dim: int) -> None:
    # More connections than are handled at a time.
    reel = slotkit.Reel("w", (130, 140, 2), 6, 5, "glorot-deviation", sharing, symmetric, channel_dim)
    selected = torch.randint(6, reel.shape)
    assert torch.equal(reel.chosen(selected), reel.options().gather(-1, selected.unsqueeze(-1)).squeeze(-1))


def test_the_loaded_network_is_ordinary_and_in_evaluation_mode(tmp_path: Path) -> None:
    case = Case("vgg19", (3, 16, 16), {}, {"k": 8})
    model, machine = case.trained()
    slotfile.save(tmp_path / "x", machine, case.architecture)
    before = torch.random.get_rng_state()
    loaded = slotkit.load(tmp_path / "x")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not any(module.training for module in loaded.modules())
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded(x), model.eval()(x))
    nn.functional.cross_entropy(loaded(x), torch.tensor([0, 1])).backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_probabilistic_selection_is_written_greedily_or_as_it_is(tmp_path: Path) -> None:
    case = Case("conv2", (2, 4, 4), {}, {"k": 8, "selection": "PS"})
    model, machine = case.trained()
    sample = bits(ordinary(model, case))
    slotfile.save(tmp_path / "greedy", machine, case.architecture)
    assert bits(ordinary(model, case)) == sample
    slotfile.save(tmp_path / "sample", machine, case.architecture, reading="in use")
    machine.spin("greedy")
    greedy = bits(ordinary(model, case))
    assert greedy != sample
    assert bits(slotkit.load(tmp_path / "greedy").state_dict()) == greedy
    assert bits(slotkit.load(tmp_path / "sample").state_dict()) == sample
    assert slotfile.describe(tmp_path / "greedy")["reading"] == "greedy"
    assert slotfile.describe(tmp_path / "sample")["reading"] == "in use"


def test_sizes_are_those_of_the_file(tmp_path: Path) -> None:
    case = Case("lenet", (1, 8, 8), {}, {"k": 8})
    state, sizes = case.write(tmp_path / "x")
    assert sizes.file_bytes == (tmp_path / "x").stat().st_size
    assert sizes.connections == sum(value.numel() for value in state.values())
    assert sizes.dense_bytes == 4 * sizes.connections
    assert sizes.ratio == sizes.dense_bytes / sizes.file_bytes
    assert 0 < sizes.bits_per_connection <= 3
    assert math.isclose(sizes.file_bits_per_connection, 8 * sizes.file_bytes / sizes.connections)


def test_a_negative_zero_is_kept(tmp_path: Path) -> None:
    case = Case("conv2", (2, 4, 4), {"bias": True}, {"k": 2})
    model, machine = case.trained()
    with torch.no_grad():
        model.get_parameter("fc1.bias").fill_(-0.0)
    slotfile.save(tmp_path / "x", machine, case.architecture)
    assert torch.signbit(slotkit.load(tmp_path / "x").get_parameter("fc1.bias")).all()
    assert "fc2.bias" in slotfile.describe(tmp_path / "x")["zeros"]
