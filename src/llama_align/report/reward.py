"""Pictures of one reward model as files of their own, beside its model card."""

import re
from collections.abc import Mapping, Sequence

from . import figures

# figures draw in the page's variables; a file of its own brings their values
STYLE = """<style>
svg { --ink: #1a1d21; --muted: #5d6570; --line: #d9dde3; --c0: #2563c9; --c1: #c2570c; background: #fff;
      font-family: sans-serif; }
</style>"""


def reward_pictures(chosen: Sequence[float], rejected: Sequence[float], metrics: Mapping) -> dict[str, str]:
    """SVG files by title: `scores` (Llama 2, figure 27: how a margin shifts both sides), `reliability`, `accuracy`.

    Args:
        chosen, rejected: held-out scores. metrics: with `by_grade` and `reliability`, as of `pair_metrics`.
    """
    found = {
        "scores": figures.distributions("Scores of both sides", {"chosen": chosen, "rejected": rejected}),
        "reliability": figures.reliability("Calibration", metrics["reliability"]),
    }
    if metrics["by_grade"]:
        found["accuracy"] = figures.accuracy_by_grade("Accuracy by grade", metrics["by_grade"])
    return {title: _standalone(svg) for title, svg in found.items()}


def _standalone(svg: str) -> str:
    opening, rest = re.match(r"(<svg[^>]*)>(.*)", str(svg), re.DOTALL).groups()
    return f'{opening} xmlns="http://www.w3.org/2000/svg">{STYLE}{rest}\n'
