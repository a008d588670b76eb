"""Averages of a run's weights, kept while it trains: exponential (EMA), or the plain mean (Polyak and Juditsky, 1992).

Each process averages what it holds of the weights, all of them or its shard under ZeRO-3 and FSDP2.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ..runtime.files import whole

KINDS = ("ema", "mean")


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
        self.kind, self.decay, self.count = kind, decay, 0
        self._average: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes the weights as they are now into the average."""
        self.count += 1
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

    def save(self, file: Path) -> None:
        with whole(file) as sink:
            torch.save({"kind": self.kind, "count": self.count, "average": self._average}, sink)

    def load(self, file: Path) -> None:
        """Raises ValueError where the checkpoint holds no such average."""
        stored = torch.load(file, map_location="cpu", weights_only=True) if file.is_file() else {}
        if stored.get("kind") != self.kind:
            raise ValueError(f"{file}: found {stored.get('kind', 'no average')}, expected weight_average {self.kind}")
        self.count, self._average = stored["count"], stored["average"]


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
