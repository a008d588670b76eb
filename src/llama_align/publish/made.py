"""How a checkpoint came to be, in `recipe.json` beside it, from which its card can be written anywhere and again."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..models.tensor_files import read_object
from ..runtime.files import write_json
from ..runtime.identity import ADAPTER, BASE, MERGED, adapter_base
from .licences import Origin

MADE = "recipe.json"
KINDS = ("ForCausalLM", "ForSequenceClassification", "ForTokenClassification")

# recipe -> what it leaves and of what records, for steps that left no account of their own
RECIPES = {
    "pretrain": ("A language model pretrained on packed documents.", "document"),
    "sft": ("A chat model by supervised fine-tuning.", "demonstration"),
    "reward": ("A reward model.", "preference"),
    "dpo": ("A chat model by direct preference optimisation.", "preference"),
    "ppo": ("A chat model by proximal policy optimisation.", "prompt"),
    "average": ("The average of several checkpoints.", ""),
    "convert": ("A checkpoint in another form.", ""),
    "add-tokens": ("A base model with further tokens.", ""),
    "choose": ("The best of several checkpoints, as measured.", ""),
}
History = tuple[list[dict[str, Any]], Origin | None]


@dataclass
class RunFacts:
    """What a recipe knows about a run and its model card names.

    Args:
        command: what started it. data: sources by the kind of record, which names the data card. metrics: the final
            ones. pictures: files beside the card, by title. settings: the options in its YAML and on its
            command line.
    """

    command: str = ""
    data: dict[str, list[str]] = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class Made:
    """A checkpoint's origin.

    Args:
        what: one line. base: what it started from. auto: the class of transformers that loads it. more: rows of a table
            that only its trainer knows, by title. earlier: the stages before, the first one first. origin: the model
            of others that all this began with; None for random weights.
    """

    what: str = ""
    stage: str = ""
    base: str = ""
    objective: str = ""
    paper: str = ""
    steps: int | None = None
    trainer: str = ""
    auto: str = "AutoModelForCausalLM"
    tags: list[str] = field(default_factory=list)
    facts: RunFacts = field(default_factory=RunFacts)
    more: dict[str, dict[str, Any]] = field(default_factory=dict)
    earlier: list[dict[str, Any]] = field(default_factory=list)
    origin: Origin | None = None

    def write(self, folder: Path) -> None:
        """Writes it beside the checkpoint."""
        fields = {"facts": vars(self.facts), "origin": self.origin and vars(self.origin)}
        write_json(folder / MADE, vars(self) | fields)

    @classmethod
    def read(cls, folder: Path) -> "Made | None":
        """What lies beside a checkpoint; None where nothing does.

        Raises:
            ValueError: a file of another kind.
        """
        path = folder / MADE
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text("utf-8"))
            facts, origin = RunFacts(**found.pop("facts")), found.pop("origin")
            return cls(**found, facts=facts, origin=origin and Origin(**origin))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path}: found {error}, expected what a recipe wrote there") from error

    @property
    def as_stage(self) -> dict[str, Any]:
        """It as a stage of a later checkpoint's history."""
        return {"stage": self.stage, "command": self.facts.command, "settings": self.facts.settings}


def started_from(name: str) -> tuple[str, str]:
    """What a card calls the start of a run, and the checkpoint it came from: its folder or name; "" for random weights.

    Where one was made for it, what of: an adapter, or a checkpoint.
    """
    made = Path(name) / MERGED
    if not name or not made.is_file():
        return name or "random weights", name
    found = json.loads(made.read_text("utf-8"))
    if "adapter" in found:
        return found["adapter"], found["adapter"]
    return f"{found['checkpoint']}, with control tokens added", found["checkpoint"]


def history(start: str) -> History:
    """The stages that made a start, and the model of others that they began with.

    Args:
        start: a folder, a name on the Hub, or "" for random weights.
    """
    if not start:
        return [], None
    folder = Path(start)
    if not folder.is_dir():
        return [], Origin.on_hub(start)
    before = Made.read(folder)
    if before:
        return [*before.earlier, before.as_stage], before.origin
    base = adapter_base(folder) if (folder / ADAPTER).is_file() and not (folder / BASE).is_dir() else None
    return [], Origin.on_hub(base) if base and not Path(base).is_dir() else Origin.of_folder(folder)


def joined(histories: Iterable[History]) -> History:
    """The stages of several histories, each once, and the model of others that they began with.

    Under several licences, what may be done with what was made of all of them is not for a program to say: the origin
    has them all, and `licences.check_terms` refuses it.
    """
    stages, origins = {}, []
    for earlier, origin in histories:
        stages |= {json.dumps(stage, sort_keys=True, default=str): stage for stage in earlier}
        origins += [origin] if origin else []
    licences = {str(origin.licence): origin for origin in origins if origin.licence}
    if len(licences) > 1:
        return [*stages.values()], Origin(card={"license": sorted(licences)})
    return [*stages.values()], next(iter([*licences.values(), *origins]), None)


def auto_of(folder: Path) -> str:
    """The class of transformers that loads a checkpoint or adapter."""
    if (folder / ADAPTER).is_file():
        kind = str(read_object(folder / ADAPTER).get("task_type"))
        return "AutoModelForSequenceClassification" if kind == "SEQ_CLS" else "AutoModelForCausalLM"
    names = read_object(folder / "config.json").get("architectures") or [""]
    return next((f"AutoModel{kind}" for kind in KINDS if str(names[0]).endswith(kind)), "AutoModelForCausalLM")
