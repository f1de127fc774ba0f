"""Probabilistic sampling: how far the sampled networks differ, why, and which other networks the scores give.

The table is tidy: one number a row, with columns run, group (runs that differ by seed only share one), k,
seed, checkpoint, epoch, at (the training step), layer (a tensor's name, or "all"), quantity, level and value.
All accuracies are measured on the same images, so the choice of images adds no spread. For all layers at a
checkpoint:

    sample accuracy       of one sampled network; level is the number of the draw
    sampled accuracy      mean over the draws; at level 0.025 and 0.975 its bootstrap interval
    sampled spread        standard deviation over the draws (n - 1 in the denominator)
    greedy accuracy       of the likeliest options
    expected accuracy     of the softmax-weighted means of the options
    ensemble accuracy     of the mean of the samples' softmax outputs
    same prediction       probability that two samples agree on an image

and by layer, means over the reels, for "all" over the reels of all layers:

    entropy, entropy share, effective options, top probability, noise share, score spread
                          see slotkit.analyses.ps_variance.sampled_networks.read_reels
    same option           share of reels with the same option in two samples, measured
    same option, expected sum of p^2
    c, initial spread     latent form: factor of the initial scores, and the score spread that they have left

From the trace, where the run has one, at every measurement and without a checkpoint:

    entropy quantile, top quantile   level is the quantile's, over a sample of the layer's reels
    c, initial spread     as above

Rows of run "over runs" are of a group at a checkpoint (`slotkit.analyses.ps_variance.random_effects`, over
runs and draws): sampling sd, seed sd, seed share (with level 0.025 and 0.975), seed p. A seed is that of
reels, data and training together.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slotkit.analyses.common.analysis import OF_OWN_LOOPS, Analysis, Setting, names

if TYPE_CHECKING:
    from slotkit.analyses.ps_variance.compute import analyze

__all__ = ["ANALYSIS", "analyze"]

ANALYSIS = Analysis(
    "ps-variance",
    "How far networks sampled from the scores differ, and why; what greedy, mean and ensemble give.",
    compute="slotkit.analyses.ps_variance.compute",
    settings=(
        Setting("draws", int, 20, "Networks sampled at each checkpoint."),
        Setting(
            "checkpoints",
            str,
            "all",
            "Of start, epoch-N, best, last, with commas; all: start, kept epochs, last.",
            parse=names,
        ),
        Setting("split", str, "test", "test or validation."),
        Setting("data_dir", Path, None, "Where datasets lie now."),
        Setting("device", str, None, "auto, cpu, cuda, cuda:N or mps."),
        *OF_OWN_LOOPS,
    ),
    order=4,
)


def __getattr__(name: str) -> Any:
    return ANALYSIS.attribute(name)
