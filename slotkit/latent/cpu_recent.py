"""The options that a connection had before, kept for the connections that flipped last.

At a flip the K options of a connection are made anew, to choose among them and to find the two that come
next. But nine of ten flips go back to an option that the connection had before (benchmarks/returns.py): then
option, value and interval are known. They depend on the reel and the sign of c alone. Of every connection
that flips an entry keeps the last few, in a table of fixed size: it is a cache, another may take the place.

What is found here is what choosing among all K would find, to the last bit, so that a run that is resumed, or
has no table, is the same run. u has to be inside the kept interval by MARGIN (|u| + S / W), S and W being
bounds of the tensor. Two uniform options are equal or 2^-24 W or more apart, so the score of the kept one is
higher than any other by c * 2^-24 W * MARGIN (|u| + S / W) > 5e-14 (|A| W + c S), and in float64 no score is
wrong by more than a fiftieth of that. Where u is closer to an end, all K are asked. (Of equal options the one
with the higher initial score wins, by 2^-25 c S or more: more than rounding while |A| W < MOST c S. Which of
them a connection had from a time when that did not hold, nobody knows: it is not recorded.)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from slotkit.latent.cpu_plan import array_at, bare

MARGIN = 2.0**-20

# From here on c S and A W are far from where float64 ends.
LEAST_C = 1e-200

# |A| W is less than so many c S: rounding, 2^-50 (1 + MOST) c S, is then far from 2^-25 c S.
MOST = 1e6

# An entry, a line of a cache in float32: words of the latents' dtype or, marked *, integers of that size: the
# connection's number*, which entry of its pair was used last* (in the first of them), the option in use*, the
# record to be replaced next*, then records of an option*, its value, and its interval.
NUMBER, USED, CURRENT, NEXT, FIRST = 0, 1, 2, 3, 4
OPTION, VALUE, LOWER, UPPER, RECORD = 0, 1, 2, 3, 4
RECORDS = 3

ENTRY = FIRST + RECORDS * RECORD

# An option whose index nobody had at hand; its value is known.
UNKNOWN = -1


@bare
def find_entry(table: Any, pairs: Any, number: Any, infinity: Any) -> Any:
    """The address of a connection's entry in a table of pairs of entries, and whether it is there already; if
    not, the one to put it in: the one of its pair that was not used last. `infinity` has the integers' type.
    """
    size = ENTRY * array_at(table, infinity, 0).itemsize
    first = table + number % pairs * 2 * size
    one, two = array_at(first, infinity, ENTRY), array_at(first + size, infinity, ENTRY)
    if one[NUMBER] == number:
        one[USED] = 0
        return first, True
    if two[NUMBER] == number:
        one[USED] = 1
        return first + size, True
    one[USED] = 1 - one[USED]
    return first + one[USED] * size, False


@bare
def recall(entry: Any, u: Any, margin: Any, named: Any, zero: Any, infinity: Any) -> Any:
    """The record, a number of a word, whose interval has u in it by the margin, and whose option is known if
    it has to be `named`; 0 if there is none.
    """
    words, integers, found = array_at(entry, zero, ENTRY), array_at(entry, infinity, ENTRY), 0
    for record in range(RECORDS):
        at = FIRST + RECORD * record
        inside = u - words[at + LOWER] >= margin and words[at + UPPER] - u >= margin
        if inside and (integers[at + OPTION] != UNKNOWN or not named):
            found = at
    return found


@bare
def is_one_of(value: Any, w: Any, k: Any) -> Any:
    """Whether one of K options has this value, and not several."""
    count = np.int32(0)
    for j in range(k):
        count = np.int32(count + np.int32(w[j] == value))
    return count == 1


@bare
def forget(entry: Any, infinity: Any) -> None:
    array_at(entry, infinity, ENTRY)[NUMBER] = -1


@bare
def begin(entry: Any, number: Any, zero: Any, infinity: Any) -> None:
    """Make an entry for a connection: which option it has is not known, and no record has an interval yet."""
    words, integers = array_at(entry, zero, ENTRY), array_at(entry, infinity, ENTRY)
    integers[NUMBER], integers[CURRENT], integers[NEXT] = number, UNKNOWN, 0
    for record in range(RECORDS):
        words[FIRST + RECORD * record + LOWER], words[FIRST + RECORD * record + UPPER] = np.inf, -np.inf


@bare
def exchange(entry: Any, at: Any, option: Any, before: Any, infinity: Any) -> None:
    """The option becomes the one in use; the record is that of the one before, of this value and interval."""
    words, integers = array_at(entry, before[0], ENTRY), array_at(entry, infinity, ENTRY)
    integers[at + OPTION], integers[CURRENT] = integers[CURRENT], option
    words[at + VALUE], words[at + LOWER], words[at + UPPER] = before


@bare
def oldest(entry: Any, infinity: Any) -> Any:
    """The record to be replaced; the next time it is another."""
    integers = array_at(entry, infinity, ENTRY)
    record = integers[NEXT]
    integers[NEXT] = (record + 1) % RECORDS
    return FIRST + RECORD * record
