"""DPO as Llama 3 runs it (section 4.1.4): format tokens out of the ratio, plus the chosen answer's NLL."""

from dataclasses import dataclass, field

import torch
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer
from trl.trainer import dpo_trainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from ..chat import FORMAT, ControlTokens, roles_of
from ..heads import herd_heads
from ..training import CardMixin


@dataclass
class HerdDPOConfig(DPOConfig):
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

    def __post_init__(self):
        super().__post_init__()
        if self.nll_coefficient and "sft" in self.loss_type:
            raise ValueError("loss_type: found 'sft' beside nll_coefficient, expected one of them; both are the NLL")


@dataclass
class MaskedPreferenceCollator(DataCollatorForPreference):
    """TRL's collator; `completion_mask` then covers content only and `nll_mask` the whole completion."""

    tokens: ControlTokens | None = None
    mask_format_tokens: bool = True

    def torch_call(self, examples: list[dict]) -> dict[str, torch.Tensor]:
        batch = super().torch_call(examples)
        batch["nll_mask"] = batch["completion_mask"]
        if self.mask_format_tokens:
            roles = roles_of(batch["input_ids"], self.tokens)
            is_format = torch.isin(roles, torch.tensor(FORMAT))
            batch["completion_mask"] = batch["completion_mask"] * (~is_format).long()
        return batch


class HerdDPOTrainer(CardMixin, DPOTrainer):
    """Direct preference optimisation with masked format tokens and NLL regularisation.

    loss = -log sigmoid(beta * (log-ratio chosen - log-ratio rejected)) + nll_coefficient * NLL(chosen) / |chosen|

    The log-ratios run over content tokens alone; the NLL over the whole chosen answer with its terminator.

    Logged beside TRL's metrics (`rewards/*`, `logps/*`, `entropy`): `loss/nll`.
    """

    _tag_names = ["llama-align", "dpo"]  # noqa: RUF012
    objective = "DPO, format tokens masked, plus 0.2 x NLL of the chosen answer"
    paper = "Llama 3, section 4.1.4"

    def __init__(self, model, *, args: HerdDPOConfig, processing_class: PreTrainedTokenizerBase, **kwargs):
        collator = MaskedPreferenceCollator(
            pad_token_id=processing_class.pad_token_id,
            max_length=args.max_length,
            truncation_mode=args.truncation_mode,
            tokens=ControlTokens.of(processing_class),
            mask_format_tokens=args.mask_format_tokens,
        )
        with herd_heads(dpo_trainer, share=args.share_prompts):
            super().__init__(model, args=args, processing_class=processing_class, data_collator=collator, **kwargs)

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        # rows come tokenised by the token contract; TRL's own pass would render the dialogs a second time
        missing = {"prompt_ids", "chosen_ids", "rejected_ids"} - set(dataset.column_names)
        if missing:
            raise ValueError(f"{dataset_name} dataset: found no column {sorted(missing)}, expected tokenised pairs")
        return dataset

    def _precompute_ref_logps(self, dataset, name, batch_size):
        # the cache is keyed by data and model only: another mask must not read these log-probabilities
        salt = (self.args.mask_format_tokens, self.args.max_length, self.args.truncation_mode)
        dataset = dataset.select(range(len(dataset)))
        dataset._fingerprint = Hasher.hash((dataset._fingerprint, salt))
        return super()._precompute_ref_logps(dataset, name, batch_size)

    def compute_ref_log_probs(self, model, inputs):
        return super().compute_ref_log_probs(model, {k: v for k, v in inputs.items() if k != "nll_mask"})

    def _compute_loss(self, model, inputs, return_outputs):
        inputs = dict(inputs)
        nll_mask = inputs.pop("nll_mask")
        content = inputs["completion_mask"][:, 1:]
        labels = inputs["input_ids"].masked_fill(nll_mask == 0, -100)
        kept = {}

        def scored_once(*args, **kwargs):
            # one forward serves both terms: labelled over the whole completion, then masked to content for the ratio
            outputs = model(*args, **kwargs | {"labels": labels})
            logps = outputs.log_probs[:, -content.size(1) :]
            kept["logps"] = logps
            outputs.log_probs = logps * content
            return outputs

        loss = super()._compute_loss(scored_once, inputs, return_outputs=False)
        chosen_mask = nll_mask[:, 1:].chunk(2)[0]
        chosen_logps = kept["logps"].chunk(2)[0]
        nll = -((chosen_logps * chosen_mask).sum(1) / chosen_mask.sum(1).clamp(min=1)).mean()
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["loss/nll"].append(self.accelerator.gather_for_metrics(nll.detach()).mean().item())
        loss = loss + self.args.nll_coefficient * nll
        return (loss, None) if return_outputs else loss
