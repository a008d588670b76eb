"""What a recipe that asks people takes in its YAML, and a batch made from it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..data import OBJECTIVES, Preference, Prompt
from ..recipe import RecipeError
from ..runtime.identity import checkpoint_name
from ..sampling import Draft
from .batch import Candidate, Settings, make_items
from .step import prepare


@dataclass(kw_only=True)
class PeopleOptions:
    own_prompts: dict[str, int] = field(
        default_factory=dict,
        metadata={"help": "how many prompts people write themselves, by objective; answers are drawn meanwhile"},
    )
    turns: int = field(default=1, metadata={"help": "of people's conversations at most, each on the chosen answer"})
    overlap: float = field(default=0.0, metadata={"help": "share of the items that several people answer"})
    overlap_people: int = field(default=2, metadata={"help": "how many these are given to"})
    second_look: float = field(
        default=0.0, metadata={"help": "share of the items, others than these, that another person looks at again"}
    )
    gold: list[dict] = field(
        default_factory=list, metadata={"help": "sources of preferences known to be right, to see how people work"}
    )
    gold_share: float = field(default=0.0, metadata={"help": "of what somebody sees, asked of gold"})
    guidelines: dict[str, str] = field(
        default_factory=dict, metadata={"help": "files of Markdown by objective, instead of the project's own"}
    )

    def check_people(self) -> None:
        """Raises RecipeError for options that contradict each other."""
        if unknown := sorted(set(self.own_prompts) - set(OBJECTIVES)):
            raise RecipeError(f"own_prompts: found {unknown[0]!r}, expected {' or '.join(OBJECTIVES)}")
        if self.overlap + self.second_look > 1:
            found = f"{self.second_look} beside overlap {self.overlap}"
            raise RecipeError(f"second_look: found {found}, expected at most 1 together; what several answer has none")
        if bool(self.gold) != (self.gold_share > 0):
            found = "gold without it" if self.gold else "it without gold"
            raise RecipeError(f"gold_share: found {found}, expected both or neither")


def ask_people(
    options: Any,
    pairs: Sequence[tuple[Prompt, tuple[Draft, Draft]]],
    made: Mapping[int, tuple[float, str]],
    gold: Sequence[Preference],
    guidelines: dict[str, str],
) -> None:
    """Prepares the batch of people.

    Args:
        options: of recipes/annotate.py, PeopleOptions among them. made: temperature and checkpoint of each draft, by
            its identity.
    """

    def candidate(draft: Draft) -> Candidate:
        heat, path = made[id(draft)]
        return Candidate(draft.answer, draft.finished, checkpoint_name(path), heat)

    rows = [(p.objective, p.messages, (candidate(a), candidate(b)), p.source) for p, (a, b) in pairs]
    shares = (options.overlap, options.overlap_people, options.second_look)
    items = make_items(rows, options.own_prompts, gold, options.seed, *shares)
    taken = {one.name: getattr(options, one.name) for one in fields(Settings) if hasattr(options, one.name)}
    prepare(options.output_dir, Settings(**taken | {"guidelines": guidelines}), items, asdict(options))
