"""Gap: two sources differ in several settings. Which of them explains that their accuracies differ?

The table is tidy: one number a row, with columns quantity, name, low_level, high_level, between (whether
the two ends differ in that factor), value, low, high (ends of the 95 % interval; NaN without one), n (runs
behind it), run, cell (levels of the factors, as "+--+") and seed. All accuracies are of the test set, at the
best epoch by validation, which is read greedily and without dropout in every cell. Factors of evaluation have
the level of the reference everywhere; only `end` and `gap` read the reproduction at its own level. By
quantity, `name` and `value` are

    effect          factor                points gained by its high level over its low one, averaged over
                                          all levels of the others (a main effect)
    reading         factor of evaluation  the same, both levels read from the same checkpoints
    interaction     "a x b = c x d"       half of what the effect of a grows by when b goes from low to high,
                                          in points; the sum over the pairs, which the design can't separate
    step up         factor                points gained by the reproduction, if this factor alone is changed
    step down       factor                points lost by the reference, if this factor alone is changed
    end             source                its accuracy in %, mean over seeds
    gap             -                     accuracy of the reference less that of the reproduction, in points
    explained       -                     sum of the effects between the ends, in points: the gap, if all
                                          effects simply added up
    accuracy        status                accuracy of one run in %, NaN if it diverged

A run that collapsed (its network ends no better than chance, as with dead layers) is left out of main
effects and interactions, because it would dominate them. The verdict names such runs and those that diverged.

Effects are estimated by least squares over the runs of the design. Their t intervals take the noise between
the seeds of a cell (`slotkit.analyses.gap.factorial`); end, gap, step up and step down have bootstrap
intervals over the seeds. A main effect is an average over all combinations, also over those that no source
has and that may not learn at all. Step up and step down are measured at the ends, and factors are ranked by
the mean of the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from slotkit.analyses.common.analysis import Analysis, Setting, names

if TYPE_CHECKING:
    from slotkit.analyses.gap.compute import analyze

__all__ = ["ANALYSIS", "analyze"]

ANALYSIS = Analysis(
    "gap",
    "Which differing setting of two sources explains their gap: a factorial sweep, trained and ranked.\n\n"
    "The same command again goes on with a sweep that was interrupted, and trains nothing if it is finished.",
    compute="slotkit.analyses.gap.compute",
    settings=(
        Setting("dataset", str, None, "mnist, cifar10, ..., parquet:DIR. Default: the reference's."),
        Setting("model", str, None, "lenet (default), conv2, conv4, conv6 or vgg19."),
        Setting("selection", str, None, "greedy (default) or probabilistic."),
        Setting("reference", str, None, "Recipe of the upper end. Default: authors-MODEL-SELECTION."),
        Setting("reproduction", str, None, "Recipe of the lower end. Default: ceng501-MODEL-SELECTION."),
        Setting(
            "factors",
            str,
            None,
            'Those to vary, as "update rule,option bound". Default: all.',
            parse=names,
        ),
        Setting("k", int, None, "Options a connection. Default: 8."),
        Setting("epochs", int, None, "Epochs of every run. Default: the reference's."),
        Setting("seeds", str, None, "Repetitions of every cell. Default: 0,1."),
        Setting("limit_batches", int, None, "End every epoch after so many batches."),
        Setting("data_dir", str, None, "Where datasets lie. Default: SLOTKIT_DATA, else ./data."),
        Setting("set_", list[str], None, "A setting of every run.", metavar="A.B=V"),
        Setting("executor", str, None, "local (processes, the default), ray or inline; see `slotkit sweep`."),
        Setting("jobs", int, None, "Runs at the same time. Default: one a core."),
        Setting("threads", int, None, "Threads of each run. Default: 1."),
        Setting("name", str, None, "Name of the sweep's folder. Default: by model, dataset, K, selection."),
    ),
    trains="slotkit.analyses.gap.command",
    order=5,
)


def __getattr__(name: str) -> Any:
    return ANALYSIS.attribute(name)
