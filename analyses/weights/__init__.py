"""Weights: what is chosen out of what is offered, norms, dead units and singular values, over training.

The weights of a checkpoint and of snapshots before it (`slotkit.analyses.weights.snapshots`) are compared
with the K options of their connections. The table is tidy: one number a row, with columns run, group (runs
that differ by seed only share one), k, seed, layer, quantity, step, at and value. By quantity:

    connections            of the layer
    sampled                how many of them the comparisons with options look at; all else is exact
    moved                  share of connections that don't use the option of the start
    density, offered       probability density of the options          at: value over the options' bound
    density, selected      the same of the weights in use              at; at the start and the end
    preference             mean |weight| over mean |option|: 1 if the choice ignored magnitude
    preference, moved      the same, of connections that don't use the option of the start
    preference, largest    what it would be if every connection used its largest magnitude
    preference, extreme    if a coin chose between a connection's largest and its smallest value
    preference, mirrored   if the end had the opposite sign in every latent (latent form)
    rank of magnitude      share of connections whose weight has that rank, 1 the largest   at: rank
    rank of value          the same by value; at the start and the end
    rank of magnitude, moved          of connections that don't use the option of the start; at the end
    ... / random           each of the three over the share of a random choice, at: (rank - 1/2) / K
    frobenius              norm of the tensor, exact
    frobenius / random     over its expectation if the choice were random
    unit norm              L2 norm of a unit's incoming weights        at: quantile; at the start and the end
    unit norm / random     over the root of its mean square if the choice were random
    top singular value     of the weights as a matrix (out, in * kernel)
    top / edge             over the Marchenko-Pastur edge of a random matrix of this size and energy
    above the edge         how many singular values are
    effective rank         exp of the entropy of the normalised squared singular values
    effective rank / start over that of the initial selection
    singular value / edge  all of them, largest first                  at: (i - 1/2) / number; start and end
    dead units             share of units whose ReLU is 0 for every image; at the start and the end
    units                  that this is a share of

Above K = 16, `rank` has 16 groups of ranks, each under its mean. A random choice is one of the K options
with equal probabilities, and so is the initial one, because initial scores are independent of the options.

A preference for large magnitudes need not be learned. The selected option maximises S + u W. As the latent u
leaves 0, in either direction, it selects more and more extreme values, and for K > 2 the extremes of K values
around 0 have large magnitudes: "extreme" is the limit of that. The options are distributed symmetrically
around 0. So if the direction of u did not matter, the mirrored preference would be the same as the
preference; the difference of the two is what the direction of u contributes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slotkit.analyses.common.analysis import OF_OWN_LOOPS, Analysis, Setting

if TYPE_CHECKING:
    from slotkit.analyses.weights.compute import analyze

__all__ = ["ANALYSIS", "analyze"]

ANALYSIS = Analysis(
    "weights",
    "Which options are selected, magnitudes, norms, dead units, singular values; any slot machine.",
    compute="slotkit.analyses.weights.compute",
    settings=(
        Setting("checkpoint", str, "last", "Where it ends: last, best or epoch-N."),
        Setting("moments", int, 16, "Moments between start and end, from a full trace."),
        Setting("sample", int, 65536, "Connections of each tensor whose options are looked at."),
        Setting("data_dir", Path, None, "Where datasets lie now: dead units show on images only."),
        *OF_OWN_LOOPS,
    ),
    order=3,
)


def __getattr__(name: str) -> Any:
    return ANALYSIS.attribute(name)
