"""What is watched while a run trains: losses that are far above the last ones, or no numbers, and the loss by source.

Knows numbers of steps; knows nothing of Trainer.
"""

import json
import math
import statistics
from collections import deque
from pathlib import Path

import torch

from ..runtime.files import write_json

FILE = "watch.json"  # in a checkpoint
KEPT, LEAST = 128, 16  # losses that a step's is compared with: at most, and at least
IN_A_ROW = 8  # bad batches do not come like this: so many are a new level, or weights that are damaged


class Spikes:
    """Says of a step's loss whether it is one: more than `deviations` standard deviations above the last losses' mean.

    A spike is not among the losses that the next steps are compared with. Of so many in a row, `IN_A_ROW`, the last is
    `settled`: the level is a new one, with which losses are compared from there on.
    """

    def __init__(self, deviations: float):
        self.deviations, self.settled = deviations, False
        self._last: deque[float] = deque(maxlen=KEPT)
        self._in_a_row = 0

    def bound(self) -> float:
        """The loss from which on it is a spike."""
        if not self.deviations or len(self._last) < LEAST:
            return math.inf
        return statistics.fmean(self._last) + self.deviations * statistics.stdev(self._last)

    def judge(self, loss: float, grad_norm: float) -> str | None:
        """What is wrong with a step, in words; None where nothing is.

        Raises:
            ValueError: `IN_A_ROW` steps one behind another without a finite loss or gradient.
        """
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        event = self._wrong(loss, grad_norm)
        self._in_a_row = self._in_a_row + 1 if event else 0
        self.settled = finite and self._in_a_row >= IN_A_ROW
        if self.settled:
            self.forget()
            event += f", the {IN_A_ROW}th in a row, which is the level from here on"
        elif self._in_a_row >= IN_A_ROW:
            raise ValueError(
                f"{event}: found {self._in_a_row} steps in a row like this, expected numbers; weights are damaged, and "
                "training ends: go on from a checkpoint before them (resume_from_checkpoint), at a lower learning rate"
            )
        if event is None:
            self._last.append(loss)
        return event

    def _wrong(self, loss: float, grad_norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"loss {loss}"
        if not math.isfinite(grad_norm):
            return f"gradient norm {grad_norm}"
        bound = self.bound()
        return f"loss {loss:.4f} above {bound:.4f}" if loss > bound else None

    def forget(self) -> None:
        """Begins anew, where losses are of other data than before."""
        self._last.clear()
        self._in_a_row = 0

    def save(self, folder: Path) -> None:
        write_json(folder / FILE, {"losses": list(self._last), "in_a_row": self._in_a_row})

    def load(self, folder: Path) -> None:
        if (folder / FILE).is_file():  # not in a checkpoint of an older version
            found = json.loads((folder / FILE).read_text())
            self._last.extend(found["losses"])
            self._in_a_row = found.get("in_a_row", 0)


class BySource:
    """Sums of losses and numbers of labelled tokens by source, kept on the device until they are asked for."""

    def __init__(self, names: list[str]):
        self.names = names
        self._sums = None

    def add(self, source_B: torch.Tensor, losses_B: torch.Tensor, labels_BL: torch.Tensor) -> None:
        """Adds rows: their source, the sum of their losses, and their labels."""
        seen_B2 = torch.stack([losses_B.double(), labels_BL[:, 1:].ne(-100).sum(1).double()], dim=1)
        if self._sums is None:
            self._sums = seen_B2.new_zeros(len(self.names), 2)
        self._sums.index_add_(0, source_B.to(seen_B2.device), seen_B2)

    def sums(self, accelerator) -> list[tuple[str, float, float]]:
        """Of every source that was seen: name, loss and tokens, over all processes; then everything begins anew."""
        if self._sums is None:
            return []
        sums = accelerator.reduce(self._sums, "sum").tolist()
        self._sums = None
        return [(name, *row) for name, row in zip(self.names, sums, strict=True) if row[1]]
