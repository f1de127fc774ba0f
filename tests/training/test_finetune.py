"""Finetuning: it starts from the selected weights to the bit, and its summary says what evaluation says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from slotkit.config import Config, Overrides, resolve
from slotkit.data.images import Dataset
from slotkit.data.sources import load
from slotkit.errors import SlotkitError
from slotkit.runs import checkpoint
from slotkit.runs.folder import RunFolder, list_runs
from slotkit.training.experiment import evaluate, resume, run
from slotkit.training.finetune import finetune, go_on, parse_checkpoints, plan, settings
from slotkit.training.loop import Epoch, Event, Note
from slotkit.training.prepare import own_settings, prepare
from slotkit.training.trainee import build


def train(place: Path, **values: Any) -> RunFolder:
    """A slot run "parent" of three epochs on digits, the first kept."""
    given = {
        "training.epochs": 3,
        "training.device": "cpu",
        "slots.k": 4,
        "recording.keep_epochs": [1],
        "recording.trace": "off",
    }
    given |= {path.replace("__", "."): value for path, value in values.items()}
    return run(resolve([Overrides("test", given)]), place, "parent")


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def compared(parent: RunFolder) -> RunFolder:
    """Finetuned from epoch 1 and the last, and from scratch; four epochs in total."""
    return finetune(parent, parent.path.parent, ["epoch-1", "last"], [epochs(1)], scratch=True, name="c")


def epochs(n: int) -> Overrides:
    return Overrides("--epochs", {"training.epochs": n})


def branch(folder: RunFolder, name: str) -> RunFolder:
    return RunFolder.open(name, folder.path)


def weights(folder: RunFolder, which: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = checkpoint.load(folder.checkpoint(which))[0]["weights"]
    return state


def epoch_losses(folder: RunFolder) -> list[float]:
    return [entry["loss"] for entry in folder.metrics() if entry["kind"] == "epoch"]


KINDS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "probabilistic": {"slots__selection": "PS", "training__lr": 25.0},
    "dense": {"slots__form": "dense"},
    "dense-probabilistic": {"slots__form": "dense", "slots__selection": "PS", "training__lr": 25.0},
    "selected-update": {"slots__update": "selected", "training__momentum": 0.0},
    "others-trained": {"slots__others": "trained", "model__options__bias": True},
    "norms": {"model__name": "vgg19", "data__size": 32, "training__limit_batches": 2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_finetuning_starts_from_the_greedy_selection_to_the_bit(
    kind: str, tmp_path: Path, narrow_networks: None
) -> None:
    slot = train(tmp_path, **KINDS[kind])
    folder = finetune(slot, tmp_path, ["epoch-1"], [epochs(1)])
    start = weights(branch(folder, "from-epoch-1"), "start")
    prepared = prepare(resolve([own_settings(slot)]))
    state, _ = checkpoint.load(slot.checkpoint("epoch-1"))
    prepared.trainee.load(state)
    machine = prepared.trainee.machine
    assert machine is not None
    with machine.using("greedy"):
        for name in machine.reels:
            options = machine.options(name)
            chosen = options.gather(-1, machine.selected(name).unsqueeze(-1)).squeeze(-1)
            assert torch.equal(start[name], chosen)
    others = {name: value for name, value in start.items() if name not in machine.reels}
    assert all(torch.equal(value, state["others"][name]) for name, value in others.items())
    assert {"norms": "norm1.running_mean", "others-trained": "bias"}.get(kind, "") in " ".join(others)
    # As an ordinary network it is as good as the slot machine is.
    slot_reading = evaluate(slot, "epoch-1", "validation")["greedy"]
    start_reading = evaluate(branch(folder, "from-epoch-1"), "start", "validation")["learned"]
    assert start_reading.accuracies == slot_reading.accuracies


def test_weights_learn_from_there(parent: RunFolder, compared: RunFolder) -> None:
    losses = epoch_losses(branch(compared, "from-epoch-1"))
    assert losses[0] < epoch_losses(parent)[0]
    assert losses[0] < 0.7 * epoch_losses(branch(compared, "scratch"))[0]
    assert losses[-1] < 0.6 * losses[0]
    moved = branch(compared, "from-epoch-1")
    assert all(
        not torch.equal(value, weights(moved, "start")[name])
        for name, value in weights(moved, "last").items()
    )


def test_scratch_is_a_learned_run_of_the_same_seed(compared: RunFolder, tmp_path: Path) -> None:
    twin = resolve(
        [
            Overrides(
                "test",
                {
                    "method": "learned",
                    "slots.k": 4,
                    "data.fit": "stretch",  # a branch says how its parent's images were fitted
                    "training.epochs": 4,
                    "training.lr": 0.01,
                    "training.device": "cpu",
                    "recording.trace": "off",
                },
            )
        ]
    )
    own = run(twin, tmp_path, "twin")
    scratch = branch(compared, "scratch")
    assert (scratch.path / "metrics.jsonl").read_bytes() == (own.path / "metrics.jsonl").read_bytes()
    assert own.checkpoint("last").read_bytes() == scratch.checkpoint("last").read_bytes()


def test_every_branch_has_as_many_epochs_in_total(compared: RunFolder) -> None:
    entries = compared.summary()["branches"]
    assert [(one["branch"], one["slot_epochs"], one["epochs"]) for one in entries] == [
        ("from-epoch-1", 1, 3),
        ("from-last", 3, 1),
        ("scratch", 0, 4),
    ]
    assert {one["total_epochs"] for one in entries} == {4}


def test_the_summary_says_what_evaluating_the_checkpoints_says(
    parent: RunFolder, compared: RunFolder
) -> None:
    summary = compared.summary()
    assert summary["status"] == "finished"
    for entry in summary["branches"]:
        own = branch(compared, entry["branch"])
        for which in ("best", "last"):
            assert entry["test"][which]["learned"] == evaluate(own, which, "test")["learned"].as_dict()
        best = evaluate(own, "best", "validation")["learned"]
        assert entry["validation"]["best"]["accuracy"] == best.accuracy
        if entry["checkpoint"] is None:
            assert entry["slot"] is None
            continue
        for part in ("validation", "test"):
            reading = evaluate(parent, entry["checkpoint"], part)["greedy"]
            assert entry["slot"][part] == reading.as_dict()
    assert [row["network"] for row in summary["table"]] == [
        "slot machine, epoch 1",
        "finetuned from epoch 1",
        "slot machine, epoch 3 (last)",
        "finetuned from epoch 3 (last)",
        "from scratch",
    ]


def test_the_folder_points_at_its_parent(parent: RunFolder, compared: RunFolder) -> None:
    told = compared.tables()["parent"]
    assert told == {
        "run": "parent",
        "path": str(parent.path.resolve()),
        "checkpoints": ["epoch-1", "last"],
        "epochs": [1, 3],
    }
    own = branch(compared, "from-last").tables()["parent"]
    assert (own["run"], own["checkpoint"], own["epoch"]) == ("parent", "last", 3)
    assert "checkpoint" not in branch(compared, "scratch").tables()["parent"]
    assert compared.config().method == "learned"


def test_the_split_is_that_of_the_slot_run(parent: RunFolder, compared: RunFolder) -> None:
    own = (parent.path / "split.safetensors").read_bytes()
    assert [(one.path / "split.safetensors").read_bytes() for one in compared.branches()] == [own] * 3


def test_a_list_of_runs_shows_the_comparison_once(parent: RunFolder, compared: RunFolder) -> None:
    assert {"parent", "c"} == {folder.name for folder in list_runs(parent.path.parent)}
    best = compared.summary()["best_branch"]
    entry = next(one for one in compared.summary()["branches"] if one["branch"] == best)
    assert compared.summary()["test"] == entry["test"]
    assert compared.status() == "finished"


def test_a_comparison_is_not_a_run_itself(compared: RunFolder) -> None:
    told = r"c compares 3 networks, each a run of its own. Choose .*/c/from-epoch-1 or .*/c/scratch"
    for use in (
        lambda: evaluate(compared, "best", "test"),
        lambda: resume(compared, []),
        lambda: settings(compared),
    ):
        with pytest.raises(SlotkitError, match=told):
            use()


def test_a_comparison_with_one_branch_yet_has_one_network(tmp_path: Path) -> None:
    comparison = RunFolder(tmp_path / "c")
    (comparison.path / "scratch").mkdir(parents=True)
    (comparison.path / "scratch" / "config.toml").touch()
    with pytest.raises(
        SlotkitError, match=r"c compares 1 network, each a run of its own. Choose .*/c/scratch\."
    ):
        comparison.check_single()


@pytest.mark.parametrize("moment", [3, 20])
def test_an_interrupted_branch_goes_on_to_the_same_bits(
    parent: RunFolder, compared: RunFolder, tmp_path: Path, moment: int
) -> None:
    """Before its first checkpoint, where it has to take its start again, and in the second epoch."""
    seen: list[Event] = []

    def stop(event: Event) -> None:
        seen.append(event)
        if len(seen) == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(parent, tmp_path, ["epoch-1", "last"], [epochs(1)], name="c", report=stop)
    folder = RunFolder.open("c", tmp_path)
    assert folder.summary()["status"] == "interrupted"
    own = branch(folder, "from-epoch-1")
    assert own.checkpoint("last").exists() == (moment == 20)
    resume(own, [])
    whole = branch(compared, "from-epoch-1")
    for name in ("metrics.jsonl", "checkpoints/last.safetensors", "checkpoints/best.safetensors"):
        assert (own.path / name).read_bytes() == (whole.path / name).read_bytes()


def test_how_data_are_read_holds_for_the_slot_run_too_and_may_change(
    parent: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[float, int | None]] = []

    def loaded(*given: Any) -> Dataset:
        read.append((given[-1].memory, given[-1].workers))
        return load(*given)

    def stop(event: Event) -> None:
        if isinstance(event, Epoch):
            raise KeyboardInterrupt

    def how(memory: int, workers: int) -> Overrides:
        return Overrides("--set", {"data.memory": memory, "data.workers": workers})

    monkeypatch.setattr("slotkit.data.sources.load", loaded)
    with pytest.raises(KeyboardInterrupt):
        finetune(parent, tmp_path, ["last"], [epochs(1), how(0, 3)], scratch=True, name="c", report=stop)
    assert read == 2 * [(0, 3)]  # the slot run's own data, and those of the first branch
    read.clear()
    go_on(RunFolder(tmp_path / "c"), [how(2, 1)])
    assert read == 3 * [(2 * 2**30, 1)]  # and of the branch that was not begun


def test_an_unfinished_parent_will_do_and_is_told(tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Epoch) and event.epoch == 2:
            raise KeyboardInterrupt

    given = {"training.epochs": 9, "training.device": "cpu", "recording.keep_epochs": [1]}
    with pytest.raises(KeyboardInterrupt):
        run(resolve([Overrides("test", given)]), tmp_path, "parent", stop)
    _, notes = plan(RunFolder.open("parent", tmp_path), ["epoch-1"], 1, False)
    assert notes == [
        "The run parent is interrupted, 2 of 9 epochs done: its checkpoints are taken as they are now."
    ]


def test_one_checkpoint_under_two_names_is_one_branch(tmp_path: Path) -> None:
    slot = train(tmp_path, training__epochs=1)
    branches, notes = plan(slot, ["last", "best", "epoch-1"], 2, True)
    assert [(one.name, one.slot_epochs, one.epochs) for one in branches] == [
        ("from-last", 1, 2),
        ("scratch", 0, 3),
    ]
    assert notes == [
        "best is the same checkpoint as last: one branch for both.",
        "epoch-1 is the same checkpoint as last: one branch for both.",
    ]


def test_sampling_parents_say_that_the_greedy_selection_is_taken(tmp_path: Path) -> None:
    slot = train(tmp_path, slots__selection="PS", training__epochs=1)
    events: list[Event] = []
    folder = finetune(slot, tmp_path, ["best"], [epochs(1)], report=events.append)
    notes = [event.text for event in events if isinstance(event, Note)]
    assert "The slot run samples its weights; its greedy selection is trained on." in notes
    # Neither the learning rate of sampled scores nor their schedule is that of weights.
    assert branch(folder, "from-best").config().training.lr == 0.01


@pytest.mark.parametrize("others", ["trained", "kept", "frozen"])
def test_biases_are_trained_unless_a_setting_says_not(others: str, tmp_path: Path) -> None:
    slot = train(tmp_path, training__epochs=1, model__options__bias=True)
    layers = [epochs(1), Overrides("--set", {"learned_others": others})]
    own = branch(finetune(slot, tmp_path, ["best"], layers, name="f"), "from-best")
    before, after = weights(own, "start"), weights(own, "last")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.rpartition(".")[2] for name in moved} == (
        {"weight", "bias"} if others == "trained" else {"weight"}
    )


def test_learned_networks_freeze_others_as_slot_machines_do() -> None:
    def biases(others: str) -> torch.Tensor:
        values = {"method": "learned", "learned_others": others, "model.options.bias": True}
        config: Config = resolve([Overrides("test", values | {"training.device": "cpu"})]).config
        bias = build(config, (1, 8, 8), 10).model.get_parameter("fc1.bias")
        assert bias.requires_grad == (others == "trained")
        return bias.detach()

    assert not biases("frozen").any()
    assert torch.equal(biases("kept"), biases("trained"))


def test_settings_come_from_the_run_the_defaults_and_the_layers(tmp_path: Path) -> None:
    slot = train(
        tmp_path,
        training__epochs=1,
        training__batch_size=64,
        training__weight_decay=1e-4,
        data__augment="none",
    )
    resolved = settings(slot, [Overrides("--lr", {"training.lr": 0.5})])
    training = resolved.config.training
    assert (training.lr, training.momentum, training.weight_decay) == (0.5, 0.9, 0.0)
    assert (training.batch_size, training.epochs) == (64, 10)
    assert resolved.origins["training.batch_size"] == "run parent"
    assert resolved.origins["training.epochs"] == "slotkit finetune"
    assert resolved.config.recording.keep_epochs == ()


@pytest.mark.parametrize(
    ("path", "value"), [("model.name", "conv2"), ("seeds.data", 1), ("data.dataset", "mnist"), ("slots.k", 2)]
)
def test_what_has_to_stay_is_refused(parent: RunFolder, path: str, value: Any) -> None:
    with pytest.raises(SlotkitError, match=rf"{path} \(from --set\) can't differ from the slot run's: its"):
        settings(parent, [Overrides("--set", {path: value})])


def test_learned_runs_are_refused(tmp_path: Path) -> None:
    learned = train(tmp_path, method="learned", training__epochs=1)
    with pytest.raises(SlotkitError, match=r"parent has learned weights, so nothing is selected .* --resume"):
        finetune(learned, tmp_path)


def test_a_missing_checkpoint_names_those_that_are_there(parent: RunFolder) -> None:
    told = (
        r"The run parent has no checkpoint epoch-2; it has best, epoch-1, last. Train it with --set "
        r"recording.keep_epochs=\[2\] to keep that epoch, or choose another."
    )
    with pytest.raises(SlotkitError, match=told):
        finetune(parent, parent.path.parent, ["epoch-2"], name="none")
    assert not (parent.path.parent / "none").exists()


@pytest.mark.parametrize(
    ("text", "names"),
    [("best", ["best"]), ("10, 30", ["epoch-10", "epoch-30"]), ("10,last", ["epoch-10", "last"])],
)
def test_checkpoints_are_parsed(text: str, names: list[str]) -> None:
    assert parse_checkpoints(text) == names


@pytest.mark.parametrize("text", ["", "0", "first", "10,10", "10,", "-1", "best,best"])
def test_other_words_for_checkpoints_are_refused(text: str) -> None:
    with pytest.raises(SlotkitError, match=r"Give best, last, or different epochs such as 10,30."):
        parse_checkpoints(text)


def test_from_any_step_of_a_full_trace(tmp_path: Path) -> None:
    slot = train(tmp_path, recording__trace="full")
    step = checkpoint.load(slot.checkpoint("epoch-1"))[1]["step"]
    from_step = finetune(slot, tmp_path, [f"step-{step}"], [epochs(1)], name="from-step")
    from_epoch = finetune(slot, tmp_path, ["epoch-1"], [epochs(1)], name="from-epoch")
    one, two = branch(from_step, f"from-step-{step}"), branch(from_epoch, "from-epoch-1")
    for name, weight in weights(two, "start").items():
        assert torch.equal(weights(one, "start")[name], weight)
    assert epoch_losses(one) == epoch_losses(two)
    tables = [folder.summary()["table"] for folder in (from_step, from_epoch)]
    for row, other in zip(*tables, strict=True):
        assert (row["test"], row["slot_epochs"]) == (other["test"], other["slot_epochs"])
    assert tables[0][0]["network"] == f"slot machine, step {step}"
    with pytest.raises(SlotkitError, match="Step 99999 is not in the trace of parent"):
        finetune(slot, tmp_path, ["step-99999"], [epochs(1)])
