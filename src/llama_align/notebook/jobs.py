"""A recipe's YAML as an object: its options, its trainer, and what came out. It runs the recipe's own code."""

import importlib.util
import inspect
import shlex
import typing
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from ..recipe import RecipeError, Training, parse
from ..recipe.quiet import LOG
from ..recipe.results import started_as
from ..recipe.yaml_files import read_yaml
from ..rounds.checking import recipe_of
from ..rounds.command import recipes_of
from ..runtime.output import into
from ..runtime.progress import Standing, shown_by
from . import html
from .results import Result
from .runs import Run

PLAN = "rounds"  # the recipe whose YAML is a plan


def load(config: str | Path, recipe: str | None = None, **options: Any) -> "Job":
    """A recipe with the options of a YAML, ready to run.

    Args:
        config: the YAML.
        recipe: which one; by default what a plan beside the file says, else the one that the file is named after
            (sft_best.yaml: sft).
        **options: win over those of the file, which has the same names.

    Raises:
        RecipeError: no such file or recipe, or options that the recipe refuses.
    """
    return Job(Path(config), recipe or _recipe_of(Path(config)), options)


class Job:
    """A recipe and its options. Nothing is loaded before `trainer` or `run`.

    Args:
        config: the YAML.
        recipe: its name.
        options: beside those of the file, which they win over.
    """

    def __init__(self, config: Path, recipe: str, options: dict[str, Any]):
        self.config, self.recipe, self.options = config, recipe, options
        self.module = _module(recipe, recipes_of(config))
        kinds = [kind for name, kind in typing.get_type_hints(self.module.main).items() if name != "return"]
        if recipe == PLAN:
            self.parts = parse(kinds, [], values={"plan": str(config)} | options)
        else:
            self.parts = parse(kinds, ["--config", str(config)], values=options)
        self.given = (read_yaml(config).content if recipe != PLAN else {}) | options

    @property
    def output_dir(self) -> Path:
        """The folder of what comes out."""
        return Path(next(part.output_dir for part in self.parts if hasattr(part, "output_dir")))

    @cached_property
    def training(self) -> Training:
        """The trainer with its data, made at the first look.

        Raises:
            RecipeError: a recipe that trains nothing.
        """
        self._expect_trainer()
        return self.module.build(*self.parts)

    def _expect_trainer(self) -> None:
        if not hasattr(self.module, "build"):
            raise RecipeError(
                f"{self.recipe}: found a recipe without a trainer, expected one that trains (run() runs it)"
            )

    @property
    def trainer(self):
        """TRL's or transformers' trainer, as the recipe makes it."""
        return self.training.trainer

    def run(self, quiet: bool = False) -> Result | Run:
        """Runs the recipe to its end, as the command does: a `Result`, of a plan the `Run`.

        Args:
            quiet: all that is printed goes to `output.log` in `output_dir`, and no bar is shown.
        """
        with _silent(self.output_dir) if quiet else nullcontext(), started_as(self._command, self.given):
            if hasattr(self.module, "build"):
                self.training.run()
            else:
                self.module.main(*self.parts)
        return Run(self.output_dir) if self.recipe == PLAN else Result(self.output_dir)

    @property
    def _command(self) -> str:
        """What a shell runs to the same end, for the card."""
        options = "".join(f", {name}={value!r}" for name, value in self.options.items())
        call = f"llama_align.load({str(self.config)!r}, {self.recipe!r}{options}).run()"
        return shlex.join(["python", "-c", f"import llama_align; {call}"])

    def train(self, quiet: bool = False) -> Result:
        """Trains; `run`, for a recipe that does."""
        self._expect_trainer()
        return self.run(quiet)

    def __repr__(self) -> str:
        return f"Job({self.recipe!r}, {str(self.config)!r})"

    def _repr_html_(self) -> str:
        doc = (inspect.getdoc(self.module) or "").splitlines()
        return html.titled(f"{self.recipe}: {doc[0] if doc else ''}", html.table(["option", ""], self.given.items()))


class _Nobody:
    """Shows nothing of how far a piece of work is."""

    def show(self, standing: Standing) -> None: ...

    def end(self, standing: Standing) -> None: ...


@contextmanager
def _silent(folder: Path) -> Iterator[None]:
    with into(folder / LOG), shown_by(_Nobody()):
        yield


def _recipe_of(config: Path) -> str:
    if config.is_file() and "steps" in read_yaml(config).content:
        return PLAN
    names = sorted(path.stem for path in recipes_of(config).glob("*.py"))
    if found := recipe_of(config, names):
        return found
    raise RecipeError(f"{config}: found no recipe it is named after, expected recipe= one of {', '.join(names)}")


def _module(recipe: str, folder: Path) -> ModuleType:
    path = folder / f"{recipe}.py"
    if not path.is_file():
        raise RecipeError(f"recipe: found {recipe!r}, expected one of {', '.join(p.stem for p in folder.glob('*.py'))}")
    spec = importlib.util.spec_from_file_location(f"llama_align_recipe_{recipe}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
