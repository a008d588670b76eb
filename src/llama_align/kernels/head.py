"""The language-modelling head and what is read off its logits, chunk by chunk, the full logits never in memory.

`cross_entropy` makes its gradients while each chunk's probabilities are at hand; `token_scores` (log-probabilities,
entropy, KL against a reference) makes them again in the backward pass, when the gradient of every token is known.

Shape suffixes: N tokens, D hidden size, V vocabulary, C tokens of a chunk.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .linear import fast_products

CHUNK_BYTES = 128 << 20  # of one chunk's logits; larger ones are no faster
CACHE_BYTES = 4 << 20  # of the float32 rows whose softmax is taken at once: about a processor's own cache
COLUMNS = 4096  # of the vocabulary whose gradients are made at once


def _chunks(count: int, weight_VD: torch.Tensor):
    """Slices of tokens whose logits exist at one time."""
    size = _chunk_size(weight_VD)
    return (slice(at, min(at + size, count)) for at in range(0, count, size))


def _chunk_size(weight_VD: torch.Tensor) -> int:
    on_cpu = weight_VD.device.type == "cpu"
    # an accelerator reads and writes the whole sum of the head's gradient once a chunk: fewer, larger ones there
    return max(64 if on_cpu else 2048, CHUNK_BYTES // (weight_VD.shape[0] * weight_VD.itemsize))


def _room(count: int, weight_VD: torch.Tensor) -> torch.Tensor:
    """Memory for the logits of every chunk in turn: pages new to a process cost more than the softmax over them."""
    return weight_VD.new_empty(min(count, _chunk_size(weight_VD)), weight_VD.shape[0])


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _row_blocks(logits_CV: torch.Tensor):
    """Slices of rows small enough for the processor's cache; all of them on an accelerator."""
    rows, vocabulary = logits_CV.shape
    size = max(8, CACHE_BYTES // (4 * vocabulary)) if logits_CV.device.type == "cpu" else rows
    return (slice(at, min(at + size, rows)) for at in range(0, rows, size))


def _logits(hidden_CD: torch.Tensor, weight_VD: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    with fast_products(hidden_CD, weight_VD):
        return torch.mm(hidden_CD, weight_VD.T, out=room[: len(hidden_CD)])


class _Gradients:
    """Gradients of hidden states and head from those of the logits, added up over chunks.

    In parts of the vocabulary: products of that size are faster than whole ones, and what they add to stays in the
    cache. Sums are in float32 at least, whatever the precision of the products.
    """

    def __init__(self, hidden_ND, weight_VD, of_hidden: bool, of_weight: bool):
        self.hidden_ND, self.weight_VD = hidden_ND, weight_VD
        self.to_hidden_ND = torch.empty_like(hidden_ND) if of_hidden else None
        self.of_head, self.to_weight = of_weight, []
        self.product = torch.empty_like(weight_VD[:COLUMNS])  # one part's, before it is added

    def add(self, chunk: slice, to_logits_CV: torch.Tensor, factor_C1: torch.Tensor | float = 1.0) -> None:
        """`factor_C1` multiplies rows of `to_logits_CV`: cheaper here, over D columns, than there, over V."""
        exact, parts = _exact(self.weight_VD.dtype), to_logits_CV.split(COLUMNS, 1)
        with fast_products(self.hidden_ND, self.weight_VD):
            if self.to_hidden_ND is not None:
                total_CD = torch.zeros_like(self.hidden_ND[chunk], dtype=exact)
                for part_CV, weight in zip(parts, self.weight_VD.split(COLUMNS), strict=True):
                    _add_product(total_CD, part_CV, weight)
                self.to_hidden_ND[chunk] = total_CD.mul_(factor_C1)
            if self.of_head:
                hidden_CD = (self.hidden_ND[chunk] * factor_C1).to(self.hidden_ND.dtype)
                if not self.to_weight:
                    self.to_weight = [torch.zeros_like(part, dtype=exact) for part in self.weight_VD.split(COLUMNS)]
                for total, part_CV in zip(self.to_weight, parts, strict=True):
                    _add_product(total, part_CV.T, hidden_CD, self.product)

    def of_weight(self) -> torch.Tensor | None:
        """The sums in the head's precision, or in float32 where a sum may not fit; parts are freed when copied."""
        if not self.of_head:
            return None
        self.product, narrow = None, self.weight_VD.dtype == torch.float16
        exact = torch.float32 if narrow else self.weight_VD.dtype
        if not self.to_weight:  # no token
            return torch.zeros_like(self.weight_VD, dtype=exact)
        whole = torch.empty_like(self.weight_VD, dtype=exact)
        for part in whole.split(COLUMNS):
            part.copy_(self.to_weight.pop(0))
        return whole


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor, room: torch.Tensor | None = None) -> None:
    """total += a @ b; where they differ in precision through `room`."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b if room is None else torch.mm(a, b, out=room[: len(total)])


class CrossEntropy(NamedTuple):
    """Of every token: its loss [N], and without gradients its entropy in nats [N] and whether its target is the
    model's first choice [N], if asked for."""

    losses: torch.Tensor
    entropy: torch.Tensor | None
    is_top1: torch.Tensor | None


def cross_entropy_reference(logits_NV, targets_N, weights_N=None, z_loss=0.0, metrics=False) -> CrossEntropy:
    """What `cross_entropy` computes, from the full logits."""
    logits_NV = logits_NV.to(_exact(logits_NV.dtype))
    losses_N = F.cross_entropy(logits_NV, targets_N, reduction="none") + z_loss * logits_NV.logsumexp(-1) ** 2
    losses_N = losses_N if weights_N is None else losses_N * weights_N
    if not metrics:
        return CrossEntropy(losses_N, None, None)
    logps_NV = logits_NV.detach().log_softmax(-1)
    return CrossEntropy(losses_N, -(logps_NV.exp() * logps_NV).sum(-1), logits_NV.argmax(-1) == targets_N)


def cross_entropy(
    hidden_ND: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_N: torch.Tensor,
    weights_N: torch.Tensor | None = None,
    z_loss: float = 0.0,
    metrics: bool = False,
    scale: float = 1.0,
) -> CrossEntropy:
    """weights * (-log p(target) + z_loss * log(Z)^2) of every token, Z the sum of exponentials (PaLM, section 5).

    Gradients are those of `scale` times the sum and are made in the forward pass. A backward pass in which every
    token's gradient is the same, as after `.sum()`, only multiplies them; any other one makes them again, at the cost
    of a second pass over the head. Only the time depends on `scale`: with the one that the sum will be divided
    by, nothing is left to multiply. In float16 it is not used: gradients wait for the factor of the loss's scaler.

    Args:
        hidden_ND: hidden states in the head's precision; weight_VD: the head, without bias.
        targets_N: every one counts: tokens without a label are left out beforehand.
        weights_N: of tokens, without gradients.
    """
    if not torch.is_grad_enabled():  # a function's forward cannot tell
        hidden_ND, weight_VD = hidden_ND.detach(), weight_VD.detach()
    scale = 1.0 if hidden_ND.dtype == torch.float16 else scale
    with torch.autocast(hidden_ND.device.type, enabled=False):
        losses_N, entropy_N, is_top1_N = _CrossEntropy.apply(
            hidden_ND, weight_VD, targets_N, weights_N, z_loss, metrics, scale
        )
    return CrossEntropy(losses_N, entropy_N if metrics else None, is_top1_N if metrics else None)


def softmax(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Probabilities [.., V], the largest logit and log Z of each row."""
    largest, probabilities = logits.amax(-1), torch.softmax(logits, -1)
    # the largest probability is at least 1/V, so its logarithm is well conditioned
    return probabilities, largest, largest - probabilities.amax(-1).log_()


def _own(targets_C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each token's target as an index; `scatter_` copies all logits first in bf16."""
    return torch.arange(len(targets_C), device=targets_C.device), targets_C


def is_first(logits: torch.Tensor, targets: torch.Tensor, target_logits: torch.Tensor, largest: torch.Tensor):
    """Whether each target is its row's argmax; looked for only where its logit is as large as the largest."""
    if logits.device.type != "cpu":  # a mask as an index would wait for the device
        return logits.argmax(-1) == targets
    first = target_logits == largest
    first[first.clone()] = logits[first].argmax(-1) == targets[first]
    return first


def _probabilities_(logits_CV, targets_C, metrics: bool):
    """Turns logits into probabilities in place; returns log Z, the target's logit, entropy and first choice [C]."""
    exact = _exact(logits_CV.dtype)
    log_z, target, entropy = (logits_CV.new_empty(len(targets_C), dtype=exact) for _ in range(3))
    top1 = torch.empty_like(targets_C, dtype=torch.bool)
    for rows in _row_blocks(logits_CV):
        block = logits_CV[rows].to(exact)
        target[rows] = block.gather(1, targets_C[rows, None]).squeeze(1)
        probabilities, largest, log_z[rows] = softmax(block)
        if metrics:
            entropy[rows] = log_z[rows] - torch.linalg.vecdot(probabilities, block)
            top1[rows] = is_first(block, targets_C[rows], target[rows], largest)
        logits_CV[rows] = probabilities
    return log_z, target, entropy, top1


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, targets_N, weights_N, z_loss, metrics, scale):
        exact, count = _exact(hidden_ND.dtype), len(targets_N)
        losses_N, entropy_N = (hidden_ND.new_zeros(count, dtype=exact) for _ in range(2))
        is_top1_N = torch.zeros_like(targets_N, dtype=torch.bool)
        gradients = _Gradients(hidden_ND, weight_VD, *ctx.needs_input_grad[:2])
        room = _room(count, weight_VD)
        for chunk in _chunks(count, weight_VD):
            logits_CV, targets_C = _logits(hidden_ND[chunk], weight_VD, room), targets_N[chunk]
            log_z_C, target_C, entropy_N[chunk], is_top1_N[chunk] = _probabilities_(logits_CV, targets_C, metrics)
            losses_N[chunk] = log_z_C - target_C + z_loss * log_z_C**2
            if any(ctx.needs_input_grad[:2]):
                to_target_C = (target_C - log_z_C).exp_()  # p(target), exact before it is rounded
                if z_loss:  # d/dz of z_loss * log(Z)^2 is 2 * z_loss * log(Z) * p
                    stretch_C = 1 + 2 * z_loss * log_z_C
                    logits_CV.mul_(stretch_C[:, None].to(logits_CV.dtype))
                    to_target_C *= stretch_C
                logits_CV[_own(targets_C)] = (to_target_C - 1).to(logits_CV.dtype)
                factor = scale if weights_N is None else (scale * weights_N[chunk])[:, None]
                gradients.add(chunk, logits_CV, factor)
        del room
        ctx.save_for_backward(hidden_ND, weight_VD, targets_N, weights_N, gradients.to_hidden_ND, gradients.of_weight())
        ctx.z_loss, ctx.scale = z_loss, scale
        ctx.mark_non_differentiable(entropy_N, is_top1_N)
        return losses_N if weights_N is None else losses_N * weights_N, entropy_N, is_top1_N

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient_N, *_):
        _, weight_VD, *_, to_hidden_ND, to_weight_VD = ctx.saved_tensors
        smallest, largest = gradient_N.aminmax() if len(gradient_N) else (gradient_N.new_tensor(ctx.scale),) * 2
        if smallest != largest:
            to_hidden_ND, to_weight_VD = _recomputed(ctx, gradient_N)
        elif smallest != ctx.scale:
            to_hidden_ND, to_weight_VD = (
                None if x is None else x * (smallest / ctx.scale) for x in (to_hidden_ND, to_weight_VD)
            )
        to_weight_VD = None if to_weight_VD is None else to_weight_VD.to(weight_VD.dtype)
        return to_hidden_ND, to_weight_VD, None, None, None, None, None


def _recomputed(ctx, gradient_N):
    hidden_ND, weight_VD, targets_N, weights_N, *_ = ctx.saved_tensors
    with torch.enable_grad():
        hidden_ND, weight_VD = (
            x.detach().requires_grad_(needed)
            for x, needed in zip((hidden_ND, weight_VD), ctx.needs_input_grad[:2], strict=True)
        )
        weights_N = gradient_N.to(_exact(hidden_ND.dtype)) * (1 if weights_N is None else weights_N)
        losses_N = _CrossEntropy.apply(hidden_ND, weight_VD, targets_N, weights_N, ctx.z_loss, False, 1.0)[0]
        wanted = [x for x in (hidden_ND, weight_VD) if x.requires_grad]
        found = iter(torch.autograd.grad(losses_N.sum(), wanted))
    return tuple(next(found) if x.requires_grad else None for x in (hidden_ND, weight_VD))
