"""Everything that a GPU has to prove, in one go: tests, exactness, step times, and the paper's CONV-2.

    python benchmarks/gpu.py --out DIR --data-dir DIR            # on a GPU: at most 8 minutes
    python benchmarks/gpu.py --out DIR --tiny                    # without one: the same code, tiny sizes

Each part may take its share of the time (`SHARES`). What does not fit, or fails, is said, and the next part
has its turn. Writes DIR/gpu.json and its tables, DIR/gpu.md, after each row. Rows that are in gpu.json stay
there, so that another call goes on; the training of part (d) is resumed. Without a GPU the kernels run in
Triton's interpreter: that shows that this script works, and its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

IS_GPU = torch.cuda.is_available()
if not IS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

from slotkit.latent.form import LatentForm  # noqa: E402
from slotkit.machine import SlotMachine  # noqa: E402
from slotkit.making import slotify  # noqa: E402
from slotkit.models import create  # noqa: E402

DEVICE = torch.device("cuda" if IS_GPU else "cpu")
Row = dict[str, Any]
Image = tuple[int, int, int]

# Network -> name for `create`, image, classes, batches.
NETWORKS: dict[str, tuple[str, Image, int, list[int]]] = {
    "LeNet": ("lenet", (1, 28, 28), 10, [128, 512]),
    "CONV-6": ("conv6", (3, 32, 32), 10, [128, 512]),
    "VGG-19": ("vgg19", (3, 32, 32), 10, [128]),
    "resnet50": ("timm/resnet50", (3, 224, 224), 1000, [128]),
    "vit_small": ("timm/vit_small_patch16_224", (3, 224, 224), 1000, [128]),
}
# Bytes a connection and step: docs/roofline.md.
BYTES = {"SGD": 20, "greedy": 32}
# When each part has to be done, as a part of the time: what an earlier one leaves, a later one has.
SHARES = {"device tests": 0.3, "exactness": 0.4, "ratios": 0.8, "paper-conv2-greedy": 1.0}
WAYS = ("eager", "graph", "compile")


def tiny_network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4))


def is_done(row: Row) -> bool:
    """Whether a row needs no further call: what was stopped or has failed does, and a training goes on."""
    stopped = row.get("exit code", 0) != 0
    return not (stopped or row.keys() & {"error", "no time"})


class Report:
    """The rows of gpu.json by part and name, made until the `minutes` are over."""

    def __init__(self, folder: Path, minutes: float) -> None:
        self._started, self._seconds = time.monotonic(), 60 * minutes
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.file = folder, folder / "gpu.json"
        self.rows: dict[str, dict[str, Row]] = {}
        if self.file.exists():
            self.rows = json.loads(self.file.read_text(encoding="utf-8"))

    def seconds(self, part: str) -> float:
        """What is left for a part."""
        return self._started + self._seconds * SHARES.get(part, 1.0) - time.monotonic()

    def add(self, part: str, name: str, make: Callable[[], Row]) -> None:
        """Make a row, unless it is there. What fails is a row that says so, and the others are made."""
        found = self.rows.setdefault(part, {})
        if name in found and is_done(found[name]):
            return
        if self.seconds(part) > 0:
            try:
                found[name] = make()
            except Exception as fault:  # of one row, whatever it is
                found[name] = {"error": f"{type(fault).__name__}: {fault}"[:300]}
        else:
            found.setdefault(name, {"no time": "call again"})
        told = ", ".join(f"{key} {_told(value)}" for key, value in found[name].items())
        print(f"{part}: {name}: {told}", flush=True)
        self.write_tables()
        written = self.file.with_suffix(".new")
        written.write_text(json.dumps(self.rows, indent=1) + "\n", encoding="utf-8")
        written.replace(self.file)

    def write_tables(self) -> None:
        (self.folder / "gpu.md").write_text(self.tables() + "\n", encoding="utf-8")

    def tables(self) -> str:
        parts = []
        for part, rows in self.rows.items():
            columns = list(dict.fromkeys(key for row in rows.values() for key in row))
            lines = [["", *columns], ["---"] * (len(columns) + 1)]
            lines += [[name, *(_told(row.get(key)) for key in columns)] for name, row in rows.items()]
            parts.append(f"## {part}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
        return "\n\n".join(parts)


def _told(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def conditions() -> Row:
    none = "none: Triton's interpreter on the CPU, whose times mean nothing"
    device = torch.cuda.get_device_name() if IS_GPU else none
    import triton

    return {"device": device, "torch": torch.__version__, "triton": triton.__version__, "seed": 0}


# ---------------------------------------------------------------------------------------------------
# (a) The device tests.


# Without -P, Python in a checkout takes slotkit/ there for the package, without its commands and analyses.
MODULE = ("-P", "-m")


def device_tests(chosen: list[str], seconds: float) -> Row:
    """pytest, as a process of its own. After so many seconds it is asked how far it is."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, *MODULE, "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    place = Path(__file__).parent.parent
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=place, env=environment, stdout=pipe, text=True) as process:
        try:
            told, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            told, _ = process.communicate()
    failed = [line for line in told.splitlines() if line.startswith(("FAILED", "ERROR"))]
    found = {"exit code": process.returncode, "told": told.strip().splitlines()[-1][:200]}
    return found | ({"failed": "; ".join(failed)[:2000]} if failed else {})


# ---------------------------------------------------------------------------------------------------
# (b) Exactness, in float64.


def exactness(build: Callable[[], nn.Module], image: Image, k: int, steps: int) -> Row:
    """Weights that differ between the Triton engine, the dense form on the device, and eager on the CPU."""
    settings = {"triton": {"engine": "triton"}, "dense": {"form": "dense"}, "cpu": {"engine": "eager"}}
    machines = {name: _machine(build, k, "greedy", name, chosen) for name, chosen in settings.items()}
    optimizers = {name: machine.optimizer(0.5, 0.9, 1e-4) for name, machine in machines.items()}
    different, flips, before = {"dense": 0, "cpu": 0}, 0, _weights(machines["triton"])
    for step in range(steps):
        images, labels = _batch(image, 16, step)
        for name, machine in machines.items():
            device = next(machine.parameters()).device
            optimizers[name].zero_grad()
            nn.functional.cross_entropy(machine.model(images.to(device)), labels.to(device)).backward()
            optimizers[name].step()
        ours = _weights(machines["triton"])
        flips += _count(ours, before)
        before = ours
        for name in different:
            different[name] += _count(ours, _weights(machines[name]))
    return {
        "steps": steps,
        "flips": flips,
        "from dense": different["dense"],
        "from the CPU": different["cpu"],
    }


def same_draws(build: Callable[[], nn.Module], k: int, draws: int) -> Row:
    """Weights that differ between draws of the Triton engine and those of eager on the CPU."""
    settings = {"triton": {"engine": "triton"}, "cpu": {"engine": "eager"}}
    ours, right = (_machine(build, k, "probabilistic", name, chosen) for name, chosen in settings.items())
    different = 0
    for _ in range(draws):
        ours.spin()
        right.spin()
        different += _count(_weights(ours), _weights(right))
    return {"draws": draws, "from the CPU": different}


def _machine(
    build: Callable[[], nn.Module], k: int, selection: str, name: str, chosen: dict[str, str]
) -> SlotMachine:
    torch.manual_seed(0)
    model = build().double().to("cpu" if name == "cpu" else DEVICE)
    return slotify(model, k, selection, seed=1, **chosen)  # type: ignore[arg-type]


def _weights(machine: SlotMachine) -> list[Tensor]:
    weights = [machine.model.get_parameter(name) for name in machine.reels] if _is_latent(machine) else None
    if weights is None:
        chosen = {name: machine.selected(name).unsqueeze(-1) for name in machine.reels}
        weights = [machine.options(name).gather(-1, index).squeeze(-1) for name, index in chosen.items()]
    return [weight.detach().cpu().clone() for weight in weights]


def _is_latent(machine: SlotMachine) -> bool:
    return isinstance(machine.form, LatentForm)


def _count(ones: list[Tensor], others: list[Tensor]) -> int:
    return sum(int((one != other).sum()) for one, other in zip(ones, others, strict=True))


def _batch(image: Image, size: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, *image, generator=generator, dtype=torch.float64)
    return images, torch.randint(4, (size,), generator=generator)


# ---------------------------------------------------------------------------------------------------
# (c) Step times, as ratios to fused SGD in the same process, in turns.


class Contender:
    """A network and its optimizer; without a selection learned weights under torch's fused SGD."""

    def __init__(self, model: nn.Module, k: int, selection: str, compiled: bool) -> None:
        self.model = model.to(DEVICE)
        self.connections = 0
        if selection:
            machine = slotify(self.model, k, selection, engine="triton")
            self.optimizer: torch.optim.Optimizer = machine.optimizer(0.1, 0.9)
            self.connections = sum(value.numel() for value in machine.parameters())
        else:
            self.optimizer = torch.optim.SGD(self.model.parameters(), 0.01, 0.9, fused=True)
        self.forward = torch.compile(self.model) if compiled else self.model

    def step(self, images: Tensor, labels: Tensor) -> None:
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.forward(images), labels).backward()
        self.optimizer.step()

    def capture(self, images: Tensor, labels: Tensor) -> None:
        """A whole step as a CUDA graph, as PyTorch's notes on CUDA graphs have it."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                self.step(images, labels)
        torch.cuda.current_stream().wait_stream(aside)
        self.optimizer.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            nn.functional.cross_entropy(self.forward(images), labels).backward()
            self.optimizer.step()
        self.replay = graph.replay

    def graph_times(self) -> tuple[float, float]:
        """Milliseconds of a replay; its optimizer is not seen alone."""
        started = _now()
        self.replay()
        return 1e3 * (_now() - started), float("nan")

    def times(self, images: Tensor, labels: Tensor) -> tuple[float, float]:
        """Milliseconds of a whole step, and of its optimizer alone."""
        self.optimizer.zero_grad()
        started = _now()
        nn.functional.cross_entropy(self.forward(images), labels).backward()
        between = _now()
        self.optimizer.step()
        ended = _now()
        return 1e3 * (ended - started), 1e3 * (ended - between)


def _now() -> float:
    if IS_GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def ratio(
    build: Callable[[], nn.Module], image: Image, batch: int, k: int, selection: str, way: str, steps: int
) -> Row:
    """Medians of some steps of both contenders, in turns."""
    compiled = way == "compile"
    pair = Contender(build(), 0, "", compiled), Contender(build(), k, selection, compiled)
    images, labels = (value.to(DEVICE) for value in _batch(image, batch, 0))
    images = images.float()
    for one in pair:
        for _ in range(3):
            one.step(images, labels)
        if way == "graph":
            one.capture(images, labels)
    take = Contender.graph_times if way == "graph" else lambda one: one.times(images, labels)
    seen = [[take(one) for one in pair] for _ in range(steps)]
    (sgd, sgd_alone), (ours, ours_alone) = (
        [statistics.median(column) for column in zip(*(row[i] for row in seen), strict=True)]
        for i in range(2)
    )
    told = {"steps": steps, "fused SGD, ms": sgd, "slotkit, ms": ours, "ratio": ours / sgd}
    if way == "graph":
        return told
    told |= {"optimizer, SGD, ms": sgd_alone, "optimizer, slotkit, ms": ours_alone}
    if selection == "greedy":
        told["optimizer, GB/s"] = BYTES["greedy"] * pair[1].connections / ours_alone / 1e6
    return told


def copy_bandwidth(megabytes: int) -> Row:
    """What a copy reaches, read and written: the bandwidth to compare with."""
    source = torch.zeros(megabytes << 18, device=DEVICE)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(10):
        started = _now()
        target.copy_(source)
        seconds.append(_now() - started)
    return {"megabytes": megabytes, "GB/s": 2 * source.nbytes / statistics.median(seconds) / 1e9}


def all_ratios() -> Iterator[tuple[str, str, int, int, str, str]]:
    """Row name, network, batch, K, selection, way: the most wanted first."""
    for k in (8, 64, 1024):
        for way in WAYS:
            for network, (_, _, _, batches) in NETWORKS.items():
                for selection in ("greedy", "probabilistic"):
                    for batch in batches:
                        name = f"{network}, batch {batch}, {selection}, K = {k}, {way}"
                        yield name, network, batch, k, selection, way


# ---------------------------------------------------------------------------------------------------
# (d) paper-conv2-greedy, K = 8, as far as the time goes; the next call goes on.


class Training(NamedTuple):
    """A run's name, what `slotkit train` is given to begin it, and what it is given every time."""

    name: str
    fresh: list[str]
    always: list[str]


PAPER = Training("paper-conv2-greedy-k8", ["--recipe", "paper-conv2-greedy", "--k", "8"], [])
TINY_RUN = Training("tiny", ["--epochs", "1", "--set", "slots.engine=eager"], [])


def train(folder: Path, run: Training, seconds: float) -> Row:
    """`slotkit train` for so long, or on from where it was stopped."""
    runs, name = folder / "runs", run.name
    command = [sys.executable, *MODULE, "slotkit", "train", "--runs-dir", str(runs), *run.always]
    fresh = [*run.fresh, "--name", name, "--device", DEVICE.type]
    command += ["--resume", name] if (runs / name / "config.toml").exists() else fresh
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    with (folder / "train.log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=environment)
        try:
            done = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.terminate()  # the run stops at a commit point
            done = process.wait()
    summary = runs / name / "summary.json"
    told = json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else {}
    found = {"exit code": done, "run": str(runs / name)}
    if "test" in told:
        found |= {"epochs": told["epochs"], "test accuracy": told["test"]["last"]["greedy"]["accuracy"]}
    last = (folder / "train.log").read_text(encoding="utf-8").strip().splitlines()[-1:]
    return found | {"told": "".join(last)[:200]}


# ---------------------------------------------------------------------------------------------------


def prove_tiny(report: Report) -> None:
    image, philox = (3, 2, 2), ["tests/test_philox.py", "-k", "random123"]
    report.add("device tests", "philox", lambda: device_tests(philox, 60))
    report.add("exactness", "tiny, K = 8", lambda: exactness(tiny_network, image, 8, 3))
    report.add("exactness", "tiny, draws", lambda: same_draws(tiny_network, 8, 2))
    report.add("bandwidth", "copy", lambda: copy_bandwidth(1))
    for selection in ("greedy", "probabilistic"):
        name = f"tiny, batch 4, {selection}, K = 8, eager"
        report.add(
            "ratios", name, lambda chosen=selection: ratio(tiny_network, image, 4, 8, chosen, "eager", 2)
        )
    report.add("training", "digits", lambda: train(report.folder, TINY_RUN, 120))


def prove(report: Report, data_dir: Path | None) -> None:
    places = ["tests/latent", "tests/test_philox.py", "tests/test_reel.py"]
    for name, chosen in {"triton": "cuda and triton", "others": "cuda and not triton"}.items():
        given = [*places, "-k", chosen, "-n", "8"]
        report.add(
            "device tests", name, lambda given=given: device_tests(given, report.seconds("device tests"))
        )
    for network, image in (("lenet", (1, 28, 28)), ("conv2", (3, 32, 32))):
        build = _builder(network, image, 10)
        for k in (2, 8, 64):
            name = f"{network}, K = {k}"
            report.add("exactness", name, lambda b=build, i=image, k=k: exactness(b, i, k, 20))
            report.add("exactness", f"{name}, draws", lambda b=build, k=k: same_draws(b, k, 3))
    report.add("bandwidth", "copy", lambda: copy_bandwidth(1024))
    for name, network, batch, k, selection, way in all_ratios():
        what, image, classes, _ = NETWORKS[network]
        given = (_builder(what, image, classes), image, batch, k, selection, way, 20)
        report.add("ratios", name, lambda given=given: ratio(*given))
    if data_dir is not None:
        seconds = report.seconds("paper-conv2-greedy")
        run = PAPER._replace(always=["--data-dir", str(data_dir)])
        report.add("paper-conv2-greedy", "K = 8", lambda: train(report.folder, run, seconds))


def _builder(name: str, image: Image, classes: int) -> Callable[[], nn.Module]:
    return lambda: create(name, image, classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if not (IS_GPU or given.tiny):
        parser.error("this PyTorch sees no CUDA device. Give --tiny to try the script on the CPU")
    report = Report(given.out, math.inf if given.tiny else given.minutes)
    report.add("conditions", "this run", conditions)
    if given.tiny:
        prove_tiny(report)
    else:
        prove(report, given.data_dir)
    report.write_tables()
    print(f"\n{report.tables()}\n\nThe rows are in {report.file}, these tables in {given.out / 'gpu.md'}.")


if __name__ == "__main__":
    main()
