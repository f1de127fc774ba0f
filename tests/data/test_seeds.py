from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from slotkit.data.seeds import generator, subseed


def test_a_subseed_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert subseed("order", 0, 0) == 8_607_016_016_969_462_073


@given(st.lists(st.tuples(st.sampled_from(["order", "augment"]), st.integers(), st.integers()), unique=True))
def test_different_places_give_different_subseeds(places: list[tuple[str, int, int]]) -> None:
    assert len({subseed(*place) for place in places}) == len(places)
    assert all(0 <= subseed(*place) < 2**64 for place in places)


def test_numbers_count_by_value_not_by_type() -> None:
    assert subseed("order", np.int64(3)) == subseed("order", 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        subseed("order", 3.0)  # type: ignore[arg-type]


def test_a_generator_is_on_the_cpu_and_starts_afresh() -> None:
    first, second = generator("order", 1), generator("order", 1)
    torch.rand(5, generator=first)
    assert first.device.type == "cpu"
    assert torch.equal(torch.rand(5, generator=second), torch.rand(5, generator=generator("order", 1)))
