"""Sizes by name: the herd's own, the published Llamas' and a small model of their shape. Sources: Llama 1 table 2,
Llama 2 table 1, Llama 3 table 3, Llama 3.2 model cards; rope, eps, Code Llama, SmolLM2 and Llama 2's 34B, whose weights
are known as Code Llama's alone, from the released configurations."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Shape:
    """What of a configuration costs anything: fields of `LlamaHerdConfig` by their names, which is a shape as well."""

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    rope_parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def pretrained_context(self) -> int:
        """Tokens of context before it was extended by scaled rotary frequencies."""
        return self.rope_parameters.get("original_max_position_embeddings", self.max_position_embeddings)


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def _size(layers, dim, heads, kv_heads, ffn, vocab, context, *, theta=1e4, eps=1e-5, tied=False, rope=None) -> dict:
    return {
        "num_hidden_layers": layers,
        "hidden_size": dim,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "rms_norm_eps": eps,
        "tie_word_embeddings": tied,
        "rope_parameters": rope or {"rope_type": "default", "rope_theta": theta},
    }


PRESETS: dict[str, dict] = {
    # the herd's own: about 1M, 10M and 125M parameters
    "herd-nano": _size(4, 128, 4, 2, 384, 1024, 256, tied=True),
    "herd-micro": _size(8, 256, 8, 4, 1024, 8192, 1024, tied=True),
    "herd-mini": _size(12, 768, 12, 4, 2048, 32768, 2048, theta=5e5),
    "llama-1-7b": _size(32, 4096, 32, 32, 11008, 32000, 2048, eps=1e-6),
    "llama-1-13b": _size(40, 5120, 40, 40, 13824, 32000, 2048, eps=1e-6),
    "llama-1-33b": _size(60, 6656, 52, 52, 17920, 32000, 2048, eps=1e-6),
    "llama-1-65b": _size(80, 8192, 64, 64, 22016, 32000, 2048, eps=1e-6),
    "llama-2-7b": _size(32, 4096, 32, 32, 11008, 32000, 4096),
    "llama-2-13b": _size(40, 5120, 40, 40, 13824, 32000, 4096),
    "llama-2-34b": _size(48, 8192, 64, 8, 22016, 32000, 4096),
    "llama-2-70b": _size(80, 8192, 64, 8, 28672, 32000, 4096),
    # four further tokens for infilling, filled up to 16; trained on 16,384 tokens with a base of a million
    "code-llama-7b": _size(32, 4096, 32, 32, 11008, 32016, 16384, theta=1e6),
    "code-llama-13b": _size(40, 5120, 40, 40, 13824, 32016, 16384, theta=1e6),
    "code-llama-34b": _size(48, 8192, 64, 8, 22016, 32000, 16384, theta=1e6),
    "llama-3-8b": _size(32, 4096, 32, 8, 14336, 128256, 8192, theta=5e5),
    "llama-3-70b": _size(80, 8192, 64, 8, 28672, 128256, 8192, theta=5e5),
    "llama-3.1-8b": _size(32, 4096, 32, 8, 14336, 128256, 131072, rope=LLAMA3_ROPE | {"factor": 8.0}),
    "llama-3.1-70b": _size(80, 8192, 64, 8, 28672, 128256, 131072, rope=LLAMA3_ROPE | {"factor": 8.0}),
    "llama-3.1-405b": _size(126, 16384, 128, 8, 53248, 128256, 131072, rope=LLAMA3_ROPE | {"factor": 8.0}),
    # factor 32 as in the released transformers configurations (Meta's own code says 8)
    "llama-3.2-1b": _size(16, 2048, 32, 8, 8192, 128256, 131072, tied=True, rope=LLAMA3_ROPE | {"factor": 32.0}),
    "llama-3.2-3b": _size(28, 3072, 24, 8, 8192, 128256, 131072, tied=True, rope=LLAMA3_ROPE | {"factor": 32.0}),
    "smollm2-135m": _size(30, 576, 9, 3, 1536, 49152, 8192, theta=1e5, tied=True),
}


def known(name: str) -> dict[str, Any]:
    """The fields of a named size.

    Raises:
        ValueError: unknown name.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown model size {name!r}, expected one of {', '.join(PRESETS)}")
    return PRESETS[name]


def shape(name: str) -> Shape:
    """The shape of a named size. Raises ValueError for an unknown name."""
    return Shape(**known(name))
