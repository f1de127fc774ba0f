"""slotify: turn any PyTorch model into a slot machine."""

from __future__ import annotations

import torch
from torch import nn

from slotkit.dense import DenseForm
from slotkit.errors import SlotkitError
from slotkit.form import Form
from slotkit.latent.form import LatentForm
from slotkit.machine import SlotMachine
from slotkit.others import check_others, treat_others
from slotkit.picking import Picked, Where, pick
from slotkit.reel import INITIAL_PICK, Init, Reel, ReelSettings
from slotkit.selection import find_selection, find_update, kept_of, pick_uniformly, take

FORMS = ("latent", "dense")
TABLES = ("auto", "stored", "recomputed")


# What is made in inference mode can't be trained outside of it.
@torch.inference_mode(False)
def slotify(
    model: nn.Module,
    k: int = 8,
    selection: str = "greedy",
    sharing: str = "none",
    init: str | Init = "glorot-uniform",
    seed: int = 0,
    form: str = "latent",
    engine: str = "auto",
    where: Where = None,
    others: str = "frozen",
    update: str = "all",
    symmetric: bool = False,
    tables: str = "auto",
    kind: str | None = None,
    share: float | None = None,
) -> SlotMachine:
    """Make a slot machine of `model`, in place.

    Every picked weight gets K fixed random options and K scores a connection; its values, pretrained
    or not, are replaced by the selected options. Biases and norms are made neutral, unless `others` says
    otherwise. Nothing else changes in a training loop but the optimizer, which comes from
    `SlotMachine.optimizer`. `SlotMachine.to_learned` gives the ordinary network back.

    Args:
        model: any module with weights of Linear, Conv1d/2d/3d, ConvTranspose1d/2d/3d or MultiheadAttention.
        k: options a connection, 1 or more.
        selection: "greedy" (GS) or "probabilistic" (PS, drawn anew for each optimizer step).
        sharing: "none", "layer", "channel" or "network": which connections have the same K options. Those
            of the network are K numbers, times the bound of each layer.
        init: "glorot-uniform", "glorot-deviation", another name of
            `slotkit.inits.NAMED_INITS`, or an object (`slotkit.inits.Init`).
        seed: of options, scores and draws; the same seed gives the same bits on every device.
        form: "latent" trains one number a connection by SGD, exactly as K scores, at the cost of an
            ordinary step; modules and state_dict stay those of an ordinary network. "dense" keeps K
            options and K scores, for any torch optimizer and for update="selected".
        engine: of the latent form: "auto", "numba" (CPU), "triton" (CUDA) or "eager" (plain PyTorch,
            every device).
        where: which parameters become reels: None (every weight of the layers above), names or glob
            patterns, or a predicate (name, parameter) -> bool.
        others: what becomes of the non-slot parameters: "frozen" (biases 0, norms identity, as in the
            paper's networks), "trained" (from the values that they have), or "kept" (as they are, untrained:
            for pretrained ones). What another machine of the model has or trains is left to it.
        update: "all" scores get a gradient (the paper) or only the "selected" one (CENG501).
        symmetric: options in pairs +v, -v. Worth it with sharing: a few plain uniform values shared
            by a layer don't average to zero, and can leave every ReLU dead.
        tables: of the latent form: options and scores "stored" (8 K bytes a connection), "recomputed"
            when they are needed (no memory that grows with K, the same bits), or "auto".
        kind: another kind of options, a name in `slotkit.kinds.KINDS`; None is what `symmetric` says.
            "mask" has 0 and K - 1 random values.
        share: of the connections of each tensor, those that may use another option than the first, which is 0
            (kind="mask", form="dense", greedy selection); None is all of them. With k=2 this is edge-popup.

    Raises:
        SlotkitError: for a value that is not accepted, or a model without such weights.
    """
    settings = ReelSettings(k, seed, init, sharing, symmetric, kind)
    selection, update = find_selection(selection), find_update(update)
    check_form(form, engine, update, tables)
    check_share(share, form, selection, kind)
    check_others(others)
    picked = pick(model, where)
    # All reels are made before the model is changed, so that a refusal leaves it as it was.
    reels = [_reel(one, settings) for one in picked]
    for one in picked:
        kept_of(share, one.parameter.numel(), one.name)
    chosen = make_form(form, picked, reels, selection, update, engine, tables, share)
    return SlotMachine(model, chosen, treat_others(model, picked, others), selection)


def make_form(
    form: str,
    picked: list[Picked],
    reels: list[Reel],
    selection: str,
    update: str = "all",
    engine: str = "auto",
    tables: str = "auto",
    share: float | None = None,
) -> Form:
    """Make the picked parameters those of a machine, in the form of that name."""
    if form == "dense":
        return DenseForm(picked, reels, selection, update, share)
    return LatentForm(picked, reels, selection, engine, tables)


def randomize(
    model: nn.Module, k: int = 1, init: str | Init = "glorot-uniform", seed: int = 0, where: Where = None
) -> None:
    """Give an ordinary network, in place, the weights of an untrained slot machine.

    Each weight becomes one of the K options that the slot machine of the same seed would have, without
    sharing and of independent options, picked uniformly: the start of the authors' learned-weight baselines
    (their `subnet_K_0`).
    """
    settings = ReelSettings(k, seed, init)
    for one in pick(model, where):
        reel = _reel(one, settings)
        device = one.parameter.device
        index = pick_uniformly(k, reel.draw(INITIAL_PICK, 0, device))
        with torch.no_grad():
            one.parameter.copy_(take(reel.options(device), index))


def _reel(one: Picked, settings: ReelSettings) -> Reel:
    return settings.reel(one.name, one.parameter.shape, one.channel_dim)


def check_share(share: float | None, form: str, selection: str, kind: str | None) -> None:
    """Raise SlotkitError for a share that can't be, or with what doesn't have one."""
    if share is None:
        return
    if not 0 < share <= 1:
        raise SlotkitError(f"share is {share}. Give a share of the connections, above 0 and at most 1.")
    if kind != "mask":
        raise SlotkitError(
            "share says how many connections are not 0, so 0 has to be an option. Use kind='mask'."
        )
    if selection != "greedy":
        raise SlotkitError("share ranks the connections of a tensor by their scores. Use greedy selection.")
    if form != "dense":
        raise SlotkitError(
            "share makes a connection's choice depend on the scores of all others of its tensor, and the "
            "latent form looks at each alone. Use form='dense'."
        )


def check_form(form: str, engine: str, update: str, tables: str) -> None:
    """Raise SlotkitError for what the form doesn't have."""
    if form not in FORMS:
        raise SlotkitError(f"There is no form {form!r}. Choose one of {', '.join(FORMS)}.")
    if tables not in TABLES:
        raise SlotkitError(
            f"There is no storage policy tables={tables!r}. Choose one of {', '.join(TABLES)}."
        )
    if form == "latent" and update == "selected":
        raise SlotkitError(
            "update='selected' moves one score of K, so the scores leave the line that the latent form "
            "relies on. Use form='dense'."
        )
    if form == "dense" and (engine, tables) != ("auto", "auto"):
        raise SlotkitError(
            "engine and tables belong to the latent form. Leave them out, or use form='latent'."
        )
