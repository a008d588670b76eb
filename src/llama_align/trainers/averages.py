"""Averages of a run's weights, kept while it trains: exponential (EMA), or the plain mean (Polyak and Juditsky, 1992).

Each process averages what it holds of the weights, all of them or its shard under ZeRO-3 and FSDP2.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ..runtime.files import whole

KINDS = ("ema", "mean")
WHOLE, SHARD = "average.pt", "average_{}.pt"  # in a checkpoint


def local(parameter: nn.Parameter) -> torch.Tensor:
    """What this process holds of a parameter, as memory that may be written to."""
    if hasattr(parameter, "ds_tensor"):  # ZeRO-3
        return parameter.ds_tensor.data
    return (parameter.to_local() if isinstance(parameter, DTensor) else parameter).detach()


class WeightAverage:
    """The average of trained weights, in float32 at least.

        ema:  a <- decay a + (1 - decay) w      mean:  a <- a + (w - a) / n

    It begins with the weights it first sees.
    """

    def __init__(self, kind: str, decay: float):
        self.kind, self.decay, self.count, self.first = kind, decay, 0, 0
        self._average: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int = 0, after: float = -1) -> None:
        """Takes the weights as they are now, behind a step, into the average, which is of steps later than `after`.

        One that began before, since the run was to be shorter then, begins anew.
        """
        if self.first <= after:
            self.count, self._average = 0, {}
        if step <= after:
            return
        self.count += 1
        self.first = self.first if self.count > 1 else step
        share = 1 / self.count if self.kind == "mean" or self.count == 1 else 1 - self.decay
        for name, parameter in _trained(model):
            weight = local(parameter)
            if name not in self._average:
                self._average[name] = weight.to(torch.promote_types(weight.dtype, torch.float32), copy=True)
            else:  # behind a load it lies in memory
                average = self._average[name] = self._average[name].to(weight.device)
                average.lerp_(weight.to(average.dtype), share)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """Within, the model's weights are the average."""
        _release(model)
        kept = {name: local(parameter).clone() for name, parameter in _trained(model)}
        self._put(model, self._average)
        try:
            yield
        finally:
            self._put(model, kept)

    @staticmethod
    @torch.no_grad()
    def _put(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
        _release(model)
        for name, parameter in _trained(model):
            local(parameter).copy_(weights[name])

    def save(self, folder: Path, model: nn.Module, processes: Accelerator) -> None:
        """Writes what the processes hold into a checkpoint: of shards each its own, of whole weights the first its."""
        sharded = _is_sharded(model)
        if sharded or processes.is_main_process:
            name = SHARD.format(processes.process_index) if sharded else WHOLE
            with whole(folder / name) as sink:
                stored = {"kind": self.kind, "count": self.count, "first": self.first, "average": self._average}
                torch.save(stored, sink)

    def load(self, folder: Path, model: nn.Module, processes: Accelerator) -> None:
        """Goes on from a checkpoint. Raises ValueError where it holds no such average, or shards of other processes."""
        sharded = _is_sharded(model)
        shards = len(list(folder.glob(SHARD.format("*"))))
        if shards != (processes.num_processes if sharded else 0):
            found = f"shards of {shards} processes" if shards else "no shards"
            expected = f"those of {processes.num_processes}" if sharded else "weights that every process has whole"
            raise ValueError(
                f"{folder}: found {found} of weight_average {self.kind}, expected {expected}; go on in the mode and "
                "the number of processes that it was saved in"
            )
        file = folder / (SHARD.format(processes.process_index) if sharded else WHOLE)
        stored = torch.load(file, map_location="cpu", weights_only=True) if file.is_file() else {}
        if stored.get("kind") != self.kind:
            raise ValueError(f"{file}: found {stored.get('kind', 'no average')}, expected weight_average {self.kind}")
        self.count, self.first, self._average = stored["count"], stored["first"], stored["average"]


def _is_sharded(model: nn.Module) -> bool:
    return any(hasattr(parameter, "ds_tensor") or isinstance(parameter, DTensor) for parameter in model.parameters())


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _release(model: nn.Module) -> None:
    """Lets go of weights that an evaluation left whole, in whose place shards would be written to unseen."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    for parameter in model.parameters():
        if hasattr(parameter, "ds_tensor") and parameter.ds_status.name == "AVAILABLE":  # ZeRO-3 keeps small ones
            parameter.partition()
