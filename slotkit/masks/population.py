"""Saved masks, each trained from the same initial weights: the runs of that sweep, and what they say.

The epoch that counts is that of the highest validation accuracy, and the mask that is called best is that of
the highest validation accuracy too: the test set, read once a run, chooses nothing. The known code picks both
on the test set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slotkit.config import Overrides
from slotkit.errors import SlotkitError
from slotkit.masks.correlations import Estimate, mean_and_spread, pearson, share, spearman
from slotkit.masks.making import OF_ONES_OWN, OF_THE_START, check_untouched, settings_under
from slotkit.masks.members import GROUPS, Member
from slotkit.masks.outcomes import SCORES, Outcome, Trained, trained
from slotkit.masks.scores import DST, Rules
from slotkit.sweeps.plan import Planned
from slotkit.sweeps.sweep import Sweep

# What a repetition varies: split, order of images and dropout. Initial weights are the mask's.
SEEDS = ("seeds.data", "seeds.training")


def planned(
    members: Sequence[Member], seeds: Sequence[int], below: Sequence[Overrides], upper: Sequence[Overrides]
) -> list[Planned]:
    """A run for each mask and seed, all of a seed before the next.

    Args:
        seeds: of the split, the order of images and dropout; initial weights are those of the mask files.
        below, upper: settings under and over those of mask and data, such as those of a recipe and of flags.

    Raises SlotkitError for one of `upper` that a seed stands over or that the mask files say otherwise, and
    for pictures of one's own that nothing names.
    """
    taken = [path for layer in upper for path in layer.values if path in SEEDS]
    if taken:
        raise SlotkitError(
            f"{taken[0]} does nothing here: --seed or --seeds say which seeds data and training have. Give "
            "one of these."
        )
    for one in members:
        fixed = {**OF_THE_START, **settings_under(one.path, one.about)}
        check_untouched(fixed, upper, f"{one.path} was made for that network and these initial weights")
        if one.dataset in OF_ONES_OWN and not any(
            "data.dataset" in layer.values for layer in (*below, *one.layers(), *upper)
        ):
            raise SlotkitError(
                f"The mask of {one.path} was made for pictures of one's own, and a mask file doesn't say "
                f"where they lie. Give --dataset {one.dataset}:DIR."
            )
    return [
        Planned(
            (
                *below,
                *one.layers(),
                *upper,
                Overrides("seeds of the population", dict.fromkeys(SEEDS, seed)),
            ),
            one.told,
            seed,
        )
        for seed in seeds
        for one in members
    ]


@dataclass(frozen=True)
class Group:
    """The masks of one kind, without the first one.

    Attributes:
        mean, spread: of their test accuracies; standard deviation over masks.
        better: the share that is better than the first mask, with Wilson's interval.
        pearson, spearman: of each score with accuracy, over these masks.
    """

    name: str
    n: int
    mean: float | None
    spread: float | None
    better: Estimate
    pearson: Mapping[str, Estimate]
    spearman: Mapping[str, Estimate]

    def as_dict(self) -> dict[str, Any]:
        """Name -> value, for JSON."""
        return {
            "group": self.name,
            "n": self.n,
            "mean": self.mean,
            "spread": self.spread,
            "better": self.better.as_dict(),
            "pearson": {name: one.as_dict() for name, one in self.pearson.items()},
            "spearman": {name: one.as_dict() for name, one in self.spearman.items()},
        }


@dataclass(frozen=True)
class Report:
    """What trained masks say.

    Attributes:
        first: the name of the mask that others are compared with: the first one of the search, or the first
            file.
        baseline: its trainings; None if they are not finished, and then nothing is compared.
        best: of the others, that of the highest validation accuracy.
        groups: those that have masks, in the order of GROUPS.
        seeds: trainings of each mask.
        left, diverged: masks without a finished training, and with one that diverged.
        left_out: a sentence for each run that is damaged, or is another one than the sweep asks for.
    """

    first: str | None
    baseline: Outcome | None
    best: Outcome | None
    groups: tuple[Group, ...]
    seeds: int
    left: int
    diverged: int
    left_out: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Name -> value, for JSON. Accuracies are fractions of the test images."""
        return {
            "first": self.first,
            "baseline": _told(self.baseline),
            "best": _told(self.best),
            "groups": [group.as_dict() for group in self.groups],
            "seeds": self.seeds,
            "left": self.left,
            "diverged": self.diverged,
            "left out": list(self.left_out),
        }


def report(sweep: Sweep, rules: Rules = DST) -> Report:
    """What the finished runs of a population say. Raises SlotkitError for a sweep of something else."""
    return report_of(trained([sweep], rules))


def report_of(found: Trained) -> Report:
    """The same of the masks of populations."""
    baseline = found.baseline
    others = [one for one in found.outcomes if one is not baseline]
    best = max(others, key=lambda one: one.held_out, default=None)
    seeds = max((len(one.test) for one in found.outcomes), default=0)
    groups = tuple(_groups(others, baseline))
    return Report(found.first, baseline, best, groups, seeds, found.left, found.diverged, found.left_out)


def _groups(others: Sequence[Outcome], baseline: Outcome | None) -> Iterator[Group]:
    for name in GROUPS:
        some = [one for one in others if one.group == name]
        if not some:
            continue
        accuracies = [one.accuracy for one in some]
        above = [baseline is not None and value > baseline.accuracy for value in accuracies]
        scores = {score: [one.scores[score] for one in some] for score in SCORES}
        yield Group(
            name,
            len(some),
            *mean_and_spread(accuracies),
            share(sum(above), len(above) if baseline is not None else 0),
            {score: pearson(values, accuracies) for score, values in scores.items()},
            {score: spearman(values, accuracies) for score, values in scores.items()},
        )


def _told(one: Outcome | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        **one.told,
        "mask": str(one.path),
        "accuracy": one.accuracy,
        "validation": one.held_out,
        "seeds": list(one.seeds),
        "accuracies": list(one.test),
        "scores": dict(one.scores),
    }
