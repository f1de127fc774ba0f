"""Which runs a claim is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import made_reports as made
import pytest
from slotkit.reports import paper
from slotkit.reports.claims import Claim, behind, claims
from slotkit.reports.collect import cells, collect
from slotkit.reports.figures import figures
from slotkit.reports.page import page

from slotkit.runs.folder import RunFolder

GREEDY, LEARNED = "paper-lenet-greedy", "paper-lenet-learned"
PLOT = "Greedy selection reaches the accuracies of the paper's plot"
WEIGHTS = "Learned weights reach the accuracy of the paper's plot"
FINETUNING = "Finetuning the selected weights improves on learning from scratch"


def judged(runs_dir: Path, name: str, comparisons: Sequence[RunFolder] = ()) -> dict[str, Claim]:
    found = cells(collect([name], runs_dir).rows) if name else []
    told = claims("lenet", found, paper.of("lenet", "mnist"), {}, comparisons)
    return {claim.text: claim for claim in told}


def test_runs_that_are_shorter_than_their_recipe_say_nothing(tmp_path: Path) -> None:
    short = [
        *((made.planned(GREEDY, slots__k=k, training__epochs=3), {"greedy": 0.93}) for k in (2, 8)),
        (made.planned(GREEDY, slots__k=4, training__limit_batches=8), {"greedy": 0.9}),
    ]
    made.sweep(tmp_path, "s", [*short, (made.planned(LEARNED), {"learned": 0.9790})])
    found = judged(tmp_path, "s")
    assert {text for text, claim in found.items() if claim.verdict != "not tested here"} == {WEIGHTS}
    html = page(collect(["s"], tmp_path), baseline=False)
    assert (
        "6 finished runs are too short for the claims (3 of 200, 200 of 200 epochs; limit_batches ends "
        "epochs early). Figures and table have all runs."
    ) in html
    assert "<td>93.05</td>" in html


def test_a_run_without_a_recipe_is_as_long_as_the_papers(tmp_path: Path) -> None:
    for name, epochs in (("long", 200), ("short", 30)):
        values = {"slots.k": 8, "data.dataset": "mnist", "training.epochs": epochs}
        made.finished(
            tmp_path, name, made.resolve([made.Overrides("--set", values)]), {"greedy": epochs / 1000}
        )
    rows = collect(["long", "short"], tmp_path).rows
    means = "The means in the claims are over n = 1 seeds; the table has each n."
    short = "1 finished run is too short for the claims (30 of 200 epochs). Figures and table have all runs."
    assert behind(cells(rows)) == [means, short]
    assert behind(cells(rows[:1])) == [means]
    assert behind(cells(rows[1:])) == [short]


def test_masked_weights_are_no_learned_weights_of_the_paper(tmp_path: Path) -> None:
    sparse = made.planned(LEARNED, sparse__method="rigl", sparse__density=0.05)
    made.sweep(tmp_path, "s", [(sparse, {"learned": 0.9790})])
    assert judged(tmp_path, "s")[WEIGHTS].verdict == "not tested here"
    html = page(collect(["s"], tmp_path), baseline=False)
    assert "<td>learned weights under a mask</td>" in html
    assert "97.94" not in html.partition("<h3>Table</h3>")[2]


def test_a_supermask_is_no_slot_machine_of_the_paper(tmp_path: Path) -> None:
    cell = made.planned(GREEDY, slots__k=2, slots__kind="mask")
    made.sweep(tmp_path, "s", [(cell, {"greedy": 0.9714})])
    assert judged(tmp_path, "s")[PLOT].verdict == "not tested here"


def test_the_papers_recipe_as_it_is_comes_first(tmp_path: Path) -> None:
    made.sweep(
        tmp_path,
        "s",
        [
            (made.planned("paper-literal-lenet-greedy", slots__k=8), {"greedy": 0.97}),
            (made.planned(GREEDY, slots__k=8, training__lr=5.0), {"greedy": 0.5}),
            (made.planned(GREEDY, slots__k=8), {"greedy": 0.9820}),
        ],
    )
    html = page(collect(["s"], tmp_path), baseline=False)
    assert "<figcaption>Greedy selection is best at K = 8: 98.25 %</figcaption>" in html
    told = judged(tmp_path, "s")[PLOT].because
    assert told == "Every mean is within 0.15 points: K = 8 98.25 (paper 98.21)."


def test_a_title_compares_no_means_of_several_variants(tmp_path: Path) -> None:
    probabilistic = made.planned("paper-lenet-probabilistic", seeds=(0, 1, 2), slots__k=8)
    made.sweep(
        tmp_path,
        "s",
        [
            (made.planned(GREEDY, slots__k=8, training__lr=5.0), {"greedy": 0.5}),
            (made.planned(GREEDY, slots__k=8), {"greedy": 0.9820}),
            (probabilistic, {"greedy": 0.9780}),
        ],
    )
    html = page(collect(["s"], tmp_path), baseline=False)
    assert (
        "<figcaption>GS is ahead of the greedy reading of PS at 1 of 1 K (+0.35 points at K = 8)</figcaption>"
        in html
    )
    assert "The means in the claims are over n = 2 to 3 seeds; the table has each n." in html


def test_greedy_selection_is_compared_with_both_readings(tmp_path: Path) -> None:
    """Which of the two the paper's plot shows is not known, so greedy selection has to be ahead of both."""
    text = "Greedy selection is better than probabilistic selection at every K"
    probabilistic = made.planned("paper-lenet-probabilistic", seeds=(0,), slots__k=8)
    for name, sampled, verdict in (("ahead", 0.981, "holds"), ("behind", 0.985, "fails")):
        greedy = (made.planned(GREEDY, seeds=(0,), slots__k=8), {"greedy": 0.983})
        made.sweep(tmp_path / name, "s", [greedy, (probabilistic, {"greedy": 0.978, "sample": sampled})])
        claim = judged(tmp_path / name, "s")[text]
        assert (claim.verdict, claim.because.count("K = 8")) == (verdict, 2)


def test_a_recipe_that_was_another_is_another_variant(tmp_path: Path) -> None:
    """Runs of an older slotkit say the name of a recipe that has other settings by now."""
    for name, init, value in (("old", "glorot-deviation", 0.97), ("new", "glorot-uniform", 0.982)):
        (recipe,) = made.recipes.below(GREEDY, [])
        was = made.Overrides(recipe.origin, {**recipe.values, "slots.init": init})
        pixels = made.Overrides("dataset mnist", {"data.mean": [0.13]})
        made.finished(tmp_path, name, made.resolve([was, pixels]), {"greedy": value})
    material = collect(["old", "new"], tmp_path)
    html = page(material, baseline=False)
    assert "greedy, init glorot-deviation (n = 1)" in html
    assert "greedy (n = 1)" in html
    assert "Every mean is within 0.15 points: K = 8 98.20 (paper 98.21)." in html


GROWTH = "Accuracy grows with K up to about 8 and hardly after"


@pytest.mark.parametrize(
    ("means", "verdict", "because"),
    [
        (
            {2: 0.972, 8: 0.982, 64: 0.983},
            "holds",
            "From K = 2 (97.25) it grows by 1.05 [0.81, 1.29] points; from K = 8 on it spans 0.10.",
        ),
        (  # it falls before it grows
            {2: 0.981, 4: 0.960, 8: 0.982, 64: 0.982},
            "fails",
            "From K = 2 (98.15) it grows by 0.10 [-0.19, 0.39] points; from K = 8 on it spans 0.00. "
            "From K = 2 to 4 it falls: -2.10 [-2.40, -1.80].",
        ),
        (  # it grows on and on
            {2: 0.90, 4: 0.91, 8: 0.92, 16: 0.93, 32: 0.94, 64: 0.95},
            "fails",
            "From K = 2 (90.05) it grows by 3.50 [2.50, 4.50] points; from K = 8 on it spans 3.00.",
        ),
        (  # by less than the seeds are apart
            {2: 0.9819, 8: 0.982, 64: 0.982},
            "undecided",
            "From K = 2 (98.24) it grows by 0.01 [-0.28, 0.30] points; from K = 8 on it spans 0.00.",
        ),
    ],
)
def test_growth_begins_at_the_smallest_k_and_ends_at_8(
    tmp_path: Path, means: dict[int, float], verdict: str, because: str
) -> None:
    made.sweep(tmp_path, "s", [(made.planned(GREEDY, slots__k=k), {"greedy": v}) for k, v in means.items()])
    claim = judged(tmp_path, "s")[GROWTH]
    assert (claim.verdict, claim.because) == (verdict, because)


SHARED = "With options shared by all connections of a layer, large K learns well and small K does not"


@pytest.mark.parametrize(
    ("small", "large", "verdict"),
    [
        (0.30, 0.96, "holds"),
        (0.20, 0.30, "fails"),  # the large K learns better, and not well
        (0.94, 0.98, "fails"),  # the small K learns well, too
    ],
)
def test_of_shared_options_the_large_k_has_to_learn_well_and_the_small_one_not(
    tmp_path: Path, small: float, large: float, verdict: str
) -> None:
    recipe, means = "paper-lenet-shared-layer", {8: small, 64: large}
    runs = [(made.planned(recipe, slots__k=k), {"greedy": value}) for k, value in means.items()]
    made.sweep(tmp_path, "s", runs)
    assert judged(tmp_path, "s")[SHARED].verdict == verdict


def test_shared_options_in_pairs_are_not_the_papers(tmp_path: Path) -> None:
    recipe = "paper-lenet-shared-layer"
    runs = [
        (made.planned(recipe, slots__k=8), {"greedy": 0.1}),
        (made.planned(recipe, slots__k=64, slots__symmetric=True), {"greedy": 0.98}),
    ]
    made.sweep(tmp_path, "s", runs)
    assert judged(tmp_path, "s")[SHARED].verdict == "not tested here"


def test_runs_that_diverged_are_in_no_mean_and_that_is_told(tmp_path: Path) -> None:
    """Of three seeds one is left, and its accuracy is the paper's."""
    place = made.sweep(tmp_path, "s", [(made.planned(GREEDY, (0, 1, 2), slots__k=8), {"greedy": 0.982})])
    for name in sorted(path.name for path in place.iterdir() if path.is_dir())[1:]:
        made.RunFolder(place / name).write_summary({"status": "diverged", "reason": "x", "epochs": 1})
    assert judged(tmp_path, "s")[PLOT].verdict == "holds"
    assert behind(cells(collect(["s"], tmp_path).rows)) == [
        "The means in the claims are over n = 1 seeds; the table has each n.",
        "2 runs diverged and are in no mean; the table says which.",
    ]


def test_sharing_is_judged_under_greedy_selection_alone(tmp_path: Path) -> None:
    recipe = "paper-lenet-shared-layer"
    probabilistic = made.planned(recipe, slots__k=8, slots__selection="probabilistic")
    made.sweep(
        tmp_path,
        "s",
        [
            *((made.planned(recipe, slots__k=k), {"greedy": value}) for k, value in ((8, 0.9), (64, 0.92))),
            (probabilistic, {"greedy": 0.3}),
        ],
    )
    claim = judged(tmp_path, "s")[SHARED]
    assert (claim.verdict, claim.because) == (
        "fails",
        "Test accuracy: K = 8 90.05, K = 64 92.05. K = 64 is ahead of K = 8 by +2.00 [+1.70, +2.30]. "
        '"Well" is 93.21 or more.',
    )


def test_a_large_k_that_learned_nothing_does_not_learn_well(tmp_path: Path) -> None:
    """It is ahead of the small one, but no better than chance."""
    recipe = "paper-lenet-shared-layer"
    runs = [(made.planned(recipe, slots__k=k), {"greedy": value}) for k, value in ((8, 0.09), (64, 0.2))]
    made.sweep(tmp_path, "s", runs)
    assert judged(tmp_path, "s")[SHARED].verdict == "fails"


def test_a_mean_says_how_many_of_its_networks_learned_nothing(tmp_path: Path) -> None:
    """Options that are shared leave some networks dead from the start: their mean is no typical accuracy."""
    recipe, means = "paper-lenet-shared-layer", {8: (0.98, 0.098), 64: (0.98, 0.98)}
    runs = [
        (made.planned(recipe, [seed], slots__k=k), {"greedy": value})
        for k, values in means.items()
        for seed, value in enumerate(values)
    ]
    made.sweep(tmp_path, "s", runs)
    claim = judged(tmp_path, "s")[SHARED]
    assert (claim.verdict, claim.because) == (
        "undecided",
        "Test accuracy: K = 8 53.95 (1 of 2 learned nothing), K = 64 98.05. K = 64 is ahead of K = 8 by "
        '+44.10 [-515.61, +603.81]. "Well" is 93.21 or more.',
    )


def test_finetuned_networks_are_chosen_by_validation(tmp_path: Path) -> None:
    """Epoch 20 has the better validation; that epoch 10 has more on the test images is chance."""
    one = made.comparison(tmp_path, tests=(0.990, 0.970))
    claim = judged(tmp_path, "", [one])[FINETUNING]
    assert (claim.verdict, claim.because) == (
        "fails",
        "The finetuned network that is best by validation has 97.00, the one from scratch 98.00 "
        "after 30 epochs in all (n = 1). Points ahead: -1.00.",
    )


def test_each_comparison_has_its_own_network_from_scratch(tmp_path: Path) -> None:
    easy = made.comparison(tmp_path, "easy", scratch=0.999, tests=(0.99, 0.99))
    hard = made.comparison(tmp_path, "hard", scratch=0.911, tests=(0.91, 0.91))
    begun = made.comparison(tmp_path, "begun")
    begun.write_summary({"status": "stopped", "kind": "finetune", "table": []})
    claim = judged(tmp_path, "", [easy, hard, begun])[FINETUNING]
    assert (claim.verdict, claim.because) == (
        "undecided",
        "The finetuned network that is best by validation has 95.00, the one from scratch 95.50 "
        "after 30 epochs in all (n = 2). Points ahead: -0.50 [-5.58, +4.58].",
    )


@pytest.mark.parametrize(
    ("probabilistic", "learned", "verdicts"),
    [
        (0.978, 0.9820, ("holds", "holds")),  # by more than the seeds are apart
        (0.9828, 0.9828, ("undecided", "holds")),
        (0.9832, 0.9832, ("undecided", "undecided")),
        (0.99, 0.99, ("fails", "fails")),
    ],
)
def test_what_the_seeds_leave_open_is_undecided(
    tmp_path: Path, probabilistic: float, learned: float, verdicts: tuple[str, str]
) -> None:
    seeds = (0, 1, 2)
    made.sweep(
        tmp_path,
        "s",
        [
            (made.planned(GREEDY, seeds=seeds, slots__k=8), {"greedy": 0.983}),
            (made.planned("paper-lenet-probabilistic", seeds=seeds, slots__k=8), {"greedy": probabilistic}),
            (made.planned(LEARNED, seeds=seeds), {"learned": learned}),
        ],
    )
    found = judged(tmp_path, "s")
    selections = found["Greedy selection is better than probabilistic selection at every K"]
    as_good = found["A slot machine is as good as learned weights where the paper's is"]
    assert (selections.verdict, as_good.verdict) == verdicts
    assert "[" in selections.because
    assert "[" in as_good.because


def test_comparisons_of_different_k_are_no_repetitions(tmp_path: Path) -> None:
    """Their mean is of no method: one K may gain by what the other loses."""
    eight, two = made.comparison(tmp_path, "k8", 0.98), made.comparison(tmp_path, "k2", 0.99)
    config = two.path / "config.toml"
    config.write_text(config.read_text().replace("\nk = 8\n", "\nk = 2\n"))
    claim = judged(tmp_path, "", [eight, two])[FINETUNING]
    words = "The finetuned network that is best by validation has 98.60, the one from scratch"
    assert (claim.verdict, claim.because) == (
        "fails",
        f"K = 2: {words} 99.00 after 30 epochs in all (n = 1). Points ahead: -0.40. "
        f"K = 8: {words} 98.00 after 30 epochs in all (n = 1). Points ahead: +0.60.",
    )
    lines = [
        line for figure in figures([], paper.of("x", "x"), {}, [eight, two]) for line in figure.chart.lines
    ]
    assert [(line.name, line.points[-1].y) for line in lines if "slot" not in line.name] == [
        *(("finetuned, K = 2", 98.6), ("finetuned, K = 8", 98.6)),
        ("learned from scratch, equal epochs in total, K = 2", 99.0),
        ("learned from scratch, equal epochs in total, K = 8", 98.0),
    ]
