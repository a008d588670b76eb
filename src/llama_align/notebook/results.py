"""What a finished step left in its folder, to look at."""

from functools import cached_property
from pathlib import Path
from typing import Any

from ..recipe import RecipeError
from ..report.gates import gate_pictures
from ..report.inputs import Step, read_step
from ..report.sections import best_of_k_pictures, kl_against_reward, learning_curves, reward_model_pictures
from ..report.stages import stage_rows
from ..report.terminal import numbers
from . import html
from .pictures import Pictures


class Result:
    """A step's folder: of a recipe that was run by itself, or within a run of rounds.

    Raises:
        RecipeError: no metrics.json in it.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "metrics.json").is_file():
            raise RecipeError(f"{folder}: found no metrics.json, expected the folder of a finished step")

    @cached_property
    def _step(self) -> Step:
        row = {"name": self.folder.name, "directory": self.folder.name}
        return read_step(self.folder.parent, row, str(self.folder))

    @property
    def metrics(self) -> dict[str, Any]:
        """metrics.json."""
        return self._step.metrics

    @property
    def log(self) -> list[dict[str, Any]]:
        """What the trainer logged, a dict for each time; empty for a recipe that does not train."""
        return self._step.log

    def plot(self, all: bool = False) -> Pictures:
        """Learning curves and what else there is to draw; with `all` schedules, norms and parts of losses, too."""
        curves = [picture for picture in learning_curves(self._step) if all or not picture.later]
        more = (gate_pictures, kl_against_reward, reward_model_pictures, best_of_k_pictures)
        return Pictures([*curves, *(picture for draw in more for picture in draw(self._step))])

    def __repr__(self) -> str:
        return f"Result({str(self.folder)!r})"

    def _repr_html_(self) -> str:
        if not isinstance(self.metrics.get("rows"), list):
            return html.titled(str(self.folder), html.table(["measured", ""], numbers(self.metrics)))
        stages = stage_rows(self.metrics)
        rows = zip(stages.names, stages.cells, strict=True)
        cells = ([name, *(f"{cell.text} {cell.detail}".strip() for cell in row)] for name, row in rows)
        return html.titled(str(self.folder), html.table(["stage", *stages.headings], cells))
