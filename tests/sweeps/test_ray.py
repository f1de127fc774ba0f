"""A real Ray cluster of two nodes on this machine, one of which dies: by files and by bytes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import invoke  # type: ignore[import-not-found]
from sweeps.made import assert_same_sweep, trained  # type: ignore[import-not-found]

from slotkit.config import Overrides
from slotkit.errors import SlotkitError
from slotkit.sweeps import run
from slotkit.sweeps.contract import Options, Progress
from slotkit.sweeps.plan import Planned, plan
from slotkit.sweeps.ray_cluster import RayCluster
from slotkit.sweeps.spec import from_options
from slotkit.sweeps.sweep import Sweep, start

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'slotkit[sweep]'")

# Ray warns of its own files and processes when it is taken down.
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

# 80 MB are more than any run folder here.
NODE = {"object_store_memory": 80 << 20, "include_dashboard": False}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that trains nothing."""
    from ray.cluster_utils import Cluster

    # On a busy machine a node that answers late is not dead; one whose process is gone is noticed at once.
    # With a niceness of 15, which Ray gives them, workers would wait for all other processes of the machine.
    settings = {"_system_config": {"health_check_timeout_ms": 60_000, "worker_niceness": 0}}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **NODE, **settings})
    ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module", autouse=True)
def survivor(cluster: Any) -> Any:
    """A node for all tests, whose processes have to import PyTorch: a test that ends one adds it."""
    return cluster.add_node(num_cpus=1, **NODE)


def four() -> list[Planned]:
    """More runs than nodes, each longer than the end of a node: there is one on it when it dies."""
    upper = {"training.epochs": 12, "training.limit_batches": 8, "training.device": "cpu"}
    given = [Overrides("test", upper | {"data.validation": 0.1, "training.batch_size": 32})]
    return plan(from_options(["k=2,8", "selection=GS,PS"], None, [0], given))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The same sweep in this process."""
    place = tmp_path_factory.mktemp("undisturbed") / "four"
    trained(place, four())
    return place


@pytest.mark.parametrize(
    "share", [pytest.param(True, id="files"), pytest.param(False, id="bytes", marks=pytest.mark.long)]
)
def test_a_node_that_dies_loses_nothing(tmp_path: Path, cluster: Any, undisturbed: Path, share: bool) -> None:
    doomed = cluster.add_node(num_cpus=1, **NODE)
    sweep, _ = start(tmp_path / "four", four(), "the test")
    executor = RayCluster(Options(), copy_seconds=0.0, share=share)
    killers: list[threading.Thread] = []

    def kill(event: run.Event) -> None:
        # Both nodes have a run by then: all are given to Ray at once.
        if isinstance(event, Progress) and not killers:
            killers.append(threading.Thread(target=cluster.remove_node, args=(doomed, False)))
            killers[0].start()

    assert run.train(sweep, four(), executor, kill) == []
    killers[0].join()
    assert_same_sweep(undisturbed, sweep.path)
    errors = [failure.error for one in Sweep.open(sweep.path).runs() for failure in one.entry.failures]
    assert errors
    assert all(error.startswith(("Ray lost it: ", "The process that trained it ")) for error in errors)
    left = {path.name for path in sweep.path.iterdir() if not (path / "config.toml").is_file()}
    assert left == {"sweep.json", "lock"}


def test_the_command_on_a_cluster_by_its_address(
    tmp_path: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLOTKIT_RUNS", raising=False)
    done = invoke(
        *("sweep", "--grid", "k=2,4", "--epochs", "1", "--set", "training.limit_batches=8", "--json"),
        *("--executor", "ray", "--address", cluster.address, "--jobs", "1"),
    )
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert [row["k"] for row in told["table"]] == [2, 4]
    assert [run["status"] for run in told["runs"]] == ["finished", "finished"]


def test_an_address_where_no_cluster_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def nobody(**settings: Any) -> None:
        raise ConnectionError("ray.init() was called with address=x:1. But no GCS.\nMore.")

    monkeypatch.setattr(ray, "init", nobody)
    with pytest.raises(SlotkitError) as error:
        RayCluster(Options(address="x:1"))
    assert str(error.value) == (
        "There is no Ray cluster at x:1: ray.init() was called with address=x:1. Start one with "
        "`ray start --head` and give its --address, or leave --address out for one on this machine."
    )
    with pytest.raises(SlotkitError, match="--address ray://x:1 is that of a Ray client"):
        RayCluster(Options(address="ray://x:1"))
