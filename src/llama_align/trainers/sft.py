"""Supervised fine-tuning on packed dialogs, loss on answers only (Llama 2, section 3.1; Llama 3, section 4.1.3)."""

from dataclasses import dataclass, field

from trl import SFTConfig, SFTTrainer
from trl.trainer import sft_trainer

from ..chat import adopt
from .base import HerdTrainerMixin, PackedCollator, TokenCount, refuse_unused
from .heads import herd_heads
from .making import adapters_as_they_are
from .outward import OutwardArguments
from .throughput import ThroughputArguments, ThroughputMixin

# options of TRL's preparation of data, all of which `llama_align.data` does beforehand
PREPARATION = (
    *("packing", "packing_strategy", "eval_packing", "padding_free", "pad_to_multiple_of", "truncation_mode"),
    *("completion_only_loss", "assistant_only_loss", "dataset_text_field", "dataset_num_proc", "shuffle_dataset"),
    *("chat_template_path", "eos_token", "pad_token"),
)


@dataclass
class HerdSFTConfig(ThroughputArguments, OutwardArguments, SFTConfig):
    """TRL's `SFTConfig` with rows packed beforehand by `llama_align.data`.

    Options of TRL's that prepare data would have no effect on such rows and are refused.
    """

    dataset_kwargs: dict | None = field(default_factory=lambda: {"skip_prepare_dataset": True})
    remove_unused_columns: bool | None = field(default=False)

    def __post_init__(self):
        refuse_unused(
            self, "rows come rendered, labelled and packed (packing_rows and max_length in the recipe)", *PREPARATION
        )
        self.dataset_kwargs = {**(self.dataset_kwargs or {}), "skip_prepare_dataset": True}
        super().__post_init__()


class HerdSFTTrainer(HerdTrainerMixin, ThroughputMixin, SFTTrainer):
    """Supervised fine-tuning of a chat model.

    Takes rows with `input_ids`, `labels` (-100 where no assistant speaks) and `position_ids`. The loss is the mean
    over all labelled tokens of the global batch, whatever the accumulation or the number of processes. Rows are filled
    in two ways: `bfd` (dialogs kept whole) and `concat` (Llama 2: end to end until a row is full). In both, positions
    restart where a dialog begins, so that no dialog sees another.

    Logged: `loss` (nats per labelled token), `mean_token_accuracy` (share of labelled tokens that are the model's first
    choice), `entropy` (nats per labelled token), `num_tokens` (so far), and of the steps since the last log, over all
    processes: `tokens_per_second` (without padding) and `mfu`, the model FLOPs utilisation (see
    `llama_align.trainers.throughput`).
    """

    _tag_names = ["llama-align", "sft"]  # noqa: RUF012
    objective = "negative log-likelihood of answers"
    paper = "Llama 2, section 3.1; Llama 3, section 4.1.3"

    def __init__(self, model, *args, processing_class, **kwargs):
        tokens, _ = adopt(processing_class)
        self._pad_id = tokens.pad
        kwargs["processing_class"] = processing_class
        with herd_heads(sft_trainer, uniform=True), adapters_as_they_are(sft_trainer, model):
            super().__init__(model, *args, data_collator=PackedCollator(), **kwargs)
        self.add_callback(TokenCount(self))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        seen = self._total_train_tokens
        tokens = (inputs["input_ids"] != self._pad_id).sum()
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.model.training:
            # TRL counts the length of one packed row, not the tokens of all of them; `gather_for_metrics` would cut
            # numbers of processes off as if they were rows
            self._total_train_tokens = seen + self.accelerator.reduce(tokens, "sum").item()
            self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
        return result
