"""Saved masks, each trained from the same initial weights: the runs of that sweep, and what they say.

The epoch that counts is that of the highest validation accuracy, and the mask that is called best is that of
the highest validation accuracy too: the test set, read once a run, chooses nothing. The known code picks both
on the test set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotkit.config import Overrides
from slotkit.errors import SlotkitError
from slotkit.masks import file as mask_file
from slotkit.masks.acceptance import WITHOUT_SCORES
from slotkit.masks.controls import CONTROLS
from slotkit.masks.correlations import Estimate, mean_and_spread, pearson, share, spearman
from slotkit.masks.file import About, Masks
from slotkit.masks.found import of_file
from slotkit.masks.keeping import are_equal
from slotkit.masks.members import Member
from slotkit.masks.scores import DST, NetworkScores, Rules
from slotkit.sweeps.plan import Planned
from slotkit.sweeps.sweep import Sweep, SweepRun
from slotkit.training.prepare import mask_of

# The means over layers that are compared with accuracy, by their names in `slotkit masks score --json`.
# Density is no graph score: critics say that the others restate it.
SCORES = (
    *("delta_r", "delta_s", "bound", "spectral_gap", "imdb", "imsg"),
    *("narc", "mixing", "spectrum", "density"),
)

# The groups that are no controls: masks of searches by a graph score, and files that no search has made.
BY_SCORE, FILES = "kept by a graph score", "mask files"

# In the order that they are told in.
GROUPS = (
    *(BY_SCORE, FILES, *(f"acceptance {name}" for name in WITHOUT_SCORES)),
    *CONTROLS,
)


@dataclass(frozen=True)
class Outcome:
    """A mask and its finished trainings.

    Attributes:
        told: what tells it from the others, see `slotkit.masks.members.Member`.
        file: the copy of the first of its runs.
        path: where the mask lay when it was trained.
        validation, test: accuracies of the best epoch by validation, fractions, one a seed.
        scores: means over layers, by the names of SCORES.
    """

    told: Mapping[str, Any]
    file: Path
    path: Path
    validation: tuple[float, ...]
    test: tuple[float, ...]
    scores: Mapping[str, float]

    @property
    def accuracy(self) -> float:
        """Of the test images, the mean over seeds."""
        return sum(self.test) / len(self.test)

    @property
    def held_out(self) -> float:
        """Of the validation images, the mean over seeds."""
        return sum(self.validation) / len(self.validation)

    @property
    def is_first(self) -> bool:
        """Whether a search began with it."""
        return self.told.get("draw") == 0 and "control" not in self.told

    @property
    def group(self) -> str:
        """Its kind of control, "acceptance random" or "acceptance loss", BY_SCORE or FILES."""
        if "control" in self.told:
            return str(self.told["control"])
        accept = self.told.get("accept")
        if accept in WITHOUT_SCORES:
            return f"acceptance {accept}"
        return FILES if accept is None else BY_SCORE

    @property
    def name(self) -> str:
        """Such as "search-lenet draw 10 shuffled"."""
        if "file" in self.told:
            return str(self.told["file"])
        return " ".join(
            [f"{self.told['search']} draw {self.told['draw']}", *filter(None, [self.told.get("control")])]
        )

    def masks(self) -> tuple[Masks, About]:
        """The masks that were trained."""
        return mask_file.load(self.file)


def planned(
    members: Sequence[Member], seeds: Sequence[int], below: Sequence[Overrides], upper: Sequence[Overrides]
) -> list[Planned]:
    """A run for each mask and seed, all of a seed before the next.

    Args:
        seeds: of the split, the order of images and dropout; initial weights are those of the mask files.
        below, upper: settings under and over those of mask and data, such as those of a recipe and of flags.
    """
    return [
        Planned(
            (
                *below,
                *one.layers(),
                *upper,
                Overrides("seeds of the population", {"seeds.data": seed, "seeds.training": seed}),
            ),
            one.told,
            seed,
        )
        for seed in seeds
        for one in members
    ]


def check_copies(sweep: Sweep) -> None:
    """Raise SlotkitError if a run has begun under another mask than its file has now."""
    for run in sweep.runs():
        copy, path = mask_of(run.folder), _mask_path(run)
        if copy is None or not path.is_file():
            continue
        (own, about), (now, says) = mask_file.load(copy), mask_file.load(path)
        if about.start != says.start or not are_equal(own, now):
            raise SlotkitError(
                f"{run.folder.path} was trained under another mask than {path} has now. Choose another "
                "--name, or put the file back as it was."
            )


def outcomes(sweep: Sweep, rules: Rules = DST) -> tuple[list[Outcome], int, int]:
    """The masks whose runs are all finished, how many masks are not there yet, and how many diverged."""
    by_mask: dict[str, list[SweepRun]] = {}
    for run in sweep.runs():
        by_mask.setdefault(_mask_path(run).as_posix(), []).append(run)
    found, left, diverged = [], 0, 0
    for path, runs in by_mask.items():
        states = [run.status() for run in runs]
        if "diverged" in states:
            diverged += 1
        elif set(states) != {"finished"}:
            left += 1
        else:
            found.append(_outcome(Path(path), runs, rules))
    return found, left, diverged


def is_population(sweep: Sweep) -> bool:
    """Whether its runs are trainings under masks."""
    return all("mask" in run.entry.settings for run in sweep.runs())


def _mask_path(run: SweepRun) -> Path:
    return Path(run.entry.settings["mask"])


def _outcome(path: Path, runs: Sequence[SweepRun], rules: Rules) -> Outcome:
    copy = mask_of(runs[0].folder)
    if copy is None:
        raise SlotkitError(f"{runs[0].folder.path} has lost its copy of the mask. Delete it to train anew.")
    summaries = [run.folder.summary() for run in runs]
    tests = [summary["test"]["best"] for summary in summaries]
    return Outcome(
        runs[0].entry.varied,
        copy,
        path,
        tuple(summary["validation"]["best"]["accuracy"] for summary in summaries),
        tuple(next(iter(test.values()))["accuracy"] for test in tests),
        means(of_file(copy).scores(rules)),
    )


def means(scores: NetworkScores) -> dict[str, float]:
    """The mean of each of SCORES over the layers, undefined ones as 0; the density is that of the network."""
    whole = {"spectrum": scores.spectrum, "density": scores.density}

    def mean(name: str) -> float:
        return scores.mean(lambda layer: getattr(layer, name))

    return {name: whole[name] if name in whole else mean(name) for name in SCORES}


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
        baseline: the first mask of the search, or the first file.
        best: of the others, that of the highest validation accuracy.
        groups: those that have masks, in the order of GROUPS.
        seeds: trainings of each mask.
        left, diverged: masks without a finished training, and with one that diverged.
    """

    baseline: Outcome | None
    best: Outcome | None
    groups: tuple[Group, ...]
    seeds: int
    left: int
    diverged: int

    def as_dict(self) -> dict[str, Any]:
        """Name -> value, for JSON. Accuracies are fractions of the test images."""
        return {
            "baseline": _told(self.baseline),
            "best": _told(self.best),
            "groups": [group.as_dict() for group in self.groups],
            "seeds": self.seeds,
            "left": self.left,
            "diverged": self.diverged,
        }


def report(sweep: Sweep, rules: Rules = DST) -> Report:
    """What the finished runs of a population say. Raises SlotkitError for a sweep of something else."""
    if not is_population(sweep):
        raise SlotkitError(f"{sweep.path} is a sweep, but not of masks. `slotkit masks train` makes one.")
    return report_of(*outcomes(sweep, rules))


def report_of(found: Sequence[Outcome], left: int = 0, diverged: int = 0) -> Report:
    """The same of trained masks."""
    baseline = baseline_of(found)
    others = [one for one in found if one is not baseline]
    best = max(others, key=lambda one: one.held_out, default=None)
    seeds = max((len(one.test) for one in found), default=0)
    return Report(baseline, best, tuple(_groups(others, baseline)), seeds, left, diverged)


def baseline_of(found: Sequence[Outcome]) -> Outcome | None:
    """The first mask of the search; of mask files alone, the first."""
    first = [one for one in found if one.is_first]
    return first[0] if first else next((one for one in found if one.group == FILES), None)


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
        "accuracies": list(one.test),
        "scores": dict(one.scores),
    }
