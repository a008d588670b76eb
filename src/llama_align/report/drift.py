"""Over-optimisation as a picture: what reward models, held-out judges and the exact judge say against KL, by round.

Gao et al. (Scaling laws for reward model overoptimization, 2022): the reward that is optimised goes on rising with the
distance from the first policy, the one that was meant falls from some distance on.
"""

from collections.abc import Sequence

from . import figures
from .inputs import Step, pick
from .sections import Picture

Points = dict[str, list[tuple[float, float, str]]]  # by candidate: KL, value, round


def against_kl(steps: Sequence[Step]) -> list[Picture]:
    """What every candidate of every choice gained on the first one, against its KL from it; nothing without KL."""
    judges: dict[str, Points] = {"reward": {}, "heldout": {}, "score": {}}
    for step in steps:
        found = pick(step.where, step.metrics or {}, "candidates", "a list of objects") or []
        where, exact = f"{step.where}, candidates", pick(step.where, step.metrics or {}, "by", "text") == "exact"
        first = pick(where, found[0], "score") if found else None
        for row in found[1:]:
            kl, name = pick(where, row, "kl.mean"), pick(where, row, "name", "text", required=True)
            score = pick(where, row, "score")
            values = {key: pick(where, row, f"{key}.mean") for key in ("reward", "heldout")}
            values["score"] = score - first if exact and None not in (score, first) else None
            for key, value in values.items():
                if kl is not None and value is not None:
                    judges[key].setdefault(name, []).append((kl, 100 * value, str(step.round)))
    titles = {
        "reward": ("Reward models against KL", "% preferred to the round's first"),
        "heldout": ("Held-out judges against KL", "% preferred to the round's first"),
        "score": ("Exact score against KL", "points on the round's first"),
    }
    distance = "KL, nats an answer; numbers are rounds"
    return [
        Picture(titles[key][0], figures.against(titles[key][0], points, distance, titles[key][1]))
        for key, points in judges.items()
        if points
    ]
