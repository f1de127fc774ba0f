"""From a FILE.toml or options to runs, each with a key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slotkit.config import Config, Overrides, full_path, resolve, short_name
from slotkit.errors import SlotkitError
from slotkit.sweeps.plan import Planned, cell_of, deciding, folder_name, key_of, plan, words
from slotkit.sweeps.spec import from_options, parse_axis, read


def planned(tmp_path: Path, text: str, **given: Any) -> list[Planned]:
    (tmp_path / "lenet.toml").write_text(text)
    return plan(read(tmp_path / "lenet.toml", **given))


def values(runs: list[Planned], *paths: str) -> list[tuple[Any, ...]]:
    told = [{path: value for path, value, _ in resolve(run.layers).explain()} for run in runs]
    return [tuple(one[path] for path in paths) for one in told]


def test_every_combination_once_a_seed(tmp_path: Path) -> None:
    runs = planned(
        tmp_path,
        """
        seeds = [5, 7]
        settings.training.epochs = 3
        grid.k = [2, 4]
        grid.selection = ["GS", "PS"]
        """,
    )
    assert values(runs, "slots.k", "slots.selection", "seeds.reels", "seeds.data", "seeds.training") == [
        (k, selection, seed, seed, seed)
        for seed in (5, 7)
        for k in (2, 4)
        for selection in ("greedy", "probabilistic")
    ]
    assert set(values(runs, "training.epochs")) == {(3,)}
    assert [words(run.varied, run.seed) for run in runs][:2] == [
        "k 2, selection greedy, seed 5",
        "k 2, selection probabilistic, seed 5",
    ]


def test_a_list_has_values_that_belong_together(tmp_path: Path) -> None:
    runs = planned(
        tmp_path,
        """
        grid.k = [2, 4]
        list = [{ lr = 0.1, momentum = 0.9 }, { lr = 1, training.momentum = 0 }]
        """,
    )
    assert values(runs, "training.lr", "training.momentum", "slots.k") == [
        (0.1, 0.9, 2),
        (0.1, 0.9, 4),
        (1.0, 0.0, 2),
        (1.0, 0.0, 4),
    ]
    assert [run.seed for run in runs] == [None] * 4


def test_blocks_have_recipes_and_settings_of_their_own(tmp_path: Path) -> None:
    runs = planned(
        tmp_path,
        """
        seeds = [0, 1]
        settings.epochs = 4

        [[runs]]
        recipe = "authors-lenet-greedy"
        grid.k = [8, 16]

        [[runs]]
        recipe = "authors-lenet-learned"
        seeds = [0]
        settings.lr = 0.5
        """,
    )
    assert values(runs, "method", "slots.k", "training.lr", "seeds.reels", "training.epochs") == [
        ("slot", 8, 0.1, 0, 4),
        ("slot", 16, 0.01, 0, 4),  # the recipe lowers the rate for its own K
        ("learned", 8, 0.5, 0, 4),
        ("slot", 8, 0.1, 1, 4),
        ("slot", 16, 0.01, 1, 4),
    ]
    assert [dict(run.varied) for run in runs[:3]] == [
        {"recipe": "authors-lenet-greedy", "k": 8},
        {"recipe": "authors-lenet-greedy", "k": 16},
        {"recipe": "authors-lenet-learned", "lr": 0.5},
    ]


def test_settings_that_decide_no_result_are_not_in_names(tmp_path: Path) -> None:
    runs = planned(
        tmp_path,
        """
        [[runs]]
        grid.k = [2, 4]
        settings.recording.keep_epochs = [5, 25, 75]
        settings.data.dir = "elsewhere"
        settings.lr = 0.5

        [[runs]]
        list = [{ k = 8, recording.keep_last = 3 }]
        """,
    )
    assert [dict(run.varied) for run in runs] == [{"lr": 0.5, "k": 2}, {"lr": 0.5, "k": 4}, {"k": 8}]
    assert folder_name(runs[0], "3fa9c1aaaaaaaaaa") == "lr0.5-k2-3fa9c1"
    assert values(runs, "recording.keep_epochs", "recording.keep_last") == [
        ((5, 25, 75), 2),
        ((5, 25, 75), 2),
        ((), 3),
    ]


def test_a_recipe_can_be_an_axis() -> None:
    runs = plan(from_options(["recipe=authors-lenet-greedy,authors-lenet-probabilistic", "k=2,64"]))
    assert values(runs, "slots.selection", "slots.k", "training.lr") == [
        ("greedy", 2, 0.1),
        ("greedy", 64, 0.01),
        ("probabilistic", 2, 50.0),
        ("probabilistic", 64, 50.0),
    ]
    assert dict(runs[0].varied) == {"recipe": "authors-lenet-greedy", "k": 2}


def test_options_make_the_same_runs_as_a_file(tmp_path: Path) -> None:
    file = planned(tmp_path, 'recipe = "authors-lenet-greedy"\nseeds = [1]\ngrid.k = [2, 4]', upper=())
    spec = from_options(["k=2,4"], "authors-lenet-greedy", [1])
    assert [key_of(run.settings()) for run in plan(spec)] == [key_of(run.settings()) for run in file]
    assert spec.name == "sweep-authors-lenet-greedy-k"
    assert from_options([], None, [1]).name == "sweep-seeds"


def test_settings_of_the_command_are_over_those_of_the_file(tmp_path: Path) -> None:
    upper = [Overrides("--epochs", {"training.epochs": 1})]
    runs = planned(tmp_path, "settings.epochs = 4\nseeds = [0]\ngrid.k = [2]", seeds=[3, 4], upper=upper)
    assert values(runs, "training.epochs", "seeds.reels") == [(1, 3), (1, 4)]


def test_equal_runs_are_trained_once(tmp_path: Path) -> None:
    runs = planned(tmp_path, "[[runs]]\ngrid.k = [2, 8]\n[[runs]]\ngrid.lr = [0.1, 0.2]")
    assert values(runs, "slots.k", "training.lr") == [(2, 0.1), (8, 0.1), (8, 0.2)]


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("k=2,4,8", ("slots.k", [2, 4, 8])),
        ("selection=GS,PS", ("slots.selection", ["GS", "PS"])),
        ("training.lr=0.1,1e-3", ("training.lr", [0.1, 0.001])),
        ("model=lenet,timm/resnet18", ("model.name", ["lenet", "timm/resnet18"])),
        ("symmetric=true,false", ("slots.symmetric", [True, False])),
        ("restart_epochs=[25,75],[25]", ("training.restart_epochs", [[25, 75], [25]])),
        ("model.options.bias=true", ("model.options.bias", [True])),
    ],
)
def test_values_of_an_axis_are_read_as_toml_or_text(text: str, axis: tuple[str, list[Any]]) -> None:
    assert parse_axis(text) == axis


def test_a_name_that_is_the_end_of_two_paths_is_none() -> None:
    assert full_path("init") == "slots.init"
    for name in ("data", "training", "slots", "nothing", "seeds.data"):
        assert full_path(name) == name
    assert [short_name(path) for path in ("slots.k", "model.name", "method", "seeds.data")] == [
        "k",
        "model",
        "method",
        "seeds.data",
    ]


def test_a_key_depends_on_what_decides_a_run_and_on_nothing_else(tmp_path: Path) -> None:
    def key(**values: Any) -> str:
        layers = [Overrides("test", {path.replace("__", "."): value for path, value in values.items()})]
        return key_of(deciding(resolve(layers).config))

    assert key() == key(slots__k=8) == key(data__dir="elsewhere") == key(recording__keep_epochs=[3])
    assert (
        len({key(), key(slots__k=4), key(seeds__data=1), key(training__epochs=3), key(method="learned")}) == 5
    )
    assert key(slots__selection="PS") == key(slots__selection="probabilistic")
    assert deciding(Config()) == {}
    # A run's folder has the whole path, and a sweep is told of the same run by a short one.
    assert key(mask="x") == key(mask=str(Path("x").resolve())) != key(mask="y")
    cells = [cell_of(deciding(Config(seeds={"reels": seed}))) for seed in (1, 2)]  # type: ignore[arg-type]
    assert cells[0] == cells[1] == cell_of({})


def test_a_folder_is_named_after_what_is_varied() -> None:
    run = Planned((), {"k": 2, "selection": "greedy", "lr": 0.1, "symmetric": True, "milestones": [1, 2]}, 0)
    assert folder_name(run, "3fa9c1aaaaaaaaaa") == "k2-greedy-lr0.1-symmetric-milestones1+2-s0-3fa9c1"
    assert folder_name(Planned(()), "3fa9c1aaaaaaaaaa") == "3fa9c1"
    odd = Planned((), {"dataset": "parquet:/home/me/ä b", "model": "timm/resnet18", "symmetric": False})
    assert folder_name(odd, "3fa9c1aaaaaaaaaa") == "b-resnet18-no-symmetric-3fa9c1"
    long = Planned((), {"recipe": "r" * 300})
    assert len(folder_name(long, "3fa9c1aaaaaaaaaa")) == 87


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("grid.k = 4", r"lenet.toml can't be read: grid.k is 4, and a grid has lists, such as \[4\]. docs/"),
        ("grid.k = []", "lenet.toml has no value for slots.k"),
        ("grid.k = [2, 2]", r"lenet.toml has a value twice for slots.k: \[2, 2\]. Give each once"),
        ("seeds = [1, 1]", "lenet.toml has a seed twice: the runs would be equal."),
        ("grid.k = [2]\nlist = [{ k = 4 }]", "slots.k is varied by lenet.toml and set by list too. Leave"),
        ("grid.k = [2]\nsettings.k = 4", "slots.k is varied by lenet.toml and set by lenet.toml too."),
        (
            "seeds = [1, 2]\nsettings.seeds.data = 7",
            "seeds.data is varied by the seeds of repetitions and set by lenet.toml too. Leave it out of one",
        ),
        ("grid.seeds.data = [2]", r"seeds.data is no axis: the seeds of repetitions are `seeds`"),
        (
            "grid.keep_epochs = [[1], [2]]",
            "recording.keep_epochs is no axis: it changes no result, so that the runs would be equal. Set it "
            r"in `settings` \(--set\).",
        ),
        ("grid.k = [2]\n[[runs]]", r"has both \[\[runs\]\] and a grid or list beside them"),
        ("grids.k = [2]", "lenet.toml can't be read: grids is {'k': .2.}: extra inputs are not permitted"),
        ("k = [", "lenet.toml can't be read: "),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(SlotkitError, match=sentence):
        planned(tmp_path, text)


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [
        (["k"], "--grid k is not of the form a=v,w, such as k=2,4,8."),
        (["k="], "--grid k= is not of the form"),
        (["k=2", "slots.k=4"], "--grid has slots.k twice. Give all its values at once, as in slots.k=2,4,8."),
    ],
)
def test_what_is_wrong_with_options_too(grid: list[str], sentence: str) -> None:
    with pytest.raises(SlotkitError, match=sentence):
        from_options(grid)


def test_a_setting_that_is_none_is_told_with_where_it_stands(tmp_path: Path) -> None:
    with pytest.raises(SlotkitError, match=r"kk \(from the sweep\) is not a setting"):
        planned(tmp_path, "grid.kk = [2]")
    with pytest.raises(
        SlotkitError, match=r"slots.kk \(from lenet.toml\) is not a setting. Near it: slots.k"
    ):
        planned(tmp_path, "settings.slots.kk = 2\nseeds = [1]")
    with pytest.raises(SlotkitError, match=r"slots.k \(from the sweep\) is 0, but it should be greater"):
        planned(tmp_path, "grid.k = [0]")
    with pytest.raises(SlotkitError, match=r"There is no file .*lenet\.toml\. Give a FILE\.toml, or --grid"):
        read(tmp_path / "no" / "lenet.toml")
