"""From drafts to graded pairs. An annotator is a function of (prompt, pair) tuples and the round to preferences."""

from collections.abc import Callable, Sequence

from ..data import Preference, Prompt, RecordError
from ..data.records import show
from ..rejection.best_of_k import best_against_worst
from ..rewards.models import RewardModels
from ..sampling.dialogs import Draft
from ..sandbox import Annotator

Pair = tuple[Draft, Draft]
Annotate = Callable[[Sequence[tuple[Prompt, Pair]], int], list[Preference]]


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


def judge_annotator(noise: float, seed: int) -> Annotate:
    """The sandbox's simulated annotators (Llama 2's four-step scale); prompts must carry their `task`."""
    annotator = Annotator(noise, seed)

    def annotate(pairs: Sequence[tuple[Prompt, Pair]], round_number: int) -> list[Preference]:
        check_tasks([prompt for prompt, _ in pairs])
        preferences = []
        for prompt, (a, b) in pairs:
            judgement = annotator.grade(prompt.task, a.text, b.text, a.finished, b.finished, prompt.objective)
            chosen, rejected = (a, b) if judgement.preferred == "a" else (b, a)
            safety = {name: getattr(judgement, name) for name in ("chosen_is_safe", "rejected_is_safe")}
            preferences.append(
                _preference(prompt, chosen, rejected, judgement.grade, annotator.name, round_number, **safety)
            )
        return preferences

    return annotate


def reward_annotator(rewards: RewardModels) -> Annotate:
    """Reward models as annotators: the gap between two scores gives the grade."""

    def annotate(pairs: Sequence[tuple[Prompt, Pair]], round_number: int) -> list[Preference]:
        sides = [(prompt, draft) for prompt, pair in pairs for draft in pair]
        scores = rewards(
            [prompt.messages for prompt, _ in sides],
            [draft.answer for _, draft in sides],
            [draft.finished for _, draft in sides],
            [{"objective": prompt.objective} for prompt, _ in sides],
        )[rewards.main]
        preferences = []
        for i, (prompt, pair) in enumerate(pairs):
            graded = best_against_worst(scores[2 * i : 2 * i + 2])
            if graded is not None:
                chosen, rejected = pair[graded.chosen], pair[graded.rejected]
                by = f"reward:{rewards.main}"
                preferences.append(_preference(prompt, chosen, rejected, graded.grade, by, round_number))
        return preferences

    return annotate


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
