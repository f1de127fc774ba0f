"""Every engine of the latent form against its oracle: right, and deliberately wrong."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from latent.trajectories import (
    ADAM_RUN,
    CPU,
    NETS,
    SWINGING,
    Centred,
    Coarse,
    Indifferent,
    Run,
    assert_equals_the_oracle,
    assert_equals_until_a_near_tie,
    bits,
    few,
    first_weight,
    latent_form,
    mlp,
    short,
)
from small_networks import equal
from torch import nn

from slotkit.errors import DivergedError, SlotkitError
from slotkit.latent.engines.registry import ENGINES, EngineEntry, find_engine, runnable
from slotkit.latent.state import STATE
from slotkit.machine import SlotMachine
from slotkit.making import slotify
from slotkit.optim import SlotAdam, SlotSGD
from slotkit.reel import Init, Reel


@pytest.mark.parametrize("k", [1, 2, 3, 8, 64], ids="k={}".format)
@pytest.mark.parametrize("net", NETS)
def test_selects_what_the_dense_form_selects(net: str, k: int, engine: str, device: torch.device) -> None:
    assert_equals_the_oracle(Run(net, k), engine, device)


SGD = {
    "plain": Run("mlp", momentum=0.0, weight_decay=0.0, lr=2.0),
    "l2-without-momentum": Run("mlp", momentum=0.0, weight_decay=1e-2, lr=2.0),
    "dampening": Run("mlp", 8, dampening=0.5, lr=1.0),
    "nesterov": Run("conv", 8, nesterov=True),
    "maximize": Run("mlp", maximize=True),
}


@pytest.mark.parametrize("run", SGD.values(), ids=SGD)
def test_every_sgd_is_that_of_the_dense_form(run: Run, engine: str, device: torch.device) -> None:
    assert_equals_the_oracle(run, engine, device)


ADAM = {
    "default": ADAM_RUN,
    "one-option": replace(ADAM_RUN, k=1),
    "many-options": replace(ADAM_RUN, k=64),
    "convolutions": replace(ADAM_RUN, net="conv", k=3),
    "decay": replace(ADAM_RUN, weight_decay=0.5),
    "quick-and-blunt": replace(ADAM_RUN, betas=(0.2, 0.9), eps=1e-2),
    "no-memory": replace(ADAM_RUN, betas=(0.0, 0.0)),
    "maximize": replace(ADAM_RUN, maximize=True, steps=40),
}


@pytest.mark.parametrize("tables", ["stored", "recomputed"])
@pytest.mark.parametrize("run", ADAM.values(), ids=ADAM)
def test_adam_is_that_of_torch(run: Run, tables: str, engine: str, device: torch.device) -> None:
    assert_equals_the_oracle(run, engine, device, tables)


@pytest.mark.parametrize(("net", "steps"), [("mlp", 300), ("conv", 100)])
def test_c_turns_negative(net: str, steps: int, engine: str, device: torch.device) -> None:
    signs = set()

    def watch(machine: SlotMachine) -> None:
        weight = first_weight(machine)
        signs.add(weight.line.sign)
        assert all(torch.isfinite(getattr(weight, name)).all() for name in ("latent", "velocity"))

    assert_equals_the_oracle(replace(SWINGING, net=net, steps=steps), engine, device, watch=watch)
    assert signs == {-1.0, 1.0}


@pytest.mark.parametrize("run", [Run(), ADAM_RUN], ids=["sgd", "adam"])
@pytest.mark.parametrize(("net", "k"), [("mlp", 8), ("mlp", 64), ("conv", 2)])
def test_float32_until_a_near_tie(run: Run, net: str, k: int, engine: str, device: torch.device) -> None:
    steps = assert_equals_until_a_near_tie(replace(run, net=net, k=k, steps=150), engine, device)
    assert steps > few(10)


SHARINGS = [
    pytest.param(sharing, symmetric, id=f"{sharing}{'-symmetric' * symmetric}")
    for sharing in ("none", "layer", "channel", "network")
    for symmetric in (False, True)
]


@pytest.mark.parametrize("tables", ["stored", "recomputed"])
@pytest.mark.parametrize(("sharing", "symmetric"), SHARINGS)
def test_sharing(sharing: str, symmetric: bool, tables: str, engine: str, device: torch.device) -> None:
    run = Run("conv", 6, sharing=sharing, symmetric=symmetric, lr=1.0, steps=40, seed=7)
    assert_equals_the_oracle(run, engine, device, tables)


@pytest.mark.parametrize("selection", ["greedy", "probabilistic"])
@pytest.mark.parametrize("sharing", ["layer", "channel", "network"])
def test_as_many_distinct_values_as_asked(
    sharing: str, selection: str, engine: str, device: torch.device
) -> None:
    model = NETS["conv"][0]().to(device, torch.float64)
    machine = slotify(model, 3, selection, sharing, engine=engine)
    run = short(Run("conv", steps=few(8, 9), lr=1.0))
    for _ in run.train(machine):
        for name, reel in machine.reels.items():
            weight = model.get_parameter(name)
            channels = weight.unbind(reel.channel_dim) if sharing == "channel" else [weight]
            assert all(len(channel.unique()) <= 3 for channel in channels)
    values = len(model.get_parameter("2.weight").unique())
    assert values in ({4, 5, 6} if sharing == "channel" else {2, 3})


INITS: list[str | Init] = ["glorot-deviation", "glorot-uniform", Coarse(), Centred(), Indifferent()]


@pytest.mark.parametrize("init", INITS, ids=lambda init: init if isinstance(init, str) else repr(init))
def test_inits(init: str | Init, engine: str, device: torch.device) -> None:
    """Coarse has equal options and equal scores: the dense form's choice among them is the rule."""
    assert_equals_the_oracle(Run("mlp", 8, init=init, lr=1.0, steps=60), engine, device)


@pytest.mark.parametrize("init", ["glorot-deviation", "glorot-uniform"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tables_change_no_bit(dtype: torch.dtype, init: str, engine: str, device: torch.device) -> None:
    run = short(Run("conv", 5, init=init, lr=1.0, steps=25, dtype=dtype))
    stored, recomputed = (
        run.machine(device, "latent", engine, tables) for tables in ("stored", "recomputed")
    )
    for _ in zip(run.train(stored), run.train(recomputed), strict=True):
        assert same_bits(stored, recomputed)
    for machine, kept in ((stored, True), (recomputed, False)):
        assert all((weight.tables is not None) == kept for weight in latent_form(machine).weights.values())


def same_bits(one: SlotMachine, two: SlotMachine) -> bool:
    """Weights and all that training keeps."""
    pairs = zip(latent_form(one).weights.values(), latent_form(two).weights.values(), strict=True)
    return all(
        a.line == b.line
        and torch.equal(a.parameter, b.parameter)
        and all(torch.equal(getattr(a, name), getattr(b, name)) for name in STATE)
        for a, b in pairs
    )


# ---------------------------------------------------------------------------------------------------
# The registry.


def test_auto_takes_the_first_that_can_run() -> None:
    weight, reel = torch.zeros(2, 2), Reel("weight", (2, 2), 2)
    assert find_engine("auto", weight, reel, stored=True).name == next(iter(ENGINES)) == "numba"
    assert find_engine("auto", weight.bfloat16(), reel, stored=True).name == "eager"


def test_both_engines_of_the_cpu_run_there() -> None:
    reel = Reel("weight", (2, 2), 2)
    for name in ("numba", "eager"):
        for dtype in (torch.float32, torch.float64):
            assert ENGINES[name].refusal(CPU, dtype, reel, False) is None


def test_an_engine_that_has_no_cpu_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line in the registry is all that a third engine needs; it is not even imported here."""
    entry = EngineEntry("no.such.module", "for another device", lambda *about: "it needs a GPU")
    monkeypatch.setattr("slotkit.latent.engines.registry.ENGINES", {"third": entry, **ENGINES})
    assert first_weight(slotify(mlp())).engine.name == "numba"
    assert runnable(CPU) == ["numba", "eager"], "what slotkit bench times"
    with pytest.raises(SlotkitError) as caught:
        slotify(mlp(), engine="third")
    assert str(caught.value) == (
        "The engine third can't run for 0.weight: it needs a GPU. engine='auto' chooses another."
    )


# The owner of a weight that is not contiguous writes what the engine emits.
def test_a_weight_with_gaps_in_its_memory(engine: str, device: torch.device) -> None:
    plain, strided = (NETS["conv"][0]().to(device) for _ in range(2))
    strided.to(memory_format=torch.channels_last)
    machines = [slotify(model, 6, engine=engine, seed=2) for model in (plain, strided)]
    assert not all(parameter.is_contiguous() for parameter in machines[1].parameters())
    run = short(Run("conv", lr=1.0, steps=20, dtype=torch.float32))
    flips = 0
    for _ in zip(*(run.train(machine) for machine in machines), strict=True):
        flips += sum(weight.changed for weight in latent_form(machines[1]).weights.values())
        for name, weight in latent_form(machines[1]).weights.items():
            assert torch.equal(
                weight.parameter,
                machines[1].options(name).gather(-1, weight.selected().unsqueeze(-1)).squeeze(-1),
            )
            assert weight.is_consistent()
    assert flips > few(20, 10)


GAPS = {
    "a column": lambda values: torch.stack([values, values + 1], dim=-1)[..., :1].flatten(-2),
    "one number": lambda values: values.new_tensor(0.5).expand_as(values),
}


@pytest.mark.parametrize("kind", GAPS)
def test_a_gradient_with_gaps_in_its_memory(kind: str, engine: str, device: torch.device) -> None:
    """Flat it is a view that is not contiguous, and engines read memory from its first number on."""
    model = nn.Linear(1, 9, bias=False).to(device)
    machine = slotify(model, 4, engine=engine)
    gradient = GAPS[kind](torch.linspace(-1, 1, 9, device=device).unsqueeze(-1))
    assert not gradient.reshape(-1).is_contiguous()
    model.weight.grad = gradient
    machine.optimizer(1.0).step()
    assert torch.equal(first_weight(machine).latent, -gradient.flatten())


def test_a_weight_that_is_a_column_of_a_larger_tensor(engine: str, device: torch.device) -> None:
    model, larger = nn.Linear(1, 9, bias=False), torch.full((9, 2), 7.0, device=device)
    model.weight = nn.Parameter(larger[:, :1])
    machine = slotify(model, 4, engine=engine)
    assert torch.equal(model.weight, slotify(nn.Linear(1, 9, bias=False), 4).model.weight.to(device))
    assert torch.equal(larger[:, 1], torch.full((9,), 7.0, device=device)), "it is somebody else's"
    machine.selected("weight")


def test_state_is_one_buffer_a_dtype(device: torch.device) -> None:
    """Slices side by side, also after a move to another dtype."""
    machine = slotify(mlp().to(device), 4, engine="auto")
    for dtype in (torch.float32, torch.float64):
        machine.model.to(dtype)
        machine.spin()
        weights = list(latent_form(machine).weights.values())
        assert len({weight.latent.untyped_storage().data_ptr() for weight in weights}) == 1
        for one, two in itertools.pairwise(weights):
            assert one.latent.data_ptr() + one.latent.nbytes == two.latent.data_ptr()
            assert one.latent.is_contiguous()


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(SlotkitError) as caught:
        slotify(mlp(), engine="tritn")
    assert str(caught.value) == f"There is no engine 'tritn'. Choose auto, {', '.join(ENGINES)}."


REFUSALS = {
    "dtype": (
        torch.bfloat16,
        {},
        "The engine numba can't run for 0.weight: it works on float32 and float64 and the weight is "
        "torch.bfloat16. engine='auto' chooses another.",
    ),
    "recomputed-init": (
        torch.float32,
        {"init": Centred(), "tables": "recomputed"},
        "The engine numba can't run for 0.weight: it recomputes the options of slotkit's own inits and "
        "kinds only; store the tables (tables='stored') for others. engine='auto' chooses another.",
    ),
}


@pytest.mark.parametrize(("dtype", "settings", "text"), REFUSALS.values(), ids=REFUSALS)
def test_numba_says_why_it_cannot(dtype: torch.dtype, settings: dict[str, Init | str], text: str) -> None:
    """The refused model stays as it was, and another engine takes it."""
    model = mlp().to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(SlotkitError) as caught:
        slotify(model, engine="numba", **settings)  # type: ignore[arg-type]
    assert str(caught.value) == text
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    machine = slotify(model, **settings)  # type: ignore[arg-type]
    assert first_weight(machine).engine.name == "eager"
    assert len(machine.reels) == 3


def test_auto_stores_what_cannot_be_recomputed_fast() -> None:
    assert "tables stored" in str(latent_form(slotify(mlp(), init=Centred())))
    assert first_weight(slotify(mlp(), init=Centred())).engine.name == "numba"
    assert "tables recomputed" in str(latent_form(slotify(mlp())))
    assert "tables recomputed" in str(latent_form(slotify(mlp(), selection="PS", engine="numba")))
    assert "tables stored" in str(latent_form(slotify(mlp(), selection="PS", engine="eager")))
    assert repr(slotify(nn.Linear(2, 2))).endswith("latent form, numba engine, tables recomputed)")


# ---------------------------------------------------------------------------------------------------
# A gradient that is not finite changes nothing, in any weight of any engine.


@pytest.mark.parametrize("bad", ["first", "second"])
@pytest.mark.parametrize("lr", [1.0, 1e4], ids=["", "c-would-turn"])
def test_a_step_that_fails_changes_nothing(bad: str, lr: float, engine: str, device: torch.device) -> None:
    machines = {
        "first": slotify(mlp().to(device), 4, engine=engine, seed=1),
        "second": slotify(mlp().to(device, torch.float64), 4, engine=engine, seed=2),
    }
    optimizer = SlotSGD(machines.values(), lr, 0.9, 0.5, 1e-3)
    for machine in machines.values():
        for parameter in machine.parameters():
            parameter.grad = torch.ones_like(parameter)
    spoiled = next(machines[bad].parameters())
    assert spoiled.grad is not None
    spoiled.grad[-1, -1] = math.nan
    before = [bits(machine) for machine in machines.values()]
    with pytest.raises(DivergedError, match=r"The gradient of 0\.weight is not finite in step 1"):
        optimizer.step()
    assert all(equal(bits(machine), kept) for machine, kept in zip(machines.values(), before, strict=True))
    spoiled.grad[-1, -1] = 1.0
    optimizer.step()
    assert not equal(bits(machines["first"]), before[0])


def test_velocity_of_a_dead_unit_does_not_stay_denormal() -> None:
    """Processors take a hundred cycles for a denormal number; 0.9 * 1e-45 is rounded to 1e-45 for ever."""
    machine = slotify(nn.Linear(64, 64, bias=False), 4, engine="numba")
    parameter, optimizer = next(machine.parameters()), machine.optimizer(0.1, 0.9)
    parameter.grad = torch.full_like(parameter, 1e-30)
    optimizer.step()
    moved = first_weight(machine).latent.clone()
    parameter.grad.zero_()
    for _ in range(200):
        optimizer.step()
    assert (first_weight(machine).velocity == 0).all()
    assert (first_weight(machine).latent != moved).all(), "it moved while its velocity was a normal number"


def test_moments_of_a_dead_unit_do_not_stay_denormal() -> None:
    """The same of Adam: 1e-45 - 0.1 * 1e-45 is rounded to 1e-45 for ever."""
    machine = slotify(nn.Linear(64, 64, bias=False), 4, engine="numba")
    parameter, optimizer = next(machine.parameters()), SlotAdam(machine, betas=(0.9, 0.9))
    parameter.grad = torch.full_like(parameter, 1e-18)
    optimizer.step()
    moments = [optimizer.state[parameter][name] for name in ("exp_avg", "exp_avg_sq")]
    assert all((moment > 0).all() for moment in moments)
    parameter.grad.zero_()
    for _ in range(600):
        optimizer.step()
    assert all((moment == 0).all() for moment in moments)
    assert torch.isfinite(first_weight(machine).latent).all()


# ---------------------------------------------------------------------------------------------------
# Flips are counted and, if asked for, told.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_events_are_the_flips(dtype: torch.dtype, engine: str, device: torch.device) -> None:
    """Each event names a connection that changed and its new option; no other connection changed."""
    run = short(Run("conv", 6, lr=50.0, period=0, dtype=dtype, steps=100))
    machine = run.machine(device, "latent", engine)
    for weight in latent_form(machine).weights.values():
        weight.recorded = True
    before = {name: machine.selected(name).reshape(-1) for name in machine.reels}
    total, signs = 0, set()
    for _ in run.train(machine):
        for name, weight in latent_form(machine).weights.items():
            connections, options = (part.long().to(device) for part in weight.events)
            assert connections.tolist() == sorted(set(connections.tolist()))
            assert (
                weight.changed
                == len(connections)
                == int((weight.selected().reshape(-1) != before[name]).sum())
            )
            before[name][connections] = options
            assert torch.equal(weight.selected().reshape(-1), before[name])
            total += len(connections)
            signs.add(weight.line.sign)
    assert total > few(100, 50)
    assert signs == {1.0, -1.0}, "a c that changes its sign has every connection looked at"
