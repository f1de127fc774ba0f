"""Sweeps whose runs are written by hand, so that every number of a report is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slotkit import recipes
from slotkit.config import Overrides, Resolved, resolve
from slotkit.runs.folder import RunFolder
from slotkit.sweeps.plan import Planned
from slotkit.sweeps.sweep import start

ENVIRONMENT = {"command": "slotkit train --k 2", "device": "cpu", "threads": 1, "torch": "2.9.0"}

Accuracy = Callable[[dict[str, Any], int], float]


def finished(
    runs_dir: Path,
    name: str,
    resolved: Resolved,
    test: dict[str, float],
    curve: Sequence[float] = (0.5, 0.7, 0.6),
    status: str = "finished",
) -> RunFolder:
    """A run folder; accuracies are fractions, `curve` those of validation by epoch."""
    folder = RunFolder.create(runs_dir, name, resolved, ENVIRONMENT)
    for epoch, value in enumerate(curve, start=1):
        reading = {"reading": "greedy", "accuracy": value}
        told = {"epoch": epoch, "step": 10 * epoch, "lr": 0.1, "loss": 1 / epoch, "best": False}
        folder.append("metrics.jsonl", {"kind": "epoch", **told, "validation": reading})
    best = {kind: {"accuracy": value} for kind, value in test.items()}
    validation = {"best": {"accuracy": max(curve), "epoch": 2, "kind": "greedy"}}
    summary = {"status": status, "epochs": len(curve), "best_epoch": 2, "seconds": 1.5}
    done = {"validation": validation, "test": {"best": best, "last": best}} if status == "finished" else {}
    folder.write_summary(summary | done)
    return folder


def planned(recipe: str, seeds: Sequence[int] = (0, 1), **values: Any) -> list[Planned]:
    """A cell on top of a recipe; settings as slots__k=4."""
    upper = Overrides("the sweep", {path.replace("__", "."): value for path, value in values.items()})
    layers = [*recipes.below(recipe, [upper]), upper]
    varied = {"recipe": recipe, **values}
    return [
        Planned(
            (*layers, Overrides("seeds of the sweep", {"seeds.reels": seed, "seeds.data": seed})),
            varied,
            seed,
        )
        for seed in seeds
    ]


def sweep(runs_dir: Path, name: str, cells: Sequence[tuple[list[Planned], dict[str, float]]]) -> Path:
    """A sweep of finished runs: each cell with its test accuracies, a tenth of a point more for each seed."""
    all_planned = [one for cell, _ in cells for one in cell]
    made, _ = start(runs_dir / name, all_planned, "made.toml", command=f"slotkit sweep {name}.toml")
    accuracies = [test for cell, test in cells for _ in cell]
    for run, one, test in zip(made.runs(), all_planned, accuracies, strict=True):
        told = {kind: value + 0.001 * (one.seed or 0) for kind, value in test.items()}
        finished(made.path, run.entry.name, resolve(one.layers), told, (0.8, 0.9, next(iter(told.values()))))
    return made.path


LENET = "authors-lenet"


def lenet(runs_dir: Path) -> Path:
    """LeNet on MNIST: greedy, probabilistic, learned, both kinds of sharing that every version has."""
    return sweep(
        runs_dir,
        "lenet",
        [
            *(
                (planned(f"{LENET}-greedy", slots__k=k), {"greedy": value})
                for k, value in ((2, 0.9710), (4, 0.9795), (8, 0.9815), (64, 0.9817))
            ),
            *(
                (planned(f"{LENET}-probabilistic", slots__k=k), {"greedy": value, "sample": value - 0.01})
                for k, value in ((2, 0.9500), (8, 0.9784))
            ),
            (planned(f"{LENET}-learned"), {"learned": 0.9790}),
            *(
                (planned(f"{LENET}-greedy", slots__k=k, slots__sharing="layer"), {"greedy": value})
                for k, value in ((2, 0.30), (64, 0.96))
            ),
        ],
    )


def comparison(
    runs_dir: Path, name: str = "compared", scratch: float = 0.98, tests: Sequence[float] = (0.984, 0.986)
) -> RunFolder:
    """A folder of `slotkit finetune`, with a table as it leaves one; `tests` of its finetuned networks."""
    resolved = resolve(recipes.below(f"{LENET}-greedy", []))
    folder = RunFolder.create(runs_dir, name, resolved, ENVIRONMENT | {"command": "slotkit finetune a"})
    rows = [
        ("slot machine, epoch 10", 10, 0, 0.970, 0.970),
        ("finetuned from epoch 10", 10, 20, 0.984, tests[0]),
        ("slot machine, epoch 20", 20, 0, 0.978, 0.978),
        ("finetuned from epoch 20", 20, 10, 0.986, tests[1]),
        ("from scratch", 0, 30, 0.980, scratch),
    ]
    table = [
        {
            "network": network,
            "slot_epochs": before,
            "epochs": epochs,
            "validation": {"accuracy": validation},
            "test": {"accuracy": test},
        }
        for network, before, epochs, validation, test in rows
    ]
    best = {"learned": {"accuracy": 0.986}}
    told = {"kind": "finetune", "table": table, "test": {"best": best}, "epochs": 30}
    folder.write_summary({"status": "finished", **told})
    return folder
