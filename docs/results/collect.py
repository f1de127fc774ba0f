"""The CSV file and the table of docs/results from the folder of a sweep.

python docs/results/collect.py runs/lenet docs/results/lenet.csv
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

from slotkit.reports.paper import of

from slotkit.sweeps import results
from slotkit.sweeps.sweep import Sweep, SweepRun

COLUMNS = ["run", "k", "seed", "status", "reading", "best_epoch", "test_best", "test_last", "seconds"]


def lines(run: SweepRun) -> list[dict[str, Any]]:
    """One for each reading of a run; of a run that is not finished its status alone."""
    k = run.entry.varied.get("k", "")
    line = {"run": run.entry.name, "k": k, "seed": run.entry.seed, "status": run.status()}
    if line["status"] != "finished":
        return [line]
    summary = run.folder.summary()
    best, last = summary["test"]["best"], summary["test"]["last"]
    line |= {"best_epoch": summary["best_epoch"], "seconds": round(summary["seconds"])}
    return [
        line | {"reading": kind, "test_best": best[kind]["accuracy"], "test_last": last[kind]["accuracy"]}
        for kind in best
    ]


def print_table(sweep: Sweep) -> None:
    """Mean, spread (standard deviation, n - 1) and n of every combination, beside the paper's plot."""
    paper = of("lenet", "mnist")
    print("| recipe | K | reading | test, % | n | the paper's plot |")
    print("|---|---|---|---|---|---|")
    for row in results.rows(sweep):
        recipe, k = str(row.varied["recipe"]), row.varied.get("k", "")
        kind, read = recipe.removeprefix("paper-lenet-"), None
        if kind in ("greedy", "probabilistic", "learned"):
            read = paper.read("learned" if kind == "learned" else "slot", kind, int(k or 1))
        mean = "" if row.mean is None else f"{100 * row.mean:.2f}"
        spread = "" if row.spread is None else f" ± {100 * row.spread:.2f}"
        plot = f"{read[0]:.2f}" if read else ""
        print(f"| {recipe} | {k} | {row.reading} | {mean}{spread} | {row.n} | {plot} |")


def main(folder: Path, file: Path) -> None:
    """Write the CSV file, print the table."""
    sweep = Sweep.open(folder)
    with file.open("w", newline="") as opened:
        table = csv.DictWriter(opened, COLUMNS)
        table.writeheader()
        table.writerows(line for run in sweep.runs() for line in lines(run))
    print_table(sweep)


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
