"""`slotkit analyze` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import invoke, refuse


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny runs on digits that differ by seed only."""
    place = tmp_path_factory.mktemp("runs")
    for seed in ("0", "1"):
        done = invoke(
            *("train", "--epochs", "2", "--trace", "full", "--set", "recording.every=5"),
            *("--seed", seed, "--name", f"run-{seed}", "--runs-dir", str(place)),
        )
        assert done.exit_code == 0
    return place


@pytest.mark.parametrize("analysis", ["flips", "thresholds", "weights"])
def test_one_run(analysis: str, runs: Path) -> None:
    done = invoke("analyze", analysis, "run-0", "--runs-dir", str(runs))
    assert done.exit_code == 0
    assert "K = 8" in done.stdout
    for ending in ("csv", "png", "svg", "txt"):
        path = runs / "run-0" / "analyses" / f"{analysis}.{ending}"
        assert path.stat().st_size > 0
        assert str(path) in done.stdout


@pytest.mark.parametrize("analysis", ["flips", "thresholds", "weights"])
def test_several_runs_for_a_script(
    analysis: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("analyze", analysis, str(runs / "run-0"), str(runs / "run-1"), "--json")
    told = json.loads(done.stdout)
    assert told["files"]["csv"] == f"analyses-out/{analysis}.csv"
    assert "(2 runs" in told["summary"][0]
    assert (tmp_path / "analyses-out" / f"{analysis}.png").is_file()


def test_where_to_and_how_long(runs: Path, tmp_path: Path) -> None:
    done = invoke(
        "analyze", "flips", str(runs / "run-0"), "--out", str(tmp_path / "x" / "y"), "--within", "7"
    )
    assert "went back within 7 steps" in done.stdout
    assert (tmp_path / "x" / "y" / "flips.csv").is_file()


def test_which_weights(runs: Path, tmp_path: Path) -> None:
    options = ("--checkpoint", "best", "--moments", "1", "--sample", "100", "--data-dir", str(tmp_path))
    done = invoke("analyze", "weights", str(runs / "run-0"), "--out", str(tmp_path), *options)
    assert done.exit_code == 0
    assert "those of 300, evenly spread, of 50,200 connections" in done.stdout
    assert "% of 300 units" in done.stdout  # digits are bundled, wherever data lie


def test_what_can_be_put_right_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refuse(monkeypatch, capsys, "analyze", "flips", "nowhere", "--runs-dir", str(tmp_path))
    assert told.startswith("Error: There is no run 'nowhere'")


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom slotkit.cli.main import main\n"
        "sys.argv = ['slotkit', 'analyze', 'flips', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'pandas', 'matplotlib', 'seaborn'} & sys.modules.keys()"
    )
    # Elsewhere: Python would import the checkout's slotkit/, which has no commands.
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "--within" in done.stdout


def test_sampled_networks_of_a_run(runs: Path) -> None:
    done = invoke(
        *("analyze", "ps-variance", "run-0", "--runs-dir", str(runs)),
        *("--draws", "2", "--checkpoints", "start, best", "--split", "validation"),
    )
    assert done.exit_code == 0
    assert "(1 run, 2 draws each, validation images)" in done.stdout
    assert "run-0 was trained with greedy selection and is sampled after the fact" in done.stdout
    assert (runs / "run-0" / "analyses" / "ps-variance.csv").stat().st_size > 0


@pytest.mark.parametrize(
    ("level", "words"), [("full", "Half-life of a selection"), ("summary", "partial answer")]
)
def test_a_ps_run_from_training_to_its_analyses(level: str, words: str, tmp_path: Path) -> None:
    """Both say that they show the greedy reading, also to a script."""
    place = ("--runs-dir", str(tmp_path))
    flags = ("--trace", level, "--set", "recording.every=5", "--name", "ps", *place)
    assert invoke("train", "--selection", "PS", "--lr", "20", "--epochs", "2", *flags).exit_code == 0
    group = "lenet on digits, K = 8, greedy reading of a PS run (1 run, 20 steps)"
    for analysis in ("flips", "thresholds"):
        told = json.loads(invoke("analyze", analysis, "ps", *place, "--json").stdout)
        assert told["readings"] == {"ps": "greedy reading of a PS run"}
        assert told["summary"][0].startswith(group)
        assert "PS run" in Path(told["files"]["csv"]).read_text().splitlines()[1]
        if analysis == "flips":
            assert words in "\n".join(told["summary"])
            assert "nats of entropy on average" in told["summary"][1]


def test_a_replayed_step_of_a_ps_run_is_its_greedy_reading(tmp_path: Path) -> None:
    place = ("--runs-dir", str(tmp_path))
    train = ("train", "--selection", "PS", "--lr", "20", "--epochs", "2", "--trace", "full", "--name", "ps")
    assert invoke(*train, *place).exit_code == 0
    assert invoke("runs", "replay", "ps", "--step", "20", *place).exit_code == 0
    replayed, last = (
        json.loads(invoke("evaluate", "ps", "--checkpoint", which, *place, "--json").stdout)
        for which in ("step-20", "last")
    )
    print(replayed, last)
    assert replayed["readings"]["greedy"] == last["readings"]["greedy"]
