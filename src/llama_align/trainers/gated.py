"""Gates between stages under Trainer: what they ask of a model measured by all processes together.

Knows Trainer's model and rows; what is asked and how it came out is known to `llama_align.pretraining.gates`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.distributed.fsdp import FSDPModule

Rows = Sequence[dict[str, np.ndarray]]


class GatedMixin:
    """Measures what stands between the stages of a plan.

    Args:
        gates: of the plan. show: called by one process whenever one was judged.
    """

    def __init__(self, *args, gates: Any = None, show: Callable[[], None] = lambda: None, **kwargs):
        self.gates, self._show = gates, show
        super().__init__(*args, **kwargs)

    def measure_before(self, step: int, number: int) -> None:
        """Keeps the losses of the model before a stage.

        Raises:
            ValueError: a run that goes on from within a stage whose gate was added later.
        """
        if step != self.plan.time.firsts[number]:
            raise ValueError(
                f"resume_from_checkpoint: found step {step}, within a stage, and no losses from before it, expected a "
                "checkpoint of a run with the same gates"
            )
        self.gates.before(number, self._losses(number))

    def judge_stage(self, step: int) -> None:
        """Called by every process behind a step; where a gate stands there, more steps may follow than before."""
        number = self.gates.stands_at(step) if self.gates else None
        if number is None:
            return
        probes = self.gates.probes(number)
        hits = [hit > 0 for _, hit in self._scored(self.gates.rows(probes))]
        result = self.gates.judge(step, number, self._losses(number), probes, hits)
        self.count_steps()
        if not result["passed"]:  # the rate of the next step was that of a stage that comes later now
            self.lr_scheduler.last_epoch -= 1
            self.lr_scheduler.step()
        self.state.log_history.append({"step": step, "event": said(result), "stage": result["stage"]})
        if self.is_world_process_zero():
            print(f"step {step}: {said(result)}", flush=True)
        self.show_gates()

    def show_gates(self) -> None:
        """Has all that was measured so far be written into the folder of the run."""
        if self.gates and self.gates.results and self.is_world_process_zero():
            self._show()

    def _losses(self, number: int) -> list[float]:
        return [loss for loss, _ in self._scored(self.gates.documents(number))]

    def _scored(self, rows: Rows) -> list[tuple[float, float]]:
        """Of every row the mean loss of its labels, and 1 where greedy decoding would give all of them.

        Every label is then the likeliest token behind those before it, so that one pass tells.
        """
        model, found = self._wrap_model(self.model, training=False), []
        model.eval()
        with self._throughput.paused():
            for batch in _batches(rows, self.args.eval_batch_size * self.args.world_size):
                found += self._scores(model, batch)[: len(batch)].tolist()
        for module in self.model.modules():
            if isinstance(module, FSDPModule):  # whose root stays whole where no backward pass follows
                module.reshard()
        return [tuple(row) for row in found]

    def _scores(self, model, rows: Rows) -> torch.Tensor:
        # as many for every process: each forward pass may gather weights from all
        size, first, processes = len(rows), self.args.process_index, self.args.world_size
        mine = [rows[place % size] for place in range(first, size + -size % processes, processes)]
        stacked = {key: torch.as_tensor(np.stack([row[key] for row in mine])) for key in mine[0]}
        with torch.no_grad(), self.compute_loss_context_manager():
            output = model(**self._prepare_inputs(stacked), fused_lm_head=True)
        labelled_BL = output.label_mask
        count_B = labelled_BL.sum(1)
        right_B = (output.is_top1.bool() & labelled_BL).sum(1) == count_B
        scores_B2 = torch.stack([-output.log_probs.double().sum(1) / count_B, right_B.double()], dim=1)
        # process by process; rows go round the processes
        scores = self.accelerator.gather(scores_B2).view(processes, len(mine), 2)
        return scores.transpose(0, 1).reshape(-1, 2)


def said(result: dict) -> str:
    """How a gate came out, in a line."""
    short, needles = result["short_context"], result["needles"]
    difference, bound = ("nan" if short[key] is None else f"{short[key]:+.4f}" for key in ("difference", "bound"))
    return (
        f"the gate of {result['stage']} {'opens' if result['passed'] else 'stays shut'}: "
        f"{needles['probes'] - needles['missed']} of {needles['probes']} needles up to {result['context']} tokens, "
        f"{needles['taken_out']['hits']} of {needles['taken_out']['probes']} without any; loss at {short['tokens']} "
        f"tokens {difference}, below {bound} with a confidence of {short['confidence']:g}"
    )


def _batches(rows: Rows, size: int) -> Iterator[Rows]:
    """Rows in their order, so many at once at most, those of a batch of one length."""
    start = 0
    for place in range(1, len(rows) + 1):
        length = len(rows[start]["input_ids"])
        if place == len(rows) or place - start == size or len(rows[place]["input_ids"]) != length:
            yield rows[start:place]
            start = place
