"""Other data for a network that is trained: they have to have its images and its classes."""

from __future__ import annotations

from dataclasses import replace

import torch

from slotkit.data.identity import Identity, listed
from slotkit.data.images import Dataset
from slotkit.errors import SlotkitError


def fitted(dataset: Dataset, network: Identity) -> Dataset:
    """`dataset` with the classes of the data that a network was made with: by name where both have names,
    else by number. It need not have all of them.

    Raises SlotkitError if its images have another shape, or a class is none of the network's.
    """
    image = [dataset.channels, *dataset.size]
    if image != network.image:
        raise SlotkitError(
            f"{dataset.name} has images of {_shape(image)} (channels x height x width); the network takes "
            f"{_shape(network.image)}. Convert them; pictures of two sizes are stretched with data.size."
        )
    if network.classes is None or not dataset.named:
        if dataset.num_classes > network.class_count:
            raise SlotkitError(
                f"{dataset.name} has {dataset.num_classes} classes, and the network {network.class_count}. "
                "Leave out what it can't know."
            )
        return replace(dataset, classes=tuple(network.classes or map(str, range(network.class_count))))
    return _renumbered(dataset, network.classes)


def _renumbered(dataset: Dataset, classes: list[str]) -> Dataset:
    if list(dataset.classes) == classes:
        return dataset
    unknown = [name for name in dataset.classes if name not in classes]
    if unknown:
        raise SlotkitError(
            f"{dataset.name} has the class{'es' if len(unknown) > 1 else ''} {listed(unknown)}, which the "
            f"network doesn't know; it knows {listed(classes, 20)}. Rename or leave out."
        )
    numbers = torch.tensor([classes.index(name) for name in dataset.classes])
    train, test = (half.relabelled(numbers[half.labels]) for half in (dataset.train, dataset.test))
    return replace(dataset, train=train, test=test, classes=tuple(classes))


def _shape(image: list[int]) -> str:
    return " x ".join(map(str, image))
