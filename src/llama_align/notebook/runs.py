"""A run of rounds: its steps by name, what they measured, the report."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from ..recipe import RecipeError
from ..report import inputs, write_report
from ..runtime.overview import OVERVIEW
from . import html
from .results import Result


class Run:
    """The finished steps of a run of rounds by name, each a `Result`.

    Raises:
        RecipeError: the folder of no run.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / OVERVIEW).is_file():
            raise RecipeError(f"{folder}: found no {OVERVIEW}, expected the folder of a run of rounds")

    @cached_property
    def _run(self) -> inputs.Run:
        return inputs.read_run(self.folder)

    @property
    def _finished(self) -> dict[str, inputs.Step]:
        return {step.name: step for step in self._run.steps if step.metrics is not None}

    def __getitem__(self, name: str) -> Result:
        if name not in self._finished:
            raise RecipeError(f"{self.folder}: found no finished step {name!r}, expected one of {', '.join(self)}")
        return Result(self._finished[name].directory)

    def __iter__(self) -> Iterator[str]:
        return iter(self._finished)

    def __len__(self) -> int:
        return len(self._finished)

    def __contains__(self, name: object) -> bool:
        return name in self._finished

    @property
    def evaluation(self) -> Result:
        """The last step that measured models.

        Raises:
            RecipeError: none did.
        """
        if not self._run.evaluations:
            raise RecipeError(f"{self.folder}: found no step that measured anything, expected one to look at")
        return Result(self._run.evaluations[-1].directory)

    def report(self) -> Path:
        """Writes the report as one HTML page into the folder, and says where."""
        return write_report(self.folder, self.folder / "report.html")

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}: {', '.join(self)})"

    def _repr_html_(self) -> str:
        rows = [[step.name, step.recipe, step.status] for step in self._run.steps]
        return html.titled(self._run.name, html.table(["step", "recipe", ""], rows))
