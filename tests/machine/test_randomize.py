"""randomize: an ordinary network with the weights of an untrained slot machine."""

from __future__ import annotations

import pytest
import torch
from small_networks import (
    equal,
    network,
    same_snapshot,
    slotify,
    snapshot,
)
from torch import Tensor, nn
from torch.nn.utils import parametrize

from slotkit.errors import SlotkitError
from slotkit.making import randomize
from slotkit.reel import INITIAL_PICK, Reel
from slotkit.selection import pick_uniformly, take


@pytest.mark.parametrize("k", [1, 2, 8], ids="k={}".format)
def test_randomize_picks_options_of_the_machine_of_that_seed(k: int, device: torch.device) -> None:
    model, machine = network().to(device), slotify(network(), k, seed=4, init="glorot-deviation")
    before = snapshot(model)
    randomize(model, k, seed=4, init="glorot-deviation")
    for name, reel in machine.reels.items():
        index = pick_uniformly(k, reel.draw(INITIAL_PICK, 0))
        assert torch.equal(model.get_parameter(name).cpu(), take(machine.options(name), index))
        before["state"].pop(name)
    after = snapshot(model)
    assert after["classes"] == before["classes"]
    assert after["training"] == before["training"]
    assert equal({name: after["state"][name] for name in before["state"]}, before["state"]), (
        "only weights change"
    )
    assert not any(parametrize.is_parametrized(module) for module in model.modules())


def test_randomize_is_seeded_and_uses_every_option() -> None:
    def weight(seed: int) -> Tensor:
        model = nn.Linear(40, 50)
        randomize(model, 4, seed=seed)
        return model.weight.detach()

    assert torch.equal(weight(1), weight(1))
    assert not torch.equal(weight(1), weight(2))
    options = Reel("weight", (50, 40), 4, seed=1).options()
    shares = (options == weight(1).unsqueeze(-1)).double().mean(dim=(0, 1))
    # Hoeffding with Bonferroni: sqrt(ln(2 * 4 / 1e-9) / (2 * 2000)) = 0.076.
    assert (shares - 0.25).abs().max() < 0.076


def test_randomize_refuses_what_slotify_refuses() -> None:
    model = network()
    before = snapshot(model)
    with pytest.raises(SlotkitError, match=r"k is 0\. A connection needs"):
        randomize(model, 0)
    with pytest.raises(SlotkitError, match="`where` names 'fc9"):
        randomize(model, 2, where="fc9*")
    assert same_snapshot(snapshot(model), before)
