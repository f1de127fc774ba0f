"""What the runs of populations of masks have come to: a mask and its finished trainings, each mask once.

Masks are compared after equal trainings only, so those of several populations are refused unless network,
start, data and training are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from slotkit.errors import SlotkitError
from slotkit.masks import file as mask_file
from slotkit.masks.found import of_file
from slotkit.masks.keeping import digest
from slotkit.masks.members import (
    begins_search,
    differing,
    drawn_anew,
    group_and_content,
    group_of,
    told_apart,
    worded,
)
from slotkit.masks.scores import DST, NetworkScores, Rules
from slotkit.runs.listing import left_out
from slotkit.sweeps.plan import deciding
from slotkit.sweeps.sweep import Sweep, SweepRun
from slotkit.training.prepare import mask_of

# The means over layers that are compared with accuracy, by their names in `slotkit masks score --json`.
# Density is no graph score: critics say that the others restate it.
SCORES = (
    *("delta_r", "delta_s", "bound", "spectral_gap", "imdb", "imsg"),
    *("narc", "mixing", "spectrum", "density"),
)

# Settings in which the runs of a population may differ: the mask, repetitions, and what trains nothing.
FREE = ("mask", "seeds.data", "seeds.training", "training.device", "training.log_every")
FREE_TABLES = ("evaluation.", "recording.")


@dataclass(frozen=True)
class Outcome:
    """A mask and its finished trainings.

    Attributes:
        told: what tells it from the others, see `slotkit.masks.members.Member`.
        file: the copy of the first of its runs.
        path: where the mask lay when it was trained.
        seeds: of its runs.
        validation, test: accuracies of the best epoch by validation, fractions, one a seed.
        scores: means over layers, by the names of SCORES.
    """

    told: Mapping[str, Any]
    file: Path
    path: Path
    seeds: tuple[int | None, ...]
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
    def group(self) -> str:
        """One of `slotkit.masks.members.GROUPS`."""
        return group_of(self.told)

    @property
    def name(self) -> str:
        """Such as "search-lenet draw 10 shuffled"."""
        return name_of(self.told)


def name_of(told: Mapping[str, Any]) -> str:
    """The name of a mask, from what tells it from others."""
    if "file" in told:
        return str(told["file"])
    return " ".join([f"{told['search']} draw {told['draw']}", *filter(None, [told.get("control")])])


@dataclass(frozen=True)
class Trained:
    """The masks of populations, as far as they are trained.

    Attributes:
        outcomes: of the masks whose runs are all finished.
        first: the name of the mask that others are compared with: the first one of a search, else the first
            file. None if there is no mask at all.
        baseline: its outcome; None if it is not trained to the end.
        left, diverged: masks without a finished training, and with one that diverged.
        left_out: a sentence for each run that is damaged, or is another one than its population asks for.
    """

    outcomes: tuple[Outcome, ...]
    first: str | None
    baseline: Outcome | None
    left: int
    diverged: int
    left_out: tuple[str, ...] = ()


class _Mask:
    """A mask of a population, and its runs.

    Attributes:
        told: see Outcome.
        state: finished, diverged or left.
    """

    def __init__(self, path: Path, runs: Sequence[SweepRun]) -> None:
        self.path, self.runs = path, runs
        self.told: Mapping[str, Any] = runs[0].entry.varied
        told = [run.state() for run in runs]
        self.left_out = [left_out(one.run.entry.name, one.fault, one.status) for one in told if one.fault]
        states = {one.status for one in told}
        self.state = "diverged" if "diverged" in states else "finished" if states == {"finished"} else "left"

    @property
    def file(self) -> Path:
        """The copy of its first run. Raises SlotkitError if that is lost."""
        folder = self.runs[0].folder
        copy = mask_of(folder)
        if copy is None:
            raise SlotkitError(f"{folder.path} has lost its copy of the mask. Delete it to train anew.")
        return copy

    @cached_property
    def identity(self) -> tuple[Any, ...]:
        """What equal masks share."""
        masks, about = mask_file.load(self.file)
        return group_and_content(self.told, about, digest(masks))

    @cached_property
    def is_drawn_anew(self) -> bool:
        return drawn_anew(mask_file.load(self.file)[1])


def trained(sweeps: Sequence[Sweep], rules: Rules = DST) -> Trained:
    """What the runs of populations have come to. A mask that several of them have counts once.

    Raises SlotkitError for a sweep of something else, for populations that can't be compared, and for
    searches that began with different masks.
    """
    masks = [mask for sweep in sweeps for mask in _masks_of(sweep)]
    _check_first(masks)
    finished = [mask for mask in masks if mask.state == "finished"]
    _check_equal_trainings(finished)
    once: dict[tuple[Any, ...], _Mask] = {}
    for mask in finished:
        once.setdefault(mask.identity, mask)
    outcomes = [_outcome(mask, rules) for mask in once.values()]
    outcomes = [replace(one, told=told) for one, told in zip(outcomes, told_apart(outcomes), strict=True)]
    first = next((mask for mask in masks if begins_search(mask.told)), next(iter(masks), None))
    baseline = None
    if first is not None and first.state == "finished":
        path = once[first.identity].path
        baseline = next(one for one in outcomes if one.path == path)
    states = [mask.state for mask in masks]
    return Trained(
        tuple(outcomes),
        None if first is None else name_of(first.told),
        baseline,
        states.count("left"),
        states.count("diverged"),
        tuple(sentence for mask in masks for sentence in mask.left_out),
    )


def mask_path(run: SweepRun) -> Path:
    """Where the mask of a population's run lay when the sweep was planned."""
    return Path(run.entry.settings["mask"])


def _masks_of(sweep: Sweep) -> list[_Mask]:
    """Those of a population. Raises SlotkitError for a sweep of something else."""
    by_mask: dict[Path, list[SweepRun]] = {}
    for run in sweep.runs():
        told = run.entry.varied
        if "mask" not in run.entry.settings or not ("file" in told or {"search", "draw"} <= told.keys()):
            raise SlotkitError(
                f"{sweep.path} is a sweep, but no population of masks. `slotkit masks train` makes one."
            )
        by_mask.setdefault(mask_path(run), []).append(run)
    return [_Mask(path, runs) for path, runs in by_mask.items()]


def _check_first(masks: Sequence[_Mask]) -> None:
    """Raise SlotkitError if searches began with different masks, as far as these are still there."""
    known: dict[str, Path] = {}
    for mask in masks:
        if begins_search(mask.told):
            file = mask_of(mask.runs[0].folder) or mask.path
            if file.is_file():
                known.setdefault(digest(mask_file.load(file)[0]), mask.path)
    if len(known) > 1:
        one, other, *_ = known.values()
        raise SlotkitError(
            f"The searches of {one} and {other} began with different masks, so there is no one mask to "
            "compare with. Name populations of one of them."
        )


def _check_equal_trainings(masks: Sequence[_Mask]) -> None:
    """Raise SlotkitError unless the runs differ in mask and seeds only."""
    # Those whose initial weights are the population's come first, to compare the others with.
    runs = [(run, mask.is_drawn_anew) for mask in masks for run in mask.runs]
    told = [(run, anew, _settings_of(run)) for run, anew in sorted(runs, key=lambda pair: pair[1])]
    for run, anew, settings in told[1:]:
        first, _, known = told[0]
        different = differing(known, settings)
        if anew:
            different.pop("seeds.reels", None)
        if different:
            raise SlotkitError(
                f"{first.folder.path} and {run.folder.path} were trained otherwise: {worded(different)}. "
                "Masks are compared after equal trainings only: name populations of one network, start, data "
                "and training."
            )


def _settings_of(run: SweepRun) -> dict[str, Any]:
    """What decided a finished run, beside mask and seeds; what its dataset says is filled in."""
    return {
        path: value
        for path, value in deciding(run.folder.config()).items()
        if path not in FREE and not path.startswith(FREE_TABLES)
    }


def _outcome(mask: _Mask, rules: Rules) -> Outcome:
    summaries = [run.folder.summary() for run in mask.runs]
    tests = [summary["test"]["best"] for summary in summaries]
    return Outcome(
        mask.told,
        mask.file,
        mask.path,
        tuple(run.entry.seed for run in mask.runs),
        tuple(summary["validation"]["best"]["accuracy"] for summary in summaries),
        tuple(next(iter(test.values()))["accuracy"] for test in tests),
        means(of_file(mask.file).scores(rules)),
    )


def means(scores: NetworkScores) -> dict[str, float]:
    """The mean of each of SCORES over the layers, undefined ones as 0; the density is that of the network."""
    whole = {"spectrum": scores.spectrum, "density": scores.density}

    def mean(name: str) -> float:
        return scores.mean(lambda layer: getattr(layer, name))

    return {name: whole[name] if name in whole else mean(name) for name in SCORES}
