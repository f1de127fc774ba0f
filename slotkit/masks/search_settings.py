"""What a search of masks is asked for: defaults, under a recipe's table `search`, under flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from slotkit.errors import SlotkitError


@dataclass(frozen=True)
class SearchSettings:
    """The options of `slotkit masks search`, by their names there; docs/masks.md says what each is.

    Attributes:
        held_out: validation images that the acceptance `loss` looks at; None is 1000.
        batch_size: images of a batch of a draw; None is that of the training.
    """

    density: float = 0.01
    draws: int = 200
    batches: int = 2
    first_batches: int = 0
    sampler: str = "random"
    accept: str = "both"
    save_every: int = 10
    repair: bool = False
    until_converged: bool = False
    method: str = "snip"
    mode: str = "train"
    rules: str = "dst"
    held_out: int | None = None
    batch_size: int | None = None


def search_settings(recipe: str, told: Mapping[str, Any], flags: Mapping[str, Any]) -> SearchSettings:
    """The settings of a recipe's table `search` under those flags that are not None.

    Raises SlotkitError for a setting that there is none of, or of another type.
    """
    types = {field.name: type(field.default) for field in fields(SearchSettings)}
    types |= {"batch_size": int, "held_out": int}  # whose default is None
    for name, value in told.items():
        if name not in types:
            raise SlotkitError(
                f"Recipe {recipe}: a search has no setting {name!r}. It has {', '.join(types)}."
            )
        if type(value) is not types[name]:
            raise SlotkitError(f"Recipe {recipe}: search.{name} is {value!r}, and no {types[name].__name__}.")
    given = {name: value for name, value in flags.items() if value is not None}
    return SearchSettings(**{**told, **given})
