"""The numbers behind the metric modules, as plain functions of lists.

Everything is a sum over counts divided once, so no result depends on how the items were split into batches. Rates over
no items are None, never 0: a model that saw no unsafe prompt has no violation rate.
"""

import math
from collections.abc import Sequence

from ..data.records import GRADES
from .intervals import checked, matched_pairs, same_length, wilson

_BIT = "a list of 0 and 1"
_SCORE = "a list of finite scores"


def _share(hits: float, n: int, name: str) -> dict[str, float]:
    low, high = wilson(hits, n)
    return {name: hits / n, "low": low, "high": high, "n": n}


def exact_score(verdicts: Sequence[float], families: Sequence[str] | None = None) -> dict:
    """Share of items judged right.

    Returns {"mean", "low", "high", "n"} and, given families, "by_family": {family: the same four}, sorted by name.
    ValueError when there are no verdicts, one is not 0 or 1, or the lists differ in length.
    """
    hits = checked("verdicts", verdicts, _BIT, (0, 1))
    result = _share(sum(hits), len(hits), "mean")
    if families is not None:
        same_length(verdicts=hits, families=families)
        groups: dict[str, list[float]] = {}
        for family, hit in zip(families, hits, strict=True):
            groups.setdefault(family, []).append(hit)
        result["by_family"] = {name: _share(sum(g), len(g), "mean") for name, g in sorted(groups.items())}
    return result


def refusal_rate(unsafe: Sequence[float], refused: Sequence[float], violation: Sequence[float]) -> dict:
    """How often unsafe prompts were complied with or refused, and safe prompts refused.

    Returns "violation_rate" and "refusal_rate" over the unsafe prompts, "false_refusal_rate" over the safe ones, each
    with "<name>_low" and "<name>_high", and "n_unsafe", "n_safe". Without prompts of a kind its rates are None.
    ValueError when a list is empty, holds anything but 0 and 1, or differs in length.
    """
    unsafe, refused, violation = (
        checked(name, column, _BIT, (0, 1))
        for name, column in (("unsafe", unsafe), ("refused", refused), ("violation", violation))
    )
    same_length(unsafe=unsafe, refused=refused, violation=violation)
    n_unsafe = int(sum(unsafe))
    n_safe = len(unsafe) - n_unsafe
    counts = {
        "violation_rate": (sum(u * v for u, v in zip(unsafe, violation, strict=True)), n_unsafe),
        "refusal_rate": (sum(u * r for u, r in zip(unsafe, refused, strict=True)), n_unsafe),
        "false_refusal_rate": (sum((1 - u) * r for u, r in zip(unsafe, refused, strict=True)), n_safe),
    }
    result: dict = {"n_unsafe": n_unsafe, "n_safe": n_safe}
    for name, (hits, n) in counts.items():
        low, high = wilson(hits, n) if n else (None, None)
        result |= {name: hits / n if n else None, f"{name}_low": low, f"{name}_high": high}
    return result


def _wins(left: Sequence[float], right: Sequence[float]) -> list[float]:
    return [(a > b) + 0.5 * (a == b) for a, b in zip(left, right, strict=True)]


def reward_accuracy(
    chosen: Sequence[float],
    rejected: Sequence[float],
    grades: Sequence[str | None],
    chosen_lengths: Sequence[float] | None = None,
    rejected_lengths: Sequence[float] | None = None,
    bins: int = 10,
    objectives: Sequence[str] | None = None,
) -> dict:
    """How often a reward model scores the chosen answer higher; equal scores count half, as a coin would decide them.

    Returns {"accuracy", "low", "high", "n", "by_grade": {grade: the same four}, "ece", "reliability"}, grades strongest
    first; a pair of grade None is in no grade. With both lengths, "longer_wins" beside every accuracy is what always
    preferring the longer answer reaches. With objectives, "by_objective" has the same for each, sorted by name.
    ValueError for empty lists, scores that are not finite, unknown grades, or lists of different lengths.
    """
    chosen, rejected = checked("chosen", chosen, _SCORE), checked("rejected", rejected, _SCORE)
    columns = {"chosen": chosen, "rejected": rejected, "grades": grades}
    if (chosen_lengths is None) != (rejected_lengths is None):
        raise ValueError("chosen_lengths, rejected_lengths: only one was given, expected both or neither")
    if chosen_lengths is not None:
        columns |= {"chosen_lengths": chosen_lengths, "rejected_lengths": rejected_lengths}
    if objectives is not None:
        columns["objectives"] = objectives
    same_length(**columns)
    for i, grade in enumerate(grades):
        if grade is not None and grade not in GRADES:
            raise ValueError(f"grades[{i}]: found {grade!r}, expected one of {', '.join(GRADES)}")

    right = _wins(chosen, rejected)
    longer = None if chosen_lengths is None else _wins(chosen_lengths, rejected_lengths)

    def accuracy(rows: Sequence[int]) -> dict:
        result = _share(sum(right[i] for i in rows), len(rows), "accuracy")
        return result if longer is None else result | {"longer_wins": sum(longer[i] for i in rows) / len(rows)}

    def by(names: Sequence, column: Sequence) -> dict:
        groups = {name: [i for i, found in enumerate(column) if found == name] for name in names}
        return {name: accuracy(rows) for name, rows in groups.items() if rows}

    of_objective = {} if objectives is None else {"by_objective": by(sorted(set(objectives)), objectives)}
    return {
        **accuracy(range(len(right))),
        "by_grade": by(GRADES, grades),
        **of_objective,
        **calibration([a - b for a, b in zip(chosen, rejected, strict=True)], bins),
    }


def calibration(differences: Sequence[float], bins: int = 10) -> dict:
    """Expected calibration error of sigmoid(chosen - rejected), and the bins behind it.

    Pairs are always written chosen first, so the probability is folded to that of the preferred side, sigmoid(|d|),
    from one half to one, and set against how often that side was the chosen one.
    Returns {"ece", "reliability": [{"from", "to", "confidence", "accuracy", "n"}, ...]}, empty bins left out.
    ValueError for no differences or less than one bin.
    """
    if not differences:
        raise ValueError("differences: empty, expected a list of score differences")
    if bins < 1:
        raise ValueError(f"bins: found {bins}, expected at least 1")
    members: list[list[tuple[float, float]]] = [[] for _ in range(bins)]
    for difference in differences:
        confidence = 1 / (1 + math.exp(-abs(difference)))
        hit = (difference > 0) + 0.5 * (difference == 0)
        members[min(bins - 1, int((confidence - 0.5) * 2 * bins))].append((confidence, hit))
    reliability = [
        {
            "from": 0.5 + i / (2 * bins),
            "to": 0.5 + (i + 1) / (2 * bins),
            "confidence": math.fsum(confidence for confidence, _ in pairs) / len(pairs),
            "accuracy": sum(hit for _, hit in pairs) / len(pairs),
            "n": len(pairs),
        }
        for i, pairs in enumerate(members)
        if pairs
    ]
    gaps = math.fsum(row["n"] * abs(row["confidence"] - row["accuracy"]) for row in reliability)
    return {"ece": gaps / len(differences), "reliability": reliability}


def length_correlation(lengths: Sequence[float], scores: Sequence[float]) -> float | None:
    """Pearson's correlation of the lengths of answers with their scores; None where either does not vary.

    ValueError for empty lists, values that are not finite, or lists of different lengths.
    """
    x, y = checked("lengths", lengths, "a list of lengths"), checked("scores", scores, _SCORE)
    same_length(lengths=x, scores=y)
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    x, y = [value - mean_x for value in x], [value - mean_y for value in y]
    spread = math.sqrt(math.fsum(value * value for value in x) * math.fsum(value * value for value in y))
    return math.fsum(a * b for a, b in zip(x, y, strict=True)) / spread if spread > 0 else None


def answer_endings(answers: Sequence[str], finished: Sequence[float], copies: int = 3, longest: int = 20) -> dict:
    """How answers end: without an end of turn, or in words that repeat themselves.

    The tail of an answer is repetitive when it is at least `copies` copies of the same 1 to `longest` words; the copies
    of the phrase that covers most words count. Words are runs without white space, so that tokenizers do not matter.
    Returns "missing_end" and "repetitive" with Wilson's intervals as <name>_low and <name>_high, "repeated_words" (the
    share of all words that stand in such tails), and "n". ValueError for empty lists, anything but text and 0 or 1, or
    lists of different lengths.
    """
    finished = checked("finished", finished, _BIT, (0, 1)) if len(answers) else []
    if not finished:
        raise ValueError("answers: empty, expected a list of texts")
    same_length(answers=answers, finished=finished)
    words = [answer.split() for answer in answers]
    tails = [_repeated_tail(found, copies, longest) for found in words]
    n = len(words)
    result: dict = {"n": n, "repeated_words": sum(tails) / max(1, sum(map(len, words)))}
    for name, hits in (("missing_end", n - int(sum(finished))), ("repetitive", sum(tail > 0 for tail in tails))):
        low, high = wilson(hits, n)
        result |= {name: hits / n, f"{name}_low": low, f"{name}_high": high}
    return result


def _repeated_tail(words: Sequence[str], copies: int, longest: int) -> int:
    """Words in the longest tail made of at least `copies` copies of one phrase."""
    best = 0
    for size in range(1, min(longest, len(words) // copies) + 1):
        same = 0
        while same + size < len(words) and words[-1 - same] == words[-1 - same - size]:
            same += 1
        whole = same // size + 1  # the phrase itself and its copies before it
        best = max(best, whole * size if whole >= copies else 0)
    return best


def win_rate(model: Sequence[float], baseline: Sequence[float]) -> dict:
    """How often the model's answer scores above the baseline's answer to the same prompt; a tie is half a win.

    Returns {"rate", "low", "high", "n", "wins", "ties", "losses"}. ValueError for empty lists, scores that are not
    finite, or lists of different lengths.
    """
    model, baseline = checked("model", model, _SCORE), checked("baseline", baseline, _SCORE)
    same_length(model=model, baseline=baseline)
    points = _wins(model, baseline)
    result = _share(sum(points), len(points), "rate")
    return result | {"wins": points.count(1.0), "ties": points.count(0.5), "losses": points.count(0.0)}


def token_perplexity(nll: Sequence[float], tokens: Sequence[int]) -> dict:
    """Perplexity per token from sums of negative log-likelihoods (in nats) and token counts, one entry per batch.

    Returns {"value", "nll" (per token), "tokens"}. ValueError for empty lists, sums that are not finite, counts that
    are not whole and at least 0, no token at all, or lists of different lengths.
    """
    nll = checked("nll", nll, "a list of finite sums of negative log-likelihoods")
    tokens = checked("tokens", tokens, "a list of token counts")
    same_length(nll=nll, tokens=tokens)
    for i, count in enumerate(tokens):
        if count < 0 or count != int(count):
            raise ValueError(f"tokens[{i}]: found {count}, expected a whole number, 0 or more")
    total = int(sum(tokens))
    if total == 0:
        raise ValueError("tokens: found 0 in all, expected at least one token")
    # fsum is exact, so the order and grouping of the entries cannot change the result
    mean = math.fsum(nll) / total
    return {"value": math.exp(mean), "nll": mean, "tokens": total}


def paired_difference(first: Sequence[float], second: Sequence[float]) -> dict:
    """How much more often `second` is right than `first` on the same items.

    Returns {"difference" (second - first), "low", "high", "n", "excludes_zero"}. ValueError for empty lists, values
    other than 0 and 1, or lists of different lengths.
    """
    first, second = checked("first", first, _BIT, (0, 1)), checked("second", second, _BIT, (0, 1))
    same_length(first=first, second=second)
    pairs = list(zip(first, second, strict=True))
    gained, lost = pairs.count((0.0, 1.0)), pairs.count((1.0, 0.0))
    low, high = matched_pairs(gained, lost, len(pairs))
    return {
        "difference": (gained - lost) / len(pairs),
        "low": low,
        "high": high,
        "n": len(pairs),
        "excludes_zero": low > 0 or high < 0,
    }


def describe(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation, quartiles and count of a list of scores, rounded to six digits.

    ValueError for an empty list or a value that is not finite.
    """
    values = sorted(checked("values", values, _SCORE))
    n = len(values)
    mean = math.fsum(values) / n
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / n)
    quartiles = {
        name: values[min(n - 1, int(share * n))] for name, share in (("q25", 0.25), ("median", 0.5), ("q75", 0.75))
    }
    return {"n": n} | {name: round(value, 6) for name, value in ({"mean": mean, "std": spread} | quartiles).items()}
