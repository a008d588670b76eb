"""Signs that answers please a reward model for the wrong reasons: their length, or a judge that was not optimised."""

import math
from collections.abc import Sequence
from statistics import fmean

from ..chat import as_text
from ..data import Sample
from .candidates import Pool, prompt_key, reward


def length_correlation(pool: Pool, score: str) -> float | None:
    """Pearson correlation of an answer's length in characters with its score, each less its mean over the prompt.

    What prompts differ in plays no part: only whether of two answers to the same prompt the longer one scores higher.
    None where no two answers to a prompt differ in length, or none in score.
    """
    lengths, scores = [], []
    for answers in pool.values():
        if answers:
            lengths += _centred([len(as_text(a.completion)) for a in answers])
            scores += _centred([reward(a, score) for a in answers])
    norm = math.sqrt(math.fsum(x * x for x in lengths)) * math.sqrt(math.fsum(y * y for y in scores))
    return math.fsum(x * y for x, y in zip(lengths, scores, strict=True)) / norm if norm else None


def chosen_against_random(pool: Pool, chosen: Sequence[Sample], score: str) -> dict[str, float]:
    """What a score gives the chosen answers, and what it would give one drawn from the same prompt's by chance.

    `best` is the highest it gives any of them. All are means over the prompts with a chosen answer, a prompt's chosen
    answers averaged first. Under a score that nothing was chosen by, `gain` over `random` is what the choice was worth.
    """
    values: dict[str, list[float]] = {}
    for sample in chosen:
        values.setdefault(prompt_key(sample.prompt), []).append(reward(sample, score))
    groups = [[reward(a, score) for a in pool[key]] for key in values]
    means = {
        "chosen": fmean(fmean(group) for group in values.values()),
        "random": fmean(fmean(group) for group in groups),
        "best": fmean(max(group) for group in groups),
    }
    means["gain"] = means["chosen"] - means["random"]
    return {"prompts": len(values)} | {name: round(value, 6) for name, value in means.items()}


def guards(pool: Pool, chosen: Sequence[Sample], score: str, heldout: Sequence[str]) -> dict:
    """All of them, for metrics.json: on distinct answers, under the score that chose and those that did not."""
    correlation = length_correlation(pool, score)
    keys = dict.fromkeys(prompt_key(sample.prompt) for sample in chosen)
    lengths = [[len(as_text(a.completion)) for a in pool[key]] for key in keys]
    return {
        "length_correlation": None if correlation is None else round(correlation, 6),
        "characters": {
            "chosen": round(fmean(len(as_text(s.completion)) for s in chosen), 3),
            "random": round(fmean(map(fmean, lengths)), 3),
        },
        "chosen_against_random": {name: chosen_against_random(pool, chosen, name) for name in (score, *heldout)},
    }


def _centred(values: Sequence[float]) -> list[float]:
    mean = fmean(values)
    return [value - mean for value in values]
