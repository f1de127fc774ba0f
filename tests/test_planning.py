"""A plan says what slotify makes, to the byte."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slotkit import save, slotify
from slotkit.errors import SlotkitError
from slotkit.latent.state import STATE
from slotkit.machine import SlotMachine
from slotkit.models import create
from slotkit.planning import Memory, plan, plan_named


def encoder() -> nn.Module:
    """With attention, norms and a parameter of its own."""
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


def nbytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def counted(machine: SlotMachine, form: str) -> Memory:
    """What is really there after a step with momentum."""
    optimizer = machine.optimizer(lr=0.1, momentum=0.9)
    machine.model(torch.randn(3, 5, 8)).square().sum().backward()
    optimizer.step()
    named = dict(machine.model.named_parameters())
    # In the dense form a weight and its gradient exist while they are used, beside the scores.
    used = nbytes(machine.options(name)[..., 0] for name in machine.reels) if form == "dense" else 0
    kept = [
        value
        for values in optimizer.state.values()
        for name, value in values.items()
        if name not in STATE and isinstance(value, Tensor)
    ]
    return Memory(
        f"{form} form",
        nbytes(value for name, value in named.items() if "parametrizations" not in name) + used,
        nbytes(value.grad for value in named.values() if value.grad is not None) + used,
        machine.form.state_bytes() + nbytes(kept),
    )


@pytest.mark.parametrize("form", ["latent", "dense"])
@pytest.mark.parametrize("others", ["frozen", "trained"])
@pytest.mark.parametrize(("k", "selection"), [(8, "greedy"), (6, "probabilistic")])
def test_bytes_are_those_of_a_machine_that_trains(form: str, others: str, k: int, selection: str) -> None:
    model = encoder()
    planned = plan(copy.deepcopy(model), k, selection=selection, others=others)
    machine = slotify(model, k, selection, form=form, others=others)
    (said,) = (one for one in planned.memory if one.form == f"{form} form")
    assert counted(machine, form) == said
    assert planned.step is None
    assert planned.why_no_step == "the shape of an image is not given"


def test_bytes_of_ordinary_training() -> None:
    model = create("lenet", (1, 28, 28), 10)
    ordinary = plan(model).memory[0]
    assert (ordinary.weights, ordinary.gradients, ordinary.state) == (4 * 266_200,) * 3
    assert ordinary.total == 3 * 4 * 266_200


@pytest.mark.parametrize("name", ["timm/resnet18", "timm/vit_tiny_patch16_224"])
def test_bytes_of_large_networks_are_those_of_their_tensors(name: str) -> None:
    """In ordinary training, after a step with momentum; and of what is saved."""
    planned, image, classes = plan_named(name, 8)
    model = create(name, image, classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    ordinary = planned.memory[0]
    assert ordinary.weights == nbytes(model.parameters())
    assert ordinary.gradients == nbytes(p.grad for p in model.parameters() if p.grad is not None)
    assert ordinary.state == nbytes(values["momentum_buffer"] for values in optimizer.state.values())
    # Batch norm's statistics are saved, too.
    assert planned.dense_file == nbytes(model.state_dict().values())


def test_what_becomes_reels_is_what_slotify_picks() -> None:
    """Attention's projections of queries, keys and values among them, in both forms."""
    planned = plan(encoder(), 4)
    reels = {tensor.name: tensor for tensor in planned.tensors if tensor.becomes == "reel"}
    for form in ("latent", "dense"):
        model = encoder()
        machine = slotify(model, 4, form=form)
        assert list(machine.reels) == list(reels)
        assert {name: reel.fans for name, reel in machine.reels.items()} == {
            name: tensor.fans for name, tensor in reels.items()
        }
        inputs = torch.randn(2, 3, 8)
        outputs = model(inputs)
        outputs.square().sum().backward()
        model.eval()  # in which torch takes a fast path of its own
        assert outputs.shape == model(inputs).shape
    assert reels["self_attn.in_proj_weight"].why == "queries, keys, values"
    assert reels["self_attn.out_proj.weight"].layer == "Linear"


def test_attention_of_other_widths_has_three_tensors() -> None:
    attention = nn.MultiheadAttention(4, 2, kdim=6, vdim=2)
    reels = slotify(attention).reels
    assert set(reels) == {"q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"}


def test_what_stays_has_a_reason() -> None:
    told = {
        tensor.name: (tensor.layer, tensor.becomes, tensor.why)
        for tensor in plan_named("timm/vit_tiny_patch16_224")[0].tensors
    }
    assert told["pos_embed"] == ("VisionTransformer", "frozen", "as it is: no weight of Linear or Conv")
    assert told["blocks.3.norm1.weight"] == ("LayerNorm", "neutral", "set to 1")
    assert told["blocks.3.mlp.fc2.bias"] == ("Linear", "neutral", "set to 0")
    kept = plan(encoder(), others="kept").tensors
    assert {tensor.why for tensor in kept if tensor.becomes != "reel"} == {"as it is"}
    trained = plan(encoder(), others="trained").tensors
    assert {tensor.why for tensor in trained if tensor.becomes != "reel"} == {"trained"}


def test_tensors_of_a_kind_stand_together() -> None:
    alike = plan_named("timm/vit_tiny_patch16_224")[0].alike()
    assert [one.name for one in alike if len(one.tensors) == 24] == [
        "blocks.*.norm*.weight",
        "blocks.*.norm*.bias",
    ]
    assert [one.name for one in alike][-1] == "head.bias"


@pytest.mark.parametrize(("k", "sharing"), [(2, "none"), (8, "none"), (64, "layer")])
def test_no_slot_file_is_larger(tmp_path: Path, k: int, sharing: str) -> None:
    model = create("conv2", (3, 8, 8), 10, bias=True)
    planned = plan(model, k)
    machine = slotify(model, k, sharing=sharing)
    machine.spin("probabilistic")  # about as many connections at each option: nothing can be left out
    sizes = save(tmp_path / "net.slot", machine, reading="in use")
    assert sizes.file_bytes <= planned.slot_file <= 1.05 * sizes.file_bytes + 10_000
    assert sizes.dense_bytes == planned.dense_file


def test_a_tied_weight_is_in_a_file_once(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    model[1].weight = model[0].weight
    planned = plan(model, 8)
    machine = slotify(model, 8)
    machine.spin("probabilistic")
    sizes = save(tmp_path / "net.slot", machine, reading="in use")
    assert planned.dense_file == sizes.dense_bytes == 4 * 64 * 64
    assert sizes.file_bytes <= planned.slot_file <= 1.05 * sizes.file_bytes + 10_000


def test_the_step_of_lenet_is_the_measured_one() -> None:
    """It rests on LeNet, where each weight has one multiplication."""
    for k, ratio in ((8, 1.13), (64, 1.18)):
        found, image, classes = plan_named("lenet", k)
        assert found.step is not None
        assert found.step.multiplications == 1
        assert found.step.ratio == pytest.approx(ratio)
        assert (image, classes) == ((1, 28, 28), 10)
    conv = plan_named("conv2", 8)[0].step
    assert conv is not None
    # As docs/why-k-is-free.md has it: 1.01 at K = 2, 1.02 at K = 64.
    assert 1.01 <= conv.ratio <= 1.02


def test_a_forward_that_cannot_be_counted_is_told() -> None:
    class Odd(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            return inputs * float(inputs.sum())

    found = plan(Odd(3, 2), image=(3,))
    assert found.step is None
    assert found.why_no_step.startswith("a forward pass on the meta device failed (")


def test_what_slotify_refuses_is_refused() -> None:
    with pytest.raises(SlotkitError, match="has no weight to slotify"):
        plan(nn.ReLU())
    with pytest.raises(SlotkitError, match="A connection needs at least one option"):
        plan(nn.Linear(2, 2), 0)
    with pytest.raises(SlotkitError, match=r"which matches no parameter\. Near it: weight"):
        plan(nn.Linear(2, 2), where="wieght")
    with pytest.raises(SlotkitError, match="A reel needs a weight of two dimensions or more"):
        plan(nn.Linear(2, 2), where="bias")
