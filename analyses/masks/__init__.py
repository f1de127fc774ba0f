"""Masks of searches: what they cover, and whether a graph score of a mask says how well it trains.

The table is tidy: one number a row, with columns search, group, mask, seed, at (the number of the draw),
layer (a tensor's name, or "all"), quantity, level and value. Of a search:

    explored              share of the connections that any mask so far has
    explored by chance    of as many independent random masks with the layer densities of the first mask
    overlap               of a saved mask with the first: shared connections, 2 |A and B| / (|A| + |B|)
    overlap by chance     what two random masks of these layer densities would share
    density               of a saved mask, by layer and of all
    ERK density           what ERK gives each layer at the density of that mask

Of masks that `slotkit masks train` has trained, by mask, the group being its kind (kept by a graph score,
acceptance random, shuffled, ...) or "first mask":

    accuracy              of the test images at the best epoch by validation, a fraction, one a seed
    validation accuracy   of the validation images at that epoch
    score NAME            graph scores, means over layers (`slotkit.masks.outcomes.SCORES`)

and of a group, in rows of mask "over masks", with level 0.025 and 0.975 for the ends of the 95 % interval
(`slotkit.masks.correlations` says which):

    pearson NAME, spearman NAME    of a score with accuracy
    accuracy ahead                 mean accuracy of the masks kept by a graph score, less that of this group
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slotkit.analyses.common.analysis import Analysis, Folders, Setting

if TYPE_CHECKING:
    from slotkit.analyses.masks.compute import analyze

__all__ = ["ANALYSIS", "analyze"]

ANALYSIS = Analysis(
    "masks",
    "Whether graph scores of masks say how well they train, beside controls; what searches explored.",
    compute="slotkit.analyses.masks.compute",
    settings=(Setting("rules", str, "dst", "Of the scores: dst, dst-turned or kin."),),
    folders=Folders(
        "slotkit.analyses.masks.folders",
        "SEARCH|POPULATION...",
        "Folders or names: of `slotkit masks search`, and of `slotkit masks train`.",
    ),
    order=6,
)


def __getattr__(name: str) -> Any:
    return ANALYSIS.attribute(name)
