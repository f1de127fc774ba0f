"""The masks of a run as mask files: what they say of themselves, and a file for every update."""

from __future__ import annotations

from pathlib import Path

from slotkit.config import Config
from slotkit.data.identity import Identity
from slotkit.errors import SlotkitError
from slotkit.files import make_folder
from slotkit.masks import file as mask_file
from slotkit.masks.file import About, Setting, Start
from slotkit.models import OWN
from slotkit.runs.folder import RunFolder
from slotkit.slotfile.architecture import Architecture, architecture
from slotkit.training.prepare import Prepared

# Where a run keeps them.
FOLDER = "masks"


def about(config: Config, data: Identity | None, method: str, density: float, step: int) -> About:
    """What the file of a run's mask says. Initial weights that a seed alone doesn't make, and a network of
    one's own or one of timm with options that may not be written down, are left out.
    """
    settings: dict[str, Setting] = {
        "seed": config.seeds.reels,
        "data": config.data.dataset.partition(":")[0],
        "step": step,
    }
    start = None
    if config.method == "learned" and config.learned_init == "reels" and config.slots.k == 1:
        start = Start(init=config.slots.init, seed=config.seeds.reels)
    network = _network(config, data)
    return About(method=method, density=density, settings=settings, network=network, start=start)


def _network(config: Config, data: Identity | None) -> Architecture | None:
    if data is None or config.model.name == OWN:
        return None
    channels, height, width = data.image
    image = (channels, height, width)
    try:
        return architecture(config.model.name, image, data.class_count, config.model.options)
    except SlotkitError:  # it may not be written down; the masks are kept without it
        return None


class KeptMasks:
    """Writes the mask of every update into the run, if `sparse.keep_masks` asks for it."""

    def __init__(self, prepared: Prepared, folder: RunFolder) -> None:
        self._prepared, self._folder = prepared, folder

    def keep(self, step: int) -> None:
        """The mask after that step; 0 is the first one. After a resume it is written again, the same."""
        topology, config = self._prepared.trainee.topology, self._prepared.config
        if topology is None or not config.sparse.keep_masks:
            return
        told = about(config, self._prepared.identity, config.sparse.method, topology.density, step)
        path = path_of(self._folder, step)
        make_folder(path.parent)
        mask_file.save(path, topology.masked.masks, told)


def path_of(folder: RunFolder, step: int) -> Path:
    """Where a run keeps the mask after a step."""
    return folder.path / FOLDER / f"step-{step:08d}.mask.safetensors"
