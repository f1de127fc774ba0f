"""The figure of docs/results/networks.md from its sweeps: slot machines beside learned twins.

python docs/results/curves.py docs/images/networks.svg ResNet-18=runs/resnet18 ViT-Tiny=runs/vit-tiny
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from slotkit.analyses.common.finish import finish
from slotkit.analyses.common.style import curves, house_style, legend, panels, say

from slotkit.sweeps.sweep import Sweep, SweepRun

METHODS = ("slot machine", "learned weights")


def validation(run: SweepRun) -> pd.DataFrame:
    """The validation accuracy of every epoch in %: columns run, name, at (epoch), value."""
    name = METHODS[run.folder.config().method == "learned"]
    rows = [line for line in run.folder.metrics() if line["kind"] == "epoch"]
    return pd.DataFrame(
        {
            "run": run.entry.name,
            "name": name,
            "at": [line["epoch"] for line in rows],
            "value": [100 * line["validation"]["accuracy"] for line in rows],
        }
    )


def draw(networks: dict[str, Path], file: Path) -> None:
    """One panel a network."""
    with house_style():
        figure, grid = panels(1, len(networks), "CIFAR-10: slot machines with K = 8 beside learned weights")
        for axes, (network, folder) in zip(grid[0], networks.items(), strict=True):
            table = pd.concat([validation(run) for run in Sweep.open(folder).runs()])
            curves(axes, table, "name", METHODS)
            last = table[table["at"] == table["at"].max()].groupby("name")["value"].mean()
            found = ", ".join(f"{name} {last[name]:.1f} %" for name in METHODS if name in last)
            say(axes, f"{network}, last epoch: {found}", "epoch", "validation accuracy (%)")
        legend(figure, list(zip(*grid[0][0].get_legend_handles_labels(), strict=True)))
        finish(figure)
        figure.savefig(file)


if __name__ == "__main__":
    draw(
        {name: Path(folder) for name, _, folder in (one.partition("=") for one in sys.argv[2:])},
        Path(sys.argv[1]),
    )
