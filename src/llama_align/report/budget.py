"""A budget as a picture: what models of one loss cost, with what is sampled from them and without."""

import math

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from ..sizes.budget import Budget, short
from ..sizes.laws import PER_PARAMETER_AND_TOKEN
from .figures import MUTED, SERIES, _svg

SERVED = (0, 1, 10)  # tokens of inference for each token that the cheapest model reads


def budget_picture(found: Budget) -> Markup:
    """Compute against parameters for every model of the budget's loss: training alone, and with tokens of inference.

    The lowest point of each curve is the best size for so much inference; a cross stands where the budget's model is.
    """
    least, tokens = found.law.cheapest(found.loss)
    low, high = min(found.parameters, least / 10), max(found.parameters, least * 4)
    sizes = np.geomspace(low * 0.9, high * 1.1, 400)

    def draw(axes: Axes) -> None:
        for colour, times in zip(SERIES, SERVED, strict=False):
            needed = [found.law.tokens_to(found.loss, size) or math.nan for size in sizes]
            total = PER_PARAMETER_AND_TOKEN * sizes * (np.array(needed) + times * tokens / 3)
            name = f"and {short(times * tokens)} tokens of inference" if times else "training alone"
            axes.plot(sizes, total, color=colour, label=name)
            best = int(np.nanargmin(total))
            axes.scatter(sizes[best], total[best], 22, color=colour, zorder=3)
            own = PER_PARAMETER_AND_TOKEN * found.parameters * (found.tokens + times * tokens / 3)
            axes.scatter(found.parameters, own, 28, color=colour, marker="x", zorder=3)
        axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="FLOPs")
        # the curves rise without bound where a model hardly reaches the loss
        bottom = PER_PARAMETER_AND_TOKEN * least * tokens
        axes.set_ylim(bottom * 0.7, bottom * 30)
        axes.set_xticks(_ticks(*sizes[[0, -1]]))
        axes.set_yticks(_ticks(*axes.get_ylim()))
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(lambda value, _: short(value))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}".replace("+", ""))
        title = f"{found.loss:.3f} nats a token ({found.law.name}); cross: {found.name or 'this model'}"
        axes.set_title(title, color=MUTED, fontsize=8.5)
        axes.legend(loc="upper center", fontsize=7.5)

    return _svg("models of the same loss", draw, width=5, height=3.2)


def _ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)))
    return [tick for power in powers for step in (1, 2, 5) if low <= (tick := step * 10.0**power) <= high]
