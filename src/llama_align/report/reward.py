"""Pictures of one reward model as files of their own, beside its model card."""

from collections.abc import Mapping, Sequence

from . import figures


def reward_pictures(chosen: Sequence[float], rejected: Sequence[float], metrics: Mapping) -> dict[str, str]:
    """SVG files by title: `scores` (Llama 2, figure 27: how a margin shifts both sides), `reliability`, `accuracy`.

    Args:
        chosen, rejected: held-out scores. metrics: with `by_grade` and `reliability`, as of `pair_metrics`.
    """
    found = {
        "scores": figures.distributions("Scores of both sides", {"chosen": chosen, "rejected": rejected}),
        "reliability": figures.reliability("Calibration", metrics["reliability"]),
    }
    if metrics["by_grade"]:
        found["accuracy"] = figures.accuracy_by_grade("Accuracy by grade", metrics["by_grade"])
    return {title: figures.standalone(svg) for title, svg in found.items()}
