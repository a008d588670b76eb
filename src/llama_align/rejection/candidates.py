"""The answers to choose from, and the rules that choose: Llama 2, section 3.2.3. Works on scored samples."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, pstdev

from ..chat import Message, as_text, settled
from ..data import Preference, RecordError, Sample
from .best_of_k import best_against_worst, best_of_k, drop_duplicates, top_share

Pool = dict[str, list[Sample]]  # by prompt; a prompt without an answer to choose has an empty list
RANKS = ("per_prompt", "standardised", "raw")


def answer_pool(samples: Sequence[Sample]) -> tuple[Pool, dict[str, int]]:
    """Answers that may be chosen, by prompt in order of first sight, and the numbers of what was left out.

    An answer that was cut or is empty is never chosen; of answers to a prompt with the same text the first one stays.
    """
    found: Pool = {}
    cut = empty = 0
    for sample in samples:
        answers = found.setdefault(prompt_key(sample.prompt), [])
        if takeable(sample):
            answers.append(sample)
        elif as_text(sample.completion).strip():
            cut += 1
        else:
            empty += 1
    pool = {
        key: [
            answers[first]
            for first in drop_duplicates([json.dumps(settled(a.completion), sort_keys=True) for a in answers])
        ]
        for key, answers in found.items()
    }
    left = sum(map(len, pool.values()))
    counts = {"prompts": len(pool), "samples": len(samples), "cut": cut, "empty": empty}
    return pool, counts | {"duplicates": len(samples) - cut - empty - left, "answers": left}


def takeable(sample: Sample) -> bool:
    """Whether an answer may be chosen: it ended by itself and has something in it."""
    return sample.finished and bool(as_text(sample.completion).strip())


def prompt_key(messages: Sequence[Message]) -> str:
    """What tells prompts apart."""
    return json.dumps(messages, sort_keys=True)


def rewarded(samples: Sequence[Sample], *scores: Mapping[str, Sequence[float]]) -> list[Sample]:
    """The samples with these scores by name (one per sample) in place of whatever rewards they had."""
    names = [(name, values) for table in scores for name, values in table.items()]
    return [replace(s, rewards={name: values[i] for name, values in names}) for i, s in enumerate(samples)]


def reward(sample: Sample, score: str) -> float:
    """One of a sample's rewards. Raises RecordError where it has none of that name."""
    if score not in sample.rewards:
        found = ", ".join(sample.rewards) or "no rewards"
        raise RecordError(f"sample of checkpoint {sample.checkpoint}", "rewards", found, f"{score!r} too")
    return sample.rewards[score]


def best_answers(pool: Pool, score: str) -> list[Sample]:
    """The answer with the highest score to every prompt that has one; ties go to the earlier answer."""
    groups = [answers for answers in pool.values() if answers]
    return [answers[best_of_k(_rewards(answers, score))] for answers in groups]


def top_answers(pool: Pool, score: str, share: float) -> list[Sample]:
    """The best `share` of every prompt's answers, best first and at least one of each."""
    groups = [answers for answers in pool.values() if answers]
    return [answers[i] for answers in groups for i in top_share(_rewards(answers, score), share)]


def comparable(samples: Sequence[Sample], pool: Pool, score: str, rank: str) -> list[float]:
    """What answers to different prompts are compared by.

    A Bradley-Terry model is trained on r(x, y) - r(x, y'), so a score holds an offset of its prompt's that nothing
    determines. `per_prompt`: the score less the mean of the prompt's answers in the pool, in which the offset is gone:
    what the choice was worth. `standardised`: that by their standard deviation (0 where they all score the same), for
    scores whose scale differs between prompts, too. `raw`: the score itself.
    """
    if rank == "raw":
        return _rewards(samples, score)
    values = []
    for sample in samples:
        answers = _rewards(pool[prompt_key(sample.prompt)], score)
        gain = reward(sample, score) - fmean(answers)
        scale = pstdev(answers) if rank == "standardised" else 1.0
        values.append(gain / scale if scale else 0.0)
    return values


def over(samples: Sequence[Sample], values: Sequence[float], threshold: float | None, keep: float) -> list[Sample]:
    """Of samples with at least the threshold the share `keep` with the highest values, in their order.

    Raises:
        ValueError: `keep` is not above 0 and at most 1.
    """
    high = [i for i, value in enumerate(values) if threshold is None or value >= threshold]
    highest = top_share([values[i] for i in high], keep) if high else []
    return [samples[high[i]] for i in sorted(highest)]


def graded_pairs(pool: Pool, score: str, gaps: Mapping[str, float], round_number: int) -> list[Preference]:
    """The best against the worst answer to every prompt, graded by the gap between their scores.

    Args:
        gaps: grade -> least gap; a prompt whose gap reaches none gives no pair.
    """
    preferences = []
    for answers in pool.values():
        pair = best_against_worst(_rewards(answers, score), gaps) if len(answers) > 1 else None
        if pair is not None:
            chosen, rejected = answers[pair.chosen], answers[pair.rejected]
            preferences.append(
                Preference(
                    prompt=chosen.prompt,
                    chosen=chosen.completion,
                    rejected=rejected.completion,
                    grade=pair.grade,
                    objective=chosen.objective,
                    annotator=f"reward:{score}",
                    round=round_number,
                    source="sampled",
                    chosen_finished=chosen.finished,
                    rejected_finished=rejected.finished,
                )
            )
    return preferences


def _rewards(samples: Sequence[Sample], score: str) -> list[float]:
    return [reward(sample, score) for sample in samples]
