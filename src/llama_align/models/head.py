"""Losses and scores of labelled tokens under any head: fused where its weight may be used, else through its module.

A head that LoRA, quantisation, tensor parallelism, ZeRO-3 or a hook has taken over must be called as a module. Then its
logits are made chunk by chunk under checkpointing, which bounds memory too.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..kernels.head import CrossEntropy, cross_entropy, cross_entropy_reference
from ..kernels.linear import Linear
from ..kernels.scores import TokenScores, token_scores, token_scores_reference

MODULE_CHUNK = 1024  # tokens of one call of a head that must be called as a module


def owns_weight(head: nn.Module) -> bool:
    """Whether `head` does no more than multiply with a whole weight of its own."""
    return (
        type(head) in (Linear, nn.Linear)
        and head.bias is None
        and type(head.weight) in (nn.Parameter, torch.Tensor)  # a plain tensor under torch.func.functional_call
        and not hasattr(head.weight, "ds_id")  # partitioned by ZeRO-3
        and "forward" not in head.__dict__
        and not (head._forward_pre_hooks or head._forward_hooks or head._backward_pre_hooks or head._backward_hooks)
        and not torch.nn.modules.module._has_any_global_hook()
    )


def losses_of(head: nn.Module, hidden_ND: torch.Tensor, targets_N: torch.Tensor, **options) -> CrossEntropy:
    """`kernels.cross_entropy` of tokens under `head`."""
    if owns_weight(head):
        return cross_entropy(*_cast(hidden_ND, head.weight), targets_N, **options)
    options.pop("scale", None)
    weights_N = options.pop("weights_N", None)
    losses, *rest = _by_module(head, hidden_ND, targets_N, cross_entropy_reference, options)
    return CrossEntropy(losses if weights_N is None else losses * weights_N, *rest)


def scores_of(head: nn.Module, hidden_ND: torch.Tensor, targets_N: torch.Tensor, **options) -> TokenScores:
    """`kernels.token_scores` of tokens under `head`."""
    if owns_weight(head):
        return token_scores(*_cast(hidden_ND, head.weight), targets_N, **options)
    return TokenScores(*_by_module(head, hidden_ND, targets_N, token_scores_reference, options))


def _cast(hidden_ND, weight_VD):
    kind = hidden_ND.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight_VD.dtype
    return hidden_ND.to(dtype), weight_VD.to(dtype)


def _by_module(head, hidden_ND, targets_N, function: Callable, options: dict) -> list:
    def score(hidden_CD, targets_C):
        return function(head(hidden_CD), targets_C, **options)

    # one empty chunk if there is no token, so that every process calls the module
    N = len(targets_N)
    hidden_ND, targets_N = _as_many_everywhere(head, hidden_ND, targets_N)
    chunks = zip(hidden_ND.split(MODULE_CHUNK), targets_N.split(MODULE_CHUNK), strict=True)
    scored = [checkpoint(score, hidden, targets, use_reentrant=False) for hidden, targets in chunks]
    return [None if parts[0] is None else torch.cat(parts)[:N] for parts in zip(*scored, strict=True)]


def _as_many_everywhere(head, hidden_ND, targets_N) -> tuple[torch.Tensor, torch.Tensor]:
    """Under ZeRO-3 as many tokens as the process that has most, the rest filled up; else as they are.

    A head that ZeRO-3 has partitioned is called chunk by chunk, each call gathers it from all processes, and a process
    with fewer chunks than another would leave that one waiting for ever.
    """
    if not hasattr(getattr(head, "weight", None), "ds_id"):
        return hidden_ND, targets_N
    most = torch.tensor(len(targets_N), device=targets_N.device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    missing = int(most) - len(targets_N)
    return F.pad(hidden_ND, (0, 0, 0, missing)), F.pad(targets_N, (0, missing))


def labelled(
    hidden_BLD: torch.Tensor, labels_BL: torch.Tensor, shifted: bool = False, ignore_index: int = -100
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states [N, D] of the tokens that predict a labelled one, those labels [N], and where: [N] into B x L.

    Args:
        labels_BL: of the token itself, or, if `shifted`, of the one after it.
    """
    if not shifted:
        labels_BL = F.pad(labels_BL[:, 1:], (0, 1), value=ignore_index)
    labels = labels_BL.reshape(-1).to(hidden_BLD.device)
    where_N = (labels != ignore_index).nonzero().squeeze(1)
    return hidden_BLD.reshape(-1, hidden_BLD.shape[-1]).index_select(0, where_N), labels[where_N], where_N


def scale_of(count: torch.Tensor | int) -> float:
    """One over what a sum of losses will be divided by, read only where that waits for no device; else 1."""
    return 1 / max(float(count), 1.0) if not torch.is_tensor(count) or count.device.type == "cpu" else 1.0


def mean_loss(
    head: nn.Module,
    hidden_BLD: torch.Tensor,
    labels_BL: torch.Tensor,
    *,
    shift_labels: torch.Tensor | None = None,
    num_items_in_batch: torch.Tensor | int | None = None,
    ignore_index: int = -100,
    token_weights: torch.Tensor | None = None,
    z_loss: float = 0.0,
    row_losses: torch.Tensor | None = None,
    **_,
) -> torch.Tensor:
    """The mean loss over labelled tokens, or its sum over `num_items_in_batch`, as transformers' `ForCausalLMLoss`.

    Args:
        labels_BL: -100 where a token counts for nothing; `shift_labels` [B, L] instead: already moved by one.
        token_weights: [B, L], of the label tokens.
        z_loss: coefficient of log(Z)^2.
        row_losses: [B], to which the sum of every row's losses is added.
    """
    shifted = shift_labels is not None
    hidden_ND, targets_N, where_N = labelled(hidden_BLD, shift_labels if shifted else labels_BL, shifted, ignore_index)
    weights_N = None
    if token_weights is not None:
        aligned = token_weights if shifted else token_weights.roll(-1, 1)
        weights_N = aligned.reshape(-1)[where_N].to(torch.promote_types(hidden_BLD.dtype, torch.float32))
    count = max(len(targets_N), 1) if num_items_in_batch is None else num_items_in_batch
    scale = scale_of(count)
    losses_N = losses_of(head, hidden_ND, targets_N, weights_N=weights_N, z_loss=z_loss, scale=scale).losses
    if row_losses is not None:
        losses = losses_N.detach().to(row_losses.dtype)
        row_losses.index_add_(0, where_N // hidden_BLD.shape[1], losses)
    return losses_N.sum() / (count.to(losses_N.device) if torch.is_tensor(count) else count)
