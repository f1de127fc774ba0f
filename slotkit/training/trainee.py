"""What is trained: a slot machine, or the same network with learned weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from slotkit.config import Config
from slotkit.data.files import is_lack_of_memory
from slotkit.errors import SlotkitError
from slotkit.machine import SlotMachine
from slotkit.making import randomize, slotify
from slotkit.masks import file as mask_file
from slotkit.masks.masked import MaskedWeights, strays
from slotkit.masks.topology import Topology
from slotkit.models import create
from slotkit.models.registry import TIMM
from slotkit.optim import SlotAdam
from slotkit.others import treat_others
from slotkit.picking import pick
from slotkit.runs.residuals import with_reels
from slotkit.settings import TrainingSettings
from slotkit.training.processes import ALONE, Processes


@dataclass
class Trainee:
    """A network with what training needs to know of it; `machine` is None for learned weights.

    `masked` are those weights that have a mask, `topology` is there if it changes.
    `processes` are those that train it together, with a network each.
    """

    model: nn.Module
    machine: SlotMachine | None
    device: torch.device
    bf16: bool
    classes: int
    dtype: torch.dtype = torch.float32
    masked: MaskedWeights | None = None
    topology: Topology | None = None
    processes: Processes = ALONE

    def optimizer(self, settings: TrainingSettings) -> Optimizer:
        """What trains the scores, or the learned weights: SGD, or Adam, with the same settings.

        Raises SlotkitError for Adam with a machine in the dense form.
        """
        adam: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
        sgd = adam | {"momentum": settings.momentum, "nesterov": settings.nesterov}
        if self.machine is None:
            parameters = self.model.parameters()
            if settings.optimizer == "adam":
                return torch.optim.AdamW(parameters, **adam)
            return torch.optim.SGD(parameters, **sgd)
        if settings.optimizer == "adam":
            return SlotAdam(self.machine, **adam)
        return self.machine.optimizer(**sgd)

    def seed(self, number: int) -> None:
        """Seed dropout's generator. (torch.manual_seed looks for every kind of device, and takes 0.3 ms.)"""
        torch.default_generator.manual_seed(number)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(number)
        elif self.device.type == "mps":
            torch.mps.manual_seed(number)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, of the trainee's dtype, shape (n, classes)."""
        with self._autocast():
            logits: Tensor = self.model(images)
        return logits.to(self.dtype)

    def state(self) -> dict[str, Any]:
        """All that has been trained, as `SlotMachine.state_dict` or as {"weights": model.state_dict()}, with
        "masks" as packed bits if they change.
        """
        if self.machine:
            return self.machine.state_dict()
        weights = {"weights": self.model.state_dict()}
        return weights | {"masks": self.topology.masks_state()} if self.topology else weights

    def to_save(self) -> dict[str, Any]:
        """`state` for `slotkit.runs.checkpoint.save`, which remakes what comes from the seed."""
        return with_reels(self.state(), self.machine)

    def load(self, state: dict[str, Any]) -> None:
        """Take over a `state` of a trainee built from the same configuration.

        Raises SlotkitError, before anything is changed, if it has not the shape of one.
        """
        own = self.state()
        if not (self.machine and state.get("settings") != own["settings"]):  # told better by the machine
            check_like(state, own)
        masks = self.masked.masks if self.masked else {}
        if self.topology:
            masks = self.topology.masks_in(state["masks"])
        outside = strays(state["weights"], masks) if masks else []  # a machine has no weights in its state
        if outside:
            raise SlotkitError(f"weights outside of the run's mask are not 0, in {', '.join(outside[:3])}")
        if self.topology:
            self.topology.set_masks(masks)
        if self.machine:
            self.machine.load_state_dict(state)
        else:
            self.model.load_state_dict(state["weights"])

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()


def check_like(there: Any, own: Any, place: str = "the state") -> None:
    """Hold a state that was read to the structure of one's own: names, types, shapes, finite numbers.

    Raises SlotkitError, the part of a sentence, for the first difference. More names may be there.
    """
    if isinstance(own, Mapping):
        if not isinstance(there, Mapping):
            raise SlotkitError(f"{place} is no table")
        for name, value in own.items():
            if name == "held":  # a machine that follows its scores holds nothing
                continue
            if name not in there:
                raise SlotkitError(f"{place} lacks {name!r}")
            check_like(there[name], value, f"{place}, {name}")
    elif isinstance(own, Tensor):
        if not isinstance(there, Tensor) or (there.dtype, there.shape) != (own.dtype, own.shape):
            raise SlotkitError(f"{place} is not {own.dtype} of shape {tuple(own.shape)}")
    elif isinstance(own, list):
        if not isinstance(there, list):
            raise SlotkitError(f"{place} is no list")
    elif isinstance(own, int | float) and not isinstance(own, bool):
        whole = isinstance(own, int)
        fits = type(there) is int or (type(there) is float and not whole and math.isfinite(there))
        if not fits or abs(there) > 2**63 or (whole and there < 0):
            raise SlotkitError(f"{place} is {there!r:.60}")
    elif type(there) is not type(own):
        raise SlotkitError(f"{place} is {there!r:.60}")


def build(config: Config, image: tuple[int, int, int], classes: int, mask: Path | None = None) -> Trainee:
    """The network of `config` for images (channels, height, width), ready to be trained.

    `mask` is where the run's own copy of its mask file lies, if it has one.

    Raises SlotkitError if the network, the device or the slot settings are refused.
    """
    device = find_device(config.training.device)
    torch.manual_seed(config.seeds.training)
    dtype = dtype_of(config.training)
    model = create(config.model.name, image, classes, **config.model.options).to(device, dtype)
    if config.model.name.startswith(TIMM):
        _check_takes(model, image, config.model.name)
    slots = config.slots
    machine = None
    if config.method == "slot":
        machine = slotify(
            model,
            k=slots.k,
            selection=slots.selection,
            sharing=slots.sharing,
            init=slots.init,
            seed=config.seeds.reels,
            form=config.form,
            engine=slots.engine,
            tables=slots.tables,
            where=slots.where,
            others=slots.others,
            update=slots.update,
            symmetric=slots.symmetric,
            kind=slots.kind,
            share=slots.share,
        )
    elif config.learned_init == "reels":
        randomize(model, slots.k, slots.init, config.seeds.reels, slots.where)
    if config.method == "learned" and config.learned_others != "trained":
        treat_others(model, pick(model, slots.where), config.learned_others)
    masked, topology = _masks(config, model, mask)
    bf16 = config.training.precision == "bf16"
    return Trainee(model, machine, device, bf16, classes, dtype, masked, topology)


@torch.no_grad()
def _check_takes(model: nn.Module, image: tuple[int, int, int], name: str) -> None:
    """Raise SlotkitError if a network of timm refuses images of that shape. It says so in its forward only; a
    run would have begun by then.
    """
    like = next(model.parameters())
    try:
        model.eval()(like.new_zeros(1, *image))
    except (AssertionError, RuntimeError, ValueError, TypeError, IndexError) as fault:
        if isinstance(fault, torch.OutOfMemoryError) or is_lack_of_memory(fault):
            raise
        reason = str(fault).strip().partition("\n")[0].rstrip(".") or type(fault).__name__
        shape = " x ".join(map(str, image))
        raise SlotkitError(
            f"{name} can't take images of {shape} (channels x height x width): {reason}. "
            "Stretch them with data.size, or build the model for their size if it has an option for that "
            "(model.options.img_size)."
        ) from fault
    finally:
        model.train()


def _masks(
    config: Config, model: nn.Module, mask: Path | None
) -> tuple[MaskedWeights | None, Topology | None]:
    """Mask the weights of a network, if that is wanted, by a fixed mask or by one that changes."""
    masks = None if config.mask is None else mask_file.load(mask or Path(config.mask))[0]
    if config.sparse.is_on:
        topology = Topology(model, config.sparse, config.seeds.reels, masks)
        return topology.masked, topology
    return None if masks is None else MaskedWeights(model, masks), None


def dtype_of(settings: TrainingSettings) -> torch.dtype:
    """The type of a network's numbers."""
    return torch.float64 if settings.precision == "fp64" else torch.float32


def of_type(weights: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights as a network of that type has them. Options are float32, whose values float64 has, too."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in weights.items()}


def find_device(name: str) -> torch.device:
    """ "auto" is the first of cuda, mps and cpu that is there; another name is that device, or an error."""
    if name == "auto":
        for kind in ("cuda", "mps"):
            if getattr(torch, kind).is_available():
                return torch.device(kind)
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SlotkitError(f"There is no device {name!r}. Choose auto, cpu, cuda, cuda:N or mps.") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise SlotkitError(f"slotkit doesn't train on {name!r}. Choose auto, cpu, cuda, cuda:N or mps.")
    if device.type != "cpu":
        present = torch.cuda.device_count() if device.type == "cuda" else int(torch.mps.is_available())
        if (device.index or 0) >= present:
            raise SlotkitError(
                f"The device {name} was asked for, but this PyTorch sees {present} of its kind. Use "
                "--device cpu or auto."
            )
    return device
