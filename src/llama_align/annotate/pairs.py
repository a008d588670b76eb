"""From drafts to graded pairs. Annotators are a function of (prompt, pair) tuples and the round to preferences."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from ..data import GRADES, Preference, Prompt, RecordError
from ..data.records import show
from ..rejection.best_of_k import best_against_worst
from ..rejection.draws import SEED_STRIDE
from ..rewards.models import RewardModels
from ..sampling.dialogs import Draft
from ..sandbox.annotators import Annotator, truly_better

Pair = tuple[Draft, Draft]
TIE = GRADES[-1]  # Llama 2, section 3.2.1: "negligibly better / unsure"
LEFT_OUT = ("ties", "disputed")


@dataclass
class Annotated:
    """A batch of preferences. left_out: pairs by why they are none; facts: what is known of the annotators."""

    preferences: list[Preference]
    left_out: Counter = field(default_factory=Counter)
    facts: dict[str, Any] = field(default_factory=dict)


Annotate = Callable[[Sequence[tuple[Prompt, Pair]], int], Annotated]


def pick_pairs(drafts: Sequence[Draft], count: int = 1) -> list[Pair]:
    """Up to `count` pairs of drafts that differ in their text, no draft in two of them; empty drafts are left out.

    An annotator sees text only: an answer that was cut looks cut, so drafts that did not finish compete, too.
    """
    left = [draft for draft in drafts if draft.text.strip()]
    pairs: list[Pair] = []
    while left and len(pairs) < count:
        first = left.pop(0)
        other = next((i for i, draft in enumerate(left) if draft.text != first.text), None)
        if other is None:
            break
        pairs.append((first, left.pop(other)))
    return pairs


def take_turns(groups: Sequence[Sequence[Draft]], first: int = 0) -> list[Draft]:
    """One draft of every source, then the next of each, so that a pair comes from two sources wherever it can.

    Args:
        first: which source begins. Where there are more sources than a prompt's pairs need, each prompt takes others if
            they begin in turn.
    """
    first %= len(groups)
    return [draft for turn in zip(*groups[first:], *groups[:first], strict=True) for draft in turn]


def check_tasks(prompts: Sequence[Prompt]) -> None:
    """Raises RecordError for the first prompt without the task the sandbox's judge reads."""
    for number, prompt in enumerate(prompts, start=1):
        if prompt.task is None:
            where = f"prompt {number} of {prompt.source or 'the data'}, {show(prompt.messages[-1]['content'])}"
            raise RecordError(where, "task", "nothing", "the task the sandbox's judge reads")


def judge_annotator(noise: float, seed: int, count: int = 1, leave_out: Sequence[str] = ()) -> Annotate:
    """The sandbox's simulated annotators (Llama 2's four-step scale); prompts must carry their `task`.

    The majority decides, of an even number in doubt the first; the grade is the middle one that it gave. Facts:
    `agreement`, the share of pairs of annotators that prefer the same answer, and `right`, of the pairs whose answers
    truly differ in quality, the share of which the better one was chosen.

    Args:
        count: annotators of every pair. leave_out: `ties`, graded no more than negligibly better, and `disputed`, on
            which not all annotators prefer the same.
    """
    annotators = [Annotator(noise, seed + number * SEED_STRIDE) for number in range(count)]
    name = annotators[0].name + (f" and {count - 1} more" if count > 1 else "")

    def annotate(pairs: Sequence[tuple[Prompt, Pair]], round_number: int) -> Annotated:
        check_tasks([prompt for prompt, _ in pairs])
        found, same, votes, right, differing = Annotated([]), 0, 0, 0, 0
        for prompt, (a, b) in pairs:
            shown = (prompt.task, a.text, b.text, a.finished, b.finished, prompt.objective)
            views = [annotator.grade(*shown) for annotator in annotators]
            said = [view.preferred for view in views]
            preferred = max(dict.fromkeys(said), key=said.count)
            majority = sorted((v for v in views if v.preferred == preferred), key=lambda v: GRADES.index(v.grade))
            judgement = majority[len(majority) // 2]
            same += sum(x == y for x, y in combinations(said, 2))
            votes += count * (count - 1) // 2
            if truly := truly_better(*shown):
                right, differing = right + (preferred == truly), differing + 1
            why = {"ties": judgement.grade == TIE, "disputed": len(set(said)) > 1}
            if reason := next((one for one in leave_out if why[one]), None):
                found.left_out[reason] += 1
                continue
            chosen, rejected = (a, b) if preferred == "a" else (b, a)
            safety = {side: getattr(judgement, side) for side in ("chosen_is_safe", "rejected_is_safe")}
            grade = judgement.grade
            found.preferences.append(_preference(prompt, chosen, rejected, grade, name, round_number, **safety))
        found.facts = {"annotators": count, "pairs_that_differ": differing}
        found.facts |= {"agreement": round(same / votes, 4)} if votes else {}
        found.facts |= {"right": round(right / differing, 4)} if differing else {}
        return found

    return annotate


def reward_annotator(rewards: RewardModels, leave_out: Sequence[str] = ()) -> Annotate:
    """Reward models as annotators: the gap between two scores gives the grade; of equal scores there is none.

    Args:
        leave_out: `ties`, graded no more than negligibly better.
    """

    def annotate(pairs: Sequence[tuple[Prompt, Pair]], round_number: int) -> Annotated:
        sides = [(prompt, draft) for prompt, pair in pairs for draft in pair]
        scores = rewards(
            [prompt.messages for prompt, _ in sides],
            [draft.answer for _, draft in sides],
            [draft.finished for _, draft in sides],
            [{"objective": prompt.objective} for prompt, _ in sides],
        )[rewards.main]
        found = Annotated([])
        for i, (prompt, pair) in enumerate(pairs):
            graded = best_against_worst(scores[2 * i : 2 * i + 2])
            if graded is None:
                found.left_out["equal scores"] += 1
            elif graded.grade == TIE and "ties" in leave_out:
                found.left_out["ties"] += 1
            else:
                chosen, rejected = pair[graded.chosen], pair[graded.rejected]
                by = f"reward:{rewards.main}"
                found.preferences.append(_preference(prompt, chosen, rejected, graded.grade, by, round_number))
        return found

    return annotate


def safety_bins(preferences: Sequence[Preference]) -> dict[str, int]:
    """Pairs by which of their answers are safe (Llama 2, section 3.2.1, has 18%, 47%, 35% and none of the fourth kind).

    `unsaid`: nobody said of both whether they are.
    """
    names = {(True, False): "chosen_only", (True, True): "both", (False, False): "neither"}
    names |= {(False, True): "rejected_only"}
    counts = Counter(names.get((p.chosen_is_safe, p.rejected_is_safe), "unsaid") for p in preferences)
    return {name: counts[name] for name in (*names.values(), "unsaid")}


def _preference(
    prompt: Prompt, chosen: Draft, rejected: Draft, grade: str, annotator: str, round_number: int, **safety: bool
) -> Preference:
    return Preference(
        prompt=prompt.messages,
        chosen=chosen.answer,
        rejected=rejected.answer,
        grade=grade,
        objective=prompt.objective,
        annotator=annotator,
        round=round_number,
        source=prompt.source,
        chosen_finished=chosen.finished,
        rejected_finished=rejected.finished,
        **safety,
    )
