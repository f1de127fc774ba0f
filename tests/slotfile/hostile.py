"""Two thousand bad files, the same for the same seed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

from slotfile.made import Parts

NASTY: list[Any] = [
    None,
    True,
    -1,
    0,
    2,
    10**12,
    2**63,
    10**400,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "nan",
    "../../etc/passwd",
    "/dev/zero",
    "hf_hub:timm/resnet18",
    "timm/local-dir:/tmp",
    "timm/vit_giant_patch14_dinov2",
    "https://example.org/x.safetensors",
    "\ud800",
    "x" * 5000,
    [],
    {},
    [[[[[[]]]]]],
    [10**6] * 3,
    [-5, 2],
    {"checkpoint_path": "/etc/passwd"},
    {"pretrained_cfg": {"url": "https://example.org"}},
]
KEYS = ["k", "seed", "options", "counts", "pickle", "__class__", "checkpoint_path", "format"]
DEEP = "[" * 100_000


def bad_files(whole: bytes, number: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(what was done, the file). "damaged" files were changed by accident; the others were signed again."""
    chance = random.Random(seed)
    for _ in range(number):
        how = chance.choice(
            [_flipped, _cut, _spliced, _odd_header, _metadata, _metadata, _metadata, _payload, _text]
        )
        yield how.__name__[1:], how(whole, chance)


def _flipped(whole: bytes, chance: random.Random) -> bytes:
    changed = bytearray(whole)
    changed[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(whole: bytes, chance: random.Random) -> bytes:
    return whole[: chance.randrange(len(whole))]


def _spliced(whole: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(len(whole))
    new = chance.randbytes(chance.randrange(1, 40))
    return whole[:start] + new + whole[start + chance.randrange(40) :]


def _odd_header(whole: bytes, chance: random.Random) -> bytes:
    length = chance.choice([0, 1, 2**63, 2**64 - 1, len(whole), len(whole) - 8, 100_000_001, 1 << 20])
    return length.to_bytes(8, "little") + whole[8:]


def _metadata(whole: bytes, chance: random.Random) -> bytes:
    parts = Parts.of(whole)
    places = list(_places(parts.about))
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        holder, key = chance.choice(places)
        try:
            _change(holder, key, chance)
        except (KeyError, IndexError):
            continue  # an earlier change took it away
    return parts.whole(json.dumps(parts.about))


def _change(holder: Any, key: Any, chance: random.Random) -> None:
    how = chance.randrange(4)
    if how == 0:
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder[chance.choice(KEYS)] = copy.deepcopy(chance.choice(NASTY))
    elif how == 2 and isinstance(holder, list):
        holder.extend([copy.deepcopy(holder[key])] * chance.choice([1, 50]))
    else:
        holder[key] = copy.deepcopy(chance.choice(NASTY))


def _payload(whole: bytes, chance: random.Random) -> bytes:
    parts = Parts.of(whole)
    name = chance.choice(list(parts.data))
    dtype, shape, data = parts.data[name]
    new = chance.randbytes(chance.choice([0, 4, 8, len(data), len(data), len(data) + 4, 4 * len(data)]))
    parts.data[name] = (dtype, [len(new)], new) if dtype == "U8" else (dtype, shape, data[::-1])
    return parts.sign().whole()


def _text(whole: bytes, chance: random.Random) -> bytes:
    text = json.dumps(Parts.of(whole).about)
    start = chance.randrange(len(text))
    new = chance.choice([DEEP, "\0", "NaN", "{}", '"', "1e999", '{"a":' * 5000, chance.choice(text)])
    return Parts.of(whole).whole(text[:start] + new + text[start + chance.randrange(3) :])


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    pairs = list(tree.items() if isinstance(tree, dict) else enumerate(tree))
    for key, value in pairs:
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)
