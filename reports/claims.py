"""What the paper claims, and whether these runs bear it out: it holds, it fails, or it is not tested here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from slotkit.reports.collect import Cell
from slotkit.reports.figures import distance, ordinary, usual
from slotkit.reports.paper import Paper

from slotkit import recipes
from slotkit.config import Config
from slotkit.errors import are, many
from slotkit.masks.correlations import Estimate, difference
from slotkit.runs.folder import RunFolder

HOLDS, FAILS, UNDECIDED, UNTESTED = "holds", "fails", "undecided", "not tested here"

# How far from the paper's mean, in points, a mean of ours still says the same.
NEAR = {"greedy": 0.15, "probabilistic": 0.3, "learned": 0.2}
NEAR_CONV = {"greedy": 1.0, "probabilistic": 1.5, "learned": 0.5}

# From K = 8 on accuracy "hardly" grows if it spans less than this share of what it has gained until there.
HARDLY = 0.5

# How far below the best mean of the paper's plot, in points, networks with shared options still learn "well".
WELL = 5

# Accuracy (%) below which a network has learned nothing: of ten classes it may still lean to one or two.
UNLEARNED = 25

ByK = Mapping[int, Sequence[float]]


@dataclass(frozen=True)
class Claim:
    """A claim, a verdict, and the numbers behind it in a sentence."""

    text: str
    verdict: str
    because: str


@dataclass(frozen=True)
class Accuracies:
    """Accuracies (%) of the seeds of one problem, by K, and of learned weights.

    Attributes:
        greedy: greedy selection.
        sampled, read: probabilistic selection in the sampled reading, and in the greedy one.
        learned: none if there are no such runs.
    """

    greedy: ByK
    sampled: ByK
    read: ByK
    learned: Sequence[float]


def accuracies(cells: Sequence[Cell]) -> Accuracies:
    """Those of the paper's own method, of runs of full length. Of several variants it is that of the paper's
    recipe as it is, else the nearest to it, else the first.
    """
    of_paper = [cell for cell in cells if usual(cell)]
    learned = _nearest([cell for cell in cells if ordinary(cell)])
    greedy, sampled, read = (
        _by_k([cell for cell in of_paper if cell.config.slots.selection == selection], reading)
        for selection, reading in (
            ("greedy", "greedy"),
            ("probabilistic", "sample"),
            ("probabilistic", "greedy"),
        )
    )
    return Accuracies(greedy, sampled, read, learned[0].values if learned else ())


def _nearest(cells: Sequence[Cell]) -> list[Cell]:
    """Those with finished runs of full length, the nearest to the paper's recipe first."""
    return sorted((cell for cell in cells if cell.values and _is_long(cell)), key=distance)


def _by_k(cells: Sequence[Cell], reading: str = "greedy") -> dict[int, Sequence[float]]:
    """K -> accuracies of the nearest of the cells in one reading."""
    found: dict[int, Sequence[float]] = {}
    for cell in _nearest(cells):
        if cell.reading == reading:
            found.setdefault(cell.k, cell.values)
    return dict(sorted(found.items()))


def _length(cell: Cell) -> int:
    """Epochs of a training of full length: those of its recipe; without one those of the paper."""
    known = recipes.names()
    names = (cell.rows[0].recipe, f"paper-{cell.config.model.name}-greedy")
    settings = recipes.load(next(name for name in names if name in known)).settings
    return int(settings.get("training.epochs", Config().training.epochs))


def _is_long(cell: Cell) -> bool:
    training = cell.config.training
    return training.epochs >= _length(cell) and training.limit_batches is None


def behind(cells: Sequence[Cell]) -> list[str]:
    """What stands behind the claims, in sentences: over how many seeds their means are, and which runs say
    nothing, because they diverged or are shorter than their recipe.
    """
    counts = sorted({len(cell.values) for cell in cells if cell.values and _is_long(cell)})
    n = "" if not counts else f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    means = [f"The means in the claims are over n = {n} seeds; the table has each n."] if n else []
    return means + _diverged(cells) + _too_short(cells)


def _diverged(cells: Sequence[Cell]) -> list[str]:
    """A mean of those that are left says more for a method than it can."""
    runs = {row.folder.path for cell in cells for row in cell.rows if row.status == "diverged"}
    told = f"{many(len(runs), 'run')} diverged and {are(len(runs))} in no mean; the table says which."
    return [told] if runs else []


def _too_short(cells: Sequence[Cell]) -> list[str]:
    short = [cell for cell in cells if cell.values and not _is_long(cell)]
    runs = {row.folder.path for cell in short for row in cell.rows if row.status == "finished"}
    if not runs:
        return []
    epochs = sorted({(cell.config.training.epochs, _length(cell)) for cell in short})
    told = ", ".join(f"{has} of {full}" for has, full in epochs)
    who = f"{many(len(runs), 'finished run')} {are(len(runs))}"
    limited = any(cell.config.training.limit_batches is not None for cell in short)
    ends = "; limit_batches ends epochs early" if limited else ""
    return [f"{who} too short for the claims ({told} epochs{ends}). Figures and table have all runs."]


def claims(
    model: str,
    cells: Sequence[Cell],
    paper: Paper,
    untrained: Mapping[int, Sequence[float]],
    comparisons: Sequence[RunFolder],
) -> Iterator[Claim]:
    """Every claim that the paper makes of such a network, in its order."""
    ours = accuracies(cells)
    near = NEAR if model == "lenet" else NEAR_CONV
    yield _numbers(
        "Greedy selection reaches the accuracies of the paper's plot",
        ours.greedy,
        paper.greedy,
        near["greedy"],
    )
    # Readers of the paper tell of the greedy reading; the authors' code samples when it evaluates.
    for reading, values in (("sampled", ours.sampled), ("greedy", ours.read)):
        yield _numbers(
            f"Probabilistic selection does, too, in the {reading} reading",
            values,
            paper.probabilistic,
            near["probabilistic"],
        )
    yield _learned(ours, paper, near["learned"])
    yield _against_learned(ours, paper)
    yield _growth(ours)
    yield _selections(ours)
    yield _random(ours, untrained)
    yield _finetuning(comparisons)
    yield from _sharing(cells, paper)
    yield Claim(
        "Connections prefer options of large magnitude",
        UNTESTED,
        "`slotkit analyze weights RUN` tests it.",
    )


def _numbers(text: str, ours: ByK, paper: Mapping[int, tuple[float, float, float]], near: float) -> Claim:
    both = {k: (fmean(ours[k]), paper[k][0]) for k in ours if k in paper}
    if not both:
        return Claim(text, UNTESTED, "No run has a K for which the paper has a number.")
    told = ", ".join(f"K = {k} {mine:.2f} (paper {its:.2f})" for k, (mine, its) in both.items())
    far = [k for k, (mine, its) in both.items() if _is_far(mine, its, near)]
    if not far:
        return Claim(text, HOLDS, f"Every mean is within {near} points: {told}.")
    which = ", ".join(f"K = {k} by {both[k][0] - both[k][1]:+.2f}" for k in far)
    return Claim(text, FAILS, f"More than {near} points away: {which}. In all: {told}.")


def _is_far(mine: float, its: float, near: float) -> bool:
    """Whether two accuracies differ by more, as they are printed: to a hundredth of a point."""
    return round(abs(mine - its), 2) > near


def _learned(ours: Accuracies, paper: Paper, near: float) -> Claim:
    text = "Learned weights reach the accuracy of the paper's plot"
    if not ours.learned or paper.learned is None:
        missing = "There is no run with learned weights." if not ours.learned else "The paper has no number."
        return Claim(text, UNTESTED, missing)
    mean, its = fmean(ours.learned), paper.learned[0]
    told = f"{mean:.2f} here, {its:.2f} in the paper ({mean - its:+.2f})."
    return Claim(text, FAILS if _is_far(mean, its, near) else HOLDS, told)


def _against_learned(ours: Accuracies, paper: Paper) -> Claim:
    """The paper's own means say from which K on that is so for a network."""
    text = "A slot machine is as good as learned weights where the paper's is"
    where = [k for k, read in paper.greedy.items() if paper.learned and read[0] >= paper.learned[0]]
    gaps = {k: difference(ours.greedy[k], ours.learned) for k in where if k in ours.greedy}
    if not ours.learned or not gaps:
        return Claim(text, UNTESTED, "It needs learned weights and a K at which the paper's is ahead.")
    told = f"Points over learned weights ({fmean(ours.learned):.2f}): {_by_k_in_words(gaps)}."
    if any(_is_behind(gap) for gap in gaps.values()):
        return Claim(text, FAILS, told)
    return Claim(text, HOLDS if all(_value(gap) >= 0 for gap in gaps.values()) else UNDECIDED, told)


def _growth(ours: Accuracies) -> Claim:
    text = "Accuracy grows with K up to about 8 and hardly after"
    few = {k: values for k, values in ours.greedy.items() if k < 8}
    many = [values for k, values in ours.greedy.items() if k >= 8]
    if not few or len(many) < 2:
        return Claim(text, UNTESTED, "It needs greedy runs below K = 8 and two at K = 8 or above.")
    smallest, lowest = min(few), min(few, key=lambda k: fmean(few[k]))
    gain = difference([value for values in many for value in values], few[smallest])
    means = [fmean(values) for values in many]
    spread = max(means) - min(means)
    first = f"From K = {smallest} ({fmean(few[smallest]):.2f})"
    told = f"{first} it grows by {gain.words()} points; from K = 8 on it spans {spread:.2f}."
    fall = difference(few[lowest], few[smallest])
    if _is_behind(fall):
        return Claim(text, FAILS, f"{told} From K = {smallest} to {lowest} it falls: {fall.words('+.2f')}.")
    verdict = _verdict([gain])
    return Claim(text, FAILS if verdict == HOLDS and spread >= HARDLY * _value(gain) else verdict, told)


def _selections(ours: Accuracies) -> Claim:
    text = "Greedy selection is better than probabilistic selection at every K"
    readings = {"sampled": ours.sampled, "read greedily": ours.read}
    gaps = {
        words: {k: difference(ours.greedy[k], values) for k, values in by_k.items() if k in ours.greedy}
        for words, by_k in readings.items()
    }
    every = [gap for by_k in gaps.values() for gap in by_k.values()]
    if not every:
        return Claim(text, UNTESTED, "No K has finished runs under both.")
    told = "; ".join(f"{_by_k_in_words(by_k)} ({words})" for words, by_k in gaps.items() if by_k)
    return Claim(text, _verdict(every), f"Points ahead: {told}.")


def _verdict(gaps: Sequence[Estimate]) -> str:
    """Whether each of these is above 0: of those with an interval the interval decides."""
    if any(_is_behind(gap) for gap in gaps):
        return FAILS
    return HOLDS if all((_value(gap) if gap.low is None else gap.low) > 0 for gap in gaps) else UNDECIDED


def _is_behind(gap: Estimate) -> bool:
    return (_value(gap) if gap.high is None else gap.high) < 0


def _value(gap: Estimate) -> float:
    assert gap.value is not None
    return gap.value


def _by_k_in_words(gaps: Mapping[int, Estimate]) -> str:
    """ "K = 8 +0.32 [+0.20, +0.44]", with 95 % intervals where there are two seeds of each."""
    return ", ".join(f"K = {k} {gap.words('+.2f')}" for k, gap in gaps.items())


def _random(ours: Accuracies, untrained: Mapping[int, Sequence[float]]) -> Claim:
    text = "A random combination of the same options does no better than chance"
    if not untrained:
        return Claim(text, UNTESTED, "The networks before training were not evaluated.")
    best = max(max(values) for values in untrained.values())
    trained = {k: f" (trained {fmean(values):.2f})" for k, values in ours.greedy.items()}
    told = ", ".join(
        f"K = {k} {fmean(values):.1f}{trained.get(k, '')}" for k, values in sorted(untrained.items())
    )
    return Claim(text, HOLDS if best < UNLEARNED else FAILS, f"Before training: {told}.")


def _finetuning(comparisons: Sequence[RunFolder]) -> Claim:
    text = "Finetuning the selected weights improves on learning from scratch"
    by_k: dict[int, list[tuple[float, float, int]]] = {}
    for folder in comparisons:
        pair = _tuned_and_scratch(folder)
        if pair is not None:
            by_k.setdefault(folder.config().slots.k, []).append(pair)
    if not by_k:
        return Claim(text, UNTESTED, "It needs a run of `slotkit finetune --from-scratch`.")
    # Both of a pair have their seeds and images in common. Pairs of different K are no repetitions.
    gains = {
        k: difference([tuned - scratch for tuned, scratch, _ in pairs], [0.0] * len(pairs))
        for k, pairs in by_k.items()
    }
    told = [
        (f"K = {k}: " if len(by_k) > 1 else "") + _compared(by_k[k], gains[k].words("+.2f"))
        for k in sorted(by_k)
    ]
    return Claim(text, _verdict(list(gains.values())), " ".join(told))


def _compared(pairs: Sequence[tuple[float, float, int]], gain: str) -> str:
    best, base, _ = (fmean(values) for values in zip(*pairs, strict=True))
    epochs = " or ".join(map(str, sorted({pair[2] for pair in pairs})))
    return (
        f"The finetuned network that is best by validation has {best:.2f}, the one from scratch {base:.2f} "
        f"after {epochs} epochs in all (n = {len(pairs)}). Points ahead: {gain}."
    )


def _tuned_and_scratch(folder: RunFolder) -> tuple[float, float, int] | None:
    """Test accuracies (%) of one comparison: finetuned, the best by validation, and from scratch; and the
    epochs of the latter, which are those of each in all.
    """
    table = folder.summary()["table"]
    scratch = [row for row in table if row["network"] == "from scratch"]
    tuned = [row for row in table if row["network"] != "from scratch" and row["epochs"] > 0]
    if not scratch or not tuned:
        return None
    best = max(tuned, key=lambda row: float(row["validation"]["accuracy"]))
    finetuned, base = (100 * float(row["test"]["accuracy"]) for row in (best, scratch[0]))
    return finetuned, base, int(scratch[0]["epochs"])


def _shares(cell: Cell, sharing: str) -> bool:
    """Whether it is the paper's experiment: options shared so, greedy selection, SGD on the scores."""
    config, slots = cell.config, cell.config.slots
    plain = not slots.symmetric and slots.kind is None and slots.share is None
    greedy = config.method == "slot" and slots.selection == "greedy"
    return greedy and plain and slots.sharing == sharing and config.training.optimizer == "sgd"


def _sharing(cells: Sequence[Cell], paper: Paper) -> Iterator[Claim]:
    kinds = {"layer": "all connections of a layer", "network": "all connections of the network"}
    well = max(mean for mean, _, _ in paper.greedy.values()) - WELL
    for sharing, words in kinds.items():
        text = f"With options shared by {words}, large K learns well and small K does not"
        found = _by_k([cell for cell in cells if _shares(cell, sharing)])
        if len(found) < 2:
            yield Claim(text, UNTESTED, f"It needs runs with sharing={sharing} at two K or more.")
            continue
        means = {k: fmean(values) for k, values in found.items()}
        told = ", ".join(f"K = {k} {value:.2f}{_unlearned(found[k])}" for k, value in means.items())
        small, large = min(found), max(found)
        gap = difference(found[large], found[small])
        told = f"Test accuracy: {told}. K = {large} is ahead of K = {small} by {gap.words('+.2f')}."
        learns = means[large] >= well > means[small]
        yield Claim(text, _verdict([gap]) if learns else FAILS, f'{told} "Well" is {well:.2f} or more.')


def _unlearned(values: Sequence[float]) -> str:
    """What a mean hides: how many of its networks have learned nothing."""
    count = sum(value < UNLEARNED for value in values)
    return f" ({count} of {len(values)} learned nothing)" if count else ""
