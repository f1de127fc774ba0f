"""The Triton engine without a GPU: kernels in Triton's interpreter, and compiled for GPUs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import triton
from forks import Forks
from latent.kernel_checks import CHECKS
from latent.kernel_mutants import MUTANTS
from latent.trajectories import CPU
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

import slotkit
from slotkit.latent.engines import triton as engine
from slotkit.latent.engines import triton_kernels as kernels
from slotkit.latent.engines.registry import ENGINES, find_engine
from slotkit.latent.engines.triton import KINDS, Kind
from slotkit.reel import Reel


@pytest.fixture(scope="module")
def verdicts(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the program says, run once, in Triton's interpreter."""
    program, place = "from latent.interpreted import main; main()", tmp_path_factory.mktemp("interpreted")
    ran = forks.start(program, cwd=place, env={"TRITON_INTERPRET": "1"})
    found: dict[str, str] = json.loads(ran.checked())
    return found


@pytest.mark.parametrize("name", CHECKS)
def test_in_the_interpreter(name: str, verdicts: dict[str, str]) -> None:
    assert verdicts[name] == ""


@pytest.mark.parametrize(
    ("given", "most"),
    [([], 80), pytest.param(["--every"], 200, marks=pytest.mark.long)],
    ids=["few", "every"],
)
def test_the_whole_engine_suite_in_the_interpreter(
    given: list[str], most: int, forks: Forks, tmp_path: Path
) -> None:
    """Every test that eager has, at small sizes (`trajectories.few`), and none is skipped."""
    program = "from latent.interpreted import suite; suite()"
    ran = forks.start(program, *given, cwd=tmp_path, env={"TRITON_INTERPRET": "1"})
    told = json.loads(ran.checked())
    assert {name: said for name, said in told.items() if said} == {}
    assert len(told) > most


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_rule_is_noticed(name: str, verdicts: dict[str, str]) -> None:
    assert verdicts[name], f"the checks pass with {name}"


# The kernels that a GPU gets: each with every dtype of a weight; sizes, tables and rules differ.
F64, F32, BF16, F16 = torch.float64, torch.float32, torch.bfloat16, torch.float16
STEP = {"ADAM": False, "ON_DEVICE": True}
COMPILED: dict[str, tuple[Any, Kind | None, dict[str, Any]]] = {
    "step": (kernels.step, Kind(8, False, False, F32, F32), STEP),
    "step-adam-float64": (kernels.step, Kind(2, True, False, F64, F64), STEP | {"ADAM": True}),
    "step-bfloat16": (kernels.step, Kind(1, False, True, BF16, F32), STEP | {"ADAM": True}),
    "step-float16": (kernels.step, Kind(64, False, False, F16, F32), STEP),
    "choice": (kernels.step, Kind(3, False, True, F32, F32), STEP | {"ON_DEVICE": False}),
    "line": (kernels.begin, None, {"ADAM": False}),
    "line-adam": (kernels.begin, None, {"ADAM": True}),
    "draw": (kernels.sample, Kind(8, False, False, F32, F32), {"ON_DEVICE": True}),
    "draw-float64": (kernels.sample, Kind(2, True, False, F64, F64), {"ON_DEVICE": False}),
    "draw-bfloat16": (kernels.sample, Kind(1, False, True, BF16, F32), {"ON_DEVICE": True}),
    "draw-float16": (kernels.sample, Kind(64, False, False, F16, F32), {"ON_DEVICE": True}),
}  # fmt: skip
CAPABILITIES = [90, pytest.param(80, marks=pytest.mark.long)]


def compiled(capability: int, kernel: Any, kind: Kind | None, others: dict[str, Any]) -> Any:
    """A kernel for a GPU of that compute capability; no GPU is asked for."""
    constants = others | (kind.constants(tensors=3) if kind else {"enable_fp_fusion": False})
    fused = constants.pop("enable_fp_fusion")
    signature = {name: "constexpr" if name in constants else "i32" for name in kernel.arg_names}
    source = ASTSource(
        kernel,
        signature=signature | {"table": "*i64"},
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
    )
    return triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": fused}
    )


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_compiles_without_a_gpu(
    capability: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To PTX and machine code. No product of a step is fused with a sum, or bits would not be torch's."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    made = compiled(capability, *COMPILED[name]).asm
    assert f".target sm_{capability}" in made["ptx"]
    assert len(made["cubin"]) > 1000
    if name not in ("line-adam", *(name for name in COMPILED if name.startswith("draw"))):  # these have exp
        assert not re.search(r"\bfma\.\S*f(32|64)", made["ptx"])


def test_every_kernel_is_compiled_for_every_dtype() -> None:
    """Those that the engine launches: they take a table."""
    launched = {each for each in vars(kernels).values() if "table" in getattr(each, "arg_names", [])[:1]}
    found: dict[Any, set[Any]] = {kernel: set() for kernel in launched - {kernels.row_of}}
    for kernel, kind, _ in COMPILED.values():
        found[kernel].add(kind and kind.weight)
    assert found == {kernels.begin: {None}, kernels.step: set(KINDS), kernels.sample: set(KINDS)}


def test_it_says_why_it_cannot_run() -> None:
    refusal, reel = ENGINES["triton"].refusal, Reel("weight", (2, 2), 2)
    assert refusal(CPU, torch.float32, reel, False) == "it works on CUDA and the weight is on cpu"
    cuda = torch.device("cuda")
    assert refusal(cuda, torch.bfloat16, reel, False) is None
    assert refusal(cuda, torch.int8, reel, False) == (
        "it works on float32, float64, bfloat16 and float16 and the weight is torch.int8"
    )


def test_without_triton_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotkit.latent.engines.registry.find_spec", lambda name: None)
    reason = ENGINES["triton"].refusal(torch.device("cuda"), torch.float32, Reel("weight", (2, 2), 2), False)
    assert reason == "Triton is not installed (pip install triton)"


def test_auto_chooses_it_on_cuda() -> None:
    """What a registry asks of a weight is its device and dtype."""

    class OnCuda:
        device, dtype = torch.device("cuda"), torch.float32

    reel = Reel("weight", (2, 2), 2)
    assert find_engine("auto", OnCuda(), reel, stored=False).name == "triton"  # type: ignore[arg-type]


def test_kernels_are_launched_on_the_device_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another device is the current one, as with a model on several."""
    seen: list[Any] = []

    class Current:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def __enter__(self) -> None:
            seen.append(self.device)

        def __exit__(self, *_: object) -> None:
            seen.append("over")

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *_, **__: seen.append(grid)

    class Latent:
        device = torch.device("cuda:1")

        def __len__(self) -> int:
            return 3000

    monkeypatch.setattr(torch.cuda, "device", Current)
    monkeypatch.setattr(engine, "_on", lambda device, table: seen.append(device))
    arrays: Any = SimpleNamespace(latent=Latent())
    constants = {"TENSORS": 1, "ON_DEVICE": False}
    engine.launch(Kernel(), [arrays], [np.zeros(int(engine.WIDTH), np.int64)], constants)
    assert seen == [Latent.device, Latent.device, (3,), "over"]


def test_no_stream_but_the_current_one() -> None:
    """Triton launches on PyTorch's current stream; nothing here makes another one, or waits for one."""
    sources = {
        path.name: path.read_text(encoding="utf-8") for path in Path(slotkit.__file__).parent.rglob("*.py")
    }
    assert "triton_kernels.py" in sources
    words = r"cuda\.(Stream|stream)\(|wait_stream|\.synchronize\("
    assert [name for name, text in sources.items() if re.search(words, text)] == []
