"""The table of docs/finetuning.md from the folders of `slotkit finetune`, one a seed: mean and spread.

python docs/finetuning.py finetuned-s0 finetuned-s1 finetuned-s2
"""

from __future__ import annotations

import sys
from pathlib import Path

from slotkit.runs.folder import RunFolder
from slotkit.training.experiment import mean_and_spread


def percent(accuracies: list[float]) -> str:
    """ "97.71 ± 0.09" of fractions."""
    mean, spread = mean_and_spread([100 * accuracy for accuracy in accuracies])
    return f"{mean:.2f}" if spread is None else f"{mean:.2f} ± {spread:.2f}"


def main(folders: list[Path]) -> None:
    """Print one row a network."""
    tables = [RunFolder(path).summary()["table"] for path in folders]
    print("| network | epochs as slot machine | epochs of weights | validation, % | test, % |")
    print("|---|---|---|---|---|")
    for rows in zip(*tables, strict=True):
        parts = [percent([row[part]["accuracy"] for row in rows]) for part in ("validation", "test")]
        first = rows[0]
        print(f"| {first['network']} | {first['slot_epochs']} | {first['epochs']} | {' | '.join(parts)} |")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
