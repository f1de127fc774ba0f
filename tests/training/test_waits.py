"""The training loop leaves its numbers on the device. It waits where it logs, and once an epoch."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from training.test_pieces import build_own, configure, images  # type: ignore[import-not-found]

from slotkit.training.loop import Step, fit, steps_in


class Waits(TorchDispatchMode):
    """Counts what makes the host wait."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ in (
            "_local_scalar_dense",
            "nonzero",
            "equal",
            "is_nonzero",
        )
        return func(*args, **(kwargs or {}))


def test_a_step_waits_where_it_is_logged() -> None:
    """With learned weights: what slotkit's own optimizers do is in tests/latent/test_on_device.py."""
    config = configure(training__log_every=3, method="learned", learned_init="torch")
    per_epoch = steps_in(images(), config.training)
    with Waits() as waits:
        seen: list[tuple[bool, int]] = []
        for event in fit(build_own(config), images(), images(20), config):
            if isinstance(event, Step) and event.step % per_epoch != 1:  # that looks for dead layers
                seen.append((event.loss is not None, waits.count))
            waits.count = 0
    logged = [count for told, count in seen if told]
    assert {count for told, count in seen if not told} == {0}
    assert min(logged) > 0
    assert len(logged) < len(seen) / 2
