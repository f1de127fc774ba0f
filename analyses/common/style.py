"""How the figures look, and the parts that they share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind people can tell apart; without yellow, too pale in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def panels(rows: int, columns: int, title: str) -> tuple[Figure, np.ndarray[Any, Any]]:
    """An empty figure on matplotlib's Agg canvas and its axes (rows, columns)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    return figure, figure.subplots(rows, columns, squeeze=False)


def curves(axes: Axes, data: pd.DataFrame, hue: str, order: list[str], **looks: Any) -> None:
    """Mean over runs of `value` at `at`, a line for each hue, with bootstrap intervals over the runs."""
    import numpy as np
    import seaborn as sns
    from slotkit.analyses.common.statistics import mean_and_interval

    finite = data[np.isfinite(data["value"]) & np.isfinite(data["at"])]
    if finite.empty:
        axes.text(0.5, 0.5, "no finite values", ha="center", transform=axes.transAxes)
        return
    repeated = bool((finite.groupby([hue, "at"], observed=True)["run"].nunique() > 1).any())
    sns.lineplot(
        finite,
        x="at",
        y="value",
        hue=hue,
        hue_order=order,
        palette=colours(order),
        errorbar=(lambda values: mean_and_interval(np.asarray(values))[1:]) if repeated else None,
        ax=axes,
        **looks,
    )


def logarithmic(axes: Axes, which: str) -> None:
    """Set axis "x" or "y" of finished axes to a logarithmic scale, with numbers that can be read."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    if low > 0 and high < 300 * low:
        # Powers of ten alone would be one or two ticks, and the default's labels overlap.
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axis.set_minor_formatter(NullFormatter())


def name_colours(axes: Axes, order: list[str], corner: Literal["upper right", "lower right"]) -> None:
    """A legend of the colours of `curves`, in axes with space for it; none for a single name."""
    from matplotlib.lines import Line2D

    if len(order) > 1:
        handles = [Line2D([], [], color=colour) for colour in colours(order).values()]
        axes.legend(handles, order, loc=corner)


def colours(order: list[str]) -> dict[str, Any]:
    """A colour for each name: seven of their own, more along a scale from dark to light."""
    import seaborn as sns

    found = COLOURS if len(order) <= len(COLOURS) else sns.color_palette("viridis", len(order))
    return dict(zip(order, found, strict=False))


@contextmanager
def house_style() -> Iterator[None]:
    import matplotlib as mpl
    import seaborn as sns

    with mpl.rc_context(), sns.axes_style("ticks"), sns.plotting_context("paper"):
        mpl.rcParams.update(
            {
                "axes.spines.top": False,
                "axes.spines.right": False,
                "legend.edgecolor": "none",
                "legend.framealpha": 0.8,
                "axes.grid": True,
                "grid.color": "0.9",
                "axes.titleweight": "bold",
                "axes.titlelocation": "left",
                "lines.linewidth": 1.6,
            }
        )
        yield
