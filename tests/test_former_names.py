"""The names that inits had before: the same inits, in Python and in whatever was written then."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from runs.test_resume import KilledError, killed_at, settings  # type: ignore[import-not-found]
from safetensors import safe_open
from slotfile.made import Case  # type: ignore[import-not-found]
from slotkit.analyses.common.comparison import group_labels
from slotkit.analyses.gap.plan import Plan, plan
from torch import nn

import slotkit
from slotkit.config import Overrides, resolve
from slotkit.errors import SlotkitError
from slotkit.inits import ALIASES, INITS, MIXED_INITS, find_init, init_name
from slotkit.recording import replay
from slotkit.reel import Reel, ReelSettings
from slotkit.runs import checkpoint
from slotkit.runs.folder import RunFolder
from slotkit.training.experiment import evaluate, resume, run

FORMER = {present: former for former, present in ALIASES.items()}


def with_former_names(told: Any) -> Any:
    """The same with every init under its former name."""
    if isinstance(told, dict):
        return {key: with_former_names(value) for key, value in told.items()}
    if isinstance(told, list | tuple):
        return [with_former_names(value) for value in told]
    return FORMER.get(told, told) if isinstance(told, str) else told


def make_old(folder: RunFolder) -> None:
    """Rewrite a run as it was written when inits had their former names."""
    for path in (folder.path / "config.toml", folder.path / "trace" / "about.json"):
        if path.exists():
            text = path.read_text()
            for present, former in FORMER.items():
                text = text.replace(f'"{present}"', f'"{former}"')
            path.write_text(text)
    checksums: dict[str, str] = {}
    # Those that others name come first.
    for path in sorted(folder.path.rglob("*.safetensors"), key=lambda path: "last" in path.name):
        if path.name == "split.safetensors":
            continue
        state, about, before = checkpoint.read(path)
        if about.get("best"):
            about["best"]["checksum"] = checksums[about["best"]["checksum"]]
        checksums[before] = checkpoint.save(path, with_former_names(state), **with_former_names(about))


def test_every_init_has_one_former_name() -> None:
    assert set(FORMER) == set(INITS | MIXED_INITS)
    assert not set(ALIASES) & set(INITS | MIXED_INITS)


@pytest.mark.parametrize("former", ALIASES)
def test_a_former_name_is_the_same_init(former: str) -> None:
    present = ALIASES[former]
    assert find_init(former) is find_init(present)
    assert init_name(former) == present
    assert ReelSettings(2, init=former) == ReelSettings(2, init=present)
    assert ReelSettings(2, init=former).to_dict()["init"] == present
    told = ReelSettings(2, init=present).to_dict()
    assert ReelSettings.from_dict(told | {"init": former}) == ReelSettings.from_dict(told)
    one, two = (Reel("weight", (4, 3), 5, init=name) for name in (former, present))
    assert one == two
    assert repr(one) == repr(two)
    assert torch.equal(one.scores(), two.scores())
    assert resolve([Overrides("test", {"slots.init": former})]).config.slots.init == present


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.mark.parametrize("form", ["latent", "dense"])
@pytest.mark.parametrize("former", ["authors", "paper"])
def test_states_and_machines_of_both_names_fit(form: str, former: str) -> None:
    old = slotkit.slotify(network(), 4, form=form, init=former)
    new = slotkit.slotify(network(), 4, form=form, init=ALIASES[former])
    state = copy.deepcopy(old.state_dict())
    assert state["settings"]["init"] == ALIASES[former]
    new.load_state_dict(with_former_names(state))
    new.copy_scores(old)
    other = slotkit.slotify(
        network(), 4, form=form, init=next(name for name in INITS if name != ALIASES[former])
    )
    with pytest.raises(SlotkitError, match=f"init is '{ALIASES[former]}' there and"):
        other.load_state_dict(with_former_names(state))


def test_an_old_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    whole = run(settings(), tmp_path, "whole")
    with pytest.raises(KilledError):
        run(settings(), tmp_path, "old", killed_at(40))
    old = RunFolder(tmp_path / "old")
    make_old(old)
    assert 'init = "authors"' in (old.path / "config.toml").read_text()
    assert checkpoint.load(old.checkpoint("last"))[1]["settings"]["slots.init"] == "authors"
    resume(old, [])
    for name in ("best", "last"):
        one, two = (checkpoint.load(folder.checkpoint(name))[0] for folder in (whole, old))
        assert all(torch.equal(value, two["others"][key]) for key, value in one["others"].items())
    assert 'init = "glorot-uniform"' in (old.path / "config.toml").read_text()
    assert replay.settings_of(old)["init"] == "glorot-uniform"


@pytest.mark.parametrize("with_config", [True, False])
def test_an_old_run_is_read(with_config: bool, tmp_path: Path) -> None:
    new = run(settings(slots__init="glorot-deviation"), tmp_path, "new")
    old = run(settings(slots__init="glorot-deviation"), tmp_path, "old")
    make_old(old)
    assert json.loads((old.path / "trace" / "about.json").read_text())["reels"]["init"] == "paper"
    if with_config:
        assert evaluate(old, "best", "test")["greedy"] == evaluate(new, "best", "test")["greedy"]
    else:
        for folder in (old, new):
            (folder.path / "config.toml").unlink()
    weights = replay.replay(new, 20)
    assert all(torch.equal(value, weights[name]) for name, value in replay.replay(old, 20).items())
    assert len(set(group_labels([old, new]))) == 1


def test_another_init_in_config_toml_is_still_noticed(tmp_path: Path) -> None:
    old = run(settings(), tmp_path, "old")
    make_old(old)
    path = old.path / "config.toml"
    path.write_text(path.read_text().replace('init = "authors"', 'init = "paper"'))
    with pytest.raises(SlotkitError, match=r"slots\.init was 'glorot-uniform' and is 'glorot-deviation'"):
        evaluate(old, "best", "test")


def test_an_old_sweep_is_the_same_sweep() -> None:
    planned = plan(epochs=3)
    told = with_former_names(planned.as_dict())
    assert told != json.loads(json.dumps(planned.as_dict()))
    assert Plan.from_dict(told) == Plan.from_dict(json.loads(json.dumps(planned.as_dict())))


@pytest.mark.parametrize("former", ["authors", "paper"])
def test_slot_files_of_format_1_keep_the_former_names(former: str, tmp_path: Path) -> None:
    case = Case("lenet", (1, 2, 2), {}, {"k": 2, "init": ALIASES[former]})
    plain, _ = case.write(tmp_path / "file")
    with safe_open(tmp_path / "file", framework="pt") as file:
        assert json.loads(file.metadata()["slotkit"])["init"] == former
    loaded = slotkit.load(tmp_path / "file").state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in loaded.items())
