"""Steps that never wait for the device: a CUDA graph repeats them, and a GradScaler skips them.

A graph without CUDA: what a step asks of PyTorch and of the kernels is written down, with where its numbers
lie, and done again. Only what is in memory can be another number then. These tests run on CUDA, and in the
interpreter of Triton (test_triton.py).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from latent.trajectories import bits, first_weight, mlp, normal
from small_networks import equal
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from slotkit.errors import DivergedError, SlotkitError
from slotkit.latent.verdict import Verdict
from slotkit.machine import SlotMachine
from slotkit.making import slotify
from slotkit.optim import SlotAdam, SlotSGD

ENGINE = pytest.mark.parametrize("engine", ["triton"])

# What makes the host wait for a device, in PyTorch's operations and in Python.
WAITING = ("_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2")
READING = ("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__")


class Graph(TorchDispatchMode):
    """Writes down what is done in its block; `replay` does it again, into the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Callable[[], Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in WAITING, f"{name} waits for the device"
        out = func(*args, **(kwargs or {}))
        self.done.append((functools.partial(func, *args, **(kwargs or {})), out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for again, out in self.done:
            new = again()
            for old, value in zip(tensors(out), tensors(new), strict=True):
                if old.data_ptr() != value.data_ptr():
                    assert old.shape == value.shape, (again, old.shape, value.shape)
                    old.copy_(value)


def tensors(out: Any) -> list[Tensor]:
    return [each for each in (out if isinstance(out, tuple | list) else [out]) if isinstance(each, Tensor)]


class Launches:
    """A kernel whose launches are written down too."""

    def __init__(self, kernel: Any, graph: Graph) -> None:
        self.kernel, self.graph = kernel, graph

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*args: Any, **constants: Any) -> None:
            with _disable_current_modes():  # the interpreter copies its arguments
                self.kernel[grid](*args, **constants)
            self.graph.done.append((lambda: self.kernel[grid](*args, **constants), None))

        return launch


@contextmanager
def capture(monkeypatch: pytest.MonkeyPatch) -> Iterator[Graph]:
    """A block in which nobody may wait."""
    from slotkit.latent.engines import triton_kernels as kernels

    graph = Graph()

    def refuse(*_: Any) -> None:
        raise AssertionError("this waits for the device")

    with monkeypatch.context() as patched:
        for name in READING:
            patched.setattr(torch.Tensor, name, refuse)
        for name in ("begin", "step", "sample"):
            patched.setattr(kernels, name, Launches(getattr(kernels, name), graph))
        patched.setattr(Verdict, "hear", lambda self: None)  # on CUDA it looks whether it has been told
        with graph:
            yield graph


class Trainee:
    """A machine, its optimizer, and a step on data that lie in one place."""

    def __init__(self, kind: str, selection: str, engine: str, device: torch.device, **settings: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(*mlp()[:3]).to(device)
        self.machine = slotify(self.model, 4, selection, engine=engine, tables="stored", others="trained")
        made = {"sgd": SlotSGD, "adam": SlotAdam}[kind]
        self.optimizer: Any = made(self.machine, **settings)
        self.x = torch.zeros(4, 12, device=device)

    def put(self, number: int) -> None:
        self.x.copy_(normal(4, 12, seed=number, dtype=torch.float32))

    def loss(self) -> Tensor:
        return (self.model(self.x) - 0.5).square().sum()

    def step(self) -> None:
        self.loss().backward()
        self.optimizer.step()

    def all(self) -> dict[str, Tensor]:
        found = {name: value.clone() for name, value in self.model.state_dict().items()} | bits(self.machine)
        for state in copy.deepcopy(self.optimizer.state_dict())["state"].items():
            found |= {f"{state[0]}/{name}": torch.as_tensor(value) for name, value in state[1].items()}
        return found


# Momentum's first step is another one, c moves with weight decay (and swings), Adam counts.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("sgd", {"lr": 0.5, "momentum": 0.9, "weight_decay": 0.1}),
    "sgd-c-swings": ("sgd", {"lr": 15.0, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}),
    "adam": ("adam", {"lr": 0.2, "weight_decay": 0.1}),
}


@ENGINE
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("way", WAYS)
def test_a_replay_is_the_next_step(
    way: str, selection: str, engine: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a learning rate that changes in the memory of its tensor."""
    kind, settings = WAYS[way]
    ours, twin = (Trainee(kind, selection, engine, device, **settings) for _ in range(2))
    for trainee in (ours, twin):
        rate = trainee.optimizer.param_groups[0]["lr"]
        trainee.optimizer.param_groups[0]["lr"] = torch.tensor(rate, device=device)
        trainee.put(0)
        trainee.step()
        trainee.put(1)
    twin.optimizer.zero_grad()
    ours.optimizer.zero_grad()
    with capture(monkeypatch) as graph:
        ours.step()
    twin.step()
    for number in range(2, 4):
        for trainee in (ours, twin):
            trainee.put(number)
            trainee.optimizer.param_groups[0]["lr"].mul_(0.5)
        graph.replay()
        twin.optimizer.zero_grad()
        twin.step()
    assert equal(ours.all(), twin.all())
    assert ours.machine.draws == twin.machine.draws == (0 if selection == "greedy" else 5)
    assert first_weight(ours.machine).line.steps == 4
    assert len({float(value) for value in (first_weight(ours.machine).line.c, 1.0)}) == 1 + (kind == "sgd")


@ENGINE
@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_scaler_needs_no_answer_to_skip_a_step(
    kind: str, selection: str, engine: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing moves: neither weights and state, nor c, momentum and the number of the step, nor what is
    learned beside them. The draws go on: the host can't know that there was no step.
    """
    settings = {"lr": 0.5, "weight_decay": 0.1} | ({"momentum": 0.9} if kind == "sgd" else {})
    trainee, twin = (Trainee(kind, selection, engine, device, **settings) for _ in range(2))
    scaler = torch.amp.GradScaler(device.type, init_scale=1024.0)
    for number, factor in enumerate((float("inf"), 1.0, float("inf"), 1.0)):
        trainee.put(1)
        before = trainee.all()
        trainee.optimizer.zero_grad()
        scaler.scale(trainee.loss() * factor).backward()
        with capture(monkeypatch) if number else nullcontext():
            scaler.step(trainee.optimizer)
            scaler.update()
        if factor != 1.0:
            drawn = {"0.weight", "2.weight"} if selection == "probabilistic" else set()
            after = trainee.all()
            assert equal(*({name: one[name] for name in set(before) - drawn} for one in (before, after)))
    assert first_weight(trainee.machine).line.steps == 2
    assert trainee.machine.draws == (0 if selection == "greedy" else 5)
    if selection == "greedy":
        for _ in range(2):
            twin.put(1)
            twin.optimizer.zero_grad()
            twin.step()
        assert equal(trainee.all(), twin.all())
    assert scaler.get_scale() == 256.0


@ENGINE
def test_scores_that_are_not_finite_are_told_after_the_draw(engine: str, device: torch.device) -> None:
    trainee = Trainee("sgd", "probabilistic", engine, device, lr=0.5)
    trainee.step()
    first_weight(trainee.machine).latent[3] = float("nan")
    text = r"Some scores of 0\.weight are not finite in step 2 of this optimizer\. Nothing was changed\."
    with pytest.raises(DivergedError, match=text):
        train(trainee, 3)


@ENGINE
def test_so_are_they_under_a_scaler(engine: str, device: torch.device) -> None:
    """It looks at gradients alone."""
    trainee = Trainee("sgd", "probabilistic", engine, device, lr=0.5)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0)

    def step(number: int) -> None:
        trainee.put(number)
        scaler.scale(trainee.loss()).backward()
        scaler.step(trainee.optimizer)
        scaler.update()
        assert not vars(trainee.optimizer._ordinary).keys() & {"found_inf", "grad_scale"}, (
            "they are of a step"
        )

    step(0)
    first_weight(trainee.machine).latent[3] = float("nan")
    with pytest.raises(DivergedError, match=r"Some scores of 0\.weight are not finite in step 2 "):
        step(1)


@ENGINE
def test_nothing_is_lost_of_what_the_device_has_to_say(
    engine: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a copy; and a state that is loaded is another one."""
    trainee = Trainee("sgd", "greedy", engine, device, lr=0.5)
    state = copy.deepcopy(trainee.optimizer.state_dict())
    monkeypatch.setattr(Verdict, "hear", lambda self: None)  # as before the device has told
    for _ in range(2):
        (trainee.loss() * float("nan")).backward()
        trainee.optimizer.step()
        if not _:
            trainee.optimizer.load_state_dict(state)
            trainee.optimizer.state_dict()
    with pytest.raises(DivergedError, match=r"0\.weight is not finite in step "):
        copy.deepcopy(trainee.optimizer)


@ENGINE
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_machine_that_is_cast_keeps_its_line(kind: str, engine: str, device: torch.device) -> None:
    settings = {"lr": 0.5, "weight_decay": 0.1}
    ours, eager = (Trainee(kind, "greedy", name, device, **settings) for name in (engine, "eager"))
    for trainee in (ours, eager):
        for number in range(2):
            trainee.put(number)
            trainee.optimizer.zero_grad()
            trainee.step()
        trainee.model.double()
        trainee.machine.form.check()
    one, other = (trainee.optimizer.state_dict()["state"][0] for trainee in (ours, eager))
    for name in ("c", "e", "steps", "step"):
        assert one.get(name) == other.get(name), name
    assert one["latent"].dtype == torch.float64


@ENGINE
def test_steps_in_which_no_weight_of_the_machine_moves(engine: str, device: torch.device) -> None:
    trainee = Trainee("sgd", "greedy", engine, device, lr=0.5)
    for weight in trainee.machine.form.latents.values():
        weight.parameter.requires_grad_(False)
    before = trainee.all()
    trainee.put(1)
    trainee.step()
    moved = {name for name, value in trainee.all().items() if not torch.equal(value, before.get(name, value))}
    assert {"0.bias", "2.bias"} <= moved <= {"0.bias", "2.bias"}


@ENGINE
def test_sparse_gradients_beside_a_machine_are_refused(engine: str, device: torch.device) -> None:
    machine = slotify(nn.Linear(4, 3, bias=False).to(device), 2, engine=engine)
    table = nn.Embedding(5, 4, sparse=True).to(device)
    optimizer = SlotSGD(machine, 0.1, parameters=table.parameters())
    machine.model(table(torch.tensor([1], device=device))).sum().backward()
    with pytest.raises(SlotkitError, match=r"of shape \(5, 4\) is sparse, and its param group is fused"):
        optimizer.step()


def train(trainee: Trainee, steps: int) -> None:
    """And ask for the state, which waits for what the device has to say."""
    for _ in range(steps):
        trainee.step()
        trainee.optimizer.state_dict()


@ENGINE
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_a_state_goes_on_elsewhere(kind: str, engine: str, device: torch.device) -> None:
    """Steps that the device has counted are in the state, and another engine goes on from it."""
    ours, twin, eager = (Trainee(kind, "greedy", name, device, lr=0.2) for name in (engine, engine, "eager"))
    for trainee in (ours, twin):
        trainee.put(1)
        trainee.step()
    eager.put(1)
    eager.machine.load_state_dict(ours.machine.state_dict())
    eager.optimizer.load_state_dict(ours.optimizer.state_dict())
    copied: Any = copy.deepcopy(ours)
    for trainee in (copied, twin, eager):
        trainee.optimizer.zero_grad()
        trainee.step()
    assert equal(copied.all(), twin.all())
    for name, value in twin.all().items():
        torch.testing.assert_close(value, eager.all()[name], rtol=1e-5, atol=1e-6)


def test_engines_that_read_the_device_say_so() -> None:
    """The eager engine looks which connections have left their interval: it waits in every step."""
    machine: SlotMachine = slotify(mlp(), 4, engine="eager")
    assert not machine.optimizer(0.1).steps_on_device  # type: ignore[attr-defined]
