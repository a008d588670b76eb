"""Batches of PPO: the order of prompts, and answers as padded rows."""

from collections.abc import Callable

import torch
from torch.utils.data import Sampler
from trl.trainer.utils import pad


class EpochSampler(Sampler):
    """TRL's RepeatSampler in an order that depends on seed and epoch alone, so that a resumed run meets it again."""

    def __init__(self, repeating: Sampler, epoch: Callable[[], int]):
        self.repeating = repeating
        self.epoch = epoch

    def __iter__(self):
        if self.repeating.shuffle:
            self.repeating.generator.manual_seed(self.repeating.seed + self.epoch())
        return iter(self.repeating)

    def __len__(self):
        return len(self.repeating)


def padded(name: str, rows: list[list[int]], pad_id: int, side: str, device) -> dict[str, torch.Tensor]:
    """`<name>_ids` and `<name>_mask` [B, L] of rows of ids, padded on one side."""
    ids = [torch.tensor(row, dtype=torch.long) for row in rows]
    mask = [torch.ones_like(row) for row in ids]
    return {
        f"{name}_ids": pad(ids, padding_value=pad_id, padding_side=side).to(device),
        f"{name}_mask": pad(mask, padding_value=0, padding_side=side).to(device),
    }


def joined(batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt and answer in one row: ids and mask, [B, L]."""
    ids_BL = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    return ids_BL, torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
