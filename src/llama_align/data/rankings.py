"""Preferences to rows of a reward model: a prompt's answers side by side, with the pairs whose order is known.

InstructGPT and Llama 3 (section 4.1.2) train all pairs of a prompt in one row: its answers are correlated, and the
prompt is encoded once.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..chat import ControlTokens, render_prompt
from .left_out import TooLong, none_left
from .records import GRADES, OBJECTIVES, Preference
from .tokenized import answer_ids, fitting, naming_record

# grade of a pair that nobody graded, label of an answer that nobody judged
UNGRADED = UNKNOWN = -1


@dataclass
class _Row:
    """A prompt, its different answers, and pairs as (better, worse, grade)."""

    prompt: tuple[int, ...]
    objective: int
    first: Preference
    answers: list[tuple[int, ...]] = field(default_factory=list)
    is_safe: list[int] = field(default_factory=list)
    pairs: list[tuple[int, int, int]] = field(default_factory=list)

    def answer(self, ids: Sequence[int], is_safe: bool | None) -> int:
        label = UNKNOWN if is_safe is None else int(is_safe)
        if tuple(ids) not in self.answers:
            self.answers.append(tuple(ids))
            self.is_safe.append(label)
        at = self.answers.index(tuple(ids))
        if self.is_safe[at] == UNKNOWN:
            self.is_safe[at] = label
        return at

    def without_longer(self, most: int) -> tuple["_Row", int]:
        """The row with the answers of at most `most` tokens that still have a pair, and how many were longer."""
        longer = {i for i, answer in enumerate(self.answers) if len(answer) > most}
        pairs = [pair for pair in self.pairs if not longer & {*pair[:2]}]
        kept = sorted({answer for pair in pairs for answer in pair[:2]})
        place = {old: new for new, old in enumerate(kept)}
        pairs = [(place[better], place[worse], grade) for better, worse, grade in pairs]
        answers, is_safe = ([column[old] for old in kept] for column in (self.answers, self.is_safe))
        return _Row(self.prompt, self.objective, self.first, answers, is_safe, pairs), len(longer)

    def shuffled(self, draw: random.Random) -> "_Row":
        # in the order of the record a reward model could tell the better answer by its place
        order = draw.sample(range(len(self.answers)), len(self.answers))
        place = {old: new for new, old in enumerate(order)}
        pairs = [(place[better], place[worse], grade) for better, worse, grade in self.pairs]
        answers, is_safe = ([column[old] for old in order] for column in (self.answers, self.is_safe))
        return _Row(self.prompt, self.objective, self.first, answers, is_safe, pairs)

    def to_dict(self, margins: dict[str, float]) -> dict:
        return {
            "answers_ids": [[*self.prompt, *answer] for answer in self.answers],
            "prompt_length": len(self.prompt),
            "is_safe": self.is_safe,
            "better": [better for better, _, _ in self.pairs],
            "worse": [worse for _, worse, _ in self.pairs],
            "grade": [grade for _, _, grade in self.pairs],
            "margin": [0.0 if grade == UNGRADED else margins.get(GRADES[grade], 0.0) for _, _, grade in self.pairs],
            "objective": self.objective,
        }


@dataclass(frozen=True)
class LeftOut:
    """What `ranking_rows` left out.

    Args:
        rows: without an answer that fits beside another. answers: too long, of rows that stay without them.
        equal: pairs of two equal answers, and edits that are the rejected answer, which would contradict their pair.
    """

    rows: TooLong
    answers: int
    equal: int


def ranking_rows(
    preferences: Iterable[Preference],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    margins: dict[str, float] | None = None,
    too_long: str = "error",
    listwise: bool = False,
    seed: int = 0,
    earlier: Mapping[str, int] | None = None,
) -> tuple[Dataset, LeftOut]:
    """Rows with `answers_ids` (prompt and answer, shuffled), pairs as `better` and `worse` with `grade` and `margin`.

    A record gives chosen > rejected with its grade and, where it has one, edited > rejected with the same grade and
    edited > chosen, which nobody graded; of two equal answers none. An answer that was cut stands without an end of
    turn, as `RewardModel` scores it, and is not equal to the same text with one. `is_safe` per answer and `objective`
    per row are -1 where unknown.

    Args:
        listwise: all records of one prompt and objective share a row; else every record has its own.
        too_long: with `"drop"` a row loses the answers that do not fit, and is left out where no pair is left of it.
        earlier: what the caller left out before, by reason, for the error where no pair is left.

    Returns:
        The rows and what was left out.

    Raises:
        RecordError: prompt and longest answer exceed `max_length` tokens, unless `too_long` is `"drop"`.
    """
    tokens, rows, equal = ControlTokens.of(tokenizer), {}, 0
    for number, record in enumerate(preferences, start=1):
        with naming_record(record, number):
            prompt = tuple(render_prompt(tokenizer, record.prompt, tokens))
        objective = OBJECTIVES.index(record.objective)
        row = rows.setdefault((prompt, objective) if listwise else number, _Row(prompt, objective, record))
        with naming_record(record, number):
            equal += _add(row, record, lambda side, *said: answer_ids(tokenizer, side, *said, tokens))
    found = [(row.first, row) for row in rows.values() if row.pairs]
    kept = fitting(found, lambda pair: len(pair[1].prompt) + 1, max_length, too_long, "prompt")
    if too_long != "drop":
        kept = fitting(kept, lambda pair: _length(pair[1]), max_length, too_long, "chosen or rejected")
    short = [row.without_longer(max_length - len(row.prompt)) for _, row in kept]
    fit = [(row, longer) for row, longer in short if row.pairs]
    dropped = TooLong.of((_length(row) for _, row in found), max_length, len(found) - len(fit))
    if not fit:
        reasons = {"of equal answers": equal, dropped.reason("raise context"): dropped}
        raise none_left("pair", {**(earlier or {}), **reasons})
    draw = random.Random(seed)
    left_out = LeftOut(dropped, sum(longer for _, longer in fit), equal)
    return Dataset.from_list([row.shuffled(draw).to_dict(margins or {}) for row, _ in fit]), left_out


def _length(row: _Row) -> int:
    return len(row.prompt) + max(map(len, row.answers))


def _add(row: _Row, record: Preference, encode) -> int:
    """Adds a record's answers and pairs, and returns how many of its pairs are of equal answers."""
    grade = GRADES.index(record.grade)
    chosen = row.answer(encode("chosen", record.chosen, record.chosen_finished is not False), record.chosen_is_safe)
    rejected = row.answer(
        encode("rejected", record.rejected, record.rejected_finished is not False), record.rejected_is_safe
    )
    edited = chosen if record.edited is None else row.answer(encode("edited", record.edited, True), None)
    if chosen != rejected:
        row.pairs.append((chosen, rejected, grade))
    if edited not in (chosen, rejected):
        row.pairs += [(edited, rejected, grade)] * (chosen != rejected) + [(edited, chosen, UNGRADED)]
    return (chosen == rejected) + (edited == rejected != chosen)
