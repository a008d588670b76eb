"""LlamaHerd: the Llama decoder (RMSNorm before each block, SwiGLU, RoPE, grouped-query attention) in plain PyTorch.

Module and weight names are those of `transformers.LlamaForCausalLM`, so either class loads the other's weights.
What differs: documents packed into one row are kept apart whatever else is passed, and attended to one by one instead
of through a dense mask. (transformers only looks for packed documents when neither an attention mask nor a cache is
given, so that training with the default `use_cache` leaks.) In training, the loss is made without the full logits.

Shape suffixes: B batch, L tokens of the row, S tokens seen (cache and row), D hidden size, N query heads, K key heads,
H head size, V vocabulary.
"""

from typing import Unpack

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.modeling_layers import (
    GenericForSequenceClassification,
    GenericForTokenClassification,
    GradientCheckpointingLayer,
)
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutputWithPast,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel, slice_logits_to_keep
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.models.llama.modeling_llama import (
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ..kernels.attention import segment_attention
from ..kernels.elementwise import rms_norm, rms_norm_reference, swiglu
from ..kernels.linear import Linear, plain
from ..kernels.segments import Segments
from .configuration_llama_herd import LlamaHerdConfig
from .head import mean_loss
from .masks import given_segments, traced, visible
from .portable import write_code

SILU = type(ACT2FN["silu"])

# Trainer's label smoothing asks by class name whether labels are to be moved
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.setdefault(LlamaHerdConfig.model_type, "LlamaHerdForCausalLM")


class LlamaHerdRMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight, the mean in float32 at least (Zhang and Sennrich, 2019)."""

    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.variance_epsilon = eps

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        norm = rms_norm_reference if torch.is_grad_enabled() and traced(x_BLD) else rms_norm
        return norm(x_BLD, self.weight, self.variance_epsilon)

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, eps={self.variance_epsilon}"


class LlamaHerdRotaryEmbedding(LlamaRotaryEmbedding):
    """Llama's, whose frequencies stay float32 when a model is cast: rounded, they turn far tokens by wrong angles."""

    def _apply(self, fn, recurse=True):
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            if self._buffers[name].dtype != buffer.dtype:
                self._buffers[name] = buffer.to(self._buffers[name].device)
        return self


class LlamaHerdMLP(nn.Module):
    """down(silu(gate(x)) * up(x)), Shazeer's SwiGLU (2020)."""

    def __init__(self, config: LlamaHerdConfig):
        super().__init__()
        hidden, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = Linear(hidden, inner, bias=bias)
        self.up_proj = Linear(hidden, inner, bias=bias)
        self.down_proj = Linear(inner, hidden, bias=bias)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_proj(x_BLD), self.up_proj(x_BLD)
        hooked = self.act_fn._forward_hooks or self.act_fn._forward_pre_hooks
        fused = isinstance(self.act_fn, SILU) and not hooked and gate.dtype == up.dtype
        if torch.is_grad_enabled() and traced(x_BLD):
            fused = False
        return self.down_proj(swiglu(gate, up) if fused else self.act_fn(gate) * up)


class LlamaHerdAttention(nn.Module):
    """Causal grouped-query attention with rotary positions (Ainslie et al., 2023; Su et al., 2021)."""

    def __init__(self, config: LlamaHerdConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True
        query_size, key_size = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = Linear(config.hidden_size, query_size, bias=config.attention_bias)
        self.k_proj = Linear(config.hidden_size, key_size, bias=config.attention_bias)
        self.v_proj = Linear(config.hidden_size, key_size, bias=config.attention_bias)
        self.o_proj = Linear(query_size, config.hidden_size, bias=config.attention_bias)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        segments: Segments | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        q_BNLH = self.q_proj(hidden_states).view(heads).transpose(1, 2)
        k_BKLH = self.k_proj(hidden_states).view(heads).transpose(1, 2)
        v_BKSH = self.v_proj(hidden_states).view(heads).transpose(1, 2)
        q_BNLH, k_BKSH = apply_rotary_pos_emb(q_BNLH, k_BKLH, *position_embeddings)
        if past_key_values is not None:
            k_BKSH, v_BKSH = past_key_values.update(k_BKSH, v_BKSH, self.layer_idx)
        if segments is not None:
            out_BLNH, weights = segment_attention(q_BNLH, k_BKSH, v_BKSH, segments, self.scaling).transpose(1, 2), None
        else:
            attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
            dropout = self.attention_dropout if self.training else 0.0
            out_BLNH, weights = attend(
                self, q_BNLH, k_BKSH, v_BKSH, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
            )
        return self.o_proj(out_BLNH.reshape(*hidden_states.shape[:-1], -1).contiguous()), weights


class LlamaHerdDecoderLayer(GradientCheckpointingLayer):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: LlamaHerdConfig, layer_idx: int):
        super().__init__()
        self.self_attn = LlamaHerdAttention(config, layer_idx)
        self.mlp = LlamaHerdMLP(config)
        self.input_layernorm = LlamaHerdRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = LlamaHerdRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class LlamaHerdPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation; what transformers needs to know about the architecture."""

    config: LlamaHerdConfig
    config_class = LlamaHerdConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LlamaHerdDecoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _can_compile_fullgraph = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": LlamaHerdDecoderLayer, "attentions": LlamaHerdAttention}  # noqa: RUF012

    def post_init(self) -> None:
        if getattr(self.config, "quantization_config", None) is not None:
            plain(self)
        super().post_init()

    def save_pretrained(self, save_directory, is_main_process: bool = True, *args, **kwargs):
        """As transformers, and with the code where the class is registered for an Auto class or came with its code."""
        wanted = self._auto_class is not None or getattr(self.config, "auto_map", None)
        if wanted and self.should_save_on_this_rank(is_main_process):
            self.config.auto_map = write_code(save_directory)
        return super().save_pretrained(save_directory, is_main_process, *args, **kwargs)

    @classmethod
    def is_remote_code(cls) -> bool:
        return False  # else transformers copies the code once more, and stops at the kernels' folder


class LlamaHerdModel(LlamaHerdPreTrainedModel):
    """The decoder without a head: ids or embeddings to the normalised last hidden state [B, L, D]."""

    def __init__(self, config: LlamaHerdConfig):
        super().__init__(config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(LlamaHerdDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = LlamaHerdRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = LlamaHerdRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        segments: Segments | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        """Hidden states of a batch.

        Args:
            input_ids: [B, L]; exactly one of it and `inputs_embeds` [B, L, D].
            attention_mask: [B, S], 0 at padding; or a ready 4D mask.
            position_ids: [B, L]; where they do not follow each other a new document begins, which never sees the rest.
            past_key_values: cache of the tokens before these.
            segments: what a token sees, in place of `attention_mask` and `position_ids`: documents, or answers that
                share a prompt.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("expected exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if segments is not None:
            position_ids = segments.positions().to(inputs_embeds.device).view(inputs_embeds.shape[:2])
            mask, segments = given_segments(self, segments, inputs_embeds, attention_mask, past_key_values)
        else:
            causal = kwargs.get("is_causal", True)
            mask, segments = visible(self, inputs_embeds, attention_mask, past_key_values, position_ids, causal)
        if position_ids is None:
            seen = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + seen).unsqueeze(0)
        position_embeddings = self.rotary_emb(inputs_embeds, position_ids=position_ids)

        hidden_states = inputs_embeds
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(
                hidden_states,
                attention_mask=mask,
                position_embeddings=position_embeddings,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                segments=segments,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)


class LlamaHerdForCausalLM(LlamaHerdPreTrainedModel, GenerationMixin):
    """LlamaHerd with a language-modelling head. Its kernels have first derivatives only."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    _tp_plan = {"lm_head": "colwise_gather_output"}  # noqa: RUF012
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}  # noqa: RUF012
    _fsdp_plan = {"lm_head": "keep_full_weight"}  # noqa: RUF012

    def __init__(self, config: LlamaHerdConfig):
        super().__init__(config)
        self.model = LlamaHerdModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """Logits [B, L, V] (the last `logits_to_keep` only, if given) and, with `labels` [B, L], the loss.

        Labels of -100 count for nothing. The loss is the mean over labelled tokens, or their sum over
        `num_items_in_batch` where that is given; `token_weights` [B, L] and `z_loss` as in `head.mean_loss`.

        In training mode with labels there are no logits unless `logits_to_keep` asks for them: the loss and its
        gradients are made chunk by chunk.
        """
        if labels is not None and "segments" in kwargs:
            raise ValueError("segments: found labels beside them, expected scores of tokens named by the caller")
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        loss = logits = None
        fused = labels is not None and self._makes_loss_without_logits(labels, logits_to_keep)
        if not fused:
            logits = self.lm_head(slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep))
        if fused or (labels is not None and ("token_weights" in kwargs or "z_loss" in kwargs)):
            loss = mean_loss(self.lm_head, outputs.last_hidden_state, labels, **kwargs)
        elif labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _makes_loss_without_logits(self, labels: torch.Tensor, logits_to_keep: int | torch.Tensor) -> bool:
        keeps_all = isinstance(logits_to_keep, int) and logits_to_keep == 0
        replaced = hasattr(self, "_loss_function")  # by the user
        # how many tokens have labels is not known
        return self.training and keeps_all and not replaced and not traced(labels)


class LlamaHerdForSequenceClassification(GenericForSequenceClassification, LlamaHerdPreTrainedModel):
    """A score per row, read at the last token that is not padding: the reward model."""

    def __init__(self, config: LlamaHerdConfig):
        # not Generic's, which asks AutoModel for the decoder: there, code beside a checkpoint is not registered
        LlamaHerdPreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.model = LlamaHerdModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        segments: Segments | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutputWithPast:
        """Scores [B, labels]; with `segments` a score for each of them, read at its last token [segments, labels]."""
        batch = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "use_cache": use_cache,
        }
        if segments is None:
            return super().forward(**batch, labels=labels, **kwargs)
        if labels is not None:
            raise ValueError("segments: found labels beside them, expected none")
        hidden_BLD = self.model(**batch, segments=segments, **kwargs).last_hidden_state
        last_S = torch.tensor(segments.starts) + torch.tensor(segments.lengths) - 1
        hidden_SD = hidden_BLD.flatten(0, 1).index_select(0, last_S.to(hidden_BLD.device))
        return SequenceClassifierOutputWithPast(logits=self.score(hidden_SD))


class LlamaHerdForTokenClassification(GenericForTokenClassification, LlamaHerdPreTrainedModel):
    """A score per token: the value model."""

    def __init__(self, config: LlamaHerdConfig):
        LlamaHerdPreTrainedModel.__init__(self, config)  # not Generic's, as above
        self.num_labels = config.num_labels
        self.model = LlamaHerdModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=config.token_classification_bias)
        self.post_init()


__all__ = [
    "LlamaHerdForCausalLM",
    "LlamaHerdForSequenceClassification",
    "LlamaHerdForTokenClassification",
    "LlamaHerdModel",
    "LlamaHerdPreTrainedModel",
]
