"""Masks for the network, data and initial weights of a configuration, and the controls of a mask file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from slotkit import recipes
from slotkit.config import Config, Overrides, parse_assignment, resolve
from slotkit.data import sources
from slotkit.data.batches import batches
from slotkit.errors import SlotkitError
from slotkit.masks import file as mask_file
from slotkit.masks.controls import find_control
from slotkit.masks.file import About, Masks, Setting, Start
from slotkit.masks.keeping import are_equal, number_kept
from slotkit.masks.methods import Method, Request
from slotkit.masks.saliency import check_mode
from slotkit.models import OWN
from slotkit.slotfile.architecture import Architecture, architecture
from slotkit.training.prepare import Prepared, prepare

# Masks belong to learned weights, which begin as the only option of each connection: a function of the seed.
BASE = Overrides("slotkit masks make", {"method": "learned", "learned_init": "reels", "slots.k": 1})

# With these other weights would begin otherwise, and a mask file could not say how.
OF_THE_START = {**BASE.values, "slots.where": None}

# All batches of the training images.
ALL = 0

# Letters of a file's usual name, without its ending.
LONGEST_NAME = 200


def of_search(recipe: str | None, batch_size: int | None) -> list[Overrides]:
    """What a recipe says of network and data, and how large the batches of a search are."""
    told = recipes.load(recipe, "masks search").overrides() if recipe is not None else []
    size = {} if batch_size is None else {"training.batch_size": batch_size}
    return [*told, Overrides("batches of the search", size)]


def prepared_for(overrides: Sequence[Overrides]) -> Prepared:
    """Data and the network with its initial weights. Raises SlotkitError for what can't be."""
    check_untouched(OF_THE_START, overrides, "masks are made for learned weights that a seed alone makes")
    check_untouched({"training.precision": "fp32"}, overrides, "saliency is measured in float32")
    resolved = resolve([BASE, *overrides, BASE])
    if resolved.config.model.name == OWN:
        raise SlotkitError(
            "A mask file names its network, and this one is one's own. Choose a model by name."
        )
    return prepare(resolved)


def check_untouched(fixed: Mapping[str, Any], overrides: Sequence[Overrides], why: str) -> None:
    """Raise SlotkitError for one of the `fixed` settings that has another value there."""
    for layer in overrides:
        for path, value in layer.values.items():
            if path in fixed and value != fixed[path]:
                due = "left open" if fixed[path] is None else repr(fixed[path])
                raise SlotkitError(
                    f"{path} (from {layer.origin}) is {value!r}, and has to be {due}: {why}. Leave it out."
                )


def layers(
    command: str,
    model: str | None,
    dataset: str | None,
    data_dir: str | None,
    device: str | None,
    seed: int | None,
    assignments: Sequence[str],
) -> list[Overrides]:
    """What commands of masks are told of network and data, as settings. `seed` is that of initial weights and
    of batches; None where the masks say it.
    """
    flags = {
        "model.name": model,
        "data.dataset": dataset,
        "data.dir": data_dir,
        "training.device": device,
        "seeds.reels": seed,
        "seeds.data": seed,
    }
    given = {path: value for path, value in flags.items() if value is not None}
    return [Overrides(command, given), *map(parse_assignment, assignments)]


def make(
    method: Method, request: Request, overrides: Sequence[Overrides], number: int = 1
) -> tuple[Masks, About]:
    """The masks of a method, and what their file says of itself.

    Args:
        overrides: settings of network, data and seeds: `seeds.reels` is that of the initial weights,
            `seeds.data` of the batches and `training.batch_size` their size. Validation and test images are
            never looked at.
        number: how many batches; ALL for the whole training part.

    Raises SlotkitError for settings that can't be, or data that are missing.
    """
    check_mode(request.mode)
    number_kept(request.density, 1 << 40)  # a density that is none, before data are loaded
    if number < 0:
        raise SlotkitError(f"{number} batches were asked for. Give 1 or more, or 0 for all training images.")
    prepared = prepared_for(overrides)
    image = (prepared.dataset.channels, *prepared.dataset.size)
    if method.uses_batches:
        _check_enough(prepared, number)
    found = training_batches(prepared, epoch=0)
    given = list(found if number == ALL else islice(found, number)) if method.uses_batches else []
    masks = method.masks(prepared.trainee.model, replace(request, image=image), given)
    network, start = origin(prepared)
    about = About(
        method=method.name,
        density=request.density,
        settings=_settings(prepared.config, method, request, number),
        network=network,
        start=start,
    )
    return {name: mask.cpu() for name, mask in masks.items()}, about


def _check_enough(prepared: Prepared, number: int) -> None:
    images, size = len(prepared.split.train), prepared.config.training.batch_size
    there = math.ceil(images / size)
    if number > there:
        raise SlotkitError(
            f"{number} batches were asked for, and the {images} training images make {there} of {size}. Give "
            f"{there} or fewer, 0 for all training images, or a smaller training.batch_size."
        )


def control(path: Path, name: str, seed: int) -> tuple[Masks, About]:
    """A control of a mask file. Raises SlotkitError for an unknown one or a damaged file."""
    chosen = find_control(name)
    return chosen.make(*mask_file.load(path), seed)


def settings_under(path: Path, about: About) -> dict[str, Any]:
    """The settings of learned weights under a mask file that says what its network and start are."""
    assert about.network is not None
    assert about.start is not None
    return {
        "mask": str(path),
        "model.name": about.network.model,
        **{f"model.options.{key}": value for key, value in about.network.options.items()},
        "learned_init": "reels",
        "slots.k": 1,
        "slots.init": about.start.init,
        "seeds.reels": about.start.seed,
    }


def under_recipe(name: str | None) -> list[Overrides]:
    """What a recipe says of a training, its network and data left to the masks; nothing without a name."""
    if name is None:
        return []
    kept = ("training.", "data.augment", "data.validation", "learned_others")
    return [
        Overrides(one.origin, {path: value for path, value in one.values.items() if path.startswith(kept)})
        for one in recipes.load(name).overrides()
    ]


# Datasets that are read from a folder, which mask files don't name.
OF_ONES_OWN = ("imagefolder", "parquet")


def data_of(about: About) -> dict[str, Any]:
    """The settings of the data that a mask was made for, unless they lie in a folder of one's own: the
    dataset, and the size of its images if that is another than their own.
    """
    data, network = about.settings.get("data"), about.network
    if not isinstance(data, str) or data in OF_ONES_OWN:
        return {}
    found: dict[str, Any] = {"data.dataset": data}
    source = sources.SOURCES.get(data.lower())
    if network is not None and source is not None:
        _, height, width = network.image
        if height == width and source.image_shape.split(" x ")[1:] != [str(height), str(width)]:
            found["data.size"] = height
    return found


def usual_name(about: About) -> str:
    """Of a file: the method, the network and the settings, which tell the files of one experiment apart.

    It stays in the folder, whatever a file from elsewhere says of itself.
    """
    network = about.network.model if about.network else "network"
    told = [about.method, network, *([] if about.density is None else [f"{about.density:g}"])]
    for key in ("rounds", "batches", "mode", "seed", "draw", "control_seed", "step"):
        if key in about.settings:
            told.append(f"{key.replace('_', '-')}-{about.settings[key]}")
    words = re.sub(r"[^A-Za-z0-9_.+-]+", "-", "-".join(told)).lstrip("-.")
    return f"{words[:LONGEST_NAME]}.mask.safetensors"


def usual_place(masks: Masks, about: About) -> Path:
    """Where a mask is written that has no name of its own.

    Raises SlotkitError if something else lies there: a name doesn't have all that tells masks apart.
    """
    path = Path(usual_name(about))
    if path.exists() and not _is(path, masks, about):
        raise SlotkitError(
            f"{path} is there already, and is not the mask that was asked for. Name another file with --out, "
            "or delete that one."
        )
    return path


def _is(path: Path, masks: Masks, about: About) -> bool:
    try:
        there, says = mask_file.load(path)
    except SlotkitError:
        return False
    return says == about and are_equal(there, masks)


def origin(prepared: Prepared) -> tuple[Architecture, Start]:
    """What makes the network and its initial weights again."""
    config, dataset = prepared.config, prepared.dataset
    image = (dataset.channels, *dataset.size)
    network = architecture(config.model.name, image, dataset.num_classes, config.model.options)
    return network, Start(init=config.slots.init, seed=config.seeds.reels)


def training_batches(
    prepared: Prepared, epoch: int, order: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches as a training would see them: of all images shuffled, or of those in `order`."""
    config = prepared.config
    return batches(
        prepared.images("train"),
        config.training.batch_size,
        seed=config.seeds.data,
        epoch=epoch,
        augment=config.data.augment,
        mean=config.data.mean,
        std=config.data.std,
        classes=prepared.dataset.num_classes,
        order=order,
    )


def _settings(config: Config, method: Method, request: Request, number: int) -> dict[str, Setting]:
    told: dict[str, Setting] = {"seed": request.seed, "data": config.data.dataset.partition(":")[0]}
    if method.rounds > 1:
        told["rounds"] = request.rounds or method.rounds
    if method.uses_batches:
        told |= {
            "batches": number,
            "batch_size": config.training.batch_size,
            "data_seed": config.seeds.data,
            "mode": request.mode,
        }
    return told
