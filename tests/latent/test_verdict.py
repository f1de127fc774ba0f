"""Whether steps may go on, as it is kept on a device: which tensor and step an error names."""

from __future__ import annotations

import pytest
import torch

from slotkit.errors import DivergedError
from slotkit.latent.verdict import Verdict

CPU = torch.device("cpu")
FINE, BAD = torch.ones(3), torch.tensor([1.0, float("nan")])
NO, YES = torch.zeros(1), torch.ones(1)


def made() -> Verdict:
    return Verdict(4, CPU, ["The gradient of a is", "Some scores of a are", "The gradient of b is"])


def test_the_first_bad_step_is_named_whatever_later_steps_look_at() -> None:
    """On CUDA the host hears of it steps later, when other tensors have gradients."""
    verdict = made()
    verdict.look({0: FINE, 2: FINE}, None)
    for tensors in ({0: BAD, 2: FINE}, {2: FINE}, {}, {1: FINE, 2: BAD}):
        verdict.look(tensors, None)
        assert verdict.skip.item() == 1
    with pytest.raises(
        DivergedError, match=r"^The gradient of a is not finite in step 6 of this optimizer\."
    ):
        verdict.ask()
    verdict.look({0: FINE}, None)
    verdict.ask()


def test_a_scaler_says_it_of_gradients_alone() -> None:
    verdict = made()
    for overflow, skipped in ((YES, 1), (NO, 0)):
        verdict.look({1: FINE}, overflow)
        assert verdict.skip.item() == skipped
    verdict.ask()
    verdict.look({1: BAD}, NO)
    with pytest.raises(DivergedError, match=r"^Some scores of a are not finite in step 7 "):
        verdict.ask()


def test_what_was_wrong_in_another_state_is_past() -> None:
    verdict = made()
    verdict.look({0: BAD}, None)
    verdict.forget()
    verdict.ask()
    verdict.look({}, None)
    assert verdict.skip.item() == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_kernels_read_float32_whatever_the_default_is(dtype: torch.dtype) -> None:
    """Of 1.0 in float64 they would read 0.0, and go on."""
    torch.set_default_dtype(dtype)
    try:
        verdict = made()
        verdict.look({0: BAD}, None)
        assert verdict.skip.dtype == torch.float32
        assert verdict.skip.item() == 1
        with pytest.raises(DivergedError, match=r"^The gradient of a is not finite in step 5 "):
            verdict.hear()
    finally:
        torch.set_default_dtype(torch.float32)
