"""Draws docs/images/staircase.svg: the option in use of one connection as a function of u = A / c.

python docs/staircase.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch

from slotkit.reel import Reel
from slotkit.selection import greedy


def main() -> None:
    reel = Reel("fc1.weight", (300, 784), k=8, seed=0)
    options, scores = (row[0].double() for row in reel.rows(torch.tensor([1941])))
    u = torch.linspace(-1.5, 1.5, 2001, dtype=torch.float64)
    lines = scores + u[:, None] * options  # (u, K)
    chosen = greedy(lines)
    mpl.rcParams["svg.hashsalt"] = "slotkit"
    figure, (top, bottom) = plt.subplots(2, 1, sharex=True, figsize=(6, 6), height_ratios=(3, 2))
    for j in range(reel.k):
        top.plot(u, lines[:, j], color="0.7", linewidth=1)
    top.plot(u, lines.amax(dim=-1), color="#0072B2", linewidth=2.5, label="highest score")
    top.set_ylabel("score / c")
    top.legend(frameon=False)
    bottom.plot(u, options[chosen], color="#D55E00", linewidth=2.5, drawstyle="steps-mid")
    for value in options:
        bottom.axhline(float(value), color="0.85", linewidth=0.8, zorder=0)
    bottom.set_ylabel("weight in use")
    bottom.set_xlabel("u = A / c")
    figure.tight_layout()
    place = Path(__file__).parent / "images" / "staircase.svg"
    place.parent.mkdir(exist_ok=True)
    figure.savefig(place, metadata={"Date": None})


if __name__ == "__main__":
    main()
