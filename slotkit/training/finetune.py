"""Finetuning: the selected weights of a slot machine, trained on as an ordinary network.

One folder compares branches. Each branch is a run of its own in it, started from one checkpoint of the
slot run, or from scratch, and all have the same number of epochs in total, as in the paper:

    total = epochs of the latest checkpoint + training.epochs
    a branch from a checkpoint of epoch e trains its weights for total - e epochs
    the network from scratch trains its weights for total epochs
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from slotkit.config import Overrides, Resolved, resolve
from slotkit.errors import SlotkitError, many, typed
from slotkit.files import remove
from slotkit.recording.replay import write_checkpoint
from slotkit.runs import checkpoint
from slotkit.runs.environment import environment
from slotkit.runs.fingerprint import check
from slotkit.runs.folder import RunFolder
from slotkit.runs.schema import naming
from slotkit.training.checks import check_settings
from slotkit.training.comparison import DATA_PLACE, Branch, Comparison, about_parent, first_summary
from slotkit.training.experiment import Report
from slotkit.training.loop import Note
from slotkit.training.prepare import at_its_place, crops, own_settings, reopen

# Settings of the slot run that suit its scores and not weights: PS has learning rates of 25 and more.
OF_SCORES = (
    "method",
    "recording.trace",
    "recording.keep_epochs",
    *(
        f"training.{name}"
        for name in (
            *("epochs", "optimizer", "lr", "momentum", "nesterov", "weight_decay", "patience"),
            *("schedule", "milestones", "gamma", "restart_epochs", "min_lr"),
        )
    ),
)

# The authors' code: SGD, lr 0.01, momentum 0.9, nothing else. Ten epochs are ours.
DEFAULTS = Overrides(
    "slotkit finetune",
    {"method": "learned", "training.epochs": 10, "training.lr": 0.01, "recording.trace": "off"},
)

# What may differ from the slot run: how weights are trained, never the network, the images or their split.
FREE = (
    *("training.", "recording.", "learned_"),
    *("data.augment", "data.dir", "data.download", "data.memory", "data.workers"),
)
FREE_SEEDS = ("seeds.training", "seeds.reels")

# Where the slot run is looked at, as the settings given say. A dataset is given only to a run that
# slotkit.record has made, which has none by name.
PLACE = ("data.dataset", *DATA_PLACE, "training.device")

NEW_RUN = "Selected weights are trained on with the data of their run; on these, train a new run."


def finetune(
    parent: RunFolder,
    runs_dir: Path,
    which: Sequence[str] = ("best",),
    overrides: Sequence[Overrides] = (),
    scratch: bool = False,
    name: str | None = None,
    report: Report = lambda event: None,
    begun: Callable[[RunFolder], None] = lambda folder: None,
) -> RunFolder:
    """Train the selected weights of `parent` on, and leave one folder that compares.

    Under probabilistic selection it is the greedy selection that is trained on. Momentum and
    schedule start anew with the weights.

    Args:
        which: checkpoints to start from: "best", "last", "epoch-N" (see `parse_checkpoints`), or "step-N"
            of a run with a trace of every flip; its slot epochs are the whole ones before that step.
        overrides: settings of training the weights, over DEFAULTS and what the slot run has for
            network, images and batches; `training.epochs` are those after the latest checkpoint.
        begun: called with the folder when it is made.
        scratch: also train learned weights from `learned_init` for as many epochs in total.

    Returns:
        The folder. Its branches are runs: from-epoch-10/, from-best/, ..., scratch/.

    Raises:
        SlotkitError: not a slot run, no such checkpoint, a setting that may not differ;
            KeyboardInterrupt and StoppedError pass through, and the summary says so.
    """
    resolved = settings(parent, overrides)
    branches, notes = plan(parent, which, resolved.config.training.epochs, scratch)
    given = {path: value for each in overrides for path, value in each.values.items() if path in PLACE}
    source = reopen(parent, resolve([own_settings(parent), Overrides("slotkit finetune", given)]), NEW_RUN)
    resolved = at_its_place(resolved)
    if parent.recorded() is not None:
        notes.append(
            f"{parent.name} was recorded in a loop of one's own: its scores may have been trained on images "
            "that are validation images here. Its epochs are not known: a checkpoint epoch-N counts as N, "
            "and any other one as none."
        )
    about = about_parent(parent, [branch for branch in branches if branch.checkpoint])

    def fill(folder: RunFolder) -> None:
        remove(folder.path / "checkpoints")  # the branches have their own
        folder.write_summary(first_summary(about, resolved, branches))

    folder = RunFolder.create(
        runs_dir,
        name,
        resolved,
        environment(str(source.trainee.device), torch.get_num_threads()),
        about,
        fill,
        usual=f"{time.strftime('%Y%m%d-%H%M%S')}-finetune-{parent.name}",
    )
    begun(folder)
    with folder.locked():
        comparison = Comparison(folder, parent, source, resolved, report)
        for note in notes:
            comparison.tell(note)
        comparison.complete(branches)
    return folder


def go_on(
    folder: RunFolder, changes: Sequence[Overrides] = (), report: Report = lambda event: None
) -> RunFolder:
    """Go on with a comparison that was stopped or killed, to the same bits; a finished one is left as it is.

    Args:
        changes: where the data lies now, and how it is read.

    Raises SlotkitError if it is being trained, is damaged, or the slot run is not what it was.
    """
    with folder.locked():
        summary, tables = folder.summary(), folder.tables()
        if summary["status"] == "finished":
            report(Note(f"The comparison {folder.name} is finished."))
            return folder
        given = {path: value for each in changes for path, value in each.values.items()}
        own = {path: value for path, value, _ in Resolved(folder.config(), {}).explain()}
        others = sorted(path for path in given.keys() - set(DATA_PLACE) if given[path] != own.get(path))
        if others:
            raise SlotkitError(
                f"The comparison {folder.name} goes on with its own settings, and {', '.join(others)} came. "
                f"Leave them out: only {', '.join(DATA_PLACE)} may change."
            )
        with naming(folder.path / "summary.json", "Start `slotkit finetune` anew, under another --name."):
            branches = [Branch(**branch) for branch in summary["plan"]]
        folder.remove_temporary_files()
        parent = RunFolder.open(str(tables.get("parent", {}).get("path", "")), folder.path.parent)
        there = resolve([own_settings(folder), *changes])
        resolved = Resolved(there.config, tables["origins"] | {path: there.origins[path] for path in given})
        place = {path: value for path, value, _ in resolved.explain() if path in PLACE}
        there = resolve([own_settings(parent), Overrides(f"run {folder.name}", place)])
        source = reopen(parent, there, NEW_RUN)
        Comparison(folder, parent, source, resolved, report, changes).complete(branches)
    return folder


def settings(parent: RunFolder, overrides: Sequence[Overrides] = ()) -> Resolved:
    """How the weights of a slot run are trained on: its own settings, DEFAULTS, then `overrides`.

    Raises SlotkitError if it is no slot run, or `overrides` would change what has to stay.
    """
    parent.check_single()
    if parent.config().method != "slot":
        raise SlotkitError(
            f"{parent.name} has learned weights, so nothing is selected that could be finetuned. Give a slot "
            f"run; `slotkit train --resume {typed(parent.path)} --epochs N` trains this one on."
        )
    for given in overrides:
        for path in given.values:
            own = path == "data.dataset" and parent.recorded() is not None
            if not path.startswith(FREE) and path not in FREE_SEEDS and not own:
                raise SlotkitError(
                    f"{path} (from {given.origin}) can't differ from the slot run's: its weights fit that "
                    "network and split. How they are trained may: training.*, recording.*, data.augment, "
                    "data.dir, data.memory, data.workers, learned_init, learned_others, seeds.training and "
                    "seeds.reels."
                )
    resolved = resolve([*own_layers(parent), *overrides])
    check_settings(resolved.config)
    return resolved


def own_layers(parent: RunFolder) -> list[Overrides]:
    """What is laid over by the settings that are given: the slot run's, without those of its scores."""
    own = own_settings(parent)
    kept = {path: value for path, value in own.values.items() if path not in OF_SCORES}
    if kept["data.fit"] == "auto":  # another augmentation would decide it otherwise
        kept["data.fit"] = "crop" if crops(parent.config().data) else "stretch"
    return [Overrides(own.origin, kept), DEFAULTS]


def parse_checkpoints(text: str) -> list[str]:
    """ "10,30" -> ["epoch-10", "epoch-30"]; best and last stay. Raises SlotkitError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if any(re.fullmatch(r"best|last|[1-9]\d*", part) is None for part in parts) or len(set(parts)) < len(
        parts
    ):
        raise SlotkitError(f"--epoch is {text!r}. Give best, last, or different epochs such as 10,30.")
    return [f"epoch-{part}" if part.isdigit() else part for part in parts]


def plan(
    parent: RunFolder, which: Sequence[str], epochs: int, scratch: bool
) -> tuple[list[Branch], list[str]]:
    """The branches, each with its epochs, and what the user should know about them.

    A checkpoint of the same step as one before it is left out.

    Raises SlotkitError if a checkpoint is not there, with those that are.
    """
    found: dict[int, tuple[str, int, str]] = {}
    notes = _unfinished(parent)
    for one in which:
        step, epoch, checksum = _describe(parent, one)
        if step in found:
            notes.append(f"{one} is the same checkpoint as {found[step][0]}: one branch for both.")
        else:
            found[step] = one, epoch, checksum
    notes += _within_epochs(parent, {one: (step, epoch) for step, (one, epoch, _) in found.items()})
    total = max(epoch for _, epoch, _ in found.values()) + epochs
    branches = [
        Branch(f"from-{one}", one, epoch, total - epoch, checksum) for one, epoch, checksum in found.values()
    ]
    if scratch:
        branches.append(Branch("scratch", None, 0, total))
    return branches, notes


def _describe(parent: RunFolder, which: str) -> tuple[int, int, str]:
    """Step, epoch and checksum of a checkpoint."""
    path = parent.checkpoint(which)
    if which.startswith("step-") and not path.exists():
        write_checkpoint(parent, int(which.removeprefix("step-")))
    if not path.exists():
        there = sorted(file.name.removesuffix(".safetensors") for file in path.parent.glob("*.safetensors"))
        epoch = which.removeprefix("epoch-")
        advice = (
            f"Train it with --set recording.keep_epochs=[{epoch}] to keep that epoch, or choose another."
            if epoch != which
            else "Train it on first: `slotkit train --resume`."
        )
        raise SlotkitError(
            f"The run {parent.name} has no checkpoint {which}; it has {', '.join(there) or 'none'}. {advice}"
        )
    about, checksum = checkpoint.told(path)
    check(parent, path, about)
    if about.get("chosen") and which.startswith("step-") and which != f"step-{about.get('step')}":
        raise SlotkitError(
            f"{path} was kept by the loop itself (run.checkpoint), after step {about.get('step')}. Give that "
            "file another name; then the network of the step is replayed."
        )
    with naming(path, "Use another one, or train again."):
        return about["step"], about["epoch"], checksum


def _within_epochs(parent: RunFolder, found: Mapping[str, tuple[int, int]]) -> list[str]:
    """What to say of checkpoints, of that step and epoch, whose last steps count as no epoch."""
    if parent.recorded() is not None:
        return []
    ends = {0: 0} | {entry["epoch"]: entry["step"] for entry in parent.metrics() if entry["kind"] == "epoch"}
    return [
        f"{one} is {many(step - ends[epoch], 'step')} into epoch {epoch + 1}. They count as no epoch, so "
        "this network is trained for that much longer than the others."
        for one, (step, epoch) in found.items()
        if step > ends.get(epoch, step)
    ]


def _unfinished(parent: RunFolder) -> list[str]:
    summary, status = parent.summary(), parent.status()
    if status == "finished":
        return []
    epochs = parent.config().training.epochs
    return [
        f"The run {parent.name} is {status}, {summary.get('epochs', 0)} of {many(epochs, 'epoch')} done: "
        "its checkpoints are taken as they are now."
    ]
