"""Pictures of laws: losses against sizes with their parabolas, against FLOPs with what was predicted, mixes, gains."""

from collections.abc import Container, Mapping, Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from ..scaling.isoflop import Budget
from .figures import MUTED, SERIES, _legend, _short, _svg


def _powers(axes: Axes) -> None:
    """A logarithmic axis with plain numbers, where matplotlib's own would be formulas."""
    axes.set_xscale("log")
    low, high = np.log10(axes.get_xlim())
    if high - low < 2:
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda x, _: f"{x:.0e}" if f"{x:.0e}"[0] in "25" else ""))
    else:
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0e}"))


def isoflop(label: str, budgets: Sequence[Budget], minima: Container[float]) -> Markup:
    """Losses against sizes, a colour per budget, with the parabola of each whose FLOPs are among `minima`."""

    def draw(axes: Axes) -> None:
        for i, budget in enumerate(budgets):
            colour = SERIES[i % len(SERIES)]
            axes.scatter(budget.sizes, budget.losses, 14, color=colour, label=f"{budget.flops:.3g} FLOPs")
            if budget.flops in minima:
                grid = np.geomspace(budget.sizes.min(), budget.sizes.max(), 50)
                axes.plot(grid, budget.curve(grid), color=colour, linewidth=1)
        _powers(axes)
        axes.set(xlabel="parameters", ylabel="loss, nats a token")
        _legend(axes)

    return _svg(label, draw, width=4.2, height=2.8)


def prediction(
    label: str, fitted: tuple[Sequence, Sequence], targets: Sequence[tuple[float, float, float, float]], ylabel: str
) -> Markup:
    """Points fitted on against FLOPs; targets, (flops, measured, low, high), with the interval predicted for each."""

    def draw(axes: Axes) -> None:
        axes.scatter(*fitted, 12, color=SERIES[0], alpha=0.7, label="fitted on")
        for i, (flops, measured, low, high) in enumerate(targets):
            axes.vlines(flops, low, high, color=SERIES[1], linewidth=4, alpha=0.4, label="predicted" if not i else None)
            axes.scatter([flops], [measured], 30, color=SERIES[2], marker="x", label="measured" if not i else None)
        _powers(axes)
        axes.set(xlabel="FLOPs", ylabel=ylabel)
        _legend(axes)

    return _svg(label, draw, width=4.2, height=2.8)


def mix(label: str, rows: Mapping[str, tuple[float, float, float]], natural: Sequence[float]) -> Markup:
    """Shares of a proposed mix with their intervals, per cent, and the natural ones as ticks."""

    def draw(axes: Axes) -> None:
        places = np.arange(len(rows))
        share, low, high = (100 * np.array(column) for column in zip(*rows.values(), strict=True))
        axes.hlines(places, low, high, color=SERIES[0], linewidth=2, alpha=0.5)
        axes.scatter(share, places, 22, color=SERIES[0], label="proposed")
        axes.scatter(100 * np.asarray(natural), places, 40, color=MUTED, marker="|", label="natural")
        axes.set_yticks(places, [_short(name, 16) for name in rows])
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="% of the tokens")
        axes.grid(axis="y", visible=False)
        _legend(axes)

    return _svg(label, draw, width=4.2, height=0.8 + 0.24 * len(rows))


def gains(label: str, rows: Mapping[str, tuple[float, float, float]], unit: str = "nats a token") -> Markup:
    """Gains with their intervals, one line per name from the top; left of the line is worse than none."""

    def draw(axes: Axes) -> None:
        places = np.arange(len(rows))
        mean, low, high = (np.array(column) for column in zip(*rows.values(), strict=True))
        axes.axvline(0, color=MUTED, linestyle=":", linewidth=1)
        axes.hlines(places, low, high, color=SERIES[0], linewidth=2, alpha=0.5)
        axes.scatter(mean, places, 22, color=SERIES[0])
        axes.set_yticks(places, [_short(name, 20) for name in rows])
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"gain, {unit}")
        axes.locator_params(axis="x", nbins=6)
        axes.grid(axis="y", visible=False)

    return _svg(label, draw, width=4.2, height=0.8 + 0.24 * len(rows))
