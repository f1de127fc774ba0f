"""The weights in use at several steps of a run: at the start, in between, at a checkpoint.

The weights of the start are made from the seed. Between start and checkpoint a full trace gives the weights
of every step; without one there are the checkpoints of kept epochs. Under probabilistic selection, and in
the dense form, the weights of a checkpoint are its greedy reading: of each connection the option of the
highest score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from slotkit.analyses.common.recorded import check_slot_machine, check_trace_of
from torch import Tensor

from slotkit.config import Config
from slotkit.errors import SlotkitError
from slotkit.latent.line import line_scores
from slotkit.models import OWN
from slotkit.recording.replay import channel_dims_of, first_selection, selections_at
from slotkit.recording.trace import Trace
from slotkit.reel import ROWS, Reel, ReelSettings
from slotkit.runs import checkpoint
from slotkit.runs.fingerprint import load
from slotkit.runs.folder import RunFolder
from slotkit.runs.schema import naming
from slotkit.selection import greedy, take

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Course:
    """What there is of a run from its start to a checkpoint.

    Attributes:
        reels: tensor name -> reel.
        others: what else the network of the checkpoint holds (biases, statistics): name -> tensor.
        step: of the checkpoint.
        between: steps with a replay, or the kept checkpoints of those steps; neither start nor end.
        reservations: sentences on what is missing.
    """

    folder: RunFolder
    config: Config
    reels: Mapping[str, Reel]
    others: Weights
    step: int
    state: dict[str, Any]
    between: Mapping[int, Path | None]
    reservations: tuple[str, ...]

    def snapshots(self) -> Iterator[tuple[int, Weights]]:
        """(step, name -> float32 weights of the tensor's shape), from step 0 to the checkpoint."""
        start = self.folder.checkpoint("start")
        if self.step and start.exists():
            yield 0, _weights(load(self.folder, "start")[0], self.reels)
        elif self.step:
            yield 0, {name: reel.chosen(first_selection(reel)) for name, reel in self.reels.items()}
        replayed = [step for step, path in self.between.items() if path is None]
        if replayed:
            for step, selected in zip(replayed, selections_at(self.folder, replayed), strict=True):
                yield step, {name: reel.chosen(selected[name]) for name, reel in self.reels.items()}
        for step, path in self.between.items():
            if path is not None:
                yield step, _weights(checkpoint.load(path)[0], self.reels)
        yield self.step, _weights(self.state, self.reels)

    def mirrored(self, name: str, connections: Tensor) -> Tensor | None:
        """What connections (n,) would use at the end with every latent A turned to -A; float32 (n,).

        None in the dense form, which has no latents.
        """
        if self.state["settings"]["form"] != "latent":
            return None
        latent = -self.state["latent"][name].cpu()[connections]
        return _greedy_values(self.reels[name], connections, latent, self.state["lines"][name]["c"])


def open_course(folder: RunFolder, which: str, count: int) -> Course:
    """The course of a run to its checkpoint `which`, with up to `count` snapshots between.

    Raises SlotkitError for a run without slots, a missing or damaged checkpoint or a damaged trace.
    """
    config = folder.config()
    check_slot_machine(folder, config)
    state, about = load(folder, which)
    if "weights" in state:
        raise SlotkitError(
            f"The checkpoint {which} of {folder.name} holds weights without their scores, as `slotkit runs "
            "replay` writes them. Choose best, last or epoch-N: steps on the way come from the trace itself."
        )
    between, reservations = _between(folder, config, int(about["step"]), count)
    with naming(folder.checkpoint(which), "Use another one, or train again."):
        reels, others = _reels(folder, config, state["settings"]), dict(state["others"])
    return Course(folder, config, reels, others, int(about["step"]), state, between, reservations)


def _between(
    folder: RunFolder, config: Config, end: int, count: int
) -> tuple[dict[int, Path | None], tuple[str, ...]]:
    """Steps strictly between the start and `end`: evenly spread in a full trace, else of kept epochs."""
    trace = Trace(folder.path / "trace")
    if config.recording.trace == "full" and (trace.folder / "about.json").is_file():
        check_trace_of(folder)
        last = trace.last_step()
        steps = np.unique(np.linspace(0, end, count + 2).astype(np.int64))[1:-1]
        cut = (
            f"The trace of {folder.name} ends at step {last:,} and its checkpoint is of step {end:,}: "
            "nothing is shown in between."
        )
        return {int(step): None for step in steps if step <= last}, (cut,) if last < end else ()
    kept = {
        int(load(folder, path.stem)[1]["step"]): path
        for path in (folder.path / "checkpoints").glob("epoch-*.safetensors")
    }
    found: dict[int, Path | None] = {step: kept[step] for step in sorted(kept) if 0 < step < end}
    if found:
        return found, ()
    how = "Train with --set recording.keep_epochs=[1,2,5], or with --trace full."
    if folder.recorded() is not None:
        how = 'Record with trace="full", or keep some on the way: run.checkpoint("epoch-5").'
    return {}, (
        f"{folder.name} has neither a trace of every flip nor kept epochs, so this is a partial answer: its "
        f"start and its end, nothing between. {how}",
    )


def _reels(folder: RunFolder, config: Config, settings: Mapping[str, Any]) -> dict[str, Reel]:
    common = ReelSettings.of_machine(settings)
    return {
        name: common.reel(name, shape, _channel_dim(folder, config, name))
        for name, shape in settings["reels"].items()
    }


def _channel_dim(folder: RunFolder, config: Config, name: str) -> int:
    """1 in a transposed convolution, of which slotkit's own networks have none."""
    own, traced = config.model.name == OWN, (folder.path / "trace" / "about.json").is_file()
    by_channel = config.model.name.startswith("timm/") and config.slots.sharing == "channel"
    return channel_dims_of(folder)[name] if own or traced or by_channel else 0


def _weights(state: Mapping[str, Any], reels: Mapping[str, Reel]) -> Weights:
    """The weights of a checkpoint, greedily read."""
    settings = state["settings"]
    found: Weights = {}
    for name, reel in reels.items():
        if settings["form"] == "dense":
            found[name] = reel.chosen(greedy(state["scores"][name].cpu()))
        elif settings["selection"] == "greedy" and state["others"][name].dtype.itemsize >= 4:
            found[name] = state["others"][name].cpu()
        else:
            latent = state["latent"][name].cpu()
            values = _greedy_values(reel, torch.arange(len(latent)), latent, state["lines"][name]["c"])
            found[name] = values.reshape(reel.shape)
    return found


def _greedy_values(reel: Reel, connections: Tensor, latent: Tensor, c: float) -> Tensor:
    """Of each connection the option of the highest score c * S + A * W, in chunks; all (n,)."""
    size, values = max(1, ROWS // reel.k), []
    for some, latents in zip(torch.split(connections, size), torch.split(latent, size), strict=True):
        options, initial = reel.rows(some)
        values.append(take(options, greedy(line_scores(options, initial, latents, c))))
    return torch.cat(values)
