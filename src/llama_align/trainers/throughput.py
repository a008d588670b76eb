"""Tokens per second and model FLOPs utilisation (MFU) of a training run, as trainers log them.

    mfu = FLOPs of training by `llama_align.sizes.cost` / seconds / (peak FLOP/s of a device x devices)

Counted as in PaLM's appendix B: attention over the full square of a row, nothing for what gradient checkpointing
computes again. The head counts for labelled tokens alone, as no other logit is needed; padding counts for nothing. The
peak of an accelerator is that of dense bfloat16 products, whatever the dtype of training; on a CPU it is that of a
large product measured in the dtype of training, so that mfu is relative to what products reach on this machine.

Both numbers depend on the clock. They are in the trainer's log, hence in a checkpoint's `trainer_state.json` as the run
times of evaluations are; `recipe.finish` leaves them out of `log.jsonl` and `metrics.json`.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from transformers import TrainerCallback

from ..runtime.peak import SETTING, peak_flops
from ..sizes.cost import flops_of

logger = logging.getLogger(__name__)

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class ThroughputArguments:
    """What a trainer that logs its throughput can be told."""

    peak_flops: float | None = field(
        default=None,
        metadata={
            "help": "peak FLOP/s of one device, to which mfu is relative (default: the environment variable "
            f"{SETTING}; else the data sheet's of a known accelerator, or that of a product measured on the CPU)"
        },
    )


class Throughput(TrainerCallback):
    """Counts the tokens and the time of training between two logs.

    The clock runs from the beginning of the first step: fetching batches counts, evaluation, saving, logging and the
    batches a resumed run skips do not. Tokens add up on the device and are read where a log waits for it anyway.
    """

    def __init__(self, accelerator):
        self.accelerator = accelerator
        self._start()

    def _start(self) -> None:
        self._config = self._peak = self._since = self._seen = None
        self._seconds = 0.0

    def on_train_begin(self, args, state, control, model=None, **_):
        self._start()
        self._config = model.config
        # frozen weights cost no gradient of theirs, so that the count would be another
        if self._config.model_type != "llama_herd" or not all(weight.requires_grad for weight in model.parameters()):
            return
        dtype = DTYPES.get(self.accelerator.mixed_precision, model.dtype)
        peak = peak_flops(self.accelerator.device, dtype, args.peak_flops)
        if peak is None and state.is_world_process_zero:
            logger.warning(f"no peak FLOP/s known for this device, so mfu is not logged; set {SETTING} or peak_flops")
        if peak is not None:
            self._peak = peak * args.world_size * max(1, args.n_gpu)

    def on_step_begin(self, args, state, control, **_):
        if self._since is None:
            self._since = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        self._advance()

    def _advance(self) -> None:
        now = time.perf_counter()
        self._seconds += now - self._since
        self._since = now

    def _pass_over(self, args, state, control, **_):
        if self._since is not None:
            self._since = time.perf_counter()

    on_log = on_evaluate = on_save = _pass_over

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within, the clock stands."""
        began = time.perf_counter()
        yield
        if self._since is not None:
            self._since += time.perf_counter() - began

    def count(self, inputs: dict[str, torch.Tensor]) -> None:
        """Adds a batch of rows: its tokens without padding, its labelled tokens, and its query-key pairs."""
        ids, pad = inputs["input_ids"], getattr(self._config, "pad_token_id", None)
        tokens = ids.ne(-1 if pad is None else pad).sum()
        # the full square of the row, the convention of utilisation figures
        seen = torch.stack([tokens, inputs["labels"][:, 1:].ne(-100).sum(), tokens * ids.shape[1]])
        self._seen = seen if self._seen is None else self._seen + seen

    def measured(self) -> dict[str, float]:
        """The numbers since they were last asked for, over all processes; nothing where no step was made."""
        if self._seen is None:
            return {}
        self._advance()  # a GPU that was behind has finished by now: the loss was read
        seen = self.accelerator.reduce(self._seen.to(self.accelerator.device), "sum")
        tokens, labelled, pairs = (int(number) for number in seen.tolist())
        seconds, self._seconds, self._seen = self._seconds, 0.0, None
        found = {"tokens_per_second": tokens / seconds}
        if self._peak is not None:
            found["mfu"] = flops_of(self._config, tokens, pairs, labelled).training / seconds / self._peak
        return found


class ThroughputMixin:
    """Makes a trainer of packed rows log `tokens_per_second` and, for LlamaHerd, `mfu`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._throughput = Throughput(self.accelerator)
        self.add_callback(self._throughput)

    def training_step(self, model, inputs, *args, **kwargs):
        self._throughput.count(inputs)
        return super().training_step(model, inputs, *args, **kwargs)

    def log(self, logs, start_time=None):
        if "loss" in logs:  # of training; an evaluation's is eval_loss
            logs.update(self._throughput.measured())
        super().log(logs, start_time)
