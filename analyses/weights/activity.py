"""Dead units: ReLUs that no image ever switches on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from slotkit.analyses.weights.snapshots import Course, Weights
from torch import Tensor, nn

from slotkit.config import Overrides, resolve
from slotkit.data.batches import ordered_batches
from slotkit.models import OWN
from slotkit.standin import ties_of
from slotkit.training.evaluation import batch_of, evaluation_mode
from slotkit.training.prepare import is_there, own_settings, reopen

# A unit is dead if it is 0 for so many images: the first training images, whose order is random.
IMAGES = 10_000


def dead_units(
    course: Course, networks: Sequence[Weights], data: Mapping[str, Path | str | None]
) -> list[dict[str, Tensor]] | str:
    """For each of the networks and each layer with a ReLU after it, which units are dead: bool (units,).

    A weight is never zero here, so no unit is cut off by its weights. A unit is dead if its ReLU puts
    out 0 for every one of IMAGES training images; a channel of a convolution if it does so everywhere.

    `data` has settings of the data that are other now than the run's; None is as it was.

    Returns a sentence instead if there are no images or no ReLU to look at.
    """
    name = course.folder.name
    # An ordinary network, which `_put` fills. It starts as PyTorch has it, at no cost that grows with K.
    changes = {"method": "learned", "learned_init": "torch", "training.device": "cpu"}
    changes |= {path: str(value) for path, value in data.items() if value is not None}
    resolved = resolve([own_settings(course.folder), Overrides("slotkit analyze", changes)])
    if resolved.config.data.dataset == OWN:
        return (
            f"Nothing on dead units of {name}: they show on images only, and the loop was one's own. Name a "
            "dataset with --dataset, and what makes the network with --model-factory package.module:function."
        )
    if not is_there(resolved.config.data):
        return (
            f"Nothing on dead units of {name}: they show on images only, and the dataset "
            f"{resolved.config.data.dataset} is not there. Say where with --data-dir (the folder "
            "of datasets, or DIR of imagefolder:DIR and parquet:DIR)."
        )
    prepared = reopen(course.folder, resolved)
    trainee, images = prepared.trainee, prepared.images("train")
    different = _differences(trainee.model, course)
    if different:
        hint = " Name what makes it with --model-factory." if resolved.config.model.name == OWN else ""
        return (
            f"Nothing on dead units of {name}: the network that is made for it now is another one; "
            f"they differ in {', '.join(different[:3])}.{hint}"
        )
    some = images.subset(torch.arange(min(IMAGES, len(images))))
    found = []
    for weights in networks:
        _put(trainee.model, course.others, weights)
        watch = _Watch(trainee.model, course.reels)
        mean, std = prepared.config.data.mean, prepared.config.data.std
        batches = ordered_batches(
            some,
            batch_of(prepared.config, some.shape),
            mean=mean,
            std=std,
            dtype=trainee.dtype,
            channels_last=trainee.bf16,
        )
        with watch, evaluation_mode(trainee.model), torch.no_grad():
            for pixels, _ in batches:
                trainee.forward(pixels)
        found.append({name: ~active for name, active in watch.active.items()})
    return found if any(found) else f"Nothing on dead units of {name}: no ReLU follows a layer of slots."


def _differences(model: nn.Module, course: Course) -> list[str]:
    """Names of the tensors that the network of the run alone has, or this one alone, or in another shape: it
    would run on with numbers of its own there.
    """
    shapes = {name: reel.shape for name, reel in course.reels.items()}
    shapes |= {tie: shapes[first] for tie, first in ties_of(course.state).items() if first in shapes}
    shapes |= {name: value.shape for name, value in course.others.items() if isinstance(value, Tensor)}
    there = {name: value.shape for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    names = sorted(shapes.keys() | there.keys())
    return [name for name in names if tuple(shapes.get(name, (None,))) != tuple(there.get(name, (None,)))]


@torch.no_grad()
def _put(model: nn.Module, others: Mapping[str, Tensor], weights: Weights) -> None:
    model.load_state_dict(dict(others), strict=False)
    for name, weight in weights.items():
        model.get_parameter(name).copy_(weight)


class _Watch:
    """A context that records which units of the first ReLU after each layer are ever above 0.

    Attributes:
        active: tensor name -> bool (units,).
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self.active: dict[str, Tensor] = {}
        self._model, self._names = model, tuple(names)
        self._behind: tuple[str, int, int] | None = None  # layer, its units, their dimension
        self._hooks: list[Any] = []

    def __enter__(self) -> _Watch:
        for name in self._names:
            owner = self._model.get_submodule(name.rpartition(".")[0])
            dimension = -1 if isinstance(owner, nn.Linear) else 1
            self._hooks.append(owner.register_forward_hook(self._layer(name, dimension)))
        for module in self._model.modules():
            if isinstance(module, nn.ReLU):
                self._hooks.append(module.register_forward_hook(self._relu))
        return self

    def __exit__(self, *fault: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _layer(self, name: str, dimension: int) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            # Counted in what comes out: a grouped transposed convolution has more units than its weight says.
            self._behind = (name, output.shape[dimension], dimension) if isinstance(output, Tensor) else None

        return look

    def _relu(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if self._behind is None:
            return
        (name, units, dimension), self._behind = self._behind, None
        rows = output.movedim(dimension, 0).flatten(1)
        if len(rows) == units:
            before = self.active.get(name, torch.zeros(units, dtype=torch.bool))
            self.active[name] = before | (rows > 0).any(dim=-1)
