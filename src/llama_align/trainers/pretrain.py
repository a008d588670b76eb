"""The pretraining trainer: transformers' Trainer on packed rows, with Llama 2's optimizer and schedule as defaults."""

from dataclasses import dataclass, field

import torch
from transformers import Trainer, TrainingArguments

from .base import HerdTrainerMixin, PackedCollator
from .heads import attach_head
from .throughput import ThroughputArguments, ThroughputMixin


@dataclass
class PretrainConfig(ThroughputArguments, TrainingArguments):
    """Training arguments with the defaults of Llama 2, section 2.2 (7B)."""

    learning_rate: float = field(default=3e-4, metadata={"help": "peak: 3e-4 (7B, 13B), 1.5e-4 (larger)"})
    adam_beta2: float = field(default=0.95, metadata={"help": "AdamW's second moment"})
    adam_epsilon: float = field(default=1e-5, metadata={"help": "AdamW's epsilon"})
    weight_decay: float = field(default=0.1, metadata={"help": "on all weights but norms and biases"})
    max_grad_norm: float = field(default=1.0, metadata={"help": "clip of the gradient's norm"})
    lr_scheduler_type: str = field(default="cosine_with_min_lr", metadata={"help": "cosine to a tenth of the peak"})
    lr_scheduler_kwargs: dict | str | None = field(
        default_factory=lambda: {"min_lr_rate": 0.1}, metadata={"help": "arguments of the schedule"}
    )
    warmup_steps: float = field(default=2000, metadata={"help": "steps of linear warm-up, or their share if below 1"})
    bf16: bool | None = field(
        default=None, metadata={"help": "bfloat16 mixed precision (default: on a GPU, unless fp16 is set)"}
    )
    z_loss: float = field(default=0.0, metadata={"help": "weight of log(Z)^2 per token (PaLM: 1e-4; Llama: none)"})
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "rows hold what the model takes"})

    def __post_init__(self):
        if self.bf16 is None:
            self.bf16 = torch.cuda.is_available() and not self.fp16
        super().__post_init__()


class PretrainTrainer(HerdTrainerMixin, ThroughputMixin, Trainer):
    """Pretraining of a language model on packed documents.

    The loss is the mean over all labelled tokens of the global batch, whatever the accumulation or the number of
    processes. So is the loss on held-out rows, over all of them.

    Logged: `loss` and `eval_loss` (nats per token), `grad_norm`, `learning_rate`, and of the steps since the last log,
    over all processes: `tokens_per_second` (without padding) and `mfu`, the model FLOPs utilisation (see
    `llama_align.trainers.throughput`).
    """

    _tag_names = ["llama-align", "pretrain"]  # noqa: RUF012
    objective = "next token"
    paper = "Llama 2, section 2"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, data_collator=PackedCollator(), **kwargs)
        if self.compute_metrics is not None:
            raise ValueError("compute_metrics: found a function, expected none; held-out rows are only read for loss")
        if self.args.gradient_checkpointing and hasattr(self.model, "peft_config"):
            self.model.enable_input_require_grads()  # or nothing below the first layer has a gradient to go to
        attach_head(getattr(self.model, "get_base_model", lambda: self.model)(), uniform=True)

    def compute_loss(self, model, inputs, *args, **kwargs):
        if self.args.z_loss and model.training:
            inputs = {**inputs, "z_loss": self.args.z_loss}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _save_checkpoint(self, model, trial):
        self.create_model_card()
        super()._save_checkpoint(model, trial)

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        self._heldout = torch.zeros(2, dtype=torch.float64)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        nll, tokens = self._heldout.tolist()
        # transformers averages the means of batches, the last of which several processes fill up with rows seen before
        output.metrics[f"{metric_key_prefix}_loss"] = nll / max(tokens, 1)
        return output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        labels_BL = inputs["labels"][:, 1:]
        with torch.no_grad(), self.compute_loss_context_manager():
            nll_BL = -model(**inputs, fused_lm_head=True).log_probs  # 0 where there is no label
        rows_B2 = torch.stack([nll_BL.sum(1), labels_BL.ne(-100).sum(1)], dim=1)
        self._heldout += self.accelerator.gather_for_metrics(rows_B2).cpu().double().sum(0)
        return rows_B2[:, 0].sum() / rows_B2[:, 1].sum().clamp(min=1), None, None
