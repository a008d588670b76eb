"""Policy and critic as one module: one engine, one optimizer, one gradient norm, in every launch mode.

Shape suffixes: B rows, L tokens of a row, T tokens of the longest answer, which stands in a row's last T columns.
"""

from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from ..heads import values_of_rows


class Evaluation(NamedTuple):
    """What policy and critic say about answers, [B, T], float32; at padding it means nothing."""

    logps: torch.Tensor
    entropy: torch.Tensor | None
    values: torch.Tensor | None


class PolicyAndCritic(nn.Module):
    """A policy with a fused head (`attach_head`) and a critic with one value per token.

    DDP, DeepSpeed and FSDP hook into a module's forward: everything learned from goes through this one.
    """

    def __init__(self, policy: nn.Module, critic: PreTrainedModel):
        super().__init__()
        self.policy = policy
        self.critic = critic

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, answer_length: int, with_values: bool = True
    ) -> Evaluation:
        logps_BT, entropy_BT = answer_logps(self.policy, input_ids, attention_mask, answer_length)
        if not with_values:
            return Evaluation(logps_BT, entropy_BT, None)
        values_BL = values_of_rows(self.critic, input_ids, attention_mask, answer_length)
        # V(s_t) stands at the token before a_t
        return Evaluation(logps_BT, entropy_BT, values_BL[:, -answer_length - 1 : -1].float())

    # -- what Trainer, accelerate and DeepSpeed ask of a model

    @property
    def _no_split_modules(self) -> set[str]:
        return {*(self.policy._no_split_modules or ()), *(self.critic._no_split_modules or ())}

    def tie_weights(self) -> None:
        self.policy.tie_weights()
        self.critic.tie_weights()

    @property
    def config(self):
        return self.policy.config

    @property
    def generation_config(self):
        return self.policy.generation_config

    @property
    def device(self) -> torch.device:
        return self.policy.device

    @property
    def dtype(self) -> torch.dtype:
        return self.policy.dtype

    @property
    def is_gradient_checkpointing(self) -> bool:
        return self.policy.is_gradient_checkpointing

    def activation_checkpointing_enable(self, **kwargs) -> None:
        self.policy.activation_checkpointing_enable(**kwargs)
        self.critic.activation_checkpointing_enable(**kwargs)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict | None = None) -> None:
        for model in (self.policy, self.critic):
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs)

    def gradient_checkpointing_disable(self) -> None:
        self.policy.gradient_checkpointing_disable()
        self.critic.gradient_checkpointing_disable()


def answer_logps(
    model: nn.Module, input_ids_BL: torch.Tensor, attention_mask_BL: torch.Tensor, answer_length: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities and, where the head makes them, entropies [B, T] of answers, before any sampling warp."""
    labels_BL = input_ids_BL.masked_fill(attention_mask_BL == 0, -100)
    labels_BL[:, :-answer_length] = -100
    found = model(input_ids=input_ids_BL, attention_mask=attention_mask_BL, labels=labels_BL, fused_lm_head=True)
    entropy_BT = None if found.entropy is None else found.entropy[:, -answer_length:].float()
    return found.log_probs[:, -answer_length:].float(), entropy_BT


def part_of(state: dict[str, torch.Tensor] | None, name: str) -> dict[str, torch.Tensor] | None:
    """The entries of one of the two models in a state dict of both, under the names it has on its own."""
    if state is None:
        return None
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}


def without_dropout(model: nn.Module) -> None:
    """Sets every dropout of a model to 0: modules, adapters' included, and what attention reads off itself."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
