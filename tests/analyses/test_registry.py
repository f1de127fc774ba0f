"""Every analysis: what it declares is what its function takes."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest
from slotkit.analyses import flips, registry
from slotkit.analyses.common.analysis import Analysis, Setting, names

ANALYSES = {analysis.name: analysis for analysis in registry.find()}


def test_those_with_a_place_are_listed_first() -> None:
    assert list(ANALYSES)[:5] == ["flips", "thresholds", "weights", "ps-variance", "gap"]


@pytest.mark.parametrize("name", ANALYSES)
def test_settings_are_keywords_with_the_same_defaults(name: str) -> None:
    analysis = ANALYSES[name]
    taken = inspect.signature(analysis.attribute("analyze")).parameters
    for setting in analysis.settings if analysis.trains is None else ():
        default, own = setting.value(setting.default), taken[setting.name].default
        assert (list(own) if isinstance(default, list) else own) == default


@pytest.mark.parametrize("name", [name for name, one in ANALYSES.items() if one.trains])
def test_one_that_trains_can_find_start_and_train(name: str) -> None:
    engine = import_module(str(ANALYSES[name].trains))
    assert {"find", "start", "train"} <= vars(engine).keys()


def test_the_function_is_found_in_the_folder_and_nothing_else_is() -> None:
    assert flips.analyze is ANALYSES["flips"].attribute("analyze")
    with pytest.raises(AttributeError, match=r"^module 'slotkit.analyses.flips' has no attribute 'analyse'$"):
        _ = flips.analyse


def test_settings_as_they_are_typed() -> None:
    setting = Setting("set_", str, None, "", parse=names)
    assert (setting.flag, Setting("data_dir", str, None, "").flag) == ("--set", "--data-dir")
    assert setting.value(None) is None
    assert setting.value("start, best") == ["start", "best"]


def test_without_a_place_the_names_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("weights", "flips"):
        made = Analysis(folder.upper(), "", "")
        monkeypatch.setattr(f"slotkit.analyses.{folder}.ANALYSIS", made)
    assert [analysis.name for analysis in registry.find()][-2:] == ["FLIPS", "WEIGHTS"]
