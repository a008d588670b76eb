"""DPO as Llama 3 runs it (section 4.1.4): format tokens out of the ratio, plus the chosen answer's NLL.

The loss is TRL's `DPOTrainer._compute_loss` on content tokens plus the NLL that `HerdDPOTrainer._compute_loss` adds.
"""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer
from trl.trainer import dpo_trainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from ..chat import FORMAT, ControlTokens, TokenRole, adopt, roles_of
from ..runtime.sharding import references_by_layers
from .base import EqualRows, HerdTrainerMixin, TokenCount, refuse_unused
from .heads import herd_heads
from .making import adapters_as_they_are, references_as_asked
from .outward import OutwardArguments

logger = logging.getLogger(__name__)

PAIR = ("prompt_ids", "chosen_ids", "rejected_ids")


@dataclass
class HerdDPOConfig(OutwardArguments, DPOConfig):
    """TRL's `DPOConfig` with Llama 3's two changes, each of which can be switched off."""

    mask_format_tokens: bool = field(
        default=True, metadata={"help": "leave headers and terminators out of both log-probabilities"}
    )
    nll_coefficient: float = field(
        default=0.2, metadata={"help": "weight of the chosen answer's negative log-likelihood per token (0: off)"}
    )
    share_prompts: bool = field(
        default=True, metadata={"help": "compute the prompt of a pair once (LlamaHerd with sdpa attention)"}
    )
    alarm_after: int = field(
        default=100, metadata={"help": "steps over which chosen answers lose probability until a warning (0: off)"}
    )

    def __post_init__(self):
        refuse_unused(
            self,
            "pairs come tokenised by the token contract and share their prompts",
            *("padding_free", "pad_to_multiple_of", "pad_token", "dataset_num_proc"),
        )
        super().__post_init__()
        if self.nll_coefficient and "sft" in self.loss_type:
            raise ValueError("loss_type: found 'sft' beside nll_coefficient, expected one of them; both are the NLL")


@dataclass
class MaskedPreferenceCollator(DataCollatorForPreference):
    """TRL's collator; `completion_mask` then covers what the ratio reads and `nll_mask` what the NLL reads.

    The NLL reads what the assistant says with its terminators and tool tags. The ratio reads its content alone, or
    without `mask_format_tokens` everything but the content of others: users and tools of a completion of several turns.
    """

    tokens: ControlTokens | None = None
    mask_format_tokens: bool = True

    def torch_call(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        batch = super().torch_call(examples)
        completion, roles = batch["completion_mask"], self._roles(examples, batch["input_ids"].shape[1])
        others = torch.isin(roles, torch.tensor([TokenRole.PROMPT]))
        foreign = torch.isin(roles, torch.tensor([TokenRole.HEADER, TokenRole.PROMPT, TokenRole.PROMPT_END]))
        batch["nll_mask"] = completion * (~foreign).long()
        if self.mask_format_tokens:
            ends = torch.isin(batch["input_ids"], torch.tensor(self.tokens.terminators))
            others = others | torch.isin(roles, torch.tensor(FORMAT)) | ends
        batch["completion_mask"] = completion * (~others).long()
        return batch

    def _roles(self, examples: list[dict], length: int) -> torch.Tensor:
        """Roles [2B, length], read before rows are cut: a header that is cut off still says who speaks."""
        rows = [row["prompt_ids"] + row[side] for side in ("chosen_ids", "rejected_ids") for row in examples]
        whole = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row) for row in rows], batch_first=True, padding_value=self.tokens.pad
        )
        roles = roles_of(whole, self.tokens)
        cut = slice(None) if self.max_length is None else slice(None, self.max_length)
        if self.max_length is not None and self.truncation_mode == "keep_end":
            cut = slice(-self.max_length, None)
        kept = [found[: len(row)][cut] for found, row in zip(roles, rows, strict=True)]
        padded = torch.nn.utils.rnn.pad_sequence(kept, batch_first=True, padding_value=int(TokenRole.TEXT))
        return padded[:, :length]


class HerdDPOTrainer(HerdTrainerMixin, EqualRows, DPOTrainer):
    """Direct preference optimisation with masked format tokens and NLL regularisation.

    loss = -log sigmoid(beta * (log-ratio chosen - log-ratio rejected)) + nll_coefficient * NLL(chosen) / |chosen|

    The log-ratios run over content tokens alone; the NLL over the whole chosen answer with its terminator, a mean over
    its tokens and then over answers. The loss of a step is the mean over its pairs, however they are accumulated.

    Logged (means over the batches since the last log, over all processes; in the last batch of an epoch TRL may leave
    processes out of `entropy`, `logits/`, `mean_token_accuracy` and `num_tokens`): `loss`; `loss/nll` (of chosen
    answers, nats per token); `rewards/chosen`, `rewards/rejected` (beta times the log-ratio to the reference),
    `rewards/margins` (their difference), `rewards/accuracies` (share of pairs in which it is positive); `logps/chosen`,
    `logps/rejected` (sum over the tokens of the ratio, nats); `logits/chosen`, `logits/rejected` (means over vocabulary
    and tokens); `entropy` (nats per token of the ratio); `mean_token_accuracy` (share of chosen tokens of the ratio
    that are the model's first choice); `num_tokens` (so far, prompts and both answers).

    Alarms, as warnings and as `alarms/<name>` in the logs and in `alarms`: `no_content` (answers without a token in the
    ratio), `lost_terminator` (share of answers that max_length cut before their end), both counted before training;
    `chosen_falling` (at how many logs `rewards/chosen` was below 0, the reference, and lower than at the last log that
    was `alarm_after` steps or more before).
    """

    _tag_names = ["llama-align", "dpo"]  # noqa: RUF012
    paper = "Llama 3, section 4.1.4"

    def __init__(self, model, *, args: HerdDPOConfig, processing_class: PreTrainedTokenizerBase, **kwargs):
        tokens, _ = adopt(processing_class)
        collator = MaskedPreferenceCollator(
            pad_token_id=tokens.pad,
            max_length=args.max_length,
            truncation_mode=args.truncation_mode,
            tokens=tokens,
            mask_format_tokens=args.mask_format_tokens,
        )
        self.alarms: dict[str, float] = {}
        with (
            herd_heads(dpo_trainer, share=args.share_prompts),
            references_by_layers(dpo_trainer),
            references_as_asked(dpo_trainer),
            adapters_as_they_are(dpo_trainer, model),
        ):
            super().__init__(model, args=args, processing_class=processing_class, data_collator=collator, **kwargs)
        self.add_callback(TokenCount(self))
        self._alarm_at_data()

    @property
    def objective(self) -> str:
        """The loss in words, for the model card."""
        args = self.args
        masked = "format tokens masked" if args.mask_format_tokens else "on all tokens of the answers"
        nll = f", plus {args.nll_coefficient:g} x NLL of the chosen answer" if args.nll_coefficient else ""
        return f"DPO ({', '.join(args.loss_type)}, beta {args.beta:g}), {masked}{nll}"

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        # rows come tokenised by the token contract; TRL's own pass would render the dialogs a second time
        missing = set(PAIR) - set(dataset.column_names)
        if missing:
            raise ValueError(f"{dataset_name} dataset: found no column {sorted(missing)}, expected tokenised pairs")
        return dataset

    # -- reference log-probabilities

    @property
    def _reference(self) -> torch.nn.Module:
        return self.ref_model or self.model

    def _precompute_ref_logps(self, dataset, name, batch_size):
        # TRL's cache is keyed by the data set's fingerprint and the model, of which ZeRO-3 leaves it empty tensors; a
        # number here depends on the ids themselves, on which of them are read, and on the precision
        collator, args = self.data_collator, self.args
        salt = (collator.tokens, collator.mask_format_tokens, collator.max_length, collator.truncation_mode)
        salt += (sharded_digest(self._reference),)
        salt += (args.ld_alpha, self.accelerator.mixed_precision, str(self._reference.dtype))
        dataset = dataset.select(range(len(dataset)))
        dataset._fingerprint = Hasher.hash((_digest(dataset), salt))
        # where all processes and a resumed run find it; that of rows in memory would be in a folder of each process
        os.makedirs(args.output_dir, exist_ok=True)
        dataset._get_cache_file_path = lambda key: os.path.join(args.output_dir, f"reference-{key}.arrow")
        unsharded = self.is_fsdp_enabled and self.ref_model is None  # not yet prepared, and left where it was loaded
        home = self.model.device
        if unsharded:
            self.model.to(self.accelerator.device)
        found = super()._precompute_ref_logps(dataset, name, batch_size)
        if unsharded:
            self.model.to(home)
        return found

    def compute_ref_log_probs(self, model, inputs):
        return super().compute_ref_log_probs(model, {k: v for k, v in inputs.items() if k != "nll_mask"})

    # -- the loss

    def _compute_loss(self, model, inputs, return_outputs):
        inputs = dict(inputs)
        nll_mask = inputs.pop("nll_mask")
        content = inputs["completion_mask"][:, 1:]
        read = torch.maximum(nll_mask, inputs["completion_mask"])
        labels = inputs["input_ids"].masked_fill(read == 0, -100)
        kept = {}

        def scored_once(*args, **kwargs):
            if not kwargs.get("fused_lm_head"):  # the logits that `predict` and `compute_metrics` ask for
                return model(*args, **kwargs)
            # one forward serves both terms: labelled over the whole completion, then masked to content for the ratio
            outputs = model(*args, **kwargs | {"labels": labels})
            logps = outputs.log_probs[:, -content.size(1) :]
            kept["logps"] = logps
            outputs.log_probs = logps * content
            return outputs

        found = super()._compute_loss(scored_once, inputs, return_outputs)
        loss, outputs = found if return_outputs else (found, None)
        chosen_mask = nll_mask[:, 1:].chunk(2)[0]
        chosen_logps = kept["logps"].chunk(2)[0]
        nll = -((chosen_logps * chosen_mask).sum(1) / chosen_mask.sum(1).clamp(min=1)).mean()
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["loss/nll"].append(self.accelerator.gather(nll.detach()).mean().item())
        loss = loss + self.args.nll_coefficient * nll
        return (loss, outputs) if return_outputs else loss

    @staticmethod
    def rows_in(batch: dict) -> int:
        return len(batch["input_ids"]) // 2

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        found = super().compute_loss(model, inputs, return_outputs)
        loss, outputs = found if return_outputs else (found, None)
        loss = self.share_of_step(loss, inputs, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def last_logged(self, names: Sequence[str]) -> dict[str, float]:
        """Metrics of training as they were logged last; none where nothing was."""
        rows = [row for row in self.state.log_history if "loss" in row]
        return {name: rows[-1][name] for name in names if name in rows[-1]} if rows else {}

    # -- alarms

    def _alarm_at_data(self) -> None:
        answers = 2 * len(self.train_dataset)
        empty, cut = _count_endings(self.train_dataset, self.data_collator)
        if empty and self.accelerator.is_main_process:
            logger.warning(f"{empty} of {answers} answers have no content token: the ratio reads nothing of them")
        if cut and self.accelerator.is_main_process:
            logger.warning(f"{cut} of {answers} answers lost their terminator to max_length {self.args.max_length}")
        self.alarms |= {"no_content": empty, "lost_terminator": cut / answers, "chosen_falling": 0}

    def _alarm_at_falling(self, logs: dict[str, float]) -> None:
        past, steps, now = self.state.log_history, self.args.alarm_after, logs["rewards/chosen"]
        before = [
            row["rewards/chosen"]
            for row in past
            if "rewards/chosen" in row and row["step"] <= self.state.global_step - steps
        ]
        if not steps or not before or now >= min(0, before[-1]):
            return
        if not self.alarms["chosen_falling"] and self.accelerator.is_main_process:
            logger.warning(
                f"chosen answers lose probability: rewards/chosen {before[-1]:.3f} -> {now:.3f} in {steps} steps or "
                "more, below the reference; nll_coefficient holds them up"
            )
        self.alarms["chosen_falling"] += 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # a resumed run's alarms so far; it may have nothing left to train
        past = [row.get("alarms/chosen_falling", 0) for row in self.state.log_history]
        self.alarms["chosen_falling"] = max(past, default=0)
        if "loss" in logs:  # of training; TRL's own log adds the metrics to it
            metrics = {key: sum(values) / len(values) for key, values in self._metrics["train"].items()}
            self._alarm_at_falling(metrics)
            logs |= {f"alarms/{name}": value for name, value in self.alarms.items() if value}
        super().log(logs, start_time)


def sharded_digest(model: torch.nn.Module) -> str | None:
    """Digest of weights that ZeRO-3 has shared out among processes, gathered one at a time; None for any other model.

    Every process must ask for it.
    """
    weights = [(name, weight) for name, weight in model.named_parameters() if hasattr(weight, "ds_id")]
    if not weights:
        return None
    import deepspeed

    digest = hashlib.sha256()
    for name, weight in weights:
        with deepspeed.zero.GatheredParameters([weight]):
            whole = weight.detach().cpu().contiguous()
            digest.update(f"{name} {whole.dtype} {tuple(whole.shape)}".encode())
            digest.update(whole.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _digest(dataset: Dataset) -> str:
    hasher = Hasher()
    for batch in dataset.select_columns(list(PAIR)).iter(1000):
        hasher.update(batch)
    return hasher.hexdigest()


def _count_endings(dataset: Dataset, collator: MaskedPreferenceCollator) -> tuple[int, int]:
    """Answers without a token in the ratio, and answers that ended and whose end was cut off."""
    empty = cut = 0
    terminators = torch.tensor(collator.tokens.terminators)
    for batch in dataset.select_columns(list(PAIR)).iter(256):
        examples = [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
        found = collator(examples)
        empty += int((found["completion_mask"][:, 1:].sum(1) == 0).sum())
        last = found["attention_mask"].sum(1) - 1
        ends = torch.isin(found["input_ids"].gather(1, last[:, None])[:, 0], terminators)
        ended = [row[side][-1:] for side in ("chosen_ids", "rejected_ids") for row in examples]
        whole = torch.tensor([bool(end) and end[0] in collator.tokens.terminators for end in ended])
        cut += int((whole & ~ends).sum())
    return empty, cut
