"""Networks that no registry has: runs of slotkit.record are evaluated and finetuned with a factory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file
from slotkit.analyses import ps_variance, weights
from slotkit.analyses.ps_variance.sampled_networks import expected_network
from slotkit.cli.main import app
from torch import nn
from typer.testing import CliRunner

import slotkit
from slotkit.config import Overrides, resolve
from slotkit.data import sources
from slotkit.errors import SlotkitError
from slotkit.export import SLOT_FILE, WEIGHTS, export
from slotkit.models import create, own_network
from slotkit.recording.replay import write_checkpoint
from slotkit.runs import checkpoint
from slotkit.runs.fingerprint import load
from slotkit.runs.folder import RunFolder
from slotkit.training.experiment import evaluate, resume
from slotkit.training.finetune import finetune
from slotkit.training.loop import Epoch, Event
from slotkit.training.prepare import own_settings, reopen

DIGITS = Overrides("--dataset", {"data.dataset": "digits"})


def make(image: tuple[int, int, int], classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(image[1] * image[2], 12), nn.ReLU(), nn.Linear(12, classes))


def make_without_images() -> nn.Module:
    return make((1, 8, 8), 10)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    torch.manual_seed(0)
    model = make_without_images()
    machine = slotkit.slotify(model, k=4)
    optimizer = machine.optimizer(lr=0.5)
    with slotkit.record(machine, optimizer, tmp_path_factory.mktemp("own") / "mine", every=2) as run:
        for _ in range(5):
            nn.functional.cross_entropy(model(torch.rand(32, 1, 8, 8)), torch.arange(32) % 10).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
        with machine.using("greedy"):
            run.checkpoint("best")
    return run.folder


@pytest.mark.parametrize(
    "factory", [make, make_without_images, "test_own_networks:make"], ids=["of images", "without", "by name"]
)
def test_evaluated_with_a_factory(
    factory: object, recorded: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    with own_network(factory):  # type: ignore[arg-type]
        readings = evaluate(recorded, "best", "test", [DIGITS])
    assert set(readings) == {"greedy"}
    assert 0 < readings["greedy"].accuracy < 1


def test_finetuned_sampled_and_looked_through(recorded: RunFolder, tmp_path: Path) -> None:
    short = Overrides("test", {"training.epochs": 1, "training.limit_batches": 2})
    notes: list[str] = []
    with own_network(make):
        folder = finetune(
            recorded, tmp_path, overrides=[DIGITS, short], report=lambda e: notes.append(str(e))
        )
    (row,) = [row for row in folder.summary()["table"] if row["epochs"]]
    assert row["test"]["n"] == 1
    assert any("its scores may have been trained on images that are validation images" in n for n in notes)
    table = ps_variance.analyze(recorded, draws=2, dataset="digits", model_factory=make).table
    assert set(table["checkpoint"].dropna()) >= {"start", "last"}
    found = weights.analyze(recorded, dataset="digits", model_factory=make)
    assert (found.table["quantity"] == "dead units").any()


def test_what_is_missing_is_said(recorded: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    told = [
        (
            lambda: evaluate(recorded, "best", "test", []),
            "mine was recorded in a loop of one's own, so slotkit doesn't have its data. Name them with "
            "--dataset, and what makes its network with --model-factory package.module:function.",
        ),
        (
            lambda: evaluate(recorded, "best", "test", [DIGITS]),
            "The network of this run is one's own, which slotkit can't build. Give a function that returns "
            "it, untrained: --model-factory package.module:function.",
        ),
        (
            lambda: evaluate(recorded, "best", "validation", [DIGITS]),
            "mine was recorded in a loop of one's own, and which images that held out is not known. "
            "Evaluate on --split test.",
        ),
        (
            lambda: finetune(recorded, recorded.path.parent),
            "the dataset 'own' is that of a loop of one's own, which slotkit doesn't have. Name one with "
            "--dataset, and what makes the network with --model-factory package.module:function.",
        ),
        (
            lambda: resume(recorded, []),
            "mine was recorded in a loop of one's own. Run that loop again with resume=True: it goes on from "
            "the last checkpoint.",
        ),
    ]
    for act, sentence in told:
        with pytest.raises(SlotkitError) as caught:
            act()
        assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        ("nets", "'nets' names no function. Give package.module:function, such as nets:make."),
        (
            "no_such_module:make",
            "no_such_module:make: No module named 'no_such_module'. Run the command where",
        ),
        ("os:no_such_function", "os:no_such_function: os has no function 'no_such_function'."),
    ],
)
def test_factories_that_are_none(factory: str, sentence: str) -> None:
    with pytest.raises(SlotkitError, match=re.escape(sentence)), own_network(factory):
        pass


def test_a_factory_that_returns_no_module() -> None:
    with pytest.raises(SlotkitError, match="It has to return a torch module"), own_network(lambda: 3):  # type: ignore[arg-type,return-value]
        create("own", (1, 8, 8), 10)


def test_nothing_is_imported_because_a_file_says_so(recorded: RunFolder, tmp_path: Path) -> None:
    """A config.toml with another model's name is that of no network."""
    with pytest.raises(SlotkitError, match="There is no model 'os:system'"):
        create("os:system", (1, 8, 8), 10)


def test_the_commands_take_a_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained, evaluated, finetuned, resumed and exported; without the factory the error names it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "factories.py").write_text(
        "from torch.nn import Flatten, Linear, ReLU, Sequential\n"
        "def make(classes):\n"
        "    return Sequential(Flatten(), Linear(64, 12), ReLU(), Linear(12, classes))\n"
    )
    factory = ("--model-factory", "factories:make")

    def ask(*typed: str) -> Result:
        return CliRunner().invoke(app, typed)

    short = ("--epochs", "1", "--set", "training.limit_batches=2")
    assert ask("train", *factory, *short, "--k", "4", "--name", "mine").exit_code == 0
    assert ask("train", "--resume", "mine", *factory, "--epochs", "2").exit_code == 0
    assert ask("evaluate", "mine", *factory).exit_code == 0
    tuned = ask("finetune", "mine", *factory, *short, "--name", "tuned")
    assert tuned.exit_code == 0
    again = tuned.stdout.partition("next: slotkit ")[2].split()
    assert again == ["evaluate", "runs/tuned/from-best", *factory]
    assert ask(*again).exit_code == 0
    exported = ask("export", "mine")
    assert exported.exit_code == 0
    assert 'slotkit.load("runs/mine/export/model.slot.safetensors", into=model)' in exported.stdout
    exported = ask("export", "runs/tuned/from-best")  # learned weights
    assert (exported.exit_code, exported.stdout.count("slotkit.load")) == (0, 0)
    state, _ = checkpoint.load(Path("runs/tuned/from-best/checkpoints/best.safetensors"))
    written = load_file(Path("runs/tuned/from-best/export") / WEIGHTS)
    assert written.keys() == state["weights"].keys()
    assert all(torch.equal(written[name], value) for name, value in state["weights"].items())
    made = make_without_images()
    slotkit.load("runs/mine/export/model.slot.safetensors", into=made)
    refused = ask("evaluate", "mine")
    assert "--model-factory package.module:function" in str(refused.exception)


@pytest.mark.parametrize("others", ["kept", "frozen", "trained"])
def test_its_start_is_that_of_the_loop(others: str, tmp_path: Path) -> None:
    """A factory makes other biases than the loop had."""
    torch.manual_seed(5)
    model = make_without_images()
    machine = slotkit.slotify(model, k=4, others=others)
    optimizer = machine.optimizer(lr=0.5)
    test = sources.load("digits", None).test
    (pixels,) = test.read([torch.arange(len(test))])
    with torch.no_grad():
        before = nn.functional.cross_entropy(model((pixels / 255 - 0.3054) / 0.3760), test.labels)
    with slotkit.record(machine, optimizer, tmp_path / "mine") as run:
        nn.functional.cross_entropy(model(torch.rand(32, 1, 8, 8)), torch.arange(32) % 10).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with own_network(make):
        read = evaluate(run.folder, "start", "test", [DIGITS])["greedy"]
    assert read.loss == pytest.approx(before.item(), rel=1e-5)
    assert run.folder.config().slots.others == others


def test_what_another_optimizer_trained_is_not_replayed(tmp_path: Path) -> None:
    """The head of the last step is not that of an earlier one."""
    model = make_without_images()
    machine = slotkit.slotify(model, k=4, where="1.weight")
    model[3].requires_grad_(True)  # type: ignore[index]
    optimizers = [machine.optimizer(lr=0.5), torch.optim.SGD(model[3].parameters(), lr=0.1)]  # type: ignore[index]
    with slotkit.record(machine, optimizers, tmp_path / "mine", trace="full", every=2) as run:
        for _ in range(2):
            nn.functional.cross_entropy(model(torch.rand(32, 1, 8, 8)), torch.arange(32) % 10).backward()  # type: ignore[no-untyped-call]
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
    told = (
        "In mine 3.weight, 3.bias changed while it was trained, and the trace has the flips of the reels "
        'only. Keep checkpoints instead: run.checkpoint("epoch-10") in the loop.'
    )
    with pytest.raises(SlotkitError, match=re.escape(told)):
        write_checkpoint(run.folder, 1)


@pytest.mark.parametrize("others", ["kept", "trained"])
def test_what_is_not_in_the_trace_of_a_loop_is_kept_by_the_loop(others: str, tmp_path: Path) -> None:
    """There are no settings of a loop of one's own: the sentence says what to write into it."""
    layers = [nn.Flatten(), nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Linear(12, 10)]
    model = nn.Sequential(*layers)
    machine = slotkit.slotify(model, k=4, others=others)
    optimizer = machine.optimizer(lr=0.5)
    with slotkit.record(machine, optimizer, tmp_path / "mine", trace="full", every=2) as run:
        for _ in range(2):
            nn.functional.cross_entropy(model(torch.rand(32, 1, 8, 8)), torch.arange(32) % 10).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    told = 'Keep checkpoints instead: run.checkpoint("epoch-10") in the loop.'
    with pytest.raises(SlotkitError, match=re.escape(told)):
        write_checkpoint(run.folder, 1)


def test_a_comparison_that_was_interrupted_goes_on_with_the_factory(
    recorded: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Epoch):
            raise KeyboardInterrupt

    short = Overrides("test", {"training.epochs": 2, "training.limit_batches": 2})
    with own_network(make), pytest.raises(KeyboardInterrupt):
        finetune(recorded, tmp_path, overrides=[DIGITS, short], report=stop, name="f")
    monkeypatch.chdir(Path(__file__).parent)
    go_on = ("train", "--resume", str(tmp_path / "f"))
    done = CliRunner().invoke(app, [*go_on, "--model-factory", "test_own_networks:make"])
    assert done.exit_code == 0, done.output
    assert RunFolder(tmp_path / "f").summary()["status"] == "finished"


class Tied(nn.Module):
    """Of its weights two are one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 12), nn.Linear(12, 10)
        self.middle, self.again = nn.Linear(12, 12, bias=False), nn.Linear(12, 12, bias=False)
        self.again.weight = self.middle.weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inner = self.middle(self.first(images.flatten(1)).relu()).relu()
        found: torch.Tensor = self.last(self.again(inner).relu())
        return found


def weights_of(model: Tied) -> dict[str, torch.Tensor]:
    """What the network computes with, under all names: its state in the dense form has scores."""
    layers = {name: layer for name, layer in model.named_children() if isinstance(layer, nn.Linear)}
    named = {f"{name}.weight": layer.weight for name, layer in layers.items()}
    named |= {f"{name}.bias": layer.bias for name, layer in layers.items() if layer.bias is not None}
    return {name: value.detach().clone() for name, value in named.items()}


@pytest.mark.parametrize("form", ["latent", "dense"])
@pytest.mark.parametrize(("selection", "lr"), [("greedy", 0.5), ("probabilistic", 50.0)])
def test_a_tied_weight_is_one_weight_in_exports_and_replays(
    selection: str, lr: float, form: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = Tied()
    machine = slotkit.slotify(model, k=4, selection=selection, form=form)
    optimizer = machine.optimizer(lr=lr)
    seen: list[dict[str, torch.Tensor]] = []
    with slotkit.record(machine, optimizer, tmp_path / "mine", trace="full", every=2) as run:
        for _ in range(6):
            nn.functional.cross_entropy(model(torch.rand(32, 1, 8, 8)), torch.arange(32) % 10).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            with machine.using("greedy"):
                seen.append(weights_of(model))
    assert not torch.equal(seen[1]["middle.weight"], seen[-1]["middle.weight"])
    export(run.folder, "last")
    plain, again = Tied(), Tied()
    plain.load_state_dict(load_file(tmp_path / "mine" / "export" / WEIGHTS))
    slotkit.load(tmp_path / "mine" / "export" / SLOT_FILE, into=again)
    assert again.again.weight is again.middle.weight
    state, _ = checkpoint.load(write_checkpoint(run.folder, 2))
    replayed = Tied()
    replayed.load_state_dict(state["weights"])
    for network, then in ((plain, seen[-1]), (again, seen[-1]), (replayed, seen[1])):
        assert all(torch.equal(value, then[name]) for name, value in network.state_dict().items())
    with own_network(Tied):
        prepared = reopen(run.folder, resolve([own_settings(run.folder), DIGITS]))
    prepared.trainee.load(load(run.folder, "last")[0])
    with own_network(Tied):
        expected = expected_network(prepared).model.get_parameter("again.weight")
    mean = (machine.scores("middle.weight").softmax(dim=-1) * machine.options("middle.weight")).sum(dim=-1)
    torch.testing.assert_close(expected, mean)


class Needing(nn.Sequential):
    """Its constructor needs numbers, as those of dropout rates often do."""

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Dropout(torch.linspace(0, 0.1, 3).tolist()[1]), nn.Linear(64, 10))


@pytest.mark.parametrize("which", ["best", "step-2"])
def test_any_network_is_finetuned_from_any_checkpoint(which: str, tmp_path: Path) -> None:
    model = Needing()
    machine = slotkit.slotify(model, k=4)
    optimizer = machine.optimizer(lr=0.5)
    with slotkit.record(machine, optimizer, tmp_path / "mine", trace="full", every=2) as run:
        for _ in range(4):
            nn.functional.cross_entropy(model(torch.rand(32, 1, 8, 8)), torch.arange(32) % 10).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
    short = Overrides("test", {"training.epochs": 1, "training.limit_batches": 2})
    notes: list[str] = []
    with own_network(Needing):
        folder = finetune(
            run.folder, tmp_path, [which], [DIGITS, short], report=lambda e: notes.append(str(e)), name="f"
        )
        read = evaluate(run.folder, which, "test", [DIGITS])["greedy"]
    slot, finetuned = folder.summary()["table"]
    assert slot["test"]["accuracy"] == read.accuracy
    assert (slot["slot_epochs"], finetuned["epochs"]) == (0, 1)
    assert "Its epochs are not known: a checkpoint epoch-N counts as N, and any other" in notes[0]
