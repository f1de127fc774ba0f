"""From the seed and the recorded flips to the weights of any step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.recording.chunks import names_flips
from slotkit.recording.trace import Trace, flips
from slotkit.reel import ROWS, Init, Reel, ReelSettings, init_name
from slotkit.runs import checkpoint
from slotkit.runs.fingerprint import fingerprint, load
from slotkit.runs.folder import RunFolder
from slotkit.runs.schema import naming
from slotkit.selection import greedy
from slotkit.standin import ties_of


def settings_of(folder: RunFolder) -> dict[str, Any]:
    """What the reels of a traced run have in common: `ReelSettings.to_dict`. No config is needed."""
    about = Trace(folder.path / "trace").about()
    if "reels" in about:
        return dict(about["reels"]) | {"init": init_name(about["reels"]["init"])}
    # an old trace, which does not have the settings
    slots, seed = folder.config().slots, folder.config().seeds.reels
    return ReelSettings(slots.k, seed, slots.init, slots.sharing, slots.symmetric, slots.kind).to_dict()


def reels_of(folder: RunFolder, init: Init | None = None) -> dict[str, Reel]:
    """The reels of a traced run, by tensor name. `init` is the object that they were made with, if it was
    one.

    Raises SlotkitError if it is missing or another.
    """
    settings = ReelSettings.from_dict(settings_of(folder), init)
    return {
        name: settings.reel(name, tensor["shape"], tensor.get("channel_dim", 0))
        for name, tensor in Trace(folder.path / "trace").about()["tensors"].items()
    }


def channel_dims_of(folder: RunFolder) -> dict[str, int]:
    """Tensor name -> the dimension that counts output channels, 1 in a transposed convolution.

    Raises SlotkitError if neither config.toml nor a trace says so.
    """
    recorded, trace = folder.recorded(), Trace(folder.path / "trace")
    if recorded is not None:
        return dict(recorded["channel_dims"])
    if (trace.folder / "about.json").is_file():
        return {name: int(tensor["channel_dim"]) for name, tensor in trace.about()["tensors"].items()}
    raise SlotkitError(
        f"{folder.name} has no trace, which would say what dimension of its tensors counts channels. Train "
        "with --trace summary."
    )


def first_selection(reel: Reel) -> Tensor:
    """The option of the highest initial score of every connection: int64 (connections,)."""
    count = int(torch.Size(reel.shape).numel())
    parts = torch.split(torch.arange(count), max(1, ROWS // reel.k))
    return torch.cat([greedy(reel.rows(part)[1]) for part in parts])


def start_selections(folder: RunFolder, init: Init | None = None) -> dict[str, Tensor]:
    """The options in use when the recording of a run began: name -> int64 (connections,). Of a PS run they
    are those of its greedy reading.

    Raises SlotkitError if the run has no trace, or it is damaged.
    """
    start = Trace(folder.path / "trace").start()
    return start or {name: first_selection(reel) for name, reel in reels_of(folder, init).items()}


def selections(folder: RunFolder, step: int, init: Init | None = None) -> dict[str, Tensor]:
    """The options in use after `step` steps (0: before the first): name -> int64 of the tensor's shape. Of a
    PS run they are those of its greedy reading.

    Raises SlotkitError if the run has no trace of every flip, or none of that step.
    """
    return next(selections_at(folder, [step], init))


def selections_at(
    folder: RunFolder, steps: Sequence[int], init: Init | None = None
) -> Iterator[dict[str, Tensor]]:
    """`selections` of several steps, which must be in rising order, in one pass over the trace.

    The tensors are reused: they are valid until the next ones are asked for.

    Raises SlotkitError as `selections` does, at the first step that the trace does not have.
    """
    trace = Trace(folder.path / "trace")
    about = trace.about()
    if not names_flips(about):
        raise SlotkitError(
            f"The trace of {folder.name} is {about['level']!r}, and a replay needs every flip. Train with "
            "--trace full."
        )
    start, tensors = start_selections(folder, init), about["tensors"]
    selected = [start[name] for name in tensors]
    shaped = {name: start[name].view(tensor["shape"]) for name, tensor in tensors.items()}
    waiting, last = list(steps), 0
    for first, columns in trace.chunks(until=max(steps, default=0)):
        last = first + len(columns["lr"]) - 1
        for row, tensor, connections, options in flips(columns):
            while waiting and 0 <= waiting[0] < first + row:
                waiting.pop(0)
                yield shaped
            selected[tensor][torch.from_numpy(connections)] = torch.from_numpy(options.astype("int64"))
        while waiting and 0 <= waiting[0] <= last:
            waiting.pop(0)
            yield shaped
    for step in waiting:
        if not 0 <= step <= last:
            raise SlotkitError(
                f"Step {step} is not in the trace of {folder.name}, which has steps 0 to "
                f"{trace.last_step()}. Choose one of them."
            )
        yield shaped


def replay(folder: RunFolder, step: int, init: Init | None = None) -> dict[str, Tensor]:
    """The exact weights of all reels after `step` steps: name -> float32 of the tensor's shape. `init` as for
    `reels_of`.
    """
    chosen = selections(folder, step, init)
    return {name: reel.chosen(chosen[name]) for name, reel in reels_of(folder, init).items()}


def write_checkpoint(folder: RunFolder, step: int) -> Path:
    """Write the ordinary network of that step as checkpoint "step-N". Returns its path.

    Raises SlotkitError if something besides the reels was trained: the trace has only their flips.
    """
    if folder.config().slots.others == "trained":
        raise SlotkitError(
            f"In {folder.name} biases or norms were trained too (slots.others=trained), and the trace has "
            f"the flips of the reels only. {_instead(folder)}"
        )
    path = folder.checkpoint(f"step-{step}")
    if path.is_file() and checkpoint.told(path)[0].get("chosen"):
        raise SlotkitError(
            f"{path} was kept by the loop itself (run.checkpoint), and the network of the replay would be "
            "written over it. Give that file another name first."
        )
    weights = replay(folder, step)
    state, _ = load(folder, "last")
    with naming(folder.checkpoint("last"), "Train again."):
        others: dict[str, Any] = {name: v for name, v in state["others"].items() if name not in weights}
        # Under its further names a tied tensor has the weights of that step, too.
        ties = {name: weights[first] for name, first in ties_of(state).items() if first in weights}
    tracked = [name for name in others if name.endswith("num_batches_tracked")]
    if tracked:
        raise SlotkitError(
            f"The network of {folder.name} has batch norm, whose running statistics are not in the trace. "
            f"{_instead(folder)}"
        )
    _check_unmoved(folder, {name: value for name, value in others.items() if name not in ties})
    epochs = sum(entry["kind"] == "epoch" and entry["step"] <= step for entry in folder.metrics())
    held = fingerprint(folder, folder.config())
    checkpoint.save(path, {"weights": others | ties | weights}, step=step, epoch=epochs, **held)
    return path


def _check_unmoved(folder: RunFolder, others: Mapping[str, Any]) -> None:
    """Raise SlotkitError if tensors beside the reels are not what the run began with, where that is known: an
    optimizer of somebody's own has trained them.
    """
    if not folder.checkpoint("start").is_file():
        return
    state, _ = load(folder, "start")
    with naming(folder.checkpoint("start"), "Train again."):
        before = {name: state["others"][name] for name in others}
    moved = [name for name, value in others.items() if not torch.equal(value, before[name])]
    if moved:
        raise SlotkitError(
            f"In {folder.name} {', '.join(moved[:3])} changed while it was trained, and the trace has the "
            f"flips of the reels only. {_instead(folder)}"
        )


def _instead(folder: RunFolder) -> str:
    """How the next training keeps what no trace has."""
    if folder.recorded() is not None:
        return 'Keep checkpoints instead: run.checkpoint("epoch-10") in the loop.'
    return "Keep checkpoints of epochs instead: --set recording.keep_epochs=[10,30]."
