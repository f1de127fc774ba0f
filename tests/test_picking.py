"""Which parameters become reels."""

from __future__ import annotations

import re
from collections import OrderedDict

import pytest
import torch
from torch import nn

from slotkit.errors import SlotkitError
from slotkit.picking import Where, claim, is_claimed, pick


def model() -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            embed=nn.Embedding(4, 3),
            conv=nn.Conv1d(3, 3, 1),
            up=nn.ConvTranspose1d(3, 2, 1),
            norm=nn.LayerNorm(2),
            head=nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2, bias=False)),
        )
    )


def names(where: Where = None) -> list[str]:
    return [picked.name for picked in pick(model(), where)]


PICKS: dict[str, tuple[Where, list[str]]] = {
    "default": (None, ["conv.weight", "up.weight", "head.0.weight", "head.2.weight"]),
    "name": ("head.0.weight", ["head.0.weight"]),
    "name-of-another-layer": ("embed.weight", ["embed.weight"]),
    "glob": ("head.*.weight", ["head.0.weight", "head.2.weight"]),
    "glob-over-dots": (
        "*o*weight",
        ["conv.weight", "norm.weight"],
    ),
    "list-in-any-order": (["up.weight", "conv.weight"], ["conv.weight", "up.weight"]),
    "list-with-overlap": (["head.*.weight", "head.2.*"], ["head.0.weight", "head.2.weight"]),
    "generator": ((name for name in ("conv.weight",)), ["conv.weight"]),
    "predicate-of-name": (lambda name, value: name.startswith("head.2"), ["head.2.weight"]),
    "predicate-of-size": (lambda name, value: value.numel() == 12, ["embed.weight"]),
}


@pytest.mark.parametrize(("where", "expected"), PICKS.values(), ids=PICKS)
def test_where(where: Where, expected: list[str]) -> None:
    assert names(where) == expected


@pytest.mark.parametrize(
    ("kind", "kernel", "channel_dim"),
    [
        (nn.Linear, (), 0),
        (nn.Conv1d, (1,), 0),
        (nn.Conv2d, (1,), 0),
        (nn.Conv3d, (1,), 0),
        (nn.ConvTranspose1d, (1,), 1),
        (nn.ConvTranspose2d, (1,), 1),
        (nn.ConvTranspose3d, (1,), 1),
    ],
)
def test_every_layer_and_its_output_channels(
    kind: type[nn.Module], kernel: tuple[int, ...], channel_dim: int
) -> None:
    layer = kind(3, 2, *kernel)
    (picked,) = pick(layer)
    assert picked.name == "weight"
    assert picked.channel_dim == channel_dim
    assert picked.parameter is layer.weight
    assert picked.parameter.shape[channel_dim] == 2


def test_a_tied_weight_is_picked_once_under_its_first_name() -> None:
    tied = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 3, bias=False))
    tied[1].weight = tied[0].weight
    (picked,) = pick(tied)
    assert picked.name == "0.weight"
    assert picked.holders == [(tied[0], "weight"), (tied[1], "weight")]


@pytest.mark.parametrize("where", ["1.weight", "1.*", ["1.weight", "0.weight"]], ids=str)
def test_a_tied_weight_is_picked_by_any_of_its_names(where: Where) -> None:
    tied = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 3, bias=False), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert [picked.name for picked in pick(tied, where)] == ["0.weight"]
    with pytest.raises(SlotkitError, match=r"Near it: 1\.weight, "):
        pick(tied, "1.wait")


def test_nothing_to_pick() -> None:
    with pytest.raises(
        SlotkitError,
        match=re.escape(
            "LayerNorm has no weight to slotify: `where` picks none of its parameters (weight, bias). "
            "By default every weight of Linear and Conv layers is picked."
        ),
    ):
        pick(nn.LayerNorm(3))
    with pytest.raises(
        SlotkitError,
        match=re.escape("ReLU has no weight to slotify: `where` picks none of its parameters (it has none)."),
    ):
        pick(nn.ReLU())
    with pytest.raises(SlotkitError, match="Sequential has no weight to slotify"):
        names(lambda name, value: False)
    with pytest.raises(SlotkitError, match="Sequential has no weight to slotify"):
        names([])


def test_a_pattern_without_a_match_names_its_neighbours() -> None:
    with pytest.raises(
        SlotkitError,
        match=r"`where` names 'hed\.0\.weight', which matches no parameter\. Near it: head\.0\.weight,",
    ):
        names(["conv.weight", "hed.0.weight"])


def test_lazy_layers_are_refused() -> None:
    with pytest.raises(
        SlotkitError,
        match=r"weight belongs to a lazy layer without a shape yet\. Run one batch through the model first\.",
    ):
        pick(nn.LazyLinear(3))


def test_parametrized_weights_are_refused() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    with pytest.raises(
        SlotkitError,
        match=re.escape("is parametrized already (a slot machine, or weight norm). Remove that first"),
    ):
        pick(layer, "*original1")


def test_integer_weights_are_refused() -> None:
    layer = nn.Linear(3, 2)
    layer.weight = nn.Parameter(torch.zeros(2, 3, dtype=torch.int8), requires_grad=False)
    with pytest.raises(
        SlotkitError,
        match=r"weight is of type torch\.int8\. Reels are real numbers: leave it out of `where`\.",
    ):
        pick(layer)


def claimed_model() -> nn.Sequential:
    claimed = model()
    claim(claimed.get_parameter("head.0.weight"))
    return claimed


def test_claims() -> None:
    claimed = claimed_model()
    assert [name for name, value in claimed.named_parameters() if is_claimed(value)] == ["head.0.weight"]
    assert not any(is_claimed(value) for value in model().parameters())


def test_what_another_machine_has_is_not_picked() -> None:
    assert [picked.name for picked in pick(claimed_model())] == ["conv.weight", "up.weight", "head.2.weight"]


CLAIMED: dict[str, Where] = {
    "name": "head.0.weight",
    "glob": "head.*",
    "list": ["conv.weight", "head.0.weight"],
    "predicate": lambda name, value: name == "head.0.weight",
}


@pytest.mark.parametrize("where", CLAIMED.values(), ids=CLAIMED)
def test_asking_for_what_another_machine_has_is_refused(where: Where) -> None:
    claimed = claimed_model()
    with pytest.raises(
        SlotkitError,
        match=re.escape("head.0.weight belongs to a slot machine already. Leave it out of `where`."),
    ):
        pick(claimed, where)


def test_a_claimed_weight_is_claimed_in_every_layer_that_holds_it() -> None:
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    tied[2].weight = tied[0].weight
    claim(tied.get_parameter("2.weight"))
    assert [picked.name for picked in pick(tied)] == ["1.weight"]
