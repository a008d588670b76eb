"""The curves of a failure as one picture."""

from llama_align.report import figures

from .kinds import Failure


def draw(failure: Failure, curves: dict[str, dict[int, dict]]) -> str:
    """A panel for each quantity, in each the curves of both arms with all seeds."""
    panels = []
    for key, label in failure.panels.items():
        lines = {arm: [found[key] for found in of_seeds.values() if key in found] for arm, of_seeds in curves.items()}
        panels.append((label, figures.repeated(label, lines, failure.axis)))
    return figures.sheet(panels, len(panels))
