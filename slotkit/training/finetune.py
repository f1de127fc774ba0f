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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slotkit.config import Overrides, Resolved, resolve
from slotkit.errors import SlotkitError
from slotkit.models import create
from slotkit.recording.replay import write_checkpoint
from slotkit.runs import checkpoint
from slotkit.runs.folder import RunFolder, environment
from slotkit.slotfile.architecture import ordinary_state, outline_of
from slotkit.training.evaluation import read
from slotkit.training.experiment import Report, StoppedError, evaluate, run
from slotkit.training.loop import Note
from slotkit.training.prepare import Prepared, at_its_place, own_settings, reopen

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
FREE = ("training.", "recording.", "learned_", "data.augment", "data.dir", "data.download")
FREE_SEEDS = ("seeds.training", "seeds.reels")

# The settings that are written to the summary.
TOLD = ("training.", "seeds.", "learned_")

# Settings that say where to read the slot run: those given now count, not the run's own.
PLACE = ("data.dir", "data.download", "training.device")

NEW_RUN = "Selected weights are trained on with the data of their run; on these, train a new run."


@dataclass(frozen=True)
class Branch:
    """One network of a comparison.

    Attributes:
        checkpoint: of the slot run that it starts from; None from scratch.
        slot_epochs: epochs of the slot run before that.
        epochs: of training its weights.
    """

    name: str
    checkpoint: str | None
    slot_epochs: int
    epochs: int

    @property
    def network(self) -> str:
        """In words."""
        return "from scratch" if self.checkpoint is None else f"finetuned from {_said(self)}"


def finetune(
    parent: RunFolder,
    runs_dir: Path,
    which: Sequence[str] = ("best",),
    overrides: Sequence[Overrides] = (),
    scratch: bool = False,
    name: str | None = None,
    report: Report = lambda event: None,
) -> RunFolder:
    """Train the selected weights of `parent` on, and leave one folder that compares.

    Under probabilistic selection it is the greedy selection that is trained on. Momentum and
    schedule start anew with the weights.

    Args:
        which: checkpoints to start from: "best", "last", "epoch-N" (see `parse_checkpoints`), or "step-N"
            of a run with a trace of every flip; its slot epochs are the whole ones before that step.
        overrides: settings of training the weights, over DEFAULTS and what the slot run has for
            network, images and batches; `training.epochs` are those after the latest checkpoint.
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
    folder = RunFolder.create(
        runs_dir,
        name or f"{time.strftime('%Y%m%d-%H%M%S')}-finetune-{parent.name}",
        resolved,
        environment(str(source.trainee.device), torch.get_num_threads()),
        _about(parent, [branch for branch in branches if branch.checkpoint]),
    )
    (folder.path / "checkpoints").rmdir()  # the branches have their own
    with folder.locked():
        comparison = _Comparison(folder, parent, source, resolved, report)
        for note in notes:
            comparison.tell(note)
        comparison.complete(branches)
    return folder


def settings(parent: RunFolder, overrides: Sequence[Overrides] = ()) -> Resolved:
    """How the weights of a slot run are trained on: its own settings, DEFAULTS, then `overrides`.

    Raises SlotkitError if it is no slot run, or `overrides` would change what has to stay.
    """
    parent.check_single()
    if parent.config().method != "slot":
        raise SlotkitError(
            f"{parent.name} has learned weights, so nothing is selected that could be finetuned. Give a slot "
            f"run; `slotkit train --resume {parent.path} --epochs N` trains this one on."
        )
    for given in overrides:
        for path in given.values:
            if not path.startswith(FREE) and path not in FREE_SEEDS:
                raise SlotkitError(
                    f"{path} (from {given.origin}) can't differ from the slot run's: its weights fit that "
                    "network and split. How they are trained may: training.*, recording.*, data.augment, "
                    "data.dir, learned_init, learned_others, seeds.training and seeds.reels."
                )
    own = own_settings(parent)
    kept = {path: value for path, value in own.values.items() if path not in OF_SCORES}
    return resolve([Overrides(own.origin, kept), DEFAULTS, *overrides])


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
    found: dict[int, tuple[str, int]] = {}
    notes = _unfinished(parent)
    for one in which:
        about = _describe(parent, one)
        step, epoch = about["step"], about["epoch"]
        if step in found:
            notes.append(f"{one} is the same checkpoint as {found[step][0]}: one branch for both.")
        else:
            found[step] = one, epoch
    total = max(epoch for _, epoch in found.values()) + epochs
    branches = [Branch(f"from-{one}", one, epoch, total - epoch) for one, epoch in found.values()]
    if scratch:
        branches.append(Branch("scratch", None, 0, total))
    return branches, notes


def selected_weights(prepared: Prepared) -> dict[str, Tensor]:
    """The greedy selection of a slot machine, in either form, as the state_dict of the ordinary network."""
    trainee, dataset, model = prepared.trainee, prepared.dataset, prepared.config.model
    assert trainee.machine is not None
    with torch.device("meta"):
        ordinary = create(model.name, (dataset.channels, *dataset.size), dataset.num_classes, **model.options)
    with trainee.machine.using("greedy"):
        return ordinary_state(trainee.model, outline_of(model.name, ordinary))


class _Comparison:
    """The folder of a comparison while its branches train."""

    def __init__(
        self, folder: RunFolder, parent: RunFolder, source: Prepared, resolved: Resolved, report: Report
    ) -> None:
        self.folder, self.parent, self.source = folder, parent, source
        self.resolved, self.report = resolved, report
        self.started = time.perf_counter()
        self.values: dict[str, Any] = {
            "status": "running",
            "kind": "finetune",
            "name": folder.name,
            "parent": folder.tables()["parent"],
            "settings": {path: value for path, value, _ in resolved.explain() if path.startswith(TOLD)},
            "epochs": 0,
            "validation": {},
            "test": {},
            "branches": [],
            "table": [],
        }
        self._write()

    def tell(self, text: str) -> None:
        self.folder.log(text)
        self.report(Note(text))

    def complete(self, branches: Sequence[Branch]) -> None:
        """Train every branch, then read the test set with the slot machine's checkpoints, once each."""
        if self.source.config.probabilistic:
            self.tell("The slot run samples its weights; its greedy selection is trained on.")
        with self._told():
            for branch in branches:
                self.values["branches"].append(self._train(branch))
                self._write()
            for branch, entry in zip(branches, self.values["branches"], strict=True):
                entry["slot"] = self._slot_readings(branch)
            self.values |= _compared(self.values["branches"]) | {"status": "finished"}

    def _train(self, branch: Branch) -> dict[str, Any]:
        self.tell(f"{branch.name}: {branch.network}, {branch.epochs} epochs")
        budget = Overrides("slotkit finetune: the same total", {"training.epochs": branch.epochs})
        origins = self.resolved.origins
        own = [
            Overrides(origins[path], {path: value})
            for path, value, origin in self.resolved.explain()
            if origin != "default" and value is not None
        ]
        start = None
        if branch.checkpoint is not None:
            start = {"weights": self._weights(branch.checkpoint)}
        done = run(
            resolve([*own, budget]),
            self.folder.path,
            branch.name,
            self.report,
            _about(self.parent, [branch]),
            start,
            self.source.identity,
        )
        summary = done.summary()
        told = ("best_epoch", "validation", "test", "seconds")
        return {
            "branch": branch.name,
            "network": branch.network,
            "checkpoint": branch.checkpoint,
            "slot_epochs": branch.slot_epochs,
            "epochs": summary["epochs"],
            "total_epochs": branch.slot_epochs + summary["epochs"],
            **{key: summary[key] for key in told},
        }

    def _slot_readings(self, branch: Branch) -> dict[str, Any] | None:
        """The greedy reading of the slot machine at the checkpoint, on validation and test images."""
        if branch.checkpoint is None:
            return None
        readings = {part: self._slot_reading(branch.checkpoint, part) for part in ("validation", "test")}
        return {"network": f"slot machine, {_said(branch)}", **readings}

    def _slot_reading(self, which: str, part: str) -> dict[str, Any]:
        if which.startswith("step-"):
            data = self.source.config.data
            data_dir = Overrides("slotkit finetune", {"data.dir": data.dir, "data.download": data.download})
            return evaluate(self.parent, which, part, [data_dir])["learned"].as_dict()
        self._load(which)
        images = self.source.images(part)
        return read(self.source.trainee, images, "greedy", self.source.config).as_dict()

    def _weights(self, which: str) -> dict[str, Tensor]:
        """The selected weights at a checkpoint, as the state_dict of the ordinary network."""
        if which.startswith("step-"):
            replayed: dict[str, Tensor] = checkpoint.load(self.parent.checkpoint(which))[0]["weights"]
            return replayed
        self._load(which)
        return selected_weights(self.source)

    def _load(self, which: str) -> None:
        self.source.trainee.load(checkpoint.load(self.parent.checkpoint(which))[0])

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in the summary how it ended."""
        try:
            yield
        except BaseException as fault:
            ends = {StoppedError: "stopped", KeyboardInterrupt: "interrupted"}
            self.values |= {
                "status": ends.get(type(fault), "failed"),
                "reason": str(fault) or type(fault).__name__,
            }
            raise
        finally:
            self._write()

    def _write(self) -> None:
        self.values["seconds"] = round(time.perf_counter() - self.started, 3)
        self.folder.write_summary(self.values)


def _compared(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The table of a comparison, and the finetuned network with the best validation, for `runs list`."""
    rows = []
    for entry in entries:
        if entry["slot"]:
            rows.append({**entry["slot"], "slot_epochs": entry["slot_epochs"], "epochs": 0})
        test = next(iter(entry["test"]["best"].values()))
        row = {"network": entry["network"], "validation": entry["validation"]["best"], "test": test}
        rows.append(row | {"slot_epochs": entry["slot_epochs"], "epochs": entry["epochs"]})
    finetuned = [entry for entry in entries if entry["slot"]]
    best = max(finetuned, key=lambda entry: entry["validation"]["best"]["accuracy"])
    latest = max(finetuned, key=lambda entry: entry["slot_epochs"])
    return {
        "table": rows,
        "best_branch": best["branch"],
        "epochs": latest["epochs"],
        "validation": best["validation"],
        "test": best["test"],
    }


def _about(parent: RunFolder, branches: Sequence[Branch]) -> dict[str, Any]:
    """The table `parent` of config.toml: of the comparison, or of one branch."""
    told: dict[str, Any] = {"run": parent.name, "path": str(parent.path.resolve())}
    started = [branch for branch in branches if branch.checkpoint is not None]
    if len(branches) == 1 and started:
        told |= {"checkpoint": started[0].checkpoint, "epoch": started[0].slot_epochs}
    elif started:
        told |= {"checkpoints": [branch.checkpoint for branch in started]}
        told |= {"epochs": [branch.slot_epochs for branch in started]}
    return told


def _describe(parent: RunFolder, which: str) -> dict[str, Any]:
    """Step and epoch of a checkpoint."""
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
    _, about = checkpoint.load(path)
    return about


def _unfinished(parent: RunFolder) -> list[str]:
    summary, status = parent.summary(), parent.status()
    if status == "finished":
        return []
    epochs = parent.config().training.epochs
    return [
        f"The run {parent.name} is {status}, {summary.get('epochs', 0)} of {epochs} epochs done: "
        "its checkpoints are taken as they are now."
    ]


def _said(branch: Branch) -> str:
    which = branch.checkpoint or ""
    if which.startswith("step-"):
        return which.replace("-", " ")
    return f"epoch {branch.slot_epochs}" + (f" ({which})" if which in ("best", "last") else "")
