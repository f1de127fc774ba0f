"""What `slotify` would make of a network: which tensors become reels, and what that costs.

Nothing of it is measured on this machine. Bytes follow from shapes; the time of a step is an estimate, which
says what it rests on.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from slotkit.inits import Fans
from slotkit.models.registry import OWN, TIMM, create
from slotkit.neutral import neutral_values
from slotkit.others import check_others
from slotkit.picking import CONVOLUTIONS, PROJECTIONS, Where, holders_of, names_picked
from slotkit.reel import ReelSettings
from slotkit.selection import find_selection
from slotkit.slotfile.coding import packed_bytes

# What the step of LeNet-300-100 took beyond that of the same network with learned weights, as a share of it:
# docs/why-k-is-free.md. A weight of LeNet has one multiplication for an image, so the optimizer weighs most.
MEASURED = {
    "greedy": {2: 0.12, 8: 0.13, 64: 0.18, 1024: 0.48},
    "probabilistic": {8: 1.6, 64: 2.1, 1024: 4.7},
}
MEASURED_BATCH = 128

# Bytes of text about a tensor in a slot file, about the file, and for a letter of a name, at most.
TENSOR_TEXT, FILE_TEXT, LETTER_TEXT = 600, 2048, 8

# Of images (channels, height, width) that a network is for, if it says nothing itself.
IMAGES = {"lenet": (1, 28, 28)}
USUAL_IMAGE, USUAL_CLASSES = (3, 32, 32), 10


@dataclass(frozen=True)
class TensorPlan:
    """What becomes of one parameter.

    Attributes:
        layer: the type of the module that holds it.
        becomes: "reel", "trained", "neutral" (a bias 0, a norm the identity; frozen) or "frozen" (as it is).
        fans: of a reel, by which its options are scaled.
        why: a clause.
    """

    name: str
    shape: tuple[int, ...]
    layer: str
    becomes: str
    fans: Fans | None
    why: str

    @property
    def size(self) -> int:
        """How many connections it has."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Alike:
    """Tensors that differ by the numbers in their names only: `name` has * in their place."""

    name: str
    tensors: tuple[TensorPlan, ...]


@dataclass(frozen=True)
class Memory:
    """Bytes in training, without activations: all weights, their gradients, and what is kept beside them."""

    form: str
    weights: int
    gradients: int
    state: int

    @property
    def total(self) -> int:
        """All of them together, in bytes."""
        return self.weights + self.gradients + self.state


@dataclass(frozen=True)
class StepRatio:
    """An estimate: the time of a step over that of ordinary SGD, at a batch of MEASURED_BATCH images.

    multiplications: of a forward pass, for each connection and image.
    extra: what LeNet-300-100 was measured to take beyond 1 at this K.
    """

    ratio: float
    multiplications: float
    extra: float

    def __str__(self) -> str:
        told = f"about {self.ratio:.2f}" if self.ratio >= 1.01 else "less than 1.01"
        return (
            f"{told} times ordinary SGD's at batch {MEASURED_BATCH}: an estimate. LeNet-300-100 was measured "
            f"at {1 + self.extra:.2f} on a CPU, and there a connection has 1 multiplication an image; here "
            f"it has {self.multiplications:.3g}, which take the time."
        )


@dataclass(frozen=True)
class Plan:
    """What `slotify` would make of a network.

    Attributes:
        memory: of ordinary SGD with momentum, and of each form of a slot machine under it.
        slot_file: no slot file of the network is larger, in bytes.
        dense_file: bytes of the tensors of its ordinary state_dict.
        step: None where it can't be estimated, and then `why_no_step` says why.
    """

    k: int
    selection: str
    tensors: tuple[TensorPlan, ...]
    memory: tuple[Memory, ...]
    slot_file: int
    dense_file: int
    step: StepRatio | None
    why_no_step: str = ""

    @property
    def connections(self) -> int:
        """Of all tensors that become reels."""
        return sum(tensor.size for tensor in self.tensors if tensor.becomes == "reel")

    @property
    def parameters(self) -> int:
        """Of the whole network, those that stay included."""
        return sum(tensor.size for tensor in self.tensors)

    def alike(self) -> list[Alike]:
        """The tensors, those of a kind together, in the order of the first of each kind."""
        kinds: dict[object, list[TensorPlan]] = {}
        for tensor in self.tensors:
            name = re.sub(r"\d+", "*", tensor.name)
            key = (name, tensor.shape, tensor.becomes, tensor.fans, tensor.why)
            kinds.setdefault(key, []).append(tensor)
        return [Alike(_common_name(tensors), tuple(tensors)) for tensors in kinds.values()]


def plan_named(
    model: str,
    k: int = 8,
    image: tuple[int, int, int] | None = None,
    classes: int | None = None,
    selection: str = "greedy",
    where: Where = None,
    others: str = "frozen",
    options: Mapping[str, Any] | None = None,
) -> tuple[Plan, tuple[int, int, int], int]:
    """The plan of a network by its name, and the image and the number of classes that it was made for.

    `options` are those of the network, as `create` takes them. It takes no memory for numbers, but for a
    network of one's own. Raises SlotkitError as `plan` and `create`.
    """
    image = image or _usual_image(model)
    classes = classes or USUAL_CLASSES
    with torch.device("cpu" if model == OWN else "meta"):
        network = create(model, image, classes, **(options or {}))
    return plan(network, k, image, selection, where, others), image, classes


def plan(
    model: nn.Module,
    k: int = 8,
    image: Sequence[int] | None = None,
    selection: str = "greedy",
    where: Where = None,
    others: str = "frozen",
) -> Plan:
    """What `slotify(model, k, selection, where=where, others=others)` would make of it. Nothing is changed.

    Args:
        model: on any device, the meta device included.
        image: the shape of an input without the batch, to count multiplications; without it no step is
            estimated.

    Raises SlotkitError for a value that is not accepted, or a model without weights that can be picked.
    """
    settings, selection = ReelSettings(k), find_selection(selection)
    check_others(others)
    picked = set(names_picked(model, where))
    holders = holders_of(model)
    tensors = []
    for name, parameter in model.named_parameters():
        module, own = holders[name][0]
        if name in picked:
            settings.reel(name, parameter.shape)  # refuses what can be none
        tensors.append(_planned(name, own, module, parameter, name in picked, others))
    reels = [tensor for tensor in tensors if tensor.becomes == "reel"]
    step, why_not = _step(model, image, sum(tensor.size for tensor in reels), k, selection)
    state = model.state_dict(keep_vars=True)
    first = {id(value): name for name, value in reversed(state.items())}
    dense = sum(state[name].nbytes for name in first.values())
    rest = sum(state[name].nbytes for name in first.values() if name not in picked)
    text = FILE_TEXT + sum(TENSOR_TEXT + LETTER_TEXT * len(name.encode()) for name in state)
    coded = sum(packed_bytes(tensor.size, k) for tensor in reels)
    return Plan(
        k=k,
        selection=selection,
        tensors=tuple(tensors),
        memory=_memory(model, picked, tensors, k, selection),
        slot_file=coded + rest + text,
        dense_file=dense,
        step=step,
        why_no_step=why_not,
    )


def _planned(
    name: str, own: str, module: nn.Module, parameter: Tensor, is_reel: bool, others: str
) -> TensorPlan:
    shape, layer = tuple(parameter.shape), _layer(module)
    if is_reel:
        joint = own == PROJECTIONS[0] and isinstance(module, nn.MultiheadAttention)
        why = "queries, keys, values" if joint else own.replace("_", " ")
        return TensorPlan(name, shape, layer, "reel", Fans.of(shape), why)
    if others == "trained" and parameter.requires_grad:
        return TensorPlan(name, shape, layer, "trained", None, "trained")
    values = neutral_values(module) if others == "frozen" else {}
    if own in values:
        return TensorPlan(name, shape, layer, "neutral", None, f"set to {values[own]:g}")
    if others == "frozen":
        return TensorPlan(name, shape, layer, "frozen", None, "as it is: no weight of Linear or Conv")
    return TensorPlan(name, shape, layer, "frozen", None, "as it is")


def _layer(module: nn.Module) -> str:
    """The name of its type; of torch's layers for a subclass of one, such as attention's output."""
    known = (cls.__name__ for cls in type(module).__mro__ if cls in (nn.Linear, *CONVOLUTIONS))
    return next(known, type(module).__name__)


def _memory(
    model: nn.Module, picked: set[str], tensors: Sequence[TensorPlan], k: int, selection: str
) -> tuple[Memory, ...]:
    values = dict(model.named_parameters())
    weights = sum(value.nbytes for value in values.values())
    moved = sum(value.nbytes for name, value in values.items() if name in picked)
    trained = sum(values[tensor.name].nbytes for tensor in tensors if tensor.becomes == "trained")
    learned = sum(value.nbytes for value in values.values() if value.requires_grad)
    state = sum(
        value.numel() * 4 * (8 if value.dtype == torch.float64 else 4)
        for name, value in values.items()
        if name in picked
    )
    connections = sum(tensor.size for tensor in tensors if tensor.becomes == "reel")
    if selection == "probabilistic":
        from slotkit.latent.engines.cpu_proposals import kept_bytes  # late, because it imports numba

        state += connections * kept_bytes(k)
    table = k * moved  # options, scores, their gradients and their momentum have one each
    return (
        Memory("ordinary SGD", weights, learned, learned),
        Memory("latent form", weights, moved + trained, state + trained),
        Memory("dense form", weights, moved + trained + table, 3 * table + trained),
    )


def _step(
    model: nn.Module, image: Sequence[int] | None, connections: int, k: int, selection: str
) -> tuple[StepRatio | None, str]:
    if image is None:
        return None, "the shape of an image is not given"
    try:
        count = _multiplications(model, image)
    except Exception as fault:  # anybody's forward: whatever it raises, it can't be counted
        return None, f"a forward pass on the meta device failed ({type(fault).__name__})"
    each, extra = count / connections, _extra(k, selection)
    return StepRatio(1 + extra / max(1.0, each), each, extra), ""


def _multiplications(model: nn.Module, image: Sequence[int]) -> int:
    """Of a forward pass on one image, in products of matrices and convolutions."""
    from torch.utils.flop_counter import FlopCounterMode

    twin = copy.deepcopy(model).to("meta").eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        twin(torch.empty(1, *image, device="meta"))
    return int(counter.get_total_flops()) // 2


def _extra(k: int, selection: str) -> float:
    """The measured extra time at K, on straight lines over log2 K between the measured points."""
    points = sorted(MEASURED[selection].items())
    if k <= points[0][0]:
        return points[0][1]
    for (low, below), (high, above) in pairwise(points):
        if k <= high:
            return below + (above - below) * math.log2(k / low) / math.log2(high / low)
    (low, below), (high, above) = points[-2:]
    return above + (above - below) * math.log2(k / high) / math.log2(high / low)


def _usual_image(model: str) -> tuple[int, int, int]:
    if not model.startswith(TIMM):
        return IMAGES.get(model, USUAL_IMAGE)
    import timm

    name = model.removeprefix(TIMM)
    if not timm.is_model(name):
        return USUAL_IMAGE  # refused by `create`, in words
    known = timm.get_pretrained_cfg(name)
    channels, height, width = known.input_size if known is not None else USUAL_IMAGE
    return channels, height, width


def _common_name(tensors: Sequence[TensorPlan]) -> str:
    """One name for all: numbers in which they differ become *."""
    parts = [re.split(r"(\d+)", tensor.name) for tensor in tensors]
    return "".join(
        next(iter(same)) if len(same := set(column)) == 1 else "*" for column in zip(*parts, strict=True)
    )
