"""Parameters, FLOPs and memory of a LlamaHerd causal language model, from its configuration alone.

FLOPs are those of matrix products, a multiply-add counting two, and a backward pass costs twice a forward pass (Kaplan
et al., 2020, section 2.1; Chinchilla, appendix F). Norms, activations, softmax, rotary angles, biases and what gradient
checkpointing computes again are not counted. A query head scores and sums `pairs` pairs of a query and a key:

    causal        L (L + 1) / 2 pairs for a document of L tokens: all that a causal model needs
    full square   T tokens paired with all T of their row, masked or not: the 12 l h q T per token of PaLM's appendix B

Figures of model FLOPs utilisation use the full square: PaLM's, and torchtitan's, which counts 6 (N - embeddings) +
12 l h q T per token with the head on every token. It takes q = hidden / heads; here q is the configuration's head_dim.

Bytes are those of tensors: 1 GiB = 2^30.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .published import Shape

ATTENTIONS = ("sdpa", "eager", "flash_attention_2")


class Width(NamedTuple):
    """A type of numbers by the bytes of one. Every `torch.dtype` will do in its place."""

    itemsize: int


FULL, HALF = Width(4), Width(2)


@dataclass(frozen=True)
class Parameters:
    """Weights and biases by part; an embedding tied to the head counts once, as `embeddings`."""

    embeddings: int
    attention: int
    mlp: int
    norms: int
    head: int

    @property
    def non_embedding(self) -> int:
        """Those of the layers and the last norm: Kaplan et al.'s N, without embeddings and head."""
        return self.attention + self.mlp + self.norms

    @property
    def total(self) -> int:
        return self.embeddings + self.non_embedding + self.head


@dataclass(frozen=True)
class Flops:
    """FLOPs of one forward pass by part: projections (q, k, v, o), attention (scores and their sums), MLP, head."""

    tokens: int
    projections: int
    attention: int
    mlp: int
    head: int

    @property
    def forward(self) -> int:
        return self.projections + self.attention + self.mlp + self.head

    @property
    def backward(self) -> int:
        return 2 * self.forward

    @property
    def training(self) -> int:
        """A forward and a backward pass."""
        return self.forward + self.backward

    @property
    def per_token(self) -> float:
        """Of a forward and a backward pass, for each token."""
        return self.training / self.tokens


@dataclass(frozen=True)
class Memory:
    """Bytes of one training step on one device, without sharding.

    Attributes:
        optimizer: AdamW's two moments, in the weights' dtype; its step counters, 4 bytes a tensor, are left out.
        activations: what autograd keeps between forward and backward, see `activation_bytes`.
        logits: what the head and the loss hold at most at once, see `logit_bytes`.
        kv_cache_per_token: of generation, and not part of `training`.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    kv_cache_per_token: int

    @property
    def training(self) -> int:
        """An estimate from above: activations and logits are at their largest at almost the same time."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


@dataclass(frozen=True)
class Cost:
    """What `cost` found; `str()` of it is a table.

    Attributes:
        causal, square: FLOPs of the batch with the query-key pairs a causal model needs, and with the full square.
    """

    rows: int
    length: int
    parameters: Parameters
    causal: Flops
    square: Flops
    memory: Memory

    def __str__(self) -> str:
        parts, memory, total = self.parameters, self.memory, self.parameters.total
        names = ("embeddings", "attention", "mlp", "norms", "head")
        lines = [f"{'parameters':<34}{total:>18,}"]
        lines += [f"  {name:<32}{getattr(parts, name):>18,}{getattr(parts, name) / total:>8.1%}" for name in names]
        batch = f"{self.rows} x {self.length} tokens"
        lines += ["", f"{f'FLOPs, {batch}':<34}{'causal':>12}{'full square':>12}"]
        for name, value in (
            ("forward, a token", lambda flops: flops.forward / flops.tokens),
            ("training, a token", lambda flops: flops.per_token),
            ("training, the batch", lambda flops: flops.training),
        ):
            lines.append(f"  {name:<32}{_si(value(self.causal)):>12}{_si(value(self.square)):>12}")
        lines += ["", f"{f'memory of training, {batch}':<34}{_bytes(memory.training):>12}"]
        for name in ("weights", "gradients", "optimizer", "activations", "logits"):
            lines.append(f"  {name:<32}{_bytes(getattr(memory, name)):>12}")
        lines += ["", f"{'KV cache, a token':<34}{_bytes(memory.kv_cache_per_token):>12}"]
        return "\n".join(lines)


def _si(value: float) -> str:
    for size, sign in ((1e24, "Y"), (1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.2f} {sign}"
    return f"{value:,.0f}"


def _bytes(value: float) -> str:
    for size, unit in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value:.0f} B"


def _sizes(config: Shape) -> tuple[int, int, int, int, int]:
    """Hidden size, MLP size, size of all query heads and of all key heads, layers."""
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    return config.hidden_size, config.intermediate_size, queries, keys, config.num_hidden_layers


def parameters(config: Shape) -> Parameters:
    """Number of parameters by part."""
    d, inner, queries, keys, layers = _sizes(config)
    attention = d * (2 * queries + 2 * keys) + config.attention_bias * (queries + 2 * keys + d)
    mlp = 3 * d * inner + config.mlp_bias * (2 * inner + d)
    table = config.vocab_size * d
    head = 0 if config.tie_word_embeddings else table
    return Parameters(table, layers * attention, layers * mlp, (2 * layers + 1) * d, head)


def parameter_count(config: Shape) -> int:
    """Number of parameters of the causal language model; tied embeddings counted once."""
    return parameters(config).total


def flops_of(config: Shape, tokens: int, pairs: int, labelled: int) -> Flops:
    """FLOPs of one forward pass.

    Args:
        pairs: of a query and a key, for one query head. Key heads shared by several query heads save none.
        labelled: tokens the head is applied to.
    """
    d, inner, queries, keys, layers = _sizes(config)
    return Flops(
        tokens=tokens,
        projections=2 * tokens * layers * d * (2 * queries + 2 * keys),
        attention=4 * pairs * layers * queries,  # a product for the scores, one for the weighted sum of values
        mlp=2 * tokens * layers * 3 * d * inner,
        head=2 * labelled * d * config.vocab_size,
    )


def flops(config: Shape, documents: Sequence[int], labelled: int | None = None, square: bool = False) -> Flops:
    """FLOPs of documents that never see each other.

    Args:
        documents: length of each in tokens.
        labelled: tokens the head is applied to; None: all of them.
        square: count pairs as the full square of each length, not the causal half. Figures of utilisation take rows for
            `documents`, however many are packed into one.
    """
    tokens = sum(documents)
    pairs = sum(length * length if square else length * (length + 1) // 2 for length in documents)
    return flops_of(config, tokens, pairs, tokens if labelled is None else labelled)


def kv_cache_bytes(config: Shape, dtype: Width = HALF) -> int:
    """Bytes of keys and values of one token of one sequence, over all layers."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * dtype.itemsize


def activation_bytes(
    config: Shape,
    rows: int,
    length: int,
    dtype: Width = FULL,
    autocast: Width | None = None,
    checkpointing: bool = False,
    attention: str = "sdpa",
) -> int:
    """Bytes that autograd keeps of one forward pass of our modelling code, up to and with the input of the head.

    In it: each layer's norms, the inputs of its products, queries, keys, values, attended values and the MLP's three
    inner values; the cast copies of weights under autocast. Not in it: what a single operation allocates for
    itself, the masks of dropout, the allocator's rounding and fragmentation. An exact count for the operations PyTorch
    runs today; take it for an estimate.

    Args:
        dtype, autocast: of the weights, and of the products where it differs.
        checkpointing: gradient checkpointing of every layer: the input of each, and all of the one computed again.
        attention: `sdpa` and `flash_attention_2` keep queries, keys, values and what they attend to; `eager` keys and
            values repeated for every query head, and the attention weights.

    Raises:
        ValueError: an unknown attention.
    """
    if attention not in ATTENTIONS:
        raise ValueError(f"attention: found {attention!r}, expected one of {', '.join(ATTENTIONS)}")
    d, inner, queries, keys, layers = _sizes(config)
    weight, product = dtype.itemsize, (autocast or dtype).itemsize
    casts = autocast is not None and autocast != dtype
    norm = weight * d + 4  # the input, and the scale in float32
    layer = 2 * norm + product * d * (5 if casts else 2)  # autocast casts the input of each of five products anew
    layer += product * (2 * queries + 2 * (queries if attention == "eager" else keys) + 3 * inner)
    if attention == "eager":
        # the softmax is in float32, its result in the products' dtype
        layer += config.num_attention_heads * length * (4 + (product if product != 4 else 0))
    else:
        layer += 4 * config.num_attention_heads  # the logarithm of each query's sum of exponentials
    ends = norm + product * d + 2 * weight * config.head_dim + 8  # last norm, head's input, rotary angles, ids
    kept = layers * weight * d + layer if checkpointing else layers * layer
    copies = layers * d * (2 * queries + 2 * keys + 3 * inner) * product if casts else 0
    return rows * length * (kept + ends) + copies


def logit_bytes(config: Shape, labelled: int, dtype: Width = FULL, chunk: int | None = None) -> int:
    """Bytes the head and the loss hold at most at once, an estimate.

    In it: logits and, for a dtype below float32, their copy in float32; their log-probabilities in float32. The
    backward pass holds as much: log-probabilities, their gradient, and its cast.

    Args:
        labelled: tokens the head is applied to. The stock head of transformers is applied to every token.
        dtype: of the logits.
        chunk: tokens whose logits exist at once in a fused head; None: all of them, as in the stock head.
    """
    tokens = labelled if chunk is None else min(chunk, labelled)
    return tokens * config.vocab_size * (8 + (dtype.itemsize if dtype.itemsize != 4 else 0))


def memory(
    config: Shape,
    rows: int,
    length: int,
    labelled: int | None = None,
    dtype: Width = FULL,
    autocast: Width | None = None,
    checkpointing: bool = False,
    attention: str = "sdpa",
    chunk: int | None = None,
) -> Memory:
    """Bytes of a training step with AdamW on `rows` rows of `length` tokens; arguments as `cost` has them."""
    weights = parameter_count(config) * dtype.itemsize
    head_tokens = rows * length if labelled is None or chunk is None else labelled
    return Memory(
        weights=weights,
        gradients=weights,
        optimizer=2 * weights,
        activations=activation_bytes(config, rows, length, dtype, autocast, checkpointing, attention),
        logits=logit_bytes(config, head_tokens, autocast or dtype, chunk),
        kv_cache_per_token=kv_cache_bytes(config, autocast or dtype),
    )


def cost(
    config: Shape,
    length: int | None = None,
    rows: int = 1,
    documents: Sequence[int] | None = None,
    labelled: int | None = None,
    **settings,
) -> Cost:
    """Parameters, FLOPs and memory of one training step. `print(cost(preset("llama-3-8b"), 8192))` is a table.

    Args:
        length: tokens of a row; None: the configuration's context.
        rows: of the batch, on one device.
        documents: lengths of the documents packed into the rows; None: every row is one.
        labelled: tokens the head is applied to; None: all of them. The stock head takes memory for all in any case.
        settings: of memory: `dtype` of the weights, gradients and optimizer (default float32), `autocast` (dtype of the
            products where it differs), `checkpointing`, `attention` and `chunk`, see `activation_bytes` and
            `logit_bytes`.

    Raises:
        ValueError: documents with more tokens than the rows have.
    """
    length = length or config.max_position_embeddings
    documents = [length] * rows if documents is None else documents
    tokens = sum(documents)
    if tokens > rows * length:
        raise ValueError(f"documents: found {tokens} tokens, expected at most {rows * length} in {rows} x {length}")
    labelled_tokens = tokens if labelled is None else labelled
    return Cost(
        rows=rows,
        length=length,
        parameters=parameters(config),
        causal=flops(config, documents, labelled),
        square=flops_of(config, tokens, tokens * length, labelled_tokens),
        memory=memory(config, rows, length, labelled, **settings),
    )
