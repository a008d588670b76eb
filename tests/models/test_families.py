"""Every published size, scaled down with its own ratios, rotations and constants, against transformers' Llama."""

import math
from copy import deepcopy

import pytest
import torch
from transformers import LlamaConfig

from llama_align import LlamaHerdConfig, LlamaHerdForCausalLM
from llama_align.kernels import plain
from llama_align.models import PRESETS

from .test_against_transformers import ids_of, twins


def scaled_down(name: str) -> dict:
    """The fields of a size with a width of 16 per query head, two key heads and two layers; heads keep their size."""
    fields = deepcopy(PRESETS[name])
    heads, keys, width = (fields[key] for key in ("num_attention_heads", "num_key_value_heads", "hidden_size"))
    small = 16 * 2 * (heads // keys)
    return fields | {
        "head_dim": width // heads,
        "num_attention_heads": 2 * (heads // keys),
        "num_key_value_heads": 2,
        "hidden_size": small,
        "intermediate_size": small * fields["intermediate_size"] // width,
        "num_hidden_layers": 2,
        "vocab_size": 67,
        "initializer_range": 0.15,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def reference_frequencies(rope: dict, head_dim: int) -> torch.Tensor:
    """Su et al. (2021); for Llama 3.1 slowed by wavelength as Meta released it. In double precision."""
    unscaled = rope["rope_theta"] ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if rope["rope_type"] == "linear":
        return unscaled / rope["factor"]
    if rope["rope_type"] == "default":
        return unscaled
    turns = rope["original_max_position_embeddings"] * unscaled / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return unscaled * (kept + (1 - kept) / rope["factor"])


def positions_up_to(end: int, length: int = 24) -> torch.Tensor:
    return torch.arange(end - length, end)[None]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_size_gives_llamas_logits_at_both_ends_of_its_context(name, attention):
    fields = scaled_down(name)
    theirs, ours = twins(fields, attention)
    plain(ours)  # the products of both through the same kernel: what is left is the architecture
    assert ours.model.norm.variance_epsilon == PRESETS[name]["rms_norm_eps"]
    assert (ours.lm_head.weight is ours.model.embed_tokens.weight) == PRESETS[name]["tie_word_embeddings"]
    ids = ids_of(2, 24)
    with torch.no_grad():
        for end in (24, fields["max_position_embeddings"]):
            positions = positions_up_to(end).expand(2, -1)
            wanted, found = (model(ids, position_ids=positions).logits for model in (theirs, ours))
            assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_size_turns_its_heads_by_the_published_angles(name):
    fields = scaled_down(name)
    rotary = LlamaHerdForCausalLM(LlamaHerdConfig(**fields)).model.rotary_emb
    wanted = reference_frequencies(fields["rope_parameters"], fields["head_dim"])
    torch.testing.assert_close(rotary.inv_freq.double(), wanted, atol=0, rtol=1e-6)
    end = fields["max_position_embeddings"]
    positions = positions_up_to(end)
    angles = (positions[..., None] * wanted).repeat(1, 1, 2)
    for found, exact in zip(rotary(torch.zeros(1), positions), (angles.cos(), angles.sin()), strict=True):
        assert found.dtype == torch.float32
        assert (found - exact).abs().max() < end * 2**-23  # of an angle of `end`, what float32 leaves


def test_linear_scaling_stretches_positions():
    fields = scaled_down("llama-2-7b") | {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}
    rotary = LlamaHerdForCausalLM(LlamaHerdConfig(**fields)).model.rotary_emb
    unscaled = LlamaHerdForCausalLM(LlamaHerdConfig(**scaled_down("llama-2-7b"))).model.rotary_emb
    x, positions = torch.zeros(1), torch.arange(100)[None]
    for stretched, wanted in zip(rotary(x, 4 * positions), unscaled(x, positions), strict=True):
        torch.testing.assert_close(stretched, wanted, atol=1e-5, rtol=0)


def test_dynamic_scaling_starts_past_the_context_and_ends_within_it():
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    fields = scaled_down("llama-2-7b") | {"rope_parameters": rope, "max_position_embeddings": 32}
    theirs, ours = twins(fields, "sdpa")
    unscaled = reference_frequencies({"rope_type": "default", "rope_theta": 1e4}, 128)
    with torch.no_grad():
        for length, scale in ((20, 1), (64, 3), (20, 1)):  # 2 * 64 / 32 - 1
            ids = ids_of(1, length)
            torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=1e-5)
            wanted = unscaled * scale ** -(torch.arange(0, 128, 2) / 126)
            torch.testing.assert_close(ours.model.rotary_emb.inv_freq.double(), wanted, atol=0, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-3.2-1b"])
def test_only_distances_count_up_to_the_end_of_the_context(name):
    _, model = twins(scaled_down(name), "eager")
    ids = ids_of(2, 24)
    with torch.no_grad():
        start, end = (model(ids, position_ids=positions_up_to(at).expand(2, -1)).logits for at in (24, 131072))
    assert (start - end).abs().max() < 2e-2 * start.abs().max()


def test_a_sequence_in_two_pieces_far_into_the_context():
    _, model = twins(scaled_down("llama-3.1-8b"), "sdpa")
    ids, positions = ids_of(1, 24), positions_up_to(131072)
    with torch.no_grad():
        whole = model(ids, position_ids=positions).logits
        first = model(ids[:, :17], position_ids=positions[:, :17], use_cache=True)
        rest = model(ids[:, 17:], position_ids=positions[:, 17:], past_key_values=first.past_key_values).logits
    torch.testing.assert_close(torch.cat([first.logits, rest], 1), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_casting_a_model_rounds_no_frequency(dtype):
    fields = scaled_down("llama-3.1-8b")
    model = LlamaHerdForCausalLM(LlamaHerdConfig(**fields))
    exact = model.model.rotary_emb.inv_freq.clone()
    for cast in (model.to(dtype), model.to("cpu", dtype), LlamaHerdForCausalLM(LlamaHerdConfig(**fields)).to(dtype)):
        assert cast.lm_head.weight.dtype == dtype
        for buffer in (cast.model.rotary_emb.inv_freq, cast.model.rotary_emb.original_inv_freq):
            assert buffer.dtype == torch.float32
            assert torch.equal(buffer, exact)


def test_llamas_configuration_carries_over_field_by_field():
    fields = scaled_down("llama-3.1-8b")
    theirs, ours = LlamaConfig(**fields).to_dict(), LlamaHerdConfig(**fields).to_dict()
    assert theirs.pop("model_type") == "llama"
    assert ours.pop("model_type") == "llama_herd"
    assert theirs == ours
