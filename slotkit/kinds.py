"""Kinds of options: how the K options of an owner come from uniform numbers.

To make option j, the kind names one uniform number of the owner, the init maps that number to a value, and
the kind makes the option of the value, as a function of j and the fans. So any option is made without the
others. A kind is added here alone: engines know a kind by the numbers of a `ReelSpec`, or get
tables of its options. docs/reel-spec-1.md lists the kinds and the spec versions in which they appeared.
"""

from __future__ import annotations

from torch import Tensor, where

from slotkit.errors import SlotkitError
from slotkit.inits import Fans


class Kind:
    """Option j is the value of uniform number j; other kinds override what differs.

    Tensors of option numbers are int64 and broadcast with the values. K isn't among the arguments: the
    options of a smaller K are the first of a larger one.

    Attributes:
        name: in settings and states.
        spec: the reel spec in which it appeared.
        words: for people.
        symmetric: as in a `ReelSpec` that says this kind in numbers, None if none does: engines get tables.
    """

    name = "independent"
    spec = 1
    words = "plain"
    symmetric: bool | None = False

    def refusal(self, k: int) -> str | None:
        """Why there can't be K options of this kind, as a sentence; None if there can."""
        return None

    def uniforms(self, k: int) -> int:
        """How many uniform numbers an owner's K options come from."""
        return k

    def source(self, option: Tensor) -> Tensor:
        """Which of them each option comes from: 0 .. uniforms(K) - 1."""
        return option

    def value(self, value: Tensor, option: Tensor, fans: Fans) -> Tensor:
        """The options, float32, from what the init made of their uniform numbers."""
        return value

    def score(self, score: Tensor, option: Tensor, fans: Fans) -> Tensor:
        """Their initial scores, float32, from what the init made of uniform numbers of their own."""
        return score

    def key_name(self, name: str) -> str:
        """The name in the options' key. Tensors with the same name here share their uniform numbers."""
        return name


class Pairs(Kind):
    """+v, -v: options 2 i and 2 i + 1 come from uniform number i."""

    name = "pairs"
    words = "in pairs +v -v"
    symmetric = True

    def refusal(self, k: int) -> str | None:
        """An odd K is refused."""
        if k % 2:
            return f"k is {k}, but symmetric options come in pairs +v, -v. Choose an even k."
        return None

    def uniforms(self, k: int) -> int:
        """K / 2."""
        return k // 2

    def source(self, option: Tensor) -> Tensor:
        """Options 2 i and 2 i + 1 have number i."""
        return option // 2

    def value(self, value: Tensor, option: Tensor, fans: Fans) -> Tensor:
        """Odd options are negated."""
        return where(option % 2 == 1, -value, value)


class Mask(Kind):
    """{0, w, ...}: option 0 is 0, option j + 1 is the value of uniform number j. See docs/reel-spec-3.md."""

    name = "mask"
    spec = 3
    words = "with a zero"
    symmetric = None

    def refusal(self, k: int) -> str | None:
        return None if k > 1 else "k is 1, and option 0 of the kind mask is 0. Choose k from 2 up."

    def uniforms(self, k: int) -> int:
        return k - 1

    def source(self, option: Tensor) -> Tensor:
        return (option - 1).clamp(min=0)

    def value(self, value: Tensor, option: Tensor, fans: Fans) -> Tensor:
        return where(option == 0, 0.0, value)


KINDS: dict[str, Kind] = {kind.name: kind for kind in (Kind(), Pairs(), Mask())}


def find_kind(name: str | None, symmetric: bool) -> Kind:
    """The kind of that name; without one "pairs" if symmetric, else "independent".

    Raises SlotkitError for an unknown name, or for one that says what `symmetric` says.
    """
    if name is None:
        return KINDS["pairs" if symmetric else "independent"]
    others = [known for known, kind in KINDS.items() if kind.symmetric is None]
    if name not in others or symmetric:
        raise SlotkitError(
            f"The kind of options is {name!r} and symmetric is {symmetric}. Choose a kind of "
            f"{', '.join(others)}, with symmetric=False; "
            "or no kind, and symmetric=True for pairs +v, -v or symmetric=False for independent options."
        )
    return KINDS[name]
