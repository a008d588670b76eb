"""Which rules choose from a pool of answers, checked before anything is sampled, and what they chose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..data import GRADES, Preference, Sample
from ..data.records import is_number
from .candidates import RANKS, Pool, best_answers, comparable, graded_pairs, over, top_answers

ONE_EACH = ("best_of_k", "best_of_rounds")
ANSWERS = (*ONE_EACH, "top_share")
PAIRS = "best_against_worst"


@dataclass(frozen=True)
class Choice:
    """Selection rules with their settings.

    select: at most one of `best_of_k` (of this round), `best_of_rounds` (the earlier ones compete, as in Llama 2) and
    `top_share` (of each prompt's answers), and `best_against_worst`. share: for `top_share`. threshold, keep: least
    value, then the share of the answers chosen that stays. rank: the value both go by (`candidates.comparable`). gaps:
    grade -> least gap between the scores of a pair.

    Raises:
        ValueError: names the option that does not fit, what was found and what was expected.
    """

    select: Sequence[str]
    share: float
    threshold: float | None
    keep: float
    gaps: Mapping[str, float]
    rank: str = RANKS[0]

    def __post_init__(self):
        known = (*ANSWERS, PAIRS)
        unknown = [rule for rule in self.select if rule not in known]
        if unknown or not self.select:
            found = repr(unknown[0]) if unknown else "nothing"
            raise ValueError(f"select: found {found}, expected {', '.join(known)}")
        if len([rule for rule in self.select if rule in ANSWERS]) > 1:
            raise ValueError(f"select: found {', '.join(self.select)}, expected one of {', '.join(ANSWERS)} at most")
        for name in ("share", "keep"):
            value = getattr(self, name)
            if not is_number(value) or not 0 < value <= 1:
                raise ValueError(f"{name}: found {value!r}, expected a share above 0 and at most 1")
        if self.rank not in RANKS:
            raise ValueError(f"rank: found {self.rank!r}, expected one of {', '.join(RANKS)}")
        if self.threshold is not None and not is_number(self.threshold):
            raise ValueError(f"threshold: found {self.threshold!r}, expected a number")
        if not self.gaps:
            raise ValueError("gaps: found an empty table, expected a least gap for at least one grade")
        for grade, gap in self.gaps.items():
            if grade not in GRADES:
                raise ValueError(f"gaps: found grade {grade!r}, expected only {', '.join(GRADES)}")
            if not is_number(gap) or gap < 0:
                raise ValueError(f"gaps, {grade}: found {gap!r}, expected a number of at least 0")

    @property
    def rule(self) -> str | None:
        """The rule that chooses single answers, None where only pairs are made."""
        return next((rule for rule in self.select if rule in ANSWERS), None)

    @property
    def makes_pairs(self) -> bool:
        """Whether best and worst answers become preferences."""
        return PAIRS in self.select

    def answers(self, pool: Pool, score: str) -> list[Sample]:
        """The answers chosen, in the order of their prompts; none where only pairs are made."""
        if self.rule is None:
            return []
        best = best_answers(pool, score) if self.rule in ONE_EACH else top_answers(pool, score, self.share)
        return over(best, comparable(best, pool, score, self.rank), self.threshold, self.keep)

    def pairs(self, pool: Pool, score: str, round_number: int) -> list[Preference]:
        """The preferences made of best and worst answers; none where none are asked for."""
        return graded_pairs(pool, score, self.gaps, round_number) if self.makes_pairs else []
