"""Pictures as inline SVG that follows the page's colours: light, dark and print from one drawing.

Matplotlib draws in placeholder colours, which are then replaced by CSS variables. Ids are salted by the label, and no
date, metadata or outside reference is written, so the same numbers give the same bytes.
"""

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, LINE = "#000090", "#000091", "#000092"
SERIES = tuple(f"#0000a{i}" for i in range(6))
_DASHES = ("-", "--", ":", "-.")
_VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line"} | {c: f"--c{i}" for i, c in enumerate(SERIES)}
_LIGHT = {"--ink": "#1a1d21", "--muted": "#5d6570", "--line": "#d9dde3"} | {
    f"--c{i}": colour for i, colour in enumerate(("#2563c9", "#c2570c", "#14804a", "#8b3fc0", "#b4236a", "#73660a"))
}
_FONT = "font-family: sans-serif"
_NAMESPACE = "http://www.w3.org/2000/svg"
_TITLE, _GAP, _SCALE = 18, 10, 1.4  # of a sheet, in its units
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name may hold dollar signs
    "font.size": 8.5,
    "axes.edgecolor": LINE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": mpl.cycler(color=SERIES),
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-3, 5),
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.borderaxespad": 0.2,
    "lines.linewidth": 1.4,
}
_POINTS = 300  # more than a panel has room for only makes the page heavy


def _svg(label: str, draw: Callable[[Axes], None], width: float = 3.5, height: float = 2.3) -> Markup:
    buffer = io.StringIO()
    with mpl.rc_context():
        mpl.rcdefaults()  # nothing of the user's own style may leak into the page
        mpl.rcParams.update(_STYLE | {"svg.hashsalt": label})
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.add_subplot())
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    body = svg[svg.index(">") + 1 :].replace("xlink:href", "href")
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)  # it would style the whole page
    body = re.sub(r'<g id="[^"]*">', "<g>", body)
    body = re.sub(r"font-family: [^;\"]*", "font-family: inherit", body)
    body = re.sub(r"(fill|stroke): (#0000[9a]\d)", lambda m: f"{m[1]}: var({_VARIABLES[m[2]]})", body)
    box = f"0 0 {72 * width:g} {72 * height:g}"
    return Markup(f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}">{body.strip()}')


def _short(name: str, limit: int = 22) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _thin(values: Sequence[float]) -> np.ndarray:
    """Means of equal stretches, so that at most _POINTS remain and no part of a long curve is left out."""
    stretches = np.array_split(np.asarray(values, float), min(_POINTS, len(values)))
    return np.array([stretch.mean() for stretch in stretches])


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Centred means over an eighth of a long curve. Where it begins, and falls most, over less: the start stays."""
    places, reach = np.arange(len(values)), len(values) // 16
    before = np.minimum(places, reach)
    after = np.minimum(before, places[::-1])
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[places + after + 1] - sums[places - before]) / (before + after + 1)


def _legend(axes: Axes) -> None:
    """Beside the curves, where it can cover none of them."""
    length = 1 if len(axes.get_legend_handles_labels()[0]) <= len(SERIES) else 3  # dashes need room to be seen
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), handlelength=length, handletextpad=0.4, fontsize=7.5)


def _styled(lines: Mapping[str, Any]) -> Iterator[tuple[str, Any, str, str]]:
    """Every line with its name, colour and dashes; where there are more lines than colours they begin anew, dashed."""
    for i, (name, line) in enumerate(lines.items()):
        yield name, line, SERIES[i % len(SERIES)], _DASHES[i // len(SERIES) % len(_DASHES)]


def curves(label: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], measured: bool = True) -> Markup:
    """Values against steps, one line per name; points that are not finite are left out.

    A long curve is smoothed, with the curve as logged faint behind it, unless it was set rather than measured.
    """

    def draw(axes: Axes) -> None:
        for name, (steps, values), colour, dashes in _styled(lines):
            kept = [(x, y) for x, y in zip(steps, values, strict=True) if math.isfinite(y)]
            if not kept:
                continue
            x, y = (_thin(column) for column in zip(*kept, strict=True))
            few = len(x) < 16
            if measured and not few:
                axes.plot(x, y, color=colour, alpha=0.35, linewidth=0.8)
                y = _smoothed(y)
            style = {"color": colour, "linestyle": dashes, "marker": "o" if few else None}
            axes.plot(x, y, label=_short(name, 20), markersize=3, **style)
        axes.set_xlabel("step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(lines) > 1:
            _legend(axes)

    return _svg(label, draw)


def distributions(label: str, groups: Mapping[str, Sequence[float]]) -> Markup:
    """Histograms over shared bins, as shares of each group, with dashed lines at the means."""
    edges = np.histogram_bin_edges(np.concatenate([np.asarray(v, float) for v in groups.values()]), bins=24)

    def draw(axes: Axes) -> None:
        for name, values, colour, dashes in _styled(groups):
            mean, weights = float(np.mean(values)), np.full(len(values), 100 / len(values))
            for kind, alpha in (("stepfilled", 0.25), ("step", 1)):
                named = f"{_short(name, 20)}\nmean {mean:.2f}" if kind == "step" else None
                style = {"color": colour, "alpha": alpha, "linestyle": dashes}
                axes.hist(values, edges, weights=weights, histtype=kind, label=named, **style)
            axes.axvline(mean, color=colour, linestyle="--", linewidth=1)
        axes.set(xlabel="reward", ylabel="% of answers")
        _legend(axes)

    return _svg(label, draw)


def accuracy_by_grade(label: str, grades: Mapping[str, Mapping]) -> Markup:
    """Bars of a reward model's accuracy by grade beside always preferring the longer answer, where that is known."""
    columns = {"accuracy": "reward model", "longer_wins": "longer answer wins"}
    shown = [key for key in columns if any(row.get(key) is not None for row in grades.values())]

    def draw(axes: Axes) -> None:
        width = 0.8 / len(shown)
        for i, key in enumerate(shown):
            places = np.arange(len(grades)) + (i - (len(shown) - 1) / 2) * width
            heights = [100 * (row.get(key) or 0) for row in grades.values()]
            axes.bar(places, heights, width * 0.94, color=SERIES[i] if i == 0 else MUTED, label=columns[key])
            for place, height in zip(places, heights, strict=True):
                axes.text(place, height + 1, f"{height:.0f}", ha="center", fontsize=7.5)
        names = [f"{grade.replace('_', chr(10))}\nn = {row['n']}" for grade, row in grades.items()]
        axes.set_xticks(range(len(grades)), names, fontsize=7.5)
        axes.set(ylim=(0, 125), yticks=range(0, 101, 25), ylabel="% right")
        axes.axhline(50, color=MUTED, linestyle=":", linewidth=1)
        axes.grid(axis="x", visible=False)
        axes.legend(loc="upper left", ncols=2, columnspacing=1)

    return _svg(label, draw, height=2.6)


def reliability(label: str, bins: Sequence[Mapping]) -> Markup:
    """How often the side a reward model prefers was the chosen one, against its probability; area shows the pairs."""

    def draw(axes: Axes) -> None:
        total = sum(row["n"] for row in bins)
        confidence, accuracy = ([100 * row[key] for row in bins] for key in ("confidence", "accuracy"))
        axes.plot([50, 100], [50, 100], color=MUTED, linestyle=":", linewidth=1)
        axes.plot(confidence, accuracy, color=SERIES[0], linewidth=1)
        axes.scatter(confidence, accuracy, [8 + 160 * row["n"] / total for row in bins], color=SERIES[0], alpha=0.6)
        axes.set(xlim=(48, 102), ylim=(min(45, *accuracy) - 3, 104), xlabel="probability given, %", ylabel="% right")

    return _svg(label, draw, height=2.6)


def path(label: str, x: Sequence[float], y: Sequence[float], xlabel: str, ylabel: str) -> Markup:
    """A course through two quantities, fainter at its start, with both ends marked."""

    def draw(axes: Axes) -> None:
        xs, ys = _thin(x), _thin(y)
        axes.plot(xs, ys, color=LINE, linewidth=1, zorder=0.9)
        axes.scatter(xs, ys, 12, color=SERIES[0], alpha=np.linspace(0.25, 1, len(xs)), linewidths=0)
        for i, name, colour in ((0, "start", SERIES[1]), (-1, "end", SERIES[2])):
            axes.scatter(xs[i], ys[i], 40, color=colour, label=name)
        _legend(axes)
        axes.set(xlabel=xlabel, ylabel=ylabel)

    return _svg(label, draw, height=2.6)


def intervals(label: str, rows: Mapping[str, tuple[float, float, float]]) -> Markup:
    """Shares with their intervals in per cent, one line per name from the top."""

    def draw(axes: Axes) -> None:
        places = range(len(rows))
        mean, low, high = (100 * np.array(column) for column in zip(*rows.values(), strict=True))
        axes.hlines(places, low, high, color=SERIES[0], linewidth=2, alpha=0.5)
        axes.scatter(mean, places, 22, color=SERIES[0])
        axes.set_yticks(places, [_short(name, 16) for name in rows])
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="%")
        axes.grid(axis="y", visible=False)

    return _svg(label, draw, height=0.7 + 0.24 * len(rows))


def by_round(label: str, lines: Mapping[str, Sequence[tuple[int, float, float, float]]], ylabel: str) -> Markup:
    """Values with their intervals against rounds, one line per name; points are (round, value, low, high)."""

    def draw(axes: Axes) -> None:
        for name, points, colour, dashes in _styled(lines):
            x, y, low, high = (np.array(column) for column in zip(*points, strict=True))
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(x, y, color=colour, linestyle=dashes, label=_short(name, 20), marker="o", markersize=3.5)
        axes.set_xticks(sorted({point[0] for points in lines.values() for point in points}))
        axes.set(xlabel="round", ylabel=ylabel)
        if len(lines) > 1:
            _legend(axes)

    return _svg(label, draw)


def against(label: str, lines: Mapping[str, Sequence[tuple[float, float, str]]], xlabel: str, ylabel: str) -> Markup:
    """Points (x, y, text), the text beside each, of one name joined in their order."""

    def draw(axes: Axes) -> None:
        for name, points, colour, dashes in _styled(lines):
            x, y, texts = zip(*points, strict=True)
            style = {"color": colour, "linestyle": dashes, "linewidth": 0.8}
            axes.plot(x, y, label=_short(name, 20), marker="o", markersize=3.5, **style)
            for at, value, text in zip(x, y, texts, strict=True):
                axes.annotate(text, (at, value), (3, 3), textcoords="offset points", color=colour, fontsize=7)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.margins(0.12)
        _legend(axes)

    return _svg(label, draw)


def shares_by_round(label: str, shares: Mapping[int, Mapping[int, int]]) -> Markup:
    """Of what each round chose, how much was made in which round: bars of 100%, the newest on top."""
    origins = sorted({origin for found in shares.values() for origin in found})

    def draw(axes: Axes) -> None:
        base = np.zeros(len(shares))
        for i, origin in enumerate(origins):
            counts = np.array([found.get(origin, 0) / sum(found.values()) for found in shares.values()])
            axes.bar(
                list(shares), 100 * counts, 0.7, 100 * base, color=SERIES[i % len(SERIES)], label=f"round {origin}"
            )
            base += counts
        axes.set_xticks(list(shares))
        axes.set(xlabel="chosen in round", ylabel="% of answers")
        axes.grid(axis="x", visible=False)
        _legend(axes)

    return _svg(label, draw)


def lines(
    label: str,
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    log: bool = False,
) -> Markup:
    """Values against whatever they depend on, one line per name; `log` for an axis of powers of two."""

    def draw(axes: Axes) -> None:
        for name, (x, y), colour, dashes in _styled(lines):
            style = {"color": colour, "linestyle": dashes, "marker": "o" if len(x) < 16 else None}
            axes.plot(x, y, label=_short(name), markersize=3, **style)
        if log:
            axes.set_xscale("log", base=2)
            ticks = sorted({value for x, _ in lines.values() for value in x if math.log2(value).is_integer()})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if len(lines) > 1:
            _legend(axes)

    return _svg(label, draw, width=4.2, height=2.6)


def best_of_k(label: str, curves: Mapping[str, Mapping], heldout: str | None = None) -> Markup:
    """Llama 2's figures 7 and 8: the expected best reward of k answers (full) and the median (dashed), by source.

    Args:
        curves: by name, each with `k`, `best`, `median` and `heldout`. heldout: draw this held-out score of the answer
            chosen instead.
    """
    shown = list(curves.items())
    # few colours: where there are more curves, the evenly spread ones
    shown = [shown[i * len(shown) // len(SERIES)] for i in range(len(SERIES))] if len(shown) > len(SERIES) else shown

    def draw(axes: Axes) -> None:
        for colour, (name, curve) in zip(SERIES, shown, strict=False):
            best = curve["heldout"][heldout] if heldout else curve["best"]
            axes.plot(curve["k"], best, color=colour, label=_short(name, 20), marker="o", markersize=3)
            if not heldout:
                axes.plot(curve["k"], curve["median"], color=colour, linestyle="--", linewidth=1)
        ticks = [k for k in shown[0][1]["k"] if k & (k - 1) == 0]
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(k) for k in ticks])
        axes.minorticks_off()
        axes.set(xlabel="answers per prompt", ylabel="held-out score" if heldout else "reward: best, median dashed")
        _legend(axes)

    return _svg(label, draw, height=2.6)


def repeated(label: str, lines: Mapping[str, Sequence[Sequence[Sequence[float]]]], xlabel: str = "step") -> Markup:
    """A panel of a sheet: runs that repeat one another, each its points [x, y], in one colour for each name."""

    def draw(axes: Axes) -> None:
        for name, runs, colour, dashes in _styled(lines):
            style = {"color": colour, "linestyle": dashes, "alpha": 0.8}
            for number, points in enumerate(runs):
                x, y = zip(*((x, y) for x, y in points if math.isfinite(y)), strict=True)
                named = None if number else name
                axes.plot(x, y, label=named, marker="o" if len(x) < 16 else None, markersize=3, **style)
        axes.set_xlabel(xlabel)
        axes.legend(loc="best", fontsize=7.5, handlelength=2 if len(lines) <= len(SERIES) else 3)

    return _svg(label, draw, width=3.0)


def standalone(svg: Markup) -> str:
    """A picture as a file of its own, in the light page's colours on white."""
    body = re.sub(r"var\((--\w+)\)", lambda m: _LIGHT[m[1]], str(svg)).replace("font-family: inherit", _FONT)
    head, _, rest = body.partition(">")
    head = head.replace("<svg", f'<svg xmlns="{_NAMESPACE}" style="background: #fff"', 1)
    return f"{head}>{rest}\n"


def sheet(pictures: Sequence[tuple[str, Markup]], columns: int = 2) -> str:
    """Pictures with their titles as one file, side by side in the light page's colours on white."""
    parts, top, width = [], 0.0, 0.0
    for start in range(0, len(pictures), columns):
        left, tallest = 0.0, 0.0
        for title, svg in pictures[start : start + columns]:
            across, down = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
            name = escape(title)
            style = f"font: bold 9px sans-serif; fill: {_LIGHT['--ink']}"
            parts.append(f'<text x="{left + 6:g}" y="{top + 12:g}" style="{style}">{name}</text>')
            place = f'x="{left:g}" y="{top + _TITLE:g}" width="{across:g}" height="{down:g}"'
            parts.append(standalone(svg).replace("<svg", f"<svg {place}", 1))
            left, tallest = left + across + _GAP, max(tallest, down)
        top, width = top + tallest + _TITLE + _GAP, max(width, left - _GAP)
    size = f'viewBox="0 0 {width:g} {top:g}" width="{_SCALE * width:.0f}" height="{_SCALE * top:.0f}"'
    return f'<svg xmlns="{_NAMESPACE}" {size} style="background: #fff">{"".join(parts)}</svg>'
