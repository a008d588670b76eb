"""The pretraining trainer: transformers' Trainer on packed rows, with Llama 2's optimizer and schedule as defaults."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from .averages import KINDS, WeightAverage
from .base import HerdTrainerMixin, PackedCollator
from .heads import attach_head
from .outward import OutwardArguments
from .staged import StagedMixin
from .throughput import ThroughputArguments, ThroughputMixin
from .watch import BySource, Spikes

AVERAGE = "average"  # the folder of the averaged weights


@dataclass
class PretrainConfig(ThroughputArguments, OutwardArguments, TrainingArguments):
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
    spike_deviations: float = field(
        default=6.0,
        metadata={
            "help": "a step is named, with its documents, whose loss is so many standard deviations above the mean of "
            "the last 128 (0: none is); a loss or gradient that is no number always is"
        },
    )
    skip_spikes: bool = field(default=False, metadata={"help": "leave such a step's gradients out of the weights"})
    weight_average: str | None = field(
        default=None,
        metadata={"help": "keep an average of the weights, saved in average/: ema or mean"},
    )
    weight_average_decay: float = field(default=0.999, metadata={"help": "of the EMA, a step"})
    weight_average_after: float = field(default=0.0, metadata={"help": "share of the steps after which it begins"})
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "rows hold what the model takes"})

    def __post_init__(self):
        if self.bf16 is None:
            self.bf16 = torch.cuda.is_available() and not self.fp16
        super().__post_init__()
        if self.weight_average not in (None, *KINDS):
            raise ValueError(f"weight_average: found {self.weight_average!r}, expected {' or '.join(KINDS)}")
        for name in ("weight_average_decay", "weight_average_after"):
            default = type(self).__dataclass_fields__[name].default
            if (found := getattr(self, name)) != default and (not self.weight_average or self._unused_decay(name)):
                raise ValueError(f"{name}: found {found} with weight_average {self.weight_average}, expected {default}")
        if self.skip_spikes and (self.fp16 or self.deepspeed or self.deepspeed_plugin):
            raise ValueError("skip_spikes: found true with fp16 or DeepSpeed, expected neither; those step themselves")

    def _unused_decay(self, name: str) -> bool:
        return name == "weight_average_decay" and self.weight_average != "ema"


class _Steps(TrainerCallback):
    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_begin(self, args, state, control, **_):
        plan = self.trainer.plan
        if plan and state.global_step in plan.time.firsts:
            self.trainer.spikes.forget()  # another mix has another loss, every step of which would be a spike

    def on_pre_optimizer_step(self, args, state, control, **_):
        self.trainer.judge_step()

    def on_step_end(self, args, state, control, **_):
        if self.trainer.average:
            after = args.weight_average_after * state.max_steps
            self.trainer.average.update(self.trainer.model, state.global_step, after)


class PretrainTrainer(StagedMixin, HerdTrainerMixin, ThroughputMixin, Trainer):
    """Pretraining of a language model on packed documents.

    The loss is the mean over all labelled tokens of the global batch, whatever the accumulation or the number of
    processes. So is the loss on held-out rows, over all of them.

    Logged: `loss` and `eval_loss` (nats per token), `grad_norm`, `learning_rate`, and of the steps since the last log,
    over all processes: `tokens_per_second` (without padding) and `mfu`, the model FLOPs utilisation (see
    `llama_align.trainers.throughput`). With stages also `loss/<source>`, of the same steps (z-loss included, as in
    `loss`), `epochs/<source>` read so far, and `tokens` trained on. With held-out rows by source
    `eval_bits_per_byte/<source>`: bits of the predicted tokens over the bytes of the source's text, these times the
    share of its tokens that were predicted, since a row's first token is not.
    A row with `event` names a step whose loss is a spike or no number, and the documents in it, or how a gate came out.
    """

    _tag_names = ["llama-align", "pretrain"]  # noqa: RUF012
    objective = "next token"
    leaves = (AVERAGE, "gates.json", "needles_*.svg")  # in output_dir, where they are asked for
    paper = "Llama 2, section 2"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, data_collator=PackedCollator(), **kwargs)
        if self.compute_metrics is not None:
            raise ValueError("compute_metrics: found a function, expected none; held-out rows are only read for loss")
        ours = self.model.config.model_type == "llama_herd"
        if self.args.z_loss and not ours:
            raise ValueError(f"z_loss: found it for {self.model.config.model_type}, expected a LlamaHerd, which has it")
        if self.args.gradient_checkpointing and hasattr(self.model, "peft_config"):
            self.model.enable_input_require_grads()  # or nothing below the first layer has a gradient to go to
        outputs = ("log_probs", "is_top1") if self.gates else ("log_probs",)
        attach_head(getattr(self.model, "get_base_model", lambda: self.model)(), uniform=True, outputs=outputs)
        self.spikes = Spikes(self.args.spike_deviations)
        kind, decay = self.args.weight_average, self.args.weight_average_decay
        self.average = WeightAverage(kind, decay) if kind else None
        names = [source.name for source in self.plan.sources] if self.plan and ours else []
        self._by_source = BySource(names) if names else None
        self._step_loss, self._grad_norm = 0.0, 0.0
        self.add_callback(_Steps(self))

    def compute_loss(self, model, inputs, *args, **kwargs):
        inputs = dict(inputs)
        source_B = inputs.pop("source", None)
        if self.args.z_loss and model.training:
            inputs["z_loss"] = self.args.z_loss
        if source_B is None or self._by_source is None:
            return super().compute_loss(model, inputs, *args, **kwargs)
        inputs["row_losses"] = losses_B = torch.zeros(len(source_B), device=source_B.device)
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        self._by_source.add(source_B, losses_B, inputs["labels"])
        return loss

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        self._step_loss = self._step_loss + loss
        return loss

    def _get_grad_norm(self, *args, **kwargs):
        self._grad_norm = super()._get_grad_norm(*args, **kwargs)
        return self._grad_norm

    def judge_step(self) -> None:
        """Names the step that is about to change the weights, if something is wrong with it, and may keep it from that.

        All processes see the same loss, that of the whole step.
        """
        loss = self.accelerator.reduce(self._step_loss, "mean").item()
        self._step_loss = 0.0
        # in half precision an overflow is how the scale of the loss is found
        norm = 0.0 if self.args.fp16 else float(self._grad_norm or 0.0)
        event = self.spikes.judge(loss, norm)
        if event is None:
            return
        skip = self.args.skip_spikes and not self.spikes.settled
        if skip:
            self.optimizer.zero_grad()
        step = self.state.global_step
        row = {"step": step + 1, "event": event + (", left out" if skip else "")}
        if self.plan:
            row |= {"stage": self.plan.stage(step).name, "documents": self.plan.documents(step)}
        self.state.log_history.append(row)
        if self.is_world_process_zero():
            print(f"step {step + 1}: {row['event']}; documents {', '.join(row.get('documents', ['?']))}", flush=True)

    def log(self, logs, start_time=None):
        if "loss" in logs and self.plan:
            step = self.state.global_step
            seen = self._by_source.sums(self.accelerator) if self._by_source else []
            logs |= {f"loss/{name}": loss / tokens for name, loss, tokens in seen}
            logs |= {f"epochs/{name}": row["epochs"] for name, row in self.plan.epochs(step).items()}
            logs["tokens"] = self.plan.time.tokens_before(step)
        super().log(logs, start_time)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the model's weights are their average."""
        with self.average.in_place(self.model):
            yield

    def save_average(self) -> None:
        """Saves the averaged weights, a checkpoint of its own in `average/`."""
        with self.averaged():
            self.save_model(str(Path(self.args.output_dir) / AVERAGE))

    def _save_checkpoint(self, model, trial):
        self.create_model_card()
        folder = Path(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
        if not self.args.save_only_model:
            folder.mkdir(parents=True, exist_ok=True)
            if self.is_world_process_zero():
                self.spikes.save(folder)
                if self.gates:
                    self.gates.save(folder)
                if self.plan:
                    self.plan.save(folder, self.state.global_step)
            if self.average:
                self.average.save(folder, self.model, self.accelerator)
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.spikes.load(Path(checkpoint))
            if self.gates:
                self.gates.load(Path(checkpoint))
            if self.plan:  # with the portions that gates have taken into it
                self.plan.check(Path(checkpoint))
            if self.average:
                self.average.load(Path(checkpoint), self.model, self.accelerator)

    def evaluation_loop(self, dataloader, *args, metric_key_prefix: str = "eval", **kwargs):
        counted = getattr(dataloader.dataset, "counted", dict)()
        self._heldout = torch.zeros(max(len(counted), 1), 2, dtype=torch.float64)
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        nll, tokens = self._heldout.sum(0).tolist()
        # transformers averages the means of batches, the last of which several processes fill up with rows seen before
        output.metrics[f"{metric_key_prefix}_loss"] = nll / max(tokens, 1)
        for (name, source), (nll, tokens) in zip(counted.items(), self._heldout.tolist(), strict=False):
            if source["bytes"]:
                size = source["bytes"] * tokens / source["predicted"]
                output.metrics[f"{metric_key_prefix}_bits_per_byte/{name}"] = nll / math.log(2) / size
        return output

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = dict(self._prepare_inputs(inputs))
        labels_BL = inputs["labels"][:, 1:]
        source_B = inputs.pop("source", torch.zeros_like(labels_BL[:, 0]))
        with torch.no_grad(), self.compute_loss_context_manager():
            nll_BL = -model(**inputs, fused_lm_head=True).log_probs  # 0 where there is no label
        rows_B3 = torch.stack([source_B, nll_BL.sum(1), labels_BL.ne(-100).sum(1)], dim=1)
        rows_B3 = self.accelerator.gather_for_metrics(rows_B3)
        self._heldout.index_add_(0, rows_B3[:, 0].long().cpu(), rows_B3[:, 1:].cpu().double())
        return rows_B3[:, 1].sum() / rows_B3[:, 2].sum().clamp(min=1), None, None
