"""Reel spec 1: golden vectors, the independent implementation, and the properties that follow."""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracle import SpecReel, float32_hex, key_words, same_bits

from slotkit.reel import (
    CHUNK,
    EVALUATION_DRAWS,
    INITIAL_PICK,
    LATEST_SPEC,
    REEL_SPEC,
    SHARINGS,
    TRAINING_DRAWS,
    Reel,
)

DOCS = Path(__file__).parents[1] / "docs"
SPEC_TEXTS = tuple(DOCS / f"reel-spec-{spec}.md" for spec in range(1, LATEST_SPEC + 1))

# ---------------------------------------------------------------------------------------------------
# Golden vectors: float32 bits at one connection. They may never change.


@dataclass(frozen=True)
class Golden:
    reel: SpecReel
    connection: tuple[int, ...]
    options: str
    scores: str
    draws: str  # training draw 0, evaluation draw 1, initial pick 0


GOLDEN = {
    "linear-authors": Golden(
        SpecReel("weight", (2, 3), 4),
        (1, 2),
        "be3db2b6 be6ccc00 bedb003e 3f0c13fc",
        "3f17cd5e 3f3bd840 3f721304 3e2cb8e8",
        "3eeb3442 3e51dd9c 3f50bfc7",
    ),
    "lenet-fc1": Golden(
        SpecReel("fc1.weight", (300, 784), 8),
        (299, 783),
        "bd814b97 bd52481f bd8b3061 3d97b6ae bd0989ec 3c0358c5 bcd7ac6c 3cc3cb2d",
        "3c64a79f 3d061877 3c107cbf 3d83721d 3c182228 3c21490f 3cf42c89 3d5f99b7",
        "3f316b99 3e312504 3efebf76",
    ),
    "largest-seed-paper": Golden(
        SpecReel("fc1.weight", (300, 784), 8, seed=2**63 - 1, init="glorot-deviation"),
        (299, 783),
        "bcf3f35b bc95dc1d 3bc8afab 3cd7bf48 3d1238af 3cf07793 3c8a0a5f 3d0e2533",
        "3a4d19df 3b77fcaa 3b2aa62a 39064602 39731a62 3b8a707b 39911f2f 3b13e134",
        "3f01b3ff 3f7bcfb3 3ef4dd7a",
    ),
    "conv-paper": Golden(
        SpecReel("features.0.weight", (64, 3, 3, 3), 2, seed=2024, init="glorot-deviation"),
        (63, 2, 2, 2),
        "bca219f2 3d51c268",
        "3c7bdac0 3c3af0f2",
        "3ecf658e 3f113bc9 3f1d12e5",
    ),
    "channel-symmetric": Golden(
        SpecReel("weight", (4, 2, 3, 3), 6, seed=7, sharing="channel", symmetric=True),
        (3, 1, 2, 2),
        "3e197b6a be197b6a be0c81d4 3e0c81d4 3ea1c2d2 bea1c2d2",
        "3e7f318f 3e995979 3e6485ea 3e1c44f4 3d5278b0 3e8fa8f5",
        "3e44892c 3ec035c2 3f4e056f",
    ),
    "channel-transposed": Golden(
        SpecReel("up.weight", (4, 2, 3), 3, seed=7, sharing="channel", channel_dim=1),
        (3, 1, 2),
        "be0ca6c8 3eedf07d bea5ef21",
        "3f0114e4 3e25136f 3d1ab983",
        "3e4e393c 3dde4488 3e36b534",
    ),
    "layer-paper": Golden(
        SpecReel("fc.weight", (10, 5), 2, seed=1, init="glorot-deviation", sharing="layer"),
        (9, 4),
        "bdabdea2 be35ac68",
        "3c3b3c3b 3cf021d8",
        "3f7aa0e5 3ec6b6e6 3f670919",
    ),
}

GOLDEN |= {  # of spec 2
    "network-lenet-fc1": Golden(
        SpecReel("fc1.weight", (300, 784), 4, sharing="network"),
        (299, 783),
        "bd6cb506 bd8a7b5b 3d6737c0 3d39bc9c",
        "3c64a79f 3d061877 3c107cbf 3d83721d",
        "3f316b99 3e312504 3efebf76",
    ),
    "network-lenet-fc3": Golden(
        SpecReel("fc3.weight", (10, 100), 4, sharing="network"),
        (0, 0),
        "be39c478 be595c5d 3e35759d 3e11c417",
        "3e4038d0 3dd85eed 3e6df158 3dfe7791",
        "3df413e8 3ef9877e 3b7c1f00",
    ),
    "network-symmetric": Golden(
        SpecReel(
            "features.0.weight",
            (64, 3, 3, 3),
            6,
            seed=2024,
            init="glorot-deviation",
            sharing="network",
            symmetric=True,
        ),
        (63, 2, 2, 2),
        "bc68bc28 3c68bc28 3d166aaa bd166aaa 3d695202 bd695202",
        "3c7bdac0 3c3af0f2 3d560390 3a8eda8c 3d0d7627 3d41310c",
        "3ecf658e 3f113bc9 3f1d12e5",
    ),
}

DRAWS = ((TRAINING_DRAWS, 0), (EVALUATION_DRAWS, 1), (INITIAL_PICK, 0))


def reel_of(spec: SpecReel) -> Reel:
    return Reel(
        spec.name, spec.shape, spec.k, spec.seed, spec.init, spec.sharing, spec.symmetric, spec.channel_dim
    )


def hex_of(values: list[float]) -> str:
    return " ".join(map(float32_hex, values))


@pytest.mark.parametrize("golden", GOLDEN.values(), ids=GOLDEN)
def test_golden_vectors(golden: Golden, device: torch.device) -> None:
    reel, at = reel_of(golden.reel), golden.connection
    assert hex_of(reel.options(device)[at].tolist()) == golden.options
    assert hex_of(reel.scores(device)[at].tolist()) == golden.scores
    assert hex_of([reel.draw(stream, number, device)[at].item() for stream, number in DRAWS]) == golden.draws


@pytest.mark.parametrize("golden", GOLDEN.values(), ids=GOLDEN)
def test_golden_vectors_of_the_independent_implementation(golden: Golden) -> None:
    spec, at = golden.reel, golden.connection
    assert hex_of(spec.options(at)) == golden.options
    assert hex_of(spec.scores(at)) == golden.scores
    assert hex_of([spec.draw(stream, number, at) for stream, number in DRAWS]) == golden.draws


def vectors_in(text: Path) -> list[dict[str, Any]]:
    return [
        json.loads(block) for block in re.findall(r"```json\n(.*?)```", text.read_text("utf-8"), re.DOTALL)
    ]


@pytest.mark.parametrize("text", SPEC_TEXTS, ids=lambda text: text.stem)
def test_vectors_printed_in_the_specs(text: Path) -> None:
    """What the pages print is what slotkit does."""
    vectors = vectors_in(text)
    assert len(vectors) >= 3
    for vector in vectors:
        at = tuple(vector["connection"])
        settings = {key: vector[key] for key in ("name", "k", "seed", "init", "sharing", "symmetric")}
        reel = Reel(shape=tuple(vector["shape"]), kind=vector.get("kind"), **settings)
        assert [f"{word:08x}" for word in key_words("slotkit reel spec", 1, reel.seed, reel.name)] == vector[
            "key"
        ]
        assert [f"{word:08x}" for word in reel.key] == vector["key"]
        assert [f"{word:08x}" for word in reel.option_key] == vector.get("option_key", vector["key"])
        assert f"reel-spec-{reel.spec}" == text.stem
        assert [float32_hex(value) for value in reel.options()[at].tolist()] == vector["options"]
        assert [float32_hex(value) for value in reel.scores()[at].tolist()] == vector["scores"]
        assert float32_hex(reel.draw(TRAINING_DRAWS, 0)[at].item()) == vector["training_draw_0"]


def test_spec_number() -> None:
    """A change of the mapping is a new spec, with its own text; it is never an edit of an old one."""
    assert (REEL_SPEC, LATEST_SPEC) == (1, 3)
    assert SHARINGS == {"none": 1, "layer": 1, "channel": 1, "network": 2}
    assert (TRAINING_DRAWS, EVALUATION_DRAWS, INITIAL_PICK) == (2, 3, 4)


# ---------------------------------------------------------------------------------------------------
# Every connection alone, from the spec's text, gives what the tensor operations give for all.


@st.composite
def specs(draw: st.DrawFn) -> SpecReel:
    shape = tuple(draw(st.lists(st.integers(1, 3), min_size=2, max_size=4)))
    symmetric = draw(st.booleans())
    return SpecReel(
        name=draw(st.sampled_from(["weight", "fc1.weight", "blocks.0.größe"])),
        shape=shape,
        k=draw(st.integers(1, 5)) * (2 if symmetric else 1),
        seed=draw(st.sampled_from([0, 1, 2**32, 2**63 - 1])),
        init=draw(st.sampled_from(["glorot-deviation", "glorot-uniform"])),
        sharing=draw(st.sampled_from(["none", "layer", "channel", "network"])),
        symmetric=symmetric,
        channel_dim=draw(st.integers(0, 1)),
    )


@given(specs())
def test_equals_the_spec_at_every_connection(device: torch.device, spec: SpecReel) -> None:
    reel = reel_of(spec)
    options, scores = reel.options(device), reel.scores(device)
    assert options.shape == scores.shape == (*spec.shape, spec.k)
    assert options.dtype == scores.dtype == torch.float32
    for at in spec.connections():
        assert options[at].tolist() == spec.options(at)
        assert scores[at].tolist() == spec.scores(at)


@given(specs(), st.sampled_from([2, 3, 4]), st.sampled_from([0, 1, 2**31, 2**32 - 1]))
def test_draws_equal_the_spec_at_every_connection(
    device: torch.device, spec: SpecReel, stream: int, number: int
) -> None:
    uniform = reel_of(spec).draw(stream, number, device)
    assert uniform.shape == spec.shape
    assert uniform.dtype == torch.float32
    assert [uniform[at].item() for at in spec.connections()] == [
        spec.draw(stream, number, at) for at in spec.connections()
    ]


@given(specs(), st.data())
def test_rows_of_some_connections(device: torch.device, spec: SpecReel, data: st.DataObject) -> None:
    """Any connections, in any order and with repetitions, give the bits they have in the whole tensor."""
    total = math.prod(spec.shape)
    places = data.draw(st.lists(st.integers(0, total - 1), max_size=5))
    options, scores = reel_of(spec).rows(torch.tensor(places, dtype=torch.int64, device=device))
    assert options.shape == scores.shape == (len(places), spec.k)
    everywhere = list(spec.connections())
    assert options.tolist() == [spec.options(everywhere[place]) for place in places]
    assert scores.tolist() == [spec.scores(everywhere[place]) for place in places]


# More than two chunks of connections and, for draws, more than two chunks of blocks of four.
LONG = (2, 4 * CHUNK + 1001)


def test_chunk_boundaries(device: torch.device) -> None:
    spec = SpecReel("weight", LONG, 5, seed=3)
    reel = reel_of(spec)
    options, scores, uniform = reel.options(device), reel.scores(device), reel.draw(TRAINING_DRAWS, 9, device)
    total = math.prod(LONG)
    seams = [seam + step for seam in (CHUNK, 2 * CHUNK, 4 * CHUNK, 8 * CHUNK) for step in (-1, 0, 1)]
    for place in [0, *seams, total - 1]:
        at = divmod(place, LONG[1])
        assert options[at].tolist() == spec.options(at)
        assert scores[at].tolist() == spec.scores(at)
        assert uniform[at].item() == spec.draw(TRAINING_DRAWS, 9, at)


def test_same_bits_with_one_and_two_threads() -> None:
    reel = Reel("weight", LONG, 3, seed=1, init="glorot-deviation")
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append((reel.options(), reel.scores(), reel.draw(INITIAL_PICK, 0)))
    finally:
        torch.set_num_threads(before)
    assert all(same_bits(one, two) for one, two in zip(*results, strict=True))


def test_the_default_dtype_has_no_say() -> None:
    reel = Reel("weight", (3, 4), 3, init="glorot-deviation")
    expected = reel.options(), reel.scores()
    torch.set_default_dtype(torch.float64)
    try:
        again = reel.options(), reel.scores()
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(same_bits(one, two) for one, two in zip(expected, again, strict=True))


def test_torch_manual_seed_has_no_say() -> None:
    reel = Reel("weight", (3, 4), 3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    expected = reel.options()
    assert torch.equal(torch.get_rng_state(), state), "a reel must not draw from the global generator"
    torch.manual_seed(2)
    assert same_bits(reel.options(), expected)


# ---------------------------------------------------------------------------------------------------
# Properties.


@given(specs(), st.integers(1, 6))
def test_a_larger_k_begins_with_a_smaller_one(device: torch.device, spec: SpecReel, more: int) -> None:
    small = reel_of(spec)
    large = reel_of(replace(spec, k=spec.k + more * (2 if spec.symmetric else 1)))
    assert same_bits(large.options(device)[..., : spec.k], small.options(device))
    assert same_bits(large.scores(device)[..., : spec.k], small.scores(device))


REEL = Reel("fc1.weight", (7, 5), 4, seed=11)


@pytest.mark.parametrize(
    "other",
    [replace(REEL, name="fc2.weight"), replace(REEL, seed=12), replace(REEL, seed=11 + 2**32)],
    ids=["name", "seed", "high-half-of-seed"],
)
def test_another_name_or_seed_is_another_reel(other: Reel) -> None:
    """No number at all is repeated."""
    for numbers, others in (
        (REEL.options(), other.options()),
        (REEL.scores(), other.scores()),
        (REEL.draw(TRAINING_DRAWS, 0), other.draw(TRAINING_DRAWS, 0)),
    ):
        assert not (numbers == others).any()


def test_streams_and_draw_numbers_differ() -> None:
    draws = [REEL.draw(stream, number) for stream in (2, 3, 4) for number in (0, 1, 2**32 - 1)]
    for one, two in itertools.combinations(draws, 2):
        assert not (one == two).any()
