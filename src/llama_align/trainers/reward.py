"""Reward models with a margin by preference grade (Llama 2, section 3.2.2, eq. 2; Llama 3, section 4.1.2)."""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from trl import RewardConfig, RewardTrainer

from ..chat.contract import PAD
from ..data.records import GRADES
from ..heads import scores_of_rows
from ..metrics.functional import reward_accuracy
from ..models.sharing import common_length
from ..training import CardMixin

# Llama 2, table 27: margins for significantly better, better, slightly better, negligibly better
MARGINS: dict[str, tuple[float, ...]] = {
    "none": (0.0, 0.0, 0.0, 0.0),
    "small": (1.0, 2 / 3, 1 / 3, 0.0),
    "large": (3.0, 2.0, 1.0, 0.0),
}


def margin_table(margin: str | dict[str, float]) -> dict[str, float]:
    """Margin of each grade, from a name (`none`, `small`, `large`) or a table of its own.

    Raises:
        ValueError: unknown name, or a table that lacks or adds a grade.
    """
    if isinstance(margin, str):
        if margin not in MARGINS:
            raise ValueError(f"margin: found {margin!r}, expected one of {', '.join(MARGINS)} or a table by grade")
        return dict(zip(GRADES, MARGINS[margin], strict=True))
    if set(margin) != set(GRADES):
        raise ValueError(f"margin: found grades {sorted(margin)}, expected exactly {', '.join(GRADES)}")
    return {grade: float(margin[grade]) for grade in GRADES}


def ranking_loss(chosen_B: torch.Tensor, rejected_B: torch.Tensor, margin_B: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(r(x, y_c) - r(x, y_r) - m(grade)), per pair, in float32 (Llama 2, eq. 2).

    Raises:
        ValueError: shapes differ; scores [B, 1] and margins [B] would give a loss over all B x B pairs.
    """
    if not chosen_B.shape == rejected_B.shape == margin_B.shape:
        shapes = ", ".join(str(list(t.shape)) for t in (chosen_B, rejected_B, margin_B))
        raise ValueError(f"ranking_loss: found shapes {shapes}, expected three equal ones")
    return -F.logsigmoid(chosen_B.float() - rejected_B.float() - margin_B.float())


@dataclass
class HerdRewardConfig(RewardConfig):
    """TRL's `RewardConfig` with the margin table and Llama 2's schedule."""

    margin: str = field(
        default="small", metadata={"help": "none, small, large (Llama 2, table 27), or a table by grade"}
    )
    remove_unused_columns: bool | None = field(default=False)
    max_length: int | None = field(
        default=None, metadata={"help": "unused: the recipe's `context` bounds prompt and answer"}
    )

    def __post_init__(self):
        super().__post_init__()
        margin_table(self.margin)  # refuses an unknown name before anything is loaded


@dataclass
class PairCollator:
    """Chosen rows, then rejected rows, right-padded to the longest; with margin [B] and grade [B].

    `answer_mask` [2B, L] starts where the two rows of a pair part.
    """

    pad_token_id: int

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        ids = [torch.tensor(row[key]) for key in ("chosen_ids", "rejected_ids") for row in rows]
        pad = torch.nn.utils.rnn.pad_sequence
        shared = [common_length([row["chosen_ids"], row["rejected_ids"]]) for row in rows] * 2
        answers = [torch.arange(len(i)) >= n for i, n in zip(ids, shared, strict=True)]
        return {
            "input_ids": pad(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad([torch.ones_like(i) for i in ids], batch_first=True),
            "answer_mask": pad(answers, batch_first=True),
            "margin": torch.tensor([row["margin"] for row in rows], dtype=torch.float32),
            "grade": torch.tensor([row["grade"] for row in rows]),
        }


class HerdRewardTrainer(CardMixin, RewardTrainer):
    """A reward model trained on graded pairs.

    Takes rows with `chosen_ids`, `rejected_ids`, `margin` and `grade` (index into `GRADES`).

    Logged: `loss`, `accuracy` and `accuracy/<grade>` as sums over counts since the last log (exact under any batch
    split and number of processes), `score/chosen`, `score/rejected` (means).
    """

    _tag_names = ["llama-align", "reward"]  # noqa: RUF012
    objective = "ranking with a margin by grade"
    paper = "Llama 2, section 3.2.2, eq. 2"
    auto_class = "AutoModelForSequenceClassification"

    def __init__(self, *args, processing_class, **kwargs):
        # padding needs a token of its own: were it the end of turn, scores would be read one token early
        processing_class.pad_token = PAD
        collator = PairCollator(processing_class.pad_token_id)
        super().__init__(*args, processing_class=processing_class, data_collator=collator, **kwargs)
        self._sums = {mode: torch.zeros(len(GRADES), 4) for mode in ("train", "eval")}

    def _set_signature_columns_if_needed(self):
        self._signature_columns = ["chosen_ids", "rejected_ids", "margin", "grade"]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        margin_B, grade_B = inputs["margin"], inputs["grade"]
        # scores [2B, 1]: squeezed before they meet margins [B]
        scores = scores_of_rows(model, inputs["input_ids"], inputs["attention_mask"], inputs["answer_mask"])
        chosen_B, rejected_B = scores.squeeze(-1).float().chunk(2)
        loss = ranking_loss(chosen_B, rejected_B, margin_B).mean()
        if self.args.center_rewards_coefficient:
            loss = loss + self.args.center_rewards_coefficient * (chosen_B + rejected_B).pow(2).mean()
        self._count(chosen_B.detach(), rejected_B.detach(), grade_B)
        return (loss, {"logits": scores}) if return_outputs else loss

    def _count(self, chosen_B, rejected_B, grade_B) -> None:
        columns = torch.stack([(chosen_B > rejected_B).float(), torch.ones_like(chosen_B), chosen_B, rejected_B], dim=1)
        sums = torch.zeros(len(GRADES), 4, device=chosen_B.device).index_add_(0, grade_B, columns)
        mode = "train" if self.model.training else "eval"
        self._sums[mode] += self.accelerator.reduce(sums, "sum").cpu()

    def log(self, logs: dict, start_time: float | None = None) -> None:
        mode = "train" if self.model.training else "eval"
        prefix, sums = ("eval_" if mode == "eval" else ""), self._sums[mode]
        total = sums.sum(0)
        if total[1] > 0:
            logs[f"{prefix}accuracy"] = (total[0] / total[1]).item()
            logs[f"{prefix}score/chosen"] = (total[2] / total[1]).item()
            logs[f"{prefix}score/rejected"] = (total[3] / total[1]).item()
            for grade, row in zip(GRADES, sums, strict=True):
                if row[1] > 0:
                    logs[f"{prefix}accuracy/{grade}"] = (row[0] / row[1]).item()
        self._sums[mode] = torch.zeros(len(GRADES), 4)
        super().log(logs, start_time)


def pair_metrics(scorer, rows) -> dict:
    """Accuracy by grade with the "longer wins" baseline and calibration of a reward model on held-out pairs.

    Args:
        scorer: a `RewardScorer`. rows: `chosen_ids`, `rejected_ids` (prompt and answer) and `grade`.
    """
    chosen, rejected = rows["chosen_ids"][:], rows["rejected_ids"][:]
    return reward_accuracy(
        scorer.score(chosen),
        scorer.score(rejected),
        [GRADES[grade] for grade in rows["grade"]],
        [len(ids) for ids in chosen],
        [len(ids) for ids in rejected],
    )
