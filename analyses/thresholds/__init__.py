"""Thresholds: how far reels are from their next flip, how fast they go there, and the flip rate predicted.

Under greedy selection a reel's position is u = A / |c| (score units per option unit), and it flips when u
passes the next threshold of its staircase. Under probabilistic selection that holds for the greedy reading,
the option of the highest score, and column `reading` says so. The table is tidy: one number a row, with
columns run, group (runs that differ by seed only share one), reading, k, seed, layer, quantity, level, at and
value. By quantity:

    connections       of the layer                                 -
    margin            distance of u to its next threshold          at a step; level is the quantile's
    speed             change of u in one step                      at a step; level
    steps_to_flip     distance to the threshold ahead over speed   at a step; level
    flip rate         flips a step and million reels, observed     at a step: mean of the steps around it
    predicted rate    the same, from steps_to_flip                 at a step; level is the quantile it uses
    predicted / observed   median of the ratio over the steps      level
    c, lr             factor of the initial scores; learning rate  at a step (lr: layer "all")
    c forgotten       steps in which c falls to 1/e, over the trace until it underflows; infinite if c stays 1
    reachable options mean number that can ever win                at K (layer "any")
    reachable, by law the same by the law of large K, of uniform options   at K
    rate before restart, rate after restart, speed before restart, speed after restart   at the restart's step

In the dense form there is no u: the margin is the gap between the highest score and the next one (score
units), speed is the change of that gap, and steps_to_flip is when the first of the other scores reaches the
highest if all go on as in that step. It has neither a c nor reachable options.

The prediction: a reel whose threshold lies tau steps ahead flips in the next step if tau <= 1. Positions are
spread smoothly between thresholds, so the share of reels with tau below t grows as r * t for small t, and
r is the flip rate. A recorded quantile gives r = level / steps_to_flip(level), if reels keep their velocity
for that many steps. The 5 % level, the lowest recorded above the minimum, assumes this for the fewest steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slotkit.analyses.common.analysis import Analysis

if TYPE_CHECKING:
    from slotkit.analyses.thresholds.compute import analyze

__all__ = ["ANALYSIS", "analyze"]

ANALYSIS = Analysis(
    "thresholds",
    "How far reels are from their thresholds, how fast they move, what flip rate follows.",
    compute="slotkit.analyses.thresholds.compute",
    order=2,
)


def __getattr__(name: str) -> Any:
    return ANALYSIS.attribute(name)
