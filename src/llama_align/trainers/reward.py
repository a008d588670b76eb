"""Reward models with a margin by preference grade (Llama 2, section 3.2.2, eq. 2) or without (Llama 3, section 4.1.2).

The loss is `HerdRewardTrainer.compute_loss`, over the terms in `OBJECTIVES`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from trl import RewardConfig, RewardTrainer
from trl.trainer import reward_trainer

from ..chat import adopt
from ..data.rankings import UNGRADED, UNKNOWN
from ..data.records import GRADES
from ..models.sharing import common_length
from .base import EqualRows, HerdTrainerMixin, refuse_unused
from .heads import scores_of_rows
from .making import adapters_as_they_are
from .outward import OutwardArguments
from .reward_counts import NAMES, read, sums_of_rows

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


def ranking_loss(chosen_P: torch.Tensor, rejected_P: torch.Tensor, margin_P: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(r(x, y_c) - r(x, y_r) - m(grade)), per pair, in float32 or wider (Llama 2, eq. 2).

    Raises:
        ValueError: shapes differ; scores [P, 1] and margins [P] would give a loss over all P x P pairs.
    """
    if not chosen_P.shape == rejected_P.shape == margin_P.shape:
        shapes = ", ".join(str(list(t.shape)) for t in (chosen_P, rejected_P, margin_P))
        raise ValueError(f"ranking_loss: found shapes {shapes}, expected three equal ones")
    return -F.logsigmoid(_wide(chosen_P) - _wide(rejected_P) - margin_P)


def bradley_terry_loss(chosen_P: torch.Tensor, rejected_P: torch.Tensor, margin_P: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(r(x, y_c) - r(x, y_r)), per pair (Llama 3: the margin's gain fades with more data)."""
    return ranking_loss(chosen_P, rejected_P, torch.zeros_like(margin_P))


def center_loss(chosen_P: torch.Tensor, rejected_P: torch.Tensor, margin_P: torch.Tensor) -> torch.Tensor:
    """(r(x, y_c) + r(x, y_r))^2, per pair: scores near zero (Eisenstein et al., 2023; not in Llama)."""
    return (_wide(chosen_P) + _wide(rejected_P)).pow(2)


def _wide(scores: torch.Tensor) -> torch.Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


OBJECTIVES: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "margin": ranking_loss,
    "bradley_terry": bradley_terry_loss,
    "center": center_loss,
}


@dataclass
class HerdRewardConfig(OutwardArguments, RewardConfig):
    """TRL's `RewardConfig` with the terms of the loss, the margin table and the safety head."""

    objectives: dict[str, float] = field(
        default_factory=lambda: {"margin": 1.0},
        metadata={"help": "terms of the loss and their weights: margin, bradley_terry, center"},
    )
    margin: str = field(
        default="small", metadata={"help": "none, small, large (Llama 2, table 27), or a table by grade"}
    )
    safety_coefficient: float = field(
        default=0.0, metadata={"help": "weight of the binary loss of a safety head beside the score (0: no head)"}
    )
    remove_unused_columns: bool | None = field(default=False)
    max_length: int | None = field(
        default=None, metadata={"help": "unused: the recipe's `context` bounds prompt and answer"}
    )

    def __post_init__(self):
        refuse_unused(
            self,
            "rows come tokenised by the token contract",
            *("max_length", "pad_to_multiple_of", "pad_token", "eos_token", "chat_template_path", "dataset_num_proc"),
        )
        super().__post_init__()
        margin_table(self.margin)  # refuses an unknown name before anything is loaded
        unknown = set(self.objectives) - set(OBJECTIVES)
        if unknown or not set(self.objectives) & {"margin", "bradley_terry"}:
            found = ", ".join(map(str, self.objectives)) or "none"
            raise ValueError(f"objectives: found {found}, expected margin or bradley_terry, and center if wanted")
        if self.center_rewards_coefficient and "center" in self.objectives:
            raise ValueError("center_rewards_coefficient: found it beside the objective center, expected one of them")

    @property
    def terms(self) -> dict[str, float]:
        """Weights of the terms of the loss by name; TRL's `center_rewards_coefficient` is one of them."""
        center = {"center": self.center_rewards_coefficient} if self.center_rewards_coefficient else {}
        return {**self.objectives, **center}


@dataclass
class RankingCollator:
    """Rows of two or more answers (A in all) and their pairs (P in all), right-padded.

    Takes rows of `ranking_rows`, or pairs as `chosen_ids` and `rejected_ids` with `margin` and `grade` where known.
    `answer_mask` [A, L] starts where the answers of a row part. `pair_weight` [P] and `safety_weight` [A] add up to one
    over every row's pairs and judged answers: rows count equally, however many answers they have.
    """

    pad_token_id: int

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor | int]:
        rows = [as_ranking(row) for row in rows]
        first = [0]
        for row in rows:
            first.append(first[-1] + len(row["answers_ids"]))
        ids = [torch.tensor(answer) for row in rows for answer in row["answers_ids"]]
        shared = [common_length(row["answers_ids"]) for row in rows for _ in row["answers_ids"]]
        judged = [sum(label != UNKNOWN for label in row["is_safe"]) for row in rows]
        pad = torch.nn.utils.rnn.pad_sequence

        def per_answer(values, dtype=torch.long):
            return torch.tensor([value for row in map(values, range(len(rows)), rows) for value in row], dtype=dtype)

        return {
            "rows": len(rows),
            "input_ids": pad(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad([torch.ones_like(i) for i in ids], batch_first=True),
            "answer_mask": pad([torch.arange(len(i)) >= n for i, n in zip(ids, shared, strict=True)], batch_first=True),
            "row_of_answer": per_answer(lambda n, row: [n] * len(row["answers_ids"])),
            "length": per_answer(lambda n, row: [len(answer) - row["prompt_length"] for answer in row["answers_ids"]]),
            "is_safe": per_answer(lambda n, row: row["is_safe"]),
            "safety_weight": per_answer(
                lambda n, row: [(x != UNKNOWN) / max(1, judged[n]) for x in row["is_safe"]], torch.float64
            ),
            "row_of_pair": per_answer(lambda n, row: [n] * len(row["better"])),
            "better": per_answer(lambda n, row: [first[n] + i for i in row["better"]]),
            "worse": per_answer(lambda n, row: [first[n] + i for i in row["worse"]]),
            "grade": per_answer(lambda n, row: row["grade"]),
            "objective": per_answer(lambda n, row: [row["objective"]] * len(row["better"])),
            "margin": per_answer(lambda n, row: row["margin"], torch.float64),
            "pair_weight": per_answer(lambda n, row: [1 / len(row["better"])] * len(row["better"]), torch.float64),
        }


def as_ranking(row: dict) -> dict:
    """A row as it is, or a pair as a row of two answers whose first is the better one."""
    if "answers_ids" in row:
        return row
    answers = [row["chosen_ids"], row["rejected_ids"]]
    return {
        "answers_ids": answers,
        "prompt_length": common_length(answers),
        "is_safe": [UNKNOWN, UNKNOWN],
        "better": [0],
        "worse": [1],
        "grade": [UNGRADED if row.get("grade") is None else row["grade"]],
        "margin": [row.get("margin") or 0.0],
        "objective": UNKNOWN,
    }


class HerdRewardTrainer(HerdTrainerMixin, EqualRows, RewardTrainer):
    """A reward model trained on graded pairs, or on several ranked answers of a prompt at once.

    Takes rows of `llama_align.data.ranking_rows`, or `chosen_ids` and `rejected_ids` (prompt and answer) with `margin`
    and `grade` (index into `GRADES`) where a pair has them. The loss of a row is the mean over its pairs (InstructGPT,
    eq. 1), that of a step the mean over its rows, however it is accumulated. A prompt is encoded once for all its
    answers.

    With `safety_coefficient` the model has two outputs: the score, and the logit of the answer being safe, trained
    with a binary loss on `is_safe`.

    Logged, as sums over counts since the last log, exact under any batch split and number of processes (but in training
    rows that accelerate repeats to fill the last batches of several processes count as often as they are trained on):
    `accuracy`, `accuracy/<grade>`, `accuracy/<objective>` (share of pairs whose better answer scores higher, ties
    half), `longer_wins` and `longer_wins/<group>` (the same, were the longer answer always preferred), `ece` (expected
    calibration error of sigmoid(better - worse), ten bins), `length_correlation` (Pearson's, tokens of an answer and
    its score), `score/chosen`, `score/rejected` (means over pairs), `safety_head/accuracy` (share of judged answers),
    and the parts of the loss before their weights, `loss/<term>` (means over rows). Besides: `loss`.
    """

    _tag_names = ["llama-align", "reward"]  # noqa: RUF012
    paper = "Llama 2, section 3.2.2; Llama 3, section 4.1.2"
    auto_class = "AutoModelForSequenceClassification"

    def __init__(self, model, *, args: HerdRewardConfig, processing_class, **kwargs):
        outputs = 2 if args.safety_coefficient else 1
        if model.config.num_labels != outputs:
            raise ValueError(
                f"model: found {model.config.num_labels} outputs, expected {outputs} with safety_coefficient "
                f"{args.safety_coefficient}"
            )
        # padding needs a token of its own: were it the end of turn, scores would be read one token early
        tokens, _ = adopt(processing_class)
        collator = RankingCollator(tokens.pad)
        model.config.num_labels = 1  # TRL takes no model of two outputs; `compute_loss` and the score head are ours
        with adapters_as_they_are(reward_trainer, model):
            super().__init__(model, args=args, processing_class=processing_class, data_collator=collator, **kwargs)
        if outputs == 2:
            model.config.num_labels = 2
            model.config.id2label, model.config.label2id = {0: "score", 1: "safety"}, {"score": 0, "safety": 1}
        head = {"safety_head": args.safety_coefficient} if outputs == 2 else {}
        self.weights = {**args.terms, **head}
        self._sums = {mode: torch.zeros(len(NAMES), dtype=torch.float64) for mode in ("train", "eval")}

    @property
    def objective(self) -> str:
        """The loss in words, for the model card."""
        named = {"margin": f"ranking with margin {self.args.margin}", "bradley_terry": "ranking without margin"}
        terms = {named.get(name, name): weight for name, weight in self.args.terms.items()}
        if self.args.safety_coefficient:
            terms["binary loss of a safety head"] = self.args.safety_coefficient
        return " + ".join(name if weight == 1 else f"{weight:g} x {name}" for name, weight in terms.items())

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        # rows come tokenised by the token contract; TRL's own pass would render the dialogs a second time
        if "answers_ids" not in dataset.column_names and not {"chosen_ids", "rejected_ids"} <= set(
            dataset.column_names
        ):
            raise ValueError(f"{dataset_name} dataset: found no column answers_ids, expected rows of ranking_rows")
        return dataset

    def _set_signature_columns_if_needed(self):
        self._signature_columns = ["answers_ids", "prompt_length", "is_safe", "better", "worse", "objective"]
        self._signature_columns += ["chosen_ids", "rejected_ids", "margin", "grade"]

    @staticmethod
    def rows_in(batch: dict) -> int:
        return batch["rows"]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # scores [A, outputs]: a column is taken before they meet margins [P]
        scores = scores_of_rows(model, inputs["input_ids"], inputs["attention_mask"], inputs["answer_mask"])
        scores = _wide(scores)
        numbers = {
            name: inputs[name].to(scores.dtype) for name in ("margin", "pair_weight", "safety_weight", "is_safe")
        }
        score_A, safety_A = scores[:, 0], scores[:, 1] if self.args.safety_coefficient else None
        better_P, worse_P = score_A[inputs["better"]], score_A[inputs["worse"]]
        losses = {}
        for name in self.args.terms:
            loss_P = numbers["pair_weight"] * OBJECTIVES[name](better_P, worse_P, numbers["margin"])
            losses[name] = torch.zeros_like(score_A[: inputs["rows"]]).index_add(0, inputs["row_of_pair"], loss_P)
        if safety_A is not None:
            loss_A = F.binary_cross_entropy_with_logits(safety_A, numbers["is_safe"].clamp(min=0), reduction="none")
            loss_A = loss_A * numbers["safety_weight"]
            losses["safety_head"] = torch.zeros_like(score_A[: inputs["rows"]]).index_add(
                0, inputs["row_of_answer"], loss_A
            )
        loss_R = sum(self.weights[name] * part_R for name, part_R in losses.items())
        self._count(inputs, score_A, safety_A, {f"loss/{k}": v for k, v in losses.items()} | {"loss": loss_R})
        loss = self.share_of_step(loss_R.mean(), inputs, num_items_in_batch if self.model.training else None)
        return (loss, {"logits": scores}) if return_outputs else loss

    @torch.no_grad()
    def _count(self, inputs, score_A, safety_A, losses) -> None:
        mode = "train" if self.model.training else "eval"
        sums = sums_of_rows(inputs, score_A, safety_A, losses)
        if mode == "eval":
            # several processes get rows twice to make their last batches equal; this leaves the copies out
            sums = self.accelerator.gather_for_metrics(sums).sum(0)
        else:
            sums = self.accelerator.reduce(sums.sum(0), "sum")
        self._sums[mode] += sums.cpu()

    def log(self, logs: dict, start_time: float | None = None) -> None:
        mode = "train" if self.model.training else "eval"
        prefix = "eval_" if mode == "eval" else ""
        found = read(self._sums[mode], self.weights)
        mean_loss = found.pop("mean_loss", None)
        logs |= {f"{prefix}{name}": value for name, value in found.items()}
        if "eval_loss" in logs and mean_loss is not None:
            logs["eval_loss"] = mean_loss  # Trainer's weighs batches by their number of answers
        self._sums[mode].zero_()
        super().log(logs, start_time)
