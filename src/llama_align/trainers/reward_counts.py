"""What a reward model's trainer logs, as sums over counts: exact under any split into batches and processes.

Every row of a batch gives one vector of sums. Vectors add up over steps and processes; `read` divides once.
"""

from collections.abc import Iterable

import torch

from ..data.records import GRADES, OBJECTIVES

BINS = 10  # of calibration, over probabilities from one half to one
TERMS = ("margin", "bradley_terry", "center", "safety_head")
GROUPS = ("all", *GRADES, *OBJECTIVES)
NAMES = (
    *(f"{what}/{group}" for group in GROUPS for what in ("pairs", "right", "longer")),
    *(f"{what}/{i}" for i in range(BINS) for what in ("bin_pairs", "bin_probability", "bin_right")),
    *("chosen", "rejected"),
    *("answers", "length", "length2", "score", "score2", "length_score"),
    *("judged", "judged_right", "rows", "loss"),
    *(f"loss/{term}" for term in TERMS),
)
_AT = {name: i for i, name in enumerate(NAMES)}


def sums_of_rows(
    batch: dict, score_A: torch.Tensor, safety_A: torch.Tensor | None, losses: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Sums [R, len(NAMES)] of a batch of the collator's, one vector per row.

    Args:
        score_A: scores of the answers. safety_A: logits of the safety head, where there is one. losses: of every row
            [R], whole as `loss` and by term.
    """
    score_A, length_A = score_A.double(), batch["length"].double()
    better_P, worse_P = batch["better"], batch["worse"]
    sums = torch.zeros(batch["rows"], len(NAMES), dtype=torch.float64, device=score_A.device)

    def add(name: str, rows: torch.Tensor, values: torch.Tensor) -> None:
        sums[:, _AT[name]].index_add_(0, rows, values.double())

    difference_P = score_A[better_P] - score_A[worse_P]
    row_P, row_A = batch["row_of_pair"], batch["row_of_answer"]
    right_P, longer_P = _wins(difference_P), _wins(length_A[better_P] - length_A[worse_P])
    members = {"all": torch.ones_like(row_P, dtype=torch.bool)}
    members |= {name: batch["grade"] == i for i, name in enumerate(GRADES)}
    members |= {name: batch["objective"] == i for i, name in enumerate(OBJECTIVES)}
    for group, member_P in members.items():
        add(f"pairs/{group}", row_P, member_P)
        add(f"right/{group}", row_P, member_P * right_P)
        add(f"longer/{group}", row_P, member_P * longer_P)

    # pairs are written better first, so the probability is that of the side preferred, as in metrics.calibration
    probability_P = torch.sigmoid(difference_P.abs())
    bin_P = ((probability_P - 0.5) * 2 * BINS).long().clamp(max=BINS - 1)
    for i in range(BINS):
        add(f"bin_pairs/{i}", row_P, bin_P == i)
        add(f"bin_probability/{i}", row_P, (bin_P == i) * probability_P)
        add(f"bin_right/{i}", row_P, (bin_P == i) * right_P)

    add("chosen", row_P, score_A[better_P])
    add("rejected", row_P, score_A[worse_P])
    moments = {"answers": torch.ones_like(score_A), "length": length_A, "length2": length_A**2}
    moments |= {"score": score_A, "score2": score_A**2, "length_score": length_A * score_A}
    for name, values_A in moments.items():
        add(name, row_A, values_A)
    for name, loss_R in {"rows": torch.ones(batch["rows"], device=score_A.device), **losses}.items():
        sums[:, _AT[name]] += loss_R
    if safety_A is not None:
        judged_A = batch["is_safe"] >= 0
        add("judged", row_A, judged_A)
        add("judged_right", row_A, judged_A & ((safety_A > 0) == (batch["is_safe"] == 1)))
    return sums


def _wins(difference: torch.Tensor) -> torch.Tensor:
    return (difference > 0).double() + 0.5 * (difference == 0)


def read(sums: torch.Tensor, terms: Iterable[str]) -> dict[str, float]:
    """What is logged, by name; nothing for groups without pairs. `mean_loss` is the loss over all rows."""
    found = dict(zip(NAMES, sums.tolist(), strict=True))
    pairs, logs = found["pairs/all"], {}
    if not pairs:
        return {}
    logs["mean_loss"] = found["loss"] / found["rows"]
    for group in GROUPS:
        if count := found[f"pairs/{group}"]:
            end = "" if group == "all" else f"/{group}"
            logs[f"accuracy{end}"] = found[f"right/{group}"] / count
            logs[f"longer_wins{end}"] = found[f"longer/{group}"] / count
    logs["ece"] = sum(abs(found[f"bin_probability/{i}"] - found[f"bin_right/{i}"]) for i in range(BINS)) / pairs
    logs["score/chosen"], logs["score/rejected"] = found["chosen"] / pairs, found["rejected"] / pairs
    n, x, y = found["answers"], found["length"], found["score"]
    spread = max(0.0, n * found["length2"] - x * x) * max(0.0, n * found["score2"] - y * y)
    if spread > 0:
        logs["length_correlation"] = (n * found["length_score"] - x * y) / spread**0.5
    logs |= {f"loss/{term}": found[f"loss/{term}"] / found["rows"] for term in terms}
    if found["judged"]:
        logs["safety_head/accuracy"] = found["judged_right"] / found["judged"]
    return logs
