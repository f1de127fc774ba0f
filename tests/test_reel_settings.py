"""What sharing, pairs and bounds promise, and how the settings of a reel are told and read back."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from oracle import distinct_sets, float32, same_bits
from torch import nn

from slotkit.errors import SlotkitError
from slotkit.reel import (
    CHUNK,
    INITS,
    TRAINING_DRAWS,
    Fans,
    Reel,
    ReelSettings,
    UniformInit,
)

# Chance that a correct generator fails one of the statistical tests below, had the seeds been drawn.
FALSE_ALARM = 1e-9
# Enough numbers for them.
LONG = (2, 4 * CHUNK + 1001)

SHAPES = {
    "linear": ((6, 4), 0, 6),
    "conv1d": ((5, 2, 3), 0, 5),
    "conv2d": ((4, 3, 2, 2), 0, 4),
    "transposed": ((4, 3, 2, 2), 1, 3),
}


@pytest.mark.parametrize(("shape", "channel_dim", "channels"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("symmetric", [False, True], ids=["plain", "symmetric"])
def test_sharing_gives_the_promised_number_of_sets(
    shape: tuple[int, ...], channel_dim: int, channels: int, symmetric: bool
) -> None:
    promised = {"none": math.prod(shape), "channel": channels, "layer": 1}
    for sharing, sets in promised.items():
        reel = Reel("weight", shape, 4, sharing=sharing, symmetric=symmetric, channel_dim=channel_dim)
        assert distinct_sets(reel.options()) == sets
        assert reel.distinct_options().numel() == sets * 4
        assert distinct_sets(reel.scores()) == math.prod(shape), "scores are never shared"


@pytest.mark.parametrize(("shape", "channel_dim", "channels"), SHAPES.values(), ids=SHAPES)
def test_channels_have_their_own_sets(shape: tuple[int, ...], channel_dim: int, channels: int) -> None:
    options = Reel("weight", shape, 4, sharing="channel", channel_dim=channel_dim).options()
    assert [distinct_sets(channel) for channel in options.unbind(channel_dim)] == [1] * channels


@pytest.mark.parametrize("sharing", ["none", "layer", "channel"])
def test_symmetric_pairs_sum_to_zero(sharing: str) -> None:
    options = Reel("weight", (5, 3, 2), 6, sharing=sharing, symmetric=True).options()
    assert torch.equal(options[..., 0::2], -options[..., 1::2])
    assert (options != 0).all()
    assert options[..., 0::2].unique().numel() == distinct_sets(options) * 3  # type: ignore[no-untyped-call]


LAYERS = {
    "linear": nn.Linear(70, 50),
    "conv1d": nn.Conv1d(16, 24, 5),
    "conv2d-grouped": nn.Conv2d(32, 32, 3, groups=2),
    "conv3d": nn.Conv3d(8, 12, 3),
    "transposed-conv2d": nn.ConvTranspose2d(16, 24, 3),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_bounds_of_paper_and_authors(layer: nn.Linear | nn.Conv2d) -> None:
    shape = tuple(layer.weight.shape)
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(layer.weight)
    fans = Fans.of(shape)
    assert (fans.fan_in, fans.fan_out, fans.convolution) == (fan_in, fan_out, len(shape) > 2)
    glorot_deviation = math.sqrt(2 / (fan_in + fan_out))
    glorot_bound = math.sqrt(6 / (fan_in + fan_out))
    paper_scores = glorot_deviation * (1.0 if len(shape) > 2 else 0.1)
    for init, bound, score_bound in (
        ("glorot-deviation", glorot_deviation, paper_scores),
        ("glorot-uniform", glorot_bound, glorot_bound),
    ):
        reel = Reel("weight", shape, 4, init=init)
        options, scores = reel.options(), reel.scores()
        known = INITS[init]
        assert isinstance(known, UniformInit)
        assert known.bound(fans) == float32(bound)
        # That none of 5,000 numbers comes within 1 % of an end has odds of 0.995**5000 = 1e-11.
        assert options.numel() > 5_000
        assert 0.99 * bound < options.max() < float32(bound)
        assert -float32(bound) < options.min() < -0.99 * bound
        assert 0.99 * score_bound < scores.max() <= float32(score_bound)
        assert 0 < scores.min() < 0.01 * score_bound


def test_a_network_shares_k_numbers_times_the_bounds() -> None:
    shapes = {"fc1.weight": (300, 784), "fc2.weight": (100, 300), "fc3.weight": (10, 100)}
    settings = ReelSettings(8, seed=3, sharing="network")
    reels = [settings.reel(name, shape) for name, shape in shapes.items()]
    numbers = [(reel.distinct_options() / reel.bound).flatten() for reel in reels]
    for reel, found in zip(reels, numbers, strict=True):
        assert distinct_sets(reel.options()) == 1
        torch.testing.assert_close(found, numbers[0], rtol=2**-22, atol=0)
        assert not torch.equal(reel.scores()[0, 0], reel.scores()[0, 1])
    assert not torch.equal(reels[0].scores()[:10, :100], reels[2].scores())
    other = replace(settings, seed=4).reel("fc1.weight", shapes["fc1.weight"])
    assert not torch.equal(other.distinct_options(), reels[0].distinct_options())


def test_bounds_do_not_depend_on_k() -> None:
    assert same_bits(Reel("weight", (4, 3), 64).options()[..., :2], Reel("weight", (4, 3), 2).options())


@pytest.mark.parametrize("what", ["options", "scores", "draw"])
def test_uniform_within_the_dkw_band(what: str) -> None:
    """Dvoretzky, Kiefer, Wolfowitz: P(sup |F_n - F| > e) <= 2 exp(-2 n e^2); e = sqrt(ln(2 / alarm) / 2n)."""
    reel = Reel("weight", LONG, 2, seed=5)
    bound = UniformInit(6.0).bound(reel.fans)
    unit = {
        "options": lambda: (reel.options() / bound + 1) / 2,
        "scores": lambda: reel.scores() / bound,
        "draw": lambda: reel.draw(TRAINING_DRAWS, 3),
    }[what]()
    ordered = unit.double().flatten().sort().values
    n = len(ordered)
    distance = (ordered - torch.arange(1, n + 1) / n).abs().max().item() + 1 / n
    assert distance < math.sqrt(math.log(2 / FALSE_ALARM) / (2 * n)) + 2**-20


def test_settings_are_told_and_read_back() -> None:
    settings = ReelSettings(6, 3, "glorot-deviation", "layer", True)
    # What files and states hold: not a key more or less.
    told = {"k": 6, "seed": 3, "init": "glorot-deviation", "sharing": "layer", "symmetric": True}
    assert list(settings.to_dict().items()) == list(told.items())
    assert ReelSettings.from_dict(told) == settings
    reel = settings.reel("fc.weight", (4, 2))
    assert reel == Reel("fc.weight", (4, 2), 6, 3, "glorot-deviation", "layer", True)
    assert reel.settings == settings


def test_settings_that_are_not_all_there_are_refused() -> None:
    with pytest.raises(SlotkitError) as caught:
        ReelSettings.from_dict({"k": 2, "colour": "red"})
    assert str(caught.value) == (
        "These are settings of reels with colour, k. Give k, seed, init, sharing, symmetric, all of them and "
        "nothing else."
    )
    with pytest.raises(SlotkitError, match="symmetric options come in pairs"):
        ReelSettings(3, symmetric=True)


def test_settings_by_other_names_than_texts_are_refused() -> None:
    told = ReelSettings(2).to_dict()
    with pytest.raises(SlotkitError) as caught:
        ReelSettings.from_dict({**told, 7: "seven", None: 0})  # type: ignore[dict-item]
    assert str(caught.value) == (
        "These are settings of reels with 7, None, init, k, seed, sharing, symmetric. Give k, seed, init, "
        "sharing, symmetric, all of them and nothing else."
    )
    with pytest.raises(SlotkitError, match=r"^These are settings of reels with nothing\. Give k, "):
        ReelSettings.from_dict({})


@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_symmetric_is_true_or_false(value: object) -> None:
    with pytest.raises(SlotkitError) as caught:
        ReelSettings.from_dict(ReelSettings(2).to_dict() | {"symmetric": value})
    assert str(caught.value) == (f"symmetric is {value!r}. Give true for options in pairs +v, -v, or false.")
