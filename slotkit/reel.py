"""Reels: the K options and K initial scores of every connection of a weight tensor.

A reel is a pure function of (seed, tensor name, connection, option). Nothing comes from a
generator with a history, so one connection can be recomputed alone, on any device, and gives the
same bits. The mapping from those four to bits is "reel spec 1", written down in docs/reel-spec-1.md
and pinned by golden vectors in the tests. It never changes; docs/reel-spec-2.md adds a sharing to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from slotkit.errors import SlotkitError
from slotkit.inits import (
    INITS,
    MIXED_INITS,
    NAMED_INITS,
    Fans,
    Init,
    UniformInit,
    find_init,
    init_name,
    plain_init,
)
from slotkit.inits_probe import check_init
from slotkit.kinds import Kind, find_kind
from slotkit.philox import WORD, key_of, philox, symmetric_uniform, unit_uniform

__all__ = [
    "INITS",
    "MIXED_INITS",
    "Fans",
    "Init",
    "Reel",
    "ReelSettings",
    "ReelSpec",
    "UniformInit",
    "find_init",
    "init_name",
]

# The number in the key, which is the same for all specs of today, and the latest spec.
REEL_SPEC, LATEST_SPEC = 1, 3

# The fourth counter word says what the bits are for.
OPTIONS, SCORES, TRAINING_DRAWS, EVALUATION_DRAWS, INITIAL_PICK = range(5)

# Which connections have the same K options, and the spec in which each sharing appeared.
SHARINGS = {"none": 1, "layer": 1, "channel": 1, "network": 2}

# No tensor has this name: in the key of options that all tensors share.
NETWORK = ""

# Connections that are handled at once: their int64 words stay in a core's cache.
CHUNK = 1 << 14

# Options that are made at once, connections times K, when a whole tensor is read: bounds the memory.
ROWS = 1 << 20


@dataclass(frozen=True)
class ReelSettings:
    """What the reels of a machine have in common; with a tensor's name and shape it makes its reel.

    Args: see `Reel`.

    Raises SlotkitError for settings that no reel can have.
    """

    k: int
    seed: int = 0
    init: str | Init = "glorot-uniform"
    sharing: str = "none"
    symmetric: bool = False
    kind: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "init", plain_init(self.init))
        check_reel_settings(self.k, self.seed, self.init, self.sharing, find_kind(self.kind, self.symmetric))

    def reel(self, name: str, shape: Iterable[int], channel_dim: int = 0) -> Reel:
        """The reel of one tensor."""
        return Reel(
            name,
            tuple(shape),
            self.k,
            self.seed,
            self.init,
            self.sharing,
            self.symmetric,
            channel_dim,
            self.kind,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values by name, `kind` only if there is one. An init object is given by its
        `init_name`; `from_dict` needs the object itself.
        """
        told = {
            "k": self.k,
            "seed": self.seed,
            "init": init_name(self.init),
            "sharing": self.sharing,
            "symmetric": self.symmetric,
        }
        return told if self.kind is None else told | {"kind": self.kind}

    @classmethod
    def of_machine(cls, settings: Mapping[str, Any], init: Init | None = None) -> ReelSettings:
        """Out of the "settings" of a `SlotMachine.state_dict`, which have more. Raises as `from_dict`."""
        names = {field.name for field in fields(cls)}
        return cls.from_dict({name: value for name, value in settings.items() if name in names}, init)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any], init: Init | None = None) -> ReelSettings:
        """The settings of a `to_dict`; `init` is the init object, if it was one.

        Raises SlotkitError if a name is missing or unknown, a value is not accepted, or `init` is another.
        """
        names = [field.name for field in fields(cls) if field.name != "kind"]
        if set(settings) - {"kind"} != set(names):
            given = ", ".join(sorted(map(str, settings))) or "nothing"
            raise SlotkitError(
                f"These are settings of reels with {given}. Give {', '.join(names)}, all of them and nothing "
                "else."
            )
        if not isinstance(settings["symmetric"], bool):
            raise SlotkitError(
                f"symmetric is {settings['symmetric']!r}. Give true for options in pairs +v, -v, or false."
            )
        told = plain_init(settings["init"])
        if init is None and not (isinstance(told, str) and told in NAMED_INITS):
            raise SlotkitError(
                f"The reels were made with the init {told}, an object that can't be written down. Give that "
                "object again, as `init`."
            )
        if init is not None and init_name(init) != told:
            raise SlotkitError(
                f"The init is {init_name(init)}, and the reels were made with {told}. Give the object that "
                "they were made with."
            )
        return cls(**{**settings, "init": told if init is None else init})


class ReelSpec(NamedTuple):
    """A reel in numbers, for compiled engines.

    Connection i has the options of owner (i // stride) % owners. Options are U(-bound, bound), initial scores
    U(0, score_scale * bound), both multiplied in float32. The key of the options is (option_key_0,
    option_key_1), that of scores and draws (key_0, key_1).
    """

    k: int
    symmetric: bool
    stride: int
    owners: int
    key_0: int
    key_1: int
    bound: float
    score_scale: float
    option_key_0: int
    option_key_1: int


@dataclass(frozen=True)
class Reel:
    """K options and K initial scores for every connection of one weight tensor.

    Args:
        name: the tensor's name in its network, such as "fc1.weight". Part of the key.
        shape: the weight's shape, two dimensions or more.
        k: options a connection, at least 1.
        seed: 0 <= seed < 2**63. Part of the key.
        init: "glorot-uniform", "glorot-deviation", another of NAMED_INITS or an `Init`.
        sharing: which connections have the same K options: "none", "layer" (all of the tensor), "channel"
            (all of an output channel) or "network" (all of all tensors with this seed, times the bound of
            each). Scores are each connection's own in every case.
        symmetric: options in pairs +v, -v, so that shared options average to zero. K must be even.
        channel_dim: the dimension that counts output channels (1 in a transposed convolution).
            With groups there, channels at the same place in different groups share.
        kind: another kind of options, a name in `slotkit.kinds.KINDS`.

    The options of K = 4 are the first four of K = 8, and so are the scores.
    """

    name: str
    shape: tuple[int, ...]
    k: int
    seed: int = 0
    init: str | Init = "glorot-uniform"
    sharing: str = "none"
    symmetric: bool = False
    channel_dim: int = 0
    kind: str | None = None
    key: tuple[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "init", plain_init(self.init))
        check_reel_settings(self.k, self.seed, self.init, self.sharing, self.rule)
        if math.prod(self.shape) == 0:
            raise SlotkitError(
                f"{self.name} has shape {self.shape}: no connections. Leave it out of `where`."
            )
        if len(self.shape) < 2:
            raise SlotkitError(
                f"{self.name} has shape {self.shape}. A reel needs a weight of two dimensions or more, "
                f"because its bound comes from fan_in and fan_out; leave this tensor out of `where`."
            )
        if not isinstance(self.init, str):  # those with names are held by the tests
            check_init(self.init, self.fans)
        object.__setattr__(self, "key", self._key_of(self.name))

    @property
    def settings(self) -> ReelSettings:
        """What it has in common with the other reels of its machine."""
        return ReelSettings(self.k, self.seed, self.init, self.sharing, self.symmetric, self.kind)

    @property
    def rule(self) -> Kind:
        """How its options come from uniform numbers."""
        return find_kind(self.kind, self.symmetric)

    @property
    def spec(self) -> int:
        """The reel spec that has its kind and sharing."""
        return max(self.rule.spec, SHARINGS[self.sharing])

    @property
    def fans(self) -> Fans:
        """How wide the tensor is; from them the init has its bounds."""
        return Fans.of(self.shape)

    @property
    def option_key(self) -> tuple[int, int]:
        """The key of its options; `key` is that of its scores and draws."""
        name = NETWORK if self.sharing == "network" else self.rule.key_name(self.name)
        return self.key if name == self.name else self._key_of(name)

    def options(self, device: torch.device | str = "cpu") -> Tensor:
        """All options, float32, shape (*shape, K); a broadcast view where they are shared."""
        return self.distinct_options(device).expand(*self.shape, self.k)

    def distinct_options(self, device: torch.device | str = "cpu") -> Tensor:
        """The options without repetition, float32: `options` with size 1 in every shared dimension."""
        lead = [1] * len(self.shape)
        if self.sharing == "none":
            lead = list(self.shape)
        elif self.sharing == "channel":
            lead[self.channel_dim] = self.shape[self.channel_dim]
        return self._options_of(torch.arange(math.prod(lead), device=device)).reshape(*lead, self.k)

    @property
    def owner_rule(self) -> tuple[int, int]:
        """(stride, count): connection i (row-major) uses the options of owner (i // stride) % count."""
        if self.sharing in ("layer", "network"):
            return 1, 1
        if self.sharing == "channel":
            return math.prod(self.shape[self.channel_dim + 1 :]), self.shape[self.channel_dim]
        return 1, math.prod(self.shape)

    @property
    def bound(self) -> float | None:
        """The end of the interval that its options are uniform in, None if they are not."""
        spec = self.compiled_spec()
        return None if spec is None else spec.bound

    def compiled_spec(self) -> ReelSpec | None:
        """The reel in numbers, None if they can't make its options: an engine then needs tables."""
        init, symmetric = find_init(self.init), self.rule.symmetric
        if symmetric is None or not isinstance(init, UniformInit) or not init.is_uniform:
            return None
        bound, scale = init.bound(self.fans), init.score_scale(self.fans)
        if bound < 0 or scale < 0:
            return None  # engines take the bounds for sizes
        return ReelSpec(self.k, symmetric, *self.owner_rule, *self.key, bound, scale, *self.option_key)

    def rows(self, connections: Tensor) -> tuple[Tensor, Tensor]:
        """Options and initial scores, float32 (n, K) each, of connections int64 (n,) in row-major order."""
        stride, count = self.owner_rule
        return self._options_of(connections // stride % count), self._scores_of(connections)

    def chosen(self, selected: Tensor) -> Tensor:
        """Those options alone, float32: option `selected` (int64, of the weight's shape, 0 .. K - 1) of each.

        One Philox block a connection, whatever K is.
        """
        stride, count = self.owner_rule
        index = selected.reshape(-1)
        number = self.rule.source(index)
        values = torch.empty(len(index), dtype=torch.float32, device=index.device)
        for first in range(0, len(index), CHUNK):
            run = slice(first, min(first + CHUNK, len(index)))
            owner = torch.arange(run.start, run.stop, device=index.device) // stride % count
            counter = (owner & WORD, owner >> 32, number[run] // 4, torch.full_like(owner, OPTIONS))
            words = torch.stack(philox(counter, self.option_key), dim=-1)
            word = words.gather(-1, (number[run] % 4).unsqueeze(-1)).squeeze(-1)
            values[run] = find_init(self.init).options(symmetric_uniform(word), self.fans)
        return self.rule.value(values, index, self.fans).reshape(self.shape)

    def scores(self, device: torch.device | str = "cpu") -> Tensor:
        """The initial scores, float32, shape (*shape, K)."""
        connections = torch.arange(math.prod(self.shape), device=device)
        return self._scores_of(connections).reshape(*self.shape, self.k)

    def draw(self, stream: int, number: int, device: torch.device | str = "cpu") -> Tensor:
        """One uniform number in (0, 1) a connection, float32, of the weight's shape.

        `stream` says what for (TRAINING_DRAWS, EVALUATION_DRAWS or INITIAL_PICK), `number`
        (0 .. 2**32 - 1) which time. Four neighbouring connections share one Philox block.
        """
        if not 0 <= number < 2**32:
            raise SlotkitError(f"The draw number is {number}. Give an integer from 0 to 2**32 - 1.")
        n = math.prod(self.shape)
        blocks = torch.arange((n + 3) // 4, device=device)
        uniform = self._uniform(blocks, stream, 4, third=number)
        return uniform.reshape(-1)[:n].reshape(self.shape)

    def _key_of(self, name: str) -> tuple[int, int]:
        return key_of("slotkit reel spec", REEL_SPEC, self.seed, name)

    def _options_of(self, owners: Tensor) -> Tensor:
        uniform = self._uniform(owners, OPTIONS, self.rule.uniforms(self.k), symmetric=True)
        values = find_init(self.init).options(uniform, self.fans)
        option = torch.arange(self.k, device=owners.device)
        number = self.rule.source(option)
        if number is not option:
            values = values.index_select(-1, number)
        return self.rule.value(values, option, self.fans)

    def _scores_of(self, connections: Tensor) -> Tensor:
        uniform = self._uniform(connections, SCORES, self.k)
        scores = find_init(self.init).scores(uniform, self.fans)
        return self.rule.score(scores, torch.arange(self.k, device=connections.device), self.fans)

    def _uniform(
        self, owners: Tensor, stream: int, count: int, symmetric: bool = False, third: int = 0
    ) -> Tensor:
        """`count` numbers for each owner: number j is word j % 4 of block (owner, third + j // 4, stream).

        They are in (0, 1), or in (-1, 1) if `symmetric`.
        """
        key = self.option_key if stream == OPTIONS else self.key
        out = torch.empty(len(owners), count, dtype=torch.float32, device=owners.device)
        if owners.device.type == "cpu":
            from slotkit.philox_cpu import uniform_rows

            low_key, high_key = np.uint64(key[0]), np.uint64(key[1])
            numbers = owners.contiguous().numpy()
            uniform_rows(numbers, count, third, stream, low_key, high_key, symmetric, out.numpy())
            return out
        convert = symmetric_uniform if symmetric else unit_uniform
        for first in range(0, len(owners), CHUNK):
            run = owners[first : first + CHUNK]
            low, high = run & WORD, run >> 32
            for block in range(0, count, 4):
                counter = (low, high, torch.full_like(run, third + block // 4), torch.full_like(run, stream))
                words = torch.stack(philox(counter, key), dim=-1)
                out[first : first + CHUNK, block : block + 4] = convert(words[:, : count - block])
        return out


def check_reel_settings(k: int, seed: int, init: str | Init, sharing: str, kind: Kind) -> None:
    """Refuse settings no reel can have, whatever its tensor. Raises SlotkitError."""
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise SlotkitError(f"k is {k!r}. A connection needs at least one option: give an integer from 1 up.")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise SlotkitError(f"The seed is {seed!r}. Give an integer from 0 to 2**63 - 1.")
    if sharing not in SHARINGS:
        raise SlotkitError(f"There is no sharing {sharing!r}. Choose one of {', '.join(SHARINGS)}.")
    reason = kind.refusal(k)
    if reason is not None:
        raise SlotkitError(reason)
    find_init(init)
