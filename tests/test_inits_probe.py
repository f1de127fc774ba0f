"""Inits that break exactness are refused when they are given, each with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from slotkit.errors import SlotkitError
from slotkit.inits import NAMED_INITS, Fans
from slotkit.inits_probe import check_init
from slotkit.making import randomize, slotify
from slotkit.reel import Reel, ReelSettings

Values = Callable[[Tensor], Any]
FANS = Fans.of((4, 3))


class Init:
    """Options and scores by functions."""

    def __init__(self, options: Values = lambda u: u, scores: Values = lambda u: u) -> None:
        self._options, self._scores = options, scores

    def options(self, uniform: Tensor, fans: Fans) -> Any:
        return self._options(uniform)

    def scores(self, uniform: Tensor, fans: Fans) -> Any:
        return self._scores(uniform)


def counting() -> Values:
    calls: list[int] = []

    def values(u: Tensor) -> Tensor:
        calls.append(1)
        return u * len(calls)

    return values


KIND = "Return a float32 tensor with one value for each uniform number, in the same shape."
EXACT = (
    "A value may depend on its own uniform number and the fans only, to the last bit, because options are "
    "recomputed a few at a time."
)
OWN = (
    f"come out otherwise the second time. {EXACT} Draw no numbers in it, and keep nothing from call to call."
)
CONSTANTS = (
    f"{EXACT} Take constants instead of sums, norms, places or sizes of the tensor, and functions that round "
    "one number as they round many: products, sums and roots do, torch.pow and torch.sigmoid do not."
)
FINITE = "Return finite values for all numbers between the ends: -1 and 1 for options, 0 and 1 for scores."

# What is wrong -> the function, and what is said of its values: the beginning and the end.
BAD: dict[str, tuple[Values, str, str]] = {
    "no-tensor": (lambda u: u.numpy(), "are of type ndarray. ", KIND),
    "float64": (lambda u: u.double(), "are torch.float64. ", KIND),
    "bfloat16": (lambda u: u.bfloat16(), "are torch.bfloat16. ", KIND),
    "integers": (lambda u: u.long(), "are torch.int64. ", KIND),
    "flat": (lambda u: u.flatten(), "have shape (40,) for uniform numbers of shape (8, 5). ", KIND),
    "one-a-row": (lambda u: u.mean(-1, True), "have shape (8, 1) for uniform numbers of shape ", KIND),
    "one-for-all": (lambda u: torch.tensor(0.5), "have shape () for uniform numbers of shape (8, 5). ", KIND),
    "fewer-dimensions": (
        lambda u: u.clone().unsqueeze(-1) if u.dim() == 1 else u,
        "have shape (40, 1) for uniform numbers of shape (40,). ",
        KIND,
    ),
    "infinite": (lambda u: 1 / (u > 0.5), "are inf for the uniform number ", FINITE),
    "not-a-number": (lambda u: (0.5 - u).sqrt(), "are nan for the uniform number 0.", FINITE),
    "infinite-at-the-end": (
        lambda u: 1 / (1 - u.abs() - 2**-24),
        "are inf for the uniform number ",
        FINITE,
    ),
    "own-draws": (torch.rand_like, OWN, ""),
    "numpys-draws": (lambda u: u * float(np.random.default_rng().random()), OWN, ""),
    "calls-counted": (counting(), OWN, ""),
    "norm-of-k": (
        lambda u: u / u.norm(dim=-1, keepdim=True),
        "come out otherwise in another shape: ",
        CONSTANTS,
    ),
    "norm-of-k-by-dimension": (
        lambda u: u / u.sum(1, keepdim=True),
        "raise IndexError for uniform numbers of shape (40,) (Dimension out of range",
        f"They get tensors of any shape. {KIND}",
    ),
    "mean-of-all": (lambda u: u - u.mean(), "come out otherwise one by one: ", CONSTANTS),
    "largest-of-all": (lambda u: u / u.max(), "come out otherwise one by one: ", CONSTANTS),
    "ranks": (
        lambda u: u.flatten().argsort().argsort().float().reshape(u.shape),
        "come out otherwise one by one: ",
        CONSTANTS,
    ),
    "number-of-numbers": (lambda u: u / u.numel(), "come out otherwise one by one: ", CONSTANTS),
    "number-of-rows": (lambda u: u / len(u), "come out otherwise in another shape: ", CONSTANTS),
    "many-rows": (
        lambda u: u / 2 if u.dim() == 2 and len(u) < 8 else u,
        "come out otherwise with fewer rows: ",
        CONSTANTS,
    ),
    "neighbours": (
        lambda u: u + (u.roll(1) > u) if u.numel() == 3 else u,
        "come out otherwise with other numbers beside them: ",
        CONSTANTS,
    ),
    "places": (
        lambda u: u + torch.arange(8.0).unsqueeze(-1) if u.shape == (8, 5) else u,
        "come out otherwise in another shape: ",
        CONSTANTS,
    ),
    "first-number": (
        lambda u: u * (1 + (u[0, 0] == u.min())) if u.shape == (8, 5) else u * 2,
        "come out otherwise in another order: ",
        CONSTANTS,
    ),
}


@pytest.mark.parametrize("what", ["options", "scores"])
@pytest.mark.parametrize("fault", BAD)
def test_each_fault_is_refused_with_a_sentence(fault: str, what: str) -> None:
    values, start, end = BAD[fault]
    with pytest.raises(SlotkitError) as caught:
        Reel("weight", (4, 3), 4, init=Init(**{what: values}))
    told = str(caught.value)
    assert told.startswith(f"The init Init can't be used: its {what} {start}")
    assert told.endswith(end)


def test_the_sentence_shows_a_number_and_what_became_of_it() -> None:
    with pytest.raises(SlotkitError) as caught:
        check_init(Init(scores=lambda u: u * u.numel()), FANS)
    assert str(caught.value) == (
        "The init Init can't be used: its scores come out otherwise one by one: 5.96046448e-08 instead of "
        f"2.38418579e-06 for the uniform number 5.96046448e-08. {CONSTANTS}"
    )


def test_what_an_init_raises_is_the_cause() -> None:
    fault = ZeroDivisionError("by nothing")

    def values(u: Tensor) -> Tensor:
        raise fault

    with pytest.raises(
        SlotkitError, match=r"its options raise ZeroDivisionError .* \(by nothing\)"
    ) as caught:
        check_init(Init(values), FANS)
    assert caught.value.__cause__ is fault


@pytest.mark.parametrize(
    "values",
    [
        lambda u: u.mul_(0.3),
        lambda u: u.erfinv() * 0.1,
        lambda u: (u * 3).round(),
        lambda u: torch.where(u > 0.5, 1.0, -1.0),
        torch.zeros_like,
        lambda u: u.abs().sqrt() * u.sign(),
    ],
    ids=["in-place", "normal", "few-values", "signs", "constant", "roots"],
)
def test_good_inits_pass(values: Values) -> None:
    check_init(Init(values, values), FANS)
    check_init(Init(values, values), Fans.of((4, 3, 2, 2)))


@pytest.mark.parametrize("name", NAMED_INITS)
def test_inits_with_names_pass(name: str) -> None:
    """They aren't tried when a reel is made."""
    for shape in [(4, 3), (300, 784), (64, 3, 3, 3)]:
        check_init(NAMED_INITS[name], Fans.of(shape))


@pytest.mark.parametrize("values", [torch.rand_like, lambda u: u], ids=["draws", "draws-nothing"])
def test_the_global_generator_is_left_as_it_was(values: Values) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    try:
        check_init(Init(values), FANS)
    except SlotkitError:
        assert values is torch.rand_like
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("maker", [slotify, randomize])
def test_a_refused_init_leaves_the_model_as_it_was(maker: Callable[..., Any]) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(SlotkitError, match=r"^The init Init can't be used: its scores are torch\.float64"):
        maker(model, k=2, init=Init(scores=lambda u: u.double()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_init_is_tried_with_the_fans_of_its_tensor() -> None:
    class Narrow(Init):
        def options(self, uniform: Tensor, fans: Fans) -> Any:
            return uniform if fans.fan_in < 5 else uniform.double()

    settings = ReelSettings(2, init=Narrow())
    settings.reel("narrow", (3, 4))
    with pytest.raises(SlotkitError, match=r"its options are torch\.float64"):
        settings.reel("wide", (3, 5))
