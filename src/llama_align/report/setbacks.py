"""Where a later stage came out worse than an earlier one, beyond what chance explains at 95%."""

from itertools import combinations

from .inputs import Evaluation, pick
from .stages import baseline_of, differences

_RATES = {"safety.violation_rate": "violations", "safety.false_refusal_rate": "false refusals"}


def setbacks(evaluation: Evaluation) -> list[str] | None:
    """One sentence for each stage and measure that is worse than at an earlier stage, against the best of those.

    None where nothing is known to be worse, but not every two stages could be compared.

    Scores are compared item by item, and the interval of the difference must leave out zero. Of violations and false
    refusals only the rates are known: their two intervals must be apart, which asks for more. They are compared from
    the SFT model on, since a base model that answers nothing refuses nothing either.
    """
    between = differences(evaluation.metrics, evaluation.details, evaluation.where)
    rows = dict(zip(evaluation.names, evaluation.metrics["rows"], strict=True))
    first = baseline_of(evaluation.metrics, evaluation.names)
    chat = evaluation.names[evaluation.names.index(first) :] if first else list(rows)
    worst: dict[tuple[str, str], tuple[float, str]] = {}
    known = True

    def note(measure: str, later: str, drop: float, sentence: str) -> None:
        if (measure, later) not in worst or drop > worst[measure, later][0]:
            worst[measure, later] = drop, sentence

    for earlier, later in combinations(rows, 2):
        change = between(earlier, later)
        known = known and change is not None and change.high is not None
        if change is not None and change.high is not None and change.high < 0:
            gap = f"{-100 * change.mean:.1f} points [{-100 * change.high:.1f}, {-100 * change.low:.1f}]"
            note("score", later, -change.mean, f"{later} is {gap} below {earlier}")
        for path, measure in _RATES.items() if earlier in chat else ():
            before, after = (_rate(evaluation.where, rows[name], path) for name in (earlier, later))
            if before and after and after[1] > before[2]:
                drop = after[0] - before[0]
                note(path, later, drop, f"{later} has {measure} of {_shown(after)}, {earlier} {_shown(before)}")
    return [sentence for _, sentence in worst.values()] if worst or known else None


def _rate(where: str, row: dict, path: str) -> tuple[float, float, float] | None:
    found = [pick(where, row, path + end) for end in ("", "_low", "_high")]
    return None if None in found else tuple(found)


def _shown(rate: tuple[float, float, float]) -> str:
    mean, low, high = (100 * value for value in rate)
    return f"{mean:.1f}% [{low:.1f}, {high:.1f}]"
