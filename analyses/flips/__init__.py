"""Flips: when, where and how often reels change their option, and when the final selection is decided.

The table is tidy: one number a row, with columns run, group (runs that differ by seed only share one),
reading, k, seed, layer (a tensor's name, or "all"), quantity, at and value. `reading` says whose flips they
are: those of the weights under greedy selection, or, of a run under probabilistic selection, those of its
greedy reading: of the option of the highest score, whatever is drawn. By quantity, `at` and `value` are

    flip rate             step            flips a step and million reels, mean since the row before
    flips                 -               flips a reel, over the whole trace
    connections           -               reels of the layer
    reels by flips        0, 1, 2         share of reels that flipped never, once, more often
    still flipping        -               share of reels that flipped in the last tenth of the steps
    settled               step            share of reels that never flip again
    agreement             step            share of reels that use the option they end with
    agreed                0.5, 0.9, 0.99  first step from which on so many agree
    options visited       1 .. K          share of reels that used so many different options
    flip-flops            step            share of returns a -> b -> a among the flips since the row before
    flip-flop share       -               the same, over the whole trace
    survival, initial     age (steps)     share of initial selections still in use at that age
    survival, taken       age (steps)     share of selections that a flip brought still in use at that age
    half-life, initial    -               age (steps) at which survival is a half; infinite if it stays above
    half-life, taken      -

and of runs under probabilistic selection, at each measurement (means over a sample of reels)

    mean entropy          step            entropy of the softmax of a reel, in nats
    weight drift          step            mean |change| of the expected weight since the measurement before,
                                          or the start, over the bound of the layer's options
    decided reels         step            share of reels whose likeliest option has probability 0.99 or more

Survival is the Kaplan-Meier estimate: selections in use at the end of the trace are censored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slotkit.analyses.common.analysis import Analysis, Setting

if TYPE_CHECKING:
    from slotkit.analyses.flips.compute import analyze

__all__ = ["ANALYSIS", "analyze"]

ANALYSIS = Analysis(
    "flips",
    "When and how often reels change their option; wants runs with --trace full. Of PS runs it shows the "
    "greedy reading.",
    compute="slotkit.analyses.flips.compute",
    settings=(
        Setting("within", int, 50, "Flip-flop a -> b -> a: longest time between the flips, in steps."),
    ),
    order=1,
)


def __getattr__(name: str) -> Any:
    return ANALYSIS.attribute(name)
