"""Damaged files of datasets: each is read, or refused in one sentence that names a file."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from numpy.typing import NDArray
from pyarrow import parquet
from runs.mutants import BYTES, _tree  # type: ignore[import-not-found]

from slotkit.data.sources import load
from slotkit.errors import SlotkitError

# Of each kind of file. `nox -s fuzz` has 2,000.
NUMBER = int(os.environ.get("SLOTKIT_MUTANTS", "100"))


@pytest.fixture
def pictures(tmp_path: Path, pixels: Callable[..., NDArray[np.uint8]], encode: Callable[..., bytes]) -> Path:
    """Two classes of two small pictures in each half."""
    for half in ("train", "test"):
        for name, grey in zip(("a", "b"), pixels(2, 6, 6), strict=True):
            (tmp_path / half / name).mkdir(parents=True)
            (tmp_path / half / name / "1.png").write_bytes(encode(grey))
            (tmp_path / half / name / "2.jpg").write_bytes(encode(grey, "JPEG"))
    return tmp_path


@pytest.fixture
def table(tmp_path: Path, pixels: Callable[..., NDArray[np.uint8]], encode: Callable[..., bytes]) -> Path:
    """The hub's layout."""
    rows = {"img": [{"bytes": encode(p), "path": None} for p in pixels(3, 4, 5, 3)], "label": [0, 1, 1]}
    features = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["x", "y"]}}
    stored = {"huggingface": json.dumps({"info": {"features": features}})}
    for name in ("train-0.parquet", "test-0.parquet"):
        parquet.write_table(pyarrow.table(rows).replace_schema_metadata(stored), tmp_path / name)
    return tmp_path


def test_idx_files(mnist: Path) -> None:
    for name in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        check(mnist / "MNIST" / "raw" / name, "mnist", mnist)


@pytest.mark.parametrize("name", ["train/a/1.png", "test/b/2.jpg"])
def test_pictures(pictures: Path, name: str) -> None:
    check(pictures / name, f"imagefolder:{pictures}", None)


def test_parquet_files(table: Path) -> None:
    check(table / "train-0.parquet", f"parquet:{table}", None)


def test_the_metadata_of_parquet_files(table: Path) -> None:
    """The JSON text of the hub, changed and written again."""
    path, chance, outcomes = table / "train-0.parquet", random.Random(3), Counter[str]()
    whole = parquet.read_table(path)
    for _ in range(NUMBER):
        told = _tree(json.loads(whole.schema.metadata[b"huggingface"]), chance)
        text = json.dumps(told).encode("utf-8", "backslashreplace")
        parquet.write_table(whole.replace_schema_metadata({"huggingface": text}), path)
        outcomes[attempt(f"parquet:{table}", None, table)] += 1
    print(f"metadata: {NUMBER} mutants, 0 raw exceptions, {dict(outcomes)}")


def check(path: Path, dataset: str, data_dir: Path | None) -> None:
    whole, chance, outcomes = path.read_bytes(), random.Random(path.name), Counter[str]()
    for _ in range(NUMBER):
        path.write_bytes(chance.choice(BYTES)(whole, chance))
        outcomes[attempt(dataset, data_dir, path)] += 1
    print(f"{path.name}: {NUMBER} mutants, 0 raw exceptions, {dict(outcomes)}")
    path.write_bytes(whole)


def attempt(dataset: str, data_dir: Path | None, place: Path) -> str:
    told = ""
    try:
        load(dataset, data_dir)
    except SlotkitError as fault:
        told = str(fault)
    assert not told or str(place if place.is_dir() else place.parent) in told
    return "refused" if told else "read"
