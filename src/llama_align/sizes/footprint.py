"""What fine-tuning adds to `cost`: adapters, four-bit weights, states that devices share, and the time of sampling.

Bytes are those of tensors; FLOPs count as in `cost`. Everything follows from a configuration, nothing is measured.
"""

from .cost import HALF, Width, _sizes, flops, kv_cache_bytes, parameters
from .published import Shape

# a weight that is trained, in mixed precision: 2 bytes of weight and 2 of gradient in half precision, and in float32 a
# copy of the weight and Adam's two moments, 12 bytes (ZeRO, section 3.1). Weights kept in float32 under autocast come
# to the same: 4, 4 and 8
TRAINED = 16
OPTIMIZER = 12
# bits of a four-bit weight's constants: one of 8 bits for each 64 weights, and one of 32 for each 64 x 256, with double
# quantisation (QLoRA, section 3)
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)


def adapter_count(config: Shape, rank: int) -> int:
    """Weights of LoRA on all linear layers of the decoder: A [rank, in] and B [out, rank] (LoRA, section 4.1)."""
    d, inner, queries, keys, layers = _sizes(config)
    attention = (d + queries) + 2 * (d + keys) + (queries + d)
    return layers * rank * (attention + 3 * (d + inner))


def frozen_bytes(config: Shape, dtype: Width, four_bits: bool = False) -> int:
    """Weights that are not trained: all in `dtype`, or the decoder's linear layers in NF4 and the rest in `dtype`."""
    parts = parameters(config)
    linear = parts.attention + parts.mlp
    packed = linear * NF4_BITS / 8 if four_bits else linear * dtype.itemsize
    return int(packed) + (parts.total - linear) * dtype.itemsize


def gathered_bytes(config: Shape, dtype: Width = HALF) -> int:
    """Weights whole at once on a device that shares them (ZeRO, section 5.3): the largest of embeddings and head, the
    layer at work and the one fetched ahead."""
    parts = parameters(config)
    layer = (parts.attention + parts.mlp) // config.num_hidden_layers
    return (max(parts.embeddings, parts.head) + 2 * layer) * dtype.itemsize


def training_flops(config: Shape, documents: list[int], adapters: bool = False) -> int:
    """Of a forward and a backward pass. With adapters the frozen weights have no gradient, one product of three less in
    every linear layer and in the head; the adapters' own products, under 5% at rank 64, are left out."""
    passes = flops(config, documents)
    return passes.training - adapters * (passes.projections + passes.mlp + passes.head)


def sampling_seconds(
    config: Shape,
    answers: int,
    prompt: int,
    length: int,
    cached: int,
    peak: float,
    bandwidth: float,
    dtype: Width = HALF,
) -> float:
    """Seconds of one device to draw answers, by its roofline: a step reads all weights and the cache once, or computes.

    Args:
        answers, prompt, length: their number, and tokens of the prompt and of an answer.
        cached: tokens of keys and values that are held at once, which bounds the answers that are drawn together.
        peak, bandwidth: FLOP/s and bytes a second that are reached, not those of the data sheet.
    """
    together = max(1, min(answers, cached // (prompt + length)))
    weights = parameters(config).total * dtype.itemsize
    middle = prompt + length // 2
    read = weights + together * middle * kv_cache_bytes(config, dtype)
    computed = together * flops(config, [1]).forward
    steps = -(-answers // together) * length
    return steps * max(read / bandwidth, computed / peak) + answers * flops(config, [prompt]).forward / peak
