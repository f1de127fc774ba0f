"""What slotkit.record refuses, and what it does when the end can't be saved."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from own_loops import make, train
from torch import nn

import slotkit
from slotkit.errors import SlotkitError
from slotkit.loop_recording import Recording
from slotkit.loop_state import LoopState
from slotkit.recording import replay
from slotkit.runs.folder import RunFolder
from slotkit.training.finetune import plan


@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_with_nothing_in_it_becomes_the_run(resume: bool, tmp_path: Path) -> None:
    train(tmp_path, steps=2, resume=resume)
    assert RunFolder(tmp_path).summary()["status"] == "finished"


def test_refusals(tmp_path: Path) -> None:
    machine, optimizer = make()
    stranger = torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)

    def enter(*arguments: Any, **options: Any) -> Any:
        with slotkit.record(*arguments, **options) as run:
            return run

    place = tmp_path / "mine"
    train(place, steps=2)
    trained = slotkit.record(*make(), tmp_path / "open")
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "mine.txt").write_text("dear")
    told = [
        (
            lambda: enter(machine, stranger, place),
            "The SGD given trains no weight of this machine, so its steps are not the machine's. Give the "
            "one that machine.optimizer(...) made, and of several that one first.",
        ),
        (
            lambda: enter(machine, "sgd", place),
            "The optimizer is 'sgd'. Give a torch optimizer, such as the one of machine.optimizer(...).",
        ),
        (
            lambda: enter(machine, optimizer, place, trace="all"),
            "There is no trace 'all'. Choose one of summary, full, off.",
        ),
        (
            lambda: enter(machine, optimizer, place, every=1),
            "every is 1. Give the steps between two measurements, an integer from 2.",
        ),
        *(
            (
                lambda kept=kept: enter(machine, optimizer, place, keep_last=kept),
                f"keep_last is {kept!r}. Give how many checkpoints to resume from are kept, an integer from "
                "1 to 100.",
            )
            for kept in (0, 101, True, 1.0)
        ),
        (
            lambda: enter(machine, optimizer, place, loggers="tensorboard"),
            "loggers is 'tensorboard'. Give a list, such as ['tensorboard'].",
        ),
        (
            lambda: enter(machine, optimizer, place, also=["scheduler"]),
            "also is ['scheduler']. Give a table of what else has a state, such as "
            '{"scheduler": scheduler}.',
        ),
        (
            lambda: enter(machine, optimizer, place, config={"data": object}),
            "config['data'] is <class 'object'>, and a run's config holds numbers, texts, true and false, "
            "lists and tables. Write it as a text, or leave it out.",
        ),
        (
            lambda: enter(machine, optimizer, place),
            f"There is a run {place} already. resume=True goes on with it; for another run choose another "
            "path.",
        ),
        *(
            (
                lambda resume=resume: enter(machine, optimizer, notes, resume=resume),
                f"{notes} is there already and is not a run. Choose another path.",
            )
            for resume in (True, False)
        ),
        (
            lambda: enter(machine, optimizer, place, trace="summary", resume=True),
            f"{place} is recorded with trace='full' and every=5, and this loop asks for 'summary' and 100. "
            "A trace is of one piece: give the same, or record into another folder.",
        ),
        (
            lambda: train(place, steps=2, resume=True, also={}),
            f"{place / 'checkpoints' / 'last.safetensors'} can't be read: it was written with 1 optimizers "
            "and also=scheduler, and this loop has 1 optimizers and also=nothing. Use another one, or train "
            "again.",
        ),
        (
            lambda: trained.log(loss=1.0),
            f"Nothing records into {tmp_path / 'open'} now. Call log and checkpoint inside of "
            "`with slotkit.record(...) as run:`.",
        ),
    ]
    for act, sentence in told:
        with pytest.raises(SlotkitError) as caught:
            act()
        assert str(caught.value) == sentence
    assert not (tmp_path / "open").exists()


def test_one_trace_is_of_the_steps_of_one_optimizer(tmp_path: Path) -> None:
    """Of a second one that trains weights of the machine, every replayed step was one step behind."""
    machine = slotkit.slotify(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), k=4, form="dense")
    parts = [torch.optim.SGD([scores], lr=0.1) for scores in machine.parameters()]
    with pytest.raises(SlotkitError) as caught:
        slotkit.record(machine, parts, tmp_path / "a", trace="summary")
    assert str(caught.value) == (
        "2 of the optimizers given train weights of this machine, and a trace is one of the steps of the "
        "first: it would have what the others do a step late. Give one optimizer with a param group for "
        'each, or record with trace="off".'
    )
    slotkit.record(machine, parts, tmp_path / "a", trace="off")
    others = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    whole = torch.optim.SGD([{"params": [scores]} for scores in machine.parameters()], lr=0.1)
    slotkit.record(machine, [whole, others], tmp_path / "b", trace="full")


def test_refusals_inside_of_the_block(tmp_path: Path) -> None:
    machine, optimizer = make()
    with slotkit.record(machine, optimizer, tmp_path / "mine") as run:
        with pytest.raises(SlotkitError, match=re.escape("log(loss=...) takes a number, and 'low' came.")):
            run.log(loss="low")
        with pytest.raises(
            SlotkitError, match=r"can't name a checkpoint\. Give one such as best or epoch-10"
        ):
            run.checkpoint("../best")
        with pytest.raises(
            SlotkitError, match="A checkpoint holds tensors, numbers, texts, lists and tables"
        ):
            run.checkpoint(when=object())
        other = slotkit.record(machine, optimizer, tmp_path / "other")
        with pytest.raises(SlotkitError, match=r"This machine is being recorded into .*mine already"):
            other.__enter__()
    assert json.loads((tmp_path / "mine" / "summary.json").read_text())["status"] == "finished"
    assert not (tmp_path / "other").exists()


def test_a_machine_with_a_share_is_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    machine = slotkit.slotify(nn.Linear(4, 3), k=2, kind="mask", share=0.5, form="dense")
    with pytest.raises(SlotkitError) as fault:
        slotkit.record(machine, machine.optimizer(lr=0.1), tmp_path / "mine").__enter__()
    assert str(fault.value) == (
        "A trace follows each connection alone, and this machine ranks those of a tensor (share). Record "
        'with trace="off".'
    )
    assert not (tmp_path / "mine").exists()


def test_the_checkpoint_of_the_start_is_left_alone(tmp_path: Path) -> None:
    """Replays hold the end against it: what they refuse would else pass."""
    machine, optimizer = make()
    start = tmp_path / "mine" / "checkpoints" / "start.safetensors"
    with slotkit.record(machine, optimizer, tmp_path / "mine") as run:
        before = start.read_bytes()
        with pytest.raises(SlotkitError) as fault:
            run.checkpoint("start")
        assert str(fault.value) == (
            "The checkpoint start is the network before the first step, which replays and evaluations go "
            "back to. Give this one another name, such as best or epoch-10."
        )
        run.checkpoint("epoch-²")
    assert start.read_bytes() == before


def test_a_checkpoint_that_a_loop_calls_by_a_step_is_not_taken_for_its_replay(tmp_path: Path) -> None:
    def keep(run: Recording) -> None:
        if run.step == 3:
            run.checkpoint("step-2")

    train(tmp_path / "mine", steps=4, kind={"others": "kept"}, trace="full", meanwhile=keep)
    folder = RunFolder(tmp_path / "mine")
    path = folder.checkpoint("step-2")
    before = path.read_bytes()
    with pytest.raises(SlotkitError) as fault:
        replay.write_checkpoint(folder, 2)
    assert str(fault.value) == (
        f"{path} was kept by the loop itself (run.checkpoint), and the network of the replay would be "
        "written over it. Give that file another name first."
    )
    with pytest.raises(SlotkitError) as fault:
        plan(folder, ["step-2"], 1, scratch=False)
    assert str(fault.value) == (
        f"{path} was kept by the loop itself (run.checkpoint), after step 3. Give that file another name; "
        "then the network of the step is replayed."
    )
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["", "last", ".hidden", "a/b", "a\0b", "é" * 120])
def test_what_is_no_name_of_a_file_names_no_checkpoint(name: str, tmp_path: Path) -> None:
    with (
        pytest.raises(SlotkitError, match="can't name a checkpoint"),
        slotkit.record(*make(), tmp_path / "mine") as run,
    ):
        run.checkpoint(name)


def test_an_end_that_cant_be_saved_is_a_failure(tmp_path: Path) -> None:
    class Odd:
        def state_dict(self) -> dict[str, Any]:
            return {"what": object()}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            pass

    machine, optimizer = make()
    with (
        pytest.raises(SlotkitError, match="A checkpoint holds tensors, numbers, texts"),
        slotkit.record(machine, optimizer, tmp_path / "odd", also={"odd": Odd()}),
    ):
        pass
    assert RunFolder(tmp_path / "odd").status() == "failed"


@pytest.mark.parametrize(
    ("forged", "sentence"),
    [
        (lambda kept: {**kept, "momentum_buffer": torch.ones(2)}, "has momentum_buffer of shape (2,) for a"),
        (lambda kept: {**kept, "momentum_buffer": {}}, "has momentum_buffer {} for a parameter"),
        (lambda kept: "text", "has 'text' for a parameter. It is damaged"),
    ],
)
def test_what_an_ordinary_optimizer_remembers_has_the_shape_of_its_parameter(
    forged: Callable[[Any], Any], sentence: str
) -> None:
    machine = slotkit.slotify(nn.Linear(4, 3), k=2, form="dense")
    optimizer = machine.optimizer(lr=1.0, momentum=0.9)
    machine.model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    loop = LoopState(machine, [optimizer], {})
    saved = machine.state_dict() | {"training": loop.to_save(1, {})["training"]}
    scores = [value.detach().clone() for value in machine.parameters()]
    (told,) = saved["training"]["optimizers"] = [optimizer.state_dict()]
    loop.load(saved)
    told["state"][0] = forged(told["state"][0])
    with pytest.raises(SlotkitError, match=re.escape(sentence)):
        loop.load(saved)
    assert all(torch.equal(one, other) for one, other in zip(scores, machine.parameters(), strict=True))
