"""The rules a YAML may list, with their options. Knows values; nothing of what the rules do.

    rules:
      - {rule: clean, exclamations: 1}
      - {rule: quality, by: [reward, model], top: 0.25}
      - {rule: distinct, similarity: 0.9}

They are applied in this order, each to what the one before left.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from ..recipe.bounds import Misfit, fitting, hints_of
from ..recipe.errors import RecipeError
from .cleaning import APOLOGIES


@dataclass(frozen=True)
class Rule:
    """What all rules have: the options of the recipe that they need, and what does not fit among their own."""

    def needs(self) -> tuple[str, ...]:
        """Options of the recipe without which it can do nothing."""
        return ()

    def fault(self) -> tuple[str, Any, str] | None:
        """An option, what was found and what was expected, where they contradict each other."""
        return None


@dataclass(frozen=True)
class Clean(Rule):
    """emoji: remove them, drop the record, or keep them. exclamations: marks an answer keeps, the others are full
    stops; null for any number."""

    emoji: Literal["remove", "drop", "keep"] = "remove"
    exclamations: int | None = 1


@dataclass(frozen=True)
class Balance(Rule):
    """share: of what is left at most so many answers have one of the phrases; those of the least worth go."""

    phrases: list[str] = field(default_factory=lambda: list(APOLOGIES))
    share: float = 0.05

    def fault(self):
        empty = not self.phrases or not all(phrase.strip() for phrase in self.phrases)
        return ("phrases", self.phrases, "at least one, none of them empty") if empty else None


@dataclass(frozen=True)
class Topics(Rule):
    """classes: names that the checkpoint chooses from; none: the classifier's own. keep: only these. shares: largest
    share of what is left, by class; those of the least worth go."""

    classes: list[str] = field(default_factory=list)
    keep: list[str] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)

    def needs(self):
        return ("model",) if self.classes else ("classifier",)

    def fault(self):
        if self.classes and (len(set(self.classes)) < max(2, len(self.classes)) or "" in self.classes):
            return "classes", self.classes, "two or more that differ"
        for name in ("keep", "shares"):
            if self.classes and (unknown := [one for one in getattr(self, name) if one not in self.classes]):
                return name, unknown[0], f"some of {', '.join(self.classes)}"
        return None


@dataclass(frozen=True)
class Quality(Rule):
    """by: reward, the share `top` of the highest rewards is good; model, what gets all points is good. union: good by
    either (Llama 3), or by both. scale: general or code. drop: false to score alone."""

    by: list[str] = field(default_factory=lambda: ["reward"])
    top: float = 0.25
    union: Literal["either", "both"] = "either"
    scale: Literal["general", "code"] = "general"
    drop: bool = True

    def needs(self):
        return tuple({"reward": "reward_models", "model": "model"}[one] for one in self.by)

    def fault(self):
        return _some_of("by", self.by, ("reward", "model"))


@dataclass(frozen=True)
class Difficulty(Rule):
    """by: model, points from 1 to 3; intentions, how many the model lists; spread, the standard deviation of the
    rewards of several answers to the prompt. hardest: share that stays."""

    by: list[str] = field(default_factory=lambda: ["model"])
    hardest: float = 1.0

    def needs(self):
        needed = {"model": ("model",), "intentions": ("model",), "spread": ("reward_models",)}
        return tuple(dict.fromkeys(name for one in self.by for name in needed[one]))

    def fault(self):
        return _some_of("by", self.by, ("model", "intentions", "spread"))


@dataclass(frozen=True)
class Distinct(Rule):
    """similarity: cosine from which a record goes that is near one that stays. dimensions: of weighted words, where no
    embedder is named. cluster: records in one, about."""

    similarity: float = 0.9
    dimensions: int = 128
    cluster: int = 1000


@dataclass(frozen=True)
class WorstPairs(Rule):
    """drop: share of the pairs whose chosen answer gains least on the rejected one by the reward models; or gap: the
    least gain. Of preferences alone."""

    drop: float | None = None
    gap: float | None = None

    def needs(self):
        return ("reward_models",)

    def fault(self):
        given = [name for name in ("drop", "gap") if getattr(self, name) is not None]
        return None if len(given) == 1 else ("drop, gap", " and ".join(given) or "neither", "one of them")


@dataclass(frozen=True)
class Best(Rule):
    """count or share: so many of the highest worth stay. even: as many of each topic, as far as there are."""

    count: int | None = None
    share: float | None = None
    even: bool = False

    def fault(self):
        return _count_or_share(self)


@dataclass(frozen=True)
class Chance(Rule):
    """count or share: so many stay, drawn by the seed; the control for any other rule."""

    count: int | None = None
    share: float | None = None

    def fault(self):
        return _count_or_share(self)


RULES: dict[str, type[Rule]] = {
    "clean": Clean,
    "balance": Balance,
    "topics": Topics,
    "quality": Quality,
    "difficulty": Difficulty,
    "distinct": Distinct,
    "worst_pairs": WorstPairs,
    "best": Best,
    "chance": Chance,
}


def _some_of(name: str, found: list[str], known: tuple[str, ...]) -> tuple[str, Any, str] | None:
    wrong = not found or len(set(found)) < len(found) or not set(found) <= set(known)
    return (name, found, f"some of {', '.join(known)}, each once") if wrong else None


def _count_or_share(rule: Any) -> tuple[str, Any, str] | None:
    given = [name for name in ("count", "share") if getattr(rule, name) is not None]
    return None if len(given) == 1 else ("count, share", " and ".join(given) or "neither", "one of them")


def parse(rows: list[dict]) -> list[tuple[str, Rule]]:
    """Name and options of every rule, in order.

    Raises:
        RecipeError: an unknown rule or key, a value of another type or out of bounds, or what a rule lacks above it.
    """
    if not rows:
        raise RecipeError(f"rules: found none, expected at least one of {', '.join(RULES)}")
    found = [_rule(f"rules[{number}]", row) for number, row in enumerate(rows)]
    scored = {"quality", "difficulty"}
    for number, (name, rule) in enumerate(found):
        above = {other for other, _ in found[:number]}
        if name == "best" and not scored & above:
            raise RecipeError(f"rules[{number}] (best): found no rule quality or difficulty above it, expected one")
        if name == "best" and rule.even and "topics" not in above:
            raise RecipeError(f"rules[{number}] (best), key 'even': found no rule topics above it, expected one")
    return found


def _rule(where: str, row: dict) -> tuple[str, Rule]:
    name = row.get("rule")
    if name not in RULES:
        raise RecipeError(f"{where}, key 'rule': found {name!r}, expected one of {', '.join(RULES)}")
    kind, where = RULES[name], f"{where} ({name})"
    hints, values = hints_of([kind]), {}
    for key, value in row.items():
        if key == "rule":
            continue
        if key not in hints:
            raise RecipeError(f"{where}, key {key!r}: unknown, known: {', '.join(hints) or 'none'}")
        try:
            values[key] = fitting(key, value, hints[key])
        except Misfit as misfit:
            place = "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in misfit.keys)
            raise RecipeError(f"{where}, key '{key}{place}': {misfit}") from misfit
    rule = kind(**values)
    if fault := rule.fault():
        key, value, expected = fault
        raise RecipeError(f"{where}, key {key!r}: found {value}, expected {expected}")
    return name, rule


def check(rules: list[tuple[str, Rule]], kind: str, given: dict[str, Any]) -> None:
    """Whether the rules fit the kind of records, and each option of the recipe is there that a rule needs.

    Args:
        given: options of the recipe by name, those among them that rules alone read.

    Raises:
        RecipeError: names the rule or the option.
    """
    needed = {option for _, rule in rules for option in rule.needs()}
    for number, (name, rule) in enumerate(rules):
        if isinstance(rule, WorstPairs) and kind != "preference":
            raise RecipeError(f"rules[{number}] ({name}): found records of the kind {kind}, expected preference")
        for option in rule.needs():
            if not given[option]:
                raise RecipeError(f"rules[{number}] ({name}): found no {option}, expected it with this rule")
        if name == "difficulty" and "spread" in rule.by and kind != "sample":
            needed.add("samples")
            if not given["samples"]:
                raise RecipeError(f"rules[{number}] (difficulty): found no samples, expected files of them for spread")
        if name == "distinct":
            needed.add("embedder")
    for option, value in given.items():
        if value and option not in needed:
            raise RecipeError(f"{option}: found {value!r}, expected none; no rule reads it")


def options_of(rule: Rule) -> dict[str, Any]:
    """The options of a rule by name, for its ledger."""
    return dataclasses.asdict(rule)
