"""The masks and weights of what a user names: a mask file, or a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.masks import file as mask_file
from slotkit.masks.file import About, Masks, unpacked
from slotkit.masks.keeping import share_of
from slotkit.masks.scores import DST, NetworkScores, Rules, score_network
from slotkit.recording.replay import channel_dims_of
from slotkit.runs.fingerprint import load
from slotkit.runs.folder import RunFolder
from slotkit.runs.schema import naming
from slotkit.standin import stand_in
from slotkit.training.kept_masks import about as about_of


@dataclass(frozen=True)
class Found:
    """Masks of layers, their weights (None: all of them 1) and, in words, whose they are."""

    masks: dict[str, Tensor]
    weights: dict[str, Tensor] | None
    channel_dims: dict[str, int]
    words: str

    def scores(self, rules: Rules = DST) -> NetworkScores:
        """The graph scores of each layer."""
        weights = None if self.weights is None else {name: _array(w) for name, w in self.weights.items()}
        masks = {name: mask.numpy() for name, mask in self.masks.items()}
        return score_network(masks, weights, rules, self.channel_dims)


def find(what: str, runs_dir: Path, checkpoint: str | None = None) -> Found:
    """A mask file if `what` is a file, else a run of that name or folder, at its best checkpoint or another.

    Raises SlotkitError for what is neither, or is damaged, and for a checkpoint of a file.
    """
    path = Path(what)
    if not path.is_file():
        return of_run(RunFolder.open(what, runs_dir), checkpoint or "best")
    if checkpoint is not None:
        raise SlotkitError(f"--checkpoint {checkpoint} is of a run, and {what} is a mask file. Leave it out.")
    return of_file(path)


def of_file(path: Path) -> Found:
    """A mask file's masks, with the initial weights if it says how they are made."""
    masks, about = mask_file.load(path)
    if about.network is None or about.start is None:
        return Found(masks, None, {}, f"{path}: {about.method}, all weights 1")
    state = dict(mask_file.network_of(path, about).named_parameters())
    for name, mask in masks.items():
        if name not in state or state[name].shape != mask.shape:
            raise SlotkitError(f"{path} has a mask of {name}, which is no weight of {about.network.model}.")
    weights = {name: state[name].detach() for name in masks}
    words = f"{path}: {about.method}, initial weights {about.start.init} of seed {about.start.seed}"
    return Found(masks, weights, {}, words)


def of_run(folder: RunFolder, checkpoint: str = "best") -> Found:
    """The weights of a run and which connections it has: its mask, if that has changed while it was trained,
    and else those whose weight is not 0. Of a slot machine the selected weights, greedily.
    """
    folder.check_single()
    state, _ = load(folder, checkpoint)
    with naming(folder.checkpoint(checkpoint), "Use another one, or train again."):
        if "masks" in state:
            weights = {name: state["weights"][name] for name in state["masks"]}
            masks = {n: unpacked(state["masks"][n], tuple(w.shape), n) for n, w in weights.items()}
            return Found(masks, weights, {}, f"{folder.name}, {checkpoint} checkpoint: {_sparse(folder)}")
        if "settings" not in state:
            kept = {n: w for n, w in state["weights"].items() if n.endswith("weight") and w.ndim > 1}
            return Found({n: w != 0 for n, w in kept.items()}, kept, {}, f"{folder.name}: learned weights")
        # Without a trace nothing says so, and no network that slotkit makes has transposed convolutions.
        traced = folder.recorded() is not None or (folder.path / "trace").is_dir()
        dims = channel_dims_of(folder) if traced else {}
        machine = stand_in(state, dims)
        machine.spin("greedy")
        names = list(machine.reels)
        ordinary = machine.to_learned().state_dict()
    weights = {name: ordinary[name] for name in names}
    masks = {name: weight != 0 for name, weight in weights.items()}
    return Found(masks, weights, dims, f"{folder.name}, {checkpoint} checkpoint: selected weights")


def file_of_run(folder: RunFolder, checkpoint: str = "best") -> tuple[Masks, About]:
    """The masks of a run, and what their file says of itself. Raises SlotkitError as `of_run`."""
    found, config = of_run(folder, checkpoint), folder.config()
    _, told = load(folder, checkpoint)
    density, step = share_of(found.masks), told["step"]
    return found.masks, about_of(config, folder.data(), _method(folder), density, step)


def _method(folder: RunFolder) -> str:
    config = folder.config()
    return config.sparse.method if config.sparse.is_on else f"{config.method} run"


def _sparse(folder: RunFolder) -> str:
    return f"learned weights under the mask of {_method(folder)}"


def _array(weight: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return weight.double().numpy()
