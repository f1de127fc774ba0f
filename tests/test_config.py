"""Settings: overrides, origins, and the sentences for what is refused."""

from __future__ import annotations

import pytest

from slotkit.config import Config, Overrides, flatten, parse_assignment, resolve, setting_paths
from slotkit.errors import SlotkitError


def test_later_overrides_win_and_every_value_knows_its_origin() -> None:
    resolved = resolve(
        [
            Overrides("recipe r", {"training.lr": 0.2, "slots.k": 4}),
            Overrides("--lr", {"training.lr": 0.5}),
        ]
    )
    told = {path: (value, origin) for path, value, origin in resolved.explain()}
    assert told["training.lr"] == (0.5, "--lr")
    assert told["slots.k"] == (4, "recipe r")
    assert told["training.momentum"] == (0.9, "default")
    assert set(told) == set(setting_paths())


def test_explained_settings_resolve_to_the_same_configuration() -> None:
    resolved = resolve(
        [Overrides("test", {"model.options.padding": "same", "data.mean": [0.5], "data.std": [1.0]})]
    )
    given = {path: value for path, value, _ in resolved.explain() if value is not None}
    assert resolve([Overrides("again", given)]).config == resolved.config


def test_network_options_pass_through_one_by_one() -> None:
    resolved = resolve(
        [Overrides("a", {"model.options.bias": True}), Overrides("b", {"model.options.padding": "same"})]
    )
    assert resolved.config.model.options == {"bias": True, "padding": "same"}


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("training.lr=0.2", "training.lr", 0.2),
        ("data.dataset=mnist", "data.dataset", "mnist"),
        ("training.restart_epochs=[25, 75]", "training.restart_epochs", [25, 75]),
        ("slots.symmetric=true", "slots.symmetric", True),
        ("data.dir=a=b", "data.dir", "a=b"),
        # As Python has them: "False" as a text would be true to a network that is built with it.
        ("model.options.skip=False", "model.options.skip", False),
        ("slots.symmetric= True", "slots.symmetric", True),
        ("data.dir=Falsely", "data.dir", "Falsely"),
    ],
)
def test_an_assignment_is_read_as_toml_or_as_text(text: str, path: str, value: object) -> None:
    given = parse_assignment(text)
    assert given.values == {path: value}
    assert given.origin == f"--set {path}"


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("slots.k", 0, "slots.k (from here) is 0, but it should be greater than or equal to 1."),
        ("training.lr", -1, "training.lr (from here) is -1, but it should be greater than 0."),
        ("training.lr", float("nan"), "training.lr (from here) is nan, but it should be a finite number."),
        (
            "recording.keep_epochs",
            [0],
            "recording.keep_epochs (from here) is 0, but it should be greater than or",
        ),
        ("slots.kk", 3, "slots.kk (from here) is not a setting. Near it: slots.k, "),
        ("training.seeds", 3, "training.seeds (from here) is not a setting. Near it: "),
        ("lr", 1, "lr (from here) is not a setting. Near it: training.lr"),
        ("slots.selection", "foo", "is 'foo', but it should be 'greedy' or 'probabilistic'."),
        ("training.milestones", [5, 2], "is [5, 2], but it should be epochs from 1 up in rising order."),
        ("seeds.reels", -1, "seeds.reels (from here) is -1, but it should be greater than or equal to 0."),
    ],
)
def test_a_bad_setting_is_one_sentence_with_its_origin(path: str, value: object, sentence: str) -> None:
    with pytest.raises(SlotkitError) as fault:
        resolve([Overrides("here", {path: value})])
    assert sentence in str(fault.value)


@pytest.mark.parametrize(
    ("text", "example"),
    [
        ("slots.where=fc1.weight", '["fc1.weight"]'),
        ("slots.where=[fc1.weight, fc2.*]", '["fc1.weight", "fc2.*"]'),  # a shell has eaten the quotes
        ("training.milestones=25", "[25]"),
        ("training.milestones=25, 75", "[25, 75]"),
        ("data.mean=0.5", "[0.5]"),
    ],
)
def test_one_value_instead_of_a_list_is_refused_with_the_list(text: str, example: str) -> None:
    path, _, value = text.partition("=")
    with pytest.raises(SlotkitError) as fault:
        resolve([parse_assignment(text)])
    shown = value if path == "data.mean" or value.isdigit() else repr(value)
    assert str(fault.value) == (
        f"{path} (from --set {path}) is {shown}, but it should be a list, such as '{example}'."
    )
    resolve([parse_assignment(f"{path}={example}")])


@pytest.mark.parametrize("text", ["training.lr", "=3", " = 3"])
def test_an_assignment_without_a_name_or_value_is_refused(text: str) -> None:
    with pytest.raises(SlotkitError, match=r"is not of the form a.b=value, such as training.lr=0.2"):
        parse_assignment(text)


@pytest.mark.parametrize(
    ("short", "plain"),
    [("GS", "greedy"), ("ps", "probabilistic"), ("greedy", "greedy"), ("Greedy", "greedy")],
)
def test_the_papers_short_names_of_selections_are_known(short: str, plain: str) -> None:
    assert resolve([Overrides("here", {"slots.selection": short})]).config.slots.selection == plain


def test_a_configuration_can_not_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().training.lr = 1.0  # type: ignore[misc]


def test_flatten_gives_dotted_paths() -> None:
    assert dict(flatten({"a": {"b": {"c": 1}}, "d": (1, 2)})) == {"a.b.c": 1, "d": (1, 2)}
