"""What a report says of runs whose numbers are known."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import made_reports as made
import pytest
from slotkit.reports import paper
from slotkit.reports.collect import cells, collect
from slotkit.reports.figures import told
from slotkit.reports.page import page, write
from slotkit.reports.runs import differences

from slotkit import recipes
from slotkit.config import Overrides, resolve
from slotkit.errors import SlotkitError
from slotkit.training import experiment


def text_of(html: str) -> str:
    """What a reader sees, without the figures."""
    body = re.sub(r"<style>.*?</style>|<svg.*?</svg>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def figures_of(html: str) -> list[str]:
    return re.findall(r'<figure id="([^"]+)">', html)


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A report of the whole LeNet sweep and a comparison, without the baseline: MNIST may not be here."""
    runs_dir = tmp_path_factory.mktemp("runs")
    made.lenet(runs_dir)
    made.comparison(runs_dir)
    return page(collect(["lenet", "compared"], runs_dir), baseline=False)


def test_the_page_needs_nothing_from_outside(html: str) -> None:
    assert "<script" not in html
    assert not re.findall(r'(?:src|href)="(?!#|data:)', html)
    assert "@import" not in html
    assert "url(" not in html


def test_every_figure_of_the_paper_is_there_and_says_its_command(html: str) -> None:
    assert figures_of(html) == ["accuracy-k", "selection", "sharing", "finetuning", "curves-gs", "curves-ps"]
    parts = html.split("<figure ")[1:]
    assert all("Made by <code>slotkit report lenet compared --runs-dir " in part for part in parts)
    assert all(int(re.findall(r'data-points="(\d+)"', part)[0]) > 0 for part in parts)
    assert "Sweep lenet: slotkit sweep lenet.toml" in text_of(html)
    assert "Networks before training were not read (--no-baseline)." in text_of(html)


def test_the_table_has_mean_spread_n_and_the_papers_number(html: str) -> None:
    told_text = text_of(html)
    assert "method K sharing reading test accuracy (%) spread n paper difference" in told_text
    assert "greedy 2 none greedy 97.15 0.07 2 97.14 +0.01" in told_text
    assert "probabilistic 8 none sample 96.89 0.07 2 " in told_text
    assert "learned weights learned 97.95 0.07 2 97.94 +0.01" in told_text
    assert "greedy 64 layer greedy 96.05 0.07 2" in told_text


def test_every_claim_has_a_verdict_with_its_numbers(html: str) -> None:
    found = re.findall(
        r'<span class="verdict (\w+)">([\w ]+)</span>: (.*?)\.</dt>\s*<dd>(.*?)</dd>', html, flags=re.DOTALL
    )
    verdicts = {text: (verdict, because) for _, verdict, text, because in found}
    assert verdicts["Greedy selection reaches the accuracies of the paper&#39;s plot"] == (
        "holds",
        "Every mean is within 0.15 points: K = 2 97.15 (paper 97.14), K = 4 98.00 (paper 98.00), "
        "K = 8 98.20 (paper 98.21), K = 64 98.22 (paper 98.17).",
    )
    for reading, off in (("sampled", "K = 2 by -3.01, K = 8 by -0.95"), ("greedy", "K = 2 by -2.01")):
        verdict, because = verdicts[f"Probabilistic selection does, too, in the {reading} reading"]
        assert verdict == "fails"
        assert because.startswith(f"More than 0.3 points away: {off}. In all: ")
    assert verdicts["Learned weights reach the accuracy of the paper&#39;s plot"][0] == "holds"
    assert verdicts["A slot machine is as good as learned weights where the paper&#39;s is"] == (
        "holds",
        "Points over learned weights (97.95): K = 4 +0.05 [-0.25, +0.35], K = 8 +0.25 [-0.05, +0.55], "
        "K = 64 +0.27 [-0.03, +0.57].",
    )
    assert verdicts["Accuracy grows with K up to about 8 and hardly after"][0] == "holds"
    assert verdicts["Greedy selection is better than probabilistic selection at every K"] == (
        "holds",
        "Points ahead: K = 2 +3.10 [+2.80, +3.40], K = 8 +1.31 [+1.01, +1.61] (sampled); "
        "K = 2 +2.10 [+1.80, +2.40], K = 8 +0.31 [+0.01, +0.61] (read greedily).",
    )
    assert verdicts["A random combination of the same options does no better than chance"][0] == (
        "not tested here"
    )
    assert verdicts["Finetuning the selected weights improves on learning from scratch"] == (
        "holds",
        "The finetuned network that is best by validation has 98.60, the one from scratch 98.00 "
        "after 30 epochs in all (n = 1). Points ahead: +0.60.",
    )
    layer, network = (
        verdicts[
            f"With options shared by all connections of {which}, large K learns well and small K does not"
        ]
        for which in ("a layer", "the network")
    )
    assert layer == (
        "holds",
        "Test accuracy: K = 2 30.05, K = 64 96.05. K = 64 is ahead of K = 2 by +66.00 [+65.70, +66.30]. "
        "&#34;Well&#34; is 93.21 or more.",
    )
    assert network[0] == "not tested here"
    assert len(found) == 12


def test_a_difference_counts_as_it_is_printed() -> None:
    from slotkit.reports.claims import _numbers

    assert 98.17 - 98.02 > 0.15
    verdicts = [
        _numbers("", {16: [mine]}, {16: (98.17, 98.1, 98.2)}, 0.15).verdict for mine in (98.02, 98.01)
    ]
    assert verdicts == ["holds", "fails"]


def test_other_problems_than_the_papers_have_no_claims(tmp_path: Path) -> None:
    for seed in (0, 1):
        layers = [Overrides("--k", {"slots.k": 2}), Overrides("--seed", {"seeds.reels": seed})]
        made.finished(tmp_path, f"s{seed}", resolve(layers), {"greedy": 0.5})
    told_text = text_of(page(collect(["s0", "s1"], tmp_path), baseline=False))
    assert "The paper has no numbers for lenet on digits." in told_text
    assert "What the paper claims" not in told_text
    assert "greedy 2 greedy 50.00 0.00 2" in told_text


def test_a_run_has_its_curves_and_what_differs_from_its_recipe(tmp_path: Path) -> None:
    upper = [Overrides("--lr", {"training.lr": 0.7}), Overrides("--k", {"slots.k": 16})]
    layers = [*recipes.below("authors-lenet-greedy", upper), *upper]
    made.finished(tmp_path, "mine", resolve(layers), {"greedy": 0.9812})
    html = page(collect(["mine"], tmp_path))
    told_text = text_of(html)
    assert "mine: finished lenet on mnist, K = 16, greedy. Test accuracy, greedy: 98.12 %." in told_text
    assert "Made by slotkit train --k 2" in told_text
    # The recipe lowers lr for K above 8 to 0.01; K itself is no difference to it.
    assert "Settings that differ from authors-lenet-greedy" in told_text
    (row,) = collect(["mine"], tmp_path).rows
    assert differences(row) == (
        "authors-lenet-greedy",
        [("training.lr", "0.01", "0.7", "--lr")],
    )
    assert figures_of(html) == ["loss-mine", "validation-mine", "lr-mine"]
    assert "mine has no trace" in told_text or "There is no trace in" in told_text


def test_what_a_loop_logs_may_be_of_any_size(tmp_path: Path) -> None:
    """A page of numbers near the ends of what a computer has was an OverflowError."""
    folder = made.finished(tmp_path, "mine", resolve([]), {"greedy": 0.5})
    for step, value in enumerate((-1.7e308, 5e-324, 1e-323, 1.7e308, float("nan"), float("inf"))):
        folder.append("metrics.jsonl", {"kind": "log", "step": step, "values": {"norm": value}})
    assert 'data-points="2"' in page(collect(["mine"], tmp_path)).partition('id="norm-mine"')[2]


def test_the_command_of_a_page_and_those_on_it_work_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "my runs"
    made.finished(place, "mine", resolve([]), {"greedy": 0.5})
    html = page(collect(["mine"], place), baseline=False)
    assert f"Made by <code>slotkit report mine --runs-dir &#39;{place}&#39; --no-baseline</code>" in html
    assert f"<code>slotkit evaluate &#39;{place / 'mine'}&#39; --checkpoint start</code> reads it" in html
    assert text_of(html).count("There is no trace in") == 1
    monkeypatch.setenv("SLOTKIT_RUNS", str(place))
    assert "Made by <code>slotkit report mine</code>" in page(collect(["mine"]))


def test_a_loop_of_ones_own_is_not_said_to_be_evaluated_by_its_name(tmp_path: Path) -> None:
    told = {"method": "slot", "model.name": "own", "data.dataset": "own", "slots.k": 8}
    about = {"network": "Net", "optimizer": "SlotSGD", "init": "x", "channel_dims": {}}
    own = resolve([Overrides("slotkit.record", told)])
    folder = made.RunFolder.create(tmp_path, "mine", own, made.ENVIRONMENT, recorded=about)
    folder.write_summary({"status": "finished", "kind": "recorded"})
    told_text = text_of(page(collect(["mine"], tmp_path)))
    assert "--checkpoint start" not in told_text
    assert "seeds 0" not in told_text  # nobody knows them


def test_the_folder_itself_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "." and ".." have names: the title, the heading and the links to figures were empty."""
    place = made.lenet(tmp_path)
    (run, *_) = sorted(path for path in place.iterdir() if path.is_dir())
    monkeypatch.chdir(run)
    html = page(collect([".", ".."]), baseline=False)
    assert f"<title>slotkit: {run.name}, lenet</title>" in html
    assert f"<h2>{run.name}: finished</h2>" in html
    assert f'<figure id="loss-{run.name}">' in html
    assert "Sweep lenet: <code>" in html


def test_conditions_have_every_seed(tmp_path: Path) -> None:
    for seed in (0, 1):
        values = {"seeds.training": seed}
        made.finished(tmp_path, f"s{seed}", resolve([Overrides("--set", values)]), {"greedy": 0.5})
    made.comparison(tmp_path)
    told_text = text_of(page(collect(["s0", "s1"], tmp_path), baseline=False))
    assert told_text.endswith("seeds reels 0; data 0; training 0, 1")
    assert text_of(page(collect(["compared"], tmp_path))).endswith("torch 2.9.0 seeds 0")


def test_both_readings_stand_beside_the_papers_number(tmp_path: Path) -> None:
    these = made.planned("paper-lenet-probabilistic", slots__k=8)
    made.sweep(tmp_path, "s", [(these, {"greedy": 0.9784, "sample": 0.9774})])
    told_text = text_of(page(collect(["s"], tmp_path), baseline=False))
    assert "greedy 97.89 0.07 2 97.84 +0.05" in told_text
    assert "sample 97.79 0.07 2 97.84 -0.05" in told_text


def test_a_run_that_is_named_and_in_a_sweep_is_counted_once(tmp_path: Path) -> None:
    place = made.sweep(tmp_path, "s", [(made.planned("authors-lenet-greedy", slots__k=2), {"greedy": 0.97})])
    first = next(path.name for path in sorted(place.iterdir()) if path.is_dir())
    material = collect(["s", str(place / first)], tmp_path)
    assert [row.given for row in material.rows] == [row.folder.name == first for row in material.rows]
    assert "2 runs: 2 finished" in text_of(page(material, baseline=False))


def test_runs_that_are_not_finished_are_counted_and_not_averaged(tmp_path: Path) -> None:
    cell = made.planned("authors-lenet-greedy", seeds=(0, 1, 2), slots__k=2)
    place = made.sweep(tmp_path, "s", [(cell, {"greedy": 0.97})])
    names = sorted(path.name for path in place.iterdir() if path.is_dir())
    for name, status in zip(names, ("diverged", "stopped"), strict=False):
        summary = {"status": status, "reason": "x", "epochs": 1}
        made.RunFolder(place / name).write_summary(summary)
    told_text = text_of(page(collect(["s"], tmp_path), baseline=False))
    assert "3 runs: 1 diverged, 1 stopped, 1 finished" in told_text
    assert "1 97.14 " in told_text
    assert "1 diverged, 1 not finished" in told_text


def test_networks_before_training_are_read_once(tmp_path: Path, one_thread: None) -> None:
    for seed in (0, 1):
        values = {"slots.k": 2, "seeds.reels": seed, "training.device": "cpu", "data.validation": 0.15}
        made.finished(tmp_path, f"s{seed}", resolve([Overrides("--set", values)]), {"greedy": 0.9})
    said: list[str] = []
    material = collect(["s0", "s1"], tmp_path)
    html = page(material, tell=said.append)
    assert "random" in figures_of(html)
    assert "before training: a random combination of options (n = 2)" in text_of(html)
    assert said == [f"s{seed}: reading the network before training" for seed in (0, 1)]
    assert page(material, tell=said.append).partition("<main>")[2] == html.partition("<main>")[2]
    assert len(said) == 2
    reading = experiment.evaluate_untrained(material.rows[0].folder)
    assert 0 < reading.accuracy < 0.3


def test_data_that_are_not_here_are_told(tmp_path: Path) -> None:
    place = made.sweep(
        tmp_path,
        "s",
        [(made.planned("authors-lenet-greedy", slots__k=2, data__dir=str(tmp_path)), {"greedy": 0.97})],
    )
    told_text = text_of(page(collect([str(place)], tmp_path)))
    assert "Networks before training could not be read: mnist is not in " in told_text


def test_lines_say_no_more_than_tells_them_apart(html: str) -> None:
    legends = re.findall(r"</svg>([^<]+)</li>", html)
    assert legends[:4] == [
        *("greedy (n = 2)", "greedy, the paper"),
        *("learned weights (n = 2)", "learned weights, the paper"),
    ]
    assert "PS, sample reading (n = 2)" in legends
    assert "sharing layer, GS (n = 2)" in legends
    assert legends[-3:] == ["K = 2", "K = 8", "learned weights"]  # each run once, whatever its readings
    assert "recipe" not in "".join(legends)
    assert "<code>slotkit analyze weights RUN</code> tests it." in html


def test_shared_options_stand_beside_unshared_ones_of_the_same_selection(html: str) -> None:
    (figure,) = [f for f in re.findall(r"<figure.*?</figure>", html, flags=re.DOTALL) if 'id="sharing"' in f]
    legends = re.findall(r"</svg>([^<]+)</li>", figure)
    assert legends == ["sharing none, GS (n = 2)", "sharing layer, GS (n = 2)"]  # the sweep has PS, too


def test_figures_have_a_finding_as_title_and_lines_that_differ_in_grey(html: str) -> None:
    figures = re.findall(r"<figure.*?</figure>", html, flags=re.DOTALL)
    assert len(figures) >= 6
    for figure in figures:
        (title,) = re.findall(r"<figcaption>(.*?)</figcaption>", figure)
        assert re.search(r"\d", title), title
        signs = re.findall(r'<svg class="swatch".*?</svg>', figure)
        assert len(set(signs)) == len(signs)
        # What is left without colours: the shape of the mark, whether it is hollow, and the dashes.
        grey = [re.sub(r" s\d", "", sign) for sign in signs]
        assert len(set(grey)) == len(grey)
        assert ("axis break" in figure) == ("The axis starts at" in figure)


def test_a_second_variant_is_a_second_line(tmp_path: Path) -> None:
    cells_of = [
        (made.planned("authors-lenet-greedy", slots__k=k, training__lr=lr), {"greedy": 0.97 + lr / 100})
        for k in (2, 8)
        for lr in (0.1, 0.2)
    ]
    made.sweep(tmp_path, "s", cells_of)
    html = page(collect(["s"], tmp_path), baseline=False)
    legends = re.findall(r"</svg>([^<]+)</li>", html)
    assert legends[:3] == ["greedy, lr 0.1 (n = 2)", "greedy, lr 0.2 (n = 2)", "greedy, the paper"]
    assert "greedy 8 lr 0.2 greedy 97.25" in text_of(html)


def test_variants_are_named_as_far_as_they_differ(tmp_path: Path) -> None:
    found = []
    for name, values in (("a", {"lr": 0.1, "init": "x"}), ("b", {"lr": 0.2, "init": "x"})):
        found.append({"recipe": name, **values})
    assert told(found[1], found) == "b, lr 0.2"
    assert told(found[1], found[1:]) == ""


def test_rows_are_repetitions_if_only_their_seeds_differ(tmp_path: Path) -> None:
    made.lenet(tmp_path)
    found = cells(collect(["lenet"], tmp_path).rows)
    assert len(found) == 4 + 2 * 2 + 1 + 2
    assert {len(cell.rows) for cell in found} == {2}


def test_where_the_page_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = made.lenet(tmp_path / "runs")
    made.comparison(tmp_path / "runs")
    assert write(["lenet"], tmp_path / "runs", baseline=False) == place / "report.html"
    assert write(["lenet", "compared"], tmp_path / "runs", baseline=False) == Path("report.html")
    assert write(["compared"], tmp_path / "runs", Path("x.html")) == Path("x.html")
    assert "98.60" in text_of(Path("x.html").read_text(encoding="utf-8"))
    with pytest.raises(SlotkitError, match="There is no run 'nothing', neither as a path nor in "):
        write(["nothing"], tmp_path / "runs")


def test_a_sweep_without_a_run_is_a_sentence(tmp_path: Path) -> None:
    made.start(tmp_path / "s", made.planned("authors-lenet-greedy"), "x")
    with pytest.raises(SlotkitError, match=r"No run of s is there yet\. Train first: `slotkit sweep`\."):
        collect(["s"], tmp_path)


def test_the_papers_numbers_are_those_of_its_datasets() -> None:
    assert paper.of("lenet", "mnist").greedy[2] == (97.14, 97.08, 97.27)
    assert paper.of("conv6", "parquet:/data/cifar10").learned == (87.99, 87.80, 88.35)
    assert paper.of("vgg19", "CIFAR-10").read("slot", "greedy", 8) == (91.0, 91.0, 91.0)
    assert paper.of("conv2", "cifar10").read("slot", "probabilistic", 64) == (70.9, 68.5, 72.8)
    for model, dataset in (
        *(("lenet", "digits"), ("lenet", "fashionmnist"), ("conv2", "mnist")),
        *(("x", "mnist"), ("conv2", "cifar100")),
    ):
        known = paper.of(model, dataset)
        assert (known.greedy, known.probabilistic, known.learned) == ({}, {}, None)
