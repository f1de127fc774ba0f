"""Counts in sentences."""

from slotkit.errors import are, many


def test_a_count_and_its_noun() -> None:
    assert [many(n, "step") for n in (0, 1, 2, 1000)] == ["0 steps", "1 step", "2 steps", "1,000 steps"]


def test_the_verb_after_a_count() -> None:
    assert [are(n) for n in (0, 1, 2)] == ["are", "is", "are"]
