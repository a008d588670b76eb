"""Costs against what PyTorch counts: parameters, FLOPs and bytes of real models, passes, optimizers and caches."""

import random

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from llama_align import LlamaHerdConfig, LlamaHerdForCausalLM
from llama_align.kernels import routed
from llama_align.models import cost, parameter_count, preset
from llama_align.sizes.cost import activation_bytes, flops, kv_cache_bytes, logit_bytes, memory, parameters


def random_config(seed: int) -> LlamaHerdConfig:
    draw = random.Random(seed)
    keys = draw.choice([1, 2, 3])
    return LlamaHerdConfig(
        vocab_size=draw.choice([67, 128]),
        hidden_size=draw.choice([24, 48]),
        intermediate_size=draw.choice([40, 56]),
        num_hidden_layers=draw.choice([1, 2, 3]),
        num_attention_heads=keys * draw.choice([1, 2, 4]),
        num_key_value_heads=keys,
        head_dim=draw.choice([4, 8, 16]),
        attention_bias=draw.random() < 0.5,
        mlp_bias=draw.random() < 0.5,
        tie_word_embeddings=draw.random() < 0.5,
        max_position_embeddings=64,
        pad_token_id=0,
    )


def model_of(config: LlamaHerdConfig, attention: str = "eager") -> LlamaHerdForCausalLM:
    routed()  # the products it is decided by are none of the model's
    torch.manual_seed(0)
    return LlamaHerdForCausalLM._from_config(config, attn_implementation=attention).train()


def rows_of(config: LlamaHerdConfig, rows: int, length: int, documents: int = 1) -> dict:
    ids = torch.randint(1, config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(length // documents)] * documents).repeat(rows, 1)
    return {"input_ids": ids, "position_ids": positions, "use_cache": False}


def test_the_random_configurations_cover_every_kind():
    drawn = [random_config(seed) for seed in range(12)]
    for field in ("tie_word_embeddings", "attention_bias", "mlp_bias"):
        assert {getattr(config, field) for config in drawn} == {True, False}
    assert {config.num_attention_heads // config.num_key_value_heads for config in drawn} == {1, 2, 4}
    assert any(config.head_dim * config.num_attention_heads != config.hidden_size for config in drawn)


@pytest.mark.parametrize("seed", range(12))
def test_parameters_by_part_are_those_of_a_model(seed):
    model = model_of(random_config(seed))
    found = parameters(model.config)
    weights = dict(model.named_parameters())

    def of(*parts: str) -> int:
        return sum(weight.numel() for name, weight in weights.items() if any(part in name for part in parts))

    assert (found.embeddings, found.attention, found.mlp) == (of("embed_tokens"), of("self_attn"), of("mlp"))
    assert (found.norms, found.head) == (of("norm"), of("lm_head"))
    assert found.total == parameter_count(model.config) == sum(weight.numel() for weight in weights.values())
    assert found.non_embedding == found.total - of("embed_tokens", "lm_head")


def test_published_sizes():
    billions = {"llama-2-7b": 6.74, "llama-2-70b": 68.98, "llama-3-8b": 8.03, "llama-3.1-405b": 405.85}
    assert {name: round(parameters(preset(name)).total / 1e9, 2) for name in billions} == billions


@pytest.mark.parametrize("seed", range(12))
def test_flops_are_those_pytorch_counts_in_both_passes(seed):
    model = model_of(random_config(seed))
    inputs = rows_of(model.config, rows=2, length=11)
    with FlopCounterMode(display=False) as forward:
        logits = model(**inputs).logits
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    found = flops(model.config, [11, 11], square=True)
    assert found.forward == forward.get_total_flops()
    assert found.backward == backward.get_total_flops()
    assert found.training == found.forward + found.backward == found.per_token * 22


def test_flops_of_the_parts_and_of_labelled_tokens_alone():
    model = model_of(random_config(3))
    inputs = rows_of(model.config, rows=1, length=12)
    with FlopCounterMode(display=False) as counter:
        model(**inputs, logits_to_keep=5)
    found, counts = flops(model.config, [12], labelled=5, square=True), counter.get_flop_counts()

    def of(end: str) -> int:
        return sum(sum(count.values()) for name, count in counts.items() if name.endswith(end))

    assert found.head == of("lm_head") == 2 * 5 * model.config.hidden_size * model.config.vocab_size
    assert found.mlp == of(".mlp")
    assert found.projections == sum(of(f".{name}_proj") for name in "qkvo")
    assert found.projections + found.attention == of(".self_attn")


def test_causal_pairs_are_counted_one_by_one():
    config = random_config(5)
    documents = [1, 7, 4]
    pairs = sum(1 for length in documents for query in range(length) for _ in range(query + 1))
    for_one_head_size = 4 * config.num_hidden_layers * config.num_attention_heads * config.head_dim
    causal, square = flops(config, documents), flops(config, documents, square=True)
    assert causal.attention == for_one_head_size * pairs
    assert square.attention == for_one_head_size * sum(length**2 for length in documents)
    assert causal.forward - causal.attention == square.forward - square.attention


def test_the_full_square_is_the_convention_of_utilisation_figures():
    config, length = preset("llama-3-8b"), 8192
    found = flops(config, [length] * 3, square=True).per_token
    parts = parameters(config)
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    published = 6 * (parts.total - parts.embeddings) + 12 * config.num_hidden_layers * heads * size * length
    assert found == published - 6 * parts.norms  # a norm is no product


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_gradients_and_optimizer_are_the_bytes_of_their_tensors(dtype):
    model = model_of(random_config(2)).to(dtype)
    optimizer = torch.optim.AdamW(model.parameters())
    model(**rows_of(model.config, 1, 8)).logits.sum().backward()
    optimizer.step()
    found = memory(model.config, rows=1, length=8, dtype=dtype)
    assert found.weights == sum(weight.nbytes for weight in model.parameters())
    assert found.gradients == sum(weight.grad.nbytes for weight in model.parameters())
    states = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert found.optimizer == sum(state.nbytes for state in states)


def kept_bytes(model: LlamaHerdForCausalLM, inputs: dict, autocast: torch.dtype | None = None) -> int:
    """Bytes of the distinct tensors autograd keeps of a forward pass without the head, weights aside."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None),
    ):
        hidden = model.model(**inputs).last_hidden_state
        hidden.to(autocast or hidden.dtype).square()  # keeps what the head would
    return sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in weights)


@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [(torch.float32, None), (torch.bfloat16, None), (torch.float32, torch.bfloat16)],
    ids=["float32", "bfloat16", "autocast"],
)
@pytest.mark.parametrize(("attention", "documents"), [("sdpa", 1), ("sdpa", 2), ("eager", 2)])
@pytest.mark.parametrize("layers", [1, 3])
def test_activations_are_what_autograd_keeps(attention, documents, dtype, autocast, layers, monkeypatch):
    # keys shared by two query heads each; of the kernels for long documents the one that keeps more
    monkeypatch.setattr("llama_align.kernels.attention.routed", lambda: False)
    config = LlamaHerdConfig(
        vocab_size=64,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        pad_token_id=0,
    )
    model = model_of(config, "eager" if attention == "eager" else "sdpa").to(dtype)
    kept = kept_bytes(model, rows_of(config, 2, 320, documents), autocast)
    found = activation_bytes(config, 2, 320, dtype, autocast, attention=attention)
    assert found == kept


def test_checkpointing_keeps_the_input_of_every_layer_and_one_layer():
    config = random_config(1)
    config.num_hidden_layers = 8
    model = model_of(config, "sdpa")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    kept = kept_bytes(model, rows_of(config, 2, 320, 2))
    all_of, inputs_and_one = (activation_bytes(config, 2, 320, checkpointing=on) for on in (False, True))
    config.num_hidden_layers = 7
    one_layer = all_of - activation_bytes(config, 2, 320)
    # while the backward pass computes a layer again, that layer's tensors come on top of what is kept
    assert kept < inputs_and_one < all_of
    assert inputs_and_one == pytest.approx(kept + one_layer, rel=0.03)


def test_an_unknown_attention_is_refused():
    with pytest.raises(ValueError, match="attention: found 'flash', expected one of sdpa, eager, flash_attention_2"):
        activation_bytes(preset("herd-nano"), 1, 8, attention="flash")


def test_logits_of_a_stock_and_a_fused_head():
    config = preset("llama-3-8b")
    whole = logit_bytes(config, 8192, torch.bfloat16)
    assert whole == 8192 * 128256 * (2 + 4 + 4)
    assert logit_bytes(config, 8192, torch.bfloat16, chunk=1024) == whole // 8
    assert logit_bytes(config, 10, chunk=1024) == 10 * 128256 * (4 + 4)
    # the stock head multiplies tokens without a label, too
    assert memory(config, 1, 8192, labelled=10).logits == memory(config, 1, 8192).logits
    assert memory(config, 1, 8192, labelled=10, chunk=1024).logits == logit_bytes(config, 10)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_cache_takes_the_bytes_it_says(seed, dtype):
    config = random_config(seed)
    model, cache = model_of(config).to(dtype).eval(), DynamicCache(config=config)
    with torch.no_grad():
        model(rows_of(config, 3, 10)["input_ids"], past_key_values=cache, use_cache=True)
    found = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert found == 3 * 10 * kv_cache_bytes(config, dtype)


def test_a_cost_is_a_table_of_its_numbers():
    config = preset("llama-3-8b")
    found = cost(config, 8192, rows=2, autocast=torch.bfloat16, checkpointing=True)
    assert found.causal == flops(config, [8192, 8192])
    assert found.square == flops(config, [8192, 8192], square=True)
    assert found.memory == memory(config, 2, 8192, autocast=torch.bfloat16, checkpointing=True)
    text = str(found)
    for part in ("8,030,261,248", "2 x 8192 tokens", "57.91 G", "29.92 GiB", "128.00 KiB"):
        assert part in text
    assert (
        len({len(line.rstrip()) for line in text.splitlines() if "full square" in line or "training, a" in line}) == 1
    )


def test_packed_documents_are_apart_in_one_count_and_a_row_in_the_other():
    config = preset("herd-nano")
    found = cost(config, 256, documents=[100, 100, 50], labelled=240)
    assert found.causal == flops(config, [100, 100, 50], labelled=240)
    pairs = 4 * config.num_hidden_layers * config.hidden_size
    assert found.square.attention == pairs * 250 * 256
    assert found.square.head == found.causal.head == 2 * 240 * config.hidden_size * config.vocab_size
    assert cost(config).length == 256
    with pytest.raises(ValueError, match="documents: found 300 tokens, expected at most 256 in 1 x 256"):
        cost(config, 256, documents=[200, 100])
