"""A batch: the items that people are asked about, and the settings they were made with. Written once, then read."""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..chat import Answer, Message
from ..data import OBJECTIVES, Preference, write_jsonl
from ..recipe import RecipeError
from ..runtime.files import write_json

FOLDER = "people"  # within a step's
ITEMS, SETTINGS = "items.jsonl", "settings.json"
GUIDELINES = Path(__file__).parent / "guidelines"


@dataclass(frozen=True)
class Candidate:
    """One of two answers. model: a checkpoint's name, which annotators never see; temperature: None where unknown."""

    answer: Answer
    finished: bool | None = None
    model: str | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class Item:
    """What one annotator is asked about at a time.

    Args:
        prompt: None: the annotator writes it, and answers are drawn then. people: how many have to answer it.
            second_look: another person looks at the first answer to it. gold: which of the two answers is known to be
            better, of an item that is asked to see how somebody works and counts for nothing else.
    """

    id: str
    objective: str
    prompt: list[Message] | None = None
    answers: tuple[Candidate, Candidate] | None = None
    people: int = 1
    second_look: bool = False
    gold: int | None = None
    source: str | None = None

    @property
    def needed(self) -> int:
        """Pieces of work that it takes, a second look among them."""
        return 0 if self.gold is not None else self.people + self.second_look

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Item":
        """The item that `asdict` made a row of."""
        answers = row.get("answers")
        return cls(**row | {"answers": answers and tuple(Candidate(**one) for one in answers)})


@dataclass(frozen=True)
class Settings:
    """How a batch is asked about, and how answers to prompts that annotators write are drawn.

    Args:
        turns: of a conversation at most. gold_share: of what somebody sees, asked to see how they work. models:
            checkpoints that answer, with temperatures, engine and so on as in recipes/annotate.py. guidelines: Markdown
            by objective. made_with: digest of all options that the batch was made with.
    """

    round: int = 1
    seed: int = 0
    turns: int = 1
    gold_share: float = 0.0
    models: list[str] = field(default_factory=list)
    temperature: list[float] = field(default_factory=list)
    max_new_tokens: int = 128
    engine: str = "auto"
    engine_options: dict[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    guidelines: dict[str, str] = field(default_factory=dict)
    made_with: str = ""


@dataclass(frozen=True)
class Batch:
    """Items by name, in order, and their settings."""

    settings: Settings
    items: dict[str, Item]

    @property
    def needed(self) -> int:
        """Pieces of work that it takes."""
        return sum(item.needed for item in self.items.values())

    def write(self, folder: Path) -> None:
        """Writes it into a step's folder; the settings last, which say that it is whole."""
        write_jsonl(folder / FOLDER / ITEMS, [asdict(item) for item in self.items.values()])
        write_json(folder / FOLDER / SETTINGS, asdict(self.settings))

    @classmethod
    def read(cls, folder: Path) -> "Batch":
        """Reads what `write` has written. Raises RecipeError where there is no batch."""
        place = Path(folder) / FOLDER
        if not (place / SETTINGS).is_file():
            raise RecipeError(
                f"{folder}: found no batch ({FOLDER}/{SETTINGS}), expected the output_dir of an annotate step with "
                "annotator: people"
            )
        try:
            settings = Settings(**json.loads((place / SETTINGS).read_text("utf-8")))
            rows = [json.loads(line) for line in (place / ITEMS).read_text("utf-8").split("\n") if line]
            return cls(settings, {row["id"]: Item.of(row) for row in rows})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise RecipeError(f"{place}: found no batch that can be read ({error})") from error


def make_items(
    pairs: Iterable[tuple[str, list[Message], tuple[Candidate, Candidate], str | None]],
    own_prompts: dict[str, int],
    gold: Sequence[Preference],
    seed: int,
    overlap: float = 0.0,
    overlap_people: int = 2,
    second_look: float = 0.0,
) -> dict[str, Item]:
    """The items of a batch: pairs, prompts that annotators write, and gold.

    Args:
        pairs: objective, prompt, the two answers and where the prompt is from. own_prompts: how many by objective.
        overlap: share that is given to `overlap_people`. second_look: share, of others than these, that another
            person looks at; the two together are at most 1.
    """
    rows = [(objective, prompt, answers, source) for objective, prompt, answers, source in pairs]
    rows += [(objective, None, None, "people") for objective, count in own_prompts.items() for _ in range(count)]
    rng = random.Random(f"{seed}/people")
    several = set(rng.sample(range(len(rows)), round(len(rows) * overlap)))
    alone = [number for number in range(len(rows)) if number not in several]
    seconds = set(rng.sample(alone, min(len(alone), round(len(rows) * second_look))))
    items = []
    for number, (objective, prompt, answers, source) in enumerate(rows):
        people = overlap_people if number in several else 1
        items.append(Item(_name(rng), objective, prompt, answers, people, number in seconds, source=source))
    return {item.id: item for item in [*items, *_gold(gold, rng)]}


def _name(rng: random.Random) -> str:
    return f"{rng.getrandbits(48):012x}"  # which does not tell gold from the rest


def _gold(preferences: Sequence[Preference], rng: random.Random) -> list[Item]:
    items = []
    for one in preferences:
        sides = [Candidate(one.chosen, one.chosen_finished), Candidate(one.rejected, one.rejected_finished)]
        better = rng.randrange(2)
        answers = (sides[0], sides[1]) if better == 0 else (sides[1], sides[0])
        items.append(Item(_name(rng), one.objective, one.prompt, answers, gold=better, source=one.source))
    return items


def read_guidelines(named: dict[str, str]) -> dict[str, str]:
    """Markdown by objective: the project's own, or of a user's files.

    Raises:
        RecipeError: an objective that there is none of, or a file that is not text.
    """
    texts = {objective: (GUIDELINES / f"{objective}.md").read_text("utf-8") for objective in OBJECTIVES}
    for objective, path in named.items():
        if objective not in OBJECTIVES:
            raise RecipeError(f"guidelines: found {objective!r}, expected {' or '.join(OBJECTIVES)}")
        try:
            texts[objective] = Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"guidelines.{objective}: found no text in {path!r} ({error}), expected a file"
            ) from error
    return texts
