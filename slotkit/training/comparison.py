"""A folder that compares finetuned networks, while its branches train; see `slotkit.training.finetune`.

Its summary says which branches there will be, and is written anew after each: whatever interrupts it, `go_on`
trains what is left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from slotkit.config import Overrides, Resolved, resolve
from slotkit.errors import SlotkitError, many
from slotkit.models import OWN, create
from slotkit.runs import checkpoint
from slotkit.runs.folder import RunFolder
from slotkit.runs.schema import naming
from slotkit.slotfile.architecture import ordinary_state, outline_of
from slotkit.training.evaluation import read
from slotkit.training.experiment import Report, resume, run
from slotkit.training.loop import Note
from slotkit.training.prepare import Prepared
from slotkit.training.signals import StoppedError
from slotkit.training.trainee import Trainee, build, dtype_of, of_type

# What a summary tells of the settings.
TOLD = ("training.", "seeds.", "learned_")

# Where data lie and how they are read: the same for the slot run and the branches, and no bit depends on it.
DATA_PLACE = ("data.dir", "data.download", "data.memory", "data.workers")


@dataclass(frozen=True)
class Branch:
    """One network of a comparison.

    Attributes:
        checkpoint: of the slot run that it starts from; None from scratch.
        slot_epochs: epochs of the slot run before that.
        epochs: of training its weights.
        checksum: of that checkpoint.
    """

    name: str
    checkpoint: str | None
    slot_epochs: int
    epochs: int
    checksum: str | None = None

    @property
    def network(self) -> str:
        """In words."""
        return "from scratch" if self.checkpoint is None else f"finetuned from {said(self)}"


def selected_weights(prepared: Prepared) -> dict[str, Tensor]:
    """The greedy selection of a slot machine, in either form, as the state_dict of the ordinary network."""
    trainee, dataset, model = prepared.trainee, prepared.dataset, prepared.config.model
    assert trainee.machine is not None
    with torch.device("cpu" if model.name == OWN else "meta"):  # anybody's code may need numbers
        ordinary = create(model.name, (dataset.channels, *dataset.size), dataset.num_classes, **model.options)
    with trainee.machine.using("greedy"):
        return ordinary_state(trainee.model, outline_of(model.name, ordinary))


def first_summary(parent: Mapping[str, Any], resolved: Resolved, plan: Sequence[Branch]) -> dict[str, Any]:
    """What a summary says before the first branch."""
    return {
        "status": "running",
        "kind": "finetune",
        "name": None,
        "parent": dict(parent),
        "settings": {path: value for path, value, _ in resolved.explain() if path.startswith(TOLD)},
        "epochs": 0,
        "validation": {},
        "test": {},
        "plan": [asdict(branch) for branch in plan],
        "slot": {},
        "branches": [],
        "table": [],
        "seconds": 0.0,
    }


class Comparison:
    """The folder of a comparison while its branches train."""

    def __init__(
        self,
        folder: RunFolder,
        parent: RunFolder,
        source: Prepared,
        resolved: Resolved,
        report: Report,
        changes: Sequence[Overrides] = (),
    ) -> None:
        self.folder, self.parent, self.source = folder, parent, source
        self.resolved, self.report, self.changes = resolved, report, changes
        self.started = time.perf_counter()
        self.values = {"slot": {}, "branches": []} | folder.summary()
        self.values |= {"status": "running", "name": folder.name}
        self.values.pop("reason", None)
        self.seconds_before = float(self.values.get("seconds", 0.0))

    def tell(self, text: str) -> None:
        self.folder.log(text)
        self.report(Note(text))

    def complete(self, branches: Sequence[Branch]) -> None:
        """Train what is left of every branch; with each goes a reading of the slot machine's checkpoint."""
        if self.source.config.probabilistic:
            self.tell("The slot run samples its weights; its greedy selection is trained on.")
        with self._told():
            for branch in branches[len(self.values["branches"]) :]:
                self.values["branches"].append(self._train(branch))
                self._write()
            self.values |= _compared(self.values["branches"]) | {"status": "finished"}

    def _train(self, branch: Branch) -> dict[str, Any]:
        own = RunFolder(self.folder.path / branch.name)
        if not own.path.exists():
            self.tell(f"{branch.name}: {branch.network}, {many(branch.epochs, 'epoch')}")
            self._begin(branch)
        else:
            self.tell(f"{branch.name}: goes on")
            resume(own, self.changes, self.report)
        summary = own.summary()
        told = ("best_epoch", "validation", "test", "seconds")
        return {
            "branch": branch.name,
            "network": branch.network,
            "checkpoint": branch.checkpoint,
            "slot_epochs": branch.slot_epochs,
            "epochs": summary["epochs"],
            "total_epochs": branch.slot_epochs + summary["epochs"],
            **{key: summary[key] for key in told},
            "slot": self.values["slot"].get(branch.name),
        }

    def _begin(self, branch: Branch) -> None:
        budget = Overrides("slotkit finetune: the same total", {"training.epochs": branch.epochs})
        origins = self.resolved.origins
        own = [
            Overrides(origins[path], {path: value})
            for path, value, origin in self.resolved.explain()
            if origin != "default" and value is not None
        ]
        start = None
        if branch.checkpoint is not None:
            weights = self._weights(branch)
            start = {"weights": of_type(weights, dtype_of(self.resolved.config.training))}
            # Now, while this checkpoint is the slot run's: that may be trained on meanwhile.
            self.values["slot"][branch.name] = self._slot_readings(branch, weights)
            self.values["slot"][branch.name]["network"] = f"slot machine, {said(branch)}"
            self._write()
        about = about_parent(self.parent, [branch])
        settings, data = resolve([*own, budget]), self.source.identity
        run(settings, self.folder.path, branch.name, self.report, about, start, data)

    def _slot_readings(self, branch: Branch, weights: dict[str, Tensor]) -> dict[str, Any]:
        """The greedy reading of the slot machine at the checkpoint, on validation and test images. Of a step
        there are only the weights, so an ordinary network is read with them.
        """
        source, from_step = self.source, (branch.checkpoint or "").startswith("step-")
        trainee = self._ordinary(weights) if from_step else source.trainee
        return {
            part: read(trainee, source.images(part), "greedy", source.config).as_dict()
            for part in ("validation", "test")
        }

    def _ordinary(self, weights: dict[str, Tensor]) -> Trainee:
        """The network of the slot run with these weights."""
        dataset = self.source.dataset
        config = self.source.config.model_copy(update={"method": "learned"})
        trainee = build(config, (dataset.channels, *dataset.size), dataset.num_classes)
        trainee.load({"weights": of_type(weights, trainee.dtype)})
        return trainee

    def _weights(self, branch: Branch) -> dict[str, Tensor]:
        """The selected weights at a checkpoint, as the state_dict of the ordinary network."""
        assert branch.checkpoint is not None
        path = self.parent.checkpoint(branch.checkpoint)
        state, _, checksum = checkpoint.read(path)
        if branch.checksum not in (None, checksum):
            raise SlotkitError(
                f"{path} is not the checkpoint any more that {self.folder.name} was started with: the slot "
                "run was trained on. Start `slotkit finetune` anew, under another --name."
            )
        with naming(path, "Use another one, or train again."):
            if branch.checkpoint.startswith("step-"):
                replayed: dict[str, Tensor] = state["weights"]
                return replayed
            self.source.trainee.load(state)
            return selected_weights(self.source)

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
        self.values["seconds"] = round(self.seconds_before + time.perf_counter() - self.started, 3)
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


def about_parent(parent: RunFolder, branches: Sequence[Branch]) -> dict[str, Any]:
    """The table `parent` of config.toml: of the comparison, or of one branch."""
    told: dict[str, Any] = {"run": parent.name, "path": str(parent.path.resolve())}
    started = [branch for branch in branches if branch.checkpoint is not None]
    if len(branches) == 1 and started:
        told |= {"checkpoint": started[0].checkpoint, "epoch": started[0].slot_epochs}
    elif started:
        told |= {"checkpoints": [branch.checkpoint for branch in started]}
        told |= {"epochs": [branch.slot_epochs for branch in started]}
    return told


def said(branch: Branch) -> str:
    which = branch.checkpoint or ""
    if which.startswith("step-"):
        return which.replace("-", " ")
    return f"epoch {branch.slot_epochs}" + (f" ({which})" if which in ("best", "last") else "")
