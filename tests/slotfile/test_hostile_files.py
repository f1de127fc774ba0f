"""A file from a stranger is refused in one sentence: no other exception, no waiting, no large allocation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from forks import Forks
from hypothesis import given
from hypothesis import strategies as st
from slotfile.made import NARROW, Case, Own, OwnNet, Parts, bits

import slotkit
from slotkit import slotfile
from slotkit.errors import SlotkitError

pytestmark = pytest.mark.usefixtures("narrow_networks")

CASE = Case("vgg19", (1, 16, 16), {"bias": True}, {"k": 8, "others": "trained"})
SMALL = Case("conv2", (2, 4, 4), {"bias": True}, {"k": 8, "others": "trained"})
OWN = Own({"k": 8, "others": "kept"})

# Runs in a process of its own, so that its peak memory is that of these files. How much work a file makes is
# counted in calls of functions, which are the same on every machine.
CHILD = """
import cProfile, collections, json, resource, sys
from pathlib import Path
from slotfile.hostile import bad_files
from slotfile.made import OwnNet
import slotkit
good, path = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
def load(path):
    profile = cProfile.Profile()
    try:
        profile.runcall(slotkit.load, path, OwnNet() if sys.argv[4] == "own" else None)
    finally:
        calls[str(path)] = max(calls[str(path)], sum(entry.callcount for entry in profile.getstats()))
calls = collections.Counter()
load(sys.argv[1])
calls.clear()
load(sys.argv[1])
import timm
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
refused, loaded, same = collections.Counter(), collections.Counter(), 0
for how, data in bad_files(good, int(sys.argv[3]), seed=5):
    if data == good:
        same += 1
        continue
    path.write_bytes(data)
    try:
        load(path)
    except slotkit.SlotkitError:
        refused[how] += 1
    else:
        loaded[how] += 1
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = {"refused": refused, "loaded": loaded, "same": same, "kib": after - before}
print(json.dumps(result | {"good": calls[sys.argv[1]], "bad": calls[sys.argv[2]]}))
"""


THOUSANDS = [
    pytest.param(*each, marks=pytest.mark.long) for each in ((SMALL, 2000), (CASE, 300), (OWN, 1000))
]


@pytest.mark.parametrize(("case", "number"), [(SMALL, 320), (CASE, 80), (OWN, 160), *THOUSANDS], ids=str)
def test_thousands_of_bad_files(case: Case | Own, number: int, tmp_path: Path, forks: Forks) -> None:
    case.write(tmp_path / "good")
    files = [str(tmp_path / name) for name in ("good", "bad")]
    kind = "own" if case is OWN else "named"
    result = json.loads(forks.start(NARROW + CHILD, *files, str(number), kind, cwd=tmp_path).checked())
    assert sum(result["refused"].values()) + sum(result["loaded"].values()) + result["same"] == number
    # Changed and signed again, a file may be a good one: another made_by, or a JSON text that means the same.
    assert set(result["loaded"]) <= {"metadata", "text"}
    assert sum(result["loaded"].values()) < number / 10
    for how in ("flipped", "cut", "spliced", "odd_header", "metadata", "payload", "text"):
        assert result["refused"][how] > number / 40, how
    # No more work than a whole file of the largest network that is left to be built.
    assert result["bad"] < 5 * result["good"], (result["bad"], result["good"])
    assert result["kib"] < 100 * 1024


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole file: dense layers without batch norm; both codings."""
    path = tmp_path_factory.mktemp("good") / "x"
    Case("lenet", (1, 2, 2), {"bias": True}, {"k": 3, "others": "trained"}).write(path)
    return path.read_bytes()


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(SlotkitError) as fault:
        slotkit.load(path)
    return str(fault.value)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad") / "bad"


@given(data=st.binary(max_size=300))
def test_bytes_are_refused(data: bytes, place: Path) -> None:
    assert "can't be loaded as a slot file" in refused(place, data)


@given(share=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_is_noticed(share: float, bit: int, good: bytes, place: Path) -> None:
    changed = bytearray(good)
    changed[int(share * len(good))] ^= 1 << bit
    assert "can't be loaded as a slot file" in refused(place, bytes(changed))


@given(share=st.floats(0, 1, exclude_max=True))
def test_every_cut_is_noticed(share: float, good: bytes, place: Path) -> None:
    assert "can't be loaded as a slot file" in refused(place, good[: int(share * len(good))])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)
FIELDS = (
    "architecture",
    "reel_spec",
    "k",
    "init",
    "sharing",
    "symmetric",
    "reels",
    "stored",
    "zeros",
    "seed",
)


@given(key=st.sampled_from(FIELDS), value=JSON)
def test_any_value_of_a_field_is_refused_if_it_is_not_its_own(
    key: str, value: Any, good: bytes, place: Path
) -> None:
    parts = Parts.of(good)
    if parts.about[key] == value and type(parts.about[key]) is type(value):
        return
    parts.about[key] = value
    assert "can't be loaded as a slot file" in refused(place, parts.whole())


@given(words=st.lists(st.integers(0, 2**32 - 1), max_size=3000), seed=st.integers(0, 2**32))
def test_garbage_for_the_entropy_coder_is_refused(
    words: list[int], seed: int, good: bytes, place: Path
) -> None:
    parts = Parts.of(good)
    name = next(f"indices/{r['name']}" for r in parts.about["reels"] if r["coding"] == "entropy")
    data = b"".join(word.to_bytes(4, "little") for word in words)
    parts.data[name] = ("U8", [len(data)], data)
    assert "The indices" in refused(place, parts.sign().whole()).replace("the indices", "The indices")


def change(path: list[Any], value: Any) -> Any:
    """A change of the metadata at that place."""

    def apply(about: Any) -> None:
        for key in path[:-1]:
            about = about[key]
        about[path[-1]] = value

    return apply


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (
            ["format"],
            3,
            "it has format 3, and this slotkit knows format 2. Upgrade with `pip install -U slotkit`",
        ),
        (["format"], 2, "its metadata is wrong: reels.0.dtype is"),
        (["reel_spec"], 4, "it has reel spec 4, and this slotkit knows reel spec 3. Upgrade with"),
        (["reel_spec"], 0, "reel_spec is 0: input should be 1, 2 or 3"),
        (["reel_spec"], 3, "sharing none is of reel spec 1, and the file says 3"),
        (["kind"], "mask", "the kind mask is of reel spec 3, and the file says 1"),
        (["kind"], "pairs", "kind is 'pairs': input should be 'mask'"),
        (["reel_spec"], 2, "sharing none is of reel spec 1, and the file says 2"),
        (["sharing"], "network", "sharing network is of reel spec 2, and the file says 1"),
        (["format"], True, "format is True: input should be a valid integer"),
        (["k"], 10**12, "k is 1000000000000: input should be less than or equal to 16777216"),
        (["k"], 4, "fc1.weight has 4 counts, and k + 1 is 5"),
        (["seed"], 1, "its weights, made anew, are not those that were saved"),
        (["seed"], -1, "seed is -1: input should be greater than or equal to 0"),
        (["init"], "normal", "init is 'normal': input should be 'paper' or 'authors'"),
        (["pickle"], "x", "pickle is 'x': extra inputs are not permitted"),
        (["architecture", "model"], "../lenet", "There is no model '../lenet'"),
        (
            ["architecture", "model"],
            "timm/hf_hub:a/b",
            "is not timm/NAME with the plain name of a timm model",
        ),
        (
            ["architecture"],
            {"model": "timm/no_such_net", "options": {}, "image": [1, 2, 2], "classes": 5},
            "timm has no model 'no_such_net'",
        ),
        (["architecture", "model"], "conv2", "its tensors are not those of conv2"),
        (["architecture", "image"], [1, 2, 3], "has shape (300, 4), and in lenet it is (300, 6)"),
        (
            ["architecture", "image"],
            [4096, 4096, 4096],
            "elements, and the limit is 268,435,456. If you trust",
        ),
        (["architecture", "image"], [1, 2, 5000], "architecture.image.2 is 5000: input should be less than"),
        (["architecture", "classes"], 0, "architecture.classes is 0: input should be greater than"),
        (
            ["architecture", "options"],
            {"bias": "yes"},
            "has the option bias='yes'; it takes true or false",
        ),
        (["architecture", "options"], {"bias": float("nan")}, "architecture.options.bias"),
        (
            ["architecture", "options"],
            {"file": "/etc/passwd"},
            "lenet has no option file. Its options are bias",
        ),
        (
            ["reels", 0, "shape"],
            [10**9, 10**9],
            "the counts sum to 1200, not to 1000000000000000000 connections",
        ),
        (
            ["reels", 0, "shape"],
            [-300, 4],
            "reels.0.shape.0 is -300: input should be greater than or equal to 1",
        ),
        (["reels", 0, "name"], "fc2.weight", "a tensor is told twice"),
        (["reels", 0, "counts"], None, "counts belong to the entropy coding, and only to it"),
        (["zeros"], ["fc1.weight"], "a tensor is told twice"),
        (["ones"], ["nothing"], "its tensors are not those of lenet: they differ in 'nothing'"),
        (["blake2b"], "0" * 32, "its weights, made anew, are not those that were saved"),
    ],
)
def test_the_sentence_says_what_is_wrong(
    path: list[Any], value: Any, sentence: str, good: bytes, place: Path
) -> None:
    parts = Parts.of(good)
    change(path, value)(parts.about)
    told = refused(place, parts.whole())
    assert sentence in told
    assert told.startswith(f"{place} can't be loaded as a slot file: ")
    assert told.endswith(". Fetch the file again, or make it anew with `slotkit export RUN` or slotkit.save.")


@pytest.fixture(scope="module")
def good_own(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The same of a network of one's own."""
    path = tmp_path_factory.mktemp("good") / "x"
    OWN.write(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (["format"], 1, "its metadata is wrong: reels.0.dtype is 'F32': extra inputs are not"),
        (["architecture"], {}, "architecture is {}: extra inputs are not permitted"),
        (
            ["reels", 0, "dtype"],
            "I64",
            "reels.0.dtype is 'I64': input should be 'F64', 'F32', 'F16' or 'BF16'",
        ),
        (
            ["reels", 0, "dtype"],
            "F16",
            "conv.weight is (32, 2, 3, 3) float16 in the file and (32, 2, 3, 3) float32",
        ),
        (["entries", "norm.bias", "dtype"], "C64", "entries.norm.bias.dtype is 'C64': input should be"),
        (["entries", "norm.bias", "shape"], [-4], "entries.norm.bias.shape.0 is -4: input should be greater"),
        (["entries", "norm.bias", "shape"], [2**30, 4], "there are more than 2147483648 elements"),
        (["entries", "norm.bias", "shape"], [2**20], "norm.bias is (1048576,) float32 in the file and (32,)"),
        (
            ["entries", "more"],
            {"dtype": "F32", "shape": []},
            "the entries are not those of zeros, ones and stored",
        ),
        (["ties", "tied.weight"], "nothing", "a tie is to no tensor of the file, or to itself"),
        (["ties", "full.weight"], "full.weight", "a tie is to no tensor of the file, or to itself"),
        (
            ["ties"],
            {},
            "of another network than this OwnNet: the file lacks tied.weight. Nothing was changed.",
        ),
        (
            ["ties", "tied.weight"],
            "conv.weight",
            "tied.weight is (32, 2, 3, 3) float32 in the file and (6, 6)",
        ),
        (["stored", "norm.running_mean"], "0" * 32, "doesn't have the checksum it was written with"),
        (["blake2b"], "0" * 32, "its weights, made anew, are not those that were saved"),
    ],
)
def test_the_sentence_about_a_network_of_ones_own(
    path: list[Any], value: Any, sentence: str, good_own: bytes, place: Path
) -> None:
    parts = Parts.of(good_own)
    change(path, value)(parts.about)
    place.write_bytes(parts.whole())
    into = OwnNet()
    before = bits(into.state_dict())
    with pytest.raises(SlotkitError) as fault:
        slotkit.load(place, into=into)
    assert sentence in str(fault.value)
    assert bits(into.state_dict()) == before


TIMM_REFUSED = (
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "cache_dir",
    "url",
)


@pytest.mark.parametrize("option", [*TIMM_REFUSED, "features_only", "scriptable", "norm_layer"])
def test_timm_gets_no_option_that_fetches_or_reads(option: str, good: bytes, place: Path) -> None:
    parts = Parts.of(good)
    parts.about["architecture"] |= {"model": "timm/resnet18", "options": {option: "/etc/passwd"}}
    assert f"has the option {option!r}, which a slot file may not set" in refused(place, parts.whole())


def test_odd_entries_are_refused(good: bytes, place: Path) -> None:
    parts = Parts.of(good)
    parts.data["indices/more"] = ("U8", [1], b"x")
    assert "its tensors and its metadata differ in 'indices/more'" in refused(place, parts.whole())
    parts = Parts.of(good)
    dtype, shape, data = parts.data["tensors/fc1.bias"]
    parts.data["tensors/fc1.bias"] = ("I32", shape, data)
    assert "fc1.bias is I32 of shape [300], and in lenet torch.float32" in refused(place, parts.whole())
    parts.data["tensors/fc1.bias"] = (dtype, [1, 300], data)
    assert "fc1.bias is F32 of shape [1, 300]" in refused(place, parts.whole())
    parts = Parts.of(good)
    parts.data["indices/fc1.weight"] = ("I8", *parts.data["indices/fc1.weight"][1:])
    assert "the indices of fc1.weight are not a row of bytes" in refused(place, parts.whole())
    assert "its metadata doesn't have the checksum" in refused(
        place, good.replace(b'\\"seed\\": 0', b'\\"seed\\": 1')
    )


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        SlotkitError, match=r"missing can't be loaded as a slot file: there is no such file\."
    ):
        slotkit.load(tmp_path / "missing")
    with pytest.raises(SlotkitError, match="there is no such file"):
        slotfile.describe(tmp_path)
    with pytest.raises(SlotkitError, match="there is no such file"):
        slotkit.load("/dev/zero")
    from safetensors.torch import save_file
    from torch import ones

    save_file({"a": ones(3)}, tmp_path / "plain")
    with pytest.raises(SlotkitError, match="its header has no 'slotkit'"):
        slotkit.load(tmp_path / "plain")


def test_the_limit_can_be_set(good: bytes, place: Path) -> None:
    place.write_bytes(good)
    with pytest.raises(SlotkitError, match=r"has 32,105 elements, and the limit is 1,000\. If you trust"):
        slotkit.load(place, limit=1000)
    assert slotkit.load(place, limit=32_105) is not None
