"""What was measured between the stages of a pretraining run, as pictures."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from . import figures
from .figures import SERIES, _svg
from .inputs import Step, pick
from .sections import Picture

_CELL = ("length", "depth", "probes", "hits")


def heat_map(label: str, grid: Sequence[Mapping]) -> Markup:
    """Needles found by the length of the text and their depth in it; cells with a miss say how many were found.

    Args:
        grid: cells with `length` in tokens, `depth` from 0 to 1, `probes` and `hits`.
    """
    lengths, depths = (sorted({cell[key] for cell in grid}) for key in ("length", "depth"))

    def draw(axes: Axes) -> None:
        for cell in grid:
            x, y, share = lengths.index(cell["length"]), depths.index(cell["depth"]), cell["hits"] / cell["probes"]
            for colour, opacity in ((SERIES[0], share), (SERIES[1], 1 - share)):
                axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=colour, alpha=0.7 * opacity, linewidth=0))
            if share < 1:
                axes.text(x, y, f"{cell['hits']}/{cell['probes']}", ha="center", va="center", fontsize=7)
        axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
        axes.set_yticks(range(len(depths)), [f"{100 * depth:.0f}%" for depth in depths])
        axes.set(xlim=(-0.5, len(lengths) - 0.5), ylim=(len(depths) - 0.5, -0.5))
        axes.set(xlabel="tokens of the text", ylabel="depth of the needle")
        axes.grid(visible=False)

    return _svg(label, draw, height=0.9 + 0.16 * len(depths))


def needle_pictures(gates: Mapping[str, Mapping]) -> dict[str, str]:
    """SVG files by title, one for each gate as it came out last.

    Args:
        gates: as in `metrics.json`.
    """
    return {
        f"needles_{number}": figures.standalone(heat_map(f"Needles, {name}", gate["needles"]["grid"]))
        for number, (name, gate) in enumerate(gates.items(), start=1)
    }


def gate_pictures(step: Step) -> list[Picture]:
    """The grid of needles behind every stage of a step whose metrics.json has "gates"."""
    gates = pick(step.where, step.metrics or {}, "gates", "an object") or {}
    pictures = []
    for name, gate in gates.items():
        where = f"{step.where}, gates.{name}"
        grid = pick(where, gate, "needles.grid", "a list of objects", required=True)
        for cell in grid:
            for key in _CELL:
                pick(f"{where}, needles.grid", cell, key, required=True)
        missed = pick(where, gate, "needles.missed", required=True)
        title = f"{name}: " + (f"{missed} needles missed" if missed else "every needle found")
        pictures.append(Picture(title, heat_map(f"Needles, {step.name}, {name}", grid)))
    return pictures
