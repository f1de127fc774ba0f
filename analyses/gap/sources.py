"""The sources' settings, and the two-level factors by which they differ.

The low level of a factor is the reproduction's setting, the high one that of the reference or, where those
two agree, of another source. Settings that only make sense together are one factor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slotkit import recipes
from slotkit.config import Overrides, resolve
from slotkit.inits import plain_init
from slotkit.models import NETWORKS

Settings = dict[str, Any]

# slots.init says where options and where scores begin; they are two factors.
OPTIONS, SCORES = "option bound", "score bound"
UNIFORM, DEVIATION = "glorot-uniform", "glorot-deviation"
HALVES = {
    UNIFORM: (UNIFORM, UNIFORM),
    DEVIATION: (DEVIATION, DEVIATION),
    "deviation-options-uniform-scores": (DEVIATION, UNIFORM),
    "uniform-options-deviation-scores": (UNIFORM, DEVIATION),
}

PIXELS = "pixel range"

# The settings of each factor of training and what they are called; those without a name go with the first.
TRAINING: tuple[dict[str, str], ...] = (
    {"slots.update": "update rule"},
    {"training.momentum": "momentum", "training.lr": "learning rate"},
    {"training.weight_decay": "L2 penalty"},
    {"training.schedule": "schedule", "training.restart_epochs": "", "training.milestones": ""},
    {OPTIONS: OPTIONS},
    {SCORES: SCORES},
    {"model.options.bias": "biases", "slots.others": ""},
    {"model.options.padding": "padding"},
    {"model.options.dropout_at": "place of dropout"},
    {"data.augment": "augmentation"},
    {"data.mean": PIXELS, "data.std": ""},
)

# These change how a trained network is read: both levels are read from the same checkpoint.
DROPOUT, SAMPLING = "evaluation.keep_dropout", "evaluation.ps"
READING: tuple[dict[str, str], ...] = ({DROPOUT: "dropout in evaluation"}, {SAMPLING: "PS evaluation"})

# What a factor needs of the network, beyond the option itself.
NEEDS = {DROPOUT: "dropout", "slots.others": "bias"}

BOUNDS = {UNIFORM: "√(6/(in+out))", DEVIATION: "√(2/(in+out))"}
WORDS: dict[tuple[str, Any], str] = {
    **{(OPTIONS, init): bound for init, bound in BOUNDS.items()},
    (SCORES, UNIFORM): BOUNDS[UNIFORM],
    (SCORES, DEVIATION): f"{BOUNDS[DEVIATION]}, dense 0.1 of it",
    ("model.options.bias", True): "PyTorch's, untrained",
    ("model.options.bias", False): "none",
    (DROPOUT, True): "on",
    (DROPOUT, False): "off",
}


@dataclass(frozen=True)
class Factor:
    """Two levels of some settings, with words for them.

    Attributes:
        source: whose the high level is.
        between: whether reference and reproduction differ in it.
    """

    name: str
    low: Settings
    high: Settings
    low_words: str
    high_words: str
    source: str
    between: bool


def source_settings(name: str, k: int, top: Sequence[Overrides]) -> Settings:
    """Every setting of a recipe under `top`, by dotted path; slots.init as its two halves."""
    return _settings([*recipes.load(name, "train").overrides(k), *top])


def lent_settings(name: str, k: int, top: Sequence[Overrides], model: str, channels: int) -> Settings:
    """The settings of a recipe for another network, as far as `model` has them, for images of `channels`."""
    known = _network_options(model)
    layers = [
        Overrides(
            layer.origin,
            {
                path: value
                for path, value in layer.values.items()
                if not path.startswith("model.options.") or path.rpartition(".")[2] in known
            },
        )
        for layer in recipes.load(name, "train").overrides(k)
    ]
    settings = _settings([*layers, *top])
    for path in ("data.mean", "data.std"):
        if channels and len(set(settings.get(path, ()))) == 1:
            settings[path] = settings[path][:1] * channels
    return settings


def renamed(settings: Mapping[str, Any]) -> Settings:
    """The same with the present names of inits: a plan of before has others."""
    return {
        path: plain_init(value) if path in (OPTIONS, SCORES) else value for path, value in settings.items()
    }


def join_init(settings: Settings) -> Settings:
    """slots.init from its two halves."""
    halves = settings[OPTIONS], settings[SCORES]
    rest = {path: value for path, value in settings.items() if path not in (OPTIONS, SCORES)}
    return rest | {"slots.init": next(name for name, both in HALVES.items() if both == halves)}


def factors_between(
    catalogue: Sequence[Mapping[str, str]], sources: Mapping[str, Settings], far: Settings
) -> list[Factor]:
    """The factors of a catalogue in which a source differs from the reproduction `far`.

    `sources` begins with the reference; the first source that differs has the high level.
    """
    found = []
    for names in catalogue:
        if any(not _has(far, NEEDS.get(path, "")) for path in names):
            continue
        for index, (source, near) in enumerate(sources.items()):
            if any(near.get(path) != far.get(path) for path in names):
                found.append(_factor(names, source, near, far, between=index == 0))
                break
    return found


def _factor(names: Mapping[str, str], source: str, near: Settings, far: Settings, between: bool) -> Factor:
    named = [path for path in names if names[path] and near.get(path) != far.get(path)]
    named = named or list(names)[:1]
    low, high = ({path: one[path] for path in names if path in one} for one in (far, near))

    def words(level: Settings) -> str:
        return " and ".join(_word(path, level) for path in named)

    return Factor(
        " and ".join(names[path] for path in named), low, high, words(low), words(high), source, between
    )


def _word(path: str, level: Settings) -> str:
    value = level.get(path)
    if path == "data.mean":
        if value is None or "data.std" not in level:
            return "the dataset's"
        if len(set(value)) > 1 or len(set(level["data.std"])) > 1:
            return "standardized"
        return " to ".join(f"{(pixel - value[0]) / level['data.std'][0]:g}" for pixel in (0, 1))
    return WORDS.get((path, value), f"{value:g}" if isinstance(value, float) else str(value))


def _settings(layers: Sequence[Overrides]) -> Settings:
    resolved = resolve(layers)
    settings = {path: value for path, value, _ in resolved.explain() if value not in (None, {})}
    options = _network_options(resolved.config.model.name) | resolved.config.model.options
    settings |= {f"model.options.{name}": value for name, value in options.items()}
    settings[OPTIONS], settings[SCORES] = HALVES[settings.pop("slots.init")]
    return settings


def _network_options(model: str) -> dict[str, Any]:
    """Options of a network and their defaults; those of timm's are unknown."""
    return dict(NETWORKS[model].options) if model in NETWORKS else {}


def _has(settings: Settings, option: str) -> bool:
    return not option or f"model.options.{option}" in settings
