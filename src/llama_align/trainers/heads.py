"""What trainers read off a model, on LlamaHerd with every prompt of a batch computed once: log-probabilities, scores,
values.

TRL gives each model a fused head (`add_fused_lm_head`), called as `model(..., labels=..., fused_lm_head=True)`. Without
Triton it scores every position, labelled or not, and makes all logits again for the backward pass. Ours looks at
labelled tokens only.
"""

from contextlib import AbstractContextManager
from functools import partial, wraps
from types import MethodType, ModuleType

import torch
from transformers import LlamaForCausalLM, PreTrainedModel
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from ..models.head import labelled, losses_of, scale_of, scores_of
from ..models.modeling_llama_herd import LlamaHerdForCausalLM
from ..models.sharing import can_share, share_prompts
from ..runtime.replacing import replaced
from ..sampling.engine import unwrap


def herd_heads(module: ModuleType, **options) -> AbstractContextManager:
    """Within, `module` (a trainer of TRL's) gives its models the head of `attach_head`, with these options."""
    return replaced(module, "add_fused_lm_head", partial(attach_head, **options))


def attach_head(
    model: PreTrainedModel,
    temperature: float = 1.0,
    cast_lm_head_to_fp32: bool = False,
    outputs: tuple[str, ...] = ("log_probs",),
    uniform: bool = False,
    share: bool = True,
) -> None:
    """`trl.trainer.utils.add_fused_lm_head` for LlamaHerd and Llama; TRL's own for any other model.

    Args:
        uniform: log-probabilities are only ever summed, all with one weight (SFT), so that their gradients are made
            in the forward pass.
        share: compute the prompt of several rows once (LlamaHerd alone can).
    """
    if (
        not isinstance(model, (LlamaHerdForCausalLM, LlamaForCausalLM))
        or cast_lm_head_to_fp32
        or "log_sum_sq_probs" in outputs
    ):
        add_fused_lm_head(model, temperature, cast_lm_head_to_fp32, outputs)
        return
    # what hooks put on the instance stays below; an earlier head of ours does not
    earlier = model.__dict__.get("forward")
    below = None if getattr(earlier, "attached", False) else earlier
    uniform = uniform and temperature == 1.0 and set(outputs) <= {"log_probs", "entropy", "is_top1"}

    def score(head, hidden_ND, targets_N, count) -> dict[str, torch.Tensor]:
        if uniform:
            found = losses_of(head, hidden_ND, targets_N, metrics=True, scale=scale_of(count))
            return {"log_probs": -found.losses, "entropy": found.entropy, "is_top1": found.is_top1}
        wanted = {"entropy": "entropy" in outputs, "metrics": bool({"mean_logits", "is_top1"} & set(outputs))}
        return scores_of(head, hidden_ND, targets_N, temperature=temperature, **wanted)._asdict()

    @wraps(type(model).forward)  # `generate` reads the signature
    def forward(self, *args, fused_lm_head=False, labels=None, shift_labels=None, num_items_in_batch=None, **kwargs):
        given = {"labels": labels, "shift_labels": shift_labels, "num_items_in_batch": num_items_in_batch}
        if not fused_lm_head:
            plain_forward = below or partial(type(self).forward, self)
            return plain_forward(*args, **kwargs, **{k: v for k, v in given.items() if v is not None})
        kwargs["use_cache"] = False
        hidden_ND, targets_N, label_mask = _labelled_states(self, share, labels, shift_labels, *args, **kwargs)
        count = label_mask.sum().clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        found = score(self.lm_head, hidden_ND, targets_N, count)
        fields = {
            name: found[name].new_zeros(label_mask.shape).masked_scatter(label_mask, found[name])
            for name in ("log_probs", "entropy", "mean_logits", "is_top1")
            if found.get(name) is not None
        }
        return FusedCausalLMOutput(loss=-found["log_probs"].sum() / count, label_mask=label_mask, **fields)

    forward.attached = True
    model.forward = MethodType(forward, model)


def _labelled_states(model, share, labels_BL, shift_labels, input_ids=None, attention_mask=None, **kwargs):
    """States [N, D] that predict a labelled token, those labels [N], and where they stand among the predictions."""
    padded = attention_mask is not None and attention_mask.ndim == 2 and input_ids is not None
    if padded and can_share(model) and shift_labels is None and kwargs.get("position_ids") is None:
        shared = share_prompts(input_ids, attention_mask, labels_BL != -100 if share else None)
        hidden_TD = model.model(input_ids=shared.input_ids, segments=shared.segments, **kwargs).last_hidden_state[0]
        label_mask = labels_BL[:, 1:] != -100
        before_N = shared.where_BL[:, :-1][label_mask]
        return hidden_TD.index_select(0, before_N), labels_BL[:, 1:][label_mask], label_mask
    hidden_BLD = model.model(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
    shifted = shift_labels is not None
    if not shifted:
        hidden_BLD, shift_labels = hidden_BLD[:, :-1], labels_BL[:, 1:]
    hidden_ND, targets_N, _ = labelled(hidden_BLD, shift_labels, shifted=True)
    return hidden_ND, targets_N, shift_labels.to(hidden_BLD.device) != -100


def _shares(model) -> bool:
    """Whether rows may share prompts: LlamaHerd by segments, and no adapter that puts tokens in front of each row."""
    while hasattr(model, "module"):
        model = model.module
    adapter = getattr(model, "active_peft_config", None)
    return can_share(unwrap(model)) and not (adapter is not None and adapter.is_prompt_learning)


def scores_of_rows(model, input_ids_BL, attention_mask_BL, answer_mask_BL) -> torch.Tensor:
    """Scores [B, labels] of a reward model, read at the last token of every row."""
    if not _shares(model):
        return model(input_ids=input_ids_BL, attention_mask=attention_mask_BL, use_cache=False).logits
    shared = share_prompts(input_ids_BL, attention_mask_BL, answer_mask_BL)
    scores = model(input_ids=shared.input_ids, segments=shared.segments, use_cache=False).logits
    return scores.index_select(0, shared.last_B)


def values_of_rows(model, input_ids_BL, attention_mask_BL, answer_length: int) -> torch.Tensor:
    """Values [B, L] of a critic; answers stand in the last `answer_length` columns. At padding they mean nothing."""
    if not _shares(model):
        return model(input_ids=input_ids_BL, attention_mask=attention_mask_BL, use_cache=False).logits.squeeze(-1)
    answer_mask_BL = attention_mask_BL.bool().clone()
    answer_mask_BL[:, :-answer_length] = False
    shared = share_prompts(input_ids_BL, attention_mask_BL, answer_mask_BL)
    values_T = model(input_ids=shared.input_ids, segments=shared.segments, use_cache=False).logits[0, :, 0]
    return values_T[shared.where_BL]
