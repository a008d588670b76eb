"""LlamaHerd against transformers' Llama with the same weights: logits, gradients, names, cache, generation."""

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from llama_align import LlamaHerdConfig, LlamaHerdForCausalLM

ROPES = {
    "default": {"rope_type": "default", "rope_theta": 1e4},
    "linear": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


def random_fields(seed: int) -> dict:
    draw = random.Random(seed)
    keys = draw.choice([1, 2, 3])
    rope = draw.choice(sorted(ROPES))
    return {
        "vocab_size": 67,
        "hidden_size": draw.choice([24, 48]),
        "intermediate_size": draw.choice([40, 56]),
        "num_hidden_layers": draw.choice([1, 2, 3]),
        "num_attention_heads": keys * draw.choice([1, 2, 4]),
        "num_key_value_heads": keys,
        "head_dim": draw.choice([4, 8, 16]),
        "attention_bias": draw.random() < 0.3,
        "mlp_bias": draw.random() < 0.3,
        "tie_word_embeddings": draw.random() < 0.5,
        "rms_norm_eps": draw.choice([1e-5, 1e-6]),
        "rope_parameters": dict(ROPES[rope]),
        "max_position_embeddings": 16,  # shorter than the rows, so that "dynamic" has something to do
        "initializer_range": 0.15,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def twins(fields: dict, attention: str = "eager") -> tuple[LlamaForCausalLM, LlamaHerdForCausalLM]:
    """Both classes with equal random weights, in evaluation mode."""
    torch.manual_seed(1)
    theirs = LlamaForCausalLM._from_config(LlamaConfig(**fields), attn_implementation=attention)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if "norm" in name or name.endswith("bias"):  # both start out as constants that would hide a mistake
                weight.add_(0.3 * torch.randn_like(weight))
    ours = LlamaHerdForCausalLM._from_config(LlamaHerdConfig(**fields), attn_implementation=attention)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return theirs.eval(), ours.eval()


def ids_of(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 67, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("seed", range(24))
def test_logits_loss_and_gradients_are_those_of_llama(seed, attention):
    theirs, ours = twins(random_fields(seed), attention)
    ids = ids_of(2, 21, seed)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0  # left padding
    labels = ids.masked_fill(torch.rand(ids.shape, generator=torch.Generator().manual_seed(seed)) < 0.3, -100)
    results = [model(input_ids=ids, attention_mask=mask, labels=labels) for model in (theirs, ours)]
    attended = mask.bool()
    assert (results[0].logits - results[1].logits)[attended].abs().max() < 1e-5
    assert abs(results[0].loss - results[1].loss) < 1e-5
    for result in results:
        result.loss.backward()
    gradients = dict(theirs.named_parameters())
    for name, weight in ours.named_parameters():
        assert (weight.grad - gradients[name].grad).abs().max() < 1e-5, name


def test_the_random_configurations_cover_every_kind():
    drawn = [random_fields(seed) for seed in range(24)]
    assert {fields["rope_parameters"]["rope_type"] for fields in drawn} == set(ROPES)
    for field in ("tie_word_embeddings", "attention_bias", "mlp_bias"):
        assert {fields[field] for fields in drawn} == {True, False}
    assert {fields["num_attention_heads"] // fields["num_key_value_heads"] for fields in drawn} == {1, 2, 4}


@pytest.mark.parametrize("tied", [True, False])
def test_state_dict_names_and_shapes_are_equal_both_ways(tied):
    theirs, ours = twins(random_fields(3) | {"tie_word_embeddings": tied})
    shapes = [{name: tuple(t.shape) for name, t in model.state_dict().items()} for model in (theirs, ours)]
    assert shapes[0] == shapes[1]
    theirs.load_state_dict(ours.state_dict(), strict=True)


@pytest.mark.parametrize("rope", sorted(ROPES))
def test_a_checkpoint_of_either_class_loads_as_the_other(tmp_path, rope):
    theirs, ours = twins(random_fields(5) | {"rope_parameters": dict(ROPES[rope])})
    ids = ids_of(2, 9)
    theirs.save_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    as_ours, report = LlamaHerdForCausalLM.from_pretrained(
        tmp_path / "theirs", config=ours.config, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    as_theirs = LlamaForCausalLM.from_pretrained(tmp_path / "ours", config=theirs.config)
    torch.testing.assert_close(as_ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(as_theirs(ids).logits, ours(ids).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_rounds_where_llama_rounds(dtype):
    theirs, ours = (model.to(dtype) for model in twins(random_fields(0), "eager"))
    theirs.model.rotary_emb = LlamaRotaryEmbedding(config=theirs.config)  # a cast rounds its frequencies
    ids = ids_of(2, 15)
    assert torch.equal(theirs(ids).logits, ours(ids).logits)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("chunks", [[1] * 12, [5, 1, 1, 5], [3, 4, 5]])
def test_logits_through_the_cache_equal_those_at_once(attention, chunks):
    _, model = twins(random_fields(7) | {"rope_parameters": dict(ROPES["llama3"])}, attention)
    ids = ids_of(2, 12)
    with torch.no_grad():
        whole = model(ids).logits
        cache, pieces = None, []
        for piece in ids.split(chunks, dim=1):
            out = model(piece, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            pieces.append(out.logits)
    assert cache.get_seq_length() == 12
    assert (torch.cat(pieces, 1) - whole).abs().max() < 1e-5


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_greedy_generation_equals_llamas(attention, cache):
    theirs, ours = twins(random_fields(11) | {"max_position_embeddings": 64}, attention)
    ids, mask = ids_of(3, 8), torch.ones(3, 8, dtype=torch.long)
    mask[0, :3] = 0
    mask[2, :6] = 0
    ids = ids.masked_fill(mask == 0, 0)
    options = {"attention_mask": mask, "max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    if cache == "static":
        options["cache_implementation"] = "static"
        options["disable_compile"] = True
    assert torch.equal(theirs.generate(ids, **options), ours.generate(ids, **options))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("positions", [True, False])
def test_left_padding_changes_nothing(attention, positions):
    _, model = twins(random_fields(2) | {"rope_parameters": dict(ROPES["default"])}, attention)
    ids = ids_of(1, 10)
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), ids], 1)
    mask = (padded != 0).long()
    extra = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if positions else {}
    with torch.no_grad():
        plain, left = model(ids).logits, model(padded, attention_mask=mask, **extra).logits[:, 4:]
    assert (plain - left).abs().max() < 1e-5


def test_right_padding_with_positions_is_not_taken_for_packing():
    _, model = twins(random_fields(2))
    ids = ids_of(1, 10)
    padded = torch.cat([ids, torch.zeros(1, 4, dtype=torch.long)], 1)
    mask = (padded != 0).long()
    with torch.no_grad():
        right = model(padded, attention_mask=mask, position_ids=mask.cumsum(1) - 1).logits[:, :10]
        assert (model(ids).logits - right).abs().max() < 1e-5


def test_logits_to_keep_are_the_last_ones():
    _, model = twins(random_fields(4))
    ids = ids_of(2, 9)
    with torch.no_grad():
        torch.testing.assert_close(model(ids, logits_to_keep=3).logits, model(ids).logits[:, -3:], atol=1e-6, rtol=0)


def test_the_loss_is_the_sum_over_num_items_in_batch():
    _, model = twins(random_fields(4))
    ids = ids_of(2, 9)
    with torch.no_grad():
        mean = model(ids, labels=ids).loss
        over = model(ids, labels=ids, num_items_in_batch=100).loss
    torch.testing.assert_close(over, mean * 16 / 100)


def test_hidden_states_and_attentions_are_those_of_llama():
    theirs, ours = twins(random_fields(6), "eager")
    ids = ids_of(2, 7)
    with torch.no_grad():
        wanted, found = (m(ids, output_hidden_states=True, output_attentions=True) for m in (theirs, ours))
    assert len(wanted.hidden_states) == len(found.hidden_states) == ours.config.num_hidden_layers + 1
    for kind in ("hidden_states", "attentions"):
        for a, b in zip(wanted[kind], found[kind], strict=True):
            assert (a - b).abs().max() < 1e-5


def test_embeddings_in_place_of_ids_and_both_or_neither_refused():
    _, model = twins(random_fields(4))
    ids = ids_of(1, 6)
    embedded = model.get_input_embeddings()(ids)
    assert torch.equal(model(inputs_embeds=embedded).logits, model(ids).logits)
    for wrong in ({}, {"input_ids": ids, "inputs_embeds": embedded}):
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
            model(**wrong)
