"""Draws docs/images/staircase.svg: the option in use of one connection as a function of u = A / c.

python docs/staircase.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pandas as pd
import torch
from matplotlib.figure import Figure
from slotkit.analyses.common.result import Result
from slotkit.analyses.common.style import COLOURS, GREY, legend, panels, say

from slotkit.reel import Reel
from slotkit.selection import greedy


def plot(table: pd.DataFrame) -> Figure:
    """Above: the scores of the options and the highest of them. Below: the weight in use, a staircase."""
    figure, ((top,), (bottom,)) = panels(2, 1, "One connection, K = 8")
    figure.set_size_inches(6, 6)
    u = table.index.to_numpy()
    scores = table.drop(columns="in use")
    grey = top.plot(u, scores, color=GREY, linewidth=0.8)[0]
    highest = top.plot(u, scores.max(axis=1), color=COLOURS[0], linewidth=2.5)[0]
    steps = bottom.plot(u, table["in use"], color=COLOURS[2], linewidth=2.5, drawstyle="steps-mid")[0]
    used = table["in use"].nunique()
    say(top, f"{used} of 8 options ever score highest", "", "score / c")
    say(bottom, f"the weight in use goes up in {used - 1} steps", "u = A / c", "weight in use")
    legend(figure, [(grey, "score of an option"), (highest, "highest score"), (steps, "weight in use")])
    return figure


def main() -> None:
    reel = Reel("fc1.weight", (300, 784), k=8, seed=0)
    options, scores = (row[0].double() for row in reel.rows(torch.tensor([1941])))
    u = torch.linspace(-1.5, 1.5, 2001, dtype=torch.float64)
    lines = scores + u[:, None] * options  # (u, K)
    table = pd.DataFrame(lines.numpy(), index=u.numpy())
    table["in use"] = options[greedy(lines)].numpy()
    place = Path(__file__).parent / "images" / "staircase.svg"
    place.parent.mkdir(exist_ok=True)
    figure = Result("staircase", table, "", plot).figure()
    with mpl.rc_context({"svg.hashsalt": "slotkit"}):
        figure.savefig(place, metadata={"Date": None})


if __name__ == "__main__":
    main()
