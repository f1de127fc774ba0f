"""The CSV file and the table of docs/results from the folder of a sweep.

python docs/results/collect.py runs/lenet docs/results/lenet.csv lenet mnist
python docs/results/collect.py runs/conv2 docs/results/conv2.csv conv2 cifar10
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

from slotkit.reports.paper import Paper, of

from slotkit.sweeps import results
from slotkit.sweeps.sweep import Sweep, SweepRun

NUMBERS = ["status", "reading", "best_epoch", "test_best", "test_last", "seconds"]


def axes_of(sweep: Sweep) -> list[str]:
    """What is varied in any of its runs, by the settings' paths or their ends, as in its file."""
    return list(dict.fromkeys(axis for run in sweep.runs() for axis in run.entry.varied))


def lines(run: SweepRun) -> list[dict[str, Any]]:
    """One for each reading of a run; of a run that is not finished its status alone."""
    line = {"run": run.entry.name, **run.entry.varied, "seed": run.entry.seed, "status": run.status()}
    if line["status"] != "finished":
        return [line]
    summary = run.folder.summary()
    best, last = summary["test"]["best"], summary["test"]["last"]
    line |= {"best_epoch": summary["best_epoch"], "seconds": round(summary["seconds"])}
    return [
        line | {"reading": kind, "test_best": best[kind]["accuracy"], "test_last": last[kind]["accuracy"]}
        for kind in best
    ]


def plot(paper: Paper, network: str, varied: dict[str, Any]) -> str:
    """The paper's number for a cell, read from its plot; empty where it has none."""
    kind = str(varied["recipe"]).removeprefix(f"paper-{network}-")
    if kind not in ("greedy", "probabilistic", "learned"):
        return ""
    read = paper.read("learned" if kind == "learned" else "slot", kind, int(varied.get("k", 8)))
    return f"{read[0]:.2f}" if read else ""


def print_table(sweep: Sweep, paper: Paper, network: str) -> None:
    """Mean, spread (standard deviation, n - 1) and n of every combination, beside the paper's plot."""
    axes = axes_of(sweep)
    names = [*axes, "reading", "test, %", "n", "the paper's plot"]
    print("| " + " | ".join(names) + " |")
    print("|---" * len(names) + "|")
    for row in results.rows(sweep):
        mean = "" if row.mean is None else f"{100 * row.mean:.2f}"
        spread = "" if row.spread is None else f" ± {100 * row.spread:.2f}"
        varied = [row.varied.get(axis, "") for axis in axes]
        cells = [*varied, row.reading, mean + spread, row.n, plot(paper, network, row.varied)]
        print("| " + " | ".join(map(str, cells)) + " |")


def main(folder: str, file: str, network: str, dataset: str) -> None:
    """Write the CSV file, print the table."""
    sweep = Sweep.open(Path(folder))
    with Path(file).open("w", newline="") as opened:
        table = csv.DictWriter(opened, ["run", *axes_of(sweep), "seed", *NUMBERS])
        table.writeheader()
        table.writerows(line for run in sweep.runs() for line in lines(run))
    print_table(sweep, of(network, dataset), network)


if __name__ == "__main__":
    main(*sys.argv[1:])
